//! One exporter's task: read on, send, remember.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Failed, Gap, Shared, Target, TellGap,
    bookmark::{self, Bookmark},
};
use crate::{
    audit::{
        Durable,
        disk::Directory,
        onward::{self, Batch, Position},
    },
    name::ExporterName,
};

/// How often it is looked whether there is more: a glance at a number in memory.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the bookmark is written while records flow: each time is a sync of the disk that hand-outs wait for.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// For the other end to take a batch.
const SEND_WITHIN: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub struct Follower {
    name: ExporterName,
    target: Target,
    disk: Arc<Directory>,
    durable: Durable,
    shared: Arc<Shared>,
    tell_gap: TellGap,
    position: Option<Position>,
    /// The last record of the batch that is sent next, where batches are planned.
    planned: Option<u64>,
    /// Since when records are gathered.
    gathers_since: Option<Instant>,
    /// Has the bookmark been looked at?
    begun: bool,
    /// Is the position another than the bookmark's?
    unsaved: bool,
    saved_at: Instant,
    /// What could not be sent yet, so that it need not be read again.
    pending: Option<Batch>,
    wait: Duration,
}

impl Follower {
    pub fn new(
        name: ExporterName,
        target: Target,
        disk: Arc<Directory>,
        durable: Durable,
        shared: Arc<Shared>,
        tell_gap: TellGap,
    ) -> Self {
        Self {
            name,
            target,
            disk,
            durable,
            shared,
            tell_gap,
            position: None,
            planned: None,
            gathers_since: None,
            begun: false,
            unsaved: false,
            saved_at: Instant::now(),
            pending: None,
            wait: FIRST_WAIT,
        }
    }

    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            let stops = *stopping.borrow();
            let done = self.step(stops).await;
            let wait = match done {
                Ok(true) => continue,
                // Nothing more comes once the daemon stops.
                _ if stops => break,
                Ok(false) => LOOK_EVERY,
                Err(failed) => self.failed(failed),
            };
            let _ = tokio::time::timeout(wait, stopping.wait_for(|stop| *stop)).await;
        }
        if let Err(Failed(why)) = self.save().await {
            warn!(exporter = %self.name, "{why}");
        }
    }

    /// Sends one batch. `false`: there is nothing to send.
    async fn step(&mut self, stops: bool) -> Result<bool, Failed> {
        let durable = self.durable.seq();
        if durable == 0 {
            return Ok(false);
        }
        if !self.begun {
            self.begin(durable).await?;
        }
        if self.gathers_on(durable) && !stops {
            return Ok(false);
        }
        if self.pending.is_none() {
            self.pending = self.read_on(durable).await?;
        }
        self.plan().await?;
        let Some(batch) = &self.pending else {
            if self.unsaved && self.saved_at.elapsed() >= SAVE_EVERY {
                self.save().await?;
            }
            self.shared.lock().waits_since = None;
            return Ok(false);
        };
        self.shared.lock().waits_since = Some(batch.time);
        let sent = tokio::time::timeout(SEND_WITHIN, self.target.send(batch)).await;
        let refused = sent.map_err(|_| Failed(format!("no answer within {} s", SEND_WITHIN.as_secs())))??;
        self.arrived(refused);
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save().await?;
        }
        Ok(true)
    }

    /// Is there room and time for more before a batch is sent?
    fn gathers_on(&mut self, durable: u64) -> bool {
        let Some((every, most)) = self.target.gathers() else { return false };
        let waiting = durable.saturating_sub(self.position.as_ref().map_or(0, |position| position.seq));
        if waiting == 0 || self.planned.is_some() || self.pending.is_some() {
            return false;
        }
        self.gathers_since.get_or_insert_with(Instant::now).elapsed() < every && waiting < most
    }

    /// Writes down what is sent next, where a second attempt must not differ from the first.
    async fn plan(&mut self) -> Result<(), Failed> {
        let Some(batch) = self.pending.as_ref().filter(|_| self.target.gathers().is_some()) else { return Ok(()) };
        if self.planned == Some(batch.after.seq) {
            return Ok(());
        }
        (self.planned, self.unsaved) = (Some(batch.after.seq), true);
        self.save().await
    }

    fn arrived(&mut self, refused: u64) {
        let Some(batch) = self.pending.take() else { return };
        if refused > 0 {
            let (first, last) = (batch.first, batch.after.seq);
            warn!(exporter = %self.name, refused, first, last, "the other end does not want some of these records; they are not sent again");
        }
        let mut state = self.shared.lock();
        state.seq = batch.after.seq;
        state.sent += batch.len() as u64 - refused.min(batch.len() as u64);
        state.refused += refused;
        if state.problem.take().is_some() {
            info!(exporter = %self.name, kind = self.target.kind(), "the audit log is sent again");
        }
        drop(state);
        self.position = Some(batch.after);
        (self.planned, self.gathers_since) = (None, None);
        self.unsaved = true;
        self.wait = FIRST_WAIT;
    }

    /// What is wrong is said once; how long to wait before it is tried again.
    fn failed(&mut self, Failed(why): Failed) -> Duration {
        let mut state = self.shared.lock();
        if state.problem.as_ref() != Some(&why) {
            warn!(exporter = %self.name, kind = self.target.kind(), "the audit log is not sent: {why}; it is tried again");
        }
        state.problem = Some(why);
        // Half of it by chance, so that exporters of many hosts do not all come back at once.
        let wait = self.wait.mul_f64(0.5 + chance() / 2.0);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        wait
    }

    async fn begin(&mut self, durable: u64) -> Result<(), Failed> {
        let (disk, name) = (self.disk.clone(), self.name.clone());
        let found = blocking(move || {
            Ok(match bookmark::read(&*disk, &name)? {
                bookmark::Found::Good(Bookmark { position: Some(position), .. })
                    if !onward::is_of_this_log(&*disk, &position, durable)? =>
                {
                    bookmark::Found::Bad
                }
                found => found,
            })
        });
        match found.await.map_err(unreadable)? {
            bookmark::Found::Nothing => {}
            bookmark::Found::Bad => {
                warn!(exporter = %self.name, "its bookmark is of another log, or damaged: all records on disk are sent");
            }
            bookmark::Found::Good(Bookmark { position, planned }) => {
                self.shared.lock().seq = position.as_ref().map_or(0, |position| position.seq);
                (self.position, self.planned) = (position, planned.filter(|planned| *planned <= durable));
            }
        }
        self.begun = true;
        Ok(())
    }

    async fn read_on(&mut self, durable: u64) -> Result<Option<Batch>, Failed> {
        if self.position.as_ref().is_some_and(|position| position.seq >= durable) {
            return Ok(None);
        }
        let (disk, position, most) =
            (self.disk.clone(), self.position.clone(), self.target.most(self.planned.unwrap_or(durable)));
        let batch = blocking(move || onward::read_on(&*disk, position.as_ref(), most)).await.map_err(unreadable)?;
        if let Some((first, last)) = batch.as_ref().and_then(|batch| batch.missing) {
            let lost = last - first + 1;
            warn!(exporter = %self.name, first, last, lost, "records were removed from the audit log before they were sent");
            self.shared.lock().lost += lost;
            (self.tell_gap)(&Gap { exporter: self.name.clone(), first, last });
        }
        Ok(batch)
    }

    async fn save(&mut self) -> Result<(), Failed> {
        if !self.unsaved {
            return Ok(());
        }
        let bookmark = Bookmark { position: self.position.clone(), planned: self.planned };
        let (disk, name) = (self.disk.clone(), self.name.clone());
        let written = blocking(move || bookmark::write(&*disk, &name, &bookmark)).await;
        self.saved_at = Instant::now();
        written.map_err(|error| Failed(format!("its bookmark cannot be written: {error}")))?;
        self.unsaved = false;
        Ok(())
    }
}

fn unreadable(error: io::Error) -> Failed {
    Failed(format!("the audit log cannot be read: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A number from 0 to 1. Where there is none to be had, jitter is not worth failing for.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

//! Sending the audit log elsewhere: to journald and to collectors.
//!
//! An exporter reads the log's *files*, far from the path of a hand-out: one that is slow or dead holds up nobody, and loses nothing that is
//! still on disk. It sends records in their order and [remembers](bookmark) how far the other end has taken them; after a crash it begins
//! there, so that each record arrives at least once. What retention removed before it was sent is told with its exact numbers.

mod aws;
mod bookmark;
pub mod cloudwatch_logs;
mod follow;
pub mod journald;
pub mod otlp;
mod record;
pub mod s3;
pub mod stdout;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    audit::{
        Durable,
        disk::{BadDirectory, Directory},
        onward::{Batch, Most},
    },
    name::ExporterName,
};
use follow::Follower;

/// Where records are sent.
pub enum Target {
    Journald(journald::Journald),
    Otlp(otlp::Otlp),
    CloudWatchLogs(cloudwatch_logs::CloudWatchLogs),
    S3(s3::S3),
    Stdout(stdout::Stdout),
}

impl Target {
    /// The word that configuration has for it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Journald(_) => "journald",
            Self::Otlp(_) => "otlp",
            Self::CloudWatchLogs(_) => "cloudwatch-logs",
            Self::S3(_) => "s3",
            Self::Stdout(_) => "stdout",
        }
    }

    /// What is sent at once, up to this record.
    const fn most(&self, up_to: u64) -> Most {
        match self {
            Self::Journald(_) => Most { records: 256, bytes: 1 << 20, up_to },
            // As it stands in memory here; collectors take messages of 4 MiB, and attributes are longer than JSON.
            Self::Otlp(_) => Most { records: 1000, bytes: 1 << 20, up_to },
            // PutLogEvents takes 1,048,576 bytes, and counts 26 more for each event.
            Self::CloudWatchLogs(_) => Most { records: 5000, bytes: 900_000, up_to },
            Self::S3(_) => Most { records: usize::MAX, bytes: 8 << 20, up_to },
            Self::Stdout(_) => Most { records: usize::MAX, bytes: 1 << 18, up_to },
        }
    }

    /// For how long records are gathered, and how many at the most. Then each batch has a name of its own at the other end, and is planned: it
    /// is in the bookmark before it is sent, so that a second attempt sends the very same.
    const fn gathers(&self) -> Option<(Duration, u64)> {
        match self {
            Self::S3(s3) => Some((s3.every, 20_000)),
            _ => None,
        }
    }

    /// Sends records, and comes back when the other end has them. Says how many of them it does not want: they are not sent again.
    async fn send(&mut self, batch: &Batch) -> Result<u64, Failed> {
        match self {
            Self::Journald(journald) => journald.send(batch).await.map(|()| 0),
            Self::Otlp(otlp) => otlp.send(batch).await,
            Self::CloudWatchLogs(logs) => logs.send(batch).await,
            Self::S3(s3) => s3.send(batch).await.map(|()| 0),
            Self::Stdout(stdout) => stdout.send(batch).await.map(|()| 0),
        }
    }
}

/// Why records could not be sent. They are sent again. Never a text of the other end, which may quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

/// How an exporter is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub name: ExporterName,
    pub kind: &'static str,
    /// The last record that arrived. 0: none yet.
    pub seq: u64,
    /// Records that are on disk and did not arrive, and since when the oldest of them waits.
    pub waiting: u64,
    pub waits_since: Option<SystemTime>,
    /// Records that arrived since the daemon started; some of them may have arrived before.
    pub sent: u64,
    /// Records that the other end did not want, and those that were gone before they were sent; since the daemon started.
    pub refused: u64,
    pub lost: u64,
    /// Why it cannot go on at the moment. It tries again.
    pub problem: Option<String>,
}

/// Records were gone before they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub exporter: ExporterName,
    pub first: u64,
    pub last: u64,
}

/// Puts on record what an exporter could not send.
pub type TellGap = Arc<dyn Fn(&Gap) + Send + Sync>;

/// The exporters of a daemon.
#[derive(Default)]
pub struct Exports {
    shared: Vec<Arc<Shared>>,
    durable: Option<Durable>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What both an exporter and those who ask after it see.
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exports {
    /// Starts exporters of the log in this directory, on the runtime of the caller.
    pub fn start(
        targets: Vec<(ExporterName, Target)>,
        directory: &Path,
        durable: Durable,
        tell_gap: &TellGap,
    ) -> Result<Self, BadDirectory> {
        let (stop, stopping) = watch::channel(false);
        let mut exports = Self { durable: Some(durable.clone()), stop, ..Self::default() };
        for (name, target) in targets {
            let shared = Arc::new(Shared(Mutex::new(State {
                name: name.clone(),
                kind: target.kind(),
                seq: 0,
                waiting: 0,
                waits_since: None,
                sent: 0,
                refused: 0,
                lost: 0,
                problem: None,
            })));
            let disk = Arc::new(Directory::read_only(directory)?);
            let follower = Follower::new(name, target, disk, durable.clone(), shared.clone(), tell_gap.clone());
            exports.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(follower.run(stopping.clone())));
            exports.shared.push(shared);
        }
        Ok(exports)
    }

    pub fn states(&self) -> Vec<State> {
        let durable = self.durable.as_ref().map_or(0, Durable::seq);
        let state = |shared: &Arc<Shared>| {
            let state = shared.lock().clone();
            State { waiting: durable.saturating_sub(state.seq), ..state }
        };
        self.shared.iter().map(state).collect()
    }

    /// Sends what is on disk, as far as that is possible in this time; the rest is sent after the next start.
    pub async fn close(&self, within: Duration) {
        let _ = self.stop.send(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = futures_util::future::join_all(tasks.iter_mut());
        if tokio::time::timeout(within, all).await.is_err() {
            tasks.iter().for_each(JoinHandle::abort);
        }
    }
}

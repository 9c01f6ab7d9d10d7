//! The log as others use it: append, and wait until that is on disk.
//!
//! Whoever appends writes into a shared buffer under a short lock. One thread takes all that waits, hashes it, writes it at once, syncs
//! once, and wakes those who wait: the more wait, the more share a sync, and nobody waits for a timer. The tools' runtime is one
//! thread: it is woken once for each sync, by [`Log::dispatch`], and wakes its own tasks.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread::{JoinHandle, Thread},
    time::{Duration, SystemTime},
};

use futures_util::task::AtomicWaker;

use super::{
    disk::Disk,
    event::Event,
    journal::{Journal, Rules, TakenUp},
    key::{PublicKey, SigningKey},
    line::{Clock, begin_body},
    writer,
};
use crate::measure::Latency;

/// When a record counts as made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on disk.
    #[default]
    Sync,
    /// When it is in memory; it is on disk within [`LINGER`]. What a crash of the host or the daemon takes with it is as much.
    Batched,
}

impl Durability {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Batched => "batched",
        }
    }
}

/// How long a record may stay in memory where durability is [`Durability::Batched`].
pub const LINGER: Duration = Duration::from_millis(100);
/// Bytes at which a batch lingers no longer.
pub(super) const HURRY: usize = 1 << 20;
/// Bytes that may wait to be written. More is refused: the disk does not keep up.
const FULL: usize = 16 << 20;

/// How the log is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    pub durability: Durability,
    pub rules: Rules,
}

/// A record is on disk, or as near to it as durability asks for. Made here alone, one for each record: who needs one cannot leave the log
/// out.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded(());

/// The log cannot be written now. Nothing that must be on record may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct Unavailable;

/// The audit log of a daemon.
pub struct Log {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    public: Option<PublicKey>,
    durability: Durability,
}

/// What both the writer and those who append see.
#[derive(Default)]
pub(super) struct Shared {
    pub queue: Mutex<Queue>,
    progress: Mutex<Progress>,
    /// For those who wait in threads of their own.
    moved: Condvar,
    dispatcher: AtomicWaker,
    writer: OnceLock<Thread>,
    pub why_down: Mutex<Option<String>>,
    pub records: AtomicU64,
    pub lost: AtomicU64,
    pub syncs: Latency,
}

#[derive(Default)]
pub(super) struct Queue {
    pub bodies: Vec<u8>,
    pub ends: Vec<usize>,
    clock: Clock,
    /// How many were ever appended: the number of the last ticket.
    pub appended: u64,
    pub up: bool,
    /// Records that were refused, or failed, since the log was last written.
    pub lost: u64,
    pub sleep: Sleep,
    pub closing: bool,
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sleep {
    #[default]
    Awake,
    /// Nothing waits to be written.
    Idle,
    /// Something does, and has time.
    Lingering,
}

#[derive(Default)]
struct Progress {
    /// All tickets up to here are decided.
    done: u64,
    /// Those that failed, oldest first; the others are on disk.
    failed: VecDeque<(u64, u64)>,
    /// Of tickets up to here it is not known any more which failed. They all did, for who asks so late.
    forgotten: u64,
    waiting: Vec<(u64, Waker)>,
    dispatched: bool,
    blocked: usize,
}

/// Runs of failed tickets that are remembered: one for each time the disk failed.
const MOST_FAILED: usize = 1024;

impl Progress {
    fn verdict(&self, ticket: u64) -> Option<Result<Recorded, Unavailable>> {
        let failed = || ticket <= self.forgotten || self.failed.iter().any(|(from, to)| (*from..=*to).contains(&ticket));
        (ticket <= self.done).then(|| if failed() { Err(Unavailable) } else { Ok(Recorded(())) })
    }

    fn take_ready(&mut self, ready: &mut Vec<Waker>) {
        let done = self.done;
        // Those who wait came in order, more or less.
        self.waiting.retain_mut(|(ticket, waker)| {
            let decided = *ticket <= done;
            if decided {
                ready.push(std::mem::replace(waker, Waker::noop().clone()));
            }
            !decided
        });
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// All tickets up to this one are decided, the same way.
    pub fn decide(&self, up_to: u64, on_disk: bool) {
        let mut progress = lock(&self.progress);
        if !on_disk && up_to > progress.done {
            let run = (progress.done + 1, up_to);
            progress.failed.push_back(run);
            if progress.failed.len() > MOST_FAILED {
                progress.forgotten = progress.failed.pop_front().map_or(0, |(_, to)| to);
            }
        }
        progress.done = progress.done.max(up_to);
        if progress.blocked > 0 {
            self.moved.notify_all();
        }
        if progress.dispatched {
            drop(progress);
            return self.dispatcher.wake();
        }
        let mut ready = Vec::new();
        progress.take_ready(&mut ready);
        drop(progress);
        ready.into_iter().for_each(Waker::wake);
    }

    pub fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// How the log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Why nothing can be recorded. `None`: it can.
    pub down: Option<String>,
    /// Records that were written since the start, the log's own not counted, and those that could not be.
    pub records: u64,
    pub lost: u64,
}

impl Log {
    /// No log: everything counts as recorded, and nothing is.
    pub fn off() -> Self {
        Self { shared: Arc::default(), writer: Mutex::default(), public: None, durability: Durability::Sync }
    }

    /// Takes up the log of this directory, and starts its writer. Where the disk fails, the log is there and [down](State::down), and
    /// is tried again each second.
    pub fn open(disk: Arc<dyn Disk>, key: SigningKey, settings: Settings) -> std::io::Result<(Self, Option<TakenUp>)> {
        let (public, durability) = (Some(key.public()), settings.durability);
        let shared = Arc::new(Shared::default());
        let mut writer = writer::Writer::new(Journal::new(disk, key, settings.rules), shared.clone(), durability);
        let taken = writer.take_up(SystemTime::now());
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        let _ = shared.writer.set(thread.thread().clone());
        shared.wake_writer();
        Ok((Self { shared, writer: Mutex::new(Some(thread)), public, durability }, taken))
    }

    /// Appends an event. It is on record when the ticket says so, and may be told to have happened only then.
    pub fn append(&self, event: &Event<'_>) -> Result<Ticket, Unavailable> {
        if self.public.is_none() {
            return Ok(Ticket { shared: self.shared.clone(), number: None, registered: false });
        }
        let now = SystemTime::now();
        let mut queue = lock(&self.shared.queue);
        if !queue.up || queue.closing || queue.bodies.len() >= FULL {
            queue.lost += 1;
            self.shared.lost.fetch_add(1, Relaxed);
            return Err(Unavailable);
        }
        let Queue { bodies, ends, clock, .. } = &mut *queue;
        event.write(&mut begin_body(clock, now, bodies));
        ends.push(bodies.len());
        let waits = bodies.len();
        queue.appended += 1;
        let ticket = queue.appended;
        let wakes = match (self.durability, queue.sleep) {
            (_, Sleep::Awake) => false,
            (Durability::Sync, _) | (_, Sleep::Idle) => true,
            (Durability::Batched, Sleep::Lingering) => waits >= HURRY,
        };
        if wakes {
            queue.sleep = Sleep::Awake;
        }
        drop(queue);
        if wakes {
            self.shared.wake_writer();
        }
        // Where much waits, even who is content with memory waits for the disk: memory is bounded.
        let number = (self.durability == Durability::Sync || waits >= FULL / 2).then_some(ticket);
        Ok(Ticket { shared: self.shared.clone(), number, registered: false })
    }

    /// Appends an event that nothing waits for. Where the log is down it is counted as lost, and the log will say how many were.
    pub fn note(&self, event: &Event<'_>) {
        let _ = self.append(event);
    }

    /// Wakes the tasks of the runtime that polls this, as what they wait for gets done; never ends. One for each log.
    pub async fn dispatch(&self) {
        let ends = Dispatching(&self.shared);
        let mut ready = Vec::new();
        poll_fn(|cx| {
            ends.0.dispatcher.register(cx.waker());
            let mut progress = lock(&ends.0.progress);
            progress.dispatched = true;
            progress.take_ready(&mut ready);
            drop(progress);
            ready.drain(..).for_each(Waker::wake);
            Poll::<()>::Pending
        })
        .await;
    }

    pub fn state(&self) -> State {
        let down = lock(&self.shared.why_down).clone();
        State { down, records: self.shared.records.load(Relaxed), lost: self.shared.lost.load(Relaxed) }
    }

    /// Can it be written?
    pub fn is_up(&self) -> bool {
        self.public.is_none() || lock(&self.shared.queue).up
    }

    /// How long writes and syncs take.
    pub fn syncs(&self) -> &Latency {
        &self.shared.syncs
    }

    /// What it is verified with. `None`: there is no log.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.public
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Writes what waits, seals the log, and takes nothing more.
    pub fn close(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.wake_writer();
        if let Some(writer) = lock(&self.writer).take() {
            // It does not panic; if it did, its tickets have failed by now.
            let _ = writer.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

struct Dispatching<'a>(&'a Shared);

impl Drop for Dispatching<'_> {
    fn drop(&mut self) {
        let mut ready = Vec::new();
        let mut progress = lock(&self.0.progress);
        progress.dispatched = false;
        progress.take_ready(&mut ready);
        drop(progress);
        ready.into_iter().for_each(Waker::wake);
    }
}

/// A record that is under way. Await it, or [wait](Self::wait) in a thread that may.
#[must_use = "what is on record only when the ticket says so must wait for it"]
pub struct Ticket {
    shared: Arc<Shared>,
    /// `None`: memory is enough.
    number: Option<u64>,
    registered: bool,
}

impl Ticket {
    /// Waits in this thread.
    pub fn wait(self) -> Result<Recorded, Unavailable> {
        let Some(number) = self.number else { return Ok(Recorded(())) };
        let mut progress = lock(&self.shared.progress);
        progress.blocked += 1;
        let verdict = loop {
            match progress.verdict(number) {
                Some(verdict) => break verdict,
                None => progress = self.shared.moved.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        };
        progress.blocked -= 1;
        verdict
    }
}

impl Future for Ticket {
    type Output = Result<Recorded, Unavailable>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(number) = self.number else { return Poll::Ready(Ok(Recorded(()))) };
        let registered = std::mem::replace(&mut self.registered, true);
        let mut progress = lock(&self.shared.progress);
        if let Some(verdict) = progress.verdict(number) {
            return Poll::Ready(verdict);
        }
        let before = if registered { progress.waiting.iter_mut().find(|(ticket, _)| *ticket == number) } else { None };
        match before {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => progress.waiting.push((number, cx.waker().clone())),
        }
        Poll::Pending
    }
}

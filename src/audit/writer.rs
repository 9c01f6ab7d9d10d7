//! The thread that writes.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use tracing::{error, info, warn};

use super::{
    journal::{Journal, TakenUp},
    log::{Durability, HURRY, LINGER, Queue, Shared, Sleep, lock},
    marks::Trouble,
};

/// How long a record stays without a signature over it, at the most, while the disk keeps up.
const SEAL_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_secs(1);
const PRUNE_EVERY: Duration = Duration::from_secs(600);

pub struct Writer {
    journal: Journal,
    shared: Arc<Shared>,
    durability: Durability,
    /// The last ticket that was taken to be written.
    taken: u64,
    bodies: Vec<u8>,
    ends: Vec<usize>,
    /// When the first of what waits was noticed.
    lingers_since: Option<Instant>,
    unsealed_since: Option<Instant>,
    retry_at: Instant,
    prune_at: Instant,
    told_held: bool,
}

impl Writer {
    pub fn new(journal: Journal, shared: Arc<Shared>, durability: Durability) -> Self {
        let now = Instant::now();
        Self {
            journal,
            shared,
            durability,
            taken: 0,
            bodies: Vec::new(),
            ends: Vec::new(),
            lingers_since: None,
            unsealed_since: None,
            retry_at: now,
            prune_at: now,
            told_held: false,
        }
    }

    pub fn run(mut self) {
        let _fails_what_is_left = FailAll(self.shared.clone());
        while self.step() {}
        // A last seal, which is not tried twice: what it would cover is on disk.
        if self.journal.is_unsealed()
            && let Err(error) = self.journal.seal(SystemTime::now())
        {
            warn!("the audit log is not sealed at its end: {error}");
        }
    }

    /// Writes what waits, or sleeps until there is something to do. `false`: the log is to be closed, and nothing waits.
    fn step(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut queue = lock(&shared.queue);
        let now = Instant::now();
        if queue.ends.is_empty() {
            if queue.closing {
                return false;
            }
        } else if self.is_time(&queue, now) {
            std::mem::swap(&mut queue.bodies, &mut self.bodies);
            std::mem::swap(&mut queue.ends, &mut self.ends);
            self.taken = queue.appended;
            self.lingers_since = None;
            drop(queue);
            self.commit();
            self.look_after(now);
            return true;
        }
        let wait = self.until(&queue, now);
        if !wait.is_zero() {
            queue.sleep = if queue.ends.is_empty() { Sleep::Idle } else { Sleep::Lingering };
            drop(queue);
            std::thread::park_timeout(wait);
            lock(&shared.queue).sleep = Sleep::Awake;
        } else {
            drop(queue);
        }
        self.look_after(Instant::now());
        true
    }

    /// Is what waits to be written now?
    fn is_time(&mut self, queue: &Queue, now: Instant) -> bool {
        let since = *self.lingers_since.get_or_insert(now);
        self.durability == Durability::Sync || queue.closing || queue.bodies.len() >= HURRY || now - since >= LINGER
    }

    /// How long there is nothing to do, unless something is appended.
    fn until(&self, queue: &Queue, now: Instant) -> Duration {
        let lingers = self.lingers_since.filter(|_| !queue.ends.is_empty()).map(|since| since + LINGER);
        let seal = self.unsealed_since.map(|since| since + SEAL_EVERY);
        let next = match self.journal.is_up() {
            true => [lingers, seal, Some(self.prune_at)].into_iter().flatten().min(),
            false => Some(self.retry_at),
        };
        next.map_or(PRUNE_EVERY, |next| next.saturating_duration_since(now))
    }

    fn commit(&mut self) {
        let begun = Instant::now();
        let done = self.journal.commit(&self.bodies, &self.ends);
        self.shared.syncs.add(begun.elapsed());
        let records = self.ends.len() as u64;
        self.bodies.clear();
        self.ends.clear();
        match done {
            Ok(()) => {
                self.shared.records.fetch_add(records, Relaxed);
                self.shared.decide(self.taken, true);
                self.unsealed_since.get_or_insert(begun);
            }
            Err(error) => self.failed(records, &error),
        }
    }

    /// The disk failed: nobody who waits is told otherwise, and nothing more is taken.
    fn failed(&mut self, records: u64, error: &io::Error) {
        let mut queue = lock(&self.shared.queue);
        let was_up = std::mem::replace(&mut queue.up, false);
        let lost = records + queue.ends.len() as u64;
        queue.lost += lost;
        self.shared.lost.fetch_add(lost, Relaxed);
        queue.bodies.clear();
        queue.ends.clear();
        self.taken = queue.appended;
        drop(queue);
        if was_up {
            error!("the audit log cannot be written, so no secret is handed out: {error}; it is tried again each second");
        }
        *lock(&self.shared.why_down) = Some(error.to_string());
        self.shared.decide(self.taken, false);
        self.unsealed_since = None;
        self.retry_at = Instant::now() + RETRY_EVERY;
    }

    /// Begins or goes on, and takes records from then on. `None`: the disk fails.
    pub fn take_up(&mut self, now: SystemTime) -> Option<TakenUp> {
        let lost = lock(&self.shared.queue).lost;
        match self.journal.take_up(lost, now) {
            Ok(taken) => {
                tell(&taken, lost);
                let mut queue = lock(&self.shared.queue);
                (queue.up, queue.lost) = (true, queue.lost - lost);
                drop(queue);
                *lock(&self.shared.why_down) = None;
                self.unsealed_since = Some(Instant::now());
                Some(taken)
            }
            Err(error) => {
                self.failed(0, &error);
                None
            }
        }
    }

    /// What is due: another attempt, a seal, another file, the end of old ones.
    fn look_after(&mut self, now: Instant) {
        if !self.journal.is_up() {
            if now >= self.retry_at {
                self.take_up(SystemTime::now());
            }
            return;
        }
        if self.unsealed_since.is_some_and(|since| now - since >= SEAL_EVERY) {
            self.unsealed_since = None;
            if let Err(error) = self.journal.seal(SystemTime::now()) {
                return self.failed(0, &error);
            }
            // A head that could not be written is tried again.
            self.unsealed_since = self.journal.is_unsealed().then(Instant::now);
        }
        match self.journal.roll(SystemTime::now()) {
            Ok(true) => self.prune_at = now,
            Ok(false) => {}
            Err(error) => return self.failed(0, &error),
        }
        if now >= self.prune_at {
            self.prune_at = now + PRUNE_EVERY;
            self.prune();
        }
    }

    fn prune(&mut self) {
        match self.journal.prune(SystemTime::now()) {
            Ok((gone, held)) => {
                if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
                    info!(files = gone.len(), %first, %last, "old files of the audit log were removed, as its settings say");
                }
                if held && !std::mem::replace(&mut self.told_held, true) {
                    warn!(
                        "old files of the audit log are append-only and stay: remove them with chattr -a and rm, or raise keep and max-size in [audit]"
                    );
                }
            }
            Err(error) if self.journal.is_up() => warn!("old files of the audit log cannot be removed: {error}"),
            Err(error) => self.failed(0, &error),
        }
    }
}

fn tell(taken: &TakenUp, lost: u64) {
    let TakenUp { trouble, torn_bytes, next } = taken;
    let Some(trouble) = trouble else { return };
    let why = trouble.as_str();
    match trouble {
        Trouble::Torn => warn!(
            torn_bytes,
            next, "the daemon ended while it wrote to the audit log: what was left of the write is declared there"
        ),
        Trouble::WriteFailed => warn!(lost, next, "the audit log can be written again"),
        _ => error!(why, next, "the audit log is not what the daemon wrote: keep a copy of it, and see: valetkey audit verify"),
    }
}

/// However the thread ends, nobody waits for it.
struct FailAll(Arc<Shared>);

impl Drop for FailAll {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.up = false;
        let all = queue.appended;
        drop(queue);
        lock(&self.0.why_down).get_or_insert_with(|| "the log is closed".into());
        self.0.decide(all, false);
    }
}

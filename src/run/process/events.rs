//! What another thread asks of the one that supervises.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use super::Start;

pub enum Event {
    /// Send the tool this signal.
    Signal(i32),
    /// Stop the tool, and start this in its place. Several within a short time make one, the last.
    Restart(Box<Start>, Number),
    /// Kill the tool, and all that it has started. [`super::supervise()`] then returns.
    Stop,
}

/// Of a restart: those that are asked for later have higher ones.
pub type Number = u64;

/// The end that supervises.
pub struct Events(Arc<Shared>);

/// The end of another thread. Cheap to clone.
#[derive(Clone)]
pub struct Sender(Arc<Shared>);

struct Shared {
    wake: OwnedFd,
    queue: Mutex<VecDeque<Event>>,
    asked: AtomicU64,
    /// The last restart of which the new tool is there, and the old one is not.
    begun: watch::Sender<Number>,
}

pub fn channel() -> io::Result<(Sender, Events)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { wake, queue: Mutex::default(), asked: AtomicU64::new(0), begun: watch::Sender::new(0) });
    Ok((Sender(shared.clone()), Events(shared)))
}

impl Sender {
    /// Asks for a restart. It has come about when that number, or a higher one, [has begun](Self::begun).
    pub fn restart(&self, start: Box<Start>) -> Number {
        let number = self.0.asked.fetch_add(1, Relaxed) + 1;
        self.send(Event::Restart(start, number));
        number
    }

    /// The last restart that has begun: the old tool is gone, and the new one is there.
    pub fn begun(&self) -> watch::Receiver<Number> {
        self.0.begun.subscribe()
    }

    pub fn send(&self, event: Event) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        // It fails only where the counter is full, and then the other end is awake.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }
}

impl Events {
    pub(super) fn has_begun(&self, number: Number) {
        self.0.begun.send_replace(number);
    }

    pub(super) fn take(&self) -> VecDeque<Event> {
        let _ = rustix::io::read(&self.0.wake, &mut [0; 8][..]);
        std::mem::take(&mut *self.0.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

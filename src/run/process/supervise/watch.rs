//! What the loop waits for.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use super::{Filter, Supervisor};
use crate::run::process::streams::given;

/// How often a launcher in the background looks whether it has come to the foreground. A shell says so only to what is stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What poll(2) waited for.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Signals,
    Guardian,
    Events,
    InputEnd,
    Input,
    InputSink,
    Keys,
    KeysSink,
    Lane(usize),
    LaneSink(usize),
}

impl<F: Filter> Supervisor<'_, F> {
    pub(super) fn watch(&self, sources: &mut Vec<Source>, polled: &mut Vec<libc::pollfd>) {
        sources.clear();
        polled.clear();
        let mut add = |source, fd: &dyn AsRawFd, events| {
            sources.push(source);
            polled.push(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
        };
        for (at, lane) in self.streams.lanes.iter().enumerate() {
            // Of a tool that is gone, all is there already: `drained` takes it.
            lane.source().filter(|_| !self.gone).inspect(|fd| add(Source::Lane(at), fd, libc::POLLIN));
            lane.sink().inspect(|fd| add(Source::LaneSink(at), fd, libc::POLLOUT));
        }
        add(Source::Signals, &self.signals.as_fd(), libc::POLLIN);
        add(Source::Events, &self.events.as_fd(), libc::POLLIN);
        if !self.gone {
            add(Source::Guardian, &self.guardian.as_fd(), libc::POLLIN);
        }
        let source = self.streams.input.as_ref().and_then(|input| input.source(self.streams.handshake.as_ref()));
        source.inspect(|fd| add(Source::Input, fd, libc::POLLIN));
        // Who reads it sees its end.
        if self.watches_input && source.is_none() {
            add(Source::InputEnd, &given(0), libc::POLLRDHUP);
        }
        if let Some(input) = &self.streams.input {
            input.sink().inspect(|fd| add(Source::InputSink, fd, libc::POLLOUT));
        }
        if let Some(keys) = &self.streams.keys {
            keys.source(None).inspect(|fd| add(Source::Keys, fd, libc::POLLIN));
            keys.sink().inspect(|fd| add(Source::KeysSink, fd, libc::POLLOUT));
        }
    }

    pub(super) fn wait(&self, polled: &mut [libc::pollfd]) {
        let looks_again = (self.wants_keys && !self.has_keys() && !self.gone).then(|| Instant::now() + LOOK_AGAIN);
        let until = [self.patience.next(), self.restart.next(self.is_idle()), looks_again].into_iter().flatten().min();
        // Rounded up, so that the moment has come when it wakes.
        let limit = until.map_or(-1, |at| at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000) as i32);
        // SAFETY: a slice and its length.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as _, limit) };
        if ready < 0 {
            // Interrupted: nothing is known of any.
            polled.iter_mut().for_each(|polled| polled.revents = 0);
        }
    }
}

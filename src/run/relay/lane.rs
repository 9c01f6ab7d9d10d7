//! One stream of the tool, from its descriptor through the filter to the client.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::secret::wipe_bytes;

use super::{Channel, Filter, Verdict, handshake::Handshake, sink::Sink};

/// Room that is kept for what comes next.
const MOST_ROOM: usize = 4 << 20;

/// Reads from the tool only what the client has room for: a client that does not read stops the tool, on this stream alone.
pub struct Lane {
    channel: Channel,
    /// Ours, and not blocking. None: it has ended.
    from: Option<OwnedFd>,
    /// None: nobody reads what goes there.
    to: Option<Sink>,
    pending: Vec<u8>,
    /// How much of `pending` is written.
    written: usize,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do now.
    Idle,
    /// Something was read, and written as far as it went.
    Moved,
    /// The tool's end is closed.
    Ended,
    /// The client's end is closed.
    Unread,
    /// The filter says that the tool must not go on.
    Forbidden,
}

impl Lane {
    pub fn new(channel: Channel, to: Sink) -> Self {
        Self { channel, from: None, to: Some(to), pending: Vec::new(), written: 0 }
    }

    /// Reads from here on from another process.
    pub fn lead_from(&mut self, from: OwnedFd) {
        self.from = Some(from);
    }

    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// What to read from, when there is room for it.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().filter(|_| self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// What to write to, when there is something to write.
    pub fn sink(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    pub fn is_done(&self) -> bool {
        self.from.is_none() && self.pending.is_empty()
    }

    /// Takes what has come and passes it on. `buffer` is room to read into. What was read may hold a secret, and is wiped.
    pub fn pull<F: Filter>(&mut self, buffer: &mut [u8], filter: &mut F, handshake: Option<&mut Handshake>) -> Step {
        let Some(from) = &self.from else { return Step::Ended };
        match rustix::io::read(from, &mut *buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => self.end(filter, handshake),
            Ok(got) => {
                let verdict = self.filtered(handshake, |out, channel| filter.push(channel, &buffer[..got], out));
                wipe_bytes(&mut buffer[..got]);
                self.after(verdict)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Step::Idle,
            Err(_) => self.end(filter, handshake),
        }
    }

    /// There will be no more. What the filter held back is passed on.
    pub fn end<F: Filter>(&mut self, filter: &mut F, handshake: Option<&mut Handshake>) -> Step {
        if self.from.take().is_none() {
            return Step::Ended;
        }
        let verdict = self.filtered(handshake, |out, channel| filter.finish(channel, out));
        match self.after(verdict) {
            Step::Moved => Step::Ended,
            other => other,
        }
    }

    /// Runs the filter, straight into what is to be written unless the handshake must see it first.
    fn filtered(&mut self, handshake: Option<&mut Handshake>, run: impl FnOnce(&mut Vec<u8>, Channel) -> Verdict) -> Verdict {
        match handshake.filter(|_| self.channel == Channel::Stdout) {
            None => run(&mut self.pending, self.channel),
            Some(handshake) => {
                let mut clean = Vec::new();
                let verdict = run(&mut clean, self.channel);
                handshake.hear_server(&clean, &mut self.pending);
                verdict
            }
        }
    }

    fn after(&mut self, verdict: Verdict) -> Step {
        match verdict {
            Verdict::Pass => self.push(),
            Verdict::Stop => {
                // Not passed on, and nothing after it either.
                self.close();
                Step::Forbidden
            }
        }
    }

    /// Says something in the tool's place.
    pub fn say(&mut self, bytes: &[u8]) -> Step {
        self.pending.extend_from_slice(bytes);
        self.push()
    }

    /// Writes as much as goes.
    pub fn push(&mut self) -> Step {
        while let Some(to) = self.to.as_ref().filter(|_| self.written < self.pending.len()) {
            match to.write(&self.pending[self.written..]) {
                Ok(taken) => self.written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Moved,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.to = None;
                    self.discard();
                    return Step::Unread;
                }
            }
        }
        self.discard();
        Step::Moved
    }

    fn discard(&mut self) {
        if self.pending.capacity() > MOST_ROOM {
            self.pending = Vec::new();
        }
        self.pending.clear();
        self.written = 0;
    }

    /// Reads no more, so that the tool finds its pipe closed; writes no more.
    pub fn close(&mut self) {
        self.from = None;
        self.discard();
    }
}

//! What goes to the tool, where it does not inherit standard input: from the client or the user's terminal.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::handshake::Handshake;
use crate::secret::wipe_bytes;

pub struct Feed {
    /// Shared with others: read only when poll(2) says that there is something.
    from: OwnedFd,
    /// The client has closed it.
    ended: bool,
    /// Ours, and not blocking. None: closed, or not there yet.
    to: Option<OwnedFd>,
    pending: Vec<u8>,
    /// May it be read now? A terminal only from the foreground.
    pub enabled: bool,
}

impl Feed {
    pub fn new(from: OwnedFd, enabled: bool) -> Self {
        Self { from, ended: false, to: None, pending: Vec::new(), enabled }
    }

    /// What to read from, when there is room for it here and in `handshake`.
    pub fn source(&self, handshake: Option<&Handshake>) -> Option<BorrowedFd<'_>> {
        let has_room = self.pending.is_empty() && handshake.is_none_or(Handshake::has_room);
        (self.enabled && !self.ended && has_room).then_some(self.from.as_fd())
    }

    pub fn sink(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// Whether there is nothing more to come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes what has come and passes it on. `buffer` is room to read into, and is wiped.
    pub fn pull(&mut self, buffer: &mut [u8], handshake: Option<&mut Handshake>) {
        match rustix::io::read(&self.from, &mut *buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => self.ended = true,
            Ok(got) => {
                match handshake {
                    None => self.pending.extend_from_slice(&buffer[..got]),
                    Some(handshake) => handshake.hear_client(&buffer[..got], &mut self.pending),
                }
                wipe_bytes(&mut buffer[..got]);
            }
        }
        self.push();
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.push();
    }

    /// Writes as much as goes.
    pub fn push(&mut self) {
        while let Some(to) = self.to.as_ref().filter(|_| !self.pending.is_empty()) {
            match rustix::io::write(to, &self.pending) {
                Ok(taken) => drop(self.pending.drain(..taken)),
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.close(),
            }
        }
    }

    /// The client has said its last word and the tool has had it: closes the tool's end.
    pub fn pass_on_the_end(&mut self) {
        if self.ended && self.pending.is_empty() {
            self.to = None;
        }
    }

    /// The tool reads no more, or is not to.
    pub fn close(&mut self) {
        self.to = None;
        self.pending.clear();
    }

    /// Another tool reads from here on.
    pub fn lead_to(&mut self, to: OwnedFd) {
        self.to = Some(to);
    }
}

//! A descriptor that the launcher was given, written to without ever waiting for the reader.
//!
//! O_NONBLOCK belongs to the open file description, which is shared with the client, the shell and the tool: setting it there
//! breaks them. So a pipe or a terminal is opened once more, for a description of our own, and a socket is asked call by call.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    net::{SendFlags, send},
};

/// What a pipe takes in one piece, once poll(2) says that it takes anything (pipe(7)).
const PIPE_BUF: usize = 4096;

pub struct Sink {
    descriptor: OwnedFd,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It never waits: our own non-blocking description, or a file.
    Freely,
    Socket,
    /// It could not be opened again. Small pieces, and only when poll(2) says that there is room: another writer may take that
    /// first, and then this one waits for the reader.
    Carefully,
}

impl Sink {
    pub fn new(given: BorrowedFd<'_>) -> io::Result<Self> {
        let duplicate = || rustix::io::fcntl_dupfd_cloexec(given, 3);
        let (descriptor, how) = match FileType::from_raw_mode(fstat(given)?.st_mode) {
            FileType::Socket => (duplicate()?, How::Socket),
            FileType::Fifo | FileType::CharacterDevice => match open_again(given, OFlags::WRONLY) {
                Ok(own) => (own, How::Freely),
                Err(_) => (duplicate()?, How::Carefully),
            },
            _ => (duplicate()?, How::Freely),
        };
        Ok(Self { descriptor, how })
    }

    /// How many bytes it took; `WouldBlock` where it takes none now.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(match self.how {
            How::Freely => rustix::io::write(&self.descriptor, bytes)?,
            How::Socket => send(&self.descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?,
            How::Carefully if !self.has_room()? => return Err(io::ErrorKind::WouldBlock.into()),
            How::Carefully => rustix::io::write(&self.descriptor, &bytes[..bytes.len().min(PIPE_BUF)])?,
        })
    }

    fn has_room(&self) -> io::Result<bool> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(&self.descriptor, PollFlags::OUT)], Some(&now))? > 0)
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The same file with a description of its own that does not block. Fails where the file's mode does not allow it, as for a
/// terminal that belongs to the user one was before `su`.
pub fn open_again(given: BorrowedFd<'_>, access: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", given.as_raw_fd());
    Ok(open(path, access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
}

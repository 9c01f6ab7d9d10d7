//! The launcher's side of its guardian.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::Signal,
};

use super::{
    confine,
    guard::guard,
    region::Region,
    spawn::{self, Terminal},
    start::Start,
    tree,
    wire::{Order, Report, Sent, To},
};

/// How long a launcher whose guardian was killed tries to kill the tree itself.
const GIVE_UP: Duration = Duration::from_secs(3);

/// A small process between the launcher and the tool, which outlives the launcher by as long as it takes to kill the tree.
///
/// Make it first thing: before there are threads, which a fork does not take along, and before there is a secret, which it
/// would. It then waits while the launcher asks for the secrets, and costs no time.
pub struct Guardian {
    orders: OwnedFd,
    pid: i32,
    region: Region,
}

impl Guardian {
    pub fn new() -> io::Result<Self> {
        let region = Region::new()?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Should the guardian be killed, what it guarded falls to the launcher, which kills it.
        // SAFETY: numbers.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        // SAFETY: the caller has no other threads; the child runs `guard` alone and leaves with _exit.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let ended = guard(theirs, region);
                // SAFETY: ends at once: what a program does at exit is the launcher's to do.
                unsafe { libc::_exit(ended.is_err().into()) }
            }
            pid => Ok(Self { orders: ours, pid, region }),
        }
    }

    /// Has it start the tool, with these descriptors as 0, 1 and 2. The answer comes as a report.
    pub(super) fn start(
        &mut self,
        start: &Start,
        standard: [BorrowedFd<'_>; 3],
        terminal: Option<(Terminal, BorrowedFd<'_>)>,
    ) -> io::Result<()> {
        spawn::pack(start, terminal.map(|(terminal, _)| terminal), &mut self.region)?;
        let mut descriptors = standard.to_vec();
        descriptors.extend(terminal.map(|(_, users)| users));
        descriptors.extend(start.keep.iter().map(|(fd, _)| fd.as_fd()));
        descriptors.extend(start.confinement.iter().flat_map(confine::descriptors));
        Order::Start(self.region.used()).send(&self.orders, &descriptors)
    }

    /// A guardian that is gone is noticed by the next report.
    pub(super) fn signal(&self, signal: i32, to: To) {
        self.pass_on(Sent { signal, value: None }, to);
    }

    pub(super) fn pass_on(&self, sent: Sent, to: To) {
        let _ = Order::Signal(sent, to).send(&self.orders, &[]);
    }

    pub(super) fn kill(&self) {
        let _ = Order::Kill.send(&self.orders, &[]);
    }

    pub(super) fn foreground(&self, terminal: BorrowedFd<'_>) {
        let _ = Order::Foreground.send(&self.orders, &[terminal]);
    }

    /// What it has to say, if anything. An error of the kind `BrokenPipe`: it is gone.
    pub(super) fn report(&self) -> io::Result<Option<Report>> {
        match Report::receive(&self.orders) {
            Ok(Some(report)) => Ok(Some(report)),
            Ok(None) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends it home. It goes while the launcher does what is left to do.
    pub(super) fn dismiss(&self) {
        let _ = rustix::net::shutdown(&self.orders, rustix::net::Shutdown::Both);
    }

    /// The guardian was killed: kills what it guarded, and returns the wait status of the tool's first process.
    pub(super) fn stand_in(&self, tool: Option<i32>) -> Option<i32> {
        let (end, mut status) = (Instant::now() + GIVE_UP, None);
        loop {
            tree::signal_all(Signal::KILL);
            let left = tree::reap(|pid, ended| {
                if Some(pid) == tool {
                    status = Some(ended);
                }
            });
            if !left || Instant::now() > end {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl AsFd for Guardian {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.orders.as_fd()
    }
}

impl Drop for Guardian {
    /// Sends it home, with all that it has started, and leaves no zombie.
    fn drop(&mut self) {
        self.dismiss();
        // SAFETY: our own child; where it was collected already, the call says so at once.
        unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) };
    }
}

//! The user's terminal, and the one that the tool gets in its place.
//!
//! A tool whose output is filtered still sees a terminal where there is one: its end of a pseudo-terminal, whose other end is
//! read here. The user's own is set to raw while the tool may read, so that keys reach the tool's as they are: Ctrl-C and Ctrl-Z
//! become signals there, for the tool's processes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize},
};

use super::relay::sink::open_again;

/// The terminal that the launcher was started in. Put back as it was when dropped.
pub struct UsersTerminal {
    descriptor: OwnedFd,
    before: Option<Termios>,
    /// The tool's terminal does not turn line ends into what the screen needs, because the user's own does.
    plain: bool,
}

impl UsersTerminal {
    /// The first of these that is a terminal.
    pub fn find(given: &[BorrowedFd<'_>]) -> io::Result<Option<Self>> {
        let Some(terminal) = given.iter().find(|fd| isatty(fd)) else { return Ok(None) };
        let own = open_again(*terminal, OFlags::RDWR);
        let descriptor = own.or_else(|_| rustix::io::fcntl_dupfd_cloexec(terminal, 3))?;
        Ok(Some(Self { descriptor, before: None, plain: false }))
    }

    /// Whether its keys are for this process group. A terminal that is not the session's own has no foreground.
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(&self.descriptor).map_or(true, |group| group == rustix::process::getpgrp())
    }

    /// Somebody else has it now, and has set it as they need it.
    pub fn forget(&mut self) {
        self.before = None;
    }

    pub fn is_raw(&self) -> bool {
        self.before.is_some()
    }

    /// Keys come as they are, one by one.
    pub fn raw(&mut self) -> io::Result<()> {
        if self.before.is_none() {
            let before = tcgetattr(&self.descriptor)?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&self.descriptor, OptionalActions::Now, &raw)?;
            self.before = Some(before);
        }
        Ok(())
    }

    /// Does not wait for what is being shown: a terminal that is held (Ctrl-S) would hold the launcher's end.
    pub fn restore(&mut self) {
        if let Some(before) = self.before.take() {
            // From the background it is somebody else's now.
            if self.is_ours() {
                let _ = tcsetattr(&self.descriptor, OptionalActions::Now, &before);
            }
        }
    }

    /// One of the two terminals makes `\r\n` of each line end: the tool's, while the user's is raw.
    pub fn share_work(&mut self, tools: &OwnedFd) {
        let Ok(mut how) = tcgetattr(tools) else { return };
        let works = how.output_modes.contains(OutputModes::OPOST);
        if works != self.is_raw() && (works || self.plain) {
            how.output_modes.toggle(OutputModes::OPOST);
            self.plain = works;
            let _ = tcsetattr(tools, OptionalActions::Now, &how);
        }
    }

    /// The user's is about to be raw: from here on the tool's makes the line ends.
    pub fn give_work(&mut self, tools: &OwnedFd) {
        let Ok(mut how) = tcgetattr(tools) else { return };
        if self.plain && !how.output_modes.contains(OutputModes::OPOST) {
            how.output_modes.insert(OutputModes::OPOST);
            self.plain = false;
            let _ = tcsetattr(tools, OptionalActions::Now, &how);
        }
    }

    /// Copies its size to the tool's, whose foreground is sent SIGWINCH if that is new.
    pub fn copy_size_to(&self, tools: Option<&OwnedFd>) {
        if let (Ok(size), Some(tools)) = (tcgetwinsize(&self.descriptor), tools) {
            let _ = tcsetwinsize(tools, size);
        }
    }

    /// A pseudo-terminal like it: the launcher's end, which does not block, and the tool's.
    pub fn copy(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let tools = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        if let Ok(how) = self.before.clone().map_or_else(|| tcgetattr(&self.descriptor), Ok) {
            tcsetattr(&tools, OptionalActions::Now, &how)?;
        }
        self.copy_size_to(Some(&ours));
        self.plain = false;
        self.share_work(&ours);
        rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
        Ok((ours, tools))
    }
}

impl AsFd for UsersTerminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for UsersTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

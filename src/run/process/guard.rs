//! The guardian's own side: it starts the tool, collects what ends, and leaves nothing behind.
//!
//! It is forked before the launcher knows any secret, and holds none: a start comes through shared memory, is used there and
//! wiped. It leads a session of its own, so that what kills the launcher's process group does not reach it. What it starts
//! descends from it for good: processes that lose their parent become its children (PR_SET_CHILD_SUBREAPER(2const)).

use std::{
    io,
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
    termios::Termios,
};

use super::{
    region::Region,
    signals,
    spawn::{self, Spawned},
    tree,
    wire::{Order, Report, Sent, To},
};

/// How long the rest of a tree may go on after the tool's first process has ended: to finish by itself, then after SIGTERM.
const LINGER: Duration = Duration::from_millis(100);
/// How long it tries to kill what does not go.
const GIVE_UP: Duration = Duration::from_secs(3);
/// How often it looks for processes that were born while it killed.
const AGAIN: Duration = Duration::from_millis(5);

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is none in sight.
    None,
    /// The rest may finish by itself.
    Linger(Instant),
    /// It was asked to.
    Asked(Instant),
    /// It is being killed, until then.
    Kill(Instant),
}

struct Guard {
    launcher: OwnedFd,
    signals: OwnedFd,
    region: Region,
    /// The tool's first process, not collected yet: its number is its own.
    tool: Option<i32>,
    /// Something was started and its end not reported.
    busy: bool,
    end: End,
    /// The user's terminal and how it was, for a launcher that is killed before it can put it back.
    users_terminal: Option<(OwnedFd, Termios)>,
}

/// Guards until the launcher is gone, and the tree with it.
pub(super) fn guard(launcher: OwnedFd, region: Region) -> io::Result<()> {
    let signals = settle(&launcher)?;
    let mut guard = Guard { launcher, signals, region, tool: None, busy: false, end: End::None, users_terminal: None };
    while guard.obey()? {
        guard.wait()?;
        guard.collect();
        guard.press_on();
    }
    guard.restore_terminal();
    guard.finish();
    Ok(())
}

/// Gives up what it has from the launcher.
fn settle(launcher: &OwnedFd) -> io::Result<OwnedFd> {
    rustix::process::setsid()?;
    signals::block_all();
    // SAFETY: numbers, and a name that ends with a zero.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"valetkey-guard".as_ptr(), 0, 0, 0);
    }
    no_core_dumps();
    close_all_but(launcher)?;
    signals::of_children()
}

/// Its own, and those of all that it starts.
fn no_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit cannot be refused.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// What it kept open would stay open for the client, which waits for the end of the tool's output, and for the daemon.
fn close_all_but(kept: &OwnedFd) -> io::Result<()> {
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        // SAFETY: numbers. What was there belongs to the standard library, which does not mind.
        unsafe { libc::dup2(nothing.as_raw_fd(), number) };
    }
    let kept = kept.as_raw_fd() as u32;
    for (from, to) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: numbers. Whoever owned these descriptors in the launcher's memory is never dropped here: this process
            // leaves with _exit.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
    // `nothing` was among them.
    let _ = nothing.into_raw_fd();
    Ok(())
}

impl Guard {
    /// Does what the launcher has ordered. Says whether that is there still.
    fn obey(&mut self) -> io::Result<bool> {
        while self.has_orders()? {
            let Some((order, descriptors)) = Order::receive(&self.launcher)? else { return Ok(false) };
            match order {
                Order::Start(used) => self.start(used, descriptors),
                Order::Signal(sent, to) => self.signal(sent, to),
                Order::Kill => self.kill(),
                Order::Foreground => self.foreground(descriptors.first()),
            }
        }
        Ok(true)
    }

    fn has_orders(&self) -> io::Result<bool> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(&self.launcher, PollFlags::IN)], Some(&now))? > 0)
    }

    fn start(&mut self, used: usize, descriptors: Vec<OwnedFd>) {
        let started = spawn::spawn(&mut self.region, used, descriptors);
        self.region.wipe();
        let report = match started {
            Ok(Spawned { pid, users_terminal }) => {
                (self.tool, self.busy, self.end) = (Some(pid), true, End::None);
                self.remember_terminal(users_terminal);
                Report::Started(pid)
            }
            Err((step, error)) => Report::Failed(step, error.raw_os_error().unwrap_or(libc::EINVAL)),
        };
        self.say(report);
    }

    fn signal(&self, Sent { signal, value }: Sent, to: To) {
        match (to, self.tool) {
            (To::Tree, _) => {
                signals::named(signal).into_iter().for_each(tree::signal_all);
                // What is stopped must go on to hear it.
                tree::signal_all(Signal::CONT);
            }
            (_, None) => {}
            (To::Tool, Some(pid)) => signals::send(pid, signal, value),
            (To::Group, Some(pid)) => signals::send(-pid, signal, None),
        }
    }

    fn foreground(&self, terminal: Option<&OwnedFd>) {
        let (Some(pid), Some(terminal)) = (self.tool, terminal) else { return };
        // SAFETY: numbers; our own child, and the terminal of our session. SIGTTOU is blocked.
        unsafe { libc::tcsetpgrp(terminal.as_raw_fd(), pid) };
        signals::send(-pid, libc::SIGCONT, None);
    }

    fn kill(&mut self) {
        if self.busy && !matches!(self.end, End::Kill(_)) {
            self.end = End::Kill(Instant::now() + GIVE_UP);
            self.kill_round();
        }
    }

    /// The group first: that is one step, in which nobody can fork away.
    fn kill_round(&self) {
        if let Some(pid) = self.tool {
            signals::send(-pid, libc::SIGKILL, None);
            signals::send(pid, libc::SIGKILL, None);
        }
        tree::signal_all(Signal::KILL);
    }

    fn wait(&mut self) -> io::Result<()> {
        let limit = self.wake_at().map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut watched = [PollFd::new(&self.launcher, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        match poll(&mut watched, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        signals::empty(&self.signals);
        Ok(())
    }

    fn wake_at(&self) -> Option<Instant> {
        match self.end {
            End::None => None,
            End::Linger(at) | End::Asked(at) => Some(at),
            End::Kill(_) => Some(Instant::now() + AGAIN),
        }
    }

    fn collect(&mut self) {
        let (tool, mut said) = (self.tool, None);
        let left = tree::reap(|pid, status| {
            if Some(pid) == tool {
                said = Some(status);
            }
        });
        match said {
            Some(status) if libc::WIFSTOPPED(status) => self.say(Report::Stopped(libc::WSTOPSIG(status))),
            Some(status) => {
                self.tool = None;
                self.say(Report::Exited(status));
                if self.end == End::None {
                    self.end = End::Linger(Instant::now() + LINGER);
                }
            }
            None => {}
        }
        if self.busy && !left {
            self.over(Report::Gone);
        }
    }

    fn over(&mut self, report: Report) {
        (self.busy, self.end) = (false, End::None);
        self.say(report);
    }

    fn press_on(&mut self) {
        let now = Instant::now();
        match self.end {
            End::Linger(at) if at <= now => {
                tree::signal_all(Signal::TERM);
                tree::signal_all(Signal::CONT);
                self.end = End::Asked(now + LINGER);
            }
            End::Asked(at) if at <= now => self.kill(),
            End::Kill(at) if at <= now => self.over(Report::Remains),
            End::Kill(_) => self.kill_round(),
            _ => {}
        }
    }

    /// The launcher is gone, so all goes.
    fn finish(&mut self) {
        self.kill();
        while self.busy && self.wait_for_children().is_ok() {
            self.collect();
            self.press_on();
        }
    }

    fn wait_for_children(&self) -> io::Result<()> {
        poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(&timespec(AGAIN)))?;
        signals::empty(&self.signals);
        Ok(())
    }

    fn remember_terminal(&mut self, terminal: Option<OwnedFd>) {
        self.users_terminal = terminal.and_then(|fd| rustix::termios::tcgetattr(&fd).ok().map(|how| (fd, how)));
    }

    /// A launcher that ends in good order has done it, and then it is the same again.
    fn restore_terminal(&mut self) {
        if let Some((terminal, how)) = self.users_terminal.take() {
            let _ = rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, &how);
        }
    }

    fn say(&self, report: Report) {
        // A launcher that is gone is noticed by the next look at its orders.
        let _ = report.send(&self.launcher);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

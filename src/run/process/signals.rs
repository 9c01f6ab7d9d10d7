//! Signals: taken as events rather than by handlers, and passed on.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::process::Signal;

/// What the processor raises must hit at once, and the last two cannot be held.
const NOT_HELD: [i32; 8] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, libc::SIGKILL, libc::SIGSTOP];

/// All signals that can be held, held for [`super::supervise()`]. Threads that are started afterwards inherit it. When it is
/// dropped, what was pending is delivered.
pub struct Signals {
    descriptor: OwnedFd,
    before: libc::sigset_t,
}

/// A signal that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Come {
    pub signal: i32,
    /// What came with it, if it was queued.
    pub value: Option<i32>,
    /// The terminal sent it, to the whole process group.
    pub by_terminal: bool,
}

impl Signals {
    /// Holds them from now on. Call it in the main thread, before any other is started: a signal goes to whichever thread
    /// does not hold it.
    pub fn hold() -> io::Result<Self> {
        let held = all_but(&[&NOT_HELD[..], &[libc::SIGPIPE]].concat());
        Ok(Self { before: set_mask(&held), descriptor: signalfd(&held)? })
    }

    pub(super) fn next(&self) -> Option<Come> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        let got = rustix::io::read(&self.descriptor, &mut bytes[..]);
        if got != Ok(bytes.len()) {
            return None;
        }
        // SAFETY: integers only, as many bytes as there are; the kernel has filled them.
        let info: libc::signalfd_siginfo = unsafe { std::mem::transmute(bytes) };
        let value = (info.ssi_code == libc::SI_QUEUE).then_some(info.ssi_int);
        Some(Come { signal: info.ssi_signo as i32, value, by_terminal: info.ssi_code == libc::SI_KERNEL })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        set_mask(&self.before);
    }
}

/// Lets this one signal do what it does by default, here and now, and holds it again.
pub(super) fn suffer(signal: i32, group: bool) {
    // SAFETY: a number, and the kernel's own action.
    let handler = unsafe { libc::signal(signal, libc::SIG_DFL) };
    let before = set_mask(&all_but(&[&NOT_HELD[..], &[libc::SIGPIPE, signal]].concat()));
    // SAFETY: numbers: this process, or its group.
    unsafe { if group { libc::kill(0, signal) } else { libc::raise(signal) } };
    set_mask(&before);
    forget_continuation();
    // SAFETY: what it was.
    unsafe { libc::signal(signal, handler) };
}

/// The one that ended the stop: whoever stopped knows. Taken for news, it would wake a tool that has been stopped again since.
fn forget_continuation() {
    let mut set = none();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a set that was made; what came is not asked for.
    unsafe {
        libc::sigaddset(&mut set, libc::SIGCONT);
        libc::sigtimedwait(&set, ptr::null_mut(), &now);
    }
}

pub(super) fn block_all() {
    set_mask(&all_but(&[]));
}

pub(super) fn of_children() -> io::Result<OwnedFd> {
    let mut set = none();
    // SAFETY: a set that was made.
    unsafe { libc::sigaddset(&mut set, libc::SIGCHLD) };
    signalfd(&set)
}

/// Takes all that has come, where it only matters that something has.
pub(super) fn empty(signals: &OwnedFd) {
    let mut several = [0; 8 * size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(signals, &mut several[..]).is_ok() {}
}

/// Sends one to a process or, for a negative number, its group. Who is gone is gone.
pub(super) fn send(to: i32, signal: i32, value: Option<i32>) {
    match value {
        // SAFETY: numbers.
        None => drop(unsafe { libc::kill(to, signal) }),
        Some(value) => {
            let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(value as u32 as usize) };
            // SAFETY: as above; the value is the receiver's to understand.
            unsafe { libc::sigqueue(to, signal, value) };
        }
    }
}

pub(super) fn named(signal: i32) -> Option<Signal> {
    Signal::from_named_raw(signal)
}

fn none() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: a place for the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: made by the call.
    unsafe { set.assume_init() }
}

fn all_but(left_out: &[i32]) -> libc::sigset_t {
    let mut set = none();
    // SAFETY: a set that was made.
    unsafe { libc::sigfillset(&mut set) };
    for signal in left_out {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&mut set, *signal) };
    }
    set
}

fn set_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = none();
    // SAFETY: two sets.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, &mut before) };
    before
}

fn signalfd(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: a set; a new descriptor is wanted.
    let number = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

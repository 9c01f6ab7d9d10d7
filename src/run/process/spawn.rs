//! The guardian's child on its way to become the tool.
//!
//! As posix_spawn(3) does it: the child borrows the guardian's memory until it executes (CLONE_VM, CLONE_VFORK), on a stack
//! of its own, so that nothing is copied and an error can be left where the guardian finds it. Until then it makes system
//! calls and nothing else: all that needs memory was made ready before.

use std::{
    ffi::{c_char, c_int, c_void},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

use super::{
    confine::{self, Confine},
    region::{Reader, Region},
    start::Start,
};

/// What did not work, for the message.
const STEPS: [&str; 12] = [
    "take what is to be started",
    "make a process",
    "tie the process to its guardian",
    "make a process group",
    "take the terminal",
    "hand over descriptors",
    "enter its namespaces",
    "limit its resources",
    "give up privileges",
    "restrict it with Landlock",
    "restrict it with seccomp",
    "execute the program",
];
pub(super) const PREPARE: i64 = 0;
const FORK: i64 = 1;
const TIE: i64 = 2;
const GROUP: i64 = 3;
const TERMINAL: i64 = 4;
pub(super) const DESCRIPTORS: i64 = 5;
pub(super) const NAMESPACES: i64 = 6;
pub(super) const LIMITS: i64 = 7;
pub(super) const PRIVILEGES: i64 = 8;
pub(super) const LANDLOCK: i64 = 9;
pub(super) const SECCOMP: i64 = 10;
pub(super) const EXECUTE: i64 = 11;

/// Says which step it was.
pub(super) fn step(step: i64) -> &'static str {
    usize::try_from(step).ok().and_then(|step| STEPS.get(step)).copied().unwrap_or("start the tool")
}

/// What the tool's terminal is to be, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Terminal {
    /// Which of its descriptors 0, 1 and 2 is the terminal.
    pub at: RawFd,
    /// Whether it may read from it at once, or is stopped when it tries to, so that the launcher can take the user's first.
    pub foreground: bool,
}

/// Puts a start into the shared memory. The descriptors follow in the packet, in this order: 0, 1, 2, the user's terminal if
/// there is one, those to keep, those of the confinement.
pub(super) fn pack(start: &Start, terminal: Option<Terminal>, region: &mut Region) -> io::Result<()> {
    region.wipe();
    region.put(terminal.is_some().into())?;
    let terminal = terminal.unwrap_or_default();
    region.put(terminal.at as u64)?;
    region.put(terminal.foreground.into())?;
    region.put(start.keep.len() as u64)?;
    start.keep.iter().try_for_each(|(_, number)| region.put(*number as u64))?;
    confine::pack(start.confinement.as_ref().unwrap_or(&Default::default()), region)?;
    region.put_bytes(start.program.as_bytes_with_nul())?;
    region.put(start.arguments.len() as u64)?;
    start.arguments.iter().try_for_each(|text| region.put_bytes(text.as_bytes_with_nul()))?;
    region.put(start.environment.len() as u64)?;
    start.environment.iter().try_for_each(|text| region.put_bytes(text.as_c_str().to_bytes_with_nul()))
}

/// All that the child needs, ready to use.
struct Ready {
    guardian: i32,
    terminal: Option<Terminal>,
    /// From which number to which.
    moves: Vec<(RawFd, RawFd)>,
    confine: Confine,
    program: *const c_char,
    arguments: Vec<*const c_char>,
    /// `/bin/sh program arguments...`, for a script that does not name its interpreter, as execvp(3) does it.
    script: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Where the child leaves what went wrong.
    failed: Option<(i64, i32)>,
}

/// A tool that was started, and the user's terminal, where there is one to keep in order.
pub(super) struct Spawned {
    pub pid: i32,
    pub users_terminal: Option<OwnedFd>,
}

/// Starts what stands in the shared memory. The error says the step. The caller wipes the memory.
pub(super) fn spawn(region: &mut Region, used: usize, mut descriptors: Vec<OwnedFd>) -> Result<Spawned, (i64, io::Error)> {
    let mut reader = region.read(used);
    let mut ready = unpack(&mut reader, &mut descriptors).map_err(|error| (PREPARE, error))?;
    if ready.terminal.is_some() {
        own_terminal(&descriptors).map_err(|error| (TERMINAL, error))?;
    }
    let pid = run(&mut ready)?;
    let users_terminal = ready.terminal.map(|_| descriptors.swap_remove(3));
    Ok(Spawned { pid, users_terminal })
}

/// The guardian leads a session without a terminal: the tool's becomes its own, so that the tool is not an orphaned process
/// group in it, which could not be stopped (setpgid(2)).
fn own_terminal(descriptors: &[OwnedFd]) -> io::Result<()> {
    let terminal = descriptors.iter().take(3).find(|fd| rustix::termios::isatty(fd)).ok_or(io::ErrorKind::NotFound)?;
    rustix::process::ioctl_tiocsctty(terminal)?;
    Ok(())
}

fn unpack(from: &mut Reader<'_>, descriptors: &mut [OwnedFd]) -> io::Result<Ready> {
    let terminal = from.number()? == 1;
    let place = Terminal { at: from.descriptor()?, foreground: from.number()? == 1 };
    let keep = (0..from.number()?).map(|_| from.descriptor()).collect::<io::Result<Vec<_>>>()?;
    let wanted = confine::unpack(from)?;
    let targets: Vec<RawFd> = (0..3).chain(keep).collect();
    let moves = out_of_the_way(&targets, terminal, descriptors)?;
    let used = moves.len() + usize::from(terminal);
    let confine = Confine::new(wanted, descriptors.iter().skip(used).map(AsRawFd::as_raw_fd));
    let program = text(from)?;
    let arguments = texts(from)?;
    let environment = texts(from)?;
    let script = [c"/bin/sh".as_ptr(), program].into_iter().chain(arguments.iter().copied().skip(1)).collect();
    let guardian = std::process::id() as i32;
    let terminal = terminal.then_some(place);
    Ok(Ready { guardian, terminal, moves, confine, program, arguments, script, environment, failed: None })
}

/// Which descriptor goes to which number. Each is first brought above all targets, so that none is overwritten.
fn out_of_the_way(targets: &[RawFd], terminal: bool, descriptors: &mut [OwnedFd]) -> io::Result<Vec<(RawFd, RawFd)>> {
    let above = targets.iter().max().map_or(3, |highest| highest + 1);
    for fd in descriptors.iter_mut().filter(|fd| fd.as_raw_fd() < above) {
        *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, above)?;
    }
    let users_terminal = if terminal { 3..4 } else { 3..3 };
    let sources = descriptors.iter().enumerate().filter(|(at, _)| !users_terminal.contains(at)).map(|(_, fd)| fd.as_raw_fd());
    let moves: Vec<_> = sources.zip(targets.iter().copied()).collect();
    if moves.len() == targets.len() { Ok(moves) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn texts(from: &mut Reader<'_>) -> io::Result<Vec<*const c_char>> {
    let texts = (0..from.number()?).map(|_| text(from)).chain([Ok(ptr::null())]);
    texts.collect()
}

fn text(from: &mut Reader<'_>) -> io::Result<*const c_char> {
    let bytes = from.bytes()?;
    if bytes.last() == Some(&0) { Ok(bytes.as_ptr().cast()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn run(ready: &mut Ready) -> Result<i32, (i64, io::Error)> {
    let mut stack = vec![0_u128; 4096];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on `stack` and reads `ready`; both outlive it here, as this process waits until it has executed
    // or ended (CLONE_VFORK). It only makes system calls and writes `failed`.
    let pid = unsafe { libc::clone(child, top.cast(), flags, ptr::from_mut(ready).cast()) };
    if pid < 0 {
        return Err((FORK, io::Error::last_os_error()));
    }
    // SAFETY: the child has written it, which the compiler cannot know.
    match unsafe { ptr::from_ref(&ready.failed).read_volatile() } {
        None => Ok(pid),
        Some((step, error)) => {
            // SAFETY: our own child, not collected yet; it ends at once.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err((step, io::Error::from_raw_os_error(error)))
        }
    }
}

extern "C" fn child(ready: *mut c_void) -> c_int {
    // SAFETY: `run` passes a `Ready`, and waits.
    let ready = unsafe { &mut *ready.cast::<Ready>() };
    let failed = match become_tool(ready) {
        Err(step) => (step, io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        Ok(never) => match never {},
    };
    // SAFETY: as above; volatile, since this process is about to end.
    unsafe { ptr::from_mut(&mut ready.failed).write_volatile(Some(failed)) };
    // SAFETY: ends at once, without what a program does at exit: that is the guardian's.
    unsafe { libc::_exit(127) }
}

fn become_tool(ready: &Ready) -> Result<std::convert::Infallible, i64> {
    group(ready)?;
    for (from, to) in &ready.moves {
        // SAFETY: numbers.
        check(unsafe { libc::dup2(*from, *to) }, DESCRIPTORS)?;
    }
    default_signals();
    ready.confine.enter()?;
    // After all that changes its credentials, since that may untie it; and before the filter, which may deny it.
    tie(ready)?;
    ready.confine.filter()?;
    execute(ready.program, &ready.arguments, &ready.script, &ready.environment);
    Err(EXECUTE)
}

/// What every program expects: none held, and the kernel's own action for the one that Rust's runtime ignores. Others that the
/// launcher was told to ignore stay ignored, as nohup(1) wants it.
pub(super) fn default_signals() {
    // SAFETY: a number and the default action; a set that sigemptyset makes.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// The tool dies with its guardian, even if that is killed. See PR_SET_PDEATHSIG(2const).
fn tie(ready: &Ready) -> Result<(), i64> {
    // SAFETY: numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }, TIE)?;
    // SAFETY: no argument. It may have been killed before.
    if unsafe { libc::getppid() } == ready.guardian { Ok(()) } else { Err(TIE) }
}

fn group(ready: &Ready) -> Result<(), i64> {
    // SAFETY: numbers; this process.
    check(unsafe { libc::setpgid(0, 0) }, GROUP)?;
    let Some(Terminal { at, foreground: true }) = ready.terminal else { return Ok(()) };
    let terminal = ready.moves.iter().find(|(_, to)| *to == at).map_or(-1, |(from, _)| *from);
    // SAFETY: numbers. SIGTTOU is blocked still, as all signals are.
    check(unsafe { libc::tcsetpgrp(terminal, libc::getpid()) }, TERMINAL)
}

/// Executes the program; returns if that failed, with the reason in errno. The arrays end with null pointers.
pub(super) fn execute(
    program: *const c_char,
    arguments: &[*const c_char],
    script: &[*const c_char],
    environment: &[*const c_char],
) {
    // SAFETY: strings that end with a zero, in arrays that end with a null pointer.
    unsafe { libc::execve(program, arguments.as_ptr(), environment.as_ptr()) };
    if io::Error::last_os_error().raw_os_error() == Some(libc::ENOEXEC) {
        // SAFETY: as above.
        unsafe { libc::execve(c"/bin/sh".as_ptr(), script.as_ptr(), environment.as_ptr()) };
    }
}

pub(super) fn check(answer: c_int, step: i64) -> Result<(), i64> {
    if answer < 0 { Err(step) } else { Ok(()) }
}

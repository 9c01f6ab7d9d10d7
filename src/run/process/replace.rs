//! Becoming the tool, where nothing of what it says is to be filtered.

use std::{ffi::CStr, io, os::fd::AsRawFd, ptr};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{
    NotStarted, Signals, Start, Variable,
    confine::{self, Confine, Wanted},
    spawn,
};

/// Replaces this process by the tool: the same process number, and nothing of the launcher remains, no guardian either. Returns
/// only why it could not.
///
/// Call it in the main thread; the others end with the old program. The guardian must have been dropped. Of the contract only
/// this holds then: no core dumps, no descriptors that it was not given, what is confined, signals as the launcher was given them.
pub fn replace(start: &Start, signals: Option<Signals>) -> NotStarted {
    let failed = |(step, cause)| NotStarted::new(step, &start.program, cause);
    if let Err(error) = prepare(start) {
        return failed(error);
    }
    let arguments: Vec<_> = pointers(start.arguments.iter().map(|text| text.as_c_str()));
    let environment: Vec<_> = pointers(start.environment.iter().map(Variable::as_c_str));
    let none = Default::default();
    let wanted = start.confinement.as_ref().unwrap_or(&none);
    let confine = Confine::new(Wanted::of(wanted), confine::descriptors(wanted).map(|fd| fd.as_raw_fd()));
    drop(signals);
    spawn::default_signals();
    if let Err(step) = confine.enter().and_then(|()| confine.filter()) {
        return failed((step, io::Error::last_os_error()));
    }
    spawn::execute(start.program.as_ptr(), &arguments, &script(start), &environment);
    failed((spawn::EXECUTE, io::Error::last_os_error()))
}

fn prepare(start: &Start) -> Result<(), (i64, io::Error)> {
    let at = |step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(at(spawn::LIMITS))?;
    close_at_execve();
    // Above all numbers that are wanted, so that none is overwritten before its turn.
    let above = start.keep.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    let moved = start.keep.iter().map(|(fd, number)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, above)?, *number)));
    for (fd, number) in moved.collect::<Result<Vec<_>, _>>().map_err(at(spawn::DESCRIPTORS))? {
        // SAFETY: numbers. What was there is the launcher's, which ends here.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err((spawn::DESCRIPTORS, io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// All but 0, 1 and 2: what a client left open to the launcher is not the tool's, as under a guardian. Before Linux 5.11 it stays open.
fn close_at_execve() {
    // SAFETY: numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn script(start: &Start) -> Vec<*const libc::c_char> {
    let rest = start.arguments.iter().skip(1).map(|text| text.as_c_str());
    pointers([c"/bin/sh", start.program.as_c_str()].into_iter().chain(rest))
}

fn pointers<'a>(texts: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    texts.map(CStr::as_ptr).chain([ptr::null()]).collect()
}

//! What a process that holds secrets gives up when it starts.

use std::fmt;

use rustix::{
    process::{self, DumpableBehavior, Resource, Rlimit},
    thread,
};

/// What is in force, as the kernel says it when asked afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a measure that did not take effect should be said"]
pub struct Hardening {
    /// Without CAP_SYS_PTRACE, no other process can attach or read `/proc/PID/mem`, even under the same uid; and the kernel
    /// writes no core dump (PR_SET_DUMPABLE(2const), ptrace(2)).
    pub not_dumpable: bool,
    /// RLIMIT_CORE is 0 and cannot be raised again without privilege: a second lock on core dumps, which children inherit.
    /// It does not bind a crash handler behind a pipe (core(5)); the first one does.
    pub no_core: bool,
    /// An `execve` can no longer gain privileges through set-user-ID bits or file capabilities (PR_SET_NO_NEW_PRIVS(2const)).
    /// Holds for the calling thread and those it starts later.
    pub no_new_privileges: bool,
}

/// Denies other processes a look at this one's memory, for good. Call it first thing, before the process has other threads.
///
/// Children inherit `no_core` and `no_new_privileges`, so this is for the daemon: a launcher whose child may be sudo or
/// may want its core dumps calls [`deny_inspection`] instead.
pub fn harden_process() -> Hardening {
    // What the kernel refuses is not an error here: the report says it.
    let _ = process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = thread::set_no_new_privs(true);
    deny_inspection()
}

/// Only the part that ends with the process image: `execve` makes a child dumpable again.
pub fn deny_inspection() -> Hardening {
    let _ = process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    in_force()
}

/// What is in force, without changing anything. For `valetkey doctor`.
pub fn in_force() -> Hardening {
    let core = process::getrlimit(Resource::Core);
    Hardening {
        not_dumpable: process::dumpable_behavior() == Ok(DumpableBehavior::NotDumpable),
        no_core: core.current == Some(0) && core.maximum == Some(0),
        no_new_privileges: thread::no_new_privs() == Ok(true),
    }
}

impl Hardening {
    /// Whether everything took effect.
    pub fn is_complete(&self) -> bool {
        self.not_dumpable && self.no_core && self.no_new_privileges
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = |yes| if yes { "yes" } else { "NO" };
        let (dumpable, core, privileges) = (answer(self.not_dumpable), answer(self.no_core), answer(self.no_new_privileges));
        write!(f, "not dumpable: {dumpable}, no core files: {core}, no new privileges: {privileges}")
    }
}

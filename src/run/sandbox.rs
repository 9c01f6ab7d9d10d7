//! What a launched tool may do, held by the kernel: no new privileges, Landlock for files and TCP, seccomp, resource limits.
//!
//! [`Sandbox::prepare`] does all that can fail, in the launcher: it opens the paths, makes the Landlock ruleset and the seccomp
//! program, and asks the kernel whether it can enforce them. What comes of it is data, a [`Confinement`]: the process that is to become
//! the tool applies it by a few system calls, see [`super::process`]. What cannot be enforced is an error, never a smaller sandbox.
//!
//! What it holds, beyond what its settings say:
//!
//! - The process has no capabilities, also where it is root, and gains none: no set-user-ID program, no file capability.
//! - Its files are those of [`Sandbox`]'s `read` and `write`, and the short [`baseline`] that every program needs.
//! - It listens on no TCP port, and without `connect` it has no UDP either. Without `unix-sockets` it makes no Unix socket, so
//!   it reaches no socket by path: not the broker's, not D-Bus, not a container runtime. `socketpair` stays, for pipes to its
//!   own children.
//! - It cannot see into processes outside, nor signal them (Linux 6.12), nor make namespaces, mounts, io_uring queues or System V
//!   shared memory.
//!
//! What it does *not* hold:
//!
//! - Landlock knows no UDP: with any port in `connect`, UDP is open to every port, because names must be looked up.
//! - A port is not a host: `connect = [443]` is port 443 of every address, this host's too.
//! - With `unix-sockets`, whatever listens on a path that the user may open can be asked for anything, a service manager to start
//!   programs outside too. Before Linux 6.12 signals to other processes of the same user are not stopped.
//! - Names, sizes and modes of files outside can be seen (stat), as can other processes' command lines. With a path in `write`,
//!   modes and times of the user's own files can be changed anywhere; without one, nowhere.
//!
//! See landlock(7), seccomp(2), capabilities(7) and the kernel's Documentation/userspace-api/landlock.rst.

pub mod baseline;
mod error;
mod landlock;
mod limits;
mod seccomp;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::process::Confinement;
use crate::proto::v1;
pub use error::Error;
use limits::Limits;

/// Which Landlock this kernel has, if it is enough for a sandbox. For `valetkey doctor`.
pub fn landlock_version() -> Result<u32, Error> {
    landlock::abi()
}

/// A sandbox that is ready to be entered: by the tool, and again by the next one after a restart.
pub struct Sandbox {
    ruleset: OwnedFd,
    filter: Vec<libc::sock_filter>,
    limits: Limits,
    /// Below which programs can be run, as they are listed.
    programs: Vec<PathBuf>,
}

impl Sandbox {
    /// Makes everything ready, and changes nothing about this process.
    pub fn prepare(wanted: &v1::Sandbox) -> Result<Self, Error> {
        let abi = landlock::abi()?;
        seccomp::available()?;
        let limits = Limits::new(wanted)?;
        let ruleset = landlock::Ruleset::new(abi)?;
        baseline::allow(&ruleset)?;
        for path in &wanted.read {
            ruleset.allow(Path::new(path), landlock::READ | landlock::EXECUTE)?;
        }
        for path in &wanted.write {
            ruleset.allow(Path::new(path), landlock::WRITE | landlock::READ | landlock::EXECUTE)?;
        }
        for port in &wanted.connect {
            ruleset.allow_connect(*port)?;
        }
        let listed = wanted.read.iter().chain(&wanted.write).map(PathBuf::from);
        let programs = listed.chain(baseline::PROGRAMS.map(PathBuf::from)).collect();
        Ok(Self { ruleset: ruleset.into_fd(), filter: seccomp::program(wanted), limits, programs })
    }

    /// Whether the program could be started inside: an error here says what to list, where that of execve would not.
    /// `program` is the file itself, already looked up.
    pub fn admits(&self, program: &Path) -> Result<(), Error> {
        let path = program.canonicalize().map_err(|error| Error::Path { path: program.to_owned(), error })?;
        // As written first, because that costs nothing.
        let below = |listed: &PathBuf| path.starts_with(listed) || listed.canonicalize().is_ok_and(|real| path.starts_with(real));
        if self.programs.iter().any(below) { Ok(()) } else { Err(Error::Program { path }) }
    }

    /// Allows reading below a directory that has no path here, such as one in a mount namespace.
    pub fn also_read(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        landlock::add_path(self.ruleset.as_fd(), directory, landlock::READ)
    }

    /// What the process that becomes the tool must do.
    pub fn confinement(&self) -> io::Result<Confinement> {
        let instruction = |one: &libc::sock_filter| {
            let ([a, b], [c, d, e, f]) = (one.code.to_ne_bytes(), one.k.to_ne_bytes());
            [a, b, one.jt, one.jf, c, d, e, f]
        };
        Ok(Confinement {
            no_capabilities: true,
            no_new_privileges: true,
            landlock: Some(self.ruleset.try_clone()?),
            seccomp: self.filter.iter().map(instruction).collect(),
            limits: self.limits.list().collect(),
            ..Confinement::default()
        })
    }
}

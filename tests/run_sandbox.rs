//! The sandbox of a launched tool, attacked from inside by real processes: as root, and as a user without privileges.
#![cfg(feature = "run")]

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "support/process.rs"]
mod process;

#[path = "run_sandbox/files.rs"]
mod files;
#[path = "run_sandbox/kernel.rs"]
mod kernel;
#[path = "run_sandbox/limits.rs"]
mod limits;
#[path = "run_sandbox/network.rs"]
mod network;
#[path = "run_sandbox/refusals.rs"]
mod refusals;
#[path = "run_sandbox/runtimes.rs"]
mod runtimes;

use std::{
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use process::Child;
use valetkey::{proto::v1, run::sandbox::Sandbox};

/// A user without privileges, and without other processes.
const USER: u32 = 62_001;

/// Runs the attack inside a sandbox, as root and as [`USER`].
#[track_caller]
fn inside(wanted: &v1::Sandbox, attack: impl Fn()) {
    for user in [0, USER] {
        assert_eq!(inside_as(user, wanted, &attack), 0, "as user {user}");
    }
}

/// Runs the attack inside a sandbox as this user; how it ended.
fn inside_as(user: u32, wanted: &v1::Sandbox, attack: impl Fn()) -> i32 {
    Child::fork(|| {
        become_user(user);
        Sandbox::prepare(wanted).unwrap().enter().unwrap();
        attack();
    })
    .reap()
}

fn become_user(user: u32) {
    if user != 0 {
        // SAFETY: integers, and an empty list.
        unsafe {
            process::checked(libc::setgroups(0, std::ptr::null()));
            process::checked(libc::setresgid(user, user, user));
            process::checked(libc::setresuid(user, user, user));
        }
    }
}

/// A program that starts inside a sandbox, with a clean environment.
fn command(program: &str, wanted: &v1::Sandbox) -> Command {
    let sandbox = Sandbox::prepare(wanted).unwrap();
    sandbox.admits(Path::new(program)).unwrap();
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    // SAFETY: `enter` makes system calls alone.
    unsafe { command.pre_exec(move || sandbox.enter().map_err(|refused| refused.errno.into())) };
    command
}

/// A directory that every user can use.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        Self(directory)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o1777)).unwrap();
        path
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The number of the error, which must be one.
#[track_caller]
fn error<T>(outcome: io::Result<T>) -> i32 {
    outcome.err().expect("it was not denied").raw_os_error().expect("an error of the kernel")
}

/// The same of a system call.
#[track_caller]
fn denied(outcome: libc::c_long) -> i32 {
    assert_eq!(outcome, -1, "it was not denied");
    io::Error::last_os_error().raw_os_error().unwrap()
}

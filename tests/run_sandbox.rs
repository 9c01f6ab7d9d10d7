//! The sandbox of a launched tool, attacked from inside by real programs: as root and as a user without privileges, in the launcher's
//! place and under its guardian.
#![cfg(feature = "run")]

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "support/launch.rs"]
mod launch;
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
    env, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use launch::{BOTH, How, Outcome, become_user, break_call, launch, start};
use process::Child;
use valetkey::{
    proto::v1,
    run::{process::Variable, sandbox::Sandbox},
};

/// A user without privileges, and without other processes.
const USER: u32 = 62_001;

/// What is run inside, with what it must know. It panics where it gets further than it should.
type Attack = fn(&[String]);

macro_rules! attacks {
    ($($attack:path),* $(,)?) => { &[$((stringify!($attack), $attack as Attack)),*] };
}

const ATTACKS: &[(&str, Attack)] = attacks![
    files::those_listed,
    files::a_device_node,
    files::attributes,
    files::outside_the_baseline,
    files::added,
    kernel::a_process_outside,
    kernel::doors,
    kernel::another_architecture,
    limits::memory,
    limits::many_files,
    limits::a_fork_bomb,
    limits::spinning,
    limits::as_before,
    network::listed_ports,
    network::no_network,
    network::fast_open,
    network::unseen_protocols,
    network::a_unix_socket,
    network::a_unix_socket_where_it_may,
    network::abstract_sockets,
];

/// What this program exits with when it was an attack, and that has ended as it should.
const DONE: i32 = 7;

/// The other half of [`inside`]: this program is started in the sandbox once more, for this test, and told which attack it is.
#[test]
fn attack() {
    let Ok(name) = env::var("ATTACK") else { return };
    let (_, attack) = ATTACKS.iter().find(|(known, _)| *known == name).expect("an attack");
    let arguments: Vec<_> = env::var("ARGUMENTS").unwrap().lines().map(str::to_owned).collect();
    attack(&arguments);
    process::leave(DONE);
}

/// Runs the attack inside a sandbox, as root and as [`USER`], both ways.
#[track_caller]
fn inside(wanted: &v1::Sandbox, attack: &str, arguments: &[&str]) {
    for user in [0, USER] {
        inside_as(user, wanted, attack, arguments);
    }
}

#[track_caller]
fn inside_as(user: u32, wanted: &v1::Sandbox, attack: &str, arguments: &[&str]) {
    for how in BOTH {
        let Outcome { code, errors, .. } = attacked(user, how, wanted, attack, arguments, |_| {});
        assert_eq!(code, DONE, "{attack} as user {user}, {how:?}: {errors}");
    }
}

/// Runs it one way. `also` has the sandbox before it is entered.
fn attacked(user: u32, how: How, wanted: &v1::Sandbox, attack: &str, arguments: &[&str], also: impl FnOnce(&Sandbox)) -> Outcome {
    // Where it is built, a user may not be able to read it.
    let place = Place::new();
    let program = text(&place.program(&env::current_exe().unwrap()));
    let read = [&wanted.read[..], std::slice::from_ref(&program)].concat();
    let wanted = v1::Sandbox { read, ..wanted.clone() };
    launch(user, how, || {
        let sandbox = Sandbox::prepare(&wanted).unwrap();
        also(&sandbox);
        let mut start = start(&program, &["--exact", "attack", "--nocapture", "--test-threads=1"], Some(&sandbox));
        let variables = [("ATTACK", attack), ("ARGUMENTS", &arguments.join("\n"))];
        start.environment.extend(variables.map(|(name, value)| Variable::new(name.as_bytes(), value.as_bytes()).unwrap()));
        start
    })
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

    /// A copy. Not made by this process: while one that was forked meanwhile has it open for writing, it could not be executed.
    fn program(&self, original: &Path) -> PathBuf {
        let copy = self.0.path().join("program");
        assert!(Command::new("cp").arg(original).arg(&copy).status().unwrap().success());
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        copy
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

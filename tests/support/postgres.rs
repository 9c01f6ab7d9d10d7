//! A PostgreSQL of a test's own, in a folder of its own, on loopback.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Killed at its drop.
pub struct Postgres {
    child: Child,
    pub port: u16,
    /// Where `psql` is.
    pub programs: PathBuf,
    pub folder: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of the account that it is to run as: it refuses to be root.
fn account() -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<_> = accounts.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// On this port, with these lines of `pg_hba.conf`, or else trusting everybody. `None` where it is not installed.
pub fn start(port: u16, hba: Option<&str>) -> Option<Postgres> {
    let programs = fs::read_dir("/usr/lib/postgresql").ok()?.next()?.unwrap().path().join("bin");
    let folder = tempfile::tempdir().unwrap();
    let account = account().filter(|_| fs::metadata(folder.path()).unwrap().uid() == 0);
    let command = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = account {
            command.uid(user).gid(group);
        }
        command
    };
    if let Some((user, group)) = account {
        chown(folder.path(), Some(user), Some(group)).unwrap();
    }
    assert!(command("initdb").args(["-D", "data", "-U", "postgres", "-A", "trust", "-N"]).status().unwrap().success());
    if let Some(hba) = hba {
        fs::write(folder.path().join("data/pg_hba.conf"), hba).unwrap();
    }
    let options = ["-D", "data", "-k", ".", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-p"];
    let child = command("postgres").args(options).arg(port.to_string()).spawn().unwrap();
    // It takes connections before it takes questions.
    while !command("pg_isready").args(["-h", "127.0.0.1", "-p"]).arg(port.to_string()).status().unwrap().success() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Postgres { child, port, programs: programs.clone(), folder })
}

//! What every program needs to start, beside what its policy lists: the loader and the libraries, names and certificates, a few
//! devices. What is not there on this host is left out.
//!
//! Left out on purpose: `/tmp`, `/dev/shm` (semaphores of Python's `multiprocessing`), home directories, `/etc` as a whole with its
//! keys and shadows, terminals other than those the tool was started with, and `/run` with its sockets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Error,
    landlock::{DEVICE, EXECUTE, READ, Rights, Ruleset},
};

/// Read and execute: programs and libraries.
pub const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"];

/// Read.
pub const DATA: [&str; 32] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/resolv.conf",
    "/run/systemd/resolve", // where resolv.conf leads, and is replaced
    "/run/NetworkManager/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/os-release",
    "/etc/mime.types",
    "/etc/ssl/certs", // but not /etc/ssl/private
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    // A process outside is not to be seen into: Landlock guards environ, mem, maps, fd and the like as it does ptrace.
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Read: what distributions put a runtime's own settings into, as in `/etc/python3.11`.
pub const DATA_OF_RUNTIMES: [&str; 2] = ["python3", "java-"];

/// Read and write.
pub const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Allows it all.
pub(super) fn allow(ruleset: &Ruleset) -> Result<(), Error> {
    let settings = settings_of_runtimes(Path::new("/etc"));
    allow_each(ruleset, PROGRAMS.iter().map(Path::new), READ | EXECUTE)?;
    allow_each(ruleset, DATA.iter().map(Path::new), READ)?;
    allow_each(ruleset, settings.iter().map(PathBuf::as_path), READ)?;
    allow_each(ruleset, DEVICES.iter().map(Path::new), DEVICE)
}

fn allow_each<'a>(ruleset: &Ruleset, mut paths: impl Iterator<Item = &'a Path>, rights: Rights) -> Result<(), Error> {
    paths.try_for_each(|path| ruleset.allow_if_there(path, rights))
}

fn settings_of_runtimes(directory: &Path) -> Vec<PathBuf> {
    let named = |name: &str| DATA_OF_RUNTIMES.iter().any(|start| name.starts_with(start));
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(named)).map(|entry| entry.path()).collect()
}

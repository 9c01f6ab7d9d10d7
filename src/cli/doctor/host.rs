//! What the kernel gives, whether or not a daemon runs.

use super::{Check, State};
use crate::{
    attest::{self, Attestor},
    run::sandbox,
    secret::{self, Protection},
};

pub fn checks() -> Vec<Check> {
    vec![kernel(), memory(), locked_memory_limit(), hardening(), attestation(), cgroups(), landlock(), random(), clock()]
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    Check::ok("kernel", format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()))
}

fn memory() -> Check {
    // One value, so that there is memory to report on.
    let probe = secret::SecretValue::copy_from(b"doctor's own probe");
    let report = secret::protection();
    let found = report.to_string();
    match (probe, report.kind) {
        (Err(error), _) => Check::not(State::Bad, "memory", error.to_string(), "no secret can be held on this host as it is"),
        (Ok(_), Protection::MemfdSecret) => Check::ok("memory", found),
        (Ok(_), _) => Check::not(
            State::Warning,
            "memory",
            format!("{found}: {}", report.lost.unwrap_or_default()),
            report.remedy.unwrap_or_default(),
        ),
    }
}

fn locked_memory_limit() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let words = |limit: Option<u64>| limit.map_or("unlimited".into(), |bytes| format!("{} KiB", bytes / 1024));
    let found = format!("{} of locked memory allowed", words(limit.current));
    match limit.current {
        Some(bytes) if bytes < 1024 * 1024 => {
            Check::not(State::Warning, "memlock", found, "LimitMEMLOCK=64M in the unit (or ulimit -l) gives the arena room")
        }
        _ => Check::ok("memlock", found),
    }
}

fn hardening() -> Check {
    let hardening = secret::harden::in_force();
    if hardening.is_complete() {
        return Check::ok("hardening", hardening.to_string());
    }
    let remedy = "a sandbox or a seccomp filter refuses prctl(2) or setrlimit(2)";
    Check::not(State::Warning, "hardening", hardening.to_string(), remedy)
}

fn attestation() -> Check {
    match Attestor::new(attest::Settings::default()) {
        Ok(attestor) => Check::ok("attestation", format!("{}: {}", attestor.method(), attestor.method().proves())),
        Err(refusal) => Check::not(
            State::Bad,
            "attestation",
            refusal.to_string(),
            "Linux 6.5 or later is needed to tell callers apart without a race",
        ),
    }
}

/// Without it no caller is in a unit, and a `unit` in policy fits nobody.
fn cgroups() -> Check {
    let attestor = Attestor::new(attest::Settings { allow_weak: true, ..Default::default() });
    match attestor.as_ref().ok().and_then(Attestor::cgroups) {
        Some(mount) => Check::ok("cgroups", format!("units are told by {}", mount.display())),
        None => Check::not(
            State::Warning,
            "cgroups",
            "no cgroup2 tree is to be seen here: a tool can be told by `user` and `group`, not by `unit`",
            "systemd mounts it at /sys/fs/cgroup; a container must be shown the host's",
        ),
    }
}

fn landlock() -> Check {
    match sandbox::landlock_version() {
        Ok(version) => Check::ok("landlock", format!("version {version}: `sandbox` of a tool can be enforced")),
        Err(error) => Check::not(State::Warning, "landlock", error.to_string(), "tools with a `sandbox` do not start here"),
    }
}

fn random() -> Check {
    match aws_lc_rs::rand::fill(&mut [0; 16]) {
        Ok(()) => Check::ok("random", "the system gives random numbers"),
        Err(_) => Check::not(State::Bad, "random", "the system gives no random numbers", "getrandom(2) must be allowed"),
    }
}

/// What AWS and certificates are judged by, and what the audit log tells.
fn clock() -> Check {
    // adjtimex(2): the clock is not kept by anyone.
    const UNSYNCHRONISED: i32 = libc::STA_UNSYNC;
    // SAFETY: all of it is numbers, and zero is one; `modes` 0 asks and changes nothing.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into a structure that is ours.
    let state = unsafe { libc::adjtimex(&mut time) };
    if state < 0 {
        let found = "whether the clock is kept cannot be told";
        return Check::not(State::Warning, "clock", found, "a sandbox refuses adjtimex(2): timedatectl says it");
    }
    if time.status & UNSYNCHRONISED == 0 {
        return Check::ok("clock", format!("kept, and right within {} ms", time.maxerror / 1000));
    }
    let remedy = "timedatectl set-ntp true, if the host of this machine does not keep it: AWS refuses requests that are minutes off, and \
                  the audit log's times are this clock's";
    Check::not(State::Warning, "clock", "nobody tells the kernel that this clock is right", remedy)
}

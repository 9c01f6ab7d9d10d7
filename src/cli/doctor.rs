//! `valetkey doctor`: what this host gives, and what to do about what it does not.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{FAILED, Failure, Outcome};
use crate::{
    attest::{self, Attestor},
    config, daemon,
    secret::{self, Protection},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as the daemon's user to see what the daemon would get: limits and file modes differ between users.\n\
    Exit code 1 where something must be mended.\n\nExample:\n  sudo -u valetkey valetkey doctor --json | jq '.checks[] | select(.state != \"ok\")'"
)]
pub struct Args {
    /// Look at this configuration too
    #[arg(long, value_name = "FILE", default_value = daemon::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: None }
    }

    fn not(state: State, name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub fn run(args: &Args) -> Outcome {
    let mut checks = vec![kernel(), memory(), locked_memory_limit(), hardening(), attestation(), random()];
    checks.push(configuration(&args.config));
    checks.extend(["tools.sock", "admin.sock"].map(socket));
    let bad = checks.iter().any(|check| check.state == State::Bad);
    if args.json {
        let report = serde_json::json!({ "ok": !bad, "checks": checks });
        println!("{}", serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?);
    } else {
        for check in &checks {
            let mark = match check.state {
                State::Ok => "ok     ",
                State::Warning => "warning",
                State::Bad => "BAD    ",
            };
            println!("{mark}  {:14} {}", check.name, check.found);
            if let Some(remedy) = &check.remedy {
                println!("                        {remedy}");
            }
        }
    }
    if bad { Err(Failure::silent(FAILED)) } else { Ok(()) }
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
    Check::not(
        State::Warning,
        "hardening",
        hardening.to_string(),
        "a sandbox or a seccomp filter refuses prctl(2) or setrlimit(2)",
    )
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

fn random() -> Check {
    match aws_lc_rs::rand::fill(&mut [0; 16]) {
        Ok(()) => Check::ok("random", "the system gives random numbers"),
        Err(_) => Check::not(State::Bad, "random", "the system gives no random numbers", "getrandom(2) must be allowed"),
    }
}

fn configuration(path: &Path) -> Check {
    let hint = format!("valetkey check --config {}", path.display());
    if !daemon::is_there(path) {
        return Check::not(
            State::Warning,
            "configuration",
            format!("there is no {}", path.display()),
            "examples/etc-valetkey/ shows every option",
        );
    }
    match config::load(path) {
        Ok(config) if config.problems.is_empty() => Check::ok(
            "configuration",
            format!("{}: {} tools, {} secrets", path.display(), config.policy.tools().count(), config.secrets.len()),
        ),
        Ok(config) => Check::not(State::Warning, "configuration", format!("{} warnings", config.problems.len()), hint),
        Err(problems) => Check::not(State::Bad, "configuration", format!("{} problems", problems.len()), hint),
    }
}

fn socket(name: &'static str) -> Check {
    let path = daemon::default_socket(name);
    let shown = path.display();
    let Ok(found) = fs::symlink_metadata(&path) else {
        return Check::not(
            State::Warning,
            name,
            format!("there is no {shown}"),
            "no daemon runs here: systemctl start valetkeyd",
        );
    };
    let mode = found.mode() & 0o777;
    let said = format!("{shown}: mode {mode:04o}, owner {}", found.uid());
    if !found.file_type().is_socket() {
        return Check::not(State::Bad, name, format!("{shown} is not a socket"), "move it away and restart the daemon");
    }
    if name == "admin.sock" && mode & 0o007 != 0 {
        return Check::not(State::Bad, name, said, "everyone on this host may connect: admin-socket-mode = \"0600\"");
    }
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => Check::ok(name, said),
        Err(error) => Check::not(
            State::Warning,
            name,
            format!("{said}: {error}"),
            "systemctl restart valetkeyd, or run this as a user who may connect",
        ),
    }
}

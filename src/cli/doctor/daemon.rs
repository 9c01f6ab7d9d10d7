//! What the daemon says of itself, and what the kernel says of it.

use std::fs;

use super::{
    super::{
        Failure, block_on,
        remote::{self, Place},
        when,
    },
    Check, State,
};
use crate::proto::v1;

pub fn checks(place: &Place) -> Vec<Check> {
    let asked = block_on(async {
        let mut admin = remote::admin(place).await?;
        let status = admin.status(v1::StatusRequest {}).await.map_err(|status| remote::refused(&status))?;
        Ok::<_, Failure>(status.into_inner())
    });
    let status = match asked.and_then(|asked| asked) {
        Ok(status) => status,
        Err(Failure { what, hint, .. }) => {
            return vec![Check::not(State::Warning, "daemon", what, hint.unwrap_or_else(|| "systemctl start valetkeyd".into()))];
        }
    };
    let mut checks = vec![daemon(&status), values(&status)];
    checks.extend(in_force(status.pid));
    checks.extend(status.sources.iter().map(source));
    checks.push(audit(status.audit.as_ref()));
    checks.extend(status.audit.iter().flat_map(|audit| &audit.exporters).map(exporter));
    checks.extend(status.last_good.as_ref().map(last_good));
    checks
}

fn daemon(status: &v1::StatusResponse) -> Check {
    let v1::StatusResponse { version, pid, .. } = status;
    let found = format!("valetkeyd {version} (pid {pid}), started {}", when::relative(status.started.as_ref()));
    let not = |state, what: &str, remedy: &str| Check::not(state, "daemon", format!("{found}: {what}"), remedy);
    if !status.reload_error.is_empty() {
        let what = "the last reload failed, and the configuration before it is in force";
        return not(State::Bad, what, "valetkey check, then: systemctl reload valetkeyd");
    }
    if !status.ready {
        return not(State::Bad, "it waits for its sources, and serves no tool yet", "valetkey status says for which");
    }
    if version != env!("CARGO_PKG_VERSION") {
        let what = format!("this program is {}", env!("CARGO_PKG_VERSION"));
        return not(State::Warning, &what, "systemctl restart valetkeyd");
    }
    Check::ok("daemon", found)
}

/// How the values that it holds now are protected.
fn values(status: &v1::StatusResponse) -> Check {
    let (kind, lost) = (&status.memory_protection, &status.memory_protection_lost);
    let found =
        format!("{} bytes of values in {kind} pages, {} bytes locked", status.arena_used_bytes, status.arena_locked_bytes);
    if lost.is_empty() {
        return Check::ok("values", found);
    }
    let remedy = "the unit that is shipped lets the daemon have it: LimitMEMLOCK=64M, and memfd_secret in SystemCallFilter=; \
                  memory-protection = \"required-memfd-secret\" makes it a condition";
    Check::not(State::Warning, "values", format!("{found}: {lost}"), remedy)
}

/// What binds the daemon's process, as the kernel says it: rights, system calls, limits.
fn in_force(pid: u32) -> Vec<Check> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let Some(status) = read("status") else { return Vec::new() };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim();
    let (capabilities, privileges, filter) = (field("CapEff"), field("NoNewPrivs"), field("Seccomp"));
    let none = capabilities.bytes().all(|b| b == b'0');
    let words = |yes, text: &'static str, other: &'static str| if yes { text } else { other };
    let found = [
        words(none, "no capability", "CAPABILITIES"),
        words(privileges == "1", "no new privileges", "CAN GAIN PRIVILEGES"),
        words(filter == "2", "system calls filtered", "EVERY SYSTEM CALL"),
    ]
    .join(", ");
    let privileges = match none && privileges == "1" && filter == "2" {
        true => Check::ok("privileges", found),
        false => {
            let remedy = "the unit that is shipped takes them all away; CAP_SYS_PTRACE is there with executable-attestation.conf";
            Check::not(State::Warning, "privileges", found, remedy)
        }
    };
    [Some(privileges), read("limits").map(|limits| self::limits(&limits))].into_iter().flatten().collect()
}

fn limits(text: &str) -> Check {
    let soft = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or("?").to_owned()
    };
    let (memory, files, core) = (soft("Max locked memory"), soft("Max open files"), soft("Max core file size"));
    let found = format!("locked memory {memory}, open files {files}, core files {core}");
    let below = |limit: &str, least: u64| limit.parse().is_ok_and(|limit: u64| limit < least);
    if core != "0" || below(&memory, 1024 * 1024) || below(&files, 1024) {
        let remedy = "as in the unit that is shipped: LimitMEMLOCK=64M, LimitNOFILE=16384, LimitCORE=0";
        return Check::not(State::Warning, "limits", found, remedy);
    }
    Check::ok("limits", found)
}

fn source(source: &v1::SourceStatus) -> Check {
    let name = format!("source {}", source.name);
    let login = source.login.as_ref().filter(|login| !login.problem.is_empty());
    let mut found = format!("{} ({}), {} secrets", source.health, source.kind, source.secrets);
    for problem in
        [Some(&source.problem), login.map(|login| &login.problem)].into_iter().flatten().filter(|text| !text.is_empty())
    {
        found += &format!(": {problem}");
    }
    match source.health.as_str() {
        "ok" if login.is_none() => Check::ok(name, found),
        "waiting" => Check::not(State::Warning, name, found, "nothing was asked of it yet: valetkey refresh"),
        _ => Check::not(State::Bad, name, found, "valetkey status says what to do; then: valetkey refresh"),
    }
}

fn audit(audit: Option<&v1::AuditStatus>) -> Check {
    let name = "audit log";
    let Some(v1::AuditStatus { durability, problem, records, .. }) = audit else {
        return Check::not(State::Warning, name, "it is off: nobody is on record", "enabled = true in [audit], or leave it out");
    };
    if !problem.is_empty() {
        let found = format!("it cannot be written, so nothing is handed out: {problem}");
        return Check::not(State::Bad, name, found, "mend the disk; it is tried again each second");
    }
    Check::ok(name, format!("{durability}, {records} records since the start"))
}

fn exporter(exporter: &v1::ExporterStatus) -> Check {
    let v1::ExporterStatus { kind, waiting, lost, problem, .. } = exporter;
    let name = format!("exporter {}", exporter.name);
    let found = format!("{kind}, {waiting} records wait");
    if !problem.is_empty() {
        let found = format!("{found}, the oldest since {}: {problem}", when::relative(exporter.waits_since.as_ref()));
        return Check::not(State::Bad, name, found, "nothing is lost while the log keeps it: mend the other end");
    }
    if *lost > 0 {
        let found = format!("{found}, and {lost} were gone before they were sent");
        return Check::not(State::Warning, name, found, "a longer `keep` or a larger `max-size` in [audit]");
    }
    Check::ok(name, found)
}

fn last_good(last_good: &v1::LastGood) -> Check {
    let v1::LastGood { file, problem, served, .. } = last_good;
    if !problem.is_empty() {
        let remedy = "until it is mended, a start needs every source";
        return Check::not(State::Warning, "last good copy", format!("{file}: {problem}"), remedy);
    }
    match served.iter().map(|served| served.secrets).sum::<u64>() {
        0 => Check::ok("last good copy", file),
        values => {
            let found = format!("{file}: {values} values come from it, and their sources have not confirmed them");
            Check::not(State::Warning, "last good copy", found, "valetkey status says which source is silent")
        }
    }
}

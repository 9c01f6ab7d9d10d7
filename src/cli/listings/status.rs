//! `valetkey status`: how the daemon itself is, and its sources.

use serde::Serialize;

use super::{
    super::{
        Outcome, block_on, remote,
        table::{layout, printable},
        when,
    },
    Args, ask, none_if_empty, print, time,
};
use crate::proto::v1;

#[derive(Serialize)]
struct Status {
    version: String,
    pid: u32,
    ready: bool,
    started: Option<String>,
    config: String,
    configured: Option<String>,
    reload_error: Option<String>,
    last_good: Option<LastGood>,
    /// `null`: it is off.
    audit: Option<Audit>,
    memory: Memory,
    attestation: String,
    /// `null`: nobody can call over the network.
    remote: Option<Remote>,
    sources: Vec<Source>,
    tools: u64,
    secrets: u64,
    sessions: u64,
    handouts: u64,
    denials: u64,
    /// Tools that are cut off.
    contained: Vec<String>,
}

#[derive(Serialize)]
struct Remote {
    address: String,
    /// `null`: it has none to show, so nobody gets in.
    certificate_until: Option<String>,
    spiffe_id: Option<String>,
}

#[derive(Serialize)]
struct Audit {
    public_key: String,
    durability: String,
    problem: Option<String>,
    records: u64,
    exporters: Vec<Exporter>,
}

#[derive(Serialize)]
struct Exporter {
    name: String,
    kind: String,
    seq: u64,
    waiting: u64,
    waits_since: Option<String>,
    sent: u64,
    refused: u64,
    lost: u64,
    problem: Option<String>,
}

#[derive(Serialize)]
struct LastGood {
    file: String,
    written: Option<String>,
    problem: Option<String>,
    served: Vec<Served>,
}

#[derive(Serialize)]
struct Served {
    source: String,
    secrets: u64,
    oldest: Option<String>,
}

#[derive(Serialize)]
struct Memory {
    protection: String,
    lost: Option<String>,
    locked_bytes: u64,
    used_bytes: u64,
}

#[derive(Serialize)]
struct Source {
    name: String,
    kind: String,
    secrets: u64,
    last_good: Option<String>,
    health: String,
    unreachable_since: Option<String>,
    problem: Option<String>,
    next_check: Option<String>,
    login: Option<Login>,
}

#[derive(Serialize)]
struct Login {
    method: String,
    expires: Option<String>,
    renews: Option<String>,
    problem: Option<String>,
}

pub fn status(args: &Args) -> Outcome {
    let got: v1::StatusResponse = ask!(args, status, v1::StatusRequest {});
    let sources = sources_text(&got.sources);
    let uptime = when::relative(got.started.as_ref());
    let status = Status {
        version: got.version,
        pid: got.pid,
        ready: got.ready,
        started: time(got.started.as_ref()),
        config: got.config,
        configured: time(got.configured.as_ref()),
        reload_error: none_if_empty(got.reload_error),
        contained: got.contained,
        last_good: got.last_good.map(last_good),
        audit: got.audit.map(|audit| Audit {
            public_key: audit.public_key,
            durability: audit.durability,
            problem: none_if_empty(audit.problem),
            records: audit.records,
            exporters: audit.exporters.into_iter().map(exporter).collect(),
        }),
        memory: Memory {
            protection: got.memory_protection,
            lost: none_if_empty(got.memory_protection_lost),
            locked_bytes: got.arena_locked_bytes,
            used_bytes: got.arena_used_bytes,
        },
        attestation: got.attestation,
        remote: got.remote.map(|remote| Remote {
            address: remote.address,
            certificate_until: time(remote.certificate_until.as_ref()),
            spiffe_id: none_if_empty(remote.spiffe_id),
        }),
        sources: got.sources.into_iter().map(source).collect(),
        tools: got.tools,
        secrets: got.secrets,
        sessions: got.sessions,
        handouts: got.handouts,
        denials: got.denials,
    };
    print(args, &status, || format!("{}\n\n{sources}", status_text(&status, &uptime)))
}

fn last_good(got: v1::LastGood) -> LastGood {
    let served = |served: v1::ServedFromCopy| Served {
        source: served.source,
        secrets: served.secrets,
        oldest: time(served.oldest.as_ref()),
    };
    LastGood {
        file: got.file,
        written: time(got.written.as_ref()),
        problem: none_if_empty(got.problem),
        served: got.served.into_iter().map(served).collect(),
    }
}

fn exporter(got: v1::ExporterStatus) -> Exporter {
    Exporter {
        name: got.name,
        kind: got.kind,
        seq: got.seq,
        waiting: got.waiting,
        waits_since: time(got.waits_since.as_ref()),
        sent: got.sent,
        refused: got.refused,
        lost: got.lost,
        problem: none_if_empty(got.problem),
    }
}

fn exporter_lines(exporter: &Exporter) -> Vec<String> {
    let Exporter { name, kind, seq, waiting, waits_since, refused, lost, problem, .. } = exporter;
    let since = waits_since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let mut line = format!("exporter       {name} ({kind}): record {seq} arrived, {waiting} wait{since}");
    for (count, what) in [(refused, "not wanted there"), (lost, "LOST: removed before they were sent")] {
        if *count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    let mut lines = vec![line];
    lines.extend(problem.as_ref().map(|problem| format!("               {}; it is tried again", printable(problem))));
    lines
}

fn audit_lines(audit: Option<&Audit>) -> Vec<String> {
    let Some(Audit { durability, problem, records, exporters, .. }) = audit else {
        return vec!["audit log      OFF: who is given which secret is on no record".into()];
    };
    let mut lines = vec![format!("audit log      {durability}, {records} records since start")];
    lines.extend(problem.as_ref().map(|problem| {
        let problem = printable(problem);
        format!(
            "               CANNOT BE WRITTEN, so nothing is handed out: {problem}\n               \
             mend the disk; it is tried again each second"
        )
    }));
    lines.extend(exporters.iter().flat_map(exporter_lines));
    lines
}

fn remote_line(Remote { address, certificate_until, spiffe_id }: &Remote) -> String {
    let who = spiffe_id.as_ref().map(|id| format!(" of {}", printable(id))).unwrap_or_default();
    match certificate_until {
        Some(until) => format!("network        {address}, by a certificate{who} until {until}"),
        None => format!("network        {address}, with NO CERTIFICATE: its SPIFFE agent has given it none, so nobody gets in"),
    }
}

fn last_good_lines(LastGood { file, written, problem, served }: &LastGood) -> Vec<String> {
    let mut lines = vec![format!("last good copy {file}, written {}", written.as_deref().unwrap_or("never"))];
    lines.extend(problem.as_ref().map(|problem| format!("               {problem}")));
    lines.extend(served.iter().map(|Served { source, secrets, oldest }| {
        format!(
            "               {secrets} values of {source} come from it, confirmed {} or later",
            oldest.as_deref().unwrap_or("-")
        )
    }));
    lines
}

fn source(source: v1::SourceStatus) -> Source {
    let login = |login: v1::SourceLogin| Login {
        method: login.method,
        expires: time(login.expires.as_ref()),
        renews: time(login.renews.as_ref()),
        problem: none_if_empty(login.problem),
    };
    Source {
        last_good: time(source.last_good.as_ref()),
        unreachable_since: time(source.unreachable_since.as_ref()),
        next_check: time(source.next_check.as_ref()),
        name: source.name,
        kind: source.kind,
        secrets: source.secrets,
        health: source.health,
        problem: none_if_empty(source.problem),
        login: source.login.map(login),
    }
}

fn status_text(status: &Status, uptime: &str) -> String {
    let since = status.started.as_deref().unwrap_or("-");
    let waiting = if status.ready { "" } else { ": waiting for sources, no tool is served yet" };
    let mut lines = vec![
        format!("valetkeyd {} (pid {}), started {uptime} ({since}){waiting}", status.version, status.pid),
        format!("configuration  {}, loaded {}", status.config, status.configured.as_deref().unwrap_or("-")),
    ];
    lines.extend(status.contained.iter().map(|tool| format!("CONTAINED: {tool} gets nothing until `valetkey release {tool}`")));
    lines.extend(status.reload_error.as_ref().map(|error| format!("LAST RELOAD FAILED, the one before is in force:\n{error}")));
    let Memory { protection, lost, locked_bytes, used_bytes } = &status.memory;
    lines.push(format!("memory         {protection}, {locked_bytes} bytes locked, {used_bytes} used by values"));
    lines.extend(lost.as_ref().map(|lost| format!("               {lost}")));
    lines.extend(status.last_good.iter().flat_map(last_good_lines));
    lines.push(format!("attestation    {}", status.attestation));
    lines.extend(status.remote.as_ref().map(remote_line));
    lines.extend(audit_lines(status.audit.as_ref()));
    lines.push(format!("serving        {} tools, {} secrets, {} sessions", status.tools, status.secrets, status.sessions));
    lines.push(format!("since start    {} hand-outs, {} denials", status.handouts, status.denials));
    lines.join("\n")
}

/// A row for each source, and below them what is wrong and what to do about it.
fn sources_text(sources: &[v1::SourceStatus]) -> String {
    let row = |source: &v1::SourceStatus| {
        vec![
            source.name.clone(),
            source.kind.clone(),
            source.health.clone(),
            source.secrets.to_string(),
            source.last_good.as_ref().map_or_else(|| "never".into(), |at| when::relative(Some(at))),
            when::relative(source.next_check.as_ref()),
            source.login.as_ref().map_or_else(|| "-".into(), login_text),
        ]
    };
    let rows: Vec<_> = sources.iter().map(row).collect();
    let table = layout(&["SOURCE", "KIND", "HEALTH", "SECRETS", "LAST GOOD", "NEXT CHECK", "LOGIN"], &rows);
    let trouble: String = sources.iter().flat_map(trouble).map(|line| format!("\n{line}\n")).collect();
    format!("{table}{trouble}")
}

fn login_text(login: &v1::SourceLogin) -> String {
    let mut text = login.method.clone();
    if !login.problem.is_empty() {
        return text + ", none now";
    }
    let times = [("expires", &login.expires), ("renewed", &login.renews)];
    for (what, at) in times.iter().filter(|(_, at)| at.is_some()) {
        text += &format!(", {what} {}", when::relative(at.as_ref()));
    }
    text
}

/// What is wrong with a source, each with what to do.
fn trouble(source: &v1::SourceStatus) -> Vec<String> {
    let name = &source.name;
    let said = if source.problem.is_empty() { String::new() } else { format!(": {}", printable(&source.problem)) };
    let of_source = match source.health.as_str() {
        "unreachable" => Some(format!(
            "{name} cannot be reached for {}{said}\n  \
             last good values are handed out until max-stale; when it answers again, all goes on by itself, or at once with: \
             valetkey refresh",
            when::since(source.unreachable_since.as_ref())
        )),
        "refusing" => Some(format!(
            "{name} does not give all that is wanted{said}\n  \
             `valetkey secrets` lists what is missing; mend it there, or its path in configuration, then: valetkey refresh"
        )),
        "waiting" => Some(format!("{name} has not been read yet{said}\n  the daemon goes on trying; its log says what it tries")),
        _ => None,
    };
    // Where nobody answers, that nobody answers a login is no second trouble.
    let login = source.login.as_ref().filter(|login| !login.problem.is_empty() && source.health != "unreachable");
    let of_login = login.map(|login| {
        format!(
            "{name} does not let the daemon in by {}: {}\n  \
             it tries again by itself; where its credential is wrong or used up, give it another, then: valetkey reload",
            login.method,
            printable(&login.problem)
        )
    });
    of_source.into_iter().chain(of_login).collect()
}

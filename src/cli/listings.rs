//! `valetkey status`, `tools`, `secrets`, `sessions`: what is going on, never a value. The JSON forms are stable: fields are added,
//! none is renamed or taken away.

use std::{fmt::Display, io::Write, time::Duration};

use serde::Serialize;

use super::{
    AdminSocket, Outcome, block_on, remote,
    table::{cell, layout, or_dash, printable},
    when,
};
use crate::proto::v1;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) socket: AdminSocket,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Asks one question of the daemon.
macro_rules! ask {
    ($args:expr, $call:ident, $request:expr) => {
        block_on(async {
            let mut admin = remote::admin(&$args.socket.path()).await?;
            admin.$call($request).await.map(tonic::Response::into_inner).map_err(|status| remote::refused(&status))
        })??
    };
}

pub(super) use ask;

pub(super) fn print(args: &Args, json: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
    let text = if args.json {
        let json = serde_json::to_string_pretty(json).map_err(std::io::Error::other)?;
        format!("{json}\n")
    } else {
        text()
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn time(time: Option<&impl Display>) -> Option<String> {
    time.map(ToString::to_string)
}

fn none_if_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

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
    sources: Vec<Source>,
    tools: u64,
    secrets: u64,
    sessions: u64,
    handouts: u64,
    denials: u64,
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
    lines.extend(status.reload_error.as_ref().map(|error| format!("LAST RELOAD FAILED, the one before is in force:\n{error}")));
    let Memory { protection, lost, locked_bytes, used_bytes } = &status.memory;
    lines.push(format!("memory         {protection}, {locked_bytes} bytes locked, {used_bytes} used by values"));
    lines.extend(lost.as_ref().map(|lost| format!("               {lost}")));
    lines.extend(status.last_good.iter().flat_map(last_good_lines));
    lines.push(format!("attestation    {}", status.attestation));
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

#[derive(Serialize)]
struct Tool {
    name: String,
    description: String,
    run_as: Vec<String>,
    secrets: Vec<String>,
    sessions: u64,
    handouts: u64,
    denials: u64,
    origin: String,
    redactions: u64,
    command: Vec<String>,
    deliveries: Vec<Delivery>,
}

/// How a secret reaches the tool.
#[derive(Serialize)]
struct Delivery {
    secret: String,
    by: String,
    variable: Option<String>,
}

#[derive(Serialize)]
struct Tools {
    tools: Vec<Tool>,
}

pub fn tools(args: &Args) -> Outcome {
    let got: v1::ListToolsResponse = ask!(args, list_tools, v1::ListToolsRequest {});
    let delivery = |one: v1::ToolDelivery| Delivery { secret: one.secret, by: one.by, variable: none_if_empty(one.variable) };
    let tool = |tool: v1::Tool| Tool {
        name: tool.name,
        description: tool.description,
        run_as: tool.run_as,
        secrets: tool.secrets,
        sessions: tool.sessions,
        handouts: tool.handouts,
        denials: tool.denials,
        origin: tool.origin,
        redactions: tool.redactions,
        command: tool.command,
        deliveries: tool.deliveries.into_iter().map(delivery).collect(),
    };
    let tools = Tools { tools: got.tools.into_iter().map(tool).collect() };
    print(args, &tools, || {
        let row = |tool: &Tool| {
            vec![
                tool.name.clone(),
                cell(&tool.run_as),
                cell(&tool.secrets),
                tool.sessions.to_string(),
                tool.handouts.to_string(),
                tool.denials.to_string(),
                tool.redactions.to_string(),
                or_dash(&printable(&tool.command.join(" "))),
                tool.origin.clone(),
            ]
        };
        let rows: Vec<_> = tools.tools.iter().map(row).collect();
        layout(&["TOOL", "RUNS AS", "MAY HAVE", "SESSIONS", "HAND-OUTS", "DENIALS", "REDACTIONS", "COMMAND", "DEFINED AT"], &rows)
    })
}

#[derive(Serialize)]
struct Secret {
    name: String,
    state: String,
    version: Option<String>,
    source: String,
    path: String,
    environment: Option<String>,
    reaches: Vec<String>,
    loaded: Option<String>,
    tools: Vec<String>,
    holders: u64,
    age_seconds: Option<u64>,
    max_stale_seconds: Option<u64>,
    next_check: Option<String>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Secrets {
    secrets: Vec<Secret>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  valetkey secrets --versions      who has which version, and how far a rotation is")]
pub struct SecretsArgs {
    /// Show the versions that are in use, with their stages and holders, and rotations
    #[arg(long)]
    versions: bool,
    #[command(flatten)]
    asked: Args,
}

pub fn secrets(args: &SecretsArgs) -> Outcome {
    let SecretsArgs { versions, asked: args } = args;
    let got: v1::ListSecretsResponse = ask!(args, list_secrets, v1::ListSecretsRequest {});
    if *versions {
        return super::versions::show(args, got.secrets);
    }
    let text = secrets_text(&got.secrets);
    let secret = |secret: v1::SecretInfo| Secret {
        age_seconds: secret.loaded.is_some().then_some(secret.age_seconds),
        max_stale_seconds: secret.max_stale.and_then(|bound| u64::try_from(bound.seconds).ok()),
        next_check: time(secret.next_check.as_ref()),
        problem: none_if_empty(secret.problem),
        loaded: time(secret.loaded.as_ref()),
        name: secret.name,
        state: secret.state,
        version: none_if_empty(secret.version),
        source: secret.source,
        path: secret.path,
        environment: none_if_empty(secret.environment),
        reaches: secret.reaches,
        tools: secret.tools,
        holders: secret.holders,
    };
    let secrets = Secrets { secrets: got.secrets.into_iter().map(secret).collect() };
    print(args, &secrets, || text)
}

fn secrets_text(secrets: &[v1::SecretInfo]) -> String {
    let row = |secret: &v1::SecretInfo| {
        vec![
            secret.name.clone(),
            secret.state.clone(),
            or_dash(&secret.version),
            secret.loaded.map_or_else(|| "-".into(), |_| crate::measure::rough(Duration::from_secs(secret.age_seconds))),
            when::relative(secret.next_check.as_ref()),
            secret.source.clone(),
            or_dash(&secret.environment),
            cell(&secret.reaches),
            cell(&secret.tools),
            secret.holders.to_string(),
        ]
    };
    let rows: Vec<_> = secrets.iter().map(row).collect();
    let headings = ["SECRET", "STATE", "VERSION", "AGE", "NEXT CHECK", "SOURCE", "ENVIRONMENT", "REACHES", "TOOLS", "HOLDERS"];
    let trouble = secrets.iter().filter(|secret| !secret.problem.is_empty());
    let trouble: Vec<_> = trouble.map(|secret| format!("{}: {}\n", secret.name, printable(&secret.problem))).collect();
    let gap = if trouble.is_empty() { "" } else { "\n" };
    format!("{}{gap}{}", layout(&headings, &rows), trouble.concat())
}

#[derive(Serialize)]
struct Session {
    session: String,
    tool: String,
    pid: u32,
    uid: u32,
    unit: Option<String>,
    invocation: Option<String>,
    opened: Option<String>,
    purpose: Option<String>,
    form: String,
    scope: Vec<String>,
    held: Vec<Held>,
    handouts: u64,
}

#[derive(Serialize)]
struct Held {
    secret: String,
    version: String,
    since: Option<String>,
    by: String,
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<Session>,
}

pub fn sessions(args: &Args) -> Outcome {
    let got: v1::ListSessionsResponse = ask!(args, list_sessions, v1::ListSessionsRequest {});
    let held = |held: v1::VersionedSecret| Held {
        secret: held.name,
        version: held.version,
        since: time(held.since.as_ref()),
        by: held.by,
    };
    let session = |session: v1::SessionInfo| Session {
        opened: time(session.opened.as_ref()),
        session: session.session,
        tool: session.tool,
        pid: session.pid,
        uid: session.uid,
        unit: none_if_empty(session.unit),
        invocation: none_if_empty(session.invocation),
        purpose: none_if_empty(session.purpose),
        form: session.form,
        scope: session.scope,
        held: session.held.into_iter().map(held).collect(),
        handouts: session.handouts,
    };
    let sessions = Sessions { sessions: got.sessions.into_iter().map(session).collect() };
    print(args, &sessions, || {
        let row = |session: &Session| {
            let held: Vec<_> = session.held.iter().map(|held| format!("{}@{}", held.secret, held.version)).collect();
            vec![
                session.session.clone(),
                session.tool.clone(),
                session.pid.to_string(),
                session.uid.to_string(),
                or_dash(session.unit.as_deref().unwrap_or("")),
                session.form.clone(),
                session.opened.clone().unwrap_or_default(),
                cell(&held),
                session.handouts.to_string(),
                or_dash(&printable(session.purpose.as_deref().unwrap_or(""))),
            ]
        };
        let rows: Vec<_> = sessions.sessions.iter().map(row).collect();
        layout(&["SESSION", "TOOL", "PID", "UID", "UNIT", "FORM", "OPENED", "HOLDS", "HAND-OUTS", "PURPOSE"], &rows)
    })
}

//! `valetkey status`, `tools`, `secrets`, `sessions`: what is going on, never a value. The JSON forms are stable: fields are added,
//! none is renamed or taken away.

use std::{fmt::Display, io::Write};

use serde::Serialize;

use super::{
    AdminSocket, Outcome, block_on, remote,
    table::{cell, layout, or_dash, printable},
};
use crate::proto::v1;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    socket: AdminSocket,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
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

fn print(args: &Args, json: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
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
    started: Option<String>,
    config: String,
    configured: Option<String>,
    reload_error: Option<String>,
    last_good: Option<LastGood>,
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
}

pub fn status(args: &Args) -> Outcome {
    let got: v1::StatusResponse = ask!(args, status, v1::StatusRequest {});
    let source = |source: v1::SourceStatus| Source {
        last_good: time(source.last_good.as_ref()),
        name: source.name,
        kind: source.kind,
        secrets: source.secrets,
    };
    let status = Status {
        version: got.version,
        pid: got.pid,
        started: time(got.started.as_ref()),
        config: got.config,
        configured: time(got.configured.as_ref()),
        reload_error: none_if_empty(got.reload_error),
        last_good: got.last_good.map(last_good),
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
    print(args, &status, || status_text(&status))
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

fn status_text(status: &Status) -> String {
    let mut lines = vec![
        format!("valetkeyd {} (pid {}), up since {}", status.version, status.pid, status.started.as_deref().unwrap_or("-")),
        format!("configuration  {}, loaded {}", status.config, status.configured.as_deref().unwrap_or("-")),
    ];
    lines.extend(status.reload_error.as_ref().map(|error| format!("LAST RELOAD FAILED, the one before is in force:\n{error}")));
    let Memory { protection, lost, locked_bytes, used_bytes } = &status.memory;
    lines.push(format!("memory         {protection}, {locked_bytes} bytes locked, {used_bytes} used by values"));
    lines.extend(lost.as_ref().map(|lost| format!("               {lost}")));
    lines.extend(status.last_good.iter().flat_map(last_good_lines));
    lines.push(format!("attestation    {}", status.attestation));
    lines.push(format!("serving        {} tools, {} secrets, {} sessions", status.tools, status.secrets, status.sessions));
    lines.push(format!("since start    {} hand-outs, {} denials", status.handouts, status.denials));
    let rows = status.sources.iter().map(|source| {
        let last = source.last_good.clone().unwrap_or_else(|| "never".into());
        vec![source.name.clone(), source.kind.clone(), source.secrets.to_string(), last]
    });
    let rows: Vec<_> = rows.collect();
    format!("{}\n\n{}", lines.join("\n"), layout(&["SOURCE", "KIND", "SECRETS", "LAST GOOD"], &rows))
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
}

#[derive(Serialize)]
struct Tools {
    tools: Vec<Tool>,
}

pub fn tools(args: &Args) -> Outcome {
    let got: v1::ListToolsResponse = ask!(args, list_tools, v1::ListToolsRequest {});
    let tool = |tool: v1::Tool| Tool {
        name: tool.name,
        description: tool.description,
        run_as: tool.run_as,
        secrets: tool.secrets,
        sessions: tool.sessions,
        handouts: tool.handouts,
        denials: tool.denials,
        origin: tool.origin,
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
                tool.origin.clone(),
            ]
        };
        let rows: Vec<_> = tools.tools.iter().map(row).collect();
        layout(&["TOOL", "RUNS AS", "MAY HAVE", "SESSIONS", "HAND-OUTS", "DENIALS", "DEFINED AT"], &rows)
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
}

#[derive(Serialize)]
struct Secrets {
    secrets: Vec<Secret>,
}

pub fn secrets(args: &Args) -> Outcome {
    let got: v1::ListSecretsResponse = ask!(args, list_secrets, v1::ListSecretsRequest {});
    let secret = |secret: v1::SecretInfo| Secret {
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
    print(args, &secrets, || {
        let row = |secret: &Secret| {
            vec![
                secret.name.clone(),
                secret.state.clone(),
                secret.version.clone().unwrap_or_else(|| "-".into()),
                secret.source.clone(),
                secret.environment.clone().unwrap_or_else(|| "-".into()),
                cell(&secret.reaches),
                cell(&secret.tools),
                secret.holders.to_string(),
            ]
        };
        let rows: Vec<_> = secrets.secrets.iter().map(row).collect();
        layout(&["SECRET", "STATE", "VERSION", "SOURCE", "ENVIRONMENT", "REACHES", "TOOLS", "HOLDERS"], &rows)
    })
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
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<Session>,
}

pub fn sessions(args: &Args) -> Outcome {
    let got: v1::ListSessionsResponse = ask!(args, list_sessions, v1::ListSessionsRequest {});
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
        held: session.held.into_iter().map(|held| Held { secret: held.name, version: held.version }).collect(),
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
                session.opened.clone().unwrap_or_default(),
                cell(&held),
                session.handouts.to_string(),
                or_dash(&printable(session.purpose.as_deref().unwrap_or(""))),
            ]
        };
        let rows: Vec<_> = sessions.sessions.iter().map(row).collect();
        layout(&["SESSION", "TOOL", "PID", "UID", "UNIT", "OPENED", "HOLDS", "HAND-OUTS", "PURPOSE"], &rows)
    })
}

//! `valetkey status`, `tools`, `secrets`, `sessions`: what is going on, never a value. The JSON forms are stable: fields are added,
//! none is renamed or taken away.

mod status;

use std::{fmt::Display, io::Write, time::Duration};

use serde::Serialize;

use super::{
    AdminSocket, Outcome, block_on, remote,
    table::{cell, layout, or_dash, printable},
    when,
};
use crate::proto::v1;

pub use status::status;

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
            let mut admin = remote::admin(&$args.socket.place()?).await?;
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
    /// Since when it is cut off, and who ordered that.
    contained_since: Option<String>,
    contained_by: Option<String>,
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
        contained_since: tool.contained_since.as_ref().map(ToString::to_string),
        contained_by: none_if_empty(tool.contained_by),
    };
    let tools = Tools { tools: got.tools.into_iter().map(tool).collect() };
    print(args, &tools, || {
        let row = |tool: &Tool| {
            vec![
                if tool.contained_since.is_some() { format!("{} (CONTAINED)", tool.name) } else { tool.name.clone() },
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
    /// Of a caller over the network, which has no process here.
    remote: Option<String>,
    subject: Option<String>,
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
        remote: none_if_empty(session.remote),
        subject: none_if_empty(session.subject),
        purpose: none_if_empty(session.purpose),
        form: session.form,
        scope: session.scope,
        held: session.held.into_iter().map(held).collect(),
        handouts: session.handouts,
    };
    let sessions = Sessions { sessions: got.sessions.into_iter().map(session).collect() };
    print(args, &sessions, || {
        let row = |session: &Session| {
            // What a caller over the network has not.
            let here = |number: u32| session.remote.as_ref().map_or_else(|| number.to_string(), |_| "-".into());
            let held: Vec<_> = session.held.iter().map(|held| format!("{}@{}", held.secret, held.version)).collect();
            vec![
                session.session.clone(),
                session.tool.clone(),
                here(session.pid),
                here(session.uid),
                or_dash(&printable(session.unit.as_ref().or(session.subject.as_ref()).map_or("", String::as_str))),
                session.form.clone(),
                session.opened.clone().unwrap_or_default(),
                cell(&held),
                session.handouts.to_string(),
                or_dash(&printable(session.purpose.as_deref().unwrap_or(""))),
            ]
        };
        let rows: Vec<_> = sessions.sessions.iter().map(row).collect();
        layout(&["SESSION", "TOOL", "PID", "UID", "UNIT OR SUBJECT", "FORM", "OPENED", "HOLDS", "HAND-OUTS", "PURPOSE"], &rows)
    })
}

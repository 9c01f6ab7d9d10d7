//! `valetkey contain` and `release`: a tool is cut off, what it holds is rotated, and what is still good of it is said.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};

use serde::Serialize;
use tonic::Streaming;

use super::{AdminSocket, FAILED, Failure, Outcome, USAGE, block_on, listings, remote, rotate, table::printable};
use crate::{config, proto::v1};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It goes on in the daemon when this command is interrupted, and when the daemon restarts. Run it again to follow it, or to try again \
    what could not be done.\n\n\
    Exit code: 0 where nothing that the tool held is good any more, 1 where some of it is or may be.\n\n\
    Examples:\n  valetkey contain github --dry-run              what would happen, and what could not be rotated\n  \
    valetkey contain github --reason 'odd pushes'  asks first\n  \
    valetkey contain github --yes --json | jq      in a script: a JSON object on a line for each change\n  \
    valetkey release github                        it may open sessions again"
)]
pub struct ContainArgs {
    /// The tool to cut off
    #[arg(value_name = "TOOL")]
    tool: String,
    /// Why, in a line, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long tools that share a secret with it have to move before the old value is retired [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    overlap: Option<Duration>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    asked: listings::Args,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "What was rotated stays so.\n\nExample:\n  valetkey release github")]
pub struct ReleaseArgs {
    /// The tool that may open sessions again
    #[arg(value_name = "TOOL")]
    tool: String,
    #[command(flatten)]
    socket: AdminSocket,
}

fn time(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(Into::into)
}

pub fn contain(args: &ContainArgs) -> Outcome {
    let request = |dry_run| v1::ContainRequest {
        tool: args.tool.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        dry_run,
        overlap: args.overlap.and_then(|overlap| overlap.try_into().ok()),
    };
    if !args.dry_run && !args.yes {
        if !std::io::stdin().is_terminal() || args.asked.json {
            let what = "this cuts a tool off, and nobody can be asked whether that is meant";
            return Err(Failure::new(USAGE, what, "say --yes, or --dry-run to see what would happen"));
        }
        ask(args, request(true), false)?;
        if !confirmed(&args.tool)? {
            return Err(Failure::new(FAILED, "nothing was done", "say `yes` to the question, or --yes"));
        }
    }
    let last = ask(args, request(args.dry_run), args.asked.json)?;
    if last.step == "waiting" {
        return match args.asked.json {
            true => Err(Failure::silent(FAILED)),
            false => Err(Failure::new(
                FAILED,
                format!("nothing was done: containing {} takes two operators (two-person in [roles])", args.tool),
                format!("within ten minutes another one says: valetkey contain {}", args.tool),
            )),
        };
    }
    let exposed = exposed(&last);
    let runs = last.unit_state == "running";
    match exposed.len() + usize::from(!last.unknown.is_empty()) + usize::from(runs) {
        0 => Ok(()),
        _ if args.asked.json => Err(Failure::silent(FAILED)),
        _ if exposed.is_empty() && runs => Err(Failure::new(
            FAILED,
            format!("{} is to be stopped, and runs", last.unit),
            format!("systemctl stop {}; and for the next time: systemctl enable --now valetkey-rotated.path", last.unit),
        )),
        _ if exposed.is_empty() => Err(Failure::new(
            FAILED,
            printable(&last.unknown),
            "mend that and run this again; or rotate all that it could have, if in doubt: valetkey rotate --all-of TOOL",
        )),
        number => Err(Failure::new(
            FAILED,
            format!("of what {} held, {number} may be good still: {}", args.tool, exposed.join(", ")),
            "change these where they come from; then `valetkey refresh`, or `valetkey rotate SECRET --stdin` with the new value",
        )),
    }
}

pub fn release(args: &ReleaseArgs) -> Outcome {
    block_on(async {
        let mut admin = remote::admin(&args.socket.place()?).await?;
        let request = v1::ReleaseRequest { tool: args.tool.clone() };
        admin.release(request).await.map_err(|status| remote::refused(&status))
    })??;
    println!("{} may open sessions again", args.tool);
    Ok(())
}

fn exposed(last: &v1::Containment) -> Vec<&str> {
    let exposed = last.secrets.iter().filter(|secret| secret.fate == "exposed");
    exposed.map(|secret| secret.name.as_str()).collect()
}

fn confirmed(tool: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout();
    write!(out, "Contain {tool}? Type yes: ").and_then(|()| out.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn ask(args: &ContainArgs, request: v1::ContainRequest, json: bool) -> Result<v1::Containment, Failure> {
    block_on(async {
        let mut admin = remote::admin(&args.asked.socket.place()?).await?;
        let told = admin.contain(request).await.map_err(|status| remote::refused(&status))?;
        follow(told.into_inner(), json).await
    })?
}

async fn follow(mut told: Streaming<v1::Containment>, json: bool) -> Result<v1::Containment, Failure> {
    let (mut shown, mut last) = (Shown::default(), v1::Containment::default());
    while let Some(now) = told.message().await.map_err(|status| remote::refused(&status))? {
        let text = match json {
            true => serde_json::to_string(&Line::from(&now)).map_err(std::io::Error::other)? + "\n",
            false => shown.lines(&now),
        };
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
        last = now;
    }
    if last.step == "working" {
        let what = "it is contained, and was released, or the daemon stopped, before all was done";
        return Err(Failure::new(FAILED, what, "`valetkey status` says which; run this again to follow it"));
    }
    Ok(last)
}

/// What was shown already: the step, and of each secret its line.
#[derive(Default)]
struct Shown {
    step: String,
    unit: String,
    secrets: BTreeMap<String, String>,
}

impl Shown {
    fn lines(&mut self, now: &v1::Containment) -> String {
        let mut lines = Vec::new();
        if self.step.is_empty() {
            lines.extend(head(now));
        }
        let unit = unit_line(now);
        if self.unit != unit {
            lines.push(format!("  {unit}"));
            self.unit = unit;
        }
        for secret in &now.secrets {
            let line = secret_line(secret, is_planned(now));
            if self.secrets.get(&secret.name) != Some(&line) {
                lines.push(format!("  {line}"));
                self.secrets.insert(secret.name.clone(), line);
            }
        }
        if now.step == "over" && self.step != "over" {
            lines.push(report(now));
        }
        self.step.clone_from(&now.step);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Is nothing done of it?
fn is_planned(now: &v1::Containment) -> bool {
    matches!(now.step.as_str(), "planned" | "waiting")
}

fn head(now: &v1::Containment) -> Vec<String> {
    let planned = is_planned(now);
    let v1::Containment { tool, by, reason, sessions, secrets, unknown, .. } = now;
    let why = if reason.is_empty() { String::new() } else { format!(": {}", printable(reason)) };
    let mut lines = vec![match planned {
        true => format!("{tool} would be contained: from then on it gets nothing, until `valetkey release {tool}`"),
        false => format!("{tool} is contained, by {}{why}; it gets nothing until `valetkey release {tool}`", printable(by)),
    }];
    lines.extend(sessions.iter().map(|one| format!("  {}", session_line(one, planned))));
    if !unknown.is_empty() {
        lines.push(format!("  {}", printable(unknown)));
    }
    if secrets.is_empty() {
        lines.push("  as far as is known it holds no secret".into());
    }
    lines
}

fn session_line(one: &v1::ContainedSession, planned: bool) -> String {
    let place = match (one.pid, one.remote.as_str(), one.unit.as_str()) {
        (0, "", unit) => format!("unit {unit}"),
        (0, remote, _) => format!("the caller at {remote}"),
        (pid, _, "") => format!("pid {pid}"),
        (pid, _, unit) => format!("pid {pid} in {unit}"),
    };
    let ended = if planned { "would lose its session" } else { "lost its session" };
    match one.process.as_str() {
        "stopped" => format!("{place} {ended}, and its launcher stops it"),
        "with-unit" if one.pid == 0 => format!("{place} has credentials that it was started with"),
        "with-unit" => format!("{place} {ended}, and goes with its unit"),
        "unit" => format!("{place} runs with credentials that it was started with: systemctl stop {}", one.unit),
        _ if one.pid == 0 => format!("{place} {ended}"),
        _ => format!("{place} {ended}, and runs on: stop it by hand"),
    }
}

fn unit_line(now: &v1::Containment) -> String {
    let v1::Containment { unit, unit_state, unit_problem, .. } = now;
    match unit_state.as_str() {
        "" => String::new(),
        "stopping" if is_planned(now) => format!("{unit} would be stopped"),
        "stopping" => format!("{unit} is being stopped"),
        "stopped" => format!("{unit} is stopped"),
        _ => format!("{unit} RUNS, and is to be stopped: {}", printable(unit_problem)),
    }
}

fn secret_line(secret: &v1::ContainedSecret, planned: bool) -> String {
    let v1::ContainedSecret { name, version, fate, new_version, problem, shared_with, way, rotation } = secret;
    let sharers = match shared_with.as_slice() {
        [] => String::new(),
        sharers => format!("; {} may have it too, and {}", sharers.join(", "), if planned { "would move" } else { "move" }),
    };
    let problem = printable(problem);
    match fate.as_str() {
        "rotated" if way == "lease" => format!("{name}: given back; {version}, which was made for it alone, is good no more"),
        "rotated" if new_version.is_empty() => format!("{name}: rotated; version {version}, which it holds, is retired"),
        "rotated" => format!("{name}: rotated to {new_version}; version {version}, which it holds, is retired"),
        "exposed" if way == "lease" => {
            format!("{name}: EXPOSED: {version}, which was made for it alone, is not given back: {problem}")
        }
        "exposed" => format!("{name}: EXPOSED: version {version}, which it holds, is not rotated: {problem}"),
        "rotating" => match rotation {
            Some(rotation) => rotate::doing(rotation),
            None => format!("{name}: being rotated"),
        },
        _ if planned && way == "lease" => format!("{name}: {version}, which was made for it alone, would be given back"),
        _ if planned => format!("{name}: would be rotated ({way}) from version {version}{sharers}"),
        _ if problem.is_empty() => format!("{name}: version {version} is to be rotated{sharers}"),
        _ => format!("{name}: not rotated yet, and tried again: {problem}"),
    }
}

fn report(now: &v1::Containment) -> String {
    let rotated = now.secrets.iter().filter(|secret| secret.fate == "rotated").count();
    let exposed = exposed(now).len();
    let runs_on = |one: &&v1::ContainedSession| match one.process.as_str() {
        "stopped" => false,
        "with-unit" => now.unit_state == "running",
        "unit" => true,
        _ => one.pid != 0,
    };
    let running = now.sessions.iter().filter(runs_on).count();
    let alive = match running {
        0 => String::new(),
        number => format!("; {number} of its processes may run on, with values that are worthless where they are rotated"),
    };
    let generated = now.secrets.iter().any(|secret| secret.fate == "rotated" && secret.way == "generate");
    let upstream = match generated {
        true => {
            "; what was generated is new at its source: a system that keeps a copy of its own was not told (docs/rotation.md)"
        }
        false => "",
    };
    match exposed {
        0 => format!("done: all of {rotated} secrets that it held are rotated{alive}{upstream}"),
        _ => format!("done: {rotated} rotated, {exposed} STILL EXPOSED{alive}{upstream}"),
    }
}

/// One line for each change.
#[derive(Serialize)]
struct Line<'a> {
    tool: &'a str,
    step: &'a str,
    by: &'a str,
    reason: Option<&'a str>,
    since: Option<String>,
    sessions: Vec<SessionLine<'a>>,
    secrets: Vec<SecretLine<'a>>,
    exposed: usize,
    unknown: Option<&'a str>,
    unit: Option<&'a str>,
    unit_state: Option<&'a str>,
    unit_problem: Option<&'a str>,
}

#[derive(Serialize)]
struct SessionLine<'a> {
    session: Option<&'a str>,
    pid: Option<u32>,
    unit: Option<&'a str>,
    remote: Option<&'a str>,
    process: &'a str,
}

#[derive(Serialize)]
struct SecretLine<'a> {
    name: &'a str,
    version: &'a str,
    fate: &'a str,
    new_version: Option<&'a str>,
    way: Option<&'a str>,
    shared_with: &'a [String],
    problem: Option<&'a str>,
    rotation: Option<rotate::Line<'a>>,
}

impl<'a> From<&'a v1::Containment> for Line<'a> {
    fn from(told: &'a v1::Containment) -> Self {
        let some = rotate::some;
        let session = |one: &'a v1::ContainedSession| SessionLine {
            session: some(&one.session),
            pid: (one.pid != 0).then_some(one.pid),
            unit: some(&one.unit),
            remote: some(&one.remote),
            process: &one.process,
        };
        let secret = |one: &'a v1::ContainedSecret| SecretLine {
            name: &one.name,
            version: &one.version,
            fate: &one.fate,
            new_version: some(&one.new_version),
            way: some(&one.way),
            shared_with: &one.shared_with,
            problem: some(&one.problem),
            rotation: one.rotation.as_ref().map(Into::into),
        };
        Self {
            tool: &told.tool,
            step: &told.step,
            by: &told.by,
            reason: some(&told.reason),
            since: told.since.as_ref().map(ToString::to_string),
            sessions: told.sessions.iter().map(session).collect(),
            secrets: told.secrets.iter().map(secret).collect(),
            exposed: exposed(told).len(),
            unknown: some(&told.unknown),
            unit: some(&told.unit),
            unit_state: some(&told.unit_state),
            unit_problem: some(&told.unit_problem),
        }
    }
}

//! `valetkey doctor`: what this host gives, how the daemon on it is, and what to do about what is not as it should be.

mod daemon;
mod host;
mod places;
mod unit;

use std::path::PathBuf;

use serde::Serialize;

use super::{FAILED, Failure, Outcome, table::printable};
use crate::{
    config::{self, Config},
    daemon::DEFAULT_CONFIG,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as root to see all of it: the daemon's answers, its unit, every socket. What a process of the daemon's user would get \
    here is told too; run it as that user where limits differ between users.\n\n\
    Exit code 1 where something must be mended; warnings alone pass.\n\n\
    Examples:\n  valetkey doctor\n  valetkey doctor --json | jq '.checks[] | select(.state != \"ok\")'"
)]
pub struct Args {
    /// Look at this configuration too
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    socket: super::AdminSocket,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Bad,
}

/// One thing that was looked at. The names stay; there may come more.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Ok, found: found.into(), remedy: None }
    }

    fn not(state: State, name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), state, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub fn run(args: &Args) -> Outcome {
    let (config, configuration) = configuration(args);
    let mut checks = host::checks();
    checks.push(configuration);
    checks.extend(places::sockets(config.as_ref()));
    checks.extend(unit::checks(config.as_ref()));
    // A configuration may have it elsewhere.
    let admin = match (&args.socket.profile, &args.socket.socket) {
        (None, None) => places::path(config.as_ref(), "admin").into(),
        _ => args.socket.place()?,
    };
    checks.extend(daemon::checks(&admin));
    let bad = checks.iter().any(|check| check.state == State::Bad);
    if args.json {
        let report = serde_json::json!({ "ok": !bad, "checks": checks });
        println!("{}", serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?);
    } else {
        checks.iter().for_each(print);
    }
    if bad { Err(Failure::silent(FAILED)) } else { Ok(()) }
}

fn print(Check { name, state, found, remedy }: &Check) {
    let mark = match state {
        State::Ok => "ok     ",
        State::Warning => "warning",
        State::Bad => "BAD    ",
    };
    // What a source or a collector said may be in it.
    println!("{mark}  {name:16} {}", printable(found));
    if let Some(remedy) = remedy {
        println!("{:26}{}", "", printable(remedy));
    }
}

fn configuration(args: &Args) -> (Option<Config>, Check) {
    let path = &args.config;
    let (name, hint) = ("configuration", format!("valetkey check --config {}", path.display()));
    if !crate::daemon::is_there(path) {
        let found = format!("there is no {}", path.display());
        return (None, Check::not(State::Warning, name, found, "examples/etc-valetkey/ shows every option"));
    }
    match config::load(path) {
        Ok(config) if config.problems.is_empty() => {
            let (tools, secrets) = (config.policy.tools().count(), config.secrets.len());
            let found = format!("{}: {tools} tools, {secrets} secrets", path.display());
            (Some(config), Check::ok(name, found))
        }
        Ok(config) => {
            let found = format!("{} warnings", config.problems.len());
            (Some(config), Check::not(State::Warning, name, found, hint))
        }
        Err(problems) => (None, Check::not(State::Bad, name, format!("{} problems", problems.len()), hint)),
    }
}

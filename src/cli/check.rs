//! `valetkey check`: the daemon's own loader, offline.

use std::path::PathBuf;

use serde::Serialize;

use super::{FAILED, Failure, Outcome};
use crate::{
    config::{self, Problem, Severity},
    daemon,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 where there is an error; warnings alone pass, unless --strict.\n\n\
    Example, for a pipeline that ships policy:\n  valetkey check --strict --config ./etc/valetkey/valetkey.toml")]
pub struct Args {
    /// The main file; the drop-ins are in tools.d/ beside it
    #[arg(long, value_name = "FILE", default_value = daemon::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    config: &'a str,
    ok: bool,
    tools: usize,
    secrets: usize,
    sources: usize,
    problems: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    file: String,
    line: usize,
    severity: &'static str,
    what: String,
    instead: String,
}

impl From<&Problem> for Found {
    fn from(problem: &Problem) -> Self {
        let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
        let file = problem.file.display().to_string();
        Self { file, line: problem.line, severity, what: problem.what.clone(), instead: problem.instead.clone() }
    }
}

pub fn run(args: &Args) -> Outcome {
    let (config, problems) = match config::load(&args.config) {
        Ok(mut config) => {
            let problems = std::mem::take(&mut config.problems);
            (Some(config), problems)
        }
        Err(problems) => (None, problems),
    };
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let ok = errors == 0 && (problems.is_empty() || !args.strict);
    let count = |count: fn(&config::Config) -> usize| config.as_ref().map_or(0, count);
    let (tools, secrets, sources) = (count(|c| c.policy.tools().count()), count(|c| c.secrets.len()), count(|c| c.sources.len()));
    if args.json {
        let config = args.config.to_string_lossy();
        let report = Report { config: &config, ok, tools, secrets, sources, problems: problems.iter().map(Into::into).collect() };
        println!("{}", serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?);
    } else {
        problems.iter().for_each(|problem| println!("{problem}"));
        match (ok, problems.len() - errors) {
            (true, warnings) => println!(
                "{}: ok: {tools} tools, {secrets} secrets, {sources} sources, {warnings} warnings",
                args.config.display()
            ),
            (false, warnings) => println!("{}: {errors} errors, {warnings} warnings", args.config.display()),
        }
    }
    if ok { Ok(()) } else { Err(Failure::silent(FAILED)) }
}

//! `valetkey check`: the daemon's own loader, offline; and what this host's unit files say, where it has them.

mod consumers;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{FAILED, Failure, Outcome, USAGE};
use crate::{
    config::{self, Config, Problem, Severity, Upstream},
    daemon,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 where there is an error; warnings alone pass, unless --strict.\n\n\
    Examples:\n  valetkey check --strict --config ./etc/valetkey/valetkey.toml     in a pipeline that ships policy\n  \
    valetkey check --upstream-policy aws --source prod > policy.json  what the daemon's role in AWS needs\n  \
    valetkey check --upstream-policy vault | vault policy write valetkey -")]
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
    /// Print the least that the sources must allow the daemon: an IAM policy, or an ACL policy of Vault and OpenBao
    #[arg(long, value_name = "aws|vault", conflicts_with = "json")]
    upstream_policy: Option<Language>,
    /// Of this source alone; needed where several sources of AWS are configured
    #[arg(long, value_name = "NAME", requires = "upstream_policy")]
    source: Option<String>,
    /// The ARN of a KMS key of your own that the secrets are encrypted with; may be repeated
    #[arg(long, value_name = "ARN", requires = "upstream_policy")]
    kms_key: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Language {
    Aws,
    Vault,
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
            let mut problems = std::mem::take(&mut config.problems);
            problems.extend(consumers::look(&config, Path::new("/")));
            (Some(config), problems)
        }
        Err(problems) => (None, problems),
    };
    if let (Some(language), Some(config)) = (args.upstream_policy, &config) {
        return upstream_policy(args, config, language);
    }
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

fn upstream_policy(args: &Args, config: &Config, language: Language) -> Outcome {
    let upstream = match language {
        Language::Aws => Upstream::Aws,
        Language::Vault => Upstream::Vault,
    };
    let all = config::upstream_sources(config, upstream);
    let list = || all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let chosen: Vec<_> = match &args.source {
        None => all.clone(),
        Some(name) => all.iter().copied().filter(|source| source.as_str() == name).collect(),
    };
    let fail = |what: String, hint: String| Err(Failure::new(USAGE, what, hint));
    match (chosen.len(), language) {
        (0, _) if all.is_empty() => {
            return fail("no source of this kind is configured".into(), "choose the other: aws or vault".into());
        }
        (0, _) => return fail("there is no such source of this kind".into(), format!("--source is one of: {}", list())),
        // One JSON document for each: they are attached to different roles.
        (2.., Language::Aws) => {
            return fail(
                "several sources are configured, and each has a role of its own".into(),
                format!("--source is one of: {}", list()),
            );
        }
        _ => {}
    }
    let policies: Result<Vec<_>, String> =
        chosen.iter().map(|source| config::upstream_policy(config, source, &args.kms_key)).collect();
    match policies {
        Ok(policies) => {
            print!("{}", policies.join("\n"));
            Ok(())
        }
        Err(what) => Err(Failure::new(FAILED, what, "give the secret another path")),
    }
}

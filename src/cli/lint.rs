//! `valetkey lint`: findings in policy, each at its line.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    AdminSocket, DENIED, Failure, Outcome,
    blast::{Given, GivenArgs, Target, json, write},
};
use crate::{
    blast::{self, Finding, Graph, Level, NotJudged, Question},
    daemon,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks at a configuration on disk; with --live, at the running daemon's, and at what is held. Exit code 3 where there is a\n\
    finding that matters and no exclusion of it.\n\n\
    Examples:\n  valetkey lint --config ./etc/valetkey/valetkey.toml\n  \
    valetkey lint --format sarif --output valetkey.sarif    for code scanning\n  \
    valetkey lint --rules                                   what is looked for"
)]
pub struct Args {
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    socket: AdminSocket,
    /// Look at the running daemon
    #[arg(long, conflicts_with = "config")]
    live: bool,
    /// The form of the answer
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    target: Target,
    /// From which level on a finding makes the exit code 3
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,
    /// Show what is excluded too
    #[arg(long)]
    all: bool,
    /// List what is looked for, and do nothing else
    #[arg(long, exclusive = true)]
    rules: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Sarif,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Note,
    Warning,
    Error,
    Never,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    schema_version: u32,
    findings: &'a [Finding],
    not_judged: Vec<NotJudged>,
}

pub fn run(args: &Args) -> Outcome {
    if args.rules {
        blast::RULES.iter().for_each(|rule| println!("{} {} ({}): {}", rule.id, rule.name, rule.level, rule.about));
        return Ok(());
    }
    let config = args.given.config.clone().unwrap_or_else(|| PathBuf::from(daemon::DEFAULT_CONFIG));
    let live = args.live || args.socket.socket.is_some();
    let given = GivenArgs {
        config: (!live).then_some(config),
        usage: args.given.usage.clone(),
        used_since: args.given.used_since,
        weights: args.given.weights.clone(),
        exclusions: args.given.exclusions.clone(),
    };
    let given = Given::gather(&given, &args.socket)?;
    let graph = Graph::new(&given.facts, &given.weights);
    let findings = graph.findings(&given.exclusions);
    let not_judged = blast::not_judged(&given.facts, &given.weights);
    let fails = findings.iter().any(|finding| finding.excluded.is_none() && args.fail_on.fails(finding.level));
    let text = match args.format {
        Format::Text => blast::findings_text(&findings, &not_judged, args.all).into_bytes(),
        Format::Json => json(&Report { schema: "valetkey.findings", schema_version: 1, findings: &findings, not_judged })?,
        Format::Sarif => {
            let document = graph.document(Question::Everything, findings);
            json(&blast::sarif(&document.map_err(|unknown| Failure::new(super::FAILED, unknown.to_string(), "try again"))?))?
        }
    };
    write(&args.target, &text)?;
    if fails { Err(Failure::silent(DENIED)) } else { Ok(()) }
}

impl FailOn {
    fn fails(self, level: Level) -> bool {
        match self {
            Self::Note => true,
            Self::Warning => level >= Level::Warning,
            Self::Error => level >= Level::Error,
            Self::Never => false,
        }
    }
}

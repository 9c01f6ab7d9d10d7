//! `valetkey suggest`: the least policy that what a tool used needs.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    AdminSocket, FAILED, Failure, Outcome, USAGE,
    blast::{Given, GivenArgs, read, used_of_daemon},
};
use crate::blast::{self, NoSuggestion, Suggestion};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints a difference of the tool's file that `patch -p0` takes, on standard output; what it means on standard error. What was \
    used is in the audit log of this host, or in a file that is named.\n\n\
    Examples:\n  valetkey suggest billing > billing.patch\n  \
    valetkey suggest billing --config ./valetkey.toml --usage usage.json --days 30"
)]
pub struct Args {
    tool: String,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    socket: AdminSocket,
    /// What was not used for this many days is not needed [default: `unused-days` of the weights]
    #[arg(long, value_name = "N")]
    days: Option<u32>,
}

pub fn run(args: &Args) -> Outcome {
    let Given { mut facts, weights, .. } = Given::gather(&args.given, &args.socket)?;
    let days = args.days.unwrap_or(weights.threshold.unused_days);
    if facts.usage.is_none() && facts.tools.iter().any(|tool| tool.name.as_str() == args.tool) {
        let since = SystemTime::now().checked_sub(Duration::from_secs(86_400 * u64::from(days)));
        facts.usage = Some(used_of_daemon(Path::new(&facts.configuration), since)?);
    }
    let file = facts.tools.iter().find(|tool| tool.name.as_str() == args.tool).map(|tool| tool.at.file.clone());
    let text = match (&file, &facts.usage) {
        (Some(file), Some(_)) => read(Path::new(&**file))?,
        _ => String::new(),
    };
    let suggestion = blast::suggest(&facts, &args.tool, days, &text).map_err(|none| why(&none))?;
    tell(&suggestion, &args.tool, days);
    if let Some(difference) = &suggestion.difference {
        print!("{difference}");
    }
    Ok(())
}

fn why(none: &NoSuggestion) -> Failure {
    let (code, hint) = match none {
        NoSuggestion::NoSuchTool(_) => (USAGE, "`valetkey tools` lists those there are"),
        NoSuggestion::NoUsage => (FAILED, "name a file of it with --usage; `valetkey audit usage` writes one"),
        NoSuggestion::TooShort { .. } => (FAILED, "ask for fewer --days, or wait: what was used before is not known"),
    };
    Failure::new(code, none.to_string(), hint)
}

fn tell(suggestion: &Suggestion, tool: &str, days: u32) {
    let Suggestion { unused, used, by_hand, .. } = suggestion;
    eprintln!("tool {tool} used {} of {} grants in {days} days", used.len(), used.len() + unused.len());
    for secret in by_hand {
        eprintln!("take out by hand, it does not stand on lines of its own: secrets.\"{secret}\"");
    }
}

//! What a map is made of: the daemon's inventory or a configuration, and the files that say how much things count.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::used;
use crate::{
    blast::{Exclusions, Facts, Usage, Weights},
    cli::{AdminSocket, FAILED, Failure, USAGE, block_on, remote, when},
    config::{self, Config},
    proto::v1,
};

#[derive(Debug, clap::Args)]
pub struct GivenArgs {
    /// Judge by this configuration instead of the running daemon's; the drop-ins are in tools.d/ beside it
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// What was used, as an audit log tells it: JSON, see docs/blast-radius.md
    #[arg(long, value_name = "FILE", conflicts_with = "used_since")]
    pub usage: Option<PathBuf>,
    /// What was used since then, by the audit log of this host: `90d`, or RFC 3339 in UTC
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub used_since: Option<SystemTime>,
    /// Weights of the score and thresholds of findings, in place of those that --print-weights prints
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Findings that may stay [default: exclusions.toml beside the configuration, where there is one]
    #[arg(long, value_name = "FILE")]
    pub exclusions: Option<PathBuf>,
}

/// Facts, and how they are judged.
pub struct Given {
    pub facts: Facts,
    pub weights: Weights,
    pub exclusions: Exclusions,
}

impl Given {
    pub fn gather(args: &GivenArgs, socket: &AdminSocket) -> Result<Self, Failure> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut facts = match &args.config {
            Some(file) => Facts::of_config(&read_config(file)?, &host, SystemTime::now().into()),
            None => ask_daemon(socket, &host)?,
        };
        let usage = args.usage.as_deref().map(|file| parse(file, "docs/blast-radius.md has the form", Usage::parse));
        facts.usage = match (usage.transpose()?, args.used_since) {
            (None, Some(since)) => Some(used::of_daemon(Path::new(&facts.configuration), Some(since))?),
            (usage, _) => usage,
        };
        let weights = match &args.weights {
            Some(file) => parse(file, "valetkey blast-radius --print-weights prints a whole one", Weights::parse)?,
            None => Weights::defaults().map_err(|what| Failure::new(FAILED, what, "name others with --weights"))?,
        };
        let exclusions = exclusions(args.exclusions.as_deref(), Path::new(&facts.configuration))?;
        Ok(Self { facts, weights, exclusions })
    }
}

fn parse<T>(file: &Path, hint: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Failure> {
    parse(&read(file)?).map_err(|what| Failure::new(USAGE, format!("{}: {what}", file.display()), hint))
}

pub fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::new(FAILED, format!("{} cannot be read: {}", file.display(), error.kind()), "name a file that you may read")
    })
}

/// Those of the file that is named, or of the one beside the configuration where there is one.
fn exclusions(named: Option<&Path>, configuration: &Path) -> Result<Exclusions, Failure> {
    let beside = configuration.with_file_name("exclusions.toml");
    let file = match named {
        Some(file) => file,
        // One that an operator cannot read is not there for them: findings are then shown, not hidden.
        None if fs::File::open(&beside).is_ok() => &beside,
        None => return Ok(Exclusions::default()),
    };
    let wrong = |what| Failure::new(USAGE, what, "docs/blast-radius.md shows an exclusion");
    Exclusions::parse(file, &read(file)?).map_err(wrong)
}

pub fn read_config(file: &Path) -> Result<Config, Failure> {
    config::load(file).map_err(|problems| {
        let hint = format!("valetkey check --config {}", file.display());
        Failure::new(FAILED, format!("the configuration has {} problems", problems.len()), hint)
    })
}

fn ask_daemon(socket: &AdminSocket, host: &str) -> Result<Facts, Failure> {
    let inventory = block_on(async {
        let admin = remote::admin(&socket.place()?).await?;
        // A host of many tools has much to tell.
        let mut admin = admin.max_decoding_message_size(1 << 30);
        admin.inventory(v1::InventoryRequest {}).await.map_err(|status| remote::refused(&status))
    })??;
    let other = |bad: crate::name::BadName| Failure::new(FAILED, bad.to_string(), "the daemon is of another version: restart it");
    Facts::of_inventory(inventory.into_inner(), host).map_err(other)
}

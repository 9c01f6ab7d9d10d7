//! `valetkey blast-radius`: what can be reached from where, from what policy allows and what is held.

mod given;
mod output;
mod used;

use std::path::{Path, PathBuf};

pub use given::{Given, GivenArgs, read, read_config};
pub use output::{Target, write};
pub use used::{of_daemon as used_of_daemon, of_log as used_of_log};

use serde::Serialize;

use super::{AdminSocket, DENIED, FAILED, Failure, Outcome, USAGE};
use crate::blast::{self, Document, Facts, Graph, Pseudonyms, Question, Weights};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Asks the running daemon, and so knows what is held now; with --config, a configuration on disk, which says what is allowed.\n\
    Exit code 3 where --what-if lets something reach more.\n\n\
    Examples:\n  valetkey blast-radius                                   every tool in a line, worst first\n  \
    valetkey blast-radius --tool billing                    if it is compromised\n  \
    valetkey blast-radius --secret stripe/api-key           if it leaked: who has it, what it opens, what must restart\n  \
    valetkey blast-radius --format html --output map.html   one page to sort, search and try things on\n  \
    valetkey blast-radius --used-since 90d                  and what of it was used, by the audit log\n  \
    valetkey blast-radius --config ./main/valetkey.toml --what-if ./branch   in a pipeline, before policy ships"
)]
pub struct Args {
    /// If this tool is compromised
    #[arg(long, value_name = "NAME", group = "question")]
    tool: Option<String>,
    /// If this secret leaked
    #[arg(long, value_name = "NAME", group = "question")]
    secret: Option<String>,
    /// Who can get at this system
    #[arg(long, value_name = "NAME", group = "question")]
    system: Option<String>,
    /// What another configuration would change: a folder with valetkey.toml in it, or such a file
    #[arg(long, value_name = "DIR", group = "question")]
    what_if: Option<PathBuf>,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    socket: AdminSocket,
    /// The form of the answer; all are made from the JSON
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    target: Target,
    /// Put other names in the place of all names, by a key that is forgotten: to show it to others
    #[arg(long)]
    pseudonymise: bool,
    /// Print the weights of the score, as a file to change, and do nothing else
    #[arg(long, exclusive = true)]
    print_weights: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Sentences, worst first
    Text,
    /// Versioned; see docs/blast-radius.md
    Json,
    /// One page that loads nothing
    Html,
    Svg,
    /// A flowchart of at most 500 lines
    Mermaid,
    /// For Graphviz
    Dot,
    /// Findings, for code scanning
    Sarif,
    /// For BloodHound
    Opengraph,
}

pub fn run(args: &Args) -> Outcome {
    if args.print_weights {
        print!("{}", Weights::DEFAULTS);
        return Ok(());
    }
    let mut given = Given::gather(&args.given, &args.socket)?;
    let other = args.what_if.as_deref().map(|path| other(path, &given.facts)).transpose()?;
    let (other, question) = match args.pseudonymise {
        true => pseudonymise(&mut given, other, &question(args))?,
        false => (other, question(args)),
    };
    let graph = Graph::new(&given.facts, &given.weights);
    let findings = graph.findings(&given.exclusions);
    let difference = other.as_ref().map(|facts| {
        let other = Graph::new(facts, &given.weights);
        graph.difference(&other, (&findings, &other.findings(&given.exclusions)))
    });
    // A page is of everything, opened at what is asked: its reader will ask more.
    let format = if args.json { Format::Json } else { args.format };
    let asked = if format == Format::Html { Question::Everything } else { question.clone() };
    let unknown = |unknown: blast::Unknown| Failure::new(USAGE, unknown.to_string(), known(&unknown));
    let mut document = graph.document(asked, findings).map_err(unknown)?;
    document.pseudonymised = args.pseudonymise;
    document.difference = difference;
    write(&args.target, &form(&document, &question, format)?)?;
    let grows = document.difference.is_some_and(|difference| difference.grows);
    if grows { Err(Failure::silent(DENIED)) } else { Ok(()) }
}

fn known(unknown: &blast::Unknown) -> String {
    match unknown.kind {
        "system" => "`reaches` of a secret names systems; `valetkey blast-radius --format json` lists those there are".into(),
        kind => format!("`valetkey {kind}s` lists those that the daemon has"),
    }
}

fn question(args: &Args) -> Question {
    match (&args.tool, &args.secret, &args.system) {
        (Some(name), _, _) => Question::Tool(name.clone()),
        (_, Some(name), _) => Question::Secret(name.clone()),
        (_, _, Some(name)) => Question::System(name.clone()),
        _ => Question::Everything,
    }
}

/// Facts of another configuration, with what is held and used now: it is judged by the same.
fn other(path: &Path, now: &Facts) -> Result<Facts, Failure> {
    let file = if path.is_dir() { path.join("valetkey.toml") } else { path.to_path_buf() };
    let mut facts = Facts::of_config(&read_config(&file)?, &now.host, now.made);
    facts.sessions.clone_from(&now.sessions);
    facts.usage.clone_from(&now.usage);
    for secret in &mut facts.secrets {
        let same = now.secrets.binary_search_by(|one| one.name.cmp(&secret.name));
        secret.current = same.ok().and_then(|place| now.secrets[place].current.clone());
    }
    Ok(facts)
}

fn pseudonymise(given: &mut Given, other: Option<Facts>, question: &Question) -> Result<(Option<Facts>, Question), Failure> {
    let mut key = [0; 32];
    let no_key = |_| Failure::new(FAILED, "the system gives no random numbers", "try again");
    aws_lc_rs::rand::fill(&mut key).map_err(no_key)?;
    let by = Pseudonyms::new(&key);
    let bad = |bad: crate::name::BadName| Failure::new(FAILED, bad.to_string(), "try again: another key makes other names");
    given.facts = by.facts(&given.facts, &given.weights).map_err(bad)?;
    let other = other.map(|other| by.facts(&other, &given.weights)).transpose().map_err(bad)?;
    by.weights(&mut given.weights);
    given.exclusions = by.exclusions(&given.exclusions);
    Ok((other, by.question(question)))
}

fn form(document: &Document<'_>, question: &Question, format: Format) -> Result<Vec<u8>, Failure> {
    Ok(match format {
        Format::Text => document.text().into_bytes(),
        Format::Json => json(document)?,
        Format::Html => blast::html(document, question).map_err(std::io::Error::other)?.into_bytes(),
        Format::Svg => blast::svg(document).into_bytes(),
        Format::Mermaid => blast::mermaid(document).into_bytes(),
        Format::Dot => blast::dot(document).into_bytes(),
        Format::Sarif => json(&blast::sarif(document))?,
        Format::Opengraph => json(&blast::opengraph(document))?,
    })
}

/// JSON for people and for programs.
pub fn json(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    blast::write_json(&mut text, value)?;
    Ok(text)
}

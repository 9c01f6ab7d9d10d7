//! `valetkey audit`: verify the log, follow it, ask it, and print the key that seals it. It reads files alone, and asks no daemon.

mod show;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use serde::Serialize;

use super::{DENIED, FAILED, Failure, Outcome, USAGE, blast, when};
use crate::{
    audit::{
        Kind, PublicKey, Tip,
        disk::Directory,
        read::{Filter, Follow, Summary, Wanted, query},
        verify::{How, Verified, verify},
    },
    config, daemon,
    peer::Sha256,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  valetkey audit verify                                    is the log what was written?\n  \
    valetkey audit verify ./copy --public-key key.pub        of a copy, on another host\n  \
    valetkey audit tail -f                                   what happens now\n  \
    valetkey audit query --secret stripe/api-key --since 7d  who was given it in the last week\n  \
    valetkey audit query --outcome denied --summary          who was refused, counted\n  \
    valetkey audit usage --since 90d --output usage.json     what was used, for `valetkey suggest` in a review\n  \
    valetkey audit key                                       what others need to verify it")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The daemon's configuration, which says where the log is
    #[arg(long, value_name = "FILE", default_value = daemon::DEFAULT_CONFIG, global = true)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that nothing in the log was changed, dropped, inserted, reordered or cut off; exit code 3 where something was
    Verify(VerifyArgs),
    /// Show the last records, and with -f those to come
    Tail(TailArgs),
    /// Show the records that fit, or count them
    Query(QueryArgs),
    /// Print what tools used of their grants, as JSON for `valetkey blast-radius --usage` elsewhere
    Usage(UsageArgs),
    /// Print the public half of the key that seals the log
    Key(KeyArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It needs the files and the public key alone. Records after the last signature (of the last second, where the daemon runs) are chained, but \
    whether some of them are missing cannot be told. An older copy of the whole directory is whole in itself: --anchor tells it from the present one.\n\n\
    Example:\n  valetkey audit verify --json | jq -r '.last'           keep this elsewhere, for --anchor"
)]
struct VerifyArgs {
    /// The log's directory, or a copy [default: that of the configuration]
    dir: Option<PathBuf>,
    /// A public key: a PEM file, or `ed25519:` and 64 hex digits; repeat it where the log was sealed with several
    #[arg(long = "public-key", value_name = "FILE|TEXT")]
    public_keys: Vec<String>,
    /// A record that is known from elsewhere, and must be there: its number and its hash
    #[arg(long, value_name = "SEQ:SHA256", value_parser = anchor)]
    anchor: Option<Tip>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Begin with so many of the last records
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: usize,
    /// The log's directory [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the records as they stand in the log
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Times: how long ago (`2h`, `30d`), or RFC 3339 in UTC, as far as you like: 2026-01-02, 2026-01-02T03:04:05Z.\n\n\
    Examples:\n  valetkey audit query --tool billing --since 1d --event secret.handed-out\n  \
    valetkey audit query --session 0123456789abcdef0123456789abcdef --json | jq .secret\n  \
    valetkey audit query --since 2026-01-01 --until 2026-02-01 --summary --json"
)]
struct QueryArgs {
    #[arg(long)]
    tool: Option<String>,
    #[arg(long)]
    secret: Option<String>,
    /// 32 hex digits
    #[arg(long)]
    session: Option<String>,
    /// Such as secret.handed-out; docs/audit.md lists them
    #[arg(long, value_parser = event)]
    event: Option<String>,
    #[arg(long, value_parser = ["success", "denied", "failure"])]
    outcome: Option<String>,
    /// Not before
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<SystemTime>,
    /// Before
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    until: Option<SystemTime>,
    /// Count instead: by event, outcome, tool and secret
    #[arg(long)]
    summary: bool,
    /// The log's directory [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON: the records as they stand in the log, or one object of counts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct UsageArgs {
    /// Not before
    #[arg(long, value_name = "TIME", value_parser = when::parse, default_value = "90d")]
    since: SystemTime,
    /// The log's directory [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    target: blast::Target,
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// As PEM, for other tools
    #[arg(long)]
    pem: bool,
}

pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Verify(verify) => self::verify_log(args, verify),
        Command::Tail(tail) => self::tail(args, tail),
        Command::Query(query) => self::ask(args, query),
        Command::Usage(usage) => {
            let found = blast::used_of_log(&args.directory(usage.dir.as_ref())?, Some(usage.since))?;
            let empty = || Failure::new(FAILED, "the audit log is empty", "`directory` in [audit] says where it is");
            blast::write(&usage.target, &blast::json(&found.ok_or_else(empty)?.form())?)
        }
        Command::Key(key) => {
            let public = args.public_key()?;
            let text = if key.pem { public.to_pem() } else { format!("{public}\n") };
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
    }
}

impl Args {
    fn settings(&self) -> config::AuditSettings {
        // A log can be read where no configuration is, or one that is not right: then it is where it is by default.
        config::load(&self.config).map(|config| config.audit).unwrap_or_default()
    }

    fn directory(&self, named: Option<&PathBuf>) -> Result<Directory, Failure> {
        let path = named.cloned().unwrap_or_else(|| daemon::audit_directory(&self.settings()));
        let hint = "run as root or the daemon's user, or name the directory; `directory` in [audit] says where it is";
        Directory::read_only(&path).map_err(|bad| Failure::new(FAILED, bad.to_string(), hint))
    }

    fn public_key(&self) -> Result<PublicKey, Failure> {
        let file = daemon::audit_public_key_file(&self.settings());
        read_key(&file.display().to_string())
    }
}

fn read_key(text: &str) -> Result<PublicKey, Failure> {
    let hint = "the daemon writes it beside the log's directory, and says it in: valetkey status --json";
    let key = match text.starts_with("ed25519:") {
        true => PublicKey::parse(text),
        false => {
            let pem = std::fs::read_to_string(text);
            let pem = pem.map_err(|error| Failure::new(FAILED, format!("cannot read the public key {text}: {error}"), hint))?;
            PublicKey::parse(&pem)
        }
    };
    key.map_err(|bad| Failure::new(USAGE, bad.to_string(), hint))
}

fn anchor(text: &str) -> Result<Tip, String> {
    let wrong = || "a record's number, a colon, and 64 hex digits".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Tip { seq: seq.parse().map_err(|_| wrong())?, hash: hash.parse::<Sha256>().map_err(|_| wrong())? })
}

fn event(text: &str) -> Result<String, String> {
    let known = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    Kind::named(text).map(|kind| kind.as_str().into()).ok_or_else(|| format!("there is none of that name; there are {}", known()))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Serialize)]
struct Report {
    whole: bool,
    sealed: bool,
    files: usize,
    records: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    /// As `--anchor` takes it.
    last: String,
    signed_seq: u64,
    unsigned: u64,
    pruned_files: u64,
    torn: u64,
    torn_bytes: u64,
    open_bytes: u64,
    broken: Option<Broken>,
}

#[derive(Serialize)]
struct Broken {
    what: &'static str,
    file: String,
    line: Option<u64>,
    seq: u64,
    detail: String,
}

impl From<&Verified> for Report {
    fn from(found: &Verified) -> Self {
        let broken = found.broken.as_ref().map(|broken| Broken {
            what: broken.what.as_str(),
            file: broken.file.clone(),
            line: (broken.line > 0).then_some(broken.line),
            seq: broken.seq,
            detail: broken.detail.clone(),
        });
        Self {
            whole: found.is_whole(),
            sealed: found.is_sealed(),
            files: found.files,
            records: found.records,
            bytes: found.bytes,
            first_seq: found.first,
            last_seq: found.last.seq,
            last: format!("{}:{}", found.last.seq, found.last.hash),
            signed_seq: found.signed,
            unsigned: found.unsigned(),
            pruned_files: found.pruned,
            torn: found.torn,
            torn_bytes: found.torn_bytes,
            open_bytes: found.open_bytes,
            broken,
        }
    }
}

fn verify_log(args: &Args, VerifyArgs { dir, public_keys, anchor, json }: &VerifyArgs) -> Outcome {
    let disk = args.directory(dir.as_ref())?;
    let keys = match public_keys.as_slice() {
        [] => vec![args.public_key()?],
        given => given.iter().map(|key| read_key(key)).collect::<Result<_, _>>()?,
    };
    let bar = show::Bar::new(&disk);
    let how = How { keys: &keys, threads: threads(), anchor: *anchor, progress: &|bytes| bar.show(bytes) };
    let found = verify(&disk, &how);
    bar.clear();
    let found = found?;
    let text = if *json {
        format!("{}\n", serde_json::to_string_pretty(&Report::from(&found)).map_err(std::io::Error::other)?)
    } else {
        show::verdict(&found)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if found.is_whole() { Ok(()) } else { Err(Failure::silent(DENIED)) }
}

fn tail(args: &Args, TailArgs { follow, lines, dir, json }: &TailArgs) -> Outcome {
    /// How often a file is looked at again.
    const PAUSE: Duration = Duration::from_millis(200);
    let disk = args.directory(dir.as_ref())?;
    let mut following = Follow::from_end(&disk, *lines)?;
    loop {
        let mut text = Vec::new();
        following.read_on(&mut |line| show::push(line, *json, &mut text))?;
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        out.flush()?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask(args: &Args, asked: &QueryArgs) -> Outcome {
    let disk = args.directory(asked.dir.as_ref())?;
    let filter = Filter {
        tool: asked.tool.clone(),
        secret: asked.secret.clone(),
        session: asked.session.clone(),
        event: asked.event.clone(),
        outcome: asked.outcome.clone(),
        since: asked.since,
        until: asked.until,
    };
    let wanted = if asked.summary { Wanted::Counts } else { Wanted::Records };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let summary = query(&disk, &filter, wanted, threads(), &mut |lines| {
        if asked.json {
            return out.write_all(lines);
        }
        let mut text = Vec::new();
        lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()).for_each(|line| show::push(line, false, &mut text));
        out.write_all(&text)
    })?;
    if asked.summary {
        out.write_all(summary_text(&summary, asked.json)?.as_bytes())?;
    }
    out.flush()?;
    if summary.records == 0 && !asked.json && std::io::stdout().is_terminal() {
        out.write_all(b"none\n")?;
    }
    Ok(())
}

fn summary_text(summary: &Summary, json: bool) -> Result<String, Failure> {
    let Summary { records, first, last, events, outcomes, tools, secrets } = summary;
    if json {
        let json = serde_json::json!({
            "records": records, "first": first, "last": last, "events": events, "outcomes": outcomes, "tools": tools, "secrets": secrets,
        });
        return Ok(format!("{}\n", serde_json::to_string_pretty(&json).map_err(std::io::Error::other)?));
    }
    let mut text = format!("{records} records");
    if let (Some(first), Some(last)) = (first, last) {
        text += &format!(", from {first} to {last}");
    }
    text.push('\n');
    for (what, counts) in [("EVENT", events), ("OUTCOME", outcomes), ("TOOL", tools), ("SECRET", secrets)] {
        if !counts.is_empty() {
            let rows: Vec<_> = counts.iter().map(|(word, count)| vec![word.clone(), count.to_string()]).collect();
            text += &format!("\n{}", super::table::layout(&[what, "COUNT"], &rows));
        }
    }
    Ok(text)
}

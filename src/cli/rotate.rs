//! `valetkey rotate`, `rotate-root` and `rollback`: a new value takes the place of an old one while tools run, and it is shown who has moved.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read, Write},
    time::Duration,
};

use serde::Serialize;
use tonic::Streaming;
use zeroize::Zeroizing;

use super::{
    AdminSocket, FAILED, Failure, Outcome, USAGE, block_on, listings, remote,
    table::{or_dash, printable},
    when,
};
use crate::{config, proto::v1};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A rotation goes on in the daemon when this command is interrupted; `valetkey secrets --versions` shows how far it is.\n\
    Exit code: 0 where all that was asked for is rotated, or younger than asked for; 1 where one is not.\n\n\
    Examples:\n  valetkey rotate db/url                          by its `rotation`: a hook, or a generated value\n  \
    valetkey rotate stripe/api-key --stdin < key    a value that you were given\n  \
    valetkey rotate --all-of billing --older-than 90d --dry-run\n  \
    valetkey rotate db/url --json | jq .step        a JSON object on a line for each change"
)]
pub struct RotateArgs {
    /// Names of secrets
    #[arg(value_name = "SECRET", required_unless_present = "all_of")]
    secrets: Vec<String>,
    /// And every secret of this tool for which configuration says where a new value comes from
    #[arg(long, value_name = "TOOL")]
    all_of: Option<String>,
    /// Only those whose version is older, such as 90d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Take the new value from standard input, without the line break at its end
    #[arg(long, conflicts_with_all = ["all_of", "dry_run"])]
    stdin: bool,
    #[command(flatten)]
    asked: listings::Args,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Possible until the old value is retired: while holders move, and for as long as `overlap-at-least` says.\n\n\
    Example:\n  valetkey rollback db/url"
)]
pub struct RollbackArgs {
    /// The secret whose old value is to be current again
    #[arg(value_name = "SECRET")]
    secret: String,
    #[command(flatten)]
    asked: listings::Args,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The password that the engine's configuration was made with is good no more afterwards, and nobody can read the new one: there is no way\n\
    back. What the engine has made goes on. The daemon needs `update` on the path.\n\n\
    Examples:\n  valetkey rotate-root vault database/rotate-root/main --yes\n  valetkey rotate-root vault aws/config/rotate-root --yes"
)]
pub struct RootArgs {
    /// The source, by its name in configuration
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where its API rotates it: MOUNT/rotate-root/NAME, MOUNT/rotate-root or MOUNT/config/rotate-root
    #[arg(value_name = "PATH")]
    path: String,
    /// Do it: nobody can have the old credential back
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    socket: AdminSocket,
}

pub fn root(args: &RootArgs) -> Outcome {
    if !args.yes {
        let what = format!("{} is to change its own credential, and nobody can have the old one back", printable(&args.path));
        return Err(Failure::new(USAGE, what, "say --yes"));
    }
    block_on(async {
        let mut admin = remote::admin(&args.socket.place()?).await?;
        let request = v1::RotateRootRequest { source: args.source.clone(), path: args.path.clone() };
        admin.rotate_root(request).await.map_err(|status| remote::refused(&status))
    })??;
    println!("rotated: {} works with a credential that nobody else knows", printable(&args.path));
    Ok(())
}

/// No value is longer: AWS Secrets Manager stops at 64 KiB.
const LONGEST: u64 = 64 * 1024;
/// As many as an HTTP/2 library may copy into a buffer that lives as long as the connection, and some.
const PAD: usize = 320;

fn age(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(Into::into)
}

pub fn rotate(args: &RotateArgs) -> Outcome {
    let value = if args.stdin { read_value(&args.secrets)? } else { Zeroizing::default() };
    let request = v1::RotateRequest {
        secrets: args.secrets.clone(),
        all_of: args.all_of.clone().unwrap_or_default(),
        older_than: args.older_than.and_then(|age| age.try_into().ok()),
        dry_run: args.dry_run,
        pad: if value.is_empty() { Vec::new() } else { vec![0; PAD] },
        value: value.to_vec(),
    };
    drop(value);
    let ends = block_on(async {
        let mut admin = remote::admin(&args.asked.socket.place()?).await?;
        let told = admin.rotate(request).await.map_err(|status| remote::refused(&status))?;
        follow(told.into_inner(), args.asked.json).await
    })??;
    judge(&ends, &["rotated", "skipped", "planned"], args.asked.json)
}

pub fn rollback(args: &RollbackArgs) -> Outcome {
    let request = v1::RollBackRequest { secret: args.secret.clone() };
    let ends = block_on(async {
        let mut admin = remote::admin(&args.asked.socket.place()?).await?;
        let told = admin.roll_back(request).await.map_err(|status| remote::refused(&status))?;
        follow(told.into_inner(), args.asked.json).await
    })??;
    // Broken off before the new value was current, the old one is too.
    judge(&ends, &["rolled-back", "undone"], args.asked.json)
}

fn read_value(secrets: &[String]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let [_] = secrets else {
        return Err(Failure::new(USAGE, "a value is given for one secret", "valetkey rotate SECRET --stdin < FILE"));
    };
    if std::io::stdin().is_terminal() {
        let what = "standard input is a terminal, and a value would be shown on it";
        return Err(Failure::new(USAGE, what, "valetkey rotate SECRET --stdin < FILE, or through a pipe"));
    }
    let mut value = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 2));
    std::io::stdin().take(LONGEST + 2).read_to_end(&mut value)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    match value.len() {
        0 => Err(Failure::new(USAGE, "standard input is empty", "nothing is rotated to an empty value")),
        length if length as u64 > LONGEST => Err(Failure::new(USAGE, "the value is longer than 64 KiB", "no source takes it")),
        _ => Ok(value),
    }
}

/// How it ended, by secret.
type Ends = BTreeMap<String, String>;

fn judge(ends: &Ends, good: &[&str], json: bool) -> Outcome {
    let bad: Vec<_> = ends.iter().filter(|(_, end)| !good.contains(&end.as_str())).map(|(secret, _)| secret.as_str()).collect();
    match bad.as_slice() {
        [] => Ok(()),
        _ if json => Err(Failure::silent(FAILED)),
        bad => Err(Failure::new(
            FAILED,
            format!("not done: {}", bad.join(", ")),
            "the daemon's log, and `valetkey audit query`, have each step",
        )),
    }
}

/// One line for each change.
#[derive(Serialize)]
pub struct Line<'a> {
    secret: &'a str,
    rotation: Option<&'a str>,
    way: Option<&'a str>,
    step: &'a str,
    end: Option<&'a str>,
    old_version: Option<&'a str>,
    new_version: Option<&'a str>,
    holders: Vec<HolderLine<'a>>,
    moved: usize,
    total: usize,
    started: Option<String>,
    deadline: Option<String>,
    ended: Option<String>,
    old_since: Option<String>,
    failed: u32,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct HolderLine<'a> {
    /// `null`: a unit has it, as a credential.
    session: Option<&'a str>,
    unit: Option<&'a str>,
    tool: &'a str,
    pid: u32,
    by: &'a str,
    version: &'a str,
    told: bool,
    moved: bool,
}

pub fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl<'a> From<&'a v1::Rotation> for Line<'a> {
    fn from(told: &'a v1::Rotation) -> Self {
        let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(ToString::to_string);
        let holder = |holder: &'a v1::RotationHolder| HolderLine {
            session: some(&holder.session),
            unit: some(&holder.unit),
            tool: &holder.tool,
            pid: holder.pid,
            by: &holder.by,
            version: &holder.version,
            told: holder.told,
            moved: holder.moved,
        };
        Self {
            secret: &told.secret,
            rotation: some(&told.rotation),
            way: some(&told.way),
            step: &told.step,
            end: some(&told.end),
            old_version: some(&told.old_version),
            new_version: some(&told.new_version),
            holders: told.holders.iter().map(holder).collect(),
            moved: told.holders.iter().filter(|holder| holder.moved).count(),
            total: told.holders.len(),
            started: time(&told.started),
            deadline: time(&told.deadline),
            ended: time(&told.ended),
            old_since: time(&told.old_since),
            failed: told.failed,
            problem: some(&told.problem),
        }
    }
}

async fn follow(mut told: Streaming<v1::Rotation>, json: bool) -> Result<Ends, Failure> {
    let mut shown = Shown::default();
    let mut ends = Ends::new();
    while let Some(rotation) = told.message().await.map_err(|status| remote::refused(&status))? {
        let text = match json {
            true => serde_json::to_string(&Line::from(&rotation)).map_err(std::io::Error::other)? + "\n",
            false => shown.lines(&rotation),
        };
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
        let end = if rotation.step == "over" { rotation.end } else { "under way".into() };
        ends.insert(rotation.secret, end);
    }
    Ok(ends)
}

/// What was shown already, of each secret.
#[derive(Default)]
struct Shown(BTreeMap<String, Before>);

#[derive(Default)]
struct Before {
    step: String,
    failed: u32,
    /// By session or unit: the line that was shown.
    holders: BTreeMap<String, String>,
}

impl Shown {
    /// What is new, as people read it.
    fn lines(&mut self, told: &v1::Rotation) -> String {
        let before = self.0.entry(told.secret.clone()).or_default();
        let mut lines = Vec::new();
        let (new_step, failed_again) = (before.step != told.step, told.failed > before.failed);
        if told.step == "over" {
            lines.push(over(told));
        } else if (new_step || failed_again) && (told.way == "hook" || !matches!(told.step.as_str(), "set" | "test")) {
            lines.push(doing(told));
        }
        if failed_again {
            lines.push(format!("  failed ({} times), and is tried again: {}", told.failed, printable(&told.problem)));
        }
        for holder in &told.holders {
            let line = moving(holder, &told.new_version);
            let key = if holder.session.is_empty() { &holder.unit } else { &holder.session };
            if before.holders.get(key) != Some(&line) {
                lines.push(format!("  {line}"));
                before.holders.insert(key.clone(), line);
            }
        }
        (before.step, before.failed) = (told.step.clone(), told.failed);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

pub fn doing(told: &v1::Rotation) -> String {
    let v1::Rotation { secret, step, old_version, new_version, .. } = told;
    let moved = || {
        let moved = told.holders.iter().filter(|holder| holder.moved).count();
        let until = told.deadline.as_ref().map(|at| format!(", until {}", when::relative(Some(at)))).unwrap_or_default();
        format!("{moved} of {} holders have moved to {}{until}", told.holders.len(), or_dash(new_version))
    };
    let what = match step.as_str() {
        "create" => format!("making a new value in place of version {old_version}"),
        "set" => "the system is told of it".into(),
        "test" => "it is tested there".into(),
        "finish" => "it becomes current at the source".into(),
        "overlap" | "return" => moved(),
        "retire" => "the old value is retired".into(),
        "restore" => "the old value becomes current again".into(),
        "undo" => "the new value is taken back".into(),
        step => step.to_owned(),
    };
    format!("{secret}: {step}: {what}")
}

/// The process, or the unit that has it; of one beyond this host no number is known.
pub fn place(holder: &v1::RotationHolder) -> String {
    match (holder.session.as_str(), holder.pid) {
        ("", _) => holder.unit.clone(),
        (_, 0) => "over the network".into(),
        (_, pid) => format!("pid {pid}"),
    }
}

fn moving(holder: &v1::RotationHolder, to: &str) -> String {
    let v1::RotationHolder { tool, by, version, told, moved, session, .. } = holder;
    let how = match (moved, told) {
        (true, _) => format!("uses {to}"),
        (false, true) => format!("{version} -> {to}: it has the new one, and has not said that it uses it"),
        (false, false) if session.is_empty() => format!("{version} -> {to}: it has the old one until it is started anew"),
        (false, false) => format!("{version} -> {to}: it does not have the new one yet"),
    };
    format!("{tool} ({}, {by}): {how}", place(holder))
}

fn over(told: &v1::Rotation) -> String {
    let v1::Rotation { secret, end, old_version, new_version, problem, way, .. } = told;
    let why = some(problem).map(|problem| format!(": {}", printable(problem))).unwrap_or_default();
    match end.as_str() {
        "rotated" => format!("{secret}: rotated from {old_version} to {new_version}{why}"),
        "rolled-back" => format!("{secret}: rolled back; the old value is version {new_version} now"),
        "undone" => format!("{secret}: not rotated, all is as it was{why}"),
        "lost" => format!("{secret}: not rotated, somebody else was first{why}"),
        "planned" => {
            let age = told
                .old_since
                .as_ref()
                .map_or_else(|| "of unknown age".into(), |at| format!("made {}", when::relative(Some(at))));
            format!("{secret}: would be rotated ({way}) from version {old_version}, {age}, with {} holders", told.holders.len())
        }
        "skipped" if problem.is_empty() => {
            format!("{secret}: left as it is, version {old_version} was made {}", when::relative(told.old_since.as_ref()))
        }
        "skipped" => format!("{secret}: left as it is{why}"),
        _ => format!("{secret}: refused{why}"),
    }
}

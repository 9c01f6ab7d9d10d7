//! `valetkey redact`: a filter for any text, that knows values. And, for CI, a check that none is in it.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

use super::{AdminSocket, DENIED, FAILED, Failure, Outcome, USAGE, block_on, get, remote, table::layout};
use crate::{
    client::Error,
    daemon,
    name::{SecretName, Version},
    proto::v1::{
        Open, RedactRequest, RedactResponse, Redacted, SessionRequest, broker_client::BrokerClient, session_request::Request,
        session_response::Response,
    },
    redact::{
        Redactor,
        lines::{Clean, Lines},
    },
    secret::SecretValue,
    source::{
        environment::take_from_environment,
        sealed_file::{Identity, SealedFile},
    },
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads standard input and writes it with `[redacted:NAME]` in place of each value, in whatever encoding it stands. Each line \
    goes out when it is complete. Not found: values of fewer than 8 bytes, and what is compressed, encrypted or cut into pieces.\n\n\
    With --check nothing is passed on: what was found is told on standard error (with --json on standard output), never a value. \
    Exit code 3 where anything was found, 0 where nothing was.\n\n\
    Examples:\n  journalctl -u app | valetkey redact                         all that the daemon holds\n  \
    app 2>&1 | valetkey redact --tool app --secret app/key      as a tool; what it may not have is not named\n  \
    valetkey redact --check --variable API_KEY < build.log      in CI, without a daemon\n  \
    valetkey redact --check --shapes=only < build.log           whatever looks like a key, without a daemon\n  \
    valetkey redact --check --json --sealed secrets.sealed --identity identity.key < dump.sql"
)]
pub struct Args {
    /// Ask as this tool, over the tools socket
    #[arg(long, requires = "secrets", conflicts_with_all = ["variables", "sealed"])]
    tool: Option<String>,
    /// With --tool: a secret that is named where it is found; others are taken out without their names
    #[arg(long = "secret", value_name = "NAME", requires = "tool")]
    secrets: Vec<String>,
    /// Without a daemon: look for the value of this environment variable, which is wiped from the environment first
    #[arg(long = "variable", value_name = "NAME", num_args = 1..)]
    variables: Vec<String>,
    /// Without a daemon: look for every value of this sealed file
    #[arg(long, value_name = "FILE", requires = "identity")]
    sealed: Option<PathBuf>,
    /// What opens the sealed file
    #[arg(long, value_name = "FILE", requires = "sealed")]
    identity: Option<PathBuf>,
    /// Also take out what has the shape of a well-known kind of key, whoever it belongs to; `only`: nothing else, and without a daemon
    #[arg(long, value_name = "only", num_args = 0..=1, require_equals = true, default_missing_value = "too")]
    shapes: Option<Shapes>,
    /// Pass nothing on; say what was found, and fail where anything was
    #[arg(long)]
    check: bool,
    /// With --check: print JSON
    #[arg(long, requires = "check")]
    json: bool,
    #[command(flatten)]
    socket: AdminSocket,
}

/// Is what merely looks like a key taken out?
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shapes {
    #[value(hide = true)]
    Too,
    Only,
}

/// Read in one go. What is there is passed on, be it less.
const PIECE: usize = 64 * 1024;
/// Pieces under way to the daemon.
const AHEAD: usize = 4;
/// A line of 8 MiB that is full of placeholders.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Filters, or checks.
pub fn run(args: &Args) -> Outcome {
    let mut result = Sink { check: args.check, found: Found::default() };
    let alone = args.shapes == Some(Shapes::Only);
    if alone && (args.tool.is_some() || args.sealed.is_some() || !args.variables.is_empty()) {
        return Err(Failure::new(USAGE, "--shapes=only looks for no value", "--shapes, to look for both"));
    }
    let skipped = if alone {
        filter(&Redactor::new()?, args, &mut result)?;
        Vec::new()
    } else if args.variables.is_empty() && args.sealed.is_none() {
        block_on(ask_daemon(args, &mut result))??;
        Vec::new()
    } else {
        let (redactor, skipped) = knows(args)?;
        filter(&redactor, args, &mut result)?;
        skipped
    };
    if args.check { conclude(args, &result.found, &skipped) } else { Ok(()) }
}

/// What is looked for without a daemon, and the names of what is too short for it.
fn knows(args: &Args) -> Result<(Redactor, Vec<String>), Failure> {
    let redactor = Redactor::new()?;
    let mut values: Vec<(SecretName, Version, SecretValue)> = Vec::new();
    for variable in &args.variables {
        let name =
            variable.parse().map_err(|bad: crate::name::BadName| Failure::new(USAGE, bad.to_string(), "--variable API_KEY"))?;
        // SAFETY: this command has started no thread yet, and nobody holds a pointer into the environment.
        let value = unsafe { take_from_environment(variable) };
        // A check for something that is not there would find nothing for ever.
        let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
            Failure::new(
                USAGE,
                format!("there is no variable {variable} with a value"),
                "export it to this command, or leave it out",
            )
        })?;
        values.push((name, Version::from(1), value));
    }
    if let (Some(file), Some(identity)) = (&args.sealed, &args.identity) {
        let file = SealedFile::open(file, &Identity::read(identity)?)?;
        for name in file.names() {
            if let Some(value) = file.get(name) {
                let copy = value.expose(SecretValue::copy_from).map_err(|e| Failure {
                    code: FAILED,
                    what: e.to_string(),
                    hint: None,
                })?;
                values.push((name.clone(), Version::from(file.version(name).unwrap_or(0)), copy));
            }
        }
    }
    let learned = redactor.learn_all(values.iter().map(|(name, version, value)| (name, version, value)));
    let short = values.iter().zip(learned).filter(|(_, learned)| learned.too_short);
    let skipped: Vec<_> = short.map(|((name, ..), _)| name.to_string()).collect();
    if skipped.len() == values.len() {
        let what = "there is no value of 8 bytes or more to look for";
        return Err(Failure::new(FAILED, what, "shorter ones would be found in ordinary words"));
    }
    skipped.iter().for_each(|name| eprintln!("valetkey: {name} has fewer than 8 bytes, and is not looked for"));
    Ok((redactor, skipped))
}

fn filter(redactor: &Redactor, args: &Args, sink: &mut Sink) -> Outcome {
    let mut lines = Lines::new(redactor, args.shapes.is_some(), |_| true);
    let mut piece = Zeroizing::new(vec![0; PIECE]);
    loop {
        let length = read(&mut piece)?;
        let clean = match length {
            0 => lines.finish(),
            length => lines.push(&piece[..length]).map_err(|long| Failure::new(FAILED, long.to_string(), "is this a text?"))?,
        };
        let Clean { text, hits } = clean;
        hits.iter().for_each(|hit| sink.found.add(hit.secret.as_str(), hit.form.as_str(), hit.line, 1));
        sink.pass_on(&text)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// From the descriptor: the standard library's buffer is never wiped.
fn read(piece: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match rustix::io::read(std::io::stdin(), &mut *piece) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

async fn ask_daemon(args: &Args, sink: &mut Sink) -> Outcome {
    match &args.tool {
        None => {
            let mut admin = remote::admin(&args.socket.place()?).await?;
            let (text, broken) = input(String::new(), args.shapes.is_some());
            let answers = admin.redact(text).await.map_err(|status| remote::refused(&status))?;
            take(answers.into_inner(), sink, remote::refused).await?;
            whole(&broken)
        }
        Some(tool) => {
            let socket = args.socket.socket.clone().unwrap_or_else(|| daemon::default_socket("tools.sock"));
            let refused = |status: &Status| refused_tool(&socket, status);
            let channel = remote::connect(&socket).await?;
            let mut broker = BrokerClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            // The session is its stream: it must outlive the text.
            let (_stays, requests) = session(tool, &args.secrets);
            let mut opened = broker.session(requests).await.map_err(|status| refused(&status))?.into_inner();
            let first = opened.message().await.map_err(|status| refused(&status))?.and_then(|message| message.response);
            let Some(Response::Opened(session)) = first else {
                return Err(Failure::new(FAILED, "the daemon did not say that the session is open", "is it of another version?"));
            };
            let (text, broken) = input(session.session, args.shapes.is_some());
            let answers = broker.redact(text).await.map_err(|status| refused(&status))?;
            take(answers.into_inner(), sink, refused).await?;
            whole(&broken)
        }
    }
}

fn refused_tool(socket: &Path, status: &Status) -> Failure {
    let gone = || Error::Unreachable { socket: socket.into(), detail: status.message().into() };
    get::failure(&Error::from_status(status).unwrap_or_else(gone))
}

fn session(tool: &str, secrets: &[String]) -> (mpsc::Sender<SessionRequest>, ReceiverStream<SessionRequest>) {
    let (up, requests) = mpsc::channel(1);
    let open = Open { tool: tool.into(), scope: secrets.to_vec(), purpose: "valetkey redact".into(), launch: None };
    // There is room for one.
    let _ = up.try_send(SessionRequest { request: Some(Request::Open(open)) });
    (up, ReceiverStream::new(requests))
}

/// Why standard input could not be read to its end, where it could not.
type Broken = Arc<OnceLock<std::io::Error>>;

/// Standard input as requests. A thread reads it, which ends with the process.
fn input(session: String, shapes: bool) -> (ReceiverStream<RedactRequest>, Broken) {
    let (send, pieces) = mpsc::channel(AHEAD);
    let broken = Broken::default();
    // First and at once: an input that is silent must not look like a caller that is.
    let _ = send.try_send(RedactRequest { session, text: Vec::new(), shapes });
    let problem = broken.clone();
    std::thread::spawn(move || {
        let mut piece = Zeroizing::new(vec![0; PIECE]);
        loop {
            let text = match read(&mut piece) {
                Ok(0) => return,
                Ok(length) => piece[..length].to_vec(),
                Err(error) => return drop(problem.set(error)),
            };
            if send.blocking_send(RedactRequest { text, ..RedactRequest::default() }).is_err() {
                return;
            }
        }
    });
    (ReceiverStream::new(pieces), broken)
}

/// A check of half a text must not pass for one of the whole.
fn whole(broken: &Broken) -> Outcome {
    match broken.get() {
        None => Ok(()),
        Some(error) => Err(Failure { code: FAILED, what: format!("standard input cannot be read: {error}"), hint: None }),
    }
}

async fn take(mut answers: Streaming<RedactResponse>, sink: &mut Sink, refused: impl Fn(&Status) -> Failure) -> Outcome {
    while let Some(RedactResponse { text, found }) = answers.message().await.map_err(|status| refused(&status))? {
        for Redacted { name, encoding, line, count, .. } in &found {
            sink.found.add(name, encoding, *line, *count);
        }
        sink.pass_on(&text)?;
    }
    Ok(())
}

/// Where clean text goes, and what is remembered of it.
struct Sink {
    check: bool,
    found: Found,
}

impl Sink {
    fn pass_on(&mut self, text: &[u8]) -> std::io::Result<()> {
        if self.check || text.is_empty() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text)?;
        out.flush()
    }
}

/// By name and form: how often, and the first lines. A text without end must not fill the memory.
#[derive(Default)]
struct Found(BTreeMap<(String, String), (u64, Vec<u64>)>);

const LINES_TOLD: usize = 100;

impl Found {
    fn add(&mut self, name: &str, form: &str, line: u64, count: u64) {
        let (total, lines) = self.0.entry((name.to_owned(), form.to_owned())).or_default();
        *total += count;
        if lines.len() < LINES_TOLD && lines.last() != Some(&line) {
            lines.push(line);
        }
    }
}

#[derive(Serialize)]
struct Summary {
    found: Vec<Row>,
    /// Too short.
    not_looked_for: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    /// `null`: of a secret that this tool may not have.
    secret: Option<String>,
    form: Option<String>,
    count: u64,
    /// The first hundred.
    lines: Vec<u64>,
}

fn conclude(args: &Args, found: &Found, skipped: &[String]) -> Outcome {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let row = |((secret, form), (count, lines)): (&(String, String), &(u64, Vec<u64>))| Row {
        secret: some(secret),
        form: some(form),
        count: *count,
        lines: lines.clone(),
    };
    let summary = Summary { found: found.0.iter().map(row).collect(), not_looked_for: skipped.to_vec() };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary).map_err(std::io::Error::other)?);
    } else if !summary.found.is_empty() {
        eprint!("{}", text(&summary.found));
    }
    if summary.found.is_empty() { Ok(()) } else { Err(Failure::silent(DENIED)) }
}

fn text(rows: &[Row]) -> String {
    let lines = |row: &Row| {
        let shown: Vec<_> = row.lines.iter().take(10).map(u64::to_string).collect();
        shown.join(", ") + if row.lines.len() > 10 { ", ..." } else { "" }
    };
    let row = |row: &Row| {
        let name = row.secret.clone().unwrap_or_else(|| "(not named to this tool)".into());
        vec![name, row.form.clone().unwrap_or_else(|| "-".into()), row.count.to_string(), lines(row)]
    };
    layout(&["SECRET", "FORM", "TIMES", "LINES"], &rows.iter().map(row).collect::<Vec<_>>())
}

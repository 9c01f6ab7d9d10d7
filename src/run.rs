//! `valetkey run`: the launcher that stands in front of an unmodified MCP server, and cleans what the server says.
//!
//! It is a program of its own, small and linked statically where that is asked for, because it lives beside each tool and must start
//! at once. What it does not know, the operator's commands do: they are in the daemon's program, under the name `valetkey`.
#![expect(clippy::print_stderr, reason = "a launcher speaks here; the library logs")]

mod arguments;
mod clean;
pub mod deliver;
mod environment;
mod operator;
mod privileges;
pub mod process;
mod relay;
pub mod sandbox;
mod session;
mod terminal;
mod tool;

use std::{process::ExitCode, sync::Arc};

pub use arguments::Arguments;

use crate::{
    client::{Error, Secret},
    proto::v1::{OnRedaction, OnRotation},
    redact::Redactor,
    secret,
};
use clean::Cleaner;
use environment::BadVariable;
use process::{Event, Guardian, NotStarted, Sender, Signals};
use session::{Granted, News, Taken};
use tool::Tool;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DENIED: u8 = 3;
const UNREACHABLE: u8 = 4;

/// Why nothing was started, and what to do.
struct Failure {
    code: u8,
    what: String,
    hint: String,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Some(arguments) => launch(arguments),
        None => {
            let failed = operator::become_it();
            say(&failed.to_string(), "install valetkeyd beside valetkey: it holds every command but `run`");
            ExitCode::from(FAILED)
        }
    }
}

/// Launches a tool, and stays until it has ended.
pub fn launch(arguments: Arguments) -> ExitCode {
    // Before the first value is in this process, nobody else of this user may read its memory.
    let _ = secret::harden::deny_inspection();
    match start(arguments) {
        Ok(code) => code,
        Err(Failure { code, what, hint }) => {
            say(&what, &hint);
            ExitCode::from(code)
        }
    }
}

/// The whole story. Whatever is forked off, is so before there is a secret in this process, or it would have a copy of it.
fn start(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { tool, command, socket, inherit, keep_running } = arguments;
    let granted = session::open(&tool, words(command)?, socket)?;
    // Who becomes the tool needs none.
    let guardian = granted.plan.redact.then(Guardian::new).transpose()?;
    let tool = Tool::prepare(granted.plan.clone(), inherit, keep_running)?;
    let (secrets, redactor) = granted.fetch(|| guardian.is_some().then(Redactor::streaming).transpose())?;
    secrets.iter().try_for_each(|secret| tool.take(secret))?;
    let Some((guardian, redactor)) = guardian.zip(redactor?) else {
        let start = tool.start()?;
        return Err(process::replace(&start, None).into());
    };
    // Not before: until now an interrupt ends the launcher at once. And not after the first thread.
    let signals = Signals::hold()?;
    stand_by(tool, &secrets, granted, guardian, redactor, &signals)
}

/// Starts the tool, and filters what it writes until it has ended.
fn stand_by(
    tool: Tool,
    secrets: &[Secret],
    granted: Granted,
    guardian: Guardian,
    redactor: Redactor,
    signals: &Signals,
) -> Result<ExitCode, Failure> {
    let (sender, events) = process::channel()?;
    let launched = process::launch(guardian, signals, &tool.start()?, &events)?;
    // The rest is done while the tool starts. What it writes waits in its pipes until then.
    learn(&redactor, secrets);
    let tool = Arc::new(tool);
    let (told, known) = (tool.clone(), redactor.clone());
    let followed = granted.follow(sender.begun(), move |news| hear(news, &told, &known, &sender));
    let followed = followed.map_err(|error| Failure { hint: "the tool was stopped again".into(), ..error.into() })?;
    let stops = tool.plan().on_redaction() == OnRedaction::Stop;
    let mut cleaner = Cleaner::new(redactor, tool.plan().redact_shapes, stops, followed.reporter());
    let ended = launched.supervise(&mut cleaner);
    let refused = cleaner.why_it_stops();
    drop(cleaner);
    followed.finish();
    if let Some((what, hint)) = refused {
        say(what, hint);
    }
    Ok(ExitCode::from(ended?.code))
}

fn learn(redactor: &Redactor, secrets: &[Secret]) {
    let parsed = |secret: &Secret| Some((secret.name().parse().ok()?, secret.version().parse().ok()?));
    let named: Vec<_> = secrets.iter().filter_map(|secret| parsed(secret).zip(Some(secret))).collect();
    // Which values are too short to be found is for the daemon to say, when it loads them.
    let _ = redactor.learn_all(named.iter().map(|((name, version), secret)| (name, version, secret.value())));
}

/// What comes from the daemon while the tool runs, on the session's thread. Says whether the tool has it.
fn hear(news: News<'_>, tool: &Tool, redactor: &Redactor, sender: &Sender) -> Taken {
    match news {
        News::Changed(secret) => {
            // The old version stays known: the tool may have kept it.
            learn(redactor, std::slice::from_ref(secret));
            let taken = rotate(secret, tool, sender);
            taken.unwrap_or_else(|Failure { what, hint, .. }| {
                say(&what, &hint);
                Taken::No
            })
        }
        News::Ended(error) => {
            say(&error.to_string(), "the tool is stopped: it may no longer have what it holds");
            sender.send(Event::Stop);
            Taken::No
        }
    }
}

/// Brings a new version to the tool as policy wants it.
fn rotate(secret: &Secret, tool: &Tool, sender: &Sender) -> Result<Taken, Failure> {
    let on_rotation = tool.plan().on_rotation();
    match on_rotation {
        OnRotation::Restart | OnRotation::Rewrite | OnRotation::Signal => tool.take(secret)?,
        OnRotation::NotifyOnly | OnRotation::Unspecified => {
            let what = format!("{} has a new version, {}", secret.name(), secret.version());
            say(&what, "the tool has the old one until it is started anew: on-rotation in its policy can do that");
            return Ok(Taken::No);
        }
    }
    match on_rotation {
        OnRotation::Restart => return Ok(Taken::With(sender.restart(Box::new(tool.start()?)))),
        OnRotation::Signal => sender.send(Event::Signal(tool.plan().rotation_signal)),
        _ => {}
    }
    // What stands in the environment of a process cannot be changed.
    Ok(if tool.reads_anew(secret) { Taken::Put } else { Taken::No })
}

/// The command as the daemon can be asked for it.
fn words(command: Vec<std::ffi::OsString>) -> Result<Vec<String>, Failure> {
    let words = command.into_iter().map(|word| word.into_string());
    words.collect::<Result<_, _>>().map_err(|_| Failure {
        code: USAGE,
        what: "the command holds bytes that are not UTF-8".into(),
        hint: "put it into a script, and run that".into(),
    })
}

fn say(what: &str, hint: &str) {
    eprintln!("valetkey: {what}\n  hint: {hint}");
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Unreachable { .. } | Error::RemoteUnreachable { .. } | Error::TimedOut(_) => {
                (UNREACHABLE, "systemctl status valetkeyd; or --socket PATH for one that listens elsewhere")
            }
            // It says what to do by itself.
            Error::Denied { reason, .. } if reason == "COMMAND_NOT_ALLOWED" => (DENIED, "nothing was started"),
            Error::Denied { .. } => (DENIED, "an operator can ask: valetkey explain TOOL SECRET"),
            Error::Limited { .. } => (DENIED, "the limit is the tool's `limits` in its policy file"),
            Error::BadRequest(_) => (USAGE, "valetkey run --help"),
            _ => (FAILED, "nothing was started; the daemon's log may say more"),
        };
        Self { code, what: error.to_string(), hint: hint.into() }
    }
}

impl From<NotStarted> for Failure {
    fn from(error: NotStarted) -> Self {
        let hint = match error.code() {
            127 => "give its whole path, or a PATH in which it is: environment = [\"PATH=...\"] in policy",
            _ => "the tool was not started",
        };
        Self { code: error.code(), what: error.to_string(), hint: hint.into() }
    }
}

impl From<BadVariable> for Failure {
    fn from(error: BadVariable) -> Self {
        Self { code: FAILED, what: error.to_string(), hint: "in its grant: { file = \"NAME_FILE\" }".into() }
    }
}

impl From<deliver::Error> for Failure {
    fn from(error: deliver::Error) -> Self {
        Self { code: FAILED, what: error.to_string(), hint: error.hint().into() }
    }
}

impl From<sandbox::Error> for Failure {
    fn from(error: sandbox::Error) -> Self {
        Self { code: FAILED, what: error.to_string(), hint: error.hint().into() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: FAILED, what: error.to_string(), hint: "nothing was started".into() }
    }
}

impl Failure {
    fn nothing_to_run() -> Self {
        let what = "the broker named no command that can be run".into();
        Self { code: FAILED, what, hint: "it is of another version: restart it after an upgrade".into() }
    }
}

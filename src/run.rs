//! `valetkey run`: the launcher that stands in front of an unmodified MCP server, and cleans what the server says.
//!
//! It is a program of its own, small and linked statically where that is asked for, because it lives beside each tool and must start
//! at once. What it does not know, the operator's commands do: they are in the daemon's program, under the name `valetkey`.
#![expect(clippy::print_stderr, reason = "a launcher speaks here; the library logs")]

mod arguments;
mod environment;
mod operator;
pub mod sandbox;
mod session;

use std::process::ExitCode;

pub use arguments::Arguments;

use crate::{client::Error, secret};

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

fn start(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { tool, command, socket, inherit } = arguments;
    let command = command.into_iter().map(|word| word.into_string());
    let command = command.collect::<Result<Vec<_>, _>>().map_err(|_| Failure {
        code: USAGE,
        what: "the command holds bytes that are not UTF-8".into(),
        hint: "put it into a script, and run that".into(),
    })?;
    let granted = session::open(&tool, command, socket).map_err(Failure::from)?;
    let _ = (granted, inherit);
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str, hint: &str) {
    eprintln!("valetkey: {what}\n  hint: {hint}");
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Unreachable { .. } | Error::TimedOut(_) => {
                (UNREACHABLE, "systemctl status valetkeyd; or --socket PATH for one that listens elsewhere")
            }
            Error::Denied { .. } => (DENIED, "an operator can ask: valetkey explain TOOL SECRET"),
            Error::Limited { .. } => (DENIED, "the limit is the tool's `limits` in its policy file"),
            Error::BadRequest(_) => (USAGE, "valetkey run --help"),
            _ => (FAILED, "nothing was started; the daemon's log may say more"),
        };
        Self { code, what: error.to_string(), hint: hint.into() }
    }
}

//! `valetkey get`: one secret for a script, as a tool.

use std::{io::Write, path::PathBuf};

use super::{DENIED, FAILED, Failure, Outcome, UNREACHABLE, USAGE, block_on, keep_off_terminals};
use crate::client::{Client, Error};

#[derive(Debug, clap::Args)]
#[command(after_help = "The calling process must be what the tool's `run-as` says: this command is no way around policy.\n\n\
    Example:\n  STRIPE_KEY=$(valetkey get stripe/api-key --tool billing) ./report")]
pub struct Args {
    /// The secret's name
    secret: String,
    /// The tool this process acts as
    #[arg(long)]
    tool: String,
    /// Print even where standard output is a terminal
    #[arg(long)]
    reveal: bool,
    /// Why, for the operator's listings
    #[arg(long, default_value = "valetkey get")]
    purpose: String,
    /// The daemon's tools socket [default: /run/valetkey/tools.sock, or ~/.local/state/valetkey/run/tools.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub fn run(args: &Args) -> Outcome {
    let mut out = std::io::stdout();
    keep_off_terminals(args.reveal)?;
    let client = args.socket.as_ref().map_or_else(Client::new, Client::at);
    block_on(async {
        let session =
            client.session(&args.tool).secret(&args.secret).purpose(&args.purpose).open().await.map_err(|e| failure(&e))?;
        let secret = session.get(&args.secret).await.map_err(|e| failure(&e))?;
        secret.expose(|value| out.write_all(value).and_then(|()| out.flush()))?;
        Ok(())
    })?
}

/// A client's error as an exit code and a hint.
pub fn failure(error: &Error) -> Failure {
    let (code, hint) = match error {
        Error::RemoteUnreachable { .. } => (UNREACHABLE, "the daemon's log says whether it was asked, and why it refused"),
        Error::Unreachable { .. } | Error::TimedOut(_) => {
            (UNREACHABLE, "systemctl status valetkeyd; or --socket PATH for one that listens elsewhere")
        }
        Error::Denied { .. } => (DENIED, "an operator can ask: valetkey explain TOOL SECRET"),
        Error::Limited { .. } => (DENIED, "the limit is the tool's `limits` in its policy file"),
        Error::BadRequest(_) => (USAGE, "valetkey tools and valetkey secrets list the names"),
        Error::ApprovalPending { .. } => (DENIED, "ask an operator, and then again; `valetkey approvals` lists what waits"),
        Error::NotOnRecord { .. } => {
            (FAILED, "mend the disk of the audit log; an operator can see what is wrong with: valetkey status")
        }
        _ => (FAILED, "the daemon's log may say more"),
    };
    Failure::new(code, error.to_string(), hint)
}

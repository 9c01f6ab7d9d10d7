//! The `valetkey` command: one file for each of its commands.
//!
//! Every listing takes `--json`. Exit codes: 0 ok, 1 failed, 2 usage, 3 denied or found, 4 the broker cannot be reached. An error is
//! one line that says what happened and one that says what to do.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "commands speak here; the library logs")]

mod adopt;
mod approve;
mod audit;
mod blast;
mod check;
mod contain;
mod demo;
mod doctor;
mod explain;
mod get;
mod lint;
mod listings;
mod login;
mod operate;
mod profile;
mod redact;
mod remote;
mod rotate;
mod run;
mod seal;
mod suggest;
mod table;
mod token;
mod units;
mod versions;
mod when;

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::{ExitCode, Termination},
};

use clap::{CommandFactory, Parser, Subcommand};

use crate::daemon;
use remote::Place;

/// A secrets broker for MCP tool servers: each tool gets only what its scope and your policy both allow.
#[derive(Debug, Parser)]
#[command(name = "valetkey", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 denied or found, 4 the broker cannot be reached.\n\n\
    Examples:\n  valetkey demo                                the whole story on this machine, in seconds\n  \
    valetkey adopt --dry-run .mcp.json           what an MCP client's file holds, and what would become of it\n  \
    valetkey check --config ./valetkey.toml      every mistake in a configuration\n  \
    valetkey explain billing stripe/api-key      which line of policy allows it, or what is missing\n  \
    valetkey sessions --json | jq                who holds what now\n  \
    valetkey audit query --secret stripe/api-key who was given it, and when")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole story on this machine: a sealed file, a daemon, a tool, a denial, a map; then clean up
    Demo(demo::Args),
    /// Start an MCP server, or anything, with only its credentials, and clean what it says
    Run(run::Args),
    /// Take the secrets out of an MCP client's file, and start its servers through `valetkey run`; with an exact way back
    Adopt(adopt::Args),
    /// Get one secret as a tool, on standard output, for scripts
    Get(get::Args),
    /// Show how the daemon is: version, protection, counts, and how it goes with each source
    Status(listings::Args),
    /// List the tools of the policy and what each has taken
    Tools(listings::Args),
    /// List the secrets in memory, their versions, their age and who holds them; never a value
    Secrets(listings::SecretsArgs),
    /// List the open sessions: which process, which tool, which versions
    Sessions(listings::Args),
    /// Validate configuration and policy with the daemon's own loader, offline
    Check(check::Args),
    /// Would this tool get this secret? By which line of policy, or what is missing?
    Explain(explain::Args),
    /// Show what can be reached: if a tool is compromised, if a secret leaked, if another policy were in force
    BlastRadius(blast::Args),
    /// Find what is wider than it need be in policy, each at its line
    Lint(lint::Args),
    /// Print the least policy that what a tool used needs, as a difference
    Suggest(suggest::Args),
    /// Make the daemon ask its sources now whether what it holds is current
    Refresh(operate::RefreshArgs),
    /// Rotate secrets while their tools run, and show who has moved to the new version
    Rotate(rotate::RotateArgs),
    /// Have an engine of Vault or OpenBao change the credential by which it works
    RotateRoot(rotate::RootArgs),
    /// Have the old value of a secret back that is being rotated
    Rollback(rotate::RollbackArgs),
    /// Make the daemon read configuration and sources again
    Reload(operate::ReloadArgs),
    /// End a session, all sessions of a tool, or drop a secret's value from memory
    Revoke(operate::RevokeArgs),
    /// Cut a tool off: end its sessions, let it open none, rotate what it holds, and say what is still good of it
    Contain(contain::ContainArgs),
    /// Let a tool that was contained open sessions again
    Release(contain::ReleaseArgs),
    /// Start units anew, or reload them, whose credential has a new version; what valetkey-rotated.service runs
    RestartUnits(units::Args),
    /// List the hand-outs that wait for an operator, and the approvals that stand
    Approvals(listings::Args),
    /// Let a hand-out through that waits, for some time
    Approve(approve::ApproveArgs),
    /// Say no to a hand-out that waits
    Deny(approve::DenyArgs),
    /// Log in at the identity provider of a profile, for a broker on another host
    Login(login::Args),
    /// Issue, list and revoke tokens for callers over the network
    Token(token::Args),
    /// Verify the audit log, follow it, or ask it who was given what
    Audit(audit::Args),
    /// Take values out of a text: standard input to standard output; or check that none is in it
    Redact(redact::Args),
    /// Edit a sealed file: init, set, remove, list
    Seal(seal::SealArgs),
    /// Print one secret of a sealed file
    Unseal(seal::UnsealArgs),
    /// Show what this host gives: memory protection, attestation, limits, sockets, and what to do
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  valetkey completions bash > /usr/share/bash-completion/completions/valetkey")]
    Completions { shell: clap_complete::Shell },
    /// What `demo` runs as its tool and as its daemon
    #[command(hide = true)]
    DemoPart(demo::PartArgs),
}

/// Why a command failed, and what to do.
#[derive(Debug)]
struct Failure {
    code: u8,
    what: String,
    hint: Option<String>,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DENIED: u8 = 3;
const UNREACHABLE: u8 = 4;

impl Failure {
    fn new(code: u8, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: Some(hint.into()) }
    }

    /// Fails with this code, when what there is to say has been said.
    fn silent(code: u8) -> Self {
        Self { code, what: String::new(), hint: None }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: FAILED, what: error.to_string(), hint: None }
    }
}

type Outcome = Result<(), Failure>;

/// Is this program called as the operator's command? It is so under every name but the daemon's own, and under that where the first
/// word is a command.
pub fn is_called() -> bool {
    let mut words = std::env::args_os();
    let name = words.next().map(PathBuf::from);
    let by_name = name.and_then(|name| name.file_name().map(|name| name != "valetkeyd")).unwrap_or(false);
    by_name || words.next().is_some_and(|word| !word.as_encoded_bytes().starts_with(b"-"))
}

/// The command line itself, for the pages that are made of it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // The demo's daemon and tools are to be as such programs are, and the launcher sees to itself.
    if !matches!(cli.command, Command::DemoPart(_) | Command::Run(_)) {
        // A closed pipe ends a listing quietly, as it does for other commands. It must not end a daemon whose caller hangs up.
        // SAFETY: no other thread runs yet, and the default disposition has no handler to be safe in.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // What it could not do, `doctor` says.
        let _ = crate::secret::harden_process();
    }
    let outcome = match cli.command {
        Command::DemoPart(args) => return demo::part(args),
        Command::Run(args) => return run::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Adopt(args) => adopt::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Status(args) => listings::status(&args),
        Command::Tools(args) => listings::tools(&args),
        Command::Secrets(args) => listings::secrets(&args),
        Command::Sessions(args) => listings::sessions(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::BlastRadius(args) => blast::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Suggest(args) => suggest::run(&args),
        Command::Refresh(args) => operate::refresh(&args),
        Command::Rotate(args) => rotate::rotate(&args),
        Command::RotateRoot(args) => rotate::root(&args),
        Command::Rollback(args) => rotate::rollback(&args),
        Command::Reload(args) => operate::reload(&args),
        Command::Revoke(args) => operate::revoke(&args),
        Command::Contain(args) => contain::contain(&args),
        Command::Release(args) => contain::release(&args),
        Command::RestartUnits(args) => units::run(&args),
        Command::Approvals(args) => approve::list(&args),
        Command::Approve(args) => approve::approve(&args),
        Command::Deny(args) => approve::deny(&args),
        Command::Login(args) => login::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Redact(args) => redact::run(&args),
        Command::Seal(args) => seal::seal(&args),
        Command::Unseal(args) => seal::unseal(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "valetkey", &mut std::io::stdout());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS.report(),
        Err(Failure { code, what, hint }) => {
            if !what.is_empty() {
                eprintln!("valetkey: {what}");
            }
            if let Some(hint) = hint {
                eprintln!("  hint: {hint}");
            }
            ExitCode::from(code)
        }
    }
}

/// The admin socket's option, shared by every command that asks the daemon.
#[derive(Debug, clap::Args)]
struct AdminSocket {
    /// The daemon's admin socket [default: /run/valetkey/admin.sock, or ~/.local/state/valetkey/run/admin.sock]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// A broker on another host, by its name in ~/.config/valetkey/profiles.toml
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "socket")]
    profile: Option<String>,
}

impl AdminSocket {
    fn place(&self) -> Result<Place, Failure> {
        match &self.profile {
            Some(name) => profile::read(name).map(Place::Remote),
            None => Ok(Place::Socket(self.socket.clone().unwrap_or_else(|| daemon::default_socket("admin.sock")))),
        }
    }
}

/// Refuses to print a value where it would stay on a screen, unless told to.
fn keep_off_terminals(reveal: bool) -> Outcome {
    if std::io::stdout().is_terminal() && !reveal {
        let what = "standard output is a terminal, and a value would stay on it";
        return Err(Failure::new(USAGE, what, "pipe it on, or say --reveal"));
    }
    Ok(())
}

/// Runs one call on a small runtime of its own.
fn block_on<T>(call: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(call))
}

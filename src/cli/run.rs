//! `valetkey run`, as far as the operator's commands know it: its help, its completion, and what is wrong with a command line. The
//! launcher itself is [`crate::run`], in a program of its own.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use crate::run::{self, Arguments};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The tool starts with a short list of variables (HOME, LANG, LANGUAGE, LC_*, LOGNAME, PATH, SHELL, TERM, TMPDIR, TZ, USER), what \
`environment` in its policy adds, and its secrets, delivered as its grants say: env, file or fd. What it writes to standard output and \
standard error passes a filter that takes out every value it was given, however it is written. Nothing is started where a secret \
cannot be had.\n\n\
Exit code: that of the tool; 128+n where signal n ended it; 126 and 127 where it cannot be executed or found. Where nothing was \
started: 1 failed, 2 usage, 3 denied, 4 the broker cannot be reached.\n\n\
Examples:\n  \
valetkey run github                              the command that policy gives\n  \
valetkey run github -- npx -y @modelcontextprotocol/server-github\n  \
\"command\": \"valetkey\", \"args\": [\"run\", \"github\"]   in an MCP client's configuration")]
pub struct Args {
    /// The tool, as policy names it: [tool.NAME]
    tool: String,
    /// What to run, where policy does not say it
    #[arg(last = true, value_name = "CMD ARGS")]
    command: Vec<OsString>,
    /// Pass the whole environment on, not the short list
    #[arg(long)]
    inherit: bool,
    /// Let it go on after its input has ended. An MCP server is to end then, and has a second and a half
    #[arg(long)]
    keep_running: bool,
    /// The daemon's tools socket [default: /run/valetkey/tools.sock, or ~/.local/state/valetkey/run/tools.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub fn run(args: Args) -> ExitCode {
    let Args { tool, command, inherit, keep_running, socket } = args;
    run::launch(Arguments { tool, command, socket, inherit, keep_running })
}

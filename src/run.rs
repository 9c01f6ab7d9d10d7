//! `valetkey run`: the launcher that stands in front of an unmodified MCP server, and cleans what the server says.
//!
//! It is a program of its own, small and linked statically where that is asked for, because it lives beside each tool and must start
//! at once. What it does not know, the operator's commands do: they are in the daemon's program, under the name `valetkey`.
#![expect(clippy::print_stderr, reason = "a launcher speaks here; the library logs")]

pub mod deliver;
mod operator;
mod privileges;
pub mod sandbox;

use std::process::ExitCode;

/// Runs the command line.
pub fn main() -> ExitCode {
    let failed = operator::become_it();
    eprintln!("valetkey: {failed}");
    eprintln!("  hint: install valetkeyd beside valetkey: it holds every command but `run`");
    ExitCode::FAILURE
}

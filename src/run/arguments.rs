//! What stands behind `valetkey run`.

use std::{ffi::OsString, path::PathBuf};

/// The one command line that the launcher understands itself. Everything else, mistakes and `--help` too, is the business of the
/// operator's commands, which know how to explain it.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    pub tool: String,
    /// What to run; empty where policy says it.
    pub command: Vec<OsString>,
    pub socket: Option<PathBuf>,
    /// Pass the whole environment on.
    pub inherit: bool,
    /// Let the tool go on after its input has ended: it is no MCP server.
    pub keep_running: bool,
}

/// Reads `run [--socket PATH] [--inherit] [--keep-running] TOOL [-- CMD ARGS...]`, without the program's name. `None`: it is something else.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Arguments> {
    let mut arguments = arguments.into_iter();
    if arguments.next()? != "run" {
        return None;
    }
    let (mut tool, mut socket, mut inherit, mut keep_running) = (None, None, false, false);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") => break,
            Some("--inherit") => inherit = true,
            Some("--keep-running") => keep_running = true,
            Some("--socket") => socket = Some(arguments.next()?.into()),
            Some(text) if text.starts_with("--socket=") => socket = Some(text["--socket=".len()..].into()),
            Some(text) if !text.starts_with('-') && tool.is_none() => tool = Some(text.to_owned()),
            _ => return None,
        }
    }
    Some(Arguments { tool: tool?, command: arguments.collect(), socket, inherit, keep_running })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Arguments> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn what_is_understood_and_what_is_left_to_others() {
        let command = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let plain = parsed("run github -- npx -y server --socket x").unwrap();
        assert_eq!((plain.tool.as_str(), plain.command), ("github", command("npx -y server --socket x")));
        let all = parsed("run --socket=/s --inherit github").unwrap();
        assert_eq!((all.socket, all.inherit, all.command.len()), (Some("/s".into()), true, 0));
        assert_eq!(parsed("run github --socket /s --").unwrap().socket, Some("/s".into()));
        for other in ["run", "status", "run --help", "run -h", "run a b", "run --sockets x t", "run t --socket", "--version"] {
            assert_eq!(parsed(other), None, "{other}");
        }
    }
}

//! How a tool is launched: what runs, with which environment, what becomes of what it writes, and within which bounds. Words of
//! policy; the launcher is what acts on them.

use std::{fmt, path::PathBuf, time::Duration};

use super::{Delivery, Scope};
use crate::name::{SecretName, ToolName};

/// What policy says about processes that `valetkey run` starts as a tool.
#[derive(Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program and its arguments, and then nothing else runs as this tool. Empty: whatever the caller names.
    pub command: Vec<String>,
    /// Beside the launcher's short list: `NAME` to pass on, `NAME=value` to set.
    pub environment: Vec<String>,
    /// Pass on all that the launcher itself was given.
    pub inherit: bool,
    /// Filter what the tool writes. If not, the launcher becomes the tool.
    pub redact: bool,
    /// Take out what has the shape of a well-known kind of key, too.
    pub redact_shapes: bool,
    pub on_redaction: OnRedaction,
    pub on_rotation: OnRotation,
    pub on_contain: OnContain,
    pub sandbox: Option<Sandbox>,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            environment: Vec::new(),
            inherit: false,
            redact: true,
            redact_shapes: false,
            on_redaction: OnRedaction::Report,
            on_rotation: OnRotation::NotifyOnly,
            on_contain: OnContain::NotifyOnly,
            sandbox: None,
        }
    }
}

impl fmt::Debug for Launch {
    /// Arguments and settings may hold more than their author meant to show: no log gets them by `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("redact", &self.redact).field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

/// What a launcher does when a value turns up in what the tool writes. Always: it takes it out, and reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRedaction {
    Report,
    Stop,
}

/// What becomes of a tool when a secret has a new version: a launcher's business, or where systemd hands out a credential the unit's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRotation {
    NotifyOnly,
    Restart,
    /// Of a unit alone: systemd is asked to reload it.
    Reload,
    Rewrite,
    /// Rewrites, then sends this signal.
    Signal(i32),
}

/// What becomes of the unit that a tool is when the tool is contained. A launcher always stops what it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnContain {
    NotifyOnly,
    /// systemd is asked to stop it.
    Stop,
}

/// Bounds of a launched process. What is `None` is as the launcher has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Below these it may read and execute.
    pub read: Vec<PathBuf>,
    /// Below these it may also write.
    pub write: Vec<PathBuf>,
    /// TCP ports that it may connect to.
    pub connect: Vec<u16>,
    pub unix_sockets: bool,
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Of its user.
    pub processes: Option<u64>,
    pub files: Option<u64>,
    /// Processor time.
    pub cpu: Option<Duration>,
}

/// Permission to launch: what will run, and what it is to have. Comes with a [`Scope`], from [`Policy::decide`](super::Policy::decide)
/// alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Plan {
    pub command: Vec<String>,
    pub secrets: Vec<Delivered>,
    /// The rest of what policy says; its `command` is policy's own.
    pub launch: Launch,
}

/// A secret and the way it reaches the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub secret: SecretName,
    pub to: Delivery,
    /// Nobody uses it: where it shows up, something has leaked.
    pub canary: bool,
}

impl Plan {
    /// The program's own name, without folder and arguments: a path may name a person, and arguments may carry a credential.
    pub fn program(&self) -> String {
        program(&self.command)
    }
}

impl Plan {
    /// Does a process that was launched so keep the first value of this secret for as long as it runs?
    pub fn keeps_first(&self, secret: &SecretName) -> bool {
        let rewrites = |to: &Delivery| match self.launch.on_rotation {
            OnRotation::Restart => true,
            OnRotation::Rewrite | OnRotation::Signal(_) => matches!(to, Delivery::File(_) | Delivery::Fd(_)),
            OnRotation::NotifyOnly | OnRotation::Reload => false,
        };
        self.secrets.iter().any(|delivered| delivered.secret == *secret && !rewrites(&delivered.to))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("program", &self.program()).field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// What a log may say of a command that anybody may have made up.
pub fn program(command: &[String]) -> String {
    let path = command.first().map_or("", String::as_str);
    let name = path.rsplit('/').next().unwrap_or_default();
    name.chars().take(64).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// What `{scope}` and `{command}` of an open session were granted as, for the next policy to judge.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    pub scope: &'a Scope,
    /// Of a session that a launcher opened.
    pub command: Option<&'a [String]>,
}

impl fmt::Debug for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("scope", self.scope).field("launched", &self.command.is_some()).finish()
    }
}

/// Why this command may not run as this tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    #[error("policy says which command runs as tool {tool}, and {program:?} with its arguments is another")]
    Other { tool: ToolName, program: String },
    #[error("neither policy nor the caller says what is to run as tool {0}")]
    None(ToolName),
}

impl Launch {
    /// The command that runs: policy's own, or where it has none the caller's.
    pub(super) fn accepts(&self, tool: &ToolName, asked: &[String]) -> Result<Vec<String>, BadCommand> {
        match (self.command.as_slice(), asked) {
            ([], []) => Err(BadCommand::None(tool.clone())),
            ([], asked) => Ok(asked.to_vec()),
            (own, asked) if asked.is_empty() || own == asked => Ok(own.to_vec()),
            (_, asked) => Err(BadCommand::Other { tool: tool.clone(), program: program(asked) }),
        }
    }
}

impl Delivery {
    /// Is it a launcher's business?
    pub fn is_launched(&self) -> bool {
        self.variable().is_some()
    }

    /// The variable that tells the process where its value is.
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Rpc | Self::Credential(_) => None,
            Self::Env(variable) | Self::File(variable) | Self::Fd(variable) => Some(variable),
        }
    }

    /// The name under which systemd asks for it.
    pub fn credential(&self) -> Option<&str> {
        match self {
            Self::Credential(id) => Some(id),
            Self::Rpc | Self::Env(_) | Self::File(_) | Self::Fd(_) => None,
        }
    }

    /// What the word of configuration has beside it: the variable, or the credential's name.
    pub fn target(&self) -> Option<&str> {
        self.variable().or_else(|| self.credential())
    }

    /// The word of configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Env(_) => "env",
            Self::File(_) => "file",
            Self::Fd(_) => "fd",
            Self::Credential(_) => "credential",
        }
    }

    /// For people: how it reaches the process.
    pub fn describe(&self) -> String {
        match self {
            Self::Rpc => "over gRPC, to a process that asks for it".into(),
            Self::Env(variable) => format!("in the variable {variable} of a process that `valetkey run` starts"),
            Self::File(variable) => {
                format!("in a file in memory whose path is in {variable}, for a process that `valetkey run` starts")
            }
            Self::Fd(variable) => {
                format!("in a sealed descriptor whose path is in {variable}, for a process that `valetkey run` starts")
            }
            Self::Credential(id) => format!(
                "as the systemd credential {id} of its unit, in the file $CREDENTIALS_DIRECTORY/{id}, from before it starts until it ends"
            ),
        }
    }

    /// For people: who else can get at it there. Measured; no value is out of reach of root.
    pub fn exposure(&self) -> &'static str {
        match self {
            Self::Rpc => "it is in the memory of the tool alone; a process of the same user that may trace it can read that",
            Self::Env(_) => {
                "any process of the same user can read it in /proc/PID/environ and in memory for as long as the tool runs, and each \
                 child of the tool is given it too"
            }
            Self::File(_) => {
                "any process of the same user can read it through /proc/PID/fd for as long as the tool runs, and in memory once the \
                 tool has read it; it is in no environment, and ends with the process"
            }
            Self::Fd(_) => {
                "any process of the same user can read it through /proc/PID/fd for as long as the tool runs, and in memory once the \
                 tool has read it; it is lost where the tool is started through Node's child_process (npx) or Python's subprocess"
            }
            Self::Credential(_) => {
                "any process of the unit's user can read the file below /run/credentials for as long as the unit runs, and in memory once \
                 the tool has read it; it is in no environment and is never swapped, and a running unit keeps the value it was started with"
            }
        }
    }
}

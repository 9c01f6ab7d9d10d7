//! Rotation: a new value takes the place of an old one while tools run.
//!
//! [`machine`] says what follows from what, and is pure; [`record`] keeps on disk where each rotation stands; [`drive`] does what the machine
//! says, one step after the other; [`hook`] runs the operator's program that knows the system a secret opens. [`Rotations`] holds all that
//! are under way: one at a time for each secret, and none that a crash could leave half done.

mod drive;
pub mod generate;
mod holders;
mod hook;
pub mod machine;
mod record;
mod rotations;
mod schedule;

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    name::SecretName,
    source::{Source, Wanted, Working},
};

pub use generate::{Alphabet, Generate};
pub use holders::{Holder, of_sessions};
pub use machine::{End, State, Step};
pub use record::{Folder, Record};
pub use rotations::{Outlook, Progress, Refused, Rotations};
pub use schedule::QuietHours;

/// How a secret is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub how: How,
    /// How long holders have to move before the old value is retired.
    pub overlap: Duration,
    /// The old value is not retired before this, though all holders that this daemon knows have moved: other hosts have holders too.
    pub overlap_at_least: Option<Duration>,
    pub stragglers: Stragglers,
    /// When no rotation is begun by the schedule.
    pub quiet_hours: Option<QuietHours>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            how: How::Given,
            overlap: Duration::from_secs(3600),
            overlap_at_least: None,
            stragglers: Stragglers::Report,
            quiet_hours: None,
        }
    }
}

/// Where a new value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// From the operator alone.
    Given,
    /// We make one up.
    Generate(Generate),
    /// A program makes one, and tells the system that it opens.
    Hook(Hook),
    /// The source makes one by itself, and tells the system.
    Source(BySource),
}

/// A rotation that the source is told to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BySource {
    /// How long it may take before that is said to be a failure. It is waited for all the same: nobody else could end it.
    pub within: Duration,
}

/// The operator's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// By its absolute path, and its arguments.
    pub command: Vec<String>,
    /// How long each step may take.
    pub timeout: Duration,
    /// Secrets that it needs: an administrator's login, say.
    pub with: Vec<SecretName>,
}

/// What becomes of a holder that has not moved when the overlap is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stragglers {
    /// It is named, and the old value is retired.
    Report,
    /// Its session is ended first: a launcher then stops its tool.
    EndSession,
    /// It is waited for.
    Wait,
}

/// Where the value of one rotation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Given,
    Generate,
    Hook,
    Source,
}

impl Way {
    pub fn word(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Generate => "generate",
            Self::Hook => "hook",
            Self::Source => "source",
        }
    }
}

/// A secret that can be rotated, as configuration has it now.
#[derive(Clone)]
pub struct Target {
    pub source: Arc<dyn Source>,
    pub wanted: Wanted,
    pub settings: Settings,
    /// What the hook needs.
    pub with: Vec<(SecretName, Arc<dyn Source>, Wanted)>,
    /// It, and all that come from the same place at its source.
    pub siblings: Vec<SecretName>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("secret", &self.wanted.secret).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A secret that is rotated by the clock.
#[derive(Debug, Clone)]
pub struct Scheduled {
    pub secret: SecretName,
    pub every: Duration,
    pub quiet_hours: Option<QuietHours>,
}

/// What rotation asks of the daemon that hosts it.
pub trait Host: Send + Sync {
    /// The secret as configuration has it. In words, why it cannot be rotated.
    fn target(&self, secret: &SecretName) -> Result<Target, String>;
    /// Secrets that are rotated by the clock.
    fn scheduled(&self) -> Vec<Scheduled>;
    /// Checks these at their sources now.
    fn refresh(&self, secrets: Vec<SecretName>) -> Working<'_>;
    /// Is this systemd unit running?
    fn unit_runs(&self, unit: &str) -> bool;
}

//! A tool that is compromised is cut off: blocked, on disk, before anything else; its sessions ended; every secret that it holds rotated,
//! while those who share one move over. What cannot be done is said, at the end and for each secret.
//!
//! [`record`] keeps on disk which tools are contained and how far that is; [`Containments`] does it, and goes on after a restart.

mod held;
mod record;
mod work;

use std::collections::BTreeMap;

use crate::{
    name::{SecretName, ToolName, Version},
    source::Working,
};

pub use record::{Fate, Folder, Part, Record, Stopped, Unit, UnitState};
pub use work::{Containments, Order, Phase, Progress, Refused};

/// What containing asks of the daemon that hosts it.
pub trait Host: Send + Sync {
    /// By secret, the version that the audit log says this tool was handed last, as far back as the log goes. In words, why it cannot be
    /// read.
    fn handed_out(&self, tool: &ToolName) -> Working<'_, Result<BTreeMap<SecretName, Version>, String>>;
    /// Is this systemd unit running?
    fn unit_runs(&self, unit: &str) -> bool;
    /// Has whoever may do that asked to stop this unit. In words, why nobody can be.
    fn stop_unit(&self, unit: &str) -> Result<(), String>;
}

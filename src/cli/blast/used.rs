//! What was used, from the audit log of this host.

use std::{path::Path, time::SystemTime};

use crate::{
    audit::{disk::Directory, read},
    blast::{Usage, UseFact},
    cli::{FAILED, Failure},
    config, daemon,
};

/// From the log of the daemon that has this configuration.
pub fn of_daemon(configuration: &Path, since: Option<SystemTime>) -> Result<Usage, Failure> {
    // A log can be read where no configuration is, or one that is not right: then it is where it is by default.
    let settings = config::load(configuration).map(|config| config.audit).unwrap_or_default();
    let hint = "run as root or the daemon's user; or name a file of it with --usage, which `valetkey audit usage` writes there";
    let unknown = |error: &dyn std::fmt::Display| Failure::new(FAILED, format!("what is used is not known: {error}"), hint);
    let directory = Directory::read_only(&daemon::audit_directory(&settings)).map_err(|error| unknown(&error))?;
    of_log(&directory, since)?.ok_or_else(|| unknown(&"the audit log is empty"))
}

/// `None`: the log has no record. What it names that could be no tool's or secret's name is left out.
pub fn of_log(directory: &Directory, since: Option<SystemTime>) -> Result<Option<Usage>, Failure> {
    let until = SystemTime::now().into();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = read::usage(directory, since, threads)?;
    let Some(since) = found.since else { return Ok(None) };
    let entry = |((tool, secret), used): ((String, String), read::Use)| {
        let (first, last) = (used.first.map(Into::into), used.last.map(Into::into));
        let (tool, secret) = (tool.parse().ok()?, secret.parse().ok()?);
        Some(UseFact { tool, secret, count: used.handed_out, first, last, denied: used.denied })
    };
    Ok(Some(Usage { since: since.into(), until, entries: found.by.into_iter().filter_map(entry).collect() }))
}

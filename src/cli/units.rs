//! `valetkey restart-units`: what systemd runs, as root, when the daemon has left word that units have an old version of a credential.
//!
//! The daemon is not trusted here. A name is all that is taken from it, and what becomes of that unit is looked up in policy: read by root,
//! configuration is refused where anybody but root could have written it, the daemon's user among them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{FAILED, Failure, Outcome, table::printable};
use crate::{
    config,
    daemon::{self, ROTATED, STOP},
    policy::OnRotation,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A unit is started anew, or reloaded, where policy says so: its tool has `on-rotation`, and a credential. It is stopped where its tool \
    was contained and has `on-contain = \"stop\"`. Units that do not run stay as they are. `reload` is for systemd 260 and units with RefreshOnReload=credentials.\n\n\
    Example:\n  systemctl enable --now valetkey-rotated.path     runs it whenever the daemon has left word"
)]
pub struct Args {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = daemon::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Where the daemon leaves the names of units
    #[arg(long, value_name = "DIR", default_value = ROTATED)]
    directory: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    // Whatever comes of it: what stays would have systemd run this again and again.
    let names = take_names(&args.directory)?;
    let config = config::load(&args.config).map_err(|problems| {
        let hint = format!("valetkey check --config {}", args.config.display());
        Failure::new(FAILED, format!("{} problems in the configuration: no unit was started anew", problems.len()), hint)
    })?;
    let (mut stop, mut restart, mut reload) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let unit = name.strip_prefix(STOP);
        match (unit, config.policy.unit_on_rotation(&name)) {
            (Some(unit), _) if config.policy.unit_may_be_stopped(unit) => stop.push(unit.to_owned()),
            (None, Some(OnRotation::Restart)) => restart.push(name),
            (None, Some(_)) => reload.push(name),
            _ => eprintln!("valetkey: {}: policy wants nothing of such a unit", printable(unit.unwrap_or(&name))),
        }
    }
    [&mut restart, &mut reload].into_iter().for_each(|others| others.retain(|unit| !stop.contains(unit)));
    // Both: that one failed is no reason not to try the other.
    let done = [systemctl("stop", &stop), systemctl("try-restart", &restart), systemctl("try-reload-or-restart", &reload)];
    done.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
}

/// The names that stand in the folder, which is empty then.
fn take_names(folder: &Path) -> Result<Vec<String>, Failure> {
    let fails = |error: std::io::Error| {
        let hint = "systemd-tmpfiles --create valetkey.conf makes it";
        Failure::new(FAILED, format!("{}: {error}", folder.display()), hint)
    };
    // Whoever owned it could put there what only the daemon may.
    let facts = fs::symlink_metadata(folder).map_err(fails)?;
    if !facts.is_dir() || facts.uid() != rustix::process::geteuid().as_raw() || facts.mode() & 0o002 != 0 {
        let what = format!("{} is not a folder of this user that only a group may write to", folder.display());
        return Err(Failure::new(FAILED, what, "systemd-tmpfiles --create valetkey.conf"));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fails)?.flatten() {
        let path = entry.path();
        let removed =
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(fails)?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// systemd says what became of a unit in its own log, and others need not wait for it.
fn systemctl(verb: &str, units: &[String]) -> Outcome {
    if units.is_empty() {
        return Ok(());
    }
    println!("{verb}: {}", units.join(" "));
    let status = Command::new("systemctl").args(["--no-block", verb, "--"]).args(units).status();
    let failed = |what: String| Err(Failure::new(FAILED, what, "systemctl status says more"));
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => failed(format!("systemctl {verb} failed: {status}")),
        Err(error) => failed(format!("systemctl: {error}")),
    }
}

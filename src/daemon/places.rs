//! Fixed paths: MCP clients pass almost no environment to a server, so a path that must be told is a path that gets lost.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

/// Where configuration is unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/valetkey/valetkey.toml";

const SYSTEM_RUN_DIR: &str = "/run/valetkey";
const OWN_RUN_DIR: &str = ".local/state/valetkey/run";
const SYSTEM_STATE_DIR: &str = "/var/lib/valetkey";
const OWN_STATE_DIR: &str = ".local/state/valetkey";

/// Where the daemon puts its sockets: `/run/valetkey` where that may be, the user's own state directory otherwise.
pub fn run_dir() -> PathBuf {
    let euid = rustix::process::geteuid().as_raw();
    let ours = std::fs::metadata(SYSTEM_RUN_DIR).is_ok_and(|found| found.uid() == euid);
    if euid == 0 || ours { SYSTEM_RUN_DIR.into() } else { own_run_dir().unwrap_or_else(|| SYSTEM_RUN_DIR.into()) }
}

/// Where a command looks for one of the daemon's sockets: the system's, or the user's own where there is no other.
pub fn default_socket(name: &str) -> PathBuf {
    let system = PathBuf::from(SYSTEM_RUN_DIR).join(name);
    let own = own_run_dir().map(|dir| dir.join(name));
    own.filter(|own| !system.exists() && own.exists()).unwrap_or(system)
}

/// Where the daemon keeps what must outlive it: what systemd made for that, or as [`run_dir`].
pub fn state_dir() -> PathBuf {
    let from_systemd = std::env::var_os("STATE_DIRECTORY").filter(|dirs| !dirs.is_empty());
    if let Some(first) = from_systemd.and_then(|dirs| std::env::split_paths(&dirs).next()) {
        return first;
    }
    let euid = rustix::process::geteuid().as_raw();
    let ours = std::fs::metadata(SYSTEM_STATE_DIR).is_ok_and(|found| found.uid() == euid);
    let own = || std::env::home_dir().map(|home| home.join(OWN_STATE_DIR));
    if euid == 0 || ours { SYSTEM_STATE_DIR.into() } else { own().unwrap_or_else(|| SYSTEM_STATE_DIR.into()) }
}

fn own_run_dir() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(OWN_RUN_DIR))
}

/// Is this systemd unit running? systemd has a link for each that is, and takes it away when that ends.
pub fn unit_runs(unit: &str) -> bool {
    std::fs::symlink_metadata(format!("/run/systemd/units/invocation:{unit}")).is_ok()
}

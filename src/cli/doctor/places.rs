//! The sockets: are they there, for those who may connect and for nobody else, and does somebody answer?

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use super::{Check, State};
use crate::{config::Config, daemon};

/// Where configuration has a socket, or where it is without one.
pub fn path(config: Option<&Config>, name: &str) -> PathBuf {
    let file = format!("{name}.sock");
    let configured = config.and_then(|config| {
        let daemon = &config.daemon;
        let own = match name {
            "tools" => &daemon.tools_socket,
            "admin" => &daemon.admin_socket,
            _ => &daemon.credentials_socket,
        };
        own.clone().or_else(|| Some(daemon.run_dir.as_ref()?.join(&file)))
    });
    configured.unwrap_or_else(|| daemon::default_socket(&file))
}

pub fn sockets(config: Option<&Config>) -> Vec<Check> {
    let mut checks: Vec<_> = ["tools", "admin"].map(|name| socket(name, &path(config, name))).into();
    checks.extend(credentials(config));
    checks
}

fn socket(name: &str, path: &Path) -> Check {
    let name = format!("{name}.sock");
    let Ok(found) = fs::symlink_metadata(path) else {
        let what = format!("there is no {}", path.display());
        return Check::not(State::Warning, name, what, "no daemon runs here: systemctl start valetkeyd");
    };
    let said = say(path, &found);
    if !found.file_type().is_socket() {
        let what = format!("{} is not a socket", path.display());
        return Check::not(State::Bad, name, what, "move it away and restart the daemon");
    }
    if name == "admin.sock" && found.mode() & 0o007 != 0 {
        let remedy =
            "everyone on this host may connect: SocketMode=0600 in valetkeyd-admin.socket, or admin-socket-mode = \"0600\"";
        return Check::not(State::Bad, name, said, remedy);
    }
    match UnixStream::connect(path) {
        Ok(_) => Check::ok(name, said),
        Err(error) => Check::not(
            State::Warning,
            name,
            format!("{said}: {error}"),
            "systemctl restart valetkeyd, or run this as a user who may connect",
        ),
    }
}

/// Looked at and not connected to: whoever connects is taken for systemd, and a refusal is on record.
fn credentials(config: Option<&Config>) -> Option<Check> {
    let (name, path) = ("credentials.sock", path(config, "credentials"));
    let wanted = config.is_some_and(|config| {
        let mut rules = config.policy.tools().flat_map(|(_, tool)| tool.grants.values());
        rules.any(|rule| rule.delivery.credential().is_some())
    });
    let remedy = "systemctl enable --now valetkeyd-credentials.socket, as it is shipped: SocketMode=0600, and root's";
    match fs::symlink_metadata(&path) {
        Err(_) if wanted => {
            let what = format!("policy gives units credentials, and there is no {}", path.display());
            Some(Check::not(State::Bad, name, what, remedy))
        }
        Err(_) => None,
        Ok(found) if found.mode() & 0o177 != 0 || found.uid() != 0 => {
            let what = format!("{}: others than systemd may connect", say(&path, &found));
            Some(Check::not(State::Bad, name, what, remedy))
        }
        Ok(found) => Some(Check::ok(name, say(&path, &found))),
    }
}

fn say(path: &Path, found: &fs::Metadata) -> String {
    format!("{}: mode {:04o}, owner {}", path.display(), found.mode() & 0o777, found.uid())
}

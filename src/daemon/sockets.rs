//! Where the daemon's sockets come from: systemd, which keeps them and their queues while the daemon restarts, or the daemon itself.

use std::{
    collections::BTreeMap,
    os::fd::{FromRawFd, OwnedFd},
    path::PathBuf,
};

use tokio::runtime::Runtime;
use tracing::warn;

use super::places;
use crate::{
    config::{Config, DaemonSettings, MetricsAddress},
    delivery::{Expected, Listener, MetricsListener, Socket},
};

/// Sockets that systemd has passed on, by their `FileDescriptorName=` (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Passed(BTreeMap<String, OwnedFd>);

impl Passed {
    /// Takes them, each to be closed on exec, and takes the word of them out of the environment.
    ///
    /// # Safety
    /// No other thread may run, and nobody may hold a pointer into the environment.
    pub unsafe fn take() -> Result<Self, String> {
        // SAFETY: the caller's promise.
        let passed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
        let mut all = BTreeMap::new();
        for (fd, name) in passed.map_err(|error| format!("the sockets that systemd passes cannot be taken: {error}"))? {
            // SAFETY: systemd has passed it to this process, and nothing else here knows of it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if all.insert(name.clone(), fd).is_some() {
                return Err(format!("systemd passes two sockets of the name {name}: one ListenStream= in each socket unit"));
            }
        }
        Ok(Self(all))
    }

    /// Those that nothing here has a use for: a socket that nobody answers would keep its callers waiting for ever.
    fn none_left(self) -> Result<(), Vec<String>> {
        let known = "FileDescriptorName= is tools, admin, credentials, or metrics where `metrics` in [daemon] is a socket";
        let word =
            |name: &String| format!("systemd passes a socket of the name {name}, which the daemon has no use for: {known}");
        if self.0.is_empty() { Ok(()) } else { Err(self.0.keys().map(word).collect()) }
    }
}

/// Every socket of the daemon, bound.
pub struct Sockets {
    pub tools: Listener,
    pub admin: Listener,
    /// For systemd alone. `None`: it would not be root's, and so there is none.
    pub credentials: Option<Listener>,
    pub metrics: Option<MetricsListener>,
}

impl Sockets {
    /// Takes what systemd has passed, and binds the others. Tools and systemd are served on the one runtime, operators and scrapers on
    /// the other.
    pub fn open(passed: Passed, config: &Config, tools: &Runtime, control: &Runtime) -> Result<Self, Vec<String>> {
        let mut from =
            Opening { passed, daemon: &config.daemon, run_dir: config.daemon.run_dir.clone().unwrap_or_else(places::run_dir) };
        let daemon = &config.daemon;
        let admin_group = daemon.admin_group.as_ref().map(|group| group.id);
        let opened = Self {
            tools: from.open(tools, "tools", &daemon.tools_socket, daemon.tools_socket_mode, None)?,
            admin: from.open(control, "admin", &daemon.admin_socket, daemon.admin_socket_mode, admin_group)?,
            credentials: from.credentials(tools, config)?,
            metrics: from.metrics(control)?,
        };
        from.passed.none_left()?;
        Ok(opened)
    }
}

struct Opening<'a> {
    passed: Passed,
    daemon: &'a DaemonSettings,
    run_dir: PathBuf,
}

impl Opening<'_> {
    fn open(
        &mut self,
        runtime: &Runtime,
        name: &str,
        path: &Option<PathBuf>,
        mode: u32,
        group: Option<u32>,
    ) -> Result<Listener, Vec<String>> {
        let chosen = path.is_some() || self.daemon.run_dir.is_some();
        let path = path.clone().unwrap_or_else(|| self.run_dir.join(format!("{name}.sock")));
        let systemd = name == "credentials";
        let expected = Expected { path: chosen, names_senders: !systemd && name != "metrics", of_root: systemd };
        let socket = Socket { path, mode, group };
        let _inside = runtime.enter();
        match self.passed.0.remove(name) {
            Some(fd) => Listener::passed(fd, &socket, expected)
                .map_err(|bad| vec![format!("the socket {name} that systemd passes cannot be used: {bad}")]),
            None => Listener::bind(&socket).map_err(|error| vec![format!("cannot listen at {error}")]),
        }
    }

    /// Root's alone: systemd asks as root, and nobody else has any business there.
    fn credentials(&mut self, runtime: &Runtime, config: &Config) -> Result<Option<Listener>, Vec<String>> {
        if self.passed.0.contains_key("credentials") || rustix::process::geteuid().is_root() {
            return self.open(runtime, "credentials", &self.daemon.credentials_socket, 0o600, None).map(Some);
        }
        let mut rules = config.policy.tools().flat_map(|(_, tool)| tool.grants.values());
        if let Some(rule) = rules.find(|rule| rule.delivery.credential().is_some()) {
            warn!(
                "systemd can ask for no credential ({} and others): a socket that root alone may connect to takes systemd to open; \
                 enable valetkeyd-credentials.socket",
                rule.origin
            );
        }
        Ok(None)
    }

    /// Where configuration asks for it: a socket for those who may use the admin socket, or a port of this host.
    fn metrics(&mut self, runtime: &Runtime) -> Result<Option<MetricsListener>, Vec<String>> {
        let daemon = self.daemon;
        let group = daemon.admin_group.as_ref().map(|group| group.id);
        Ok(match &daemon.metrics {
            None => None,
            Some(MetricsAddress::Socket(path)) => {
                let listener = self.open(runtime, "metrics", &Some(path.clone()), daemon.admin_socket_mode, group)?;
                Some(MetricsListener::Socket(listener))
            }
            Some(MetricsAddress::Loopback(address)) => {
                let bound = runtime.block_on(MetricsListener::loopback(*address));
                Some(bound.map_err(|error| vec![format!("cannot listen at {address} for `metrics`: {error}")])?)
            }
        })
    }
}

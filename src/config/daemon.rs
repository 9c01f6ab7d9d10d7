//! `[daemon]`: sockets, logs, bounds and deadlines. All optional.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    address::{file_ref, url},
    identity::account,
    read::{Key, Refused, Section, key},
    sources::FileRef,
};
use crate::policy::Account;

/// How the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Holds the sockets. `None`: `/run/valetkey`, or the user's own state directory where the daemon is not root.
    pub run_dir: Option<PathBuf>,
    /// `None`: `tools.sock` in the run directory.
    pub tools_socket: Option<PathBuf>,
    pub tools_socket_mode: u32,
    /// `None`: `admin.sock` in the run directory.
    pub admin_socket: Option<PathBuf>,
    /// Where systemd asks for credentials. `None`: `credentials.sock` in the run directory.
    pub credentials_socket: Option<PathBuf>,
    /// 0600; 0660 where `admin_group` is set and no mode is.
    pub admin_socket_mode: u32,
    /// The group that owns the admin socket.
    pub admin_group: Option<Account>,
    pub log_format: LogFormat,
    pub log_level: tracing::Level,
    /// Connections at one time, over all callers.
    pub max_connections: u32,
    /// Connections at one time of one uid in one unit.
    pub max_connections_per_peer: u32,
    /// Sessions at one time, over all tools.
    pub max_sessions: u32,
    /// For the first load of every required secret.
    pub load_timeout: Duration,
    /// Calls to one source at one time.
    pub load_concurrency: u32,
    /// For calls to end by themselves when the daemon stops.
    pub drain_timeout: Duration,
    /// Of a session that is not a stream, without renewal.
    pub session_lifetime: Duration,
    pub memory_protection: MemoryProtection,
    pub on_unreachable: OnUnreachable,
    /// `None`: nothing is kept on disk.
    pub last_good: Option<LastGoodSettings>,
    /// Where metrics can be scraped. `None`: nowhere.
    pub metrics: Option<MetricsAddress>,
    /// The collector that spans are sent to, over OTLP and gRPC. `None`: there are no spans.
    pub otlp_endpoint: Option<String>,
}

/// What a start does while a source of a required secret cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnreachable {
    /// It fails.
    Fail,
    /// It goes on trying. Until all is loaded no tool is served, health says so, and systemd is not told that the daemon is ready.
    Wait,
}

/// The sealed copy of the last good values, for a boot while their source is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastGoodSettings {
    /// Made by the daemon, 0600.
    pub file: PathBuf,
    /// The age identity that it is sealed to.
    pub identity_file: FileRef,
}

/// Where metrics are served: never to another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    Socket(PathBuf),
    Loopback(SocketAddr),
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// The protection of values in memory without which the daemon does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryProtection {
    /// `memfd_secret`: not even the kernel maps the pages.
    RequiredMemfdSecret,
    /// At least locked: never in swap.
    RequiredLocked,
    /// The best this host gives; the log says which.
    Best,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            run_dir: None,
            tools_socket: None,
            tools_socket_mode: 0o666,
            admin_socket: None,
            credentials_socket: None,
            admin_socket_mode: 0o600,
            admin_group: None,
            log_format: LogFormat::Human,
            log_level: tracing::Level::INFO,
            max_connections: 512,
            max_connections_per_peer: 32,
            max_sessions: 1024,
            load_timeout: Duration::from_secs(60),
            load_concurrency: 16,
            drain_timeout: Duration::from_secs(5),
            session_lifetime: Duration::from_secs(600),
            memory_protection: MemoryProtection::Best,
            on_unreachable: OnUnreachable::Fail,
            last_good: None,
            metrics: None,
            otlp_endpoint: None,
        }
    }
}

pub(super) const KEYS: &[Key] = &[
    key("run-dir", "\"/run/valetkey\""),
    key("tools-socket", "\"/run/valetkey/tools.sock\""),
    key("tools-socket-mode", "\"0666\""),
    key("admin-socket", "\"/run/valetkey/admin.sock\""),
    key("admin-socket-mode", "\"0600\""),
    key("credentials-socket", "\"/run/valetkey/credentials.sock\""),
    key("admin-group", "\"valetkey-admin\""),
    key("log-format", "\"human\""),
    key("log-level", "\"info\""),
    key("max-connections", "512"),
    key("max-connections-per-peer", "32"),
    key("max-sessions", "1024"),
    key("load-timeout", "\"60s\""),
    key("load-concurrency", "16"),
    key("drain-timeout", "\"5s\""),
    key("session-lifetime", "\"10m\""),
    key("memory-protection", "\"best\""),
    key("on-unreachable", "\"fail\""),
    key("last-good", "{ file = \"/var/lib/valetkey/last-good.age\", identity-file = \"credential:valetkey-last-good\" }"),
    key("metrics", "\"/run/valetkey/metrics.sock\""),
    key("otlp-endpoint", "\"http://127.0.0.1:4317\""),
];
pub(super) const LAST_GOOD_KEYS: &[Key] =
    &[key("file", "\"/var/lib/valetkey/last-good.age\""), key("identity-file", "\"credential:valetkey-last-good\"")];

const ON_UNREACHABLE: &[(&str, OnUnreachable)] = &[("fail", OnUnreachable::Fail), ("wait", OnUnreachable::Wait)];

const LOG_FORMATS: &[(&str, LogFormat)] = &[("human", LogFormat::Human), ("json", LogFormat::Json)];

const LOG_LEVELS: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

const MEMORY_PROTECTIONS: &[(&str, MemoryProtection)] = &[
    ("required-memfd-secret", MemoryProtection::RequiredMemfdSecret),
    ("required-locked", MemoryProtection::RequiredLocked),
    ("best", MemoryProtection::Best),
];

/// More than one host can serve; a bound that does not bound is a mistake.
const MOST: u32 = 100_000;

pub(super) fn read(section: &Section<'_>) -> DaemonSettings {
    let default = DaemonSettings::default();
    let admin_group = section.has("admin-group").then(|| account(section, "admin-group", super::accounts::group)).flatten();
    let max_connections = section.count32("max-connections", MOST).unwrap_or(default.max_connections);
    let settings = DaemonSettings {
        run_dir: section.absolute_path("run-dir"),
        tools_socket: socket(section, "tools-socket"),
        tools_socket_mode: mode(section, "tools-socket-mode").unwrap_or(default.tools_socket_mode),
        admin_socket: socket(section, "admin-socket"),
        credentials_socket: socket(section, "credentials-socket"),
        admin_socket_mode: mode(section, "admin-socket-mode").unwrap_or(match admin_group {
            Some(_) => 0o660,
            None => default.admin_socket_mode,
        }),
        admin_group,
        log_format: section.choice("log-format", LOG_FORMATS).unwrap_or(default.log_format),
        log_level: section.choice("log-level", LOG_LEVELS).unwrap_or(default.log_level),
        max_connections,
        max_connections_per_peer: section
            .count32("max-connections-per-peer", MOST)
            .unwrap_or(default.max_connections_per_peer.min(max_connections)),
        max_sessions: section.count32("max-sessions", MOST).unwrap_or(default.max_sessions),
        load_timeout: section.duration("load-timeout").unwrap_or(default.load_timeout),
        load_concurrency: section.count32("load-concurrency", 1024).unwrap_or(default.load_concurrency),
        drain_timeout: section.duration("drain-timeout").unwrap_or(default.drain_timeout),
        session_lifetime: section.duration("session-lifetime").unwrap_or(default.session_lifetime),
        memory_protection: section.choice("memory-protection", MEMORY_PROTECTIONS).unwrap_or(default.memory_protection),
        on_unreachable: section.choice("on-unreachable", ON_UNREACHABLE).unwrap_or(default.on_unreachable),
        last_good: section.section("last-good", LAST_GOOD_KEYS, LAST_GOOD_REFUSED).and_then(|section| last_good(&section)),
        metrics: metrics(section),
        otlp_endpoint: section.parsed("otlp-endpoint", otlp_endpoint),
    };
    check_together(section, &settings);
    settings
}

const LAST_GOOD_REFUSED: &[Refused] = &[Refused {
    name: "identity",
    means: "identity-file",
    why: "a credential may not stand in configuration",
    instead: "identity-file = \"credential:NAME\": a systemd credential, or a file (0600)",
}];

fn last_good(section: &Section<'_>) -> Option<LastGoodSettings> {
    section.require(&["file", "identity-file"]);
    let file = section.absolute_path("file");
    let identity_file = section.parsed("identity-file", file_ref);
    Some(LastGoodSettings { file: file?, identity_file: identity_file? })
}

/// A socket by its path, or a port of this host.
fn metrics(section: &Section<'_>) -> Option<MetricsAddress> {
    let text = section.text("metrics")?;
    if text.starts_with('/') {
        return socket(section, "metrics").map(MetricsAddress::Socket);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() && address.port() != 0 => return Some(MetricsAddress::Loopback(address)),
        Ok(address) if address.port() == 0 => section.reject("metrics", "has no port"),
        Ok(_) => {
            section.reject_for(
                "metrics",
                "is open to other hosts",
                "metrics = \"127.0.0.1:9464\", or a socket's path; a scraper on this host passes them on",
            );
        }
        Err(_) => section.reject("metrics", "must be a socket's path or a loopback address with a port, such as 127.0.0.1:9464"),
    }
    None
}

fn otlp_endpoint(text: &str) -> Result<String, &'static str> {
    if cfg!(feature = "otel") {
        return url(text);
    }
    Err("needs a valetkeyd that was built for it: cargo build --release --features otel")
}

fn check_together(section: &Section<'_>, settings: &DaemonSettings) {
    if settings.admin_socket_mode & 0o007 != 0 {
        let why = "lets every user of the host administer the broker";
        section.reject_for("admin-socket-mode", why, "admin-socket-mode = \"0660\" and admin-group = \"NAME\"");
    } else if settings.admin_group.is_some() && settings.admin_socket_mode & 0o060 != 0o060 {
        let what = format!("`admin-socket-mode` in {} keeps `admin-group` out", section.title);
        section.warn(section.line_of("admin-socket-mode"), what, "admin-socket-mode = \"0660\"");
    }
    if settings.max_connections_per_peer > settings.max_connections {
        let what = format!("`max-connections-per-peer` in {} is above `max-connections`: one caller can take all", section.title);
        section.warn(section.line_of("max-connections-per-peer"), what, "a number below `max-connections`");
    }
    if settings.tools_socket.is_some() && settings.tools_socket == settings.admin_socket {
        section.reject("admin-socket", "is the tools socket too");
    }
    if settings.credentials_socket.is_some()
        && [&settings.tools_socket, &settings.admin_socket].contains(&&settings.credentials_socket)
    {
        section.reject("credentials-socket", "is the socket of tools or operators too");
    }
    if let Some(MetricsAddress::Socket(metrics)) = &settings.metrics
        && [&settings.tools_socket, &settings.admin_socket, &settings.credentials_socket].contains(&&Some(metrics.clone()))
    {
        section.reject("metrics", "is the socket of tools, operators or systemd too");
    }
}

/// unix(7): a socket's path is at most 107 bytes and a NUL.
fn socket(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let path = section.absolute_path(key)?;
    if path.as_os_str().len() > 107 {
        section.reject(key, "is longer than the 107 bytes that a socket's path may have");
        return None;
    }
    Some(path)
}

fn mode(section: &Section<'_>, key: &str) -> Option<u32> {
    section.parsed(key, |text| match u32::from_str_radix(text, 8) {
        Ok(mode) if matches!(text.len(), 3 | 4) && mode & !0o777 == 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err("must be a file mode in octal, in quotes"),
    })
}

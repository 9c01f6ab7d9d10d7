//! `[remote]`: callers over the network. Off without this table. There is no way to write a listener without TLS: certificate and key
//! must be there, and whatever asks for less is refused, for loopback too.

mod caller;
mod issuer;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    address::file_ref,
    read::{Key, Refused, Section, key},
    sources::FileRef,
};
pub(super) use caller::{CERTIFICATE_KEYS, JWT_KEYS, check_callers, check_reach, read as read_caller};
pub use issuer::{IssuerSettings, KeysFrom};
pub(super) use issuer::{KEYS as ISSUER_KEYS, NAME_RULE as ISSUER_RULE, read as read_issuer};

use crate::attest::is_workload_id;

/// How callers over the network are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    pub listen: SocketAddr,
    pub own: OwnCertificate,
    /// Authorities of callers' certificates, in PEM. `None`: nobody is known by one of theirs.
    pub client_ca_file: Option<Arc<Path>>,
    /// Lists of revoked certificates, in PEM: one of each authority.
    pub crl_file: Option<PathBuf>,
    /// Must each caller have a certificate, its token or not?
    pub client_certificates: ClientCertificates,
    /// TLS 1.2 too.
    pub tls_1_2: bool,
    /// Connections at one time, over all callers.
    pub max_connections: u32,
    /// Of these, from one address.
    pub max_connections_per_address: u32,
    /// Handshakes and logins of one address that fail, in a minute, before it is not heard for a while.
    pub failures_per_minute: u32,
    /// For the handshake, from the first byte on.
    pub handshake_timeout: Duration,
    /// For the first request after it, its headers to the end.
    pub request_timeout: Duration,
    /// A connection without a call that is under way.
    pub idle_timeout: Duration,
}

/// Where the daemon's own certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnCertificate {
    /// It and those between it and its authority, in PEM; and its key, in a file of its own.
    Files { certificate: PathBuf, key: FileRef },
    /// A SPIFFE agent on this host, by the path of its socket; and which of the identities it gives. It says whom to believe as well.
    WorkloadApi { socket: PathBuf, id: Option<String> },
}

/// Must a caller have a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    Required,
    /// A token alone may do.
    Optional,
}

pub(super) const KEYS: &[Key] = &[
    key("listen", "\"192.0.2.10:7443\""),
    key("certificate-file", "\"/etc/valetkey/tls/cert.pem\""),
    key("key-file", "\"credential:valetkey-tls-key\""),
    key("spiffe-endpoint-socket", "\"unix:///run/spire/agent/public/api.sock\""),
    key("spiffe-id", "\"spiffe://example.org/valetkey\""),
    key("client-ca-file", "\"/etc/valetkey/tls/clients-ca.pem\""),
    key("crl-file", "\"/etc/valetkey/tls/crl.pem\""),
    key("client-certificates", "\"required\""),
    key("min-tls", "\"1.3\""),
    key("max-connections", "512"),
    key("max-connections-per-address", "32"),
    key("failures-per-minute", "60"),
    key("handshake-timeout", "\"5s\""),
    key("request-timeout", "\"10s\""),
    key("idle-timeout", "\"5m\""),
];

const NO_PLAIN_TEXT: &str = "there is no listener without TLS: values and tokens would cross the network in the clear, and on this host be open \
                             to whoever takes the port first";
const HERE: &str = "nothing; for tools on this host there is the socket, which needs no certificate";

pub(super) const REFUSED: &[Refused] = &[
    Refused { name: "tls", means: "", why: NO_PLAIN_TEXT, instead: HERE },
    Refused { name: "plaintext", means: "", why: NO_PLAIN_TEXT, instead: HERE },
    Refused { name: "insecure", means: "", why: NO_PLAIN_TEXT, instead: HERE },
    Refused {
        name: "key",
        means: "key-file",
        why: "a credential may not stand in configuration",
        instead: "key-file = \"credential:NAME\": a systemd credential, or a file (0600)",
    },
];

const CLIENT_CERTIFICATES: &[(&str, ClientCertificates)] =
    &[("required", ClientCertificates::Required), ("optional", ClientCertificates::Optional)];
const MOST: u32 = 100_000;
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(60);

/// `None` where something that must be there is not.
pub(super) fn read(section: &Section<'_>) -> Option<RemoteSettings> {
    section.require(&["listen"]);
    let by_agent = section.has("spiffe-endpoint-socket");
    if by_agent {
        for file in ["certificate-file", "key-file"] {
            if section.has(file) {
                section.reject_for(
                    file,
                    "stands beside `spiffe-endpoint-socket`, which gives the daemon another",
                    "one of the two ways",
                );
            }
        }
    } else {
        section.require(&["certificate-file", "key-file"]);
        if section.has("spiffe-id") {
            section.reject_for("spiffe-id", "asks nobody without `spiffe-endpoint-socket`", "spiffe-endpoint-socket beside it");
        }
    }
    let client_ca_file = section.absolute_path("client-ca-file").map(Arc::<Path>::from);
    let client_certificates = section.choice("client-certificates", CLIENT_CERTIFICATES).unwrap_or(ClientCertificates::Required);
    if client_certificates == ClientCertificates::Required && !section.has("client-ca-file") && !by_agent {
        section.missing("client-ca-file");
    }
    let crl_file = section.absolute_path("crl-file");
    if crl_file.is_some() && !section.has("client-ca-file") {
        section.reject_for("crl-file", "revokes nothing without `client-ca-file`", "client-ca-file beside it");
    }
    let max_connections = section.count32("max-connections", MOST).unwrap_or(512);
    let duration = |key: &str, default: u64| section.duration(key).unwrap_or(Duration::from_secs(default));
    // All of them first: a mistake in one must not hide those in others.
    let listen = section.parsed("listen", listen);
    let (certificate, key) = (section.absolute_path("certificate-file"), section.parsed("key-file", file_ref));
    let (socket, id) = (section.parsed("spiffe-endpoint-socket", endpoint), section.parsed("spiffe-id", spiffe_id));
    let own = match by_agent {
        true => socket.map(|socket| OwnCertificate::WorkloadApi { socket, id }),
        false => certificate.zip(key).map(|(certificate, key)| OwnCertificate::Files { certificate, key }),
    };
    let tls_1_2 = section.choice("min-tls", &[("1.3", false), ("1.2", true)]).unwrap_or(false);
    let max_connections_per_address = section.count32("max-connections-per-address", MOST).unwrap_or(max_connections.min(32));
    let failures_per_minute = section.count32("failures-per-minute", MOST).unwrap_or(60);
    let handshake_timeout = duration("handshake-timeout", 5);
    let (request_timeout, idle_timeout) = (duration("request-timeout", 10), duration("idle-timeout", 300));
    if handshake_timeout > LONGEST_HANDSHAKE {
        section.reject("handshake-timeout", "is more than a minute: who is that slow holds a place all the time");
    }
    Some(RemoteSettings {
        listen: listen?,
        own: own?,
        client_ca_file,
        crl_file,
        client_certificates,
        tls_1_2,
        max_connections,
        max_connections_per_address,
        failures_per_minute,
        handshake_timeout,
        request_timeout,
        idle_timeout,
    })
}

/// As `SPIFFE_ENDPOINT_SOCKET` has it (Workload Endpoint, 4), or a path.
fn endpoint(text: &str) -> Result<PathBuf, &'static str> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    match path {
        path if path.starts_with('/') && !path.contains(['?', '#']) => Ok(path.into()),
        path if path.contains("://") => {
            Err("is no Unix socket: over TCP whoever takes the port first would say who this daemon is")
        }
        _ => Err("must be the absolute path of a Unix socket, such as unix:///run/spire/agent/public/api.sock"),
    }
}

fn spiffe_id(text: &str) -> Result<String, &'static str> {
    if is_workload_id(text) { Ok(text.into()) } else { Err("is no SPIFFE id of a workload") }
}

fn listen(text: &str) -> Result<SocketAddr, &'static str> {
    if text.contains("://") {
        return Err("is an address and a port, without a scheme: TLS is all that is spoken there");
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("has no port"),
        Ok(address) => Ok(address),
        Err(_) => Err("must be an IP address and a port, such as 192.0.2.10:7443 or [::]:7443"),
    }
}

//! A host whose daemon is called over the network, and those who call it.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{fs, path::PathBuf, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use valetkey::client::Remote;

use super::{
    certificates::{Authority, CLIENT, Issued, SERVER},
    daemon::{Daemon, Host},
};

/// A host with an authority for servers and one for clients.
pub struct Site {
    pub host: Host,
    pub servers: Authority,
    pub clients: Authority,
    pub port: u16,
}

pub const VALUE: &[u8] = b"value-over-the-network";

impl Site {
    /// `remote` are more lines of `[remote]`, `rest` what comes after all tables of the usual tool.
    pub fn new(remote: &str, rest: &str) -> Self {
        let site = Self::bare();
        site.configure(remote, rest);
        site
    }

    /// The same without a configuration.
    pub fn bare() -> Self {
        let site =
            Self { host: Host::new(), servers: Authority::new("servers"), clients: Authority::new("clients"), port: free_port() };
        site.servers.issue(&SERVER).write(&site.host, "server");
        site.host.write("servers-ca.pem", &site.servers.pem());
        site.host.write("clients-ca.pem", &site.clients.pem());
        site
    }

    pub fn configure(&self, remote: &str, rest: &str) {
        let path = |name: &str| self.host.path(name).display().to_string();
        let certificates = format!(
            "certificate-file = \"{}\"\nkey-file = \"{}\"\nclient-ca-file = \"{}\"\n",
            path("server.pem"),
            path("server.key"),
            path("clients-ca.pem"),
        );
        self.configure_all(&format!("{certificates}{remote}"), rest);
    }

    /// `remote` are all lines of `[remote]` but where it listens.
    pub fn configure_all(&self, remote: &str, rest: &str) {
        let host = &self.host;
        let source = host.seal(&[("a/key", VALUE), ("local/key", b"value-of-this-host")]);
        let listener = format!("[remote]\nlisten = \"127.0.0.1:{}\"\n{remote}\n", self.port);
        let secrets = Host::secrets(&["a/key", "local/key"]);
        host.configure("max-sessions = 3000\n", &format!("{listener}{source}{secrets}{rest}"));
    }

    /// The tool of most tests.
    pub const TOOL: &str = "[tool.billing]\nrun-as = { user = \"0\", certificate = { uri = \"spiffe://example.org/tools/billing\" } }\n\
        secrets.\"a/key\" = { remote = true }\nsecrets.\"local/key\" = {}\n\
        limits = { per-minute = 100000000, concurrent = 3000, concurrent-requests = 3000 }\n";

    pub fn start(&self) -> Daemon {
        self.host.start()
    }

    /// How to call it, with this certificate.
    pub fn caller(&self, name: &str, certificate: &Issued) -> Remote {
        let (certificate, key) = certificate.write(&self.host, name);
        self.anonymous().certificate(certificate, key)
    }

    pub fn anonymous(&self) -> Remote {
        Remote::new(format!("localhost:{}", self.port), self.host.path("servers-ca.pem"))
    }

    pub fn client(&self) -> Issued {
        self.clients.issue(&CLIENT)
    }

    /// All records of the audit log, oldest first.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.host.path("var/audit"))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a record of this event and reason.
    pub fn record(&self, event: &str, reason: &str) -> serde_json::Value {
        self.record_that(&format!("{event} {reason}"), |one| one["event"] == event && one["reason"] == reason)
    }

    /// Waits for a record: what nobody's answer hangs on is written a moment after the answer.
    pub fn record_that(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        self.records_until(what, |records| records.iter().any(&is)).into_iter().rfind(is).unwrap()
    }

    /// Waits until the records are these.
    pub fn records_until(&self, what: &str, are: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        let begun = std::time::Instant::now();
        loop {
            let records = self.records();
            if are(&records) {
                return records;
            }
            assert!(begun.elapsed().as_secs() < 15, "no record of {what}:\n{records:#?}\n{}", self.host.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What a client of any kind knows of TLS here.
    pub fn tls_config(&self, certificate: Option<&Issued>) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.servers.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some(one) => {
                let chain = vec![CertificateDer::from_pem_slice(one.pem.as_bytes()).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(one.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A TLS connection as any client would make one.
    pub async fn tls(&self, certificate: Option<&Issued>) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.tls_at(self.port, certificate).await
    }

    /// The same at another port, whose server has the same certificate.
    pub async fn tls_at(
        &self,
        port: u16,
        certificate: Option<&Issued>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let config = self.tls_config(certificate);
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// A channel on a connection of its own.
    pub async fn channel(&self, certificate: Option<&Issued>) -> Channel {
        self.channel_at(self.port, certificate).await
    }

    pub async fn channel_at(&self, port: u16, certificate: Option<&Issued>) -> Channel {
        let stream = self.tls_at(port, certificate).await.unwrap();
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::other("one connection alone")) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
    }

    /// Issues a token by the command, and returns it.
    pub fn token(&self, arguments: &[&str]) -> String {
        let out = self.host.operate(&[&["token", "issue"], arguments].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A request with a bearer token.
pub fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// A Python with a gRPC library that is not ours, and with the SPIFFE project's own.
pub fn python() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache");
    let cache = std::env::var_os("VALETKEY_TEST_CACHE").map_or(here, PathBuf::from);
    let python = cache.join("grpc/bin/python");
    assert!(python.exists(), "{} is not there: run tests/setup/python grpc", python.display());
    python
}

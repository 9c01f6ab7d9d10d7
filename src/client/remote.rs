//! A daemon on another host: TLS 1.3, with a client certificate, a token, or both.
//!
//! Files are read at each connection, so that a certificate or a token that was renewed on disk is used from then on. What TLS has decrypted
//! stands for a moment in buffers of that library, which are freed as soon as they are read: set the allocator that wipes
//! ([`WipingAllocator`](crate::secret::WipingAllocator)).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use super::{Client, Error, destination::Destination, destination::Opened};

/// How to reach a daemon on another host, and how to prove oneself there.
#[derive(Debug, Clone)]
pub struct Remote {
    address: String,
    ca_file: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    token_file: Option<PathBuf>,
}

impl Remote {
    /// The daemon at this host and port (`broker.example.com:7443`), whose certificate one of the authorities in this file (PEM) vouches
    /// for, under that host's name.
    pub fn new(address: impl Into<String>, ca_file: impl AsRef<Path>) -> Self {
        Self { address: address.into(), ca_file: ca_file.as_ref().into(), certificate: None, token_file: None }
    }

    /// With this certificate, and those between it and its authority, and its key: files in PEM.
    pub fn certificate(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        Self { certificate: Some((certificate.as_ref().into(), key.as_ref().into())), ..self }
    }

    /// With the token in this file: one that an operator issued, or a JSON Web Token that somebody keeps fresh there.
    pub fn token_file(self, file: impl AsRef<Path>) -> Self {
        Self { token_file: Some(file.as_ref().into()), ..self }
    }

    /// A client of this daemon.
    pub fn client(self) -> Client {
        Client::to(Destination::Remote(Arc::new(self)))
    }

    pub(crate) fn unreachable(&self, detail: &str) -> Error {
        Error::RemoteUnreachable { address: self.address.clone(), detail: detail.into() }
    }

    /// The host, without its port.
    fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) async fn connect(&self) -> Result<Opened, Error> {
        let stream = self.stream().await?;
        let token = self.token()?;
        Ok(Opened { stream: Box::new(stream), origin: format!("https://{}", self.address), token })
    }

    /// The token as it is on disk now.
    pub(crate) fn token(&self) -> Result<Option<Zeroizing<String>>, Error> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| self.unusable(file, &error.to_string()))?;
        let token = text.trim();
        if token.is_empty() || token.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(self.unusable(file, "it holds no token"));
        }
        Ok(Some(Zeroizing::new(token.to_owned())))
    }

    /// A connection whose handshake is done.
    pub(crate) async fn stream(&self) -> Result<TlsStream<TcpStream>, Error> {
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let name = ServerName::try_from(self.host().to_owned()).map_err(|_| self.unreachable("this is no host's name"))?;
        let fails = |error: std::io::Error| self.unreachable(&error.to_string());
        let stream = TcpStream::connect(&self.address).await.map_err(fails)?;
        let _ = stream.set_nodelay(true);
        connector.connect(name, stream).await.map_err(fails)
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(&self.ca_file)? {
            roots.add(certificate).map_err(|error| self.unusable(&self.ca_file, &error.to_string()))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[&TLS13]).map_err(|error| self.unreachable(&error.to_string()))?;
        let config = config.with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = self.certificates(certificate)?;
                let key_text = std::fs::read(key).map(Zeroizing::new).map_err(|error| self.unusable(key, &error.to_string()))?;
                let parsed =
                    PrivateKeyDer::from_pem_slice(&key_text).map_err(|_| self.unusable(key, "it holds no private key in PEM"))?;
                config.with_client_auth_cert(chain, parsed).map_err(|error| self.unusable(certificate, &error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn certificates(&self, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = std::fs::read(file).map_err(|error| self.unusable(file, &error.to_string()))?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        found.ok().filter(|found| !found.is_empty()).ok_or_else(|| self.unusable(file, "it holds no certificate in PEM"))
    }

    fn unusable(&self, file: &Path, why: &str) -> Error {
        self.unreachable(&format!("{}: {why}", file.display()))
    }
}

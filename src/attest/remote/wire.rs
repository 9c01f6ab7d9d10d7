//! One connection over the network, and whom its certificate names.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{Tls, Unproven, names::Names};
use crate::peer::{Certificate, Sha256};

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Wire {
    /// That no other connection has. Never 0.
    number: u64,
    address: SocketAddr,
    tls: Arc<Tls>,
    verified: Option<Verified>,
    closed: watch::Receiver<()>,
}

/// A client certificate that TLS has verified.
#[derive(Debug)]
pub struct Verified {
    chain: Vec<CertificateDer<'static>>,
    certificate: Arc<Certificate>,
    /// When that it is in force was looked at last: by which reading of the files, and in which second. Certificates know no finer time.
    generation: AtomicU64,
    second: AtomicU64,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Wire {
    /// Of a caller at this address, with the certificates that it has shown. `closed` ends with the connection.
    pub fn new(
        address: SocketAddr,
        tls: Arc<Tls>,
        chain: Option<&[CertificateDer<'_>]>,
        closed: watch::Receiver<()>,
    ) -> Result<Self, Unproven> {
        let verified = chain.filter(|chain| !chain.is_empty()).map(|chain| Verified::new(chain, &tls)).transpose()?;
        Ok(Self { number: NUMBERS.fetch_add(1, Relaxed), address, tls, verified, closed })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn certificate(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }

    /// Is the certificate still in force, not revoked, and vouched for by all who did? Where nothing has changed since the last look,
    /// and it was in this second, that look stands.
    pub fn recheck(&self) -> Result<(), Unproven> {
        self.verified.as_ref().map_or(Ok(()), |verified| verified.recheck(&self.tls))
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        while closed.changed().await.is_ok() {}
    }
}

impl Verified {
    fn new(chain: &[CertificateDer<'_>], tls: &Tls) -> Result<Self, Unproven> {
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let (generation, second) = (tls.generation(), now());
        let authorities = tls.authorities();
        let vouched_by = authorities.vouched_by(&chain)?;
        let own = chain.first().ok_or(Unproven::CertificateMissing)?;
        let Names { uris, dns, emails } = authorities.names(own, &vouched_by)?;
        let certificate = Certificate { sha256: sha256(own), uris, dns, emails, vouched_by };
        Ok(Self { certificate: Arc::new(certificate), chain, generation: generation.into(), second: second.into() })
    }

    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    fn recheck(&self, tls: &Tls) -> Result<(), Unproven> {
        let (generation, second) = (tls.generation(), now());
        if self.generation.load(Relaxed) == generation && self.second.load(Relaxed) == second {
            return Ok(());
        }
        let authorities = tls.authorities();
        let vouched_by = authorities.vouched_by(&self.chain)?;
        if !self.certificate.vouched_by.is_subset(&vouched_by) {
            return Err(Unproven::CertificateOfUnknownAuthority);
        }
        // An authority that has come may be the only one that vouches for a name from then on.
        if self.generation.load(Relaxed) != generation {
            let own = self.chain.first().ok_or(Unproven::CertificateMissing)?;
            let Names { uris, dns, emails } = authorities.names(own, &vouched_by)?;
            let Certificate { uris: old_uris, dns: old_dns, emails: old_emails, .. } = &*self.certificate;
            let keeps = |new: &[String], old: &[String]| old.iter().all(|name| new.contains(name));
            if !(keeps(&uris, old_uris) && keeps(&dns, old_dns) && keeps(&emails, old_emails)) {
                return Err(Unproven::CertificateOfUnknownAuthority);
            }
        }
        self.second.store(second, Relaxed);
        self.generation.store(generation, Relaxed);
        Ok(())
    }
}

/// Seconds by the host's date.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.as_ref());
    Sha256(sha256)
}

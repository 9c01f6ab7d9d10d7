//! Who vouches for callers' certificates, and for which of their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Unproven, names::Names, spiffe};
use crate::peer::Authority;

/// All of them, each with what it takes to ask it.
#[derive(Debug, Default)]
pub struct Authorities(BTreeMap<Authority, Arc<dyn ClientCertVerifier>>);

/// What of a certificate that no list of revoked ones is about?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// Whoever has set up lists has one of each authority.
    Refused,
    /// The lists are somebody else's to make.
    Taken,
}

impl Authorities {
    /// Adds one with its roots. Every certificate of a chain is looked up in the lists, and a list that is outdated refuses whom it is about.
    ///
    /// # Errors
    /// In words, for roots or lists that cannot be used.
    pub fn add(
        &mut self,
        authority: Authority,
        roots: RootCertStore,
        lists: &[CertificateRevocationListDer<'static>],
        unlisted: Unlisted,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), String> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration();
        let builder = if unlisted == Unlisted::Taken { builder.allow_unknown_revocation_status() } else { builder };
        self.0.insert(authority, builder.build().map_err(|error| error.to_string())?);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that vouch for a certificate now.
    pub fn vouched_by(&self, chain: &[CertificateDer<'_>]) -> Result<BTreeSet<Authority>, Unproven> {
        let (own, between) = chain.split_first().ok_or(Unproven::CertificateMissing)?;
        self.ask(own, between, UnixTime::now()).map_err(|error| match error {
            Error::InvalidCertificate(error) => Unproven::of_certificate(&error),
            _ => Unproven::CertificateBad,
        })
    }

    fn ask(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<BTreeSet<Authority>, Error> {
        let mut why = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let mut vouched_by = BTreeSet::new();
        // Read once, and only where somebody asks for it.
        let domain = std::cell::LazyCell::new(|| Names::of(own).ok().as_ref().and_then(Names::trust_domain).map(str::to_owned));
        for (authority, verifier) in &self.0 {
            if let Authority::TrustDomain(name) = authority
                && domain.as_deref() != Some(&**name)
            {
                continue;
            }
            match verifier.verify_client_cert(own, between, now) {
                Ok(_) => _ = vouched_by.insert(authority.clone()),
                // That one does not know it says less than what another has against it.
                Err(other) if matches!(why, Error::InvalidCertificate(CertificateError::UnknownIssuer)) => why = other,
                Err(_) => {}
            }
        }
        if vouched_by.is_empty() { Err(why) } else { Ok(vouched_by) }
    }

    /// The names of a certificate that these may vouch for. A trust domain may for its own SPIFFE ids: an authority that is federated
    /// must not make itself one for host names or addresses. And where a trust domain is known by its bundle, nobody else may.
    pub fn names(&self, own: &CertificateDer<'_>, vouched_by: &BTreeSet<Authority>) -> Result<Names, Unproven> {
        let Names { uris, dns, emails } = Names::of(own)?;
        let by_file = vouched_by.iter().any(|authority| matches!(authority, Authority::File(_)));
        let may = |uri: &String| match spiffe::trust_domain(uri).map(|domain| Authority::TrustDomain(domain.into())) {
            Some(domain) if self.0.contains_key(&domain) => vouched_by.contains(&domain),
            _ => by_file,
        };
        let only_by_file = |names: Vec<String>| if by_file { names } else { Vec::new() };
        Ok(Names { uris: uris.into_iter().filter(may).collect(), dns: only_by_file(dns), emails: only_by_file(emails) })
    }

    /// Asks all of them at a handshake.
    pub fn at_handshakes(self: &Arc<Self>, required: bool, provider: &Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
        if self.is_empty() {
            return WebPkiClientVerifier::no_client_auth();
        }
        let hints: BTreeSet<Vec<u8>> =
            self.0.values().flat_map(|verifier| verifier.root_hint_subjects()).map(|name| name.as_ref().to_vec()).collect();
        let hints = hints.into_iter().map(DistinguishedName::from).collect();
        Arc::new(AtHandshakes { authorities: self.clone(), required, hints, provider: provider.clone() })
    }
}

#[derive(Debug)]
struct AtHandshakes {
    authorities: Arc<Authorities>,
    required: bool,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AtHandshakes {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.authorities.ask(own, between, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! Authorities and certificates for tests, right and wrong.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::daemon::Host;

/// An authority that signs certificates and lists of revoked ones.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, with its key.
pub struct Issued {
    pub pem: String,
    pub key: String,
    pub der: Vec<u8>,
    serial: u64,
}

/// What a certificate is to be.
#[derive(Clone)]
pub struct Wanted<'a> {
    /// With a scheme a URI, with an `@` an address, otherwise a DNS name.
    pub names: &'a [&'a str],
    /// Seconds from now.
    pub from: i64,
    pub until: i64,
    pub server: bool,
}

pub const CLIENT: Wanted<'static> =
    Wanted { names: &["spiffe://example.org/tools/billing"], from: -3600, until: 86_400, server: false };

pub const SERVER: Wanted<'static> = Wanted { names: &["localhost", "127.0.0.1"], from: -3600, until: 86_400, server: true };

fn in_seconds(seconds: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    Duration::from_secs((now + seconds) as u64)
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = date_time_ymd(2100, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub fn issue(&self, wanted: &Wanted<'_>) -> Issued {
        static SERIALS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
        let serial = SERIALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "not looked at");
        let name = |name: &&str| match *name {
            uri if uri.contains("://") => SanType::URI(uri.try_into().unwrap()),
            email if email.contains('@') => SanType::Rfc822Name(email.try_into().unwrap()),
            address if address.parse::<std::net::IpAddr>().is_ok() => SanType::IpAddress(address.parse().unwrap()),
            dns => SanType::DnsName(dns.try_into().unwrap()),
        };
        params.subject_alt_names = wanted.names.iter().map(name).collect();
        params.not_before = date_time_ymd(1970, 1, 1) + in_seconds(wanted.from);
        params.not_after = date_time_ymd(1970, 1, 1) + in_seconds(wanted.until);
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let usage = if wanted.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        Issued { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec(), serial }
    }

    /// The list of what is revoked, good for so many seconds.
    pub fn revoked(&self, revoked: &[&Issued], until: i64) -> String {
        let since = date_time_ymd(2020, 1, 1);
        let one = |one: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial),
            revocation_time: since,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: since,
            next_update: date_time_ymd(1970, 1, 1) + in_seconds(until),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&*self.0).unwrap().pem().unwrap()
    }
}

impl Issued {
    /// Writes both files, and returns their paths.
    pub fn write(&self, host: &Host, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        host.write(&certificate, &self.pem);
        host.write(&key, &self.key);
        (host.path(&certificate), host.path(&key))
    }

    /// PKCS#8.
    pub fn key_der(&self) -> Vec<u8> {
        use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
        PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes()).unwrap().secret_pkcs8_der().to_vec()
    }

    pub fn sha256(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

//! The names in a certificate: its subject alternative names, and nothing else. A common name is not looked at (RFC 6125).

use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{Unproven, spiffe};

/// Far more than any certificate for a client has.
const MOST: usize = 100;

/// Names by their kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub emails: Vec<String>,
}

impl Names {
    /// Reads them off a certificate (DER) that TLS has verified. What is not printable ASCII is no name of anyone.
    pub fn of(certificate: &[u8]) -> Result<Self, Unproven> {
        let parsed = Certificate::from_der(certificate).map_err(|_| Unproven::CertificateBad)?;
        let names = parsed.tbs_certificate.get::<SubjectAltName>().map_err(|_| Unproven::CertificateBad)?;
        let mut all = Self::default();
        let Some((_, SubjectAltName(names))) = names else { return Ok(all) };
        if names.len() > MOST {
            return Err(Unproven::CertificateBad);
        }
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        for name in names {
            match name {
                GeneralName::UniformResourceIdentifier(uri) if is_plain(uri.as_str()) => all.uris.push(uri.to_string()),
                GeneralName::DnsName(dns) if is_plain(dns.as_str()) => all.dns.push(dns.as_str().to_ascii_lowercase()),
                GeneralName::Rfc822Name(email) if is_plain(email.as_str()) => all.emails.push(email.to_string()),
                _ => {}
            }
        }
        Ok(all)
    }

    /// The trust domain whose identity this is: of its only URI (X509-SVID, 2: whoever has several, has none).
    pub fn trust_domain(&self) -> Option<&str> {
        match &*self.uris {
            [uri] => spiffe::trust_domain(uri),
            _ => None,
        }
    }
}

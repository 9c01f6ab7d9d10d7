//! What the SPIFFE Workload API has given the daemon: who it is, and whom it believes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_cert::{
    Certificate,
    der::{Decode, Reader, SliceReader},
};
use zeroize::{Zeroize, Zeroizing};

use super::names::Names;
use crate::proto::spiffe::{X509svid, X509svidResponse};

/// An X.509 SVID with its key, and the authorities of trust domains.
pub struct Identity {
    /// Its SPIFFE id.
    pub id: String,
    pub chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    pub until: SystemTime,
    /// By trust domain.
    pub bundles: BTreeMap<Arc<str>, Vec<CertificateDer<'static>>>,
    pub lists: Vec<CertificateRevocationListDer<'static>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("until", &self.until).finish_non_exhaustive()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        // A key that is another has another certificate.
        self.chain == other.chain && self.bundles == other.bundles && self.lists == other.lists
    }
}

impl Identity {
    /// Takes what was answered; of several identities the one with this id, or the first.
    ///
    /// # Errors
    /// In words: none is wanted, or what came is none as the X509-SVID specification has it.
    pub fn of(mut answer: X509svidResponse, wanted: Option<&str>) -> Result<Self, String> {
        let made = Self::read(&mut answer, wanted);
        answer.svids.iter_mut().for_each(|svid| svid.x509_svid_key.zeroize());
        made
    }

    fn read(answer: &mut X509svidResponse, wanted: Option<&str>) -> Result<Self, String> {
        let ids: Vec<_> = answer.svids.iter().map(|svid| svid.spiffe_id.clone()).collect();
        let at = match wanted {
            None => {
                if ids.is_empty() {
                    None
                } else {
                    Some(0)
                }
            }
            Some(wanted) => ids.iter().position(|id| id == wanted),
        };
        let Some(svid) = at.and_then(|at| answer.svids.get_mut(at)) else {
            let wanted = wanted.unwrap_or("any");
            return Err(format!(
                "none of the identities it gives is {wanted}: {}",
                if ids.is_empty() { "there is none".into() } else { ids.join(", ") }
            ));
        };
        let X509svid { spiffe_id: id, x509_svid, x509_svid_key, bundle, .. } = svid;
        let key = Zeroizing::new(std::mem::take(x509_svid_key));
        let bad = |what: &str| format!("{id} {what}");
        let domain = trust_domain(id).ok_or_else(|| bad("is no SPIFFE id"))?;
        let chain = certificates(x509_svid)
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| bad("has no certificate that can be read"))?;
        // X509-SVID, 2 and 5.2: the one URI among its names is its id.
        let names = Names::of(&chain[0]).map_err(|_| bad("has a certificate whose names cannot be read"))?;
        if names.uris != [id.as_str()] {
            return Err(bad("has a certificate that names another"));
        }
        let until = ends(&chain[0]).ok_or_else(|| bad("has a certificate whose end cannot be read"))?;
        let mut bundles = BTreeMap::new();
        for (name, bundle) in answer.federated_bundles.iter() {
            // Named as `spiffe://example.org`; some agents leave the scheme away.
            let name = name.strip_prefix("spiffe://").unwrap_or(name).trim_end_matches('/');
            let roots = certificates(bundle).ok_or_else(|| format!("the bundle of {name} cannot be read"))?;
            if !is_trust_domain(name) {
                return Err(format!("{name} is no trust domain"));
            }
            bundles.insert(Arc::from(name), roots);
        }
        // After those of others: nobody's federation says who is at home.
        let own = certificates(bundle)
            .filter(|own| !own.is_empty())
            .ok_or_else(|| bad("comes without authorities that can be read"))?;
        bundles.insert(Arc::from(domain), own);
        bundles.retain(|_, roots| !roots.is_empty());
        let lists = answer.crl.iter().map(|list| CertificateRevocationListDer::from(list.clone())).collect();
        Ok(Self { id: id.clone(), chain, key, until, bundles, lists })
    }

    /// A copy for the TLS library.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

/// Certificates one after the other. `None`: not to the last byte.
fn certificates(bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let mut all = Vec::new();
    while !reader.is_finished() {
        let one = reader.tlv_bytes().ok()?;
        Certificate::from_der(one).ok()?;
        all.push(CertificateDer::from(one.to_vec()));
    }
    Some(all)
}

/// When a certificate (DER) ends. `None` where that cannot be read.
pub fn ends(certificate: &[u8]) -> Option<SystemTime> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let seconds = parsed.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The trust domain of a SPIFFE id; `None` for what is none (SPIFFE-ID, 2).
pub fn trust_domain(id: &str) -> Option<&str> {
    let rest = id.strip_prefix("spiffe://").filter(|_| id.len() <= 2048)?;
    let (domain, path) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    (is_trust_domain(domain) && path.is_none_or(|path| path.split('/').all(segment))).then_some(domain)
}

/// A SPIFFE id of a workload: with a path, which that of a trust domain itself does not have.
pub fn is_workload_id(id: &str) -> bool {
    trust_domain(id).is_some_and(|domain| id.len() > "spiffe://".len() + domain.len())
}

fn is_trust_domain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_what_is_none() {
        for (id, domain) in [("spiffe://example.org", "example.org"), ("spiffe://a-b_c.1/tools/Billing.2", "a-b_c.1")] {
            assert_eq!(trust_domain(id), Some(domain), "{id}");
        }
        let bad = [
            "",
            "spiffe://",
            "spiffe:///a",
            "https://example.org/a",
            "SPIFFE://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/../a",
            "spiffe://example.org/a?b",
            "spiffe://example.org:80/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org/a%20b",
        ];
        for bad in bad {
            assert_eq!(trust_domain(bad), None, "{bad}");
        }
        assert!(is_workload_id("spiffe://example.org/valetkey") && !is_workload_id("spiffe://example.org"));
    }

    #[test]
    fn answers_that_are_none() {
        let svid = |id: &str| X509svid { spiffe_id: id.into(), x509_svid_key: b"key".to_vec(), ..Default::default() };
        let said =
            |svids: Vec<X509svid>, wanted| Identity::of(X509svidResponse { svids, ..Default::default() }, wanted).unwrap_err();
        assert!(said(vec![], None).contains("there is none"));
        let several = vec![svid("spiffe://example.org/a"), svid("spiffe://example.org/b")];
        assert!(said(several, Some("spiffe://example.org/c")).ends_with("spiffe://example.org/a, spiffe://example.org/b"));
        assert!(said(vec![svid("example.org/a")], None).contains("no SPIFFE id"));
        assert!(said(vec![svid("spiffe://example.org/a")], None).contains("no certificate"));
        assert!(certificates(&[0x30, 0x03, 1]).is_none() && certificates(&[0x30, 0x01, 1]).is_none());
    }
}

//! What a caller over the network must be.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::peer::{Authority, Certificate, Jwt, Remote, Sha256, Token};

/// Every selector that is set must hold. None: nobody over the network is this tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteAs {
    pub certificate: Option<CertificateIs>,
    /// A token that was issued under this name.
    pub token: Option<String>,
    pub jwt: Option<JwtIs>,
}

/// A certificate that has every name which is set here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateIs {
    /// Such as a SPIFFE id. With `/*` at its end: whatever stands below it.
    pub uri: Option<String>,
    /// In lower case. With `*.` at its start: any one label in that place.
    pub dns: Option<String>,
    pub email: Option<String>,
    /// The certificate itself, whatever its names.
    pub sha256: Option<Sha256>,
    /// The file of authorities that must vouch for it. `None`: any that the daemon accepts at all.
    pub ca_file: Option<Arc<Path>>,
}

/// A token of this issuer, for this subject, with these claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtIs {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: String,
    pub subject: Option<String>,
    /// By name or RFC 6901 pointer: the value, or one of a list.
    pub claims: BTreeMap<String, String>,
}

impl RemoteAs {
    /// Does the caller fit every selector? If not, the first that it does not, for the operator.
    pub(super) fn check(&self, remote: &Remote) -> Result<(), String> {
        if *self == Self::default() {
            return Err("it calls over the network, and `run-as` has no certificate, token or jwt".into());
        }
        if let Some(wanted) = &self.certificate {
            let found = remote.certificate.as_ref().ok_or("it has no certificate, and must have one")?;
            wanted.check(found)?;
        }
        if let Some(name) = &self.token {
            match &remote.token {
                Some(Token::Issued { name: found, .. }) if found == name => {}
                Some(Token::Issued { name: found, .. }) => return Err(format!("its token was issued as {found}, not as {name}")),
                Some(Token::Jwt(_)) => return Err("it has a JSON Web Token, and must have a token that was issued here".into()),
                None => return Err("it has no token, and must have one".into()),
            }
        }
        match (&self.jwt, &remote.token) {
            (None, _) => Ok(()),
            (Some(wanted), Some(Token::Jwt(found))) => wanted.check(found),
            (Some(_), _) => Err("it has no JSON Web Token, and must have one".into()),
        }
    }

    /// Each selector in words.
    pub fn describe(&self) -> Vec<String> {
        let mut words = self.certificate.as_ref().map(CertificateIs::describe).unwrap_or_default();
        words.extend(self.token.as_ref().map(|name| format!("token {name}")));
        words.extend(self.jwt.as_ref().map(JwtIs::describe));
        words
    }
}

impl CertificateIs {
    fn check(&self, found: &Certificate) -> Result<(), String> {
        let lacks = |what: &str, wanted: &str| Err(format!("its certificate has no {what} {wanted}"));
        if let Some(uri) = &self.uri
            && !found.uris.iter().any(|name| fits_uri(uri, name))
        {
            return lacks("URI", uri);
        }
        if let Some(dns) = &self.dns
            && !found.dns.iter().any(|name| fits_dns(dns, name))
        {
            return lacks("DNS name", dns);
        }
        if let Some(email) = &self.email
            && !found.emails.contains(email)
        {
            return lacks("email address", email);
        }
        if let Some(digest) = self.sha256
            && found.sha256 != digest
        {
            return Err(format!("its certificate has digest {}, not {digest}", found.sha256));
        }
        match &self.ca_file {
            Some(file) if !found.vouched_by.contains(&Authority::File(file.clone())) => {
                Err(format!("no authority in {} vouches for its certificate", file.display()))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.uri.as_ref().map(|uri| format!("certificate uri {uri}")));
        words.extend(self.dns.as_ref().map(|dns| format!("certificate dns {dns}")));
        words.extend(self.email.as_ref().map(|email| format!("certificate email {email}")));
        words.extend(self.sha256.map(|digest| format!("certificate sha256 {digest}")));
        words.extend(self.ca_file.as_ref().map(|file| format!("certificate ca-file {}", file.display())));
        words
    }
}

impl JwtIs {
    fn check(&self, found: &Jwt) -> Result<(), String> {
        if found.issuer != self.issuer {
            return Err(format!("its token is of issuer {}, not of {}", found.issuer, self.issuer));
        }
        if let Some(subject) = &self.subject
            && found.subject != *subject
        {
            return Err(format!("its token is for another subject than {subject}"));
        }
        let has = |(claim, value): (&String, &String)| found.claims.get(claim).is_some_and(|values| values.contains(value));
        match self.claims.iter().find(|claim| !has(*claim)) {
            Some((claim, value)) => Err(format!("its token has no claim {claim} with {value}")),
            None => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let mut words = format!("jwt issuer {}", self.issuer);
        if let Some(subject) = &self.subject {
            words += &format!(" subject {subject}");
        }
        self.claims.iter().for_each(|(claim, value)| words += &format!(" {claim}={value}"));
        words
    }
}

/// By bytes, as SPIFFE ids are compared (SPIFFE-ID, 2): `spiffe://example.org/tools/*` is whatever stands below that path.
fn fits_uri(wanted: &str, found: &str) -> bool {
    match wanted.strip_suffix('*').filter(|below| below.ends_with('/')) {
        Some(below) => {
            found.len() > below.len() && found.starts_with(below) && !found.contains("/../") && !found.ends_with("/..")
        }
        None => wanted == found,
    }
}

/// `*.example.com` is any one label below it (RFC 6125, 6.4.3). A certificate's own wildcard is no name of anyone: it fits only itself.
fn fits_dns(wanted: &str, found: &str) -> bool {
    match wanted.strip_prefix("*.") {
        Some(below) => found.split_once('.').is_some_and(|(label, rest)| rest == below && !label.is_empty() && label != "*"),
        None => wanted == found,
    }
}

/// The authorities that some selector asks for.
pub(super) fn authorities<'a>(all: impl Iterator<Item = &'a RemoteAs>) -> Vec<PathBuf> {
    let files = all.filter_map(|remote| remote.certificate.as_ref()?.ca_file.as_ref());
    let files: std::collections::BTreeSet<_> = files.map(|file| file.to_path_buf()).collect();
    files.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(uris: &[&str], dns: &[&str]) -> Certificate {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let vouched_by = [Authority::File(Path::new("/etc/ca.pem").into())].into();
        Certificate { sha256: Sha256([1; 32]), uris: all(uris), dns: all(dns), emails: vec!["a@example.com".into()], vouched_by }
    }

    fn remote(token: Option<Token>) -> Remote {
        let certificate = certificate(&["spiffe://example.org/tools/billing"], &["billing.example.com"]);
        Remote { address: "192.0.2.1:1".parse().unwrap(), certificate: Some(Arc::new(certificate)), token }
    }

    fn by(certificate: CertificateIs) -> RemoteAs {
        RemoteAs { certificate: Some(certificate), ..RemoteAs::default() }
    }

    #[test]
    fn every_name_that_is_set_must_be_there() {
        let all = CertificateIs {
            uri: Some("spiffe://example.org/tools/billing".into()),
            dns: Some("billing.example.com".into()),
            email: Some("a@example.com".into()),
            sha256: Some(Sha256([1; 32])),
            ca_file: Some(Path::new("/etc/ca.pem").into()),
        };
        let me = remote(None);
        assert_eq!(by(all.clone()).check(&me), Ok(()));
        let wrong = [
            CertificateIs { uri: Some("spiffe://example.org/tools/billing2".into()), ..all.clone() },
            CertificateIs { dns: Some("example.com".into()), ..all.clone() },
            CertificateIs { email: Some("A@example.com".into()), ..all.clone() },
            CertificateIs { sha256: Some(Sha256([2; 32])), ..all.clone() },
            CertificateIs { ca_file: Some(Path::new("/etc/other.pem").into()), ..all.clone() },
        ];
        for wrong in wrong {
            assert!(by(wrong.clone()).check(&me).is_err(), "{wrong:?}");
        }
        assert_eq!(by(all).describe().len(), 5);
        assert!(RemoteAs::default().check(&me).is_err(), "no selector fits nobody, not anybody");
    }

    #[test]
    fn what_stands_below_a_path_and_nothing_beside_it() {
        for (wanted, found, fits) in [
            ("spiffe://a/x", "spiffe://a/x", true),
            ("spiffe://a/x", "spiffe://a/x/y", false),
            ("spiffe://a/x/*", "spiffe://a/x/y", true),
            ("spiffe://a/x/*", "spiffe://a/x/y/z", true),
            ("spiffe://a/x/*", "spiffe://a/x/", false),
            ("spiffe://a/x/*", "spiffe://a/xy", false),
            ("spiffe://a/x/*", "spiffe://a/x/../z", false),
            ("spiffe://a/x*", "spiffe://a/xy", false),
            ("spiffe://a/x", "SPIFFE://a/x", false),
        ] {
            assert_eq!(fits_uri(wanted, found), fits, "{wanted} {found}");
        }
        for (wanted, found, fits) in [
            ("a.example.com", "a.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", "*.example.com", false),
            ("a.example.com", "*.example.com", false),
        ] {
            assert_eq!(fits_dns(wanted, found), fits, "{wanted} {found}");
        }
    }

    #[test]
    fn a_token_fits_by_its_issuer_its_subject_and_its_claims() {
        let claims = BTreeMap::from([("groups".into(), ["a".into(), "b".into()].into())]);
        let jwt = Token::Jwt(Arc::new(Jwt { issuer: "ci".into(), subject: "s".into(), claims }));
        let wanted = |issuer: &str, subject: &str, group: &str| RemoteAs {
            jwt: Some(JwtIs {
                issuer: issuer.into(),
                subject: Some(subject.into()),
                claims: [("groups".into(), group.into())].into(),
            }),
            ..RemoteAs::default()
        };
        let me = remote(Some(jwt.clone()));
        assert_eq!(wanted("ci", "s", "b").check(&me), Ok(()));
        for (issuer, subject, group) in [("other", "s", "b"), ("ci", "t", "b"), ("ci", "s", "c"), ("ci", "s", "")] {
            assert!(wanted(issuer, subject, group).check(&me).is_err());
        }
        let issued = |name: &str| Token::Issued { id: "1".into(), name: name.into() };
        let by_token = RemoteAs { token: Some("ci".into()), ..RemoteAs::default() };
        assert_eq!(by_token.check(&remote(Some(issued("ci")))), Ok(()));
        for other in [Some(issued("cd")), Some(jwt), None] {
            assert!(by_token.check(&remote(other)).is_err());
        }
    }
}

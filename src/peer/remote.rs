//! A caller over the network: what the TLS handshake and its token have proven. Facts only; that they hold was checked by
//! [`attest`](crate::attest) before one of these was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use super::Sha256;

/// Who calls over the network. It has a certificate, a token, or both: nobody without any gets this far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Where the connection comes from. Proves nothing.
    pub address: SocketAddr,
    pub certificate: Option<Arc<Certificate>>,
    pub token: Option<Token>,
}

/// A client certificate that was in force, and vouched for, at the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Of the certificate as a whole (DER).
    pub sha256: Sha256,
    /// Subject alternative names (RFC 5280, 4.2.1.6). A SPIFFE id is a URI among them.
    pub uris: Vec<String>,
    /// In lower case.
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    /// Who vouches for it, of those that configuration names. A name that none of them may vouch for is not above.
    pub vouched_by: BTreeSet<Authority>,
}

/// Who vouches for certificates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// The certificates in a file.
    File(Arc<Path>),
    /// The bundle of a SPIFFE trust domain, for SPIFFE ids of that domain and for nothing else.
    TrustDomain(Arc<str>),
}

/// What a token has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// One that an operator issued, under this name.
    Issued {
        /// Public: what listings and records call it by.
        id: String,
        name: String,
    },
    /// One of an identity provider.
    Jwt(Arc<Jwt>),
}

/// A JSON Web Token (RFC 7519) that its issuer has signed for this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: String,
    pub subject: String,
    /// Each claim by its name, one within another by an RFC 6901 pointer: a text, a number or a truth value as text, of a list each item.
    pub claims: BTreeMap<String, BTreeSet<String>>,
}

/// What sets one caller of a connection apart from another.
pub(super) type Proof<'a> = (Option<Sha256>, Option<&'a Token>);

impl Remote {
    pub(super) fn proof(&self) -> Proof<'_> {
        (self.certificate.as_ref().map(|certificate| certificate.sha256), self.token.as_ref())
    }

    /// Whom it counts for, said so that no two kinds of proof can be taken for each other, whatever names they have.
    pub(super) fn seat(&self) -> String {
        match (&self.token, &self.certificate) {
            (Some(Token::Issued { name, .. }), _) => format!("token {name}"),
            (Some(Token::Jwt(jwt)), _) => format!("jwt {} {}", jwt.issuer, jwt.subject),
            (None, Some(certificate)) => format!("certificate {}", certificate.name()),
            (None, None) => "nobody".into(),
        }
    }

    /// A name for listings and records: of the token where there is one, or else of the certificate.
    pub fn subject(&self) -> String {
        match (&self.token, &self.certificate) {
            (Some(Token::Issued { name, .. }), _) => format!("token:{name}"),
            (Some(Token::Jwt(jwt)), _) => format!("{}:{}", jwt.issuer, jwt.subject),
            (None, Some(certificate)) => certificate.name(),
            (None, None) => String::new(),
        }
    }
}

impl Certificate {
    /// The first of its names, or its digest where it has none.
    fn name(&self) -> String {
        let names = [&self.uris, &self.dns, &self.emails];
        let first = names.into_iter().flatten().next();
        first.cloned().unwrap_or_else(|| format!("sha256:{}", self.sha256))
    }
}

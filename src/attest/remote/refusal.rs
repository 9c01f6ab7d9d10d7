//! Why someone on the network is nobody. The words are stable; docs/errors.md has them.

use std::io;

use rustls::{CertificateError, Error as TlsError, PeerIncompatible};

/// Why a caller did not prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unproven {
    #[error("its certificate has ended")]
    CertificateExpired,
    #[error("its certificate is not in force yet")]
    CertificateNotYetValid,
    #[error("no authority of the configuration vouches for its certificate")]
    CertificateOfUnknownAuthority,
    #[error("its certificate was revoked")]
    CertificateRevoked,
    #[error("whether its certificate is revoked cannot be told: `crl-file` has no list of its authority, or an outdated one")]
    RevocationUnknown,
    #[error("its certificate is none, or none for clients")]
    CertificateBad,
    #[error("it has no certificate, and must have one")]
    CertificateMissing,
    #[error("it speaks no TLS of a version that is allowed here")]
    TlsTooOld,
    #[error("it speaks no TLS")]
    NotTls,
    #[error("its handshake took too long")]
    HandshakeTimedOut,
    #[error("its handshake failed")]
    HandshakeFailed,
    #[error("it speaks no HTTP/2 (ALPN h2)")]
    NotHttp2,
    #[error("the daemon has no certificate to show: its SPIFFE agent has given it none, or none that is still good")]
    NoIdentity,
    #[error("its address has max-connections-per-address open")]
    TooManyConnections,
    #[error("its address has failed more than failures-per-minute")]
    TooManyFailures,
    #[error("it has neither a certificate nor a token")]
    Anonymous,
    #[error("its authorization is no bearer token")]
    NoBearer,
    #[error("its token was not issued here")]
    TokenUnknown,
    #[error("its token has ended")]
    TokenExpired,
    #[error("its token was revoked")]
    TokenRevoked,
    #[error("its token is bound to another certificate")]
    TokenOfAnother,
    #[error("its token is no JSON Web Token")]
    JwtBad,
    #[error("no issuer of the configuration has made its token")]
    JwtIssuer,
    #[error("its token is signed in a way that its issuer is not configured for")]
    JwtAlgorithm,
    #[error("the key of its token is none of its issuer's")]
    JwtKey,
    #[error("the signature of its token is wrong")]
    JwtSignature,
    #[error("its token is for another audience")]
    JwtAudience,
    #[error("its token has ended")]
    JwtExpired,
    #[error("its token is not good yet")]
    JwtNotYetValid,
    #[error("its token is good for longer than `max-lifetime`, or does not say until when")]
    JwtLifetime,
    #[error("its token names no subject")]
    JwtSubject,
    #[error("the keys of its token's issuer are not known yet")]
    IssuerUnreachable,
}

impl Unproven {
    /// The word in logs and records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::CertificateExpired => "CERTIFICATE_EXPIRED",
            Self::CertificateNotYetValid => "CERTIFICATE_NOT_YET_VALID",
            Self::CertificateOfUnknownAuthority => "CERTIFICATE_UNKNOWN_AUTHORITY",
            Self::CertificateRevoked => "CERTIFICATE_REVOKED",
            Self::RevocationUnknown => "REVOCATION_UNKNOWN",
            Self::CertificateBad => "CERTIFICATE_BAD",
            Self::CertificateMissing => "CERTIFICATE_MISSING",
            Self::TlsTooOld => "TLS_TOO_OLD",
            Self::NotTls => "NOT_TLS",
            Self::HandshakeTimedOut => "HANDSHAKE_TIMED_OUT",
            Self::HandshakeFailed => "HANDSHAKE_FAILED",
            Self::NotHttp2 => "NOT_HTTP2",
            Self::NoIdentity => "NO_IDENTITY",
            Self::TooManyConnections => "TOO_MANY_CONNECTIONS",
            Self::TooManyFailures => "TOO_MANY_FAILURES",
            Self::Anonymous => "ANONYMOUS",
            Self::NoBearer => "NO_BEARER",
            Self::TokenUnknown => "TOKEN_UNKNOWN",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenRevoked => "TOKEN_REVOKED",
            Self::TokenOfAnother => "TOKEN_OF_ANOTHER",
            Self::JwtBad => "JWT_BAD",
            Self::JwtIssuer => "JWT_ISSUER",
            Self::JwtAlgorithm => "JWT_ALGORITHM",
            Self::JwtKey => "JWT_KEY",
            Self::JwtSignature => "JWT_SIGNATURE",
            Self::JwtAudience => "JWT_AUDIENCE",
            Self::JwtExpired => "JWT_EXPIRED",
            Self::JwtNotYetValid => "JWT_NOT_YET_VALID",
            Self::JwtLifetime => "JWT_LIFETIME",
            Self::JwtSubject => "JWT_SUBJECT",
            Self::IssuerUnreachable => "ISSUER_UNREACHABLE",
        }
    }

    /// What a failed handshake says of the caller.
    pub fn of_handshake(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(TlsError::InvalidCertificate(error)) => Self::of_certificate(error),
            Some(TlsError::NoCertificatesPresented) => Self::CertificateMissing,
            Some(TlsError::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic,
            )) => Self::TlsTooOld,
            Some(TlsError::InvalidMessage(_)) => Self::NotTls,
            Some(TlsError::NoApplicationProtocol) => Self::NotHttp2,
            _ => Self::HandshakeFailed,
        }
    }

    pub(super) fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::CertificateExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::CertificateNotYetValid,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::CertificateOfUnknownAuthority,
            CertificateError::Revoked => Self::CertificateRevoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            _ => Self::CertificateBad,
        }
    }
}

//! Callers over the network: a TLS connection, and what its certificate and its tokens prove.
//!
//! Nobody is anonymous here. Who has neither a certificate that an authority of the configuration vouches for, nor a token, is refused
//! before any call is looked at. And what was proven is proven again at each hand-out ([`Visitor::recheck`]): that the certificate is
//! still in force, not revoked since and still vouched for, and that the token has not ended.
//!
//! * [`Tls`]: the daemon's certificate, the authorities, the lists of what is revoked; read again when their files change.
//! * [`WorkloadApi`]: the same from a SPIFFE agent.
//! * [`Wire`]: one connection, and whom its certificate names.
//! * [`Visitor`]: a caller on a connection: by its certificate, or by a token as well.
//! * [`Tokens`]: tokens that operators issue. [`Issuers`]: identity providers, and what their tokens say.

mod authorities;
mod issuer;
mod issuers;
mod jwks;
mod names;
mod refusal;
mod spiffe;
mod tls;
mod tokens;
mod wire;
mod workload_api;

use std::sync::Arc;

pub use issuer::IssuerOptions;
pub use issuers::Issuers;
pub use jwks::KeySource;
pub use refusal::Unproven;
pub use spiffe::is_workload_id;
pub use tls::{Tls, TlsFiles};
pub use tokens::{BadToken, IssuedToken, NewToken, Tokens};
pub use wire::Wire;
pub use workload_api::WorkloadApi;

use crate::peer::{Changed, Peer, Remote, Token, Witness};

/// A caller over the network.
#[derive(Debug)]
pub struct Visitor {
    peer: Peer,
    wire: Arc<Wire>,
    login: Option<Login>,
}

/// A token that was taken, with what it takes to ask whether it is still good.
#[derive(Debug, Clone)]
pub enum Login {
    Issued { tokens: Arc<Tokens>, id: String, name: String },
    Jwt(Arc<issuers::Verdict>, Arc<Issuers>),
}

/// Who checks what a caller comes with.
#[derive(Debug, Clone)]
pub struct Desk {
    pub tokens: Arc<Tokens>,
    pub issuers: Arc<Issuers>,
}

impl Visitor {
    /// Whom the certificate of a connection names. `None`: it has none, and each call must prove itself.
    pub fn by_certificate(wire: &Arc<Wire>) -> Option<Self> {
        wire.certificate().is_some().then(|| Self::new(wire, None))
    }

    fn new(wire: &Arc<Wire>, login: Option<Login>) -> Self {
        let certificate = wire.certificate().map(|verified| verified.certificate().clone());
        let remote = Remote { address: wire.address(), certificate, token: login.as_ref().map(Login::token) };
        Self { peer: Peer::over_network(remote, wire.number()), wire: wire.clone(), login }
    }

    /// Resolves when its connection is gone.
    pub async fn gone(&self) {
        self.wire.closed().await;
    }
}

impl Desk {
    /// Takes a token, or says why not.
    ///
    /// # Errors
    /// The caller is told no more than that it was refused; the reason is for the record.
    pub async fn prove(&self, wire: &Arc<Wire>, token: &str) -> Result<Visitor, Unproven> {
        let digest = wire.certificate().map(|verified| verified.certificate().sha256);
        let login = match token.starts_with(tokens::PREFIX) {
            true => {
                let (id, name) = self.tokens.check(token, digest)?;
                Login::Issued { tokens: self.tokens.clone(), id, name }
            }
            false => {
                let verdict = self.issuers.check(token).await?;
                if !verdict.is_of(digest) {
                    return Err(Unproven::TokenOfAnother);
                }
                Login::Jwt(verdict, self.issuers.clone())
            }
        };
        Ok(Visitor::new(wire, Some(login)))
    }
}

impl Login {
    fn token(&self) -> Token {
        match self {
            Self::Issued { id, name, .. } => Token::Issued { id: id.clone(), name: name.clone() },
            Self::Jwt(verdict, _) => Token::Jwt(verdict.jwt().clone()),
        }
    }

    fn recheck(&self) -> Result<(), Unproven> {
        match self {
            Self::Issued { tokens, id, .. } => tokens.recheck(id),
            Self::Jwt(verdict, issuers) => issuers.recheck(verdict),
        }
    }
}

impl Witness for Visitor {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn recheck(&self) -> Result<(), Changed> {
        let certificate = self.wire.recheck();
        let login = || self.login.as_ref().map_or(Ok(()), Login::recheck);
        certificate.and_then(|()| login()).map_err(|unproven| Changed(unproven.to_string()))
    }
}

//! HashiCorp Vault and OpenBao: their key-value engine, versions 1 and 2, and whatever other engines give to a read, such as a
//! database's credentials, with their leases.
//!
//! `vaultrs` gives the protocol. What it does not do is done here: no redirect is followed (it would take the token along), no
//! setting comes from a `VAULT_*` variable, values are read where they lie in the answer's body, and that body and the token are wiped. Its
//! types are never logged, because they show the token.

mod client;
mod errors;
mod lease;
mod lend;
mod life;
mod login;
mod read;
mod rotate;
#[cfg(test)]
mod tests;
mod token;
mod write;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use secrecy::SecretString;

pub use self::{login::SecretIds, rotate::rotates_at};

use self::{client::Access, lease::Leases, login::Server, read::is_path, token::Tokens};
use super::{
    Calls, Cause, CheckOutcomes, Checked, Known, LoginFacts, Outcomes, Source, SourceError, Wanted, Working,
    other_end::is_this_host,
};

/// Where the secrets are and how to get in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://vault.example.com:8200`. Plain `http` only to this host itself.
    pub address: String,
    /// For the login and for all paths.
    pub namespace: Option<String>,
    pub login: Login,
    /// Where the key-value engine is mounted: `secret`.
    pub mount: String,
    pub engine: Engine,
    /// Certificates, in PEM, to trust in place of the system's. Read at each fetch, as the next two are.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, with those between it and its authority, and its key, which none but us may read. Both in PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The most calls at a time; 0 means 1.
    pub concurrency: usize,
    /// What AppRole logins can read only once.
    pub secret_ids: SecretIds,
}

/// How to get a token. Files are read at each login, so what is in them can be replaced at any time.
#[derive(Debug, Clone)]
pub enum Login {
    /// Taken as it is: neither renewed nor asked after.
    Token(SecretString),
    /// A token that somebody else made. It is renewed where that can be, and never revoked. The file is read again when it changed.
    TokenFile(PathBuf),
    AppRole {
        mount: String,
        role_id: String,
        secret_id_file: PathBuf,
        /// The file holds a wrapping token that yields the secret id, once. The secret id is then kept in memory for later logins.
        wrapped: bool,
        /// Removes the file after the first login with it, and keeps the secret id in memory. One that may be used only once cannot log
        /// in again: then the token must be one that can be renewed for as long as it is needed.
        delete_after_read: bool,
    },
    Jwt {
        mount: String,
        role: String,
        token_file: PathBuf,
    },
    /// The file may be one that others can read, as the tokens are that Kubernetes puts into a pod.
    Kubernetes {
        mount: String,
        role: String,
        token_file: PathBuf,
    },
    /// By the client certificate. Without a role every one that the certificate fits is tried.
    Certificate {
        mount: String,
        role: Option<String>,
    },
}

/// The version of the key-value engine at the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Keeps no versions: all of them are `1`.
    V1,
    V2,
}

/// The secrets of one key-value mount, and of any other path that a token may read. [`Wanted::path`] is relative to the mount, and without the
/// `data/` of version 2; or it begins with `/` and is read as it is.
///
/// Without a field the value is the one of the key `value` if that is all there is, and otherwise the JSON text of the whole object as
/// the server writes it.
#[derive(Debug)]
pub struct Vault {
    access: Arc<Access>,
    tokens: Tokens<Server>,
    leases: Leases,
    /// The generation of tokens that may not ask what they may do.
    blind: Mutex<Option<u64>>,
}

/// For giving the token back at the end.
const CLOSING: Duration = Duration::from_secs(2);
/// As many secrets as one question about rights is asked for.
const CHECK_SIZE: usize = 50;

impl Vault {
    /// Checks the settings. Calls nobody and reads no file.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        let refused = |problem: &str| Err(SourceError::new(Cause::Refused, problem));
        let Ok(address) = reqwest::Url::parse(&settings.address) else { return refused("`address` is not a URL") };
        let host = address.host_str().unwrap_or_default();
        match address.scheme() {
            "https" => {}
            "http" if matches!(settings.login, Login::Certificate { .. }) => {
                return refused("`address` is plain http, over which no certificate is shown: use https");
            }
            "http" if is_this_host(host) => {}
            "http" => {
                return refused("`address` is plain http to another host, where the token could be read on the way: use https");
            }
            _ => return refused("`address` must start with https://"),
        }
        if !address.username().is_empty() || address.password().is_some() || address.path() != "/" || address.query().is_some() {
            return refused("`address` must be scheme, host and port alone");
        }
        let in_header = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !settings.namespace.as_deref().is_none_or(in_header) {
            return refused("`namespace` holds a character that it may not have");
        }
        if !is_path(&settings.mount) {
            return refused("`mount` is not a path, such as secret");
        }
        if !settings.login.mount().is_none_or(is_path) {
            return refused("the `mount` of `auth` is not a path, such as approle");
        }
        if matches!(settings.login, Login::Certificate { .. }) && settings.client_certificate.is_none() {
            return refused("a login by certificate needs `client-cert-file` and `client-key-file`");
        }
        let access = Arc::new(Access::new(settings));
        let tokens = Tokens::new(Server::new(access.clone()));
        Ok(Self { access, tokens, leases: Leases::default(), blind: Mutex::default() })
    }
}

impl Source for Vault {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let tell = |(secret, found): read::Found| {
                let found = match found {
                    Ok(Checked::Read(fetched)) => Ok(fetched),
                    // What is not known cannot be the same.
                    Ok(Checked::Same { .. }) => return,
                    Err(error) => Err(error),
                };
                let _ = outcomes.send((secret, found));
            };
            self.run(read::jobs(wanted.iter().map(Into::into)), &tell).await;
        })
    }

    fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
        Box::pin(async move {
            let tell = |found: read::Found| _ = outcomes.send(found);
            self.run(read::jobs(known.iter().map(Into::into)), &tell).await;
        })
    }

    fn check_size(&self) -> usize {
        CHECK_SIZE
    }

    fn keep(&self) -> Working<'_> {
        Box::pin(self.tokens.keep())
    }

    fn close(&self) -> Working<'_> {
        Box::pin(async { _ = tokio::time::timeout(CLOSING, self.tokens.close()).await })
    }

    fn login(&self) -> Option<LoginFacts> {
        Some(self.tokens.facts(self.access.settings.login.method()))
    }

    /// Only version 2 of the key-value engine has check-and-set.
    fn writer(&self) -> Option<&dyn super::write::Write> {
        (self.access.settings.engine == Engine::V2).then_some(self)
    }

    fn rotator(&self) -> Option<&dyn super::rotate::Rotate> {
        Some(self)
    }

    fn lender(&self) -> Option<&dyn super::lend::Lend> {
        Some(self)
    }

    fn calls(&self) -> Option<&Calls> {
        Some(&self.access.calls)
    }
}

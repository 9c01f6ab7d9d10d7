//! The ways to get a token, and what the server is asked about one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret;
use serde_json::json;
use tracing::warn;
use vaultrs::api::auth::{
    approle::requests::LoginWithApproleRequest, kubernetes::requests::LoginWithKubernetesRequest, oidc::requests::JWTLoginRequest,
};

use super::{
    super::{Cause, SourceError, field::Json, key_file},
    Login, Settings,
    client::{Access, Call, Client, is_token, is_true, seconds},
    errors::{Asked, Failed, Of},
    life::Terms,
    token::{Granted, Upstream},
};
use crate::secret::SecretValue;

/// The server, as the one who grants tokens.
#[derive(Debug)]
pub(super) struct Server {
    access: Arc<Access>,
}

/// Secret ids whose file is gone, or held a wrapping token that is used up, by who logs in with them. Sources that are made anew when
/// configuration is read again find them here.
#[derive(Debug, Clone, Default)]
pub struct SecretIds(Arc<Mutex<BTreeMap<Whose, Kept>>>);

/// The server and its namespace, the mount, the role, and the file.
type Whose = (String, Option<String>, String, String, PathBuf);

impl SecretIds {
    fn get(&self, whose: &Whose) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(whose).cloned()
    }

    fn keep(&self, whose: Whose, kept: Kept) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(whose, kept);
    }
}

#[derive(Debug, Clone)]
struct Kept {
    value: Arc<SecretValue>,
    /// The file that it came from.
    stamp: Option<Stamp>,
}

/// Tells whether a file is still the one it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    changed: Option<SystemTime>,
    inode: u64,
    length: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::metadata(path).ok()?;
        Some(Self { changed: facts.modified().ok(), inode: facts.ino(), length: facts.len() })
    }
}

impl Server {
    pub fn new(access: Arc<Access>) -> Self {
        Self { access }
    }

    async fn log_in_by(&self, login: &Login) -> Result<Granted, SourceError> {
        match login {
            Login::Token(token) => {
                let token = checked_token(token.expose_secret().as_bytes())?;
                Ok(Granted { token, terms: Terms { left: None, renewable: false }, full: Duration::ZERO })
            }
            Login::TokenFile(path) => self.take_token(path).await,
            Login::AppRole { mount, role_id, secret_id_file, wrapped, delete_after_read } => {
                let (secret_id, stamp) = self.secret_id(mount, role_id, secret_id_file, *wrapped, *delete_after_read).await?;
                let client = self.access.client(None)?;
                let secret_id = secret_id.expose(|bytes| text(bytes, secret_id_file))?;
                let call = LoginWithApproleRequest { mount: mount.clone(), role_id: role_id.clone(), secret_id };
                let granted = ask_for_token(&client, "POST auth/approle/login", call, Asked::Login("AppRole", mount)).await?;
                if *delete_after_read {
                    remove(secret_id_file, stamp);
                }
                Ok(granted)
            }
            Login::Jwt { mount, role, token_file } => {
                let jwt = self.access.local(key_file::read(token_file))?;
                let call = JWTLoginRequest { mount: mount.clone(), jwt: text(&jwt, token_file)?, role: Some(role.clone()) };
                ask_for_token(&self.access.client(None)?, "POST auth/jwt/login", call, Asked::Login("JWT", mount)).await
            }
            Login::Kubernetes { mount, role, token_file } => {
                // Kubernetes writes these tokens for all in the pod to read, and replaces them within the hour.
                let jwt = self.access.local(key_file::read_shared(token_file))?;
                let call = LoginWithKubernetesRequest { mount: mount.clone(), role: role.clone(), jwt: text(&jwt, token_file)? };
                ask_for_token(&self.access.client(None)?, "POST auth/kubernetes/login", call, Asked::Login("Kubernetes", mount))
                    .await
            }
            Login::Certificate { mount, role } => {
                let body = role.as_ref().map_or_else(|| json!({}), |role| json!({ "name": role }));
                let call = Call::post(format!("auth/{mount}/login"), body);
                ask_for_token(&self.access.client(None)?, "POST auth/cert/login", call, Asked::Login("certificate", mount)).await
            }
        }
    }

    /// A token that somebody else made, and how long it lives.
    async fn take_token(&self, path: &Path) -> Result<Granted, SourceError> {
        let token = self.access.local(key_file::read(path).and_then(|bytes| checked_token(&bytes)))?;
        let client = self.access.client(Some(&token))?;
        let looked_up = look_up(&client).await;
        drop(client);
        let (terms, full) = match looked_up {
            Ok(found) => found,
            // It lives, and may not be told for how long: the reads will show.
            Err(Failed { of: Of::Policy, .. }) => (Terms { left: None, renewable: false }, Duration::ZERO),
            Err(Failed { of: Of::Token, error }) => {
                let words = format!("the token is wrong or has run out: put another one into {}", path.display());
                return Err(SourceError { detail: words, ..error });
            }
            Err(failed) => return Err(failed.error),
        };
        Ok(Granted { token, terms, full })
    }

    /// The secret id, and the file that it came from. What can be had only once is kept.
    async fn secret_id(
        &self,
        mount: &str,
        role_id: &str,
        path: &Path,
        wrapped: bool,
        deleted: bool,
    ) -> Result<(Arc<SecretValue>, Option<Stamp>), SourceError> {
        let stamp = Stamp::of(path);
        let Settings { address, namespace, secret_ids, .. } = &self.access.settings;
        let whose = (address.clone(), namespace.clone(), mount.to_owned(), role_id.to_owned(), path.to_owned());
        if let Some(kept) = secret_ids.get(&whose).filter(|kept| (wrapped || deleted) && (stamp.is_none() || stamp == kept.stamp))
        {
            return Ok((kept.value, kept.stamp));
        }
        let content = self.access.local(key_file::read(path))?;
        let value = match wrapped {
            true => self.unwrap(mount, &content).await?,
            false => SecretValue::copy_from(&content)?,
        };
        let value = Arc::new(value);
        if wrapped || deleted {
            secret_ids.keep(whose, Kept { value: value.clone(), stamp });
        }
        Ok((value, stamp))
    }

    /// Takes the secret id out of a wrapping token. That works once, so that a second one who tries it is noticed. Where the token was
    /// made is looked at first, because somebody who took the secret id could have put a wrapping token of his own in its place.
    async fn unwrap(&self, mount: &str, token: &[u8]) -> Result<SecretValue, SourceError> {
        let not_one = || Asked::Wrapping.failed(Of::Path, Cause::Refused, "the file holds no wrapping token").error;
        let token = checked_token(token).map_err(|_| not_one())?;
        let client = self.access.client(None)?;
        let body = token.expose(|bytes| json!({ "token": str::from_utf8(bytes).unwrap_or_default() }));
        let call = Call::post("sys/wrapping/lookup", body);
        let made_here = |data: Json<'_>| Some(data.at("creation_path")?.text_is(|path| is_creation_path(path, mount)));
        let made_here = client.ask_for("POST sys/wrapping/lookup", call, Asked::Wrapping, "data", made_here).await;
        if !made_here.map_err(|failed| failed.error)? {
            let words = "its wrapping token was not made by this login's own roles: somebody may have swapped it. It was not unwrapped; \
                         check `mount`, and wrap a new secret id";
            return Err(Asked::Wrapping.failed(Of::Path, Cause::Refused, words).error);
        }
        let client = self.access.client(Some(&token))?;
        let call = Call::post("sys/wrapping/unwrap", json!({}));
        let secret_id = |data: Json<'_>| data.at("secret_id")?.leaf();
        let unwrapped = client.ask_for("POST sys/wrapping/unwrap", call, Asked::Wrapping, "data", secret_id).await;
        unwrapped.map_err(|failed| failed.error)?
    }
}

/// `auth/MOUNT/role/ROLE/secret-id`
fn is_creation_path(path: &str, mount: &str) -> bool {
    let role = path.strip_prefix("auth/").and_then(|path| path.strip_prefix(mount)).and_then(|path| path.strip_prefix("/role/"));
    role.and_then(|role| role.strip_suffix("/secret-id")).is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

fn checked_token(bytes: &[u8]) -> Result<SecretValue, SourceError> {
    match is_token(bytes) {
        true => Ok(SecretValue::copy_from(bytes)?),
        false => Err(SourceError::new(Cause::Refused, "the token is empty or holds a character that no token has")),
    }
}

fn text(bytes: &[u8], path: &Path) -> Result<String, SourceError> {
    let not_text = |_| SourceError::new(Cause::Refused, format!("{} is not text", path.display()));
    str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
}

/// Removes the file that a secret id came from, unless it is another one by now.
fn remove(path: &Path, stamp: Option<Stamp>) {
    if stamp.is_none() || Stamp::of(path) != stamp {
        return;
    }
    // Not the link to it alone, which would leave the secret id where it is.
    if let Err(error) = fs::canonicalize(path).and_then(fs::remove_file) {
        warn!("cannot remove {} after its secret id was used: {error}", path.display());
    }
}

async fn ask_for_token(
    client: &Client<'_>,
    operation: &'static str,
    call: impl rustify::Endpoint,
    asked: Asked<'_>,
) -> Result<Granted, SourceError> {
    let granted = |auth: Json<'_>| {
        let token = auth.at("client_token")?.leaf()?;
        let (terms, full) = terms(auth, "lease_duration")?;
        Some(token.map(|token| Granted { token, terms, full }))
    };
    client.ask_for(operation, call, asked, "auth", granted).await.map_err(|failed| failed.error)?
}

/// A life of 0 is one without an end: a root token's.
fn terms(facts: Json<'_>, life: &str) -> Option<(Terms, Duration)> {
    let left = seconds(facts.at(life)?)?;
    let renewable = is_true(facts.at("renewable"));
    Some((Terms { left: (!left.is_zero()).then_some(left), renewable }, left))
}

async fn look_up(client: &Client<'_>) -> Result<(Terms, Duration), Failed> {
    let read = |data: Json<'_>| {
        let (terms, _) = terms(data, "ttl")?;
        // A token that ends in less than a second has a life of 0 too, and a time at which it ends.
        let endless = data.at("expire_time").is_none_or(|at| at.kind() == "null");
        let left = terms.left.or((!endless).then_some(Duration::ZERO));
        Some((Terms { left, ..terms }, data.at("creation_ttl").and_then(seconds).unwrap_or_default()))
    };
    let call = Call::get("auth/token/lookup-self");
    client.ask_for("GET auth/token/lookup-self", call, Asked::Token, "data", read).await
}

impl Upstream for Server {
    async fn log_in(&self) -> Result<Granted, SourceError> {
        self.log_in_by(&self.access.settings.login).await
    }

    async fn renew(&self, token: &SecretValue, increment: Duration) -> Result<Terms, SourceError> {
        let client = self.access.client(Some(token))?;
        let call = Call::post("auth/token/renew-self", json!({ "increment": format!("{}s", increment.as_secs()) }));
        let renewed = |auth: Json<'_>| terms(auth, "lease_duration").map(|(terms, _)| terms);
        let renewed = client.ask_for("POST auth/token/renew-self", call, Asked::Token, "auth", renewed).await;
        renewed.map_err(|failed| failed.error)
    }

    async fn is_alive(&self, token: &SecretValue) -> Result<bool, SourceError> {
        if matches!(self.access.settings.login, Login::Token(_)) {
            return Ok(true);
        }
        match look_up(&self.access.client(Some(token))?).await {
            Ok(_) | Err(Failed { of: Of::Policy, .. }) => Ok(true),
            Err(Failed { of: Of::Token, .. }) => Ok(false),
            Err(failed) => Err(failed.error),
        }
    }

    async fn revoke(&self, token: &SecretValue) {
        if self.token_is_given() {
            return;
        }
        let Ok(client) = self.access.client(Some(token)) else { return };
        // Failing that it runs out by itself: batch tokens cannot be revoked at all.
        let _ = client.ask("POST auth/token/revoke-self", Call::post("auth/token/revoke-self", json!({})), Asked::Token).await;
    }

    fn stamp(&self) -> Option<Stamp> {
        Stamp::of(self.access.settings.login.file()?)
    }

    fn token_is_given(&self) -> bool {
        matches!(self.access.settings.login, Login::Token(_) | Login::TokenFile(_))
    }

    fn chance(&self) -> f64 {
        let mut bytes = [0; 4];
        match aws_lc_rs::rand::fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            Err(_) => 0.5,
        }
    }
}

impl Login {
    /// As in configuration.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::TokenFile(_) => "token-file",
            Self::AppRole { .. } => "approle",
            Self::Jwt { .. } => "jwt",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Certificate { .. } => "cert",
        }
    }

    /// The mount that it logs in at.
    pub(super) fn mount(&self) -> Option<&str> {
        match self {
            Self::Token(_) | Self::TokenFile(_) => None,
            Self::AppRole { mount, .. }
            | Self::Jwt { mount, .. }
            | Self::Kubernetes { mount, .. }
            | Self::Certificate { mount, .. } => Some(mount),
        }
    }

    /// The file that it logs in with.
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Token(_) | Self::Certificate { .. } => None,
            Self::TokenFile(file) => Some(file),
            Self::AppRole { secret_id_file, .. } => Some(secret_id_file),
            Self::Jwt { token_file, .. } | Self::Kubernetes { token_file, .. } => Some(token_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_wrapped_secret_id_is_made() {
        assert!(is_creation_path("auth/approle/role/r/secret-id", "approle"));
        assert!(is_creation_path("auth/team/approle/role/r/secret-id", "team/approle"));
        for swapped in [
            "sys/wrapping/wrap",
            "auth/approle/role/r/custom-secret-id",
            "auth/approle/role//secret-id",
            "auth/approle/role/r/s/secret-id",
            "auth/other/role/r/secret-id",
            "secret/auth/approle/role/r/secret-id",
            "auth/approle/role/r/secret-id/x",
        ] {
            assert!(!is_creation_path(swapped, "approle"), "{swapped}");
        }
    }
}

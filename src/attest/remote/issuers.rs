//! All identity providers: their keys are kept fresh in the background, and what was found of a token stands until it ends.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, decode_header};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    Unproven,
    issuer::{Checked, IssuerOptions},
    jwks::{KeySource, Keys},
    wire::{now, sha256},
};
use crate::peer::{Jwt, Sha256};

/// A token of this size is none: what a header may be, with room for its other parts.
const LARGEST: usize = 12 * 1024;
/// Verdicts that are kept.
const MOST_VERDICTS: usize = 4096;
/// A token that names an unknown key makes its issuer be asked, and no more often than this whoever sends such tokens.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a call waits for that, at most.
const WAIT: Duration = Duration::from_secs(4);
/// Files are looked at, and a provider that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// The identity providers of a configuration.
#[derive(Debug, Default)]
pub struct Issuers {
    all: Vec<Arc<Provider>>,
    verdicts: Mutex<HashMap<Sha256, Arc<Verdict>>>,
}

#[derive(Debug)]
struct Provider {
    options: IssuerOptions,
    source: KeySource,
    refresh_every: Duration,
    keys: RwLock<Option<Arc<Keys>>>,
    /// Counts readings of its keys.
    read: watch::Sender<u64>,
    wanted: Notify,
}

/// A token that was found good.
#[derive(Debug)]
pub struct Verdict {
    issuer: usize,
    key: String,
    bound: Option<Sha256>,
    until: u64,
    jwt: Arc<Jwt>,
}

impl Verdict {
    pub fn jwt(&self) -> &Arc<Jwt> {
        &self.jwt
    }

    /// May it come with this certificate, or without one?
    pub fn is_of(&self, certificate: Option<Sha256>) -> bool {
        self.bound.is_none() || self.bound == certificate
    }
}

/// Every so often, whichever.
static SWEEPS: AtomicU64 = AtomicU64::new(0);

impl Issuers {
    /// None is asked before [`keep_fresh`](Self::keep_fresh) runs.
    pub fn new(all: Vec<(IssuerOptions, KeySource, Duration)>) -> Self {
        let provider = |(options, source, refresh_every)| {
            let (keys, read, wanted) = (RwLock::default(), watch::Sender::new(0), Notify::new());
            Arc::new(Provider { options, source, refresh_every, keys, read, wanted })
        };
        Self { all: all.into_iter().map(provider).collect(), verdicts: Mutex::default() }
    }

    /// Keeps all keys fresh, for as long as it is polled.
    pub async fn keep_fresh(&self) {
        futures_util::future::join_all(self.all.iter().map(|provider| provider.keep_fresh())).await;
    }

    /// Takes a token, or says why not. A key that is not known is asked for once.
    pub async fn check(&self, token: &str) -> Result<Arc<Verdict>, Unproven> {
        if token.len() > LARGEST {
            return Err(Unproven::JwtBad);
        }
        let digest = sha256(token.as_bytes());
        if let Some(known) = self.known(&digest) {
            return Ok(known);
        }
        let header = decode_header(token).map_err(|_| of_header(token))?;
        // Whose it says that it is decides which keys are tried, and nothing else.
        let says = issuer_of(token).ok_or(Unproven::JwtBad)?;
        let found = self.all.iter().position(|provider| provider.options.issuer == says).ok_or(Unproven::JwtIssuer)?;
        let provider = &self.all[found];
        let keys = provider.keys();
        let check = |keys: Option<Arc<Keys>>| match keys {
            Some(keys) => provider.options.check(token, &header, &keys),
            None => Err(Unproven::IssuerUnreachable),
        };
        let mut checked = check(keys);
        // Twice: one that is under way may have begun before the key was there.
        for _ in 0..2 {
            if !matches!(checked, Err(Unproven::JwtKey | Unproven::IssuerUnreachable)) {
                break;
            }
            checked = check(provider.ask().await);
        }
        let Checked { jwt, key, bound, until } = checked?;
        let verdict = Arc::new(Verdict { issuer: found, key, bound, until, jwt: Arc::new(jwt) });
        self.remember(digest, &verdict);
        Ok(verdict)
    }

    /// Is it still good: not ended, and its key still its issuer's?
    pub fn recheck(&self, verdict: &Verdict) -> Result<(), Unproven> {
        if verdict.until <= now() {
            return Err(Unproven::JwtExpired);
        }
        let keys = self.all.get(verdict.issuer).and_then(|provider| provider.keys());
        if keys.is_some_and(|keys| keys.has(&verdict.key)) { Ok(()) } else { Err(Unproven::JwtKey) }
    }

    fn known(&self, digest: &Sha256) -> Option<Arc<Verdict>> {
        let known = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()?;
        self.recheck(&known).is_ok().then_some(known)
    }

    /// Where there is no room, whatever has ended goes, and then all: they are looked at again.
    fn remember(&self, digest: Sha256, verdict: &Arc<Verdict>) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MOST_VERDICTS || SWEEPS.fetch_add(1, Relaxed).is_multiple_of(256) {
            verdicts.retain(|_, verdict| self.recheck(verdict).is_ok());
            if verdicts.len() >= MOST_VERDICTS {
                verdicts.clear();
            }
        }
        verdicts.insert(digest, verdict.clone());
    }
}

/// A header that is none, or one with an algorithm that is none.
fn of_header(token: &str) -> Unproven {
    let header = token.split_once('.').and_then(|(header, _)| part(header));
    match header.as_ref().and_then(|header| header.get("alg")).and_then(serde_json::Value::as_str) {
        Some(name) if Algorithm::from_str(name).is_err() => Unproven::JwtAlgorithm,
        _ => Unproven::JwtBad,
    }
}

fn part(text: &str) -> Option<serde_json::Value> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn issuer_of(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let claims = part(parts.nth(1)?)?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

impl Provider {
    fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the keys read, unless that was just done, and waits for them.
    async fn ask(&self) -> Option<Arc<Keys>> {
        let mut read = self.read.subscribe();
        self.wanted.notify_one();
        let _ = tokio::time::timeout(WAIT, read.changed()).await;
        self.keys()
    }

    async fn keep_fresh(&self) {
        let mut trouble = None;
        loop {
            let begun = Instant::now();
            match self.source.read().await {
                Ok(keys) => self.put(keys, &mut trouble),
                Err(why) if trouble.as_ref() == Some(&why) => {}
                Err(why) => {
                    warn!(issuer = self.options.name, "the keys of an issuer cannot be had: {why}");
                    trouble = Some(why);
                }
            }
            self.read.send_modify(|count| *count += 1);
            let is_file = matches!(self.source, KeySource::File(_));
            let every = if trouble.is_some() || is_file { RETRY } else { self.refresh_every };
            tokio::select! {
                () = tokio::time::sleep_until(begun + every) => {}
                () = async {
                    tokio::time::sleep_until(begun + ASK_AGAIN.min(every)).await;
                    self.wanted.notified().await;
                } => {}
            }
        }
    }

    fn put(&self, keys: Keys, trouble: &mut Option<String>) {
        let before = self.keys();
        if before.as_ref().is_none_or(|before| before.ids() != keys.ids()) || trouble.take().is_some() {
            info!(issuer = self.options.name, keys = keys.ids().len(), "the keys of an issuer are known");
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
    }
}

//! A tool whose system has refused a value asks for a fresh one: its source is asked first, once for all who ask, and seldom.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Broker;
use crate::{
    name::SecretName,
    peer::Witness,
    policy::{Decision, Request},
    session::Session,
};

/// A source is not asked again for the same secret before this: whoever asks meanwhile gets what that brought.
const AGAIN: Duration = Duration::from_secs(5);
/// How long whoever asks waits for a source. After that there is what there is.
const WAIT: Duration = Duration::from_secs(5);

/// Asks sources. What comes of it is in the store afterwards.
pub type Refresh = Box<dyn Fn(SecretName) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Default)]
pub(super) struct Fresh {
    by: std::sync::OnceLock<Refresh>,
    /// When each was last asked for. Held while that is done: who comes then waits for what it brings.
    asked: Mutex<HashMap<SecretName, Arc<tokio::sync::Mutex<Option<Instant>>>>>,
}

impl Broker {
    /// Has this ask sources. The first stands.
    pub fn refresh_by(&self, refresh: Refresh) {
        let _ = self.fresh.by.set(refresh);
    }

    /// Has what is asked for checked at its source, where the session may have it. What comes of that shows in the hand-out.
    pub async fn freshen(&self, witness: &dyn Witness, session: &Session, secret: &str) {
        let policy = self.policy();
        let decided = policy.decide(&session.peer, &Request::Get { scope: &session.scope, secret });
        let Decision::Allow(grant) = decided else { return };
        let secret = grant.secret().clone();
        // What was made for a session is its own, and no other is current.
        if policy.is_per_session(&secret) || self.still(witness, session).is_err() {
            return;
        }
        let Some(refresh) = self.fresh.by.get() else { return };
        let slot = {
            let mut asked = self.fresh.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.entry(secret.clone()).or_default().clone()
        };
        let _ = tokio::time::timeout(WAIT, async {
            let mut last = slot.lock().await;
            if last.is_none_or(|last| last.elapsed() >= AGAIN) {
                // Whoever waits no longer has begun it all the same.
                *last = Some(Instant::now());
                refresh(secret).await;
            }
        })
        .await;
    }
}

//! Secrets that a source makes anew for each session: they are in no store, and are made when the session first asks.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Broker, Refused};
use crate::{
    lease::{Leases, NotLent, Revoked},
    name::{SecretName, Version},
    peer::Witness,
    policy::{Decision, Policy, Request},
    session::Session,
    store::Serial,
};

impl Broker {
    /// Has this make them. The first stands.
    pub fn lend_by(&self, leases: Leases) {
        let _ = self.leases.set(leases);
    }

    pub fn leases(&self) -> Option<&Leases> {
        self.leases.get()
    }

    /// The version of a secret that a session would be handed, and which of all values that ever were it has.
    pub fn version_for(&self, session: &Session, secret: &SecretName) -> Option<(Version, Serial)> {
        match self.lends.load(Relaxed) && self.policy().is_per_session(secret) {
            true => self.leases.get()?.version(&session.id, secret),
            false => self.version(secret),
        }
    }

    /// Has all end that was made of this secret, and tells the sessions. `None`: none is made of it.
    pub async fn revoke_lent(&self, secret: &str) -> Option<(SecretName, Revoked)> {
        let policy = self.policy();
        let secret = policy.secret(secret).filter(|secret| policy.is_per_session(secret))?.clone();
        let revoked = self.leases.get()?.revoke(&secret).await;
        self.announce_changes();
        Some((secret, revoked))
    }

    pub(super) fn note_whether_it_lends(&self, policy: &Policy) {
        self.lends.store(!policy.per_session().is_empty(), Relaxed);
    }

    /// Has made what is asked for and the session does not have yet, if it may have it. `true`: the request was counted.
    pub(super) async fn lend_first(
        &self,
        witness: &dyn Witness,
        session: &Session,
        names: &[impl AsRef<str>],
        now: Duration,
    ) -> Result<bool, Refused> {
        if !self.lends.load(Relaxed) {
            return Ok(false);
        }
        let (policy, Some(leases)) = (self.policy(), self.leases.get()) else { return Ok(false) };
        let lacking = |secret: &&SecretName| policy.is_per_session(secret) && leases.version(&session.id, secret).is_none();
        let lacking: Vec<SecretName> =
            names.iter().filter_map(|name| policy.secret(name.as_ref())).filter(lacking).cloned().collect();
        if lacking.is_empty() {
            return Ok(false);
        }
        self.still(witness, session)?;
        self.keep_hand_outs_within_bounds(&policy, session, names.len() as u64, now)?;
        for secret in &lacking {
            match policy.decide(&session.peer, &Request::Get { scope: &session.scope, secret: secret.as_str() }) {
                Decision::Allow(grant) => self.keep_to_approvals(&policy, session, grant.secret())?,
                Decision::Deny(denial) => return Err(Refused::denied(&policy, &denial)),
                Decision::AllowSession(_) | Decision::AllowLaunch(..) => {
                    unreachable!("policy answers the question it is asked")
                }
            }
        }
        // Who lends must know when it ends.
        let open = self.sessions.of(&session.id, &session.peer).ok_or_else(Refused::not_open)?;
        for secret in lacking {
            leases.lend(&open, &secret).await.map_err(|why| match why {
                NotLent::Ended => session.ended().map_or_else(Refused::not_open, |end| Refused::ended(session, end)),
                why => {
                    let text = format!("{secret} is granted, and none could be made for this session: {why}");
                    Refused::unavailable(&secret).because(text, Some(secret.clone()))
                }
            })?;
        }
        Ok(true)
    }
}

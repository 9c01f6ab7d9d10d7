//! Keeps a lease alive as long as its session, and has another made when it cannot be extended any further.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    NotLent,
    leases::{Out, Shared},
};
use crate::{session::Session, source::SourceError};

/// At this share of its life a lease is extended. Others begin at the same time: each a little apart.
const AT: f64 = 0.6;
const APART: f64 = 0.1;
/// Servers count in whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);
/// How often it is looked whether the session uses the new credential.
const LOOK: Duration = Duration::from_millis(250);
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Until the session is over, or has nothing of it any more.
pub async fn keep(shared: Arc<Shared>, session: Weak<Session>, mut out: Arc<Out>) {
    loop {
        tokio::time::sleep(until_due(&out)).await;
        let Some(session) = session.upgrade().filter(|session| session.ended().is_none()) else { return };
        if !shared.is_current(&session.id, &out).await {
            return;
        }
        match extend(&shared, &out).await {
            Ok(true) => {}
            // As far as it goes, or not at all: another takes its place while this one is still good.
            Ok(false) | Err(_) => match replace(&shared, &session, &out).await {
                Some(new) => out = new,
                None => return,
            },
        }
    }
}

fn until_due(out: &Out) -> Duration {
    let (since, life, _) = *out.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let apart = f64::from(out.loan.id.bytes().fold(0u8, u8::wrapping_add)) / 256.0 * APART;
    (since + life.mul_f64(AT + apart)).saturating_duration_since(Instant::now())
}

/// `false`: it will not live any longer than it does.
async fn extend(shared: &Shared, out: &Out) -> Result<bool, SourceError> {
    let full = out.loan.life;
    let mut wait = PAUSES.0;
    loop {
        let (_, _, renewable) = *out.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !renewable {
            return Ok(false);
        }
        match out.lender()?.extend(&out.loan.id, full).await {
            Ok(extended) if extended.life.is_zero() => return Ok(false),
            Ok(extended) => {
                shared.extended(out, extended.life, extended.renewable).await;
                return Ok(extended.life + ROUNDED >= full);
            }
            Err(error) if error.cause.is_final() => return Err(error),
            Err(error) => {
                let left = out.ends().saturating_duration_since(Instant::now());
                if left <= wait {
                    return Err(error);
                }
                warn!(tool = %out.tool, secret = %out.secret, "a lease is not extended yet, and tried again: {error}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PAUSES.1).min(left / 2);
            }
        }
    }
}

/// The session has nothing of it any more: what it has ends, and it is told.
async fn withdraw(shared: &Arc<Shared>, session: &Session, old: &Arc<Out>) {
    let wanted = shared.wanted(&session.id, &old.place);
    shared.clear(&session.id, &old.place).await;
    shared.withdraw(session, &wanted);
    shared.give_back(old.clone());
}

/// Another, for as long as this one is good to try; the session hears of it as of any new version, and has the rest of the old one's life to
/// move. `None`: there is none, and what the session has is withdrawn.
async fn replace(shared: &Arc<Shared>, session: &Arc<Session>, old: &Arc<Out>) -> Option<Arc<Out>> {
    let mut wait = PAUSES.0;
    let new = loop {
        if session.ended().is_some() {
            return None;
        }
        match shared.make(&shared.source(old), &old.place, &old.tool, &old.secret).await {
            Ok(new) => break Arc::new(new),
            Err(error) if Instant::now() + wait < old.ends() => {
                warn!(tool = %old.tool, secret = %old.secret, "another credential for a session is not made yet: {error}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PAUSES.1);
            }
            Err(error) => {
                warn!(tool = %old.tool, secret = %old.secret, "a session's credential has ended, and there is no other: {error}");
                withdraw(shared, session, old).await;
                return None;
            }
        }
    };
    let wanted = shared.wanted(&session.id, &old.place);
    if let Err(error) = shared.put(session, &new, &wanted) {
        shared.give_back(new);
        if error != NotLent::Ended {
            warn!(tool = %old.tool, secret = %old.secret, "what was made for a session is not what it needs: {error}");
            withdraw(shared, session, old).await;
        }
        return None;
    }
    if shared.replace(&session.id, &old.place, new.clone()).await.is_none() {
        // The session ended meanwhile, or an operator revoked what it had: it is to have none of this either.
        withdraw(shared, session, &new).await;
        return None;
    }
    info!(tool = %old.tool, session = %session.id, secret = %old.secret, version = %new.loan.version, "another credential made for the session");
    session.tell();
    let (shared, session, old, next) = (shared.clone(), Arc::downgrade(session), old.clone(), new.clone());
    shared.control.clone().spawn(async move {
        let moved = |session: &Session| {
            let to = &next.loan.version;
            wanted.iter().all(|wanted| session.use_of(&wanted.secret).is_none_or(|held| held.used == *to && held.handed == *to))
        };
        while Instant::now() < old.ends() {
            match session.upgrade() {
                // What was revoked leaves the session nothing to move to, and nothing to stay with.
                Some(session) if session.ended().is_none() && !moved(&session) && shared.is_current(&session.id, &next).await => {
                    drop(session);
                    tokio::time::sleep(LOOK).await;
                }
                _ => break,
            }
        }
        shared.give_back(old);
    });
    Some(new)
}

//! Those who did not prove who they are, over the network: counted, and told seldom.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::warn;

use super::{
    Broker, Event,
    events::{LONGEST_SILENCE, SHORTEST_SILENCE},
};
use crate::{
    limits::{Repeats, Told},
    peer::Remote,
};

/// Someone who is nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRefused {
    /// Where it called from, and its certificate where that was good.
    pub remote: Remote,
    /// A stable word (docs/errors.md).
    pub reason: &'static str,
    /// For people. Fixed words.
    pub why: String,
}

/// Addresses and reasons that are told apart. What has no room is summed up together.
const MOST: usize = 1024;

/// What is refused, until it is told.
pub(super) struct Logins {
    repeats: Mutex<Repeats<(IpAddr, &'static str), LoginRefused>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Logins {
    fn default() -> Self {
        Self { repeats: Mutex::new(Repeats::new(SHORTEST_SILENCE, LONGEST_SILENCE, MOST)), counts: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logins {
    pub fn due(&self, now: Duration) -> Vec<Told<LoginRefused>> {
        lock(&self.repeats).due(now)
    }

    pub fn finish(&self) -> Vec<Told<LoginRefused>> {
        lock(&self.repeats).finish()
    }
}

impl Broker {
    /// Someone over the network did not prove who it is.
    pub fn login_refused(&self, remote: Remote, reason: &'static str, why: &str) {
        *lock(&self.logins.counts).entry(reason).or_default() += 1;
        let kind = (remote.address.ip().to_canonical(), reason);
        let make = || LoginRefused { remote, reason, why: why.into() };
        let told = lock(&self.logins.repeats).add(&kind, 1, self.uptime(), make, |_| ());
        told.iter().for_each(|told| self.note(&Event::LoginRefused(told)));
    }

    /// How often, by reason, since the daemon started.
    pub fn logins_refused(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.logins.counts).clone()
    }
}

pub(super) fn log(Told { event, count, total, others }: &Told<LoginRefused>) {
    let LoginRefused { remote, reason, why } = event;
    let (address, subject) = (remote.address, remote.subject());
    match (others, count) {
        (true, _) => warn!(count, total, "refused logins from many addresses, the latest of them {address}: {why}"),
        (false, 1) => warn!(remote = %address, subject, reason, total, "refused a login: {why}"),
        (false, _) => warn!(remote = %address, subject, reason, count, total, "refused logins again and again: {why}"),
    }
}

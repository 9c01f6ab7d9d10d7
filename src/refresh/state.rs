//! What is known of each source: for operators, and for nobody's decisions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::{
    name::{SecretName, SourceName},
    source::SourceError,
};

/// Every source's state, shared by loads, checks and those who look.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<BTreeMap<SourceName, SourceState>>>);

/// How it goes with one source.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// The last call that it answered.
    pub last_good: Option<SystemTime>,
    /// Since when it cannot be reached, and what was said last. `None`: it can, as far as anybody knows.
    pub outage: Option<(SystemTime, SourceError)>,
    /// Secrets that it does not give, and why.
    pub refused: BTreeMap<SecretName, SourceError>,
    /// Secrets of which it says nothing while it answers for others, and what was said last.
    pub unanswered: BTreeMap<SecretName, SourceError>,
    /// When each secret will be checked.
    pub next_checks: BTreeMap<SecretName, SystemTime>,
    /// When the source is tried again, where it cannot be reached: no secret is checked before.
    pub next_try: Option<SystemTime>,
}

impl States {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SourceName, SourceState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, source: &SourceName) -> SourceState {
        let mut state = self.lock().get(source).cloned().unwrap_or_default();
        if let Some(next_try) = state.next_try {
            state.next_checks.values_mut().for_each(|next| *next = next_try.max(*next));
        }
        state
    }

    /// Can it not be reached, as far as anybody knows?
    pub fn is_out(&self, source: &SourceName) -> bool {
        self.lock().get(source).is_some_and(|state| state.outage.is_some())
    }

    /// When it will be checked next.
    pub fn next_check(&self, source: &SourceName, secret: &SecretName) -> Option<SystemTime> {
        let states = self.lock();
        let state = states.get(source)?;
        state.next_checks.get(secret).copied().max(state.next_try.filter(|_| state.next_checks.contains_key(secret)))
    }

    /// What the source said against a secret at the last check.
    pub fn problem(&self, source: &SourceName, secret: &SecretName) -> Option<SourceError> {
        let states = self.lock();
        let state = states.get(source)?;
        state.refused.get(secret).or(state.unanswered.get(secret)).or(state.outage.as_ref().map(|(_, error)| error)).cloned()
    }

    pub(super) fn change<R>(&self, source: &SourceName, change: impl FnOnce(&mut SourceState) -> R) -> R {
        change(self.lock().entry(source.clone()).or_default())
    }

    pub(super) fn retain(&self, wanted: impl Fn(&SourceName) -> bool) {
        self.lock().retain(|source, _| wanted(source));
    }
}

//! Units that were handed a credential, and which version. Nobody is there to be told of a new one, as a session's process is: the unit has
//! what it was started with, until it is started anew. Policy can want that, and here is found which units it is time for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::Broker;
use crate::{
    name::{SecretName, ToolName, Version},
    policy::OnRotation,
};

/// By unit, what it was handed of each secret last.
pub type HandedTo = BTreeMap<String, BTreeMap<SecretName, Given>>;

/// A version that a unit has, and the one for which word was left that it is to have that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub version: Version,
    pub told_of: Option<Version>,
}

#[derive(Default)]
pub(super) struct Units {
    handed: Mutex<(HandedTo, Changed)>,
    /// For who puts it on disk.
    news: Notify,
}

type Changed = bool;

impl Units {
    fn lock(&self) -> MutexGuard<'_, (HandedTo, Changed)> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are no more units than policy has: others are handed nothing.
    pub fn handed(&self, unit: &str, secret: &SecretName, version: &Version) {
        let (handed, changed) = &mut *self.lock();
        handed.entry(unit.to_owned()).or_default().insert(secret.clone(), Given { version: version.clone(), told_of: None });
        *changed = true;
        self.news.notify_one();
    }
}

/// A unit that was handed a credential, and still may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitHolder {
    pub unit: String,
    pub tool: ToolName,
    pub version: Version,
}

/// A unit that has an old version of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    pub unit: String,
    pub tool: ToolName,
    pub secret: SecretName,
    /// What it has, and what it would be handed now.
    pub has: Version,
    pub current: Version,
    pub on_rotation: OnRotation,
}

impl Broker {
    /// What an earlier daemon knew: units outlive it. What this one has handed out counts more.
    pub fn remember_units(&self, handed: HandedTo) {
        let (known, _) = &mut *self.units.lock();
        for (unit, secrets) in handed {
            let known = known.entry(unit).or_default();
            secrets.into_iter().for_each(|(secret, version)| _ = known.entry(secret).or_insert(version));
        }
    }

    /// Resolves when a unit was handed something, since this was asked last.
    pub async fn unit_was_handed(&self) {
        self.units.news.notified().await;
    }

    /// What is known now, where it has changed since this was asked last.
    pub fn changed_units(&self) -> Option<HandedTo> {
        let (handed, changed) = &mut *self.units.lock();
        std::mem::take(changed).then(|| handed.clone())
    }

    /// Units that were handed this secret last at some time; whether one still runs, systemd knows.
    pub fn units_with(&self, secret: &SecretName) -> Vec<UnitHolder> {
        let policy = self.policy();
        let (handed, _) = &*self.units.lock();
        let holder = |(unit, secrets): (&String, &BTreeMap<SecretName, Given>)| {
            let (given, (tool, _)) = (secrets.get(secret)?, policy.unit_with(unit, secret)?);
            Some(UnitHolder { unit: unit.clone(), tool: tool.clone(), version: given.version.clone() })
        };
        handed.iter().filter_map(holder).collect()
    }

    /// Units of this tool, and what each was handed last of each secret; whether one still runs, systemd knows.
    pub fn units_of(&self, tool: &ToolName) -> BTreeMap<String, BTreeMap<SecretName, Version>> {
        let policy = self.policy();
        let (handed, _) = &*self.units.lock();
        let mut units: BTreeMap<String, BTreeMap<SecretName, Version>> = BTreeMap::new();
        for (unit, secrets) in handed {
            for (secret, given) in secrets {
                if policy.unit_with(unit, secret).is_some_and(|(name, _)| name == tool) {
                    units.entry(unit.clone()).or_default().insert(secret.clone(), given.version.clone());
                }
            }
        }
        units
    }

    /// Units that have an old version, each told once for each version.
    pub fn outdated_units(&self) -> Vec<Outdated> {
        let policy = self.policy();
        let (handed, changed) = &mut *self.units.lock();
        let mut outdated = Vec::new();
        for (unit, secrets) in handed.iter_mut() {
            let before = secrets.len();
            // Policy may have changed since.
            secrets.retain(|secret, _| policy.unit_with(unit, secret).is_some());
            *changed |= secrets.len() != before;
            for (secret, given) in secrets {
                let Some((tool, on_rotation)) = policy.unit_with(unit, secret) else { continue };
                // One that is not to be had would fail a new start.
                let Some((current, _)) = self.version(secret) else { continue };
                if current != given.version && given.told_of.as_ref() != Some(&current) {
                    *changed = true;
                    given.told_of = Some(current.clone());
                    let (unit, tool, secret, has) = (unit.clone(), tool.clone(), secret.clone(), given.version.clone());
                    outdated.push(Outdated { unit, tool, secret, has, current, on_rotation });
                }
            }
        }
        handed.retain(|_, secrets| !secrets.is_empty());
        outdated
    }
}

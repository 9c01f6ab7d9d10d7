//! What another policy would change: for a review, before it is in force.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    facts::{Channel, GrantFact},
    findings::Finding,
    graph::{Graph, Id},
    score::Score,
    walk::Walk,
};
use crate::{config::Privilege, name::ToolName};

/// The difference, tool by tool, in order of name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The main file of the other configuration.
    pub with: String,
    /// Can any tool reach more, or more easily, or is anyone else a tool?
    pub grows: bool,
    pub tools: Vec<ToolChange>,
    pub findings_new: Vec<Finding>,
    pub findings_gone: Vec<Finding>,
}

/// What changes for one tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolChange {
    pub tool: String,
    /// `None` where it is new.
    pub before: Option<Score>,
    /// `None` where it goes.
    pub after: Option<Score>,
    pub grows: bool,
    /// What a caller must be, where that changes.
    pub run_as: Option<RunAsChange>,
    pub secrets_gained: Vec<SecretChange>,
    pub secrets_lost: Vec<String>,
    /// Delivered another way.
    pub delivery: Vec<DeliveryChange>,
    /// Secrets that may go over the network, and could not before; those that are new too.
    pub remote_gained: Vec<String>,
    pub remote_lost: Vec<String>,
    pub systems_gained: Vec<SystemChange>,
    pub systems_lost: Vec<SystemChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunAsChange {
    pub before: Vec<String>,
    pub after: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretChange {
    pub secret: String,
    /// The line of the other policy.
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryChange {
    pub secret: String,
    pub before: Channel,
    pub after: Channel,
}

/// A system with more privilege, or less, than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SystemChange {
    pub system: String,
    pub before: Option<Privilege>,
    pub after: Option<Privilege>,
}

/// What one tool has in one policy.
#[derive(Default)]
struct Side<'f> {
    score: Option<Score>,
    run_as: &'f [String],
    grants: BTreeMap<&'f str, &'f GrantFact>,
    systems: BTreeMap<&'f str, Privilege>,
    /// Secrets that it could read at a source, and those of which nobody said what they open.
    beyond: BTreeSet<&'f str>,
}

impl<'f> Graph<'f> {
    /// What `other` would change of this. Findings are those of both, each for itself.
    pub fn difference(&self, other: &Graph<'_>, findings: (&[Finding], &[Finding])) -> Difference {
        let (mut walk, mut other_walk) = (Walk::new(self), Walk::new(other));
        let names: BTreeSet<&ToolName> = self.facts.tools.iter().chain(&other.facts.tools).map(|tool| &tool.name).collect();
        let changes = names.into_iter().filter_map(|name| {
            let before = self.tool_id(name.as_str()).map(|id| self.side(id, &mut walk)).unwrap_or_default();
            let after = other.tool_id(name.as_str()).map(|id| other.side(id, &mut other_walk)).unwrap_or_default();
            change(name.as_str(), &before, &after)
        });
        let tools: Vec<_> = changes.collect();
        let only = |of: &[Finding], not: &[Finding]| {
            let known: BTreeSet<_> = not.iter().filter(|one| one.excluded.is_none()).map(Finding::fingerprint).collect();
            let of = of.iter().filter(|one| one.excluded.is_none());
            of.filter(|one| !known.contains(&one.fingerprint())).cloned().collect()
        };
        Difference {
            with: other.facts.configuration.clone(),
            grows: tools.iter().any(|tool| tool.grows),
            tools,
            findings_new: only(findings.1, findings.0),
            findings_gone: only(findings.0, findings.1),
        }
    }

    fn side(&self, tool: Id, walk: &mut Walk) -> Side<'f> {
        self.walk_allowed(walk, tool);
        let steps = walk.steps.iter().filter(|step| step.depth > 0 || self.is_undeclared(step.secret));
        Side {
            score: Some(walk.score(self)),
            run_as: &self.tool(tool).run_as,
            grants: self.tool(tool).grants.iter().map(|grant| (grant.secret.as_str(), grant)).collect(),
            systems: walk.systems.iter().map(|reached| (self.systems[reached.system as usize], reached.privilege)).collect(),
            beyond: steps.map(|step| self.secret(step.secret).name.as_str()).collect(),
        }
    }
}

fn change(tool: &str, before: &Side<'_>, after: &Side<'_>) -> Option<ToolChange> {
    let both = before.score.is_some() && after.score.is_some();
    let run_as = (both && before.run_as != after.run_as)
        .then(|| RunAsChange { before: before.run_as.to_vec(), after: after.run_as.to_vec() });
    let gained = after.grants.iter().filter(|(secret, _)| !before.grants.contains_key(*secret));
    let secrets_gained: Vec<_> =
        gained.map(|(secret, grant)| SecretChange { secret: secret.to_string(), at: grant.at.to_string() }).collect();
    let lost = before.grants.keys().filter(|secret| !after.grants.contains_key(*secret));
    let secrets_lost: Vec<_> = lost.map(ToString::to_string).collect();
    let delivery: Vec<_> = before
        .grants
        .iter()
        .filter_map(|(secret, was)| {
            let is = after.grants.get(secret)?;
            let change = || DeliveryChange { secret: secret.to_string(), before: was.channel, after: is.channel };
            (was.channel != is.channel).then(change)
        })
        .collect();
    let remote = |side: &Side<'_>| -> BTreeSet<String> {
        side.grants.iter().filter(|(_, grant)| grant.remote).map(|(secret, _)| secret.to_string()).collect()
    };
    let (was_remote, is_remote) = (remote(before), remote(after));
    let remote_gained: Vec<_> = is_remote.difference(&was_remote).cloned().collect();
    let remote_lost: Vec<_> = was_remote.difference(&is_remote).cloned().collect();
    let (mut systems_gained, mut systems_lost) = (Vec::new(), Vec::new());
    let systems: BTreeSet<_> = before.systems.keys().chain(after.systems.keys()).collect();
    for system in systems {
        let (was, is) = (before.systems.get(*system).copied(), after.systems.get(*system).copied());
        let change = SystemChange { system: system.to_string(), before: was, after: is };
        match is.cmp(&was) {
            std::cmp::Ordering::Greater => systems_gained.push(change),
            std::cmp::Ordering::Less => systems_lost.push(change),
            std::cmp::Ordering::Equal => {}
        }
    }
    let easier = delivery.iter().any(|change| change.after > change.before);
    let beyond = after.beyond.difference(&before.beyond).next().is_some();
    let opened = !remote_gained.is_empty();
    let grows = easier || opened || beyond || run_as.is_some() || !secrets_gained.is_empty() || !systems_gained.is_empty();
    let change = ToolChange {
        tool: tool.into(),
        before: before.score.clone(),
        after: after.score.clone(),
        grows,
        run_as,
        secrets_gained,
        secrets_lost,
        delivery,
        remote_gained,
        remote_lost,
        systems_gained,
        systems_lost,
    };
    let same = change.before == change.after
        && !grows
        && change.secrets_lost.is_empty()
        && change.systems_lost.is_empty()
        && change.remote_lost.is_empty()
        && change.delivery.is_empty();
    (!same).then_some(change)
}

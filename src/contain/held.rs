//! What a tool holds: what its open sessions were handed, what its units have, and what the audit log says it was handed before.

use std::{collections::BTreeMap, sync::Arc};

use super::{Host, Part, Stopped};
use crate::{
    broker::Broker,
    name::{SecretName, ToolName, Version},
    session::Session,
};

/// By secret, the version that it has and that may be good: of a secret which nobody has changed since, and of one that has no value now,
/// as that does not mean that its system was told. And why the audit log could not be asked, where it could not.
pub(super) async fn held(
    broker: &Broker,
    host: &dyn Host,
    tool: &ToolName,
    sessions: &[Arc<Session>],
) -> (BTreeMap<SecretName, Version>, Option<String>) {
    let (logged, problem) = match host.handed_out(tool).await {
        Ok(logged) => (logged, None),
        Err(problem) => (BTreeMap::new(), Some(problem)),
    };
    let current = |secret: &SecretName| broker.version(secret).map(|(version, _)| version);
    // What was made for a session ended with that.
    let policy = broker.policy();
    let good =
        |secret: &SecretName, has: &Version| !policy.is_per_session(secret) && current(secret).is_none_or(|now| now == *has);
    let mut held: BTreeMap<_, _> = logged.into_iter().filter(|(secret, has)| good(secret, has)).collect();
    let units = broker.units_of(tool).into_iter().filter(|(unit, _)| host.unit_runs(unit));
    held.extend(units.flat_map(|(_, secrets)| secrets));
    // These know best: an old version of one is good as long as it is being rotated.
    held.extend(sessions.iter().flat_map(|session| session.held()));
    (held, problem)
}

/// A part for each, with those who share it.
pub(super) fn parts(broker: &Broker, tool: &ToolName, held: &BTreeMap<SecretName, Version>) -> BTreeMap<String, Part> {
    let policy = broker.policy();
    let part = |(secret, version): (&SecretName, &Version)| {
        let shared = !policy.is_per_session(secret);
        let others = policy.tools().filter(|(name, other)| shared && *name != tool && other.grants.contains_key(secret));
        (secret.to_string(), Part::of(version, others.map(|(name, _)| name.to_string()).collect()))
    };
    held.iter().map(part).collect()
}

/// A session that is ended.
pub(super) fn session(session: &Session) -> Stopped {
    let peer = &session.peer;
    Stopped {
        session: Some(session.id.to_string()),
        pid: peer.process.pid,
        unit: peer.unit.as_ref().map(|unit| unit.name.clone()),
        remote: peer.remote.as_ref().map(|remote| remote.address.to_string()),
        by_launcher: session.plan.as_ref().is_some_and(|plan| plan.launch.redact),
    }
}

/// Units of the tool that run with credentials of it.
pub(super) fn units(broker: &Broker, host: &dyn Host, tool: &ToolName) -> impl Iterator<Item = Stopped> {
    let units = broker.units_of(tool).into_keys().filter(|unit| host.unit_runs(unit));
    let stopped = |unit| Stopped { session: None, pid: 0, unit: Some(unit), remote: None, by_launcher: false };
    units.map(stopped).collect::<Vec<_>>().into_iter()
}

//! Who has which version, and how far they are on the way to another.

use super::Host;
use crate::{
    broker::{Broker, UnitHolder},
    name::{SecretName, SessionId, ToolName, Version},
    session::{Session, Sessions},
};

/// A session, or a unit, that was handed a version of a secret, while that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `None`: a unit, which has it as a credential until it is started anew.
    pub session: Option<SessionId>,
    pub unit: Option<String>,
    pub tool: ToolName,
    /// 0 where no one process has it.
    pub pid: u32,
    /// The version that it has; one that it was handed and has not said it uses does not count.
    pub version: Version,
    /// How that reached it: `rpc`, `env`, `file`, `fd`, `credential`.
    pub by: &'static str,
    /// It was handed the one that it is to move to.
    pub told: bool,
    /// It has moved.
    pub moved: bool,
}

/// Every holder of a secret, as they stand on the way to this version, or whichever version they have. A unit that was stopped has nothing.
pub(super) fn holders(broker: &Broker, host: &dyn Host, secret: &SecretName, to: Option<&Version>) -> Vec<Holder> {
    let mut holders = of_sessions(broker.sessions(), secret, to);
    let running = broker.units_with(secret).into_iter().filter(|holder| host.unit_runs(&holder.unit));
    holders.extend(running.map(|UnitHolder { unit, tool, version }| {
        let has = to.is_some_and(|to| version == *to);
        Holder { session: None, unit: Some(unit), tool, pid: 0, version, by: "credential", told: has, moved: has }
    }));
    holders
}

/// The same of sessions alone.
pub fn of_sessions(sessions: &Sessions, secret: &SecretName, to: Option<&Version>) -> Vec<Holder> {
    sessions.list().iter().filter_map(|session| holder(session, secret, to)).collect()
}

fn holder(session: &Session, secret: &SecretName, to: Option<&Version>) -> Option<Holder> {
    let held = session.use_of(secret)?;
    Some(Holder {
        session: Some(session.id),
        unit: session.peer.unit.as_ref().map(|unit| unit.name.clone()),
        tool: session.tool().clone(),
        pid: session.peer.process.pid,
        by: session.delivered_by(secret),
        told: to.is_some_and(|to| held.handed == *to),
        moved: to.is_some_and(|to| held.used == *to),
        version: held.used,
    })
}

//! Who has which version, and how far they are on the way to another.

use crate::{
    name::{SecretName, SessionId, ToolName, Version},
    session::{Session, Sessions},
};

/// A session that was handed a version of a secret, while that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub session: SessionId,
    pub tool: ToolName,
    pub pid: u32,
    /// The version that it has; one that it was handed and has not said it uses does not count.
    pub version: Version,
    /// How that reached it: `rpc`, `env`, `file`, `fd`.
    pub by: &'static str,
    /// It was handed the one that it is to move to.
    pub told: bool,
    /// It has moved.
    pub moved: bool,
}

/// Every holder of a secret, as they stand on the way to this version.
pub fn holders(sessions: &Sessions, secret: &SecretName, to: &Version) -> Vec<Holder> {
    sessions.list().iter().filter_map(|session| holder(session, secret, Some(to))).collect()
}

fn holder(session: &Session, secret: &SecretName, to: Option<&Version>) -> Option<Holder> {
    let held = session.use_of(secret)?;
    Some(Holder {
        session: session.id,
        tool: session.tool().clone(),
        pid: session.peer.process.pid,
        by: session.delivered_by(secret),
        told: to.is_some_and(|to| held.handed == *to),
        moved: to.is_some_and(|to| held.used == *to),
        version: held.used,
    })
}

/// Every holder of a secret, whichever version it has.
pub fn all_holders(sessions: &Sessions, secret: &SecretName) -> Vec<Holder> {
    sessions.list().iter().filter_map(|session| holder(session, secret, None)).collect()
}

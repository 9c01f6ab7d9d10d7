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
    let holder = |session: &Session| {
        let held = session.use_of(secret)?;
        Some(Holder {
            session: session.id,
            tool: session.tool().clone(),
            pid: session.peer.process.pid,
            by: session.delivered_by(secret),
            told: held.handed == *to,
            moved: held.used == *to,
            version: held.used,
        })
    };
    sessions.list().iter().filter_map(|session| holder(session)).collect()
}

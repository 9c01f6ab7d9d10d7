//! Operators' roles: who may look, who may act, who may see all that can be reached and cut it off, and who may let others in.

use std::collections::BTreeMap;

use super::RunAs;
use crate::peer::Peer;

/// What an operator may do. Each may all that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look: status and listings, and why something is allowed.
    Viewer,
    /// Keep it running: refresh, reload, end one session.
    Operator,
    /// Contain: rotate, end all of a tool, drop a value, approve, see the whole map, have a text cleaned.
    Security,
    /// Let others in: issue and revoke tokens.
    Owner,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Security, Self::Owner];

    /// Its key in `[roles]`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Security => "security",
            Self::Owner => "owner",
        }
    }
}

/// Who has which role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeMap<Role, Vec<RunAs>>);

impl Roles {
    pub fn new(roles: BTreeMap<Role, Vec<RunAs>>) -> Self {
        Self(roles)
    }

    /// Does nothing say who has one?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest that the caller has.
    pub fn of(&self, peer: &Peer) -> Option<Role> {
        let has = |(_, selectors): &(&Role, &Vec<RunAs>)| selectors.iter().any(|run_as| run_as.check(peer).is_ok());
        self.0.iter().rev().find(has).map(|(role, _)| *role)
    }

    /// May anybody who calls over the network have one?
    pub fn has_remote(&self) -> bool {
        self.selectors().any(|run_as| run_as.remote != Default::default())
    }

    pub fn selectors(&self) -> impl Iterator<Item = &RunAs> {
        self.0.values().flatten()
    }
}

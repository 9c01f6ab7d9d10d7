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
pub struct Roles {
    by: BTreeMap<Role, Vec<RunAs>>,
    /// Containing a tool takes two operators.
    two_to_contain: bool,
}

impl Roles {
    pub fn new(by: BTreeMap<Role, Vec<RunAs>>, two_to_contain: bool) -> Self {
        Self { by, two_to_contain }
    }

    /// Does it take two operators to contain a tool?
    pub fn two_to_contain(&self) -> bool {
        self.two_to_contain
    }

    /// Does nothing say who has one?
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// The highest that the caller has.
    pub fn of(&self, peer: &Peer) -> Option<Role> {
        let has = |(_, selectors): &(&Role, &Vec<RunAs>)| selectors.iter().any(|run_as| run_as.check(peer).is_ok());
        self.by.iter().rev().find(has).map(|(role, _)| *role)
    }

    /// May anybody who calls over the network have one?
    pub fn has_remote(&self) -> bool {
        self.selectors().any(|run_as| run_as.remote != Default::default())
    }

    pub fn selectors(&self) -> impl Iterator<Item = &RunAs> {
        self.by.values().flatten()
    }
}

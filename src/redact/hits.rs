//! What was found, to be told to who audits it; and what is written in its place.

use super::{
    Form,
    engine::{Found, Owner},
    find::Merged,
};
use crate::name::{SecretName, Version};

/// A value was found, and taken out of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The secret; or `shape/NAME` for what is no known value, but looks like a kind of key. Said whoever asks: it is for the
    /// audit log, and may be of a secret that must not be named in the text.
    pub name: SecretName,
    /// None for a shape.
    pub version: Option<Version>,
    /// How it was written.
    pub form: Form,
    /// Never zero.
    pub count: u64,
    /// In which line of the text it begins, from 1. Only where [`Wanted::lines`](super::Wanted::lines) asks for it.
    pub line: Option<u64>,
}

/// Hits by name, version, form and line.
#[derive(Default)]
pub(super) struct Hits {
    all: Vec<Hit>,
    /// Of what is counted next.
    pub line: Option<u64>,
}

impl Hits {
    /// Counts what stood in one place: each secret once, however many of its forms or pieces were found there. What ends
    /// within `told` was counted when it was passed on.
    pub fn count(&mut self, merged: &Merged<'_>, told: usize) {
        let mut parts: Vec<&Found<'_>> = merged.parts.iter().filter(|one| one.range.end > told).collect();
        parts.sort_by_key(|one| (one.owner.id, std::cmp::Reverse(one.range.len()), one.form));
        parts.dedup_by_key(|one| one.owner.id);
        parts.iter().for_each(|one| self.add(one.owner, one.form));
    }

    fn add(&mut self, owner: &Owner, form: Form) {
        let version = (form != Form::Shape).then_some(&owner.version);
        let line = self.line;
        let same =
            |hit: &&mut Hit| hit.line == line && hit.name == owner.name && hit.version.as_ref() == version && hit.form == form;
        // The latest first: where lines are told, the others are of earlier ones.
        match self.all.iter_mut().rev().take_while(|hit| hit.line == line).find(same) {
            Some(hit) => hit.count += 1,
            None => self.all.push(Hit { name: owner.name.clone(), version: version.cloned(), form, count: 1, line }),
        }
    }

    pub fn into_list(self) -> Vec<Hit> {
        self.all
    }
}

/// A name needs no escaping in JSON, at any depth, nor does what stands around it.
pub(super) fn placeholder(owner: &Owner, named: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[redacted");
    if named {
        out.push(b':');
        out.extend_from_slice(owner.name.as_str().as_bytes());
    }
    out.push(b']');
}

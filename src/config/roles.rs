//! `[roles]`: what operators may do, and who they are.

use std::collections::BTreeMap;

use super::{
    identity,
    read::{Key, Section, key},
};
use crate::policy::{Role, Roles};

pub(super) const KEYS: &[Key] = &[
    key("viewer", "[{ group = \"staff\" }]"),
    key("operator", "[{ group = \"ops\" }]"),
    key("security", "[{ certificate = { uri = \"spiffe://example.org/people/security/*\" } }]"),
    key("owner", "[{ user = \"alice\" }]"),
    key("two-person", "[\"contain\"]"),
];

pub(super) fn read(section: &Section<'_>) -> Roles {
    let mut roles = BTreeMap::new();
    for role in Role::ALL.into_iter().filter(|role| section.has(role.word())) {
        let selectors = section.sections(role.word(), identity::KEYS).unwrap_or_default();
        if selectors.is_empty() {
            section.reject(role.word(), "is nobody's");
        }
        roles.insert(role, selectors.iter().map(identity::read).collect());
    }
    let two_person = section.list("two-person", |word| match word {
        "contain" => Ok(()),
        _ => Err("is nothing that can take two operators: contain is"),
    });
    Roles::new(roles, two_person.is_some_and(|words| !words.is_empty()))
}

//! `credential = "NAME"` of a grant: what systemd asks for when it starts the tool's unit.

use std::collections::BTreeMap;

use super::read::Section;
use crate::{
    name::SecretName,
    policy::{RemoteAs, Rule, RunAs},
};

/// Bytes of a unit's and a credential's name together. systemd says both in the address of its socket, which has 107 bytes (unix(7))
/// and holds a random number of up to 16 digits too.
const LONGEST: usize = 83;

/// A credential's name. systemd takes more (any printable ASCII but `/` and `:`); who needs that can rename.
pub(super) fn id(text: &str) -> Result<String, &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(fits) {
        return Err("is not a credential's name: letters, digits and `._-`, and no dot in front");
    }
    if text.len() >= LONGEST {
        return Err("is longer than systemd can ask for");
    }
    Ok(text.into())
}

/// What cannot work is a mistake, or its author would rely on it.
pub(super) fn check_together(tool: &Section<'_>, run_as: &RunAs, grants: &BTreeMap<SecretName, Rule>) {
    let named = grants.values().filter_map(|rule| Some((rule.delivery.credential()?, rule.origin.line)));
    for (id, line) in named {
        let Some(unit) = &run_as.unit else {
            // Where `run-as` has mistakes, these come first.
            if *run_as != RunAs::default() {
                let what = format!("a `credential` of {} has no unit to go to: systemd asks in the name of one", tool.title);
                tool.error(line, what, "run-as = { unit = \"mcp-billing.service\" }");
            }
            continue;
        };
        if (RunAs { unit: None, remote: RemoteAs::default(), ..run_as.clone() }) != RunAs::default() {
            let what = format!(
                "a `credential` of {} can never be had: systemd asks for it, as root and before there is a process of the tool, which \
                 fits none of its `run-as` but the unit",
                tool.title
            );
            tool.error(line, what, format!("run-as = {{ unit = \"{unit}\" }}, and User= or DynamicUser= in the unit"));
        }
        if !unit.ends_with(".service") {
            let what = format!("a `credential` of {} can never be had: only a service has credentials", tool.title);
            tool.error(line, what, "run-as = { unit = \"mcp-billing.service\" }");
        }
        let length = unit.len() + id.len();
        if length > LONGEST {
            let what = format!(
                "a `credential` of {} and its unit have names of {length} characters together, and systemd can say {LONGEST}: the \
                 unit will not start",
                tool.title
            );
            tool.warn(line, what, "a shorter name for the credential, or the unit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["key", "stripe-secret-key", "a.b_c-9", "A"] {
            assert_eq!(id(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", ".key", "a/b", "a:b", "a b", "\u{e4}", "a\n", &"k".repeat(83)] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}

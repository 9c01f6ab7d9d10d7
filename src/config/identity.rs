//! `run-as`: what a caller must be. Refuses selectors that prove nothing, or prove it only until the next restart.

use std::{io, ops::RangeInclusive};

use super::{
    accounts,
    read::{Key, Refused, Section, key},
    remote,
};
use crate::policy::{Account, RunAs};

pub(super) const KEYS: &[Key] = &[
    key("unit", "\"mcp-billing.service\""),
    key("user", "\"mcp-billing\""),
    key("group", "\"mcp-billing\""),
    key("exe", "\"/usr/lib/mcp/billing\""),
    key("sha256", "\"64 hex digits, as sha256sum prints them\""),
    key("certificate", "{ uri = \"spiffe://example.org/tools/billing\" }"),
    key("token", "\"ci-runner\""),
    key("jwt", "{ issuer = \"login\", subject = \"billing\" }"),
];

const LATER: &str = "this way to know a tool is not in this version";
const UNIT_INSTEAD: &str = "unit = \"mcp-billing.service\", or user = \"NAME\"";

pub(super) const REFUSED: &[Refused] = &[Refused { name: "container", means: "unit", why: LATER, instead: UNIT_INSTEAD }];

/// systemd gives these ids to DynamicUser= services while they run, then to others (systemd, "Users, Groups, UIDs and GIDs on
/// systemd Systems").
const DYNAMIC: RangeInclusive<u32> = 61184..=65519;

/// Whom the kernel names where it cannot name the caller: every user outside a user namespace looks like this one.
const NOBODY: u32 = 65534;
const NOT_ONE: &str = "is nobody in particular: any number of programs run as this account";

/// Reads `run-as`. What is wrong in it is reported, and then nothing is left of it for a comparison with other tools.
pub(super) fn read(section: &Section<'_>) -> RunAs {
    let errors = section.doc.errors();
    let run_as = RunAs {
        unit: section.parsed("unit", unit),
        user: section.has("user").then(|| account(section, "user", accounts::user)).flatten(),
        group: section.has("group").then(|| account(section, "group", accounts::group)).flatten(),
        exe: section.absolute_path("exe"),
        sha256: section.parsed("sha256", |text| text.parse().map_err(|_| "must be 64 hex digits")),
        remote: remote::read_caller(section),
    };
    if section.misspelt() {
        return RunAs::default();
    }
    if KEYS.iter().all(|key| !section.has(key.name)) {
        let what = format!("{} is empty: every caller would be this tool", section.title);
        section.error(section.line, what, "run-as = { unit = \"mcp-billing.service\" }");
    } else if run_as.needs_executable() && !["unit", "user", "group"].iter().any(|key| section.has(key)) {
        let what = format!("{} proves nothing: any user can start that program", section.title);
        section.error(section.line, what, "unit = \"mcp-billing.service\" or user = \"NAME\" beside it");
    }
    if section.doc.errors() > errors { RunAs::default() } else { run_as }
}

/// A user or group by name or number, such as the kernel will show of a caller.
pub(super) fn account(section: &Section<'_>, key: &str, look_up: fn(&str) -> io::Result<Option<u32>>) -> Option<Account> {
    let text = section.text_or_number(key)?;
    let found = match look_up(text) {
        Ok(found) => found,
        Err(error) => {
            section.reject(key, format_args!("cannot be looked up: {}", error.kind()));
            return None;
        }
    };
    let number = || text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (thing, own) = match key {
        "user" => ("user", "unit = \"mcp-billing.service\", or a user of the tool's own: useradd --system NAME"),
        "group" => ("group", "unit = \"mcp-billing.service\", or a group of the tool's own: groupadd --system NAME"),
        _ => ("group", "a group of the operators' own: groupadd --system valetkey-admin"),
    };
    let why = match found.or_else(number) {
        None => format!("names a {thing} that this host does not have"),
        Some(NOBODY | 0xffff | u32::MAX) => NOT_ONE.into(),
        Some(_) if matches!(text, "nobody" | "nogroup") => NOT_ONE.into(),
        Some(id) if DYNAMIC.contains(&id) => {
            "is in the range of DynamicUser= (61184-65519): the next service to start may get the number".into()
        }
        Some(id) => return Some(Account { id, name: text.into() }),
    };
    section.reject_for(key, why, own);
    None
}

/// A unit name that, read from a caller's cgroup, says which service it is.
fn unit(name: &str) -> Result<String, &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if name.len() > 255 || !name.bytes().all(fits) {
        return Err("is not a unit's name");
    }
    if name.ends_with(".slice") {
        return Err("is a slice, which holds many services: name the service");
    }
    let Some(stem) = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope")) else {
        return Err("must end in .service or .scope");
    };
    if stem.is_empty() || stem.starts_with('@') {
        return Err("is not a unit's name");
    }
    if stem.ends_with('@') {
        return Err("is a template, which never runs: name the instance, as in mcp@billing.service");
    }
    if stem.starts_with("user@") || (stem.starts_with("session-") && name.ends_with(".scope")) {
        return Err("is all that a user runs: use user = \"NAME\" for that, or a system unit of the tool's own");
    }
    if name == "init.scope" {
        return Err("is the service manager itself");
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_name_one_service() {
        for good in [
            "mcp-billing.service",
            "mcp@alice.service",
            "run-u34.scope",
            "system-mcp\\x2dgithub.service",
            "session-cleaner.service",
        ] {
            assert_eq!(unit(good).as_deref(), Ok(good));
        }
        for bad in [
            "mcp-billing",
            "mcp.socket",
            "user@1000.service",
            "session-3.scope",
            "init.scope",
            "mcp.slice",
            "mcp@.service",
            ".service",
            "a b.service",
            "a/b.service",
            "user@1000.scope",
        ] {
            assert!(unit(bad).is_err(), "{bad}");
        }
    }
}

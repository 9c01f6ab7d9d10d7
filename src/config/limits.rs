//! `limits` of a tool, and `[limits]` for all tools together.

use std::time::Duration;

use super::read::{Key, Refused, Section, key};
use crate::limits::{Ceilings, Limits};

pub(super) const KEYS: &[Key] = &[
    key("per-second", "100"),
    key("per-minute", "600"),
    key("concurrent-requests", "64"),
    key("concurrent", "16"),
    key("secrets-per-session", "100"),
    key("per-session", "10000"),
    key("session-lifetime", "\"1d\""),
];
pub(super) const CEILING_KEYS: &[Key] = &[
    key("per-second", "20000"),
    key("per-minute", "600000"),
    key("concurrent-requests", "4096"),
    key("opens-per-minute", "6000"),
    key("admin-per-minute", "6000"),
];
/// What stands in another table.
pub(super) const CEILINGS_REFUSED: &[Refused] = &[
    elsewhere("max-sessions", "max-sessions = 1024 in [daemon]"),
    elsewhere("max-connections", "max-connections = 512 in [daemon]"),
    elsewhere("concurrent", "max-sessions = 1024 in [daemon], or limits = { concurrent = 16 } in [tool.NAME]"),
    elsewhere("per-session", "limits = { per-session = 10000 } in [tool.NAME]"),
    elsewhere("secrets-per-session", "limits = { secrets-per-session = 100 } in [tool.NAME]"),
    elsewhere("session-lifetime", "limits = { session-lifetime = \"1d\" } in [tool.NAME]"),
];

const fn elsewhere(name: &'static str, instead: &'static str) -> Refused {
    Refused { name, means: "", why: "is set elsewhere", instead }
}

/// A session that lives shorter would be opened anew more often than it is used.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);

pub(super) fn of_tool(section: &Section<'_>) -> Limits {
    let default = Limits::default();
    let per_minute = section.count32("per-minute", u32::MAX).unwrap_or(default.per_minute);
    let per_second = section.count32("per-second", u32::MAX).unwrap_or(Limits::per_second_of(per_minute));
    warn_of_vain_second(section, per_second, per_minute);
    let lifetime = section.parsed("session-lifetime", |text| match super::duration::duration(text)? {
        short if short < SHORTEST_LIFE => Err("is shorter than 10 s"),
        long => Ok(long),
    });
    Limits {
        per_second,
        per_minute,
        concurrent_requests: section.count32("concurrent-requests", u32::MAX).unwrap_or(default.concurrent_requests),
        concurrent: section.count32("concurrent", u32::MAX).unwrap_or(default.concurrent),
        secrets_per_session: section.count32("secrets-per-session", 1000).unwrap_or(default.secrets_per_session),
        per_session: section.count("per-session", u64::MAX).unwrap_or(default.per_session),
        session_lifetime: lifetime.unwrap_or(default.session_lifetime),
    }
}

pub(super) fn ceilings(section: &Section<'_>) -> Ceilings {
    let default = Ceilings::default();
    let count = |key, default| section.count32(key, u32::MAX).unwrap_or(default);
    let ceilings = Ceilings {
        per_second: count("per-second", default.per_second),
        per_minute: count("per-minute", default.per_minute),
        concurrent_requests: count("concurrent-requests", default.concurrent_requests),
        opens_per_minute: count("opens-per-minute", default.opens_per_minute),
        admin_per_minute: count("admin-per-minute", default.admin_per_minute),
    };
    warn_of_vain_second(section, ceilings.per_second, ceilings.per_minute);
    ceilings
}

/// A second's allowance that the minute's never lets through.
fn warn_of_vain_second(section: &Section<'_>, per_second: u32, per_minute: u32) {
    let most = Limits::per_second_of(per_minute);
    if section.has("per-second") && per_second > most {
        let what =
            format!("`per-second` in {} is never reached: a sixth of `per-minute` is all that passes at once", section.title);
        section.warn(section.line_of("per-second"), what, format!("per-second = {most}, or a larger `per-minute`"));
    }
}

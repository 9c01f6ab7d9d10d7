//! `[audit]`: where the audit log is, and how long it is kept. All optional.

use std::path::PathBuf;

use super::{
    address::file_ref,
    duration::bytes,
    read::{Key, Section, key},
    sources::FileRef,
};
use crate::audit::{Durability, Keep, Rules};

/// How the audit log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// `false`: nothing is on record. Warned of at each start.
    pub enabled: bool,
    /// `None`: `audit` in the daemon's state directory.
    pub directory: Option<PathBuf>,
    pub durability: Durability,
    /// `None`: `audit-signing-key.pem` beside the directory, made where there is none.
    pub signing_key: Option<FileRef>,
    pub rules: Rules,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { enabled: true, directory: None, durability: Durability::Sync, signing_key: None, rules: Rules::default() }
    }
}

pub(super) const KEYS: &[Key] = &[
    key("enabled", "true"),
    key("directory", "\"/var/lib/valetkey/audit\""),
    key("durability", "\"sync\""),
    key("signing-key", "\"credential:valetkey-audit-key\""),
    key("keep", "\"90d\""),
    key("max-size", "\"10G\""),
    key("file-size", "\"64M\""),
];

const DURABILITIES: &[(&str, Durability)] = &[("sync", Durability::Sync), ("batched", Durability::Batched)];

/// A file that is begun anew all the time is no help.
const SMALLEST: u64 = 1 << 20;

pub(super) fn read(section: &Section<'_>) -> AuditSettings {
    let default = AuditSettings::default();
    let size = |key| {
        section.parsed(key, |text| match bytes(text)? {
            small if small < SMALLEST => Err("is smaller than 1M"),
            size => Ok(size),
        })
    };
    let file_bytes = size("file-size").unwrap_or(default.rules.file_bytes);
    let keep = Keep {
        age: section.duration("keep").unwrap_or(default.rules.keep.age),
        bytes: size("max-size").unwrap_or(default.rules.keep.bytes),
    };
    if keep.bytes < file_bytes.saturating_mul(2) {
        let what = format!("`max-size` in {} is less than two files: hardly anything of the log is kept", section.title);
        section.warn(section.line_of("max-size"), what, "max-size = \"10G\", or a smaller `file-size`");
    }
    let enabled = section.boolean("enabled").unwrap_or(default.enabled);
    if !enabled {
        let what = "the audit log is off: who is given which secret is on no record".to_owned();
        section.warn(section.line_of("enabled"), what, "enabled = true, or leave it out");
    }
    AuditSettings {
        enabled,
        directory: section.absolute_path("directory"),
        durability: section.choice("durability", DURABILITIES).unwrap_or(default.durability),
        signing_key: section.parsed("signing-key", file_ref),
        rules: Rules { file_bytes, keep, ..default.rules },
    }
}

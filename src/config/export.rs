//! `[audit.export.NAME]`: where the audit log is sent.

use std::path::PathBuf;

use super::read::{Key, Named, Section, key};
use crate::{export::journald, name::ExporterName};

/// Where an exporter sends records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportSettings {
    /// To the journal that listens at this socket.
    Journald { socket: PathBuf },
}

impl ExportSettings {
    /// The word that stands for it in configuration.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Journald { .. } => "journald",
        }
    }
}

const KIND: Key = key("kind", KINDS_SHOWN);
const KINDS_SHOWN: &str = "\"journald\"";
const KINDS: [&str; 1] = ["journald"];

pub(super) const JOURNALD_KEYS: &[Key] = &[KIND, key("socket", "\"/run/systemd/journal/socket\"")];
const KIND_ONLY: &[Key] = &[KIND];

pub(super) const NAME_RULE: &str = "[audit.export.journal]: lower-case letters, digits and `._-`, at most 64";

/// Reads one exporter; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, ExporterName>) -> Option<ExportSettings> {
    let title = format!("[audit.export.{}]", named.name);
    match named.peek("kind") {
        Some("journald") => named.open(title.clone(), &title, JOURNALD_KEYS, &[]).map(|section| journald(&section)),
        _ => {
            // Which other keys are right depends on the kind: only the kind is looked at.
            let section = named.open_unchecked(title.clone(), &title, KIND_ONLY)?;
            match section.has("kind") {
                true => _ = section.choice("kind", &KINDS.map(|kind| (kind, ()))),
                false => section.missing("kind"),
            }
            None
        }
    }
}

fn journald(section: &Section<'_>) -> ExportSettings {
    ExportSettings::Journald { socket: section.absolute_path("socket").unwrap_or_else(|| journald::SOCKET.into()) }
}

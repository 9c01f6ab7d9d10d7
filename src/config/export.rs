//! `[audit.export.NAME]`: where the audit log is sent.

use std::path::PathBuf;

use super::{
    address::{file_ref, url},
    read::{Key, Named, Refused, Section, key},
    sources::FileRef,
};
use crate::{export::journald, name::ExporterName};

/// Where an exporter sends records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportSettings {
    /// To the journal that listens at this socket.
    Journald {
        socket: PathBuf,
    },
    Otlp(OtlpSettings),
}

/// A collector that is told over OTLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpSettings {
    /// https, or http on this host.
    pub endpoint: String,
    /// Holds a header on each line.
    pub headers_file: Option<FileRef>,
    /// Holds authorities' certificates, in place of the system's.
    pub ca_file: Option<FileRef>,
}

impl ExportSettings {
    /// The word that stands for it in configuration.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Journald { .. } => "journald",
            Self::Otlp(_) => "otlp",
        }
    }
}

const KIND: Key = key("kind", KINDS_SHOWN);
const KINDS_SHOWN: &str = "\"journald\" or \"otlp\"";
const KINDS: [&str; 2] = ["journald", "otlp"];

pub(super) const JOURNALD_KEYS: &[Key] = &[KIND, key("socket", "\"/run/systemd/journal/socket\"")];
pub(super) const OTLP_KEYS: &[Key] = &[
    KIND,
    key("endpoint", "\"https://collector.example.com:4317\""),
    key("headers-file", "\"credential:valetkey-otlp-headers\""),
    key("ca-file", "\"/etc/valetkey/collector-ca.pem\""),
];
const OTLP_REFUSED: &[Refused] = &[Refused {
    name: "headers",
    means: "headers-file",
    why: "a credential may not stand in configuration",
    instead: "headers-file = \"credential:NAME\": a systemd credential, or a file (0600), with `name: value` on each line",
}];
const KIND_ONLY: &[Key] = &[KIND];

pub(super) const NAME_RULE: &str = "[audit.export.journal]: lower-case letters, digits and `._-`, at most 64";

/// Reads one exporter; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, ExporterName>) -> Option<ExportSettings> {
    let title = format!("[audit.export.{}]", named.name);
    match named.peek("kind") {
        Some("journald") => named.open(title.clone(), &title, JOURNALD_KEYS, &[]).map(|section| journald(&section)),
        Some("otlp") => otlp(&named.open(title.clone(), &title, OTLP_KEYS, OTLP_REFUSED)?).map(ExportSettings::Otlp),
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

fn otlp(section: &Section<'_>) -> Option<OtlpSettings> {
    section.require(&["endpoint"]);
    let (headers_file, ca_file) = (section.parsed("headers-file", file_ref), section.parsed("ca-file", file_ref));
    Some(OtlpSettings { endpoint: section.parsed("endpoint", collector)?, headers_file, ca_file })
}

fn collector(text: &str) -> Result<String, &'static str> {
    url(text).map_err(|why| {
        if why.starts_with("must be https") { "must be https: records would cross the network in the clear" } else { why }
    })
}

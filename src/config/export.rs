//! `[audit.export.NAME]`: where the audit log is sent.

use std::{path::PathBuf, time::Duration};

use super::{
    address::{file_ref, plain, url},
    read::{Key, Named, Refused, Section, key},
    sources::{AwsSettings, FileRef, aws},
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
    CloudWatchLogs {
        account: AwsSettings,
        group: String,
        /// `None`: the host's name.
        stream: Option<String>,
        create_group: bool,
    },
    S3 {
        account: AwsSettings,
        bucket: String,
        prefix: String,
        every: Duration,
    },
    Stdout,
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
            Self::CloudWatchLogs { .. } => "cloudwatch-logs",
            Self::S3 { .. } => "s3",
            Self::Stdout => "stdout",
        }
    }
}

const KIND: Key = key("kind", KINDS_SHOWN);
const KINDS_SHOWN: &str = "\"journald\", \"otlp\", \"cloudwatch-logs\", \"s3\" or \"stdout\"";
const KINDS: [&str; 5] = ["journald", "otlp", "cloudwatch-logs", "s3", "stdout"];

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
const REGION: Key = key("region", "\"eu-west-1\"");
const ENDPOINT: Key = key("endpoint", "\"https://vpce-0123.logs.eu-west-1.vpce.amazonaws.com\"");
const PROFILE: Key = key("profile", "\"valetkey\"");
const CREDENTIALS_FILE: Key = key("credentials-file", "\"credential:aws\"");
const ROLE: Key = key("role-arn", "\"arn:aws:iam::123456789012:role/valetkey\"");
const EXTERNAL_ID: Key = key("external-id", "\"valetkey-of-example-com\"");
const STS: Key = key("sts-endpoint", "\"https://vpce-0123.sts.eu-west-1.vpce.amazonaws.com\"");
pub(super) const CLOUDWATCH_KEYS: &[Key] = &[
    KIND,
    REGION,
    key("log-group", "\"valetkey\""),
    key("log-stream", "\"host-17\""),
    key("create-group", "true"),
    ENDPOINT,
    PROFILE,
    CREDENTIALS_FILE,
    ROLE,
    EXTERNAL_ID,
    STS,
];
pub(super) const S3_KEYS: &[Key] = &[
    KIND,
    REGION,
    key("bucket", "\"example-audit\""),
    key("prefix", "\"valetkey/host-17\""),
    key("every", "\"1m\""),
    ENDPOINT,
    PROFILE,
    CREDENTIALS_FILE,
    ROLE,
    EXTERNAL_ID,
    STS,
];
pub(super) const STDOUT_KEYS: &[Key] = &[KIND];
const KIND_ONLY: &[Key] = &[KIND];

pub(super) const NAME_RULE: &str = "[audit.export.journal]: lower-case letters, digits and `._-`, at most 64";

/// Reads one exporter; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, ExporterName>) -> Option<ExportSettings> {
    let title = format!("[audit.export.{}]", named.name);
    match named.peek("kind") {
        Some("journald") => named.open(title.clone(), &title, JOURNALD_KEYS, &[]).map(|section| journald(&section)),
        Some("otlp") => otlp(&named.open(title.clone(), &title, OTLP_KEYS, OTLP_REFUSED)?).map(ExportSettings::Otlp),
        Some("cloudwatch-logs") => cloudwatch_logs(&named.open(title.clone(), &title, CLOUDWATCH_KEYS, aws_refused())?),
        Some("s3") => s3(&named.open(title.clone(), &title, S3_KEYS, aws_refused())?),
        Some("stdout") => named.open(title.clone(), &title, STDOUT_KEYS, &[]).map(|_| ExportSettings::Stdout),
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

fn aws_refused() -> &'static [Refused] {
    super::sources::REFUSED
}

fn cloudwatch_logs(section: &Section<'_>) -> Option<ExportSettings> {
    section.require(&["log-group"]);
    let (account, group) = (aws::account(section), section.parsed("log-group", log_name(512)));
    let stream = section.parsed("log-stream", log_name(512));
    let create_group = section.boolean("create-group").unwrap_or(false);
    Some(ExportSettings::CloudWatchLogs { account: account?, group: group?, stream, create_group })
}

/// As the API reference of `PutLogEvents` has it, and a little less.
fn log_name(longest: usize) -> impl Fn(&str) -> Result<String, &'static str> {
    move |text| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._/#-".contains(&b);
        match text.len() <= longest && text.bytes().all(known) {
            true => Ok(text.into()),
            false => Err("must be letters, digits and `._/#-`, at most 512"),
        }
    }
}

fn s3(section: &Section<'_>) -> Option<ExportSettings> {
    section.require(&["bucket"]);
    let (account, bucket) = (aws::account(section), section.parsed("bucket", bucket));
    let prefix = section.parsed("prefix", prefix).unwrap_or_default();
    let every = section.duration("every").unwrap_or(Duration::from_secs(60));
    Some(ExportSettings::S3 { account: account?, bucket: bucket?, prefix, every })
}

fn bucket(text: &str) -> Result<String, &'static str> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let fits = (3..=63).contains(&text.len()) && text.bytes().all(known) && !text.starts_with(['.', '-']) && !text.contains("..");
    if fits { Ok(text.into()) } else { Err("is not a bucket's name") }
}

/// What needs no escaping in an address.
fn prefix(text: &str) -> Result<String, &'static str> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._/=-".contains(&b);
    match plain(text)? {
        fits if fits.len() <= 512 && fits.bytes().all(known) => Ok(fits),
        _ => Err("must be letters, digits and `._/=-`, at most 512"),
    }
}

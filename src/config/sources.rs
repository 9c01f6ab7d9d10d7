//! `[source.NAME]`: where secrets come from, and how the daemon proves itself there. The credentials for that are in files,
//! never here.

pub(super) mod aws;
pub(super) mod vault;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    address::file_ref,
    read::{Key, Named, Refused, Section, key},
};
use crate::name::SourceName;
pub use aws::{AwsRole, AwsSettings, AwsStsSettings};
pub use vault::{RoleId, VaultAuth, VaultSettings};

/// A source as configured. The sources themselves are made from this elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSettings {
    AwsSecretsManager(AwsSettings),
    AwsParameterStore(AwsSettings),
    AwsSts(AwsStsSettings),
    Vault(VaultSettings),
    SealedFile(SealedFileSettings),
    /// The daemon's own environment: for tests and first steps.
    Environment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFileSettings {
    pub file: FileRef,
    pub identity_file: FileRef,
    pub freshness: Freshness,
}

/// How fresh what a source gave is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// How often each secret is checked for a new version.
    pub refresh_every: Duration,
    /// How long the last good value is handed out while the source cannot be reached.
    pub max_stale: Duration,
}

/// A file, named by path or as a systemd credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileRef {
    Path(PathBuf),
    /// `credential:NAME`: a file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl FileRef {
    /// The path, given the directory in which systemd puts this service's credentials; `None` where that is needed and absent.
    pub fn resolve(&self, credentials: Option<&Path>) -> Option<PathBuf> {
        match self {
            Self::Path(path) => Some(path.clone()),
            Self::Credential(name) => credentials.map(|directory| directory.join(name)),
        }
    }
}

impl SourceSettings {
    /// As in `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AwsSecretsManager(_) => "aws-secrets-manager",
            Self::AwsParameterStore(_) => PARAMETER_STORE,
            Self::AwsSts(_) => "aws-sts",
            Self::Vault(_) => "vault",
            Self::SealedFile(_) => "sealed-file",
            Self::Environment => "environment",
        }
    }

    /// `None`: it never changes.
    pub fn freshness(&self) -> Option<Freshness> {
        match self {
            Self::AwsSecretsManager(AwsSettings { freshness, .. })
            | Self::AwsParameterStore(AwsSettings { freshness, .. })
            | Self::Vault(VaultSettings { freshness, .. })
            | Self::SealedFile(SealedFileSettings { freshness, .. }) => Some(*freshness),
            Self::AwsSts(_) | Self::Environment => None,
        }
    }
}

pub(super) const KIND: Key =
    key("kind", "\"aws-secrets-manager\", \"aws-parameter-store\", \"aws-sts\", \"vault\", \"sealed-file\" or \"environment\"");

const PARAMETER_STORE: &str = "aws-parameter-store";
const KINDS: [&str; 6] = ["aws-secrets-manager", PARAMETER_STORE, "aws-sts", "vault", "sealed-file", "environment"];

const REFRESH_EVERY: Key = key("refresh-every", "\"5m\"");
const MAX_STALE: Key = key("max-stale", "\"1h\"");

pub(super) const SEALED_FILE_KEYS: &[Key] = &[
    KIND,
    key("file", "\"/etc/valetkey/secrets.age\""),
    key("identity-file", "\"credential:valetkey-identity\""),
    REFRESH_EVERY,
    MAX_STALE,
];
pub(super) const ENVIRONMENT_KEYS: &[Key] = &[KIND];
const KIND_ONLY: &[Key] = &[KIND];

pub(super) const NAME_RULE: &str = "[source.prod]: lower-case letters, digits and `._-`, at most 64";

const INLINE: &str = "a credential may not stand in configuration";

pub(super) const REFUSED: &[Refused] = &[
    Refused {
        name: "token",
        means: "auth",
        why: INLINE,
        instead: "auth = { token-file = \"PATH\" }: put it into a file (0600) or a systemd credential",
    },
    Refused {
        name: "client-key",
        means: "client-key-file",
        why: INLINE,
        instead: "client-key-file = \"PATH\": put it into a file (0600) or a systemd credential",
    },
    Refused { name: "access-key-id", means: "profile", why: INLINE, instead: "profile = \"NAME\", or give the host a role" },
    Refused { name: "secret-access-key", means: "profile", why: INLINE, instead: "profile = \"NAME\", or give the host a role" },
    Refused { name: "session-token", means: "profile", why: INLINE, instead: "profile = \"NAME\", or give the host a role" },
    Refused {
        name: "identity",
        means: "identity-file",
        why: INLINE,
        instead: "identity-file = \"PATH\": put it into a file (0600) or a systemd credential",
    },
];

const WITHOUT_PARAMETER_STORE: &str = "kind = \"aws-secrets-manager\", and move the parameter there; \
     or build with the cargo feature aws-parameter-store, which is on by default";

/// Reads one source; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, SourceName>) -> Option<SourceSettings> {
    let title = format!("[source.{}]", named.name);
    let open = |keys| named.open(title.clone(), &title, keys, REFUSED);
    match named.peek("kind") {
        Some("aws-secrets-manager") => aws::read(&open(aws::KEYS)?).map(SourceSettings::AwsSecretsManager),
        Some(PARAMETER_STORE) if cfg!(feature = "aws-parameter-store") => {
            aws::read(&open(aws::KEYS)?).map(SourceSettings::AwsParameterStore)
        }
        Some("aws-sts") => aws::read_sts(&open(aws::STS_KEYS)?).map(SourceSettings::AwsSts),
        Some("vault") => vault::read(&open(vault::KEYS)?).map(SourceSettings::Vault),
        Some("sealed-file") => sealed_file(&open(SEALED_FILE_KEYS)?).map(SourceSettings::SealedFile),
        Some("environment") => open(ENVIRONMENT_KEYS).map(|_| SourceSettings::Environment),
        other => {
            // Which other keys are right depends on the kind: only the kind is looked at.
            let section = named.open_unchecked(title.clone(), &title, KIND_ONLY)?;
            if other == Some(PARAMETER_STORE) {
                section.reject_for("kind", "is not in this build", WITHOUT_PARAMETER_STORE);
            } else if !section.has("kind") {
                section.missing("kind");
            } else {
                section.choice("kind", &KINDS.map(|kind| (kind, ())));
            }
            None
        }
    }
}

fn sealed_file(section: &Section<'_>) -> Option<SealedFileSettings> {
    let file = required(section, "file", |key| section.parsed(key, file_ref));
    let identity_file = required(section, "identity-file", |key| section.parsed(key, file_ref));
    Some(SealedFileSettings { file: file?, identity_file: identity_file?, freshness: freshness(section) })
}

fn required<T>(section: &Section<'_>, key: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if !section.has(key) {
        section.missing(key);
        return None;
    }
    read(key)
}

/// Reads the two keys that every kind of source has which can change.
fn freshness(section: &Section<'_>) -> Freshness {
    let refresh_every = section.duration("refresh-every").unwrap_or(Duration::from_secs(300));
    let max_stale = section.duration("max-stale").unwrap_or(Duration::from_secs(3600).max(refresh_every * 2));
    if max_stale < refresh_every {
        let why = format_args!(
            "is less than `refresh-every` ({} s): every value would be stale before its check",
            refresh_every.as_secs()
        );
        section.reject_for("max-stale", why, "max-stale = a time of several `refresh-every`");
    }
    Freshness { refresh_every, max_stale }
}

//! `[source.NAME]`: where secrets come from, and how the daemon proves itself there. The credentials for that are in files,
//! never here.

use std::path::{Path, PathBuf};

use super::{
    address::{file_ref, plain, url},
    read::{Key, Named, Refused, Section, key},
};
use crate::name::SourceName;

/// A source as configured. The sources themselves are made from this elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSettings {
    AwsSecretsManager(AwsSettings),
    Vault(VaultSettings),
    SealedFile(SealedFileSettings),
    /// The daemon's own environment: for tests and first steps.
    Environment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    pub region: String,
    /// In place of the region's own: a VPC endpoint, or a stand-in under test.
    pub endpoint: Option<String>,
    /// Of the shared AWS configuration files; otherwise the SDK's usual chain.
    pub profile: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    pub address: String,
    pub namespace: Option<String>,
    /// In place of the host's own list of authorities.
    pub ca_file: Option<FileRef>,
    /// Of the key-value engine.
    pub mount: String,
    /// 1 or 2.
    pub kv_version: u8,
    pub auth: VaultAuth,
}

/// How the daemon logs in at Vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultAuth {
    TokenFile(FileRef),
    AppRole { role_id: RoleId, secret_id: FileRef, mount: String },
}

/// A role id is a name, not a credential: it may stand in configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleId {
    Inline(String),
    File(FileRef),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFileSettings {
    pub file: FileRef,
    pub identity_file: FileRef,
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
            Self::Vault(_) => "vault",
            Self::SealedFile(_) => "sealed-file",
            Self::Environment => "environment",
        }
    }
}

pub(super) const KIND: Key = key("kind", "\"aws-secrets-manager\", \"vault\", \"sealed-file\" or \"environment\"");

pub(super) const AWS_KEYS: &[Key] = &[
    KIND,
    key("region", "\"eu-west-1\""),
    key("endpoint", "\"https://vpce-0123.secretsmanager.eu-west-1.vpce.amazonaws.com\""),
    key("profile", "\"valetkey\""),
];
pub(super) const VAULT_KEYS: &[Key] = &[
    KIND,
    key("address", "\"https://vault.example.com:8200\""),
    key("namespace", "\"team-a\""),
    key("ca-file", "\"/etc/valetkey/vault-ca.pem\""),
    key("mount", "\"secret\""),
    key("kv-version", "2"),
    key("auth", "{ token-file = \"credential:vault-token\" }"),
];
pub(super) const AUTH_KEYS: &[Key] = &[
    key("token-file", "\"credential:vault-token\""),
    key("approle", "{ role-id = \"ROLE\", secret-id-file = \"credential:vault-secret-id\" }"),
];
pub(super) const APPROLE_KEYS: &[Key] = &[
    key("role-id", "\"ROLE\""),
    key("role-id-file", "\"credential:vault-role-id\""),
    key("secret-id-file", "\"credential:vault-secret-id\""),
    key("mount", "\"approle\""),
];
pub(super) const SEALED_FILE_KEYS: &[Key] =
    &[KIND, key("file", "\"/etc/valetkey/secrets.age\""), key("identity-file", "\"credential:valetkey-identity\"")];
pub(super) const ENVIRONMENT_KEYS: &[Key] = &[KIND];
const KIND_ONLY: &[Key] = &[KIND];

pub(super) const NAME_RULE: &str = "[source.prod]: lower-case letters, digits and `._-`, at most 64";

const INLINE: &str = "a credential may not stand in configuration";

const REFUSED: &[Refused] = &[
    Refused {
        name: "token",
        means: "auth",
        why: INLINE,
        instead: "auth = { token-file = \"PATH\" }: put it into a file (0600) or a systemd credential",
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
const AUTH_REFUSED: &[Refused] = &[Refused {
    name: "token",
    means: "token-file",
    why: INLINE,
    instead: "token-file = \"PATH\": put it into a file (0600) or a systemd credential",
}];
const APPROLE_REFUSED: &[Refused] = &[Refused {
    name: "secret-id",
    means: "secret-id-file",
    why: INLINE,
    instead: "secret-id-file = \"PATH\": put it into a file (0600) or a systemd credential",
}];

/// Reads one source; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, SourceName>) -> Option<SourceSettings> {
    let title = format!("[source.{}]", named.name);
    let open = |keys| named.open(title.clone(), &title, keys, REFUSED);
    match named.peek("kind") {
        Some("aws-secrets-manager") => aws(&open(AWS_KEYS)?).map(SourceSettings::AwsSecretsManager),
        Some("vault") => vault(&open(VAULT_KEYS)?).map(SourceSettings::Vault),
        Some("sealed-file") => sealed_file(&open(SEALED_FILE_KEYS)?).map(SourceSettings::SealedFile),
        Some("environment") => open(ENVIRONMENT_KEYS).map(|_| SourceSettings::Environment),
        other => {
            // Which other keys are right depends on the kind: only the kind is looked at.
            let section = named.open_unchecked(title.clone(), &title, KIND_ONLY)?;
            if other == Some("aws-parameter-store") {
                section.reject_for(
                    "kind",
                    "is not in this version",
                    "kind = \"aws-secrets-manager\", and move the parameter there",
                );
            } else if !section.has("kind") {
                section.missing("kind");
            } else {
                let kinds = ["aws-secrets-manager", "vault", "sealed-file", "environment"].map(|kind| (kind, ()));
                section.choice("kind", &kinds);
            }
            None
        }
    }
}

fn aws(section: &Section<'_>) -> Option<AwsSettings> {
    let region = required(section, "region", |key| section.parsed(key, region));
    let endpoint = section.parsed("endpoint", url);
    let profile = section.parsed("profile", plain);
    Some(AwsSettings { region: region?, endpoint, profile })
}

fn vault(section: &Section<'_>) -> Option<VaultSettings> {
    let address = required(section, "address", |key| section.parsed(key, url));
    let namespace = section.parsed("namespace", plain);
    let ca_file = section.parsed("ca-file", file_ref);
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "secret".into());
    let kv_version = section.count("kv-version", 2).map_or(2, |version| version as u8);
    let auth = required(section, "auth", |key| section.section(key, AUTH_KEYS, AUTH_REFUSED)).and_then(|auth| vault_auth(&auth));
    Some(VaultSettings { address: address?, namespace, ca_file, mount, kv_version, auth: auth? })
}

fn vault_auth(auth: &Section<'_>) -> Option<VaultAuth> {
    let token_file = auth.parsed("token-file", file_ref).map(VaultAuth::TokenFile);
    let approle = auth.section("approle", APPROLE_KEYS, APPROLE_REFUSED).and_then(|section| approle(&section));
    match (auth.has("token-file"), auth.has("approle")) {
        (true, false) => token_file,
        (false, true) => approle,
        (false, false) if auth.misspelt() => None,
        (both, _) => {
            let what = if both { "names two ways to log in" } else { "names no way to log in" };
            auth.error(auth.line, format!("{} {what}", auth.title), "token-file or approle, and not both");
            None
        }
    }
}

fn approle(section: &Section<'_>) -> Option<VaultAuth> {
    let inline = section.parsed("role-id", plain).map(RoleId::Inline);
    let file = section.parsed("role-id-file", file_ref).map(RoleId::File);
    let secret_id = required(section, "secret-id-file", |key| section.parsed(key, file_ref));
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "approle".into());
    let role_id = match (section.has("role-id"), section.has("role-id-file")) {
        (true, false) => inline,
        (false, true) => file,
        (false, false) if section.misspelt() => None,
        (both, _) => {
            let what = if both { "has two role ids" } else { "has no role id" };
            section.error(section.line, format!("{} {what}", section.title), "role-id or role-id-file, and not both");
            None
        }
    };
    Some(VaultAuth::AppRole { role_id: role_id?, secret_id: secret_id?, mount })
}

fn sealed_file(section: &Section<'_>) -> Option<SealedFileSettings> {
    let file = required(section, "file", |key| section.parsed(key, file_ref));
    let identity_file = required(section, "identity-file", |key| section.parsed(key, file_ref));
    Some(SealedFileSettings { file: file?, identity_file: identity_file? })
}

fn required<T>(section: &Section<'_>, key: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if !section.has(key) {
        section.missing(key);
        return None;
    }
    read(key)
}

fn region(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(text.into()) } else { Err("is not a region's name") }
}

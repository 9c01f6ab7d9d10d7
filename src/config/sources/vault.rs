//! `[source.NAME]` of Vault and OpenBao.

use super::{FileRef, Freshness, INLINE, KIND, MAX_STALE, REFRESH_EVERY, freshness, required};
use crate::config::{
    address::{file_ref, plain, url},
    read::{Key, Refused, Section, key},
};

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
    pub freshness: Freshness,
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

pub(in crate::config) const KEYS: &[Key] = &[
    KIND,
    key("address", "\"https://vault.example.com:8200\""),
    key("namespace", "\"team-a\""),
    key("ca-file", "\"/etc/valetkey/vault-ca.pem\""),
    key("mount", "\"secret\""),
    key("kv-version", "2"),
    key("auth", "{ token-file = \"credential:vault-token\" }"),
    REFRESH_EVERY,
    MAX_STALE,
];
pub(in crate::config) const AUTH_KEYS: &[Key] = &[
    key("token-file", "\"credential:vault-token\""),
    key("approle", "{ role-id = \"ROLE\", secret-id-file = \"credential:vault-secret-id\" }"),
];
pub(in crate::config) const APPROLE_KEYS: &[Key] = &[
    key("role-id", "\"ROLE\""),
    key("role-id-file", "\"credential:vault-role-id\""),
    key("secret-id-file", "\"credential:vault-secret-id\""),
    key("mount", "\"approle\""),
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

pub(super) fn read(section: &Section<'_>) -> Option<VaultSettings> {
    let address = required(section, "address", |key| section.parsed(key, url));
    let namespace = section.parsed("namespace", plain);
    let ca_file = section.parsed("ca-file", file_ref);
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "secret".into());
    let kv_version = section.count("kv-version", 2).map_or(2, |version| version as u8);
    let auth = required(section, "auth", |key| section.section(key, AUTH_KEYS, AUTH_REFUSED)).and_then(|auth| vault_auth(&auth));
    let freshness = freshness(section);
    Some(VaultSettings { address: address?, namespace, ca_file, mount, kv_version, auth: auth?, freshness })
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

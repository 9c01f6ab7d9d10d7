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
    /// Our own certificate and its key.
    pub client_certificate: Option<(FileRef, FileRef)>,
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
    AppRole {
        role_id: RoleId,
        secret_id: FileRef,
        mount: String,
        /// Does the file hold a wrapping token, in place of the secret id itself?
        wrapped: bool,
        delete_after_read: bool,
    },
    Jwt {
        role: String,
        token_file: FileRef,
        mount: String,
    },
    Kubernetes {
        role: String,
        token_file: FileRef,
        mount: String,
    },
    /// With the source's client certificate.
    Certificate {
        role: Option<String>,
        mount: String,
    },
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
    key("client-cert-file", "\"/etc/valetkey/vault-client.pem\""),
    key("client-key-file", "\"credential:vault-client-key\""),
    key("mount", "\"secret\""),
    key("kv-version", "2"),
    key("auth", "{ token-file = \"credential:vault-token\" }"),
    REFRESH_EVERY,
    MAX_STALE,
];
pub(in crate::config) const AUTH_KEYS: &[Key] = &[
    key("token-file", "\"credential:vault-token\""),
    key("approle", "{ role-id = \"ROLE\", secret-id-file = \"credential:vault-secret-id\" }"),
    key("jwt", "{ role = \"ROLE\", token-file = \"/run/valetkey/jwt\" }"),
    key("kubernetes", "{ role = \"ROLE\" }"),
    key("cert", "{ role = \"ROLE\" }"),
];
pub(in crate::config) const APPROLE_KEYS: &[Key] = &[
    key("role-id", "\"ROLE\""),
    key("role-id-file", "\"credential:vault-role-id\""),
    key("secret-id-file", "\"credential:vault-secret-id\""),
    key("wrapped", "true"),
    key("delete-after-read", "true"),
    key("mount", "\"approle\""),
];
pub(in crate::config) const JWT_KEYS: &[Key] =
    &[key("role", "\"ROLE\""), key("token-file", "\"/run/valetkey/jwt\""), key("mount", "\"jwt\"")];
pub(in crate::config) const KUBERNETES_KEYS: &[Key] = &[
    key("role", "\"ROLE\""),
    key("token-file", "\"/var/run/secrets/kubernetes.io/serviceaccount/token\""),
    key("mount", "\"kubernetes\""),
];
pub(in crate::config) const CERT_KEYS: &[Key] = &[key("role", "\"ROLE\""), key("mount", "\"cert\"")];

const TOKEN_FILE: &str = "token-file = \"PATH\": put it into a file (0600) or a systemd credential";
const AUTH_REFUSED: &[Refused] = &[Refused { name: "token", means: "token-file", why: INLINE, instead: TOKEN_FILE }];
const JWT_REFUSED: &[Refused] = &[
    Refused { name: "token", means: "token-file", why: INLINE, instead: TOKEN_FILE },
    Refused { name: "jwt", means: "token-file", why: INLINE, instead: TOKEN_FILE },
];
const APPROLE_REFUSED: &[Refused] = &[Refused {
    name: "secret-id",
    means: "secret-id-file",
    why: INLINE,
    instead: "secret-id-file = \"PATH\": put it into a file (0600) or a systemd credential",
}];
/// Where Kubernetes puts the token of a pod's own account.
const KUBERNETES_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ONE_WAY: &str = "one of token-file, approle, jwt, kubernetes and cert";

pub(super) fn read(section: &Section<'_>) -> Option<VaultSettings> {
    let address = required(section, "address", |key| section.parsed(key, url));
    let namespace = section.parsed("namespace", plain);
    let ca_file = section.parsed("ca-file", file_ref);
    let client_certificate = client_certificate(section);
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "secret".into());
    let kv_version = section.count("kv-version", 2).map_or(2, |version| version as u8);
    let auth = required(section, "auth", |key| section.section(key, AUTH_KEYS, AUTH_REFUSED)).and_then(|auth| vault_auth(&auth));
    let freshness = freshness(section);
    if matches!(auth, Some(VaultAuth::Certificate { .. })) {
        section.require(&["client-cert-file", "client-key-file"]);
        if address.as_ref().is_some_and(|address| address.starts_with("http:")) {
            section.reject("address", "must be https for `cert`: over plain http no certificate is shown");
        }
    }
    Some(VaultSettings { address: address?, namespace, ca_file, client_certificate, mount, kv_version, auth: auth?, freshness })
}

/// Both files, or none.
fn client_certificate(section: &Section<'_>) -> Option<(FileRef, FileRef)> {
    let certificate = section.parsed("client-cert-file", file_ref);
    let key = section.parsed("client-key-file", file_ref);
    if section.has("client-cert-file") || section.has("client-key-file") {
        section.require(&["client-cert-file", "client-key-file"]);
    }
    Some((certificate?, key?))
}

fn vault_auth(auth: &Section<'_>) -> Option<VaultAuth> {
    let token_file = auth.parsed("token-file", file_ref).map(VaultAuth::TokenFile);
    let ways = [
        token_file,
        auth.section("approle", APPROLE_KEYS, APPROLE_REFUSED).and_then(|section| approle(&section)),
        auth.section("jwt", JWT_KEYS, JWT_REFUSED).and_then(|section| jwt(&section)),
        auth.section("kubernetes", KUBERNETES_KEYS, JWT_REFUSED).and_then(|section| kubernetes(&section)),
        auth.section("cert", CERT_KEYS, &[]).and_then(|section| certificate(&section)),
    ];
    match AUTH_KEYS.iter().filter(|key| auth.has(key.name)).count() {
        1 => ways.into_iter().flatten().next(),
        0 if auth.misspelt() => None,
        named => {
            let what = match named {
                0 => "names no way to log in",
                2 => "names two ways to log in",
                _ => "names several ways to log in",
            };
            auth.error(auth.line, format!("{} {what}", auth.title), ONE_WAY);
            None
        }
    }
}

fn jwt(section: &Section<'_>) -> Option<VaultAuth> {
    let role = required(section, "role", |key| section.parsed(key, plain));
    let token_file = required(section, "token-file", |key| section.parsed(key, file_ref));
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "jwt".into());
    Some(VaultAuth::Jwt { role: role?, token_file: token_file?, mount })
}

fn kubernetes(section: &Section<'_>) -> Option<VaultAuth> {
    let role = required(section, "role", |key| section.parsed(key, plain));
    let token_file = match section.has("token-file") {
        true => section.parsed("token-file", file_ref),
        false => Some(FileRef::Path(KUBERNETES_TOKEN.into())),
    };
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "kubernetes".into());
    Some(VaultAuth::Kubernetes { role: role?, token_file: token_file?, mount })
}

fn certificate(section: &Section<'_>) -> Option<VaultAuth> {
    let role = section.parsed("role", plain);
    let mount = section.parsed("mount", plain).unwrap_or_else(|| "cert".into());
    Some(VaultAuth::Certificate { role, mount })
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
    let wrapped = section.boolean("wrapped").unwrap_or(false);
    let delete_after_read = section.boolean("delete-after-read").unwrap_or(false);
    if delete_after_read && matches!(secret_id, Some(FileRef::Credential(_))) {
        let why = "cannot be had of a systemd credential: their directory is read-only";
        section.reject_for("delete-after-read", why, "secret-id-file = \"PATH\" of a file that the daemon may remove");
    }
    Some(VaultAuth::AppRole { role_id: role_id?, secret_id: secret_id?, mount, wrapped, delete_after_read })
}

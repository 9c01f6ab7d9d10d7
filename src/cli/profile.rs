//! `--profile NAME`: a broker on another host, as `~/.config/valetkey/profiles.toml` says.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    FAILED, Failure, USAGE,
    login::{self, Login},
};
use crate::client::Remote;

/// Below the user's home.
const FILE: &str = ".config/valetkey/profiles.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Profile {
    /// Host and port.
    address: String,
    /// Authorities of the daemon's certificate.
    ca_file: PathBuf,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    /// An identity provider at which `valetkey login` gets the token that stands in `token-file`.
    issuer: Option<String>,
    client_id: Option<String>,
    resource: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    id_token: bool,
    issuer_ca_file: Option<PathBuf>,
}

/// The broker of this profile.
pub fn read(name: &str) -> Result<Remote, Failure> {
    let file = file()?;
    let profile = find(&file, name)?;
    if let (Some(_), Some(token_file)) = (&profile.issuer, &profile.token_file) {
        login::check(name, token_file)?;
    }
    for secret in profile.key_file.iter().chain(&profile.token_file) {
        own_alone(secret)?;
    }
    let mut remote = Remote::new(profile.address, profile.ca_file);
    match (profile.certificate_file, profile.key_file) {
        (Some(certificate), Some(key)) => remote = remote.certificate(certificate, key),
        (None, None) => {}
        _ => {
            return Err(wrong(
                &file,
                &format!("profile {name} has a certificate without its key, or a key without a certificate"),
            ));
        }
    }
    Ok(profile.token_file.into_iter().fold(remote, Remote::token_file))
}

/// What proves who the operator is must be nobody else's. One that is not there is missed when it is used.
fn own_alone(file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    match std::fs::metadata(file) {
        Ok(facts) if facts.mode() & 0o077 != 0 => Err(Failure::new(
            FAILED,
            format!("{shown} is open to others (mode {:04o})", facts.mode() & 0o7777),
            format!("chmod 600 {shown}; and have a new one made, if others were on this host"),
        )),
        _ => Ok(()),
    }
}

/// How this profile logs in.
pub fn login(name: &str) -> Result<Login, Failure> {
    let file = file()?;
    let profile = find(&file, name)?;
    let (Some(issuer), Some(client_id), Some(token_file)) = (profile.issuer, profile.client_id, profile.token_file) else {
        let what = format!("profile {name} in {} does not say where to log in", file.display());
        let hint = "issuer = \"https://login.example.com\", client-id = \"valetkey\", and token-file, where the token is kept";
        return Err(Failure::new(USAGE, what, hint));
    };
    if !issuer.starts_with("https://") && !is_loopback(&issuer) {
        return Err(Failure::new(
            USAGE,
            format!("the issuer of profile {name} is asked in the clear"),
            "issuer = \"https://...\"",
        ));
    }
    let Profile { resource, scope, id_token, issuer_ca_file: ca_file, .. } = profile;
    Ok(Login { issuer, client_id, resource, scope: scope.unwrap_or_else(|| "openid".into()), id_token, ca_file, token_file })
}

/// An address in the clear that does not leave this host.
pub fn is_loopback(address: &str) -> bool {
    let host = address.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    host.is_some_and(|host| matches!(host, "127.0.0.1" | "localhost"))
}

fn file() -> Result<PathBuf, Failure> {
    let home = std::env::home_dir().ok_or_else(|| Failure::new(USAGE, "there is no home to look for profiles in", "set HOME"))?;
    Ok(home.join(FILE))
}

fn find(file: &Path, name: &str) -> Result<Profile, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| wrong(file, &error.to_string()))?;
    // Who can write it sends an operator's commands where they like.
    let mode = std::fs::metadata(file)?.mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            FAILED,
            format!("{shown} is open to others (mode {:04o})", mode & 0o7777),
            format!("chmod 600 {shown}"),
        ));
    }
    // The parser would repeat a line, and that may hold what was pasted.
    let mut all: Profiles = toml::from_str(&text).map_err(|error| wrong(file, error.message()))?;
    let known = all.profile.keys().cloned().collect::<Vec<_>>().join(", ");
    all.profile
        .remove(name)
        .ok_or_else(|| Failure::new(USAGE, format!("{shown} has no profile {name}"), format!("there are: {known}")))
}

fn wrong(file: &Path, why: &str) -> Failure {
    const HINT: &str =
        "[profile.NAME] with address = \"HOST:PORT\", ca-file, and certificate-file with key-file, or token-file (0600)";
    Failure::new(FAILED, format!("{}: {why}", file.display()), HINT)
}

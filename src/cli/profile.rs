//! `--profile NAME`: a broker on another host, as `~/.config/valetkey/profiles.toml` says.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{FAILED, Failure, USAGE};
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
}

/// The broker of this profile.
pub fn read(name: &str) -> Result<Remote, Failure> {
    let home = std::env::home_dir().ok_or_else(|| Failure::new(USAGE, "there is no home to look for profiles in", "set HOME"))?;
    let file = home.join(FILE);
    let profile = find(&file, name)?;
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

//! Where the values go: into the sealed file, and from there, if that is wanted, into AWS or Vault by commands that show no value.

use std::path::{Path, PathBuf};

use toml::Value;
use zeroize::Zeroizing;

use super::{FAILED, Failure, USAGE, files::make_folder, policy::Policy, words::quoted};
use crate::{
    name::SecretName,
    secret::SecretValue,
    source::sealed_file::{Identity, SealedFile},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    Aws,
    Vault,
}

/// The sealed file and its key.
pub struct Place {
    pub file: PathBuf,
    pub identity: PathBuf,
}

impl Place {
    /// As the options say; else the one sealed file that is configured; else one beside the configuration.
    pub fn choose(file: Option<&Path>, identity: Option<&Path>, policy: &Policy) -> Result<Self, Failure> {
        let configured = policy.source_of("sealed-file").map(|(_, table)| table).filter(|_| file.is_none());
        let path = |key: &str| configured.and_then(|table| table.get(key)).and_then(Value::as_str);
        let beside = |name: &str| policy.main.with_file_name(name);
        let resolve = |given: Option<&Path>, key: &str, name: &str, option: &str| match (given, path(key)) {
            (Some(given), _) => Ok(std::path::absolute(given)?),
            (None, Some(text)) if text.starts_with('/') => Ok(text.into()),
            (None, Some(_)) => {
                let what = format!("`{key}` of the sealed file is a credential of the daemon, which is not to be had here");
                Err(Failure::new(USAGE, what, format!("{option} names a file that holds the same")))
            }
            (None, None) => Ok(beside(name)),
        };
        let sealed = resolve(file, "file", "secrets.sealed", "--sealed")?;
        Ok(Self { file: sealed, identity: resolve(identity, "identity-file", "identity.key", "--identity")? })
    }

    /// The identity that is there.
    pub fn identity(&self) -> Result<Identity, Failure> {
        Ok(Identity::read(&self.identity)?)
    }

    /// What is sealed already, where it can be seen. For a look that must write nothing, not even a lock.
    pub fn peek(&self) -> Option<SealedFile> {
        let mut lock = std::ffi::OsString::from(".");
        lock.push(self.file.file_name()?);
        lock.push(".lock");
        if !self.file.with_file_name(lock).exists() {
            return None;
        }
        SealedFile::open(&self.file, &self.identity().ok()?).ok()
    }

    /// Opens the sealed file, and makes it and its key where there are none.
    pub fn open(&self) -> Result<SealedFile, Failure> {
        for path in [&self.file, &self.identity] {
            if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
                make_folder(folder, 0o700)?;
            }
        }
        let fresh = !self.identity.exists();
        let identity = if fresh { super::super::seal::make_identity(&self.identity)? } else { self.identity()? };
        if self.file.exists() {
            return Ok(SealedFile::open(&self.file, &identity)?);
        }
        let file = SealedFile::create(&self.file, &[identity.recipient()])?;
        if fresh {
            self.give_to_daemon();
        }
        Ok(file)
    }

    /// The packaged daemon is not root, and must be able to read both.
    fn give_to_daemon(&self) {
        if rustix::process::geteuid().is_root()
            && self.file.starts_with("/etc/valetkey")
            && let Some((uid, gid)) = super::account_named("valetkey")
        {
            for path in [&self.file, &self.identity] {
                let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
            }
        }
    }

    /// Seals all of them at once, and reads them back: what is taken out of a client's file must be here.
    pub fn seal(&self, values: &[(SecretName, Zeroizing<String>)]) -> Result<(), Failure> {
        let mut file = self.open()?;
        let mut changed = false;
        for (name, value) in values {
            if holds(&file, name, value) {
                continue;
            }
            let unprotected = |error: crate::secret::Unprotected| Failure { code: FAILED, what: error.to_string(), hint: None };
            file.set(name, &SecretValue::copy_from(value.as_bytes()).map_err(unprotected)?)?;
            changed = true;
        }
        if changed {
            file.save()?;
        }
        drop(file);
        let back = SealedFile::open(&self.file, &self.identity()?)?;
        match values.iter().all(|(name, value)| holds(&back, name, value)) {
            true => Ok(()),
            false => {
                let what = format!("{} does not read back as it was written", self.file.display());
                Err(Failure::new(FAILED, what, "is the disk full, or failing? The client's file is as it was"))
            }
        }
    }

    fn options(&self) -> String {
        let text = |path: &Path| quoted(&path.to_string_lossy());
        format!("--file {} --identity {}", text(&self.file), text(&self.identity))
    }
}

pub fn holds(file: &SealedFile, name: &SecretName, value: &str) -> bool {
    file.get(name).is_some_and(|sealed| sealed.expose(|bytes| bytes == value.as_bytes()))
}

impl Store {
    fn kind(self) -> &'static str {
        match self {
            Self::Aws => "aws-secrets-manager",
            Self::Vault => "vault",
        }
    }

    /// The configured source of this kind, and what says where in it.
    pub fn source(self, policy: &Policy) -> Result<(String, Option<String>), Failure> {
        let text = |table: &toml::Table, key: &str| table.get(key).and_then(Value::as_str).map(String::from);
        match policy.source_of(self.kind()) {
            Some((name, table)) => {
                let key = if self == Self::Aws { "region" } else { "mount" };
                Ok((name.into(), text(table, key)))
            }
            None => {
                let what = format!("{} has not exactly one source of kind {}", policy.main.display(), self.kind());
                Err(Failure::new(USAGE, what, "add [source.NAME] for it first, or leave --store out to keep the sealed file"))
            }
        }
    }

    /// The source's own name for a secret, and the field in it.
    pub fn place(self, prefix: &str, name: &SecretName) -> (String, &'static str) {
        let prefix = prefix.trim_matches('/');
        let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
        (path, if self == Self::Vault { "value" } else { "" })
    }

    /// Stores one value without showing it: it goes through a pipe, and then leaves the sealed file.
    pub fn command(self, at: Option<&str>, path: &str, name: &SecretName, place: &Place) -> String {
        let options = place.options();
        let put = match self {
            Self::Aws => {
                let region = at.map(|region| format!(" --region {}", quoted(region))).unwrap_or_default();
                format!("aws secretsmanager create-secret{region} --name {} --secret-string file:///dev/stdin", quoted(path))
            }
            Self::Vault => format!("vault kv put -mount={} {} value=-", quoted(at.unwrap_or("secret")), quoted(path)),
        };
        format!("valetkey unseal {name} {options} | {put} && valetkey seal remove {name} {options}")
    }
}

//! Changes to a sealed file: one editor at a time, and a crash leaves the old file or the new one.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{Content, Entry, Identity};
use crate::{
    name::SecretName,
    secret::SecretValue,
    source::{Cause, SourceError},
};

/// A sealed file being edited. Nobody else can edit it until this is dropped; reading it goes on meanwhile. Changes are kept by
/// [`SealedFile::save`] alone.
pub struct SealedFile {
    path: PathBuf,
    content: Content,
    /// Beside the file and never removed: the file itself is replaced at each save, and a lock on it with it.
    _lock: File,
}

impl SealedFile {
    /// Makes a file without secrets, sealed to these recipients (`age1...`). Refuses to replace what is there.
    pub fn create(path: &Path, recipients: &[String]) -> Result<Self, SourceError> {
        let name = path.file_name().ok_or_else(|| refused(path, "is not the path of a file"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.canonicalize().map_err(|error| failed(path, "cannot be made", &error))?.join(name);
        let lock = lock(&path)?;
        let mut file = Self { path, content: Content::default(), _lock: lock };
        for recipient in recipients {
            file.add_recipient(recipient)?;
        }
        let exists = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => refused(&file.path, "is there already, and is not replaced"),
            _ => failed(&file.path, "cannot be made", &error),
        };
        let staged = file.stage()?;
        // A link, unlike a rename, never replaces.
        let made = fs::hard_link(&staged, &file.path).map_err(exists);
        let _ = fs::remove_file(&staged);
        made?;
        sync_folder(&file.path)?;
        Ok(file)
    }

    /// Opens a file for changes.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, SourceError> {
        // Where the path is a link, the file is replaced and not the link.
        let path = path.canonicalize().map_err(|error| failed(path, "cannot be opened", &error))?;
        let lock = lock(&path)?;
        let mut content = Content::read(&path, identity)?;
        let own = identity.recipient();
        if !content.recipients.contains(&own) {
            content.recipients.push(own);
        }
        Ok(Self { path, content, _lock: lock })
    }

    /// The names in it, in order.
    pub fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.content.secrets.keys()
    }

    /// The version of a secret, if it is there.
    pub fn version(&self, name: &SecretName) -> Option<u64> {
        self.content.secrets.get(name).map(|entry| entry.version)
    }

    /// Lends the value of a secret, if it is there.
    pub fn get(&self, name: &SecretName) -> Option<&SecretValue> {
        self.content.secrets.get(name).map(|entry| &entry.value)
    }

    /// Puts a copy of the value in. The answer is its version: one more than the last, from 1 for a new secret.
    pub fn set(&mut self, name: &SecretName, value: &SecretValue) -> Result<u64, SourceError> {
        if value.is_empty() {
            return Err(SourceError::new(Cause::BadField, format!("the value for {name} is empty")));
        }
        let version = self.version(name).unwrap_or(0) + 1;
        let value = value.expose(SecretValue::copy_from)?;
        self.content.secrets.insert(name.clone(), Entry { version, value });
        Ok(version)
    }

    /// Takes a secret out. Was it there?
    pub fn remove(&mut self, name: &SecretName) -> bool {
        self.content.secrets.remove(name).is_some()
    }

    /// Who can open the file.
    pub fn recipients(&self) -> &[String] {
        &self.content.recipients
    }

    /// Lets one more key open the file, from the next save on.
    pub fn add_recipient(&mut self, recipient: &str) -> Result<(), SourceError> {
        parse(recipient)?;
        if !self.content.recipients.iter().any(|known| known == recipient) {
            self.content.recipients.push(recipient.to_owned());
        }
        Ok(())
    }

    /// Lets a key open it no more, from the next save on. What its holder has read stays known: rotate it. Was it there?
    pub fn remove_recipient(&mut self, recipient: &str) -> bool {
        let before = self.content.recipients.len();
        self.content.recipients.retain(|known| known != recipient);
        self.content.recipients.len() < before
    }

    /// Writes the changes: a new file beside the old one, on disk before it takes its place.
    pub fn save(&self) -> Result<(), SourceError> {
        let staged = self.stage()?;
        fs::rename(&staged, &self.path).map_err(|error| failed(&self.path, "cannot be replaced", &error))?;
        sync_folder(&self.path)
    }

    /// Seals the content into a file beside the real one, for its owner alone.
    fn stage(&self) -> Result<PathBuf, SourceError> {
        let recipients = self.content.recipients.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let seal = age::Encryptor::with_recipients(recipients)
            .map_err(|_| refused(&self.path, "needs a recipient at least: who else could open it?"))?;
        let staged = beside(&self.path, "new");
        // The lock is ours, so what is there is what a crash left.
        let _ = fs::remove_file(&staged);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            if let Ok(old) = self.path.metadata() {
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            let mut sealing = seal.wrap_output(&mut file)?;
            sealing.write_all(&self.content.plain())?;
            sealing.finish()?;
            file.sync_all()
        };
        match write() {
            Ok(()) => Ok(staged),
            Err(error) => {
                let _ = fs::remove_file(&staged);
                Err(failed(&self.path, "cannot be written", &error))
            }
        }
    }
}

fn parse(recipient: &str) -> Result<age::x25519::Recipient, SourceError> {
    // The text is not repeated: it may be the private key, pasted by mistake.
    recipient.parse().map_err(|_| SourceError::new(Cause::Refused, "a recipient is not a public key of age (age1...)"))
}

/// A hidden name in the same folder, so that a rename stays on one file system.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn lock(path: &Path) -> Result<File, SourceError> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside(path, "lock"));
    let file = open.map_err(|error| failed(path, "cannot be locked", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refused(path, "is being edited by another process: try again when it is done")),
        Err(TryLockError::Error(error)) => Err(failed(path, "cannot be locked", &error)),
    }
}

fn sync_folder(path: &Path) -> Result<(), SourceError> {
    let sync = || File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all();
    sync().map_err(|error| failed(path, "is written, but perhaps not on disk yet", &error))
}

fn refused(path: &Path, problem: &str) -> SourceError {
    SourceError::new(Cause::Refused, format!("{} {problem}", path.display()))
}

fn failed(path: &Path, what: &str, error: &io::Error) -> SourceError {
    SourceError::new(Cause::Refused, format!("{} {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.age");
        let identity = Identity(age::x25519::Identity::generate());
        let (old, new) = (SecretValue::copy_from(b"old").unwrap(), SecretValue::copy_from(b"new").unwrap());
        let name: SecretName = "a".parse().unwrap();
        let mut file = SealedFile::create(&path, &[identity.recipient()]).unwrap();
        file.set(&name, &old).unwrap();
        file.save().unwrap();

        file.set(&name, &new).unwrap();
        let staged = file.stage().unwrap();
        drop(file); // The crash: all is written, and nothing renamed.
        let mut file = SealedFile::open(&path, &identity).unwrap();
        assert!(staged.exists() && file.version(&name) == Some(1));
        file.get(&name).unwrap().expose(|bytes| assert_eq!(bytes, b"old"));

        fs::write(&staged, "cut off").unwrap();
        file.set(&name, &new).unwrap();
        file.save().unwrap();
        assert!(!staged.exists());
        drop(file);
        let file = SealedFile::open(&path, &identity).unwrap();
        file.get(&name).unwrap().expose(|bytes| assert_eq!(bytes, b"new"));
    }
}

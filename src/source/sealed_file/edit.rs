//! Changes to a sealed file: one editor at a time, and a crash leaves the old file or the new one.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use super::{Content, Entry, Identity, replace::Replacing, seal::seal};
use crate::{
    name::SecretName,
    secret::SecretValue,
    source::{Cause, SourceError},
};

/// A sealed file being edited. Nobody else can edit it until this is dropped; reading it goes on meanwhile. Changes are kept by
/// [`SealedFile::save`] alone.
pub struct SealedFile {
    file: Replacing,
    content: Content,
}

impl SealedFile {
    /// Makes a file without secrets, sealed to these recipients (`age1...`). Refuses to replace what is there.
    pub fn create(path: &Path, recipients: &[String]) -> Result<Self, SourceError> {
        let name = path.file_name().ok_or_else(|| refused(path, "is not the path of a file"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.canonicalize().map_err(|error| failed(path, "cannot be made", &error))?.join(name);
        let mut file = Self { file: lock(path)?, content: Content::default() };
        for recipient in recipients {
            file.add_recipient(recipient)?;
        }
        let exists = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => refused(file.path(), "is there already, and is not replaced"),
            _ => failed(file.path(), "cannot be made", &error),
        };
        let staged = file.stage()?;
        // A link, unlike a rename, never replaces.
        let made = fs::hard_link(&staged, file.path()).map_err(exists);
        let _ = fs::remove_file(&staged);
        made?;
        file.sync()?;
        Ok(file)
    }

    /// Opens a file for changes.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, SourceError> {
        // Where the path is a link, the file is replaced and not the link.
        let path = path.canonicalize().map_err(|error| failed(path, "cannot be opened", &error))?;
        let file = lock(path)?;
        let mut content = Content::read(file.path(), identity)?;
        let own = identity.recipient();
        if !content.recipients.contains(&own) {
            content.recipients.push(own);
        }
        Ok(Self { file, content })
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

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the changes: a new file beside the old one, on disk before it takes its place.
    pub fn save(&self) -> Result<(), SourceError> {
        let staged = self.stage()?;
        self.file.put(&staged).map_err(|error| failed(self.path(), "cannot be replaced", &error))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), SourceError> {
        self.file.sync().map_err(|error| failed(self.path(), "is written, but perhaps not on disk yet", &error))
    }

    /// Seals the content into a file beside the real one, for its owner alone.
    fn stage(&self) -> Result<PathBuf, SourceError> {
        let recipients = self.content.recipients.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
        if recipients.is_empty() {
            return Err(refused(self.path(), "needs a recipient at least: who else could open it?"));
        }
        let staged = self.file.stage(|file| {
            if let Ok(old) = self.path().metadata() {
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(&*file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            seal(&self.content.plain(), &recipients, file)
        });
        staged.map_err(|error| failed(self.path(), "cannot be written", &error))
    }
}

fn parse(recipient: &str) -> Result<age::x25519::Recipient, SourceError> {
    // The text is not repeated: it may be the private key, pasted by mistake.
    recipient.parse().map_err(|_| SourceError::new(Cause::Refused, "a recipient is not a public key of age (age1...)"))
}

fn lock(path: PathBuf) -> Result<Replacing, SourceError> {
    Replacing::begin(path.clone()).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => refused(&path, "is being edited by another process: try again when it is done"),
        _ => failed(&path, "cannot be locked", &error),
    })
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

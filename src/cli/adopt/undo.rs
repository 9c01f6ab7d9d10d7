//! The way back: the file as it was, byte for byte, kept where only the holder of the identity can read it.
//!
//! It is sealed, since it holds every value in plain text, and what is restored is believed only if this identity sealed it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    DENIED, FAILED, Failure,
    edit::diff,
    files::{Facts, Staged, Target, make_folder, unwritable},
    shown::mask_looks,
};
use crate::source::sealed_file::{Identity, Seal};

/// What one adoption changed.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Record {
    version: u32,
    pub file: PathBuf,
    facts: Facts,
    original: String,
    adopted: String,
    pub policy: Vec<Change>,
}

/// A file of the configuration, before and after. It holds no value.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Change {
    pub path: PathBuf,
    pub before: Option<String>,
    pub after: String,
}

impl Record {
    pub fn new(target: &Target, adopted: &[u8], policy: Vec<Change>) -> Self {
        let (original, adopted) = (BASE64_STANDARD.encode(&*target.bytes), BASE64_STANDARD.encode(adopted));
        Self { version: 1, file: target.path.clone(), facts: target.facts, original, adopted, policy }
    }

    /// Seals it into a file of its own, and reads it back.
    pub fn save(&self, main: &Path, identity: &Identity) -> Result<PathBuf, Failure> {
        let folder = folder(main);
        make_folder(&folder, 0o700)?;
        let plain = Zeroizing::new(serde_json::to_vec(self).map_err(io::Error::other)?);
        let closed = Seal::of(identity)?.close(&plain)?;
        let path = (1..).map(|n| folder.join(format!("{}-{n}.undo", stem(&self.file)))).find(|path| !path.exists());
        let path = path.unwrap_or_else(|| folder.join("undo"));
        Staged::write(&path, &closed, 0o600, None).and_then(Staged::put).map_err(|error| unwritable(&path, &error))?;
        let back = fs::read(&path)?;
        match Seal::open(identity, &back) {
            Ok(read) if *read == *plain => Ok(path),
            _ => Err(Failure::new(
                FAILED,
                format!("{} does not read back as it was written", path.display()),
                "is the disk full, or failing?",
            )),
        }
    }

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(BASE64_STANDARD.decode(text).unwrap_or_default())
    }
}

fn folder(main: &Path) -> PathBuf {
    main.with_file_name("adopted")
}

/// A file's name says what it is of; the digest tells files of one name apart.
fn stem(file: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, file.as_os_str().as_encoded_bytes());
    let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    format!("{}-{short}", name.trim_start_matches('.'))
}

/// The last record of this file.
fn last(main: &Path, file: &Path) -> Option<PathBuf> {
    let path = |n: u32| folder(main).join(format!("{}-{n}.undo", stem(file)));
    (1..).map(path).take_while(|path| path.exists()).last()
}

/// What was done, in sentences.
pub struct Undone {
    pub file: PathBuf,
    pub removed: Vec<PathBuf>,
    pub left: Vec<String>,
}

/// Restores a file, and takes back what was added to the configuration unless it was changed since.
pub fn undo(asked: &Path, main: &Path, identity: &Identity, force: bool, dry: bool) -> Result<Undone, Failure> {
    let target = Target::read(asked)?;
    let Some(path) = last(main, &target.path) else {
        let what = format!("there is nothing to undo for {}", target.path.display());
        return Err(Failure::new(FAILED, what, "--config names the configuration that it was adopted into"));
    };
    let unusable =
        |why: &str| Failure::new(FAILED, format!("{} {why}", path.display()), "--identity names the key that sealed it");
    let closed = fs::read(&path).map_err(|error| unusable(&error.kind().to_string()))?;
    let plain = Seal::open(identity, &closed).map_err(unusable)?;
    let record: Record = serde_json::from_slice(&plain).map_err(|_| unusable("was written by another version"))?;
    if record.version != 1 || record.file != target.path {
        return Err(unusable("is of another file or version"));
    }
    let (original, adopted) = (Record::bytes(&record.original), Record::bytes(&record.adopted));
    if *target.bytes != *adopted && !force {
        let (then, now) = (String::from_utf8_lossy(&adopted), String::from_utf8_lossy(&target.bytes));
        eprint!("{}", diff(("as adopted", "now"), &then, &now, mask_looks));
        let what = format!("{} has been changed since it was adopted", target.path.display());
        return Err(Failure::new(DENIED, what, "--force restores it all the same, and what was changed is lost"));
    }
    let mut undone = Undone { file: target.path.clone(), removed: Vec::new(), left: Vec::new() };
    if !dry {
        restore(&target, &record, &original)?;
    }
    // Last first: the main file before the tools would leave grants of secrets that nothing defines.
    for change in record.policy.iter().rev() {
        match take_back(change, dry) {
            Ok(true) => undone.removed.push(change.path.clone()),
            Ok(false) => undone.left.push(format!("{} has been changed since, and stays as it is", change.path.display())),
            Err(error) => undone.left.push(format!("{}: {error}", change.path.display())),
        }
    }
    if !dry {
        fs::remove_file(&path)?;
    }
    Ok(undone)
}

fn restore(target: &Target, record: &Record, original: &[u8]) -> Result<(), Failure> {
    let owner = Some((record.facts.uid, record.facts.gid));
    let put = || {
        let staged = Staged::write(&target.path, original, record.facts.mode, owner)?;
        staged.set_modified(record.facts.modified)?;
        staged.put()
    };
    put().map_err(|error| unwritable(&target.path, &error))
}

/// Was it as it had been left?
pub fn take_back(change: &Change, dry: bool) -> io::Result<bool> {
    match fs::read_to_string(&change.path) {
        Ok(now) if now == change.after => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    match (&change.before, dry) {
        (_, true) => {}
        (None, _) => fs::remove_file(&change.path)?,
        (Some(before), _) => {
            use std::os::unix::fs::MetadataExt;
            let facts = change.path.metadata()?;
            Staged::write(&change.path, before.as_bytes(), facts.mode() & 0o7777, Some((facts.uid(), facts.gid())))?.put()?;
        }
    }
    Ok(true)
}

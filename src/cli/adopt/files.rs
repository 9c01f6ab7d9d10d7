//! Reads a client's file, and replaces files so that a crash or a full disk leaves the old one or the new one.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::SystemTime,
};

use zeroize::Zeroizing;

use super::{FAILED, Failure};
use crate::source::sealed_file::replace::sync_folder;

/// Larger than Claude Code's own file grows, with its history in it.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A client's file as it is.
pub struct Target {
    /// Without links.
    pub path: PathBuf,
    /// As the user named it, where that is a link.
    pub link: Option<PathBuf>,
    pub bytes: Zeroizing<Vec<u8>>,
    pub facts: Facts,
    pub names: u64,
}

/// What is kept of a file that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: SystemTime,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Target {
    pub fn read(asked: &Path) -> Result<Self, Failure> {
        let shown = asked.display();
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "name the file of an MCP client, such as .mcp.json",
                _ => "run this as the owner of the file",
            };
            Failure::new(FAILED, format!("cannot read {shown}: {}", error.kind()), hint)
        };
        let path = asked.canonicalize().map_err(failed)?;
        let link = fs::symlink_metadata(asked).map_err(failed)?;
        // Not blocking: a FIFO in place of the file must not hang us.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(Failure::new(FAILED, format!("{shown} is not a regular file"), "name the file of an MCP client"));
        }
        // Root must not be led to another's file by a link of somebody's.
        if link.is_symlink() && rustix::process::geteuid().is_root() && link.uid() != 0 && link.uid() != found.uid() {
            let what = format!("{shown} is a link of one user to a file of another");
            return Err(Failure::new(FAILED, what, format!("if it is meant, name the file itself: {}", path.display())));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(found.len() as usize + 1));
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Failure::new(
                FAILED,
                format!("{shown} is larger than {} MiB", LARGEST >> 20),
                "this is no client's file",
            ));
        }
        let modified = found.modified().map_err(failed)?;
        let facts = Facts { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid(), modified };
        Ok(Self { link: link.is_symlink().then(|| asked.into()), path, bytes, facts, names: found.nlink() })
    }

    /// The text, without the mark that some editors put at its start.
    pub fn text(&self) -> Result<&str, Failure> {
        let bytes = self.bytes.strip_prefix(BOM).unwrap_or(&self.bytes);
        std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Failure::new(FAILED, format!("{}:{line}: not UTF-8 text", self.path.display()), "save the file as UTF-8")
        })
    }

    /// Another text in the same form.
    pub fn with_text(&self, text: &str) -> Zeroizing<Vec<u8>> {
        let bom: &[u8] = if self.bytes.starts_with(BOM) { BOM } else { b"" };
        Zeroizing::new([bom, text.as_bytes()].concat())
    }

    /// Writes what is to take its place, beside it, with its mode and owner.
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged, Failure> {
        let owner = Some((self.facts.uid, self.facts.gid));
        Staged::write(&self.path, bytes, self.facts.mode, owner).map_err(|error| unwritable(&self.path, &error))
    }

    /// Has nobody changed it since it was read?
    pub fn is_unchanged(&self) -> bool {
        fs::read(&self.path).map(Zeroizing::new).is_ok_and(|now| *now == *self.bytes)
    }
}

pub fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot write {}: {error}", path.display());
    Failure::new(FAILED, what, "nothing was changed there: mend that, and run this again")
}

/// A file that is whole and on disk, under another name. Gone when dropped, unless it was put in place.
pub struct Staged {
    staged: PathBuf,
    path: PathBuf,
}

impl Staged {
    pub fn write(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".valetkey-{}", std::process::id()));
        let staged = path.with_file_name(name);
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&staged)?;
        // From here on it is ours to remove.
        let new = Self { staged, path: path.into() };
        file.write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (uid, gid) {
                fchown(&file, Some(uid), Some(gid))?;
            }
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(new)
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        let file = File::open(&self.staged)?;
        file.set_modified(time)?;
        file.sync_all()
    }

    /// Takes the place of what is there.
    pub fn put(self) -> io::Result<()> {
        fs::rename(&self.staged, &self.path)?;
        sync_folder(&self.path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After it was put in place there is nothing under this name.
        let _ = fs::remove_file(&self.staged);
    }
}

/// A folder that is made with this mode, with all above it that is missing.
pub fn make_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| {
        Failure::new(FAILED, format!("cannot make {}: {error}", path.display()), "--config names the configuration elsewhere")
    })
}

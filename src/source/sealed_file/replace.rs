//! Files that are replaced as a whole: a crash leaves the old one or the new one.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// One who replaces a file. Nobody else can meanwhile.
pub struct Replacing {
    path: PathBuf,
    /// Beside the file and never removed: the file itself is replaced each time, and a lock on it with it.
    _lock: File,
}

impl Replacing {
    /// `WouldBlock` where somebody else is at it.
    pub fn begin(path: PathBuf) -> io::Result<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let lock = beside(&path, "lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(lock)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file beside the real one, for its owner alone, and waits until it is on disk.
    pub fn stage(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
        let staged = beside(&self.path, "new");
        // The lock is ours, so what is there is what a crash left.
        let _ = fs::remove_file(&staged);
        let made = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            write(&mut file)?;
            file.sync_all()
        };
        match made() {
            Ok(()) => Ok(staged),
            Err(error) => {
                let _ = fs::remove_file(&staged);
                Err(error)
            }
        }
    }

    /// Puts what was staged in the file's place. A link is replaced itself, and not what it leads to.
    pub fn put(&self, staged: &Path) -> io::Result<()> {
        fs::rename(staged, &self.path)
    }

    /// Waits until the file's name is on disk.
    pub fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }
}

/// Waits until the names in this file's folder are on disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A hidden name in the same folder, so that a rename stays on one file system.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

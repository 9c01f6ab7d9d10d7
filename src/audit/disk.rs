//! The directory that the log is in, as a trait: what a disk does when it fails is tested with one that does.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FlockOperation, StatxFlags};

/// One directory of files. Names are plain file names.
pub trait Disk: Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Reads at an offset; fewer bytes than asked for only at the file's end.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Opens a file to append to, with a descriptor of its own; makes it where there is none.
    fn append(&self, name: &str) -> io::Result<Box<dyn Append>>;
    /// Makes durable what others wrote to a file, and forgets what is not: what is read then is what is on the disk.
    fn settle(&self, name: &str) -> io::Result<()>;
    /// Makes durable what is in the directory: which files there are.
    fn sync(&self) -> io::Result<()>;
    /// Puts a file with this content, which is durable, in the place of one of this name. A power cut may leave the one before.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// May this file be appended to, and not be removed (`chattr +a` or `+i`)?
    fn is_append_only(&self, name: &str) -> bool;
}

/// A file that is appended to.
pub trait Append: Send {
    /// Writes some of it, and says how much.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Comes back when all that was written is durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A real directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Whoever holds the lock writes. Released when this is closed.
    _lock: Option<File>,
}

const LOCK: &str = "lock";

/// Why a directory cannot be used. What happened, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadDirectory(String);

impl Directory {
    /// Takes the directory to write to, and makes it where there is none. It has one writer at a time.
    pub fn take(path: &Path) -> Result<Self, BadDirectory> {
        let bad = |what: String| BadDirectory(format!("the audit log's directory {} {what}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            bad(format!("cannot be made: {error}; name another with `directory` in [audit], or set STATE_DIRECTORY"))
        })?;
        let facts = path.metadata().map_err(|error| bad(format!("cannot be read: {error}")))?;
        if facts.uid() != rustix::process::geteuid().as_raw() || facts.mode() & 0o022 != 0 {
            return Err(bad("must belong to the daemon's user, and nobody else may write to it: chown and chmod 700 it".into()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let lock = options.open(path.join(LOCK)).map_err(|error| bad(format!("cannot be written to: {error}")))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.into(), _lock: Some(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(bad("is written to by another daemon: give each its own with `directory` in [audit]".into()))
            }
            Err(error) => Err(bad(format!("cannot be locked: {error}"))),
        }
    }

    /// Opens the directory to read alone, whoever writes to it.
    pub fn read_only(path: &Path) -> Result<Self, BadDirectory> {
        match path.metadata() {
            Ok(facts) if facts.is_dir() => Ok(Self { path: path.into(), _lock: None }),
            Ok(_) => Err(BadDirectory(format!("{} is no directory: name the one that holds the audit log", path.display()))),
            Err(error) => Err(BadDirectory(format!("cannot read the audit log's directory {}: {error}", path.display()))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.path.join(name).symlink_metadata()?.len())
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.path.join(name))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Append>> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
        Ok(Box::new(Appended(options.open(self.path.join(name))?)))
    }

    fn settle(&self, name: &str) -> io::Result<()> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().append(true).custom_flags(flags).open(self.path.join(name))?;
        file.sync_data()?;
        // After a sync that failed, the kernel keeps pages that are not on the disk, and calls them clean. Where it cannot forget them
        // (a file system in memory), there is no disk to differ from.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let aside = self.path.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let mut file = options.open(&aside)?;
        file.write_all(content)?;
        file.sync_data()?;
        std::fs::rename(aside, self.path.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn is_append_only(&self, name: &str) -> bool {
        // linux/stat.h: STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND.
        const HELD: u64 = 0x10 | 0x20;
        let path = self.path.join(name);
        let facts = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        facts.is_ok_and(|facts| facts.stx_attributes.bits() & HELD != 0)
    }
}

#[cfg(test)]
pub mod faulty;

struct Appended(File);

impl Append for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let first = Directory::take(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(Directory::take(&path).unwrap_err().to_string().contains("another daemon"));
        assert!(Directory::read_only(&path).is_ok());
        drop(first);
        assert!(Directory::take(&path).is_ok());
    }

    #[test]
    fn one_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o770)).unwrap();
        assert!(Directory::take(dir.path()).unwrap_err().to_string().contains("chmod 700"));
    }
}

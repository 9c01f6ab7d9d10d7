//! A caller's program file and its digest. Opt-in: see [`Settings::executable`](super::Settings).
//!
//! For a script this is the interpreter. It says nothing of the environment, the arguments and the libraries that the program took:
//! whoever starts a process has power over it, so select by unit or user first, and by this in addition.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest;
use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat},
    io::Errno,
};

use crate::peer::{Executable, Sha256};

/// Digests kept. Forgotten all at once beyond that.
const KEPT: usize = 1024;

/// Larger files are not read: a sparse file of any size can be run.
const LARGEST: u64 = 1 << 30;

/// A state of a file's content: any write changes the last, which no call can set at will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileState {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl From<Stat> for FileState {
    fn from(found: Stat) -> Self {
        Self {
            device: found.st_dev,
            inode: found.st_ino,
            size: found.st_size,
            modified: (found.st_mtime, found.st_mtime_nsec),
            changed: (found.st_ctime, found.st_ctime_nsec),
        }
    }
}

/// The program file behind an open `/proc/PID` as it is now. About 1 microsecond.
pub fn state(process: BorrowedFd<'_>) -> Result<FileState, Errno> {
    rustix::fs::statat(process, c"exe", AtFlags::empty()).map(FileState::from)
}

/// Why a caller has no executable, for the operator. The caller is not refused for it; a tool whose policy asks for an executable is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unseen {
    #[error("executables are not looked at (executable-attestation is off)")]
    Off,
    #[error("the daemon may not see it: across users that takes CAP_SYS_PTRACE, and Landlock forbids it to all")]
    Forbidden,
    #[error("its file has been deleted")]
    Deleted,
    #[error("{} is another file where the daemon looks: the caller runs in a mount namespace of its own", .0.display())]
    Elsewhere(PathBuf),
    #[error("it is on a FUSE file system, whose owner can show each reader another content")]
    Fuse,
    #[error("it is larger than 1 GiB")]
    TooLarge,
    #[error("it was replaced while it was read")]
    Replaced,
    #[error("it cannot be read: {0}")]
    Unreadable(Errno),
}

impl From<Errno> for Unseen {
    fn from(error: Errno) -> Self {
        match error {
            Errno::ACCESS | Errno::PERM => Self::Forbidden,
            other => Self::Unreadable(other),
        }
    }
}

/// Digests by state of a file, so that each program is read once.
#[derive(Debug, Default)]
pub struct Executables(Mutex<HashMap<FileState, Sha256>>);

impl Executables {
    /// The program behind an open `/proc/PID`. Milliseconds the first time. Right if the process still lives after the call.
    pub fn see(&self, process: BorrowedFd<'_>) -> Result<(Executable, FileState), Unseen> {
        // The one descriptor is what is named, compared and read: between two looks by path the process could run another program.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut file = File::from(rustix::fs::openat(process, c"exe", flags, Mode::empty())?);
        let found = rustix::fs::fstat(&file)?;
        let state = FileState::from(found);
        let path = path(&file)?;
        if found.st_nlink == 0 || path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return Err(Unseen::Deleted);
        }
        // In a mount namespace of its own, which anyone can have, a process can stand any file at any path.
        let here = rustix::fs::stat(&path).map(FileState::from);
        if here.is_ok_and(|here| here != state) || here.is_err() {
            return Err(Unseen::Elsewhere(path));
        }
        if on_fuse(file.as_fd())? {
            return Err(Unseen::Fuse);
        }
        if u64::try_from(found.st_size).is_ok_and(|size| size > LARGEST) {
            return Err(Unseen::TooLarge);
        }
        let sha256 = self.digest(&mut file, state)?;
        if self::state(process)? != state {
            return Err(Unseen::Replaced);
        }
        Ok((Executable { path, sha256 }, state))
    }

    fn digest(&self, file: &mut File, state: FileState) -> Result<Sha256, Unseen> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&state).copied();
        if let Some(sha256) = known {
            return Ok(sha256);
        }
        let sha256 = sha256(&mut file.take(LARGEST))?;
        if FileState::from(rustix::fs::fstat(&*file)?) != state {
            return Err(Unseen::Replaced);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(state, sha256);
        Ok(sha256)
    }
}

fn path(file: &File) -> Result<PathBuf, Errno> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(link.as_bytes())))
}

fn on_fuse(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546; // linux/magic.h
    Ok(rustix::fs::fstatfs(file)?.f_type == FUSE_SUPER_MAGIC)
}

fn sha256(content: &mut impl Read) -> Result<Sha256, Unseen> {
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut part = vec![0; 128 * 1024];
    loop {
        match content.read(&mut part) {
            Ok(0) => break,
            Ok(read) => digest.update(&part[..read]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO).into()),
        }
    }
    let mut sha256 = Sha256([0; 32]);
    sha256.0.copy_from_slice(digest.finish().as_ref());
    Ok(sha256)
}

//! A secret in a memfd.

use std::{
    ffi::CStr,
    fmt::Write as _,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom},
    io::{self, Errno},
};

/// Numbers from here on, so that none is one that programs take for granted.
const FIRST: i32 = 10;

/// One descriptor to write with, which stays here; one that only reads, under a number that stays the same in the tool.
pub(super) struct Descriptor {
    ours: OwnedFd,
    theirs: OwnedFd,
    rewritable: bool,
}

impl Descriptor {
    pub(super) fn make(rewritable: bool) -> Result<Self, Errno> {
        let ours = memfd(c"secret")?;
        // For its owner alone, and not for writing: the tool may open it anew through /proc.
        fs::fchmod(&ours, Mode::RUSR)?;
        let mut path = String::new();
        let _ = write!(path, "/proc/self/fd/{}", ours.as_raw_fd());
        let read_only = fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let theirs = io::fcntl_dupfd_cloexec(&read_only, FIRST)?;
        Ok(Self { ours, theirs, rewritable })
    }

    /// As the tool sees it.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.theirs.as_raw_fd())
    }

    /// From its start.
    pub(super) fn of_the_tool(&self) -> BorrowedFd<'_> {
        let _ = fs::seek(&self.theirs, SeekFrom::Start(0));
        self.theirs.as_fd()
    }

    /// In place. Whoever reads at that moment may see a part; nobody sees two versions mixed, nor the old one's end.
    pub(super) fn write(&self, value: &[u8]) -> Result<(), Errno> {
        self.wipe();
        fs::ftruncate(&self.ours, 0)?;
        write_all(self.ours.as_fd(), value)?;
        // Sealing sealed: that the tool cannot make it one that is never rewritten.
        let bounds = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        let seals = if self.rewritable { SealFlags::SEAL } else { SealFlags::SEAL | bounds };
        match fs::fcntl_add_seals(&self.ours, seals) {
            // Of a second write.
            Err(Errno::PERM) if self.rewritable => Ok(()),
            outcome => outcome,
        }
    }

    /// Fails on what is sealed, and need not be told.
    pub(super) fn wipe(&self) {
        if self.rewritable {
            overwrite(self.ours.as_fd());
        }
    }
}

fn memfd(name: &CStr) -> Result<OwnedFd, Errno> {
    let always = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match fs::memfd_create(name, always | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => fs::memfd_create(name, always),
        made => made,
    }
}

/// From the start of the file.
pub(super) fn write_all(file: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
    let mut written = 0;
    while written < value.len() {
        match io::pwrite(file, &value[written..], written as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// With zeros, as long as it is.
pub(super) fn overwrite(file: BorrowedFd<'_>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let length = fs::fstat(file).map_or(0, |status| status.st_size as u64);
    let mut at = 0;
    while at < length {
        let part = &ZEROS[..ZEROS.len().min((length - at) as usize)];
        match io::pwrite(file, part, at) {
            Ok(written) if written > 0 => at += written as u64,
            _ => return,
        }
    }
}

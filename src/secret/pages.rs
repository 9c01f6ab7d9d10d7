//! Pages mapped for secrets, at one of three levels of protection, between two guards that nobody may touch.

use std::{
    fmt,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
};

use rustix::{
    fs::ftruncate,
    io::Errno,
    mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags},
};

/// Mappings, and the guards around them, are multiples of this: a multiple of every page size Linux has on 64-bit machines,
/// and the amount of locked memory that even old kernels and containers grant to a user.
pub(super) const UNIT: usize = 64 * 1024;

/// What keeps others out of the memory that values are in. A later one is stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// Ordinary memory: left out of core dumps and wiped in forked children, but it may be swapped out.
    Plain,
    /// As `Plain`, and locked: never in swap (mlock(2)).
    Locked,
    /// Pages that the kernel takes out of its own direct map and refuses to read for anyone: never in swap or in a dump,
    /// and not readable for root by `/proc/PID/mem`, process_vm_readv or ptrace (memfd_secret(2)).
    MemfdSecret,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Locked => "mlock",
            Self::MemfdSecret => "memfd_secret",
        })
    }
}

/// Why the kernel would not map pages at a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RLIMIT_MEMLOCK is used up.
    Limit,
    /// The kernel has no memfd_secret, or it is not switched on.
    Missing,
    /// A sandbox forbids the system call.
    Forbidden,
    /// No memory, address space or descriptors left.
    Exhausted,
    /// `Settings::at_most` says not to.
    Unwanted,
}

impl Refusal {
    /// What the operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Limit => {
                "raise the limit on locked memory: LimitMEMLOCK=8M in the unit, --ulimit memlock=8388608 for a container, \
                 `ulimit -l 8192` in a shell"
            }
            Self::Missing => "memfd_secret needs Linux 6.5, or 5.14 and later booted with secretmem.enable=1",
            Self::Forbidden => {
                "let the sandbox pass the system call: add memfd_secret and mlock to SystemCallFilter= or to the \
                 container's seccomp profile"
            }
            Self::Exhausted => "give the process more memory: MemoryMax= in the unit, or the container's limit",
            Self::Unwanted => "the settings ask for no more than this",
        }
    }
}

/// Readable and writable pages, zero at first, between two inaccessible guards. Unmapped when dropped.
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
    kind: Protection,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps `len` bytes, a multiple of `UNIT`, at exactly this level.
    pub fn map(kind: Protection, len: usize) -> Result<Self, Refusal> {
        let pages = Self::reserve(kind, len)?;
        match kind {
            Protection::MemfdSecret => pages.back_with_memfd_secret()?,
            Protection::Locked => {
                pages.back_with_anonymous_memory()?;
                // SAFETY: locking changes nothing in the pages, which are ours.
                unsafe { mm::mlock(pages.address(), len) }.map_err(lock_refusal)?;
            }
            Protection::Plain => pages.back_with_anonymous_memory()?,
        }
        Ok(pages)
    }

    /// Takes the address range, guards included, with no access to any of it.
    fn reserve(kind: Protection, len: usize) -> Result<Self, Refusal> {
        debug_assert_eq!(len % UNIT, 0);
        let whole = len.checked_add(2 * UNIT).ok_or(Refusal::Exhausted)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other.
        let base = unsafe { mm::mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE) };
        let base = base.map_err(|_| Refusal::Exhausted)?;
        // SAFETY: the mapping is longer than one guard.
        let start = unsafe { base.cast::<u8>().add(UNIT) };
        Ok(Self { start: NonNull::new(start).ok_or(Refusal::Exhausted)?, len, kind })
    }

    /// The system call itself succeeds whatever the limit is; it is `mmap` that answers EAGAIN.
    fn back_with_memfd_secret(&self) -> Result<(), Refusal> {
        let file = memfd_secret()?;
        ftruncate(&file, self.len as u64).map_err(|_| Refusal::Exhausted)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: replaces a part of our own reservation, to which there is no reference yet.
        let mapped = unsafe { mm::mmap(self.address(), self.len, access, MapFlags::SHARED | MapFlags::FIXED, &file, 0) };
        mapped.map_err(|error| if error == Errno::AGAIN { Refusal::Limit } else { Refusal::Exhausted })?;
        // At once: whoever gets hold of the descriptor (pidfd_getfd(2)) can map the same pages and read them.
        drop(file);
        // A child must not have them either. MADV_WIPEONFORK would be EINVAL, since the mapping is shared.
        self.advise(Advice::LinuxDontFork)?;
        self.advise(Advice::LinuxDontDump)
    }

    fn back_with_anonymous_memory(&self) -> Result<(), Refusal> {
        // SAFETY: opens a part of our own reservation, to which there is no reference yet.
        let opened = unsafe { mm::mprotect(self.address(), self.len, MprotectFlags::READ | MprotectFlags::WRITE) };
        opened.map_err(|_| Refusal::Exhausted)?;
        self.advise(Advice::LinuxDontDump)?;
        self.advise(Advice::LinuxWipeOnFork)
    }

    fn advise(&self, advice: Advice) -> Result<(), Refusal> {
        // SAFETY: no advice given here changes what this process sees in the pages.
        unsafe { mm::madvise(self.address(), self.len, advice) }.map_err(|_| Refusal::Forbidden)
    }

    fn address(&self) -> *mut std::ffi::c_void {
        self.start.as_ptr().cast()
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn kind(&self) -> Protection {
        self.kind
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range that `reserve` took; slots borrow the arena that owns this, so none is left.
        let _ = unsafe { mm::munmap(self.start.as_ptr().sub(UNIT).cast(), self.len + 2 * UNIT) };
    }
}

fn memfd_secret() -> Result<OwnedFd, Refusal> {
    // O_CLOEXEC: the manual page says FD_CLOEXEC, the kernel (mm/secretmem.c) takes only this.
    // SAFETY: takes a number and returns a descriptor or -1.
    let file = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if file >= 0 {
        // SAFETY: a new descriptor that nobody else knows.
        return Ok(unsafe { OwnedFd::from_raw_fd(file as RawFd) });
    }
    Err(match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOSYS) => Refusal::Missing,
        Some(libc::EPERM | libc::EACCES) => Refusal::Forbidden,
        _ => Refusal::Exhausted,
    })
}

/// mlock(2): EPERM where the limit is 0, ENOMEM where it is too low, EAGAIN where not all of it could be locked.
fn lock_refusal(error: Errno) -> Refusal {
    match error {
        Errno::PERM | Errno::NOMEM | Errno::AGAIN => Refusal::Limit,
        _ => Refusal::Forbidden,
    }
}

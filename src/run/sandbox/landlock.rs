//! Landlock: which files may be opened, which TCP ports connected to. Two of its three system calls are made here, the third where the
//! process is that it binds. The numbers are those of linux/landlock.h.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
    ptr,
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::Error;

/// A set of rights on files.
pub(super) type Rights = u64;

pub(super) const EXECUTE: Rights = 1;
const WRITE_FILE: Rights = 1 << 1;
const READ_FILE: Rights = 1 << 2;
const READ_DIR: Rights = 1 << 3;
const REMOVE_DIR: Rights = 1 << 4;
const REMOVE_FILE: Rights = 1 << 5;
const MAKE_CHAR: Rights = 1 << 6;
const MAKE_DIR: Rights = 1 << 7;
const MAKE_REG: Rights = 1 << 8;
const MAKE_SOCK: Rights = 1 << 9;
const MAKE_FIFO: Rights = 1 << 10;
const MAKE_BLOCK: Rights = 1 << 11;
const MAKE_SYM: Rights = 1 << 12;
const REFER: Rights = 1 << 13;
const TRUNCATE: Rights = 1 << 14;
const IOCTL_DEV: Rights = 1 << 15;

/// Reading files and listing directories.
pub(super) const READ: Rights = READ_FILE | READ_DIR;

/// Everything else but execution. Nothing makes device nodes: one in a writable directory would be the whole disk.
pub(super) const WRITE: Rights =
    WRITE_FILE | TRUNCATE | IOCTL_DEV | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER;

/// Using a device: no more than its file.
pub(super) const DEVICE: Rights = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV;

/// Those that make sense for what is not a directory. The kernel refuses others there.
const OF_FILES: Rights = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The version that knows TCP (Linux 6.7).
const TCP: u32 = 4;
/// The version that has a right for ioctl on devices (Linux 6.10).
const IOCTL: u32 = 5;
/// The version with scopes for abstract Unix sockets and signals (Linux 6.12).
const SCOPES: u32 = 6;

/// struct landlock_ruleset_attr
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// struct landlock_path_beneath_attr
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// struct landlock_net_port_attr
#[repr(C)]
struct NetPort {
    allowed_access: u64,
    port: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;

fn outcome(returned: libc::c_long) -> Result<libc::c_long, Errno> {
    match returned {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        value => Ok(value),
    }
}

/// The version of Landlock that this kernel enforces, which must know TCP.
pub(super) fn abi() -> Result<u32, Error> {
    // SAFETY: asks for a number; no pointer is passed.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0, CREATE_RULESET_VERSION) };
    match outcome(answer) {
        Ok(abi) if abi >= TCP.into() => Ok(u32::try_from(abi).unwrap_or(u32::MAX)),
        Ok(abi) => Err(Error::LandlockOld { abi: u32::try_from(abi).unwrap_or(0) }),
        Err(Errno::NOSYS) => Err(Error::NoLandlock),
        Err(Errno::OPNOTSUPP) => Err(Error::LandlockOff),
        Err(errno) => Err(Error::Kernel { call: "landlock_create_ruleset", errno }),
    }
}

/// Everything denied, but for what is then allowed.
pub(super) struct Ruleset {
    fd: OwnedFd,
    /// What it denies, of files.
    handled: Rights,
}

impl Ruleset {
    pub(super) fn new(abi: u32) -> Result<Self, Error> {
        let ioctl = if abi >= IOCTL { IOCTL_DEV } else { 0 };
        let scoped = if abi >= SCOPES { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
        let handled = ((READ | WRITE | EXECUTE | MAKE_CHAR | MAKE_BLOCK) & !IOCTL_DEV) | ioctl;
        let wanted = RulesetAttr { handled_access_fs: handled, handled_access_net: BIND_TCP | CONNECT_TCP, scoped };
        // SAFETY: the struct outlives the call, and its size is its own. Older kernels take the zeros that they do not know.
        let made =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&wanted), size_of::<RulesetAttr>(), 0) };
        let number = outcome(made).map_err(|errno| Error::Kernel { call: "landlock_create_ruleset", errno })?;
        // SAFETY: the call succeeded, so this is a new descriptor (close-on-exec) that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(number as i32) };
        Ok(Self { fd, handled })
    }

    /// Allows this below the path, which must exist.
    pub(super) fn allow(&self, path: &Path, rights: Rights) -> Result<(), Error> {
        if !path.is_absolute() {
            return Err(Error::NotAbsolute { path: path.to_owned() });
        }
        self.add(path, rights).map_err(|errno| Error::Path { path: path.to_owned(), error: errno.into() })
    }

    /// The same for a path that need not exist, or be one that this user can look up.
    pub(super) fn allow_if_there(&self, path: &Path, rights: Rights) -> Result<(), Error> {
        match self.add(path, rights) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(()),
            Err(errno) => Err(Error::Path { path: path.to_owned(), error: errno.into() }),
        }
    }

    fn add(&self, path: &Path, rights: Rights) -> Result<(), Errno> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let fit = if kind == FileType::Directory { rights } else { rights & OF_FILES };
        add_path(self.fd.as_fd(), fd.as_fd(), fit & self.handled)
    }

    /// Allows connections to a TCP port of any host.
    pub(super) fn allow_connect(&self, port: u32) -> Result<(), Error> {
        // Port 0 is one of the kernel's choice, which is no port to connect to.
        if !(1..=u16::MAX.into()).contains(&port) {
            return Err(Error::Port { port });
        }
        let rule = NetPort { allowed_access: CONNECT_TCP, port: port.into() };
        add_rule(self.fd.as_fd(), RULE_NET_PORT, ptr::from_ref(&rule).cast())
            .map_err(|errno| Error::Kernel { call: "landlock_add_rule", errno })
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// Allows this below an open directory.
pub(super) fn add_path(ruleset: BorrowedFd<'_>, below: BorrowedFd<'_>, rights: Rights) -> Result<(), Errno> {
    let rule = PathBeneath { allowed_access: rights, parent_fd: below.as_raw_fd() };
    add_rule(ruleset, RULE_PATH_BENEATH, ptr::from_ref(&rule).cast())
}

fn add_rule(ruleset: BorrowedFd<'_>, kind: u32, rule: *const libc::c_void) -> Result<(), Errno> {
    // SAFETY: both callers pass the struct that belongs to the kind, alive over the call.
    outcome(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), kind, rule, 0) }).map(|_| ())
}

//! What the tool gives up, handed over as data and applied by system calls alone.
//!
//! In this order, each step with what the one before has left it:
//!
//! 1. the namespaces, because a user namespace gives all capabilities, and Landlock and the filter deny entering one;
//! 2. the resource limits;
//! 3. no new privileges, without which the kernel takes neither Landlock's rules nor a filter from who is not root;
//! 4. no capabilities, those of the user namespace too;
//! 5. Landlock;
//! 6. the tie to the guardian (in `spawn`): the kernel may cut it when credentials change, and from here on none do;
//! 7. the seccomp filter, which denies calls that are made above. After it there is execve alone.

use std::{
    ffi::{CString, c_int},
    io,
    os::fd::{AsFd, BorrowedFd, RawFd},
};

use super::{
    region::{Reader, Region},
    spawn::{LANDLOCK, LIMITS, NAMESPACES, PRIVILEGES, SECCOMP, check},
    start::{Confinement, Limit},
};
use crate::run::privileges;

/// All but the descriptors, which come beside it.
pub(super) struct Wanted {
    no_new_privileges: bool,
    no_capabilities: bool,
    /// Whether there is one: a Landlock ruleset, a user namespace, a mount namespace.
    descriptors: [bool; 3],
    directory: CString,
    seccomp: Vec<libc::sock_filter>,
    limits: Vec<Limit>,
}

/// Ready to use.
pub(super) struct Confine {
    wanted: Wanted,
    landlock: Option<RawFd>,
    user: Option<RawFd>,
    mount: Option<RawFd>,
}

/// Those that are handed over, in this order.
pub(super) fn descriptors(of: &Confinement) -> impl Iterator<Item = BorrowedFd<'_>> {
    [&of.landlock, &of.user_namespace, &of.mount_namespace].into_iter().flatten().map(AsFd::as_fd)
}

pub(super) fn pack(confinement: &Confinement, region: &mut Region) -> io::Result<()> {
    let Confinement { landlock, user_namespace, mount_namespace, .. } = confinement;
    region.put(confinement.no_new_privileges.into())?;
    region.put(confinement.no_capabilities.into())?;
    [landlock, user_namespace, mount_namespace].into_iter().try_for_each(|fd| region.put(fd.is_some().into()))?;
    region.put_bytes(confinement.directory.as_bytes())?;
    region.put_bytes(confinement.seccomp.as_flattened())?;
    region.put(confinement.limits.len() as u64)?;
    confinement.limits.iter().flat_map(|limit| [limit.resource.into(), limit.soft, limit.hard]).try_for_each(|n| region.put(n))
}

pub(super) fn unpack(from: &mut Reader<'_>) -> io::Result<Wanted> {
    let mut flag = || Ok::<_, io::Error>(from.number()? == 1);
    let (no_new_privileges, no_capabilities, descriptors) = (flag()?, flag()?, [flag()?, flag()?, flag()?]);
    let directory = CString::new(from.bytes()?)?;
    let seccomp = from.bytes()?.as_chunks().0.iter().map(instruction).collect();
    let mut limits = Vec::new();
    for _ in 0..from.number()? {
        limits.push(Limit { resource: from.number()? as u32, soft: from.number()?, hard: from.number()? });
    }
    Ok(Wanted { no_new_privileges, no_capabilities, descriptors, directory, seccomp, limits })
}

fn instruction(bytes: &[u8; 8]) -> libc::sock_filter {
    let [a, b, jt, jf, k @ ..] = *bytes;
    libc::sock_filter { code: u16::from_ne_bytes([a, b]), jt, jf, k: u32::from_ne_bytes(k) }
}

impl Wanted {
    /// The same from where it was asked for, for a process that applies it itself.
    pub fn of(confinement: &Confinement) -> Self {
        let Confinement { landlock, user_namespace, mount_namespace, .. } = confinement;
        Self {
            no_new_privileges: confinement.no_new_privileges,
            no_capabilities: confinement.no_capabilities,
            descriptors: [landlock, user_namespace, mount_namespace].map(Option::is_some),
            directory: confinement.directory.clone(),
            seccomp: confinement.seccomp.iter().map(instruction).collect(),
            limits: confinement.limits.clone(),
        }
    }
}

impl Confine {
    pub fn new(wanted: Wanted, mut descriptors: impl Iterator<Item = RawFd>) -> Self {
        let [landlock, user, mount] = wanted.descriptors.map(|there| if there { descriptors.next() } else { None });
        Self { wanted, landlock, user, mount }
    }

    /// All but the filter, which comes last. System calls only. The error is the step.
    pub fn enter(&self) -> Result<(), i64> {
        self.namespaces()?;
        self.limits()?;
        self.privileges()?;
        self.landlock()
    }

    fn namespaces(&self) -> Result<(), i64> {
        for (namespace, kind) in [(self.user, libc::CLONE_NEWUSER), (self.mount, libc::CLONE_NEWNS)] {
            // SAFETY: numbers.
            namespace.map_or(Ok(()), |fd| check(unsafe { libc::setns(fd, kind) }, NAMESPACES))?;
        }
        if self.mount.is_some() {
            // SAFETY: a string that ends with a zero.
            check(unsafe { libc::chdir(self.wanted.directory.as_ptr()) }, NAMESPACES)?;
        }
        Ok(())
    }

    fn limits(&self) -> Result<(), i64> {
        for Limit { resource, soft, hard } in &self.wanted.limits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            // SAFETY: a limit to read.
            check(unsafe { libc::setrlimit(*resource as _, &limit) }, LIMITS)?;
        }
        Ok(())
    }

    fn privileges(&self) -> Result<(), i64> {
        if self.wanted.no_new_privileges {
            // SAFETY: numbers.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, PRIVILEGES)?;
        }
        // In a user namespace of its user a process would have all of them, where it had none outside.
        if self.wanted.no_capabilities || self.user.is_some() {
            privileges::drop_capabilities().map_err(|_| PRIVILEGES)?;
        }
        Ok(())
    }

    fn landlock(&self) -> Result<(), i64> {
        let Some(ruleset) = self.landlock else { return Ok(()) };
        // SAFETY: numbers.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) } as c_int, LANDLOCK)
    }

    /// Last, for it may deny what comes before.
    pub fn filter(&self) -> Result<(), i64> {
        let filter = &self.wanted.seccomp;
        if filter.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the filter is as long as `len` says, and is only read.
        let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        check(answer as c_int, SECCOMP)
    }
}

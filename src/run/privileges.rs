//! Capabilities, and none of them.

use std::{io, ptr};

use rustix::io::Errno;

/// linux/capability.h: version 3, two words of each set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Out of all five sets: the bounding set first, which takes a capability. System calls only.
///
/// With no new privileges (PR_SET_NO_NEW_PRIVS(2const)) that is for good: neither root's user number nor a file's bits nor its
/// capabilities give any at `execve`, which keeps to what is permitted now (capabilities(7)).
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    const LAST_POSSIBLE: libc::c_int = 63;
    for capability in 0..=LAST_POSSIBLE {
        // SAFETY: integers only.
        match checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            // Past the last that this kernel has; or without the capability to do it, and so without any that matters.
            Err(Errno::INVAL | Errno::PERM) => break,
            dropped => dropped?,
        }
    }
    // SAFETY: integers only.
    checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both structs are those of version 3, and outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_capset, ptr::from_ref(&header), none.as_ptr()) } as libc::c_int)
}

/// The error of a call that gives -1 for one.
pub(super) fn checked(outcome: libc::c_int) -> Result<(), Errno> {
    match outcome {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

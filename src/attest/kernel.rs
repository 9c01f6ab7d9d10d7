//! The calls to the kernel that no crate offers, or not safely: rustix 1.1 reads a sender's pid of 0 (another pid namespace) into a
//! type that cannot be 0.

use std::{
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// A process's credentials, as the kernel writes them for the namespaces of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// 0: a process that the reader's pid namespace does not have.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What `PIDFD_GET_INFO` tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Equals the inode number of the cgroup's directory.
    pub cgroup: u64,
}

fn socket_option(socket: BorrowedFd<'_>, option: libc::c_int, value: &mut [u32]) -> Result<usize, Errno> {
    let mut bytes = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `value`, which is as long and takes any bits.
    let outcome =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.as_mut_ptr().cast(), &mut bytes) };
    match outcome {
        0 => Ok(bytes as usize / size_of::<u32>()),
        // For SO_PEERGROUPS the length is now the one that is needed.
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `SO_PEERCRED`: who connected, as of then.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<Credentials, Errno> {
    let mut ucred = [0; 3];
    socket_option(socket, libc::SO_PEERCRED, &mut ucred)?;
    let [pid, uid, gid] = ucred;
    Ok(Credentials { pid, uid, gid })
}

/// `SO_PEERGROUPS`: the supplementary groups of who connected, as of then.
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    const USUAL: usize = 64;
    const MOST: usize = 65_536; // NGROUPS_MAX
    let mut groups = vec![0; USUAL];
    let count = match socket_option(socket, libc::SO_PEERGROUPS, &mut groups) {
        Err(Errno::RANGE) => {
            groups.resize(MOST, 0);
            socket_option(socket, libc::SO_PEERGROUPS, &mut groups)?
        }
        outcome => outcome?,
    };
    groups.truncate(count);
    groups.shrink_to_fit();
    Ok(groups)
}

/// `SO_PEERPIDFD`: a handle on the process that connected.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut fd = [u32::MAX];
    socket_option(socket, libc::SO_PEERPIDFD, &mut fd).map_err(|error| match error {
        // A peer that is gone and reaped, before Linux 6.16.
        Errno::INVAL | Errno::NODATA => Errno::SRCH,
        other => other,
    })?;
    // SAFETY: the call succeeded, so this is a new descriptor (close-on-exec, as every pidfd) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd[0].cast_signed()) })
}

/// `PIDFD_GET_INFO`: a process's user, group and cgroup now. `SRCH`: it is gone. `REMOTE`: it is not in this
/// pid namespace.
pub fn process_info(pidfd: BorrowedFd<'_>) -> Result<Info, Errno> {
    const ASKED: u64 = (libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CREDS | libc::PIDFD_INFO_CGROUPID) as u64;
    // SAFETY: a struct of integers, for which zeros are valid.
    let mut info: libc::pidfd_info = unsafe { MaybeUninit::zeroed().assume_init() };
    info.mask = ASKED;
    // SAFETY: the request's number carries the size of the struct, and the kernel writes no more than that.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &mut info) } != 0 {
        return Err(last_error());
    }
    if info.mask & ASKED != ASKED {
        return Err(Errno::NOTSUP);
    }
    Ok(Info { pid: info.tgid, uid: info.euid, gid: info.egid, cgroup: info.cgroupid })
}

/// Has the process not exited yet? A zombie has.
pub fn alive(pidfd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    // Any event, an error too, is not "alive".
    Ok(poll(&mut fds, Some(&Timespec::default()))? == 0)
}

/// Is a pidfd's inode number one of its own (Linux 6.9), and not the number all anonymous files share?
pub fn on_pidfs(pidfd: BorrowedFd<'_>) -> bool {
    const PID_FS_MAGIC: i64 = 0x5049_4446; // linux/magic.h
    rustix::fs::fstatfs(pidfd).is_ok_and(|found| found.f_type == PID_FS_MAGIC)
}

/// `SO_PASSCRED`: the kernel is to attach each sender's credentials to what it sends.
pub fn name_senders(socket: impl AsFd) -> Result<(), Errno> {
    rustix::net::sockopt::set_socket_passcred(socket, true)
}

/// Room for one control message with credentials, and no more: descriptors that a peer sends along do not fit, and the kernel drops
/// them before they become ours.
const CONTROL: usize = {
    // SAFETY: arithmetic on a length.
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) as usize }
};

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Reads without waiting. Gives the number of bytes, and who sent them where the kernel says so. All of them come from one sender:
/// on a socket with `SO_PASSCRED` the kernel does not join what different processes wrote ("Never glue messages from different
/// writers", `unix_stream_read_generic`).
pub fn receive(socket: BorrowedFd<'_>, into: &mut [MaybeUninit<u8>]) -> Result<(usize, Option<Credentials>), Errno> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a struct of integers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: the buffers outlive the call, and their lengths are theirs.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let read = usize::try_from(read).map_err(|_| last_error())?;
    Ok((read, sender(&message)))
}

fn sender(message: &libc::msghdr) -> Option<Credentials> {
    // SAFETY: the kernel filled the control buffer and set its length; the macro looks at no more than that.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return None;
    }
    // SAFETY: not null, so the buffer holds a whole header; it is aligned, and still there.
    let (level, kind, length) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
    // SAFETY: arithmetic on a length.
    let whole = unsafe { libc::CMSG_LEN(size_of::<libc::ucred>() as u32) } as usize;
    if (level, kind) != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) || length < whole {
        return None;
    }
    // SAFETY: the message is as long as the struct, whose integers take any bits; the read does not rely on alignment.
    let ucred: libc::ucred = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    Some(Credentials { pid: ucred.pid.cast_unsigned(), uid: ucred.uid, gid: ucred.gid })
}

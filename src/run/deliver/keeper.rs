//! The process that makes the namespaces, hands over descriptors of them, and exits. It is forked from the launcher, and only makes
//! system calls.

use std::{
    ffi::CStr,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::{self, Errno},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{DumpableBehavior, getegid, geteuid, set_dumpable_behavior},
};

use super::Error;
use crate::run::privileges::checked;

/// What was made. `directory` is of a mount that can be written and is in no namespace; it goes with its descriptor.
pub(super) struct Made {
    pub user: Option<OwnedFd>,
    pub mount: OwnedFd,
    pub directory: OwnedFd,
}

/// The steps, in the words of an error.
const STEPS: [&str; 6] = ["fork", "unshare", "uid_map and gid_map", "mount", "open_tree", "/proc/self/ns"];
type Failed = (u8, Errno);

fn at(step: u8) -> impl Fn(Errno) -> Failed {
    move |errno| (step, errno)
}

fn told((step, errno): Failed) -> Error {
    Error::NoNamespace { step: STEPS.get(usize::from(step)).copied().unwrap_or("fork"), errno }
}

/// Has it made, with a file system mounted at this path.
pub(super) fn ask(mount_point: &CStr) -> Result<Made, Error> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(|errno| told((0, errno)))?;
    // Made here: nothing is allocated in the child.
    let maps = Maps { user: format!("{0} {0} 1", geteuid().as_raw()), group: format!("{0} {0} 1", getegid().as_raw()) };
    // SAFETY: no argument. The child makes system calls only, and leaves without running what this process would at exit.
    let child = match unsafe { libc::fork() } {
        0 => keep(mount_point, &maps, theirs.as_fd()),
        child => child,
    };
    drop(theirs);
    if child < 0 {
        return Err(told((0, Errno::AGAIN)));
    }
    let answer = receive(ours.as_fd());
    // SAFETY: our own child, not reaped by anybody else; no status is wanted.
    while unsafe { libc::waitpid(child, ptr::null_mut(), 0) } < 0 && io_error() == Errno::INTR {}
    answer.map_err(told)
}

fn io_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn receive(socket: BorrowedFd<'_>) -> Result<Made, Failed> {
    let mut word = [0; 5];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut word)];
    let read = io::retry_on_intr(|| recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)).map_err(at(0))?;
    let mut sent = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut sent = sent.next().into_iter().flatten();
    match (read.bytes, sent.next(), sent.next()) {
        (1, Some(mount), Some(directory)) => Ok(Made { mount, directory, user: sent.next() }),
        (5, _, _) => Err((word[0], Errno::from_raw_os_error(i32::from_ne_bytes([word[1], word[2], word[3], word[4]])))),
        // It was killed.
        _ => Err((0, Errno::PIPE)),
    }
}

struct Maps {
    user: String,
    group: String,
}

fn keep(mount_point: &CStr, maps: &Maps, socket: BorrowedFd<'_>) -> ! {
    let _ = match make(mount_point, maps) {
        Ok(made) => send(socket, &made),
        Err((step, errno)) => {
            let mut word = [step, 0, 0, 0, 0];
            word[1..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
            io::write(socket, &word).map(|_| ())
        }
    };
    // SAFETY: leaves at once.
    unsafe { libc::_exit(0) }
}

fn send(socket: BorrowedFd<'_>, made: &Made) -> Result<(), Errno> {
    let all = [made.mount.as_fd(), made.directory.as_fd(), made.user.as_ref().map_or(made.mount.as_fd(), AsFd::as_fd)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(if made.user.is_some() { &all } else { &all[..2] }));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL).map(|_| ())
}

fn make(mount_point: &CStr, maps: &Maps) -> Result<Made, Failed> {
    let alone = unshare(maps)?;
    mount_files(mount_point).map_err(at(3))?;
    let directory = clone_mount(mount_point).map_err(at(4))?;
    close_to_writers(mount_point).map_err(at(3))?;
    let open = |path: &CStr| fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at(5));
    let user = if alone { None } else { Some(open(c"/proc/self/ns/user")?) };
    Ok(Made { user, mount: open(c"/proc/self/ns/mnt")?, directory })
}

/// Gives whether a mount namespace was enough.
fn unshare(maps: &Maps) -> Result<bool, Failed> {
    // SAFETY: integers only; this process has one thread.
    match checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }) {
        Err(Errno::PERM) => {}
        outcome => return outcome.map(|()| true).map_err(at(1)),
    }
    // The maps belong to root, unless this process may be looked at. There is no value in it.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(at(2))?;
    // SAFETY: integers only; this process has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }).map_err(at(1))?;
    write(c"/proc/self/setgroups", b"deny").map_err(at(2))?;
    write(c"/proc/self/uid_map", maps.user.as_bytes()).map_err(at(2))?;
    write(c"/proc/self/gid_map", maps.group.as_bytes()).map_err(at(2))?;
    Ok(false)
}

fn write(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::write(&file, text).map(|_| ())
}

const QUIET: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Not tmpfs: that may be swapped out, and only root may ask it not to be. ramfs has no bound, but only the launcher writes to it.
fn mount_files(mount_point: &CStr) -> Result<(), Errno> {
    // What is mounted here must not show outside; what is mounted outside may still show here.
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_SLAVE, c"")?;
    mount(c"valetkey", mount_point, c"ramfs", QUIET, c"mode=0700")
}

fn close_to_writers(mount_point: &CStr) -> Result<(), Errno> {
    mount(c"none", mount_point, c"none", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | QUIET, c"")
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> Result<(), Errno> {
    // SAFETY: strings that end with a zero, alive over the call.
    checked(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })
}

/// A second mount of the same file system, attached to nothing (open_tree(2), Linux 5.2).
fn clone_mount(mount_point: &CStr) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    // SAFETY: a string that ends with a zero.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, mount_point.as_ptr(), flags) };
    checked(tree as libc::c_int)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

//! The words that the launcher and its guardian exchange: small packets, with descriptors where a start needs them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// As many descriptors as a packet can carry (SCM_MAX_FD, unix(7)).
const DESCRIPTORS: usize = 253;

/// Launcher to guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Start what stands in the shared memory, this many bytes of it.
    Start(usize),
    Signal(Sent, To),
    /// Kill all of the tree.
    Kill,
    /// Let the tool's process group have the terminal, and go on.
    Foreground,
}

/// A signal, and the number that came with it, where one did (sigqueue(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub signal: i32,
    pub value: Option<i32>,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The tool's first process.
    Tool,
    /// Its process group, as a terminal would.
    Group,
    /// All that descend from it.
    Tree,
}

/// Guardian to launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// The tool runs, under this process number.
    Started(i32),
    /// It could not be started: the step of it, and the error number.
    Failed(i64, i32),
    /// This signal stopped the tool.
    Stopped(i32),
    /// The tool's first process ended, with this wait status.
    Exited(i32),
    /// Nothing of the tree is left.
    Gone,
    /// Something is left that cannot be killed.
    Remains,
}

type Packet = [i64; 4];

impl Order {
    pub fn send(self, socket: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = match self {
            Self::Start(used) => [1, used as i64, 0, 0],
            Self::Signal(Sent { signal, value }, to) => {
                [[2, 3, 4][to as usize], signal.into(), value.is_some().into(), value.unwrap_or_default().into()]
            }
            Self::Kill => [5, 0, 0, 0],
            Self::Foreground => [6, 0, 0, 0],
        };
        send(socket, packet, descriptors)
    }

    /// None: the other side is gone.
    pub fn receive(socket: &OwnedFd) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let Some((packet, descriptors)) = receive(socket, RecvFlags::empty())? else { return Ok(None) };
        let sent = |[_, signal, some, value]: Packet| Sent { signal: signal as i32, value: (some == 1).then_some(value as i32) };
        let order = match packet[0] {
            1 => Self::Start(packet[1] as usize),
            2 => Self::Signal(sent(packet), To::Tool),
            3 => Self::Signal(sent(packet), To::Group),
            4 => Self::Signal(sent(packet), To::Tree),
            5 => Self::Kill,
            6 => Self::Foreground,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some((order, descriptors)))
    }
}

impl Report {
    pub fn send(self, socket: &OwnedFd) -> io::Result<()> {
        let packet = match self {
            Self::Started(pid) => [1, pid.into(), 0, 0],
            Self::Failed(step, error) => [2, step, error.into(), 0],
            Self::Stopped(signal) => [3, signal.into(), 0, 0],
            Self::Exited(status) => [4, status.into(), 0, 0],
            Self::Gone => [5, 0, 0, 0],
            Self::Remains => [6, 0, 0, 0],
        };
        send(socket, packet, &[])
    }

    /// None: the other side is gone. Does not wait.
    pub fn receive(socket: &OwnedFd) -> io::Result<Option<Self>> {
        let Some((packet, _)) = receive(socket, RecvFlags::DONTWAIT)? else { return Ok(None) };
        let number = packet[1] as i32;
        Ok(Some(match packet[0] {
            1 => Self::Started(number),
            2 => Self::Failed(packet[1], packet[2] as i32),
            3 => Self::Stopped(number),
            4 => Self::Exited(number),
            5 => Self::Gone,
            6 => Self::Remains,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }
}

fn send(socket: &OwnedFd, packet: Packet, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes: Vec<u8> = packet.iter().flat_map(|number| number.to_ne_bytes()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors to hand over"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &OwnedFd, flags: RecvFlags) -> io::Result<Option<(Packet, Vec<OwnedFd>)>> {
    let mut bytes = [0; size_of::<Packet>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
        // The other side ended with words of ours unread.
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    if got.bytes != bytes.len() {
        return if got.bytes == 0 { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    }
    let rights = |message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None };
    let descriptors = ancillary.drain().filter_map(rights).flatten().collect();
    let mut packet = Packet::default();
    for (number, bytes) in packet.iter_mut().zip(bytes.as_chunks().0) {
        *number = i64::from_ne_bytes(*bytes);
    }
    Ok(Some((packet, descriptors)))
}

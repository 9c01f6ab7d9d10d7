//! Sockets that systemd has opened and passes on: taken only where they are what the daemon would have bound itself.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::listener::{BindError, Listener, Socket, check_directory};

/// What is asked of a socket that was passed, beside its mode and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Is its path the one that configuration sets? If not, the unit's stands.
    pub path: bool,
    /// Must the kernel name the sender of each message, from the first connection on?
    pub names_senders: bool,
    /// Must it be root's, so that root alone may connect?
    pub of_root: bool,
}

/// Why a socket that was passed is not taken, and what to write in its unit.
#[derive(Debug, thiserror::Error)]
pub enum BadSocket {
    #[error("it is not a listening Unix stream socket with a path: ListenStream=/run/valetkey/NAME.sock, and no Accept=yes")]
    NotAListener,
    #[error("it is at {0}, and the configuration says {1}: make them the same")]
    OtherPath(PathBuf, PathBuf),
    #[error("at {0} there is something else by now: restart the socket unit")]
    Gone(PathBuf),
    #[error("{path} has mode {found:04o}, which lets in more than {most:04o}: SocketMode={most:04o}")]
    Mode { path: PathBuf, found: u32, most: u32 },
    #[error("{0} belongs to another user than root and the daemon's: SocketUser=")]
    User(PathBuf),
    #[error("{0} does not belong to root: leave out SocketUser=")]
    NotRoots(PathBuf),
    #[error("{path} belongs to group {found}, and `admin-group` has the number {group}: SocketGroup=")]
    Group { path: PathBuf, found: u32, group: u32 },
    #[error("{0} does not tell who writes what: PassCredentials=yes")]
    SendersUnnamed(PathBuf),
    #[error("{0}")]
    Directory(#[from] BindError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Listener {
    /// Takes a socket that systemd has opened. Connections wait in its queue while no daemon runs; its file is systemd's.
    pub fn passed(fd: OwnedFd, socket: &Socket, expected: Expected) -> Result<Self, BadSocket> {
        let family = sockopt::socket_domain(fd.as_fd()).map_err(std::io::Error::from)?;
        let kind = sockopt::socket_type(fd.as_fd()).map_err(std::io::Error::from)?;
        let listens = sockopt::socket_acceptconn(fd.as_fd()).map_err(std::io::Error::from)?;
        if family != AddressFamily::UNIX || kind != SocketType::STREAM || !listens {
            return Err(BadSocket::NotAListener);
        }
        let listener = std::os::unix::net::UnixListener::from(fd);
        let address = listener.local_addr()?;
        let path = address.as_pathname().ok_or(BadSocket::NotAListener)?;
        if expected.path && path != socket.path {
            return Err(BadSocket::OtherPath(path.into(), socket.path.clone()));
        }
        check_file(path, socket, expected.of_root)?;
        if let Some(directory) = path.parent() {
            check_directory(directory)?;
        }
        if expected.names_senders && !sockopt::socket_passcred(&listener).map_err(std::io::Error::from)? {
            return Err(BadSocket::SendersUnnamed(path.into()));
        }
        listener.set_nonblocking(true)?;
        let path = path.to_owned();
        Ok(Self::new(tokio::net::UnixListener::from_std(listener)?, path, None))
    }
}

fn check_file(path: &Path, socket: &Socket, of_root: bool) -> Result<(), BadSocket> {
    let found = std::fs::symlink_metadata(path).map_err(|_| BadSocket::Gone(path.into()))?;
    if !found.file_type().is_socket() {
        return Err(BadSocket::Gone(path.into()));
    }
    let mode = found.mode() & 0o777;
    if mode & !socket.mode != 0 {
        return Err(BadSocket::Mode { path: path.into(), found: mode, most: socket.mode });
    }
    if of_root && found.uid() != 0 {
        return Err(BadSocket::NotRoots(path.into()));
    }
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return Err(BadSocket::User(path.into()));
    }
    match socket.group {
        Some(group) if mode & 0o060 != 0 && found.gid() != group => {
            Err(BadSocket::Group { path: path.into(), found: found.gid(), group })
        }
        _ => Ok(()),
    }
}

//! Unix sockets: how they are bound, and who gets a connection.

use std::{
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::{
    net::UnixListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{debug, warn};

use super::{
    connection::Connection,
    pace::Guest,
    places::{Connections, Place, Places, Room},
};
use crate::{
    attest::{Attested, Attestor, PeerStream},
    peer::Peer,
    source::directory::open_to_others,
};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub path: PathBuf,
    /// Permission bits: who may connect.
    pub mode: u32,
    /// Group of the socket file, where not the daemon's own.
    pub group: Option<u32>,
}

/// Why a socket cannot be bound, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}: a Unix socket's path has at most 107 bytes: set a shorter `run-dir`")]
    TooLong(PathBuf),
    #[error("{0}: another daemon is serving here: stop it, or set another `run-dir`")]
    InUse(PathBuf),
    #[error("{0}: this is not a socket of ours, so it is left alone: move it away, or set another path")]
    NotOurs(PathBuf),
    #[error("{dir}: {problem}: others could put their own socket in the place of ours")]
    UnsafeDirectory { dir: PathBuf, problem: &'static str },
}

/// A bound socket. Its file goes with it, where it is the daemon's own.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Of the file that goes with it.
    inode: Option<u64>,
    places: Places,
}

impl Listener {
    /// Binds in a directory that nobody else can enter, sets mode and group there, and only then moves the socket to its path:
    /// at no moment can someone connect who may not. A stale socket is replaced only where it is ours and nobody listens.
    pub fn bind(socket: &Socket) -> Result<Self, BindError> {
        let path = &socket.path;
        let fails = |error| BindError::Io { path: path.clone(), error };
        let dir = path.parent().ok_or_else(|| BindError::NotOurs(path.clone()))?;
        prepare_directory(dir)?;
        // Two daemons that start at one moment would both find nobody, and the later would take the path from the earlier.
        let _one_at_a_time = lock(dir).map_err(fails)?;
        check_stale(path)?;
        let private = Private::below(dir).map_err(fails)?;
        let bound = private.0.join("s");
        if bound.as_os_str().len().max(path.as_os_str().len()) > 107 {
            return Err(BindError::TooLong(path.clone()));
        }
        let listener = listen(&bound).map_err(fails)?;
        if let Some(group) = socket.group {
            chown(&bound, None, Some(group)).map_err(fails)?;
        }
        std::fs::set_permissions(&bound, std::fs::Permissions::from_mode(socket.mode)).map_err(fails)?;
        let inode = std::fs::symlink_metadata(&bound).map_err(fails)?.ino();
        std::fs::rename(&bound, path).map_err(fails)?;
        Ok(Self::new(listener, path.clone(), Some(inode)))
    }

    pub(super) fn new(listener: UnixListener, path: PathBuf, inode: Option<u64>) -> Self {
        Self { listener, path, inode, places: Places::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says at any time how many are connected.
    pub fn connections(&self) -> Connections {
        self.places.connections()
    }

    /// Accepts and attests, within the room there is, until `stop` resolves. A caller that cannot be attested gets no connection; `known`
    /// says who could be one of ours, for whom places are kept. Who was accepted before the stop is still served, and who was not waits for
    /// the next daemon where systemd has the socket.
    pub fn incoming(
        self,
        attestor: Attestor,
        room: Room,
        known: impl Fn(&Peer) -> bool + Send + Sync + 'static,
        stop: impl Future<Output = ()>,
    ) -> impl Stream<Item = io::Result<LocalConnection>> {
        let permits = Arc::new(Semaphore::new(room.connections));
        let places = self.places.clone();
        let known: Arc<Known> = Arc::new(known);
        let accepted = futures_util::stream::unfold((self, permits), |(this, permits)| async move {
            // A permit before accept: what is over the bound waits in the kernel's queue.
            let permit = permits.clone().acquire_owned().await.ok()?;
            let accepted = this.accept().await;
            // Whoever connects again and again gets one turn among all who are served.
            tokio::task::yield_now().await;
            Some(((accepted, permit), (this, permits)))
        });
        let admitted = accepted
            .take_until(stop)
            .map(move |(stream, permit)| admit(stream, attestor.clone(), places.clone(), room, known.clone(), permit));
        // Several at once, so that one whose program must be read first does not hold up the others.
        admitted.buffer_unordered(ADMISSIONS).filter_map(|admitted| async { admitted.map(Ok) })
    }

    pub(super) async fn accept(&self) -> tokio::net::UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// A connection over a Unix socket, and its share of the room.
pub type LocalConnection = Connection<PeerStream, Guest, (Place, OwnedSemaphorePermit)>;

/// Says of a caller whether it could be one of ours.
type Known = dyn Fn(&Peer) -> bool + Send + Sync;

/// Callers that are being attested at one time.
const ADMISSIONS: usize = 16;

/// A listening socket on which the kernel names the sender of each message, from the first connection on.
fn listen(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    PeerStream::prepare(&socket)?;
    listen(&socket, 1024)?;
    UnixListener::from_std(socket.into())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| Some(found.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Attests a caller and finds it a place; `None`, and a line in the log, where that cannot be.
async fn admit(
    stream: tokio::net::UnixStream,
    attestor: Attestor,
    places: Places,
    room: Room,
    known: Arc<Known>,
    permit: OwnedSemaphorePermit,
) -> Option<LocalConnection> {
    let stream = match PeerStream::attest(stream, &attestor).await {
        Ok(stream) => stream,
        Err(refusal) => {
            warn!(reason = refusal.reason(), "refused a connection: {refusal}");
            return None;
        }
    };
    let peer = stream.caller().peer();
    let (pid, unit) = (peer.process.pid, peer.unit.as_ref().map(|unit| &*unit.name));
    let place = match places.take(peer, room, known(peer)) {
        Ok(place) => place,
        Err(full) => {
            if let Some(times) = full.times {
                warn!(pid, uid = peer.uid, unit, times, "refused a connection: {}", full.why);
            }
            return None;
        }
    };
    debug!(pid, uid = peer.uid, unit, "connected");
    if let Some(unseen) = stream.caller().unseen_executable() {
        debug!(pid, "its executable is not known: {unseen}");
    }
    let guest = Guest { caller: Attested::Process(stream.caller().clone()), pace: Arc::default() };
    Some(Connection::new(stream, guest.pace.clone(), guest, None, (place, permit)))
}

/// Holds the directory for us until dropped.
fn lock(dir: &Path) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    let dir = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&dir, FlockOperation::LockExclusive)?;
    Ok(dir)
}

/// Makes the directory where there is none, and refuses one that is not safe.
fn prepare_directory(dir: &Path) -> Result<(), BindError> {
    let fails = |error| BindError::Io { path: dir.to_path_buf(), error };
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(fails)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(fails)?;
    }
    check_directory(dir)
}

/// Refuses a directory in which others could move our socket away.
pub(super) fn check_directory(dir: &Path) -> Result<(), BindError> {
    let fails = |error| BindError::Io { path: dir.to_path_buf(), error };
    let found = std::fs::metadata(dir).map_err(fails)?;
    let refuse = |problem| Err(BindError::UnsafeDirectory { dir: dir.to_path_buf(), problem });
    if !found.is_dir() {
        return refuse("it is not a directory");
    }
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    match open_to_others(dir).map_err(fails)? {
        None => Ok(()),
        Some(_) if found.mode() & 0o022 != 0 => refuse("others may write to it (chmod go-w)"),
        Some(_) => refuse("others may write to a directory above it (chmod go-w)"),
    }
}

fn check_stale(path: &Path) -> Result<(), BindError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io { path: path.to_path_buf(), error }),
    };
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(BindError::NotOurs(path.to_path_buf()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(BindError::Io { path: path.to_path_buf(), error }),
        Ok(_) => Err(BindError::InUse(path.to_path_buf())),
    }
}

/// A directory of ours alone, removed when done with.
struct Private(PathBuf);

impl Private {
    fn below(dir: &Path) -> io::Result<Self> {
        for attempt in 0.. {
            let path = dir.join(format!(".b{}{attempt}", std::process::id()));
            let made = rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU);
            match made {
                Ok(()) => return Ok(Self(path)),
                Err(rustix::io::Errno::EXIST) if attempt < 100 => {}
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends by returning")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.join("s"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

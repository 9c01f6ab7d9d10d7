//! Who is at the other end of a connection: an accepted Unix socket becomes a [`Peer`], and stays proven; and so does a TLS connection,
//! by its certificate and its tokens ([`remote`]).
//!
//! A process number proves nothing by itself: the process that connected may be gone and its number given to another. So everything
//! hangs on the *pidfd* that the kernel made when the peer connected ([`SO_PEERPIDFD`]). What is read by number is read first, and
//! that the pidfd's process still lives is looked at last: a number cannot be used again before its process is gone.
//!
//! * [`Caller`]: the attested caller, with what is needed to look again at each hand-out ([`Caller::recheck`]).
//! * [`Attested`]: a caller, whichever way it came.
//! * [`PeerStream`]: the connection itself; it reads only what the attested process itself has written.
//! * [`Asker`]: systemd, which asks for a unit's credential.
//! * `unit`: from a cgroup's path to the systemd unit; pure. `cgroup`: from a cgroup's id to that path. `invocation`: which start of the unit.
//! * `executable`: the program file and its digest, opt-in, as it takes a capability that can read every process's memory.
//! * `kernel`: the calls that no crate offers, and nearly all of this module's `unsafe`.
//!
//! [`SO_PEERPIDFD`]: https://git.kernel.org/torvalds/c/7b26952a91cf65ff1cc867a2382a8964d8c0ee7d
//! [`Peer`]: crate::peer::Peer

use std::{fmt, os::fd::AsFd, os::unix::net::UnixStream, sync::Arc};

mod attested;
mod caller;
mod cgroup;
mod credential;
mod executable;
mod ids;
mod invocation;
mod kernel;
mod refusal;
mod remote;
mod stream;
mod unit;
mod witness;

pub use attested::Attested;
pub use caller::Caller;
pub use credential::{Asker, NotSystemd};
pub use executable::Unseen;
pub use ids::SeenIds;
pub use refusal::Refusal;
pub use remote::{
    BadToken, Desk, IssuedToken, IssuerOptions, Issuers, KeySource, NewToken, Tls, TlsFiles, Tokens, Unproven, Visitor, Wire,
    WorkloadApi, is_workload_id,
};
pub use stream::PeerStream;
pub use unit::BadPath;

/// What the operator chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Look at the caller's program file. Across users this needs `CAP_SYS_PTRACE`, which can read every process's memory too.
    pub executable: bool,
    /// Go on where the kernel can name a caller by a number only ([`Method::Weak`]).
    pub allow_weak: bool,
}

/// How this kernel lets a caller be proven. Found by trying, never from a version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `SO_PEERPIDFD` and `PIDFD_GET_INFO` (Linux 6.13).
    PidfdCgroup,
    /// `SO_PEERPIDFD` and `/proc` (Linux 6.5).
    PidfdProc,
    /// `SO_PEERCRED`, `pidfd_open` and `/proc` (Linux 5.3).
    Weak,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PidfdCgroup => "pidfd+cgroup",
            Self::PidfdProc => "pidfd+proc",
            Self::Weak => "weak",
        })
    }
}

impl Method {
    /// What it proves, in a sentence for the operator.
    pub fn proves(self) -> &'static str {
        match self {
            Self::PidfdCgroup => {
                "The kernel names the process that connected, its user and its cgroup through a handle that is never given to \
                 another process; /proc is not needed."
            }
            Self::PidfdProc => {
                "The kernel names the process that connected through a handle that is never given to another process; its user and \
                 cgroup come from /proc, and count only if the process outlived the reading."
            }
            Self::Weak => {
                "The kernel names a process number only: a caller that died between connecting and being accepted may be taken for \
                 a later process of that number and user."
            }
        }
    }
}

/// Turns connections into [`Caller`]s. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attestor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    method: Method,
    /// A pidfd's inode number names a process for the life of the boot (Linux 6.9 on).
    unique_pidfds: bool,
    tree: cgroup::Tree,
    executables: executable::Executables,
}

impl Attestor {
    /// Tries what this kernel and this sandbox allow, once.
    ///
    /// # Errors
    /// [`Refusal::Weak`] where callers could be proven by number only and the operator did not allow that.
    pub fn new(settings: Settings) -> Result<Self, Refusal> {
        let (ours, _theirs) = UnixStream::pair().map_err(|e| Refusal::from_io("socketpair", &e))?;
        let method = match kernel::peer_pidfd(ours.as_fd()) {
            Ok(pidfd) => match kernel::process_info(pidfd.as_fd()) {
                Ok(_) => Method::PidfdCgroup,
                Err(_) => Method::PidfdProc,
            },
            Err(_) => Method::Weak,
        };
        Self::with_method(settings, method)
    }

    /// As [`new`](Self::new) would on an older kernel.
    #[doc(hidden)]
    pub fn with_method(settings: Settings, method: Method) -> Result<Self, Refusal> {
        if method == Method::Weak && !settings.allow_weak {
            return Err(Refusal::Weak);
        }
        // A /proc of another pid namespace has other processes under the same numbers.
        let own_proc = std::fs::read_link("/proc/self").is_ok_and(|link| *link == *std::process::id().to_string());
        if (method != Method::PidfdCgroup || settings.executable) && !own_proc {
            return Err(Refusal::NoProc);
        }
        // The first process is there at all times: who does not see it sees no other user's either (hidepid of proc(5)).
        if method != Method::PidfdCgroup && !std::path::Path::new("/proc/1").exists() {
            return Err(Refusal::HiddenProc);
        }
        let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .map_err(|e| Refusal::kernel("pidfd_open", e))?;
        Ok(Self(Arc::new(Inner {
            settings,
            method,
            unique_pidfds: kernel::on_pidfs(pidfd.as_fd()),
            tree: cgroup::Tree::find(own_proc),
            executables: executable::Executables::default(),
        })))
    }

    pub fn method(&self) -> Method {
        self.0.method
    }

    pub fn settings(&self) -> Settings {
        self.0.settings
    }

    /// Where cgroups are looked up. `None`: this host shows no cgroup2 tree, so no caller can be proven to be in a unit.
    pub fn cgroups(&self) -> Option<&std::path::Path> {
        self.0.tree.mount()
    }
}

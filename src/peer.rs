//! Who is calling, as facts from the kernel or the TLS handshake, never from the caller's own words.

use std::{fmt, path::PathBuf, sync::Arc};

mod remote;
pub use remote::{Authority, Certificate, Jwt, Remote, Token};

/// A caller. Made only by [`attest`](crate::attest); everything that decides works on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The process, by number and by an identity that is never used twice.
    pub process: Process,
    /// Effective user id at connect.
    pub uid: u32,
    /// Effective group id at connect.
    pub gid: u32,
    /// Supplementary groups at connect.
    pub groups: Vec<u32>,
    /// The systemd unit that the process runs in.
    pub unit: Option<Unit>,
    /// The program file, where the daemon may read it (`systemd/executable-attestation.conf` says what that takes).
    pub executable: Option<Executable>,
    /// Set where it called over the network: then it is no process of this host, and what stands above says nothing
    /// ([`Peer::over_network`]).
    pub remote: Option<Arc<Remote>>,
}

/// No account: what the kernel takes for "none" (`(uid_t)-1`, setresuid(2)), so no process ever has it.
const NO_ACCOUNT: u32 = u32::MAX;

/// Whom a caller counts for, as long as it is not proven to be a tool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seat {
    /// A user of this host, in a unit: a process is no measure, as one user can start many.
    User { uid: u32, unit: Option<String> },
    /// Who was proven to call over the network.
    Remote(String),
}

impl Peer {
    /// A caller over the network. `connection` is a number that no other connection has: a session belongs to it as one of this host
    /// belongs to a process.
    pub fn over_network(remote: Remote, connection: u64) -> Self {
        Self {
            process: Process { pid: 0, pidfd_inode: connection },
            uid: NO_ACCOUNT,
            gid: NO_ACCOUNT,
            groups: Vec::new(),
            unit: None,
            executable: None,
            remote: Some(Arc::new(remote)),
        }
    }

    /// Is it the same caller, and not only on the same connection? Over one that several share, each proves itself by its own token.
    pub fn is(&self, other: &Self) -> bool {
        self.process == other.process
            && self.remote.as_ref().map(|one| one.proof()) == other.remote.as_ref().map(|one| one.proof())
    }

    /// Which person this is, as far as it is proven: on this host a user, wherever it runs.
    pub fn person(&self) -> String {
        match &self.remote {
            Some(remote) => remote.seat(),
            None => format!("uid {}", self.uid),
        }
    }

    pub fn seat(&self) -> Seat {
        match &self.remote {
            Some(remote) => Seat::Remote(remote.seat()),
            None => Seat::User { uid: self.uid, unit: self.unit.as_ref().map(|unit| unit.name.clone()) },
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid, unit: Some(unit) } => write!(f, "uid {uid} in {unit}"),
            Self::User { uid, unit: None } => write!(f, "uid {uid}"),
            Self::Remote(subject) => f.write_str(subject),
        }
    }
}

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// In the daemon's pid namespace. Numbers are used again; do not compare by this alone.
    pub pid: u32,
    /// Inode number of the process's pidfd: unique for the life of the boot (Linux 6.9 on). 0 where the kernel has none.
    pub pidfd_inode: u64,
}

/// A systemd unit, worked out from the caller's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Such as `mcp-billing.service`. Never `user@UID.service` or `session-N.scope`: these prove a user only, and are left out.
    pub name: String,
    /// Set apart each start of a unit: systemd's invocation id, 32 hex digits. `None` where the cgroup does not carry one.
    pub invocation: Option<String>,
    /// Inode number of the unit's cgroup directory. 0 where systemd asks for the unit from outside it.
    pub cgroup: u64,
}

/// The program file of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    pub path: PathBuf,
    pub sha256: Sha256,
}

/// A SHA-256 digest, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Sha256 {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a SHA-256 digest is 64 hex digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let hex = |b: u8| (b as char).to_digit(16).ok_or(wrong);
            *byte = (hex(pair[0])? << 4 | hex(pair[1])?) as u8;
        }
        Ok(Self(digest))
    }
}

/// Someone who can say at any moment whether the caller is still who it was when it connected. What is long-lived is checked
/// again at each hand-out, not at accept alone.
pub trait Witness: Send + Sync {
    /// Who the caller was found to be.
    fn peer(&self) -> &Peer;

    /// Asks the kernel again.
    fn recheck(&self) -> Result<(), Changed>;
}

/// The caller is no longer who it was. In the operator's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the caller changed since it connected: {0}")]
pub struct Changed(pub String);

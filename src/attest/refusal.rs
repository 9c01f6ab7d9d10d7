//! Why a caller is turned away.

use std::io;

use rustix::io::Errno;

use super::unit::BadPath;

/// Why a caller is turned away, in the operator's words. Carries names and numbers, never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the caller's process has exited")]
    Exited,
    #[error("the caller is outside the daemon's pid namespace, where the kernel cannot name it")]
    OtherNamespace,
    #[error("the caller's {0} changed after it connected")]
    Changed(Fact),
    #[error("the caller's cgroup cannot be placed: {0}")]
    Cgroup(#[from] BadPath),
    #[error("the caller's cgroup is not in the tree that the daemon sees")]
    CgroupNotFound,
    #[error(
        "the message was written by process {sender}, not by process {attested} which connected: the socket was passed on or inherited"
    )]
    OtherSender { attested: u32, sender: u32 },
    #[error("the message does not carry the credentials of its sender")]
    NoSender,
    #[error("this kernel names callers by process number only, which another process can come to have (Linux 6.5 does better)")]
    Weak,
    #[error("/proc does not show the daemon's own pid namespace")]
    NoProc,
    #[error(
        "/proc hides other users' processes, and before Linux 6.13 callers cannot be told without it (ProtectProc=default in the \
         unit: systemd/kernel-before-6.13.conf)"
    )]
    HiddenProc,
    #[error("{call} failed: {error}")]
    Kernel { call: &'static str, error: Errno },
}

/// A fact that must stay as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    User,
    Group,
    Cgroup,
    /// The start of its unit.
    Run,
    Executable,
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::User => "user id",
            Self::Group => "group id",
            Self::Cgroup => "cgroup",
            Self::Run => "run of its unit (systemd's invocation)",
            Self::Executable => "executable",
        })
    }
}

impl Refusal {
    /// A word for machines, that stays the same: for audit records and error details.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exited => "CALLER_EXITED",
            Self::OtherNamespace => "CALLER_IN_OTHER_NAMESPACE",
            Self::Changed(_) => "CALLER_CHANGED",
            Self::Cgroup(_) | Self::CgroupNotFound => "CALLER_CGROUP",
            Self::OtherSender { .. } => "OTHER_SENDER",
            Self::NoSender => "NO_SENDER",
            Self::Weak | Self::NoProc | Self::HiddenProc => "ATTESTATION_UNAVAILABLE",
            Self::Kernel { .. } => "ATTESTATION_FAILED",
        }
    }

    /// What a failed call means: the kernel says that a process is gone in more than one way.
    pub(super) fn kernel(call: &'static str, error: Errno) -> Self {
        match error {
            Errno::SRCH => Self::Exited,
            Errno::REMOTE => Self::OtherNamespace,
            _ => Self::Kernel { call, error },
        }
    }

    pub(super) fn from_io(call: &'static str, error: &io::Error) -> Self {
        Self::kernel(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, refusal)
    }
}

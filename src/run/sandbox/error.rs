//! Why there is no sandbox, and what to do about it.

use std::{io, path::PathBuf};

use rustix::io::Errno;

/// Why a sandbox cannot be had. `Display` says what happened, [`Error::hint`] what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the tool's sandbox cannot be had: this kernel has no Landlock")]
    NoLandlock,
    #[error("the tool's sandbox cannot be had: this kernel has Landlock, but it was not enabled at boot")]
    LandlockOff,
    #[error("the tool's sandbox cannot be had: Landlock of this kernel (version {abi}) knows no TCP ports")]
    LandlockOld { abi: u32 },
    #[error("the tool's sandbox cannot be had: this kernel has no seccomp filters")]
    NoSeccomp,
    #[error("the tool's sandbox cannot be had: {call}: {errno}")]
    Kernel { call: &'static str, errno: Errno },
    #[error("the tool's sandbox lists {}: {error}", path.display())]
    Path { path: PathBuf, error: io::Error },
    #[error("the tool's sandbox lists {}, which is not an absolute path", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("the tool's sandbox lists the port {port}, which does not exist")]
    Port { port: u32 },
    #[error("the tool's sandbox limits processes, and that limit does not bind root")]
    ProcessesOfRoot,
    #[error("the tool's sandbox does not let it read its own program, {}", path.display())]
    Program { path: PathBuf },
}

impl Error {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoLandlock => {
                "it takes Linux 6.7 or newer, built with CONFIG_SECURITY_LANDLOCK=y; or take `sandbox` out of the tool's policy"
            }
            Self::LandlockOff => "add `landlock` to the list after `lsm=` on the kernel's command line, or to CONFIG_LSM",
            Self::LandlockOld { .. } => "run Linux 6.7 or newer, or take `sandbox` out of the tool's policy",
            Self::NoSeccomp => "the kernel must be built with CONFIG_SECCOMP_FILTER=y",
            Self::Kernel { errno: Errno::PERM, .. } => {
                "in a container, its own seccomp profile must allow the landlock_* calls and seccomp"
            }
            Self::Kernel { .. } => "`valetkey doctor` says what this kernel gives",
            Self::Path { .. } => "make it, or take it out of the tool's policy",
            Self::NotAbsolute { .. } => "write the whole path in the tool's policy",
            Self::Port { .. } => "ports are 1 to 65535",
            Self::ProcessesOfRoot => "run the tool as a user of its own, or limit its unit with TasksMax=",
            Self::Program { .. } => "add the directory it is installed in to `read` in the tool's policy",
        }
    }
}

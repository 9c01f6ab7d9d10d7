//! Why a secret cannot be delivered as policy says, and what to do about it.

use rustix::io::Errno;

/// Why there is no file or descriptor. `Display` says what happened, [`Error::hint`] what to do. Never holds a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("secrets cannot be delivered as files: there is neither {} nor a home directory to mount them at", super::DIRECTORY)]
    NoPlace,
    #[error("secrets cannot be delivered as files: this host gives no private file system ({step}: {errno})")]
    NoNamespace { step: &'static str, errno: Errno },
    #[error("a secret cannot be delivered as a file: `{variable}` cannot be a file's name")]
    Name { variable: String },
    #[error("a secret cannot be delivered as a descriptor: {0}")]
    Descriptor(Errno),
    #[error("the secret for {variable} could not be put where the tool reads it: {errno}")]
    Write { variable: String, errno: Errno },
}

impl Error {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPlace => "make the directory /run/valetkey-files, or set HOME; or deliver with `fd` or `env`",
            Self::NoNamespace { errno: Errno::NOSPC, .. } => {
                "user.max_user_namespaces (sysctl) is used up or 0: raise it, or deliver with `fd` or `env`"
            }
            Self::NoNamespace { .. } => {
                "it takes root or unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1; \
                 kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for valetkey); or deliver with `fd` or `env`"
            }
            Self::Name { .. } => "give the variable another name in the tool's policy",
            Self::Descriptor(_) => "deliver it with `env`",
            Self::Write { .. } => "is there memory left? a secret that was sealed for good cannot be written again",
        }
    }
}

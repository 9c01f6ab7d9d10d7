//! What is to be started.

use std::{
    ffi::{CStr, CString},
    fmt,
    os::fd::{OwnedFd, RawFd},
};

use zeroize::Zeroizing;

/// A program, and all that its process is to have.
pub struct Start {
    /// The file to execute, found already ([`super::find()`]).
    pub program: CString,
    /// Its arguments, the first of which is its name.
    pub arguments: Vec<CString>,
    /// Its whole environment.
    pub environment: Vec<Variable>,
    /// Descriptors beside 0, 1 and 2, and the numbers under which it finds them.
    pub keep: Vec<(OwnedFd, RawFd)>,
    pub confinement: Option<Confinement>,
    /// Standard input passes through the launcher, so that it outlives a restart. Otherwise the tool inherits it.
    pub relay_input: bool,
    /// The client that closes standard input wants the tool gone, as MCP has it. Holds where both ends of the conversation
    /// are pipes or sockets. Not for a program that works on after it has read its input.
    pub ends_with_input: bool,
}

/// What the process gives up after it is born and before it becomes the tool. Data, not a function: the process that
/// applies it is the guardian's child, and the guardian was made before anything was known about the tool.
#[derive(Default)]
pub struct Confinement {
    /// PR_SET_NO_NEW_PRIVS(2const). Landlock and seccomp need it, unless the launcher is privileged.
    pub no_new_privileges: bool,
    /// None in any set, also for root.
    pub no_capabilities: bool,
    /// A Landlock ruleset, for landlock_restrict_self(2).
    pub landlock: Option<OwnedFd>,
    /// A user namespace to enter first. All capabilities that this gives are dropped.
    pub user_namespace: Option<OwnedFd>,
    /// A mount namespace to enter then, and the working directory in it.
    pub mount_namespace: Option<OwnedFd>,
    pub directory: CString,
    /// A seccomp filter: `struct sock_filter` after `struct sock_filter`, eight bytes each, as seccomp(2) takes them.
    pub seccomp: Vec<[u8; 8]>,
    pub limits: Vec<Limit>,
}

/// See setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// A variable of an environment. Wiped when dropped, and not to be printed.
pub struct Variable(Zeroizing<Vec<u8>>);

impl Variable {
    /// None where it cannot be one: a name that is empty or holds an equals sign, a zero byte in either.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let possible = !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0);
        possible.then(|| {
            // As large as it will be: a vector that grows leaves a copy behind.
            let mut text = Zeroizing::new(Vec::with_capacity(name.len() + value.len() + 2));
            [name, b"=", value, &[0]].into_iter().for_each(|part| text.extend_from_slice(part));
            Self(text)
        })
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variable")
    }
}

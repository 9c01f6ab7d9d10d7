//! What is to be started.

use std::{
    ffi::{CStr, CString},
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use zeroize::Zeroizing;

/// A program, and all that its process is to have.
pub struct Start {
    /// The file to execute, found already ([`super::find`]).
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
    /// Where its files are, entered first.
    pub namespaces: Option<Namespaces>,
    /// All of them, from all five sets (capabilities(7)).
    pub drop_capabilities: bool,
    /// PR_SET_NO_NEW_PRIVS(2const). The next two need it, unless the launcher is privileged.
    pub no_new_privileges: bool,
    /// A Landlock ruleset, for landlock_restrict_self(2).
    pub landlock: Option<OwnedFd>,
    /// A seccomp filter: `struct sock_filter` after `struct sock_filter`, eight bytes each, as seccomp(2) takes them.
    pub seccomp: Vec<[u8; 8]>,
    /// `RLIMIT_*` and the new limit, soft and hard. See setrlimit(2).
    pub limits: Vec<(u32, u64, u64)>,
}

/// Namespaces that were made already, for setns(2).
pub struct Namespaces {
    /// None, where the launcher may enter the other without. Whoever enters it has every capability in it, so they are dropped.
    pub user: Option<OwnedFd>,
    pub mount: OwnedFd,
    /// The working directory, which is lost on the way.
    pub directory: CString,
}

impl Confinement {
    /// In the order in which they follow what else a start hands over.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let namespaces = self.namespaces.iter().flat_map(|spaces| spaces.user.iter().chain([&spaces.mount]));
        namespaces.chain(&self.landlock).map(AsFd::as_fd)
    }
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

//! Secrets as files in memory: `file`, a path in a file system that the tool alone has, and `fd`, a descriptor of its own.
//!
//! | | `file` | `fd` |
//! |---|---|---|
//! | the variable says | `/run/valetkey-files/NAME` | `/proc/self/fd/N` |
//! | lives in | ramfs in a private mount namespace, read-only | a memfd, sealed |
//! | survives being started through npx, uvx, a shell | yes | through a shell; Node and Python close it in their children |
//! | a new version | appears whole (rename) | is written in place |
//! | may be swapped out | no | yes |
//! | needs | root, or unprivileged user namespaces | nothing |
//!
//! Both are gone with the last process that has them, and neither leaves anything on disk. Other users cannot read either. Processes
//! of the same user can, as they can read the tool's memory: through `/proc/PID/root` and `/proc/PID/fd`.
//!
//! What a user namespace changes for a tool: files of other users show as nobody's, set-user-ID programs (sudo) run without their
//! power, groups can no longer be changed. The user's own number, groups and access stay as they are. Root gets a mount namespace
//! only, and none of that.
//!
//! See user_namespaces(7), mount_namespaces(7), memfd_create(2) and F_ADD_SEALS(2const).

mod descriptor;
mod error;
mod keeper;
mod namespace;

use std::{os::fd::BorrowedFd, path::Path};

use super::process::Confinement;
use crate::proto::v1::{self, delivered::To};
use descriptor::Descriptor;
pub use error::Error;
use namespace::Namespace;

/// Where files are delivered, if the directory is there: packages make it. Not below the daemon's own, which goes when that stops; and a
/// mount goes with its directory, in every namespace.
pub const DIRECTORY: &str = "/run/valetkey-files";
/// Below the user's home, where it is not. It is made, and stays empty: files are only ever in what is mounted over it.
pub const DIRECTORY_AT_HOME: &str = ".local/state/valetkey/files";

/// What a tool is given as files. It outlives restarts of the tool.
pub struct Delivery {
    files: Option<Namespace>,
    given: Vec<Given>,
}

struct Given {
    secret: String,
    variable: String,
    path: String,
    way: Way,
}

enum Way {
    /// The name in the namespace's directory is that of the variable.
    File,
    Fd(Descriptor),
}

impl Delivery {
    /// Makes room for each secret that is to be a file or a descriptor. No values yet: call this *before* any is fetched, because a
    /// process that can be looked at is forked from this one. `rewritable`: there may be a second [`Delivery::write`].
    pub fn prepare(wanted: &[v1::Delivered], rewritable: bool, home: Option<&Path>) -> Result<Self, Error> {
        let any_file = wanted.iter().any(|one| matches!(one.to, Some(To::File(_))));
        let files = if any_file { Some(Namespace::make(&namespace::place(home)?)?) } else { None };
        let given = wanted.iter().filter_map(|one| Given::prepare(one, files.as_ref(), rewritable).transpose());
        let given = given.collect::<Result<_, _>>()?;
        Ok(Self { files, given })
    }

    /// Puts a value where the tool finds it; gives whether this secret is one that is delivered here. Nothing of it is kept in this
    /// process.
    pub fn write(&self, secret: &str, value: &[u8]) -> Result<bool, Error> {
        let mut found = false;
        for given in self.given.iter().filter(|given| given.secret == secret) {
            match (&given.way, &self.files) {
                (Way::Fd(descriptor), _) => descriptor.write(value),
                (Way::File, Some(files)) => files.write(&given.variable, value),
                (Way::File, None) => Ok(()),
            }
            .map_err(|errno| Error::Write { variable: given.variable.clone(), errno })?;
            found = true;
        }
        Ok(found)
    }

    /// The tool's variables, and what they say.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|given| (given.variable.as_str(), given.path.as_str()))
    }

    /// The descriptors that the tool gets, which must keep their numbers. From their start, for whoever reads them as descriptors: the
    /// tool before may have.
    pub fn keep(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.given.iter().filter_map(|given| match &given.way {
            Way::Fd(descriptor) => Some(descriptor.of_the_tool()),
            Way::File => None,
        })
    }

    /// Has the tool go where its files are.
    pub fn confine(&self, confinement: &mut Confinement) -> std::io::Result<()> {
        self.files.as_ref().map_or(Ok(()), |files| files.confine(confinement))
    }

    /// The directory with the files, for a sandbox to allow.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.files.as_ref().map(Namespace::directory)
    }
}

impl Given {
    /// None: it is delivered in some other way.
    fn prepare(wanted: &v1::Delivered, files: Option<&Namespace>, rewritable: bool) -> Result<Option<Self>, Error> {
        let (variable, path, way) = match (&wanted.to, files) {
            (Some(To::File(variable)), Some(files)) => (variable, files.path_of(variable)?, Way::File),
            (Some(To::Fd(variable)), _) => {
                let descriptor = Descriptor::make(rewritable).map_err(Error::Descriptor)?;
                (variable, descriptor.path(), Way::Fd(descriptor))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { secret: wanted.secret.clone(), variable: variable.clone(), path, way }))
    }
}

/// The tool is gone when this goes: what its secrets were in is overwritten before the kernel takes it back. What is sealed is not.
impl Drop for Delivery {
    fn drop(&mut self) {
        for given in &self.given {
            match (&given.way, &self.files) {
                (Way::Fd(descriptor), _) => descriptor.wipe(),
                (Way::File, Some(files)) => files.wipe(&given.variable),
                (Way::File, None) => {}
            }
        }
    }
}

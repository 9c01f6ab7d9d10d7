//! A file system that only the tool and its children have: ramfs, which is never swapped out, in a mount namespace of their own.
//!
//! A short-lived process makes the namespace ([`keeper`]) and hands over descriptors of it, so that nothing about the launcher itself
//! changes. The tool sees a read-only mount. The launcher writes through another mount of the same file system, which is in no
//! namespace at all.

use std::{
    env,
    ffi::{CString, OsStr},
    fs::{DirBuilder, read_link},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use super::{
    DIRECTORY, DIRECTORY_AT_HOME, Error,
    descriptor::{overwrite, write_all},
    keeper,
};
use crate::run::process::Confinement;

pub(super) struct Namespace {
    /// None: the launcher may make mount namespaces itself.
    user: Option<OwnedFd>,
    mount: OwnedFd,
    /// Of the mount that can be written.
    directory: OwnedFd,
    /// As the tool sees it.
    path: PathBuf,
    /// The launcher's working directory, which entering a mount namespace would change.
    working_directory: CString,
}

/// The directory to mount at.
pub(super) fn place(home: Option<&Path>) -> Result<PathBuf, Error> {
    if let Ok(path) = Path::new(DIRECTORY).canonicalize() {
        return Ok(path);
    }
    let path = home.filter(|home| home.is_absolute()).ok_or(Error::NoPlace)?.join(DIRECTORY_AT_HOME);
    // What went wrong, canonicalize says.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    path.canonicalize().map_err(|_| Error::NoPlace)
}

impl Namespace {
    pub(super) fn make(at: &Path) -> Result<Self, Error> {
        let failed = |step| move |errno| Error::NoNamespace { step, errno };
        let mount_point = c_string(at.as_os_str()).map_err(failed("its path"))?;
        let here = env::current_dir().or_else(|_| read_link("/proc/self/cwd"));
        let working_directory = c_string(here.unwrap_or_else(|_| "/".into()).as_os_str()).map_err(failed("working directory"))?;
        let keeper::Made { user, mount, directory } = keeper::ask(&mount_point)?;
        Ok(Self { user, mount, directory, path: at.to_owned(), working_directory })
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What the process that becomes the tool must enter.
    pub(super) fn confine(&self, confinement: &mut Confinement) -> std::io::Result<()> {
        confinement.user_namespace = self.user.as_ref().map(OwnedFd::try_clone).transpose()?;
        confinement.mount_namespace = Some(self.mount.try_clone()?);
        confinement.directory.clone_from(&self.working_directory);
        Ok(())
    }

    pub(super) fn path_of(&self, name: &str) -> Result<String, Error> {
        let bad = || Error::Name { variable: name.to_owned() };
        let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !fits {
            return Err(bad());
        }
        self.path.join(name).into_os_string().into_string().map_err(|_| bad())
    }

    /// Whoever opens the file sees the old version whole, or the new one whole.
    pub(super) fn write(&self, name: &str, value: &[u8]) -> Result<(), Errno> {
        /// No variable has such a name.
        const NEW: &str = ".new";
        let _ = fs::unlinkat(&self.directory, NEW, fs::AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.directory, NEW, flags, Mode::RUSR | Mode::WUSR)?;
        write_all(file.as_fd(), value)?;
        fs::renameat(&self.directory, NEW, &self.directory, name)
    }

    pub(super) fn wipe(&self, name: &str) {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(file) = fs::openat(&self.directory, name, flags, Mode::empty()) {
            overwrite(file.as_fd());
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::INVAL)
}

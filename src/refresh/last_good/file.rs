//! The file of the copy: the daemon's own, readable by nobody else, in a directory where nobody else can put another in its place.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use crate::source::{
    directory::open_to_others,
    sealed_file::replace::{Replacing, sync_folder},
};

/// Far more than all the secrets of a host.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Makes a directory of such files, for its owner alone.
pub fn take_folder(path: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| format!("{}: {error}", path.display()))
}

/// What is in it. `None` where there is none; in words, why it is not to be relied on.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Not blocking: a FIFO in its place must not hang the daemon.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err("is a link, and not what the daemon wrote".into()),
        Err(error) => return Err(unreadable(error)),
    };
    check_directory(path)?;
    // Of the open file, so that what is checked is what is read.
    let facts = file.metadata().map_err(unreadable)?;
    match () {
        () if !facts.is_file() => return Err("is not a file".into()),
        () if facts.uid() != rustix::process::geteuid().as_raw() => return Err("belongs to another user".into()),
        () if facts.mode() & 0o077 != 0 => return Err(format!("is open to others (mode {:04o})", facts.mode() & 0o7777)),
        () if facts.len() > LARGEST => return Err(format!("is larger than {LARGEST} bytes")),
        () => {}
    }
    let mut sealed = Vec::with_capacity(facts.len() as usize + 1);
    file.take(LARGEST).read_to_end(&mut sealed).map_err(unreadable)?;
    Ok(Some(sealed))
}

/// Replaces it as a whole, and waits until that is on disk.
pub fn write(path: &Path, sealed: &[u8]) -> Result<(), String> {
    check_directory(path)?;
    if sealed.len() as u64 > LARGEST {
        return Err(format!("it would be larger than {LARGEST} bytes"));
    }
    let written = Replacing::begin(path.to_owned()).and_then(|replacing| {
        let staged = replacing.stage(|file| file.write_all(sealed))?;
        replacing.put(&staged).inspect_err(|_| _ = fs::remove_file(&staged))?;
        replacing.sync()
    });
    written.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => format!("another process writes {} now", path.display()),
        _ => format!("{}: {error}", path.display()),
    })
}

/// Takes it away, and waits until that is on disk.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    }
}

/// Who may change the names in the directory could put an older copy in the place of this one.
fn check_directory(path: &Path) -> Result<(), String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let fails = |error: std::io::Error| format!("{}: {error}", directory.display());
    let refuse = |problem: &str| Err(format!("the directory {} {problem}", directory.display()));
    let facts = fs::metadata(directory).map_err(fails)?;
    if facts.uid() != 0 && facts.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    match open_to_others(directory).map_err(fails)? {
        None => Ok(()),
        Some(_) if facts.mode() & 0o022 != 0 => refuse("can be written by others (chmod go-w)"),
        Some(_) => refuse("is below one that others can write (chmod go-w)"),
    }
}

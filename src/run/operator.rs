//! The operator's commands, which are in the daemon's program.

use std::{
    env, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Where packages put it.
const INSTALLED: &str = "/usr/bin/valetkeyd";

/// Becomes the daemon's program under this command's name, with the same arguments. Returns only why it could not.
pub fn become_it() -> io::Error {
    let program = beside_this_one().unwrap_or_else(|| INSTALLED.into());
    let error = Command::new(&program).arg0("valetkey").args(env::args_os().skip(1)).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}

fn beside_this_one() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    let other = own.parent().unwrap_or(Path::new("")).join("valetkeyd");
    other.exists().then_some(other)
}

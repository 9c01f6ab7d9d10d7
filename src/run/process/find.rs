//! Finding a program as the tool itself would.

use std::{
    ffi::{CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
};

use rustix::fs::{Access, access, stat};

use super::NotStarted;

/// Finds a program along `path`, the value of the tool's own PATH. A name with a slash is taken as it is.
///
/// As execvp(3) does it: the first file that may be executed; and if there are only such that may not, that is the reason.
pub fn find(program: &OsStr, path: Option<&OsStr>) -> Result<CString, NotStarted> {
    let name = terminated(program.as_bytes())?;
    let missing = |kind| Err(NotStarted::execute(&name, io::Error::from_raw_os_error(kind)));
    if name.is_empty() {
        return missing(libc::ENOENT);
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(name);
    }
    let mut reason = libc::ENOENT;
    for directory in path.map_or(&b"/usr/local/bin:/usr/bin:/bin"[..], OsStr::as_bytes).split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = terminated(&[directory, b"/", name.as_bytes()].concat())?;
        match access(&candidate, Access::EXEC_OK) {
            Ok(()) if stat(&candidate).is_ok_and(|file| file.st_mode & libc::S_IFMT == libc::S_IFREG) => return Ok(candidate),
            Ok(()) | Err(rustix::io::Errno::ACCESS) => reason = libc::EACCES,
            Err(_) => {}
        }
    }
    missing(reason)
}

fn terminated(bytes: &[u8]) -> Result<CString, NotStarted> {
    CString::new(bytes).map_err(|_| NotStarted::execute(c"?", io::ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, path: &str) -> Result<String, u8> {
        let found = find(OsStr::new(program), Some(OsStr::new(path)));
        found.map(|path| path.into_string().unwrap()).map_err(|not| not.code())
    }

    #[test]
    fn the_first_that_may_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(found("sh", &format!("/nowhere:{path}:/bin")), Ok("/bin/sh".into()));
        std::fs::create_dir(dir.path().join("sh")).unwrap();
        assert_eq!(found("sh", &format!("{path}:/bin")), Ok("/bin/sh".into()), "a directory is not a program");
        assert_eq!(found("./x", path), Ok("./x".into()));
    }

    #[test]
    fn what_is_missing_and_what_may_not_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data"), "").unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!((found("nothing", path), found("", path)), (Err(127), Err(127)));
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        assert_eq!(found("folder", path), Err(126));
    }
}

//! Users and groups of this host, by name.

use std::{ffi::CString, io, mem::MaybeUninit, ptr};

/// Enough for any entry; a name service that wants more is not believed.
const LARGEST: usize = 1 << 20;

/// The user id of a name; `None` where the host has no such user.
pub(super) fn user(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let (mut entry, mut found) = (MaybeUninit::<libc::passwd>::uninit(), ptr::null_mut());
        let (at, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `name` ends in NUL; `entry`, `buffer` (of `size` bytes) and `found` are ours to write and outlive the call.
        let code = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), at, size, &mut found) };
        // SAFETY: where `found` is set, the call succeeded and has filled `entry`.
        let id = (code == 0 && !found.is_null()).then(|| unsafe { entry.assume_init_ref() }.pw_uid);
        (code, id)
    })
}

/// The group id of a name; `None` where the host has no such group.
pub(super) fn group(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let (mut entry, mut found) = (MaybeUninit::<libc::group>::uninit(), ptr::null_mut());
        let (at, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `name` ends in NUL; `entry`, `buffer` (of `size` bytes) and `found` are ours to write and outlive the call.
        let code = unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), at, size, &mut found) };
        // SAFETY: where `found` is set, the call succeeded and has filled `entry`.
        let id = (code == 0 && !found.is_null()).then(|| unsafe { entry.assume_init_ref() }.gr_gid);
        (code, id)
    })
}

/// Calls with a larger buffer for as long as the entry does not fit.
fn look_up(name: &str, call: impl Fn(&CString, &mut Vec<u8>) -> (i32, Option<u32>)) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut buffer = vec![0; 1024];
    loop {
        match call(&name, &mut buffer) {
            // getpwnam(3): these, too, are ways in which systems say "no such name".
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, id) => return Ok(id),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if buffer.len() < LARGEST => buffer.resize(buffer.len() * 4, 0),
            (code, _) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nonsense_is_not() {
        assert_eq!(user("root").unwrap(), Some(0));
        assert_eq!(group("root").unwrap(), Some(0));
        for name in ["no-such-account", "", "ro\0ot", "root:x"] {
            assert_eq!(user(name).unwrap(), None, "{name:?}");
            assert_eq!(group(name).unwrap(), None, "{name:?}");
        }
    }
}

//! Memory that the launcher and its guardian share, in which a start is handed over: an environment holds secrets, and would
//! leave copies in kernel buffers if it went through a socket.

use std::{io, os::fd::RawFd, ptr, slice};

use crate::secret::wipe_bytes;

/// As much as the kernel takes for arguments and environment together (execve(2): three quarters of 8 MiB), and some more.
const SIZE: usize = 7 << 20;

/// Shared with children that are forked later. Pages that nobody touches cost nothing.
pub(super) struct Region {
    start: *mut u8,
    /// Bytes in use.
    used: usize,
}

impl Region {
    pub fn new() -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping that was just made. A kernel that cannot do it leaves the page in core dumps, which are off.
        unsafe { libc::madvise(start, SIZE, libc::MADV_DONTDUMP) };
        Ok(Self { start: start.cast(), used: 0 })
    }

    /// Appends a number.
    pub fn put(&mut self, number: u64) -> io::Result<()> {
        self.append(&number.to_ne_bytes())
    }

    /// Appends bytes, with their length before them.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes.len() as u64)?;
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.used.checked_add(bytes.len()).filter(|end| *end <= SIZE);
        let end = end.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
        let start = std::mem::replace(&mut self.used, end);
        self.all()[start..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Reads what the other side has put there, `used` bytes.
    pub fn read(&mut self, used: usize) -> Reader<'_> {
        self.used = used.min(SIZE);
        let used = self.used;
        Reader(&self.all()[..used])
    }

    pub fn used(&self) -> usize {
        self.used
    }

    /// Empties it, and leaves zeros.
    pub fn wipe(&mut self) {
        let used = std::mem::take(&mut self.used);
        wipe_bytes(&mut self.all()[..used]);
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long and as old as `self`. The two processes take turns: the launcher writes, sends
        // word, and touches it no more until the guardian has answered.
        unsafe { slice::from_raw_parts_mut(self.start, SIZE) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.wipe();
        // SAFETY: our own mapping, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), SIZE) };
    }
}

/// Takes out what was put in, in the same order.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn number(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_ne_bytes(number))
    }

    pub fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.number()? as usize;
        self.take(length)
    }

    pub fn descriptor(&mut self) -> io::Result<RawFd> {
        RawFd::try_from(self.number()?).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_and_leaves_zeros() {
        let mut region = Region::new().unwrap();
        region.put(7).unwrap();
        region.put_bytes(b"A=secret\0").unwrap();
        let used = region.used();
        let mut reader = region.read(used);
        assert_eq!((reader.number().unwrap(), reader.bytes().unwrap()), (7, &b"A=secret\0"[..]));
        assert!(reader.number().is_err(), "there is no more");
        region.wipe();
        assert!(region.all()[..used].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn too_much_is_refused() {
        let mut region = Region::new().unwrap();
        assert_eq!(region.put_bytes(&vec![1; SIZE]).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }
}

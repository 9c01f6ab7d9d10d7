//! Memory for what is derived from values: the redactor's keys, and its tables.
//!
//! It is no plaintext, so it is not worth what `memfd_secret` costs for each page (some 10 microseconds, and a hole in the
//! kernel's direct map), nor may it take the locked memory that values need. It gets locked pages up to a share of the limit,
//! ordinary ones after that; all are left out of core dumps and of forked children, stand between guards, and are wiped.

use std::{
    marker::PhantomData,
    mem::size_of,
    ops::{Deref, DerefMut},
    slice,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustix::process::{Resource, getrlimit};
use zeroize::Zeroizing;

use super::{
    arena::{Arena, Settings, Slot},
    pages::{Protection, UNIT},
};

/// No more than this is locked, nor more than a quarter of what the process may lock.
const SHARE: usize = 2 * 1024 * 1024;

static LOCKED: OnceLock<Arena> = OnceLock::new();
static ORDINARY: OnceLock<Arena> = OnceLock::new();
static LOCKED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// What may lie in a [`Protected`] slice.
///
/// # Safety
///
/// All zeros are a valid value, which needs no more than 8-byte alignment.
pub(crate) unsafe trait Blank: Send + Sync {}

// SAFETY: a number.
unsafe impl Blank for u8 {}
// SAFETY: a number.
unsafe impl Blank for u32 {}
// SAFETY: a number.
unsafe impl Blank for u64 {}

/// A slice of fixed length in protected pages, all zeros at first. Wiped when dropped; what it holds is not dropped.
pub(crate) struct Protected<T: Blank> {
    memory: Memory,
    len: usize,
    of: PhantomData<T>,
}

enum Memory {
    Locked(Slot<'static>),
    Ordinary(Slot<'static>),
    /// Where the kernel maps no more: what is there to be wiped is at least that.
    Heap(Zeroizing<Vec<u64>>),
}

impl<T: Blank> Protected<T> {
    pub fn zeroed(len: usize) -> Self {
        const { assert!(align_of::<T>() <= align_of::<u64>()) };
        let bytes = len.saturating_mul(size_of::<T>());
        let memory = locked(bytes).or_else(|| {
            let settings = Settings { first_chunk: UNIT, at_least: Protection::Plain, at_most: Protection::Plain };
            ORDINARY.get_or_init(|| Arena::new(settings)).blank(bytes).ok().map(Memory::Ordinary)
        });
        let memory = memory.unwrap_or_else(|| Memory::Heap(Zeroizing::new(vec![0; bytes.div_ceil(8)])));
        Self { memory, len, of: PhantomData }
    }

    fn start(&self) -> *const u8 {
        match &self.memory {
            Memory::Locked(slot) | Memory::Ordinary(slot) => slot.bytes().as_ptr(),
            Memory::Heap(words) => words.as_ptr().cast(),
        }
    }

    fn start_mut(&mut self) -> *mut u8 {
        match &mut self.memory {
            Memory::Locked(slot) | Memory::Ordinary(slot) => slot.bytes_mut().as_mut_ptr(),
            Memory::Heap(words) => words.as_mut_ptr().cast(),
        }
    }
}

fn locked(bytes: usize) -> Option<Memory> {
    let settings = Settings { first_chunk: UNIT, at_least: Protection::Locked, at_most: Protection::Locked };
    let limit = getrlimit(Resource::Memlock).current.map_or(SHARE, |most| SHARE.min(most as usize / 4));
    if LOCKED_BYTES.fetch_add(bytes, Relaxed).saturating_add(bytes) <= limit
        && let Ok(slot) = LOCKED.get_or_init(|| Arena::new(settings)).blank(bytes)
    {
        return Some(Memory::Locked(slot));
    }
    LOCKED_BYTES.fetch_sub(bytes, Relaxed);
    None
}

impl<T: Blank> Drop for Protected<T> {
    fn drop(&mut self) {
        if let Memory::Locked(slot) = &self.memory {
            LOCKED_BYTES.fetch_sub(slot.bytes().len(), Relaxed);
        }
    }
}

impl<T: Blank> Deref for Protected<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` took room for `len` of these, aligned for any of them; zeros are valid, and since then they were
        // written through `deref_mut` only.
        unsafe { slice::from_raw_parts(self.start().cast(), self.len) }
    }
}

impl<T: Blank> DerefMut for Protected<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has a reference.
        unsafe { slice::from_raw_parts_mut(self.start_mut().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_at_first_whatever_was_there_before() {
        for len in [0, 1, 7, 100, 300_000] {
            for _ in 0..3 {
                let mut words = Protected::<u64>::zeroed(len);
                assert_eq!(words.len(), len);
                assert!(words.iter().all(|word| *word == 0));
                words.fill(u64::MAX);
                assert!(words.iter().all(|word| *word == u64::MAX));
            }
        }
    }

    #[test]
    fn what_was_in_it_is_wiped() {
        // A neighbour keeps the pages mapped.
        let arena = Arena::new(Settings { first_chunk: UNIT, at_least: Protection::Plain, at_most: Protection::Plain });
        let _neighbour = arena.blank(1).unwrap();
        let mut slot = arena.blank(500).unwrap();
        slot.bytes_mut().fill(0xa5);
        let start = slot.bytes().as_ptr();
        drop(slot);
        // SAFETY: the chunk is still mapped, and only this thread uses its arena.
        let left = unsafe { slice::from_raw_parts(start, 500) };
        assert!(left.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn it_leaves_most_of_the_limit_to_values() {
        let many: Vec<_> = (0..80).map(|_| Protected::<u8>::zeroed(100_000)).collect();
        assert!(LOCKED_BYTES.load(Relaxed) <= SHARE);
        assert!(many.iter().any(|one| matches!(one.memory, Memory::Ordinary(_))));
    }
}

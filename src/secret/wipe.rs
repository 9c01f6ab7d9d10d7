//! Memory that is wiped before it is given back.
//!
//! Wiping one's own copies is not enough: a value also passes through buffers of libraries (prost, h2, rustls, serde), which
//! free them as they are. With [`WipingAllocator`] as the global allocator of a binary, none of those outlives its owner.
//!
//! What it does not reach: memory that C libraries take from their own `malloc`, stacks and statics, kernel buffers, and
//! whatever is still allocated, such as the read buffer of an open connection.

use std::{
    alloc::{GlobalAlloc, Layout},
    arch::asm,
    mem::MaybeUninit,
};

use mimalloc::MiMalloc;

/// A global allocator that wipes each block before it frees it. Over mimalloc it costs about what glibc's allocator does.
///
/// ```
/// # use valetkey::secret::WipingAllocator;
/// #[global_allocator]
/// static ALLOCATOR: WipingAllocator = WipingAllocator::new();
/// # fn main() {}
/// ```
pub struct WipingAllocator<A = MiMalloc>(A);

impl WipingAllocator {
    /// Over mimalloc.
    pub const fn new() -> Self {
        Self(MiMalloc)
    }
}

impl Default for WipingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: GlobalAlloc> WipingAllocator<A> {
    /// Over another allocator.
    pub const fn over(inner: A) -> Self {
        Self(inner)
    }
}

// SAFETY: every call is handed to `inner`, which keeps the contract. `dealloc` only writes to the block first, which the
// caller gives up with the call. `realloc` stays the trait's own (allocate, copy, free), so that a block which moves is
// wiped where it was: an inner `realloc` would free the old place as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is `layout.size()` bytes long and the caller's last use of it is over.
        unsafe { wipe(block, layout.size()) };
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { self.0.dealloc(block, layout) }
    }
}

/// Wipes bytes that are about to be freed or used for something else.
pub fn wipe_bytes(bytes: &mut [u8]) {
    // SAFETY: the slice is ours alone for as long as the call runs, and zeros are valid bytes.
    unsafe { wipe(bytes.as_mut_ptr(), bytes.len()) };
}

/// Wipes what calls that have returned left on this thread's stack, just below the caller's frame. What works on a value leaves parts of
/// it there, such as vector registers that a search had no room for.
#[inline(never)]
pub fn wipe_stack() {
    /// More than the deepest of these calls takes, also in a build that is not optimised.
    const DEPTH: usize = 32 * 1024;
    let mut below = [MaybeUninit::<u8>::uninit(); DEPTH];
    // SAFETY: the array is ours, and any byte is a valid `MaybeUninit`.
    unsafe { wipe(below.as_mut_ptr().cast(), DEPTH) };
}

/// Writes zeros that the compiler may not leave out, although nothing reads them.
///
/// # Safety
///
/// `start` is valid for writes of `len` bytes, and no reference to them is in use.
#[inline]
pub(super) unsafe fn wipe(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise is the one that `write_bytes` asks for.
    unsafe { start.write_bytes(0, len) };
    // SAFETY: no instructions. For all that the compiler knows, the block reads what `start` points to, so the zeros must
    // be there by now.
    unsafe { asm!("/* {0} */", in(reg) start, options(readonly, preserves_flags, nostack)) };
}

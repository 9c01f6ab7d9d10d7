//! A secret's value: bytes in protected pages, with one way in and one way to look.
//!
//! Values live in one arena of `memfd_secret` memory: pages that the kernel takes out of its own direct map, keeps out of
//! swap and core dumps, and refuses to read for others. On a process that holds values there, `/proc/PID/mem`,
//! process_vm_readv and ptrace fail even for root. A slot is 64 bytes or a multiple, and zeros once it is free; forked
//! children do not have the pages; guards stand at both ends. Where the host does not give such memory, locked memory is
//! used instead, and ordinary memory last: [`protection`] says which and what is lost, [`require`] refuses instead.
//!
//! What this does *not* do:
//!
//! - Root can still make the process give a value away: attach a debugger and run code in it, replace its program, load a
//!   kernel module. Reading memory takes code injection instead of a file read; that is all, and worth having.
//! - A value is only as safe as its copies. [`WipingAllocator`] wipes those that libraries free, [`harden_process`] keeps
//!   other processes of the same user out. Registers, stacks and kernel socket buffers are beyond both.
//! - While it is lent out by [`SecretValue::expose`], a value is ordinary bytes: the guard pages stop an overrun that
//!   leaves the arena, not one from slot to slot.
//!
//! See memfd_secret(2), mlock(2), madvise(2) for MADV_DONTFORK, MADV_DONTDUMP and MADV_WIPEONFORK, and core(5).

mod arena;
mod bitmap;
pub mod harden;
mod pages;
#[cfg(any(feature = "daemon", feature = "run"))]
pub(crate) mod protected;
#[cfg(test)]
mod tests;
mod wipe;

use std::{fmt, hint::black_box, sync::OnceLock};

use zeroize::Zeroizing;

use arena::{Arena, Slot};
pub use arena::{ProtectionReport, Settings, Unprotected};
pub use harden::harden_process;
pub use pages::Protection;
pub use wipe::{WipingAllocator, wipe_bytes, wipe_stack};

/// Bytes that are wiped when dropped and that nothing can print, copy or compare by accident.
///
/// ```
/// # use valetkey::secret::{SecretValue, Unprotected};
/// let key = SecretValue::copy_from(b"sk-not-a-real-key")?;
/// assert_eq!(key.expose(|bytes| bytes.len()), 17);
/// assert_eq!(format!("{key:?}"), "SecretValue");
/// # Ok::<(), Unprotected>(())
/// ```
///
/// It cannot be cloned: a second copy is a second place to protect. Share it with an `Arc`.
///
/// ```compile_fail,E0599
/// # use valetkey::secret::SecretValue;
/// let key = SecretValue::copy_from(b"sk-not-a-real-key").unwrap();
/// let copy = key.clone();
/// ```
///
/// Nor can it be shown.
///
/// ```compile_fail,E0277
/// # use valetkey::secret::SecretValue;
/// println!("{}", SecretValue::copy_from(b"sk-not-a-real-key").unwrap());
/// ```
pub struct SecretValue(Slot<'static>);

impl SecretValue {
    /// Copies the bytes into protected memory. The caller's own copy is the caller's to wipe.
    pub fn copy_from(bytes: &[u8]) -> Result<Self, Unprotected> {
        arena().hold(bytes).map(Self)
    }

    /// Copies the bytes into protected memory and wipes where they were, spare capacity included, also if that fails.
    pub fn copy_from_wiping(bytes: Vec<u8>) -> Result<Self, Unprotected> {
        Self::copy_from(&Zeroizing::new(bytes))
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.0.bytes().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lends the bytes for as long as `look` runs. What `look` copies is its own to wipe.
    pub fn expose<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(self.0.bytes())
    }

    /// Whether both are the same bytes. Takes as long wherever they differ; only a difference in length shows.
    pub fn same_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.0.bytes(), other.0.bytes());
        // The black box keeps the compiler from leaving the loop once the answer is known.
        let differ = |sum: u8, (a, b): (&u8, &u8)| black_box(sum | (a ^ b));
        ours.len() == theirs.len() && ours.iter().zip(theirs).fold(0, differ) == 0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

static ARENA: OnceLock<Arena> = OnceLock::new();

fn arena() -> &'static Arena {
    ARENA.get_or_init(|| Arena::new(Settings::default()))
}

/// Settles what memory this process holds values in, and maps the first of it. Call it once, before the first value.
pub fn set_up(settings: Settings) -> Result<ProtectionReport, Unprotected> {
    let wanted = Arena::new(settings);
    let settings = *wanted.settings();
    let arena = ARENA.get_or_init(|| wanted);
    if *arena.settings() == settings { arena.require(settings.at_least) } else { Err(Unprotected::InUse) }
}

/// Refuses, from now on, to hold a value in memory weaker than this; fails at once if there is no better to be had, or if
/// weaker memory is in use already.
pub fn require(at_least: Protection) -> Result<ProtectionReport, Unprotected> {
    arena().require(at_least)
}

/// What memory values are held in, or would be.
pub fn protection() -> ProtectionReport {
    arena().report()
}

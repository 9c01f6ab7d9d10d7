//! One arena for all values: a slot costs nanoseconds, a protected mapping of its own tens of microseconds and a page.
//!
//! An [`Arena`] owns chunks of protected pages and gives out [`Slot`]s, runs of 64-byte granules within one chunk. How long a
//! value is, and which granules are taken, is kept outside, so that a value of 64 bytes costs 64 bytes of locked memory.
//! Granules are zero whenever they are free: new pages are, and a slot is wiped before it goes back.
//!
//! A lock is held while granules are found or given back, never while a value is read or written.

use std::{
    fmt,
    ptr::NonNull,
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    bitmap::Bitmap,
    pages::{Pages, Protection, Refusal, UNIT},
    wipe::wipe,
};

/// The smallest amount of memory given out, in bytes: a cache line, and the length of a usual API key.
pub(super) const GRANULE: usize = 64;

/// Chunks grow up to this size: eight of them fit the limit on locked memory that Linux and systemd set by default.
const CHUNK: usize = 1024 * 1024;

/// What an arena maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the first chunk: 64 KiB to 1 MiB, in steps of 64 KiB. The arena then doubles, by up to 1 MiB at a time.
    pub first_chunk: usize,
    /// Rather than hold a value in weaker memory than this, refuse it.
    pub at_least: Protection,
    /// Do not try for more. A reason to: a machine cannot hibernate while `memfd_secret` memory is in use.
    pub at_most: Protection,
}

impl Default for Settings {
    /// The best that the host gives, and what it does not give is reported.
    fn default() -> Self {
        Self { first_chunk: CHUNK, at_least: Protection::Plain, at_most: Protection::MemfdSecret }
    }
}

/// Why a value cannot be held. Carries nothing of the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unprotected {
    /// The kernel refused the memory, and weaker memory is not allowed.
    #[error("no {required} memory left for secrets, and weaker memory is not allowed; {remedy}")]
    TooWeak { required: Protection, remedy: &'static str },
    /// The kernel refused even ordinary memory.
    #[error("no memory left for secrets; {0}")]
    NoMemory(&'static str),
    /// The settings come too late.
    #[error("the memory for secrets is already in use with other settings; set it up before the first secret is held")]
    InUse,
}

/// The memory that values are in, for people and for start-up checks. The weakest chunk decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionReport {
    pub kind: Protection,
    /// Bytes that count against RLIMIT_MEMLOCK.
    pub locked_bytes: usize,
    /// Bytes that values take up, in steps of 64.
    pub used_bytes: usize,
    /// What is lost against `memfd_secret`; nothing where that is what there is.
    pub lost: Option<&'static str>,
    /// How to get it.
    pub remedy: Option<&'static str>,
}

impl fmt::Display for ProtectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes locked, {} used", self.kind, self.locked_bytes, self.used_bytes)?;
        [self.lost, self.remedy].iter().flatten().try_for_each(|text| write!(f, "; {text}"))
    }
}

/// Protected pages for many values. Its chunks never move.
pub(super) struct Arena {
    settings: Settings,
    state: Mutex<State>,
}

struct State {
    at_least: Protection,
    chunks: Vec<Chunk>,
}

struct Chunk {
    pages: Pages,
    granules: Bitmap,
    /// Why it is not stronger.
    refusal: Option<Refusal>,
    /// Mapped for one value that fits in no ordinary chunk.
    oversized: bool,
}

impl Arena {
    /// Maps nothing yet.
    pub fn new(settings: Settings) -> Self {
        let first_chunk = settings.first_chunk.clamp(UNIT, CHUNK).next_multiple_of(UNIT);
        let state = State { at_least: settings.at_least, chunks: Vec::new() };
        Self { settings: Settings { first_chunk, ..settings }, state: Mutex::new(state) }
    }

    /// Copies the bytes into a slot of their own.
    pub fn hold(&self, bytes: &[u8]) -> Result<Slot<'_>, Unprotected> {
        let mut slot = self.blank(bytes.len())?;
        slot.bytes_mut().copy_from_slice(bytes);
        Ok(slot)
    }

    /// A slot of zeros.
    pub fn blank(&self, len: usize) -> Result<Slot<'_>, Unprotected> {
        let start = self.lock().take(granules(len), &self.settings)?;
        Ok(Slot { arena: self, start, len })
    }

    /// From now on refuses memory weaker than this, and fails if there is some already or no better to be had.
    pub fn require(&self, at_least: Protection) -> Result<ProtectionReport, Unprotected> {
        let mut state = self.lock();
        state.at_least = state.at_least.max(at_least);
        let at_least = state.at_least;
        state.map_first(&self.settings)?;
        let report = state.report();
        match report.remedy {
            Some(remedy) if report.kind < at_least => Err(Unprotected::TooWeak { required: at_least, remedy }),
            _ => Ok(report),
        }
    }

    /// Maps the first chunk if there is none yet, to be able to say what it is.
    pub fn report(&self) -> ProtectionReport {
        let mut state = self.lock();
        // Where nothing can be mapped, the report is that of no memory at all.
        let _ = state.map_first(&self.settings);
        state.report()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, n: usize, settings: &Settings) -> Result<NonNull<u8>, Unprotected> {
        let mut allowed = self.chunks.iter_mut().filter(|chunk| chunk.pages.kind() >= self.at_least);
        if let Some(start) = allowed.find_map(|chunk| chunk.take(n)) {
            return Ok(start);
        }
        let mut chunk = self.map(n, settings)?;
        let start = chunk.take(n).ok_or(Unprotected::NoMemory(Refusal::Exhausted.remedy()))?;
        self.chunks.push(chunk);
        Ok(start)
    }

    fn map_first(&mut self, settings: &Settings) -> Result<(), Unprotected> {
        if self.chunks.is_empty() {
            let chunk = self.map(1, settings)?;
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// The strongest memory that the kernel gives, for a run of `n` granules and more. A smaller chunk of strong memory is
    /// better than a whole one of weaker.
    fn map(&self, n: usize, settings: &Settings) -> Result<Chunk, Unprotected> {
        let mapped: usize = self.chunks.iter().map(|chunk| chunk.pages.len()).sum();
        let usual = mapped.clamp(settings.first_chunk, CHUNK);
        let needed = (n * GRANULE).next_multiple_of(UNIT);
        let mut refusal = None;
        for kind in [Protection::MemfdSecret, Protection::Locked, Protection::Plain] {
            if kind > settings.at_most {
                refusal = Some(Refusal::Unwanted);
                continue;
            }
            if kind < self.at_least {
                let remedy = refusal.unwrap_or(Refusal::Unwanted).remedy();
                return Err(Unprotected::TooWeak { required: self.at_least, remedy });
            }
            for len in [usual.max(needed), needed] {
                match Pages::map(kind, len) {
                    Ok(pages) => return Ok(Chunk::new(pages, refusal, needed > usual)),
                    Err(why) => refusal = Some(why),
                }
            }
        }
        Err(Unprotected::NoMemory(refusal.unwrap_or(Refusal::Exhausted).remedy()))
    }

    /// Frees a run, and returns a chunk that is not worth keeping: one made for a single value, or one of weaker memory
    /// from a time when there was no better, so that the report can recover.
    fn give_back(&mut self, start: NonNull<u8>, n: usize) -> Option<Chunk> {
        let best = self.chunks.iter().map(|chunk| chunk.pages.kind()).max()?;
        let at = self.chunks.iter().position(|chunk| chunk.holds(start))?;
        let chunk = &mut self.chunks[at];
        chunk.granules.give_back(chunk.offset(start) / GRANULE, n);
        let unneeded = chunk.granules.taken() == 0 && (chunk.oversized || chunk.pages.kind() < best);
        unneeded.then(|| self.chunks.remove(at))
    }

    fn report(&self) -> ProtectionReport {
        let Some(weakest) = self.chunks.iter().min_by_key(|chunk| chunk.pages.kind()) else {
            let lost = Some("no secret can be held: what is required of the memory is more than this host gives");
            return ProtectionReport { kind: Protection::Plain, locked_bytes: 0, used_bytes: 0, lost, remedy: None };
        };
        let kind = weakest.pages.kind();
        let locked = self.chunks.iter().filter(|chunk| chunk.pages.kind() > Protection::Plain);
        ProtectionReport {
            kind,
            locked_bytes: locked.map(|chunk| chunk.pages.len()).sum(),
            used_bytes: self.chunks.iter().map(|chunk| chunk.granules.taken() * GRANULE).sum(),
            lost: match kind {
                Protection::MemfdSecret => None,
                Protection::Locked => Some("root can read values through /proc/PID/mem, which memfd_secret would refuse"),
                Protection::Plain => Some("values may be written to swap, and root can read them through /proc/PID/mem"),
            },
            remedy: if kind == Protection::MemfdSecret { None } else { weakest.refusal.map(Refusal::remedy) },
        }
    }
}

impl Chunk {
    fn new(pages: Pages, refusal: Option<Refusal>, oversized: bool) -> Self {
        let granules = Bitmap::new(pages.len() / GRANULE);
        Self { pages, granules, refusal, oversized }
    }

    fn take(&mut self, n: usize) -> Option<NonNull<u8>> {
        let at = self.granules.take(n)?;
        // SAFETY: the bitmap has one bit for each granule of the pages.
        Some(unsafe { self.pages.start().add(at * GRANULE) })
    }

    fn holds(&self, start: NonNull<u8>) -> bool {
        start >= self.pages.start() && self.offset(start) < self.pages.len()
    }

    fn offset(&self, start: NonNull<u8>) -> usize {
        start.addr().get() - self.pages.start().addr().get()
    }
}

/// Granules of one chunk that belong to one value. Wiped when dropped.
pub(super) struct Slot<'a> {
    arena: &'a Arena,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a slot is the only owner of its granules, so it may move to another thread with them.
unsafe impl Send for Slot<'_> {}
// SAFETY: a shared slot lends its bytes for reading only; to write them takes the slot's only reference.
unsafe impl Sync for Slot<'_> {}

impl Slot<'_> {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes of our own granules, zeros or written since, in a chunk that stays mapped while one of its
        // granules is taken.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and we are borrowed by nobody else.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let n = granules(self.len);
        // SAFETY: our own granules, and no reference to them outlives the slot.
        unsafe { wipe(self.start.as_ptr(), n * GRANULE) };
        let unneeded = self.arena.lock().give_back(self.start, n);
        // The lock is free again before the kernel is asked to unmap.
        drop(unneeded);
    }
}

/// Granules for a value. An empty one has a place too, so that a slot always has an address of its own.
fn granules(len: usize) -> usize {
    len.div_ceil(GRANULE).max(1)
}

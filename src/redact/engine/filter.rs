//! The first step of a scan: which places of a text are worth a look.
//!
//! A window is a few bytes at a fixed place of a pattern. Each pattern registers as many consecutive windows as the scan
//! takes bytes at a time, so whichever way the pattern lies in a text, exactly one probe falls on one of them. A probe is a
//! load, a multiplication, and two bits of one word: most of them end there.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::secret::protected::Protected;

/// Bits for each window at least (two of them set: one probe in a thousand is a false hit), and bits in all at most: half a
/// megabyte stays in the second-level cache.
const BITS_PER_WINDOW: usize = 64;
const LEAST_BITS: usize = 1 << 12;
const MOST_BITS: usize = 1 << 22;

/// Windows that are registered for a pattern, at most.
pub(super) const MOST_STRIDE: usize = 8;

/// Probes between two branches.
const UNROLL: usize = 8;

/// Bytes that a probe loads, whether it uses all of them or not.
const LOAD: usize = size_of::<u64>();

/// How text is probed for patterns of some length.
pub(super) trait Tier {
    /// Bytes of a window.
    const WINDOW: usize;
    /// Bytes from one probe to the next, and windows registered for each pattern.
    const STRIDE: usize;
    /// Bytes of the shortest pattern that all these windows fit in.
    const SHORTEST: usize = Self::WINDOW + Self::STRIDE - 1;
    /// The window's part of a load.
    const MASK: u64 = u64::MAX >> (64 - 8 * Self::WINDOW);
}

/// The usual tier.
pub(super) struct Long;

impl Tier for Long {
    const WINDOW: usize = 8;
    const STRIDE: usize = 8;
}

/// For patterns too short for it: passwords, mostly.
pub(super) struct Short;

impl Tier for Short {
    const WINDOW: usize = 5;
    const STRIDE: usize = 4;
}

/// The secret of the cheap hash: random, for this process only.
#[derive(Clone, Copy)]
pub(super) struct Multiplier {
    pub flip: u64,
    pub factor: u64,
}

impl Multiplier {
    /// The hash of a window. Both halves of a product are folded into one, so that no bit of it is linear in the window.
    #[inline(always)]
    pub fn mark(self, window: u64) -> u32 {
        let product = u128::from(window ^ self.flip) * u128::from(self.factor);
        ((product as u64 ^ (product >> 64) as u64) >> 32) as u32
    }

    /// The mark of the window that begins `bytes`.
    #[inline(always)]
    pub fn mark_at<T: Tier>(self, bytes: &[u8]) -> u32 {
        self.mark(load(bytes) & T::MASK)
    }
}

/// The first eight bytes; zeros stand for those that are not there.
#[inline(always)]
fn load(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(whole) => u64::from_le_bytes(*whole),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Where hits are noted, so that the loop that finds them calls nothing.
pub(super) struct Hits {
    places: [usize; 64],
    len: usize,
}

impl Hits {
    pub fn none() -> Self {
        Self { places: [0; 64], len: 0 }
    }

    pub fn as_slice(&self) -> &[usize] {
        &self.places[..self.len]
    }

    #[inline(always)]
    fn room(&self) -> usize {
        self.places.len() - self.len
    }

    #[inline(always)]
    fn note(&mut self, at: usize) {
        self.places[self.len] = at;
        self.len += 1;
    }
}

/// Which windows are registered: no misses, few false hits. Marks can be added while others scan.
pub(super) struct Filter {
    words: Protected<AtomicU64>,
    shift: u32,
    /// Windows that were added.
    added: AtomicUsize,
}

impl Filter {
    /// Has room for this many windows and about as many again.
    pub fn for_windows(count: usize) -> Self {
        let bits = count.saturating_mul(BITS_PER_WINDOW).clamp(LEAST_BITS, MOST_BITS).next_power_of_two();
        let words = bits / 64;
        Self { words: Protected::zeroed(words), shift: 32 - words.trailing_zeros(), added: AtomicUsize::new(0) }
    }

    /// Whether `count` more windows leave it sharp enough. At full size, what weighs is those that are gone and still in it.
    pub fn has_room(&self, count: usize, live: usize) -> bool {
        let after = self.added.load(Relaxed) + count;
        let bits = self.words.len() * 64;
        after * BITS_PER_WINDOW <= bits || (bits >= MOST_BITS && after <= 2 * live)
    }

    pub fn add(&self, marks: impl Iterator<Item = u32>) {
        let mut count = 0;
        for mark in marks {
            self.words[(mark >> self.shift) as usize].fetch_or(1 << (mark & 63) | 1 << (mark >> 6 & 63), Relaxed);
            count += 1;
        }
        self.added.fetch_add(count, Relaxed);
    }

    #[inline(always)]
    fn has(&self, words: &[AtomicU64], mark: u32) -> bool {
        debug_assert_eq!(words.len(), 1 << (32 - self.shift));
        // SAFETY: there is one word for each value of a mark's bits above `shift`.
        let word = unsafe { words.get_unchecked((mark >> self.shift) as usize) }.load(Relaxed);
        (word >> (mark & 63)) & (word >> (mark >> 6 & 63)) & 1 == 1
    }

    /// Notes hits from `at` on, as many as there is room for. Says where to go on; the end of the text where it is through.
    pub fn probe<T: Tier>(&self, by: Multiplier, text: &[u8], at: usize, hits: &mut Hits) -> usize {
        hits.len = 0;
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has both.
            return unsafe { self.probe_bmi2::<T>(by, text, at, hits) };
        }
        self.probe_anywhere::<T>(by, text, at, hits)
    }

    /// The same loop, compiled for shifts and products that leave the flags alone.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "bmi2,avx2")]
    fn probe_bmi2<T: Tier>(&self, by: Multiplier, text: &[u8], at: usize, hits: &mut Hits) -> usize {
        self.probe_anywhere::<T>(by, text, at, hits)
    }

    #[inline(always)]
    fn probe_anywhere<T: Tier>(&self, by: Multiplier, text: &[u8], mut at: usize, hits: &mut Hits) -> usize {
        let words = &self.words[..];
        let group = UNROLL * T::STRIDE;
        while let Some(here) = text.get(at..at + group - T::STRIDE + LOAD)
            && hits.room() >= UNROLL
        {
            let hit = |probe: usize| self.has(words, by.mark_at::<T>(&here[probe * T::STRIDE..]));
            if (0..UNROLL).fold(false, |any, probe| any | hit(probe)) {
                (0..UNROLL).filter(|probe| hit(*probe)).for_each(|probe| hits.note(at + probe * T::STRIDE));
            }
            at += group;
        }
        // What is left of the text, or of the room.
        while let Some(here) = text.get(at..).filter(|here| here.len() >= T::WINDOW)
            && hits.room() > 0
        {
            if self.has(words, by.mark_at::<T>(here)) {
                hits.note(at);
            }
            at += T::STRIDE;
        }
        if hits.room() > 0 { text.len() } else { at }
    }

    #[cfg(test)]
    pub fn memory(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
    }
}

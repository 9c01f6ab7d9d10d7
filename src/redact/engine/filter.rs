//! The first step of a scan: which places of a text are worth a look.
//!
//! A window is a few bytes at a fixed place of a pattern. Each pattern registers as many consecutive windows as the scan
//! takes bytes at a time, so whichever way the pattern lies in a text, exactly one probe falls on one of them. A probe is a
//! load, a multiplication, and two bits of one word: most of them end there.

use crate::secret::protected::Protected;

/// Bits for each window at least (two of them set: one probe in a thousand is a false hit), and bits in all at most: half a
/// megabyte stays in the second-level cache.
const BITS_PER_WINDOW: usize = 64;
const LEAST_BITS: usize = 1 << 12;
const MOST_BITS: usize = 1 << 22;

/// Windows that are registered for a pattern, at most.
pub(super) const MOST_STRIDE: usize = 8;

/// Hits that are noted before they are looked up.
const MOST_HITS: usize = 32;

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
    /// The hash of the window that begins `bytes`. Both halves of a product are folded into one, so that no bit of it is
    /// linear in the window.
    #[inline(always)]
    fn hash<T: Tier>(self, bytes: &[u8]) -> u64 {
        let product = u128::from((load(bytes) & T::MASK) ^ self.flip) * u128::from(self.factor);
        product as u64 ^ (product >> 64) as u64
    }

    /// As much of it as is kept.
    pub fn mark<T: Tier>(self, bytes: &[u8]) -> u32 {
        (self.hash::<T>(bytes) >> 32) as u32
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
    places: [(usize, u32); MOST_HITS],
    len: usize,
}

impl Hits {
    pub fn none() -> Self {
        Self { places: [(0, 0); MOST_HITS], len: 0 }
    }

    /// Each place, and the mark that `mark` says is there.
    pub fn with_marks(&mut self, mark: impl Fn(usize) -> u32) -> &[(usize, u32)] {
        let places = &mut self.places[..self.len];
        places.iter_mut().for_each(|place| place.1 = mark(place.0));
        places
    }

    fn room(&self) -> usize {
        self.places.len() - self.len
    }

    fn note(&mut self, at: usize) {
        self.places[self.len].0 = at;
        self.len += 1;
    }
}

/// Which windows are registered: no misses, few false hits.
pub(super) struct Filter {
    words: Protected<u64>,
    /// A mark's bits above this choose a word.
    shift: u32,
    /// Windows that were added.
    added: usize,
}

impl Filter {
    /// With room for this many windows, and about as many again.
    pub fn for_windows(count: usize) -> Self {
        let bits = count.saturating_mul(BITS_PER_WINDOW).clamp(LEAST_BITS, MOST_BITS).next_power_of_two();
        let words = bits / 64;
        Self { words: Protected::zeroed(words), shift: 32 - words.trailing_zeros(), added: 0 }
    }

    /// A copy with `count` more windows; none where it is not sharp enough for them. At full size, what weighs is those that
    /// are gone and still in it.
    pub fn with(&self, count: usize, live: usize, marks: impl Iterator<Item = u32>) -> Option<Self> {
        let (after, bits) = (self.added + count, self.words.len() * 64);
        if after * BITS_PER_WINDOW > bits && (bits < MOST_BITS || after > 2 * live) {
            return None;
        }
        let mut more = Self { words: Protected::zeroed(self.words.len()), ..*self };
        more.words.copy_from_slice(&self.words);
        more.add(marks);
        Some(more)
    }

    pub fn add(&mut self, marks: impl Iterator<Item = u32>) {
        for mark in marks {
            self.words[(mark >> self.shift) as usize] |= 1 << (mark & 63) | 1 << (mark >> 6 & 63);
            self.added += 1;
        }
    }

    /// Notes hits from `at` on, as many as there is room for. Says where to go on; the end of the text where it is through.
    pub fn probe<T: Tier>(&self, by: Multiplier, text: &[u8], mut at: usize, hits: &mut Hits) -> usize {
        hits.len = 0;
        let hit = |at: usize| text[at..].len() >= T::WINDOW && self.has(by.hash::<T>(&text[at..]));
        let group = UNROLL * T::STRIDE;
        let fast = Self::runs_fast();
        while hits.room() >= UNROLL {
            let next = self.next_group::<T>(fast, by, text, at);
            at = next.unwrap_or_else(|end| end);
            if next.is_err() {
                break;
            }
            (at..at + group).step_by(T::STRIDE).filter(|at| hit(*at)).for_each(|at| hits.note(at));
            at += group;
        }
        // What is left of the text, which is less than a group, or of the room.
        while at + T::WINDOW <= text.len() && hits.room() > 0 {
            if hit(at) {
                hits.note(at);
            }
            at += T::STRIDE;
        }
        if hits.room() > 0 { text.len() } else { at }
    }

    #[inline(always)]
    fn has(&self, hash: u64) -> bool {
        test(&self.words, self.shift + 32, hash) != 0
    }

    /// The next group of probes one of which is a hit, or else the end of the last whole group.
    fn next_group<T: Tier>(&self, fast: bool, by: Multiplier, text: &[u8], at: usize) -> Result<usize, usize> {
        debug_assert_eq!(self.words.len(), 1 << (32 - self.shift));
        #[cfg(target_arch = "x86_64")]
        if fast {
            // SAFETY: `runs_fast` has seen that the processor has what the function is compiled for.
            return unsafe { next_group_fast::<T>(&self.words, self.shift + 32, by, text, at) };
        }
        let _ = fast;
        next_group::<T>(&self.words, self.shift + 32, by, text, at)
    }

    #[cfg(target_arch = "x86_64")]
    fn runs_fast() -> bool {
        is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("avx2")
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn runs_fast() -> bool {
        false
    }

    #[cfg(test)]
    pub fn memory(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// The same loop, compiled for shifts by registers of their own and for wider ones.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "bmi2,avx2")]
fn next_group_fast<T: Tier>(words: &[u64], shift: u32, by: Multiplier, text: &[u8], at: usize) -> Result<usize, usize> {
    next_group::<T>(words, shift, by, text, at)
}

/// All that most of a text ever meets. One branch for a group; and nothing else in here, or the compiler runs out of registers.
#[inline(always)]
fn next_group<T: Tier>(words: &[u64], shift: u32, by: Multiplier, text: &[u8], mut at: usize) -> Result<usize, usize> {
    let group = UNROLL * T::STRIDE;
    while let Some(here) = text.get(at..at + group - T::STRIDE + LOAD) {
        let mut any = 0;
        for probe in 0..UNROLL {
            any |= test(words, shift, by.hash::<T>(&here[probe * T::STRIDE..]));
        }
        if any != 0 {
            return Ok(at);
        }
        at += group;
    }
    Err(at)
}

/// Whether both bits are set. `words` has one word for each value of a hash's bits from `shift` on.
#[inline(always)]
fn test(words: &[u64], shift: u32, hash: u64) -> u64 {
    // SAFETY: as above; `Filter::for_windows` sets the one by the other.
    let word = unsafe { words.get_unchecked((hash >> shift) as usize) };
    (word >> (hash >> 32 & 63)) & (word >> (hash >> 38 & 63)) & 1
}

//! What is kept of a pattern, made while the pattern is at hand.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    io,
    marker::PhantomData,
    ops::Range,
};

use rustix::rand::{GetRandomFlags, getrandom};
use siphasher::{sip::SipHasher13, sip128};
use zeroize::{Zeroize, Zeroizing};

use super::{
    super::Form,
    filter::{Long, MOST_STRIDE, Multiplier, Short, Tier},
};
use crate::secret::protected::{Blank, Protected};

/// Bytes of the longest pattern. A longer form is known by pieces of this size: a text crafted to look like the start of a
/// long secret, over and over, costs one short hash each time; and a secret that a log cut short is still found but for its
/// last piece.
pub(in super::super) const LONGEST: usize = 256;

/// Bytes of the window that is compared before the whole pattern is. No pattern is shorter.
pub(super) const CHECK: usize = 8;

/// A long pattern none of whose windows is shared by fewer others than this is better off among the short ones.
const CROWDED: u32 = 32;

/// The keys of all hashes here: random, for this process only. Without them the tables tell nothing but lengths.
pub(in super::super) struct Keys(Protected<u64>);

impl Keys {
    pub fn random() -> io::Result<Self> {
        let mut keys = Protected::<u64>::zeroed(6);
        // By a system call of its own: a library's function of this name may be missing from a program that is linked statically.
        let mut bytes = Zeroizing::new([0; size_of::<[u64; 6]>()]);
        // getrandom(2): once the pool is ready, up to 256 bytes come whole and uninterrupted.
        if getrandom(&mut bytes[..], GetRandomFlags::empty())? != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (key, bytes) in keys.iter_mut().zip(bytes.as_chunks().0) {
            *key = u64::from_ne_bytes(*bytes);
        }
        keys[1] |= 1;
        Ok(Self(keys))
    }

    pub(super) fn multiplier(&self) -> Multiplier {
        Multiplier { flip: self.0[0], factor: self.0[1] }
    }

    /// A keyed fingerprint of the bytes.
    pub fn tag(&self, bytes: &[u8]) -> [u64; 2] {
        sip128::SipHasher13::new_with_keys(self.0[2], self.0[3]).hash(bytes).as_u64().into()
    }

    pub(super) fn check(&self, window: &[u8]) -> u32 {
        SipHasher13::new_with_keys(self.0[4], self.0[5]).hash(window) as u32
    }

    /// Adds what finds `form`, which has at least [`CHECK`] bytes, to `prints`.
    pub fn print(&self, kind: Form, form: &[u8], crowd: &mut Crowd, prints: &mut Prints) {
        let pieces = form.len().div_ceil(LONGEST);
        for piece in 0..pieces {
            // The last piece ends with the form, and so overlaps the one before.
            let end = form.len().min((piece + 1) * LONGEST);
            let pattern = &form[end.saturating_sub(LONGEST)..end];
            prints.add(self.tag(pattern), kind, |tag| self.make(kind, pattern, tag, crowd));
        }
    }

    fn make(&self, form: Form, pattern: &[u8], tag: [u64; 2], crowd: &mut Crowd) -> Print {
        let by = self.multiplier();
        let spread = Spread::<Long>::of(pattern, by, crowd);
        let mut run = spread.run(tag[0]);
        let mut short = run.is_none();
        if run.as_ref().is_none_or(|run| run.busiest >= CROWDED) {
            let other = Spread::<Short>::of(pattern, by, crowd).run(tag[0]);
            if other.as_ref().map(|run| run.busiest) < run.as_ref().map(|run| run.busiest) || short {
                (run, short) = (other, true);
            }
        }
        let Run { start, marks, .. } = run.unwrap_or_default();
        let taken = start..start + if short { Short::SHORTEST } else { Long::SHORTEST };
        let check_at = spread.quiet_place(taken, tag[1]);
        let check = self.check(&pattern[check_at..check_at + CHECK]);
        let print = Print {
            row: Row { tag, check, owner: 0, offset: start as u16, len: pattern.len() as u16, check_at: check_at as u16, form },
            marks,
            short,
        };
        crowd.join(print.marks());
        print
    }
}

/// What a table keeps of one pattern.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Row {
    /// Tag of the whole pattern.
    pub tag: [u64; 2],
    /// Hash of the window at `check_at`: with it, most texts that only look like the pattern are told from it at once.
    pub check: u32,
    /// Whose pattern: an index into the table's owners.
    pub owner: u32,
    /// Where in the pattern the registered windows begin.
    pub offset: u16,
    pub len: u16,
    pub check_at: u16,
    /// How it is written. Of two that look the same, the plainer one is said.
    pub form: Form,
}

// SAFETY: numbers, and a form: zero is its first variant.
unsafe impl Blank for Row {}

#[cfg(test)]
impl Row {
    pub fn memory(&self) -> Vec<u8> {
        let numbers = [self.offset, self.len, self.check_at].into_iter().flat_map(u16::to_ne_bytes);
        let wide = [self.check, self.owner].into_iter().flat_map(u32::to_ne_bytes);
        self.tag.into_iter().flat_map(u64::to_ne_bytes).chain(wide).chain(numbers).collect()
    }
}

/// What is made of one pattern: its row, and the marks of its registered windows.
#[derive(Clone)]
pub(in super::super) struct Print {
    pub(super) row: Row,
    marks: [u32; MOST_STRIDE],
    pub(super) short: bool,
}

impl Print {
    pub(super) fn marks(&self) -> &[u32] {
        &self.marks[..if self.short { Short::STRIDE } else { Long::STRIDE }]
    }
}

impl Zeroize for Print {
    fn zeroize(&mut self) {
        self.row.tag.zeroize();
        self.row.check.zeroize();
        self.marks.zeroize();
    }
}

/// The prints of one value. The same pattern of two forms is in it once.
pub(in super::super) struct Prints {
    all: Zeroizing<Vec<Print>>,
    places: HashMap<[u64; 2], usize, BuildHasherDefault<ByTag>>,
}

impl Default for Prints {
    /// With room for those of most values: a vector that grows leaves its old self behind.
    fn default() -> Self {
        Self { all: Zeroizing::new(Vec::with_capacity(64)), places: HashMap::with_capacity_and_hasher(64, Default::default()) }
    }
}

impl Prints {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[Print] {
        &self.all
    }

    fn add(&mut self, tag: [u64; 2], form: Form, make: impl FnOnce([u64; 2]) -> Print) {
        match self.places.entry(tag) {
            Entry::Occupied(place) => {
                let row = &mut self.all[*place.get()].row;
                row.form = row.form.min(form);
            }
            Entry::Vacant(place) => {
                place.insert(self.all.len());
                self.all.push(make(tag));
            }
        }
    }
}

/// A tag is a keyed hash already.
#[derive(Default)]
struct ByTag(u64);

impl Hasher for ByTag {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// Of an array, its length.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A run of windows to register.
#[derive(Default)]
struct Run {
    start: usize,
    marks: [u32; MOST_STRIDE],
    /// How many other registered windows look like the most common one here.
    busiest: u32,
}

/// The marks of all windows of a pattern, and how many others each is shared with.
struct Spread<T> {
    marks: [u32; LONGEST],
    shared: [u32; LONGEST],
    windows: usize,
    tier: PhantomData<T>,
}

impl<T: Tier> Spread<T> {
    fn of(pattern: &[u8], by: Multiplier, crowd: &Crowd) -> Self {
        let windows = (pattern.len() + 1).saturating_sub(T::WINDOW);
        let mut spread = Self { marks: [0; LONGEST], shared: [0; LONGEST], windows, tier: PhantomData };
        let (marks, shared) = (&mut spread.marks[..windows], &mut spread.shared[..windows]);
        for (at, (mark, shared)) in marks.iter_mut().zip(shared.iter_mut()).enumerate() {
            *mark = by.mark::<T>(&pattern[at..]);
            *shared = crowd.count(*mark);
        }
        // A pattern that repeats itself (`xxxxxxxx`, `0, 0, 0, `) is found in text that does, at each place of the run. One distance
        // after another, and first whether there is any: that is quick where there is none, as in most.
        for distance in 1..T::STRIDE.min(windows.max(1)) {
            let pairs = || marks.iter().zip(&marks[distance..]).map(|(one, other)| u32::from(one == other));
            if pairs().fold(0, |any, same| any | same) > 0 {
                for (at, same) in pairs().enumerate() {
                    shared[at] += same;
                    shared[at + distance] += same;
                }
            }
        }
        spread
    }

    /// Secrets of a kind begin alike (`sk_live_`, `MIIEvQIB`), and forms of one secret are alike in most places: what is
    /// registered is the run that others share least. Among equals `key` chooses, so that no text can be aimed at it.
    fn run(&self, key: u64) -> Option<Run> {
        let runs = (self.windows + 1).checked_sub(T::STRIDE).filter(|runs| *runs > 0)?;
        // Sums of squares up to each window, so that the cost of a run is a difference.
        let mut sums = [0u32; LONGEST + 1];
        for (at, shared) in self.shared[..self.windows].iter().enumerate() {
            sums[at + 1] = sums[at] + shared * shared;
        }
        let first = (key % runs as u64) as usize;
        let start = least(runs, first, |start| sums[start + T::STRIDE] - sums[start])?;
        let mut marks = [0; MOST_STRIDE];
        marks[..T::STRIDE].copy_from_slice(&self.marks[start..start + T::STRIDE]);
        let busiest = self.shared[start..start + T::STRIDE].iter().copied().max()?;
        Some(Run { start, marks, busiest })
    }
}

impl Spread<Long> {
    /// The place of a window that tells the pattern from its like, apart from those registered if it can be.
    fn quiet_place(&self, taken: Range<usize>, key: u64) -> usize {
        let overlap = |at: usize| taken.end.min(at + CHECK).saturating_sub(taken.start.max(at)) as u32;
        let first = (key % self.windows as u64) as usize;
        least(self.windows, first, |at| 2 * self.shared[at] + overlap(at)).unwrap_or_default()
    }
}

/// The first of `count` places, from `first` on and around, that costs least. One that costs nothing ends the search.
fn least(count: usize, first: usize, cost: impl Fn(usize) -> u32) -> Option<usize> {
    let mut best = None;
    for at in (first..count).chain(0..first) {
        let cost = cost(at);
        if best.is_none_or(|(_, least)| cost < least) {
            best = Some((at, cost));
        }
        if cost == 0 {
            break;
        }
    }
    Some(best?.0)
}

/// How often windows are registered so far, roughly: counters by the leading bits of their marks. It guides a choice only;
/// what was forgotten may still count.
pub(in super::super) struct Crowd {
    counts: Protected<u8>,
    joined: usize,
}

const LEAST_COUNTS: usize = 1 << 12;
const MOST_COUNTS: usize = 1 << 19;

impl Default for Crowd {
    fn default() -> Self {
        Self { counts: Protected::zeroed(LEAST_COUNTS), joined: 0 }
    }
}

impl Crowd {
    fn place(&self, mark: u32) -> usize {
        (mark >> (32 - self.counts.len().trailing_zeros())) as usize
    }

    fn count(&self, mark: u32) -> u32 {
        self.counts[self.place(mark)].into()
    }

    fn join(&mut self, marks: &[u32]) {
        self.joined += marks.len();
        if self.joined > self.counts.len() / 2 {
            self.make_room();
        }
        for mark in marks {
            let place = self.place(*mark);
            self.counts[place] = self.counts[place].saturating_add(1);
        }
    }

    fn make_room(&mut self) {
        if self.counts.len() < MOST_COUNTS {
            let mut wider = Protected::zeroed(self.counts.len() * 2);
            for (at, count) in wider.iter_mut().enumerate() {
                *count = self.counts[at / 2];
            }
            self.counts = wider;
        } else if self.joined > 4 * MOST_COUNTS {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.joined /= 2;
        }
    }
}

//! Finds patterns in text without holding any of them: tables of keyed hashes.
//!
//! For each pattern the tables hold the SipHash of one 8-byte window of it and a 128-bit SipHash tag of the whole. A scan
//! hashes the window at every position; most positions end at one bit of a filter, the rest are looked up, and a find counts
//! only when the tag over the exact length agrees.
//!
//! What this gives: no byte of a secret in the tables, so none in a core dump, in swap or under a grep of the memory. What it
//! does not: whoever reads the tables can read the key beside them, and test guesses; a short or low-entropy value falls to
//! that, as it would to a hash of any kind. Both the filter and the lookup use the bits of the same hash, so that neither
//! tells more than it.

use std::{collections::HashSet, io, ops::Range, sync::Arc};

use siphasher::{sip::SipHasher13, sip128::SipHasher24};
use zeroize::{Zeroize, Zeroizing};

use super::Form;
use crate::name::{SecretName, Version};

/// Bytes of a pattern that a scan looks up. No pattern is shorter.
pub(super) const WINDOW: usize = 8;

/// Bytes of the longest pattern. A longer form is known by pieces of this size: a text crafted to look like the start of a
/// long secret, over and over, costs one short hash each time; and a secret that a log cut short is still found but for its
/// last piece.
pub(super) const LONGEST: usize = 256;

/// Filter bits for each pattern (one position in 64 is looked up in vain), and the most in all: half a megabyte stays in
/// the second-level cache.
const FILTER_BITS: usize = 64;
const MOST_FILTER_BITS: usize = 1 << 22;

/// Tables are merged until each is this many times larger than the next: few tables to look into, and an addition costs a
/// logarithm of what is there.
const GROWTH: usize = 8;

/// The keys of all hashes here: random, for this process only.
pub(super) struct Keys {
    window: [u64; 2],
    tag: [u64; 2],
}

impl Keys {
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        // SAFETY: the pointer and the length are those of one live array that nothing else uses.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        // getrandom(2): once the pool is ready, up to 256 bytes come whole and uninterrupted.
        if got != bytes.len() as isize {
            return Err(io::Error::last_os_error());
        }
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at * 8 + i]));
        Ok(Self { window: [word(0), word(1)], tag: [word(2), word(3)] })
    }

    #[inline]
    fn window(&self, window: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.window[0], self.window[1]).hash(window)
    }

    /// A keyed fingerprint of the bytes.
    pub fn tag(&self, bytes: &[u8]) -> [u64; 2] {
        SipHasher24::new_with_keys(self.tag[0], self.tag[1]).hash(bytes).as_u64().into()
    }

    /// Adds what finds `form`, which has at least [`WINDOW`] bytes, to `prints`.
    pub fn print(&self, kind: Form, form: &[u8], prints: &mut Vec<Print>) {
        let pieces = form.len().div_ceil(LONGEST);
        for piece in 0..pieces {
            // The last piece ends with the form, and so overlaps the one before.
            let end = form.len().min((piece + 1) * LONGEST);
            let pattern = &form[end.saturating_sub(LONGEST)..end];
            let tag = self.tag(pattern);
            // Secrets of a kind begin alike (`sk_live_`, `MIIEvQIB`). A window that the key chooses is seldom shared, and
            // not one that a hostile text can aim at.
            let offset = (tag[0] % (pattern.len() - WINDOW + 1) as u64) as usize;
            let window = self.window(&pattern[offset..offset + WINDOW]);
            prints.push(Print { window, tag, offset: offset as u16, len: pattern.len() as u16, form: kind, owner: 0 });
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.window.zeroize();
        self.tag.zeroize();
    }
}

/// What is kept of one pattern. The order is that of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Print {
    /// Hash of the window at `offset`.
    window: u64,
    offset: u16,
    len: u16,
    /// Tag of the whole pattern.
    tag: [u64; 2],
    /// How it is written. Of two that look the same, the plainer one is said.
    form: Form,
    /// Whose pattern: an index into the table's owners.
    owner: u32,
}

impl Print {
    /// The same pattern of the same owner, whatever form it is called.
    pub fn finds_the_same_as(&self, other: &Self) -> bool {
        (self.window, self.offset, self.len, self.tag, self.owner)
            == (other.window, other.offset, other.len, other.tag, other.owner)
    }
}

impl Zeroize for Print {
    fn zeroize(&mut self) {
        self.window.zeroize();
        self.offset.zeroize();
        self.len.zeroize();
        self.tag.zeroize();
        self.owner.zeroize();
    }
}

/// One version of a secret that a table knows.
#[derive(Clone)]
pub(super) struct Owner {
    pub id: u64,
    pub name: SecretName,
    pub version: Version,
}

/// A find.
pub(super) struct Found<'e> {
    pub range: Range<usize>,
    pub owner: &'e Owner,
    pub form: Form,
}

/// Patterns of some secrets. Never changed once built; wiped when dropped.
pub(super) struct Table {
    owners: Vec<Owner>,
    prints: Zeroizing<Vec<Print>>,
    /// Where in `prints` each value of a hash's leading bits begins.
    starts: Zeroizing<Vec<u32>>,
    filter: Zeroizing<Vec<u64>>,
    start_shift: u32,
    filter_shift: u32,
}

impl Table {
    pub fn build(parts: impl IntoIterator<Item = (Owner, Zeroizing<Vec<Print>>)>) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        let mut prints = Zeroizing::new(Vec::with_capacity(parts.iter().map(|(_, prints)| prints.len()).sum()));
        let mut owners = Vec::with_capacity(parts.len());
        for (owner, part) in parts {
            prints.extend(part.iter().map(|print| Print { owner: owners.len() as u32, ..*print }));
            owners.push(owner);
        }
        Self::index(owners, prints)
    }

    /// One table of what is in all of `tables`, without what `gone` names.
    fn merge(tables: &[Arc<Self>], gone: &HashSet<u64>) -> Self {
        let mut prints = Zeroizing::new(Vec::with_capacity(tables.iter().map(|table| table.prints.len()).sum()));
        let mut owners = Vec::new();
        for table in tables {
            let place: Vec<Option<u32>> = (table.owners.iter())
                .map(|owner| {
                    (!gone.contains(&owner.id)).then(|| owners.push(owner.clone()))?;
                    Some(owners.len() as u32 - 1)
                })
                .collect();
            let kept = |print: &Print| Some(Print { owner: place[print.owner as usize]?, ..*print });
            prints.extend(table.prints.iter().filter_map(kept));
        }
        Self::index(owners, prints)
    }

    fn index(owners: Vec<Owner>, mut prints: Zeroizing<Vec<Print>>) -> Self {
        prints.sort_unstable();
        let bits = |count: usize| count.next_power_of_two().trailing_zeros();
        let start_shift = 64 - bits(prints.len().max(2));
        let filter_shift = 64 - bits((prints.len() * FILTER_BITS).clamp(1 << 10, MOST_FILTER_BITS));
        let mut filter = Zeroizing::new(vec![0u64; (1usize << (64 - filter_shift)) / 64]);
        let mut starts = Zeroizing::new(vec![0u32; (1 << (64 - start_shift)) + 1]);
        for print in prints.iter() {
            let bit = print.window >> filter_shift;
            filter[(bit / 64) as usize] |= 1 << (bit % 64);
            starts[(print.window >> start_shift) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Self { owners, prints, starts, filter, start_shift, filter_shift }
    }

    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let bit = hash >> self.filter_shift;
        self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// Adds the patterns whose window stands in `text` at `at`.
    #[cold]
    fn look_up<'e>(&'e self, keys: &Keys, text: &[u8], at: usize, hash: u64, found: &mut Vec<Found<'e>>) {
        let bucket = (hash >> self.start_shift) as usize;
        let prints = &self.prints[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        let mut last = None;
        for print in prints.iter().filter(|print| print.window == hash) {
            let Some(start) = at.checked_sub(usize::from(print.offset)) else { continue };
            let range = start..start + usize::from(print.len);
            let Some(pattern) = text.get(range.clone()) else { continue };
            // Patterns of one shape stand together, and share one hash of the text.
            let tag = match &last {
                Some((known, tag)) if *known == range => *tag,
                _ => keys.tag(pattern),
            };
            last = Some((range.clone(), tag));
            if tag == print.tag {
                found.push(Found { range, owner: &self.owners[print.owner as usize], form: print.form });
            }
        }
    }
}

/// Tables by falling size. A snapshot: additions make a new one that shares what did not change.
#[derive(Clone, Default)]
pub(super) struct Engine {
    tables: Vec<Arc<Table>>,
}

impl Engine {
    pub fn with(&self, table: Table) -> Self {
        let mut tables = self.tables.clone();
        tables.push(Arc::new(table));
        let size = |tables: &[Arc<Table>]| tables.iter().map(|table| table.prints.len()).sum::<usize>();
        let mut keep = tables.len() - 1;
        while keep > 0 && tables[keep - 1].prints.len() < GROWTH * size(&tables[keep..]) {
            keep -= 1;
        }
        if keep + 1 < tables.len() {
            let merged = Table::merge(&tables[keep..], &HashSet::new());
            tables.splice(keep.., [Arc::new(merged)]);
        }
        Self { tables }
    }

    pub fn without(&self, gone: &HashSet<u64>) -> Self {
        let touched = |table: &Table| table.owners.iter().any(|owner| gone.contains(&owner.id));
        let rebuilt = self.tables.iter().map(|table| match touched(table) {
            true => Arc::new(Table::merge(std::slice::from_ref(table), gone)),
            false => Arc::clone(table),
        });
        Self { tables: rebuilt.filter(|table| !table.prints.is_empty()).collect() }
    }

    /// Adds every occurrence of every pattern in `text`, in no order.
    pub fn scan<'e>(&'e self, keys: &Keys, text: &[u8], found: &mut Vec<Found<'e>>) {
        if self.tables.is_empty() {
            return;
        }
        for (at, window) in text.windows(WINDOW).enumerate() {
            let hash = keys.window(window);
            for table in &self.tables {
                if table.may_have(hash) {
                    table.look_up(keys, text, at, hash, found);
                }
            }
        }
    }

    /// All memory of the tables, as bytes.
    #[cfg(test)]
    pub fn memory(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for table in &self.tables {
            for print in table.prints.iter() {
                for word in [print.window, print.tag[0], print.tag[1]] {
                    all.extend(word.to_ne_bytes());
                }
                all.extend([print.offset, print.len].iter().flat_map(|n| n.to_ne_bytes()));
                all.extend(print.owner.to_ne_bytes());
            }
            all.extend(table.starts.iter().flat_map(|n| n.to_ne_bytes()));
            all.extend(table.filter.iter().flat_map(|n| n.to_ne_bytes()));
        }
        all
    }

    #[cfg(test)]
    pub fn sizes(&self) -> Vec<usize> {
        self.tables.iter().map(|table| table.prints.len()).collect()
    }
}

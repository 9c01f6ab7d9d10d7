//! The second step of a scan: whose pattern it is, if it is one.

use std::{collections::HashSet, ops::Range, sync::Arc};

use zeroize::Zeroize;

use super::{
    Found, Owner,
    print::{CHECK, Keys, Prints, Row},
};
use crate::secret::protected::{Blank, Protected};

/// Patterns of some secrets. Never changed once built; wiped when dropped.
pub(in super::super) struct Table {
    pub(super) owners: Vec<Owner>,
    pub(super) rows: Protected<Row>,
    pub(super) long: Index,
    pub(super) short: Index,
}

impl Table {
    pub fn build(parts: impl IntoIterator<Item = (Owner, Prints)>) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        let prints =
            || parts.iter().enumerate().flat_map(|(owner, (_, prints))| prints.as_slice().iter().map(move |p| (owner, p)));
        let mut rows = Protected::zeroed(prints().count());
        for (row, (owner, print)) in rows.iter_mut().zip(prints()) {
            *row = Row { owner: owner as u32, ..print.row };
        }
        let entries = |short: bool| {
            let of_tier = prints().enumerate().filter(move |(_, (_, print))| print.short == short);
            of_tier.flat_map(|(row, (_, print))| {
                print.marks().iter().enumerate().map(move |(which, mark)| Entry::new(*mark, row as u32, which))
            })
        };
        let (long, short) = (Index::of(&|| entries(false)), Index::of(&|| entries(true)));
        Self { owners: parts.into_iter().map(|(owner, _)| owner).collect(), rows, long, short }
    }

    /// One table of what is in all of `tables`, without what `gone` names.
    pub fn merge(tables: &[Arc<Self>], gone: &HashSet<u64>) -> Self {
        let mut owners = Vec::new();
        let mut rows = Protected::zeroed(tables.iter().map(|table| table.kept(gone)).sum());
        let mut next = 0;
        // Where each row of each table went.
        let mut places: Vec<Vec<Option<u32>>> = Vec::with_capacity(tables.len());
        for table in tables {
            let owner_places: Vec<Option<u32>> = (table.owners.iter())
                .map(|owner| {
                    (!gone.contains(&owner.id)).then(|| owners.push(owner.clone()))?;
                    Some(owners.len() as u32 - 1)
                })
                .collect();
            let place = |row: &Row| {
                let owner = owner_places[row.owner as usize]?;
                rows[next] = Row { owner, ..*row };
                next += 1;
                Some(next as u32 - 1)
            };
            places.push(table.rows.iter().map(place).collect());
        }
        let entries = |index: fn(&Self) -> &Index| {
            let all = tables.iter().zip(&places);
            all.flat_map(move |(table, places)| {
                index(table).entries.iter().filter_map(|entry| Some(entry.moved_to(places[entry.row()]?)))
            })
        };
        let (long, short) = (Index::of(&|| entries(|table| &table.long)), Index::of(&|| entries(|table| &table.short)));
        Self { owners, rows, long, short }
    }

    fn kept(&self, gone: &HashSet<u64>) -> usize {
        self.rows.iter().filter(|row| !gone.contains(&self.owners[row.owner as usize].id)).count()
    }

    /// Adds the patterns one of whose windows stands in the text at one of these places, and has the mark beside it.
    ///
    /// What each place may be is gathered before any of it is compared, so that one miss of the cache does not wait for
    /// another.
    pub(super) fn look_up<'e>(
        &'e self,
        index: &Index,
        checks: &mut Checks<'_>,
        places: &[(usize, u32)],
        found: &mut Finds<'_, 'e>,
    ) {
        let mut candidates = std::mem::take(&mut checks.candidates);
        for (at, mark) in places {
            candidates.extend(index.bucket(*mark).iter().filter(|entry| entry.mark == *mark).map(|entry| (*at, *entry)));
        }
        for (at, entry) in candidates.drain(..) {
            let row = &self.rows[entry.row()];
            let Some(start) = at.checked_sub(usize::from(row.offset) + entry.which()) else { continue };
            let range = start..start + usize::from(row.len);
            let owner = &self.owners[row.owner as usize];
            if range.end <= checks.text.len() && !found.covered(owner, &range) && checks.agree(row, &range) {
                found.add(Found { range, owner, form: row.form });
            }
        }
        checks.candidates = candidates;
    }
}

/// The registered windows of one tier, by their marks.
pub(super) struct Index {
    pub entries: Protected<Entry>,
    /// Where in `entries` each value of a mark's leading bits begins.
    starts: Protected<u32>,
    shift: u32,
}

/// One registered window.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Entry {
    pub mark: u32,
    /// The row, and in the low bits which window of its run.
    place: u32,
}

// SAFETY: two numbers.
unsafe impl Blank for Entry {}

const WHICH_BITS: u32 = 3;

impl Entry {
    fn new(mark: u32, row: u32, which: usize) -> Self {
        Self { mark, place: row << WHICH_BITS | which as u32 }
    }

    fn row(self) -> usize {
        (self.place >> WHICH_BITS) as usize
    }

    fn which(self) -> usize {
        (self.place & ((1 << WHICH_BITS) - 1)) as usize
    }

    fn moved_to(self, row: u32) -> Self {
        Self::new(self.mark, row, self.which())
    }
}

impl Index {
    /// Sorts by counting: two passes over the entries. Those of one bucket stay in order.
    fn of<I: Iterator<Item = Entry>>(entries: &dyn Fn() -> I) -> Self {
        let count = entries().count();
        let buckets = count.next_power_of_two().max(2);
        let shift = 32 - buckets.trailing_zeros();
        let mut starts = Protected::<u32>::zeroed(if count == 0 { 0 } else { buckets + 1 });
        for entry in entries() {
            starts[(entry.mark >> shift) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut sorted = Protected::<Entry>::zeroed(count);
        for entry in entries() {
            let next = &mut starts[(entry.mark >> shift) as usize];
            sorted[*next as usize] = entry;
            *next += 1;
        }
        // Each start is now the next one's: move them on.
        if count > 0 {
            starts.copy_within(..buckets, 1);
            starts[0] = 0;
        }
        Self { entries: sorted, starts, shift }
    }

    pub fn marks(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|entry| entry.mark)
    }

    fn bucket(&self, mark: u32) -> &[Entry] {
        let bucket = (mark >> self.shift) as usize;
        match self.starts.get(bucket..bucket + 2) {
            Some(ends) => &self.entries[ends[0] as usize..ends[1] as usize],
            None => &[],
        }
    }

    #[cfg(test)]
    pub fn memory(&self) -> Vec<u8> {
        let entries = self.entries.iter().flat_map(|entry| [entry.mark, entry.place]);
        entries.chain(self.starts.iter().copied()).flat_map(u32::to_ne_bytes).collect()
    }
}

/// Compares places of one text with what is known of patterns.
pub(super) struct Checks<'t> {
    pub keys: &'t Keys,
    pub text: &'t [u8],
    /// The last windows hashed, by the low bits of their places: in text that repeats itself they are the same all over.
    last: [Option<([u8; CHECK], u32)>; 8],
    /// Kept for its room.
    candidates: Vec<(usize, Entry)>,
}

impl<'t> Checks<'t> {
    pub fn of(keys: &'t Keys, text: &'t [u8]) -> Self {
        Self { keys, text, last: [None; 8], candidates: Vec::new() }
    }

    /// One window tells most texts from the pattern; the tag over all of it tells the rest.
    fn agree(&mut self, row: &Row, range: &Range<usize>) -> bool {
        let at = range.start + usize::from(row.check_at);
        let Some(window) = self.text[at..].first_chunk::<CHECK>() else { return false };
        let last = &mut self.last[at % 8];
        let check = match last {
            Some((same, check)) if same == window => *check,
            _ => last.insert((*window, self.keys.check(window))).1,
        };
        check == row.check && self.keys.tag(&self.text[range.clone()]) == row.tag
    }
}

impl Drop for Checks<'_> {
    fn drop(&mut self) {
        self.last.iter_mut().flatten().for_each(|(window, _)| window.zeroize());
    }
}

/// What one scan has found so far.
pub(super) struct Finds<'f, 'e> {
    all: &'f mut Vec<Found<'e>>,
    before: usize,
}

impl<'f, 'e> Finds<'f, 'e> {
    pub fn new(all: &'f mut Vec<Found<'e>>) -> Self {
        Self { before: all.len(), all }
    }

    fn last(&mut self) -> Option<&mut Found<'e>> {
        self.all[self.before..].last_mut()
    }

    /// Whether the range lies within the last find, and is the same owner's. In a run of one letter each place is a find of
    /// `aaaaaaaa`: it takes one look to extend the last over the next few, and no more.
    fn covered(&mut self, owner: &Owner, range: &Range<usize>) -> bool {
        let within = |last: &Range<usize>| last.start <= range.start && range.end <= last.end;
        self.last().is_some_and(|last| std::ptr::eq(last.owner, owner) && within(&last.range))
    }

    fn add(&mut self, one: Found<'e>) {
        let range = one.range.clone();
        match self.last() {
            Some(last)
                if std::ptr::eq(last.owner, one.owner)
                    && last.form == one.form
                    // Finds that only touch stay two: between them, in the text behind a view, there may be a line end.
                    && range.start < last.range.end
                    && last.range.start < range.end =>
            {
                last.range = last.range.start.min(range.start)..last.range.end.max(range.end);
            }
            _ => self.all.push(one),
        }
    }
}

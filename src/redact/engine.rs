//! Finds patterns in text without holding any of them: tables of keyed hashes.
//!
//! A scan has three steps, each slower and seldom reached from the one before. [`filter`]: a few bytes of the text, one probe
//! in every eight (or four) bytes, are hashed by a multiplication and looked for in a bitmap. [`table`]: what is registered
//! under that hash is told by a SipHash of one more window. Last, the text over the pattern's exact length must have the
//! pattern's 128-bit SipHash tag: only that is a find. All hashes are keyed, at random for each process.
//!
//! # What the tables give away
//!
//! There is no byte of a secret in them, so none in a core dump, in swap or under a grep of the memory; they lie in protected
//! pages and are wiped. Without the keys they tell how many patterns there are and how long each is.
//!
//! With the keys, which whoever reads all of the process's memory has too, they are hashes like any other: guesses can be
//! tested, and a short or low-entropy value falls to that. The cheap hash makes it easier than SipHash alone would: for each
//! pattern the index keeps 32 bits of it for eight overlapping windows, and the bitmap up to 28 bits of each without their
//! order. A product folded onto itself is not linear, but nor is it a cipher: take it that who has keys and tables can work
//! out the 15 bytes that a pattern's windows lie in (8 bytes of a short pattern), and then guess from there. It is a second
//! line of defence; the first is that nobody reads this memory.
//!
//! # What a hostile text can do
//!
//! It cannot know which places of a pattern are registered, nor which texts look alike to the filter. Text made of pieces of
//! secrets costs one look-up in every eight bytes at worst; what is looked up is kept short by registering places that
//! patterns share least ([`mod@print`]). Secrets that repeat themselves (`aaaaaaaa`) are the slowest, and bounded in the same way.

mod filter;
mod print;
mod table;

use std::{collections::HashSet, ops::Range, sync::Arc};

use super::Form;
use crate::name::{SecretName, Version};
use filter::{Filter, Hits, Long, Short, Tier};
pub(super) use print::{Crowd, Keys, LONGEST, Prints};
pub(super) use table::Table;
use table::{Checks, Finds, Index};

/// Tables are merged until each is this many times larger than the next: few tables to look into, and an addition costs a
/// logarithm of what is there.
const GROWTH: usize = 8;

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

/// Tables by falling size, and one filter of each tier for all of them. A snapshot: additions make a new one that shares what
/// did not change.
#[derive(Clone, Default)]
pub(super) struct Engine {
    tables: Vec<Arc<Table>>,
    long: Side,
    short: Side,
}

impl Engine {
    pub fn with(&self, table: Table) -> Self {
        let mut tables = self.tables.clone();
        tables.push(Arc::new(table));
        let long = self.long.with_last_of(&tables, |table| &table.long);
        let short = self.short.with_last_of(&tables, |table| &table.short);
        let size = |tables: &[Arc<Table>]| tables.iter().map(|table| table.rows.len()).sum::<usize>();
        let mut keep = tables.len() - 1;
        while keep > 0 && tables[keep - 1].rows.len() < GROWTH * size(&tables[keep..]) {
            keep -= 1;
        }
        if keep + 1 < tables.len() {
            let merged = Table::merge(&tables[keep..], &HashSet::new());
            tables.splice(keep.., [Arc::new(merged)]);
        }
        Self { tables, long, short }
    }

    pub fn without(&self, gone: &HashSet<u64>) -> Self {
        let touched = |table: &Table| table.owners.iter().any(|owner| gone.contains(&owner.id));
        let rebuilt = self.tables.iter().map(|table| match touched(table) {
            true => Arc::new(Table::merge(std::slice::from_ref(table), gone)),
            false => Arc::clone(table),
        });
        let tables: Vec<_> = rebuilt.filter(|table| !table.rows.is_empty()).collect();
        let (long, short) = (Side::of(&tables, |table| &table.long), Side::of(&tables, |table| &table.short));
        Self { tables, long, short }
    }

    /// Adds every occurrence of every pattern in `text`, in no order. Those of one pattern that overlap may be one.
    pub fn scan<'e>(&'e self, keys: &Keys, text: &[u8], found: &mut Vec<Found<'e>>) {
        let (mut hits, mut checks) = (Hits::none(), Checks::of(keys, text));
        let mut finds = Finds::new(found);
        self.scan_tier::<Long>(&self.long, |table| &table.long, &mut hits, &mut checks, &mut finds);
        self.scan_tier::<Short>(&self.short, |table| &table.short, &mut hits, &mut checks, &mut finds);
    }

    fn scan_tier<'e, T: Tier>(
        &'e self,
        side: &Side,
        index: fn(&Table) -> &Index,
        hits: &mut Hits,
        checks: &mut Checks<'_>,
        finds: &mut Finds<'_, 'e>,
    ) {
        let Some(filter) = &side.0 else { return };
        let (by, text) = (checks.keys.multiplier(), checks.text);
        let mut at = 0;
        while at < text.len() {
            at = filter.probe::<T>(by, text, at, hits);
            let places = hits.with_marks(|at| by.mark::<T>(&text[at..]));
            self.tables.iter().for_each(|table| table.look_up(index(table), checks, places, finds));
        }
    }

    /// All memory of the tables, as bytes.
    #[cfg(test)]
    pub fn memory(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for table in &self.tables {
            all.extend(table.rows.iter().flat_map(|row| row.memory()));
            all.extend([&table.long, &table.short].iter().flat_map(|index| index.memory()));
        }
        all.extend([&self.long, &self.short].iter().filter_map(|side| side.0.as_ref()).flat_map(|filter| filter.memory()));
        all
    }

    #[cfg(test)]
    pub fn sizes(&self) -> Vec<usize> {
        self.tables.iter().map(|table| table.rows.len()).collect()
    }
}

/// The filter of one tier; none where no table has patterns of it.
#[derive(Clone, Default)]
struct Side(Option<Arc<Filter>>);

impl Side {
    fn of(tables: &[Arc<Table>], index: fn(&Table) -> &Index) -> Self {
        let live = tables.iter().map(|table| index(table).entries.len()).sum();
        if live == 0 {
            return Self(None);
        }
        let mut filter = Filter::for_windows(live);
        tables.iter().for_each(|table| filter.add(index(table).marks()));
        Self(Some(Arc::new(filter)))
    }

    /// Knows the last of the tables too.
    fn with_last_of(&self, tables: &[Arc<Table>], index: fn(&Table) -> &Index) -> Self {
        let Some(new) = tables.last().map(|table| index(table)).filter(|new| !new.entries.is_empty()) else {
            return self.clone();
        };
        let live = tables.iter().map(|table| index(table).entries.len()).sum();
        match self.0.as_ref().and_then(|filter| filter.with(new.entries.len(), live, new.marks())) {
            Some(filter) => Self(Some(Arc::new(filter))),
            None => Self::of(tables, index),
        }
    }
}

#[cfg(test)]
mod tests;

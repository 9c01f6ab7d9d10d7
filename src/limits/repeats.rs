//! What happens again and again, told seldom and counted exactly: the first of a kind at once, and what comes after it summed up, at
//! first after one interval, then ever more seldom. A kind that was quiet for an interval is told at once again.
//!
//! There are never more kinds than there is room for: what has no room is summed up together. So a caller who makes things up can fill
//! neither a log nor the memory, and no count is lost.

use std::{collections::BTreeMap, time::Duration};

/// Events of kinds `K`, of which the latest `E` stands for all.
#[derive(Debug)]
pub struct Repeats<K, E> {
    seen: BTreeMap<K, Seen<E>>,
    /// What has no room of its own.
    others: Option<Seen<E>>,
    most: usize,
    intervals: Intervals,
}

/// How long to be silent about what is told already.
#[derive(Debug, Clone, Copy)]
struct Intervals {
    shortest: Duration,
    longest: Duration,
}

#[derive(Debug)]
struct Seen<E> {
    total: u64,
    told_at: Duration,
    interval: Duration,
    /// What has not been told yet: how many, and one that stands for them.
    untold: Option<(u64, E)>,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<E> {
    /// One that stands for all of them.
    pub event: E,
    /// How many there were since the last was told.
    pub count: u64,
    /// How many there were in all, as far as is remembered: a kind is forgotten when it has been quiet for long.
    pub total: u64,
    /// `true`: kinds that had no room of their own, summed up together.
    pub others: bool,
}

impl<K: Ord + Clone, E> Repeats<K, E> {
    /// Tells again after `shortest` at first and `longest` at last, of `most` kinds apart.
    pub fn new(shortest: Duration, longest: Duration, most: usize) -> Self {
        Self { seen: BTreeMap::new(), others: None, most, intervals: Intervals { shortest, longest } }
    }

    /// Counts so many, and answers what is to be told now. `make` makes the event that stands for those of an interval; `merge` adds
    /// another to it. `now` is any monotonic time since a fixed point.
    pub fn add(
        &mut self,
        kind: &K,
        count: u64,
        now: Duration,
        make: impl FnOnce() -> E,
        merge: impl FnOnce(&mut E),
    ) -> Option<Told<E>> {
        let intervals = self.intervals;
        if let Some(known) = self.seen.get_mut(kind) {
            return known.add(count, now, intervals, make, merge);
        }
        if self.seen.len() >= self.most {
            self.forget_quiet(now);
        }
        if self.seen.len() < self.most {
            self.seen.insert(kind.clone(), Seen::first(count, now, intervals));
            return Some(Told { event: make(), count, total: count, others: false });
        }
        let told = match &mut self.others {
            Some(others) => others.add(count, now, intervals, make, merge),
            None => {
                self.others = Some(Seen::first(count, now, intervals));
                Some(Told { event: make(), count, total: count, others: true })
            }
        };
        told.map(Told::of_others)
    }

    /// What has waited long enough.
    pub fn due(&mut self, now: Duration) -> Vec<Told<E>> {
        let intervals = self.intervals;
        let told = self.seen.values_mut().filter_map(|seen| seen.due(now, intervals));
        let others = self.others.iter_mut().filter_map(|seen| seen.due(now, intervals)).map(Told::of_others);
        told.chain(others).collect()
    }

    /// All that has not been told yet: the last there is.
    pub fn finish(&mut self) -> Vec<Told<E>> {
        let told = self.seen.values_mut().filter_map(Seen::tell);
        told.chain(self.others.iter_mut().filter_map(Seen::tell).map(Told::of_others)).collect()
    }

    /// Exact, by kind, of those that are remembered.
    pub fn totals(&self) -> BTreeMap<K, u64> {
        self.seen.iter().map(|(kind, seen)| (kind.clone(), seen.total)).collect()
    }

    /// Whatever is told, and has not come again for the longest interval.
    fn forget_quiet(&mut self, now: Duration) {
        let longest = self.intervals.longest;
        self.seen.retain(|_, seen| seen.untold.is_some() || now.saturating_sub(seen.told_at) < longest);
    }
}

impl<E> Seen<E> {
    fn first(count: u64, now: Duration, intervals: Intervals) -> Self {
        Self { total: count, told_at: now, interval: intervals.shortest, untold: None }
    }

    fn add(
        &mut self,
        count: u64,
        now: Duration,
        intervals: Intervals,
        make: impl FnOnce() -> E,
        merge: impl FnOnce(&mut E),
    ) -> Option<Told<E>> {
        self.total = self.total.saturating_add(count);
        match &mut self.untold {
            Some((untold, event)) => {
                *untold = untold.saturating_add(count);
                merge(event);
            }
            None => {
                if now.saturating_sub(self.told_at) >= self.interval {
                    // It was quiet: as good as new.
                    (self.told_at, self.interval) = (now, intervals.shortest);
                    return Some(Told { event: make(), count, total: self.total, others: false });
                }
                self.untold = Some((count, make()));
            }
        }
        self.due(now, intervals)
    }

    fn due(&mut self, now: Duration, intervals: Intervals) -> Option<Told<E>> {
        if now.saturating_sub(self.told_at) < self.interval {
            return None;
        }
        let told = self.tell()?;
        (self.told_at, self.interval) = (now, (self.interval * 2).min(intervals.longest));
        Some(told)
    }

    fn tell(&mut self) -> Option<Told<E>> {
        let (count, event) = self.untold.take()?;
        Some(Told { event, count, total: self.total, others: false })
    }
}

impl<E> Told<E> {
    fn of_others(self) -> Self {
        Self { others: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn repeats(most: usize) -> Repeats<u32, u32> {
        Repeats::new(SECOND * 10, SECOND * 60, most)
    }

    fn add(repeats: &mut Repeats<u32, u32>, kind: u32, at: u32) -> Option<(u64, u64)> {
        let told = repeats.add(&kind, 1, SECOND * at, || at, |latest| *latest = at);
        told.map(|told| (told.count, told.total))
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_ever_more_seldom() {
        let mut repeats = repeats(10);
        assert_eq!(add(&mut repeats, 1, 100), Some((1, 1)));
        let mut told = Vec::new();
        for second in 101..=400 {
            told.extend(add(&mut repeats, 1, second).map(|(count, _)| (second, count)));
        }
        // 10, 20, 40, and then 60 seconds.
        assert_eq!(told, [(110, 10), (130, 20), (170, 40), (230, 60), (290, 60), (350, 60)]);
        let last = repeats.finish();
        assert_eq!(last, [Told { event: 400, count: 50, total: 301, others: false }]);
        assert!(repeats.finish().is_empty(), "nothing is told twice");
    }

    #[test]
    fn after_a_quiet_time_the_next_is_told_at_once() {
        let mut repeats = repeats(10);
        add(&mut repeats, 1, 0);
        (1..40).for_each(|at| _ = add(&mut repeats, 1, at));
        assert_eq!(repeats.due(SECOND * 200).len(), 1);
        assert!(repeats.due(SECOND * 300).is_empty());
        assert_eq!(add(&mut repeats, 1, 301), Some((1, 41)));
        assert_eq!(add(&mut repeats, 1, 302), None);
        assert_eq!(repeats.due(SECOND * 311).len(), 1, "and the intervals begin anew");
    }

    #[test]
    fn kinds_without_room_are_summed_up_together() {
        let mut repeats = repeats(100);
        let told: Vec<_> = (0..10_000).filter_map(|kind| repeats.add(&kind, 1, SECOND, || kind, |_| ())).collect();
        assert_eq!(told.len(), 101);
        assert!(told[100].others && !told[99].others);
        assert_eq!(repeats.seen.len(), 100);
        let last = repeats.finish();
        assert_eq!((last.len(), last[0].count, last[0].others), (1, 9899, true));
        // Later there is room again.
        assert_eq!(add(&mut repeats, 70_000, 120), Some((1, 1)));
    }

    proptest! {
        /// However events come, what is told adds up to what came.
        #[test]
        fn no_count_is_lost(most in 1..8usize, events in prop::collection::vec((0..12u32, 1..50u64, 0..30u64, any::<bool>()), 0..400)) {
            let mut repeats = repeats(most);
            let (mut now, mut came, mut told) = (Duration::ZERO, 0, 0);
            for (kind, count, seconds, look) in events {
                now += Duration::from_secs(seconds);
                came += count;
                told += repeats.add(&kind, count, now, || kind, |_| ()).map_or(0, |told| told.count);
                if look {
                    told += repeats.due(now).iter().map(|told| told.count).sum::<u64>();
                }
                prop_assert!(repeats.seen.len() <= most);
            }
            told += repeats.finish().iter().map(|told| told.count).sum::<u64>();
            prop_assert_eq!(told, came);
        }
    }
}

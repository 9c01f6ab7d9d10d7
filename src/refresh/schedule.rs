//! When to check what. Pure: time comes in as the time since the schedule was made, chance as a number from 0 to 1.
//!
//! What is wanted of a source is checked in groups, each at its own place in the interval, so that checks are spread over it and stay
//! spread. While a source cannot be reached one group at a time is tried, later and later; when it answers again the groups that are
//! overdue have their turn one after the other, and all are back in their places.

use std::time::Duration;

/// The wait after the first failure. Each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The checks of one source.
#[derive(Debug)]
pub struct Schedule {
    every: Duration,
    groups: Vec<Group>,
    outage: Option<Retry>,
}

#[derive(Debug)]
struct Group {
    /// Its place in the interval.
    phase: Duration,
    due: Duration,
    retry: Option<Retry>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    failures: u32,
    at: Duration,
}

/// How a check of a group went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// The source said something about each secret. `within`: something in it must be checked by then.
    Well { within: Option<Duration> },
    /// Of some it said nothing.
    InPart { retry_after: Option<Duration> },
    /// It said nothing of any.
    Unreachable { retry_after: Option<Duration> },
}

impl Schedule {
    /// `chance` gives the first group's place: two daemons that start together do not check together.
    pub fn new(groups: usize, every: Duration, chance: f64) -> Self {
        let place = |group: usize| every.mul_f64((group as f64 + chance.clamp(0.0, 1.0)) / groups as f64);
        let group = |group| Group { phase: place(group), due: place(group), retry: None };
        Self { every, groups: (0..groups).map(group).collect(), outage: None }
    }

    /// The load before found nobody there: what it lacks is wanted as soon as somebody is.
    pub fn begin_in_outage(&mut self) {
        self.all_due(Duration::ZERO);
        self.outage = Some(Retry { failures: 1, at: FIRST_WAIT });
    }

    /// The group to check next, and when.
    pub fn next(&self) -> Option<(usize, Duration)> {
        let when = |group: &Group| group.retry.map_or(group.due, |retry| retry.at);
        let first = (0..self.groups.len()).min_by_key(|group| when(&self.groups[*group]))?;
        let at = self.outage.map_or(when(&self.groups[first]), |outage| outage.at);
        Some((first, at))
    }

    /// When this group will be checked, if all goes well.
    pub fn due(&self, group: usize) -> Option<Duration> {
        let due = self.groups.get(group).map(|group| group.retry.map_or(group.due, |retry| retry.at))?;
        Some(self.outage.map_or(due, |outage| due.max(outage.at)))
    }

    /// Takes note of a check that ended at `now`.
    pub fn checked(&mut self, group: usize, went: Went, now: Duration, chance: f64) {
        let every = self.every;
        let Some(checked) = self.groups.get_mut(group) else { return };
        match went {
            Went::Well { within } => {
                self.outage = None;
                checked.retry = None;
                checked.due = next_turn(checked.phase, every, now, chance);
                if let Some(within) = within {
                    checked.due = checked.due.min(now + within.mul_f64(0.8 + 0.2 * chance));
                }
            }
            Went::InPart { retry_after } => {
                self.outage = None;
                checked.retry = Some(later(checked.retry, retry_after, every, now, chance));
            }
            Went::Unreachable { retry_after } => self.outage = Some(later(self.outage, retry_after, every, now, chance)),
        }
    }

    /// Everything is due: nobody knows how long the host has slept.
    pub fn all_due(&mut self, now: Duration) {
        self.outage = None;
        for group in &mut self.groups {
            group.due = group.due.min(now);
        }
    }
}

/// The group's next place in the interval, give or take a twentieth of it, and not before half of it has passed.
fn next_turn(phase: Duration, every: Duration, now: Duration, chance: f64) -> Duration {
    let from = now + every / 2;
    let turns = from.saturating_sub(phase).as_secs_f64() / every.as_secs_f64();
    let turn = phase + every.mul_f64(turns.ceil());
    (turn + every.mul_f64(chance * 0.1)).saturating_sub(every.mul_f64(0.05)).max(from)
}

fn later(before: Option<Retry>, asked: Option<Duration>, every: Duration, now: Duration, chance: f64) -> Retry {
    let failures = before.map_or(0, |retry| retry.failures).saturating_add(1);
    let longest = LONGEST_WAIT.min(every.max(FIRST_WAIT));
    let wait = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(longest).mul_f64(0.5 + 0.5 * chance);
    // A source may ask for patience, but not for so much that nobody would look at it again.
    Retry { failures, at: now + wait.max(asked.unwrap_or_default().min(Duration::from_secs(600))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(300);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn groups_are_spread_and_stay_spread() {
        let mut schedule = Schedule::new(50, EVERY, 0.5);
        let (mut now, mut times) = (Duration::ZERO, vec![Vec::new(); 50]);
        while now < seconds(3600) {
            let (group, at) = schedule.next().unwrap();
            now = now.max(at);
            times[group].push(now);
            schedule.checked(group, Went::Well { within: None }, now, (now.subsec_nanos() % 100) as f64 / 100.0);
        }
        for group in &times {
            assert!((11..=13).contains(&group.len()), "once in each interval, not {} times in twelve", group.len());
            assert!(group.windows(2).all(|pair| pair[1] - pair[0] > seconds(250) && pair[1] - pair[0] < seconds(350)));
        }
        let mut all: Vec<_> = times.concat();
        all.sort();
        let busiest = all.windows(12).map(|window| window[11] - window[0]).min().unwrap();
        assert!(busiest > seconds(20), "twelve checks within {busiest:?}");
    }

    #[test]
    fn an_outage_is_tried_later_and_later_and_then_all_catch_up() {
        let mut schedule = Schedule::new(20, EVERY, 0.0);
        let (mut now, mut tries) = (Duration::ZERO, Vec::new());
        while now < seconds(600) {
            let (group, at) = schedule.next().unwrap();
            now = now.max(at);
            schedule.checked(group, Went::Unreachable { retry_after: None }, now, 1.0);
            tries.push(now);
        }
        let waits: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(&waits[..7], [1, 2, 4, 8, 16, 32, 60]);
        assert!(tries.len() < 17, "{} tries in ten minutes", tries.len());
        let mut caught_up = std::collections::BTreeSet::new();
        while let Some((group, at)) = schedule.next().filter(|(_, at)| *at <= now.max(tries[tries.len() - 1] + seconds(61))) {
            now = now.max(at);
            assert!(caught_up.insert(group), "no group twice");
            schedule.checked(group, Went::Well { within: None }, now, 0.5);
        }
        assert_eq!(caught_up.len(), 20);
        let dues: std::collections::BTreeSet<_> = (0..20).map(|group| schedule.due(group).unwrap()).collect();
        assert!(dues.len() == 20 && *dues.last().unwrap() - *dues.first().unwrap() > seconds(200), "spread again");
    }

    #[test]
    fn what_is_asked_for_is_kept_to() {
        let mut schedule = Schedule::new(2, EVERY, 0.0);
        schedule.checked(0, Went::Well { within: Some(seconds(10)) }, seconds(1), 0.5);
        assert_eq!(schedule.due(0), Some(seconds(10)));
        schedule.checked(0, Went::InPart { retry_after: Some(seconds(30)) }, seconds(10), 0.5);
        assert_eq!(schedule.due(0), Some(seconds(40)));
        schedule.checked(1, Went::Unreachable { retry_after: Some(seconds(90_000)) }, seconds(10), 0.5);
        assert_eq!(schedule.next(), Some((0, seconds(610))));
        schedule.all_due(seconds(20));
        assert!(schedule.next().unwrap().1 <= seconds(40));
        assert_eq!(Schedule::new(0, EVERY, 0.0).next(), None);
    }

    proptest! {
        #[test]
        fn a_turn_is_never_early_and_never_missed(phase in 0u64..300, now in 0u64..1_000_000, chance in 0.0..=1.0) {
            let turn = next_turn(seconds(phase), EVERY, seconds(now), chance);
            prop_assert!(turn >= seconds(now) + EVERY / 2);
            prop_assert!(turn <= seconds(now.max(phase)) + EVERY.mul_f64(1.6));
        }
    }
}

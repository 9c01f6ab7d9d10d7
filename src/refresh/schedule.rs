//! When to check what. Pure: time comes in as the time since the schedule was made, chance as a number from 0 to 1.
//!
//! What is wanted of a source is checked in groups, each at its own place in the interval, so that checks are spread over it and stay
//! spread. While a source cannot be reached one group at a time is tried, later and later, and another one each time: where it is one
//! group that fails and not the source, the others go on. When it answers again the groups that are overdue have their turn one after
//! the other, and all are back in their places.

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
    /// Tries in this outage.
    tries: u64,
}

#[derive(Debug)]
struct Group {
    /// Its place in the interval.
    phase: Duration,
    due: Duration,
    /// It failed by itself, whatever became of the others.
    retry: Option<Retry>,
    /// The last try in this outage that was its own; 0 for none.
    tried: u64,
}

impl Group {
    fn when(&self) -> Duration {
        self.retry.map_or(self.due, |retry| retry.at)
    }
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
    /// There was nothing to ask.
    Idle,
}

impl Schedule {
    /// `chance` gives the first group's place, anywhere in the interval: two daemons that start together do not check together, and of
    /// a schedule that is made anew again and again no group is always the last.
    pub fn new(groups: usize, every: Duration, chance: f64) -> Self {
        let place = |group: usize| every.mul_f64((group as f64 / groups as f64 + chance.clamp(0.0, 1.0)).fract());
        let group = |group| Group { phase: place(group), due: place(group), retry: None, tried: 0 };
        Self { every, groups: (0..groups).map(group).collect(), outage: None, tries: 0 }
    }

    /// The load before found nobody there: what it lacks is wanted as soon as somebody is.
    pub fn begin_in_outage(&mut self) {
        self.all_due(Duration::ZERO);
        self.outage = Some(Retry { failures: 1, at: FIRST_WAIT });
    }

    /// This group is wanted by then.
    pub fn due_by(&mut self, group: usize, at: Duration) {
        if let Some(group) = self.groups.get_mut(group) {
            group.due = group.due.min(at);
        }
    }

    /// When the source is tried again, where it cannot be reached.
    pub fn next_try(&self) -> Option<Duration> {
        self.outage.map(|outage| outage.at)
    }

    /// Has this group failed again where the others do not? Then it is no outage of the source.
    pub fn fails_alone(&self, group: usize) -> bool {
        let again = self.groups.get(group).and_then(|group| group.retry).is_some_and(|retry| retry.failures > 1);
        again && self.groups.len() > 1 && self.outage.is_none_or(|outage| outage.failures == 1)
    }

    /// The group to check next, and when.
    pub fn next(&self) -> Option<(usize, Duration)> {
        let key = |group: &usize| (self.groups[*group].tried, self.groups[*group].when());
        let first = (0..self.groups.len()).min_by_key(key)?;
        let at = self.outage.map_or(self.groups[first].when(), |outage| outage.at);
        Some((first, at))
    }

    /// When this group will be checked, if the source can be reached then.
    pub fn due(&self, group: usize) -> Option<Duration> {
        self.groups.get(group).map(Group::when)
    }

    /// Takes note of a check that ended at `now`.
    pub fn checked(&mut self, group: usize, went: Went, now: Duration, chance: f64) {
        let every = self.every;
        if matches!(went, Went::Well { .. } | Went::InPart { .. }) {
            self.end_outage(group);
        }
        let Some(checked) = self.groups.get_mut(group) else { return };
        match went {
            Went::Well { within } => {
                checked.retry = None;
                checked.due = next_turn(checked.phase, every, now, chance);
                if let Some(within) = within {
                    checked.due = checked.due.min(now + within.mul_f64(0.8 + 0.2 * chance));
                }
            }
            Went::InPart { retry_after } => checked.retry = Some(later(checked.retry, retry_after, every, now, chance)),
            Went::Unreachable { retry_after } => {
                // The first to fail may be the only one that does, and must not be in the others' way then.
                if self.outage.is_none() || checked.retry.is_some() {
                    checked.retry = Some(later(checked.retry, retry_after, every, now, chance));
                }
                self.try_another(group, retry_after, now, chance);
            }
            Went::Idle => {
                checked.due = next_turn(checked.phase, every, now, chance);
                if self.outage.is_some() {
                    self.try_another(group, None, now, chance);
                }
            }
        }
    }

    fn try_another(&mut self, group: usize, retry_after: Option<Duration>, now: Duration, chance: f64) {
        self.tries += 1;
        self.groups[group].tried = self.tries;
        self.outage = Some(later(self.outage, retry_after, self.every, now, chance));
    }

    /// This group had an answer.
    fn end_outage(&mut self, group: usize) {
        if self.outage.take().is_none() {
            return;
        }
        // It had none before: so it was the source that failed, and no group is to blame.
        let was_the_source = self.groups.get(group).is_some_and(|group| group.tried > 0);
        for group in &mut self.groups {
            group.tried = 0;
            group.retry = group.retry.filter(|_| !was_the_source);
        }
        self.tries = 0;
    }

    /// Everything is due: nobody knows how long the host has slept.
    pub fn all_due(&mut self, now: Duration) {
        self.outage = None;
        self.tries = 0;
        for group in &mut self.groups {
            *group = Group { due: group.due.min(now), retry: None, tried: 0, ..*group };
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
        assert_eq!(schedule.next_try(), None);
        schedule.checked(1, Went::Unreachable { retry_after: Some(seconds(90_000)) }, seconds(10), 0.5);
        assert_eq!(schedule.next(), Some((0, seconds(610))));
        schedule.all_due(seconds(20));
        assert!(schedule.next().unwrap().1 <= seconds(40));
        assert_eq!(Schedule::new(0, EVERY, 0.0).next(), None);
    }

    /// Runs a schedule for this long; `answers` says how a check of a group at a time goes. How often each was checked well, and all tries.
    fn run(schedule: &mut Schedule, time: Duration, mut answers: impl FnMut(usize, Duration) -> Went) -> (Vec<u32>, usize) {
        let (mut now, mut well, mut tries) = (Duration::ZERO, vec![0; schedule.groups.len()], 0);
        while now < time {
            let (group, at) = schedule.next().unwrap();
            now = now.max(at);
            let went = answers(group, now);
            well[group] += u32::from(matches!(went, Went::Well { .. }));
            tries += 1;
            schedule.checked(group, went, now, (now.subsec_nanos() % 100) as f64 / 100.0);
        }
        (well, tries)
    }

    const WELL: Went = Went::Well { within: None };
    const SILENT: Went = Went::Unreachable { retry_after: None };

    #[test]
    fn a_group_that_never_has_an_answer_does_not_keep_the_others_from_theirs() {
        for (groups, broken) in [(20, 1), (20, 2), (2, 1), (20, 5)] {
            let mut schedule = Schedule::new(groups, EVERY, 0.3);
            let (well, tries) = run(&mut schedule, seconds(3600), |group, _| if group < broken { SILENT } else { WELL });
            assert!(well[broken..].iter().all(|well| *well >= 11), "{broken} of {groups}: {well:?}");
            assert!(tries < 12 * groups + broken * 3 * 120, "{broken} of {groups}: {tries} tries");
        }
    }

    #[test]
    fn after_an_outage_no_group_has_to_wait_for_its_own_patience() {
        for groups in [1, 2, 5, 1000] {
            let mut schedule = Schedule::new(groups, EVERY, 0.3);
            let over = seconds(900);
            let mut caught_up = std::collections::BTreeMap::new();
            run(&mut schedule, seconds(1300), |group, now| {
                if now >= over {
                    caught_up.entry(group).or_insert(now);
                }
                if now < over { SILENT } else { WELL }
            });
            let last = caught_up.values().max().unwrap();
            assert!(caught_up.len() == groups && *last <= over + seconds(61), "{groups}: {last:?}");
        }
    }

    #[test]
    fn where_there_is_nothing_to_ask_nobody_runs_in_circles() {
        for outage in [false, true] {
            let mut schedule = Schedule::new(3, seconds(1), 0.3);
            if outage {
                schedule.begin_in_outage();
            }
            let (_, tries) = run(&mut schedule, seconds(60), |_, _| Went::Idle);
            assert!(tries < 3 * 60 * 2, "{tries} tries in a minute");
        }
    }

    #[test]
    fn a_schedule_that_is_made_anew_every_minute_checks_everything() {
        let mut checked = vec![0; 50];
        for round in 0..200_u32 {
            let mut schedule = Schedule::new(50, EVERY, f64::from(round.wrapping_mul(2_654_435_769)) / f64::from(u32::MAX));
            let (well, _) = run(&mut schedule, seconds(60), |_, _| WELL);
            checked.iter_mut().zip(well).for_each(|(all, well)| *all += well);
        }
        assert!(checked.iter().all(|times| (20..80).contains(times)), "{checked:?}");
    }

    #[test]
    fn the_shortest_and_the_longest_interval_and_many_groups() {
        for every in [seconds(1), seconds(86_400), seconds(365 * 86_400), Duration::MAX / 4] {
            for groups in [1, 7, 5000] {
                for chance in [0.0, 0.5, 1.0] {
                    let mut schedule = Schedule::new(groups, every, chance);
                    let (group, at) = schedule.next().unwrap();
                    assert!(at <= every);
                    for went in [WELL, SILENT, Went::InPart { retry_after: None }, WELL] {
                        schedule.checked(group, went, at, chance);
                    }
                    let due = schedule.due(group).unwrap();
                    assert!(due >= at + every / 2 && due <= at + every.mul_f64(1.6), "{every:?} {due:?}");
                    assert!(std::time::Instant::now().checked_add(due).is_some());
                }
            }
        }
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

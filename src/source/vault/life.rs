//! When to renew a token and when to log in again. Pure: time and chance are arguments.
//!
//! A token is renewed between 40 and 50 % of the life it has left. One that cannot be renewed, or is granted less than before
//! because its longest life is near, is replaced between 60 and 70 %. What fails because nobody answers is tried again with growing pauses,
//! ever closer to the token's end so that it does not run out while the server is back; what is refused is tried again slowly.

use std::time::{Duration, Instant};

/// Between tries while nobody answers.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between tries of a login that is refused.
const FIRST_REFUSED: Duration = Duration::from_secs(5);
const LONGEST_REFUSED: Duration = Duration::from_secs(300);
/// Somebody who waits for a token may have it tried again this soon, however long the pause is by now.
const SOONEST_ON_DEMAND: Duration = Duration::from_secs(2);
/// Nothing is planned sooner than this, so that the last seconds of a token are no tight loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// Servers count in whole seconds: this much less than was asked for is not less.
const ROUNDED: Duration = Duration::from_secs(1);
/// Longer lives are no different from this one, and time can be counted up to it.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Renew,
    LogIn,
}

/// What the server said of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// How long it still lives. `None`: for ever.
    pub left: Option<Duration>,
    pub renewable: bool,
}

/// A token's life, and the plan for it.
#[derive(Debug, Default)]
pub(super) struct Life {
    held: Option<Held>,
    next: Option<(Instant, Step)>,
    /// Tries in a row that nobody answered, and logins in a row that were refused.
    unanswered: u32,
    refused: u32,
    /// Nobody may try before.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    ends: Option<Instant>,
    /// Its life when it was fresh, and what each renewal asks for.
    full: Duration,
}

impl Life {
    /// A login yielded a token. `full` is its life when it was fresh.
    pub fn logged_in(&mut self, now: Instant, terms: Terms, full: Duration, chance: f64) {
        self.grant(now, terms, full, false, chance);
    }

    /// A renewal was granted.
    pub fn renewed(&mut self, now: Instant, terms: Terms, chance: f64) {
        let full = self.increment();
        // Asking again would be granted less each time: this is the token's last stretch.
        let last = terms.left.is_some_and(|left| left + ROUNDED < full);
        self.grant(now, terms, full, last, chance);
    }

    fn grant(&mut self, now: Instant, terms: Terms, full: Duration, last: bool, chance: f64) {
        let left = terms.left.map(|left| left.min(LONGEST_LIFE));
        self.held = Some(Held { ends: left.map(|left| now + left), full });
        (self.unanswered, self.refused, self.not_before) = (0, 0, None);
        let (from, step) = if terms.renewable && !last { (0.4, Step::Renew) } else { (0.6, Step::LogIn) };
        self.next = left.map(|left| (now + left.mul_f64(from + 0.1 * chance).max(SHORTEST), step));
    }

    /// Nobody answered, or nobody who makes sense.
    pub fn unreachable(&mut self, now: Instant, patience: Option<Duration>, chance: f64) {
        let doubled = FIRST_PAUSE * 2u32.pow(self.unanswered.min(6));
        self.unanswered = self.unanswered.saturating_add(1);
        let mut pause = doubled.min(LONGEST_PAUSE).mul_f64(0.75 + 0.25 * chance);
        if let Some(left) = self.left(now).filter(|left| !left.is_zero()) {
            // Close to the end each second counts: somebody may be back in time.
            pause = pause.min((left / 2).max(SHORTEST));
        }
        let asked = patience.unwrap_or_default().min(LONGEST_REFUSED);
        let step = self.next.map_or(Step::LogIn, |(_, step)| step);
        self.next = Some((now + pause.max(asked), step));
        self.not_before = Some(now + pause.min(SOONEST_ON_DEMAND).max(asked));
    }

    /// The server said no. Where it was to a renewal, the next thing is a login.
    pub fn refused(&mut self, now: Instant, step: Step, chance: f64) {
        if step == Step::Renew {
            self.next = Some((now, Step::LogIn));
            return;
        }
        let doubled = FIRST_REFUSED * 2u32.pow(self.refused.min(6));
        self.refused = self.refused.saturating_add(1);
        let pause = doubled.min(LONGEST_REFUSED).mul_f64(0.75 + 0.25 * chance);
        self.next = Some((now + pause, Step::LogIn));
        self.not_before = Some(now + pause);
    }

    /// The token is no good any more.
    pub fn lost(&mut self, now: Instant) {
        self.held = None;
        self.next = Some((self.not_before.map_or(now, |gate| gate.max(now)), Step::LogIn));
    }

    /// What it logs in with was replaced: what was refused before says nothing about it.
    pub fn hope(&mut self) {
        (self.unanswered, self.refused, self.not_before) = (0, 0, None);
    }

    /// What to do, and when.
    pub fn next(&self) -> Option<(Instant, Step)> {
        self.next
    }

    /// What to do now, if it is to be now: a token that has run out cannot be renewed.
    pub fn step(&self, now: Instant) -> Step {
        match self.next {
            Some((_, step)) if self.usable(now) => step,
            _ => Step::LogIn,
        }
    }

    pub fn usable(&self, now: Instant) -> bool {
        self.held.as_ref().is_some_and(|held| held.ends.is_none_or(|ends| now < ends))
    }

    /// May somebody who waits have it tried now?
    pub fn may_try(&self, now: Instant) -> Result<(), Duration> {
        match self.not_before {
            Some(gate) if now < gate => Err(gate - now),
            _ => Ok(()),
        }
    }

    pub fn ends(&self) -> Option<Instant> {
        self.held.as_ref()?.ends
    }

    /// How long the token still lives, where it ends.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        Some(self.ends()?.saturating_duration_since(now))
    }

    /// What a renewal asks for.
    pub fn increment(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn terms(left: Duration, renewable: bool) -> Terms {
        Terms { left: Some(left), renewable }
    }

    fn planned(life: &Life, now: Instant) -> (f64, Step) {
        let (at, step) = life.next().unwrap();
        ((at - now).as_secs_f64(), step)
    }

    #[test]
    fn renewed_between_two_fifths_and_half() {
        let now = Instant::now();
        for (chance, at) in [(0.0, 1440.0), (1.0, 1800.0)] {
            let mut life = Life::default();
            life.logged_in(now, terms(HOUR, true), HOUR, chance);
            assert_eq!(planned(&life, now), (at, Step::Renew));
            life.renewed(now, terms(HOUR - ROUNDED, true), chance);
            assert_eq!(life.next().unwrap().1, Step::Renew, "a second less is the server's rounding");
            life.logged_in(now, terms(HOUR, false), HOUR, chance);
            assert_eq!(planned(&life, now), (at + 720.0, Step::LogIn));
        }
    }

    #[test]
    fn the_last_stretch_ends_with_a_login() {
        let now = Instant::now();
        let mut life = Life::default();
        life.logged_in(now, terms(HOUR, true), HOUR, 0.0);
        life.renewed(now, terms(HOUR / 2, true), 0.0);
        assert_eq!(planned(&life, now), (1080.0, Step::LogIn));
    }

    #[test]
    fn without_an_end_there_is_nothing_to_do() {
        let now = Instant::now();
        let mut life = Life::default();
        assert!(!life.usable(now) && life.next().is_none());
        life.logged_in(now, Terms { left: None, renewable: false }, Duration::ZERO, 0.5);
        assert!(life.usable(now + 1000 * HOUR) && life.next().is_none());
        life.logged_in(now, terms(Duration::MAX, true), Duration::MAX, 0.5);
        assert!(life.usable(now + 1000 * HOUR));
    }

    #[test]
    fn nobody_there() {
        let now = Instant::now();
        let mut life = Life::default();
        life.logged_in(now, terms(HOUR, true), HOUR, 0.0);
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                life.unreachable(now, None, 1.0);
                planned(&life, now).0
            })
            .collect();
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        assert_eq!(life.may_try(now), Err(SOONEST_ON_DEMAND));
        // Close to the end the pauses grow short again, and after it they are long.
        for (left, pause) in [(30, 15.0), (4, 2.0), (1, 1.0)] {
            life.unreachable(now + HOUR - Duration::from_secs(left), None, 1.0);
            assert_eq!(planned(&life, now + HOUR - Duration::from_secs(left)), (pause, Step::Renew));
        }
        assert_eq!(life.step(now + HOUR), Step::LogIn, "what has run out is not renewed");
        life.unreachable(now + HOUR, None, 1.0);
        assert_eq!(planned(&life, now + HOUR).0, 60.0);
        life.unreachable(now + HOUR, Some(Duration::from_secs(120)), 1.0);
        assert_eq!(planned(&life, now + HOUR).0, 120.0, "the server asked for patience");
    }

    #[test]
    fn refused() {
        let now = Instant::now();
        let mut life = Life::default();
        life.logged_in(now, terms(HOUR, true), HOUR, 0.0);
        life.refused(now, Step::Renew, 1.0);
        assert_eq!(planned(&life, now), (0.0, Step::LogIn));
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                life.refused(now, Step::LogIn, 1.0);
                planned(&life, now).0
            })
            .collect();
        assert_eq!(pauses, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]);
        assert!(life.usable(now), "the old token stands as long as it lives");
        assert_eq!(life.may_try(now), Err(LONGEST_REFUSED));
        life.lost(now);
        assert_eq!(planned(&life, now), (300.0, Step::LogIn), "losing the token does not open the gate");
        life.hope();
        assert_eq!(life.may_try(now), Ok(()));
    }
}

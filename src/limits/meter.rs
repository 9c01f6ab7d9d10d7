//! A rate, and a meter of what was taken of it.
//!
//! The meter is the generic cell rate algorithm in one number: the time at which the allowance would be full again. The `governor`
//! crate is the well-kept library for it, and was weighed against these lines. They stay because they do what it does not: the rate is an
//! argument of each call, so that a reload changes it and keeps what was taken (governor fixes the quota when a limiter is made); what
//! was taken can be given back, which taking from several meters at once needs; and time is an argument, so that the tests need no
//! clock. Taking several or none, without a lock and without memory, both do alike.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// So many in a time, of which some may pass at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds until another may pass. Rounded up: never more than the rate.
    each: u64,
    /// The nanoseconds of all that may pass at once.
    burst: u64,
}

impl Rate {
    /// `count` in each `time`, and `at_once` at one moment. None of them is nothing: at least one is taken for it.
    pub const fn new(count: u32, time: Duration, at_once: u32) -> Self {
        let count = if count == 0 { 1 } else { count as u64 };
        let each = (time.as_nanos() as u64).div_ceil(count);
        Self { each, burst: each.saturating_mul(if at_once == 0 { 1 } else { at_once as u64 }) }
    }
}

/// What was taken of a [`Rate`].
#[derive(Debug, Default)]
pub struct Meter {
    full_at: AtomicU64,
}

/// Over the rate; asking again helps after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl Meter {
    /// Takes so many, or none. `now` is any monotonic time since a fixed point. More than the rate lets pass at once never do.
    pub fn take(&self, rate: &Rate, count: u64, now: Duration) -> Result<(), RetryAfter> {
        let now = now.as_nanos() as u64;
        let mut wait = 0;
        let step = |full_at: u64| {
            let next = full_at.max(now).saturating_add(rate.each.saturating_mul(count));
            wait = next.saturating_sub(now.saturating_add(rate.burst));
            (wait == 0).then_some(next)
        };
        match self.full_at.fetch_update(Relaxed, Relaxed, step) {
            Ok(_) => Ok(()),
            Err(_) => Err(RetryAfter(Duration::from_nanos(wait))),
        }
    }

    /// Takes so many whether or not they may pass, and says how long it takes until that is made good. Zero: they may. No more is ever
    /// owed than is made good in `longest`.
    pub fn charge(&self, rate: &Rate, count: u64, longest: Duration, now: Duration) -> Duration {
        let now = now.as_nanos() as u64;
        let free = now.saturating_add(rate.burst);
        let most = free.saturating_add(longest.as_nanos() as u64);
        let next = |full_at: u64| full_at.max(now).saturating_add(rate.each.saturating_mul(count)).min(most);
        let before = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(next(full_at))).unwrap_or_else(|before| before);
        Duration::from_nanos(next(before).saturating_sub(free))
    }

    /// Gives back what was taken just now.
    pub fn give_back(&self, rate: &Rate, count: u64) {
        self.full_at.fetch_sub(rate.each.saturating_mul(count), Relaxed);
    }

    /// Has all of it been made good?
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at.load(Relaxed) <= now.as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_burst_passes_and_the_rest_waits() {
        let (meter, rate) = (Meter::default(), Rate::new(60, MINUTE, 10));
        let passed = (0..100).filter(|_| meter.take(&rate, 1, Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 10);
        assert_eq!(meter.take(&rate, 1, Duration::ZERO), Err(RetryAfter(Duration::from_secs(1))));
        assert_eq!(meter.take(&rate, 1, Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn several_pass_together_or_take_nothing() {
        let (meter, rate) = (Meter::default(), Rate::new(60, MINUTE, 10));
        assert_eq!(meter.take(&rate, 8, Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&rate, 5, Duration::ZERO), Err(RetryAfter(Duration::from_secs(3))));
        assert_eq!(meter.take(&rate, 2, Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&rate, 10, Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn what_is_charged_is_owed() {
        let (meter, rate) = (Meter::default(), Rate::new(10, Duration::from_secs(1), 5));
        let charge = |count| meter.charge(&rate, count, Duration::from_secs(3), Duration::ZERO);
        assert!((0..5).all(|_| charge(1).is_zero()));
        assert_eq!(charge(10), Duration::from_secs(1));
        assert!(!meter.is_full(Duration::from_millis(1499)) && meter.is_full(Duration::from_millis(1500)));
        assert_eq!(charge(1000), Duration::from_secs(3), "there is an end to what can be owed");
    }

    #[test]
    fn threads_that_take_at_one_time_get_no_more_between_them() {
        let (meter, rate) = (Meter::default(), Rate::new(1000, MINUTE, 500));
        let passed: usize = std::thread::scope(|scope| {
            let take = || scope.spawn(|| (0..1000).filter(|_| meter.take(&rate, 1, Duration::ZERO).is_ok()).count());
            [take(), take(), take(), take()].map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(passed, 500);
    }

    proptest! {
        /// In any time no more than its allowance and one burst; and what waits as long as it was told then passes.
        #[test]
        fn never_more_than_the_rate(count in 1..5000u32, burst in 1..900u32, steps in prop::collection::vec(0..200u64, 1..400)) {
            let (meter, rate) = (Meter::default(), Rate::new(count, MINUTE, burst));
            let (mut now, mut passed) = (Duration::ZERO, 0u64);
            for step in steps {
                now += Duration::from_millis(step);
                if let Err(RetryAfter(wait)) = meter.take(&rate, 1, now) {
                    now += wait;
                    prop_assert_eq!(meter.take(&rate, 1, now), Ok(()));
                }
                passed += 1;
            }
            let most = u64::from(burst) + (now.as_secs_f64() / 60.0 * f64::from(count)).floor() as u64;
            prop_assert!(passed <= most, "{passed} passed in {now:?} at {count} a minute");
        }

        /// Taking and giving back leaves a meter as it was.
        #[test]
        fn what_is_given_back_was_not_taken(count in 1..5000u32, takes in prop::collection::vec((1..20u64, any::<bool>()), 1..60)) {
            let rate = Rate::new(count, MINUTE, 200);
            let (one, other) = (Meter::default(), Meter::default());
            let now = Duration::from_secs(1000);
            for (many, given_back) in takes {
                if given_back {
                    if one.take(&rate, many, now).is_ok() {
                        one.give_back(&rate, many);
                    }
                } else {
                    prop_assert_eq!(one.take(&rate, many, now), other.take(&rate, many, now));
                }
            }
        }
    }
}

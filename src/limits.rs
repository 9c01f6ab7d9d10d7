//! How much a tool may take: hand-outs a minute, sessions at once, hand-outs in one session. Pure: time arrives as an argument.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The limits of one tool. On by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Hand-outs and denials in a minute, over all of the tool's sessions. Short bursts up to a sixth of it pass at once.
    pub per_minute: u32,
    /// Sessions open at one time.
    pub concurrent: u32,
    /// Hand-outs in the life of one session.
    pub per_session: u64,
}

impl Default for Limits {
    /// Enough for a tool that asks at each of its calls, too little for one that drains.
    fn default() -> Self {
        Self { per_minute: 600, concurrent: 16, per_session: 10_000 }
    }
}

impl Limits {
    /// The most that may pass at one moment: a sixth of a minute's.
    pub fn at_once(&self) -> u64 {
        u64::from((self.per_minute / 6).max(1))
    }
}

/// Counts what a tool takes against `per_minute`, by the generic cell rate algorithm: one number holds the time at which
/// the tool's allowance would be full again.
#[derive(Debug, Default)]
pub struct Meter {
    full_at: AtomicU64,
}

/// Over the limit; asking again helps after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl Meter {
    /// Takes so many, or none. `now` is any monotonic time since a fixed point. More than [`Limits::at_once`] never pass.
    pub fn take(&self, limits: &Limits, count: u64, now: Duration) -> Result<(), RetryAfter> {
        const MINUTE: u64 = 60_000_000_000;
        let now = now.as_nanos() as u64;
        let each = MINUTE / u64::from(limits.per_minute.max(1));
        let burst = each * limits.at_once();
        let mut wait = 0;
        let step = |full_at: u64| {
            let next = full_at.max(now) + each * count;
            wait = next.saturating_sub(now + burst);
            (wait == 0).then_some(next)
        };
        match self.full_at.fetch_update(Relaxed, Relaxed, step) {
            Ok(_) => Ok(()),
            Err(_) => Err(RetryAfter(Duration::from_nanos(wait))),
        }
    }
}

/// What one tool has taken since the daemon started. Its sessions share it.
#[derive(Debug, Default)]
pub struct Tally {
    pub meter: Meter,
    pub handouts: AtomicU64,
    pub denials: AtomicU64,
    /// Values that were found in what it wrote, and taken out.
    pub redactions: AtomicU64,
    /// Kibibytes of text that it had cleaned by the daemon.
    pub cleaned: Meter,
    /// Texts that are being cleaned for it.
    pub cleaning: AtomicU64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(per_minute: u32) -> Limits {
        Limits { per_minute, ..Limits::default() }
    }

    #[test]
    fn a_burst_passes_and_the_rest_waits() {
        let (meter, limits) = (Meter::default(), limits(60));
        let passed = (0..100).filter(|_| meter.take(&limits, 1, Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 10);
        assert_eq!(meter.take(&limits, 1, Duration::ZERO), Err(RetryAfter(Duration::from_secs(1))));
        assert_eq!(meter.take(&limits, 1, Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn several_pass_together_or_take_nothing() {
        let (meter, limits) = (Meter::default(), limits(60));
        assert_eq!(meter.take(&limits, 8, Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&limits, 5, Duration::ZERO), Err(RetryAfter(Duration::from_secs(3))));
        assert_eq!(meter.take(&limits, 2, Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&limits, 10, Duration::from_secs(10)), Ok(()));
    }

    proptest! {
        /// In any minute no more than a minute's allowance and one burst; and what waits as long as it was told then passes.
        #[test]
        fn never_more_than_the_rate(per_minute in 1..5000u32, steps in prop::collection::vec(0..200u64, 1..400)) {
            let (meter, limits) = (Meter::default(), limits(per_minute));
            let (mut now, mut passed) = (Duration::ZERO, 0u64);
            for step in steps {
                now += Duration::from_millis(step);
                match meter.take(&limits, 1, now) {
                    Ok(()) => passed += 1,
                    Err(RetryAfter(wait)) => {
                        now += wait;
                        prop_assert_eq!(meter.take(&limits, 1, now), Ok(()));
                        passed += 1;
                    }
                }
            }
            let burst = u64::from((per_minute / 6).max(1));
            let most = burst + (now.as_secs_f64() / 60.0 * f64::from(per_minute)).ceil() as u64 + 1;
            prop_assert!(passed <= most, "{passed} passed in {now:?} at {per_minute} a minute");
        }
    }
}

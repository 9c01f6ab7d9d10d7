//! Time that nobody can set.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A point on the clock that counts from the host's boot and goes on while it sleeps (CLOCK_BOOTTIME, clock_gettime(2)). Setting the
/// date moves no such point: what is stale stays stale, and what is fresh stays fresh. In milliseconds; negative before the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)
    }

    /// Far enough away, it is the end of time.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(millis(time)))
    }

    /// How long ago `earlier` was; nothing, where it is yet to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// When something was confirmed: on the clock that decides, and on the one that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub moment: Moment,
    pub date: SystemTime,
}

impl Stamp {
    pub fn now() -> Self {
        Self { moment: Moment::now(), date: SystemTime::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_up_and_never_overflow() {
        let now = Moment::now();
        let second = Duration::from_secs(1);
        assert_eq!(now.after(second).since(now), second);
        assert_eq!(now.before(second).since(now), Duration::ZERO);
        assert_eq!(now.since(now.before(second)), second);
        assert!(now.after(Duration::MAX) > now && now.before(Duration::MAX) < now);
        assert!(Moment::now() >= now);
    }
}

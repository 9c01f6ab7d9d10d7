//! How much a tool may take: requests, sessions, secrets and hand-outs, alone and beside all the others. Pure: time arrives as an
//! argument.
//!
//! Whose allowance is taken is decided by who a caller was proven to be, never by what it says of itself.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

mod meter;
mod repeats;
pub use meter::{Meter, Rate, RetryAfter};
pub use repeats::{Repeats, Told};

/// The limits of one tool. On by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a second, over all of the tool's sessions. A secret that is handed out or denied is one, and so is each other call.
    pub per_second: u32,
    /// The same in a minute. Short bursts up to a sixth of it pass at once.
    pub per_minute: u32,
    /// Requests under way at one time: from when one is read until its caller has taken the answer.
    pub concurrent_requests: u32,
    /// Sessions open at one time.
    pub concurrent: u32,
    /// Secrets that one session may declare.
    pub secrets_per_session: u32,
    /// Hand-outs in the life of one session.
    pub per_session: u64,
    /// How long a session lives, whatever it does. One whose launcher has become the tool lives as long as that process.
    pub session_lifetime: Duration,
}

impl Limits {
    /// What may pass in a second where only the minute is given: all that the minute lets through at once.
    pub const fn per_second_of(per_minute: u32) -> u32 {
        if per_minute < BURSTS { 1 } else { per_minute / BURSTS }
    }
}

/// A minute's allowance holds so many bursts.
const BURSTS: u32 = 6;

impl Default for Limits {
    /// Enough for a tool that asks at each of its calls, too little for one that drains.
    fn default() -> Self {
        const PER_MINUTE: u32 = 600;
        Self {
            per_second: Self::per_second_of(PER_MINUTE),
            per_minute: PER_MINUTE,
            concurrent_requests: 64,
            concurrent: 16,
            secrets_per_session: 100,
            per_session: 10_000,
            session_lifetime: Duration::from_secs(86_400),
        }
    }
}

/// What all tools together may take, and what operators may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// Requests in a second, of all tools.
    pub per_second: u32,
    /// The same in a minute.
    pub per_minute: u32,
    /// Requests of all tools under way at one time.
    pub concurrent_requests: u32,
    /// Attempts to open a session that are refused, in a minute, by one user in one unit, whichever tool it claims to be.
    pub opens_per_minute: u32,
    /// Calls to the admin socket in a minute by one user.
    pub admin_per_minute: u32,
}

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            per_second: 20_000,
            per_minute: 600_000,
            concurrent_requests: 4096,
            opens_per_minute: 6000,
            admin_per_minute: 6000,
        }
    }
}

/// A limit by the key that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    PerSecond,
    PerMinute,
    ConcurrentRequests,
    Concurrent,
    SecretsPerSession,
    PerSession,
    SessionLifetime,
    MaxSessions,
    OpensPerMinute,
    AdminPerMinute,
    /// Texts that the daemon cleans for one tool at one time. Fixed.
    TextsAtOnce,
    /// Random numbers of the system. Nobody sets this one.
    Randomness,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// The tool's own.
    Tool,
    /// Of all tools together.
    Daemon,
    /// Of one user in one unit, as long as it is no tool; or of one operator.
    User,
}

impl Limit {
    /// Its key in configuration, and its name in errors and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per-second",
            Self::PerMinute => "per-minute",
            Self::ConcurrentRequests => "concurrent-requests",
            Self::Concurrent => "concurrent",
            Self::SecretsPerSession => "secrets-per-session",
            Self::PerSession => "per-session",
            Self::SessionLifetime => "session-lifetime",
            Self::MaxSessions => "max-sessions",
            Self::OpensPerMinute => "opens-per-minute",
            Self::AdminPerMinute => "admin-per-minute",
            Self::TextsAtOnce => "texts-at-once",
            Self::Randomness => "randomness",
        }
    }

    fn counts(self) -> &'static str {
        match self {
            Self::PerSecond => "requests in a second",
            Self::PerMinute => "requests in a minute",
            Self::ConcurrentRequests => "requests under way at one time",
            Self::Concurrent | Self::MaxSessions => "sessions at one time",
            Self::SecretsPerSession => "secrets in one session",
            Self::PerSession => "hand-outs in one session",
            Self::SessionLifetime => "seconds in the life of a session",
            Self::OpensPerMinute => "refused attempts to open a session in a minute",
            Self::AdminPerMinute => "admin calls in a minute",
            Self::TextsAtOnce => "texts cleaned at one time",
            Self::Randomness => "random numbers of the system",
        }
    }
}

impl Whose {
    pub fn word(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Daemon => "daemon",
            Self::User => "user",
        }
    }
}

/// A limit that was reached, with the value it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    pub limit: Limit,
    pub of: Whose,
    pub value: u64,
}

impl fmt::Display for Reached {
    /// `this tool's limit of 600 requests in a minute`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.of {
            Whose::Tool => "this tool's limit",
            Whose::Daemon => "the limit of all tools together",
            Whose::User => "this user's limit",
        };
        write!(f, "{whose} of {} {}", self.value, self.limit.counts())
    }
}

/// Over a rate. `wait`: asking again helps after this long; `None`: so many never pass at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    pub reached: Reached,
    pub wait: Option<Duration>,
}

/// Requests in a second and in a minute.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    per_second: u32,
    per_minute: u32,
    of: Whose,
}

impl From<&Limits> for Rates {
    fn from(limits: &Limits) -> Self {
        Self { per_second: limits.per_second, per_minute: limits.per_minute, of: Whose::Tool }
    }
}

impl From<&Ceilings> for Rates {
    fn from(ceilings: &Ceilings) -> Self {
        Self { per_second: ceilings.per_second, per_minute: ceilings.per_minute, of: Whose::Daemon }
    }
}

impl Rates {
    fn second(&self) -> Rate {
        Rate::new(self.per_second, SECOND, self.per_second)
    }

    fn minute(&self) -> Rate {
        Rate::new(self.per_minute, MINUTE, Limits::per_second_of(self.per_minute))
    }

    /// The most that may pass at one moment, and which of the two says so.
    fn at_once(&self) -> (u64, Limit) {
        let minute = Limits::per_second_of(self.per_minute);
        if minute <= self.per_second { (minute.into(), Limit::PerMinute) } else { (self.per_second.into(), Limit::PerSecond) }
    }

    fn over(&self, limit: Limit, wait: Option<Duration>) -> Over {
        let value = if limit == Limit::PerSecond { self.per_second } else { self.per_minute };
        Over { reached: Reached { limit, of: self.of, value: value.into() }, wait }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What has been taken of [`Rates`].
#[derive(Debug, Default)]
pub struct Allowance {
    second: Meter,
    minute: Meter,
}

impl Allowance {
    /// Takes so many of both, or none of either. `now` is any monotonic time since a fixed point.
    pub fn take(&self, rates: &Rates, count: u64, now: Duration) -> Result<(), Over> {
        let (most, limit) = rates.at_once();
        if count > most {
            return Err(rates.over(limit, None));
        }
        let (second, minute) = (rates.second(), rates.minute());
        // The minute first: where both are used up, it is the one that has to be waited for.
        self.minute.take(&minute, count, now).map_err(|RetryAfter(wait)| rates.over(Limit::PerMinute, Some(wait)))?;
        self.second.take(&second, count, now).map_err(|RetryAfter(wait)| {
            self.minute.give_back(&minute, count);
            rates.over(Limit::PerSecond, Some(wait))
        })
    }

    /// Gives back what was taken for nothing.
    pub fn give_back(&self, rates: &Rates, count: u64) {
        self.second.give_back(&rates.second(), count);
        self.minute.give_back(&rates.minute(), count);
    }
}

/// Places at one time.
#[derive(Debug, Default)]
pub struct Places(AtomicU64);

impl Places {
    /// Takes a place, if fewer than `most` are taken.
    pub fn take(&self, most: u64) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
    }

    /// Of a place that was taken.
    pub fn free(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What one tool has taken since the daemon started. Its sessions share it.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: Allowance,
    /// Requests that are under way.
    pub under_way: Places,
    pub handouts: AtomicU64,
    pub denials: AtomicU64,
    /// Values that were found in what it wrote, and taken out.
    pub redactions: AtomicU64,
    /// Reports of its launchers.
    pub reports: Meter,
    /// Kibibytes of text that it had cleaned by the daemon.
    pub cleaned: Meter,
    /// Texts that are being cleaned for it.
    pub cleaning: Places,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(per_second: u32, per_minute: u32) -> Rates {
        Rates::from(&Limits { per_second, per_minute, ..Limits::default() })
    }

    fn over(limit: Limit, value: u64, wait: Option<Duration>) -> Result<(), Over> {
        Err(Over { reached: Reached { limit, of: Whose::Tool, value }, wait })
    }

    #[test]
    fn the_narrower_of_the_two_says_no() {
        let allowance = Allowance::default();
        let rates = rates(3, 60);
        (0..3).for_each(|_| assert_eq!(allowance.take(&rates, 1, Duration::ZERO), Ok(())));
        let wait = allowance.take(&rates, 1, Duration::ZERO).unwrap_err().wait.unwrap();
        assert!((333..335).contains(&wait.as_millis()), "{wait:?}");
        // A burst of ten within a few seconds, and then one each second.
        let mut passed = 3;
        for millis in (500..20_000).step_by(100) {
            passed += u32::from(allowance.take(&rates, 1, Duration::from_millis(millis)).is_ok());
        }
        assert!((28..=30).contains(&passed), "the minute lets ten pass at once, and one more each second: {passed}");
        let refused = (0..3).find_map(|_| allowance.take(&rates, 1, Duration::from_secs(20)).err()).unwrap();
        assert_eq!((refused.reached.limit, refused.reached.value), (Limit::PerMinute, 60));
    }

    #[test]
    fn more_than_can_ever_pass_is_not_told_to_wait() {
        let allowance = Allowance::default();
        assert_eq!(allowance.take(&rates(100, 60), 11, Duration::ZERO), over(Limit::PerMinute, 60, None));
        assert_eq!(allowance.take(&rates(4, 60), 5, Duration::ZERO), over(Limit::PerSecond, 4, None));
        assert_eq!(allowance.take(&rates(100, 60), 10, Duration::ZERO), Ok(()), "what was refused has taken nothing");
    }

    #[test]
    fn places_are_counted() {
        let places = Places::default();
        assert!(places.take(2) && places.take(2) && !places.take(2));
        places.free();
        assert!(places.take(2) && !places.take(2));
    }

    proptest! {
        /// Whatever is asked for, and whatever is given back: each second and each minute keep their bound, and who waits as long as it
        /// was told is served.
        #[test]
        fn both_bounds_hold(
            per_second in 1..200u32,
            per_minute in 1..3000u32,
            steps in prop::collection::vec((0..400u64, 1..12u64, any::<bool>()), 1..200),
        ) {
            let (allowance, rates) = (Allowance::default(), rates(per_second, per_minute));
            let (most, _) = rates.at_once();
            let mut now = Duration::ZERO;
            let mut passed: Vec<(Duration, u64)> = Vec::new();
            for (step, count, given_back) in steps {
                now += Duration::from_millis(step);
                let mut waited = 0;
                loop {
                    match allowance.take(&rates, count, now) {
                        Ok(()) if given_back => allowance.give_back(&rates, count),
                        Ok(()) => passed.push((now, count)),
                        Err(Over { wait: None, .. }) => prop_assert!(count > most),
                        Err(Over { wait: Some(wait), .. }) => {
                            // The second may ask for a wait, and then the minute for another.
                            waited += 1;
                            prop_assert!(waited <= 2 && count <= most);
                            now += wait;
                            continue;
                        }
                    }
                    break;
                }
            }
            for (at, (begin, _)) in passed.iter().enumerate() {
                let within = |span: Duration| -> u64 {
                    passed[at..].iter().take_while(|(when, _)| *when < *begin + span).map(|(_, count)| count).sum()
                };
                prop_assert!(within(SECOND) <= 2 * u64::from(per_second) + 1);
                prop_assert!(within(MINUTE) <= u64::from(per_minute) + u64::from(Limits::per_second_of(per_minute)) + 1);
            }
        }
    }
}

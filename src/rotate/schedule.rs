//! When a secret is due by the clock. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// A stretch of each day, in UTC and to the minute, in which nothing is begun. It may span midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// Minutes since midnight.
    from: u32,
    until: u32,
}

impl QuietHours {
    /// `08:00-18:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let minutes = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
            let (hours, minutes): (u32, u32) = (digits(hours)?, digits(minutes)?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, until) = text.split_once('-')?;
        let (from, until) = (minutes(from)?, minutes(until)?);
        (from != until).then_some(Self { from, until })
    }

    /// The end of the quiet time that this moment is in. `None`: it is in none.
    fn end(self, at: SystemTime) -> Option<SystemTime> {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (day, second) = (since - since % DAY, since % DAY);
        let (from, until) = (u64::from(self.from) * 60, u64::from(self.until) * 60);
        let end = match from < until {
            true if (from..until).contains(&second) => day + until,
            false if second >= from => day + DAY + until,
            false if second < until => day + until,
            _ => return None,
        };
        Some(UNIX_EPOCH + Duration::from_secs(end))
    }
}

/// When a secret of this age is to be rotated: a little before it is too old, by `chance` (from 0 to 1) up to a tenth, so that those that
/// are as old as each other do not all come together; and not in quiet hours.
pub fn due(since: SystemTime, every: Duration, chance: f64, quiet: Option<QuietHours>) -> SystemTime {
    let at = since + every.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 10.0);
    quiet.and_then(|quiet| quiet.end(at)).unwrap_or(at)
}

/// Is this a moment at which it may begin? What is overdue waits for the end of the quiet hours too.
pub fn may_begin(now: SystemTime, quiet: Option<QuietHours>) -> bool {
    quiet.is_none_or(|quiet| quiet.end(now).is_none())
}

/// How long after its failures in a row it is tried again.
pub fn again_after(failures: u32) -> Duration {
    Duration::from_secs(60) * 2_u32.pow(failures.saturating_sub(1).min(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64, minute: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(20_000 * DAY + hour * 3600 + minute * 60)
    }

    #[test]
    fn quiet_hours() {
        let day = QuietHours::parse("08:00-18:30").unwrap();
        let night = QuietHours::parse("22:00-06:00").unwrap();
        assert_eq!(day.end(at(7, 59)), None);
        assert_eq!(day.end(at(8, 0)), Some(at(18, 30)));
        assert_eq!(day.end(at(18, 30)), None);
        assert_eq!(night.end(at(23, 0)), Some(at(30, 0)));
        assert_eq!(night.end(at(5, 59)), Some(at(6, 0)));
        assert_eq!(night.end(at(12, 0)), None);
        for bad in
            ["", "8:00-18:00", "08:00", "08:00-08:00", "24:00-01:00", "08:60-09:00", "08-18", "08:00-18:00Z", "+8:00-18:00"]
        {
            assert_eq!(QuietHours::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_due_before_it_is_too_old_and_not_in_quiet_hours() {
        let every = Duration::from_secs(10 * DAY);
        let since = at(12, 0);
        assert_eq!(due(since, every, 0.0, None), since + every);
        assert_eq!(due(since, every, 1.0, None), since + every - Duration::from_secs(DAY));
        let quiet = QuietHours::parse("08:00-18:00");
        assert_eq!(due(since, every, 0.0, quiet), since + every + Duration::from_secs(6 * 3600));
        assert!(!may_begin(at(9, 0), quiet) && may_begin(at(19, 0), quiet) && may_begin(at(9, 0), None));
        assert_eq!([1, 2, 3, 100].map(again_after).map(|wait| wait.as_secs()), [60, 120, 240, 3840]);
    }
}

//! Times as people read them: how long ago, how long until. JSON has dates.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::measure::rough;

/// `3m ago`, `in 40s`, `now`; a dash where there is no time.
pub fn relative(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(*at).ok());
    at.map_or_else(|| "-".into(), |at| from(at, SystemTime::now()))
}

/// How long something lasts that began then.
pub fn since(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(*at).ok());
    rough(at.and_then(|at| at.elapsed().ok()).unwrap_or_default())
}

fn from(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) if left < Duration::from_secs(1) => "now".into(),
        Ok(left) => format!("in {}", rough(left)),
        Err(past) if past.duration() < Duration::from_secs(1) => "now".into(),
        Err(past) => format!("{} ago", rough(past.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_as_exact_as_is_of_use() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (172_799, "47h"), (172_800, "2d")];
        for (seconds, said) in cases {
            assert_eq!(rough(Duration::from_secs(seconds)), said);
        }
    }

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (at, said) in [(1_000_000.2, "now"), (999_999.5, "now"), (1_000_130.0, "in 2m"), (999_990.0, "10s ago")] {
            assert_eq!(from(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(at), now), said);
        }
        assert_eq!(relative(None), "-");
    }
}

//! Times as people read and write them: how long ago, how long until. JSON has dates.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::{audit::read::parse_time, measure::rough};

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

/// How long ago (`30s`, `2h`, `7d`), or the beginning of an RFC 3339 time in UTC: `2026-01-02`, `2026-01-02T03:04`.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    let wrong = "how long ago, as 30s, 5m, 2h or 7d; or a time in UTC, as 2026-01-02 or 2026-01-02T03:04:05Z";
    ago(text).or_else(|| date(text)).ok_or_else(|| wrong.into())
}

fn ago(text: &str) -> Option<SystemTime> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let ago = number.parse::<u64>().ok()?.checked_mul(seconds)?;
    SystemTime::now().checked_sub(Duration::from_secs(ago))
}

fn date(text: &str) -> Option<SystemTime> {
    const WHOLE: &str = "1970-01-01T00:00:00.000000Z";
    let text = text.strip_suffix('Z').unwrap_or(text);
    let ends = [10, 16, 19, 26];
    (ends.contains(&text.len()) && text.is_ascii()).then(|| parse_time(format!("{text}{}", &WHOLE[text.len()..]).as_bytes()))?
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

    #[test]
    fn both_forms_are_read() {
        let at = |text: &str| parse(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        assert_eq!(at("1970-01-02"), 86_400_000_000);
        assert_eq!(at("1970-01-01T00:01"), 60_000_000);
        assert_eq!(at("1970-01-01T00:00:01Z"), 1_000_000);
        assert_eq!(at("1970-01-01T00:00:00.000007Z"), 7);
        let ago = SystemTime::now().duration_since(parse("2h").unwrap()).unwrap();
        assert!((7190..7260).contains(&ago.as_secs()));
        for bad in ["", "h", "2x", "yesterday", "2026-13-01", "2026-1-1", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

//! Durations as people write them.

use std::time::Duration;

/// `"30s"`, `"5m"`, `"12h"`, `"30d"`.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const LONGEST: u64 = 3660 * 86_400;
    let wrong = "is not a duration: a whole number and one of s, m, h, d";
    let split = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let seconds = match &text[split..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong),
    };
    if split == 0 || !text[..split].bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong);
    }
    match text[..split].parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)) {
        Some(0) => Err("is no time at all"),
        Some(total) if total <= LONGEST => Ok(Duration::from_secs(total)),
        _ => Err("is more than ten years"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(2_592_000)));
        for bad in ["", "s", "30", "30 s", "-1s", "1.5h", "0s", "5é", "9999999999999999999d", "18446744073709551615d", "1w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}

//! Durations and sizes as people write them.

use std::time::Duration;

/// `"30s"`, `"5m"`, `"12h"`, `"30d"`. An error says what is wrong, and does not repeat the text.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
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

/// `"512K"`, `"64M"`, `"1G"`: bytes, by the 1,024.
pub(super) fn bytes(text: &str) -> Result<u64, &'static str> {
    let wrong = "is not a size: a whole number and one of K, M, G";
    let split = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let unit = match &text[split..] {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(wrong),
    };
    if split == 0 || !text[..split].bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong);
    }
    match text[..split].parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(0) => Err("is nothing at all"),
        Some(total) if total < 1 << 50 => Ok(total),
        _ => Err("is more than any host has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((bytes("512K"), bytes("1G")), (Ok(524_288), Ok(1 << 30)));
        for bad in ["", "K", "1", "1k", "0M", "1.5G", "-1K", "1GB", "1 G", "99999999999999999999G", "1048576G", "1é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

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

//! A moment, in whole seconds: what reports print and compare.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Seconds since 1970-01-01 00:00 UTC. Written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(i64);

/// The year 9999 ends here; RFC 3339 has no later ones.
const LATEST: i64 = 253_402_300_799;

impl Moment {
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.clamp(0, LATEST))
    }

    pub fn seconds(self) -> i64 {
        self.0
    }

    /// Midnight, UTC, of a day; `None` where there is no such day.
    pub fn of_day(year: u16, month: u8, day: u8) -> Option<Self> {
        format!("{year:04}-{month:02}-{day:02}T00:00:00Z").parse().ok()
    }

    /// How long after `earlier`; none where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0 - earlier.0).unwrap_or_default())
    }

    pub fn before(self, by: Duration) -> Self {
        Self::from_seconds(self.0.saturating_sub_unsigned(by.as_secs()))
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::from_seconds(i64::try_from(seconds).unwrap_or(LATEST))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        prost_types::Timestamp { seconds: self.0, nanos: 0 }.fmt(f)
    }
}

impl FromStr for Moment {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let stamp: prost_types::Timestamp = text.parse().map_err(|_| "is not a time as in RFC 3339: 2027-01-31T09:00:00Z")?;
        Ok(Self::from_seconds(stamp.seconds))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read_back() {
        let moment = Moment::from_seconds(1_800_000_000);
        assert_eq!(moment.to_string(), "2027-01-15T08:00:00Z");
        assert_eq!("2027-01-15T08:00:00Z".parse(), Ok(moment));
        assert_eq!(Moment::of_day(2027, 1, 15), Some(Moment::from_seconds(1_800_000_000 - 8 * 3600)));
        assert_eq!(Moment::of_day(2027, 2, 30), None);
        assert!("tomorrow".parse::<Moment>().is_err());
        assert_eq!(Moment::from_seconds(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }
}

//! How long things take: counted for operators, and as spans for a collector where there is one.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in seconds of all buckets but the last, which takes the rest. From a hand-out's microseconds to a call's
/// half-minute.
pub const BOUNDS: [f64; 14] = [1e-6, 4e-6, 16e-6, 64e-6, 256e-6, 1e-3, 4e-3, 16e-3, 64e-3, 256e-3, 1.0, 4.0, 16.0, 64.0];

/// A histogram of durations. Each part is counted for itself: a reading taken meanwhile can be off by what is under way.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Latency {
    pub fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Each bucket's own count (not the sum of those below), and the total in seconds.
    pub fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let counts = std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed));
        (counts, self.nanoseconds.load(Relaxed) as f64 / 1e9)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

/// A time for people: `40s`, `3m`, `2h`, `5d`: as exact as is of use.
pub fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Tells spans from all else that is traced.
pub const SPANS: &str = "spans";

/// A span: its name, names of things, and an `outcome` to record. Never a text of a caller or of a source, which may hold a value: those are known only when
/// they have been found among the names of configuration, and recorded then. In a build without the feature `otel` there are none,
/// and nothing is left of this.
#[cfg(feature = "otel")]
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        ::tracing::info_span!(target: $crate::measure::SPANS, $name, outcome = ::tracing::field::Empty, $($($fields)*)?)
    };
}

#[cfg(not(feature = "otel"))]
macro_rules! span {
    ($($nothing:tt)*) => {
        ::tracing::Span::none()
    };
}

pub(crate) use span;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        for (micros, bucket) in [(0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (1000, 5), (64_000_000, 13), (65_000_000, 14)] {
            let before = latency.read().0[bucket];
            latency.add(Duration::from_micros(micros));
            assert_eq!(latency.read().0[bucket], before + 1, "{micros} µs");
        }
        assert_eq!(latency.count(), 8);
        assert!((latency.read().1 - 129.001_012).abs() < 1e-6);
    }
}

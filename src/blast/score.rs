//! The score: one formula, and its parts beside it.
//!
//! The *risk* of a tool is the sum, over each system that it reaches, of the most that any way there weighs:
//! sensitivity x privilege x lifetime of the secret x exposure of its delivery, and `discount` for each further step. A secret of which
//! nobody said what it opens counts as one system of its own, with the range of what is unknown. `score = 100 (1 - e^(-risk / scale))`.
//! *Depth* is the one worst thing: the most that sensitivity x privilege is anywhere, of 100. *Reach* is counted.

use serde::{Serialize, Serializer, ser::SerializeTuple};

/// From the least to the most that something may be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Range {
    pub low: f64,
    pub high: f64,
}

impl Range {
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    pub const fn exactly(value: f64) -> Self {
        Self { low: value, high: value }
    }

    pub fn times(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }

    pub fn by(self, other: Self) -> Self {
        Self { low: self.low * other.low, high: self.high * other.high }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { low: self.low + other.low, high: self.high + other.high }
    }

    /// The most of both, each end for itself.
    pub fn most(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.max(other.high) }
    }
}

/// A number of 100, or two where something is unknown. Written as a list of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Percent {
    // Worst first is by the upper end: what is unknown may be as bad as that.
    pub high: u8,
    pub low: u8,
}

impl Percent {
    /// Of a part of one. Whole numbers: the last digits of a power of e differ from machine to machine.
    pub fn of(range: Range) -> Self {
        let percent = |part: f64| (part.clamp(0.0, 1.0) * 100.0).round() as u8;
        Self { low: percent(range.low), high: percent(range.high) }
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.low == self.high {
            true => write!(f, "{}", self.low),
            false => write!(f, "{}-{}", self.low, self.high),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut both = serializer.serialize_tuple(2)?;
        both.serialize_element(&self.low)?;
        both.serialize_element(&self.high)?;
        both.end()
    }
}

/// How bad it would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Score {
    pub score: Percent,
    /// The worst single thing that could be done.
    pub depth: Percent,
    /// Secrets that it may have from the broker.
    pub secrets: usize,
    /// Secrets that it could read at a source that one of those opens.
    pub beyond: usize,
    pub systems: usize,
    /// Secrets of which nobody said what they open.
    pub undeclared: usize,
}

impl Score {
    /// From the risk of the whole, and the depth of the worst, each a sum or a most of parts.
    pub fn of(risk: Range, depth: Range, scale: f64) -> Self {
        let saturate = |risk: f64| 1.0 - (-risk / scale).exp();
        let score = Percent::of(Range::new(saturate(risk.low), saturate(risk.high)));
        Self { score, depth: Percent::of(depth), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_saturates_and_keeps_its_range() {
        let score = |low, high| Score::of(Range::new(low, high), Range::default(), 1.5).score.to_string();
        assert_eq!(score(0.0, 0.0), "0");
        assert_eq!(score(1.5, 1.5), "63");
        assert_eq!(score(0.06, 1.3), "4-58");
        assert_eq!(score(1e9, f64::INFINITY), "100");
    }
}

//! A text of any length, line by line: what the `Redact` calls and `valetkey redact` filter with.
//!
//! No form of a value holds a newline, so a line that is complete can be cleaned and passed on at once, and nothing of the next can
//! change it. The last piece waits for its end.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Form, Redactor, Wanted};
use crate::name::{SecretName, Version};

/// The longest line. One that is longer cannot be cleaned, and nothing of it passes.
pub const LONGEST_LINE: usize = 8 * 1024 * 1024;

/// A value that was found, and taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub secret: SecretName,
    pub version: Version,
    pub form: Form,
    /// From 1, in the whole text.
    pub line: u64,
}

/// A line longer than [`LONGEST_LINE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {} MiB: nothing of it is passed on", LONGEST_LINE / 1024 / 1024)]
pub struct LineTooLong;

/// What was cleaned: text that may be passed on, and what was in it.
#[derive(Debug, Default)]
pub struct Clean {
    pub text: Vec<u8>,
    pub hits: Vec<Hit>,
}

/// Cleans a text that comes in pieces.
pub struct Lines {
    redactor: Redactor,
    wanted: Wanted,
    /// The beginning of a line, wiped when it goes.
    beginning: Zeroizing<Vec<u8>>,
    /// Of the line that begins next.
    line: u64,
}

impl Lines {
    /// `named`: is this secret named where it is found? If not, `[redacted]` stands there.
    pub fn new(redactor: Redactor, named: impl Fn(&SecretName) -> bool + Send + Sync + 'static) -> Self {
        let wanted = Wanted { named: Some(Arc::new(named)), ..Wanted::default() };
        Self { redactor, wanted, beginning: Zeroizing::default(), line: 1 }
    }

    /// Takes the next piece, and gives the lines that are complete.
    pub fn push(&mut self, piece: &[u8]) -> Result<Clean, LineTooLong> {
        let complete = piece.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
        let (lines, rest) = piece.split_at(complete);
        let mut clean = Clean::default();
        if !lines.is_empty() {
            let first = lines.iter().position(|b| *b == b'\n').map_or(lines.len(), |at| at + 1);
            self.keep(&lines[..first])?;
            let whole = std::mem::take(&mut self.beginning);
            self.clean(&whole, &mut clean)?;
            self.clean(&lines[first..], &mut clean)?;
        }
        self.keep(rest)?;
        Ok(clean)
    }

    /// The text is at its end: what waits is all of its line.
    pub fn finish(&mut self) -> Clean {
        let mut clean = Clean::default();
        let rest = std::mem::take(&mut self.beginning);
        // A line of this length can be cleaned; if it could not, nothing of it would pass.
        let _ = self.clean(&rest, &mut clean);
        clean
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), LineTooLong> {
        let needed = self.beginning.len() + part.len();
        if needed > LONGEST_LINE {
            return Err(LineTooLong);
        }
        if needed > self.beginning.capacity() {
            // By hand: a vector that grows by itself leaves its old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.beginning);
            self.beginning = larger;
        }
        self.beginning.extend_from_slice(part);
        Ok(())
    }

    /// Whole lines. Most text holds nothing, and is looked through at once; where something is found, it is by the line.
    fn clean(&mut self, text: &[u8], clean: &mut Clean) -> Result<(), LineTooLong> {
        let pass = |text| self.redactor.clean(text, self.wanted.clone()).map_err(|_| LineTooLong);
        if pass(text)?.hits.is_empty() {
            clean.text.extend_from_slice(text);
        } else {
            for (line, at) in text.split_inclusive(|b| *b == b'\n').zip(self.line..) {
                let passed = pass(line)?;
                clean.text.extend_from_slice(&passed.text);
                clean.hits.extend(passed.hits.into_iter().flat_map(|hit| hits(hit, at)));
            }
        }
        self.line += text.iter().filter(|b| **b == b'\n').count() as u64;
        Ok(())
    }
}

/// Each find by itself.
fn hits(super::Hit { name, version, form, count }: super::Hit, line: u64) -> impl Iterator<Item = Hit> {
    let hit = version.map(|version| Hit { secret: name, version, form, line });
    hit.into_iter().flat_map(move |hit| std::iter::repeat_n(hit, count as usize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::SecretValue;

    fn redactor() -> Redactor {
        let redactor = Redactor::new().unwrap();
        for (name, value) in [("a/key", "value-of-the-first"), ("b/key", "value-of-the-second")] {
            let value = SecretValue::copy_from(value.as_bytes()).unwrap();
            let _ = redactor.learn(&name.parse().unwrap(), &Version::from(7), &value);
        }
        redactor
    }

    const TEXT: &str = "one\nkey=value-of-the-first\n\nvalue-of-the-second and value%2Dof%2Dthe%2Dfirst\nlast value-of-the-first";

    #[test]
    fn finds_have_a_name_a_form_and_a_line() {
        let mut lines = Lines::new(redactor(), |name| name.as_str() == "a/key");
        let mut all = lines.push(TEXT.as_bytes()).unwrap();
        assert!(all.text.ends_with(b"\n"), "what has no end yet waits");
        let end = lines.finish();
        all.text.extend(end.text);
        all.hits.extend(end.hits);
        let text = String::from_utf8(all.text).unwrap();
        assert_eq!(
            text, "one\nkey=[redacted:a/key]\n\n[redacted] and [redacted:a/key]\nlast [redacted:a/key]",
            "only the first may be named"
        );
        let hits: Vec<_> = all.hits.iter().map(|hit| (hit.secret.as_str(), hit.form.as_str(), hit.line)).collect();
        assert_eq!(hits, [("a/key", "raw", 2), ("b/key", "raw", 4), ("a/key", "percent", 4), ("a/key", "raw", 5)]);
        assert!(all.hits.iter().all(|hit| hit.version.as_str() == "7"));
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept() {
        let mut lines = Lines::new(redactor(), |_| true);
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..20).take_while(|_| lines.push(&piece).is_ok()).count();
        assert_eq!(taken, LONGEST_LINE >> 20);
        assert!(lines.beginning.len() <= LONGEST_LINE);
    }

    proptest! {
        /// However the text is cut, what comes out is the same, and each line at once.
        #[test]
        fn cuts_make_no_difference(cuts in prop::collection::vec(0..40usize, 0..12)) {
            let mut lines = Lines::new(redactor(), |_| true);
            let (mut rest, mut out, mut hits) = (TEXT.as_bytes(), Vec::new(), 0);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let clean = lines.push(piece).unwrap();
                let given = TEXT.len() - after.len();
                let ended = TEXT[..given].matches('\n').count();
                out.extend(clean.text);
                hits += clean.hits.len();
                prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), ended);
                rest = after;
            }
            for clean in [lines.push(rest).unwrap(), lines.finish()] {
                out.extend(clean.text);
                hits += clean.hits.len();
            }
            let whole = redactor();
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole.redact_str(TEXT).into_owned());
            prop_assert_eq!(hits, 4);
        }
    }
}

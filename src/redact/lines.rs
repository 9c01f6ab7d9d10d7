//! A text of any length, line by line: what the `Redact` calls and `valetkey redact` filter with.
//!
//! A line that is complete is cleaned and passed on at once, but for what [`Stream`] holds of it: the start of a value in base64 that is
//! broken into lines, and of the block of a private key where shapes are looked for. The last piece waits for its end.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Form, Passed, Redactor, Stream, Wanted};
use crate::name::{SecretName, Version};

/// The longest line. One that is longer cannot be cleaned, and nothing of it passes.
pub const LONGEST_LINE: usize = 8 * 1024 * 1024;

/// A value that was found, and taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// `shape/NAME` for a [`Form::Shape`], which is no secret of ours.
    pub secret: SecretName,
    /// None for a shape.
    pub version: Option<Version>,
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
    stream: Stream,
    /// The beginning of a line, wiped when it goes.
    beginning: Zeroizing<Vec<u8>>,
}

impl Lines {
    /// `shapes`: is text of the shape of a well-known kind of key taken out, too? `named`: is this secret named where it is found?
    /// If not, `[redacted]` stands there.
    pub fn new(redactor: &Redactor, shapes: bool, named: impl Fn(&SecretName) -> bool + Send + Sync + 'static) -> Self {
        let wanted = Wanted { shapes, lines: true, named: Some(Arc::new(named)) };
        Self { stream: redactor.stream(wanted), beginning: Zeroizing::default() }
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
            clean.take(self.stream.push(&whole))?;
            clean.take(self.stream.push(&lines[first..]))?;
        }
        self.keep(rest)?;
        Ok(clean)
    }

    /// The text is at its end: what waits is all of its line.
    pub fn finish(&mut self) -> Clean {
        let mut clean = Clean::default();
        let rest = std::mem::take(&mut self.beginning);
        // A line of this length can be cleaned; if it could not, nothing of it would pass.
        let _ = clean.take(self.stream.push(&rest)).and_then(|()| clean.take(self.stream.finish()));
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
}

impl Clean {
    fn take(&mut self, passed: Result<Passed<'_>, super::LineTooLong>) -> Result<(), LineTooLong> {
        let Passed { text, hits } = passed.map_err(|_| LineTooLong)?;
        self.text.extend_from_slice(&text);
        self.hits.extend(hits.into_iter().flat_map(each));
        Ok(())
    }
}

/// Each find by itself.
fn each(super::Hit { name, version, form, count, line }: super::Hit) -> impl Iterator<Item = Hit> {
    let hit = Hit { secret: name, version, form, line: line.unwrap_or_default() };
    std::iter::repeat_n(hit, count as usize)
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
        let mut lines = Lines::new(&redactor(), false, |name| name.as_str() == "a/key");
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
        assert!(all.hits.iter().all(|hit| hit.version.as_ref().unwrap().as_str() == "7"));
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept() {
        let mut lines = Lines::new(&redactor(), false, |_| true);
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..20).take_while(|_| lines.push(&piece).is_ok()).count();
        assert_eq!(taken, LONGEST_LINE >> 20);
        assert!(lines.beginning.len() <= LONGEST_LINE);
    }

    #[test]
    fn what_is_broken_into_lines_is_found_and_has_the_line_it_begins_in() {
        let encoded = format!("{}dmFsdWUtb2YtdGhlLWZpcnN0eHh4eHh4eHh4", "eHh4".repeat(12));
        let block = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "aB3dE5gH7jK9".repeat(5));
        let text = format!("one\n{}\n{}\n{block}\nsix {encoded}\n", &encoded[..60], &encoded[60..]);
        for size in [1, 7, 16, 1000] {
            let mut lines = Lines::new(&redactor(), true, |_| false);
            let mut all = Clean::default();
            let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
            for clean in pieces.into_iter().map(|piece| lines.push(piece).unwrap()).collect::<Vec<_>>() {
                all.text.extend(clean.text);
                all.hits.extend(clean.hits);
            }
            let end = lines.finish();
            all.text.extend(end.text);
            all.hits.extend(end.hits);
            let clean = String::from_utf8(all.text).unwrap();
            assert!(!clean.contains("mFsdWUtb2Y") && !clean.contains("LWZpcnN0"), "pieces of {size}: {clean}");
            assert!(clean.contains("[redacted:shape/private-key]\nsix"), "a shape is nobody's, and so is named: {clean}");
            let hits: Vec<_> = all.hits.iter().map(|hit| (hit.secret.as_str(), hit.form.as_str(), hit.line)).collect();
            assert_eq!(hits, [("a/key", "base64", 2), ("shape/private-key", "shape", 4), ("a/key", "base64", 7)], "{size}");
        }
    }

    proptest! {
        /// However the text is cut, what comes out is the same, and each line at once.
        #[test]
        fn cuts_make_no_difference(cuts in prop::collection::vec(0..40usize, 0..12)) {
            let mut lines = Lines::new(&redactor(), false, |_| true);
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

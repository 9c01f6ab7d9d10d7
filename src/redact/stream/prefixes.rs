//! Tells whether the end of a text may be the start of a value, so that a stream can pass on everything else at once.
//!
//! This needs the patterns themselves. A keyed hash of each prefix would not hide them: whoever has the tables and the key
//! guesses the first byte with 256 tries, then the second, and so on. So the patterns are here in the clear, in the protected
//! memory of [`SecretValue`], and only in a redactor that was made for it ([`Redactor::streaming`](crate::redact::Redactor)):
//! the launcher's, which knows the secrets of one tool, that has them in its own memory anyway. The daemon's redactors hold
//! hashes alone; their streams hold back as many bytes as the longest pattern has.

use zeroize::Zeroizing;

use crate::{redact::engine::LONGEST, secret::SecretValue};

/// The patterns of one value, sorted. None of them is the start of another.
pub(in crate::redact) struct Prefixes {
    /// A bit for each first byte, then the patterns, one after another.
    bytes: SecretValue,
    spans: Vec<(u32, u32)>,
    longest: usize,
}

const FIRSTS: usize = 32;

/// Gathers the patterns of one value.
#[derive(Default)]
pub(in crate::redact) struct Gathered {
    bytes: Zeroizing<Vec<u8>>,
    spans: Vec<(u32, u32)>,
}

impl Gathered {
    /// Adds a form, in the pieces that the engine knows it by.
    pub fn add(&mut self, form: &[u8]) {
        for piece in 0..form.len().div_ceil(LONGEST) {
            let end = form.len().min((piece + 1) * LONGEST);
            let pattern = &form[end.saturating_sub(LONGEST)..end];
            self.spans.push((self.bytes.len() as u32, pattern.len() as u32));
            self.bytes.extend_from_slice(pattern);
        }
    }

    /// None where no memory can be had for it: then nothing can be told, and a stream holds back what it must.
    pub fn sorted(mut self) -> Option<Prefixes> {
        let bytes = &self.bytes;
        let of = |span: &(u32, u32)| &bytes[span.0 as usize..(span.0 + span.1) as usize];
        self.spans.sort_unstable_by(|a, b| of(a).cmp(of(b)));
        self.spans.dedup_by(|next, before| of(next) == of(before));
        let ends = |at: usize| self.spans.get(at + 1).is_none_or(|next| !of(next).starts_with(of(&self.spans[at])));
        let kept: Vec<_> = (0..self.spans.len()).filter(|at| ends(*at)).map(|at| self.spans[at]).collect();

        let mut all = Zeroizing::new(Vec::with_capacity(FIRSTS + bytes.len()));
        all.resize(FIRSTS, 0);
        let mut spans = Vec::with_capacity(kept.len());
        for pattern in kept.iter().map(of) {
            all[usize::from(pattern[0] / 8)] |= 1 << (pattern[0] % 8);
            spans.push((all.len() as u32, pattern.len() as u32));
            all.extend_from_slice(pattern);
        }
        let longest = spans.iter().map(|span| span.1 as usize).max().unwrap_or(0);
        Some(Prefixes { bytes: SecretValue::copy_from(&all).ok()?, spans, longest })
    }
}

impl Prefixes {
    /// Where the longest end of the text starts that is the start of a pattern and not all of it. The length of the text if
    /// there is none.
    pub fn held_from(&self, text: &[u8]) -> usize {
        self.bytes.expose(|bytes| {
            let first = text.len().saturating_sub(self.longest.saturating_sub(1));
            let may_start = |at: &usize| bytes[usize::from(text[*at] / 8)] >> (text[*at] % 8) & 1 == 1;
            (first..text.len()).filter(may_start).find(|at| self.has(bytes, &text[*at..])).unwrap_or(text.len())
        })
    }

    fn has(&self, bytes: &[u8], prefix: &[u8]) -> bool {
        let of = |span: &(u32, u32)| &bytes[span.0 as usize..(span.0 + span.1) as usize];
        let at = self.spans.partition_point(|span| of(span) < prefix);
        self.spans.get(at).is_some_and(|span| span.1 as usize > prefix.len() && of(span).starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(patterns: &[&str]) -> Prefixes {
        let mut gathered = Gathered::default();
        patterns.iter().for_each(|pattern| gathered.add(pattern.as_bytes()));
        gathered.sorted().unwrap()
    }

    #[test]
    fn the_longest_end_that_may_be_a_start_is_found() {
        let known = prefixes(&["abcabcab", "abcabcabcd", "xyzxyzxyz", "abcabcab"]);
        assert_eq!(known.spans.len(), 2);
        for (text, held) in
            [("", 0), ("q", 1), ("qabca", 1), ("abcabcab", 0), ("abcabcabc", 0), ("abcabcabcd", 10), ("abcabx", 5), ("zzxyz", 2)]
        {
            assert_eq!(known.held_from(text.as_bytes()), held, "{text}");
        }
    }

    #[test]
    fn agrees_with_a_loop_over_all_prefixes() {
        let patterns = ["aabaabab", "abababab", "babaabba", "bbbbbbbb", "aabaababba"];
        let known = prefixes(&patterns);
        for n in 0..4096u32 {
            let text: Vec<u8> = (0..12).map(|bit| b'a' + (n >> bit & 1) as u8).collect();
            let is_start = |end: &[u8]| patterns.iter().any(|p| p.len() > end.len() && p.as_bytes().starts_with(end));
            let slow = (0..12).find(|at| is_start(&text[*at..])).unwrap_or(12);
            assert_eq!(known.held_from(&text), slow);
        }
    }

    #[test]
    fn a_long_form_is_known_by_its_pieces() {
        let long: String = (0..600).map(|n| char::from(b'a' + (n * 7 % 26) as u8)).collect();
        let known = prefixes(&[&long]);
        assert_eq!(known.held_from(&long.as_bytes()[..255]), 0);
        assert_eq!(known.longest, LONGEST);
    }
}

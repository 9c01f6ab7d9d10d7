//! Tells whether the end of a text may be the start of a value, so that a stream can pass on everything else at once.
//!
//! This needs the patterns themselves. A keyed hash of each prefix would not hide them: whoever has the tables and the key
//! guesses the first byte with 256 tries, then the second, and so on. So the patterns are here in the clear, in the protected
//! memory of [`SecretValue`], and only in a redactor that was made for it ([`Redactor::streaming`](crate::redact::Redactor)):
//! the launcher's, which knows the secrets of one tool, that has them in its own memory anyway. The daemon's redactors hold
//! hashes alone; their streams hold back as many bytes as the longest pattern has.

use std::collections::HashSet;

use zeroize::Zeroizing;

use crate::{redact::engine::LONGEST, secret::SecretValue};

/// Patterns, sorted.
pub(in crate::redact) struct Prefixes {
    /// A bit for each first byte, then the patterns, one after another.
    bytes: SecretValue,
    spans: Vec<Span>,
    longest: usize,
}

/// Where a pattern stands, and whose it is.
#[derive(Clone, Copy)]
struct Span {
    from: u32,
    len: u32,
    owner: u64,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.from as usize..(self.from + self.len) as usize]
    }
}

const FIRSTS: usize = 32;

/// Gathers patterns.
#[derive(Default)]
pub(in crate::redact) struct Gathered {
    bytes: Zeroizing<Vec<u8>>,
    spans: Vec<Span>,
}

impl Gathered {
    /// Adds a form, in the pieces that the engine knows it by.
    pub fn add(&mut self, owner: u64, form: &[u8]) {
        for piece in 0..form.len().div_ceil(LONGEST) {
            let end = form.len().min((piece + 1) * LONGEST);
            self.add_pattern(owner, &form[end.saturating_sub(LONGEST)..end]);
        }
    }

    /// Adds what is known already, but for some owners.
    pub fn add_all(&mut self, known: &Prefixes, without: &HashSet<u64>) {
        known.bytes.expose(|bytes| {
            let kept = known.spans.iter().filter(|span| !without.contains(&span.owner));
            kept.for_each(|span| self.push(span.owner, span.of(bytes)));
        });
    }

    fn add_pattern(&mut self, owner: u64, pattern: &[u8]) {
        // Most forms of a value look alike, and come one after another.
        let of_owner = self.spans.iter().rev().take_while(|span| span.owner == owner);
        let known = of_owner.filter(|span| span.len as usize == pattern.len()).any(|span| span.of(&self.bytes) == pattern);
        if !known {
            self.push(owner, pattern);
        }
    }

    fn push(&mut self, owner: u64, pattern: &[u8]) {
        self.spans.push(Span { from: self.bytes.len() as u32, len: pattern.len() as u32, owner });
        self.bytes.extend_from_slice(pattern);
    }

    /// None where no memory can be had for it: then nothing can be told, and a stream holds back what it must.
    pub fn sorted(mut self) -> Option<Prefixes> {
        let bytes = &self.bytes;
        self.spans.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)));
        let mut all = Zeroizing::new(Vec::with_capacity(FIRSTS + bytes.len()));
        all.resize(FIRSTS, 0);
        for span in &mut self.spans {
            let pattern = span.of(bytes);
            all[usize::from(pattern[0] / 8)] |= 1 << (pattern[0] % 8);
            span.from = all.len() as u32;
            all.extend_from_slice(pattern);
        }
        let longest = self.spans.iter().map(|span| span.len as usize).max().unwrap_or(0);
        Some(Prefixes { bytes: SecretValue::copy_from(&all).ok()?, spans: self.spans, longest })
    }
}

impl Prefixes {
    /// Where the longest end of the text starts that is the start of a pattern and not all of it. The length of the text if
    /// there is none.
    pub fn held_from(&self, text: &[u8]) -> usize {
        let first = within_last_line(text, self.longest);
        self.bytes.expose(|bytes| {
            let may_start = |at: &usize| bytes[usize::from(text[*at] / 8)] >> (text[*at] % 8) & 1 == 1;
            (first..text.len()).filter(may_start).find(|at| self.has(bytes, &text[*at..])).unwrap_or(text.len())
        })
    }

    fn has(&self, bytes: &[u8], prefix: &[u8]) -> bool {
        let at = self.spans.partition_point(|span| span.of(bytes) < prefix);
        let starting = self.spans[at..].iter().take_while(|span| span.of(bytes).starts_with(prefix));
        starting.map(|span| span.len as usize).any(|len| len > prefix.len())
    }
}

/// Where the start of a pattern may be that goes on after the text: no pattern has a newline.
pub(in crate::redact) fn within_last_line(text: &[u8], longest: usize) -> usize {
    let last = text.len().saturating_sub(longest.saturating_sub(1));
    memchr::memrchr(b'\n', &text[last..]).map_or(last, |newline| last + newline + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(patterns: &[&str]) -> Prefixes {
        let mut gathered = Gathered::default();
        patterns.iter().for_each(|pattern| gathered.add(1, pattern.as_bytes()));
        gathered.sorted().unwrap()
    }

    #[test]
    fn the_longest_end_that_may_be_a_start_is_found() {
        let known = prefixes(&["abcabcab", "abcabcabcd", "xyzxyzxyz", "abcabcab"]);
        assert_eq!(known.spans.len(), 3);
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
    fn what_one_owner_gives_up_another_keeps() {
        let mut gathered = Gathered::default();
        [(1, "abcabcab"), (2, "abcabcab"), (2, "xyzxyzxyz")]
            .iter()
            .for_each(|(owner, form)| gathered.add(*owner, form.as_bytes()));
        let both = gathered.sorted().unwrap();
        let without = |owner| {
            let mut kept = Gathered::default();
            kept.add_all(&both, &HashSet::from([owner]));
            kept.sorted().unwrap()
        };
        assert_eq!((without(1).held_from(b"-abc"), without(1).held_from(b"-xyz")), (1, 1));
        assert_eq!((without(2).held_from(b"-abc"), without(2).held_from(b"-xyz")), (1, 4));
    }

    #[test]
    fn a_long_form_is_known_by_its_pieces() {
        let long: String = (0..600).map(|n| char::from(b'a' + (n * 7 % 26) as u8)).collect();
        let known = prefixes(&[&long]);
        assert_eq!(known.held_from(&long.as_bytes()[..255]), 0);
        assert_eq!(known.longest, LONGEST);
    }
}

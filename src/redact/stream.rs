//! Takes values out of a text that comes in pieces, and passes on all it can of each piece at once.
//!
//! - A line that begins like JSON is held until it ends: nobody can use half of one. It stays JSON.
//! - Of any other text only the end is held that may be the start of a value: a prompt comes out as it is printed.
//! - What is held is passed on when more text shows that it is no value, at a newline, or at the end. Never after a time: the
//!   two halves of a value that is written with a pause would both come out.
//! - A complete line is passed on at once. One exception: where base64 that is broken into lines ([`views`](super::views)) ends
//!   a line with eight characters or more of a value, they wait for the next line. Fewer do not, and stay where they are when
//!   the rest turns up.
//!
//! The line that is not complete stays here until it is, also what was passed on of it: only from its start does it show what
//! an escape at its end is.

mod prefixes;

use std::{borrow::Cow, ops::Range};

use memchr::{memchr, memchr_iter, memrchr};
use zeroize::Zeroizing;

use super::{
    Hit, Hits, Redactor, Tables, Wanted,
    find::{Finder, Merged, Seen},
    json::{self, Cleaner, Spot},
};
use crate::{name::SecretName, secret::wipe_bytes};
pub(super) use prefixes::{Gathered, Prefixes, within_last_line};

/// Bytes of the longest line that is held as a whole.
pub const MOST_HELD: usize = 64 << 20;

/// Bytes of an unfinished line that are looked at again with each piece of it. Of a longer one the start is let go.
const MOST_CONTEXT: usize = 64 << 10;

/// Bytes without the mark of any escape after which none that began before goes on, at any layer.
const NO_ESCAPE: usize = 96;

/// Room that is kept for the next line. A longer line is rare, and gives back what it took.
const MOST_ROOM: usize = 4 << 20;

/// Bytes that show whether a line is JSON.
const SHOWS_JSON: usize = 256;

/// A line that must be held as a whole is too long for that. Nothing of it was passed on, and nothing will be: stop who
/// writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {} MiB and cannot be redacted", MOST_HELD >> 20)]
pub struct LineTooLong;

/// What may be passed on, and what was taken out of it.
#[derive(Debug)]
pub struct Passed<'t> {
    /// Borrowed where it is as it came.
    pub text: Cow<'t, [u8]>,
    pub hits: Vec<Hit>,
}

/// What may be passed on of a text.
enum Out {
    /// This part of it, as it is.
    As(Range<usize>),
    /// Something else in its place.
    Anew(Vec<u8>, Vec<Hit>),
}

impl Out {
    fn of(self, text: &[u8]) -> Passed<'_> {
        match self {
            Self::As(range) => Passed { text: Cow::Borrowed(&text[range]), hits: Vec::new() },
            Self::Anew(text, hits) => Passed { text: Cow::Owned(text), hits },
        }
    }
}

/// One channel of what a tool writes.
pub struct Stream {
    redactor: Redactor,
    wanted: Wanted,
    /// The unfinished line, and what before it may still be part of a find. Its room is kept from line to line.
    text: Zeroizing<Vec<u8>>,
    /// So much of the start of `text` is done with. It holds no value, and is lent to the caller until the next piece comes.
    done: usize,
    /// How much of `text` was passed on.
    passed: usize,
    /// The last of that was a placeholder.
    in_place: bool,
    /// `text` starts within a line.
    within_line: bool,
    /// Which line that is, from 1. Counted only where it is asked for.
    line: u64,
    /// `text` is a line of JSON without its end.
    json: bool,
    failed: bool,
}

impl Stream {
    pub(super) fn new(redactor: Redactor, wanted: Wanted) -> Self {
        let text = Zeroizing::default();
        Self {
            redactor,
            wanted,
            text,
            done: 0,
            passed: 0,
            in_place: false,
            within_line: false,
            line: 1,
            json: false,
            failed: false,
        }
    }

    /// The next piece. Answers with what may be passed on by now.
    pub fn push<'t>(&'t mut self, piece: &'t [u8]) -> Result<Passed<'t>, LineTooLong> {
        if self.failed {
            return Err(LineTooLong);
        }
        self.let_go(self.done);
        if self.json && self.text.len() >= SHOWS_JSON && memchr(b'\n', piece).is_none() {
            self.text.extend_from_slice(piece);
            return self.limited(Out::As(0..0), b"");
        }
        self.go_on(piece, false)
    }

    /// The end of the text: what was held. The stream can be used for another text then.
    pub fn finish(&mut self) -> Result<Passed<'_>, LineTooLong> {
        if self.failed {
            return Err(LineTooLong);
        }
        self.let_go(self.done);
        self.go_on(b"", true)
    }

    /// A text that is all there.
    pub(super) fn clean(mut self, text: &[u8]) -> Result<Passed<'_>, LineTooLong> {
        Ok(self.look(text, true).0.of(text))
    }

    /// Bytes that were taken and not passed on yet.
    pub fn held(&self) -> usize {
        self.text.len() - self.done - self.passed
    }

    fn go_on<'t>(&'t mut self, piece: &'t [u8], ends: bool) -> Result<Passed<'t>, LineTooLong> {
        if self.text.is_empty() {
            let (out, kept) = self.look(piece, ends);
            self.text.extend_from_slice(&piece[kept..]);
            return self.limited(out, piece);
        }
        self.text.extend_from_slice(piece);
        let text = std::mem::take(&mut self.text);
        let (out, kept) = self.look(&text, ends);
        self.text = text;
        match out {
            // The caller gets it from where it lies.
            Out::As(range) if self.text.len() - kept <= MOST_HELD => {
                self.done = kept;
                Ok(Out::As(range).of(&self.text))
            }
            out => {
                self.let_go(kept);
                self.limited(out, piece)
            }
        }
    }

    /// What stands before a line that is too long was clean, and is lost with it: no matter, as the tool is stopped.
    fn limited<'t>(&mut self, out: Out, piece: &'t [u8]) -> Result<Passed<'t>, LineTooLong> {
        if self.text.len() > MOST_HELD {
            self.failed = true;
            self.text = Zeroizing::default();
            self.passed = 0;
            return Err(LineTooLong);
        }
        Ok(out.of(piece))
    }

    /// Drops the first bytes of what is held, and leaves no copy of them.
    fn let_go(&mut self, count: usize) {
        self.done = 0;
        if count == 0 {
            return;
        }
        let left = self.text.len() - count;
        if left == 0 && self.text.capacity() > MOST_ROOM {
            self.text = Zeroizing::default();
            return;
        }
        self.text.copy_within(count.., 0);
        wipe_bytes(&mut self.text[left..]);
        self.text.truncate(left);
    }

    fn look(&mut self, text: &[u8], ends: bool) -> (Out, usize) {
        let (redactor, named) = (self.redactor.clone(), self.wanted.named.clone());
        let tables = redactor.tables();
        let named = move |name: &SecretName| named.as_ref().is_none_or(|named| named(name));
        let cleaner = Cleaner { finder: redactor.finder(&tables, self.wanted.shapes), named: &named };
        let (out, kept) = self.pass(text, &cleaner, &tables, ends);
        self.line += self.lines_in(&text[..kept]);
        (out, kept)
    }

    fn lines_in(&self, text: &[u8]) -> u64 {
        if self.wanted.lines { memchr_iter(b'\n', text).count() as u64 } else { 0 }
    }

    /// What of `text` may be passed on beyond what was, and from where on it must be kept.
    fn pass(&mut self, text: &[u8], cleaner: &Cleaner<'_>, tables: &Tables, ends: bool) -> (Out, usize) {
        let last_line = memrchr(b'\n', text).map_or(0, |newline| newline + 1);
        self.json = !ends && self.is_json_so_far(text, last_line);
        let scope = if self.json { &text[..last_line] } else { text };
        let goes_on = (!ends && !self.json).then_some(&*tables.held);
        let finder = Finder { goes_on, ..cleaner.finder };
        let Seen { found, held_from, kept_from } = finder.find(scope);
        let passed = match found.is_empty() {
            true => self.as_it_is(scope, held_from),
            false => self.cleaned(scope, cleaner, &cleaner.union(found), held_from),
        };
        if ends {
            (self.passed, self.in_place, self.within_line) = (0, false, false);
            return (passed, text.len());
        }
        let kept = self.kept_from(text, last_line, held_from.min(kept_from));
        self.passed -= kept.min(self.passed);
        (passed, kept)
    }

    fn is_json_so_far(&self, text: &[u8], last_line: usize) -> bool {
        let line = &text[last_line..];
        !line.is_empty() && self.is_whole(text, last_line) && json::may_be_json(&line[..line.len().min(SHOWS_JSON)])
    }

    /// Is this the start of a line of which nothing but white space was passed on?
    fn is_whole(&self, text: &[u8], line: usize) -> bool {
        let from_start = line > 0 || !self.within_line;
        from_start && text[line..self.passed.max(line)].trim_ascii().is_empty()
    }

    fn as_it_is(&mut self, scope: &[u8], held_from: usize) -> Out {
        let from = self.passed.min(scope.len());
        if held_from > from {
            (self.passed, self.in_place) = (held_from, false);
        }
        Out::As(from..held_from.max(from))
    }

    fn cleaned(&mut self, scope: &[u8], cleaner: &Cleaner<'_>, merged: &[Merged<'_>], held_from: usize) -> Out {
        let mut out = Vec::with_capacity(scope.len() - self.passed.min(scope.len()));
        let (mut hits, mut next) = (Hits::default(), 0);
        let mut counted = (0, self.line);
        while let Some(one) = merged.get(next).filter(|one| one.range.start < held_from) {
            next += 1;
            if one.range.end <= self.passed {
                continue;
            }
            if self.wanted.lines {
                counted = (one.range.start, counted.1 + self.lines_in(&scope[counted.0..one.range.start]));
                hits.line = Some(counted.1);
            }
            hits.count(one, self.passed);
            match self.json_line(scope, one.range.start) {
                Some((start, end)) => {
                    while merged.get(next).is_some_and(|other| other.range.start < end) {
                        hits.count(&merged[next], self.passed);
                        next += 1;
                    }
                    let first = merged[..next].partition_point(|one| one.range.start < start);
                    let spots = json::spots(&merged[first..next], start);
                    self.put_line(&scope[..end], start, cleaner, &spots, &mut hits, &mut out);
                }
                None => self.put(scope, one, cleaner, &mut out),
            }
        }
        if held_from > self.passed {
            out.extend_from_slice(&scope[self.passed..held_from]);
            (self.passed, self.in_place) = (held_from, false);
        }
        Out::Anew(out, hits.into_list())
    }

    /// Passes on what stands before the find, and a placeholder.
    fn put(&mut self, scope: &[u8], one: &Merged<'_>, cleaner: &Cleaner<'_>, out: &mut Vec<u8>) {
        // A find that goes on where a placeholder was put is the rest of what that stands for. Where text was passed on, it is
        // the rest of a value that was learned too late for its start.
        let goes_on = one.range.start < self.passed && self.in_place;
        if !goes_on {
            out.extend_from_slice(&scope[self.passed..one.range.start.max(self.passed)]);
            cleaner.placeholder(one.owner, out);
        }
        (self.passed, self.in_place) = (one.range.end, true);
    }

    /// Passes on what stands before the line of JSON at the end, and what can be passed on of that.
    fn put_line<'e>(
        &mut self,
        scope: &[u8],
        start: usize,
        cleaner: &Cleaner<'e>,
        spots: &[Spot<'e>],
        hits: &mut Hits,
        out: &mut Vec<u8>,
    ) {
        // White space may have been passed on; it stands in the clean line as well.
        let already = self.passed.saturating_sub(start);
        out.extend_from_slice(&scope[self.passed.min(start)..start]);
        self.passed = match cleaner.clean(&scope[start..], spots, hits) {
            Some(clean) => {
                out.extend_from_slice(&clean[already..]);
                scope.len()
            }
            // The line is dropped, with the newline that follows.
            None => scope.len() + 1,
        };
        self.in_place = false;
    }

    /// The line around `at`, if it is all of a line of JSON.
    fn json_line(&self, scope: &[u8], at: usize) -> Option<(usize, usize)> {
        let start = memrchr(b'\n', &scope[..at]).map_or(0, |newline| newline + 1);
        let end = memchr(b'\n', &scope[at..]).map_or(scope.len(), |newline| at + newline);
        let line = &scope[start..end];
        let is_json = json::may_be_json(&line[..line.len().min(SHOWS_JSON)]) && json::is_json(line);
        (is_json && self.is_whole(scope, start)).then_some((start, end))
    }

    /// From where on the text has to be looked at again.
    fn kept_from(&mut self, text: &[u8], last_line: usize, held_from: usize) -> usize {
        if self.json || (held_from == text.len() && last_line == text.len()) {
            self.within_line = false;
            return last_line;
        }
        let line = memrchr(b'\n', &text[..held_from]).map_or(0, |newline| newline + 1);
        let kept = if held_from - line > MOST_CONTEXT { no_escape_before(text, line, held_from) } else { line };
        self.within_line = kept > line || (kept == 0 && self.within_line);
        kept
    }
}

/// The last place, well before `held_from`, that no escape reaches over.
fn no_escape_before(text: &[u8], line: usize, held_from: usize) -> usize {
    let mut clear = 0;
    for at in (line..held_from - MOST_CONTEXT / 2).rev() {
        clear = if matches!(text[at], b'\\' | b'%' | b'&') { 0 } else { clear + 1 };
        if clear == NO_ESCAPE {
            return at + NO_ESCAPE;
        }
    }
    line
}

#[cfg(test)]
mod tests;

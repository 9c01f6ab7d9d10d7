//! A text as it would read with one layer of escapes taken off, and the way back to where each byte of it stood.
//!
//! A list of a value's escaped forms cannot be complete: any character may be written `\uXXXX`, or not. So the scanner also
//! looks at the text unescaped, and a find is mapped back. Escapes are atomic on the way: half of one is never redacted.
//!
//! A view shows what is near an escape. Further away it would repeat the text, where the scanner has looked already: a long
//! stretch without escapes is left out, and a newline, which no form has, stands for it.

mod escapes;
mod wrapped;

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};

use crate::secret::wipe_bytes;
use escapes::Reading;

/// Bytes shown on either side of an escape: more than a pattern of [`LONGEST`](super::engine::LONGEST) takes with each of its
/// bytes percent-encoded twice, or written as an entity.
const NEAR: usize = 4096;

/// No escape is longer than this; what is, stands for bytes left out.
const LONGEST_ESCAPE: usize = 96;

/// A layer that can be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// The backslashes of JSON, Rust, C, Python and the shell.
    Backslash,
    Percent,
    /// `&quot;`, `&#39;`, `&#x27;`: HTML and XML.
    Entity,
    /// The line ends within base64 or hex.
    Wrapped,
}

/// Where a newline in a view is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newline {
    /// The text has it there.
    Text,
    /// It was written as an escape.
    Escape,
    /// It stands for what was left out.
    Gap,
}

const MARKS: [u8; 3] = [b'\\', b'%', b'&'];

/// Where the first mark of each kind of escape stands: backslash, percent sign, ampersand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    first: [Option<usize>; 3],
}

impl Marks {
    /// In one pass over the text: most of it has few of them, or none.
    pub fn of(text: &[u8]) -> Self {
        let mut marks = Self { first: [None; 3] };
        let Some(one) = memchr3(MARKS[0], MARKS[1], MARKS[2], text) else { return marks };
        let (x, y) = marks.note(text, one);
        let Some(two) = memchr2(x, y, &text[one..]).map(|at| one + at) else { return marks };
        marks.note(text, two);
        let last = if text[two] == x { y } else { x };
        if let Some(three) = memchr(last, &text[two..]).map(|at| two + at) {
            marks.note(text, three);
        }
        marks
    }

    /// Notes the mark at this place. Answers with the other two.
    fn note(&mut self, text: &[u8], at: usize) -> (u8, u8) {
        let which = MARKS.iter().position(|mark| *mark == text[at]).unwrap_or_default();
        self.first[which] = Some(at);
        (MARKS[(which + 1) % 3], MARKS[(which + 2) % 3])
    }
}

/// A text with one layer of escapes taken off. It may hold a secret in the clear, so it is wiped when dropped.
pub(super) struct View {
    bytes: Vec<u8>,
    escapes: Vec<Escape>,
    /// Bytes shown on either side of an escape.
    near: usize,
}

/// `taken` bytes of the source, from `from` on, became `given` bytes of the view, from `at` on.
struct Escape {
    from: u32,
    at: u32,
    taken: u32,
    given: u8,
}

impl Escape {
    fn end(&self) -> usize {
        (self.from + self.taken) as usize
    }

    fn is_gap(&self) -> bool {
        self.taken as usize > LONGEST_ESCAPE
    }
}

impl View {
    /// The source with the layer taken off; none where there is nothing to take off. If the source will go on, the view ends
    /// before an escape that is not complete yet.
    /// `marks` are those of the source.
    pub fn of(layer: Layer, source: &[u8], marks: Marks, goes_on: bool, newline: &dyn Fn(usize) -> Newline) -> Option<Self> {
        Self::layer(layer, source, marks, goes_on, NEAR, newline)
    }

    fn layer(
        layer: Layer,
        source: &[u8],
        marks: Marks,
        goes_on: bool,
        near: usize,
        newline: &dyn Fn(usize) -> Newline,
    ) -> Option<Self> {
        // Offsets are kept in 32 bits. No caller has a text that long; one that had gets no views, not wrong ones.
        u32::try_from(source.len()).ok()?;
        let [backslash, percent, entity] = marks.first;
        match layer {
            Layer::Backslash => Self::decode(source, backslash?, escapes::backslash, goes_on, near),
            Layer::Percent => Self::decode(source, percent?, escapes::percent, goes_on, near),
            Layer::Entity => Self::decode(source, entity?, escapes::entity, goes_on, near),
            Layer::Wrapped => wrapped::unwrap(source, goes_on, newline),
        }
    }

    /// A text that is all there with the layer taken off, and nothing left out.
    pub fn whole_of(layer: Layer, source: &[u8]) -> Option<Self> {
        Self::layer(layer, source, Marks::of(source), false, usize::MAX / 4, &|_| Newline::Text)
    }

    /// `first` is where the first mark is.
    fn decode(source: &[u8], first: usize, read: fn(&[u8]) -> Reading, goes_on: bool, near: usize) -> Option<Self> {
        let mark = source[first];
        let mut view = Self::empty(source.len() - first.saturating_sub(2 * near), near);
        let (mut from, mut next) = (0, Some(first));
        while let Some(run) = next {
            view.copy(source, from..from + run);
            from += run;
            match read(&source[from..]) {
                Reading::Unfinished | Reading::MayGrow(..) if goes_on => return Some(view),
                Reading::Escape(taken, bytes, given) | Reading::MayGrow(taken, bytes, given) => {
                    view.escape(from, taken, &bytes[..given]);
                    from += taken;
                }
                Reading::No | Reading::Unfinished => {
                    view.bytes.push(mark);
                    from += 1;
                }
            }
            next = memchr(mark, &source[from..]);
        }
        view.copy(source, from..source.len());
        (!view.escapes.is_empty()).then_some(view)
    }

    fn empty(room: usize, near: usize) -> Self {
        // An escape is never shorter than what it stands for: the buffer does not grow.
        Self { bytes: Vec::with_capacity(room), escapes: Vec::new(), near }
    }

    fn escape(&mut self, from: usize, taken: usize, given: &[u8]) {
        let escape = Escape { from: from as u32, at: self.bytes.len() as u32, taken: taken as u32, given: given.len() as u8 };
        self.escapes.push(escape);
        self.bytes.extend_from_slice(given);
    }

    /// Shows the range, or the ends of it.
    fn copy(&mut self, source: &[u8], range: Range<usize>) {
        if range.len() > 2 * self.near + LONGEST_ESCAPE {
            let (head, tail) = (range.start + self.near, range.end - self.near);
            self.bytes.extend_from_slice(&source[range.start..head]);
            self.escape(head, tail - head, b"\n");
            self.bytes.extend_from_slice(&source[tail..range.end]);
        } else {
            self.bytes.extend_from_slice(&source[range]);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the source that the given, non-empty range of the view stands for.
    pub fn source(&self, range: Range<usize>) -> Range<usize> {
        self.source_of(range.start).start..self.source_of(range.end - 1).end
    }

    /// Where in the source the byte at `at` comes from. One past the last byte of the view is where the source goes on.
    pub fn source_of(&self, at: usize) -> Range<usize> {
        let before = self.escapes.partition_point(|e| e.at as usize <= at);
        let Some(e) = before.checked_sub(1).map(|i| &self.escapes[i]) else { return at..at + 1 };
        match (at - e.at as usize).checked_sub(usize::from(e.given)) {
            None => e.from as usize..e.end(),
            Some(further) => e.end() + further..e.end() + further + 1,
        }
    }

    /// What the newline at `at` is in the source, if it is not one there.
    pub fn newline(&self, at: usize) -> Option<Newline> {
        let e = &self.escapes[self.escapes.partition_point(|e| e.at as usize <= at).checked_sub(1)?];
        let within = at - e.at as usize <= usize::from(e.given).saturating_sub(1) && e.given > 0;
        within.then_some(if e.is_gap() { Newline::Gap } else { Newline::Escape })
    }

    /// A range of the source, widened so that it cuts no escape in half.
    pub fn whole(&self, range: Range<usize>) -> Range<usize> {
        let around = |at: usize| {
            let e = &self.escapes[self.escapes.partition_point(|e| (e.from as usize) < at).checked_sub(1)?];
            (at < e.end() && !e.is_gap()).then_some(e.from as usize..e.end())
        };
        let start = around(range.start).map_or(range.start, |e| e.start);
        start..around(range.end).map_or(range.end, |e| e.end)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        wipe_bytes(&mut self.bytes);
    }
}

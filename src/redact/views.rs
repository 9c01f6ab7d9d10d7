//! A text as it would read with one layer of escapes taken off, and the way back to where each byte of it stood.
//!
//! A list of a value's escaped forms cannot be complete: any character may be written `\uXXXX`, or not. So the scanner also
//! looks at the text unescaped, and a find is mapped back. Escapes are atomic on the way: half of one is never redacted.

use std::ops::Range;

use zeroize::Zeroizing;

/// A text with one layer of escapes taken off. It may hold a secret in the clear, so it is wiped when dropped.
pub(super) struct View {
    pub bytes: Zeroizing<Vec<u8>>,
    escapes: Vec<Escape>,
}

/// `taken` bytes of the source, from `from` on, became `given` bytes of the view, from `at` on.
struct Escape {
    from: usize,
    at: usize,
    taken: u8,
    given: u8,
}

/// What one escape says: its length, the bytes it stands for, and how many they are.
type Decoded = (usize, [u8; 4], usize);

impl View {
    /// Takes off the backslashes of JSON, Rust, C, Python and the shell. None where there is nothing to take off.
    pub fn backslash(source: &[u8]) -> Option<Self> {
        Self::decode(source, b'\\', backslash)
    }

    /// Takes off percent-encoding. None where there is nothing to take off.
    pub fn percent(source: &[u8]) -> Option<Self> {
        Self::decode(source, b'%', |rest| byte(3, hex(rest.get(1..3)?)? as u8))
    }

    fn decode(source: &[u8], mark: u8, escape: fn(&[u8]) -> Option<Decoded>) -> Option<Self> {
        if !source.contains(&mark) {
            return None;
        }
        // An escape is never shorter than what it stands for: the buffer does not grow.
        let mut view = Self { bytes: Zeroizing::new(Vec::with_capacity(source.len())), escapes: Vec::new() };
        let mut from = 0;
        while let Some(&b) = source.get(from) {
            match (b == mark).then(|| escape(&source[from..])).flatten() {
                Some((taken, bytes, given)) => {
                    view.escapes.push(Escape { from, at: view.bytes.len(), taken: taken as u8, given: given as u8 });
                    view.bytes.extend_from_slice(&bytes[..given]);
                    from += taken;
                }
                None => {
                    view.bytes.push(b);
                    from += 1;
                }
            }
        }
        (!view.escapes.is_empty()).then_some(view)
    }

    /// The bytes of the source that the given, non-empty range of the view stands for.
    pub fn source(&self, range: Range<usize>) -> Range<usize> {
        self.source_of(range.start).start..self.source_of(range.end - 1).end
    }

    fn source_of(&self, at: usize) -> Range<usize> {
        let before = self.escapes.partition_point(|e| e.at <= at);
        let Some(e) = before.checked_sub(1).map(|i| &self.escapes[i]) else { return at..at + 1 };
        let after = e.from + usize::from(e.taken);
        match (at - e.at).checked_sub(usize::from(e.given)) {
            None => e.from..after,
            Some(further) => after + further..after + further + 1,
        }
    }

    /// A range of the source, widened so that it cuts no escape in half.
    pub fn whole(&self, range: Range<usize>) -> Range<usize> {
        let around = |at: usize| {
            let e = &self.escapes[self.escapes.partition_point(|e| e.from < at).checked_sub(1)?];
            let end = e.from + usize::from(e.taken);
            (at < end).then_some(e.from..end)
        };
        let start = around(range.start).map_or(range.start, |e| e.start);
        start..around(range.end).map_or(range.end, |e| e.end)
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |n, d| Some(n.checked_mul(16)? | char::from(*d).to_digit(16)?))
}

fn byte(taken: usize, byte: u8) -> Option<Decoded> {
    Some((taken, [byte, 0, 0, 0], 1))
}

fn code_point(taken: usize, code: u32) -> Option<Decoded> {
    let mut bytes = [0; 4];
    let given = char::from_u32(code)?.encode_utf8(&mut bytes).len();
    Some((taken, bytes, given))
}

fn backslash(rest: &[u8]) -> Option<Decoded> {
    match *rest.get(1)? {
        b'n' => byte(2, b'\n'),
        b'r' => byte(2, b'\r'),
        b't' => byte(2, b'\t'),
        b'b' => byte(2, 8),
        b'f' => byte(2, 12),
        b'v' => byte(2, 11),
        b'a' => byte(2, 7),
        b'e' => byte(2, 27),
        b'x' => byte(4, hex(rest.get(2..4)?)? as u8),
        b'u' if rest.get(2) == Some(&b'{') => {
            // Rust's \u{1f600}: one to six digits.
            let digits = rest[3..].iter().take(7).position(|b| *b == b'}').filter(|n| *n > 0)?;
            code_point(digits + 4, hex(&rest[3..3 + digits])?)
        }
        b'u' => match hex(rest.get(2..6)?)? {
            high @ 0xd800..0xdc00 => {
                let low = rest.get(6..12).filter(|low| low.starts_with(b"\\u")).and_then(|low| hex(&low[2..]))?;
                let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                code_point(12, 0x10000 + ((high - 0xd800) << 10) + low)
            }
            code => code_point(6, code),
        },
        b'U' => code_point(10, hex(rest.get(2..10)?)?),
        b'0'..=b'7' => match rest[1..] {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => byte(4, (a & 3) << 6 | (b & 7) << 3 | (c & 7)),
            [b'0', ..] => byte(2, 0),
            _ => None,
        },
        // `\\`, `\"`, `\'`, `\/`, and what a shell or a regular expression quotes.
        other if other.is_ascii_punctuation() || other == b' ' => byte(2, other),
        _ => None,
    }
}

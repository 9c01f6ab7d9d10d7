//! What a text says once its escapes, or its line ends within base64, are taken off.

use std::ops::Range;

/// What a text says, byte by byte, and which bytes of the text say it.
pub struct Said {
    pub bytes: Vec<u8>,
    pub stands: Vec<Range<usize>>,
}

impl Said {
    fn with_room(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), stands: Vec::with_capacity(room) }
    }

    pub fn as_it_stands(text: &[u8]) -> Self {
        Self { bytes: text.to_vec(), stands: (0..text.len()).map(|at| at..at + 1).collect() }
    }

    fn copy(&mut self, from: &Self, range: Range<usize>) {
        self.bytes.extend_from_slice(&from.bytes[range.clone()]);
        self.stands.extend_from_slice(&from.stands[range]);
    }

    fn push(&mut self, byte: u8, stands: Range<usize>) {
        self.bytes.push(byte);
        self.stands.push(stands);
    }
}

/// Reads one escape at the start of a text: its length, and what it says.
pub type Read = fn(&[u8]) -> Option<(usize, Vec<u8>)>;

/// None where it is the same.
pub fn unescaped(said: &Said, sign: u8, read: Read) -> Option<Said> {
    let bytes = &said.bytes;
    bytes.contains(&sign).then_some(())?;
    let (mut out, mut at) = (Said::with_room(bytes.len()), 0);
    while let Some(run) = bytes[at..].iter().position(|b| *b == sign) {
        out.copy(said, at..at + run);
        at += run;
        match read(&bytes[at..]) {
            Some((taken, says)) => {
                let stands = said.stands[at].start..said.stands[at + taken - 1].end;
                says.iter().for_each(|b| out.push(*b, stands.clone()));
                at += taken;
            }
            None => {
                out.copy(said, at..at + 1);
                at += 1;
            }
        }
    }
    out.copy(said, at..bytes.len());
    (out.bytes.len() < bytes.len()).then_some(out)
}

fn digits(text: &[u8], count: usize, radix: u32) -> Option<u32> {
    let text = std::str::from_utf8(text.get(..count)?).ok()?;
    text.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(text, radix).ok())?
}

fn says(code: u32) -> Option<Vec<u8>> {
    Some(char::from_u32(code)?.to_string().into_bytes())
}

pub fn backslash(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    if text[0] != b'\\' {
        return None;
    }
    let kind = *text.get(1)?;
    if let Some(at) = b"nrtbfvaeE".iter().position(|b| *b == kind) {
        return Some((2, vec![b"\n\r\t\x08\x0c\x0b\x07\x1b\x1b"[at]]));
    }
    match kind {
        b'x' => Some((4, vec![digits(&text[2..], 2, 16)? as u8])),
        b'u' if text.get(2) == Some(&b'{') => {
            let end = text.iter().take(10).position(|b| *b == b'}')?;
            (end > 3).then_some(())?;
            Some((end + 1, says(digits(&text[3..], end - 3, 16)?)?))
        }
        b'u' => {
            let unit = digits(&text[2..], 4, 16)?;
            if let Ok(plain) = says(unit).ok_or(()) {
                return Some((6, plain));
            }
            let low = text[6..].strip_prefix(b"\\u").and_then(|low| digits(low, 4, 16))?;
            let pair = String::from_utf16(&[unit as u16, low as u16]).ok()?;
            Some((12, pair.into_bytes()))
        }
        b'U' => Some((10, says(digits(&text[2..], 8, 16)?)?)),
        b'0'..=b'3' if digits(&text[1..], 3, 8).is_some() => Some((4, vec![digits(&text[1..], 3, 8)? as u8])),
        b'0' => Some((2, vec![0])),
        b if b.is_ascii_punctuation() || b == b' ' => Some((2, vec![b])),
        _ => None,
    }
}

pub fn percent_sign(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    (text[0] == b'%').then_some(())?;
    Some((3, vec![digits(&text[1..], 2, 16)? as u8]))
}

pub fn entity(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    (text[0] == b'&').then_some(())?;
    let end = text.iter().take(12).position(|b| *b == b';')?;
    let named = [("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"), ("sol", "/")];
    let name = std::str::from_utf8(&text[1..end]).ok()?;
    let says = match name.strip_prefix('#') {
        None => named.iter().find(|(known, _)| *known == name)?.1.as_bytes().to_vec(),
        Some(number) => match number.strip_prefix(['x', 'X']) {
            Some(hex) if (1..=8).contains(&hex.len()) => says(digits(hex.as_bytes(), hex.len(), 16)?)?,
            None if (1..=8).contains(&number.len()) => says(digits(number.as_bytes(), number.len(), 10)?)?,
            _ => return None,
        },
    };
    Some((end + 1, says))
}

fn is_encoded(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+/-_:".contains(&b)
}

/// A line end that was taken out.
pub struct LineEnd {
    /// What it stood before, among what is left.
    pub before: usize,
    /// Where it stood in the text.
    pub stood: usize,
}

/// Lines of base64 put together; none where there are none. `text` tells a line's end from an escape that says one.
pub fn unwrapped(said: &Said, text: &[u8]) -> Option<(Said, Vec<LineEnd>)> {
    let (bytes, stands) = (&said.bytes, &said.stands);
    bytes.contains(&b'\n').then_some(())?;
    let (mut out, mut line_ends, mut from) = (Said::with_room(bytes.len()), Vec::new(), 0);
    for newline in (0..bytes.len()).filter(|at| bytes[*at] == b'\n') {
        let end = newline - usize::from(newline > 0 && bytes[newline - 1] == b'\r');
        let next = newline + 1 + bytes[newline + 1..].iter().take(64).take_while(|b| matches!(b, b' ' | b'\t')).count();
        let by_the_text = stands[newline].len() == 1 && text[stands[newline].start] == b'\n';
        if bytes.get(next).is_some_and(|b| is_encoded(*b)) && is_broken(&bytes[..end], by_the_text) {
            out.copy(said, from..end);
            line_ends.push(LineEnd { before: out.bytes.len(), stood: stands[end].start });
            from = next;
        }
    }
    out.copy(said, from..bytes.len());
    (!line_ends.is_empty()).then_some((out, line_ends))
}

fn is_broken(before: &[u8], by_the_text: bool) -> bool {
    let (rest, run) = before.split_at(before.iter().rposition(|b| !is_encoded(*b)).map_or(0, |at| at + 1));
    let only_indented = rest.iter().rev().take_while(|b| **b != b'\n').all(|b| matches!(b, b' ' | b'\t'));
    match (by_the_text, only_indented) {
        (false, _) => run.len() >= 16,
        (true, true) => run.len() >= 32,
        (true, false) => run.len() >= 57 && !run.iter().all(u8::is_ascii_hexdigit),
    }
}

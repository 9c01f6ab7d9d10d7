//! The forms in which a value leaves a process: as it is, escaped, encoded, printed for debugging.
//!
//! Forms come out one at a time through a callback and are wiped before the next one is made, so that no list of them ever
//! exists. The same form may come more than once (most values look the same raw, percent-encoded and JSON-escaped): whoever
//! keeps them drops the repeats.
//!
//! No form holds a newline. A multi-line value is known by its lines, so a newline is always a safe place to cut a stream.

mod encodings;
mod parts;

use zeroize::Zeroizing;

use encodings::encodings;

/// Bytes below which a value is not looked for: it would be found in ordinary text, and its encodings in ordinary numbers.
pub(super) const FLOOR: usize = 8;

/// JSON in a JSON string in a JSON string: how deep a value's own JSON is taken apart, and how deep escapes are nested here.
const NESTING: usize = 3;

/// How a value was written where it was found. The words are stable: they stand in events and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// As it is.
    Raw,
    /// Escaped or quoted, as JSON, Rust, C, Python, a shell, HTML or SQL do it.
    Escaped,
    Percent,
    Hex,
    /// Either alphabet; HTTP Basic is a case of it.
    Base64,
    /// The numbers of its bytes, in a list.
    Bytes,
    Utf16,
    /// Not a value, but text of the shape of a known kind of key.
    Shape,
}

impl Form {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Escaped => "escaped",
            Self::Percent => "percent",
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Bytes => "bytes",
            Self::Utf16 => "utf-16",
            Self::Shape => "shape",
        }
    }

    /// What stands in the clear in a text whose `layer` was taken off stood there in that form.
    pub(super) fn seen_through(self, any: bool, layer: Self) -> Self {
        if any && self == Self::Raw { layer } else { self }
    }
}

/// Calls `see` with every form of `value`. False where the value, or every line of it, is shorter than [`FLOOR`]: then it
/// will not be found in the clear.
#[must_use]
pub(super) fn each(value: &[u8], see: &mut dyn FnMut(Form, &[u8])) -> bool {
    let mut any = false;
    part(value, NESTING, &mut |piece| {
        any |= piece.split(|b| *b == b'\n').any(looked_for);
        encodings(piece, see);
    });
    any
}

/// Is this line worth a pattern? The marks around a PEM block are public, and the same for every key.
fn looked_for(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let pem_mark = (line.starts_with(b"-----BEGIN ") || line.starts_with(b"-----END ")) && line.ends_with(b"-----");
    line.len() >= FLOOR && !pem_mark
}

/// Calls `see` with the value and what is in it: its lines, and the [`parts`] that a program uses by themselves.
fn part(value: &[u8], depth: usize, see: &mut dyn FnMut(&[u8])) {
    // A base64 or hex form of the untrimmed value contains that of the trimmed one.
    let value = value.trim_ascii();
    if value.len() < FLOOR {
        return;
    }
    if is_common_word(value) {
        return;
    }
    if value.contains(&b'\n') {
        see(value);
        other_line_ends(value, see);
        value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| looked_for(line)).for_each(&mut *see);
    } else if looked_for(value) {
        see(value);
    }
    if depth == 0 {
        return;
    }
    if let [quote @ (b'"' | b'\''), inside @ .., last] = value
        && quote == last
    {
        part(inside, depth - 1, see);
    }
    match std::str::from_utf8(value) {
        Ok(text) => parts::each(text, &mut |leaf| part(leaf, depth - 1, see)),
        // What is left of a binary key when it is printed as text.
        Err(_) => {
            let mut text = Zeroizing::new(String::with_capacity(value.len() * 3));
            value.utf8_chunks().for_each(|chunk| {
                text.push_str(chunk.valid());
                text.push_str(if chunk.invalid().is_empty() { "" } else { "\u{fffd}" });
            });
            if text.chars().filter(|c| *c != '\u{fffd}').count() >= FLOOR {
                see(text.as_bytes());
            }
        }
    }
}

/// Words of eight letters and more that stand where a secret should, and in any text. To redact them would break the text and
/// protect nothing. Digits are another matter: eight of them may be a real account number, so they are redacted, and the
/// operator is told.
const COMMON_WORDS: [&[u8]; 14] = [
    b"anonymous",
    b"changeit",
    b"changeme",
    b"database",
    b"disabled",
    b"localhost",
    b"password",
    b"placeholder",
    b"postgres",
    b"postgresql",
    b"redacted",
    b"required",
    b"undefined",
    b"username",
];

fn is_common_word(value: &[u8]) -> bool {
    COMMON_WORDS.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// A multi-line value as a program prints it that reads or writes text with the other kind of line ends.
fn other_line_ends(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    let mut other = Zeroizing::new(Vec::with_capacity(value.len() * 2));
    let crlf = value.windows(2).any(|two| two == b"\r\n");
    for (at, b) in value.iter().enumerate() {
        match b {
            b'\r' if value.get(at + 1) == Some(&b'\n') => {}
            b'\n' if !crlf => other.extend_from_slice(b"\r\n"),
            b => other.push(*b),
        }
    }
    see(&other);
}

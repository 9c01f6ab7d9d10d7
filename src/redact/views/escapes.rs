//! What one escape says.

/// What stands at the start of a text that begins with the mark of an escape.
pub(super) enum Reading {
    /// The length of an escape, the bytes it stands for, and how many they are.
    Escape(usize, [u8; 4], usize),
    /// The same, but more text could make it another.
    MayGrow(usize, [u8; 4], usize),
    /// The text ends too early to tell.
    Unfinished,
    No,
}

use Reading::{Escape, MayGrow, No, Unfinished};

fn byte(taken: usize, byte: u8) -> Reading {
    Escape(taken, [byte, 0, 0, 0], 1)
}

fn code_point(taken: usize, code: u32) -> Reading {
    let mut bytes = [0; 4];
    match char::from_u32(code) {
        Some(c) => {
            let given = c.encode_utf8(&mut bytes).len();
            Escape(taken, bytes, given)
        }
        None => No,
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0u32, |n, d| n.checked_mul(radix)?.checked_add(char::from(*d).to_digit(radix)?))
}

/// `count` hex digits at the start of `rest`: their value; an error says what to make of there being none.
fn hex(rest: &[u8], count: usize) -> Result<u32, Reading> {
    match rest.get(..count) {
        Some(digits) => number(digits, 16).ok_or(No),
        None if rest.iter().all(u8::is_ascii_hexdigit) => Err(Unfinished),
        None => Err(No),
    }
}

fn or(reading: Result<Reading, Reading>) -> Reading {
    reading.unwrap_or_else(|other| other)
}

/// What follows a percent sign.
pub(super) fn percent(rest: &[u8]) -> Reading {
    or(hex(&rest[1..], 2).map(|n| byte(3, n as u8)))
}

/// What follows a backslash.
pub(super) fn backslash(rest: &[u8]) -> Reading {
    let Some(kind) = rest.get(1) else { return Unfinished };
    let more = &rest[2..];
    match *kind {
        b'n' => byte(2, b'\n'),
        b'r' => byte(2, b'\r'),
        b't' => byte(2, b'\t'),
        b'b' => byte(2, 8),
        b'f' => byte(2, 12),
        b'v' => byte(2, 11),
        b'a' => byte(2, 7),
        b'e' | b'E' => byte(2, 27),
        b'x' => or(hex(more, 2).map(|n| byte(4, n as u8))),
        b'u' if more.first() == Some(&b'{') => braced(&more[1..]),
        b'u' => or(hex(more, 4).map(|unit| match unit {
            0xd800..0xdc00 => or(low_surrogate(&more[4..]).map(|low| code_point(12, 0x10000 + ((unit - 0xd800) << 10) + low))),
            code => code_point(6, code),
        })),
        b'U' => or(hex(more, 8).map(|code| code_point(10, code))),
        b'0'..=b'7' => octal(&rest[1..]),
        // `\\`, `\"`, `\'`, `\/`, and what a shell or a regular expression quotes.
        other if other.is_ascii_punctuation() || other == b' ' => byte(2, other),
        _ => No,
    }
}

/// Rust's `\u{1f600}`: one to six digits.
fn braced(rest: &[u8]) -> Reading {
    let digits = rest.iter().take(6).take_while(|b| b.is_ascii_hexdigit()).count();
    match (rest.get(digits), number(&rest[..digits], 16)) {
        (Some(b'}'), Some(code)) if digits > 0 => code_point(digits + 4, code),
        (None, _) => Unfinished,
        _ => No,
    }
}

fn low_surrogate(rest: &[u8]) -> Result<u32, Reading> {
    match rest {
        [b'\\', b'u', digits @ ..] => hex(digits, 4)?.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or(No),
        [] | [b'\\'] => Err(Unfinished),
        _ => Err(No),
    }
}

fn octal(digits: &[u8]) -> Reading {
    match *digits {
        [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => byte(4, (a & 3) << 6 | (b & 7) << 3 | (c & 7)),
        [b'0'] | [b'0', b'0'..=b'7'] => MayGrow(2, [0; 4], 1),
        [b'0', ..] => byte(2, 0),
        [b'1'..=b'3'] | [b'1'..=b'3', b'0'..=b'7'] => Unfinished,
        _ => No,
    }
}

/// Named entities that a writer of XML or HTML uses without need, and what they stand for.
const NAMED: [(&[u8], u8); 6] =
    [(b"amp;", b'&'), (b"lt;", b'<'), (b"gt;", b'>'), (b"quot;", b'"'), (b"apos;", b'\''), (b"sol;", b'/')];

/// What follows an ampersand.
pub(super) fn entity(rest: &[u8]) -> Reading {
    let rest = &rest[1..];
    match rest {
        [] | [b'#'] | [b'#', b'x' | b'X'] => Unfinished,
        [b'#', b'x' | b'X', digits @ ..] => numbered(digits, 3, 16),
        [b'#', digits @ ..] => numbered(digits, 2, 10),
        _ => match NAMED.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, stands_for)) => byte(name.len() + 1, *stands_for),
            None if NAMED.iter().any(|(name, _)| name.starts_with(rest)) => Unfinished,
            None => No,
        },
    }
}

fn numbered(rest: &[u8], before: usize, radix: u32) -> Reading {
    let digits = rest.iter().take(8).take_while(|b| char::from(**b).is_digit(radix)).count();
    match (rest.get(digits), number(&rest[..digits], radix)) {
        (Some(b';'), Some(code)) if digits > 0 => code_point(before + digits + 1, code),
        (None, _) => Unfinished,
        _ => No,
    }
}

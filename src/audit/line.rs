//! How a record is written as one line of JSON, and what of a line makes the chain.
//!
//! A line is `{"v":1,"seq":N,"time":"...","event":"...", ... ,"prev":"..."}`. What stands first and last is always written in this one way,
//! so that the chain can be checked without parsing JSON; everything between is covered by the hash.

use std::{
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{name::is_unprintable, peer::Sha256};

/// No line is longer, its end included.
pub const LONGEST: usize = 16 * 1024;
/// No text in a record is longer, in bytes before escaping: twenty of them fit a line, whatever they hold.
const LONGEST_TEXT: usize = 256;

/// `v` is the version of the record's schema.
const HEAD: &[u8] = br#"{"v":1,"seq":"#;
const TIME: &[u8] = br#","time":""#;
const EVENT: &[u8] = br#"","event":""#;
const PREV: &[u8] = br#","prev":""#;
const END: &[u8] = b"\"}";
const TIME_LENGTH: usize = "2026-01-02T03:04:05.678901Z".len();
const DIGEST_LENGTH: usize = 64;

/// Writes fields of a JSON object, each with a comma before it.
pub struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Fields<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub fn some<T>(&mut self, key: &str, value: Option<T>, write: impl FnOnce(&mut Self, &str, T)) {
        if let Some(value) = value {
            write(self, key, value);
        }
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Text that needs no escaping: a name, a fixed word.
    pub fn word(&mut self, key: &str, word: &str) {
        debug_assert!(word.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')), "{key} is no word");
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'"');
    }

    /// Any text: cut where it is long, with what cannot be printed replaced.
    pub fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        self.out.push(b'"');
        clean(text, self.out);
        self.out.push(b'"');
    }

    pub fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        push_number(number, self.out);
    }

    pub fn flag(&mut self, key: &str, flag: bool) {
        self.key(key);
        self.out.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    pub fn hex(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        push_hex(bytes, self.out);
        self.out.push(b'"');
    }

    pub fn time(&mut self, key: &str, time: SystemTime) {
        self.key(key);
        self.out.push(b'"');
        Clock::default().push(time, self.out);
        self.out.push(b'"');
    }

    /// `file:line`. Of a long path the end is kept, which says more.
    pub fn place(&mut self, key: &str, file: &Path, line: usize) {
        let file = file.to_string_lossy();
        let mut start = file.len().saturating_sub(LONGEST_TEXT);
        while !file.is_char_boundary(start) {
            start += 1;
        }
        self.key(key);
        self.out.push(b'"');
        clean(&file[start..], self.out);
        self.out.push(b':');
        push_number(line as u64, self.out);
        self.out.push(b'"');
    }

    /// Fields that were written before.
    pub fn rendered(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }
}

fn clean(text: &str, out: &mut Vec<u8>) {
    let plain = |b: u8| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\';
    if text.len() <= LONGEST_TEXT && text.bytes().all(plain) {
        return out.extend_from_slice(text.as_bytes());
    }
    let most = out.len() + LONGEST_TEXT * 2;
    for (at, c) in text.char_indices() {
        if at >= LONGEST_TEXT || out.len() >= most {
            return out.extend_from_slice("\u{2026}".as_bytes());
        }
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            c if is_unprintable(c) => out.push(b'?'),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Lower-case hex digits.
pub fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// What lower-case hex digits say. `None`: they are not so many, or are no such digits.
pub fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Writes times as RFC 3339 in UTC with microseconds, and keeps the last second it wrote: most records share it with the one before.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    rendered: Vec<u8>,
}

impl Clock {
    pub fn push(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        // No host's clock stands before 1970, unless it is broken.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.rendered.is_empty() {
            self.second = since.as_secs();
            self.rendered.clear();
            let (year, month, day) = civil(self.second / 86_400);
            let (hour, minute, second) = (self.second / 3600 % 24, self.second / 60 % 60, self.second % 60);
            let written = write!(self.rendered, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.");
            debug_assert!(written.is_ok(), "a Vec takes whatever is written");
        }
        out.extend_from_slice(&self.rendered);
        let mut micros = since.subsec_micros();
        let mut digits = *b"000000Z";
        for digit in digits[..6].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar: Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// The time that [`Clock`] wrote so.
pub fn parse_time(text: &[u8]) -> Option<SystemTime> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.iter().try_fold(0u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')];
    if text.len() != TIME_LENGTH || marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Hinnant's `days_from_civil`.
    let shifted = year - u64::from(month <= 2);
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    Some(UNIX_EPOCH + std::time::Duration::new(seconds, number(20, 26)? as u32 * 1000))
}

/// A record's place in the chain: its number, and the hash of the line before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub seq: u64,
    pub hash: Sha256,
}

impl Tip {
    /// Before the first record.
    pub const NONE: Self = Self { seq: 0, hash: Sha256([0; 32]) };
}

/// The hash of a line, its end not included.
pub fn hash(line: &[u8]) -> Sha256 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, line);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    Sha256(hash)
}

/// Makes a line of a body (from `,"time":` on) and appends it with its end. Returns what the chain has come to.
pub fn push_line(body: &[u8], before: Tip, out: &mut Vec<u8>) -> Tip {
    let (seq, start) = (before.seq + 1, out.len());
    out.extend_from_slice(HEAD);
    push_number(seq, out);
    out.extend_from_slice(body);
    out.extend_from_slice(PREV);
    push_hex(&before.hash.0, out);
    out.extend_from_slice(END);
    debug_assert!(out.len() - start < LONGEST, "a record is bounded by its fields");
    let hash = hash(&out[start..]);
    out.push(b'\n');
    Tip { seq, hash }
}

/// What of a line makes the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'a> {
    pub seq: u64,
    /// As RFC 3339.
    pub time: &'a [u8],
    pub event: &'a [u8],
    pub prev: Sha256,
}

impl<'a> Link<'a> {
    /// Reads it off a line, its end not included. `None`: this is no record.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(HEAD)?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=19).contains(&digits) || (rest[0] == b'0') {
            return None;
        }
        let seq = rest[..digits].iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
        let rest = rest[digits..].strip_prefix(TIME)?;
        let (time, rest) = rest.split_at_checked(TIME_LENGTH)?;
        let rest = rest.strip_prefix(EVENT)?;
        let event = &rest[..rest.iter().take(64).position(|b| *b == b'"')?];
        let prev = rest.strip_suffix(END)?;
        let (rest, prev) = prev.split_at_checked(prev.len().checked_sub(DIGEST_LENGTH)?)?;
        rest.strip_suffix(PREV)?;
        Some(Self { seq, time, event, prev: Sha256(parse_hex(prev)?) })
    }

    /// Does it follow what the chain has come to?
    pub fn follows(&self, tip: &Tip) -> bool {
        self.seq == tip.seq + 1 && self.prev == tip.hash
    }
}

/// The start of every body.
pub fn begin_body<'a>(clock: &mut Clock, now: SystemTime, out: &'a mut Vec<u8>) -> Fields<'a> {
    out.extend_from_slice(TIME);
    clock.push(now, out);
    out.push(b'"');
    Fields::new(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn cleaned(text: &str) -> String {
        let mut out = Vec::new();
        Fields::new(&mut out).text("key", text);
        let json = format!("{{\"v\":1{}}}", String::from_utf8(out).unwrap());
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["key"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_text_cannot_break_out_of_its_field() {
        assert_eq!(cleaned("a\",\"tool\":\"x\\"), "a\",\"tool\":\"x\\");
        assert_eq!(cleaned("a\nb\u{0}\u{202e}\u{7f}c"), "a?b???c");
        assert!(cleaned(&"\"".repeat(5000)).len() <= 2 * LONGEST_TEXT);
    }

    proptest! {
        #[test]
        fn a_time_reads_back(seconds in 0..7_000_000_000u64, micros in 0..1_000_000u32) {
            let time = UNIX_EPOCH + Duration::new(seconds, micros * 1000);
            let mut out = Vec::new();
            Clock::default().push(time, &mut out);
            prop_assert_eq!(parse_time(&out), Some(time));
        }

        #[test]
        fn whatever_text_is_recorded_is_json_and_short(text in ".{0,400}") {
            prop_assert!(cleaned(&text).len() <= 2 * LONGEST_TEXT + 4);
        }

        #[test]
        fn a_line_reads_back(body in "[a-z\",:{}]{0,80}", seq in 0..1u64 << 60, hash in any::<[u8; 32]>()) {
            let before = Tip { seq, hash: Sha256(hash) };
            let mut out = Vec::new();
            let mut text = Vec::new();
            begin_body(&mut Clock::default(), UNIX_EPOCH, &mut text).word("event", "a.b");
            text.extend_from_slice(body.as_bytes());
            let tip = push_line(&text, before, &mut out);
            let link = Link::of(&out[..out.len() - 1]).unwrap();
            prop_assert!(link.follows(&before));
            prop_assert_eq!((link.seq, link.event, link.time), (tip.seq, &b"a.b"[..], &b"1970-01-01T00:00:00.000000Z"[..]));
        }
    }

    #[test]
    fn known_days_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut out = Vec::new();
            Clock::default().push(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}

//! The forms in which a value leaves a process: as it is, escaped, encoded, printed for debugging.
//!
//! Forms come out one at a time through a callback and are wiped before the next one is made, so that no list of them ever
//! exists. The same form may come more than once (most values look the same raw, percent-encoded and JSON-escaped): whoever
//! keeps them drops the repeats.
//!
//! No form holds a newline. A multi-line value is known by its lines, so a newline is always a safe place to cut a stream.

use std::io::Write;

use zeroize::Zeroizing;

use super::views::{Layer, View};

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

/// Calls `see` with the value and what is in it: its lines, the strings of its JSON, the password of its URL.
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
        Ok(_) => {
            json_strings(value, &mut |leaf| part(leaf, depth - 1, see));
            url_password(value, &mut |password| part(password, depth - 1, see));
        }
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

/// Keys of JSON secrets, as AWS Secrets Manager and others write them, whose values say where the secret is for: `us-east-1`
/// and `postgres` are in every other line of a log.
const PUBLIC_KEYS: [&[u8]; 12] = [
    b"database",
    b"dbInstanceIdentifier",
    b"dbname",
    b"engine",
    b"host",
    b"hostname",
    b"port",
    b"protocol",
    b"region",
    b"scheme",
    b"type",
    b"token_uri",
];

/// The strings in a JSON object or array, without the object's keys, and without what stands under a public key. Numbers are
/// left: times and ids are, PINs seldom.
fn json_strings(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    if !matches!(value.first(), Some(b'{' | b'[')) || serde_json::from_slice::<serde::de::IgnoredAny>(value).is_err() {
        return;
    }
    let (mut rest, mut key): (_, &[u8]) = (value, b"");
    while let Some(open) = rest.iter().position(|b| *b == b'"') {
        let inside = &rest[open + 1..];
        let mut end = 0;
        while inside[end] != b'"' {
            end += if inside[end] == b'\\' { 2 } else { 1 };
        }
        rest = &inside[end + 1..];
        if rest.trim_ascii_start().first() == Some(&b':') {
            key = &inside[..end];
        } else if !PUBLIC_KEYS.contains(&key) {
            match View::whole_of(Layer::Backslash, &inside[..end]) {
                Some(plain) => see(plain.bytes()),
                None => see(&inside[..end]),
            }
        }
    }
}

/// The password in `scheme://user:password@host`, as written and decoded; or the token in `scheme://token@host`.
fn url_password(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    let Some(scheme) = value.windows(3).position(|w| w == b"://") else { return };
    let rest = &value[scheme + 3..];
    let authority = rest.split(|b| b"/?#".contains(b)).next().unwrap_or(rest);
    // A password with a raw `/` in it is not a valid URL, and common.
    let userinfo = [authority, rest].iter().find_map(|text| Some(&text[..text.iter().rposition(|b| *b == b'@')?]));
    let Some(userinfo) = userinfo else { return };
    let secret = userinfo.iter().position(|b| *b == b':').map_or(userinfo, |colon| &userinfo[colon + 1..]);
    see(secret);
    if let Some(plain) = View::whole_of(Layer::Percent, secret) {
        see(plain.bytes());
    }
}

fn encodings(value: &[u8], see: &mut dyn FnMut(Form, &[u8])) {
    let mut form = |kind: Form, most: usize, write: &dyn Fn(&mut Vec<u8>)| {
        made(most, write, &mut |line| see(kind, line));
    };
    form(Form::Raw, value.len(), &|out| out.extend_from_slice(value));
    for digits in [LOWER, UPPER] {
        form(Form::Hex, value.len() * 2, &|out| value.iter().for_each(|b| out.extend(hex(*b, digits))));
        for (keep, space) in PERCENT {
            form(Form::Percent, value.len() * 3, &|out| percent(value, keep, space, digits, out));
        }
        form(Form::Escaped, value.len() * 4, &|out| escaped_bytes(value, digits, out));
        // Fingerprints, `xxd`, .NET's BitConverter, C.
        for join in [":", " ", "-"] {
            form(Form::Hex, value.len() * 3, &|out| listed(value, join, out, |b, out| out.extend(hex(*b, digits))));
        }
        form(Form::Bytes, value.len() * 6, &|out| {
            listed(value, ", ", out, |b, out| [b"0x", &hex(*b, digits)].iter().for_each(|part| out.extend(*part)))
        });
    }
    // What a shell makes of a quote within quotes, and YAML, SQL and CSV by doubling it.
    for (quote, written) in [(b'\'', b"'\\''".as_slice()), (b'\'', b"'\"'\"'"), (b'\'', b"''"), (b'"', b"\"\"")] {
        if value.contains(&quote) {
            form(Form::Escaped, value.len() * 5, &|out| quoted(value, quote, written, out));
        }
    }
    // What PowerShell would expand.
    if value.iter().any(|b| b"`$\"".contains(b)) {
        form(Form::Escaped, value.len() * 2, &|out| {
            value.iter().for_each(|b| {
                out.extend_from_slice(if b"`$\"".contains(b) { b"`" } else { b"" });
                out.push(*b);
            })
        });
    }
    let mut base64 = |value: &[u8]| {
        for (alphabet, offset) in [b"+/", b"-_"].into_iter().flat_map(|alphabet| (0..3).map(move |offset| (alphabet, offset))) {
            form(Form::Base64, value.len() * 2, &|out| base64_inner(value, offset, alphabet, out));
        }
    };
    base64(value);
    // PowerShell's -EncodedCommand, and whatever else is base64 of a Windows string.
    if let Ok(text) = std::str::from_utf8(value) {
        let mut wide = Zeroizing::new(Vec::with_capacity(value.len() * 2));
        text.encode_utf16().for_each(|unit| wide.extend(unit.to_le_bytes()));
        base64(&wide);
    }
    // `{:?}` of a Vec<u8>, the same as compact JSON, and `{:02x?}`.
    for join in [", ", ","] {
        form(Form::Bytes, value.len() * 5, &|out| listed(value, join, out, |b, out| drop(write!(out, "{b}"))));
    }
    form(Form::Bytes, value.len() * 5, &|out| listed(value, ", ", out, |b, out| out.extend(hex(*b, LOWER))));

    let Ok(text) = std::str::from_utf8(value) else { return };
    form(Form::Utf16, value.len() * 2, &|out| text.encode_utf16().for_each(|unit| out.extend(unit.to_le_bytes())));
    form(Form::Utf16, value.len() * 2, &|out| text.encode_utf16().for_each(|unit| out.extend(unit.to_be_bytes())));
    let mut escaped = |line: &[u8]| see(Form::Escaped, line);
    made(value.len() * 6, &|out| drop(write!(out, "{text:?}")), &mut |quoted| escaped(&quoted[1..quoted.len() - 1]));
    for style in JSON {
        json_nested(text, style, NESTING, &mut escaped);
    }
}

/// Makes one form in a buffer that does not grow (a grown buffer leaves its old self behind), shows its lines, and wipes it.
fn made(most: usize, write: &dyn Fn(&mut Vec<u8>), see: &mut dyn FnMut(&[u8])) {
    let mut out = Zeroizing::new(Vec::with_capacity(most + 16));
    let room = out.capacity();
    write(&mut out);
    debug_assert_eq!(out.capacity(), room, "the buffer grew");
    out.split(|b| *b == b'\n').filter(|line| looked_for(line)).for_each(see);
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

/// What stays as it is beside letters and digits, and what a space becomes: encodeURIComponent, RFC 3986, the same in a
/// path, nothing; HTML forms, Python's `quote_plus`, PHP's `urlencode`, nothing; and a form in which nothing else needed
/// encoding. The view without percent-encoding finds the rest, but for a `+` that is a space.
const PERCENT: [(Option<&[u8]>, &[u8]); 9] = [
    (Some(b"-_.!~*'()"), b"%20"),
    (Some(b"-_.~"), b"%20"),
    (Some(b"-_.~/"), b"%20"),
    (Some(b""), b"%20"),
    (Some(b"-_.*"), b"+"),
    (Some(b"-_.~"), b"+"),
    (Some(b"-_."), b"+"),
    (Some(b""), b"+"),
    (None, b"+"),
];

fn percent(value: &[u8], keep: Option<&[u8]>, space: &[u8], digits: &[u8; 16], out: &mut Vec<u8>) {
    for b in value {
        match b {
            b' ' => out.extend_from_slice(space),
            b if b.is_ascii_alphanumeric() || keep.is_none_or(|keep| keep.contains(b)) => out.push(*b),
            b => {
                out.push(b'%');
                out.extend(hex(*b, digits));
            }
        }
    }
}

/// Bytes as Rust's and Python's `b"..."` print them.
fn escaped_bytes(value: &[u8], digits: &[u8; 16], out: &mut Vec<u8>) {
    for b in value {
        match b {
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            b'"' | b'\\' => out.extend([b'\\', *b]),
            b' '..=b'~' => out.push(*b),
            b => {
                out.extend(b"\\x");
                out.extend(hex(*b, digits));
            }
        }
    }
}

/// The value with `written` for each quote. Of a doubled one at either end, one may be the mark around the value: it stays.
fn quoted(value: &[u8], quote: u8, written: &[u8], out: &mut Vec<u8>) {
    let doubled = written == [quote, quote];
    for (at, b) in value.iter().enumerate() {
        let at_end = doubled && (at == 0 || at + 1 == value.len());
        out.extend_from_slice(if *b == quote && !at_end { written } else { std::slice::from_ref(b) });
    }
}

fn listed(value: &[u8], join: &str, out: &mut Vec<u8>, write: impl Fn(&u8, &mut Vec<u8>)) {
    for (at, b) in value.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"" } else { join.as_bytes() });
        write(b, out);
    }
}

/// Those characters of the base64 of `offset` unknown bytes, the value, and more unknown bytes that depend on the value
/// alone. With all three offsets this finds a value anywhere in encoded text: HTTP Basic's `user:password` is a case of it.
fn base64_inner(value: &[u8], offset: usize, last_two: &[u8; 2], out: &mut Vec<u8>) {
    let sextet = |n: u32| match n {
        0..26 => b'A' + n as u8,
        26..52 => b'a' + (n - 26) as u8,
        52..62 => b'0' + (n - 52) as u8,
        _ => last_two[n as usize - 62],
    };
    let (mut bits, mut held) = (0u32, 0);
    for b in [0, 0][..offset].iter().chain(value) {
        (bits, held) = (bits << 8 | u32::from(*b), held + 8);
        while held >= 6 {
            held -= 6;
            out.push(sextet(bits >> held & 63));
        }
    }
    out.drain(..[0, 2, 3][offset]);
}

/// How a JSON writer escapes what it need not.
#[derive(Clone, Copy)]
struct Json {
    /// Everything outside ASCII as `\uXXXX`.
    ascii: bool,
    /// `\/`, as PHP does.
    slash: bool,
    /// `<`, `>` and `&` as `\u003c` and so on, as Go does.
    html: bool,
    digits: &'static [u8; 16],
}

const PLAIN: Json = Json { ascii: false, slash: false, html: false, digits: LOWER };
const JSON: [Json; 7] = [
    PLAIN,
    Json { ascii: true, ..PLAIN },
    Json { ascii: true, digits: UPPER, ..PLAIN },
    Json { slash: true, ..PLAIN },
    Json { slash: true, ascii: true, ..PLAIN },
    Json { html: true, ..PLAIN },
    Json { html: true, ascii: true, digits: UPPER, ..PLAIN },
];

fn json_nested(text: &str, style: Json, depth: usize, see: &mut dyn FnMut(&[u8])) {
    let mut inner = Zeroizing::new(Vec::new());
    let mut outer = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    json(text, style, &mut outer);
    for _ in 0..depth {
        if outer.as_slice() == if inner.is_empty() { text.as_bytes() } else { &inner } {
            return;
        }
        outer.split(|b| *b == b'\n').filter(|line| looked_for(line)).for_each(&mut *see);
        let room = Zeroizing::new(Vec::with_capacity(outer.len() * 2));
        inner = std::mem::replace(&mut outer, room);
        // The first pass left no control characters: further ones only double backslashes and put them before quotes.
        json(std::str::from_utf8(&inner).unwrap_or_default(), PLAIN, &mut outer);
    }
}

fn json(text: &str, style: Json, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend([b'\\', c as u8]),
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            '\t' => out.extend(b"\\t"),
            '\u{8}' => out.extend(b"\\b"),
            '\u{c}' => out.extend(b"\\f"),
            '/' if style.slash => out.extend(b"\\/"),
            c if c < ' ' || (style.html && "<>&".contains(c)) || (style.ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend(b"\\u");
                    unit.to_be_bytes().iter().for_each(|b| out.extend(hex(*b, style.digits)));
                }
            }
            c => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

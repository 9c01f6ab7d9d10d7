//! How programs write a value: escaped, quoted, encoded, printed byte by byte.

use std::io::Write;

use zeroize::Zeroizing;

use super::{Form, NESTING, looked_for};

/// Calls `see` with the value in every encoding, line by line.
pub(super) fn encodings(value: &[u8], see: &mut dyn FnMut(Form, &[u8])) {
    let mut form = |kind: Form, most: usize, write: &dyn Fn(&mut Vec<u8>)| {
        made(most, write, &mut |line| see(kind, line));
    };
    form(Form::Raw, value.len(), &|out| out.extend_from_slice(value));
    for digits in [LOWER, UPPER] {
        form(Form::Hex, value.len() * 2, &|out| value.iter().for_each(|b| out.extend(hex(*b, digits))));
        for (keep, space) in PERCENT {
            let mut once = Zeroizing::new(Vec::with_capacity(value.len() * 3));
            percent(value, keep, space, digits, &mut once);
            // Most keys have nothing to encode: that form was shown, and to encode it twice makes no other.
            if *once == value {
                continue;
            }
            form(Form::Percent, once.len(), &|out| out.extend_from_slice(&once));
            // A percent sign that happens to stand before a value that begins with two hex digits makes an escape of them, and hides
            // that value from the views. Once it is encoded the form above is there for that, and twice this one.
            form(Form::Percent, value.len() * 5, &|out| percent(&once, keep, space, digits, out));
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

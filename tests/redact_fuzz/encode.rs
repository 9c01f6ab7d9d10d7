//! How programs write a value: encoders that share no code with the redactor, and are slow and plain.

use crate::random::Random;

/// The styles of JSON writers: serde, Python, .NET, PHP, everything as `\u`, and a mix.
pub const JSON_STYLES: usize = 6;

/// A JSON string, with its quotes.
pub fn json(text: &str, style: usize, random: &mut Random) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let style = if style == 5 { random.below(5) } else { style };
        match (style, c) {
            (4, c) => escape_units(c, random.chance(2), &mut out),
            (2, '"' | '+' | '<' | '>' | '&' | '\'') => escape_units(c, true, &mut out),
            (3, '/') => out.push_str("\\/"),
            (_, '"') => out.push_str("\\\""),
            (_, '\\') => out.push_str("\\\\"),
            (_, '\n') => out.push_str("\\n"),
            (_, '\r') => out.push_str("\\r"),
            (_, '\t') => out.push_str("\\t"),
            (_, c) if c < ' ' => escape_units(c, false, &mut out),
            (1..=3, c) if !c.is_ascii() => escape_units(c, style == 2, &mut out),
            (_, c) => out.push(c),
        }
    }
    out.push('"');
    out
}

fn escape_units(c: char, upper: bool, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
    }
}

pub fn base64(bytes: &[u8], url: bool, pad: bool) -> String {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |n: u32| match char::from(STANDARD[n as usize & 63]) {
        '+' if url => '-',
        '/' if url => '_',
        c => c,
    };
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len()).for_each(|i| out.push(digit(n >> (18 - 6 * i))));
        (three.len()..3).filter(|_| pad).for_each(|_| out.push('='));
    }
    out
}

/// Those characters of the base64 of `before` bytes, the value and anything else that say nothing but the value.
pub fn base64_core(value: &[u8], before: usize, url: bool) -> String {
    // Encode with neighbours of all zeros and of all ones: what differs is theirs.
    let around = |b: u8| base64(&[vec![b; before], value.to_vec(), vec![b; 3]].concat(), url, false);
    let (zeros, ones) = (around(0), around(0xff));
    let bits = before * 8..(before + value.len()) * 8;
    let ours = |i: &usize| bits.start <= i * 6 && (i + 1) * 6 <= bits.end;
    let same = |i: usize| {
        assert_eq!(zeros.as_bytes()[i], ones.as_bytes()[i]);
        char::from(zeros.as_bytes()[i])
    };
    (0..zeros.len()).filter(ours).map(same).collect()
}

pub fn hex(bytes: &[u8], upper: bool, join: &str) -> String {
    let one = |b: &u8| if upper { format!("{b:02X}") } else { format!("{b:02x}") };
    bytes.iter().map(one).collect::<Vec<_>>().join(join)
}

/// What stays as it is beside letters and digits, and whether a space becomes a plus.
pub const PERCENT: [(&str, bool); 8] = [
    ("-_.!~*'()", false),
    ("-_.~", false),
    ("-_.~/", false),
    ("", false),
    ("-_.*", true),
    ("-_.~", true),
    ("-_.", true),
    ("", true),
];

pub fn percent(bytes: &[u8], (kept, plus): (&str, bool), upper: bool) -> String {
    let one = |b: &u8| match char::from(*b) {
        ' ' if plus => "+".to_owned(),
        c if c.is_ascii_alphanumeric() || kept.contains(c) => c.to_string(),
        _ if upper => format!("%{b:02X}"),
        _ => format!("%{b:02x}"),
    };
    bytes.iter().map(one).collect()
}

pub fn entities(text: &str, random: &mut Random) -> String {
    let one = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => ["&quot;", "&#34;", "&#x22;"][random.below(3)].to_owned(),
        '\'' => ["&#39;", "&#x27;", "&apos;"][random.below(3)].to_owned(),
        c if !c.is_ascii() && random.chance(2) => format!("&#x{:X};", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

pub fn utf16(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

pub fn wrapped(encoded: &str, columns: usize, line_end: &str) -> String {
    let lines: Vec<&str> = encoded.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(line_end)
}

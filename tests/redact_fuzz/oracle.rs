//! What the redactor must do, the slow and obvious way: mark every byte of the text that is part of any form of a value, in
//! the text and in what the text says once its escapes are taken off. It shares no code with the redactor.

use std::{collections::HashMap, ops::Range};

use crate::{
    encode::{PERCENT, base64_core, hex, percent, utf16},
    said::{LineEnd, Read, Said, backslash, entity, percent_sign, unescaped, unwrapped},
};

pub struct Oracle {
    /// By their first bytes, so that a text is compared with few.
    forms: HashMap<[u8; 4], Vec<Vec<u8>>>,
    /// The first two bytes of any.
    starts: Vec<bool>,
}

/// A longer form is known by pieces of this length, the last of which ends with it.
const LONGEST: usize = 256;

/// What a stream has passed on of a text by the time it was given so much of it.
pub struct Progress {
    pub given: usize,
    pub passed: usize,
}

/// A value that goes on over the end of a line.
struct OverLines {
    stands: Range<usize>,
    /// Where the first line of it ends.
    line_end: usize,
    /// Where its first eight characters end.
    eight: usize,
}

/// What of a text is part of a value.
pub struct Seen {
    marks: Vec<bool>,
    over_lines: Vec<OverLines>,
    escapes: Vec<Range<usize>>,
}

impl Seen {
    /// Which bytes of the text are part of a value.
    pub fn marks(&self) -> Vec<bool> {
        self.marks_after(&[])
    }

    /// The same, but for the start of a value that a stream may have passed on: a complete line is not held back for fewer than
    /// eight characters of a value at the end of it. The rest of the value is taken out.
    pub fn marks_after(&self, progress: &[Progress]) -> Vec<bool> {
        let mut marks = self.marks.clone();
        for one in &self.over_lines {
            let too_little = progress.iter().filter(|so_far| one.line_end < so_far.given && so_far.given < one.eight);
            let passed = too_little.map(|so_far| so_far.passed).max().unwrap_or(0);
            marks[one.stands.start.max(passed)..one.stands.end].fill(true);
        }
        // Half an escape is not taken out.
        for escape in &self.escapes {
            if marks[escape.clone()].contains(&true) {
                marks[escape.clone()].fill(true);
            }
        }
        marks
    }
}

impl Oracle {
    pub fn knowing(secrets: &[Vec<u8>]) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            parts(secret, 3, &mut |part| forms_of(part, &mut forms));
        }
        let mut forms: Vec<_> = forms.iter().flat_map(|form| form.split(|b| *b == b'\n')).map(<[u8]>::to_vec).collect();
        forms.retain(|form| form.trim_ascii().len() >= 8);
        let pieces = |form: &Vec<u8>| match form.len() {
            0..=LONGEST => vec![form.clone()],
            len => form.chunks_exact(LONGEST).map(<[u8]>::to_vec).chain([form[len - LONGEST..].to_vec()]).collect(),
        };
        let mut forms: Vec<_> = forms.iter().flat_map(pieces).collect();
        forms.sort();
        forms.dedup();
        let (mut by_start, mut starts) = (HashMap::<_, Vec<_>>::new(), vec![false; 1 << 16]);
        for form in forms {
            starts[first_two(&form)] = true;
            by_start.entry(form[..4].try_into().unwrap()).or_default().push(form);
        }
        Self { forms: by_start, starts }
    }

    pub fn see(&self, text: &[u8]) -> Seen {
        let mut seen = Seen { marks: vec![false; text.len()], over_lines: Vec::new(), escapes: Vec::new() };
        let mut said = Said::as_it_stands(text);
        for layer in 0..5 {
            self.mark(&said, &[], &mut seen);
            for (sign, read) in [(b'%', percent_sign as Read), (b'&', entity)] {
                let once = unescaped(&said, sign, read);
                let twice = once.as_ref().and_then(|once| unescaped(once, sign, read));
                once.iter().chain(&twice).for_each(|inside| self.mark(inside, &[], &mut seen));
            }
            if let Some((whole, line_ends)) = unwrapped(&said, text) {
                self.mark(&whole, &line_ends, &mut seen);
            }
            // Where nothing is taken off, there is nothing new to see.
            let Some(inside) = unescaped(&said, b'\\', backslash) else { break };
            if layer == 0 {
                seen.escapes = inside.stands.iter().filter(|stands| stands.len() > 1).cloned().collect();
            }
            said = inside;
        }
        seen
    }

    /// `line_ends` were taken out of what is said.
    fn mark(&self, said: &Said, line_ends: &[LineEnd], seen: &mut Seen) {
        let bytes = &said.bytes;
        for at in 0..bytes.len().saturating_sub(7) {
            if !self.starts[first_two(&bytes[at..])] {
                continue;
            }
            let Some(forms) = self.forms.get(&bytes[at..at + 4]) else { continue };
            for form in forms.iter().filter(|form| bytes[at..].starts_with(form)) {
                let end = at + form.len();
                let stands = said.stands[at].start..said.stands[end - 1].end;
                match line_ends.iter().find(|one| at < one.before && one.before < end) {
                    Some(one) => {
                        seen.over_lines.push(OverLines { stands, line_end: one.stood, eight: said.stands[at + 7].end });
                    }
                    None => seen.marks[stands].fill(true),
                }
            }
        }
    }

    /// The text with `#` for each run of marked bytes.
    pub fn clean(&self, text: &[u8]) -> Vec<u8> {
        cleaned(text, &self.see(text).marks(), 0..text.len())
    }
}

fn first_two(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// A part of the text with `#` for each run of marked bytes, which may have begun before.
pub fn cleaned(text: &[u8], marks: &[bool], range: Range<usize>) -> Vec<u8> {
    let mut clean = Vec::with_capacity(range.len());
    for at in range {
        match marks[at] {
            false => clean.push(text[at]),
            true if at == 0 || !marks[at - 1] => clean.push(b'#'),
            true => {}
        }
    }
    clean
}

fn parts(value: &[u8], depth: usize, see: &mut dyn FnMut(&[u8])) {
    let value = value.trim_ascii();
    if value.len() < 8 {
        return;
    }
    see(value);
    if value.contains(&b'\n') {
        value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.len() >= 8).for_each(&mut *see);
        let lines: Vec<_> = value.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
        see(&lines.join(&b"\n"[..]));
        see(&lines.join(&b"\r\n"[..]));
    }
    if depth == 0 {
        return;
    }
    if value.len() > 2 && value[0] == value[value.len() - 1] && matches!(value[0], b'"' | b'\'') {
        parts(&value[1..value.len() - 1], depth - 1, see);
    }
    if let Ok(json @ (serde_json::Value::Object(_) | serde_json::Value::Array(_))) = serde_json::from_slice(value) {
        return leaves(&json, &mut |leaf| parts(leaf.as_bytes(), depth - 1, see));
    }
    let Ok(text) = std::str::from_utf8(value) else {
        // Behind the backslashes of a text may be bytes that are none: a program prints what it can of them.
        let text = String::from_utf8_lossy(value);
        if text.chars().filter(|c| *c != '\u{fffd}').count() >= 8 {
            see(text.as_bytes());
        }
        return;
    };
    used_alone(text).iter().for_each(|part| parts(part, depth - 1, see));
    if let Some((_, rest)) = text.split_once("://")
        && let Some((user, _)) = rest.split_once('@')
        && let Some((_, password)) = user.split_once(':')
    {
        as_written_and_decoded(password).iter().for_each(|part| parts(part, depth - 1, see));
    }
}

fn as_written_and_decoded(part: &str) -> Vec<Vec<u8>> {
    let plain = unescaped(&Said::as_it_stands(part.as_bytes()), b'%', percent_sign).map(|said| said.bytes);
    let plain = plain.filter(|plain| std::str::from_utf8(plain).is_ok());
    std::iter::once(part.as_bytes().to_vec()).chain(plain).collect()
}

/// What programs take out of a text: `password=...`, the token of `Bearer ...`, what is behind base64 and behind `\n`.
fn used_alone(text: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (at, _) in text.match_indices(['=', ':']) {
        let key = text[..at].trim_ascii_end();
        let key = key.rsplit(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c)).next().unwrap();
        if !is_secret(key) {
            continue;
        }
        let line = text[at + 1..].split('\n').next().unwrap().trim_ascii();
        match line.chars().next().filter(|c| "\"'".contains(*c)) {
            Some(quote) => all.push(line[1..].split(quote).next().unwrap().into()),
            None => {
                let until = |ends: &str| line.split(|c| ends.contains(c)).next().unwrap();
                ["", ";", "; \t&#,"].iter().for_each(|ends| all.extend(as_written_and_decoded(until(ends))))
            }
        }
    }
    let schemes = ["bearer", "basic", "token", "bot", "key", "apikey", "ssws", "geniekey", "splunk"];
    if let Some((scheme, token)) = text.split_once(' ').map(|(scheme, token)| (scheme, token.trim()))
        && schemes.contains(&scheme.to_ascii_lowercase().as_str())
        && !token.contains(' ')
    {
        all.push(token.into());
        all.extend(
            decoded(token).filter(|_| scheme.eq_ignore_ascii_case("basic")).and_then(|text| Some(text.split_once(':')?.1.into())),
        );
    }
    all.extend(decoded(text).map(Into::into));
    let plain = unescaped(&Said::as_it_stands(text.as_bytes()), b'\\', backslash).map_or_else(Vec::new, |said| said.bytes);
    if plain.contains(&b'\n') && !text.contains('\n') {
        all.push(plain);
    }
    all
}

fn is_secret(key: &str) -> bool {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let within = "accountkey apikey authorization cookie credential passphrase passwd password pwd secret signature token webhook accesskey authkey privatekey signingkey";
    let whole = ["auth", "pass", "pat", "pin", "sig"];
    let named = within.split(' ').any(|word| key.contains(word)) || key.ends_with("key") || whole.contains(&key.as_str());
    named && !["name", "id", "uri", "url", "type", "file", "path", "expiry"].iter().any(|end| key.ends_with(end))
}

fn decoded(text: &str) -> Option<String> {
    use base64::{Engine, prelude::*};
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bare = text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(&text);
    let padded = bare.len() != text.len();
    if padded && !text.len().is_multiple_of(4) {
        return None;
    }
    let plain = BASE64_STANDARD_NO_PAD.decode(bare).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(bare)).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    (plain.len() >= 8 && !plain.contains(|c: char| c.is_control() && !"\t\r\n".contains(c))).then_some(plain)
}

fn leaves(json: &serde_json::Value, see: &mut dyn FnMut(&str)) {
    match json {
        serde_json::Value::String(text) => see(text),
        serde_json::Value::Array(all) => all.iter().for_each(|one| leaves(one, see)),
        serde_json::Value::Object(all) => all.values().for_each(|one| leaves(one, see)),
        _ => {}
    }
}

fn forms_of(value: &[u8], forms: &mut Vec<Vec<u8>>) {
    forms.push(value.to_vec());
    for upper in [false, true] {
        ["", ":", " ", "-"].iter().for_each(|join| forms.push(hex(value, upper, join).into_bytes()));
        for kept in PERCENT {
            let once = percent(value, kept, upper);
            forms.push(percent(once.as_bytes(), kept, upper).into_bytes());
            forms.push(once.into_bytes());
        }
    }
    let offsets = || (0..3).flat_map(|before| [(before, false), (before, true)]);
    offsets().for_each(|(before, url)| forms.push(base64_core(value, before, url).into_bytes()));
    // What is behind a password's percent signs need not be text.
    let Ok(text) = std::str::from_utf8(value) else { return };
    offsets().for_each(|(before, url)| forms.push(base64_core(&utf16(text, false), before, url).into_bytes()));
    [false, true].iter().for_each(|big| forms.push(utf16(text, *big)));
    forms.push(text.replace('\'', "'\\''").into_bytes());
    forms.push(text.replace('\'', "'\"'\"'").into_bytes());
    forms.push(text.replace('`', "``").replace('$', "`$").replace('"', "`\"").into_bytes());
    for quote in ["'", "\""] {
        // Of a pair at either end, one may be what the value is quoted with.
        let first = text.chars().next().unwrap().len_utf8();
        let last = text.len() - text.chars().next_back().unwrap().len_utf8();
        let doubled = text[first..last].replace(quote, &quote.repeat(2));
        forms.push([&text[..first], &doubled, &text[last..]].concat().into_bytes());
    }
    quoted(text, forms);
    // A plus is a space only where it is all that was encoded.
    forms.push(text.replace(' ', "+").into_bytes());
}

/// What JSON writers, `{:?}` and `b"..."` make of a value: forms that stand in text which is encoded once more.
fn quoted(text: &str, forms: &mut Vec<Vec<u8>>) {
    let inside = |text: &str| {
        let quoted = serde_json::to_string(text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    };
    for (ascii, slash, html, upper) in [
        (false, false, false, false),
        (true, false, false, false),
        (true, false, false, true),
        (false, true, false, false),
        (true, true, false, false),
        (false, false, true, false),
        (true, false, true, true),
    ] {
        let one = |c: char| match c {
            '/' if slash => "\\/".to_owned(),
            c if (ascii && !c.is_ascii()) || (html && "<>&".contains(c)) => {
                let unit = |u: &mut u16| if upper { format!("\\u{u:04X}") } else { format!("\\u{u:04x}") };
                c.encode_utf16(&mut [0; 2]).iter_mut().map(unit).collect()
            }
            c => inside(&c.to_string()),
        };
        let mut form: String = text.chars().map(one).collect();
        for _ in 0..3 {
            forms.push(form.clone().into_bytes());
            form = inside(&form);
        }
    }
    let debug = format!("{text:?}");
    forms.push(debug.as_bytes()[1..debug.len() - 1].to_vec());
    let bytes = text.as_bytes().escape_ascii().to_string().replace("\\'", "'");
    forms.push(bytes.into_bytes());
}

//! What the redactor must do, the slow and obvious way: mark every byte of the text that is part of any form of a value, in
//! the text and in what the text says once its escapes are taken off. It shares no code with the redactor.

use std::collections::HashMap;

use crate::encode::{PERCENT, base64_core, hex, percent, utf16};

/// One byte of what a text says, and the bytes of the text that say it.
type Said = (u8, usize, usize);

pub struct Oracle {
    /// By their first bytes, so that a text is compared with few.
    forms: HashMap<[u8; 4], Vec<Vec<u8>>>,
}

/// A longer form is known by pieces of this length, the last of which ends with it.
const LONGEST: usize = 256;

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
        let mut by_start = HashMap::<_, Vec<_>>::new();
        forms.into_iter().for_each(|form| by_start.entry(form[..4].try_into().unwrap()).or_default().push(form));
        Self { forms: by_start }
    }

    /// Which bytes of the text are part of a value.
    pub fn marks(&self, text: &[u8]) -> Vec<bool> {
        let mut marks = vec![false; text.len()];
        let mut said: Vec<Said> = text.iter().enumerate().map(|(at, b)| (*b, at, at + 1)).collect();
        let escapes = unescaped(&said, backslash);
        for _ in 0..5 {
            self.mark(&said, &mut marks);
            for read in [percent_sign, entity] {
                let mut inside = said.clone();
                for _ in 0..2 {
                    inside = unescaped(&inside, read);
                    self.mark(&inside, &mut marks);
                }
            }
            self.mark(&unwrapped(&said, text), &mut marks);
            said = unescaped(&said, backslash);
        }
        // Half an escape is not taken out.
        for (_, from, to) in escapes {
            if marks[from..to].contains(&true) {
                marks[from..to].fill(true);
            }
        }
        marks
    }

    fn mark(&self, said: &[Said], marks: &mut [bool]) {
        let bytes: Vec<u8> = said.iter().map(|one| one.0).collect();
        for (at, start) in bytes.windows(4).enumerate() {
            let Some(forms) = self.forms.get(start) else { continue };
            for form in forms.iter().filter(|form| bytes[at..].starts_with(form)) {
                marks[said[at].1..said[at + form.len() - 1].2].fill(true);
            }
        }
    }

    /// The text with `#` for each run of marked bytes.
    pub fn clean(&self, text: &[u8]) -> Vec<u8> {
        let marks = self.marks(text);
        let mut clean = Vec::new();
        for (at, b) in text.iter().enumerate() {
            match marks[at] {
                false => clean.push(*b),
                true if at == 0 || !marks[at - 1] => clean.push(b'#'),
                true => {}
            }
        }
        clean
    }
}

fn parts(value: &[u8], depth: usize, see: &mut dyn FnMut(&[u8])) {
    let value = value.trim_ascii();
    if value.len() < 8 {
        return;
    }
    see(value);
    if value.contains(&b'\n') {
        value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.len() >= 8).for_each(&mut *see);
        let lf = String::from_utf8(value.to_vec()).unwrap().replace("\r\n", "\n");
        see(lf.as_bytes());
        see(lf.replace('\n', "\r\n").as_bytes());
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
    let text = String::from_utf8_lossy(value).into_owned();
    used_alone(&text).iter().for_each(|part| parts(part, depth - 1, see));
    if let Some((_, rest)) = text.split_once("://")
        && let Some((user, _)) = rest.split_once('@')
        && let Some((_, password)) = user.split_once(':')
    {
        parts(password.as_bytes(), depth - 1, see);
    }
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
                ["", ";", "; \t&#,"].iter().for_each(|ends| all.push(line.split(|c| ends.contains(c)).next().unwrap().into()))
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
    let said: Vec<Said> = text.bytes().map(|b| (b, 0, 0)).collect();
    let plain: Vec<u8> = unescaped(&said, backslash).iter().map(|(b, ..)| *b).collect();
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
        PERCENT.iter().for_each(|kept| forms.push(percent(value, *kept, upper).into_bytes()));
    }
    let text = std::str::from_utf8(value).unwrap();
    for (before, url) in (0..3).flat_map(|before| [(before, false), (before, true)]) {
        forms.push(base64_core(value, before, url).into_bytes());
        forms.push(base64_core(&utf16(text, false), before, url).into_bytes());
    }
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

/// Reads one escape at the start of a text: its length, and what it says.
type Read = fn(&[u8]) -> Option<(usize, Vec<u8>)>;

fn unescaped(said: &[Said], read: Read) -> Vec<Said> {
    let bytes: Vec<u8> = said.iter().map(|one| one.0).collect();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < said.len() {
        let (taken, says) = read(&bytes[at..]).unwrap_or((1, vec![bytes[at]]));
        out.extend(says.iter().map(|b| (*b, said[at].1, said[at + taken - 1].2)));
        at += taken;
    }
    out
}

fn digits(text: &[u8], count: usize, radix: u32) -> Option<u32> {
    let text = std::str::from_utf8(text.get(..count)?).ok()?;
    text.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(text, radix).ok())?
}

fn says(code: u32) -> Option<Vec<u8>> {
    Some(char::from_u32(code)?.to_string().into_bytes())
}

fn backslash(text: &[u8]) -> Option<(usize, Vec<u8>)> {
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

fn percent_sign(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    (text[0] == b'%').then_some(())?;
    Some((3, vec![digits(&text[1..], 2, 16)? as u8]))
}

fn entity(text: &[u8]) -> Option<(usize, Vec<u8>)> {
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

/// Lines of base64 put together. `text` tells a line's end from an escape that says one.
fn unwrapped(said: &[Said], text: &[u8]) -> Vec<Said> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < said.len() {
        let line_end = if said[at].0 == b'\r' && said.get(at + 1).is_some_and(|next| next.0 == b'\n') { 2 } else { 1 };
        let newline = at + line_end - 1;
        let indent = said[newline + 1..].iter().take(64).take_while(|one| matches!(one.0, b' ' | b'\t')).count();
        let next = newline + 1 + indent;
        let goes_on = said[newline].0 == b'\n' && said.get(next).is_some_and(|one| is_encoded(one.0));
        if goes_on && is_broken(&said[..at], said[newline].2 - said[newline].1 == 1 && text[said[newline].1] == b'\n') {
            at = next;
        } else {
            out.push(said[at]);
            at += 1;
        }
    }
    out
}

fn is_broken(before: &[Said], by_the_text: bool) -> bool {
    let run: Vec<u8> = before.iter().rev().map(|one| one.0).take_while(|b| is_encoded(*b)).collect();
    let rest = &before[..before.len() - run.len()];
    let only_indented = rest.iter().rev().take_while(|one| one.0 != b'\n').all(|one| matches!(one.0, b' ' | b'\t'));
    match (by_the_text, only_indented) {
        (false, _) => run.len() >= 16,
        (true, true) => run.len() >= 32,
        (true, false) => run.len() >= 57 && !run.iter().all(u8::is_ascii_hexdigit),
    }
}

//! Compares the streaming redactor with a slow and obvious one, on random secrets, encodings, texts and read boundaries.
//!
//! A case is a text and where the reads of it end; its seed also says which secrets are in it. `VALETKEY_FUZZ_CASES` says how many
//! cases, `VALETKEY_FUZZ_SEED` where to start; a failure names the seed of its case:
//!
//! ```text
//! VALETKEY_FUZZ_CASES=1000000 cargo test --release --no-default-features --features run --test redact_fuzz
//! ```

#[path = "redact_fuzz/encode.rs"]
mod encode;
#[path = "redact_fuzz/generate.rs"]
mod generate;
#[path = "redact_fuzz/oracle.rs"]
mod oracle;
#[path = "redact_fuzz/random.rs"]
mod random;
#[path = "redact_fuzz/said.rs"]
mod said;

use oracle::{Oracle, Progress, cleaned};
use random::Random;
use serde_json::Value;
use valetkey::{
    redact::{Hit, Redactor, Wanted},
    secret::SecretValue,
};

/// Cases with the same secrets: to learn them takes longer than to look for them.
const CASES_OF_A_SET: u64 = 64;
const MOST_SECRETS: usize = 3;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn cases(default: u64) -> impl Iterator<Item = u64> {
    let (cases, seed) = (from_environment("VALETKEY_FUZZ_CASES", default), from_environment("VALETKEY_FUZZ_SEED", 1));
    // One case again: its seed, and one case.
    let first = if cases == 1 { seed } else { seed << 32 };
    (first..).take(cases as usize)
}

fn knowing(secrets: &[Vec<u8>], redactor: Redactor) -> Redactor {
    let names: Vec<_> = (0..secrets.len()).map(|n| format!("s{n}").parse().unwrap()).collect();
    let values: Vec<_> = secrets.iter().map(|secret| SecretValue::copy_from(secret).unwrap()).collect();
    let version = 1.into();
    let learned = redactor.learn_all(names.iter().zip(&values).map(|(name, value)| (name, &version, value)));
    assert!(learned.iter().all(|learned| !learned.too_short));
    redactor
}

/// Lines of a value with an escaped line end between them may be found as one or as many.
fn joined(text: Vec<u8>) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text.as_slice();
    while let Some(b) = rest.first() {
        let after = (*b == b'#' && out.last() == Some(&b'#')).then_some(1).or_else(|| {
            let line_ends = (out.last() == Some(&b'#')).then(|| line_ends(rest))?;
            (line_ends > 0 && rest.get(line_ends) == Some(&b'#')).then_some(line_ends + 1)
        });
        if after.is_none() {
            out.push(*b);
        }
        rest = &rest[after.unwrap_or(1)..];
    }
    out
}

/// The length of the `\\n`, `\\r`, `\\u000a`, `%0a`, `%250a` and so on that a text starts with.
fn line_ends(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let slashes = text[at..].iter().take_while(|b| **b == b'\\').count();
        let rest = &text[at + slashes..];
        let is = |end: &[u8]| rest.len() > end.len() && rest.starts_with(end) && b"aAdD".contains(&rest[end.len()]);
        let found = ["%0", "%250", "%25250"].iter().find(|end| slashes == 0 && is(end.as_bytes())).map(|end| end.len() + 1);
        match rest.first() {
            Some(b'n' | b'r') if slashes > 0 => at += slashes + 1,
            _ if slashes > 0 && is(b"u000") => at += slashes + 5,
            _ => match found {
                Some(taken) => at += taken,
                None => return at,
            },
        }
    }
}

/// `#` for a placeholder, and for placeholders that touch.
fn marked(clean: &[u8]) -> Vec<u8> {
    let tokens: [String; MOST_SECRETS] = std::array::from_fn(|n| format!("[redacted:s{n}]"));
    let mut out = Vec::with_capacity(clean.len());
    let mut rest = clean;
    while let Some(b) = rest.first() {
        match tokens.iter().find(|token| *b == b'[' && rest.starts_with(token.as_bytes())) {
            Some(token) => {
                rest = &rest[token.len()..];
                if out.last() != Some(&b'#') {
                    out.push(b'#');
                }
            }
            None => {
                out.push(*b);
                rest = &rest[1..];
            }
        }
    }
    joined(out)
}

/// What came out of a stream.
#[derive(Default)]
struct Streamed {
    text: Vec<u8>,
    hits: Vec<Hit>,
    progress: Vec<Progress>,
}

fn streamed(redactor: &Redactor, text: &[u8], random: &mut Random) -> Streamed {
    let mut stream = redactor.stream(Wanted::default());
    let (mut out, mut at) = (Streamed::default(), 0);
    let most = match random.below(16) {
        0 => 5,
        1..4 => 40,
        _ => 300,
    };
    while at < text.len() {
        let end = text.len().min(at + random.between(1, most));
        let passed = stream.push(&text[at..end]).unwrap();
        out.text.extend_from_slice(&passed.text);
        out.hits.extend(passed.hits);
        at = end;
        out.progress.push(Progress { given: at, passed: at - stream.held() });
        let last_line = text[..at].strip_suffix(b"\n").map(|before| before.rsplit(|b| *b == b'\n').next().unwrap());
        if last_line.is_some_and(|line| line.len() < 32) {
            assert_eq!(stream.held(), 0, "a complete line is held back");
        }
    }
    let passed = stream.finish().unwrap();
    out.text.extend_from_slice(&passed.text);
    out.hits.extend(passed.hits);
    out
}

/// A piece of what is expected.
enum Piece {
    As(Vec<u8>),
    /// A line of JSON, and what it is when only bytes are replaced.
    Json(Vec<u8>, Vec<u8>),
}

fn expected(text: &[u8], marks: &[bool]) -> Vec<Piece> {
    let clean = |range| joined(cleaned(text, marks, range));
    let (mut pieces, mut start) = (Vec::new(), 0);
    for line in text.split_inclusive(|b| *b == b'\n') {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let range = start..start + content.len();
        let is_json = matches!(content.trim_ascii().first(), Some(b'{' | b'['))
            && serde_json::from_slice::<serde::de::IgnoredAny>(content).is_ok();
        if is_json && marks[range.clone()].contains(&true) {
            pieces.push(Piece::Json(content.to_vec(), clean(range.clone())));
            pieces.push(Piece::As(clean(range.end..start + line.len())));
        } else {
            pieces.push(Piece::As(clean(start..start + line.len())));
        }
        start += line.len();
    }
    pieces
}

#[derive(Default, Debug)]
struct Counts {
    texts: u64,
    changed: u64,
    json: u64,
    rewritten: u64,
    withheld: u64,
    /// Texts of which a stream passed on the first characters of a value, in a line of base64.
    begun: u64,
}

fn compare(oracle: &Oracle, pieces: &[Piece], mut got: &[u8], counts: &mut Counts) {
    let mut dropped = false;
    for piece in pieces {
        match piece {
            Piece::As(bytes) => {
                let bytes = if dropped { bytes.strip_prefix(b"\n").unwrap_or(bytes) } else { bytes };
                dropped = false;
                assert!(got.starts_with(bytes), "expected {:.600}\n     got {:.600}", lossy(bytes), lossy(got));
                got = &got[bytes.len()..];
            }
            Piece::Json(original, replaced) => {
                counts.json += 1;
                let end = got.iter().position(|b| *b == b'\n').unwrap_or(got.len());
                let line = &got[..end];
                counts.rewritten += u64::from(line != replaced);
                match (serde_json::from_slice::<Value>(line), serde_json::from_slice::<Value>(original)) {
                    (Ok(Value::Object(object)), _) if object.contains_key("error") => counts.withheld += 1,
                    (Ok(clean), Ok(original)) => same_but_for_secrets(oracle, &original, &clean, 3),
                    // Not text: the values cannot be compared.
                    (_, Err(_)) => assert!(std::str::from_utf8(original).is_err()),
                    (Err(_), Ok(_)) => {
                        counts.withheld += 1;
                        dropped = true;
                        continue;
                    }
                }
                let valid = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
                assert!(valid, "not JSON: {}", lossy(line));
                got = &got[end..];
            }
        }
    }
    assert!(got.is_empty(), "more than expected: {}", lossy(got));
}

/// What holds no secret stays; what holds one becomes a string with a placeholder, or JSON with one in it. JSON within strings
/// stays JSON, `nesting` times.
fn same_but_for_secrets(oracle: &Oracle, original: &Value, clean: &Value, nesting: usize) {
    match (original, clean) {
        (original, clean) if original == clean => {}
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                match after.get(key) {
                    Some(clean) => same_but_for_secrets(oracle, value, clean, nesting),
                    None => assert!(after.keys().any(|key| key.contains('#')), "{key} is gone"),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            before.iter().zip(after).for_each(|(before, after)| same_but_for_secrets(oracle, before, after, nesting));
        }
        (Value::String(before), Value::String(after)) => {
            assert!(after.contains('#'), "{before} became {after}");
            if let Ok(before @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(before)
                && nesting > 0
                && after != "#"
            {
                let after = serde_json::from_str(after).unwrap_or_else(|_| panic!("no JSON any more: {after}"));
                same_but_for_secrets(oracle, &before, &after, nesting - 1);
            }
        }
        (before, Value::String(after)) => {
            let found = oracle.clean(before.to_string().as_bytes()).contains(&b'#');
            assert!(after.contains('#') && found, "{before} became {after}");
        }
        (before, after) => panic!("{before} became {after}"),
    }
}

/// Secrets, the redactor that knows them, and the oracle.
struct Known {
    secrets: Vec<String>,
    redactor: Redactor,
    /// A stream of this redactor tells by the patterns what it must hold back. Others hold back more.
    by_prefixes: bool,
    oracle: Oracle,
}

impl Known {
    fn seeded(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let secrets: Vec<String> = (0..random.between(1, MOST_SECRETS)).map(|_| generate::secret(&mut random)).collect();
        let values: Vec<Vec<u8>> = secrets.iter().map(|text| text.clone().into_bytes()).collect();
        let by_prefixes = !random.chance(4);
        let redactor = if by_prefixes { Redactor::streaming() } else { Redactor::new() };
        Self { redactor: knowing(&values, redactor.unwrap()), by_prefixes, oracle: Oracle::knowing(&values), secrets }
    }

    /// A text, and where the reads of it end.
    fn one_case(&self, seed: u64, counts: &mut Counts) {
        let mut random = Random::seeded(seed);
        let text = generate::text(&self.secrets, &mut random);
        let seen = self.oracle.see(&text);
        let marks = seen.marks();
        let found = marks.contains(&true);
        let told = |hits: &[Hit], clean: &[u8]| {
            assert_eq!(!hits.is_empty(), found, "hits are told");
            assert_eq!(clean != text, found, "what holds no secret passes as it is");
        };
        let out = streamed(&self.redactor, &text, &mut random);
        told(&out.hits, &out.text);
        let marks_after = seen.marks_after(&out.progress);
        let begun = marks_after != marks;
        assert!(!begun || self.by_prefixes, "a stream that holds back all that a value may be passed on the start of one");
        counts.texts += 1;
        counts.changed += u64::from(found);
        counts.begun += u64::from(begun);
        let in_pieces = self.agrees(&expected(&text, &marks_after), &out.text, counts);
        // A text that is all there takes the same way: not each needs to.
        if begun || random.chance(4) {
            let whole = self.redactor.clean(&text, Wanted::default()).unwrap();
            told(&whole.hits, &whole.text);
            let in_one = match begun {
                true => self.agrees(&expected(&text, &marks), &whole.text, counts),
                false => marked(&whole.text),
            };
            assert!(begun || in_one == in_pieces, "in one {:.600}\nin pieces {:.600}", lossy(&in_one), lossy(&in_pieces));
        }
    }

    /// Is the text as expected, and is nothing left in it?
    fn agrees(&self, expected: &[Piece], clean: &[u8], counts: &mut Counts) -> Vec<u8> {
        let got = marked(clean);
        compare(&self.oracle, expected, &got, counts);
        if let Some(from) = self.oracle.see(&got).marks().iter().position(|marked| *marked) {
            panic!("left at {from}: {}\nof {:?}", lossy(&got[from.saturating_sub(40)..]), self.secrets);
        }
        got
    }
}

fn lossy(text: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text)
}

#[test]
fn the_stream_agrees_with_the_oracle() {
    let mut counts = Counts::default();
    let mut known: Option<(u64, Known)> = None;
    for seed in cases(1_500) {
        let set = seed / CASES_OF_A_SET;
        let (_, known) = match known.take() {
            Some(same) if same.0 == set => known.insert(same),
            _ => known.insert((set, Known::seeded(set))),
        };
        let case = std::panic::AssertUnwindSafe(|| known.one_case(seed, &mut counts));
        if let Err(panic) = std::panic::catch_unwind(case) {
            let text = generate::text(&known.secrets, &mut Random::seeded(seed));
            eprintln!("case {seed} failed, of {:?}:\n{:?}", known.secrets, lossy(&text));
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{counts:?}");
    let enough = counts.changed > counts.texts / 4 && counts.json > counts.texts / 16;
    assert!(counts.texts < 1000 || (enough && counts.withheld * 200 <= counts.json), "{counts:?}");
}

#[test]
fn base64_is_found_at_any_offset() {
    for seed in cases(2_000) {
        let mut random = Random::seeded(seed ^ 0xba5e);
        let secret: Vec<u8> = (0..random.between(8, 48)).map(|_| random.next() as u8).filter(|b| *b != b'\n').collect();
        // A secret with newlines is known by its lines.
        if secret.trim_ascii().len() < 8 {
            continue;
        }
        let redactor = knowing(std::slice::from_ref(&secret), Redactor::streaming().unwrap());
        let around = |random: &mut Random| (0..random.below(40)).map(|_| random.next() as u8).collect::<Vec<u8>>();
        let (before, after) = (around(&mut random), around(&mut random));
        let url = random.chance(2);
        let encoded = encode::base64(&[before.as_slice(), &secret, &after].concat(), url, random.chance(2));
        let core =
            encode::base64_core(secret.trim_ascii(), (before.len() + secret.len() - secret.trim_ascii_start().len()) % 3, url);
        assert!(encoded.contains(&core), "case {seed}");
        let Streamed { text, hits, .. } = streamed(&redactor, encoded.as_bytes(), &mut random);
        assert_eq!(String::from_utf8(text).unwrap(), encoded.replacen(&core, "[redacted:s0]", 1), "case {seed}");
        assert!(hits.len() == 1 && hits[0].count == 1, "case {seed}: {hits:?}");
    }
}

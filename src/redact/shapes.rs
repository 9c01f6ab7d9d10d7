//! Text of the shape of a well-known kind of key, which is no value that the redactor knows. Opt-in: shapes break payloads that
//! happen to look like keys, and miss what does not.
//!
//! Each is anchored on a literal that its issuer put there to be found, and checked by length and alphabet. The keys of AWS
//! have no such literal in their secret half: that is found by the name before it.

use std::{ops::Range, sync::LazyLock};

use memchr::memmem::{self, Finder};

use super::{
    Form,
    engine::{Found, Owner},
    find::Seen,
};

struct Shape {
    name: &'static str,
    literal: &'static [u8],
    /// How many characters follow the literal.
    length: Range<usize>,
    characters: fn(u8) -> bool,
}

fn alphanumeric(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn upper(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

const fn shape(name: &'static str, literal: &'static [u8], length: Range<usize>, characters: fn(u8) -> bool) -> Shape {
    Shape { name, literal, length, characters }
}

const ANY: usize = 1 << 12;

const SHAPES: [Shape; 26] = [
    shape("aws-access-key-id", b"AKIA", 16..17, upper),
    shape("aws-access-key-id", b"ASIA", 16..17, upper),
    shape("github-token", b"ghp_", 36..256, alphanumeric),
    shape("github-token", b"gho_", 36..256, alphanumeric),
    shape("github-token", b"ghu_", 36..256, alphanumeric),
    shape("github-token", b"ghs_", 36..ANY, |b| word(b) || b == b'.'),
    shape("github-token", b"ghr_", 36..256, alphanumeric),
    shape("github-token", b"github_pat_", 36..256, word),
    shape("gitlab-token", b"glpat-", 20..ANY, |b| word(b) || b == b'.'),
    shape("slack-token", b"xoxb-", 20..ANY, word),
    shape("slack-token", b"xoxp-", 20..ANY, word),
    shape("slack-token", b"xoxa-", 20..ANY, word),
    shape("slack-token", b"xoxs-", 20..ANY, word),
    shape("slack-token", b"xapp-", 20..ANY, word),
    shape("stripe-key", b"sk_live_", 16..256, alphanumeric),
    shape("stripe-key", b"rk_live_", 16..256, alphanumeric),
    shape("stripe-key", b"sk_test_", 16..256, alphanumeric),
    shape("anthropic-key", b"sk-ant-", 32..ANY, word),
    shape("openai-key", b"sk-proj-", 32..ANY, word),
    shape("openai-key", b"sk-svcacct-", 32..ANY, word),
    shape("openai-key", b"sk-", 48..49, alphanumeric),
    shape("google-api-key", b"AIza", 35..36, word),
    shape("npm-token", b"npm_", 36..37, alphanumeric),
    shape("pypi-token", b"pypi-", 64..ANY, word),
    shape("vault-token", b"hvs.", 24..ANY, word),
    shape("huggingface-token", b"hf_", 34..41, alphanumeric),
];

const JWT: usize = SHAPES.len();
const PRIVATE_KEY: usize = JWT + 1;
const AWS_SECRET: usize = JWT + 2;
const OTHERS: [&str; 3] = ["jwt", "private-key", "aws-secret-access-key"];

/// Who a shape's find belongs to: no secret.
static OWNERS: LazyLock<Vec<Owner>> = LazyLock::new(|| {
    let names = SHAPES.iter().map(|shape| shape.name).chain(OTHERS);
    let owner = |(n, name): (usize, &str)| {
        Some(Owner { id: FIRST_ID + n as u64, name: format!("shape/{name}").parse().ok()?, version: 0.into() })
    };
    names.enumerate().filter_map(owner).collect()
});

/// Of the shapes. No secret comes so far: theirs are counted from zero.
const FIRST_ID: u64 = u64::MAX - 1023;

pub(super) fn is_shape(owner: &Owner) -> bool {
    owner.id >= FIRST_ID
}

static LITERALS: LazyLock<Vec<Finder<'static>>> =
    LazyLock::new(|| SHAPES.iter().map(|shape| Finder::new(shape.literal)).collect());

/// Adds what has a shape. If the text will go on, its last word is held: it may become one, or a longer one.
pub(super) fn find(text: &[u8], goes_on: bool, seen: &mut Seen<'_>) {
    let mut add = |shape: usize, range: Range<usize>| {
        if let Some(owner) = OWNERS.get(shape) {
            seen.found.push(Found { range, owner, form: Form::Shape });
        }
    };
    for (n, (shape, literal)) in SHAPES.iter().zip(LITERALS.iter()).enumerate() {
        literal.find_iter(text).filter_map(|at| simple(shape, text, at)).for_each(|range| add(n, range));
    }
    memmem::find_iter(text, "eyJ").filter_map(|at| jwt(text, at)).for_each(|range| add(JWT, range));
    memmem::find_iter(text, "ecret").filter_map(|at| aws_secret(text, at)).for_each(|range| add(AWS_SECRET, range));
    let mut unfinished = text.len();
    for at in memmem::find_iter(text, "-----BEGIN ") {
        let Some((range, ends)) = private_key(text, at) else { continue };
        unfinished = if ends { unfinished } else { unfinished.min(range.start) };
        add(PRIVATE_KEY, range);
    }
    if goes_on {
        let word = text.len() - ends_with(text, |b| word(b) || matches!(b, b'.' | b'+' | b'/' | b'='));
        seen.held_from = seen.held_from.min(word).min(unfinished).min(begins_key(text));
    }
}

/// How many of the last characters are such; none if they are more than a key has.
fn ends_with(text: &[u8], characters: impl Fn(u8) -> bool) -> usize {
    let count = text.iter().rev().take(2 * ANY).take_while(|b| characters(**b)).count();
    if count < 2 * ANY { count } else { 0 }
}

fn run(text: &[u8], characters: fn(u8) -> bool) -> usize {
    text.iter().take_while(|b| characters(**b)).count()
}

/// Not the middle of a word.
fn starts_here(text: &[u8], at: usize) -> bool {
    !at.checked_sub(1).is_some_and(|before| text[before].is_ascii_alphanumeric() || text[before] == b'_')
}

fn simple(shape: &Shape, text: &[u8], at: usize) -> Option<Range<usize>> {
    let from = at + shape.literal.len();
    let end = from + run(&text[from..], shape.characters);
    (starts_here(text, at) && shape.length.contains(&(end - from))).then_some(at..end)
}

/// Three words of base64url, of which the first two are JSON objects.
fn jwt(text: &[u8], at: usize) -> Option<Range<usize>> {
    let head = at + run(&text[at..], word);
    let body = head + 1;
    if !starts_here(text, at) || head - at < 16 || !text.get(head..)?.starts_with(b".eyJ") {
        return None;
    }
    let tail = body + run(&text[body..], word);
    let end = tail + 1 + run(text.get(tail + 1..)?, word);
    (text[tail] == b'.' && end - tail > 16).then_some(at..end)
}

/// `aws_secret_access_key = "..."`, in the ways that configuration and JSON write it; `at` is the name's `ecret`.
fn aws_secret(text: &[u8], at: usize) -> Option<Range<usize>> {
    let name = &text[at..];
    let rest = ["ecret_access_key", "ecretAccessKey", "ecret-access-key", "ecret-Access-Key"]
        .iter()
        .find_map(|n| name.strip_prefix(n.as_bytes()))?;
    let between = run(rest, |b| matches!(b, b' ' | b'\t' | b'"' | b'\'' | b':' | b'=' | b'\\' | b'>')).min(12);
    let from = text.len() - rest.len() + between;
    let length = run(&text[from..], |b| alphanumeric(b) || matches!(b, b'+' | b'/'));
    (between > 0 && length == 40).then_some(from..from + length)
}

/// The longest block that is taken: more than a key of 16,384 bits has.
const LONGEST_BLOCK: usize = 16 << 10;

/// From the BEGIN of a private key's PEM block to its END, or to what cannot be part of one; and whether it ends at all.
fn private_key(text: &[u8], at: usize) -> Option<(Range<usize>, bool)> {
    let label = &text[at + 11..];
    let label = &label[..run(label, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ')];
    let body = at + 11 + label.len();
    // PGP's label goes on: PRIVATE KEY BLOCK.
    if !label.windows(11).any(|w| w == b"PRIVATE KEY") || !text[body..].starts_with(b"-----") {
        return None;
    }
    let body = body + 5;
    let limit = text.len().min(at + LONGEST_BLOCK);
    let part = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'\r' | b'\n' | b'\\' | b' ' | b'\t' | b':' | b',' | b'-')
    };
    let inside = run(&text[body..limit], part);
    let end = body + inside;
    if let Some(mark) = memmem::find(&text[body..end], b"-----END ") {
        let label = body + mark + 9;
        let last = label + run(&text[label..], |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
        let dashes = text[last..].iter().take(5).take_while(|b| **b == b'-').count();
        return Some((at..last + dashes, dashes == 5 || last + dashes < text.len()));
    }
    Some((at..end, end < text.len()))
}

/// Where the text ends in what may become a block's first line.
fn begins_key(text: &[u8]) -> usize {
    let line = memchr::memrchr(b'\n', text).map_or(0, |newline| newline + 1);
    let first = line.max(text.len().saturating_sub(64));
    let begin = b"-----BEGIN ";
    let may_begin = |at: &usize| {
        let rest = &text[*at..];
        begin.starts_with(rest)
            || rest.strip_prefix(begin).is_some_and(|label| {
                label.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b' ' | b'-'))
            })
    };
    (first..text.len()).find(may_begin).unwrap_or(text.len())
}

#[cfg(test)]
mod tests;

//! Takes values out of a line of JSON such that it stays JSON.
//!
//! The line is not parsed into a tree and written anew: what holds no secret stays byte for byte, with its order, its white
//! space and its numbers as they were written. Only the strings, keys and numbers that a find touches are written anew, as
//! strings. JSON within a string is treated the same. A secret in two keys of one object makes two equal keys: that is still
//! JSON, and any other answer would tell the keys apart by what they were.

use std::ops::Range;

use memchr::memmem;
use serde::de::IgnoredAny;

use super::{
    engine::Owner,
    find::{Finder, Merged, union},
    hits::{Hits, placeholder},
    shapes,
};
use crate::name::SecretName;

/// JSON in a JSON string, how often.
const NESTING: usize = 3;

/// How often a line is looked through again.
const PASSES: usize = 3;

/// Finds, and knows which secrets may be named.
#[derive(Clone, Copy)]
pub(super) struct Cleaner<'e> {
    pub finder: Finder<'e>,
    pub named: &'e dyn Fn(&SecretName) -> bool,
}

impl<'e> Cleaner<'e> {
    pub fn union(&self, found: Vec<super::engine::Found<'e>>) -> Vec<Merged<'e>> {
        union(found, &|one| self.is_named(one.owner))
    }

    pub fn placeholder(&self, owner: &Owner, out: &mut Vec<u8>) {
        placeholder(owner, self.is_named(owner), out);
    }

    /// A shape is nobody's secret.
    fn is_named(&self, owner: &Owner) -> bool {
        shapes::is_shape(owner) || (self.named)(&owner.name)
    }

    /// What may be passed on in place of a line of JSON in which something was found. What shows only once the rest is taken out is
    /// counted here.
    pub fn clean(&self, line: &[u8], spots: &[Spot<'e>], hits: &mut Hits) -> Option<Vec<u8>> {
        let mut clean = self.rewrite(line, spots, NESTING);
        for _ in 0..PASSES {
            let left = self.left_in(&clean);
            if !is_json(&clean) {
                break;
            }
            if left.is_empty() {
                return Some(clean);
            }
            left.iter().for_each(|merged| hits.count(merged, 0));
            clean = self.rewrite(&clean, &self::spots(&left, 0), NESTING);
        }
        withheld(line, spots)
    }

    fn rewrite(&self, text: &[u8], spots: &[Spot<'e>], nesting: usize) -> Vec<u8> {
        let mut writer = Writer { cleaner: self, text, spots, nesting, at: 0, out: Vec::with_capacity(text.len()) };
        writer.value();
        writer.copy_to(text.len());
        writer.out
    }

    /// What is found in a cleaned text. A value that ends in a backslash hides the start of an escaped one right after it.
    /// What is part of a placeholder does not count: a secret may be called like another's value.
    fn left_in(&self, text: &[u8]) -> Vec<Merged<'e>> {
        let found = Finder { goes_on: None, ..self.finder }.find(text).found;
        if found.is_empty() {
            return Vec::new();
        }
        let starts: Vec<usize> = memmem::find_iter(text, "[redacted").collect();
        let end = |start: usize| memchr::memchr(b']', &text[start..]).map_or(text.len(), |end| start + end + 1);
        let in_one = |range: &Range<usize>| starts.iter().any(|start| *start < range.end && range.start < end(*start));
        self.union(found.into_iter().filter(|one| !in_one(&one.range)).collect())
    }
}

/// A place in a line, and whose value is there.
pub(super) struct Spot<'e> {
    pub range: Range<usize>,
    pub owner: &'e Owner,
}

pub(super) fn spots<'e>(merged: &[Merged<'e>], base: usize) -> Vec<Spot<'e>> {
    let spot = |one: &Merged<'e>| Spot { range: one.range.start - base..one.range.end - base, owner: one.owner };
    merged.iter().map(spot).collect()
}

pub(super) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Is this an object or an array, as far as it goes?
pub(super) fn may_be_json(start: &[u8]) -> bool {
    // The parser takes half a number for a wrong one.
    let numbers = start.iter().rev().take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b)).count();
    let start = &start[..start.len() - numbers];
    matches!(start.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<IgnoredAny>(start).map_or_else(|error| error.is_eof(), |_| numbers == 0)
}

/// Writes a valid JSON text anew, from left to right.
struct Writer<'a, 'e> {
    cleaner: &'a Cleaner<'e>,
    text: &'a [u8],
    spots: &'a [Spot<'e>],
    nesting: usize,
    at: usize,
    out: Vec<u8>,
}

impl<'e> Writer<'_, 'e> {
    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.text[self.at..end]);
        self.at = end;
    }

    /// Copies white space and the marks of objects and arrays, up to what is neither.
    fn copy_marks(&mut self) {
        let marks = self.text[self.at..].iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')).count();
        self.copy_to(self.at + marks);
    }

    fn value(&mut self) {
        self.copy_marks();
        let (text, start) = (self.text, self.at);
        let end = value_end(text, start);
        let mut touched = touching(self.spots, start..end).peekable();
        match (touched.peek().map(|spot| spot.owner), text[start]) {
            (None, _) => self.copy_to(end),
            (Some(owner), _) if touched.any(|spot| spot.range.start <= start && end <= spot.range.end) => {
                self.replace(owner, end)
            }
            (_, b'"') => self.string(end),
            (_, b'{' | b'[') => {
                self.copy_to(start + 1);
                // Keys are values like any other here: strings.
                loop {
                    self.copy_marks();
                    if self.at + 1 >= end {
                        return self.copy_to(end);
                    }
                    self.value();
                }
            }
            (Some(owner), _) => self.replace(owner, end),
        }
    }

    fn replace(&mut self, owner: &Owner, end: usize) {
        self.out.push(b'"');
        self.cleaner.placeholder(owner, &mut self.out);
        self.out.push(b'"');
        self.at = end;
    }

    fn string(&mut self, end: usize) {
        let inside = self.at + 1..end - 1;
        let mut cut = self.without(inside.clone());
        if let Some(nested) = self.nested(&self.text[self.at..end])
            && unescaped(&[b"\"", cut.as_slice(), b"\""].concat()).is_none_or(|cut| cut.as_bytes() != nested)
            && let Ok(text) = std::str::from_utf8(&nested)
            && let Ok(escaped) = serde_json::to_string(text)
        {
            cut = escaped.as_bytes()[1..escaped.len() - 1].to_vec();
        }
        self.out.push(b'"');
        self.out.extend_from_slice(&cut);
        self.out.push(b'"');
        self.at = end;
    }

    /// The inside of a string with placeholders in it. Finds do not cut escapes, so it stays the inside of one.
    fn without(&self, inside: Range<usize>) -> Vec<u8> {
        let mut cut = Vec::with_capacity(inside.len());
        let mut from = inside.start;
        for spot in touching(self.spots, inside.clone()) {
            cut.extend_from_slice(&self.text[from..spot.range.start.max(from)]);
            self.cleaner.placeholder(spot.owner, &mut cut);
            from = spot.range.end.min(inside.end);
        }
        cut.extend_from_slice(&self.text[from..inside.end]);
        cut
    }

    /// What a string that holds JSON says once it is clean.
    fn nested(&self, string: &[u8]) -> Option<Vec<u8>> {
        let text = (self.nesting > 0).then(|| unescaped(string)).flatten()?;
        if !matches!(text.trim_ascii_start().as_bytes().first(), Some(b'{' | b'[' | b'"')) || !is_json(text.as_bytes()) {
            return None;
        }
        let finder = Finder { goes_on: None, ..self.cleaner.finder };
        let merged = self.cleaner.union(finder.find(text.as_bytes()).found);
        Some(self.cleaner.rewrite(text.as_bytes(), &spots(&merged, 0), self.nesting - 1))
    }
}

fn unescaped(string: &[u8]) -> Option<String> {
    serde_json::from_slice(string).ok()
}

fn touching<'s, 'e>(spots: &'s [Spot<'e>], range: Range<usize>) -> impl Iterator<Item = &'s Spot<'e>> {
    let first = spots.partition_point(|spot| spot.range.end <= range.start);
    spots[first..].iter().take_while(move |spot| spot.range.start < range.end)
}

/// Where the value that starts at `at` of a valid JSON text ends.
fn value_end(text: &[u8], at: usize) -> usize {
    match text[at] {
        b'"' => string_end(text, at),
        b'{' | b'[' => {
            let (mut at, mut depth) = (at, 0usize);
            loop {
                match text[at] {
                    b'"' => {
                        at = string_end(text, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth == 1 => return at + 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
            }
        }
        _ => at + text[at..].iter().take_while(|b| !matches!(b, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n')).count(),
    }
}

fn string_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        match memchr::memchr2(b'"', b'\\', &text[at..]) {
            Some(next) if text[at + next] == b'"' => return at + next + 1,
            Some(next) => at += next + 2,
            None => return text.len(),
        }
    }
}

/// The answer to a request without its result, if the line is an answer and the number of the request is clean: who asked must
/// not wait for ever. Anything else is dropped.
fn withheld(line: &[u8], spots: &[Spot<'_>]) -> Option<Vec<u8>> {
    let start = line.iter().position(|b| *b == b'{').filter(|at| line[..*at].trim_ascii().is_empty())?;
    let (mut at, mut id) = (start + 1, None);
    let skip = |at: usize| at + line[at..].iter().take_while(|b| b" \t\r\n,:".contains(b)).count();
    loop {
        at = skip(at);
        if line[at] == b'}' {
            break;
        }
        let key = at..string_end(line, at);
        let value = skip(key.end);
        at = value_end(line, value);
        match &line[key] {
            // A request of the server, not an answer: an error would go to a request of the client with the same number.
            b"\"method\"" => return None,
            b"\"id\"" => id = Some(value..at),
            _ => {}
        }
    }
    let id = id.filter(|id| touching(spots, id.clone()).next().is_none() && !matches!(line[id.start], b'{' | b'['))?;
    let mut error = line[..start].to_vec();
    error.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    error.extend_from_slice(&line[id]);
    error.extend_from_slice(
        br#","error":{"code":-32603,"message":"withheld: the answer holds a secret that could not be taken out"}}"#,
    );
    Some(error)
}

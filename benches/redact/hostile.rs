//! Texts made to be slow to scan, by somebody who knows the secrets and not the keys.

use valetkey::redact::bench::Scanner;

use crate::{corpus::back_to_back, cpu_time};

const SIZE: usize = 64 << 10;

fn over_and_over(piece: &[u8]) -> Vec<u8> {
    piece.iter().copied().cycle().take(SIZE).collect()
}

fn rate(scanner: &Scanner, text: &[u8]) -> f64 {
    text.len() as f64 / cpu_time(|| _ = std::hint::black_box(scanner.count(std::hint::black_box(text)))) / 1e9
}

fn slowest_of(scanner: &Scanner, texts: impl Iterator<Item = Vec<u8>>) -> f64 {
    texts.map(|text| rate(scanner, &text)).fold(f64::INFINITY, f64::min)
}

/// Each way to attack, with the slowest text that it gives. Which one that is, the attacker has to find out by trying.
pub fn slowest(patterns: &[Vec<u8>]) -> Vec<(&'static str, f64)> {
    let scanner = Scanner::of(patterns).expect("random bytes");
    let some = || patterns.iter().step_by((patterns.len() / 40).max(1));
    // Every probe of the text falls on the same eight bytes.
    let windows = some().flat_map(|pattern| pattern.windows(8).map(over_and_over));
    let halves = some().flat_map(|p| [&p[..p.len() / 2], &p[p.len() / 2..]]).map(over_and_over);
    let but_for_the_last = some().map(|p| over_and_over(&p[..p.len() - 1]));
    let but_for_one = some().flat_map(|p| {
        (0..p.len()).step_by(3).map(|at| {
            let mut changed = p.clone();
            changed[at] ^= 1;
            over_and_over(&changed)
        })
    });
    vec![
        ("eight bytes of a pattern, over and over", slowest_of(&scanner, windows)),
        ("half a pattern, over and over", slowest_of(&scanner, halves)),
        ("a pattern without its last byte, over and over", slowest_of(&scanner, but_for_the_last)),
        ("a pattern with one byte changed, over and over", slowest_of(&scanner, but_for_one)),
        ("every pattern, with its last byte changed", rate(&scanner, &back_to_back(1 << 20, patterns, true))),
        ("every pattern", rate(&scanner, &back_to_back(1 << 20, patterns, false))),
    ]
}

/// Secrets that repeat themselves, and texts that do.
pub fn repetitive() -> Vec<(&'static str, f64)> {
    let forms = |secret: &[u8]| Scanner::of(&valetkey::redact::bench::forms(secret)).expect("random bytes");
    let a = forms(&[b'a'; 32]);
    let almost = forms(&[[b'a'; 31].as_slice(), b"b"].concat());
    let middle = forms(&[[b'a'; 16].as_slice(), b"b", &[b'a'; 16]].concat());
    let long = forms(&[[b'a'; 250].as_slice(), b"bcd"].concat());
    vec![
        ("32 times `a`: a text of `a`, all of it a find", rate(&a, &over_and_over(b"a"))),
        ("31 times `a` and `b`: a text of `a`", rate(&almost, &over_and_over(b"a"))),
        ("`a`s around a `b`: a text of `a`", rate(&middle, &over_and_over(b"a"))),
        ("250 times `a` and `bcd`: a text of `a`", rate(&long, &over_and_over(b"a"))),
        ("the same: its base64", rate(&long, &over_and_over(b"YWFh"))),
        ("the same: its list of bytes", rate(&long, &over_and_over(b"97, "))),
    ]
}

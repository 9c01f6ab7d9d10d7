//! What may be shown of a text that holds secrets.

use zeroize::Zeroizing;

use super::{
    json::quoted,
    suspect::{Verdict, judge},
};

/// Puts a mark in the place of every value.
pub struct Mask {
    /// As they are, and as JSON spells them; the longest first.
    values: Vec<(Zeroizing<String>, usize)>,
}

impl Mask {
    pub fn new<'v>(values: impl Iterator<Item = &'v Zeroizing<String>>) -> Self {
        let mut all: Vec<(Zeroizing<String>, usize)> = Vec::new();
        for value in values.filter(|value| !value.is_empty()) {
            let spelt = Zeroizing::new(quoted(value));
            all.push((spelt[1..spelt.len() - 1].to_owned().into(), value.len()));
            all.push((value.clone(), value.len()));
        }
        all.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        Self { values: all }
    }

    /// One line, for a terminal. What only looks like a secret is taken out too.
    pub fn line(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for (value, length) in &self.values {
            shown = without(&shown, value, &mark(*length));
        }
        mask_looks(&shown)
    }
}

/// A short value counts only where it stands by itself: inside other words its mark would tell what it is.
fn without(text: &str, value: &str, mark: &str) -> String {
    let (mut out, mut at) = (String::new(), 0);
    for (found, _) in text.match_indices(value) {
        let end = found + value.len();
        let part_of_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        if value.len() < 8 && (part_of_word(text[..found].chars().next_back()) || part_of_word(text[end..].chars().next())) {
            continue;
        }
        out.push_str(&text[at..found]);
        out.push_str(mark);
        at = end;
    }
    out + &text[at..]
}

fn mark(length: usize) -> String {
    format!("[redacted: {length} bytes]")
}

/// Takes out what by its looks may be a secret, and what would steer a terminal.
pub fn mask_looks(line: &str) -> String {
    let mut shown = String::new();
    let word = |word: &str| match judge("", word) {
        Verdict::Secret(part) => format!("{}{}{}", &word[..part.start], mark(part.len()), &word[part.end..]),
        _ => word.into(),
    };
    let mut start = 0;
    for (at, c) in line.char_indices() {
        if c.is_whitespace() || "\"',".contains(c) {
            shown.push_str(&word(&line[start..at]));
            shown.push(if crate::name::is_unprintable(c) && c != '\t' { '\u{fffd}' } else { c });
            start = at + c.len_utf8();
        }
    }
    shown.push_str(&word(&line[start..]));
    shown.chars().map(|c| if crate::name::is_unprintable(c) && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let mask = Mask::new([Zeroizing::new("quo\"te".to_owned()), Zeroizing::new("plain words".to_owned())].iter());
        assert_eq!(
            mask.line(r#""A": "quo\"te", "B": "plain words""#),
            r#""A": "[redacted: 6 bytes]", "B": "[redacted: 11 bytes]""#
        );
        let token = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
        assert_eq!(mask.line(&format!("  // was {token}, once")), "  // was [redacted: 40 bytes], once");
        assert_eq!(mask.line("\"@modelcontextprotocol/server-github\""), "\"@modelcontextprotocol/server-github\"");
        assert_eq!(mask.line("a\u{1b}[31m"), "a\u{fffd}[31m");
    }
}

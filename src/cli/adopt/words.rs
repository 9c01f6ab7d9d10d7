//! Secrets among the words of a command line, where every user of the host can read them while the program runs.

use std::ops::Range;

use super::suspect::{self, Verdict, judge};
use crate::config::is_variable;

/// One word, the option before it, and what of it is a secret.
#[derive(Debug, Clone)]
pub struct Word {
    /// What `--secret` and `--keep` call it: the option, the header or the variable; or `args[3]`.
    pub key: String,
    pub verdict: Verdict,
    /// The variable that it should come from.
    pub variable: String,
    /// Is it the value of `NAME=VALUE`?
    pub assigned: bool,
}

/// Judges the words of a command line.
pub fn judge_all(words: &[String]) -> Vec<Word> {
    let mut before = None;
    let judged = words.iter().enumerate().map(|(index, word)| {
        let found = judge_word(before, word, &format!("args[{index}]"));
        before = Some(word.as_str());
        found
    });
    judged.collect()
}

/// Judges a word by the option before it, the name in it, or its looks.
pub fn judge_word(before: Option<&str>, word: &str, place: &str) -> Word {
    let option = before.filter(|before| before.starts_with('-') && !before.contains('='));
    let plain = |verdict, key: &str, variable: String| Word { key: key.into(), verdict, variable, assigned: false };
    if word.starts_with('-')
        && let Some((name, value)) = word.split_once('=')
    {
        return shifted(judge_word(Some(name), value, name), name.len() + 1);
    }
    if option.is_some_and(|option| matches!(option, "-H" | "--header" | "--headers"))
        && let Some((name, value)) = word.split_once([':', '='])
    {
        let space = value.len() - value.trim_start().len();
        let variable = if name.trim().eq_ignore_ascii_case("authorization") { "AUTH_TOKEN".into() } else { variable(name) };
        let found = plain(judge(name.trim(), value.trim_start()), name.trim(), variable);
        return shifted(found, name.len() + 1 + space);
    }
    if let Some((name, value)) = word.split_once('=')
        && is_variable(name)
    {
        let found = Word { assigned: true, ..plain(judge(name, value), name, name.into()) };
        return shifted(found, name.len() + 1);
    }
    match option {
        // A switch takes no value: the word after it is something else.
        Some(option) if !word.starts_with('-') && !is_switch(option) => {
            let verdict = judge(option, word);
            let named = if option.starts_with("--") { variable(option) } else { from_looks(word) };
            plain(verdict, if option.starts_with("--") { option } else { place }, named)
        }
        _ => plain(judge("", word), place, from_looks(word)),
    }
}

fn shifted(word: Word, by: usize) -> Word {
    let verdict = match word.verdict {
        Verdict::Secret(range) => Verdict::Secret(range.start + by..range.end + by),
        other => other,
    };
    Word { verdict, ..word }
}

fn is_switch(option: &str) -> bool {
    let words = suspect::words(option);
    let first = words.first().map(String::as_str).unwrap_or_default();
    ["NO", "USE", "ENABLE", "DISABLE", "WITH", "WITHOUT", "SKIP", "REQUIRE", "ALLOW", "Y", "YES", "RM", "I"].contains(&first)
}

/// `API_KEY` for `--api-key`.
fn variable(name: &str) -> String {
    let name = suspect::words(name).join("_");
    if is_variable(&name) { name } else { "API_KEY".into() }
}

/// A fitting name for what has none.
fn from_looks(word: &str) -> String {
    match word.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => "POSTGRES_URL".into(),
        Some("mongodb" | "mongodb+srv") => "MONGODB_URI".into(),
        Some("http" | "https") => query_key(word).unwrap_or_else(|| "SERVER_URL".into()),
        Some(scheme) => variable(&format!("{scheme}-url")),
        None => "API_KEY".into(),
    }
}

fn query_key(url: &str) -> Option<String> {
    let Verdict::Secret(Range { start, .. }) = judge("", url) else { return None };
    let before = url[..start].strip_suffix('=')?;
    Some(variable(before.rsplit(['?', '&']).next()?))
}

/// A word in a shell's script: where it stands, without the quotes around it.
pub fn in_script(script: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in script.char_indices().chain([(script.len(), ' ')]) {
        let inside = !c.is_whitespace() && !"\"';&|()".contains(c);
        match (inside, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// What stands for a variable's value at this place of a shell's script, whatever quotes are open there.
pub fn expansion_at(script: &str, at: usize, variable: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    for c in script[..at].chars() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    let quote = quote.map(String::from).unwrap_or_default();
    format!("{quote}\"${variable}\"{quote}")
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"@%+=:,./_-".contains(&b);
    if !word.is_empty() && word.bytes().all(safe) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(line: &[&str]) -> Vec<(String, String, String)> {
        let words: Vec<String> = line.iter().map(ToString::to_string).collect();
        let found = judge_all(&words).into_iter().zip(&words).filter_map(|(judged, word)| match judged.verdict {
            Verdict::Secret(range) => Some((judged.key, judged.variable, word[range].into())),
            _ => None,
        });
        found.collect()
    }

    #[test]
    fn secrets_in_arguments_are_found() {
        let one = |line: &[&str], key: &str, variable: &str, value: &str| {
            assert_eq!(find(line), [(key.into(), variable.into(), value.into())], "{line:?}");
        };
        one(&["-y", "x", "--api-key", "abcdefgh1"], "--api-key", "API_KEY", "abcdefgh1");
        one(&["-y", "x", "--figma-api-key=abcdefgh1", "--stdio"], "--figma-api-key", "FIGMA_API_KEY", "abcdefgh1");
        one(&["run", "-i", "--rm", "-e", "GITHUB_TOKEN=abcdefgh1", "image"], "GITHUB_TOKEN", "GITHUB_TOKEN", "abcdefgh1");
        one(&["run", "--env=GITHUB_TOKEN=abcdefgh1"], "GITHUB_TOKEN", "GITHUB_TOKEN", "abcdefgh1");
        one(&["u", "--header", "Authorization: Bearer abcdefgh1"], "Authorization", "AUTH_TOKEN", "abcdefgh1");
        one(&["u", "--header", "X-Api-Key:abcdefgh1"], "X-Api-Key", "X_API_KEY", "abcdefgh1");
        one(&["-y", "pg", "postgres://u:pw@h/db"], "args[2]", "POSTGRES_URL", "postgres://u:pw@h/db");
        one(
            &["-t", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"],
            "args[1]",
            "API_KEY",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        );
        one(&["r", "https://h/sse?api_key=abcdefgh1"], "args[1]", "API_KEY", "abcdefgh1");
        let none: &[&[&str]] = &[
            &["-y", "@modelcontextprotocol/server-filesystem", "/home/alice/Projects"],
            &["--no-auth", "server-of-mine"],
            &["--token", "${TOKEN}"],
            &["--directory", "/srv/x", "run", "server.py"],
            &["--token-file", "/run/token"],
            &["-m", "mcp_server_fetch", "--user-agent=Mozilla/5.0 (X11)"],
        ];
        none.iter().for_each(|line| assert_eq!(find(line), [], "{line:?}"));
    }

    #[test]
    fn a_shell_reads_the_same_words() {
        for word in ["", "a b", "it's", "$HOME", "~", "a\nb", "*", "\\", "\"", "plain-1.0"] {
            let out =
                std::process::Command::new("/bin/sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            assert_eq!(out.stdout, word.as_bytes(), "{word:?}");
        }
        for (script, expected) in
            [("printf %s HERE", "a b"), ("printf %s 'x HERE'", "x a b"), ("printf %s \"x\\\"HERE y\"", "x\"a b y")]
        {
            let at = script.find("HERE").unwrap();
            let script = script.replace("HERE", &expansion_at(script, at, "V"));
            let out = std::process::Command::new("/bin/sh").arg("-c").arg(&script).env("V", "a b").output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{script}");
        }
    }
}

//! A command line without secrets in it: from a variable where the program can read one, and through a shell where it cannot.

use std::collections::BTreeSet;

use super::{suspect::is_filled_in, words::quoted};
use crate::config::is_variable;

/// A part of a word: as it is, or what a variable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Variable(String),
}

/// A command line in parts.
#[derive(Debug)]
pub struct Line {
    pub program: String,
    pub words: Vec<Vec<Piece>>,
}

/// Options of well-known servers that a variable can stand for, as their own documentation says.
#[rustfmt::skip]
const EQUIVALENTS: &[(&str, &str, &str)] = &[
    ("figma-developer-mcp", "--figma-api-key", "FIGMA_API_KEY"),
    ("@stripe/mcp", "--api-key", "STRIPE_SECRET_KEY"),
    ("@supabase/mcp-server-supabase", "--access-token", "SUPABASE_ACCESS_TOKEN"),
    ("@upstash/context7-mcp", "--api-key", "CONTEXT7_API_KEY"),
    ("@sentry/mcp-server", "--access-token", "SENTRY_ACCESS_TOKEN"),
    ("@bytebase/dbhub", "--dsn", "DSN"),
    ("mongodb-mcp-server", "--connectionString", "MDB_MCP_CONNECTION_STRING"),
];

/// Puts `${NAME}` in headers in place of what its environment says (its README, "Custom Headers").
const FILLS_IN_ITSELF: &str = "mcp-remote";

/// The word that is a script, where the program is a shell.
pub fn script(program: &str, words: &[String]) -> Option<usize> {
    let name = program.rsplit('/').next().unwrap_or(program);
    let is_shell = ["sh", "bash", "dash", "ash", "zsh", "ksh"].contains(&name);
    let option = words.iter().position(|word| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c'))?;
    (is_shell && option + 1 < words.len()).then_some(option + 1)
}

impl Line {
    pub fn new(program: &str, words: &[String]) -> Self {
        Self { program: program.into(), words: words.iter().map(|word| vec![Piece::Text(word.clone())]).collect() }
    }

    /// The words, when no variable is left among them.
    pub fn texts(&self) -> Vec<String> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable(name) => format!("${name}"),
        };
        let words = self.words.iter().map(|word| word.iter().map(text).collect());
        [self.program.clone()].into_iter().chain(words).collect()
    }

    fn text(&self, index: usize) -> Option<&str> {
        match self.words.get(index)?.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Takes every variable out of the words, in the best way there is. What is left of them on the command line of the server is
    /// returned: the variables whose values every user can see there.
    pub fn settle(&mut self, pinned: bool) -> BTreeSet<String> {
        self.hand_to_container();
        self.drop_assignments();
        self.use_equivalents();
        if pinned {
            self.let_it_fill_in();
        }
        self.wrap()
    }

    fn name(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or(&self.program)
    }

    /// `docker run -e NAME=VALUE` says no more than `-e NAME` with the variable set, and shows it to all.
    fn hand_to_container(&mut self) {
        if !matches!(self.name(), "docker" | "podman" | "nerdctl") {
            return;
        }
        for index in 0..self.words.len() {
            let option =
                index.checked_sub(1).and_then(|before| self.text(before)).is_some_and(|word| matches!(word, "-e" | "--env"));
            let [Piece::Text(start), Piece::Variable(variable)] = self.words[index].as_slice() else { continue };
            let short = match start.strip_prefix("--env=") {
                Some(name) if name == format!("{variable}=") => format!("--env={variable}"),
                None if option && *start == format!("{variable}=") => variable.clone(),
                _ => continue,
            };
            self.words[index] = vec![Piece::Text(short)];
        }
    }

    /// `env NAME=VALUE program` sets what is set already.
    fn drop_assignments(&mut self) {
        if self.name() != "env" {
            return;
        }
        let assigns = |word: &Vec<Piece>| match word.as_slice() {
            [Piece::Text(text), ..] => text.split_once('=').is_some_and(|(name, _)| is_variable(name)),
            _ => false,
        };
        let head = self.words.iter().take_while(|word| assigns(word)).count();
        let mut index = 0;
        self.words.retain(|word| {
            index += 1;
            let [Piece::Text(start), Piece::Variable(variable)] = word.as_slice() else { return true };
            index > head || *start != format!("{variable}=")
        });
    }

    fn runs(&self, package: &str) -> bool {
        let is = |word: &str| word == package || word.strip_prefix(package).is_some_and(|rest| rest.starts_with('@'));
        is(self.name()) || (0..self.words.len()).any(|index| self.text(index).is_some_and(is))
    }

    /// The study names variables after options; here the name that the server knows is put in their place, where there is one.
    fn use_equivalents(&mut self) {
        for (package, option, variable) in EQUIVALENTS {
            if !self.runs(package) {
                continue;
            }
            let joined = vec![Piece::Text(format!("{option}=")), Piece::Variable((*variable).into())];
            let alone = vec![Piece::Variable((*variable).into())];
            if let Some(index) = self.words.iter().position(|word| *word == joined) {
                self.words.remove(index);
            } else if let Some(index) = self.words.iter().position(|word| *word == alone)
                && index > 0
                && self.text(index - 1) == Some(option)
            {
                self.words.drain(index - 1..=index);
            }
        }
    }

    fn let_it_fill_in(&mut self) {
        if !self.runs(FILLS_IN_ITSELF) {
            return;
        }
        for index in 1..self.words.len() {
            if self.text(index - 1) == Some("--header") {
                let filled = self.words[index].iter().map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Variable(name) => format!("${{{name}}}"),
                });
                self.words[index] = vec![Piece::Text(filled.collect())];
            }
        }
    }

    /// The shell expands the variables when it becomes the server: the values are in no file, but still on its command line.
    fn wrap(&mut self) -> BTreeSet<String> {
        let variable = |piece: &Piece| if let Piece::Variable(name) = piece { Some(name.clone()) } else { None };
        let exposed: BTreeSet<String> = self.words.iter().flatten().filter_map(variable).collect();
        if exposed.is_empty() {
            return exposed;
        }
        // What the client fills in must not become a part of a script: it is handed over beside it.
        let mut beside: Vec<String> = Vec::new();
        let mut word = |pieces: &[Piece]| {
            let part = |piece: &Piece| match piece {
                Piece::Text(text) if is_filled_in(text) => {
                    beside.push(text.clone());
                    if beside.len() < 10 { format!("\"${}\"", beside.len()) } else { format!("\"${{{}}}\"", beside.len()) }
                }
                Piece::Text(text) => quoted(text),
                Piece::Variable(name) => format!("\"${name}\""),
            };
            pieces.iter().map(part).collect::<String>()
        };
        let mut script = format!("exec {}", word(&[Piece::Text(self.program.clone())]));
        for pieces in &self.words {
            script.push(' ');
            script.push_str(&word(pieces));
        }
        let name = if beside.is_empty() { Vec::new() } else { vec!["sh".to_owned()] };
        let words = [vec!["-c".to_owned(), script], name, beside].concat();
        *self = Self::new("/bin/sh", &words);
        exposed
    }
}

/// The name that a known server reads in place of this option.
pub fn equivalent(program: &str, words: &[String], option: &str) -> Option<&'static str> {
    let line = Line::new(program, words);
    EQUIVALENTS.iter().find(|(package, known, _)| *known == option && line.runs(package)).map(|(_, _, variable)| *variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Line {
        let pieces = |word: &&str| match word.split_once("$$") {
            Some((start, variable)) => [Piece::Text(start.into()), Piece::Variable(variable.into())]
                .into_iter()
                .filter(|piece| *piece != Piece::Text(String::new()))
                .collect(),
            None => vec![Piece::Text((*word).into())],
        };
        Line { program: words[0].into(), words: words[1..].iter().map(pieces).collect() }
    }

    #[track_caller]
    fn settles(words: &[&str], expected: &[&str], exposed: &[&str]) {
        let mut line = line(words);
        let shown: Vec<_> = line.settle(true).into_iter().collect();
        assert_eq!(
            (line.texts().as_slice(), shown.as_slice()),
            (
                expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice(),
                exposed.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice()
            )
        );
    }

    #[test]
    fn variables_leave_the_command_line_where_they_can() {
        settles(&["docker", "run", "-e", "T=$$T", "image"], &["docker", "run", "-e", "T", "image"], &[]);
        settles(&["docker", "run", "--env=T=$$T", "image"], &["docker", "run", "--env=T", "image"], &[]);
        settles(&["env", "A=1", "T=$$T", "npx", "x"], &["env", "A=1", "npx", "x"], &[]);
        settles(
            &["npx", "-y", "@stripe/mcp", "--tools=all", "--api-key=$$STRIPE_SECRET_KEY"],
            &["npx", "-y", "@stripe/mcp", "--tools=all"],
            &[],
        );
        settles(
            &["npx", "@upstash/context7-mcp@latest", "--api-key", "$$CONTEXT7_API_KEY"],
            &["npx", "@upstash/context7-mcp@latest"],
            &[],
        );
        settles(
            &["npx", "mcp-remote", "https://h/sse", "--header", "Authorization: Bearer $$T"],
            &["npx", "mcp-remote", "https://h/sse", "--header", "Authorization: Bearer ${T}"],
            &[],
        );
    }

    #[test]
    fn a_shell_fills_in_what_the_server_reads_nowhere_else() {
        settles(&["npx", "-y", "pg", "$$URL"], &["/bin/sh", "-c", "exec npx -y pg \"$URL\""], &["URL"]);
        settles(&["x", "it's", "--k=$$K"], &["/bin/sh", "-c", "exec x 'it'\\''s' --k=\"$K\""], &["K"]);
        settles(
            &["x", "${workspaceFolder}", "$$K"],
            &["/bin/sh", "-c", "exec x \"$1\" \"$K\"", "sh", "${workspaceFolder}"],
            &["K"],
        );
        settles(&["docker", "run", "-e", "T=$$T_2", "i"], &["/bin/sh", "-c", "exec docker run -e T=\"$T_2\" i"], &["T_2"]);
    }
}

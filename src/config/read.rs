//! Walks the parsed tree. A [`Section`] knows its keys and says of each mistake what to write instead.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    duration::duration,
    file::Document,
    pasted::{looks_like_a_value, may_be_shown},
    problem::Severity,
    spelling::nearest,
};
use crate::name::BadName;

/// A key that a section may hold.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// A right value, as it stands in a file; or a whole line, where the key does not stand before ` = `.
    pub example: &'static str,
}

pub(super) const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

/// A key that is known and not allowed: the reason, and what to write instead.
pub(super) struct Refused {
    pub name: &'static str,
    /// The key that it stands for, if one does: its absence is then no second mistake.
    pub means: &'static str,
    pub why: &'static str,
    pub instead: &'static str,
}

/// One table of a file.
pub(super) struct Section<'a> {
    pub doc: &'a Document<'a>,
    table: &'a DeTable<'a>,
    keys: &'static [Key],
    /// Known keys that were written wrongly.
    meant: Vec<&'static str>,
    /// Is this the whole file?
    top: bool,
    /// As messages name it: `[tool.billing]`.
    pub title: String,
    /// Of its header.
    pub line: usize,
}

/// A table found under a name of its own, before its keys are checked.
pub(super) struct Named<'a, N> {
    pub name: N,
    pub line: usize,
    value: &'a DeValue<'a>,
    pub doc: &'a Document<'a>,
}

impl<'a> Section<'a> {
    /// Takes a table, and reports keys that it may not have.
    pub fn new(
        doc: &'a Document<'a>,
        table: &'a DeTable<'a>,
        line: usize,
        title: String,
        keys: &'static [Key],
        refused: &[Refused],
    ) -> Self {
        let mut section = Self { doc, table, keys, meant: Vec::new(), top: false, title, line };
        for (found, value) in table {
            let line = doc.line(found.span().start);
            let (found, value) = (found.get_ref().as_ref(), value.get_ref());
            if keys.iter().any(|key| key.name == found) {
                continue;
            }
            // A table where a text is refused is a name that was not quoted: [secret.github.token].
            match refused.iter().find(|key| key.name == found && (key.means.is_empty() || !value.is_table())) {
                Some(key) => {
                    section.error(line, format!("`{found}` in {}: {}", section.title, key.why), key.instead);
                    section.meant.push(key.means);
                }
                None => section.unknown(found, line, value),
            }
        }
        section
    }

    /// The root of a file.
    pub fn top(doc: &'a Document<'a>, tree: &'a DeTable<'a>, title: &str, keys: &'static [Key], refused: &[Refused]) -> Self {
        Self { top: true, ..Self::new(doc, tree, 1, title.into(), keys, refused) }
    }

    fn unknown(&mut self, found: &str, line: usize, value: &DeValue<'_>) {
        let shown =
            if may_be_shown(found) { format!("unknown key `{found}`") } else { "an unknown key (not repeated here)".into() };
        let names: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        let instead = match (nearest(found, names.iter().copied()), names.as_slice()) {
            (Some(name), _) => {
                self.meant.push(self.keys.iter().find(|key| key.name == name).map_or("", |key| key.name));
                self.example(name)
            }
            (None, _) if value.is_table() => "a name that holds `.` or `/` in quotes: \"stripe/api-key\"".into(),
            (None, [only]) => format!("nothing: the only key here is `{only}`"),
            (None, _) => format!("one of: {}", names.join(", ")),
        };
        self.error(line, format!("{shown} in {}", self.title), instead);
    }

    fn example(&self, name: &str) -> String {
        let example = self.keys.iter().find(|key| key.name == name).map_or("", |key| key.example);
        let whole_line = example.trim_start_matches('[').starts_with(name);
        if whole_line { example.into() } else { format!("{name} = {example}") }
    }

    pub fn error(&self, line: usize, what: impl Into<String>, instead: impl Into<String>) {
        self.doc.add(Severity::Error, line, what, instead);
    }

    pub fn warn(&self, line: usize, what: impl Into<String>, instead: impl Into<String>) {
        self.doc.add(Severity::Warning, line, what, instead);
    }

    /// Where the key stands; where it is absent, the section's own line.
    pub fn line_of(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.line, |(key, _)| self.doc.line(key.span().start))
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports the value of a key, with the key's example as the remedy.
    pub fn reject(&self, key: &str, why: impl Display) {
        self.reject_for(key, why, self.example(key));
    }

    pub fn reject_for(&self, key: &str, why: impl Display, instead: impl Into<String>) {
        self.error(self.line_of(key), format!("`{key}` in {} {why}", self.title), instead);
    }

    /// Reports a key that must be there and is not.
    pub fn missing(&self, key: &str) {
        if !self.meant.contains(&key) {
            self.error(self.line, format!("`{key}` is missing from {}", self.title), self.example(key));
        }
    }

    /// Reports each of these keys that is not there.
    pub fn require(&self, keys: &[&str]) {
        keys.iter().filter(|key| !self.has(key)).for_each(|key| self.missing(key));
    }

    /// Was a key written wrongly that should have been another?
    pub fn misspelt(&self) -> bool {
        !self.meant.is_empty()
    }

    fn value(&self, key: &str) -> Option<&'a DeValue<'a>> {
        debug_assert!(self.keys.iter().any(|known| known.name == key), "{key} is read and not known");
        self.table.get(key).map(|value| value.get_ref())
    }

    fn typed<T>(&self, key: &str, wanted: &str, take: impl FnOnce(&'a DeValue<'a>) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let taken = take(value);
        if taken.is_none() {
            self.reject(key, format_args!("must be {wanted}, not {}", kind(value)));
        }
        taken
    }

    /// Text that is not empty and holds no control characters.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        let text = self.typed(key, "a text", |value| value.as_str())?;
        if text.trim().is_empty() {
            self.reject(key, "is empty");
            return None;
        }
        if text.chars().any(char::is_control) {
            self.reject(key, "holds a control character");
            return None;
        }
        Some(text)
    }

    /// Text or a whole number, as text: an account by name or by number.
    pub fn text_or_number(&self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
            _ => self.text(key),
        }
    }

    /// Text, made into something. What `parse` answers in place of it must not repeat the text.
    pub fn parsed<T, E: Display>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        parse(self.text(key)?).map_err(|why| self.reject(key, why)).ok()
    }

    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let nearest = nearest(text, choices.iter().map(|(word, _)| *word));
            let instead = match (nearest, words.split_last()) {
                (None, Some((last, others))) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
                (nearest, _) => format!("\"{}\"", nearest.unwrap_or_default()),
            };
            self.reject_for(key, "is not a known word", format!("{key} = {instead}"));
        }
        found.map(|(_, choice)| *choice)
    }

    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", |value| value.as_bool())
    }

    /// A whole number from 1 to `most`.
    pub fn count(&self, key: &str, most: u64) -> Option<u64> {
        let number = self.typed(key, "a whole number", |value| value.as_integer())?;
        let number = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
        match u64::try_from(number) {
            Ok(0) => self.reject(key, "must be at least 1"),
            Ok(number) if number <= most => return Some(number),
            Ok(_) => self.reject(key, format_args!("is more than {most}")),
            Err(_) if number < 0 => self.reject(key, "must be at least 1"),
            Err(_) => self.reject(key, format_args!("is more than {most}")),
        }
        None
    }

    pub fn count32(&self, key: &str, most: u32) -> Option<u32> {
        self.count(key, most.into()).and_then(|count| count.try_into().ok())
    }

    /// Texts in a list, each made into something. An empty list is one; what `parse` answers in place of an item must not repeat it.
    pub fn list<T, E: Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        self.items(key, "a list of texts", |item| match item.as_str() {
            Some(text) => parse(text).map_err(|why| self.reject(key, format_args!("holds an item that {why}"))).ok(),
            None => {
                self.reject(key, format_args!("must be a list of texts, and holds {}", kind(item)));
                None
            }
        })
    }

    /// A list that is not empty, whatever is in it; or something else, which is reported where it is read.
    pub fn is_list_with_items(&self, key: &str) -> bool {
        self.value(key).and_then(|value| value.as_array()).is_none_or(|list| list.iter().next().is_some())
    }

    /// Whole numbers from 1 to `most` in a list.
    pub fn numbers(&self, key: &str, most: u64) -> Option<Vec<u64>> {
        self.items(key, "a list of whole numbers", |item| {
            let number = item.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
            let number = number.filter(|number| (1..=most).contains(number));
            if number.is_none() {
                self.reject(key, format_args!("must be a list of whole numbers from 1 to {most}"));
            }
            number
        })
    }

    /// `None` where anything in the list is wrong.
    fn items<T>(&self, key: &str, wanted: &str, take: impl Fn(&'a DeValue<'a>) -> Option<T>) -> Option<Vec<T>> {
        let list = self.typed(key, wanted, |value| value.as_array())?;
        let taken: Vec<_> = list.iter().map(|item| take(item.get_ref())).collect();
        taken.into_iter().collect()
    }

    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.parsed(key, duration)
    }

    /// The daemon's working directory is `/` at one time and a shell's at another, so a path must not depend on it.
    pub fn absolute_path(&self, key: &str) -> Option<PathBuf> {
        self.parsed(key, |text| if text.starts_with('/') { Ok(text.into()) } else { Err("must be an absolute path") })
    }

    /// A table inside this one.
    pub fn section(&self, key: &str, keys: &'static [Key], refused: &[Refused]) -> Option<Section<'a>> {
        let table = self.typed(key, "a table", |value| value.as_table())?;
        Some(Section::new(self.doc, table, self.line_of(key), self.title_of(key), keys, refused))
    }

    /// Texts under names of their own; a number or a truth value counts as its text.
    pub fn texts(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let table = self.typed(key, "a table", |value| value.as_table())?;
        let mut texts = BTreeMap::new();
        for (name, value) in table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Boolean(truth) => truth.to_string(),
                other => {
                    self.reject(key, format_args!("must hold texts, and holds {}", kind(other)));
                    return None;
                }
            };
            texts.insert(name.get_ref().to_string(), text);
        }
        Some(texts)
    }

    /// Tables in a list.
    pub fn sections(&self, key: &str, keys: &'static [Key]) -> Option<Vec<Section<'a>>> {
        let list = self.typed(key, "a list of tables", |value| value.as_array())?;
        let mut sections = Vec::new();
        for item in list.iter() {
            let line = self.doc.line(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section::new(self.doc, table, line, self.title_of(key), keys, &[]));
                }
                None => self.reject(key, format_args!("must be a list of tables, and holds {}", kind(item.get_ref()))),
            }
        }
        Some(sections)
    }

    /// Tables under names of their own.
    pub fn named<N: FromStr<Err = BadName>>(&self, key: &str, rule: &str) -> Vec<Named<'a, N>> {
        let table = self.typed(key, "a table", |value| value.as_table());
        let mut all = Vec::new();
        for (found, value) in table.into_iter().flatten() {
            let line = self.doc.line(found.span().start);
            let text = found.get_ref().as_ref();
            match text.parse() {
                Ok(_) if looks_like_a_value(text) => {
                    let what = format!("{}: a name looks like a credential, and is not repeated here", self.title_of(key));
                    self.error(line, what, format!("{rule}. If it is a credential, rotate it: it has been in a file"));
                }
                Ok(name) => all.push(Named { name, line, value: value.get_ref(), doc: self.doc }),
                Err(bad) => self.error(line, format!("{}: {bad}", self.title_of(key)), rule),
            }
        }
        all.sort_by_key(|named: &Named<'_, N>| named.line);
        all
    }

    fn title_of(&self, key: &str) -> String {
        if self.top { format!("[{key}]") } else { format!("`{key}` of {}", self.title) }
    }
}

impl<'a, N> Named<'a, N> {
    /// The text of one key, before it is known which others may stand beside it.
    pub fn peek(&self, key: &str) -> Option<&'a str> {
        self.value.as_table()?.get(key)?.get_ref().as_str()
    }

    pub fn open(&self, title: String, example: &str, keys: &'static [Key], refused: &[Refused]) -> Option<Section<'a>> {
        let table = self.table(&title, example)?;
        Some(Section::new(self.doc, table, self.line, title, keys, refused))
    }

    /// Without a look at the other keys.
    pub fn open_unchecked(&self, title: String, example: &str, keys: &'static [Key]) -> Option<Section<'a>> {
        let table = self.table(&title, example)?;
        Some(Section { doc: self.doc, table, keys, meant: Vec::new(), top: false, title, line: self.line })
    }

    fn table(&self, title: &str, example: &str) -> Option<&'a DeTable<'a>> {
        let table = self.value.as_table();
        if table.is_none() {
            let what = format!("{title} must be a table, not {}", kind(self.value));
            self.doc.add(Severity::Error, self.line, what, example);
        }
        table
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

//! The files of MCP clients: JSON, in some clients with comments and trailing commas. Each value knows where it stands, so that a
//! change touches its own bytes and no others.

use std::ops::Range;

use jsonc_parser::{CollectOptions, ParseOptions, ast, common::Ranged, parse_to_ast};

/// A value and the bytes that it takes.
#[derive(Clone)]
pub struct Value {
    pub range: Range<usize>,
    pub kind: Kind,
}

#[derive(Clone)]
pub enum Kind {
    Text(String),
    /// A number, `true`, `false` or `null`, as it stands.
    Word(String),
    List(Vec<Value>),
    Table(Vec<Member>),
}

/// A name and its value.
#[derive(Clone)]
pub struct Member {
    pub name: String,
    pub range: Range<usize>,
    pub value: Value,
}

/// Why a text is not one: where, and what. Nothing of the text is repeated.
#[derive(Debug)]
pub struct NotJson {
    pub line: usize,
    pub column: usize,
    pub what: String,
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        if let Kind::Text(text) = &self.kind { Some(text) } else { None }
    }

    pub fn list(&self) -> Option<&[Value]> {
        if let Kind::List(list) = &self.kind { Some(list) } else { None }
    }

    pub fn table(&self) -> Option<&[Member]> {
        if let Kind::Table(members) = &self.kind { Some(members) } else { None }
    }

    /// The member of that name, of a table.
    pub fn get(&self, name: &str) -> Option<&Member> {
        self.table()?.iter().find(|member| member.name == name)
    }
}

/// Reads what clients read: JSON, with comments and trailing commas let pass.
pub fn parse(text: &str) -> Result<Value, NotJson> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options).map_err(|error| NotJson {
        line: error.line_display(),
        column: error.column_display(),
        what: error.kind().to_string(),
    })?;
    let missing = || NotJson { line: 1, column: 1, what: "nothing is in it".into() };
    parsed.value.map(value).ok_or_else(missing)
}

fn value(from: ast::Value<'_>) -> Value {
    let range = from.start()..from.end();
    let kind = match from {
        ast::Value::StringLit(text) => Kind::Text(text.value.into_owned()),
        ast::Value::NumberLit(number) => Kind::Word(number.value.into()),
        ast::Value::BooleanLit(boolean) => Kind::Word(boolean.value.to_string()),
        ast::Value::NullKeyword(_) => Kind::Word("null".into()),
        ast::Value::Array(array) => Kind::List(array.elements.into_iter().map(value).collect()),
        ast::Value::Object(object) => Kind::Table(object.properties.into_iter().map(member).collect()),
    };
    Value { range, kind }
}

fn member(from: ast::ObjectProp<'_>) -> Member {
    let range = from.start()..from.end();
    Member { name: from.name.into_string(), range, value: value(from.value) }
}

/// Text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Texts as a JSON list on one line.
pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// The line, from 1, in which a byte stands.
pub fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// What stands between values: the end of white space and comments that begin here.
fn past_blanks(text: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        let length = match trimmed {
            t if t.starts_with("//") => t.find('\n').unwrap_or(t.len()),
            t if t.starts_with("/*") => t.find("*/").map_or(t.len(), |end| end + 2),
            _ => return at,
        };
        at += length;
    }
}

fn comma_after(text: &str, end: usize) -> Option<usize> {
    let at = past_blanks(text, end);
    text[at..].starts_with(',').then_some(at)
}

/// The cuts that take members out of a table, with their commas, and with their lines where they have lines of their own. What is left
/// has a trailing comma only if the table had one.
pub fn cuts(text: &str, members: &[Member], goes: impl Fn(&Member) -> bool) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    for member in members.iter().filter(|member| goes(member)) {
        let comma = comma_after(text, member.range.end);
        cuts.push(with_its_line(text, member.range.start, comma.map_or(member.range.end, |comma| comma + 1)));
    }
    let last_went = members.last().is_some_and(&goes);
    let had_trailing = members.last().is_some_and(|last| comma_after(text, last.range.end).is_some());
    if last_went
        && !had_trailing
        && let Some(left) = members.iter().rev().find(|member| !goes(member))
        && let Some(comma) = comma_after(text, left.range.end)
    {
        cuts.push(comma..comma + 1);
    }
    cuts
}

/// Widens a cut to the whole line where nothing else stands in it but a comment at its end.
fn with_its_line(text: &str, start: usize, end: usize) -> Range<usize> {
    let before = &text[..start];
    let indent = before.trim_end_matches([' ', '\t']);
    let rest = &text[end..];
    let line = rest.find('\n').map_or(rest, |at| &rest[..at]);
    let tail = line.trim();
    let alone = tail.is_empty() || tail.starts_with("//") || (tail.starts_with("/*") && tail.find("*/") == Some(tail.len() - 2));
    if indent.ends_with('\n') && alone && line.len() < rest.len() {
        return indent.len()..end + line.len() + 1;
    }
    // On a line with others: the space before it goes with it, if it does not then stand alone.
    if tail.is_empty() || tail.starts_with(['}', ']', ',']) {
        indent.len()..end
    } else {
        start..end + rest.len() - rest.trim_start().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, names: &[&str]) -> String {
        let value = parse(text).unwrap();
        let mut cuts = cuts(text, value.table().unwrap(), |member| names.contains(&member.name.as_str()));
        cuts.sort_by_key(|cut| std::cmp::Reverse(cut.start));
        let mut left = text.to_owned();
        cuts.into_iter().for_each(|cut| left.replace_range(cut, ""));
        left
    }

    #[test]
    fn members_go_with_their_commas_and_lines() {
        assert_eq!(without(r#"{"a": 1, "b": 2, "c": 3}"#, &["a"]), r#"{"b": 2, "c": 3}"#);
        assert_eq!(without(r#"{"a": 1, "b": 2, "c": 3}"#, &["b"]), r#"{"a": 1, "c": 3}"#);
        assert_eq!(without(r#"{"a": 1, "b": 2, "c": 3}"#, &["c"]), r#"{"a": 1, "b": 2}"#);
        assert_eq!(without(r#"{"a":1,"b":2,"c":3}"#, &["b", "c"]), r#"{"a":1}"#);
        assert_eq!(without("{\n  \"a\": 1, // one\n  \"b\": 2 // two\n}", &["b"]), "{\n  \"a\": 1 // one\n}");
        assert_eq!(without("{\r\n\t\"a\": 1,\r\n\t\"b\": 2,\r\n}", &["a"]), "{\r\n\t\"b\": 2,\r\n}");
        assert_eq!(without("{\n  \"a\": 1,\n  \"b\": 2,\n}", &["b"]), "{\n  \"a\": 1,\n}");
        assert_eq!(
            without("{\n  \"a\": 1 /* , */ ,\n  // \"b\"\n  \"b\": 2\n}", &["b"]),
            "{\n  \"a\": 1 /* , */ \n  // \"b\"\n}"
        );
        assert_eq!(without("{ \"a\": {\"x\": 1},\n  \"b\": 2, \"c\": 3 }", &["b", "c"]), "{ \"a\": {\"x\": 1}\n  }");
    }

    #[test]
    fn whatever_goes_the_rest_is_json() {
        for text in [
            "{\"a\":1,\"b\":2,\"c\":3}",
            "{ \"a\" : 1 , \"b\" : 2 , \"c\" : 3 , }",
            "{\n\"a\":1,\n\n\"b\":2 /* x */, // y\n\"c\":3\n}",
            "{\n  \"a\": 1\n  , \"b\": 2\n  , \"c\": 3\n}\n",
            "{//\n\"a\":/*1*/1/*2*/,/*3*/\"b\":2/*4*/,/*5*/\"c\":3/*6*/}",
            "{\r\n  \"a\": 1,\r\n  \"b\": \"\\\"}//,\",\r\n  \"c\": 3\r\n}",
        ] {
            for bits in 0..8 {
                let names: Vec<_> =
                    ["a", "b", "c"].into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, n)| n).collect();
                let left = without(text, &names);
                let value = parse(&left).unwrap_or_else(|bad| panic!("{left:?}: {bad:?}"));
                let names_left: Vec<_> = value.table().unwrap().iter().map(|member| member.name.as_str()).collect();
                let expected: Vec<_> = ["a", "b", "c"].into_iter().filter(|name| !names.contains(name)).collect();
                assert_eq!(names_left, expected, "{left:?}");
                if !text.contains(", }") {
                    assert!(!regex_trailing(&left), "a trailing comma came: {left:?}");
                }
            }
        }
    }

    fn regex_trailing(text: &str) -> bool {
        let options = ParseOptions { allow_trailing_commas: false, ..ParseOptions::default() };
        parse_to_ast(text, &CollectOptions::default(), &options).is_err()
    }
}

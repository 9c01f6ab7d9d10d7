//! One leaf out of a JSON secret, read where it lies: nothing but the leaf is ever copied, and that straight into protected memory.
//!
//! `serde_json` judges the syntax and says where a value ends; a [`Json`] is then a stretch of the text itself, so a number is
//! given out exactly as it was written (`1.10`, or an account number of 25 digits) and an object without being rebuilt.

use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::{Cause, SourceError};
use crate::secret::SecretValue;

/// The value of a secret: the whole of it, or one leaf where `field` is given. Never an empty one, which is what a secret that was
/// made but never filled looks like, and what some programs take for "no password needed".
pub(super) fn pick(secret: &[u8], field: Option<&str>) -> Result<SecretValue, SourceError> {
    let value = match field {
        None => SecretValue::copy_from(secret)?,
        Some(field) => leaf_of(secret, field)?,
    };
    match value.is_empty() {
        true => Err(bad(field, "is empty")),
        false => Ok(value),
    }
}

/// The whole secret with another value in the place of one leaf; everything else stays as it is written. Where there is no leaf of that
/// name there is nothing to replace: a new field would be a guess.
pub(super) fn replaced(secret: &[u8], field: &str, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let leaf = find(secret, field)?;
    if matches!(leaf.kind(), "an object" | "an array" | "null") {
        return Err(bad(Some(field), &format!("is {}, not a text, a number or a boolean", leaf.kind())));
    }
    let start = leaf.text().as_ptr() as usize - secret.as_ptr() as usize;
    let end = start + leaf.text().len();
    let stays_bare = leaf.kind() == "a number" && Json::parse(value).is_some_and(|new| new.kind() == "a number");
    let text = if stays_bare { Zeroizing::new(value.to_vec()) } else { quoted(value)? };
    let mut whole = Zeroizing::new(Vec::with_capacity(secret.len() - (end - start) + text.len()));
    whole.extend_from_slice(&secret[..start]);
    whole.extend_from_slice(&text);
    whole.extend_from_slice(&secret[end..]);
    Ok(whole)
}

/// A text as JSON writes it, in a buffer that is large enough from the start.
pub(crate) fn quoted(value: &[u8]) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let text = std::str::from_utf8(value).map_err(|_| bad(None, "is no text, and JSON holds only texts"))?;
    let mut written = Zeroizing::new(Vec::with_capacity(value.len() * 6 + 2));
    serde_json::to_writer(&mut *written, text).map_err(|_| bad(None, "cannot be written as JSON"))?;
    Ok(written)
}

fn leaf_of(secret: &[u8], field: &str) -> Result<SecretValue, SourceError> {
    let at = find(secret, field)?;
    at.leaf().ok_or_else(|| bad(Some(field), &format!("is {}, not a text, a number or a boolean", at.kind())))?
}

fn find<'a>(secret: &'a [u8], field: &str) -> Result<Json<'a>, SourceError> {
    let mut at =
        Json::parse(secret).ok_or_else(|| bad(None, "is not JSON, so no field can be taken from it: leave out `field`"))?;
    let whole = [field.to_owned()];
    let steps = match field.strip_prefix('/') {
        None => whole.to_vec(),
        Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
    };
    for step in &steps {
        at = at.get(step).map_err(|problem| bad(Some(field), problem))?.ok_or_else(|| bad(Some(field), "is not in it"))?;
    }
    Ok(at)
}

fn bad(field: Option<&str>, problem: &str) -> SourceError {
    let what = field.map_or("the value".into(), |field| format!("the field `{field}`"));
    SourceError::new(Cause::BadField, format!("{what} {problem}"))
}

/// A well-formed JSON value, as a stretch of the text it was found in.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a>(&'a [u8]);

impl<'a> Json<'a> {
    /// The one value that a text holds, if it is well-formed to its end.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (value, rest) = Self::first(text)?;
        rest.trim_ascii_start().is_empty().then_some(value)
    }

    /// The value at the start of a text, and what follows it. The depth is not limited and costs no stack.
    fn first(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let text = text.trim_ascii_start();
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let (value, rest) = text.split_at(values.byte_offset());
        Some((Self(value), rest))
    }

    /// The text itself.
    pub(crate) fn text(self) -> &'a [u8] {
        self.0
    }

    /// What kind of thing it is, in words that say nothing of its content.
    pub(crate) fn kind(self) -> &'static str {
        match self.0.first() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'n') => "null",
            Some(b'"') => "a text",
            Some(b't' | b'f') => "a boolean",
            _ => "a number",
        }
    }

    /// The members of an object or the elements of an array (which have no key).
    pub(crate) fn members(self) -> impl Iterator<Item = (Option<Json<'a>>, Json<'a>)> {
        let keyed = self.0.first() == Some(&b'{');
        let mut rest = match self.0 {
            [b'{' | b'[', inside @ .., _] => inside,
            _ => &[],
        };
        std::iter::from_fn(move || {
            let mut key = None;
            if keyed {
                let (text, after) = Self::first(rest)?;
                key = Some(text);
                rest = after.trim_ascii_start().strip_prefix(b":")?;
            }
            let (value, after) = Self::first(rest)?;
            let after = after.trim_ascii_start();
            rest = after.strip_prefix(b",").unwrap_or(after);
            Some((key, value))
        })
    }

    /// The member of an object, or the element of an array, that one step of a pointer names (RFC 6901, section 4).
    pub(crate) fn get(self, step: &str) -> Result<Option<Json<'a>>, &'static str> {
        if self.0.first() == Some(&b'[') {
            let canonical = step == "0" || !step.starts_with(['0', '+']);
            let index = step.parse().ok().filter(|_| canonical);
            return Ok(index.and_then(|index: usize| self.members().nth(index)).map(|(_, value)| value));
        }
        let mut named = self.members().filter(|(key, _)| key.is_some_and(|key| key.is(step)));
        let found = named.next();
        match named.next() {
            // Programs differ in which of the two they take: better none than another one than the operator's.
            Some(_) => Err("is in it twice"),
            None => Ok(found.map(|(_, value)| value)),
        }
    }

    /// As [`Json::get`], for JSON of which we know the shape.
    pub(crate) fn at(self, key: &str) -> Option<Json<'a>> {
        self.get(key).ok().flatten()
    }

    /// Is this the text `wanted`?
    pub(crate) fn is(self, wanted: &str) -> bool {
        match self.inside() {
            Some(inside) if !inside.contains(&b'\\') => inside == wanted.as_bytes(),
            Some(inside) => unescape(inside).is_some_and(|text| *text == wanted.as_bytes()),
            None => false,
        }
    }

    /// What `judge` says of a text; false of everything else.
    pub(crate) fn text_is(self, judge: impl FnOnce(&str) -> bool) -> bool {
        let plain = self.inside().and_then(unescape);
        plain.is_some_and(|plain| std::str::from_utf8(&plain).is_ok_and(judge))
    }

    /// The bytes of a text, or the JSON text of a number or a boolean. `None` for everything else.
    pub(crate) fn leaf(self) -> Option<Result<SecretValue, SourceError>> {
        let broken = || bad(None, "holds half of a \\u pair");
        match (self.0.first(), self.inside()) {
            (Some(b'{' | b'[' | b'n'), _) => None,
            (_, Some(inside)) if inside.contains(&b'\\') => {
                Some(unescape(inside).ok_or_else(broken).and_then(|text| Ok(SecretValue::copy_from(&text)?)))
            }
            (_, inside) => Some(SecretValue::copy_from(inside.unwrap_or(self.0)).map_err(Into::into)),
        }
    }

    /// What stands between the quotes of a text.
    fn inside(self) -> Option<&'a [u8]> {
        self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }
}

/// Undoes the escapes of a text whose syntax has been judged, in a buffer that is large enough from the start (what an escape stands for
/// is never longer than it), so that no outgrown copy stays behind, and that is wiped at the end.
fn unescape(inside: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(inside.len()));
    let mut rest = inside;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        plain.extend_from_slice(&rest[..at]);
        let (escape, after) = rest[at + 1..].split_first()?;
        rest = after;
        match escape {
            b'n' => plain.push(b'\n'),
            b't' => plain.push(b'\t'),
            b'r' => plain.push(b'\r'),
            b'b' => plain.push(8),
            b'f' => plain.push(12),
            b'u' => {
                let unit = utf16_unit(&mut rest)?;
                let character = match unit {
                    0xD800..0xDC00 => {
                        rest = rest.strip_prefix(b"\\u")?;
                        char::decode_utf16([unit, utf16_unit(&mut rest)?]).next()?.ok()?
                    }
                    _ => char::from_u32(unit.into())?,
                };
                plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            itself => plain.push(*itself),
        }
    }
    plain.extend_from_slice(rest);
    Some(plain)
}

fn utf16_unit(rest: &mut &[u8]) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(secret: &str, field: &str) -> Result<String, String> {
        let value = pick(secret.as_bytes(), Some(field)).map_err(|error| error.to_string())?;
        Ok(value.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
    }

    #[test]
    fn a_leaf_is_given_as_it_was_written() {
        let secret = r#" { "key" : "v\"\n\u00e9\ud83d\ude00é", "pin":1.10, "account": 1234567890123456789012345, "on":true,
            "db": {"users": ["a", {"p/w": "deep", "~": "tilde"}]}, "": "no name", "k\u0065y2": "escaped key" } "#;
        for (field, value) in [
            ("key", "v\"\né😀é"),
            ("pin", "1.10"),
            ("account", "1234567890123456789012345"),
            ("on", "true"),
            ("/db/users/0", "a"),
            ("/db/users/1/p~1w", "deep"),
            ("/db/users/1/~0", "tilde"),
            ("/", "no name"),
            ("key2", "escaped key"),
        ] {
            assert_eq!(read(secret, field).as_deref(), Ok(value), "{field}");
        }
    }

    #[test]
    fn what_is_no_leaf_is_named_by_its_kind() {
        let secret = r#"{"o":{"x":"marker"},"a":["marker"],"n":null,"e":"","d":"marker1","d":"marker2","s":"\ud800 marker"}"#;
        for (field, words) in [
            ("o", "is an object"),
            ("a", "is an array"),
            ("n", "is null"),
            ("e", "is empty"),
            ("d", "twice"),
            ("s", "half of a"),
            ("x", "is not in it"),
            ("/a/1", "is not in it"),
            ("/a/00", "is not in it"),
            ("/a/+0", "is not in it"),
            ("/a/-", "is not in it"),
            ("/o/x/y", "is not in it"),
        ] {
            let error = read(secret, field).unwrap_err();
            assert!(error.starts_with("bad field: ") && error.contains(words) && !error.contains("marker"), "{field}: {error}");
        }
        for broken in ["marker", "", "{\"marker\":", "{\"o\":\"marker\"} x", "{\"o\":\"marker\",}", "{\"o\":\"a\nb\"}"] {
            let error = read(broken, "o").unwrap_err();
            assert!(error.contains("is not JSON") && !error.contains("marker"), "{error}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let secret = format!("{{\"a\":{}{},\"b\":\"x\"}}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(read(&secret, "b").as_deref(), Ok("x"));
    }

    #[test]
    fn a_leaf_is_replaced_and_all_else_stays() {
        let secret = r#"{ "a": 1.10, "k": {"p/w": "old", "n": 7}, "z":null }"#;
        let replace = |field: &str, value: &str| {
            replaced(secret.as_bytes(), field, value.as_bytes()).map(|whole| String::from_utf8(whole.to_vec()).unwrap())
        };
        assert_eq!(replace("/k/p~1w", "n\"ew").unwrap(), r#"{ "a": 1.10, "k": {"p/w": "n\"ew", "n": 7}, "z":null }"#);
        assert_eq!(replace("/k/n", "8").unwrap(), r#"{ "a": 1.10, "k": {"p/w": "old", "n": 8}, "z":null }"#);
        assert_eq!(replace("a", "x").unwrap(), r#"{ "a": "x", "k": {"p/w": "old", "n": 7}, "z":null }"#);
        for field in ["k", "z", "new"] {
            assert_eq!(replace(field, "x").unwrap_err().cause, Cause::BadField, "{field}");
        }
    }

    proptest! {
        #[test]
        fn a_replaced_leaf_reads_back(value in ".+", other in ".*") {
            let secret = serde_json::json!({ "other": other, "value": "before", "last": [1, {}, null] }).to_string();
            let whole = replaced(secret.as_bytes(), "value", value.as_bytes()).unwrap();
            prop_assert_eq!(read(std::str::from_utf8(&whole).unwrap(), "value"), Ok(value));
        }

        #[test]
        fn every_text_comes_back(value in ".+", other in ".*") {
            let secret = serde_json::json!({ "other": other, "value": &value, "last": [1, {}, null] }).to_string();
            prop_assert_eq!(read(&secret, "value"), Ok(value));
        }

        #[test]
        fn we_judge_texts_as_serde_does(inside in r#"([a-z\\"]|\\u[dD][89abcdef][0-9a-f]{2}|\\[nrtbfu"/]){0,8}"#) {
            let secret = format!("{{\"k\":\"x{inside}\"}}");
            let theirs = serde_json::from_str::<serde_json::Value>(&secret).ok().and_then(|v| Some(v["k"].as_str()?.to_owned()));
            prop_assert_eq!(read(&secret, "k").ok(), theirs);
        }

        #[test]
        fn no_text_makes_it_panic(secret in prop::collection::vec(prop::sample::select(br#"{}[]",:\u01e ."#.to_vec()), 0..40)) {
            let _ = pick(&secret, Some(""));
            let _ = pick(&secret, Some("/0/0"));
        }
    }
}

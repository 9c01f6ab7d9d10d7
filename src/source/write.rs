//! Writing to a source: what rotation needs of it. Every change is check-and-set, so that of two who write at once one wins and the other
//! hears of it; and each can be made again after a crash, with the same result.
//!
//! A new value is *staged* first: kept at the source itself, beside the current one and out of sight of readers, under the token of its
//! rotation. So a value that a system has been told of is never in one process's memory alone, and another host can go on with it. What is
//! staged is the lock too: there is room for one.

use std::time::SystemTime;

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    Cause, SourceError, Wanted, Working,
    field::{self, Json},
};
use crate::{name::Version, secret::SecretValue};

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// Somebody else was first: what was expected to be current is not, or another rotation is under way.
    Conflict,
    Source(SourceError),
}

impl From<SourceError> for WriteError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// What a source has of a secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    pub version: Version,
    /// When that version was made, where the source knows.
    pub created: Option<SystemTime>,
    /// The token of the rotation that is under way, by whomever.
    pub staged: Option<String>,
}

/// One of the values of a secret at its source.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Staged under this token.
    Staged(&'a str),
    Version(&'a Version),
}

/// A source that can be written to. A token is 32 hex digits, made for one rotation and never used again.
///
/// As for [`Source`](super::Source): a future may be dropped at any time. What it had begun may then have happened or not; the same call
/// again finds out.
pub trait Write: Send + Sync {
    /// What is current, and what is staged.
    fn look<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>>;

    /// A value that is, was or will be current.
    fn value<'a>(&'a self, wanted: &'a Wanted, which: Which<'a>) -> Working<'a, Result<SecretValue, SourceError>>;

    /// Keeps a value beside the current one, if `base` is current and nothing is staged.
    fn stage<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<(), WriteError>>;

    /// Makes current what is staged under this token, if `base` is current. It stays locked until it is [tidied](Self::tidy).
    fn promote<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Version, WriteError>>;

    /// Makes a value current in one go, if `base` is.
    fn write<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<Version, WriteError>>;

    /// Makes an earlier version's value current again, if `base` is. The version may be a new one.
    fn restore<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        earlier: &'a Version,
        token: &'a str,
    ) -> Working<'a, Result<Version, WriteError>>;

    /// Removes what a rotation left beside the current value, and with it the lock. Nothing there is nothing to do.
    fn tidy<'a>(&'a self, wanted: &'a Wanted, token: &'a str) -> Working<'a, Result<(), SourceError>>;
}

/// What sources without stages of their own keep beside a secret while it is rotated.
pub(super) struct Beside {
    pub token: String,
    /// What was current when it began.
    pub base: Version,
    pub value: SecretValue,
    /// The value is what was current before, and the new one is current.
    pub promoted: bool,
}

/// The end of the name under which it is kept.
pub const BESIDE: &str = ".valetkey-rotation";

impl Beside {
    /// As a JSON object, in a buffer that leaves no outgrown copy behind.
    pub fn to_json(token: &str, base: &Version, value: &SecretValue, promoted: bool) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let head = format!("{{\"token\":\"{token}\",\"base\":\"{base}\",\"promoted\":{promoted},");
        value.expose(|bytes| {
            let (key, text) = match std::str::from_utf8(bytes) {
                Ok(_) => ("\"value\":", field::quoted(bytes)?),
                Err(_) => {
                    let mut encoded = Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
                    // It is as long as base64 becomes.
                    let _ = BASE64_STANDARD.encode_slice(bytes, &mut encoded);
                    ("\"base64\":", field::quoted(&encoded)?)
                }
            };
            let mut json = Zeroizing::new(Vec::with_capacity(head.len() + key.len() + text.len() + 1));
            json.extend_from_slice(head.as_bytes());
            json.extend_from_slice(key.as_bytes());
            json.extend_from_slice(&text);
            json.push(b'}');
            Ok(json)
        })
    }

    pub fn from_json(json: Json<'_>) -> Result<Self, SourceError> {
        let odd = || SourceError::new(Cause::BadAnswer, "what is kept beside the secret is not of a rotation");
        let text = |key: &str| {
            let leaf = json.at(key)?.leaf()?.ok()?;
            leaf.expose(|bytes| String::from_utf8(bytes.to_vec()).ok())
        };
        let value = match (json.at("value"), json.at("base64")) {
            (Some(value), _) => value.leaf().ok_or_else(odd)??,
            (None, Some(encoded)) => {
                let decoded = encoded.leaf().ok_or_else(odd)??.expose(|text| BASE64_STANDARD.decode(text));
                SecretValue::copy_from_wiping(decoded.map_err(|_| odd())?)?
            }
            (None, None) => return Err(odd()),
        };
        let base = text("base").and_then(|base| base.parse().ok()).ok_or_else(odd)?;
        let promoted = json.at("promoted").ok_or_else(odd)?.text() == b"true";
        Ok(Self { token: text("token").ok_or_else(odd)?, base, value, promoted })
    }
}

/// The whole secret with this value in it: in the place of its field, or as it is.
pub(super) fn with_value(whole: &[u8], wanted: &Wanted, value: &SecretValue) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    value.expose(|value| match &wanted.field {
        Some(field) => field::replaced(whole, field, value),
        None => Ok(Zeroizing::new(value.to_vec())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_beside_a_secret_reads_back() {
        for value in [&b"te\"xt\n"[..], b"\xff\x00binary", "déjà".as_bytes()] {
            let secret = SecretValue::copy_from(value).unwrap();
            let json = Beside::to_json("abc", &Version::from(7), &secret, true).unwrap();
            let read = Beside::from_json(Json::parse(&json).unwrap()).unwrap();
            assert_eq!((read.token.as_str(), &read.base, read.promoted), ("abc", &Version::from(7), true));
            assert!(read.value.same_as(&secret));
        }
        for odd in
            ["{}", "[]", r#"{"token":"a","base":"1","promoted":true}"#, r#"{"token":"a","base":"","promoted":true,"value":"x"}"#]
        {
            assert!(Beside::from_json(Json::parse(odd.as_bytes()).unwrap()).is_err(), "{odd}");
        }
    }
}

//! A source that rotates a secret by itself: it makes the new value, tells the system of it, and says when that is done.

use super::{Cause, SourceError, Wanted, Working, write::Current};
use crate::name::Version;

/// How far a source is with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// The new value is current.
    Done(Version),
    /// It is at it.
    UnderWay,
    /// Another rotation than this one changed the secret.
    Lost,
    /// It does not rotate this secret, and why.
    Never(String),
}

/// As for [`Source`](super::Source), every future may be dropped at any time. What it had begun may then have happened or not; the same call
/// again finds out.
pub trait Rotate: Send + Sync {
    /// What is current, and whether the source is rotating it just now: then `staged` says as what.
    fn standing<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>>;

    /// Has the source rotate it, once for each token, where `base` is current; and says how far it is.
    fn rotate<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Turn, SourceError>>;

    /// Has an engine change the credential by which it works at its system: nobody else knows the new one. A call of which nobody heard the end
    /// may have done it; another does it once more.
    fn rotate_root<'a>(&'a self, _path: &'a RootPath) -> Working<'a, Result<(), SourceError>> {
        Box::pin(async { Err(SourceError::new(Cause::BadField, "it has no engines: only Vault and OpenBao have")) })
    }
}

/// Where an engine's own credential is rotated, as the API of Vault and OpenBao has it: `database/rotate-root/NAME`, `ldap/rotate-root`,
/// `aws/config/rotate-root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPath(String);

impl RootPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RootPath {
    type Err = &'static str;

    /// Nothing but such a path, so that nothing else is ever called in its place.
    fn from_str(path: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "it is not where an engine's own credential is rotated, such as database/rotate-root/NAME or aws/config/rotate-root";
        let parts: Vec<&str> = path.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && !part.bytes().all(|b| b == b'.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let mount = match parts.as_slice() {
            [mount @ .., "config", "rotate-root"] | [mount @ .., "rotate-root"] | [mount @ .., "rotate-root", _] => mount,
            _ => return Err(WRONG),
        };
        // What `sys` and the like have of this name is another matter.
        let engine = mount.first().is_some_and(|first| !["sys", "auth", "identity", "cubbyhole"].contains(first));
        if engine && path.len() <= 512 && parts.iter().all(plain) { Ok(Self(path.into())) } else { Err(WRONG) }
    }
}

#[cfg(test)]
mod tests {
    use super::RootPath;

    #[test]
    fn nothing_but_a_root_is_rotated() {
        for good in ["database/rotate-root/main", "team/db/rotate-root/main", "ldap/rotate-root", "aws/config/rotate-root"] {
            assert_eq!(good.parse::<RootPath>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "rotate-root",
            "rotate-root/x",
            "config/rotate-root/x/y",
            "/database/rotate-root/main",
            "database/rotate-root/",
            "database/rotate-role/app",
            "secret/data/app",
            "sys/rotate-root",
            "database/rotate-root/..",
            "a/../rotate-root/b",
            "database/rotate-root/a?b",
            "database/rotate-root/a%2fb",
            "database//rotate-root",
            "database/rotate-root/a b",
        ] {
            assert!(bad.parse::<RootPath>().is_err(), "{bad}");
        }
    }
}

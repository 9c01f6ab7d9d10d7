//! A source that rotates a secret by itself: it makes the new value, tells the system of it, and says when that is done.

use super::{SourceError, Wanted, Working, write::Current};
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
}

//! Places secrets come from. A new kind of store is one file beside the others here: it implements [`Source`], and
//! `config` gets a constructor for it.

#[cfg(feature = "daemon")]
pub mod aws_secrets_manager;
#[cfg(feature = "daemon")]
pub mod environment;
#[cfg(feature = "daemon")]
mod field;
#[cfg(feature = "daemon")]
mod key_file;
#[cfg(feature = "daemon")]
pub mod sealed_file;
#[cfg(feature = "daemon")]
pub mod vault;

use std::{fmt, future::Future, pin::Pin};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    name::{SecretName, Version},
    secret::{SecretValue, Unprotected},
};

/// One secret that some tool may use, as its source knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub secret: SecretName,
    /// The source's own name for it: a secret id or ARN, a Vault path, a name in the sealed file, an environment variable.
    pub path: String,
    /// One leaf of a JSON secret: a key of the top-level object, or an RFC 6901 pointer where it starts with `/`. Without it the
    /// whole value.
    pub field: Option<String>,
}

/// What a source has for a [`Wanted`].
#[derive(Debug)]
pub struct Fetched {
    pub value: SecretValue,
    pub version: Version,
}

/// Why a source has nothing for a [`Wanted`], in words that carry no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError {
    pub cause: Cause,
    /// For people: what the source said, without anything that came out of a secret, and what to do.
    pub detail: String,
}

impl SourceError {
    /// Words for people, with the kind of failure they tell of.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

/// Kinds of failure. *Refused* and *unreachable* are different events: the first says something about the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The source answers, and has no such secret.
    NotFound,
    /// The source answers, and will not give it: forbidden, deleted, or our login is refused.
    Refused,
    /// The source did not answer, or answered that it cannot now. Trying again can help.
    Unreachable,
    /// There is a secret, but not this field of it, or its value cannot be used.
    BadField,
    /// The source's answer makes no sense to us.
    BadAnswer,
}

impl Cause {
    /// Would the same call help a little later?
    pub fn worth_retrying(self) -> bool {
        matches!(self, Self::Unreachable)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::BadField => "bad field",
            Self::BadAnswer => "bad answer",
        })
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.detail)
    }
}

impl std::error::Error for SourceError {}

impl From<Unprotected> for SourceError {
    fn from(error: Unprotected) -> Self {
        Self { cause: Cause::Unreachable, detail: error.to_string() }
    }
}

/// The outcome for one [`Wanted`], named by its secret.
pub type Outcome = (SecretName, Result<Fetched, SourceError>);

/// Where a source puts its outcomes as they come, so that progress can be shown while it works.
pub type Outcomes = UnboundedSender<Outcome>;

/// A place secrets come from.
pub trait Source: Send + Sync {
    /// As in configuration: `vault`.
    fn kind(&self) -> &'static str;

    /// Reads every wanted secret, in the fewest calls the store allows, and sends exactly one outcome for each. Secrets that
    /// share a path are read with one call. Never panics, never logs a value. Buffers are dropped when the future ends, and
    /// connections closed with it.
    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

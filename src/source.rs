//! Places secrets come from. A new kind of store is one file beside the others here: it implements [`Source`], and
//! `config` gets a constructor for it.

#[cfg(feature = "daemon")]
pub mod aws;
#[cfg(feature = "aws-parameter-store")]
pub mod aws_parameter_store;
#[cfg(feature = "daemon")]
pub mod aws_secrets_manager;
#[cfg(feature = "daemon")]
pub mod aws_sts;
#[cfg(feature = "daemon")]
mod calls;
#[cfg(feature = "daemon")]
pub(crate) mod directory;
#[cfg(feature = "daemon")]
pub mod environment;
#[cfg(feature = "daemon")]
pub(crate) mod field;
#[cfg(feature = "daemon")]
pub(crate) mod key_file;
#[cfg(feature = "daemon")]
pub mod lend;
#[cfg(feature = "daemon")]
pub(crate) mod other_end;
#[cfg(feature = "daemon")]
pub mod rotate;
#[cfg(feature = "daemon")]
pub mod sealed_file;
#[cfg(feature = "daemon")]
pub mod vault;
#[cfg(feature = "daemon")]
pub mod write;

use std::{
    fmt,
    future::{Future, pending, ready},
    pin::Pin,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc::UnboundedSender;

#[cfg(feature = "daemon")]
pub use self::calls::{Calls, Counts};

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
    /// Which of the source's versions, where it keeps several under labels of its own: `AWSPREVIOUS`. Without it the current one.
    pub stage: Option<String>,
}

/// A [`Wanted`] of which a version is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub wanted: Wanted,
    pub version: Version,
}

/// What a source has for a [`Wanted`].
#[derive(Debug)]
pub struct Fetched {
    pub value: SecretValue,
    pub version: Version,
    /// It must be checked again within this time, because it is lent and its lease runs out. `None`: whenever.
    pub check_within: Option<Duration>,
}

/// What a check found out about a [`Known`].
#[derive(Debug)]
pub enum Checked {
    /// The version that is known is what the source has. To be checked again within the time, as for [`Fetched`].
    Same { check_within: Option<Duration> },
    /// What the source has now. It may be the same again, where telling costs as much as reading.
    Read(Fetched),
}

/// How a source proves itself to its store, for operators. No part of it is a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFacts {
    /// As in configuration: `approle`.
    pub method: &'static str,
    /// When what the store gave runs out. `None`: never, or not known.
    pub expires: Option<SystemTime>,
    /// When it will be renewed or replaced.
    pub renews: Option<SystemTime>,
    /// Why there is none now.
    pub problem: Option<SourceError>,
}

/// A future in a box, as a trait that is used as `dyn` must return it.
pub type Working<'a, T = ()> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Why a source has nothing for a [`Wanted`], in words that carry no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError {
    pub cause: Cause,
    /// For people: what the source said, without anything that came out of a secret, and what to do.
    pub detail: String,
    /// The source asked for this much patience.
    pub retry_after: Option<Duration>,
}

impl SourceError {
    /// Words for people, with the kind of failure they tell of.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), retry_after: None }
    }
}

/// Kinds of failure. *Refused* and *unreachable* are different events: the first says something about the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The source answers, and has no such secret.
    NotFound,
    /// The source answers, and will not give it: forbidden, deleted, or our login is refused.
    Refused,
    /// The source did not answer, or answered that it cannot now. Trying again can help.
    Unreachable,
    /// There is a secret, but not this field of it, or its value cannot be used.
    BadField,
    /// The answer makes no sense to us. It may not be the source's own: a proxy, a portal, half of one.
    BadAnswer,
}

impl Cause {
    /// Would the same call help a little later?
    pub fn worth_retrying(self) -> bool {
        matches!(self, Self::Unreachable)
    }

    /// Did the source itself say that this may not, or cannot, be had? Then a value from before must not be used any longer.
    /// Otherwise nothing is known, and the last good value stands for as long as it may.
    pub fn is_final(self) -> bool {
        matches!(self, Self::NotFound | Self::Refused | Self::BadField)
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
        Self::new(Cause::Unreachable, error.to_string())
    }
}

/// The outcome for one [`Wanted`], named by its secret.
pub type Outcome = (SecretName, Result<Fetched, SourceError>);

/// Where a source puts its outcomes as they come, so that progress can be shown while it works.
pub type Outcomes = UnboundedSender<Outcome>;

/// What became of one [`Known`], named by its secret.
pub type CheckOutcome = (SecretName, Result<Checked, SourceError>);

/// Where a source puts what its checks find, as it comes.
pub type CheckOutcomes = UnboundedSender<CheckOutcome>;

/// A place secrets come from.
///
/// Every future may be dropped at any time: nothing is half done then, and nothing goes on by itself. None panics, none logs a value.
pub trait Source: Send + Sync {
    /// As in configuration: `vault`.
    fn kind(&self) -> &'static str;

    /// Reads every wanted secret, in the fewest calls the store allows, and sends exactly one outcome for each. Secrets that
    /// share a path are read with one call. Buffers are dropped when the future ends, and connections closed with it.
    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a>;

    /// Finds out by the cheapest calls whether what is known is still what the store has and still gives us, reads what is not, and
    /// sends exactly one outcome for each. Once the store turns out to be unreachable it is not called for the rest.
    ///
    /// Where a source has no cheaper way, a check is a fetch.
    fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
        Box::pin(async move {
            let wanted: Vec<_> = known.iter().map(|known| known.wanted.clone()).collect();
            let (read, mut arriving) = tokio::sync::mpsc::unbounded_channel::<Outcome>();
            let pass_on = async {
                while let Some((secret, result)) = arriving.recv().await {
                    let _ = outcomes.send((secret, result.map(Checked::Read)));
                }
            };
            tokio::join!(self.fetch(&wanted, read), pass_on);
        })
    }

    /// How many secrets one check should be for: as many as one call can tell of, or as one connection is worth making for.
    fn check_size(&self) -> usize {
        usize::MAX
    }

    /// Can what it gave change while the daemon runs?
    fn changes(&self) -> bool {
        true
    }

    /// Keeps its login alive: renews it, and logs in again when that ends. Runs until it is dropped. One at a time.
    fn keep(&self) -> Working<'_> {
        Box::pin(pending())
    }

    /// Gives back what the store lent it, as far as the store can be reached. It is not used afterwards.
    fn close(&self) -> Working<'_> {
        Box::pin(ready(()))
    }

    /// How it proves itself, where there is something to tell.
    fn login(&self) -> Option<LoginFacts> {
        None
    }

    /// How it can be written to. `None`: it cannot.
    #[cfg(feature = "daemon")]
    fn writer(&self) -> Option<&dyn write::Write> {
        None
    }

    /// How it rotates secrets by itself. `None`: it does not.
    #[cfg(feature = "daemon")]
    fn rotator(&self) -> Option<&dyn rotate::Rotate> {
        None
    }

    /// How it makes credentials for one session. `None`: it does not.
    #[cfg(feature = "daemon")]
    fn lender(&self) -> Option<&dyn lend::Lend> {
        None
    }

    /// The calls it made. `None`: it makes none.
    #[cfg(feature = "daemon")]
    fn calls(&self) -> Option<&Calls> {
        None
    }
}

//! What lease holders need of a source: a credential made for one who asks, kept alive, and given back.

use std::time::Duration;

use super::{SourceError, Working};
use crate::{
    name::{ToolName, Version},
    secret::SecretValue,
};

/// A credential that was made for one session.
#[derive(Debug)]
pub struct Loan {
    /// The source's own name for it. No credential: nobody can use it who may not give back leases at that source.
    pub id: String,
    /// Tells it from others, and nothing of it.
    pub version: Version,
    /// How long it lives, unless it is extended.
    pub life: Duration,
    pub renewable: bool,
    /// The object that was lent, as JSON.
    pub data: SecretValue,
}

/// How long a loan lives from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    pub life: Duration,
    pub renewable: bool,
}

/// A source that makes credentials. Every future may be dropped at any time; a loan of which the answer was lost then ends by itself.
pub trait Lend: Send + Sync {
    /// Makes one for a session of this tool.
    fn borrow<'a>(&'a self, path: &'a str, tool: &'a ToolName) -> Working<'a, Result<Loan, SourceError>>;
    /// Asks for so much more time. The source may give less.
    fn extend(&self, id: &str, by: Duration) -> Working<'_, Result<Extended, SourceError>>;
    /// Has it end now. One that has ended already is given back.
    fn give_back(&self, id: &str) -> Working<'_, Result<(), SourceError>>;
    /// Can it be given back at all? If not, it is good until it ends by itself.
    fn takes_back(&self) -> bool {
        true
    }
    /// One field of what was lent, or the value of the whole.
    fn pick(&self, loan: &Loan, field: Option<&str>) -> Result<SecretValue, SourceError>;
}

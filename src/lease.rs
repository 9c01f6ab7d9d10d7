//! Credentials that a source makes for one session: nobody else ever has them, they live as long as the session does, and end with it.
//!
//! A lease is on disk before its value is handed out, so that one whose session ended with the daemon is given back by the next.
//! [`Leases`] holds them, [`record`] is the list on disk, [`keep`] extends and replaces them.

mod keep;
mod leases;
mod record;

use std::sync::Arc;

use crate::{
    name::{SecretName, SourceName},
    source::{Source, SourceError, Wanted},
};

pub use leases::{Facts, Leases, Owed, Revoked};
pub use record::List;

/// What leases ask of the daemon that hosts them.
pub trait Host: Send + Sync {
    /// The secret as configuration has it. In words, why it cannot be had.
    fn place(&self, secret: &SecretName) -> Result<(SourceName, Arc<dyn Source>, Wanted), String>;
    /// The source of this name.
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>>;
}

/// Why a session is lent nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLent {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Source(SourceError),
    /// Without it a crash would leave a credential that nobody takes back.
    #[error("the list of leases cannot be written: {0}")]
    NotDurable(String),
    #[error("the session has ended")]
    Ended,
}

impl From<SourceError> for NotLent {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

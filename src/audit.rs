//! The audit log: who was given which version of what, when, and by what right; on disk before anybody has it, and so that a change
//! shows.
//!
//! A record is one line of JSON that names the hash of the line before it. Signatures stand between the records, and beside the files
//! a signed [head](files) says how long the log is at the least. [`verify`] needs the files and the public key alone.
//!
//! [`Log`] is what the broker uses: it appends and waits. [`journal`] is what is on disk and knows no thread and no clock; [`disk`]
//! is the one way to it, so that tests can let it fail. `docs/audit.md` says what the log can show, and what it cannot.

pub mod disk;
mod event;
mod files;
mod in_order;
mod journal;
mod key;
mod line;
mod log;
mod marks;
pub mod read;
mod retain;
pub mod verify;
mod writer;

pub use event::{Event, Kind, Outcome, Place, Who};
pub use journal::{Rules, TakenUp};
pub use key::{BadKey, KeyId, PublicKey, SigningKey};
pub use line::Tip;
pub use log::{Durability, LINGER, Log, Recorded, Settings, State, Ticket, Unavailable};
pub use retain::Keep;

#[cfg(test)]
mod tests;

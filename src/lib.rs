//! A secrets broker for MCP tool servers.
//!
//! The modules stand in the order of a secret's path, from its source to the tool process. Each imports only those above it;
//! `tests/layers.rs` holds the code to that. `ARCHITECTURE.md` says why. The page to read first is [`broker`].

#[cfg(feature = "daemon")]
pub mod attest;
pub mod limits;
pub mod name;
pub mod peer;
pub mod policy;
pub mod redact;
pub mod secret;
pub mod source;

//! A secrets broker for MCP tool servers.
//!
//! The modules stand in the order of a secret's path, from its source to the tool process. Each imports only those above it;
//! `tests/layers.rs` holds the code to that. `ARCHITECTURE.md` says why. The page to read first is [`broker`].

pub mod name;
pub mod proto;
pub mod secret;

#[cfg(feature = "daemon")]
pub mod peer;
#[cfg(feature = "daemon")]
pub mod redact;
#[cfg(feature = "daemon")]
pub mod source;

#[cfg(feature = "daemon")]
pub mod limits;
#[cfg(feature = "daemon")]
pub mod policy;
#[cfg(feature = "daemon")]
pub mod refresh;
#[cfg(feature = "daemon")]
pub mod session;
#[cfg(feature = "daemon")]
pub mod store;

#[cfg(feature = "daemon")]
pub mod attest;
#[cfg(feature = "daemon")]
pub mod broker;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod delivery;

#[cfg(feature = "daemon")]
pub mod daemon;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "cli")]
pub mod cli;

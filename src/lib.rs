//! A secrets broker for MCP tool servers.
//!
//! The modules stand in the order of a secret's path, from its source to the tool process. Each imports only those above it;
//! `tests/layers.rs` holds the code to that. `ARCHITECTURE.md` says why. The page to read first is [`broker`].
//!
//! Features: `client` is the library for tools, without AWS, Vault or server code; `daemon` is the broker; `run` the
//! launcher; `cli` the operator's commands.

// What the library's own code may not do, beside the lints in Cargo.toml, which hold for tests too.
#![deny(
    clippy::unwrap_used, // a broker that panics takes every tool's credentials with it
    clippy::expect_used,
    clippy::print_stdout, // the log is where things are said, and it is filtered
    clippy::print_stderr,
    clippy::allow_attributes_without_reason
)]

pub mod name;
pub mod proto;
pub mod secret;

#[cfg(feature = "daemon")]
pub mod measure;
#[cfg(feature = "daemon")]
pub mod peer;
#[cfg(any(feature = "daemon", feature = "run"))]
pub mod redact;
#[cfg(feature = "daemon")]
pub mod source;

#[cfg(feature = "daemon")]
pub mod audit;
#[cfg(feature = "daemon")]
pub mod export;
#[cfg(feature = "daemon")]
pub mod lease;
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
pub mod alarm;
#[cfg(feature = "daemon")]
pub mod attest;
#[cfg(feature = "daemon")]
pub mod broker;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod contain;
#[cfg(feature = "daemon")]
pub mod delivery;
#[cfg(feature = "daemon")]
pub mod rotate;

#[cfg(feature = "daemon")]
pub mod blast;
#[cfg(feature = "daemon")]
pub mod daemon;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "run")]
pub mod run;

#[cfg(feature = "cli")]
pub mod cli;

/// README's example is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

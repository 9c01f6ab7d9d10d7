//! What a tool hears when it is refused: a stable reason, what to do, and whether to try again. Less than the operator's log
//! says, so that a tool cannot find out what exists.

use std::time::Duration;

use crate::{name::SecretName, session::End};

/// Stable reasons; the same set as `valetkey.v1.Reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ToolNotAllowed,
    ScopeNotAllowed,
    OutsideScope,
    PeerChanged,
    SecretUnavailable,
    LimitReached,
    SessionNotOpen,
    BadRequest,
    ShuttingDown,
    NotReady,
    CommandNotAllowed,
}

/// A refusal in the tool's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub reason: Reason,
    pub message: String,
    /// Set where trying again can help.
    pub retry_after: Option<Duration>,
}

impl Refused {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    pub(super) fn bad_request(message: String) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub(super) fn changed() -> Self {
        Self::new(Reason::PeerChanged, "this process is not the one that connected: connect again")
    }

    pub(super) fn not_open() -> Self {
        Self::new(Reason::SessionNotOpen, "no such session of this process is open: open one")
    }

    pub(super) fn unavailable(secret: &SecretName) -> Self {
        let message = format!("{secret} has no value that may be handed out now; the daemon's log says why");
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(Reason::SecretUnavailable, message) }
    }

    pub(super) fn limit(what: &str, retry_after: Option<Duration>) -> Self {
        let advice = if retry_after.is_some() { "wait and try again" } else { "open a new session" };
        Self { retry_after, ..Self::new(Reason::LimitReached, format!("the limit on {what} is reached: {advice}")) }
    }

    /// More than would pass at any time: waiting does not help.
    pub(super) fn too_many_at_once(most: u64) -> Self {
        Self::new(
            Reason::LimitReached,
            format!("this tool may have {most} secrets in one call at the most: ask for fewer at once"),
        )
    }

    pub(super) fn not_ready() -> Self {
        let message = "the daemon waits for a source of its secrets; the operator can see which with: valetkey status";
        Self { retry_after: Some(Duration::from_secs(2)), ..Self::new(Reason::NotReady, message) }
    }

    /// The session ended under the tool.
    pub fn ended(end: End) -> Self {
        match end {
            End::ShuttingDown => Self {
                retry_after: Some(Duration::from_millis(500)),
                ..Self::new(Reason::ShuttingDown, "the daemon is stopping: connect again")
            },
            End::Revoked => Self::new(Reason::SessionNotOpen, "an operator revoked this session"),
            End::PolicyChanged => Self::new(Reason::ScopeNotAllowed, "policy changed, and no longer allows this session"),
            End::Expired => Self::new(Reason::SessionNotOpen, "the session was not renewed in time: open a new one"),
            End::Closed | End::ProcessGone => Self::not_open(),
        }
    }
}

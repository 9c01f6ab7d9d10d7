//! What a tool hears when it is refused: a stable reason, what to do, and whether to try again. Less than the operator's log
//! says, so that a tool cannot find out what exists.

use std::time::Duration;

use crate::{
    limits::{Limit, Over, Reached, Whose},
    name::SecretName,
    session::{End, Session},
};

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
    AuditUnavailable,
    NotAuthenticated,
    ApprovalPending,
    ApprovalDenied,
    ToolContained,
}

/// A refusal in the tool's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub reason: Reason,
    pub message: String,
    /// Set where trying again can help.
    pub retry_after: Option<Duration>,
    /// Which limit it was, for [`Reason::LimitReached`].
    pub limit: Option<Reached>,
    pub(super) why: Why,
}

/// What the operator is told beside it, and the tool is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Why {
    pub text: String,
    /// The secret that it was about, where configuration has one of that name.
    pub secret: Option<SecretName>,
}

impl Reason {
    /// Its name in the contract, without the prefix: in errors, records, alarms and metrics alike.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToolNotAllowed => "TOOL_NOT_ALLOWED",
            Self::ScopeNotAllowed => "SCOPE_NOT_ALLOWED",
            Self::OutsideScope => "OUTSIDE_SCOPE",
            Self::PeerChanged => "PEER_CHANGED",
            Self::SecretUnavailable => "SECRET_UNAVAILABLE",
            Self::LimitReached => "LIMIT_REACHED",
            Self::SessionNotOpen => "SESSION_NOT_OPEN",
            Self::BadRequest => "BAD_REQUEST",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::NotReady => "NOT_READY",
            Self::CommandNotAllowed => "COMMAND_NOT_ALLOWED",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::NotAuthenticated => "NOT_AUTHENTICATED",
            Self::ApprovalPending => "APPROVAL_PENDING",
            Self::ApprovalDenied => "APPROVAL_DENIED",
            Self::ToolContained => "TOOL_CONTAINED",
        }
    }

    /// Did policy say no?
    pub(super) fn is_denial(self) -> bool {
        match self {
            Self::ToolNotAllowed
            | Self::ScopeNotAllowed
            | Self::OutsideScope
            | Self::PeerChanged
            | Self::CommandNotAllowed
            | Self::ApprovalDenied
            | Self::ToolContained => true,
            Self::SecretUnavailable
            | Self::LimitReached
            | Self::SessionNotOpen
            | Self::BadRequest
            | Self::ShuttingDown
            | Self::NotReady
            | Self::AuditUnavailable
            | Self::NotAuthenticated
            | Self::ApprovalPending => false,
        }
    }
}

impl Refused {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None, limit: None, why: Why::default() }
    }

    /// With what the operator is told.
    pub(super) fn because(self, text: impl Into<String>, secret: Option<SecretName>) -> Self {
        Self { why: Why { text: text.into(), secret }, ..self }
    }

    /// A request that makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// Whoever calls over the network did not prove who it is. The same in each case: what was wrong is for the record.
    pub fn not_authenticated() -> Self {
        let message = "who calls is not proven: it takes a client certificate or a bearer token that is good here";
        Self::new(Reason::NotAuthenticated, message)
    }

    /// Somebody must let it through first.
    pub(super) fn approval_pending(secret: &SecretName, id: &str) -> Self {
        let message = format!("{secret} waits for an operator to approve it: valetkey approve {id}");
        Self { retry_after: Some(Duration::from_secs(2)), ..Self::new(Reason::ApprovalPending, message) }
    }

    pub(super) fn approval_denied(secret: &SecretName) -> Self {
        Self::new(Reason::ApprovalDenied, format!("an operator said no to {secret}"))
            .because(format!("an operator said no to {secret}"), Some(secret.clone()))
    }

    /// It was cut off.
    pub(super) fn contained() -> Self {
        Self::new(Reason::ToolContained, "this tool was contained: it gets nothing until an operator releases it")
    }

    pub(super) fn too_many_approvals() -> Self {
        let message = "too many requests wait for an operator's approval already";
        Self { retry_after: Some(Duration::from_secs(30)), ..Self::new(Reason::ApprovalPending, message) }
    }

    /// A secret of an open session has no value any more.
    pub fn withdrawn(secret: &SecretName) -> Self {
        Self::new(Reason::SecretUnavailable, format!("{secret} was withdrawn: stop using it"))
    }

    pub(super) fn changed() -> Self {
        Self::new(Reason::PeerChanged, "the caller is not who connected any more: connect again")
    }

    pub(super) fn not_open() -> Self {
        Self::new(Reason::SessionNotOpen, "no such session of this process is open: open one")
    }

    pub(super) fn unavailable(secret: &SecretName) -> Self {
        let message = format!("{secret} has no value that may be handed out now; the daemon's log says why");
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(Reason::SecretUnavailable, message) }
    }

    /// Over a limit. `retry_after` where waiting helps; where it does not, `advice` says what does.
    pub(super) fn limit(reached: Reached, retry_after: Option<Duration>, advice: &str) -> Self {
        let advice = if retry_after.is_some() { "wait and try again" } else { advice };
        let message = format!("{reached} is reached: {advice}");
        Self { retry_after, limit: Some(reached), ..Self::new(Reason::LimitReached, message) }
    }

    /// Over a rate.
    pub(super) fn over(over: Over) -> Self {
        Self::limit(over.reached, over.wait, "so many never pass at once, ask for fewer in one call")
    }

    /// The daemon stops.
    pub fn shutting_down() -> Self {
        let message = "the daemon is stopping: connect again";
        Self { retry_after: Some(Duration::from_millis(500)), ..Self::new(Reason::ShuttingDown, message) }
    }

    pub(super) fn not_ready() -> Self {
        let message = "the daemon waits for a source of its secrets; the operator can see which with: valetkey status";
        Self { retry_after: Some(Duration::from_secs(2)), ..Self::new(Reason::NotReady, message) }
    }

    /// What must be on record before it happens cannot be put there.
    pub(super) fn audit_unavailable() -> Self {
        let message = "the audit log cannot be written, so nothing is handed out; the operator can see why with: valetkey status";
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(Reason::AuditUnavailable, message) }
    }

    /// The session ended under the tool.
    pub fn ended(session: &Session, end: End) -> Self {
        match end {
            End::LifetimeReached => {
                let value = session.lifetime.as_secs();
                let reached = Reached { limit: Limit::SessionLifetime, of: Whose::Tool, value };
                Self::limit(reached, None, "open a new session")
            }
            End::ShuttingDown => Self::shutting_down(),
            End::Revoked => Self::new(Reason::SessionNotOpen, "an operator revoked this session"),
            End::PolicyChanged => Self::new(Reason::ScopeNotAllowed, "policy changed, and no longer allows this session"),
            End::Contained => Self::contained(),
            End::Rotated => Self::new(
                Reason::SessionNotOpen,
                "a secret of this session was rotated, and it did not say in time that it uses the new version: open a new one",
            ),
            End::Expired => Self::new(Reason::SessionNotOpen, "the session was not renewed in time: open a new one"),
            End::Closed | End::ProcessGone => Self::not_open(),
        }
    }
}

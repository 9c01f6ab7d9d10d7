//! What can go wrong, in words that say what to do.

use std::{path::PathBuf, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::v1::{Failed, Reason, Revoked};

/// Why a secret cannot be had. No variant carries a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No daemon answers.
    #[error("no broker answers at {socket}: {detail}; is valetkeyd running? (systemctl status valetkeyd)")]
    Unreachable { socket: PathBuf, detail: String },
    /// No daemon answers on another host, or it is not the one that was expected, or it does not take the certificate.
    #[error("no broker answers at {address}: {detail}")]
    RemoteUnreachable { address: String, detail: String },
    /// The daemon did not answer in time.
    #[error("the broker did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Policy does not allow it. `reason` is one of the stable names of `valetkey.v1.Reason`.
    #[error("denied ({reason}): {message}")]
    Denied { reason: String, message: String },
    /// Over a limit: `limit` is the key that sets it in the daemon's configuration (docs/limits.md). Where `retry_after` is set waiting
    /// helps, and took longer than the call had time.
    #[error("{message}")]
    Limited { message: String, limit: String, retry_after: Option<Duration> },
    /// It is granted, but there is no value to hand out now.
    #[error("{message}")]
    Unavailable { message: String, retry_after: Option<Duration> },
    /// The daemon cannot write its audit log, and hands out nothing that is not on record. The client waits for it as long as its
    /// time-out allows.
    #[error("{message}")]
    NotOnRecord { message: String, retry_after: Option<Duration> },
    /// An operator must approve it first. The client waits for that as long as its time-out allows; asking again later is what to do.
    #[error("waiting: {message}")]
    ApprovalPending { message: String, retry_after: Option<Duration> },
    /// The session has ended.
    #[error("the session has ended: {0}")]
    Ended(String),
    /// The declaration or the request is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// The answer makes no sense: the daemon is of another version, or something else listens there.
    #[error("the broker's answer makes no sense: {0}")]
    BadAnswer(String),
}

/// The limit that ends a session, and lets another be opened at once.
const SESSION_LIFETIME: &str = "session-lifetime";

/// Can trying again help?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before an operator or this program changes something.
    Never,
    /// Yes, after this long.
    After(Duration),
}

impl Error {
    /// Can the same call help later?
    pub fn retry(&self) -> Retry {
        const SOON: Duration = Duration::from_secs(1);
        match self {
            Self::Unreachable { .. } | Self::RemoteUnreachable { .. } | Self::TimedOut(_) => Retry::After(SOON),
            Self::Unavailable { retry_after, .. }
            | Self::NotOnRecord { retry_after, .. }
            | Self::ApprovalPending { retry_after, .. } => Retry::After(retry_after.unwrap_or(SOON)),
            Self::Limited { retry_after, .. } => retry_after.map_or(Retry::Never, Retry::After),
            Self::Denied { .. } | Self::Ended(_) | Self::BadRequest(_) | Self::BadAnswer(_) => Retry::Never,
        }
    }

    pub(super) fn from_failed(failed: &Failed) -> Self {
        let retry_after = failed.retry_after_millis.map(Duration::from_millis);
        let limit = failed.limit.as_ref().map(|reached| reached.limit.clone()).unwrap_or_default();
        Self::from_reason(failed.reason(), failed.message.clone(), limit, retry_after)
    }

    /// Why the daemon ended the whole session, or `None` where another may be opened: the daemon stops, the session was old, or this
    /// process is to prove anew who it is, on a connection of its own (its unit was started again around it).
    pub(super) fn from_revoked(revoked: &Revoked) -> Option<Self> {
        let reason = revoked.reason();
        let limit = revoked.limit.as_ref().map(|reached| reached.limit.clone()).unwrap_or_default();
        let again = matches!(reason, Reason::ShuttingDown | Reason::PeerChanged) || limit == SESSION_LIFETIME;
        (!again).then(|| Self::from_reason(reason, revoked.message.clone(), limit, None))
    }

    fn from_reason(reason: Reason, message: String, limit: String, retry_after: Option<Duration>) -> Self {
        match reason {
            Reason::LimitReached => Self::Limited { message, limit, retry_after },
            Reason::SecretUnavailable | Reason::ShuttingDown | Reason::NotReady => Self::Unavailable { message, retry_after },
            Reason::AuditUnavailable => Self::NotOnRecord { message, retry_after },
            Reason::ApprovalPending => Self::ApprovalPending { message, retry_after },
            Reason::SessionNotOpen => Self::Ended(message),
            Reason::BadRequest => Self::BadRequest(message),
            Reason::Unspecified => Self::BadAnswer(message),
            Reason::ToolNotAllowed
            | Reason::ScopeNotAllowed
            | Reason::OutsideScope
            | Reason::PeerChanged
            | Reason::NotAuthenticated
            | Reason::ApprovalDenied
            | Reason::ToolContained
            | Reason::CommandNotAllowed => {
                let reason = reason.as_str_name().trim_start_matches("REASON_").into();
                Self::Denied { reason, message }
            }
        }
    }

    /// An error that the daemon sent, or `None` where the connection broke and another may do.
    pub(crate) fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        let reason = Reason::from_str_name(&format!("REASON_{}", info.reason)).unwrap_or_default();
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let limit = info.metadata.get("limit").cloned().unwrap_or_default();
        let another = matches!(reason, Reason::ShuttingDown | Reason::PeerChanged) || limit == SESSION_LIFETIME;
        let broken = another || status.code() == Code::Cancelled;
        (!broken).then(|| Self::from_reason(reason, status.message().into(), limit, retry_after))
    }
}

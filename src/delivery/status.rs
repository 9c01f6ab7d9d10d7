//! Refusals as gRPC statuses: the canonical code, `google.rpc.ErrorInfo` with the stable reason, `RetryInfo` where waiting helps.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    broker::{Reason, Refused},
    limits::Reached,
    proto::v1,
};

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "valetkey";

/// The contract's number for a reason.
pub fn reason(reason: Reason) -> v1::Reason {
    match reason {
        Reason::ToolNotAllowed => v1::Reason::ToolNotAllowed,
        Reason::ScopeNotAllowed => v1::Reason::ScopeNotAllowed,
        Reason::OutsideScope => v1::Reason::OutsideScope,
        Reason::PeerChanged => v1::Reason::PeerChanged,
        Reason::SecretUnavailable => v1::Reason::SecretUnavailable,
        Reason::LimitReached => v1::Reason::LimitReached,
        Reason::SessionNotOpen => v1::Reason::SessionNotOpen,
        Reason::BadRequest => v1::Reason::BadRequest,
        Reason::ShuttingDown => v1::Reason::ShuttingDown,
        Reason::NotReady => v1::Reason::NotReady,
        Reason::CommandNotAllowed => v1::Reason::CommandNotAllowed,
        Reason::AuditUnavailable => v1::Reason::AuditUnavailable,
        Reason::NotAuthenticated => v1::Reason::NotAuthenticated,
        Reason::ApprovalPending => v1::Reason::ApprovalPending,
        Reason::ApprovalDenied => v1::Reason::ApprovalDenied,
        Reason::ToolContained => v1::Reason::ToolContained,
    }
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::ToolNotAllowed
        | Reason::ScopeNotAllowed
        | Reason::OutsideScope
        | Reason::CommandNotAllowed
        | Reason::ApprovalDenied
        | Reason::ToolContained => Code::PermissionDenied,
        Reason::PeerChanged | Reason::NotAuthenticated => Code::Unauthenticated,
        Reason::SecretUnavailable
        | Reason::ShuttingDown
        | Reason::NotReady
        | Reason::AuditUnavailable
        | Reason::ApprovalPending => Code::Unavailable,
        Reason::LimitReached => Code::ResourceExhausted,
        Reason::SessionNotOpen => Code::FailedPrecondition,
        Reason::BadRequest => Code::InvalidArgument,
    }
}

/// A request that makes no sense.
pub fn bad_request(message: &str) -> Status {
    refused(&Refused::bad_request(message))
}

/// Which limit was reached, for a stream's messages.
pub fn limit(refused: &Refused) -> Option<v1::LimitReached> {
    let Reached { limit, of, value } = refused.limit?;
    Some(v1::LimitReached { limit: limit.name().into(), of: of.word().into(), value })
}

/// Which limit was reached, by the key that sets it; whose it is; and the value that it has.
fn metadata(refused: &Refused) -> HashMap<String, String> {
    let Some(v1::LimitReached { limit, of, value }) = limit(refused) else { return HashMap::new() };
    [("limit".into(), limit), ("of".into(), of), ("value".into(), value.to_string())].into()
}

/// What a refused tool is told.
pub fn refused(refused: &Refused) -> Status {
    let name = reason(refused.reason).as_str_name().trim_start_matches("REASON_");
    let mut details = ErrorDetails::with_error_info(name, DOMAIN, metadata(refused));
    if let Some(wait) = refused.retry_after {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(code(refused.reason), &refused.message, details)
}

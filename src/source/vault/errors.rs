//! What a failed call means. The server's own words are looked at and never repeated: a body can hold what nobody expects in it.

use std::time::Duration;

use rustify::errors::ClientError;

use super::super::{Cause, SourceError, field::Json};

/// What a call was for.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// The login method and its mount.
    Login(&'a str, &'a str),
    /// The token itself: its life, its renewal, its rights.
    Token,
    /// The wrapping token in the place of a secret id.
    Wrapping,
    /// The lease of what this path gave.
    Lease(&'a str),
    /// The path as it was sent.
    Secret(&'a str),
    /// The same, to be written.
    Write(&'a str),
}

/// A call that failed, and what that says.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: SourceError,
    pub of: Of,
}

/// Whom a failure tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Nobody there, or it serves nobody now: the next call would fail the same way.
    Server,
    /// Forbidden: the token has run out, or its policy does not allow it.
    Token,
    /// Forbidden by policy, in words that a server has for a living token alone.
    Policy,
    /// This node is behind the others. A moment later it may not be.
    Behind,
    /// This one path.
    Path,
    /// What a write expected to find there is not there.
    Conflict,
}

impl Asked<'_> {
    fn is_login(self) -> bool {
        matches!(self, Self::Login(..) | Self::Wrapping)
    }

    fn name(self) -> String {
        match self {
            Self::Login(method, mount) => format!("the {method} login at auth/{mount}"),
            Self::Token => "the token".into(),
            Self::Wrapping => "the wrapped secret id".into(),
            Self::Lease(path) => format!("the lease of {path}"),
            Self::Secret(path) | Self::Write(path) => path.into(),
        }
    }

    pub fn failed(self, of: Of, cause: Cause, words: &str) -> Failed {
        Failed { error: SourceError::new(cause, format!("{}: {words}", self.name())), of }
    }
}

/// An answer other than a good one.
pub(super) fn answered(status: u16, body: &[u8], patience: Option<Duration>, asked: Asked) -> Failed {
    let (of, cause, words) = meaning(status, body, asked);
    let mut failed = asked.failed(of, cause, &format!("{words} (HTTP {status})"));
    failed.error.retry_after = patience;
    failed
}

fn meaning(status: u16, body: &[u8], asked: Asked) -> (Of, Cause, &'static str) {
    let says = |words: &str| body.windows(words.len()).any(|window| window == words.as_bytes());
    match status {
        300..400 => (
            Of::Server,
            Cause::BadAnswer,
            "the redirect to another address is not followed with the token: set `address` to the active node",
        ),
        // What a proxy or a portal refuses says nothing about the secret.
        400..=405 if !is_its_own(body) => {
            (Of::Path, Cause::BadAnswer, "the answer is not one of Vault: a proxy or a portal may stand between")
        }
        400 if matches!(asked, Asked::Wrapping) => (
            Of::Path,
            Cause::Refused,
            "refused: it was unwrapped already or has run out. If it was not you who unwrapped it, somebody has the secret id: \
             destroy it, and wrap a new one",
        ),
        400 | 401 if asked.is_login() => {
            (Of::Path, Cause::Refused, "refused: what it logs in with is wrong, used up or has run out")
        }
        403 if asked.is_login() => (Of::Path, Cause::Refused, "refused: check the role, its bound addresses and `namespace`"),
        404 if asked.is_login() => {
            (Of::Path, Cause::Refused, "there is no such login: check the `mount` of `auth`, and `namespace`")
        }
        // While it turns version 1 into version 2. It says so with the status of a bad request, and wiping for that would be wrong.
        400 if says("unavailable for a brief period") => {
            (Of::Path, Cause::Unreachable, "the engine is being upgraded to version 2")
        }
        400 if matches!(asked, Asked::Write(_)) && says("check-and-set parameter did not match") => {
            (Of::Conflict, Cause::Refused, "somebody else has written it meanwhile")
        }
        400 => (Of::Path, Cause::Refused, "the server calls the request invalid: check `path`, `mount` and the engine's version"),
        401 | 403 => {
            let by_policy = says("1 error occurred") && !says("invalid token");
            let of = if by_policy { Of::Policy } else { Of::Token };
            let words = match asked {
                Asked::Write(_) => {
                    "writing is refused: the token is wrong, or its policy lacks `create`, `update` or `delete` on this path"
                }
                _ => "reading is refused: the token is wrong, or its policy lacks `read` on this path",
            };
            (of, Cause::Refused, words)
        }
        404 if says("no handler for route") => {
            (Of::Path, Cause::NotFound, "nothing is mounted there: check `mount` and `namespace`")
        }
        404 if says("nvalid path for a versioned") => {
            (Of::Path, Cause::NotFound, "the engine there is version 2: check `engine`")
        }
        404 if says("\"destroyed\":true") => (Of::Path, Cause::Refused, "its newest version is destroyed"),
        404 if says("deletion_time") => (Of::Path, Cause::Refused, "its newest version is deleted"),
        404 => (Of::Path, Cause::NotFound, "there is no such secret"),
        405 => (Of::Path, Cause::Refused, "the path cannot be read, only written"),
        412 => (Of::Behind, Cause::Unreachable, "this node has not caught up yet"),
        429 if says("rate limit") || says("quota") => (Of::Server, Cause::Unreachable, "a quota limits the rate of our calls"),
        429 => (Of::Server, Cause::Unreachable, "it limits the rate of our calls, or is a standby"),
        472 | 473 => (Of::Server, Cause::Unreachable, "this node is a standby that does not serve reads"),
        501 => (Of::Server, Cause::Unreachable, "it is not initialised: an operator must set it up"),
        502 | 504 => (Of::Server, Cause::Unreachable, "a proxy before it cannot reach it"),
        503 if says("sealed") => (Of::Server, Cause::Unreachable, "it is sealed: an operator must unseal it"),
        503 => (Of::Server, Cause::Unreachable, "the server cannot answer now"),
        // Such as an engine that cannot reach its database: others may well answer.
        500.. => (Of::Path, Cause::Unreachable, "the server cannot answer now"),
        _ => (Of::Path, Cause::BadAnswer, "the answer makes no sense"),
    }
}

/// Does an error's body look like the server's own? `{"errors":[...]}`, or the frame of a good answer, as for a deleted version.
fn is_its_own(body: &[u8]) -> bool {
    let Some(body) = Json::parse(body) else { return false };
    let is = |key: &str, kind: &str| body.at(key).is_some_and(|value| value.kind() == kind);
    is("errors", "an array") || is("request_id", "a text")
}

/// No answer at all, or no whole one.
pub(super) fn broken(error: ClientError, asked: Asked) -> Failed {
    let (of, cause, words) = match error {
        ClientError::RequestError { source, .. } => {
            let error = source.downcast_ref::<reqwest::Error>();
            let why = match error {
                Some(error) if error.is_timeout() => "no answer in time".into(),
                // Before anything was sent, so nothing of ours can be in these words.
                Some(error) if error.is_connect() => format!("no connection: {}", innermost(error)),
                _ => "the connection broke".into(),
            };
            (Of::Server, Cause::Unreachable, why)
        }
        ClientError::ResponseError { .. } => (Of::Server, Cause::Unreachable, "the connection broke in the answer".into()),
        _ => (Of::Path, Cause::BadAnswer, "the call cannot be made: check `address`, `mount` and `path`".into()),
    };
    asked.failed(of, cause, &words)
}

/// The reason at the bottom, as `Connection refused`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}

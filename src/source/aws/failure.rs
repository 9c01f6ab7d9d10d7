//! What a failed call means. Of what AWS sent only its error code and request id are repeated, never a message or a body.
//!
//! A refusal makes us wipe values, so it must be AWS's own: one that a proxy or a portal on the way could have written is none.

use std::{str, time::Duration};

use aws_sdk_secretsmanager::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use aws_smithy_runtime_api::http::Response;

use crate::source::{Cause, SourceError};

/// One of AWS's APIs, in the words that its failures are told with.
#[derive(Debug)]
pub(in crate::source) struct Api {
    pub name: &'static str,
    /// What it means that what was asked for is not there.
    pub absent: &'static str,
    /// What to allow where we are refused.
    pub allow: &'static str,
    /// What to look at where the request is not understood.
    pub malformed: &'static str,
}

/// A call that failed, and how much is lost with it.
#[derive(Debug, Clone)]
pub(in crate::source) struct Failure {
    pub error: SourceError,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Scope {
    /// What this call was for.
    Call,
    /// All calls for now: the store cannot be reached, or it is not the store that answers.
    Store,
    /// All calls with these credentials.
    Login,
}

/// A longer wait than this nobody means.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Failure {
    pub fn of_login(error: SourceError) -> Self {
        Self { error, scope: Scope::Store }
    }
}

impl Api {
    /// What a failed call means.
    pub fn explain<E: ProvideErrorMetadata>(&self, error: &SdkError<E, Response>) -> Failure {
        let store = |cause, words: String| Failure { error: SourceError::new(cause, words), scope: Scope::Store };
        match error {
            SdkError::ServiceError(refusal) => {
                let error = refusal.err();
                self.judge(error.code(), error.message(), error.meta().request_id(), refusal.raw())
            }
            // One that the SDK could not take apart: XML where the API speaks JSON, or no answer of AWS at all.
            SdkError::ResponseError(answer) => self.judge(None, None, None, answer.raw()),
            SdkError::TimeoutError(_) => store(Cause::Unreachable, format!("{} did not answer in time", self.name)),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                store(Cause::Unreachable, format!("{} did not answer in time", self.name))
            }
            SdkError::DispatchFailure(failure) if failure.is_io() => {
                let words = format!("no connection to {}: check the network, `region` and `endpoint`", self.name);
                store(Cause::Unreachable, words)
            }
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
                store(Cause::Unreachable, format!("the call to {} could not be made: check `region` and `endpoint`", self.name))
            }
            _ => store(Cause::BadAnswer, self.foreign()),
        }
    }

    /// What AWS says of one secret in the answer for many.
    pub fn say(&self, code: Option<&str>) -> SourceError {
        let (cause, words, _) =
            self.known(code.unwrap_or_default(), "").unwrap_or((Cause::BadAnswer, self.unknown(), Scope::Call));
        SourceError::new(cause, with_facts(&words, code, None, None))
    }

    fn judge(&self, code: Option<&str>, message: Option<&str>, request: Option<&str>, answer: &Response) -> Failure {
        let status = answer.status().as_u16();
        let in_xml = xml_code(answer.body().bytes().unwrap_or_default());
        let code = code.or(in_xml);
        let known = code.and_then(|code| self.known(code, message.unwrap_or_default()));
        // A code that is new to us is AWS's still if the answer has AWS's form, or its number. Others are not repeated.
        let ours = known.is_some() || in_xml.is_some() || (code.is_some() && request.is_some());
        let (cause, words, scope) = match (known, status) {
            (Some(known), _) => known,
            (None, 429) => (Cause::Unreachable, self.throttled(), Scope::Store),
            (None, 500..) => (Cause::Unreachable, format!("{} cannot answer now", self.name), Scope::Store),
            (None, 401 | 403) if ours => (Cause::Refused, self.refused(), Scope::Call),
            (None, 400..=499) if ours => (Cause::BadAnswer, self.unknown(), Scope::Call),
            (None, _) => (Cause::BadAnswer, self.foreign(), Scope::Store),
        };
        let mut error = SourceError::new(cause, with_facts(&words, code.filter(|_| ours), Some(status), request));
        error.retry_after = answer.headers().get("retry-after").and_then(retry_after);
        Failure { error, scope }
    }

    /// The codes of which we know what they mean.
    fn known(&self, code: &str, message: &str) -> Option<(Cause, String, Scope)> {
        Some(match code {
            "ResourceNotFoundException" | "ParameterNotFound" | "ParameterVersionNotFound" => {
                (Cause::NotFound, self.absent.into(), Scope::Call)
            }
            "KMSThrottlingException" | "KMSInternalException" => {
                (Cause::Unreachable, "AWS KMS cannot answer now".into(), Scope::Store)
            }
            "DecryptionFailure" | "InvalidKeyId" => (Cause::Refused, KMS.into(), Scope::Call),
            code if code.starts_with("KMS") => (Cause::Refused, KMS.into(), Scope::Call),
            "InvalidRequestException" => {
                let words = "it cannot be read in its state: most often it is marked for deletion";
                (Cause::Refused, words.into(), Scope::Call)
            }
            "InternalServiceError"
            | "InternalServiceErrorException"
            | "InternalServerError"
            | "InternalFailure"
            | "ServiceUnavailable"
            | "ServiceUnavailableException" => (Cause::Unreachable, "AWS failed inside".into(), Scope::Store),
            "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "PriorRequestNotComplete"
            | "SlowDown" => (Cause::Unreachable, self.throttled(), Scope::Store),
            "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => (Cause::Unreachable, CLOCK.into(), Scope::Store),
            "InvalidSignatureException" | "SignatureDoesNotMatch" if is_of_time(message) => {
                (Cause::Unreachable, CLOCK.into(), Scope::Store)
            }
            "InvalidSignatureException" | "SignatureDoesNotMatch" => {
                (Cause::Refused, "the secret key is wrong".into(), Scope::Login)
            }
            "ExpiredTokenException"
            | "ExpiredToken"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "AuthFailure" => (Cause::Refused, "the credentials are not, or no longer, valid".into(), Scope::Login),
            "AccessDeniedException"
            | "AccessDenied"
            | "UnauthorizedOperation"
            | "NotAuthorized"
            | "OptInRequired"
            | "RegionDisabledException" => (Cause::Refused, self.refused(), Scope::Call),
            "ValidationException"
            | "ValidationError"
            | "InvalidParameterException"
            | "InvalidParameterValue"
            | "SerializationException" => (Cause::BadAnswer, self.unknown(), Scope::Call),
            _ => return None,
        })
    }

    fn throttled(&self) -> String {
        format!("{} limits the rate of our calls", self.name)
    }

    fn refused(&self) -> String {
        format!("AWS refuses: {}", self.allow)
    }

    fn unknown(&self) -> String {
        format!("AWS does not accept the request: {}", self.malformed)
    }

    fn foreign(&self) -> String {
        format!("the answer is not one of {}: check `endpoint`, and what stands between", self.name)
    }
}

const KMS: &str = "KMS does not decrypt it: allow kms:Decrypt on its key, and see that the key is enabled";
const CLOCK: &str = "AWS finds our call too old or too early: this host's clock is wrong";

/// Is it about the time of a signature? The words are AWS's own and have been these for years; they are looked at, and not repeated.
fn is_of_time(message: &str) -> bool {
    message.contains("Signature expired") || message.contains("not yet current")
}

/// The code in AWS's XML error document, which also APIs that speak JSON send now and then.
fn xml_code(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?.trim_start();
    let text = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>")?.1.trim_start(),
        None => text,
    };
    let ours = ["<ErrorResponse", "<Response><Errors>", "<Error>"].iter().any(|start| text.starts_with(start));
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0.trim();
    (ours && is_plain(code)).then_some(code)
}

fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn with_facts(words: &str, code: Option<&str>, status: Option<u16>, request: Option<&str>) -> String {
    let mut facts: Vec<String> = code.filter(|code| is_plain(code)).map(str::to_owned).into_iter().collect();
    facts.extend(status.map(|status| format!("HTTP {status}")));
    facts.extend(request.filter(|id| is_plain(id)).map(|id| format!("request {id}")));
    format!("{words} ({})", facts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_in_a_document_of_aws_alone() {
        let open = r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">"#;
        let inside = "<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>m</Message></Error>";
        let start = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n  ";
        for (body, code) in [
            (format!("{open}{inside}</ErrorResponse>"), Some("AccessDenied")),
            (format!("{start}{open}{inside}"), Some("AccessDenied")),
            (format!("{start}<Response><Errors>{inside}"), Some("AccessDenied")),
            (inside.to_owned(), Some("AccessDenied")),
            (format!("<html>{inside}</html>"), None),
            ("<Error><Code>not a code</Code></Error>".into(), None),
            (open.into(), None),
            (String::new(), None),
        ] {
            assert_eq!(xml_code(body.as_bytes()), code, "{body}");
        }
    }

    #[test]
    fn patience_is_read_in_seconds() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999"), Some(LONGEST_WAIT));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }
}

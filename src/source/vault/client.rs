//! Calls to the server: how a connection is made, and what goes over it.
//!
//! vaultrs says where a call goes and which headers it has. The HTTP client below is ours: it follows no redirect, because that would
//! take the token along, and is dropped with its connections after one fetch, check or login, because their buffers hold what was read last.

use std::{
    fs,
    path::Path,
    str,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustify::{
    Endpoint,
    client::Client as _,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use vaultrs::api::EndpointMiddleware;
use zeroize::{Zeroize, Zeroizing};

use super::{
    super::{Calls, Cause, SourceError, field::Json, key_file, other_end},
    Settings,
    errors::{self, Asked, Failed, Of},
};
use crate::secret::SecretValue;

/// Of a node that has not caught up with what the one before it did: as often, with doubled pauses from the first on.
const CATCHING_UP: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How to reach the server, and the count of all calls to it.
#[derive(Debug)]
pub(super) struct Access {
    pub settings: Settings,
    pub calls: Calls,
    /// Was there ever a good answer?
    worked: AtomicBool,
}

/// A client with a token or without one, for a short while. The token is wiped at its end.
pub(super) struct Client<'a> {
    http: rustify::clients::reqwest::Client,
    middle: EndpointMiddleware,
    access: &'a Access,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.middle.token.zeroize();
    }
}

impl Access {
    pub fn new(settings: Settings) -> Self {
        Self { calls: Calls::new(settings.concurrency), settings, worked: AtomicBool::new(false) }
    }

    /// A file of our own that cannot be used is a mistake to tell of at once while nothing has worked yet. Later it says nothing about
    /// the secrets: somebody may be replacing it just now, and the values that are held stand.
    pub fn local<T>(&self, result: Result<T, SourceError>) -> Result<T, SourceError> {
        result.map_err(|error| match error.cause {
            Cause::Refused if self.worked.load(Relaxed) => SourceError { cause: Cause::Unreachable, ..error },
            _ => error,
        })
    }

    /// A client with its own connections. Certificates are read anew each time, so that renewed ones are picked up.
    pub fn client(&self, token: Option<&SecretValue>) -> Result<Client<'_>, SourceError> {
        let http = self.local(self.http())?;
        let mut middle = EndpointMiddleware {
            token: String::new(),
            version: "v1".into(),
            wrap: None,
            namespace: self.settings.namespace.clone(),
        };
        if let Some(token) = token {
            // A header that cannot be made would make vaultrs panic, with the token in the message.
            let text = |bytes: &[u8]| str::from_utf8(bytes).ok().filter(|_| is_token(bytes)).map(str::to_owned);
            let bad = || SourceError::new(Cause::Refused, "the token is empty or holds a character that no token has");
            middle.token = token.expose(text).ok_or_else(bad)?;
        }
        Ok(Client { http: rustify::clients::reqwest::Client::new(&self.settings.address, http), middle, access: self })
    }

    fn http(&self) -> Result<reqwest::Client, SourceError> {
        let mut http = other_end::client(Some(&self.settings.address), self.settings.ca_file.as_deref())?
            .no_proxy()
            .pool_max_idle_per_host(self.calls.most())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(15));
        if let Some((certificate, key)) = &self.settings.client_certificate {
            http = http.identity(identity(certificate, key)?);
        }
        http.build().map_err(|_| {
            let words = "TLS cannot be set up: check the system's certificates, `ca-file`, and that the client's certificate and key \
                         belong together";
            SourceError::new(Cause::Refused, words)
        })
    }
}

fn unusable(path: &Path, what: &str, why: &str) -> SourceError {
    SourceError::new(Cause::Refused, format!("cannot use the {what} in {}: {why}", path.display()))
}

/// Our own certificate, which may be seen by all, and its key, which may not.
fn identity(certificate: &Path, key: &Path) -> Result<reqwest::Identity, SourceError> {
    let pem = fs::read(certificate).map_err(|error| unusable(certificate, "certificate", &error.to_string()))?;
    let private = key_file::read(key)?;
    let mut both = Zeroizing::new(Vec::with_capacity(pem.len() + private.len() + 1));
    both.extend_from_slice(&pem);
    both.push(b'\n');
    both.extend_from_slice(&private);
    let words = format!("with the key in {} they are no pair in PEM", key.display());
    reqwest::Identity::from_pem(&both).map_err(|_| unusable(certificate, "certificate", &words))
}

/// Can these bytes be a token, and stand in a header?
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic)
}

impl Client<'_> {
    /// Makes a call, and gives the body of a good answer. `operation` is what it is counted as.
    pub async fn ask(
        &self,
        operation: &'static str,
        call: impl Endpoint,
        asked: Asked<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let call = call.with_middleware(&self.middle);
        for again in 0.. {
            let mut of = Of::Path;
            let once = async {
                self.once(&call, asked).await.map_err(|failed| {
                    of = failed.of;
                    failed.error
                })
            };
            match self.access.calls.make(operation, once).await {
                Ok(body) => {
                    self.access.worked.store(true, Relaxed);
                    return Ok(body);
                }
                // The pause is outside of the call: others have their turn meanwhile.
                Err(_) if of == Of::Behind && again < CATCHING_UP => tokio::time::sleep(FIRST_PAUSE * 2u32.pow(again)).await,
                Err(error) => return Err(Failed { error, of }),
            }
        }
        Err(asked.failed(Of::Behind, Cause::Unreachable, "this node has not caught up yet"))
    }

    async fn once(&self, call: &impl Endpoint, asked: Asked<'_>) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let request = call.request(self.http.base()).map_err(|error| errors::broken(error, asked))?;
        let answer = self.http.send(request).await.map_err(|error| errors::broken(error, asked))?;
        let (head, body) = answer.into_parts();
        let body = Zeroizing::new(body);
        match head.status.as_u16() {
            200..=208 => Ok(body),
            status => Err(errors::answered(status, &body, patience(&head.headers), asked)),
        }
    }

    /// The same, where the answer's `part` is what matters: `data`, or `auth`.
    pub async fn ask_for<T>(
        &self,
        operation: &'static str,
        call: impl Endpoint,
        asked: Asked<'_>,
        part: &str,
        read: impl FnOnce(Json<'_>) -> Option<T>,
    ) -> Result<T, Failed> {
        let body = self.ask(operation, call, asked).await?;
        let found = Json::parse(&body).and_then(|body| body.at(part)).filter(|part| part.kind() == "an object").and_then(read);
        found.ok_or_else(|| asked.failed(Of::Path, Cause::BadAnswer, "the answer makes no sense"))
    }
}

/// `Retry-After`, in seconds.
fn patience(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

/// A call of which the answer is parsed in place.
pub(super) struct Call {
    method: RequestMethod,
    path: String,
    query: Option<String>,
    body: Zeroizing<Vec<u8>>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: RequestMethod::GET, path: path.into(), query: None, body: Zeroizing::default() }
    }

    /// With what stands behind the question mark.
    pub fn query(self, query: Option<String>) -> Self {
        Self { query, ..self }
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: RequestMethod::DELETE, ..Self::get(path) }
    }

    /// With a body that is JSON already, and holds a value.
    pub fn post_json(path: impl Into<String>, body: Zeroizing<Vec<u8>>) -> Self {
        Self { method: RequestMethod::POST, body, ..Self::get(path) }
    }

    /// With a body of JSON.
    pub fn post(path: impl Into<String>, body: impl serde::Serialize) -> Self {
        let body = Zeroizing::new(serde_json::to_vec(&body).unwrap_or_default());
        Self { method: RequestMethod::POST, body, ..Self::get(path) }
    }
}

impl Endpoint for Call {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn query(&self) -> Result<Option<String>, ClientError> {
        Ok(self.query.clone())
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok((!self.body.is_empty()).then(|| self.body.to_vec()))
    }
}

/// A number of seconds, as the server writes it.
pub(super) fn seconds(value: Json) -> Option<Duration> {
    str::from_utf8(value.text()).ok()?.parse().ok().map(Duration::from_secs)
}

pub(super) fn is_true(value: Option<Json>) -> bool {
    value.is_some_and(|value| value.text() == b"true")
}

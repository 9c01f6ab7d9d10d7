//! HashiCorp Vault and OpenBao: their key-value engine, versions 1 and 2.
//!
//! `vaultrs` gives the protocol. What it does not do is done here: no redirect is followed (it would take the token along), no
//! setting comes from a `VAULT_*` variable, values are read where they lie in the answer's body, and that body and the token are wiped. Its types are
//! never logged, because they show the token.

use std::{collections::BTreeMap, fs, path::PathBuf, str, time::Duration};

use futures_util::StreamExt;
use rustify::{
    Endpoint,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use secrecy::{ExposeSecret, SecretString};
use vaultrs::{
    api::EndpointMiddleware,
    client::{VaultClient, VaultClientSettingsBuilder},
};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Cause, Fetched, Outcomes, Source, SourceError, Wanted, Working,
    field::{self, Json},
    key_file,
};
use crate::{name::Version, secret::SecretValue};

/// Where the secrets are and how to get in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://vault.example.com:8200`. Plain `http` only to this host itself.
    pub address: String,
    /// For the login and for all paths.
    pub namespace: Option<String>,
    pub login: Login,
    /// Where the key-value engine is mounted: `secret`.
    pub mount: String,
    pub engine: Engine,
    /// Certificates, in PEM, to trust beside the system's. Read at each fetch.
    pub ca_file: Option<PathBuf>,
    /// The most calls at a time; 0 means 1.
    pub concurrency: usize,
}

/// How to get a token. Files are read at each fetch, so what is in them can be replaced at any time.
#[derive(Debug, Clone)]
pub enum Login {
    Token(SecretString),
    TokenFile(PathBuf),
    /// The token it yields is revoked when the fetch is done.
    AppRole {
        mount: String,
        role_id: String,
        secret_id_file: PathBuf,
    },
}

/// The version of the key-value engine at the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Keeps no versions: all of them are `1`.
    V1,
    V2,
}

/// The secrets of one key-value mount. [`Wanted::path`] is relative to it, and without the `data/` of version 2.
///
/// Without a field the value is the one of the key `value` if that is all there is, and otherwise the JSON text of the whole object as
/// the server writes it.
#[derive(Debug)]
pub struct Vault {
    settings: Settings,
}

impl Vault {
    /// Checks the settings. Calls nobody and reads no file.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        let refused = |problem: &str| Err(SourceError::new(Cause::Refused, problem));
        let Ok(address) = reqwest::Url::parse(&settings.address) else { return refused("`address` is not a URL") };
        let host = address.host_str().unwrap_or_default();
        let host_is_us =
            host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match address.scheme() {
            "https" => {}
            "http" if host_is_us => {}
            "http" => {
                return refused("`address` is plain http to another host, where the token could be read on the way: use https");
            }
            _ => return refused("`address` must start with https://"),
        }
        if !address.username().is_empty() || address.password().is_some() || address.path() != "/" || address.query().is_some() {
            return refused("`address` must be scheme, host and port alone");
        }
        let in_header = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !settings.namespace.as_deref().is_none_or(in_header) {
            return refused("`namespace` holds a character that it may not have");
        }
        if !is_path(&settings.mount) {
            return refused("`mount` is not a path, such as secret");
        }
        Ok(Self { settings })
    }

    /// A client for one fetch, dropped with its connections at the end of it: the buffers of one hold the last value read over it.
    /// Until then they are used again, because a thousand TLS handshakes cost more than all else a boot does.
    fn client(&self) -> Result<Client, SourceError> {
        let Settings { address, namespace, ca_file, concurrency, .. } = &self.settings;
        let mut http = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host((*concurrency).max(1))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30));
        if let Some(path) = ca_file {
            let unusable = |why: String| {
                SourceError::new(Cause::Refused, format!("cannot use the certificates in {}: {why}", path.display()))
            };
            let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| unusable("they are not in PEM".into()))?;
            if certificates.is_empty() {
                return Err(unusable("there are none".into()));
            }
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|_| {
            SourceError::new(Cause::Refused, "TLS cannot be set up: check the system's certificates and `ca-file`")
        })?;
        // What is not set here vaultrs takes from the environment. None of it is used: the HTTP client is ours, and so is the token.
        let settings = VaultClientSettingsBuilder::default()
            .address(address)
            .ca_certs(Vec::new())
            .identity(None)
            .timeout(None)
            .token("")
            .verify(true)
            .version(1)
            .wrapping(false)
            .namespace(namespace.clone())
            .build()
            .map_err(|_| SourceError::new(Cause::Refused, "`address` is not usable"))?;
        let middle = EndpointMiddleware { token: String::new(), version: "v1".into(), wrap: None, namespace: namespace.clone() };
        Ok(Client(VaultClient { http: rustify::clients::reqwest::Client::new(address, http), middle, settings }))
    }

    async fn log_in(&self) -> Result<Client, SourceError> {
        let mut client = self.client()?;
        let token = match &self.settings.login {
            Login::Token(token) => Zeroizing::new(token.expose_secret().as_bytes().to_vec()),
            Login::TokenFile(path) => key_file::read(path)?,
            Login::AppRole { mount, role_id, secret_id_file } => {
                let not_text = |_| SourceError::new(Cause::Refused, format!("{} is not text", secret_id_file.display()));
                let secret_id = key_file::read(secret_id_file)?;
                let secret_id = str::from_utf8(&secret_id).map_err(not_text)?;
                let mut answer = vaultrs::auth::approle::login(&client.0, mount, role_id, secret_id)
                    .await
                    .map_err(|error| explain(rest_error(error), &Asked::Login(mount)))?;
                answer.accessor.zeroize();
                Zeroizing::new(answer.client_token.into_bytes())
            }
        };
        // A header that cannot be made would make vaultrs panic, with the token in the message.
        match str::from_utf8(&token) {
            Ok(token) if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) => {
                client.0.middle.token = token.to_owned()
            }
            _ => return Err(SourceError::new(Cause::Refused, "the token is empty or holds a character that no token has")),
        }
        Ok(client)
    }

    /// Reads one path and takes from it what is wanted.
    async fn read(&self, client: &Client, path: &str, wanted: &[&Wanted], outcomes: &Outcomes) {
        let answer = self.body(client, path).await;
        let read = answer.as_ref().map_err(Clone::clone).and_then(|body| self.parse(body, path));
        for wanted in wanted {
            let outcome = read.as_ref().map_err(Clone::clone).and_then(|(data, version)| {
                let value = match &wanted.field {
                    None => only_value(*data).unwrap_or_else(|| field::pick(data.text(), None)),
                    field => field::pick(data.text(), field.as_deref()),
                };
                Ok(Fetched { value: value?, version: version.clone(), check_within: None })
            });
            let _ = outcomes.send((wanted.secret.clone(), outcome));
        }
    }

    async fn body(&self, client: &Client, path: &str) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let Settings { mount, engine, .. } = &self.settings;
        if !is_path(path) {
            return Err(SourceError::new(Cause::NotFound, "`path` is not the path of a secret below the mount"));
        }
        let full = match engine {
            Engine::V1 => format!("{mount}/{path}"),
            Engine::V2 => format!("{mount}/data/{path}"),
        };
        let call = Read(full.clone()).with_middleware(&client.0.middle);
        let answer = call.exec(&client.0.http).await.map_err(|error| explain(error, &Asked::Secret(&full)))?;
        Ok(Zeroizing::new(answer.response.into_body()))
    }

    fn parse<'a>(&self, body: &'a [u8], path: &str) -> Result<(Json<'a>, Version), SourceError> {
        let odd = || {
            SourceError::new(
                Cause::BadAnswer,
                format!("the answer for {path} is not one of a key-value engine: check `mount` and its version"),
            )
        };
        let data =
            Json::parse(body).and_then(|body| body.at("data")).filter(|data| data.kind() == "an object").ok_or_else(odd)?;
        if self.settings.engine == Engine::V1 {
            return Ok((data, Version::from(1)));
        }
        let version = data.at("metadata").and_then(|metadata| metadata.at("version")).filter(|v| v.kind() == "a number");
        let version = version.and_then(|version| str::from_utf8(version.text()).ok()?.parse().ok()).ok_or_else(odd)?;
        let data = data.at("data").filter(|data| data.kind() == "an object").ok_or_else(odd)?;
        Ok((data, version))
    }
}

impl Source for Vault {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let mut paths: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
            for wanted in wanted {
                paths.entry(&wanted.path).or_default().push(wanted);
            }
            if paths.is_empty() {
                return;
            }
            let client = match self.log_in().await {
                Ok(client) => client,
                Err(error) => {
                    for wanted in wanted {
                        let _ = outcomes.send((wanted.secret.clone(), Err(error.clone())));
                    }
                    return;
                }
            };
            let reads = futures_util::stream::iter(paths);
            reads
                .for_each_concurrent(self.settings.concurrency.max(1), async |(path, wanted)| {
                    self.read(&client, path, &wanted, &outcomes).await
                })
                .await;
            if matches!(self.settings.login, Login::AppRole { .. }) {
                // Failing that it runs out by itself: batch tokens cannot be revoked at all.
                let _ = vaultrs::token::revoke_self(&client.0).await;
            }
        })
    }
}

/// A client whose token is wiped at its end.
struct Client(VaultClient);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.middle.token.zeroize();
    }
}

/// A read whose answer we parse ourselves, in place.
struct Read(String);

impl Endpoint for Read {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.0.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// Segments that a URL keeps as they are: the URL library drops `.` and `..`, which would read another secret than the one named.
fn is_path(path: &str) -> bool {
    path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control))
}

/// The leaf under `value`, where that is the only key.
fn only_value(data: Json) -> Option<Result<SecretValue, SourceError>> {
    let mut members = data.members();
    let (key, value) = members.next()?;
    let alone = members.next().is_none() && key.is_some_and(|key| key.is("value"));
    (alone && !matches!(value.kind(), "an object" | "an array" | "null")).then(|| field::pick(data.text(), Some("value")))
}

/// What a call was for.
enum Asked<'a> {
    /// The mount of the login method.
    Login(&'a str),
    /// The path as it was sent.
    Secret(&'a str),
}

/// The error below the one of vaultrs, which has all that we look at.
fn rest_error(error: vaultrs::error::ClientError) -> ClientError {
    match error {
        vaultrs::error::ClientError::RestClientError { source } => source,
        vaultrs::error::ClientError::APIError { code, errors } => {
            ClientError::ServerResponseError { code, content: Some(errors.join("; ")) }
        }
        _ => ClientError::ServerResponseError { code: 200, content: None },
    }
}

/// What a failed call means. The server's own words are looked at and never repeated: a body can hold what nobody expects in it.
fn explain(error: ClientError, asked: &Asked) -> SourceError {
    let (what, login) = match asked {
        Asked::Login(mount) => (format!("the AppRole login at auth/{mount}"), true),
        Asked::Secret(path) => (path.to_string(), false),
    };
    let (cause, words): (Cause, String) = match error {
        ClientError::ServerResponseError { code, content } => {
            let content = Zeroizing::new(content.unwrap_or_default());
            let says = |words: &str| content.contains(words);
            let (cause, words) = match code {
                300..400 => (
                    Cause::BadAnswer,
                    "the redirect to another address is not followed with the token: set `address` to the active node",
                ),
                400 if login => (Cause::Refused, "refused: the role id or the secret id is wrong or has run out"),
                403 if login => (Cause::Refused, "refused: check the role's bound addresses and `namespace`"),
                400 => (Cause::Refused, "the server calls the request invalid: check `path`, `mount` and the engine's version"),
                403 if says("invalid token") => (Cause::Refused, "the token is wrong or has run out"),
                403 => (Cause::Refused, "reading is refused: the token is wrong, or its policy lacks `read` on this path"),
                404 if says("no handler for route") => {
                    (Cause::NotFound, "nothing is mounted there: check `mount` and `namespace`")
                }
                404 if says("nvalid path for a versioned") => (Cause::NotFound, "the engine there is version 2: check `engine`"),
                404 if says("\"destroyed\":true") => (Cause::Refused, "its newest version is destroyed"),
                404 if says("deletion_time") => (Cause::Refused, "its newest version is deleted"),
                404 => (Cause::NotFound, "there is no such secret"),
                412 => (Cause::Unreachable, "this node has not caught up yet"),
                429 if says("rate limit") || says("quota") => (Cause::Unreachable, "a quota limits the rate of our calls"),
                429 => (Cause::Unreachable, "it limits the rate of our calls, or is a standby"),
                472 | 473 => (Cause::Unreachable, "this node is a standby that does not serve reads"),
                503 if says("sealed") => (Cause::Unreachable, "it is sealed: an operator must unseal it"),
                500.. => (Cause::Unreachable, "the server cannot answer now"),
                _ => (Cause::BadAnswer, "the answer makes no sense"),
            };
            (cause, format!("{words} (HTTP {code})"))
        }
        ClientError::RequestError { source, .. } => {
            let error = source.downcast_ref::<reqwest::Error>();
            let why = match error {
                Some(error) if error.is_timeout() => "no answer in time".into(),
                // Before anything was sent, so nothing of ours can be in these words.
                Some(error) if error.is_connect() => format!("no connection: {}", innermost(error)),
                _ => "the connection broke".into(),
            };
            (Cause::Unreachable, why)
        }
        ClientError::ResponseError { .. } => (Cause::Unreachable, "the connection broke in the answer".into()),
        ClientError::ResponseParseError { content, .. } => {
            content.unwrap_or_default().zeroize();
            (Cause::BadAnswer, "the answer makes no sense".into())
        }
        _ => (Cause::BadAnswer, "the call cannot be made: check `address`, `mount` and `path`".into()),
    };
    SourceError::new(cause, format!("{what}: {words}"))
}

/// The reason at the bottom, as `Connection refused`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}

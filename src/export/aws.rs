//! Calls of AWS's APIs that are signed here and made with the HTTP client that is there anyway: of two large SDKs it takes one call each.

use std::time::{Duration, SystemTime};

use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use bytes::Bytes;
use reqwest::{Method, StatusCode};

use super::Failed;
use crate::source::{
    aws::{Keys, Settings},
    other_end,
};

/// An account's API of one service.
pub struct Api {
    http: reqwest::Client,
    keys: Keys,
    region: String,
    service: Service,
    /// Without a slash at its end.
    endpoint: String,
}

/// A service, as signatures name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Logs,
    S3,
}

/// What is sent.
pub struct Call<'a> {
    pub method: Method,
    /// With a slash at its start.
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Bytes,
}

impl Api {
    /// Calls nobody yet.
    pub fn new(settings: Settings, service: Service, endpoint: String) -> Result<Self, String> {
        let http = other_end::client(Some(&endpoint), None).map_err(|error| error.to_string())?;
        let http = http.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(20));
        let http = http.build().map_err(|_| "TLS cannot be set up: check the system's certificates".to_owned())?;
        let region = settings.region.clone();
        let keys = Keys::new(settings).map_err(|error| error.to_string())?;
        Ok(Self { http, keys, region, service, endpoint })
    }

    /// Makes a call. Credentials that AWS does not know any longer are replaced for the next.
    pub async fn call(&self, call: Call<'_>) -> Result<(StatusCode, Bytes), Failed> {
        let (credentials, generation) = self.keys.now().await.map_err(|error| Failed(format!("no credentials: {error}")))?;
        let url = format!("{}{}", self.endpoint, call.path);
        let mut request = self.http.request(call.method.clone(), &url);
        let unsigned = |_| Failed("the request cannot be signed".into());
        let identity = credentials.into();
        let name = match self.service {
            Service::Logs => "logs",
            Service::S3 => "s3",
        };
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(name)
            .time(SystemTime::now())
            .settings(self.signing())
            .build()
            .map_err(|_| Failed("the request cannot be signed".into()))?
            .into();
        let headers = call.headers.iter().copied();
        let signable = SignableRequest::new(call.method.as_str(), &url, headers.clone(), SignableBody::Bytes(&call.body));
        let (instructions, _) = sign(signable.map_err(unsigned)?, &params).map_err(unsigned)?.into_parts();
        for (name, value) in headers.chain(instructions.headers()) {
            request = request.header(name, value);
        }
        // Neither the address nor the answer is repeated.
        let why = |error: reqwest::Error| match error {
            error if error.is_timeout() => Failed("AWS does not answer in time".into()),
            error if error.is_connect() => Failed("AWS cannot be reached".into()),
            _ => Failed("AWS's answer is none".into()),
        };
        let answer = request.body(call.body).send().await.map_err(why)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(why)?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) && !self.is_meant(&body) {
            self.keys.refused(generation);
        }
        Ok((status, body))
    }

    /// Is it the call that AWS does not like, and not the credentials?
    fn is_meant(&self, body: &[u8]) -> bool {
        const OF_CREDENTIALS: [&[u8]; 6] = [
            b"ExpiredToken",
            b"UnrecognizedClient",
            b"InvalidClientTokenId",
            b"InvalidAccessKeyId",
            b"InvalidSignature",
            b"SignatureDoesNotMatch",
        ];
        !OF_CREDENTIALS.iter().any(|word| memchr::memmem::find(body, word).is_some())
    }

    fn signing(&self) -> SigningSettings {
        let mut settings = SigningSettings::default();
        if self.service == Service::S3 {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        settings
    }
}

/// The suffix of the addresses of a region.
pub fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// A word of an answer that is an error's name, if it is one: letters alone.
pub fn word(text: &str) -> Option<&str> {
    let word = text.rsplit('#').next()?;
    ((1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(word)
}

//! Alarms to an address: a POST of JSON, over TLS or within this host.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use zeroize::Zeroizing;

use super::outlet::{Deliver, Failure};
use crate::source::{
    key_file,
    other_end::{client, is_this_host},
};

/// Where alarms are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    pub address: Address,
    /// Holds the bearer token, for the daemon alone to read. Read for each alarm, so that a new one needs no restart.
    pub token_file: Option<PathBuf>,
    /// PEM: the authorities that the address is believed by, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// https, or http on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Url(String),
    /// Holds the address, where that is itself a credential, as chat services have it. Private, and read for each alarm.
    File(PathBuf),
}

pub struct Webhook {
    http: reqwest::Client,
    settings: WebhookSettings,
}

impl Webhook {
    pub fn new(settings: WebhookSettings) -> Result<Self, String> {
        let address = if let Address::Url(url) = &settings.address { Some(url.as_str()) } else { None };
        let http = client(address, settings.ca_file.as_deref()).map_err(|error| format!("the webhook: {error}"))?;
        let http = http.no_proxy().pool_max_idle_per_host(0);
        let http = http.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(10));
        let http = http.build().map_err(|_| "the webhook's TLS cannot be set up: check the system's certificates".to_owned())?;
        Ok(Self { http, settings })
    }

    fn address(&self) -> Result<reqwest::Url, Failure> {
        let path = match &self.settings.address {
            Address::Url(url) => return url.parse().map_err(|_| Failure::Final("the webhook's address is none".into())),
            Address::File(path) => path,
        };
        let text = key_file::read(path).map_err(|error| Failure::Passing(format!("the address: {error}")))?;
        let text = std::str::from_utf8(&text).ok();
        // Not even a part of what stands there is repeated.
        text.and_then(|text| text.parse().ok()).filter(hides_what_it_carries).ok_or_else(|| {
            Failure::Passing(format!("{} does not hold an https address, or one of this host, and nothing else", path.display()))
        })
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.settings.token_file else { return Ok(None) };
        let token = key_file::read(path).map_err(|error| Failure::Passing(format!("the token: {error}")))?;
        let header = Zeroizing::new([b"Bearer ".as_slice(), &token].concat());
        let bad = |_| Failure::Passing(format!("the token in {} holds a character that no token has", path.display()));
        let mut value = HeaderValue::from_bytes(&header).map_err(bad)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn post(&self, alarm: &str) -> Result<(), Failure> {
        let mut request = self.http.post(self.address()?).header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = self.authorization()? {
            request = request.header(AUTHORIZATION, authorization);
        }
        // Neither the address nor the answer is repeated: a path may be a credential, and an answer may quote.
        let why = |error: reqwest::Error| match error {
            error if error.is_timeout() => "the webhook does not answer in time",
            error if error.is_connect() => "the webhook cannot be reached",
            _ => "the webhook's answer is none",
        };
        let answer = request.body(alarm.to_owned()).send().await.map_err(|error| Failure::Passing(why(error).into()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status if may_pass(status) => Err(Failure::Passing(format!("the webhook answers {status}"))),
            status => Err(Failure::Final(format!("the webhook answers {status}"))),
        }
    }
}

fn hides_what_it_carries(url: &reqwest::Url) -> bool {
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => true,
        ("http", Some(host)) => is_this_host(host),
        _ => false,
    }
}

/// Is it a fault of the moment? A refused token is: it may be replaced.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED)
}

impl Deliver for Webhook {
    fn deliver<'a>(&'a self, alarm: &'a str) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(self.post(alarm))
    }
}

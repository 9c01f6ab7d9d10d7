//! To Amazon S3: whole batches as objects, whose names say which records they hold. Before an object is put, the bookmark says which it will
//! be: after a crash the same one is put again, over itself.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use reqwest::{Method, StatusCode};

use super::{
    Failed,
    aws::{Api, Call, Service, domain, word},
};
use crate::{audit::onward::Batch, source::aws};

/// Where objects go.
#[derive(Debug, Clone)]
pub struct Settings {
    pub account: aws::Settings,
    pub bucket: String,
    /// Without a slash at its ends; may be empty.
    pub prefix: String,
    /// How long records are gathered.
    pub every: Duration,
}

/// A bucket.
pub struct S3 {
    api: Api,
    /// Before the object's name, with a slash at its start and end.
    path: String,
    pub(super) every: Duration,
}

impl S3 {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let Settings { account, bucket, prefix, every } = settings;
        let region = &account.region;
        // A bucket with a dot in its name has no certificate as a host.
        let (endpoint, in_path) = match &account.endpoint {
            Some(endpoint) => (endpoint.clone(), true),
            None if bucket.contains('.') => (format!("https://s3.{region}.{}", domain(region)), true),
            None => (format!("https://{bucket}.s3.{region}.{}", domain(region)), false),
        };
        let parts = [if in_path { bucket.as_str() } else { "" }, prefix.as_str()];
        let path = parts.iter().filter(|part| !part.is_empty()).fold(String::from("/"), |path, part| path + part + "/");
        Ok(Self { api: Api::new(account, Service::S3, endpoint)?, path, every })
    }

    pub(super) async fn send(&mut self, batch: &Batch) -> Result<(), Failed> {
        let path = format!("{}{}", self.path, name(batch));
        // Buckets with an object lock want one.
        let checksum = BASE64_STANDARD.encode(digest(&SHA256, batch.lines()));
        let headers = [("content-type", "application/x-ndjson"), ("x-amz-checksum-sha256", checksum.as_str())];
        let body = Bytes::copy_from_slice(batch.lines());
        let (status, body) = self.api.call(Call { method: Method::PUT, path: &path, headers: &headers, body }).await?;
        match status {
            StatusCode::OK => Ok(()),
            status => Err(Failed(format!("S3 answers {} to PutObject", code(&body).unwrap_or(status.as_str())))),
        }
    }
}

/// `2026/11/25/audit-FIRST-LAST.jsonl`, by the day of the first record. Numbers are padded, so that names sort as records do.
fn name(batch: &Batch) -> String {
    let line = super::record::Record::parse(batch.records().next().unwrap_or_default());
    let day = line.text("time").get(..10).unwrap_or("1970-01-01").replace('-', "/");
    format!("{day}/audit-{:020}-{:020}.jsonl", batch.first, batch.after.seq)
}

/// The error's name in S3's XML.
fn code(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    word(text.split_once("<Code>")?.1.split_once('<')?.0)
}

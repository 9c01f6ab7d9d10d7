//! `[source.NAME]` of AWS.

use super::{Freshness, KIND, MAX_STALE, REFRESH_EVERY, freshness, required};
use crate::config::{
    address::{plain, url},
    read::{Key, Section, key},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    pub region: String,
    /// In place of the region's own: a VPC endpoint, or a stand-in under test.
    pub endpoint: Option<String>,
    /// Of the shared AWS configuration files; otherwise the SDK's usual chain.
    pub profile: Option<String>,
    pub freshness: Freshness,
}

pub(in crate::config) const KEYS: &[Key] = &[
    KIND,
    key("region", "\"eu-west-1\""),
    key("endpoint", "\"https://vpce-0123.secretsmanager.eu-west-1.vpce.amazonaws.com\""),
    key("profile", "\"valetkey\""),
    REFRESH_EVERY,
    MAX_STALE,
];

pub(super) fn read(section: &Section<'_>) -> Option<AwsSettings> {
    let region = required(section, "region", |key| section.parsed(key, region));
    let endpoint = section.parsed("endpoint", url);
    let profile = section.parsed("profile", plain);
    let freshness = freshness(section);
    Some(AwsSettings { region: region?, endpoint, profile, freshness })
}

fn region(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(text.into()) } else { Err("is not a region's name") }
}

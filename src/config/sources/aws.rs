//! `[source.NAME]` of AWS: Secrets Manager and Parameter Store. Both log in alike.

use std::time::Duration;

use super::{FileRef, Freshness, KIND, MAX_STALE, REFRESH_EVERY, freshness, required};
use crate::config::{
    address::{file_ref, plain, url},
    read::{Key, Section, key},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    pub region: String,
    /// In place of the region's own: a VPC endpoint, or a stand-in under test. Of the API that is read, and never of STS.
    pub endpoint: Option<String>,
    /// Of the shared AWS configuration files; otherwise the SDK's usual chain.
    pub profile: Option<String>,
    /// In place of the shared credentials file.
    pub credentials_file: Option<FileRef>,
    /// To be taken with these credentials.
    pub role: Option<AwsRole>,
    pub freshness: Freshness,
}

/// A role that sessions get credentials of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsStsSettings {
    /// Whose credentials take the role.
    pub account: AwsSettings,
    pub role: AwsRole,
    /// What its sessions may do at the most.
    pub session_policy: Option<FileRef>,
    /// Of each credential.
    pub life: Duration,
}

/// A role of this account or another, and what its owner asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsRole {
    pub arn: String,
    pub external_id: Option<String>,
    /// Of STS, in place of the region's own.
    pub sts_endpoint: Option<String>,
}

pub(in crate::config) const KEYS: &[Key] = &[
    KIND,
    key("region", "\"eu-west-1\""),
    key("endpoint", "\"https://vpce-0123.secretsmanager.eu-west-1.vpce.amazonaws.com\""),
    key("profile", "\"valetkey\""),
    key("credentials-file", "\"credential:aws\""),
    key("role-arn", "\"arn:aws:iam::123456789012:role/valetkey\""),
    key("external-id", "\"valetkey-of-example-com\""),
    key("sts-endpoint", "\"https://vpce-0123.sts.eu-west-1.vpce.amazonaws.com\""),
    REFRESH_EVERY,
    MAX_STALE,
];

pub(in crate::config) const STS_KEYS: &[Key] = &[
    KIND,
    key("region", "\"eu-west-1\""),
    key("profile", "\"valetkey\""),
    key("credentials-file", "\"credential:aws\""),
    key("role-arn", "\"arn:aws:iam::123456789012:role/deploy\""),
    key("external-id", "\"valetkey-of-example-com\""),
    key("sts-endpoint", "\"https://vpce-0123.sts.eu-west-1.vpce.amazonaws.com\""),
    key("session-policy", "\"/etc/valetkey/policies/deploy.json\""),
    key("life", "\"1h\""),
];

/// How long AWS lets credentials of a role live (API reference of `AssumeRole`). The longest is the role's own, and no more than that.
const LIFE: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(43_200));

/// A role of which each session gets credentials of its own.
pub(super) fn read_sts(section: &Section<'_>) -> Option<AwsStsSettings> {
    let region = required(section, "region", |key| section.parsed(key, region));
    let profile = section.parsed("profile", plain);
    let credentials_file = section.parsed("credentials-file", file_ref);
    if !section.has("role-arn") {
        section.missing("role-arn");
    }
    let role = role(section);
    let life = section.duration("life").unwrap_or(Duration::from_secs(3600));
    if life < LIFE.0 || life > LIFE.1 {
        section.reject("life", "is not from 15 minutes to 12 hours, which is what AWS takes");
    }
    let session_policy = section.parsed("session-policy", file_ref);
    let freshness = Freshness::default();
    let account = AwsSettings { region: region?, endpoint: None, profile, credentials_file, role: None, freshness };
    Some(AwsStsSettings { account, role: role?, session_policy, life })
}

/// A source's account, which is asked again and again.
pub(super) fn read(section: &Section<'_>) -> Option<AwsSettings> {
    let freshness = freshness(section);
    account(section).map(|account| AwsSettings { freshness, ..account })
}

/// An account, and how to log in there.
pub(in crate::config) fn account(section: &Section<'_>) -> Option<AwsSettings> {
    let region = required(section, "region", |key| section.parsed(key, region));
    let endpoint = section.parsed("endpoint", url);
    let profile = section.parsed("profile", plain);
    let credentials_file = section.parsed("credentials-file", file_ref);
    let role = role(section);
    Some(AwsSettings { region: region?, endpoint, profile, credentials_file, role, freshness: Freshness::default() })
}

fn role(section: &Section<'_>) -> Option<AwsRole> {
    let arn = section.parsed("role-arn", role_arn);
    let external_id = section.parsed("external-id", external_id);
    let sts_endpoint = section.parsed("sts-endpoint", url);
    if !section.has("role-arn") {
        for key in ["external-id", "sts-endpoint"].into_iter().filter(|key| section.has(key)) {
            section.reject_for(key, "is for a role, and there is no `role-arn`", "role-arn = \"ARN\" beside it, or no such key");
        }
    }
    Some(AwsRole { arn: arn?, external_id, sts_endpoint })
}

fn region(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(text.into()) } else { Err("is not a region's name") }
}

fn role_arn(text: &str) -> Result<String, &'static str> {
    let wrong = "is not the ARN of a role";
    let mut parts = text.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (start, partition, service, region, account, role) = (next(), next(), next(), next(), next(), next());
    let of_iam = start == "arn" && partition.starts_with("aws") && service == "iam" && region.is_empty();
    let of_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let named = role.strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    if of_iam && of_account && named && text.len() <= 2048 { Ok(text.into()) } else { Err(wrong) }
}

/// As the API reference of `AssumeRole` has it.
fn external_id(text: &str) -> Result<String, &'static str> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
    let fits = (2..=1224).contains(&text.len()) && text.bytes().all(known);
    if fits { Ok(text.into()) } else { Err("must be 2 to 1,224 letters, digits and `_+=,.@:/-`") }
}

//! Credentials of an AWS role, made for one session each by STS and narrowed by a session policy: what they may do is what the role and that
//! policy both allow (API reference of `AssumeRole`).
//!
//! AWS takes none of them back. They end by themselves; until then they can be cut off only for all of the role's sessions at once
//! ("Revoke active sessions" in IAM).

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_sts::Client;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Calls, Cause, LoginFacts, Outcomes, Source, SourceError, Wanted, Working,
    aws::{self, Account, Api, Role},
    field,
    lend::{Extended, Lend, Loan},
};
use crate::{
    name::{ToolName, Version},
    secret::SecretValue,
};

static API: Api = Api {
    name: "AWS STS",
    absent: "there is no such role",
    allow: "let the role's trust policy name us (and our `external-id`), and allow us sts:AssumeRole on it",
    malformed: "is `role-arn` the ARN of a role, `life` no longer than the role allows, and `session-policy` a policy?",
};

/// The longest session policy, in characters (API reference of `AssumeRole`).
const LONGEST_POLICY: usize = 2048;
/// The fields of what is lent, as programs have them that AWS's own tools call for credentials (`credential_process`).
pub const FIELDS: [&str; 4] = ["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"];

/// Which role, how narrow and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose credentials take the role.
    pub account: aws::Settings,
    pub role: Role,
    /// A file with a policy in JSON, read each time. `None`: all that the role may do.
    pub session_policy: Option<PathBuf>,
    pub life: Duration,
}

/// One role of AWS.
#[derive(Debug)]
pub struct AwsSts {
    account: Account,
    role: Role,
    session_policy: Option<PathBuf>,
    life: Duration,
}

impl AwsSts {
    /// Checks the settings. Calls nobody and reads no file.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        let Settings { account, role, session_policy, life } = settings;
        let endpoint = role.sts_endpoint.clone();
        let account = Account::new(aws::Settings { endpoint, role: None, ..account })?;
        Ok(Self { account, role, session_policy, life })
    }

    fn client(account: &Account, config: &SdkConfig) -> Client {
        let mut sts = aws_sdk_sts::config::Builder::from(config).retry_partition(account.partition.clone());
        if let Some(endpoint) = &account.settings.endpoint {
            sts = sts.endpoint_url(endpoint);
        }
        Client::from_conf(sts.build())
    }

    fn policy(&self) -> Result<Option<String>, SourceError> {
        self.session_policy.as_deref().map(policy).transpose()
    }
}

/// A session that has none where one is meant could do everything that the role may.
fn policy(path: &Path) -> Result<String, SourceError> {
    let refused = |why: String| SourceError::new(Cause::Refused, format!("the session policy in {}: {why}", path.display()));
    let unreadable = |error: std::io::Error| refused(error.to_string());
    // Who can write it decides what the credentials may do.
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if ![0, rustix::process::geteuid().as_raw()].contains(&facts.uid()) || facts.mode() & 0o022 != 0 {
        return Err(refused("others than root and the daemon's user may write to it: chown root, chmod 644".into()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let policy: serde_json::Value = serde_json::from_str(&text).map_err(|error| refused(format!("it is no JSON: {error}")))?;
    if !policy.get("Statement").is_some_and(|statement| statement.is_array() || statement.is_object()) {
        return Err(refused("it has no `Statement`".into()));
    }
    let text = policy.to_string();
    match text.chars().count() {
        long if long > LONGEST_POLICY => Err(refused(format!("it has {long} characters, and STS takes {LONGEST_POLICY}"))),
        _ => Ok(text),
    }
}

/// What CloudTrail shows. Of the characters that STS takes, and at most 64; a tool's name has no others.
fn session_name(tool: &ToolName) -> String {
    format!("valetkey-{tool}").chars().take(64).collect()
}

/// The same for the same credentials, and says nothing about them.
fn name(access_key_id: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, access_key_id.as_bytes());
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Source for AwsSts {
    fn kind(&self) -> &'static str {
        "aws-sts"
    }

    /// Configuration asks for nothing of it that is not for a session.
    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            for wanted in wanted {
                let error = SourceError::new(Cause::BadField, "STS makes credentials for one session each: per-session = true");
                let _ = outcomes.send((wanted.secret.clone(), Err(error)));
            }
        })
    }

    fn login(&self) -> Option<LoginFacts> {
        Some(self.account.login())
    }

    fn lender(&self) -> Option<&dyn Lend> {
        Some(self)
    }

    fn calls(&self) -> Option<&Calls> {
        Some(&self.account.calls)
    }
}

impl Lend for AwsSts {
    fn borrow<'a>(&'a self, _path: &'a str, tool: &'a ToolName) -> Working<'a, Result<Loan, SourceError>> {
        Box::pin(async move {
            let policy = self.policy()?;
            let seconds = i32::try_from(self.life.as_secs()).unwrap_or(i32::MAX);
            let session = self.account.session(&API, Self::client, false).await?;
            let call = |client: &Client| {
                let call = client.assume_role().role_arn(&self.role.arn).role_session_name(session_name(tool));
                let call = call.set_external_id(self.role.external_id.clone()).duration_seconds(seconds);
                call.set_policy(policy.clone()).send()
            };
            let answer = session.call("AssumeRole", call).await.map_err(|failure| failure.error)?;
            let odd = |words| SourceError::new(Cause::BadAnswer, words);
            let taken = answer.credentials.ok_or_else(|| odd("AWS STS answered without credentials"))?;
            let (key, token) = (Zeroizing::new(taken.secret_access_key), Zeroizing::new(taken.session_token));
            let ends = SystemTime::try_from(taken.expiration).map_err(|_| odd("AWS STS answered with a time that is none"))?;
            let expiration = prost_types::Timestamp::from(ends).to_string();
            let fields = json!({
                "Version": 1, "AccessKeyId": taken.access_key_id, "SecretAccessKey": &*key, "SessionToken": &*token,
                "Expiration": expiration,
            });
            // Room for all of it: what is outgrown would be left behind.
            let mut data = Zeroizing::new(Vec::with_capacity(key.len() + token.len() + 1024));
            serde_json::to_writer(&mut *data, &fields).map_err(|_| odd("AWS STS answered with what is no text"))?;
            wipe(fields);
            let name = name(&taken.access_key_id);
            let version: Version = name.parse().map_err(|_| odd("AWS STS answered without a key's id"))?;
            let life = ends.duration_since(SystemTime::now()).unwrap_or_default();
            Ok(Loan { id: format!("sts/{name}"), version, life, renewable: false, data: SecretValue::copy_from(&data)? })
        })
    }

    fn extend(&self, _id: &str, _by: Duration) -> Working<'_, Result<Extended, SourceError>> {
        Box::pin(async { Ok(Extended { life: Duration::ZERO, renewable: false }) })
    }

    fn give_back(&self, _id: &str) -> Working<'_, Result<(), SourceError>> {
        let words = "AWS takes no credentials of a role back before they end: revoke the role's active sessions in IAM";
        Box::pin(async move { Err(SourceError::new(Cause::Refused, words)) })
    }

    fn takes_back(&self) -> bool {
        false
    }

    fn pick(&self, loan: &Loan, field: Option<&str>) -> Result<SecretValue, SourceError> {
        loan.data.expose(|data| field::pick(data, field))
    }
}

/// The texts of an object are not left in memory that is given back.
fn wipe(object: serde_json::Value) {
    if let serde_json::Value::Object(fields) = object {
        for (_, value) in fields {
            if let serde_json::Value::String(text) = value {
                drop(Zeroizing::new(text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_policy_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.json");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            policy(&file)
        };
        let good = r#"{ "Version": "2012-10-17",
            "Statement": [] }"#;
        assert_eq!(
            read(good).unwrap(),
            r#"{"Version":"2012-10-17","Statement":[]}"#.parse::<serde_json::Value>().unwrap().to_string()
        );
        for bad in ["", "{", "{}", "[]", r#"{"Statement":"x"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&format!(r#"{{"Statement":["{}"]}}"#, "x".repeat(LONGEST_POLICY))).is_err());
        assert!(policy(&dir.path().join("none")).is_err());
        assert!(read(good).is_ok());
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o664)).unwrap();
        assert!(policy(&file).is_err_and(|error| error.to_string().contains("may write to it")));
    }

    #[test]
    fn what_cloudtrail_shows_fits() {
        assert_eq!(session_name(&"billing".parse().unwrap()), "valetkey-billing");
        assert_eq!(session_name(&"b".repeat(64).parse().unwrap()).len(), 64);
        assert_eq!(name("ASIAEXAMPLE").len(), 12);
    }
}

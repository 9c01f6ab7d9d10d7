//! The least that a source must allow the daemon for this configuration, in the source's own language: what some tool may have, and
//! nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AwsSettings, Config, SecretSettings, SourceSettings, VaultSettings};
use crate::{
    name::{SecretName, SourceName},
    rotate::How,
    source::{vault::rotates_at, write::BESIDE},
};

/// Whose language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// An IAM policy in JSON.
    Aws,
    /// An ACL policy of Vault and OpenBao, in HCL.
    Vault,
}

/// The sources that such a policy is for.
pub fn upstream_sources(config: &Config, upstream: Upstream) -> Vec<&SourceName> {
    let speaks = |settings: &SourceSettings| match settings {
        SourceSettings::AwsSecretsManager(_) | SourceSettings::AwsParameterStore(_) | SourceSettings::AwsSts(_) => {
            upstream == Upstream::Aws
        }
        SourceSettings::Vault(_) => upstream == Upstream::Vault,
        SourceSettings::SealedFile(_) | SourceSettings::Environment => false,
    };
    config.sources.iter().filter(|(_, settings)| speaks(settings)).map(|(name, _)| name).collect()
}

/// The policy for one source. `kms_keys`: ARNs of the keys that its secrets are encrypted with, where they are not AWS's own. An error
/// says which secret cannot be named in such a policy without naming others too.
pub fn upstream_policy(config: &Config, source: &SourceName, kms_keys: &[String]) -> Result<String, String> {
    let granted = config.policy.granted();
    let for_hooks: BTreeSet<_> = config.secrets.values().flat_map(needed_by_hook).collect();
    let is_wanted = |(name, secret): &(&SecretName, &SecretSettings)| {
        secret.source == *source && (granted.contains(name) || for_hooks.contains(name) || secret.rotation.is_some())
    };
    let wanted = || config.secrets.iter().filter(is_wanted);
    let rotated_as = |by_source: bool| -> BTreeSet<&str> {
        let is_so = |secret: &SecretSettings| {
            secret.rotation.as_ref().is_some_and(|rotation| matches!(rotation.how, How::Source(_)) == by_source)
        };
        wanted().filter(|(_, secret)| is_so(secret)).map(|(_, secret)| secret.path.as_str()).collect()
    };
    let (rotated, by_source) = (rotated_as(false), rotated_as(true));
    match config.sources.get(source) {
        Some(SourceSettings::AwsSecretsManager(aws)) => {
            let paths: BTreeSet<&str> = wanted().map(|(_, secret)| secret.path.as_str()).collect();
            let batches =
                wanted().filter(|(_, secret)| is_current(secret)).map(|(_, s)| &s.path).collect::<BTreeSet<_>>().len() > 1;
            Ok(iam(secrets_manager(aws, &paths, [&rotated, &by_source], batches, kms_keys)))
        }
        Some(SourceSettings::AwsParameterStore(aws)) => {
            Ok(iam(parameter_store(aws, wanted().map(|(_, secret)| secret.path.as_str()).collect(), kms_keys)))
        }
        Some(SourceSettings::AwsSts(sts)) => Ok(iam(vec![statement("TakeRole", "sts:AssumeRole", vec![sts.role.arn.clone()])])),
        Some(SourceSettings::Vault(vault)) => {
            let lends = wanted().any(|(_, secret)| secret.per_session);
            acl(source, vault, wanted().map(|(_, secret)| secret.path.as_str()).collect(), [&rotated, &by_source], lends)
        }
        _ => Err(format!("{source} is a source that needs no policy")),
    }
}

fn needed_by_hook(secret: &SecretSettings) -> &[SecretName] {
    match secret.rotation.as_ref().map(|rotation| &rotation.how) {
        Some(How::Hook(hook)) => &hook.with,
        _ => &[],
    }
}

fn is_current(secret: &SecretSettings) -> bool {
    secret.stage.as_deref().is_none_or(|stage| stage == "AWSCURRENT")
}

fn iam(statements: Vec<Value>) -> String {
    let document = json!({ "Version": "2012-10-17", "Statement": statements });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn statement(id: &str, action: &str, resources: Vec<String>) -> Value {
    json!({ "Sid": id, "Effect": "Allow", "Action": action, "Resource": resources })
}

/// `arn:aws:SERVICE:REGION:ACCOUNT:`, with any account where configuration does not say which.
fn arn(aws: &AwsSettings, service: &str) -> String {
    let partition = match &aws.region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:{service}:{}:{}:", aws.region, account(aws))
}

/// A role says whose it is: it reads that account's.
fn account(aws: &AwsSettings) -> &str {
    aws.role.as_ref().and_then(|role| role.arn.split(':').nth(4)).unwrap_or("*")
}

fn secrets_manager(
    aws: &AwsSettings,
    paths: &BTreeSet<&str>,
    [rotated, by_source]: [&BTreeSet<&str>; 2],
    batches: bool,
    kms_keys: &[String],
) -> Vec<Value> {
    let resource = |path: &&str| match path.strip_prefix("arn:") {
        // AWS adds a hyphen and six characters to a secret's name in its ARN.
        Some(_) if has_suffix(path) => (*path).to_owned(),
        Some(_) => format!("{path}-??????"),
        None => format!("{}secret:{path}-??????", arn(aws, "secretsmanager")),
    };
    let mut statements = Vec::new();
    if !paths.is_empty() {
        statements.push(statement("ReadSecrets", "secretsmanager:GetSecretValue", paths.iter().map(resource).collect()));
    }
    let either: BTreeSet<&str> = rotated.union(by_source).copied().collect();
    for (action, paths) in [
        ("DescribeSecret", &either),
        ("PutSecretValue", rotated),
        ("UpdateSecretVersionStage", rotated),
        ("RotateSecret", by_source),
    ] {
        if !paths.is_empty() {
            let id = format!("Rotate{}", action.trim_start_matches("Rotate"));
            statements.push(statement(&id, &format!("secretsmanager:{action}"), paths.iter().map(resource).collect()));
        }
    }
    if batches {
        // It gives nothing by itself: of a batch come only the secrets that GetSecretValue allows. AWS takes no narrower resource.
        statements.push(statement("ReadInBatches", "secretsmanager:BatchGetSecretValue", vec!["*".into()]));
    }
    statements.extend(decrypt(aws, "secretsmanager", kms_keys));
    statements
}

fn parameter_store(aws: &AwsSettings, paths: BTreeSet<&str>, kms_keys: &[String]) -> Vec<Value> {
    let root = arn(aws, "ssm");
    let resource = |path: &str| match path.starts_with("arn:") {
        // What stands after the name is a version or a label of it.
        true => path.splitn(7, ':').take(6).collect::<Vec<_>>().join(":"),
        false => format!("{root}parameter/{}", path.trim_start_matches('/').split(':').next().unwrap_or_default()),
    };
    let (folders, names): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.ends_with('/'));
    let names: BTreeSet<String> = names.into_iter().map(resource).collect();
    // AWS compares the folder as it is asked for, and with a `/` at its end that is another text.
    let folders: BTreeSet<String> =
        folders.into_iter().map(|folder| resource(folder.trim_end_matches('/'))).flat_map(|it| [format!("{it}/"), it]).collect();
    let mut statements = Vec::new();
    if !names.is_empty() {
        statements.push(statement("ReadParameters", "ssm:GetParameters", names.into_iter().collect()));
    }
    if !folders.is_empty() {
        statements.push(statement("ReadFolders", "ssm:GetParametersByPath", folders.into_iter().collect()));
    }
    statements.extend(decrypt(aws, "ssm", kms_keys));
    statements
}

fn has_suffix(arn: &str) -> bool {
    arn.rsplit_once('-').is_some_and(|(_, end)| end.len() == 6 && end.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn decrypt(aws: &AwsSettings, service: &str, kms_keys: &[String]) -> Option<Value> {
    let via = format!("{service}.{}.amazonaws.com", aws.region);
    let condition = json!({ "StringEquals": { "kms:ViaService": via } });
    let statement =
        json!({ "Sid": "Decrypt", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": kms_keys, "Condition": condition });
    (!kms_keys.is_empty()).then_some(statement)
}

/// What a token may do for itself. Part of Vault's `default` policy; written out for roles that go without it.
const OWN_TOKEN: [(&str, &str); 4] = [
    ("auth/token/lookup-self", "read"),
    ("auth/token/renew-self", "update"),
    ("auth/token/revoke-self", "update"),
    ("sys/capabilities-self", "update"),
];

fn acl(
    source: &SourceName,
    vault: &VaultSettings,
    paths: BTreeSet<&str>,
    [rotated, by_source]: [&BTreeSet<&str>; 2],
    lends: bool,
) -> Result<String, String> {
    let mut rules: Vec<(String, &[&str])> = Vec::new();
    let mut leased = false;
    for path in paths {
        // In a policy `*` at the end is any rest, and `+` is any one segment.
        if path.ends_with('*') || path.split('/').any(|segment| segment == "+") {
            return Err(format!("{path}: a policy of Vault cannot name this path alone: `*` and `+` stand for others in it"));
        }
        match (path.strip_prefix('/'), vault.kv_version) {
            (Some(path), _) => {
                rules.push((path.to_owned(), &["read"]));
                match rotates_at(&format!("/{path}")) {
                    Some(rotates_at) if by_source.contains(format!("/{path}").as_str()) => rules.push((rotates_at, &["update"])),
                    Some(_) => {}
                    None => leased = true,
                }
            }
            (None, 1) => rules.push((format!("{}/{path}", vault.mount), &["read"])),
            (None, _) => {
                let mount = &vault.mount;
                let is_rotated = rotated.contains(path);
                rules.push((format!("{mount}/data/{path}"), if is_rotated { &["read", "update"] } else { &["read"] }));
                rules.push((format!("{mount}/metadata/{path}"), &["read"]));
                if is_rotated {
                    rules.push((format!("{mount}/data/{path}{BESIDE}"), &["create", "read", "update"]));
                    rules.push((format!("{mount}/metadata/{path}{BESIDE}"), &["delete"]));
                }
            }
        }
    }
    rules.extend(OWN_TOKEN.iter().map(|(path, capability)| ((*path).to_owned(), std::slice::from_ref(capability))));
    if leased {
        rules.extend(["sys/leases/renew", "sys/leases/lookup"].map(|path| (path.to_owned(), &["update"][..])));
    }
    if lends {
        // To end what was made for a session with it.
        rules.push(("sys/leases/revoke".into(), &["update"]));
    }
    let namespace = vault.namespace.as_ref().map(|namespace| format!(", in namespace {namespace}")).unwrap_or_default();
    let rules: Vec<_> = rules
        .iter()
        .map(|(path, all)| format!("path {} {{\n  capabilities = [\"{}\"]\n}}\n", quoted(path), all.join("\", \"")))
        .collect();
    Ok(format!("# source {source}{namespace}\n{}", rules.join("\n")))
}

/// As a string of HCL 1, which policies are written in.
fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}

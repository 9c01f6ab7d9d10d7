//! AWS Secrets Manager, against moto.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use aws_sdk_secretsmanager::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    primitives::Blob,
};
use valetkey::source::{aws::Settings, aws_secrets_manager::AwsSecretsManager};

use super::*;
use crate::servers::Server;

/// A source, and the file with its keys.
pub struct Fixture<S> {
    pub source: S,
    pub folder: tempfile::TempDir,
}

impl<S> Fixture<S> {
    pub fn new(port: u16, key: &str, secret_key: &str, make: impl FnOnce(Settings) -> S) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let fixture = Self { source: make(settings(port, file)), folder };
        fixture.log_in_with(key, secret_key);
        fixture
    }

    /// Puts other keys in the place of these, as one should: by a new file.
    pub fn log_in_with(&self, key: &str, secret_key: &str) {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret_key}\n");
        std::fs::write(self.folder.path().join("new"), text).unwrap();
        std::fs::set_permissions(self.folder.path().join("new"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(self.folder.path().join("new"), self.folder.path().join("credentials")).unwrap();
    }
}

fn source(port: u16, key: &str, secret_key: &str) -> Fixture<AwsSecretsManager> {
    Fixture::new(port, key, secret_key, |settings| AwsSecretsManager::new(settings).unwrap())
}

pub fn settings(port: u16, credentials_file: PathBuf) -> Settings {
    Settings {
        region: "eu-west-1".into(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        credentials_file: Some(credentials_file),
        concurrency: 4,
        ..Settings::default()
    }
}

fn any(port: u16) -> Fixture<AwsSecretsManager> {
    source(port, "AKIAMARKER", "marker-secret-key")
}

pub fn owner(server: &Server) -> Client {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKIAOWNER", "owner", None, None, "test"))
        .endpoint_url(server.url());
    Client::from_conf(config.build())
}

/// Makes a secret; its ARN.
pub async fn create(server: &Server, name: &str, value: &str) -> String {
    owner(server).create_secret().name(name).secret_string(value).send().await.unwrap().arn.unwrap()
}

/// How many batch and single reads were sent.
fn calls(seen: &servers::Seen) -> (usize, usize) {
    (seen.count("secretsmanager.BatchGetSecretValue\r\n"), seen.count("secretsmanager.GetSecretValue\r\n"))
}

#[tokio::test]
async fn by_name_and_arn_whole_and_in_part() {
    let moto = servers::moto();
    let (port, seen) = servers::proxy(moto.port);
    let arn = create(moto, "whole/mcp", r#"{"key":"marker-key","db":{"pass":"marker-pass"}}"#).await;
    let partial = &arn[..arn.len() - 7];
    assert!(partial.ends_with(":secret:whole/mcp"), "{arn}");
    let binary = owner(moto).create_secret().name("whole/binary").secret_binary(Blob::new([0, 255, 1])).send().await.unwrap();

    let source = any(port);
    let found = fetch(
        &source.source,
        &[
            wanted("name", "whole/mcp", None),
            wanted("arn", &arn, Some("key")),
            wanted("partial", partial, Some("/db/pass")),
            wanted("missing-field", partial, Some("/db/none")),
            wanted("an-object", &arn, Some("db")),
            wanted("binary", "whole/binary", None),
        ],
    )
    .await;
    assert_value(&found["name"], br#"{"key":"marker-key","db":{"pass":"marker-pass"}}"#);
    assert_value(&found["arn"], b"marker-key");
    assert_value(&found["partial"], b"marker-pass");
    assert_value(&found["binary"], &[0, 255, 1]);
    assert_eq!(found["binary"].as_ref().unwrap().version.as_str(), binary.version_id().unwrap());
    for name in ["missing-field", "an-object"] {
        assert_eq!(found[name].as_ref().unwrap_err().cause, Cause::BadField);
    }
    // Six wishes for two secrets: one call.
    assert_eq!(calls(&seen.lock().unwrap()), (1, 0));

    for id in [&*arn, partial, "whole/mcp"] {
        assert_value(&fetch_one(&source.source, id, Some("key")).await, b"marker-key");
    }
    let found = fetch(&source.source, &[wanted("arn", &arn, Some("key")), wanted("partial", partial, None)]).await;
    assert_value(&found["arn"], b"marker-key");
    assert!(found["partial"].is_ok());
    assert_eq!(calls(&seen.lock().unwrap()), (1, 4), "an ARN and its beginning are read once");
}

#[tokio::test]
async fn a_new_version_is_seen() {
    let moto = servers::moto();
    create(moto, "versions", "marker-1").await;
    let source = any(moto.port);
    let first = fetch_one(&source.source, "versions", None).await.unwrap().version;
    owner(moto).put_secret_value().secret_id("versions").secret_string("marker-2").send().await.unwrap();
    let second = fetch_one(&source.source, "versions", None).await;
    assert_value(&second, b"marker-2");
    assert_ne!(second.unwrap().version, first);
}

#[tokio::test]
async fn missing_deleted_and_empty() {
    let moto = servers::moto();
    create(moto, "gone/here", "marker").await;
    create(moto, "gone/deleted", "marker").await;
    owner(moto).delete_secret().secret_id("gone/deleted").recovery_window_in_days(7).send().await.unwrap();
    owner(moto).create_secret().name("gone/no-version").send().await.unwrap();
    let source = any(moto.port);
    let all = [
        wanted("here", "gone/here", None),
        wanted("missing", "gone/missing", None),
        wanted("missing-arn", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:gone/missing-AbCdEf", None),
        wanted("deleted", "gone/deleted", None),
    ];
    let check = |mut found: Outcomes| {
        assert_value(&found["here"], b"marker");
        assert_failed(found.remove("missing").unwrap(), Cause::NotFound, "ResourceNotFoundException");
        assert_failed(found.remove("missing-arn").unwrap(), Cause::NotFound, "ResourceNotFoundException");
        assert_failed(found.remove("deleted").unwrap(), Cause::Refused, "marked for deletion");
        found
    };
    check(fetch(&source.source, &all).await);
    // moto fails the whole batch because of a secret without a value: the others are read one by one.
    let all: Vec<_> = all.into_iter().chain([wanted("no-version", "gone/no-version", None)]).collect();
    let mut found = check(fetch(&source.source, &all).await);
    assert_failed(found.remove("no-version").unwrap(), Cause::NotFound, "has no value");
}

#[tokio::test]
async fn a_thousand_secrets_in_fifty_calls() {
    let moto = servers::moto();
    let owner = owner(moto);
    for chunk in (0..1000).collect::<Vec<_>>().chunks(8) {
        let made =
            chunk.iter().map(|i| owner.create_secret().name(format!("many/{i}")).secret_string(format!("marker-{i}")).send());
        for made in futures_util::future::join_all(made).await {
            made.unwrap();
        }
    }
    let (port, seen) = servers::proxy(moto.port);
    let all: Vec<_> = (0..1000).map(|i| wanted(&format!("s{i}"), &format!("many/{i}"), None)).collect();
    let started = std::time::Instant::now();
    let found = fetch(&any(port).source, &all).await;
    println!("1,000 secrets in {:?}", started.elapsed());
    for i in 0..1000 {
        assert_value(&found[&format!("s{i}")], format!("marker-{i}").as_bytes());
    }
    assert_eq!(calls(&seen.lock().unwrap()), (50, 0));
    let known = known(&all, &found);
    let source = any(port);
    let checked = check(&source.source, &known).await;
    assert!(checked.values().all(|outcome| matches!(outcome, Ok(Checked::Read(_)))));
    assert_eq!(calls(&seen.lock().unwrap()), (100, 0), "a check makes as many");
    assert_eq!(source.source.check_size(), 20);
    for known in known.chunks(20).take(3) {
        check(&source.source, known).await;
    }
    assert_eq!(calls(&seen.lock().unwrap()), (103, 0));
}

fn at(stage: &str, secret: &str, path: &str) -> Wanted {
    Wanted { stage: Some(stage.into()), ..wanted(secret, path, None) }
}

#[tokio::test]
async fn versions_by_stage() {
    let moto = servers::moto();
    let (owner, arn) = (owner(moto), create(moto, "stages/one", "marker-1").await);
    let put = async |value: &str, stages: &[&str]| {
        let call = owner.put_secret_value().secret_id("stages/one").secret_string(value);
        let stages = stages.iter().map(|stage| stage.to_string()).collect();
        call.set_version_stages(Some(stages)).send().await.unwrap();
    };
    put("marker-2", &["AWSCURRENT"]).await;
    put("marker-3", &["AWSPENDING"]).await;
    put("marker-4", &["canary"]).await;
    let (port, seen) = servers::proxy(moto.port);
    let source = any(port);
    let all = [
        wanted("now", "stages/one", None),
        at("AWSCURRENT", "current", "stages/one"),
        at("AWSPREVIOUS", "previous", "stages/one"),
        at("AWSPENDING", "pending", "stages/one"),
        at("canary", "canary", "stages/one"),
        at("canary", "by-arn", &arn),
        at("none", "no-stage", "stages/one"),
        at("AWSPREVIOUS", "no-secret", "stages/none"),
    ];
    let assert_all = |found: &mut Outcomes| {
        for (name, value) in [
            ("now", "marker-2"),
            ("current", "marker-2"),
            ("previous", "marker-1"),
            ("pending", "marker-3"),
            ("canary", "marker-4"),
            ("by-arn", "marker-4"),
        ] {
            assert_value(&found[name], value.as_bytes());
        }
        assert_failed(found.remove("no-stage").unwrap(), Cause::NotFound, "no version of it has the stage none");
        assert_failed(found.remove("no-secret").unwrap(), Cause::NotFound, "no such secret");
    };
    assert_all(&mut fetch(&source.source, &all).await);
    assert_eq!(calls(&seen.lock().unwrap()), (0, 7), "the current one is read once for two");

    let known: Vec<_> = all.iter().map(|wanted| Known { wanted: wanted.clone(), version: 1.into() }).collect();
    let read = |outcome| match outcome {
        Ok(Checked::Read(read)) => Ok(read),
        Ok(same) => panic!("{same:?}"),
        Err(error) => Err(error),
    };
    let mut checked = check(&source.source, &known).await.into_iter().map(|(name, outcome)| (name, read(outcome))).collect();
    assert_all(&mut checked);
}

#[tokio::test]
async fn a_check_stops_where_nobody_answers() {
    let (port, seen) = servers::answering(|_| servers::json("503 Oops", "<marker>"));
    let source = Fixture::new(port, "AKIAMARKER", "marker-secret-key", |settings| {
        AwsSecretsManager::new(Settings { concurrency: 1, ..settings }).unwrap()
    });
    let all = (0..100).map(|i| match i % 2 {
        0 => wanted(&format!("s{i}"), &format!("s{i}"), None),
        _ => at("AWSPENDING", &format!("s{i}"), &format!("s{i}")),
    });
    let known: Vec<_> = all.map(|wanted| Known { wanted, version: 1.into() }).collect();
    for outcome in check(&source.source, &known).await.into_values() {
        assert_eq!(outcome.unwrap_err().cause, Cause::Unreachable);
    }
    assert_eq!(calls(&seen.lock().unwrap()), (3, 0), "one call, tried three times");
}

#[tokio::test]
async fn limits_that_aws_has() {
    let moto = servers::moto();
    create(moto, "limits/fits", &"m".repeat(65_536)).await;
    create(moto, "limits/over", &"m".repeat(65_537)).await;
    let (port, seen) = servers::proxy(moto.port);
    let mut found = fetch(
        &any(port).source,
        &[
            wanted("fits", "limits/fits", None),
            wanted("over", "limits/over", None),
            wanted("long", &"x".repeat(2049), None),
            wanted("space", "a b", None),
            wanted("empty", "", None),
        ],
    )
    .await;
    assert!(found["fits"].is_ok());
    assert_failed(found.remove("over").unwrap(), Cause::BadAnswer, "larger than any secret");
    assert_failed(found.remove("long").unwrap(), Cause::NotFound, "2,048");
    assert_failed(found.remove("space").unwrap(), Cause::NotFound, "space");
    assert_failed(found.remove("empty").unwrap(), Cause::NotFound, "empty");
    assert_eq!(calls(&seen.lock().unwrap()), (1, 0));
}

#[tokio::test]
async fn our_own_secret_is_not_given_for_another_accounts() {
    let moto = servers::moto();
    let ours = create(moto, "accounts/same", "marker").await;
    let theirs = ours.replace(":123456789012:", ":999999999999:");
    assert_ne!(ours, theirs);
    let partial = &theirs[..theirs.len() - 7];
    let all = [("name", "accounts/same"), ("ours", &ours), ("theirs", &theirs), ("partial", partial)]
        .map(|(s, id)| wanted(s, id, None));
    let (port, seen) = servers::proxy(moto.port);
    let mut found = fetch(&any(port).source, &all).await;
    assert_value(&found["name"], b"marker");
    assert_value(&found["ours"], b"marker");
    assert_failed(found.remove("theirs").unwrap(), Cause::NotFound, "no such secret");
    // moto takes the name out of a partial ARN and gives our own secret. That is not what was asked for.
    assert_failed(found.remove("partial").unwrap(), Cause::BadAnswer, "another secret");
    assert_eq!(calls(&seen.lock().unwrap()), (0, 3));
}

#[tokio::test]
async fn connections_end_with_the_fetch() {
    let body = r#"{"Name":"a","VersionId":"v","SecretString":"marker"}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let (port, seen) = servers::listener(&format!("{head}{body}"));
    let source = any(port);
    assert_value(&fetch_one(&source.source, "a", None).await, b"marker");
    servers::wait_until("the connections to be closed", || seen.lock().unwrap().open == 0).await;
    assert_eq!(seen.lock().unwrap().connections, 1);
}

/// A user of moto's IAM, allowed these actions: access key and secret key. Three calls.
pub fn user(server: &Server, name: &str, actions: &str) -> (String, String) {
    let statement = format!(r#"{{"Effect":"Allow","Resource":"*","Action":[{actions}]}}"#);
    server.aws_user(name, &format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#))
}

#[tokio::test]
async fn what_policy_denies_is_refused_and_a_denied_batch_is_read_one_by_one() {
    let moto = servers::start_moto(Some(9));
    for name in ["iam/a", "iam/b", "iam/c"] {
        create(&moto, name, "marker").await;
    }
    let (single_key, single_secret) = user(&moto, "single", r#""secretsmanager:GetSecretValue""#);
    let (nobody_key, nobody_secret) = user(&moto, "nobody", r#""s3:GetObject""#);
    let (port, seen) = servers::proxy(moto.port);
    let all = ["iam/a", "iam/b", "iam/c"].map(|name| wanted(name, name, None));

    let found = fetch(&source(port, &single_key, &single_secret).source, &all).await;
    found.values().for_each(|outcome| assert_value(outcome, b"marker"));
    assert_eq!(calls(&seen.lock().unwrap()), (1, 3));

    for outcome in fetch(&source(port, &nobody_key, &nobody_secret).source, &all).await.into_values() {
        assert_failed(outcome, Cause::Refused, "HTTP 403");
    }
    for outcome in fetch(&source(port, &single_key, "marker-wrong").source, &all).await.into_values() {
        assert_failed(outcome, Cause::Refused, "HTTP 403");
    }
    assert_failed(
        fetch_one(&source(port, "AKIAUNKNOWN", "marker-wrong").source, "iam/a", None).await,
        Cause::Refused,
        "HTTP 403",
    );
}

#[tokio::test]
async fn answers_that_are_none() {
    let answer = |status: &str, body: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\n");
        servers::listener(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).0
    };
    for (status, body, cause, words) in [
        ("400 Bad Request", r#"{"__type":"ThrottlingException","message":"marker"}"#, Cause::Unreachable, "limits the rate"),
        ("500 Oops", r#"{"__type":"InternalServiceError","Message":"marker"}"#, Cause::Unreachable, "failed inside"),
        ("503 Oops", "<marker>", Cause::Unreachable, "HTTP 503"),
        ("403 Forbidden", "<html>marker", Cause::BadAnswer, "what stands between"),
        ("403 Forbidden", r#"{"error":"marker"}"#, Cause::BadAnswer, "HTTP 403"),
        ("403 Forbidden", r#"{"code":"marker"}"#, Cause::BadAnswer, "HTTP 403"),
        ("404 Not Found", "<html>marker", Cause::BadAnswer, "HTTP 404"),
        ("401 Unauthorized", "marker", Cause::BadAnswer, "HTTP 401"),
        ("403 Forbidden", r#"{"__type":"AccessDeniedException","Message":"marker"}"#, Cause::Refused, "allow secretsmanager:"),
        ("403 Forbidden\r\nx-amzn-RequestId: r-1", r#"{"__type":"NewInAWS","message":"marker"}"#, Cause::Refused, "NewInAWS"),
        ("403 Forbidden", "<ErrorResponse><Error><Code>AccessDenied</Code></Error>marker", Cause::Refused, "AccessDenied"),
        ("400 Bad Request", r#"{"__type":"RequestTimeTooSkewed","message":"marker"}"#, Cause::Unreachable, "clock is wrong"),
        (
            "400 Bad Request",
            r#"{"__type":"InvalidSignatureException","message":"Signature expired: 20260101 marker"}"#,
            Cause::Unreachable,
            "clock is wrong",
        ),
        (
            "400 Bad Request",
            r#"{"__type":"InvalidSignatureException","message":"Signature not yet current: marker"}"#,
            Cause::Unreachable,
            "clock is wrong",
        ),
        (
            "400 Bad Request",
            r#"{"__type":"InvalidSignatureException","message":"marker"}"#,
            Cause::Refused,
            "secret key is wrong",
        ),
        ("400 Bad Request", r#"{"__type":"ExpiredTokenException","message":"marker"}"#, Cause::Refused, "no longer, valid"),
        ("400 Bad Request", r#"{"__type":"DecryptionFailure","Message":"marker"}"#, Cause::Refused, "kms:Decrypt"),
        ("400 Bad Request", r#"{"__type":"marker marker","Message":"marker"}"#, Cause::BadAnswer, "HTTP 400"),
        ("200 OK", "marker", Cause::BadAnswer, "not one of AWS"),
        ("200 OK", r#"{"Name":"a","SecretString":"marker"}"#, Cause::BadAnswer, "version id"),
        ("200 OK", r#"{"Name":"a","VersionId":"v","SecretString":""}"#, Cause::BadField, "is empty"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "marker", Cause::BadAnswer, "HTTP 302"),
    ] {
        let source = any(answer(status, body));
        assert_failed(fetch_one(&source.source, "a", None).await, cause, words);
        let both = fetch(&source.source, &[wanted("x", "a", None), wanted("y", "b", None)]).await;
        assert!(both.values().all(|outcome| outcome.is_err()), "{status} {body}");
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_we_are() {
    let source = any(servers::free_port());
    for outcome in fetch(&source.source, &[wanted("a", "a", None), wanted("b", "b", None)]).await.into_values() {
        assert_failed(outcome, Cause::Unreachable, "no connection");
    }
    let folder = tempfile::tempdir().unwrap();
    let nobody = AwsSecretsManager::new(settings(servers::moto().port, folder.path().join("none"))).unwrap();
    assert_eq!(nobody.login().unwrap().method, "credentials-file");
    assert_failed(fetch_one(&nobody, "a", None).await, Cause::Unreachable, "credentials");
    assert!(AwsSecretsManager::new(Settings { region: "eu west".into(), ..settings(1, PathBuf::new()) }).is_err());
}

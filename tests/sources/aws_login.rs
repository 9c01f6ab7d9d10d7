//! How the sources of AWS log in, against moto, which keeps accounts apart by the role that was taken.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use aws_sdk_secretsmanager::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use valetkey::source::{
    aws::{Role, Settings},
    aws_secrets_manager::AwsSecretsManager,
};

use super::{
    aws::{Fixture, create, settings, user},
    *,
};
use crate::servers::Server;

fn source(port: u16, change: impl FnOnce(&mut Settings)) -> Fixture<AwsSecretsManager> {
    Fixture::new(port, "AKIAMARKER", "marker-secret-key", |mut settings| {
        change(&mut settings);
        AwsSecretsManager::new(settings).unwrap()
    })
}

fn role(account: &str, sts: u16) -> Option<Role> {
    let arn = format!("arn:aws:iam::{account}:role/valetkey");
    Some(Role { arn, external_id: Some("of-example-com".into()), sts_endpoint: Some(format!("http://127.0.0.1:{sts}")) })
}

/// Takes a role of another account: access key, secret key and session token.
fn take(server: &Server, account: &str) -> [String; 3] {
    let arn = format!("arn:aws:iam::{account}:role/owner");
    let body = format!("Action=AssumeRole&Version=2011-06-15&RoleSessionName=owner&RoleArn={arn}");
    let scope = "AWS4-HMAC-SHA256 Credential=AKIAOWNER/20260101/us-east-1/sts/aws4_request, SignedHeaders=host, Signature=0";
    let headers = [("Authorization", scope), ("Content-Type", "application/x-www-form-urlencoded")];
    let (status, answer) = servers::http(server.port, "POST", "/", &headers, &body).unwrap();
    assert_eq!(status, 200, "{answer}");
    ["AccessKeyId", "SecretAccessKey", "SessionToken"]
        .map(|tag| answer.split_once(&format!("<{tag}>")).unwrap().1.split_once("</").unwrap().0.to_owned())
}

/// The owner of another account.
async fn owner_of(server: &Server, account: &str) -> Client {
    let [key, secret_key, token] = take(server, account);
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new(key, secret_key, Some(token), None, "test"))
        .endpoint_url(server.url());
    Client::from_conf(config.build())
}

#[tokio::test]
async fn two_accounts_side_by_side() {
    let moto = servers::moto();
    create(moto, "login/same", "marker-ours").await;
    let theirs = owner_of(moto, "222222222222").await;
    theirs.create_secret().name("login/same").secret_string("marker-theirs").send().await.unwrap();

    let (sts, seen) = servers::proxy(moto.port);
    let (own, other) = (source(moto.port, |_| {}), source(moto.port, |settings| settings.role = role("222222222222", sts)));
    for _ in 0..20 {
        let wanted = [wanted("it", "login/same", None)];
        let (ours, theirs) = futures_util::join!(fetch(&own.source, &wanted), fetch(&other.source, &wanted));
        assert_value(&ours["it"], b"marker-ours");
        assert_value(&theirs["it"], b"marker-theirs");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.count("Action=AssumeRole"), 1, "a role is taken once for many fetches");
    assert_eq!(seen.count("ExternalId=of-example-com"), 1);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(seen.count(&format!("RoleSessionName=valetkey-{host}")), 1);

    let facts = other.source.login().unwrap();
    assert_eq!((facts.method, facts.problem), ("role", None));
    let (expires, renews) = (facts.expires.unwrap(), facts.renews.unwrap());
    assert!(renews < expires && renews > SystemTime::now(), "{renews:?} {expires:?}");
    let counts = other.source.calls().unwrap().counts();
    assert_eq!(counts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["AssumeRole", "GetSecretValue"]);
    let facts = own.source.login().unwrap();
    assert_eq!((facts.method, facts.expires), ("credentials-file", None));
}

#[tokio::test]
async fn many_at_once_take_a_role_once() {
    let moto = servers::moto();
    let theirs = owner_of(moto, "333333333333").await;
    theirs.create_secret().name("login/flight").secret_string("marker").send().await.unwrap();
    let (sts, seen) = servers::proxy(moto.port);
    let source = source(moto.port, |settings| settings.role = role("333333333333", sts));
    let all = (0..10).map(|_| fetch_one(&source.source, "login/flight", None));
    for outcome in futures_util::future::join_all(all).await {
        assert_value(&outcome, b"marker");
    }
    assert_eq!(seen.lock().unwrap().count("Action=AssumeRole"), 1);
    servers::wait_until("the connections to STS to be closed", || seen.lock().unwrap().open == 0).await;
}

fn sts_answer(left: Duration) -> String {
    sts_answer_with(&["ASIAMARKER", "marker", "marker"].map(String::from), left)
}

fn sts_answer_with([key, secret_key, token]: &[String; 3], left: Duration) -> String {
    let expires: aws_sdk_secretsmanager::primitives::DateTime = (SystemTime::now() + left).into();
    let expires = expires.fmt(aws_sdk_secretsmanager::primitives::DateTimeFormat::DateTime).unwrap();
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey><SessionToken>{token}</SessionToken>\
         <Expiration>{expires}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    );
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn what_runs_out_is_replaced_before() {
    let moto = servers::moto();
    create(moto, "login/short", "marker").await;
    for (left, taken) in [(3600, 1), (0, 3)] {
        let (sts, seen) = servers::listener(&sts_answer(Duration::from_secs(left)));
        let source = source(moto.port, |settings| settings.role = role("123456789012", sts));
        fetch_one(&source.source, "none", None).await.unwrap_err();
        let first = seen.lock().unwrap().count("Action=AssumeRole");
        for _ in 1..3 {
            fetch_one(&source.source, "none", None).await.unwrap_err();
        }
        let all = seen.lock().unwrap().count("Action=AssumeRole");
        assert!(all == taken * first, "{left} s: {first} at first, {all} in all");
    }
}

#[tokio::test]
async fn a_role_that_is_not_given() {
    let answer = |status: &str, body: &str| {
        servers::listener(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    };
    let denied = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                  <Code>AccessDenied</Code><Message>marker</Message></Error><RequestId>r-1</RequestId></ErrorResponse>";
    let all = [wanted("a", "a", None), wanted("b", "b", None)];
    for (status, body, cause, words) in [
        ("403 Forbidden", denied, Cause::Refused, "sts:AssumeRole"),
        ("403 Forbidden", "<html>marker", Cause::BadAnswer, "AWS STS"),
        ("503 Oops", "marker", Cause::Unreachable, "AWS STS"),
    ] {
        let (sts, _) = answer(status, body);
        let (api, called) = servers::listener("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let source = source(api, |settings| settings.role = role("123456789012", sts));
        for outcome in fetch(&source.source, &all).await.into_values() {
            assert_failed(outcome, cause, words);
        }
        assert_eq!(called.lock().unwrap().connections, 0, "nothing is asked without credentials");
        let facts = source.source.login().unwrap();
        assert_eq!((facts.problem.map(|problem| problem.cause), facts.expires), (Some(cause), None));
    }
}

#[tokio::test]
async fn keys_that_are_replaced_are_picked_up() {
    let moto = servers::start_moto(Some(4));
    create(&moto, "login/keys", "marker").await;
    let (key, secret_key) = user(&moto, "reader", r#""secretsmanager:*""#);
    let (port, seen) = servers::proxy(moto.port);
    let reads = || seen.lock().unwrap().count("secretsmanager.GetSecretValue\r\n");
    let source = source(port, |_| {});

    // The same keys are no fresh ones: the refusal stands at once.
    assert_failed(fetch_one(&source.source, "login/keys", None).await, Cause::Refused, "no longer, valid");
    assert_eq!(reads(), 1);
    source.log_in_with(&key, &secret_key);
    assert_value(&fetch_one(&source.source, "login/keys", None).await, b"marker");
    assert_eq!(reads(), 2);
    source.log_in_with(&key, "marker-wrong");
    assert_failed(fetch_one(&source.source, "login/keys", None).await, Cause::Refused, "secret key is wrong");
    source.log_in_with(&key, &secret_key);
    assert_value(&fetch_one(&source.source, "login/keys", None).await, b"marker");
    assert_eq!(reads(), 4);
}

/// As when a role's session is revoked: what is kept is good by its date, and AWS does not know it.
#[tokio::test]
async fn what_aws_does_not_know_is_replaced_and_the_call_made_again() {
    let good = r#"{"Name":"a","VersionId":"v","SecretString":"marker"}"#;
    let moto = servers::moto();
    for (refusals, outcome) in [(0, true), (1, true), (2, false)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let (api, _) = servers::answering(move |_| match counted.fetch_add(1, SeqCst) {
            n if n < refusals => servers::json("400 Bad Request", r#"{"__type":"ExpiredTokenException","message":"marker"}"#),
            _ => servers::json("200 OK", good),
        });
        let (sts, seen) = servers::proxy(moto.port);
        let source = source(api, |settings| settings.role = role("444444444444", sts));
        let found = fetch_one(&source.source, "a", None).await;
        match outcome {
            true => assert_value(&found, b"marker"),
            false => assert_failed(found, Cause::Refused, "no longer, valid"),
        }
        assert_eq!(seen.lock().unwrap().count("Action=AssumeRole"), 1 + usize::from(refusals > 0));
        assert_eq!(asked.load(SeqCst), refusals + usize::from(outcome));
    }
}

#[tokio::test]
async fn another_file_of_the_sdk_is_looked_at_too() {
    let moto = servers::moto();
    create(moto, "login/watched", "marker").await;
    let folder = tempfile::tempdir().unwrap();
    let watched = folder.path().join("config");
    let (sts, seen) = servers::proxy(moto.port);
    let source = source(moto.port, |settings| {
        settings.watched = vec![watched.clone()];
        settings.role = role("123456789012", sts);
    });
    for (text, taken) in [(None, 1), (Some("[default]\n"), 2), (None, 2), (Some("[default]\nregion = x\n"), 3)] {
        if let Some(text) = text {
            std::fs::write(&watched, text).unwrap();
        }
        assert_value(&fetch_one(&source.source, "login/watched", None).await, b"marker");
        assert_eq!(seen.lock().unwrap().count("Action=AssumeRole"), taken);
    }
}

/// Fetches and checks at once: the bound is on all of them together.
#[tokio::test]
async fn calls_in_flight_stay_within_the_bound() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (in_flight, peak) = (now.clone(), most.clone());
    let (api, seen) = servers::answering(move |_| {
        peak.fetch_max(in_flight.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        in_flight.fetch_sub(1, SeqCst);
        servers::json("400 Bad Request", r#"{"__type":"ResourceNotFoundException","message":"marker"}"#)
    });
    let source = source(api, |settings| settings.concurrency = 3);
    let all: Vec<_> =
        (0..30).map(|i| Wanted { stage: Some("S".into()), ..wanted(&format!("s{i}"), &format!("s{i}"), None) }).collect();
    let known: Vec<_> = all.iter().map(|wanted| Known { wanted: wanted.clone(), version: 1.into() }).collect();
    futures_util::join!(fetch(&source.source, &all), check(&source.source, &known), fetch(&source.source, &all));
    assert_eq!(seen.lock().unwrap().count("secretsmanager.GetSecretValue\r\n"), 90);
    assert_eq!(most.load(SeqCst), 3);
    assert_eq!(now.load(SeqCst), 0);
}

#[tokio::test]
async fn what_the_source_asks_for_is_passed_on() {
    let (api, _) = servers::answering(|_| {
        servers::json("400 Bad Request\r\nRetry-After: 7", r#"{"__type":"ThrottlingException","message":"marker"}"#)
    });
    let source = source(api, |_| {});
    let error = fetch_one(&source.source, "a", None).await.unwrap_err();
    assert_eq!((error.cause, error.retry_after), (Cause::Unreachable, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn nothing_of_a_login_is_shown() {
    let moto = servers::moto();
    let source = source(moto.port, |settings| settings.role = role("555555555555", moto.port));
    fetch_one(&source.source, "login/none", None).await.unwrap_err();
    assert!(source.source.login().unwrap().expires.is_some());
    assert!(!format!("{:?}", source.source).contains("marker"));
}

/// As when a role's session is revoked while STS cannot be reached: that says nothing of any secret.
#[tokio::test]
async fn a_refusal_does_not_stand_while_there_is_nothing_newer_to_show() {
    let (api, _) =
        servers::answering(|_| servers::json("400 Bad Request", r#"{"__type":"ExpiredTokenException","message":"marker"}"#));
    let logins = AtomicUsize::new(0);
    let good = sts_answer(Duration::from_secs(3600));
    let (sts, _) = servers::answering(move |_| match logins.fetch_add(1, SeqCst) {
        0 => good.clone(),
        _ => "HTTP/1.1 503 Oops\r\nContent-Length: 0\r\n\r\n".into(),
    });
    let source = source(api, |settings| settings.role = role("123456789012", sts));
    assert_failed(fetch_one(&source.source, "a", None).await, Cause::Unreachable, "AWS STS");
}

/// While new credentials cannot be had, those that are good for a while yet are used.
#[tokio::test]
async fn a_login_that_fails_early_does_not_matter_yet() {
    let moto = servers::moto();
    let theirs = owner_of(moto, "666666666666").await;
    theirs.create_secret().name("login/early").secret_string("marker").send().await.unwrap();
    let taken = take(moto, "666666666666");
    let (logins, answer) = (Arc::new(AtomicUsize::new(0)), sts_answer_with(&taken, Duration::from_secs(6)));
    let counted = logins.clone();
    let (sts, _) = servers::answering(move |_| match counted.fetch_add(1, SeqCst) {
        0 => answer.clone(),
        _ => "HTTP/1.1 503 Oops\r\nContent-Length: 0\r\n\r\n".into(),
    });
    let source = source(moto.port, |settings| settings.role = role("666666666666", sts));
    assert_value(&fetch_one(&source.source, "login/early", None).await, b"marker");
    tokio::time::sleep(Duration::from_millis(3200)).await;
    let (first, second) =
        futures_util::join!(fetch_one(&source.source, "login/early", None), fetch_one(&source.source, "login/early", None));
    // One of the two looked for new ones, which takes a while; the other went on with the old.
    assert!([first, second].iter().any(Result::is_ok));
    assert!(logins.load(SeqCst) > 1);
    assert_eq!(source.source.login().unwrap().problem.unwrap().cause, Cause::Unreachable);
}

#[tokio::test]
async fn keys_that_others_can_read_are_not_used() {
    let moto = servers::moto();
    let source = source(moto.port, |_| {});
    std::fs::set_permissions(source.folder.path().join("credentials"), PermissionsExt::from_mode(0o644)).unwrap();
    assert_failed(fetch_one(&source.source, "a", None).await, Cause::Refused, "chmod 600");
}

const PORT: &str = "VALETKEY_TEST_AWS_PORT";

/// Not a test on its own: what the SDK takes from the environment is for a process as a whole.
#[tokio::test]
async fn as_the_environment_says() {
    let Ok(port) = std::env::var(PORT) else { return };
    let mut settings = settings(port.parse().unwrap(), PathBuf::new());
    settings.credentials_file = None;
    settings.profile = std::env::var("VALETKEY_TEST_AWS_PROFILE").ok();
    let source = AwsSecretsManager::new(settings).unwrap();
    let found = fetch_one(&source, "login/environment", None).await;
    let value = found.map(|fetched| fetched.value.expose(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    let words = value.unwrap_or_else(|error| error.to_string());
    println!("\nfound by {}: {words}", source.login().unwrap().method);
}

#[tokio::test]
async fn the_chain_of_the_sdk_and_its_profiles() {
    let moto = servers::moto();
    create(moto, "login/environment", "marker-ours").await;
    let theirs = owner_of(moto, "777777777777").await;
    theirs.create_secret().name("login/environment").secret_string("marker-theirs").send().await.unwrap();
    let (denied, asked) = servers::answering(|_| {
        let body = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                    <Code>AccessDenied</Code><Message>marker</Message></Error></ErrorResponse>";
        format!("HTTP/1.1 403 Forbidden\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let folder = tempfile::tempdir().unwrap();
    let keys = "[default]\naws_access_key_id = AKIAMARKER\naws_secret_access_key = marker\n";
    std::fs::write(folder.path().join("credentials"), keys).unwrap();
    let role = "[profile other]\nrole_arn = arn:aws:iam::777777777777:role/valetkey\nsource_profile = default\n";
    std::fs::write(folder.path().join("config"), role).unwrap();
    for (profile, sts, words) in [
        (None, moto.port, "found by default: marker-ours"),
        (Some("other"), moto.port, "found by profile: marker-theirs"),
        // It is STS who refuses, and not the secret's own store: `endpoint` is not for that.
        (Some("other"), denied, "found by profile: refused: AWS refuses: let the role's trust policy"),
        (Some("none"), moto.port, "found by profile: unreachable: this host has no credentials"),
    ] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["aws_login::as_the_environment_says", "--exact", "--nocapture"]);
        command.env("AWS_SHARED_CREDENTIALS_FILE", folder.path().join("credentials"));
        command.env("AWS_CONFIG_FILE", folder.path().join("config")).env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ENDPOINT_URL_STS", format!("http://127.0.0.1:{sts}")).env(PORT, moto.port.to_string());
        command.envs(profile.map(|profile| ("VALETKEY_TEST_AWS_PROFILE", profile)));
        let said = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(words), "{profile:?}: {said}");
    }
    assert_eq!(asked.lock().unwrap().count("Action=AssumeRole"), 1);
}

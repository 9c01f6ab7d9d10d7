//! AWS Systems Manager Parameter Store, against moto.

use std::sync::{Arc, Mutex};

use aws_sdk_ssm::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::ParameterType,
};
use valetkey::source::{aws_parameter_store::AwsParameterStore, aws_secrets_manager::AwsSecretsManager};

use super::{
    aws::{Fixture, user},
    *,
};
use crate::servers::Server;

fn source(port: u16) -> Fixture<AwsParameterStore> {
    Fixture::new(port, "AKIAMARKER", "marker-secret-key", |settings| AwsParameterStore::new(settings).unwrap())
}

fn owner(server: &Server) -> Client {
    let config = aws_sdk_ssm::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKIAOWNER", "owner", None, None, "test"))
        .endpoint_url(server.url());
    Client::from_conf(config.build())
}

/// Makes a parameter, or gives it a new version; the number of that.
async fn put(server: &Server, name: &str, value: &str) -> i64 {
    put_as(server, name, value, ParameterType::SecureString).await
}

async fn put_as(server: &Server, name: &str, value: &str, kind: ParameterType) -> i64 {
    owner(server).put_parameter().name(name).value(value).r#type(kind).overwrite(true).send().await.unwrap().version
}

/// How many calls by name and by folder were sent.
fn calls(seen: &Arc<Mutex<servers::Seen>>) -> (usize, usize) {
    let seen = seen.lock().unwrap();
    (seen.count("AmazonSSM.GetParameters\r\n"), seen.count("AmazonSSM.GetParametersByPath\r\n"))
}

/// How many of them asked for decryption.
fn decrypted(seen: &Arc<Mutex<servers::Seen>>) -> usize {
    seen.lock().unwrap().count("\"WithDecryption\":true")
}

#[tokio::test]
async fn by_name_version_label_and_arn() {
    let moto = servers::moto();
    put(moto, "/whole/db", r#"{"user":"marker-user","pass":"marker-1"}"#).await;
    put(moto, "/whole/db", r#"{"user":"marker-user","pass":"marker-2"}"#).await;
    put(moto, "/whole/db", r#"{"user":"marker-user","pass":"marker-3"}"#).await;
    put_as(moto, "whole-plain", "marker-plain", ParameterType::String).await;
    put_as(moto, "/whole/list", "marker-a,marker-b", ParameterType::StringList).await;
    owner(moto).label_parameter_version().name("/whole/db").parameter_version(2).labels("live").send().await.unwrap();
    let (port, seen) = servers::proxy(moto.port);
    let source = source(port);
    let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/whole/db";
    let found = fetch(
        &source.source,
        &[
            wanted("now", "/whole/db", Some("pass")),
            wanted("user", "/whole/db", Some("user")),
            wanted("first", "/whole/db:1", Some("pass")),
            wanted("live", "/whole/db:live", Some("pass")),
            wanted("arn", arn, Some("pass")),
            wanted("plain", "whole-plain", None),
            wanted("list", "/whole/list", None),
        ],
    )
    .await;
    for (name, value, version) in [
        ("now", "marker-3", "3"),
        ("user", "marker-user", "3"),
        ("first", "marker-1", "1"),
        ("live", "marker-2", "2"),
        ("arn", "marker-3", "3"),
        ("plain", "marker-plain", "1"),
        ("list", "marker-a,marker-b", "1"),
    ] {
        assert_value(&found[name], value.as_bytes());
        assert_eq!(found[name].as_ref().unwrap().version.as_str(), version, "{name}");
    }
    // Four of them name one parameter, and stand in a call each: an answer does not say which of them it is for.
    assert_eq!(calls(&seen), (4, 0));
}

#[tokio::test]
async fn what_is_not_there_and_what_cannot_be() {
    let moto = servers::moto();
    put(moto, "/gone/here", "marker").await;
    let (port, seen) = servers::proxy(moto.port);
    let mut found = fetch(
        &source(port).source,
        &[
            wanted("here", "/gone/here", None),
            wanted("missing", "/gone/missing", None),
            wanted("version", "/gone/here:9", None),
            wanted("label", "/gone/here:none", None),
            wanted("folder", "/gone/folder/", None),
            wanted("space", "/gone/a b", None),
            wanted("long", &format!("/{}", "x".repeat(1011)), None),
            wanted("deep", &"/x".repeat(16), None),
            wanted("other-store", "/aws/reference/secretsmanager/x", None),
        ],
    )
    .await;
    assert_value(&found["here"], b"marker");
    for (name, words) in [
        ("missing", "no such parameter"),
        ("version", "no such version or label"),
        ("label", "no such version or label"),
        ("folder", "no parameter below"),
        ("space", "character"),
        ("long", "1,011"),
        ("deep", "15 levels"),
        ("other-store", "AWS Secrets Manager"),
    ] {
        assert_failed(found.remove(name).unwrap(), Cause::NotFound, words);
    }
    let seen = seen.lock().unwrap();
    assert_eq!((seen.count("a b"), seen.count("/x/x")), (0, 0), "what AWS would refuse is not sent to it");
}

#[tokio::test]
async fn a_folder_is_one_object() {
    let moto = servers::moto();
    for i in 0..23 {
        put(moto, &format!("/folder/many/p{i}"), &format!("marker \"{i}\"\n")).await;
    }
    put(moto, "/folder/many/deep/er", "marker-deep").await;
    put(moto, "/folder/manymore", "marker-other").await;
    let (port, seen) = servers::proxy(moto.port);
    let source = source(port);
    let all = [
        wanted("one", "/folder/many/", Some("p7")),
        wanted("deep", "/folder/many/", Some("deep/er")),
        wanted("whole", "/folder/many/", None),
        wanted("none", "/folder/many/", Some("p99")),
    ];
    let mut found = fetch(&source.source, &all).await;
    assert_value(&found["one"], b"marker \"7\"\n");
    assert_value(&found["deep"], b"marker-deep");
    assert_failed(found.remove("none").unwrap(), Cause::BadField, "is not in it");
    found["whole"].as_ref().unwrap().value.expose(|bytes| {
        let object: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(object.as_object().unwrap().len(), 24);
        assert_eq!(object["p22"], "marker \"22\"\n");
    });
    assert_eq!(calls(&seen), (0, 3), "24 parameters on pages of ten");

    let known = known(&all[..3], &found);
    for outcome in check(&source.source, &known).await.into_values() {
        assert!(matches!(outcome, Ok(Checked::Same { .. })), "{outcome:?}");
    }
    assert_eq!((calls(&seen), decrypted(&seen)), ((0, 6), 3));
    for change in 0..3 {
        match change {
            0 => drop(put(moto, "/folder/many/p3", "marker-new").await),
            1 => drop(put(moto, "/folder/many/p30", "marker-30").await),
            _ => drop(owner(moto).delete_parameter().name("/folder/many/p30").send().await.unwrap()),
        }
        let checked = check(&source.source, &known).await;
        let Ok(Checked::Read(read)) = &checked["whole"] else { panic!("{checked:?}") };
        assert_ne!(read.version, known[0].version);
    }
}

#[tokio::test]
async fn a_check_reads_what_changed_and_decrypts_nothing_else() {
    let moto = servers::moto();
    for name in ["a", "b", "c"] {
        put(moto, &format!("/check/{name}"), "marker-1").await;
    }
    let (port, seen) = servers::proxy(moto.port);
    let source = source(port);
    let all = ["a", "b", "c"].map(|name| wanted(name, &format!("/check/{name}"), None));
    let known = known(&all, &fetch(&source.source, &all).await);
    assert_eq!((calls(&seen), decrypted(&seen)), ((1, 0), 1));

    put(moto, "/check/b", "marker-2").await;
    // Made again: version 1, as before.
    owner(moto).delete_parameter().name("/check/c").send().await.unwrap();
    put(moto, "/check/c", "marker-again").await;
    let mut checked = check(&source.source, &known).await;
    assert!(matches!(checked["a"], Ok(Checked::Same { .. })));
    for (name, value, version) in [("b", "marker-2", "2"), ("c", "marker-again", "1")] {
        let Ok(Checked::Read(read)) = checked.remove(name).unwrap() else { panic!("{name} is another one") };
        assert_eq!(read.version.as_str(), version);
        assert_value(&Ok(read), value.as_bytes());
    }
    assert_eq!((calls(&seen), decrypted(&seen)), ((3, 0), 2), "one without decryption, and one for the two that changed");

    owner(moto).delete_parameter().name("/check/a").send().await.unwrap();
    let gone = check(&source.source, &known).await.remove("a").unwrap().unwrap_err();
    assert_eq!(gone.cause, Cause::NotFound);
}

#[tokio::test]
async fn a_thousand_parameters_in_a_hundred_calls() {
    let moto = servers::moto();
    let owner = owner(moto);
    for chunk in (0..1000).collect::<Vec<_>>().chunks(8) {
        let made = chunk.iter().map(|i| {
            let call = owner.put_parameter().name(format!("/thousand/{i}")).value(format!("marker-{i}"));
            call.r#type(ParameterType::SecureString).send()
        });
        for made in futures_util::future::join_all(made).await {
            made.unwrap();
        }
    }
    let (port, seen) = servers::proxy(moto.port);
    let source = source(port);
    let all: Vec<_> = (0..1000).map(|i| wanted(&format!("s{i}"), &format!("/thousand/{i}"), None)).collect();
    let started = std::time::Instant::now();
    let found = fetch(&source.source, &all).await;
    println!("1,000 parameters in {:?}", started.elapsed());
    for i in 0..1000 {
        assert_value(&found[&format!("s{i}")], format!("marker-{i}").as_bytes());
    }
    assert_eq!((calls(&seen), decrypted(&seen)), ((100, 0), 100));
    let checked = check(&source.source, &known(&all, &found)).await;
    assert!(checked.values().all(|outcome| matches!(outcome, Ok(Checked::Same { .. }))));
    assert_eq!((calls(&seen), decrypted(&seen)), ((200, 0), 100));
    assert_eq!(source.source.check_size(), 10);
}

#[tokio::test]
async fn what_policy_denies_is_refused_and_spoils_nothing_else() {
    let moto = servers::start_moto(Some(6));
    for name in ["a", "b", "c"] {
        put(&moto, &format!("/iam/{name}"), "marker").await;
    }
    let (key, secret_key) = user(&moto, "nobody", r#""s3:GetObject""#);
    let source = source(moto.port);
    source.log_in_with(&key, &secret_key);
    let all = ["a", "b", "c"].map(|name| wanted(name, &format!("/iam/{name}"), None));
    for outcome in fetch(&source.source, &all).await.into_values() {
        assert_failed(outcome, Cause::Refused, "ssm:GetParameters");
    }
}

/// One parameter that may not be read, or whose key may not be used, makes AWS refuse all ten.
#[tokio::test]
async fn one_that_spoils_a_call_is_told_apart() {
    let (port, seen) = servers::answering(|request| {
        let request = String::from_utf8_lossy(request).into_owned();
        let names: Vec<_> = ["/s/a", "/s/b", "/s/c"].into_iter().filter(|name| request.contains(name)).collect();
        match names.contains(&"/s/b") {
            true => servers::json("400 Bad Request", r#"{"__type":"InvalidKeyId","message":"marker"}"#),
            false => {
                let one = |name: &&str| format!(r#"{{"Name":"{name}","Value":"marker","Version":4}}"#);
                let all = names.iter().map(one).collect::<Vec<_>>().join(",");
                servers::json("200 OK", &format!(r#"{{"Parameters":[{all}],"InvalidParameters":[]}}"#))
            }
        }
    });
    let all = ["a", "b", "c"].map(|name| wanted(name, &format!("/s/{name}"), None));
    let mut found = fetch(&source(port).source, &all).await;
    assert_value(&found["a"], b"marker");
    assert_value(&found["c"], b"marker");
    assert_failed(found.remove("b").unwrap(), Cause::Refused, "kms:Decrypt");
    assert_eq!(calls(&seen), (4, 0));
}

#[tokio::test]
async fn answers_that_are_none() {
    let fetched = async |body: &str, path: &str| {
        let answer = servers::json("200 OK", body);
        fetch_one(&source(servers::answering(move |_| answer.clone()).0).source, path, None).await
    };
    for (body, path, cause, words) in [
        (r#"{"Parameters":[{"Name":"/b","Value":"marker","Version":1}]}"#, "/a", Cause::BadAnswer, "not for this parameter"),
        (r#"{"Parameters":[{"Name":"/a","Value":"marker","Version":-1}]}"#, "/a", Cause::BadAnswer, "version number"),
        (r#"{"Parameters":[{"Name":"/a","Value":"marker","Version":3}]}"#, "/a:2", Cause::BadAnswer, "another version"),
        (r#"{"Parameters":[{"Name":"/a","Value":"","Version":3}]}"#, "/a", Cause::BadField, "is empty"),
        (r#"{"Parameters":[{"Name":"/b/x","Value":"marker","Version":3}]}"#, "/a/", Cause::BadAnswer, "another folder"),
        (r#"{"Parameters":[],"NextToken":"again"}"#, "/a/", Cause::BadAnswer, "again and again"),
        ("<html>marker", "/a", Cause::BadAnswer, "not one of AWS"),
    ] {
        assert_failed(fetched(body, path).await, cause, words);
    }
}

#[tokio::test]
async fn a_check_stops_where_nobody_answers() {
    let (port, seen) =
        servers::answering(|_| servers::json("500 Oops", r#"{"__type":"InternalServerError","message":"marker"}"#));
    let source = Fixture::new(port, "AKIAMARKER", "marker-secret-key", |mut settings| {
        settings.concurrency = 1;
        AwsParameterStore::new(settings).unwrap()
    });
    let all: Vec<_> = (0..50).map(|i| wanted(&format!("s{i}"), &format!("/p/{i}"), None)).collect();
    let known: Vec<_> = all.iter().map(|wanted| Known { wanted: wanted.clone(), version: 1.into() }).collect();
    for outcome in check(&source.source, &known).await.into_values() {
        assert_eq!(outcome.unwrap_err().cause, Cause::Unreachable);
    }
    assert_eq!(calls(&seen), (3, 0), "one call, tried three times");
}

#[tokio::test]
async fn connections_end_with_the_read() {
    let moto = servers::moto();
    put(moto, "/ends/a", "marker").await;
    let (port, seen) = servers::proxy(moto.port);
    let source = source(port);
    let all = [wanted("a", "/ends/a", None)];
    let known = known(&all, &fetch(&source.source, &all).await);
    check(&source.source, &known).await;
    servers::wait_until("the connections to be closed", || seen.lock().unwrap().open == 0).await;
    assert_eq!(seen.lock().unwrap().connections, 2);
}

/// A throttled source waits; the one beside it does not notice.
#[tokio::test]
async fn sources_do_not_slow_each_other() {
    let moto = servers::moto();
    super::aws::create(moto, "slow/beside", "marker").await;
    let (port, _) =
        servers::answering(|_| servers::json("400 Bad Request", r#"{"__type":"ThrottlingException","message":"marker"}"#));
    let throttled = source(port);
    assert_failed(fetch_one(&throttled.source, "/a", None).await, Cause::Unreachable, "limits the rate");
    let beside = Fixture::new(moto.port, "AKIAMARKER", "marker", |settings| AwsSecretsManager::new(settings).unwrap());
    let began = std::time::Instant::now();
    assert_value(&fetch_one(&beside.source, "slow/beside", None).await, b"marker");
    let took = began.elapsed();
    // What was learnt outlives the client: the next call waits for its turn.
    let began = std::time::Instant::now();
    assert_failed(fetch_one(&throttled.source, "/a", None).await, Cause::Unreachable, "limits the rate");
    assert!(took < began.elapsed(), "{took:?} {:?}", began.elapsed());
    println!("the next fetch of a throttled source took {:?}", began.elapsed());
}

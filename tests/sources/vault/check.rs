//! Checks of what is known, by the cheapest calls.

use super::{
    token::{allow, role},
    *,
};

pub fn known(wanted: &Wanted, version: &str) -> Known {
    Known { wanted: wanted.clone(), version: version.parse().unwrap() }
}

#[track_caller]
pub fn assert_same(outcome: &Result<Checked, SourceError>) {
    assert!(matches!(outcome, Ok(Checked::Same { .. })), "{outcome:?}");
}

#[track_caller]
pub fn assert_read(outcome: Result<Checked, SourceError>, value: &[u8]) -> Fetched {
    match outcome {
        Ok(Checked::Read(fetched)) => {
            fetched.value.expose(|bytes| assert!(bytes == value, "another value: {:?}", String::from_utf8_lossy(bytes)));
            fetched
        }
        other => panic!("not read: {other:?}"),
    }
}

#[track_caller]
fn assert_lost(outcome: Result<Checked, SourceError>, cause: Cause, words: &str) {
    let error = outcome.map(|_| ()).unwrap_err();
    assert!(error.cause == cause && error.detail.contains(words), "{error}");
}

#[tokio::test]
async fn what_is_the_same_is_not_read() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    let login = role(server, folder.path(), "checked", r#""token_ttl":"1h""#);
    let source = vault(Settings { login, ..settings(port) });
    let all: Vec<_> = (0..50).map(|i| wanted(&format!("s{i}"), &format!("checked/{i}"), None)).collect();
    all.iter().for_each(|wanted| put(server, &wanted.path, r#"{"value":"marker-app"}"#));
    fetch(&source, &all).await;
    let versions: Vec<_> = all.iter().map(|wanted| known(wanted, "1")).collect();
    assert_eq!(source.check_size(), 50);
    let count = |text: &str| seen.lock().unwrap().count(text);
    let reads = count("GET /v1/secret/data/");
    let made = |operation: &str| {
        let counts = source.calls().unwrap().counts();
        counts.iter().find(|(name, _)| *name == operation).map_or(0, |(_, counts)| counts.latency.count())
    };
    let values = || seen.lock().unwrap().count_answered("marker-app");
    assert_eq!(values(), 50);
    check(&source, &versions).await.values().for_each(assert_same);
    assert_eq!(values(), 50, "no value crossed the wire");
    assert_eq!(count("GET /v1/secret/metadata/checked/"), 50);
    assert_eq!(count("POST /v1/sys/capabilities-self"), 1);
    assert_eq!(count("GET /v1/secret/data/"), reads, "nothing is read");
    assert_eq!((made("GET kv/metadata"), made("POST sys/capabilities-self"), made("GET kv/data")), (50, 1, 50));

    // One is new, one is deleted, one is gone.
    put(server, "checked/1", r#"{"value":"marker-new"}"#);
    server.vault("DELETE", "secret/data/checked/2", "");
    server.vault("DELETE", "secret/metadata/checked/3", "");
    let mut found = check(&source, &versions).await;
    assert_eq!(assert_read(found.remove("s1").unwrap(), b"marker-new").version.as_str(), "2");
    assert_lost(found.remove("s2").unwrap(), Cause::Refused, "is deleted");
    assert_lost(found.remove("s3").unwrap(), Cause::NotFound, "no such secret");
    found.values().for_each(assert_same);

    // The policy lost `read`: the metadata would not tell.
    allow(server, "checked", &["list"]);
    let logins = count("/login HTTP");
    for _ in 0..3 {
        for outcome in check(&source, &versions).await.into_values() {
            assert_lost(outcome, Cause::Refused, "no longer has `read`");
        }
    }
    assert_eq!(count("/login HTTP"), logins, "no login for what a policy refuses");
    assert_eq!(count("GET /v1/auth/token/lookup-self"), 0);
}

#[tokio::test]
async fn without_metadata_a_check_reads() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "bare/app", r#"{"value":"marker-app"}"#);
    let login = role(server, folder.path(), "bare", r#""token_ttl":"1h""#);
    let policy = r#"{"policy":"path \"secret/data/bare/*\" { capabilities = [\"read\"] }"}"#;
    server.vault("POST", "sys/policies/acl/bare", policy);
    let source = vault(Settings { login, ..settings(port) });
    let app = wanted("app", "bare/app", None);
    fetch(&source, std::slice::from_ref(&app)).await;
    let known = [known(&app, "1")];
    for _ in 0..3 {
        assert_read(check(&source, &known).await.remove("app").unwrap(), b"marker-app");
    }
    let count = |text: &str| seen.lock().unwrap().count(text);
    assert_eq!((count("GET /v1/secret/metadata/"), count("GET /v1/secret/data/")), (0, 4));

    // A token that may not even ask what it may do.
    server.vault("POST", "auth/bare/role/r", r#"{"token_no_default_policy":true}"#);
    let source = vault(Settings { login: app_role_login("bare", "the-role", folder.path().join("bare")), ..settings(port) });
    fetch(&source, std::slice::from_ref(&app)).await;
    let before = count("POST /v1/sys/capabilities-self");
    for _ in 0..3 {
        assert_read(check(&source, &known).await.remove("app").unwrap(), b"marker-app");
    }
    assert_eq!(count("POST /v1/sys/capabilities-self"), before + 1, "it is remembered");
}

#[tokio::test]
async fn version_1_is_read() {
    let server = servers::openbao();
    server.vault("POST", "sys/mounts/kv1-checked", r#"{"type":"kv","options":{"version":"1"}}"#);
    server.vault("POST", "kv1-checked/app", r#"{"value":"marker-app"}"#);
    let source = vault(Settings { engine: Engine::V1, mount: "kv1-checked".into(), ..settings(server.port) });
    let app = wanted("app", "app", None);
    assert_read(check(&source, &[known(&app, "1")]).await.remove("app").unwrap(), b"marker-app");
}

#[tokio::test]
async fn an_unreachable_store_is_asked_once() {
    let (port, seen) = servers::listener("HTTP/1.1 503 Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let source = vault(Settings { concurrency: 1, ..settings(port) });
    let all: Vec<_> = (0..20).map(|i| known(&wanted(&format!("s{i}"), &format!("app/{i}"), None), "1")).collect();
    for outcome in check(&source, &all).await.into_values() {
        assert_lost(outcome, Cause::Unreachable, "cannot answer now");
    }
    assert_eq!(seen.lock().unwrap().connections, 1);
}

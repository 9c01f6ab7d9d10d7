//! The life of a token: kept, renewed, replaced, given back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::servers::Seen;

/// An AppRole in a mount of its own with this body, a policy that reads `secret/data/NAME/*`, and its login.
pub fn role(server: &Server, folder: &Path, name: &str, body: &str) -> Login {
    server.vault("POST", &format!("sys/auth/{name}"), r#"{"type":"approle"}"#);
    allow(server, name, &["read"]);
    server.vault("POST", &format!("auth/{name}/role/r"), &format!(r#"{{"token_policies":"{name}",{body}}}"#));
    server.vault("POST", &format!("auth/{name}/role/r/role-id"), r#"{"role_id":"the-role"}"#);
    let secret_id = format!("marker-secret-id-{name}");
    let body = format!(r#"{{"secret_id":"{secret_id}"}}"#);
    server.vault("POST", &format!("auth/{name}/role/r/custom-secret-id"), &body);
    app_role_login(name, "the-role", private(folder, name, &secret_id))
}

/// What the role's policy allows on its data; metadata may be read.
pub fn allow(server: &Server, name: &str, capabilities: &[&str]) {
    let capabilities = capabilities.join(r#"\", \""#);
    let policy = format!(
        r#"path \"secret/data/{name}/*\" {{ capabilities = [\"{capabilities}\"] }} path \"secret/metadata/{name}/*\" {{ capabilities = [\"read\"] }}"#
    );
    server.vault("POST", &format!("sys/policies/acl/{name}"), &format!(r#"{{"policy":"{policy}"}}"#));
}

fn count(seen: &Arc<Mutex<Seen>>, text: &str) -> usize {
    seen.lock().unwrap().count(text)
}

const LOGIN: &str = "/login HTTP";
const RENEW: &str = "POST /v1/auth/token/renew-self";
const LOOKUP: &str = "GET /v1/auth/token/lookup-self";

async fn keep_for(source: &Vault, time: Duration) {
    let _ = tokio::time::timeout(time, source.keep()).await;
}

#[tokio::test]
async fn a_short_lived_token_is_renewed() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "renewed/app", r#"{"value":"marker-app"}"#);
    let login = role(server, folder.path(), "renewed", r#""token_ttl":"3s","token_max_ttl":"1h""#);
    let source = vault(Settings { login, ..settings(port) });
    assert_value(&fetch_one(&source, "renewed/app", None).await, b"marker-app");
    let facts = source.login().unwrap();
    assert_eq!((facts.method, facts.problem), ("approle", None));
    assert!(facts.renews.unwrap() < facts.expires.unwrap());
    let made = || source.calls().unwrap().counts().iter().map(|(_, counts)| counts.latency.count()).sum::<u64>() as usize;
    // A call that is cut short is not counted: let one that is under way be answered.
    let answered = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        for _ in 0..100 {
            if made() == count(&seen, RENEW) + 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = source.keep() => unreachable!(),
        () = answered => {}
    }
    assert_value(&fetch_one(&source, "renewed/app", None).await, b"marker-app");
    let renewals = count(&seen, RENEW);
    assert!((4..=6).contains(&renewals), "{renewals} renewals in 7 s of a token of 3 s");
    assert_eq!((count(&seen, LOGIN), count(&seen, LOOKUP)), (1, 0));
    assert_eq!(made(), renewals + 3, "all calls are counted");
    source.close().await;
}

#[tokio::test]
async fn a_new_login_before_the_longest_life_ends() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "replaced/app", r#"{"value":"marker-app"}"#);
    let login = role(server, folder.path(), "replaced", r#""token_ttl":"3s","token_max_ttl":"5s""#);
    let source = vault(Settings { login, ..settings(port) });
    let reads = async {
        for _ in 0..60 {
            assert_value(&fetch_one(&source, "replaced/app", None).await, b"marker-app");
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    tokio::select! {
        () = source.keep() => unreachable!(),
        () = reads => {}
    }
    let logins = count(&seen, LOGIN);
    assert!((2..=5).contains(&logins), "{logins} logins in 9 s of tokens of 5 s");
    assert!(count(&seen, RENEW) >= 2);
    // A machine that stands still for a second may let one run out between its look and its use.
    assert!(count(&seen, LOOKUP) <= 1, "reads were refused");
}

#[tokio::test]
async fn fifty_who_need_a_token_make_one_login() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "fifty/app", r#"{"value":"marker-app"}"#);
    let login = role(server, folder.path(), "fifty", r#""token_ttl":"2s","token_max_ttl":"1h""#);
    let source = vault(Settings { login, ..settings(port) });
    for logins in 1..=2 {
        // Those who give up take nothing along.
        for _ in 0..5 {
            let _ = tokio::time::timeout(Duration::from_micros(300), fetch_one(&source, "fifty/app", None)).await;
        }
        let all = (0..50).map(|_| fetch_one(&source, "fifty/app", None));
        for outcome in futures_util::future::join_all(all).await {
            assert_value(&outcome, b"marker-app");
        }
        let made = count(&seen, LOGIN);
        assert!((logins..=logins * 6).contains(&made), "{made} logins");
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let before = count(&seen, LOGIN);
    futures_util::future::join_all((0..50).map(|_| fetch_one(&source, "fifty/app", None))).await;
    assert_eq!(count(&seen, LOGIN), before + 1);
}

#[tokio::test]
async fn a_token_revoked_from_outside_is_replaced_once() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..8).map(|i| format!("outside/{i}")).collect();
    paths.iter().for_each(|path| put(server, path, r#"{"value":"marker-app"}"#));
    let login = role(server, folder.path(), "outside", r#""token_ttl":"1h""#);
    let source = vault(Settings { login, ..settings(port) });
    let all: Vec<_> = paths.iter().enumerate().map(|(i, path)| wanted(&format!("s{i}"), path, None)).collect();
    fetch(&source, &all).await.values().for_each(|outcome| assert_value(outcome, b"marker-app"));
    server.vault("POST", "sys/leases/revoke-prefix/auth/outside/login", "");
    fetch(&source, &all).await.values().for_each(|outcome| assert_value(outcome, b"marker-app"));
    assert_eq!((count(&seen, LOGIN), count(&seen, LOOKUP)), (2, 1));
    // A policy that does not allow the path is no reason to log in.
    for _ in 0..5 {
        let mut found = fetch(&source, &[wanted("mine", "outside/1", None), wanted("other", "forbidden/x", None)]).await;
        assert_value(&found["mine"], b"marker-app");
        assert_failed(found.remove("other").unwrap(), Cause::Refused, "reading is refused");
    }
    assert_eq!((count(&seen, LOGIN), count(&seen, LOOKUP)), (2, 6));
    // When the way in is closed too, that is a refusal.
    server.vault("DELETE", "auth/outside/role/r", "");
    server.vault("POST", "sys/leases/revoke-prefix/auth/outside/login", "");
    for _ in 0..5 {
        for outcome in fetch(&source, &all).await.into_values() {
            assert_failed(outcome, Cause::Refused, "the AppRole login at auth/outside: refused");
        }
    }
    assert_eq!(count(&seen, LOGIN), 3, "a refused login is not tried again at once");
    assert!(source.login().unwrap().problem.is_some());
}

#[tokio::test]
async fn a_token_file_is_renewed_and_read_again() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "filed/app", r#"{"value":"marker-app"}"#);
    allow(server, "filed", &["read"]);
    let make = |id: &str| {
        let body = format!(r#"{{"id":"{id}","policies":["filed"],"period":"3s"}}"#);
        server.vault("POST", "auth/token/create", &body);
    };
    make("marker-token-1");
    let file = private(folder.path(), "token", "marker-token-1");
    let source = vault(Settings { login: Login::TokenFile(file.clone()), ..settings(port) });
    assert_value(&fetch_one(&source, "filed/app", None).await, b"marker-app");
    keep_for(&source, Duration::from_secs(5)).await;
    assert!((3..=5).contains(&count(&seen, RENEW)), "{} renewals", count(&seen, RENEW));
    assert_value(&fetch_one(&source, "filed/app", None).await, b"marker-app");
    make("marker-token-2");
    fs::write(&file, "marker-token-2").unwrap();
    assert_value(&fetch_one(&source, "filed/app", None).await, b"marker-app");
    assert!(count(&seen, "marker-token-2") >= 2);
    server.vault("POST", "auth/token/revoke", r#"{"token":"marker-token-2"}"#);
    assert_failed(fetch_one(&source, "filed/app", None).await, Cause::Refused, "the token is wrong or has run out");
    make("marker-token-3");
    fs::write(&file, "marker-token-3").unwrap();
    assert_value(&fetch_one(&source, "filed/app", None).await, b"marker-app");
    source.close().await;
    assert_eq!(count(&seen, "revoke-self"), 0);
}

#[tokio::test]
async fn two_sources_have_nothing_in_common() {
    let server = servers::openbao();
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<_> = ["mine", "yours"]
        .iter()
        .map(|name| {
            put(server, &format!("{name}/app"), &format!(r#"{{"value":"marker-{name}"}}"#));
            vault(Settings { login: role(server, folder.path(), name, r#""token_ttl":"1h""#), ..settings(server.port) })
        })
        .collect();
    assert_value(&fetch_one(&sources[0], "mine/app", None).await, b"marker-mine");
    assert_value(&fetch_one(&sources[1], "yours/app", None).await, b"marker-yours");
    assert_failed(fetch_one(&sources[0], "yours/app", None).await, Cause::Refused, "reading is refused");
    sources[0].close().await;
    assert_value(&fetch_one(&sources[1], "yours/app", None).await, b"marker-yours");
}

/// A token that is given is the same after each look at its file, and what hangs on it stands.
#[tokio::test]
async fn a_token_that_is_not_renewable_is_looked_at_again() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "ending/app", r#"{"value":"marker-app"}"#);
    allow(server, "ending", &["read"]);
    let body = r#"{"id":"marker-ending","policies":["ending"],"ttl":"5s","renewable":false}"#;
    server.vault("POST", "auth/token/create", body);
    let file = private(folder.path(), "token", "marker-ending");
    let source = vault(Settings { login: Login::TokenFile(file), ..settings(port) });
    assert_value(&fetch_one(&source, "ending/app", None).await, b"marker-app");
    keep_for(&source, Duration::from_secs(7)).await;
    assert_eq!(count(&seen, RENEW), 0);
    assert!((2..=7).contains(&count(&seen, LOOKUP)), "{} questions", count(&seen, LOOKUP));
    assert_failed(fetch_one(&source, "ending/app", None).await, Cause::Refused, "the token is wrong or has run out");
}

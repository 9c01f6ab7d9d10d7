//! The key-value engines of the Vault API, against OpenBao.

mod check;
mod lease;
mod login;
mod token;

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use valetkey::source::vault::{Engine, Login, SecretIds, Settings, Vault};

use super::*;
use crate::servers::{ROOT_TOKEN, Server};

fn settings(port: u16) -> Settings {
    Settings {
        address: format!("http://127.0.0.1:{port}"),
        namespace: None,
        login: Login::Token(ROOT_TOKEN.into()),
        mount: "secret".into(),
        engine: Engine::V2,
        ca_file: None,
        client_certificate: None,
        concurrency: 4,
        secret_ids: SecretIds::default(),
    }
}

fn vault(settings: Settings) -> Vault {
    Vault::new(settings).unwrap()
}

fn put(server: &Server, path: &str, data: &str) {
    server.vault("POST", &format!("secret/data/{path}"), &format!("{{\"data\":{data}}}"));
}

fn private(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn version_2_whole_and_in_part() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    put(server, "v2/first", r#"{"value":"marker-first"}"#);
    put(server, "v2/many", r#"{"key":"marker-old"}"#);
    put(server, "v2/many", r#"{"key":"marker-\u00e9\n","deep":{"list":[1,"marker-2"]},"port":5432}"#);
    put(server, "v2/a%20space%20&%20%3F%23%252F", r#"{"value":"marker-odd"}"#);
    put(server, "v2/one-object", r#"{"value":{"a":"marker"}}"#);
    let found = fetch(
        &vault(settings(port)),
        &[
            wanted("first", "v2/first", None),
            wanted("key", "v2/many", Some("key")),
            wanted("deep", "v2/many", Some("/deep/list/1")),
            wanted("port", "v2/many", Some("port")),
            wanted("all", "v2/many", None),
            wanted("no-field", "v2/many", Some("data")),
            wanted("missing", "v2/missing", None),
            wanted("object", "v2/one-object", None),
        ],
    )
    .await;
    assert_value(&found["first"], b"marker-first");
    assert_value(&found["key"], "marker-é\n".as_bytes());
    assert_value(&found["deep"], b"marker-2");
    assert_value(&found["port"], b"5432");
    assert_value(&found["all"], "{\"deep\":{\"list\":[1,\"marker-2\"]},\"key\":\"marker-é\\n\",\"port\":5432}".as_bytes());
    assert_value(&found["object"], br#"{"value":{"a":"marker"}}"#);
    assert_eq!(found["first"].as_ref().unwrap().version.as_str(), "1");
    assert_eq!(found["all"].as_ref().unwrap().version.as_str(), "2");
    assert_eq!(found["no-field"].as_ref().unwrap_err().cause, Cause::BadField);
    assert_eq!(found["missing"].as_ref().unwrap_err().cause, Cause::NotFound);
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.count("GET /v1/secret/data/"), 4, "one call for each path");
        assert_eq!(seen.count(ROOT_TOKEN), 4);
    }
    assert_value(&fetch_one(&vault(settings(port)), "v2/a space & ?#%2F", None).await, b"marker-odd");
    for path in ["", "../sys/health", "v2/./first", "v2//first", "/", "/v2//first", "//v2"] {
        assert_failed(fetch_one(&vault(settings(port)), path, None).await, Cause::NotFound, "not the path of a secret");
    }
}

#[tokio::test]
async fn version_1() {
    let server = servers::openbao();
    server.vault("POST", "sys/mounts/kv1", r#"{"type":"kv","options":{"version":"1"}}"#);
    server.vault("POST", "kv1/app", r#"{"key":"marker-key","other":"marker"}"#);
    let v1 = |mount: &str| vault(Settings { engine: Engine::V1, mount: mount.into(), ..settings(server.port) });
    let found = fetch_one(&v1("kv1"), "app", Some("key")).await;
    assert_value(&found, b"marker-key");
    assert_eq!(found.unwrap().version.as_str(), "1");
    assert_failed(fetch_one(&v1("kv1"), "none", None).await, Cause::NotFound, "no such secret");
    // The wrong version, and a mount that is not there.
    assert_failed(fetch_one(&v1("secret"), "app", None).await, Cause::NotFound, "version 2");
    let v2 = vault(Settings { mount: "kv1".into(), ..settings(server.port) });
    assert_failed(fetch_one(&v2, "app", None).await, Cause::NotFound, "no such secret");
    assert_failed(fetch_one(&v1("nothing"), "app", None).await, Cause::NotFound, "nothing is mounted");
}

#[tokio::test]
async fn deleted_and_destroyed() {
    let server = servers::openbao();
    put(server, "gone/deleted", r#"{"value":"marker"}"#);
    put(server, "gone/destroyed", r#"{"value":"marker"}"#);
    server.vault("DELETE", "secret/data/gone/deleted", "");
    server.vault("PUT", "secret/destroy/gone/destroyed", r#"{"versions":[1]}"#);
    let source = vault(settings(server.port));
    assert_failed(fetch_one(&source, "gone/deleted", None).await, Cause::Refused, "is deleted");
    assert_failed(fetch_one(&source, "gone/destroyed", None).await, Cause::Refused, "is destroyed");
}

#[tokio::test]
async fn namespaces() {
    let server = servers::openbao();
    server.vault("POST", "sys/namespaces/team", "");
    server.vault_in("team", "POST", "sys/mounts/secret", r#"{"type":"kv","options":{"version":"2"}}"#);
    // Mounting version 2 goes on for a moment after the answer.
    let body = r#"{"data":{"value":"marker-team"}}"#;
    let headers = [("X-Vault-Token", ROOT_TOKEN), ("X-Vault-Namespace", "team")];
    while servers::http(server.port, "POST", "/v1/secret/data/ns/app", &headers, body).unwrap().0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let team = vault(Settings { namespace: Some("team".into()), ..settings(server.port) });
    assert_value(&fetch_one(&team, "ns/app", None).await, b"marker-team");
    assert_failed(fetch_one(&vault(settings(server.port)), "ns/app", None).await, Cause::NotFound, "no such secret");
}

#[tokio::test]
async fn app_role() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    put(server, "role/mine", r#"{"value":"marker-mine"}"#);
    put(server, "role/other", r#"{"value":"marker-other"}"#);
    server.vault("POST", "sys/auth/approle", r#"{"type":"approle"}"#);
    server.vault("POST", "sys/policies/acl/role", r#"{"policy":"path \"secret/data/role/mine\" { capabilities = [\"read\"] }"}"#);
    server.vault("POST", "auth/approle/role/r", r#"{"token_policies":"role","token_type":"service"}"#);
    server.vault("POST", "auth/approle/role/r/role-id", r#"{"role_id":"the-role"}"#);
    server.vault("POST", "auth/approle/role/r/custom-secret-id", r#"{"secret_id":"marker-secret-id"}"#);
    let role = |role_id: &str, secret_id: &str| {
        let secret_id_file = private(folder.path(), secret_id, &format!("{secret_id}\n"));
        vault(Settings { login: app_role_login("approle", role_id, secret_id_file), ..settings(port) })
    };
    let good = role("the-role", "marker-secret-id");
    let mut found = fetch(&good, &[wanted("mine", "role/mine", None), wanted("other", "role/other", None)]).await;
    assert_value(&found["mine"], b"marker-mine");
    assert_failed(found.remove("other").unwrap(), Cause::Refused, "secret/data/role/other: reading is refused");
    fetch(&good, &[wanted("mine", "role/mine", None)]).await;
    assert_eq!(seen.lock().unwrap().count("POST /v1/auth/approle/login"), 1, "the token is kept");
    good.close().await;
    good.close().await;
    assert_eq!(seen.lock().unwrap().count("POST /v1/auth/token/revoke-self"), 1, "the token is given back");
    assert_failed(fetch_one(&good, "role/mine", None).await, Cause::Unreachable, "closed");

    for (role_id, secret_id) in [("the-role", "marker-wrong"), ("marker-wrong", "marker-secret-id")] {
        assert_failed(
            fetch_one(&role(role_id, secret_id), "role/mine", None).await,
            Cause::Refused,
            "the AppRole login at auth/approle: refused",
        );
    }
    fs::set_permissions(folder.path().join("marker-secret-id"), Permissions::from_mode(0o644)).unwrap();
    let outcome = fetch_one(&vault(Settings { login: good_login(folder.path()), ..settings(port) }), "role/mine", None).await;
    assert_failed(outcome, Cause::Refused, "chmod 600");
}

/// The AppRole login with a secret id in a file whose name gives nothing away.
fn good_login(folder: &Path) -> Login {
    let path = folder.join("secret-id");
    fs::rename(folder.join("marker-secret-id"), &path).unwrap();
    app_role_login("approle", "the-role", path)
}

fn app_role_login(mount: &str, role_id: &str, secret_id_file: PathBuf) -> Login {
    let (mount, role_id) = (mount.into(), role_id.into());
    Login::AppRole { mount, role_id, secret_id_file, wrapped: false, delete_after_read: false }
}

#[tokio::test]
async fn tokens() {
    let server = servers::openbao();
    put(server, "token/app", r#"{"value":"marker-app"}"#);
    let folder = tempfile::tempdir().unwrap();
    let file = private(folder.path(), "token", &format!("{ROOT_TOKEN}\n"));
    let from_file = vault(Settings { login: Login::TokenFile(file.clone()), ..settings(server.port) });
    assert_value(&fetch_one(&from_file, "token/app", None).await, b"marker-app");
    // Replacing the file is enough: the next fetch reads it. It never gives back what is not its own.
    fs::write(&file, "marker-wrong").unwrap();
    assert_failed(fetch_one(&from_file, "token/app", None).await, Cause::Refused, "the token is wrong");
    for bad in ["marker\nmarker", "marker marker", "marker\u{e9}", " \n"] {
        fs::write(&file, bad).unwrap();
        assert_eq!(fetch_one(&from_file, "token/app", None).await.unwrap_err().cause, Cause::Unreachable, "it may be replaced");
        let fresh = vault(Settings { login: Login::TokenFile(file.clone()), ..settings(server.port) });
        assert_eq!(fetch_one(&fresh, "token/app", None).await.unwrap_err().cause, Cause::Refused);
    }
    fs::write(&file, ROOT_TOKEN).unwrap();
    assert_value(&fetch_one(&from_file, "token/app", None).await, b"marker-app");
    from_file.close().await;
    server.vault("GET", "auth/token/lookup-self", "");
    let settings = Settings { login: Login::Token("marker-token".into()), ..settings(server.port) };
    assert!(!format!("{settings:?} {:?}", vault(settings.clone())).contains("marker"));
}

#[tokio::test]
async fn sealed() {
    let server = servers::start_openbao();
    put(&server, "app", r#"{"value":"marker"}"#);
    let source = vault(settings(server.port));
    assert_value(&fetch_one(&source, "app", None).await, b"marker");
    server.vault("PUT", "sys/seal", "");
    assert_failed(fetch_one(&source, "app", None).await, Cause::Unreachable, "is sealed");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (thief, stolen) = servers::listener("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
    let head = format!("Location: http://127.0.0.1:{thief}/v1/secret/data/app\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (port, seen) = servers::listener(&format!("HTTP/1.1 {status}\r\n{head}"));
        assert_failed(fetch_one(&vault(settings(port)), "app", None).await, Cause::BadAnswer, "set `address` to the active node");
        assert_eq!(seen.lock().unwrap().count(ROOT_TOKEN), 1);
        let file = tempfile::tempdir().unwrap();
        let secret_id_file = private(file.path(), "secret-id", "marker-secret-id");
        let login = app_role_login("approle", "r", secret_id_file);
        let outcome = fetch_one(&vault(Settings { login, ..settings(port) }), "app", None).await;
        assert_failed(outcome, Cause::BadAnswer, "the AppRole login");
    }
    assert_eq!(stolen.lock().unwrap().connections, 0, "somebody followed a redirect");
}

#[tokio::test]
async fn answers_that_are_none() {
    for (status, body, cause, words) in [
        (200, "marker", Cause::BadAnswer, "not one of a key-value engine"),
        (200, r#"{"data":"marker"}"#, Cause::BadAnswer, "not one of a key-value engine"),
        (200, r#"{"data":{"data":{"value":"marker"},"metadata":{"version":"marker"}}}"#, Cause::BadAnswer, "key-value"),
        (200, r#"{"data":{"data":{"value":""},"metadata":{"version":1}}}"#, Cause::BadField, "is empty"),
        (200, r#"{"data":{"data":null,"metadata":{"version":1}}}"#, Cause::BadAnswer, "key-value"),
        (400, "marker", Cause::BadAnswer, "a proxy or a portal"),
        (400, r#"{"errors":["marker"]}"#, Cause::Refused, "invalid"),
        (
            400,
            r#"{"errors":["Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."]}"#,
            Cause::Unreachable,
            "being upgraded",
        ),
        (403, r#"{"errors":["marker"]}"#, Cause::Refused, "reading is refused"),
        (403, "<html>marker</html>", Cause::BadAnswer, "a proxy or a portal"),
        (403, r#"{"error":"marker"}"#, Cause::BadAnswer, "a proxy or a portal"),
        (404, "<html>marker</html>", Cause::BadAnswer, "a proxy or a portal"),
        (404, "", Cause::BadAnswer, "a proxy or a portal"),
        (404, r#"{"errors":[]}"#, Cause::NotFound, "no such secret"),
        (405, r#"{"errors":["marker"]}"#, Cause::Refused, "only written"),
        (412, "marker", Cause::Unreachable, "not caught up"),
        (429, r#"{"errors":["request path \"marker\": rate limit quota exceeded"]}"#, Cause::Unreachable, "quota"),
        (429, "", Cause::Unreachable, "standby"),
        (472, "", Cause::Unreachable, "standby"),
        (473, "", Cause::Unreachable, "standby"),
        (500, "marker", Cause::Unreachable, "HTTP 500"),
        (501, "", Cause::Unreachable, "not initialised"),
        (502, "marker", Cause::Unreachable, "proxy"),
        (503, r#"{"errors":["Vault is sealed"]}"#, Cause::Unreachable, "sealed"),
        (503, "marker", Cause::Unreachable, "cannot answer now"),
        (504, "", Cause::Unreachable, "proxy"),
    ] {
        let head = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\nContent-Length: {}", body.len());
        let (port, _) = servers::listener(&format!("{head}\r\n\r\n{body}"));
        assert_failed(fetch_one(&vault(settings(port)), "app", None).await, cause, words);
    }
    let head = "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nConnection: close\r\nContent-Length: 0";
    let (slow, _) = servers::listener(&format!("{head}\r\n\r\n"));
    let error = fetch_one(&vault(settings(slow)), "app", None).await.unwrap_err();
    assert_eq!(error.retry_after, Some(std::time::Duration::from_secs(7)));
    let (cut_off, _) = servers::listener("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"data\":\"marker");
    assert_failed(fetch_one(&vault(settings(cut_off)), "app", None).await, Cause::Unreachable, "broke");
    assert_failed(fetch_one(&vault(settings(servers::free_port())), "app", None).await, Cause::Unreachable, "Connection refused");
}

/// A listener that gives each caller the next of these answers.
fn in_turn(answers: Vec<String>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (client, answer) in listener.incoming().zip(answers) {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_node_that_catches_up() {
    let behind = "HTTP/1.1 412 Behind\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    let body = r#"{"data":{"data":{"value":"marker"},"metadata":{"version":1}}}"#;
    let good = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let source = vault(settings(in_turn(vec![behind.clone(), behind, good])));
    assert_value(&fetch_one(&source, "app", None).await, b"marker");
    let counts = source.calls().unwrap().counts();
    let (_, reads) = counts.iter().find(|(name, _)| *name == "GET kv/data").unwrap();
    assert_eq!((reads.latency.count(), reads.failed()[&Cause::Unreachable]), (3, 2));
}

#[tokio::test]
async fn no_connection_outlives_a_fetch() {
    let body = r#"{"data":{"data":{"value":"marker"},"metadata":{"version":1}}}"#;
    let (port, seen) = servers::listener(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let paths: Vec<_> = (0..8).map(|i| wanted(&format!("s{i}"), &format!("path/{i}"), None)).collect();
    fetch(&vault(settings(port)), &paths).await.values().for_each(|outcome| assert_value(outcome, b"marker"));
    servers::wait_until("the connections to be closed", || seen.lock().unwrap().open == 0).await;
    // Within the fetch they are used again: one for each call at a time, of which these settings allow four.
    let made = seen.lock().unwrap().connections;
    assert!((1..=4).contains(&made), "{made} connections");
    fetch(&vault(settings(port)), &paths[..1]).await.values().for_each(|outcome| assert_value(outcome, b"marker"));
    assert_eq!(seen.lock().unwrap().connections, made + 1, "the next fetch begins with a connection of its own");
    servers::wait_until("the connection to be closed", || seen.lock().unwrap().open == 0).await;
}

#[tokio::test]
async fn a_server_must_prove_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (server, authority) = servers::start_openbao_tls(folder.path());
    let (other_name, _) = servers::proxy_at("127.0.0.2", server.port);
    let tls = |host: &str, port: u16, ca_file: Option<PathBuf>| {
        vault(Settings { address: format!("https://{host}:{port}"), ca_file, ..settings(port) })
    };
    assert_failed(
        fetch_one(&tls("127.0.0.1", server.port, Some(authority.clone())), "app", None).await,
        Cause::NotFound,
        "no such secret",
    );
    assert_failed(fetch_one(&tls("127.0.0.1", server.port, None), "app", None).await, Cause::Unreachable, "certificate");
    assert_failed(
        fetch_one(&tls("127.0.0.2", other_name, Some(authority)), "app", None).await,
        Cause::Unreachable,
        "certificate",
    );
    let none = private(folder.path(), "none.pem", "marker");
    assert_failed(
        fetch_one(&tls("127.0.0.1", server.port, Some(none)), "app", None).await,
        Cause::Refused,
        "cannot use the certificates",
    );
}

#[test]
fn addresses_that_are_refused() {
    for (address, words) in [
        ("vault.example.com", "not a URL"),
        ("http://vault.example.com:8200", "use https"),
        ("http://127.0.0.1.example.com", "use https"),
        ("ftp://127.0.0.1", "https://"),
        ("https://user:marker@vault.example.com", "alone"),
        ("https://vault.example.com/v1", "alone"),
        ("https://vault.example.com/?x", "alone"),
    ] {
        let error = Vault::new(Settings { address: address.into(), ..settings(1) }).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("marker"), "{error}");
    }
    for address in ["https://vault.example.com", "http://localhost:8200", "http://[::1]:8200/", "http://127.0.0.1:8200"] {
        vault(Settings { address: address.into(), ..settings(1) });
    }
    assert!(Vault::new(Settings { namespace: Some("a\r\nb".into()), ..settings(1) }).is_err());
    assert!(Vault::new(Settings { mount: "../sys".into(), ..settings(1) }).is_err());
}

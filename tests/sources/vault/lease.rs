//! Credentials that an engine makes for us, and their leases: OpenBao's database engine with PostgreSQL, where that is installed.

use std::time::Duration;

use super::{
    check::{assert_same, known},
    *,
};

fn role(server: &Server, name: &str, life: &str, longest: &str) {
    let statement = r#"CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
    let body =
        format!(r#"{{"db_name":"pg","creation_statements":["{statement}"],"default_ttl":"{life}","max_ttl":"{longest}"}}"#);
    server.vault("POST", &format!("database/roles/{name}"), &body);
}

fn read(outcome: Result<Checked, SourceError>) -> Fetched {
    match outcome {
        Ok(Checked::Read(fetched)) => fetched,
        other => panic!("not read: {other:?}"),
    }
}

#[tokio::test]
async fn a_database_s_credentials() {
    let Some(postgres) = postgres::start(servers::free_port(), None) else {
        return println!("SKIP: credentials of a database: PostgreSQL is not installed");
    };
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    server.vault("POST", "sys/mounts/database", r#"{"type":"database"}"#);
    let url = format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable", postgres.port);
    let config = serde_json::json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": url,
        "username": "postgres", "password": "marker-password",
    });
    server.vault("POST", "database/config/pg", &config.to_string());
    role(server, "app", "4s", "1h");
    let login = super::token::role(server, folder.path(), "leased", r#""token_ttl":"1h""#);
    let policy = r#"{"policy":"path \"database/creds/*\" { capabilities = [\"read\"] }"}"#;
    server.vault("POST", "sys/policies/acl/leased", policy);
    let source = vault(Settings { login: login.clone(), ..settings(port) });
    let count = |text: &str| seen.lock().unwrap().count(text);
    let pair = [wanted("user", "/database/creds/app", Some("username")), wanted("word", "/database/creds/app", Some("password"))];

    let found = fetch(&source, &pair).await;
    let (user, word) = (found["user"].as_ref().unwrap(), found["word"].as_ref().unwrap());
    assert_eq!((user.version.clone(), count("GET /v1/database/creds/app")), (word.version.clone(), 1), "one lease for both");
    assert_eq!(user.version.as_str().len(), 12);
    assert!(user.check_within.unwrap() <= Duration::from_secs(2));
    let version = user.version.as_str().to_owned();
    let both = |version: &str| [known(&pair[0], version), known(&pair[1], version)];
    check(&source, &both(&version)).await.values().for_each(assert_same);
    assert_eq!((count("sys/leases/lookup HTTP"), count("sys/leases/renew HTTP")), (1, 0));
    // Due: renewed again and again, well past its first life.
    for renewals in 1..=3 {
        tokio::time::sleep(Duration::from_millis(1800)).await;
        check(&source, &both(&version)).await.values().for_each(assert_same);
        assert_eq!(count("sys/leases/renew HTTP"), renewals);
    }
    assert_eq!(count("GET /v1/database/creds/app"), 1);

    // Revoked from outside: another one, the same for both however they are asked for.
    server.vault("POST", "sys/leases/revoke-prefix/database/creds/app", "");
    let word = read(check(&source, &[known(&pair[1], &version)]).await.remove("word").unwrap());
    assert_ne!(word.version.as_str(), version);
    let user = read(check(&source, &[known(&pair[0], &version)]).await.remove("user").unwrap());
    assert_eq!(user.version, word.version);
    assert_eq!(count("GET /v1/database/creds/app"), 2);

    // With the token go its leases.
    let version = word.version.as_str().to_owned();
    server.vault("POST", "sys/leases/revoke-prefix/auth/leased/login", "");
    for outcome in check(&source, &both(&version)).await.into_values() {
        assert_ne!(read(outcome).version.as_str(), version);
    }
    assert_eq!(count("GET /v1/database/creds/app"), 3);

    // Of one that cannot be renewed further there is another before it ends.
    role(server, "short", "3s", "5s");
    let short = wanted("short", "/database/creds/short", Some("password"));
    let first = fetch(&source, std::slice::from_ref(&short)).await.remove("short").unwrap().unwrap();
    let (mut version, mut within) = (first.version, first.check_within.unwrap());
    for _ in 0..6 {
        tokio::time::sleep(within).await;
        let known = [Known { wanted: short.clone(), version: version.clone() }];
        within = match check(&source, &known).await.remove("short").unwrap().unwrap() {
            Checked::Same { check_within } => check_within.unwrap(),
            Checked::Read(fetched) => {
                version = fetched.version;
                fetched.check_within.unwrap()
            }
        };
    }
    let reads = count("GET /v1/database/creds/short");
    assert!((2..=5).contains(&reads), "{reads} reads");

    // The policy is gone: so are the credentials.
    server.vault("POST", "sys/policies/acl/leased", r#"{"policy":"path \"nothing\" { capabilities = [\"read\"] }"}"#);
    let error = check(&source, &[Known { wanted: short, version }]).await.remove("short").unwrap().unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    // What is given back takes its leases along.
    source.close().await;
    let (_, leases) =
        servers::http(server.port, "LIST", "/v1/sys/leases/lookup/database/creds/app", &[("X-Vault-Token", ROOT_TOKEN)], "")
            .unwrap();
    assert!(!leases.contains("keys"), "{leases}");
}

#[tokio::test]
async fn a_path_without_a_lease_is_read_as_it_is() {
    let server = servers::openbao();
    server.vault("POST", "sys/mounts/cubby", r#"{"type":"kv","options":{"version":"1"}}"#);
    server.vault("POST", "cubby/app", r#"{"key":"marker-app","other":"x"}"#);
    let source = vault(settings(server.port));
    let app = wanted("app", "/cubby/app", Some("key"));
    let found = fetch(&source, std::slice::from_ref(&app)).await.remove("app").unwrap();
    assert_value(&found, b"marker-app");
    assert_eq!((found.as_ref().unwrap().version.as_str(), found.as_ref().unwrap().check_within), ("1", None));
    super::check::assert_read(check(&source, &[known(&app, "1")]).await.remove("app").unwrap(), b"marker-app");
    assert_failed(fetch_one(&source, "/nothing/app", None).await, Cause::NotFound, "nothing is mounted");
    assert_failed(fetch_one(&source, "/sys/leases/renew", None).await, Cause::Refused, "only written");
    put(server, "whole/app", r#"{"value":"marker-deep"}"#);
    assert_value(&fetch_one(&source, "/secret/data/whole/app", Some("/data/value")).await, b"marker-deep");
}

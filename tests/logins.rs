//! Callers over the network who prove themselves by a token: one that an operator issued, or one of an identity provider, which is a real
//! OpenBao here.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/remote.rs"]
mod remote;
#[path = "support/servers.rs"]
mod servers;

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use certificates::{CLIENT, Wanted};
use remote::{Site, VALUE, with_token};
use serde_json::{Value, json};
use servers::Server;
use tonic::{Code, Status, transport::Channel};
use valetkey::proto::v1::{Open, broker_client::BrokerClient};

const OPTIONAL: &str = "client-certificates = \"optional\"\nfailures-per-minute = 10000\n";

const BY_TOKEN: &str = "[tool.billing]\nrun-as = { token = \"ci-runner\" }\nsecrets.\"a/key\" = { remote = true }\n";

fn open_request(tool: &str) -> Open {
    raw::open(tool, &["a/key"])
}

/// Opens a session with this token on a connection of its own.
async fn open(site: &Site, tool: &str, token: &str, certificate: Option<&certificates::Issued>) -> Result<String, Status> {
    let mut broker = BrokerClient::new(site.channel(certificate).await);
    Ok(broker.open_session(with_token(open_request(tool), token)).await?.into_inner().session)
}

fn refused(outcome: Result<String, Status>) -> Status {
    let status = outcome.expect_err("it was let in");
    assert_eq!((status.code(), raw::reason(&status).as_str()), (Code::Unauthenticated, "NOT_AUTHENTICATED"), "{status:?}");
    status
}

/// The third part of `vkt_ID_SECRET`, which may hold more of what parts them.
fn secret_of(token: &str) -> &str {
    token.splitn(3, '_').nth(2).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_issued_is_good_until_it_is_revoked_or_ends() {
    let site = Site::new(OPTIONAL, BY_TOKEN);
    let mut daemon = site.start();
    let token = site.token(&["ci-runner", "--for", "1h"]);
    let mut broker = BrokerClient::new(site.channel(None).await);
    let session = broker.open_session(with_token(open_request("billing"), &token)).await.unwrap().into_inner().session;
    let get = |session: &str| valetkey::proto::v1::GetSecretsRequest {
        session: session.into(),
        names: vec!["a/key".into()],
        fresh: false,
    };
    let got = broker.get_secrets(with_token(get(&session), &token)).await.unwrap().into_inner();
    assert_eq!(got.secrets[0].value, VALUE);
    let record = site.records().into_iter().find(|one| one["event"] == "secret.handed-out").unwrap();
    let id = token.split('_').nth(1).unwrap();
    assert_eq!((record["subject"].as_str(), record["token"].as_str()), (Some("token:ci-runner"), Some(id)));

    // On the same connection, without it, nobody; with another token, somebody else's session is not there.
    refused(broker.get_secrets(get(&session)).await.map(|_| String::new()));
    site.record("login.refused", "ANONYMOUS");
    let other = site.token(&["ci-runner"]);
    let status = broker.get_secrets(with_token(get(&session), &other)).await.err().unwrap();
    assert_eq!(raw::reason(&status), "SESSION_NOT_OPEN");

    // It outlives a restart, since its digest is on disk, and it is nowhere but with its owner.
    let kept = std::fs::read_to_string(site.host.path("var/tokens.json")).unwrap();
    assert!(!kept.contains(secret_of(&token)));
    daemon.stop();
    drop(daemon);
    let _daemon = site.start();
    open(&site, "billing", &token, None).await.unwrap();
    let listing = site.host.operate(&["token", "list", "--json"]);
    let listing: Value = serde_json::from_slice(&listing.stdout).unwrap();
    assert_eq!(listing["tokens"].as_array().unwrap().len(), 2);
    assert_eq!(listing["tokens"][0]["state"], "good");

    let mut broker = BrokerClient::new(site.channel(None).await);
    let session = broker.open_session(with_token(open_request("billing"), &token)).await.unwrap().into_inner().session;
    assert!(site.host.operate(&["token", "revoke", id]).status.success());
    refused(broker.get_secrets(with_token(get(&session), &token)).await.map(|_| String::new()));
    site.record("login.refused", "TOKEN_REVOKED");
    open(&site, "billing", &other, None).await.unwrap();
    assert!(site.host.operate(&["token", "revoke", "ci-runner"]).status.success());
    refused(open(&site, "billing", &other, None).await);

    let short = site.token(&["ci-runner", "--for", "1s"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    refused(open(&site, "billing", &short, None).await);
    site.record("login.refused", "TOKEN_EXPIRED");
    let log = site.host.log();
    for token in [&token, &other, &short] {
        assert!(!log.contains(secret_of(token)), "a token is in the log");
    }
}

/// One row for each way in which a login is wrong. All hear the same; the record tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_wrong() {
    let site = Site::new(OPTIONAL, BY_TOKEN);
    let _daemon = site.start();
    let (mine, thiefs) = (site.client(), site.client());
    let (certificate, _) = mine.write(&site.host, "mine");
    let bound = site.token(&["ci-runner", "--certificate", certificate.to_str().unwrap()]);
    open(&site, "billing", &bound, Some(&mine)).await.unwrap();
    let good = site.token(&["ci-runner"]);
    let (id, secret) = good.strip_prefix("vkt_").unwrap().split_once('_').unwrap();
    let mut heard = std::collections::BTreeSet::new();
    for (what, token, certificate, why) in [
        ("stolen, without its certificate", bound.clone(), None, "TOKEN_OF_ANOTHER"),
        ("stolen, with another certificate", bound.clone(), Some(&thiefs), "TOKEN_OF_ANOTHER"),
        ("another secret under a good id", format!("vkt_{id}_{}", "A".repeat(43)), None, "TOKEN_UNKNOWN"),
        ("a good secret under another id", format!("vkt_0000000000000000_{secret}"), None, "TOKEN_UNKNOWN"),
        ("a digest in place of the token", format!("vkt_{id}_{}", "0".repeat(64)), None, "TOKEN_UNKNOWN"),
        ("no token at all", "x".into(), None, "JWT_BAD"),
    ] {
        let status = refused(open(&site, "billing", &token, certificate).await);
        heard.insert(status.message().to_owned());
        assert_eq!(site.record("login.refused", why)["outcome"], "denied", "{what}");
    }
    assert_eq!(heard.len(), 1, "who guesses learns nothing: {heard:?}");
    for (header, why) in [("Basic dXNlcjpwYXNz", "NO_BEARER"), ("Bearer ", "NO_BEARER"), ("Bearer", "NO_BEARER")] {
        let mut broker = BrokerClient::new(site.channel(None).await);
        let mut request = tonic::Request::new(open_request("billing"));
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        refused(broker.open_session(request).await.map(|_| String::new()));
        site.record("login.refused", why);
    }
    // A certificate alone is somebody, and not the tool that a token names.
    let mut broker = BrokerClient::new(site.channel(Some(&mine)).await);
    let status = raw::open_unary(&mut broker, "billing", &["a/key"]).await.err().unwrap();
    assert_eq!(raw::reason(&status), "TOOL_NOT_ALLOWED");
    // Not even health is told to nobody.
    let mut health = tonic_health::pb::health_client::HealthClient::new(site.channel(None).await);
    let asked = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await;
    assert_eq!(asked.err().unwrap().code(), Code::Unauthenticated);
}

/// An OpenBao that issues identity tokens for a role, of which one secret's reader may have one.
struct Issuer {
    bao: Server,
    reader: String,
    audience: String,
}

impl Issuer {
    fn start() -> Self {
        let bao = servers::start_openbao();
        bao.vault("POST", "identity/oidc/config", &json!({ "issuer": bao.url() }).to_string());
        bao.vault(
            "POST",
            "identity/oidc/key/valetkey",
            r#"{"algorithm":"ES256","allowed_client_ids":["*"],"verification_ttl":"2h"}"#,
        );
        bao.vault(
            "POST",
            "identity/oidc/key/short",
            r#"{"algorithm":"ES256","allowed_client_ids":["*"],"verification_ttl":"1s"}"#,
        );
        let role = |name: &str, more: &str| {
            let body = format!(r#"{{"key":"valetkey","ttl":"1h"{more}}}"#);
            bao.vault("POST", &format!("identity/oidc/role/{name}"), &body);
            let (_, role) = bao.vault("GET", &format!("identity/oidc/role/{name}"), "");
            serde_json::from_str::<Value>(&role).unwrap()["data"]["client_id"].as_str().unwrap().to_owned()
        };
        let audience = role("billing", r#","template":"{\"team\":\"mcp\",\"nested\":{\"groups\":[\"a\",\"b\"]} }""#);
        role("other", "");
        // Identity tokens are of an entity, which logs in by a password here.
        bao.vault("POST", "sys/auth/userpass", r#"{"type":"userpass"}"#);
        bao.vault(
            "POST",
            "sys/policies/acl/oidc",
            r#"{"policy":"path \"identity/oidc/token/*\" { capabilities = [\"read\"] }"}"#,
        );
        bao.vault("POST", "auth/userpass/users/runner", r#"{"password":"runner-password","token_policies":"oidc"}"#);
        let (_, login) = bao.vault("POST", "auth/userpass/login/runner", r#"{"password":"runner-password"}"#);
        let login: Value = serde_json::from_str(&login).unwrap();
        let reader = login["auth"]["client_token"].as_str().unwrap().to_owned();
        Self { bao, reader, audience }
    }

    fn token(&self, role: &str) -> String {
        let headers = [("X-Vault-Token", self.reader.as_str())];
        let (status, answer) =
            servers::http(self.bao.port, "GET", &format!("/v1/identity/oidc/token/{role}"), &headers, "").unwrap();
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["data"]["token"].as_str().unwrap().to_owned()
    }

    fn rotate(&self) {
        self.bao.vault("POST", "identity/oidc/key/valetkey/rotate", r#"{"verification_ttl":"2h"}"#);
    }

    fn url(&self) -> String {
        format!("{}/v1/identity/oidc", self.bao.url())
    }

    fn config(&self) -> String {
        format!("[issuer.bao]\nissuer = \"{}\"\naudience = [\"{}\"]\nalgorithms = [\"ES256\"]\n", self.url(), self.audience)
    }
}

const BY_JWT: &str = "[tool.billing]\nrun-as = { jwt = { issuer = \"bao\", claims = { team = \"mcp\", \"/nested/groups\" = \"b\" } } }\n\
    secrets.\"a/key\" = { remote = true }\n\
    [tool.wrong]\nrun-as = { jwt = { issuer = \"bao\", claims = { team = \"other\" } } }\nsecrets.\"a/key\" = { remote = true }\n";

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Signs with a key of ours, of which the issuer knows nothing.
fn signed(header: &Value, claims: &Value, key: &jsonwebtoken::EncodingKey, algorithm: jsonwebtoken::Algorithm) -> String {
    let text = format!("{}.{}", part(header), part(claims));
    format!("{text}.{}", jsonwebtoken::crypto::sign(text.as_bytes(), key, algorithm).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_of_openbao_right_and_wrong() {
    let issuer = Issuer::start();
    let site = Site::new(OPTIONAL, &format!("{}{BY_JWT}", issuer.config()));
    let _daemon = site.start();
    let token = issuer.token("billing");
    open(&site, "billing", &token, None).await.unwrap();
    let opened = site.record_that("an opened session", |one| one["event"] == "session.opened");
    let (header, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let (header_json, claims_json) = (decoded(header), decoded(claims));
    assert_eq!(opened["issuer"], "bao");
    assert_eq!(opened["subject"], format!("bao:{}", claims_json["sub"].as_str().unwrap()));
    let status = open(&site, "wrong", &token, None).await.err().unwrap();
    assert_eq!(raw::reason(&status), "TOOL_NOT_ALLOWED", "the token is good, and its claims are not those");

    let with = |mut value: Value, key: &str, other: Value| {
        value[key] = other;
        value
    };
    // The keys that the issuer publishes, as whoever attacks can read them too.
    let (_, keys) = servers::http(issuer.bao.port, "GET", "/v1/identity/oidc/.well-known/keys", &[], "").unwrap();
    let published = jsonwebtoken::EncodingKey::from_secret(keys.as_bytes());
    let ours = rcgen::KeyPair::generate().unwrap();
    let ours = jsonwebtoken::EncodingKey::from_ec_der(ours.serialized_der());
    let es256 = |header: &Value, claims: &Value| signed(header, claims, &ours, jsonwebtoken::Algorithm::ES256);
    let hs256 = |header: &Value| signed(header, &claims_json, &published, jsonwebtoken::Algorithm::HS256);
    let none = |alg: &str| format!("{}.{claims}.", part(&with(header_json.clone(), "alg", alg.into())));
    let tampered = |claims: Value| format!("{header}.{}.{signature}", part(&claims));
    let rows: Vec<(&str, String, &str)> = vec![
        ("another audience", issuer.token("other"), "JWT_AUDIENCE"),
        ("claims that were changed", tampered(with(claims_json.clone(), "team", "admin".into())), "JWT_SIGNATURE"),
        ("an end that was moved", tampered(with(claims_json.clone(), "exp", 4_000_000_000u64.into())), "JWT_SIGNATURE"),
        ("no signature", format!("{header}.{claims}."), "JWT_SIGNATURE"),
        ("a key of one's own under a good id", es256(&header_json, &claims_json), "JWT_SIGNATURE"),
        ("alg: none", none("none"), "JWT_ALGORITHM"),
        ("alg: None", none("None"), "JWT_ALGORITHM"),
        ("alg: the public key as a secret", hs256(&with(header_json.clone(), "alg", "HS256".into())), "JWT_ALGORITHM"),
        (
            "an algorithm of another family",
            es256(&with(header_json.clone(), "alg", "RS256".into()), &claims_json),
            "JWT_ALGORITHM",
        ),
        ("an unknown key", es256(&with(header_json.clone(), "kid", "nobody".into()), &claims_json), "JWT_KEY"),
        ("another issuer", es256(&header_json, &with(claims_json.clone(), "iss", "https://evil.example".into())), "JWT_ISSUER"),
        ("no issuer", es256(&header_json, &with(claims_json.clone(), "iss", Value::Null)), "JWT_BAD"),
        ("a token of another kind", es256(&with(header_json.clone(), "typ", "logout+jwt".into()), &claims_json), "JWT_BAD"),
        ("a header that must be understood", es256(&with(header_json.clone(), "crit", json!(["exp"])), &claims_json), "JWT_BAD"),
        (
            "a key in the header",
            {
                let jwk = json!({"kty":"oct","k":"c2VjcmV0"});
                es256(&with(with(header_json.clone(), "jwk", jwk), "kid", "nobody".into()), &claims_json)
            },
            "JWT_KEY",
        ),
        ("two parts", format!("{header}.{claims}"), "JWT_BAD"),
        ("a very long one", format!("{header}.{claims}.{}", "A".repeat(13_000)), "JWT_BAD"),
    ];
    let mut wrong = Vec::new();
    for (what, token, why) in rows {
        let before = site.records().len();
        refused(open(&site, "billing", &token, None).await);
        // Summed up where it is like one before it; the log tells each reason at least once.
        let begun = Instant::now();
        while site.records().len() == before && begun.elapsed() < Duration::from_millis(700) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let found = site.records().iter().any(|one| one["event"] == "login.refused" && one["reason"] == why);
        if !found {
            wrong.push(format!("{what}: no record of {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.host.log());
    assert!(!site.host.log().contains(signature), "a token is in the log");
}

/// The issuer's keys change again and again while tokens come in: none that is good is refused, and none of a key that is gone is taken.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load() {
    let issuer = std::sync::Arc::new(Issuer::start());
    let site = Site::new(
        OPTIONAL,
        &format!("{}{BY_JWT}limits = {{ per-minute = 1000000, concurrent = 1000 }}\n", issuer.config()).replace(
            "secrets.\"a/key\" = { remote = true }\n[tool.wrong]",
            "secrets.\"a/key\" = { remote = true }\nlimits = { per-minute = 1000000, concurrent = 1000 }\n[tool.wrong]",
        ),
    );
    let _daemon = site.start();
    let until = Instant::now() + Duration::from_secs(12);
    let rotating = {
        let issuer = issuer.clone();
        std::thread::spawn(move || {
            let mut rotations = 0;
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1500));
                issuer.rotate();
                rotations += 1;
            }
            rotations
        })
    };
    let channels: Vec<Channel> = futures_util::future::join_all((0..4).map(|_| site.channel(None))).await;
    let mut taken = 0;
    while Instant::now() < until {
        let tokens: Vec<String> = (0..channels.len()).map(|_| issuer.token("billing")).collect();
        let opening = channels.iter().zip(&tokens).map(|(channel, token)| async {
            let mut broker = BrokerClient::new(channel.clone());
            let opened = broker.open_session(with_token(open_request("billing"), token)).await.unwrap().into_inner();
            let close = valetkey::proto::v1::CloseSessionRequest { session: opened.session };
            broker.close_session(with_token(close, token)).await.unwrap();
        });
        taken += futures_util::future::join_all(opening).await.len();
    }
    let rotations = rotating.join().unwrap();
    assert!(rotations >= 5 && taken > 20, "{rotations} rotations, {taken} tokens");
    assert!(!site.records().iter().any(|one| one["event"] == "login.refused"), "a good token was refused");
    println!("{taken} tokens of {rotations} keys, all taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_in_a_file_follows_the_file() {
    use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
    let key = || EncodingKey::from_ec_der(rcgen::KeyPair::generate().unwrap().serialized_der());
    let (first, second) = (key(), key());
    let set = |key: &EncodingKey, id: &str| {
        let mut jwk = Jwk::from_encoding_key(key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(id.into());
        json!({ "keys": [jwk] }).to_string()
    };
    let site = Site::new(OPTIONAL, "");
    site.host.write("jwks.json", &set(&first, "one"));
    let issuer = format!(
        "[issuer.file]\nissuer = \"https://login.example.com\"\naudience = [\"valetkey\"]\nalgorithms = [\"ES256\"]\njwks-file = \"{}\"\nleeway = \"2s\"\nmax-lifetime = \"1h\"\n",
        site.host.path("jwks.json").display()
    );
    site.configure(OPTIONAL, &format!("{issuer}[tool.billing]\nrun-as = {{ jwt = {{ issuer = \"file\", subject = \"runner\" }} }}\nsecrets.\"a/key\" = {{ remote = true }}\n"));
    let _daemon = site.start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |key: &EncodingKey, id: &str, claims: Value| {
        signed(&json!({ "alg": "ES256", "kid": id }), &claims, key, Algorithm::ES256)
    };
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({ "iss": "https://login.example.com", "aud": ["other", "valetkey"], "sub": "runner", "iat": now, "exp": now + 600 });
        change(&mut claims);
        claims
    };
    let plain = claims(&|_| ());
    open(&site, "billing", &token(&first, "one", plain.clone()), None).await.unwrap();
    for (what, change, why) in [
        ("ended", &(|c: &mut Value| c["exp"] = (now - 10).into()) as &dyn Fn(&mut Value), "JWT_EXPIRED"),
        ("not yet", &|c: &mut Value| c["nbf"] = (now + 60).into(), "JWT_NOT_YET_VALID"),
        ("made in the future", &|c: &mut Value| c["iat"] = (now + 60).into(), "JWT_NOT_YET_VALID"),
        ("for ever", &|c: &mut Value| c["exp"] = (now + 86_400).into(), "JWT_LIFETIME"),
        ("without an end", &|c: &mut Value| c["exp"] = Value::Null, "JWT_LIFETIME"),
        ("without a subject", &|c: &mut Value| c["sub"] = Value::Null, "JWT_SUBJECT"),
        ("without an audience", &|c: &mut Value| c["aud"] = Value::Null, "JWT_AUDIENCE"),
        ("several issuers", &|c: &mut Value| c["iss"] = json!(["https://login.example.com"]), "JWT_BAD"),
    ] {
        refused(open(&site, "billing", &token(&first, "one", claims(change)), None).await);
        let record = site.record("login.refused", why);
        assert_eq!(record["outcome"], "denied", "{what}");
    }
    let status =
        open(&site, "billing", &token(&first, "one", claims(&|c| c["sub"] = "somebody".into())), None).await.err().unwrap();
    assert_eq!(raw::reason(&status), "TOOL_NOT_ALLOWED");
    // Bound to a certificate (RFC 8705): good with that one alone. Bound to what cannot be looked at here: good for nothing.
    let (mine, other) = (site.client(), site.client());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &mine.der);
    let to = |confirmation: Value| token(&first, "one", claims(&|c| c["cnf"] = confirmation.clone()));
    let bound = to(json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(digest.as_ref()) }));
    open(&site, "billing", &bound, Some(&mine)).await.unwrap();
    refused(open(&site, "billing", &bound, None).await);
    refused(open(&site, "billing", &bound, Some(&other)).await);
    site.record("login.refused", "TOKEN_OF_ANOTHER");
    refused(open(&site, "billing", &to(json!({ "jkt": "x" })), Some(&mine)).await);
    // The key is replaced: the old one is good for nothing, in open sessions too.
    let old = token(&first, "one", plain.clone());
    let mut broker = BrokerClient::new(site.channel(None).await);
    let session = broker.open_session(with_token(open_request("billing"), &old)).await.unwrap().into_inner().session;
    site.host.write("jwks.json", &set(&second, "two"));
    let begun = Instant::now();
    while open(&site, "billing", &token(&second, "two", plain.clone()), None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    refused(open(&site, "billing", &old, None).await);
    let get = valetkey::proto::v1::GetSecretsRequest { session, names: vec!["a/key".into()], fresh: false };
    refused(broker.get_secrets(with_token(get, &old)).await.map(|_| String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_token_may_both_be_asked_for() {
    let policy = "[tool.billing]\nrun-as = { token = \"ci-runner\", certificate = { uri = \"spiffe://example.org/tools/billing\" } }\n\
        secrets.\"a/key\" = { remote = true }\n";
    let site = Site::new("", policy);
    let _daemon = site.start();
    let (me, other) = (site.client(), site.clients.issue(&Wanted { names: &["spiffe://example.org/x"], ..CLIENT }));
    let token = site.token(&["ci-runner"]);
    open(&site, "billing", &token, Some(&me)).await.unwrap();
    let denied = open(&site, "billing", &token, Some(&other)).await.err().unwrap();
    assert_eq!(raw::reason(&denied), "TOOL_NOT_ALLOWED");
    let mut broker = BrokerClient::new(site.channel(Some(&me)).await);
    let denied = raw::open_unary(&mut broker, "billing", &["a/key"]).await.err().unwrap();
    assert_eq!(raw::reason(&denied), "TOOL_NOT_ALLOWED");
}

/// The client library, with a token that somebody renews in its file.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_takes_its_token_from_a_file() {
    let site = Site::new(OPTIONAL, BY_TOKEN);
    let _daemon = site.start();
    site.host.write("token", &format!("{}\n", site.token(&["ci-runner"])));
    let client = site.anonymous().token_file(site.host.path("token")).client();
    let session = client.session("billing").secret("a/key").open().await.unwrap();
    assert_eq!(session.get("a/key").await.unwrap().to_text().unwrap().as_bytes(), VALUE);
    site.host.write("token", "vkt_0000000000000000_none\n");
    let refused = client.session("billing").secret("a/key").open().await.err().unwrap();
    assert!(refused.to_string().contains("NOT_AUTHENTICATED"), "{refused}");
}

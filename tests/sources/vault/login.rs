//! The ways in.

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

fn admin(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> serde_json::Value {
    let headers: Vec<_> = [("X-Vault-Token", ROOT_TOKEN)].iter().chain(headers).copied().collect();
    let (status, answer) = servers::http(server.port, method, &format!("/v1/{path}"), &headers, body).unwrap();
    assert!(status < 300, "{method} {path}: {status} {answer}");
    serde_json::from_str(&answer).unwrap_or_default()
}

/// A secret id of this role in a wrapping token.
fn wrapped(server: &Server, path: &str, body: &str) -> String {
    let answer = admin(server, "POST", path, &[("X-Vault-Wrap-TTL", "60s")], body);
    answer["wrap_info"]["token"].as_str().unwrap().to_owned()
}

/// An AppRole mount of its own with a role `r`, of which the role id is `the-role`.
fn mount(server: &Server, name: &str, role: &str) {
    put(server, &format!("{name}/app"), r#"{"value":"marker-app"}"#);
    super::token::allow(server, name, &["read"]);
    server.vault("POST", &format!("sys/auth/{name}"), r#"{"type":"approle"}"#);
    server.vault("POST", &format!("auth/{name}/role/r"), &format!(r#"{{"token_policies":"{name}"{role}}}"#));
    server.vault("POST", &format!("auth/{name}/role/r/role-id"), r#"{"role_id":"the-role"}"#);
}

fn by_app_role(port: u16, mount: &str, secret_id_file: &Path, wrapped: bool, delete_after_read: bool) -> Vault {
    let (mount, role_id, secret_id_file) = (mount.into(), "the-role".into(), secret_id_file.into());
    vault(Settings { login: Login::AppRole { mount, role_id, secret_id_file, wrapped, delete_after_read }, ..settings(port) })
}

#[tokio::test]
async fn a_wrapped_secret_id() {
    let server = servers::openbao();
    let (port, seen) = servers::proxy(server.port);
    let folder = tempfile::tempdir().unwrap();
    mount(server, "wrapped", r#","token_ttl":"1h""#);
    let fresh = || wrapped(server, "auth/wrapped/role/r/secret-id", "{}");
    let file = private(folder.path(), "wrapping-token", &fresh());
    let source = by_app_role(port, "wrapped", &file, true, false);
    assert_value(&fetch_one(&source, "wrapped/app", None).await, b"marker-app");
    // The next login is with the secret id that was kept: the token can be unwrapped only once.
    server.vault("POST", "sys/leases/revoke-prefix/auth/wrapped/login", "");
    assert_value(&fetch_one(&source, "wrapped/app", None).await, b"marker-app");
    assert_eq!(seen.lock().unwrap().count("POST /v1/sys/wrapping/unwrap"), 1);
    assert_eq!(seen.lock().unwrap().count("POST /v1/auth/wrapped/login"), 2);

    // Used by somebody before us.
    let used = by_app_role(port, "wrapped", &file, true, false);
    assert_failed(fetch_one(&used, "wrapped/app", None).await, Cause::Refused, "somebody has the secret id");
    // A new one in the file is tried at once.
    fs::write(&file, fresh()).unwrap();
    assert_value(&fetch_one(&used, "wrapped/app", None).await, b"marker-app");

    // Swapped for one that somebody else made, who would like us to work for his role.
    let unwrapped = seen.lock().unwrap().count("POST /v1/sys/wrapping/unwrap");
    for (path, body) in [
        ("sys/wrapping/wrap", r#"{"secret_id":"marker-swapped"}"#),
        ("auth/wrapped/role/r/custom-secret-id", r#"{"secret_id":"marker-swapped"}"#),
    ] {
        fs::write(&file, wrapped(server, path, body)).unwrap();
        let swapped = by_app_role(port, "wrapped", &file, true, false);
        assert_failed(fetch_one(&swapped, "wrapped/app", None).await, Cause::Refused, "may have swapped it");
    }
    assert_eq!(seen.lock().unwrap().count("POST /v1/sys/wrapping/unwrap"), unwrapped, "it was not unwrapped");
    fs::write(&file, "marker marker").unwrap();
    let none = by_app_role(port, "wrapped", &file, true, false);
    assert_failed(fetch_one(&none, "wrapped/app", None).await, Cause::Refused, "holds no wrapping token");
}

#[tokio::test]
async fn a_secret_id_that_is_deleted_after_its_use() {
    let server = servers::openbao();
    let folder = tempfile::tempdir().unwrap();
    mount(server, "deleted", r#","token_ttl":"1h""#);
    let secret_id = |id: &str, uses: u32| {
        let body = format!(r#"{{"secret_id":"{id}","num_uses":{uses}}}"#);
        server.vault("POST", "auth/deleted/role/r/custom-secret-id", &body);
    };
    secret_id("marker-secret-id", 0);
    let file = private(folder.path(), "secret-id", "marker-wrong");
    let source = by_app_role(server.port, "deleted", &file, false, true);
    assert_failed(fetch_one(&source, "deleted/app", None).await, Cause::Refused, "the AppRole login");
    assert!(file.exists(), "it logged nobody in");
    fs::write(&file, "marker-secret-id").unwrap();
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
    assert!(!file.exists());
    server.vault("POST", "sys/leases/revoke-prefix/auth/deleted/login", "");
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
    // One that may be used once cannot log in again; a new one in the file can.
    secret_id("marker-once", 1);
    private(folder.path(), "secret-id", "marker-once");
    let source = by_app_role(server.port, "deleted", &file, false, true);
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
    server.vault("POST", "sys/leases/revoke-prefix/auth/deleted/login", "");
    assert_failed(fetch_one(&source, "deleted/app", None).await, Cause::Refused, "used up");
    private(folder.path(), "secret-id", "marker-secret-id");
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
    // A source that is made anew, as when configuration is read again, finds what the one before could read only once.
    private(folder.path(), "secret-id", "marker-secret-id");
    let mut again = Settings {
        login: Login::AppRole {
            mount: "deleted".into(),
            role_id: "the-role".into(),
            secret_id_file: file.clone(),
            wrapped: false,
            delete_after_read: true,
        },
        ..settings(server.port)
    };
    for _ in 0..2 {
        let source = vault(again.clone());
        assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
        assert!(!file.exists());
        source.close().await;
    }
    again.namespace = Some("elsewhere".into());
    assert_failed(fetch_one(&vault(again), "deleted/app", None).await, Cause::Refused, "cannot read");
    // With a wrapping token it is the same.
    private(folder.path(), "secret-id", &wrapped(server, "auth/deleted/role/r/secret-id", "{}"));
    let source = by_app_role(server.port, "deleted", &file, true, true);
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
    assert!(!file.exists());
    server.vault("POST", "sys/leases/revoke-prefix/auth/deleted/login", "");
    assert_value(&fetch_one(&source, "deleted/app", None).await, b"marker-app");
}

fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A JSON Web Token of these claims, signed with `key.pem`.
fn jwt(folder: &Path, claims: &serde_json::Value) -> String {
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
    fs::write(folder.join("signed"), &signed).unwrap();
    openssl(folder, "dgst -sha256 -sign key.pem -out signature signed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(fs::read(folder.join("signature")).unwrap()))
}

fn key(folder: &Path) -> String {
    openssl(folder, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem");
    openssl(folder, "pkey -in key.pem -pubout -out public.pem");
    fs::read_to_string(folder.join("public.pem")).unwrap()
}

const PAST: u64 = 1_700_000_000;
const FAR: u64 = 4_102_444_800;

#[tokio::test]
async fn a_json_web_token() {
    let server = servers::openbao();
    let folder = tempfile::tempdir().unwrap();
    let public = key(folder.path());
    put(server, "jwt/app", r#"{"value":"marker-app"}"#);
    super::token::allow(server, "jwt", &["read"]);
    server.vault("POST", "sys/auth/tokens", r#"{"type":"jwt"}"#);
    server.vault("POST", "auth/tokens/config", &serde_json::json!({ "jwt_validation_pubkeys": public }).to_string());
    let role = r#"{"role_type":"jwt","bound_audiences":"valetkey","user_claim":"sub","token_policies":"jwt","token_ttl":"1h"}"#;
    server.vault("POST", "auth/tokens/role/r", role);
    let claims =
        |audience: &str| serde_json::json!({ "sub": "marker-host", "aud": audience, "nbf": PAST, "exp": FAR, "iss": "test" });
    let file = private(folder.path(), "jwt", &jwt(folder.path(), &claims("someone-else")));
    let login = |role: &str| Login::Jwt { mount: "tokens".into(), role: role.into(), token_file: file.clone() };
    let source = vault(Settings { login: login("r"), ..settings(server.port) });
    assert_failed(fetch_one(&source, "jwt/app", None).await, Cause::Refused, "the JWT login at auth/tokens: refused");
    fs::write(&file, jwt(folder.path(), &claims("valetkey"))).unwrap();
    assert_value(&fetch_one(&source, "jwt/app", None).await, b"marker-app");
    assert_eq!(source.login().unwrap().method, "jwt");
    let source = vault(Settings { login: login("none"), ..settings(server.port) });
    assert_failed(fetch_one(&source, "jwt/app", None).await, Cause::Refused, "the JWT login");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let source = vault(Settings { login: login("r"), ..settings(server.port) });
    assert_failed(fetch_one(&source, "jwt/app", None).await, Cause::Refused, "chmod 600");
}

/// The API server of a cluster is played by a listener: it says that the token is the account's.
#[tokio::test]
async fn a_service_account_of_kubernetes() {
    let server = servers::openbao();
    let folder = tempfile::tempdir().unwrap();
    key(folder.path());
    openssl(folder.path(), "req -x509 -key key.pem -days 2 -subj /CN=none -out authority.pem");
    let authority = fs::read_to_string(folder.path().join("authority.pem")).unwrap();
    let review = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "status": { "authenticated": true, "audiences": ["vault"], "user": {
            "username": "system:serviceaccount:tools:valetkey", "uid": "u1", "groups": ["system:serviceaccounts"] } },
    })
    .to_string();
    let head = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
    let (cluster, asked) = servers::listener(&format!("{head} {}\r\n\r\n{review}", review.len()));
    put(server, "pod/app", r#"{"value":"marker-app"}"#);
    super::token::allow(server, "pod", &["read"]);
    server.vault("POST", "sys/auth/kubernetes", r#"{"type":"kubernetes"}"#);
    let config = serde_json::json!({
        "kubernetes_host": format!("http://127.0.0.1:{cluster}"), "disable_local_ca_jwt": true, "kubernetes_ca_cert": authority,
    });
    server.vault("POST", "auth/kubernetes/config", &config.to_string());
    let role = r#"{"bound_service_account_names":"valetkey","bound_service_account_namespaces":"tools","token_policies":"pod","audience":"vault"}"#;
    server.vault("POST", "auth/kubernetes/role/r", role);
    let claims = |name: &str| {
        serde_json::json!({
            "iss": "kubernetes/serviceaccount", "aud": ["vault"], "nbf": PAST, "exp": FAR, "sub": format!("system:serviceaccount:tools:{name}"),
            "kubernetes.io": { "namespace": "tools", "serviceaccount": { "name": name, "uid": "u1" } },
        })
    };
    let token_file = private(folder.path(), "token", &jwt(folder.path(), &claims("valetkey")));
    // As Kubernetes does.
    fs::set_permissions(&token_file, Permissions::from_mode(0o644)).unwrap();
    let login = Login::Kubernetes { mount: "kubernetes".into(), role: "r".into(), token_file: token_file.clone() };
    let source = vault(Settings { login: login.clone(), ..settings(server.port) });
    assert_value(&fetch_one(&source, "pod/app", None).await, b"marker-app");
    assert_eq!(asked.lock().unwrap().count("POST /apis/authentication.k8s.io/v1/tokenreviews"), 1);
    fs::write(&token_file, jwt(folder.path(), &claims("another"))).unwrap();
    let source = vault(Settings { login: login.clone(), ..settings(server.port) });
    assert_failed(fetch_one(&source, "pod/app", None).await, Cause::Refused, "the Kubernetes login at auth/kubernetes: refused");
    fs::set_permissions(&token_file, Permissions::from_mode(0o666)).unwrap();
    let source = vault(Settings { login, ..settings(server.port) });
    assert_failed(fetch_one(&source, "pod/app", None).await, Cause::Refused, "can be written by others");
}

#[tokio::test]
async fn a_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (server, authority) = servers::start_openbao_tls(folder.path());
    let make = |name: &str| {
        let arguments =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -addext extendedKeyUsage=clientAuth";
        openssl(folder.path(), &format!("{arguments} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
        fs::set_permissions(folder.path().join(format!("{name}.key")), Permissions::from_mode(0o600)).unwrap();
    };
    make("ours");
    make("other");
    let root = reqwest::Certificate::from_pem(&fs::read(&authority).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_backend_rustls().no_proxy().tls_certs_only([root]).build().unwrap();
    let admin = async |path: &str, body: serde_json::Value| {
        let url = format!("https://127.0.0.1:{}/v1/{path}", server.port);
        let answer = client.post(url).header("X-Vault-Token", ROOT_TOKEN).body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    };
    admin("secret/data/app", serde_json::json!({ "data": { "value": "marker-app" } })).await;
    admin("sys/policies/acl/app", serde_json::json!({ "policy": r#"path "secret/data/app" { capabilities = ["read"] }"# })).await;
    admin("sys/auth/cert", serde_json::json!({ "type": "cert" })).await;
    let ours = fs::read_to_string(folder.path().join("ours.pem")).unwrap();
    admin("auth/cert/certs/r", serde_json::json!({ "certificate": ours, "token_policies": "app", "token_ttl": "1h" })).await;
    let with = |name: &str, role: Option<&str>| {
        let pair = (folder.path().join(format!("{name}.pem")), folder.path().join(format!("{name}.key")));
        vault(Settings {
            address: format!("https://127.0.0.1:{}", server.port),
            ca_file: Some(authority.clone()),
            client_certificate: Some(pair),
            login: Login::Certificate { mount: "cert".into(), role: role.map(str::to_owned) },
            ..settings(1)
        })
    };
    for role in [None, Some("r")] {
        let source = with("ours", role);
        assert_value(&fetch_one(&source, "app", None).await, b"marker-app");
        source.close().await;
    }
    let refused = "the certificate login at auth/cert: refused";
    assert_failed(fetch_one(&with("ours", Some("none")), "app", None).await, Cause::Refused, refused);
    assert_failed(fetch_one(&with("other", None), "app", None).await, Cause::Refused, refused);
    fs::copy(folder.path().join("other.key"), folder.path().join("ours.key")).unwrap();
    assert_failed(fetch_one(&with("ours", None), "app", None).await, Cause::Refused, "belong together");
    fs::write(folder.path().join("ours.key"), "marker").unwrap();
    assert_failed(fetch_one(&with("ours", None), "app", None).await, Cause::Refused, "no pair in PEM");
    fs::set_permissions(folder.path().join("ours.key"), Permissions::from_mode(0o644)).unwrap();
    assert_failed(fetch_one(&with("ours", None), "app", None).await, Cause::Refused, "chmod 600");
}

//! The policy that `valetkey check --upstream-policy` prints is enough for everything that configuration wants, and for nothing more:
//! applied at the servers, it lets the daemon load all, and not one secret beside them.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use daemon::Host;
use servers::Server;
use stores::{aws_put, borrowed, secret, vault_put};

fn policy(host: &Host, arguments: &[&str]) -> String {
    let config = host.config();
    let out = host.valetkey(&[&["check", "--config", config.to_str().unwrap(), "--upstream-policy"], arguments].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn held(host: &Host) -> Vec<(String, String)> {
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["secrets", "--json"]).stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    listing["secrets"].as_array().unwrap().iter().map(|secret| (text(&secret["name"]), text(&secret["state"]))).collect()
}

/// Reloads a configuration that wants one secret more than the policy was printed for.
#[track_caller]
fn one_more_is_refused(host: &Host, name: &str) {
    let out = host.operate(&["reload"]);
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(!out.status.success() && said.contains(&format!("secret {name} ")) && said.contains("refused"), "{said}");
    assert_eq!(said.matches(" from source ").count(), 1, "the others are still given: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vault() {
    let (host, bao) = (Host::new(), servers::start_openbao());
    vault_put(&bao, "app/one", r#"{"value":"value-of-one"}"#);
    vault_put(&bao, "app/$%7Bx%7D", r#"{"value":"value-of-two"}"#);
    vault_put(&bao, "app/other", r#"{"value":"value-of-another"}"#);
    bao.vault("POST", "sys/mounts/kv1", r#"{"type":"kv","options":{"version":"1"}}"#);
    bao.vault("POST", "kv1/app/three", r#"{"value":"value-of-three"}"#);
    bao.vault("POST", "kv1/app/four", r#"{"value":"value-of-four"}"#);
    let configure = |token: &str, more: &[&str]| {
        let v1 =
            stores::vault(&host, bao.port, token).replace("[source.vault]", "[source.v1]") + "mount = \"kv1\"\nkv-version = 1\n";
        let mut config = stores::vault(&host, bao.port, token) + &v1;
        let mut names = vec!["s0", "s1", "three", "as-it-is"];
        config += &secret("as-it-is", "vault", "path = \"/kv1/app/four\"");
        config += &secret("three", "v1", "path = \"app/three\"");
        config += &secret("s0", "vault", "path = \"app/one\"");
        config += &secret("s1", "vault", "path = \"app/${x}\"");
        config += &secret("not-granted", "vault", "path = \"app/other\"");
        more.iter().for_each(|name| config += &secret(name, "vault", "path = \"app/other\""));
        names.extend(more);
        host.configure("", &(config + &Host::tool("it", 0, &names)));
    };
    configure("none-yet", &[]);
    let both = policy(&host, &["vault"]);
    assert!(both.contains("# source vault\n") && both.contains("# source v1\n"), "{both}");
    assert!(!both.contains("app/other") && !both.contains('*'), "{both}");
    // What may be lent is renewed, and asked after.
    assert!(both.contains("\"sys/leases/renew\"") && both.contains("\"sys/leases/lookup\""), "{both}");
    let escaped = serde_json::json!({ "policy": both }).to_string();
    bao.vault("POST", "sys/policies/acl/valetkey", &escaped);
    let (_, answer) = bao.vault("POST", "auth/token/create", r#"{"policies":["valetkey"],"no_default_policy":true}"#);
    let token = answer.split_once(r#""client_token":""#).unwrap().1.split('"').next().unwrap().to_owned();

    configure(&token, &[]);
    let _daemon = host.start();
    assert!(held(&host).iter().all(|(_, state)| state == "held") && held(&host).len() == 4, "{:?}", held(&host));
    configure(&token, &["one-more"]);
    one_more_is_refused(&host, "one-more");
}

/// A source of this kind, read with these keys; what the tool may have, and one secret that it may not.
fn configure_aws(host: &Host, kind: &str, port: u16, keys: (&str, &str), granted: &[(&str, &str)], not: &str) -> Variables {
    let (source, environment) = stores::aws(host, port, keys.1);
    host.write("aws", &format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys.0, keys.1));
    let mut config = source.replace("aws-secrets-manager", kind);
    for (name, path) in granted.iter().chain(&[("not-granted", not)]) {
        config += &secret(name, "aws", &format!("path = \"{path}\""));
    }
    let names: Vec<_> = granted.iter().map(|(name, _)| *name).collect();
    host.configure("", &(config + &Host::tool("it", 0, &names)));
    environment
}

type Variables = Vec<(&'static str, String)>;

/// Prints the policy, gives it to a user, and loads with that user's keys: all that is granted, and not `other`, which is there too.
async fn everything_and_no_more(kind: &str, moto: &Server, granted: &[(&str, &str)], other: &str) -> String {
    let host = Host::new();
    let configure = |keys, granted: &[_]| configure_aws(&host, kind, moto.port, keys, granted, other);
    configure(("none", "none"), granted);
    let document: serde_json::Value = serde_json::from_str(&policy(&host, &["aws"])).unwrap();
    let text = document.to_string();
    assert!(!text.contains("other") && !text.contains("kms"), "{text}");
    let with_key = policy(&host, &["aws", "--source", "aws", "--kms-key", "arn:aws:kms:eu-west-1:1:key/k"]);
    assert!(with_key.contains("kms:Decrypt") && with_key.contains(".eu-west-1.amazonaws.com"), "{with_key}");

    let (key, secret_key) = moto.aws_user("valetkey", &text);
    let environment = configure((&key, &secret_key), granted);
    assert_eq!(servers::http(moto.port, "POST", "/moto-api/reset-auth", &[], "0").unwrap().0, 200, "from here on it enforces");
    let _daemon = host.start_with(&borrowed(&environment));
    assert!(held(&host).iter().all(|(_, state)| state == "held") && held(&host).len() == granted.len(), "{:?}", held(&host));
    configure((&key, &secret_key), &[granted, &[("one-more", other)]].concat());
    one_more_is_refused(&host, "one-more");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn aws() {
    let moto = servers::start_moto_iam(1000);
    let granted = [("s0", "prod/mcp/s0"), ("s1", "prod/mcp/s1"), ("s2", "prod/mcp/s2")];
    // Named as the ARN of another secret ends.
    let other = "prod/mcp/s0-other1";
    for path in granted.iter().map(|(_, path)| *path).chain([other]) {
        aws_put(&moto, path, "value-of-a-secret").await;
    }
    let text = everything_and_no_more("aws-secrets-manager", &moto, &granted, other).await;
    assert!(text.contains("BatchGetSecretValue"), "{text}");
}

#[cfg(feature = "aws-parameter-store")]
#[tokio::test(flavor = "multi_thread")]
async fn parameter_store() {
    let moto = servers::start_moto_iam(1000);
    for path in ["/prod/one", "plain", "/prod/folder/a", "/prod/folder/deep/b", "/prod/other"] {
        stores::parameter_put(&moto, path, "value-of-a-parameter").await;
    }
    let granted = [("one", "/prod/one"), ("plain", "plain:1"), ("folder", "/prod/folder/")];
    let text = everything_and_no_more("aws-parameter-store", &moto, &granted, "/prod/other").await;
    assert!(!text.contains("plain:1"), "{text}");
}

#[test]
fn what_cannot_be_printed_is_said() {
    let host = Host::new();
    let vault = stores::vault(&host, 8200, "none");
    let config = host.config();
    let run = |arguments: &[&str]| {
        let out = host.valetkey(&[&["check", "--config", config.to_str().unwrap()], arguments].concat());
        (out.status.code().unwrap(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
    };
    host.configure("", &(vault + &secret("s", "vault", "path = \"app/*\"") + &Host::tool("it", 0, &["s"])));
    let (code, said) = run(&["--upstream-policy", "vault"]);
    assert!(code == 1 && said.contains("stand for others"), "{code} {said}");
    let (code, said) = run(&["--upstream-policy", "aws"]);
    assert!(code == 2 && said.contains("no source of this kind"), "{code} {said}");
    let (code, said) = run(&["--upstream-policy", "vault", "--source", "other"]);
    assert!(code == 2 && said.contains("--source is one of: vault"), "{code} {said}");
    let aws = |name: &str| format!("[source.{name}]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\n");
    host.configure("", &(aws("a") + &aws("b") + &secret("s", "a", "") + &Host::tool("it", 0, &["s"])));
    let (code, said) = run(&["--upstream-policy", "aws"]);
    assert!(code == 2 && said.contains("--source is one of: a, b"), "{code} {said}");
}

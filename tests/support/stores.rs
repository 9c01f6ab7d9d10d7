//! Each kind of source with something in it, and the configuration that reads it.
#![allow(dead_code, reason = "each test binary uses some of it")]

use aws_sdk_secretsmanager::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};

use super::{
    daemon::Host,
    servers::{ROOT_TOKEN, Server},
};

/// Printable bytes that stand in no program: made at run time from `seed`.
pub fn marker(seed: u64, length: usize) -> Vec<u8> {
    let mut state = std::hint::black_box(0x9e37_79b9_7f4a_7c15_u64) ^ seed.wrapping_mul(0xd134_2543_de82_ef95);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Letters and digits alone: nothing that JSON would escape.
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[(state >> 20) as usize % 62]
    };
    std::iter::repeat_with(&mut next).take(length + 16).skip(16).collect()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Who may do everything there.
pub fn owner(port: u16) -> Client {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKIAOWNER", "owner", None, None, "test"))
        .endpoint_url(format!("http://127.0.0.1:{port}"));
    Client::from_conf(config.build())
}

/// Makes a secret at the AWS API, or gives it a new version.
pub async fn aws_put(server: &Server, name: &str, value: &str) {
    let owner = owner(server.port);
    if owner.put_secret_value().secret_id(name).secret_string(value).send().await.is_err() {
        owner.create_secret().name(name).secret_string(value).send().await.unwrap();
    }
}

/// Makes a parameter at the AWS API, or gives it a new version.
#[cfg(feature = "aws-parameter-store")]
pub async fn parameter_put(server: &Server, name: &str, value: &str) {
    let config = aws_sdk_ssm::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKIAOWNER", "owner", None, None, "test"))
        .endpoint_url(server.url());
    let call = aws_sdk_ssm::Client::from_conf(config.build()).put_parameter().name(name).value(value).overwrite(true);
    call.r#type(aws_sdk_ssm::types::ParameterType::SecureString).send().await.unwrap();
}

/// `[source.aws]` at this port, and the environment in which the daemon finds its keys.
pub fn aws(host: &Host, port: u16, secret_key: &str) -> (String, Vec<(&'static str, String)>) {
    host.write("aws", &format!("[default]\naws_access_key_id = AKIAVALETKEY\naws_secret_access_key = {secret_key}\n"));
    let file = host.path("aws").display().to_string();
    let environment = vec![("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_EC2_METADATA_DISABLED", "true".into())];
    let source =
        format!("[source.aws]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\nendpoint = \"http://127.0.0.1:{port}\"\n");
    (source, environment)
}

/// Puts a JSON object at a path of the key-value engine.
pub fn vault_put(server: &Server, path: &str, json: &str) {
    server.vault("POST", &format!("secret/data/{path}"), &format!("{{\"data\":{json}}}"));
}

/// `[source.vault]` at this port, which logs in with this token.
pub fn vault(host: &Host, port: u16, token: &str) -> String {
    host.write("vault-token", &format!("{token}\n"));
    let token = host.path("vault-token");
    let token = token.display();
    format!("[source.vault]\nkind = \"vault\"\naddress = \"http://127.0.0.1:{port}\"\nauth = {{ token-file = \"{token}\" }}\n")
}

/// The same with the root token.
pub fn vault_as_root(host: &Host, port: u16) -> String {
    vault(host, port, ROOT_TOKEN)
}

/// `[secret."NAME"]` of a source; `rest` are more of its lines.
pub fn secret(name: &str, source: &str, rest: &str) -> String {
    format!("[secret.\"{name}\"]\nsource = \"{source}\"\n{rest}\n")
}

/// Limits that no test of anything else meets: the last lines of a `[tool]`.
pub const UNLIMITED: &str = "limits = { per-minute = 100000000, concurrent = 1000, per-session = 1000000000 }\n";

/// Borrowed, as [`Host::spawn`] takes it.
pub fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// A database engine at this mount, for a PostgreSQL that asks on this port.
pub fn vault_database(server: &Server, mount: &str, port: u16) {
    server.vault("POST", &format!("sys/mounts/{mount}"), r#"{"type":"database"}"#);
    let config = serde_json::json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": "postgres", "password": "marker-password",
        "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode=disable"),
    });
    server.vault("POST", &format!("{mount}/config/pg"), &config.to_string());
}

/// A role of it, whose credentials live so long.
pub fn vault_database_role(server: &Server, mount: &str, name: &str, life: &str, longest: &str) {
    let statement = r#"CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
    let body =
        format!(r#"{{"db_name":"pg","creation_statements":["{statement}"],"default_ttl":"{life}","max_ttl":"{longest}"}}"#);
    server.vault("POST", &format!("{mount}/roles/{name}"), &body);
}

/// A role of it that is one user, whose password the engine changes every so many seconds, and when it is asked to.
pub fn vault_static_role(server: &Server, mount: &str, name: &str, user: &str, period: u32) {
    let body = format!(r#"{{"db_name":"pg","username":"{user}","rotation_period":{period}}}"#);
    server.vault("POST", &format!("{mount}/static-roles/{name}"), &body);
}

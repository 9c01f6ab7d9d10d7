//! How long the daemon takes to serve 1,000 secrets, beside the bare calls that fetch them: from AWS's API (moto) and from OpenBao,
//! with and without TLS. `tests/setup/python` installs both servers.
//!
//! `cargo bench --bench boot`. The daemon's time is from its start as a process to its first answer to an operator; the bare calls'
//! is from a client's making to its last answer, with the same number of calls under way, the values thrown away.

#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/servers.rs"]
mod servers;

use std::time::{Duration, Instant};

use aws_sdk_secretsmanager::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use daemon::Host;
use futures_util::StreamExt;

const COUNT: usize = 1000;
const UNDER_WAY: usize = 16;
const ROUNDS: usize = 7;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("boot with {COUNT} secrets, {UNDER_WAY} calls under way, median of {ROUNDS} alternating rounds\n");
    println!("| source | calls | bare calls ms | daemon boot ms | ratio |\n|---|---|---|---|---|");
    let empty = median((0..ROUNDS).map(|_| boot(&sealed(1), &[])).collect());

    let moto = servers::moto();
    runtime.block_on(seed_aws(moto.port));
    let host = host(&format!("kind = \"aws-secrets-manager\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\n", moto.url()), &[]);
    let environment = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_EC2_METADATA_DISABLED", "true")];
    row("AWS Secrets Manager (moto)", COUNT.div_ceil(20), &host, &environment, || runtime.block_on(bare_aws(moto.port)));

    let bao = servers::openbao();
    runtime.block_on(seed_vault(&bao.url(), None));
    let host = host_vault(&bao.url(), None);
    row("Vault KV v2 (OpenBao)", COUNT, &host, &[], || runtime.block_on(bare_vault(&bao.url(), None)));

    let folder = tempfile::tempdir().expect("a folder");
    let (tls, authority) = servers::start_openbao_tls(folder.path());
    let url = format!("https://127.0.0.1:{}", tls.port);
    let pem = std::fs::read(&authority).expect("the authority");
    runtime.block_on(seed_vault(&url, Some(&pem)));
    let host = host_vault(&url, Some(&authority));
    row("Vault KV v2 over TLS (OpenBao)", COUNT, &host, &[], || runtime.block_on(bare_vault(&url, Some(&pem))));

    let host = sealed(COUNT);
    let boot = median((0..ROUNDS).map(|_| boot(&host, &[])).collect());
    println!("| sealed file | - | - | {:.0} | - |", boot * 1e3);
    println!("\na daemon with one sealed secret boots in {:.0} ms", empty * 1e3);
}

fn row(name: &str, calls: usize, host: &Host, environment: &[(&str, &str)], mut bare: impl FnMut()) {
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        bare();
        let floor = begun.elapsed().as_secs_f64();
        let boot = boot(host, environment);
        ours.push(boot);
        theirs.push(floor);
        ratios.push(boot / floor);
    }
    println!("| {name} | {calls} | {:.0} | {:.0} | {:.2} |", median(theirs) * 1e3, median(ours) * 1e3, median(ratios));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds from the daemon's start to its first answer.
fn boot(host: &Host, environment: &[(&str, &str)]) -> f64 {
    let begun = Instant::now();
    let mut daemon = host.spawn(environment);
    if let Err(said) = daemon.wait_until_serving() {
        panic!("the daemon does not serve: {said}");
    }
    let boot = begun.elapsed();
    assert!(daemon.stop().success());
    // So that the next does not wait for what this one left to be cleaned up.
    std::thread::sleep(Duration::from_millis(20));
    boot.as_secs_f64()
}

fn names() -> Vec<String> {
    (0..COUNT).map(|i| format!("bench/key-{i:04}")).collect()
}

fn host(source: &str, paths: &[String]) -> Host {
    let host = Host::new();
    let names = names();
    let path = |i: usize, name: &String| paths.get(i).unwrap_or(name).clone();
    let secrets: String = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("[secret.\"{name}\"]\nsource = \"bench\"\npath = \"{}\"\n", path(i, name)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let tool = Host::tool("bench", rustix::process::getuid().as_raw(), &names);
    host.configure("", &format!("[source.bench]\n{source}\n{secrets}{tool}"));
    host
}

fn host_vault(url: &str, authority: Option<&std::path::Path>) -> Host {
    let authority = authority.map(|file| format!("ca-file = \"{}\"\n", file.display())).unwrap_or_default();
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), servers::ROOT_TOKEN).expect("a token file");
    let (_, path) = token.keep().expect("a file");
    host(&format!("kind = \"vault\"\naddress = \"{url}\"\n{authority}auth = {{ token-file = \"{}\" }}\n", path.display()), &[])
}

fn sealed(count: usize) -> Host {
    let host = Host::new();
    let names: Vec<String> = names().into_iter().take(count).collect();
    let secrets: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), [7; 64].as_slice())).collect();
    let source = host.seal(&secrets);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let tool = Host::tool("bench", rustix::process::getuid().as_raw(), &names);
    host.configure("", &format!("{source}{}{tool}", Host::secrets(&names)));
    host
}

fn aws(port: u16) -> Client {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .credentials_provider(Credentials::new("a", "b", None, None, "bench"))
        .build();
    Client::from_conf(config)
}

async fn seed_aws(port: u16) {
    let client = aws(port);
    let made =
        futures_util::stream::iter(names()).map(|name| client.create_secret().name(name).secret_string("v".repeat(64)).send());
    made.buffer_unordered(8).for_each(|made| async { drop(made.expect("a secret")) }).await;
}

async fn bare_aws(port: u16) {
    let client = aws(port);
    let names = names();
    let calls = names.chunks(20).map(|ids| client.batch_get_secret_value().set_secret_id_list(Some(ids.to_vec())).send());
    let found = futures_util::stream::iter(calls).buffer_unordered(UNDER_WAY);
    let found = found.fold(0, |found, answer| async move { found + answer.expect("an answer").secret_values().len() }).await;
    assert_eq!(found, COUNT);
}

fn http(authority: Option<&[u8]>) -> reqwest::Client {
    let client = reqwest::Client::builder().http1_only().no_proxy();
    let client = match authority {
        Some(pem) => client.add_root_certificate(reqwest::Certificate::from_pem(pem).expect("a certificate")),
        None => client,
    };
    client.build().expect("a client")
}

async fn seed_vault(url: &str, authority: Option<&[u8]>) {
    let client = http(authority);
    let put = |name: String| {
        let body = format!(r#"{{"data":{{"value":"{}"}}}}"#, "v".repeat(64));
        client.post(format!("{url}/v1/secret/data/{name}")).header("X-Vault-Token", servers::ROOT_TOKEN).body(body).send()
    };
    futures_util::stream::iter(names())
        .map(put)
        .buffer_unordered(8)
        .for_each(|put| async { assert!(put.expect("an answer").status().is_success()) })
        .await;
}

async fn bare_vault(url: &str, authority: Option<&[u8]>) {
    let client = http(authority);
    let get = |name: String| {
        let request = client.get(format!("{url}/v1/secret/data/{name}")).header("X-Vault-Token", servers::ROOT_TOKEN).send();
        async { request.await.expect("an answer").bytes().await.expect("a body").len() }
    };
    let lengths = futures_util::stream::iter(names()).map(get).buffer_unordered(UNDER_WAY);
    assert_eq!(lengths.filter(|length| std::future::ready(*length > 64)).count().await, COUNT);
}

//! Stores that fail in every way they can: tools go on with the last good values for as long as `max-stale` says and no longer, what is
//! refused goes at once, and all of it comes back by itself. The real daemon, real stores, and faults between them.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/faults.rs"]
mod faults;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    collections::BTreeMap,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::{Host, eventually};
use faults::{BAD_GATEWAY, Fault, LANDING_PAGE, PORTAL, Proxy, TOO_MANY, UNAVAILABLE};
use raw::{Raw, reason};
use servers::Server;
use stores::{UNLIMITED, secret};
use tokio::task::JoinSet;
use valetkey::proto::v1::{
    ListSecretsRequest, RefreshRequest, ReloadRequest, RevokeRequest, StatusRequest, admin_client::AdminClient,
    revoke_request::Target, session_response::Response,
};

const EVERY: Duration = Duration::from_secs(2);
const MAX_STALE: Duration = Duration::from_secs(8);
/// What a busy host may add to a time that is measured in another process.
const SLACK: Duration = Duration::from_millis(1500);

fn fresh(max_stale: u64) -> String {
    format!("refresh-every = \"2s\"\nmax-stale = \"{max_stale}s\"\n")
}

/// `[source.NAME]` for an OpenBao or an AWS API behind this port.
fn vault(host: &Host, name: &str, port: u16, rest: &str) -> String {
    stores::vault_as_root(host, port).replace("[source.vault]", &format!("[source.{name}]")) + rest
}

fn aws(host: &Host, name: &str, port: u16, rest: &str) -> (String, Vec<(&'static str, String)>) {
    let (source, environment) = stores::aws(host, port, "secret-key-of-aws");
    (source.replace("[source.aws]", &format!("[source.{name}]")) + rest, environment)
}

fn secrets(host: &Host) -> BTreeMap<String, serde_json::Value> {
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["secrets", "--json"]).stdout).unwrap();
    let each = listing["secrets"].as_array().unwrap().iter();
    each.map(|secret| (secret["name"].as_str().unwrap().to_owned(), secret.clone())).collect()
}

async fn health(host: &Host, source: &str) -> String {
    let status = host.admin().await.status(StatusRequest {}).await.unwrap().into_inner();
    status.sources.into_iter().find(|one| one.name == source).unwrap().health
}

// ---- What a tool sees of an outage.

/// A value and its age in seconds, or the reason why there is none.
type Read = Result<(String, u64), String>;

/// What one tool saw, each with its time.
#[derive(Default)]
struct Story {
    reads: Vec<(Instant, Read)>,
    /// `true`: of a new version. `false`: withdrawn.
    told: Vec<(Instant, bool)>,
}

/// Reads one secret until it is over.
async fn follow(host: Arc<Host>, name: String, over: Arc<AtomicBool>, pause: Duration) -> Story {
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &[&name]).await.unwrap();
    let mut story = Story::default();
    while !over.load(Relaxed) {
        raw.ask(1, &name);
        loop {
            let answer = raw.hear().await.unwrap();
            let now = Instant::now();
            match answer {
                Response::Secret(secret) => {
                    story.reads.push((now, Ok((String::from_utf8(secret.value).unwrap(), secret.age_seconds))));
                    break;
                }
                Response::Failed(failed) => {
                    story.reads.push((now, Err(failed.reason().as_str_name().into())));
                    break;
                }
                Response::Changed(_) => story.told.push((now, true)),
                Response::Revoked(revoked) => {
                    assert_eq!(revoked.name, name, "the session itself goes on");
                    story.told.push((now, false));
                }
                Response::Opened(_) => panic!("opened twice"),
            }
        }
        tokio::time::sleep(pause).await;
    }
    story
}

/// One way to fail, of one store.
struct Case {
    what: &'static str,
    fault: Fault,
    store: Store,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Store {
    Vault,
    VaultTls,
    Aws,
}

/// One line of the table.
#[derive(Debug)]
struct Line {
    case: String,
    inside: usize,
    refused_early: usize,
    served_late: usize,
    told: Option<Duration>,
    recovered: Option<Duration>,
    wrong: Vec<String>,
}

struct Times {
    fault: Instant,
    rotated: Instant,
    over: Instant,
    recovery: Duration,
}

fn judge(case: String, story: &Story, times: &Times) -> Line {
    let mut wrong = Vec::new();
    let stale = times.fault + MAX_STALE;
    let (mut inside, mut refused_early, mut served_late) = (0, 0, 0);
    for (at, read) in story.reads.iter().filter(|(at, _)| *at >= times.fault && *at < times.over) {
        match read {
            Ok((value, age)) => {
                if *at > stale + SLACK / 2 || *age > MAX_STALE.as_secs() {
                    served_late += 1;
                } else {
                    inside += 1;
                }
                let since = at.duration_since(times.fault);
                let most = (since + EVERY * 2 + SLACK).as_secs();
                if *age + 1 < since.as_secs() || *age > most {
                    wrong.push(format!("its age is given as {age} s after {since:?}"));
                }
                if *at > times.rotated && value.ends_with("new") {
                    wrong.push("the new value came through a fault".into());
                }
            }
            // It may have been confirmed one check before the fault.
            Err(_) if *at < stale - EVERY * 2 => refused_early += 1,
            Err(reason) if reason != "REASON_SECRET_UNAVAILABLE" => wrong.push(format!("refused as {reason}")),
            Err(_) => {}
        }
    }
    let told = story.told.iter().find(|(at, new)| !new && *at > times.fault).map(|(at, _)| at.duration_since(times.fault));
    let again = story.reads.iter().find(|(at, read)| *at > times.over && read.is_ok());
    let recovered = again.map(|(at, _)| at.duration_since(times.over));
    let newest = story.reads.last().and_then(|(_, read)| read.as_ref().ok());
    let withdrawn = story.told.iter().filter(|(at, new)| !new && *at > times.fault).count();
    let announced = story.told.iter().filter(|(at, new)| *new && *at > times.over).count();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned())
        }
    };
    must(inside > 50, "too few reads to tell anything");
    must(refused_early == 0, "refused inside max-stale");
    must(served_late == 0, "served after max-stale");
    must(withdrawn == 1, &format!("told {withdrawn} times that it was withdrawn"));
    must(told.is_some_and(|told| told < MAX_STALE + SLACK + Duration::from_secs(1)), "told late that it was withdrawn");
    must(recovered.is_some_and(|recovered| recovered < times.recovery), "not back in time");
    must(newest.is_some_and(|(value, _)| value.ends_with("new")), "the value made in the outage did not arrive");
    must(announced == 1, &format!("told {announced} times that it is back"));
    wrong.dedup_by(|a, b| a.split(' ').next() == b.split(' ').next());
    Line { case, inside, refused_early, served_late, told, recovered, wrong }
}

fn print(lines: &[Line]) {
    println!(
        "\n| fault | reads ok | refused before max-stale | served after | told after | recovered in |\n|---|---|---|---|---|---|"
    );
    let seconds = |time: Option<Duration>| time.map_or("never".into(), |time| format!("{:.1} s", time.as_secs_f32()));
    for line in lines {
        let Line { case, inside, refused_early, served_late, told, recovered, .. } = line;
        println!("| {case} | {inside} | {refused_early} | {served_late} | {} | {} |", seconds(*told), seconds(*recovered));
    }
}

/// All these faults at one time: a source, a secret, a proxy and a tool for each.
async fn storm(cases: &[Case]) -> Vec<Line> {
    let host = Arc::new(Host::new());
    let folder = tempfile::tempdir().unwrap();
    let tls = cases.iter().any(|case| case.store == Store::VaultTls).then(|| servers::start_openbao_tls(folder.path()));
    let (mut config, mut names, mut proxies, mut environment) = (String::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let (name, source) = (format!("storm/s{number}-{:?}", case.store).to_lowercase(), format!("s{number}"));
        let proxy = match case.store {
            Store::Vault => Proxy::plain(servers::openbao().port),
            Store::VaultTls => Proxy::tls(tls.as_ref().unwrap().0.port),
            Store::Aws => Proxy::plain(servers::moto().port),
        };
        match case.store {
            Store::Aws => {
                let (text, found) = aws(&host, &source, proxy.port, &fresh(8));
                config += &text;
                environment = found;
            }
            Store::Vault => config += &vault(&host, &source, proxy.port, &fresh(8)),
            Store::VaultTls => {
                let text = vault(&host, &source, proxy.port, &fresh(8)).replace("http://", "https://");
                config += &format!("{text}ca-file = \"{}\"\n", tls.as_ref().unwrap().1.display());
            }
        }
        config += &secret(&name, &source, &format!("path = \"{name}\"{}", field(case.store)));
        proxies.push(proxy);
        names.push(name);
    }
    let put = async |value: &str| {
        for (case, name) in cases.iter().zip(&names) {
            match case.store {
                Store::Vault => stores::vault_put(servers::openbao(), name, &format!("{{\"key\":\"{value}\"}}")),
                Store::VaultTls => put_over_tls(tls.as_ref().unwrap(), name, value).await,
                Store::Aws => stores::aws_put(servers::moto(), name, value).await,
            }
        }
    };
    put("value-of-old").await;
    let tool = Host::tool("it", 0, &names.iter().map(String::as_str).collect::<Vec<_>>());
    host.configure("load-timeout = \"3s\"\nmax-connections-per-peer = 200", &format!("{config}{tool}{UNLIMITED}"));
    let _daemon = host.start_with(&stores::borrowed(&environment));

    let (over, mut tools) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for (number, name) in names.iter().enumerate() {
        let story = follow(host.clone(), name.clone(), over.clone(), Duration::from_millis(50));
        tools.spawn(async move { (number, story.await) });
    }
    tokio::time::sleep(EVERY).await;
    let fault = Instant::now();
    cases.iter().zip(&proxies).for_each(|(case, proxy)| proxy.set(case.fault));
    tokio::time::sleep(EVERY * 2).await;
    for (number, case) in cases.iter().enumerate() {
        let source = format!("s{number}");
        while health(&host, &source).await != "unreachable" {
            assert!(fault.elapsed() < MAX_STALE, "the operator does not see: {:?}, {}", case.store, case.what);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let rotated = Instant::now();
    put("value-of-new").await;
    tokio::time::sleep((fault + MAX_STALE + SLACK * 2).saturating_duration_since(Instant::now())).await;
    for (name, secret) in secrets(&host) {
        assert_eq!(secret["state"], "stale", "{name}: {secret}");
    }
    let over_at = Instant::now();
    proxies.iter().for_each(|proxy| proxy.set(Fault::Pass));
    // The check that hangs, the longest wait after it, and what two cores take for all of it.
    let recovery = Duration::from_secs(3) + EVERY + SLACK * 2;
    tokio::time::sleep(recovery).await;
    over.store(true, Relaxed);
    let times = Times { fault, rotated, over: over_at, recovery };
    let mut stories: Vec<_> = tools.join_all().await;
    stories.sort_by_key(|(number, _)| *number);
    let line =
        |(number, story): &(usize, Story)| judge(format!("{:?}: {}", cases[*number].store, cases[*number].what), story, &times);
    let lines: Vec<_> = stories.iter().map(line).collect();
    print(&lines);
    lines
}

fn field(store: Store) -> &'static str {
    if store == Store::Aws { "" } else { "\nfield = \"key\"" }
}

async fn put_over_tls((server, authority): &(Server, std::path::PathBuf), name: &str, value: &str) {
    let pem = std::fs::read(authority).unwrap();
    let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
    let client = reqwest::Client::builder().tls_certs_merge([certificate]).no_proxy().build().unwrap();
    let url = format!("https://127.0.0.1:{}/v1/secret/data/{name}", server.port);
    let body = format!("{{\"data\":{{\"key\":\"{value}\"}}}}");
    let put = client.post(url).header("X-Vault-Token", servers::ROOT_TOKEN).body(body).send().await.unwrap();
    assert!(put.status().is_success());
}

#[track_caller]
fn assert_well(lines: &[Line]) {
    let wrong: Vec<_> = lines.iter().filter(|line| !line.wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn cases(store: Store, faults: &[(&'static str, Fault)]) -> Vec<Case> {
    faults.iter().map(|(what, fault)| Case { what, fault: *fault, store }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_borne_for_max_stale_and_no_longer() {
    let everywhere = [
        ("refused", Fault::Refuse),
        ("reset", Fault::Reset),
        ("hangs", Fault::Hang),
        ("drips", Fault::Drip),
        ("429, Retry-After", TOO_MANY),
        ("503", UNAVAILABLE),
        ("502, HTML", BAD_GATEWAY),
        ("200, HTML", LANDING_PAGE),
        ("half an answer", Fault::Half),
        ("five bytes", Fault::Cut),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (other, _) = servers::start_openbao_tls(folder.path());
    let in_tls = [
        ("refused", Fault::Refuse),
        ("hangs", Fault::Hang),
        ("drips", Fault::Drip),
        ("cut in the handshake", Fault::Cut),
        ("cut later", Fault::Half),
        ("another's certificate", Fault::Elsewhere(other.port)),
    ];
    let all = [cases(Store::Vault, &everywhere), cases(Store::Aws, &everywhere), cases(Store::VaultTls, &in_tls)];
    let all: Vec<_> = all.into_iter().flatten().collect();
    assert_well(&storm(&all).await);
}

/// A page that a network puts in the way with 403 is not the word of the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_portal_is_not_a_refusal() {
    let portal = [("403, HTML", PORTAL)];
    let all = [cases(Store::Vault, &portal), cases(Store::Aws, &portal)];
    let all: Vec<_> = all.into_iter().flatten().collect();
    assert_well(&storm(&all).await);
}

/// One that is only slow is no fault at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_not_an_outage() {
    let host = Arc::new(Host::new());
    let proxy = Proxy::plain(servers::openbao().port);
    stores::vault_put(servers::openbao(), "slow/key", r#"{"key":"value-of-old"}"#);
    let config = vault(&host, "vault", proxy.port, "refresh-every = \"1s\"\nmax-stale = \"4s\"\n");
    let config = config + &secret("slow/key", "vault", "field = \"key\"");
    host.configure("", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["slow/key"])));
    let _daemon = host.start();
    proxy.set(Fault::Late(Duration::from_millis(700)));
    let over = Arc::new(AtomicBool::new(false));
    let story = tokio::spawn(follow(host.clone(), "slow/key".into(), over.clone(), Duration::from_millis(50)));
    tokio::time::sleep(Duration::from_secs(7)).await;
    over.store(true, Relaxed);
    let story = story.await.unwrap();
    assert!(story.told.is_empty() && story.reads.iter().all(|(_, read)| read.is_ok()));
    assert!(!host.log().contains("cannot be reached"), "{}", host.log());
}

// ---- Refused is not unreachable.

/// A host with one secret of the store behind this port; a check each second, and hours until it would be stale.
fn patient(source: &str, environment: &[(&'static str, String)], host: &Host, name: &str, rest: &str) -> daemon::Daemon {
    let config = format!("{source}refresh-every = \"1s\"\nmax-stale = \"2h\"\n");
    let config = config + &secret(name, source_name(source), rest);
    host.configure("load-timeout = \"5s\"", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &[name])));
    host.start_with(&stores::borrowed(environment))
}

fn source_name(source: &str) -> &str {
    source.trim_start_matches("[source.").split(']').next().unwrap()
}

async fn hear(raw: &mut Raw, what: &str) -> Response {
    let heard = tokio::time::timeout(Duration::from_secs(10), raw.hear()).await;
    heard.unwrap_or_else(|_| panic!("nothing is heard: {what}")).unwrap()
}

/// It is wiped, refused, and everyone knows.
async fn assert_gone(host: &Host, raw: &mut Raw, name: &str, how: &str) {
    match hear(raw, how).await {
        Response::Revoked(revoked) => {
            assert_eq!((revoked.name.as_str(), revoked.reason().as_str_name()), (name, "REASON_SECRET_UNAVAILABLE"))
        }
        _ => panic!("{how}: told something else"),
    }
    assert!(matches!(raw.get(1, name).await.unwrap(), Response::Failed(_)), "{how}");
    let listed = host.admin().await.list_secrets(ListSecretsRequest {}).await.unwrap().into_inner().secrets;
    let shown = listed.into_iter().find(|secret| secret.name == name).unwrap();
    assert_eq!(shown.state, "missing", "{how}: {shown:?}");
    assert!(shown.problem.starts_with("refused") || shown.problem.starts_with("not found"), "{how}: {shown:?}");
    assert_eq!(secrets(host)[name]["state"], "missing", "{how}: the command says the same");
    let status: serde_json::Value = serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap();
    // The token of Vault is kept there too.
    let token = if shown.source == "vault" { 64 } else { 0 };
    assert!(status["memory"]["used_bytes"].as_u64().unwrap() <= token, "{how}: it is wiped: {status}");
    assert_eq!(health(host, &shown.source).await, "refusing", "{how}");
    let log = host.log();
    assert!(log.contains("its source does not give it") && !log.contains("cannot be reached"), "{how}: {log}");
}

/// It is back, and everyone is told.
async fn assert_back(raw: &mut Raw, name: &str, value: &str) {
    assert!(matches!(hear(raw, "it is back").await, Response::Changed(_)));
    assert_eq!(raw.secret(2, name).await.value, value.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vault_takes_back_goes_at_once() {
    let (host, bao) = (Host::new(), servers::start_openbao());
    stores::vault_put(&bao, "gone/key", r#"{"key":"value-of-one"}"#);
    let policy = |paths: &str| bao.vault("PUT", "sys/policies/acl/reader", &format!("{{\"policy\":{paths:?}}}"));
    let may = "path \"secret/*\" { capabilities = [\"read\"] }";
    policy(may);
    let (_, made) = bao.vault("POST", "auth/token/create", r#"{"policies":["reader"],"no_default_policy":false}"#);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let token = made["auth"]["client_token"].as_str().unwrap();
    let source = stores::vault(&host, bao.port, token);
    let _daemon = patient(&source, &[], &host, "gone/key", "field = \"key\"");
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["gone/key"]).await.unwrap();
    assert_eq!(raw.secret(1, "gone/key").await.value, b"value-of-one");

    bao.vault("DELETE", "secret/data/gone/key", "");
    assert_gone(&host, &mut raw, "gone/key", "deleted").await;
    bao.vault("POST", "secret/undelete/gone/key", r#"{"versions":[1]}"#);
    assert_back(&mut raw, "gone/key", "value-of-one").await;

    bao.vault("PUT", "secret/destroy/gone/key", r#"{"versions":[1]}"#);
    assert_gone(&host, &mut raw, "gone/key", "destroyed").await;
    stores::vault_put(&bao, "gone/key", r#"{"key":"value-of-two"}"#);
    assert_back(&mut raw, "gone/key", "value-of-two").await;

    policy("path \"other/*\" { capabilities = [\"read\"] }");
    assert_gone(&host, &mut raw, "gone/key", "forbidden").await;
    policy(may);
    assert_back(&mut raw, "gone/key", "value-of-two").await;

    // The store says that the token is none: that is its word too, and not an outage.
    bao.vault("POST", "auth/token/revoke", &format!("{{\"token\":\"{token}\"}}"));
    assert_gone(&host, &mut raw, "gone/key", "the token is revoked").await;
    let (_, made) = bao.vault("POST", "auth/token/create", r#"{"policies":["reader"]}"#);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    host.write("vault-token", made["auth"]["client_token"].as_str().unwrap());
    assert_back(&mut raw, "gone/key", "value-of-two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_takes_back_goes_at_once() {
    let (host, moto) = (Host::new(), servers::moto());
    stores::aws_put(moto, "gone/aws", "value-of-one").await;
    let (source, environment) = stores::aws(&host, moto.port, "secret-key-of-aws");
    let _daemon = patient(&source, &environment, &host, "gone/aws", "");
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["gone/aws"]).await.unwrap();
    assert_eq!(raw.secret(1, "gone/aws").await.value, b"value-of-one");
    let owner = stores::owner(moto.port);
    owner.delete_secret().secret_id("gone/aws").send().await.unwrap();
    assert_gone(&host, &mut raw, "gone/aws", "marked for deletion").await;
    owner.restore_secret().secret_id("gone/aws").send().await.unwrap();
    assert_back(&mut raw, "gone/aws", "value-of-one").await;
    owner.delete_secret().secret_id("gone/aws").force_delete_without_recovery(true).send().await.unwrap();
    assert_gone(&host, &mut raw, "gone/aws", "deleted").await;
    stores::aws_put(moto, "gone/aws", "value-of-two").await;
    assert_back(&mut raw, "gone/aws", "value-of-two").await;
}

// ---- Many tools.

#[tokio::test(flavor = "multi_thread")]
async fn fifty_tools_read_through_an_outage() {
    const AT_ONCE: usize = 4;
    let (host, bao) = (Arc::new(Host::new()), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    let names: Vec<_> = (0..60).map(|number| format!("many/s{number}")).collect();
    let mut config = vault(&host, "vault", proxy.port, &fresh(8));
    for name in &names {
        stores::vault_put(bao, name, r#"{"key":"value-of-old"}"#);
        config += &secret(name, "vault", "field = \"key\"");
    }
    let tool = Host::tool("it", 0, &names.iter().map(String::as_str).collect::<Vec<_>>());
    host.configure(
        &format!("load-timeout = \"3s\"\nmax-connections-per-peer = 200\nload-concurrency = {AT_ONCE}"),
        &format!("{config}{tool}{UNLIMITED}"),
    );
    let _daemon = host.start();
    let (over, mut tools) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for number in 0..50 {
        tools.spawn(follow(host.clone(), names[number % names.len()].clone(), over.clone(), Duration::from_millis(100)));
    }
    tokio::time::sleep(EVERY).await;
    let normal = proxy.take_most_at_once();
    let fault = Instant::now();
    proxy.set(Fault::Reset);
    tokio::time::sleep(EVERY).await;
    let rotated = Instant::now();
    names.iter().for_each(|name| stores::vault_put(bao, name, r#"{"key":"value-of-new"}"#));
    tokio::time::sleep((fault + MAX_STALE + SLACK * 2).saturating_duration_since(Instant::now())).await;
    let calls = proxy.connections_since(fault);
    let over_at = Instant::now();
    proxy.set(Fault::Pass);
    let recovery = EVERY + SLACK * 2;
    tokio::time::sleep(recovery).await;
    over.store(true, Relaxed);
    let times = Times { fault, rotated, over: over_at, recovery };
    let lines: Vec<_> = tools.join_all().await.iter().map(|story| judge("reset".into(), story, &times)).collect();
    assert_well(&lines);
    let after = proxy.requests_since(over_at).len();
    let most = proxy.take_most_at_once();
    println!(
        "50 tools: {} reads; {calls} connections in an outage of {:?}, at most {} within 100 ms",
        lines.iter().map(|line| line.inside).sum::<usize>(),
        over_at - fault,
        proxy.burst_since(fault)
    );
    println!(
        "after it {after} requests in {recovery:?}; at one time at most {normal} before and {most} after, {AT_ONCE} are allowed"
    );
    assert!(normal <= AT_ONCE && most <= AT_ONCE, "{normal} and {most} at one time");
    assert!(after <= names.len() * 5, "{after} requests just after it");
}

/// Once it turns out to be out, it is not called for everything else that is wanted of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_out_is_hardly_called() {
    const AT_ONCE: usize = 4;
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    let names: Vec<_> = (0..60).map(|number| format!("hardly/s{number}")).collect();
    let mut config = vault(&host, "vault", proxy.port, &fresh(60));
    for name in &names {
        stores::vault_put(bao, name, r#"{"key":"value-of-old"}"#);
        config += &secret(name, "vault", "field = \"key\"");
    }
    let tool = Host::tool("it", 0, &names.iter().map(String::as_str).collect::<Vec<_>>());
    host.configure(&format!("load-concurrency = {AT_ONCE}"), &format!("{config}{tool}{UNLIMITED}"));
    let _daemon = host.start();
    tokio::time::sleep(EVERY).await;
    for (what, fault) in [("reset", Fault::Reset), ("429", TOO_MANY), ("502", BAD_GATEWAY)] {
        let begun = Instant::now();
        proxy.set(fault);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let calls = proxy.connections_since(begun).max(proxy.requests_since(begun).len());
        println!("{what}: {calls} calls in six seconds");
        // A try each second or two, and what was under way in it.
        assert!(calls <= 6 * (AT_ONCE + 1), "{what}: {calls} calls in six seconds");
        proxy.set(Fault::Pass);
        tokio::time::sleep(EVERY * 2).await;
    }
}

/// A store that is out is nothing to the others, whose tasks are their own.
#[tokio::test(flavor = "multi_thread")]
async fn one_source_that_hangs_does_not_make_another_stale() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "one/good", r#"{"key":"value-of-good"}"#);
    let proxy = Proxy::plain(bao.port);
    let mut config = vault(&host, "vault", bao.port, &fresh(4)) + &vault(&host, "out", proxy.port, &fresh(4));
    config += &secret("one/good", "vault", "field = \"key\"");
    config += &secret("one/out", "out", "path = \"one/good\"\nfield = \"key\"");
    host.configure("load-timeout = \"2s\"", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["one/good", "one/out"])));
    let _daemon = host.start();
    proxy.set(Fault::Hang);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let shown = secrets(&host);
    assert_eq!((&shown["one/good"]["state"], &shown["one/out"]["state"]), (&"held".into(), &"stale".into()));
    assert_eq!((health(&host, "vault").await.as_str(), health(&host, "out").await.as_str()), ("ok", "unreachable"));
}

// ---- A start without the source.

/// What systemd would hear.
struct Notified(UnixDatagram);

impl Notified {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn all(&self) -> String {
        let (mut all, mut chunk) = (String::new(), [0; 4096]);
        while let Ok(read) = self.0.recv(&mut chunk) {
            all += &format!("{}\n", str::from_utf8(&chunk[..read]).unwrap());
        }
        all
    }
}

async fn served(host: &Host, service: &str) -> String {
    let socket = if service.ends_with("Admin") { host.admin_socket() } else { host.tools_socket() };
    let mut client = tonic_health::pb::health_client::HealthClient::new(daemon::channel(&socket).await);
    let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
    let status = client.check(request).await.unwrap().into_inner().status();
    status.as_str_name().to_owned()
}

fn waiting(host: &Host, port: u16, name: &str) {
    let config = vault(host, "vault", port, &fresh(60)) + &secret(name, "vault", "field = \"key\"");
    host.configure(
        "on-unreachable = \"wait\"\nload-timeout = \"2s\"",
        &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &[name])),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_waits_says_so_and_then_serves() {
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    proxy.set(Fault::Refuse);
    stores::vault_put(bao, "wait/key", r#"{"key":"value-of-key"}"#);
    waiting(&host, proxy.port, "wait/key");
    let notified = Notified::at(&host.path("notify"));
    let mut daemon = host.spawn(&[("NOTIFY_SOCKET", host.path("notify").to_str().unwrap())]);
    daemon.wait_until_serving().unwrap();
    eventually("it says that it waits", || host.log().contains("waiting: 1 secrets cannot be had yet"));
    let said = notified.all();
    assert!(said.contains("EXTEND_TIMEOUT_USEC=") && said.contains("STATUS=waiting for sources"), "{said}");
    assert!(!said.contains("READY=1"), "{said}");
    assert_eq!(served(&host, "valetkey.v1.Broker").await, "NOT_SERVING");
    assert_eq!(served(&host, "valetkey.v1.Admin").await, "SERVING");
    let mut broker = raw::broker(&host.tools_socket()).await;
    let refused = Raw::open(&mut broker, "it", &["wait/key"]).await.err().unwrap();
    assert_eq!((reason(&refused).as_str(), refused.code()), ("NOT_READY", tonic::Code::Unavailable));
    let details = tonic_types::StatusExt::get_details_retry_info(&refused).expect("when to come back");
    assert!(details.retry_delay.is_some());
    let refresh = host.admin().await.refresh(RefreshRequest::default()).await.err().unwrap();
    assert_eq!(refresh.code(), tonic::Code::FailedPrecondition);
    assert_eq!(health(&host, "vault").await, "unreachable");

    // A reload fails like the load before it, and the daemon goes on waiting.
    assert!(host.admin().await.reload(ReloadRequest {}).await.is_err());
    proxy.set(Fault::Pass);
    eventually("it is ready", || host.log().contains(" ready"));
    assert!(notified.all().contains("READY=1"));
    assert_eq!(served(&host, "valetkey.v1.Broker").await, "SERVING");
    let mut raw = Raw::open(&mut broker, "it", &["wait/key"]).await.unwrap();
    assert_eq!(raw.secret(1, "wait/key").await.value, b"value-of-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_waits_can_be_reloaded_and_stopped() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "wait/other", r#"{"key":"value-of-other"}"#);
    let gone = Proxy::plain(bao.port);
    gone.set(Fault::Hang);
    waiting(&host, gone.port, "wait/other");
    for reload in [false, true] {
        let mut daemon = host.spawn(&[]);
        daemon.wait_until_serving().unwrap();
        if reload {
            // A while, so that the next try by itself is some seconds off.
            eventually("it has waited", || host.log().contains("seconds=4"));
            waiting(&host, bao.port, "wait/other");
            assert!(host.admin().await.reload(ReloadRequest {}).await.is_ok());
            let loaded = Instant::now();
            eventually("it is ready", || host.log().contains(" ready"));
            assert!(loaded.elapsed() < SLACK, "what a reload has loaded is not waited for: {:?}", loaded.elapsed());
            let mut broker = raw::broker(&host.tools_socket()).await;
            assert_eq!(
                Raw::open(&mut broker, "it", &["wait/other"]).await.unwrap().secret(1, "wait/other").await.value,
                b"value-of-other"
            );
        }
        let begun = Instant::now();
        assert_eq!(daemon.stop().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

/// Waiting is for those who do not answer. What is refused will not come.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_fails_on_what_is_refused_and_with_fail_on_who_is_silent() {
    let (host, bao) = (Host::new(), servers::openbao());
    let gone = servers::free_port();
    let text = vault(&host, "vault", bao.port, "") + &vault(&host, "gone", gone, "");
    let config = |on_unreachable: &str, refused: &str| {
        let secrets = secret("fail/gone", "gone", "field = \"key\"") + refused;
        let names: &[&str] = if refused.is_empty() { &["fail/gone"] } else { &["fail/gone", "fail/no"] };
        host.configure(
            &format!("on-unreachable = \"{on_unreachable}\"\nload-timeout = \"3s\""),
            &format!("{text}{secrets}{}", Host::tool("it", 0, names)),
        );
    };
    config("wait", &secret("fail/no", "vault", "path = \"fail/nothing\"\nfield = \"key\""));
    assert_eq!(host.spawn(&[]).wait(Duration::from_secs(20)).code(), Some(1));
    assert!(
        host.log().contains("secret fail/no from source vault: not found") && host.log().contains("fail/gone"),
        "{}",
        host.log()
    );
    config("fail", "");
    assert_eq!(host.spawn(&[]).wait(Duration::from_secs(20)).code(), Some(1));
    assert!(host.log().contains("secret fail/gone from source gone: unreachable"), "{}", host.log());
    assert_eq!(host.log().matches("not started").count(), 2);
}

// ---- Checks that are asked for, reloads and revocations, all at once.

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_are_served_by_one_check() {
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    stores::vault_put(bao, "single/key", r#"{"key":"value-of-old"}"#);
    let config = vault(&host, "vault", proxy.port, "") + &secret("single/key", "vault", "field = \"key\"");
    host.configure("", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["single/key"])));
    let _daemon = host.start();
    proxy.set(Fault::Late(Duration::from_millis(300)));
    let begun = Instant::now();
    let admin = host.admin().await;
    let ask = async |secrets: Vec<String>| admin.clone().refresh(RefreshRequest { secrets }).await.unwrap().into_inner();
    let asked = (0..100).map(|number| ask(if number % 2 == 0 { vec![] } else { vec!["single/key".into()] }));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.failed.is_empty()));
    let (calls, most) = (proxy.requests_since(begun).len(), proxy.take_most_at_once());
    println!("100 who ask at once: {calls} calls, {most} at one time, {:?}", begun.elapsed());
    assert!(most == 1 && calls <= 12, "{calls} calls for 100 who ask, {most} at one time");

    // A rotation while many ask: told once.
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["single/key"]).await.unwrap();
    stores::vault_put(bao, "single/key", r#"{"key":"value-of-new"}"#);
    futures_util::future::join_all((0..10).map(|_| ask(vec![]))).await;
    assert!(matches!(hear(&mut raw, "the rotation").await, Response::Changed(_)));
    assert_eq!(raw.secret(1, "single/key").await.value, b"value-of-new");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_during_a_check_or_a_reload_stays_revoked() {
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    stores::vault_put(bao, "revoke/key", r#"{"key":"value-of-key"}"#);
    let config = vault(&host, "vault", proxy.port, "refresh-every = \"1s\"\nmax-stale = \"1h\"\n")
        + &secret("revoke/key", "vault", "field = \"key\"");
    host.configure("", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["revoke/key"])));
    let _daemon = host.start();
    let revoke = async || {
        let target = Some(Target::Secret("revoke/key".into()));
        host.admin().await.revoke(RevokeRequest { target }).await.unwrap();
    };
    let late = Fault::Late(Duration::from_millis(800));
    proxy.set(late);
    let (mut one, mut other) = (host.admin().await, host.admin().await);
    let checking = one.refresh(RefreshRequest::default());
    let (_, ()) = tokio::join!(checking, async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        revoke().await;
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(secrets(&host)["revoke/key"]["state"], "revoked", "a check does not bring it back");
    other.reload(ReloadRequest {}).await.unwrap();
    assert_eq!(secrets(&host)["revoke/key"]["state"], "held", "a reload does");
    // One that is under way already does not.
    let reloading = other.reload(ReloadRequest {});
    let (reloaded, ()) = tokio::join!(reloading, async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        revoke().await;
    });
    reloaded.unwrap();
    assert_eq!(secrets(&host)["revoke/key"]["state"], "revoked", "the reload had begun before");
}

/// However a reload ends, the checks go on: it failed, its caller went away, it came in the middle of a check.
#[tokio::test(flavor = "multi_thread")]
async fn checks_go_on_whatever_becomes_of_a_reload() {
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    let put = |value: usize| stores::vault_put(bao, "reload/key", &format!("{{\"key\":\"value-{value}\"}}"));
    put(0);
    let source = vault(&host, "vault", proxy.port, "refresh-every = \"1s\"\nmax-stale = \"1h\"\n");
    let good =
        source.clone() + &secret("reload/key", "vault", "field = \"key\"") + &Host::tool("it", 0, &["reload/key"]) + UNLIMITED;
    let bad =
        secret("reload/none", "vault", "field = \"key\"") + &good.replace("secrets.", "secrets.\"reload/none\" = {}\nsecrets.");
    let bad = bad.replacen(&source, "", 1);
    host.configure("", &good);
    let _daemon = host.start();
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["reload/key"]).await.unwrap();
    for (number, how) in ["it failed", "its caller went away", "in the middle of a check"].into_iter().enumerate() {
        proxy.set(Fault::Late(Duration::from_millis(600)));
        match number {
            0 => {
                host.configure("", &format!("{source}{bad}"));
                assert!(host.admin().await.reload(ReloadRequest {}).await.is_err());
                host.configure("", &good);
            }
            1 => {
                let socket = host.admin_socket();
                let mut admin = AdminClient::new(daemon::channel(&socket).await);
                assert!(tokio::time::timeout(Duration::from_millis(400), admin.reload(ReloadRequest {})).await.is_err());
                drop(admin);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            _ => {
                let (mut one, mut other) = (host.admin().await, host.admin().await);
                let (refreshed, reloaded) = tokio::join!(one.refresh(RefreshRequest::default()), async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    other.reload(ReloadRequest {}).await
                });
                assert!(reloaded.is_ok());
                assert!(refreshed.unwrap().into_inner().failed.is_empty(), "who asked has an answer that is true");
            }
        }
        proxy.set(Fault::Pass);
        put(number + 1);
        match hear(&mut raw, how).await {
            Response::Changed(_) => {}
            _ => panic!("{how}: told something else"),
        }
        let value = format!("value-{}", number + 1);
        assert_eq!(raw.secret(1, "reload/key").await.value, value.as_bytes(), "{how}");
    }
}

/// What operators see of a source is of what it has now.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_check_is_of_secrets_that_are_still_there() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "next/a", r#"{"key":"value-of-a"}"#);
    stores::vault_put(bao, "next/b", r#"{"key":"value-of-b"}"#);
    let configure = |names: &[&str]| {
        let source = vault(&host, "vault", bao.port, "refresh-every = \"1s\"\nmax-stale = \"1h\"\n");
        let secrets: String = names.iter().map(|name| secret(name, "vault", "field = \"key\"")).collect();
        host.configure("", &format!("{source}{secrets}{}{UNLIMITED}", Host::tool("it", 0, names)));
    };
    configure(&["next/a", "next/b"]);
    let _daemon = host.start();
    configure(&["next/a"]);
    host.admin().await.reload(ReloadRequest {}).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = host.admin().await.status(StatusRequest {}).await.unwrap().into_inner();
    let next = std::time::SystemTime::try_from(status.sources[0].next_check.unwrap()).unwrap();
    let late = std::time::SystemTime::now().duration_since(next).unwrap_or_default();
    assert!(late < Duration::from_secs(1), "its next check was {late:?} ago");
}

// ---- A store in production.

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_sealed_restarted_and_unsealed() {
    let (host, folder) = (Arc::new(Host::new()), tempfile::tempdir().unwrap());
    let mut bao = servers::start_openbao_production(folder.path());
    bao.call("POST", "sys/mounts/secret", r#"{"type":"kv","options":{"version":"2"}}"#).await;
    let mut value = 0;
    // Mounting goes on for a moment after the answer.
    bao.put("prod/key", &format!("value-{value}")).await;
    let source = format!(
        "[source.vault]\nkind = \"vault\"\naddress = \"https://127.0.0.1:{}\"\nca-file = \"{}\"\nauth = {{ token-file = \"{}\" }}\n",
        bao.port,
        bao.authority.display(),
        host.path("token").display()
    );
    host.write("token", &bao.root);
    let config = source + "refresh-every = \"1s\"\nmax-stale = \"3s\"\n" + &secret("prod/key", "vault", "field = \"key\"");
    host.configure("load-timeout = \"5s\"", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["prod/key"])));
    let _daemon = host.start();
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["prod/key"]).await.unwrap();
    for how in ["sealed", "killed and started again"] {
        assert_eq!(raw.secret(1, "prod/key").await.value, format!("value-{value}").as_bytes());
        if how == "sealed" {
            bao.call("PUT", "sys/seal", "").await;
        } else {
            bao.kill();
        }
        let begun = Instant::now();
        // Last good for as long as max-stale, then refused.
        loop {
            match raw.get(2, "prod/key").await.unwrap() {
                Response::Secret(secret) => assert!(secret.age_seconds <= 3),
                // Refused from the first moment, and withdrawn within a second.
                Response::Failed(_) => {}
                Response::Revoked(_) => break,
                _ => panic!("{how}: told something else"),
            }
            assert!(begun.elapsed() < Duration::from_secs(6), "{how}: never stale");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(1500), "{how}: gone after {:?}", begun.elapsed());
        // The answer to the last of the reads.
        assert!(matches!(hear(&mut raw, how).await, Response::Failed(_)));
        if how != "sealed" {
            bao.start_again();
        }
        bao.unseal().await;
        assert_back(&mut raw, "prod/key", &format!("value-{value}")).await;
        value += 1;
        bao.put("prod/key", &format!("value-{value}")).await;
        assert!(matches!(hear(&mut raw, how).await, Response::Changed(_)));
    }
}

// ---- The clock is set.

/// What libc tells of the date, moved by what a file says: what a daemon sees when somebody sets the clock. Setting this host's own would be
/// felt by everyone else on it.
const MOVED_CLOCK: &str = r#"
    #include <fcntl.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    int clock_gettime(clockid_t clock, struct timespec *now) {
        int failed = syscall(SYS_clock_gettime, clock, now);
        const char *path = getenv("MOVED_BY");
        if (failed || clock != CLOCK_REALTIME || !path) return failed;
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
        return 0;
    }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn setting_the_clock_makes_nothing_stale_and_nothing_fresh() {
    let (host, bao) = (Arc::new(Host::new()), servers::openbao());
    host.write("clock.c", MOVED_CLOCK);
    let (source, library, moved) = (host.path("clock.c"), host.path("clock.so"), host.path("moved"));
    let made = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(made.success());
    let proxy = Proxy::plain(bao.port);
    stores::vault_put(bao, "clock/key", r#"{"key":"value-of-key"}"#);
    let config = vault(&host, "vault", proxy.port, "refresh-every = \"1s\"\nmax-stale = \"4s\"\n");
    let config = config + &secret("clock/key", "vault", "field = \"key\"");
    host.configure("load-timeout = \"2s\"", &format!("{config}{}{UNLIMITED}", Host::tool("it", 0, &["clock/key"])));
    let environment = [("LD_PRELOAD", library.to_str().unwrap()), ("MOVED_BY", moved.to_str().unwrap())];
    let _daemon = host.start_with(&environment);
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["clock/key"]).await.unwrap();
    let day = 24 * 3600;
    for days in [1, -1] {
        host.write("moved", &format!("{}\n", days * day));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            assert!(raw.secret(1, "clock/key").await.age_seconds <= 2, "moved by {days} days");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let status = host.admin().await.status(StatusRequest {}).await.unwrap().into_inner();
        let told = status.sources[0].last_good.unwrap().seconds;
        let date = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((told - date - days * day).abs() < 60, "the daemon does see another date");
    }
    // Set back by a day at the start of an outage, which would keep it fresh for a day more.
    host.write("moved", "0");
    let fault = Instant::now();
    proxy.set(Fault::Refuse);
    host.write("moved", &format!("{}\n", -day));
    loop {
        match raw.get(1, "clock/key").await.unwrap() {
            Response::Secret(secret) => assert!(secret.age_seconds <= 4 && secret.age_seconds <= fault.elapsed().as_secs() + 2),
            Response::Failed(_) | Response::Revoked(_) => break,
            _ => panic!("told something else"),
        }
        assert!(fault.elapsed() < Duration::from_secs(4) + SLACK, "served {:?} after its last check", fault.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fault.elapsed() > Duration::from_secs(2), "refused after {:?} already", fault.elapsed());
}

//! A daemon that reads its configuration and its sources again: all of the new, or all of the old and a word about why.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use daemon::{Host, eventually};
use raw::{Raw, get_unary, open_unary, reason};
use stores::UNLIMITED;
use valetkey::{
    client::{Error, Retry},
    proto::v1::{session_response::Response, *},
};

/// A host with two secrets and a tool that may have these of them.
fn host(may: &[&str]) -> Host {
    let host = Host::new();
    host.seal(&[("a/key", b"value-of-a-key-1"), ("b/key", b"value-of-b-key-1")]);
    configure(&host, &["a/key", "b/key"], may);
    host
}

fn configure(host: &Host, secrets: &[&str], may: &[&str]) {
    let source = host.seal(&[]);
    host.configure("", &format!("{source}{}{}{UNLIMITED}", Host::secrets(secrets), Host::tool("it", 0, may)));
}

fn status(host: &Host) -> serde_json::Value {
    serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap()
}

/// `valetkey reload`: its exit code, and all that it printed.
fn reload(host: &Host) -> (i32, String) {
    let out = host.operate(&["reload"]);
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    (out.status.code().unwrap(), said)
}

async fn revoked(raw: &mut Raw) -> (Reason, String) {
    let told = tokio::time::timeout(Duration::from_secs(10), raw.hear()).await.expect("it is told at once").unwrap();
    let Response::Revoked(revoked) = told else { panic!("told something else") };
    (revoked.reason(), revoked.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_mistakes_are_told_as_far_as_an_answer_goes() {
    let host = host(&["a/key"]);
    let _daemon = host.start();
    let mistakes: String = (0..100).map(|n| format!("[tool.t{n}]\nrun-as = {{ user = \"no-such-user\" }}\n")).collect();
    host.write("valetkey.toml", &mistakes);
    let (code, said) = reload(&host);
    assert!(code == 1 && said.contains("valetkey.toml:2: error") && said.contains("more: the daemon's log"), "{said}");
    assert!(!said.contains("warning") && host.log().contains("[tool.t99]"), "all of it is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_so() {
    let host = host(&["a/key"]);
    let daemon = host.start();
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    let before = status(&host);
    for bad in ["[daemon\n", "[tool.it]\nrun-as = { user = \"0\" }\nsecret.\"a/key\" = {}\n", ""] {
        host.write("valetkey.toml", bad);
        let (code, said) = reload(&host);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("everything stays as it was"), "{said}");
        let now = status(&host);
        assert!(now["reload_error"].as_str().is_some_and(|error| error.contains("valetkey.toml")), "{now}");
        assert_eq!((&now["configured"], &now["tools"]), (&before["configured"], &before["tools"]));
        assert!(host.operate(&["status"]).stdout.windows(18).any(|text| text == b"LAST RELOAD FAILED"));
        assert_eq!(raw.secret(1, "a/key").await.value, b"value-of-a-key-1");
    }
    // By signal the same.
    daemon.signal(libc::SIGHUP);
    eventually("the log says it four times", || host.log().matches("reload failed").count() == 4);
    assert_eq!(raw.secret(2, "a/key").await.value, b"value-of-a-key-1");
    // A good one clears it.
    configure(&host, &["a/key", "b/key"], &["a/key"]);
    assert_eq!(reload(&host).0, 0);
    assert!(status(&host)["reload_error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_or_a_tool_that_is_taken_away_ends_its_sessions() {
    let host = host(&["a/key", "b/key"]);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut both = Raw::open(&mut broker, "it", &["a/key", "b/key"]).await.unwrap();
    let mut kept = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    let unary = open_unary(&mut broker, "it", &["a/key", "b/key"]).await.unwrap().session;
    let watch = WatchSecretsRequest { session: unary.clone() };
    // Two may watch one session, and both are told.
    let mut watches = Vec::new();
    for _ in 0..2 {
        let mut events = broker.watch_secrets(watch.clone()).await.unwrap().into_inner();
        for _ in 0..2 {
            assert!(matches!(events.message().await.unwrap().unwrap().event, Some(secret_event::Event::Changed(_))));
        }
        watches.push(events);
    }

    configure(&host, &["a/key", "b/key"], &["a/key"]);
    let (code, said) = reload(&host);
    assert!(code == 0 && said.contains("2 sessions ended"), "{said}");
    assert_eq!(revoked(&mut both).await, (Reason::ScopeNotAllowed, String::new()));
    assert_eq!(reason(&both.hear().await.err().unwrap()), "SCOPE_NOT_ALLOWED");
    assert_eq!(reason(&get_unary(&mut broker, &unary, &["b/key"]).await.err().unwrap()), "SESSION_NOT_OPEN");
    for events in &mut watches {
        let told = tokio::time::timeout(Duration::from_secs(10), events.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(told.event, Some(secret_event::Event::Revoked(revoked)) if revoked.name.is_empty()));
        assert!(events.message().await.unwrap().is_none(), "and then the watch ends");
    }
    assert_eq!(kept.secret(1, "a/key").await.value, b"value-of-a-key-1");

    let source = host.seal(&[]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("other", 0, &["a/key"])));
    assert_eq!(reload(&host).0, 0);
    assert_eq!(revoked(&mut kept).await.0, Reason::ScopeNotAllowed);
    let gone = Raw::open(&mut broker, "it", &["a/key"]).await.err().unwrap();
    assert_eq!(reason(&gone), "TOOL_NOT_ALLOWED");
    Raw::open(&mut broker, "other", &["a/key"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_added_is_loaded_and_one_that_is_taken_away_goes() {
    let host = host(&["a/key"]);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let used = status(&host)["memory"]["used_bytes"].as_u64().unwrap();
    configure(&host, &["a/key", "b/key"], &["a/key", "b/key"]);
    let (code, said) = reload(&host);
    assert!(code == 0 && said.contains("b/key changed"), "{said}");
    let mut raw = Raw::open(&mut broker, "it", &["b/key"]).await.unwrap();
    assert_eq!(raw.secret(1, "b/key").await.value, b"value-of-b-key-1");
    configure(&host, &["a/key", "b/key"], &["a/key"]);
    assert_eq!(reload(&host).0, 0);
    assert_eq!(status(&host)["memory"]["used_bytes"], used, "its value is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_secret_that_cannot_be_had_leaves_everything_as_it_was() {
    let host = host(&["a/key", "b/key"]);
    let _daemon = host.start();
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key", "b/key"]).await.unwrap();
    // New values at the source, a grant less, and one secret that nobody has.
    host.seal(&[("a/key", b"value-of-a-key-2")]);
    configure(&host, &["a/key", "b/key", "c/key"], &["a/key", "c/key"]);
    let (code, said) = reload(&host);
    assert!(code == 1 && said.contains("secret c/key from source sealed: not found"), "{said}");
    // Neither the policy nor a value has moved: half of a change is no state anybody asked for.
    assert_eq!(raw.secret(1, "a/key").await.value, b"value-of-a-key-1");
    assert_eq!(raw.secret(2, "b/key").await.value, b"value-of-b-key-1");
    assert_eq!(status(&host)["secrets"], 2);
}

/// Policy can be changed while a source is down, as long as nothing is wanted of it that is not held.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_in_an_outage_keeps_last_good_values_of_the_same_place() {
    let host = Host::new();
    let bao = servers::start_openbao();
    stores::vault_put(&bao, "outage/a", r#"{"value":"value-of-a"}"#);
    stores::vault_put(&bao, "outage/b", r#"{"value":"value-of-b"}"#);
    let port = bao.port;
    let configure = |path: &str, may: &[&str]| {
        let secrets = stores::secret("a/key", "vault", &format!("path = \"{path}\""))
            + &stores::secret("b/key", "vault", "path = \"outage/b\"");
        let source = stores::vault_as_root(&host, port);
        host.configure("load-timeout = \"2s\"", &format!("{source}{secrets}{}{UNLIMITED}", Host::tool("it", 0, may)));
    };
    configure("outage/a", &["a/key", "b/key"]);
    let _daemon = host.start();
    let mut kept = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    let mut lost = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["b/key"]).await.unwrap();
    drop(bao);
    configure("outage/a", &["a/key"]);
    let (code, said) = reload(&host);
    assert_eq!(code, 0, "{said}");
    assert_eq!(revoked(&mut lost).await, (Reason::ScopeNotAllowed, String::new()));
    assert_eq!(kept.secret(1, "a/key").await.value, b"value-of-a");
    assert!(host.log().contains("the last good value stands"), "{}", host.log());
    // The value of another place is not what is asked for.
    configure("outage/other", &["a/key"]);
    let (code, said) = reload(&host);
    assert!(code == 1 && said.contains("a/key") && said.contains("unreachable"), "{said}");
    assert_eq!(kept.secret(2, "a/key").await.value, b"value-of-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_made_anew_under_an_old_version_is_news() {
    let host = host(&["a/key"]);
    let daemon = host.start();
    let session = host.client().session("it").secret("a/key").open().await.unwrap();
    assert_eq!(session.get("a/key").await.unwrap().to_text().unwrap().as_str(), "value-of-a-key-1");
    let mut changes = session.watch();
    let place =
        ["--file", host.path("secrets.sealed").to_str().unwrap(), "--identity", host.path("identity.key").to_str().unwrap()]
            .map(str::to_owned);
    let seal = |arguments: &[&str], value: &[u8]| {
        let place: Vec<_> = place.iter().map(String::as_str).collect();
        assert!(host.valetkey_with(&[arguments, &place].concat(), value).status.success());
    };
    seal(&["seal", "remove", "a/key"], b"");
    seal(&["seal", "set", "a/key"], b"value-of-a-key-9");
    daemon.signal(libc::SIGHUP);
    let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    assert_eq!(change.secret.version(), change.previous.version(), "the file has forgotten that there was a first");
    assert_eq!(session.get("a/key").await.unwrap().to_text().unwrap().as_str(), "value-of-a-key-9");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reloads_at_once_take_turns() {
    let host = host(&["a/key"]);
    let _daemon = host.start();
    let (mut one, mut other) = (host.admin().await, host.admin().await);
    for _ in 0..5 {
        let (one, other) = tokio::join!(one.reload(ReloadRequest {}), other.reload(ReloadRequest {}));
        assert!(one.is_ok() && other.is_ok());
    }
    assert_eq!(host.log().matches("reloaded").count(), 10);
}

/// Whose caller goes away in the middle is not left half done, and does not keep the turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_whose_caller_goes_away_harms_nothing() {
    let host = host(&["a/key"]);
    let _daemon = host.start();
    for _ in 0..10 {
        let mut admin = host.admin().await;
        let _ = tokio::time::timeout(Duration::from_millis(3), admin.reload(ReloadRequest {})).await;
    }
    assert_eq!(reload(&host).0, 0);
}

/// Fifty reloads, each with a new version, under tools that ask all the time: never a value that was not sealed by then, never one
/// older than one seen before, and no error that is not worth another try.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_never_see_a_wrong_value_while_it_reloads() {
    let host = Arc::new(host(&["a/key"]));
    let daemon = host.start();
    let (over, sealed, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let mut tools = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (host, over, sealed, asked) = (host.clone(), over.clone(), sealed.clone(), asked.clone());
        tools.spawn(async move {
            let session = host.client().session("it").secret("a/key").open().await.unwrap();
            let mut seen = 0;
            while !over.load(Relaxed) {
                // Half of them past the client's memory.
                let got = if number % 2 == 0 { session.fetch("a/key").await } else { session.get("a/key").await };
                match got {
                    Ok(secret) => {
                        let value = secret.to_text().unwrap();
                        let version: u64 = value.strip_prefix("value-of-a-key-").unwrap().parse().unwrap();
                        assert_eq!(version.to_string(), secret.version(), "a value under another's version");
                        assert!((seen..=sealed.load(Relaxed)).contains(&version), "{version} after {seen}");
                        seen = version;
                    }
                    Err(error) => assert!(retryable(&error), "{error}"),
                }
                asked.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(seen, sealed.load(Relaxed), "the last version reached every session");
        });
    }
    for version in 2..=51_u64 {
        sealed.store(version, Relaxed);
        host.seal(&[("a/key", format!("value-of-a-key-{version}").as_bytes())]);
        daemon.signal(libc::SIGHUP);
        eventually("it has reloaded", || host.log().matches("a/key changed").count() as u64 >= version - 1);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    over.store(true, Relaxed);
    while let Some(tool) = tools.join_next().await {
        tool.unwrap();
    }
    println!("{} times asked during 50 reloads", asked.load(Relaxed));
    assert!(asked.load(Relaxed) > 100);
}

fn retryable(error: &Error) -> bool {
    error.retry() != Retry::Never
}

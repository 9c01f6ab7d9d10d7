//! The client library against the real daemon: what it keeps, what it asks again, and what it says when it cannot.

#[path = "support/daemon.rs"]
mod daemon;

use std::time::{Duration, Instant};

use daemon::{Daemon, Host, eventually};
use valetkey::client::{Changes, Error, Retry, Secret, Session};

const OWN: u32 = 0;

fn configure(host: &Host, granted: &[&str]) {
    let source = host.seal(&[]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&["one/key", "two/key"]), Host::tool("tool", OWN, granted)));
}

/// A host whose tool may have both of its secrets.
fn host() -> Host {
    let host = Host::new();
    host.seal(&[("one/key", b"value-of-one"), ("two/key", b"value-of-two")]);
    configure(&host, &["one/key", "two/key"]);
    host
}

async fn open(host: &Host) -> Session {
    host.client().session("tool").secrets(["one/key", "two/key"]).open().await.unwrap()
}

fn text(secret: &Secret) -> String {
    secret.to_text().unwrap().to_string()
}

async fn get(session: &Session, name: &str) -> String {
    text(&session.get(name).await.unwrap())
}

async fn get_error(session: &Session, name: &str) -> Error {
    session.get(name).await.err().expect("an error")
}

/// `Changes::next`, but not for ever. `None` where the session ended.
async fn next_change(changes: &mut Changes) -> Option<(String, String, String)> {
    let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.expect("no change within 20 s");
    change.map(|change| (change.secret.name().to_owned(), text(&change.previous), text(&change.secret)))
}

fn operate(host: &Host, arguments: &[&str]) -> String {
    let socket = host.admin_socket();
    let (command, rest) = arguments.split_at(1);
    let out = host.valetkey(&[command, &["--socket", socket.to_str().unwrap()], rest].concat());
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn sessions(host: &Host) -> Vec<serde_json::Value> {
    let listing: serde_json::Value = serde_json::from_str(&operate(host, &["sessions", "--json"])).unwrap();
    listing["sessions"].as_array().unwrap().clone()
}

fn handouts(host: &Host) -> u64 {
    sessions(host).iter().map(|session| session["handouts"].as_u64().unwrap()).sum()
}

fn kill(mut daemon: Daemon) {
    daemon.signal(libc::SIGKILL);
    daemon.wait(Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_does_not_ask_the_daemon() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    assert!(session.cached("one/key").is_none());
    let first = session.get("one/key").await.unwrap();
    let again = session.get("one/key").await.unwrap();
    assert_eq!((first.name(), first.version()), ("one/key", "1"));
    assert_eq!((text(&again), again.version()), ("value-of-one".into(), first.version()));
    assert_eq!(session.cached("one/key").unwrap().version(), "1");
    assert_eq!(handouts(&host), 1);
    session.fetch("one/key").await.unwrap();
    assert_eq!(handouts(&host), 2, "fetch asks, whatever is in memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_wait_for_the_same_secret_share_one_hand_out() {
    let host = host();
    let daemon = host.start();
    let session = open(&host).await;
    daemon.signal(libc::SIGSTOP);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { get(&session, "one/key").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.signal(libc::SIGCONT);
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), "value-of-one");
    }
    assert_eq!(handouts(&host), 1);
}

#[tokio::test]
async fn a_secret_outside_the_scope_is_denied_and_the_session_goes_on() {
    let host = host();
    let _daemon = host.start();
    let session = host.client().session("tool").secret("one/key").open().await.unwrap();
    let Error::Denied { reason, .. } = get_error(&session, "two/key").await else { panic!("not a denial") };
    assert_eq!(reason, "OUTSIDE_SCOPE");
    assert_eq!(get(&session, "one/key").await, "value-of-one");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_said_at_once() {
    let host = host();
    let error = host.client().session("tool").secret("one/key").open().await.err().unwrap();
    assert!(matches!(&error, Error::Unreachable { socket, .. } if *socket == host.tools_socket()), "{error}");
    assert!(matches!(error.retry(), Retry::After(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stands_still_costs_no_more_than_the_timeout() {
    let host = host();
    let daemon = host.start();
    let timeout = Duration::from_millis(300);
    let client = host.client().timeout(timeout);
    let session = client.session("tool").secrets(["one/key", "two/key"]).open().await.unwrap();
    assert_eq!(get(&session, "one/key").await, "value-of-one");
    daemon.signal(libc::SIGSTOP);
    let begun = Instant::now();
    assert_eq!(get_error(&session, "two/key").await, Error::TimedOut(timeout));
    assert_eq!(client.session("tool").secret("one/key").open().await.err(), Some(Error::TimedOut(timeout)));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(get(&session, "one/key").await, "value-of-one", "what is in memory needs no daemon");
    daemon.signal(libc::SIGCONT);
    assert_eq!(get(&session, "two/key").await, "value-of-two");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_who_wait_are_served_when_the_daemon_is_back() {
    let host = host();
    let daemon = host.start();
    let session = host.client().timeout(Duration::from_secs(60)).session("tool").secrets(["one/key", "two/key"]).open().await;
    let session = session.unwrap();
    kill(daemon);
    let waiting: Vec<_> = (0..10)
        .map(|i| {
            let session = session.clone();
            tokio::spawn(async move { get(&session, if i % 2 == 0 { "one/key" } else { "two/key" }).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _again = host.start();
    for (i, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), if i % 2 == 0 { "value-of-one" } else { "value-of-two" });
    }
    assert_eq!(handouts(&host), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gave_up_during_an_outage_is_not_asked_for_after_it() {
    let host = host();
    let daemon = host.start();
    let client = host.client().timeout(Duration::from_millis(100));
    let session = client.session("tool").secrets(["one/key", "two/key"]).open().await.unwrap();
    kill(daemon);
    for _ in 0..5 {
        let error = get_error(&session, "one/key").await;
        assert!(matches!(error, Error::Unreachable { .. } | Error::TimedOut(_)), "{error}");
    }
    // The reason is known by now, and says more than the time that passed.
    let error = get_error(&session, "one/key").await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let _again = host.start();
    eventually("the session is open again", || sessions(&host).len() == 1);
    assert_eq!(handouts(&host), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_an_orderly_restart_with_what_it_knows() {
    let host = host();
    let mut daemon = host.start();
    let session = open(&host).await;
    let mut changes = session.watch();
    assert_eq!(get(&session, "one/key").await, "value-of-one");
    assert!(daemon.stop().success());
    assert_eq!(get(&session, "one/key").await, "value-of-one", "a daemon that stops takes nothing away");
    host.seal(&[("one/key", b"another-value")]);
    let _again = host.start();
    assert_eq!(next_change(&mut changes).await, Some(("one/key".into(), "value-of-one".into(), "another-value".into())));
    assert_eq!(get(&session, "one/key").await, "another-value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_came_during_a_disconnect_is_noticed_and_told() {
    let host = host();
    let daemon = host.start();
    let session = open(&host).await;
    let first = session.get("one/key").await.unwrap();
    session.acknowledge(&first).await.unwrap();
    let mut changes = session.watch();
    kill(daemon);
    host.seal(&[("one/key", b"another-value")]);
    let _again = host.start();
    assert_eq!(next_change(&mut changes).await, Some(("one/key".into(), "value-of-one".into(), "another-value".into())));
    assert_eq!(session.get("one/key").await.unwrap().version(), "2");
    // The new daemon knows who holds it: nobody had to ask.
    let held = &sessions(&host)[0]["held"];
    assert_eq!(held, &serde_json::json!([{ "secret": "one/key", "version": "2" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_said_again_to_a_daemon_that_restarted() {
    let host = host();
    let source = host.seal(&[]);
    let rest = format!("{source}{}{}", Host::secrets(&["one/key"]), Host::tool("tool", OWN, &["one/key"]));
    host.configure("log-level = \"debug\"\n", &rest);
    let daemon = host.start();
    let session = host.client().session("tool").secret("one/key").open().await.unwrap();
    session.acknowledge(&session.get("one/key").await.unwrap()).await.unwrap();
    let said = || host.log().matches("version in use").count();
    eventually("the daemon hears it", || said() == 1);
    kill(daemon);
    let _again = host.start();
    eventually("the next daemon hears it too", || said() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_hears_of_the_newest_version_once() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    let mut changes = session.watch();
    get(&session, "one/key").await;
    for (at, value) in ["second", "third"].into_iter().enumerate() {
        host.seal(&[("one/key", value.as_bytes())]);
        operate(&host, &["reload"]);
        let version = (at + 2).to_string();
        eventually("the session has it", || session.cached("one/key").unwrap().version() == version);
    }
    assert_eq!(next_change(&mut changes).await, Some(("one/key".into(), "value-of-one".into(), "third".into())));
    drop(session);
    assert_eq!(next_change(&mut changes).await, None, "the session ended with its last handle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_forbids_it_after_a_restart_ends_the_session() {
    let host = host();
    let daemon = host.start();
    let session = open(&host).await;
    let mut changes = session.watch();
    get(&session, "one/key").await;
    kill(daemon);
    configure(&host, &["one/key"]);
    let _again = host.start();
    assert_eq!(next_change(&mut changes).await, None, "a watch ends with its session");
    for name in ["one/key", "two/key", "one/key"] {
        let error = get_error(&session, name).await;
        assert!(matches!(&error, Error::Denied { reason, .. } if reason == "SCOPE_NOT_ALLOWED"), "{error}");
        assert_eq!(error.retry(), Retry::Never);
    }
    assert!(session.cached("one/key").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_forbids_it_in_a_reload_ends_the_session() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    get(&session, "one/key").await;
    configure(&host, &["one/key"]);
    operate(&host, &["reload"]);
    eventually("values are forgotten", || session.cached("one/key").is_none());
    let error = get_error(&session, "one/key").await;
    assert!(matches!(&error, Error::Denied { message, .. } if message.contains("policy changed")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_forgets_its_values_and_says_so() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    let mut changes = session.watch();
    get(&session, "one/key").await;
    let id = sessions(&host)[0]["session"].as_str().unwrap().to_owned();
    assert_eq!(operate(&host, &["revoke", "session", &id]), "1 sessions ended\n");
    assert_eq!(next_change(&mut changes).await, None);
    assert!(session.cached("one/key").is_none());
    assert_eq!(get_error(&session, "one/key").await, Error::Ended("an operator revoked this session".into()));
    assert!(session.watch().next().await.is_none(), "a watch that begins after the end ends at once");
    // It does not come back by itself: that is for the program to decide.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sessions(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_secret_is_forgotten_and_comes_back_with_a_reload() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    get(&session, "one/key").await;
    get(&session, "two/key").await;
    operate(&host, &["revoke", "secret", "one/key"]);
    eventually("it is forgotten", || session.cached("one/key").is_none());
    let error = get_error(&session, "one/key").await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(get(&session, "two/key").await, "value-of-two");
    operate(&host, &["reload"]);
    assert_eq!(get(&session, "one/key").await, "value-of-one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_a_limit_keeps_back_is_fetched_when_it_may_be() {
    let host = host();
    let source = host.seal(&[]);
    let tool = Host::tool("tool", OWN, &["one/key"]) + "limits = { per-minute = 60 }\n";
    host.configure("", &format!("{source}{}{tool}", Host::secrets(&["one/key"])));
    let _daemon = host.start();
    // With no time to wait.
    let hasty = host.client().timeout(Duration::from_millis(400));
    let session = hasty.session("tool").secret("one/key").open().await.unwrap();
    get(&session, "one/key").await;
    // All that a minute allows.
    while session.fetch("one/key").await.is_ok() {}
    let mut changes = session.watch();
    host.seal(&[("one/key", b"another-value")]);
    operate(&host, &["reload"]);
    assert_eq!(next_change(&mut changes).await.unwrap().2, "another-value");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_ends_the_session_at_the_daemon() {
    let host = host();
    let _daemon = host.start();
    let session = open(&host).await;
    let clone = session.clone();
    let secret = clone.get("one/key").await.unwrap();
    drop(session);
    assert_eq!(sessions(&host).len(), 1, "one handle is left");
    drop(clone);
    eventually("it ends", || sessions(&host).is_empty());
    assert_eq!(text(&secret), "value-of-one", "a value that is in use lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_dropped_during_an_outage_does_not_come_back() {
    let host = host();
    let daemon = host.start();
    let session = open(&host).await;
    kill(daemon);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(session);
    let _again = host.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(sessions(&host).is_empty());
}

#[tokio::test]
async fn a_client_needs_little_locked_memory() {
    // In a process of its own: the memory of this one was set up by whichever test came first.
    let host = host();
    let _daemon = host.start();
    let locked = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "how_much_memory_a_client_locks"])
        .env("VALETKEY_TEST_SOCKET", host.tools_socket())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&locked.stdout);
    assert!(said.contains("locked at most 65536"), "{said}{}", String::from_utf8_lossy(&locked.stderr));
}

#[tokio::test]
#[ignore = "run by a_client_needs_little_locked_memory, in a process of its own"]
async fn how_much_memory_a_client_locks() {
    let Some(socket) = std::env::var_os("VALETKEY_TEST_SOCKET") else { return };
    let session = valetkey::client::Client::at(&socket).session("tool").secret("one/key").open().await.unwrap();
    let _held = session.get("one/key").await.unwrap();
    let locked = valetkey::secret::protection().locked_bytes;
    println!("locked {}", if locked <= 65536 { "at most 65536".into() } else { locked.to_string() });
}

//! What operators see of fresh and stale secrets, of sources that do not answer or refuse, and what a refresh does about it.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/faults.rs"]
mod faults;
#[path = "support/said.rs"]
mod said;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    process::Output,
    time::{Duration, Instant},
};

use daemon::{Daemon, Host};
use said::{said, says};
use serde_json::{Value, json};
use stores::{UNLIMITED, secret};
use valetkey::proto::v1::RefreshRequest;

#[track_caller]
fn parsed(out: &Output, code: i32) -> Value {
    assert_eq!(out.status.code(), Some(code), "{}", said(out));
    assert!(out.stderr.is_empty(), "{}", said(out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The one of this name.
#[track_caller]
fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// One source that is fine, one that does not answer, one that refuses, and one without an optional secret.
fn troubled(bao: &servers::Server) -> (Host, Daemon) {
    let host = Host::new();
    stores::vault_put(bao, "refresh/good", "{\"key\":\"value-of-a-good-one\"}");
    let mut rest = stores::vault_as_root(&host, bao.port) + &host.seal(&[]);
    host.write("bad-token", "no-token-of-theirs");
    for (name, port) in [("gone", servers::free_port()), ("strict", bao.port)] {
        rest += &format!("[source.{name}]\nkind = \"vault\"\naddress = \"http://127.0.0.1:{port}\"\n");
        rest += &format!("auth = {{ token-file = \"{}\" }}\n", host.path("bad-token").display());
    }
    rest += &secret("good/key", "vault", "path = \"refresh/good\"\nfield = \"key\"\nmax-stale = \"15m\"");
    for (name, source) in [("gone/key", "gone"), ("strict/key", "strict"), ("optional/key", "sealed")] {
        rest += &secret(name, source, "path = \"refresh/good\"\nrequired = false");
    }
    rest += &Host::tool("it", 0, &["good/key", "gone/key", "strict/key", "optional/key"]);
    host.configure("load-timeout = \"10s\"", &rest);
    let daemon = host.start();
    (host, daemon)
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let (host, _daemon) = troubled(servers::openbao());
    let out = host.operate(&["status"]);
    let trouble = [
        "SOURCE",
        "HEALTH",
        "NEXT CHECK",
        "LOGIN",
        "gone cannot be reached for ",
        "unreachable: ",
        "last good values are handed out until max-stale",
        "strict does not give all that is wanted: strict/key: refused: ",
        "sealed does not give all that is wanted: optional/key: not found: ",
        "then: valetkey refresh",
    ];
    says(&out, 0, &trouble);
    let text = said(&out);
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row("vault ")[..4], ["vault", "vault", "ok", "1"], "{text}");
    assert_eq!(row("gone ")[..5], ["gone", "vault", "unreachable", "0", "never"], "{text}");
    assert_eq!(row("strict ")[2], "refusing");
    assert!(!text.contains("vault does not") && !text.contains("waiting for sources"), "{text}");

    let status = parsed(&host.operate(&["status", "--json"]), 0);
    assert_eq!(status["ready"], true);
    let (gone, vault) = (named(&status["sources"], "gone"), named(&status["sources"], "vault"));
    assert_eq!((&gone["health"], &vault["health"]), (&json!("unreachable"), &json!("ok")));
    assert!(gone["unreachable_since"].as_str().unwrap().contains('T') && gone["problem"].is_string(), "{gone}");
    assert!(vault["unreachable_since"].is_null() && vault["problem"].is_null(), "{vault}");
    assert!(vault["next_check"].as_str().unwrap().ends_with('Z') && vault["last_good"].is_string(), "{vault}");
    assert!(vault.as_object().unwrap().contains_key("login"));

    let out = host.operate(&["secrets"]);
    says(&out, 0, &["AGE", "NEXT CHECK", "strict/key: refused: ", "gone/key: unreachable: ", "optional/key: not found: "]);
    let text = said(&out);
    let row: Vec<_> = text.lines().find(|line| line.starts_with("good/key ")).unwrap().split_whitespace().collect();
    assert!(row[..2] == ["good/key", "held"] && row[3].ends_with('s') && row[4] == "in", "{text}");
    let secrets = parsed(&host.operate(&["secrets", "--json"]), 0);
    let (good, missing) = (named(&secrets["secrets"], "good/key"), named(&secrets["secrets"], "strict/key"));
    assert_eq!((&good["max_stale_seconds"], &good["problem"]), (&json!(900), &Value::Null));
    assert!(good["age_seconds"].as_u64().is_some_and(|age| age < 60) && good["next_check"].is_string(), "{good}");
    assert_eq!((&missing["state"], &missing["age_seconds"]), (&json!("missing"), &Value::Null));
    assert!(missing["problem"].as_str().unwrap().starts_with("refused: "), "{missing}");
}

#[test]
fn a_refresh_says_what_it_could_not_find_out() {
    let bao = servers::openbao();
    let (host, _daemon) = troubled(bao);
    says(&host.operate(&["refresh", "good/key"]), 0, &["all is current"]);
    says(
        &host.operate(&["refresh"]),
        1,
        &[
            "gone/key: unreachable: ",
            "strict/key: refused: ",
            "optional/key: not found: ",
            "of 3 secrets the sources gave no value",
            "hint: ",
        ],
    );
    let report = parsed(&host.operate(&["refresh", "--json"]), 1);
    assert_eq!(report["changed"], json!([]));
    let failed: Vec<_> = report["failed"].as_array().unwrap().iter().map(|one| one["secret"].as_str().unwrap()).collect();
    assert_eq!(failed, ["gone/key", "optional/key", "strict/key"]);
    assert_eq!(parsed(&host.operate(&["refresh", "good/key", "--json"]), 0), json!({ "changed": [], "failed": [] }));
    says(&host.operate(&["refresh", "not a name"]), 2, &["hint: `valetkey secrets` lists the names"]);
    says(&host.operate(&["refresh", "no/such"]), 1, &["no/such is no secret that a tool may have"]);
    says(&host.valetkey(&["refresh", "--socket", "/nowhere/admin.sock"]), 4, &["no broker answers"]);
    says(&host.valetkey(&["refresh", "--help"]), 0, &["Examples:", "valetkey refresh stripe/api-key", "--json"]);
    // What is put right is there at once.
    host.seal(&[("refresh/good", b"value-of-the-optional-one")]);
    says(&host.operate(&["refresh", "optional/key"]), 0, &["optional/key changed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_there_at_once_and_sessions_hear_of_it() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "refresh/new", "{\"key\":\"value-of-version-one\"}");
    let rest = stores::vault_as_root(&host, bao.port)
        + &secret("n/key", "vault", "path = \"refresh/new\"\nfield = \"key\"")
        + &Host::tool("it", 0, &["n/key"]);
    host.configure("", &rest);
    let _daemon = host.start();
    let session = host.client().session("it").secret("n/key").open().await.unwrap();
    assert_eq!(session.get("n/key").await.unwrap().version(), "1");
    let mut changes = session.watch();
    stores::vault_put(bao, "refresh/new", "{\"key\":\"value-of-version-two\"}");
    says(&host.operate(&["refresh"]), 0, &["n/key changed"]);
    let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.unwrap().unwrap();
    assert_eq!(change.secret.version(), "2");
    assert_eq!(session.get("n/key").await.unwrap().to_text().unwrap().as_str(), "value-of-version-two");
    let secrets = parsed(&host.operate(&["secrets", "--json"]), 0);
    assert_eq!(secrets["secrets"][0]["version"], "2");
    // What its source takes away goes.
    bao.vault("DELETE", "secret/metadata/refresh/new", "");
    says(&host.operate(&["refresh"]), 1, &["n/key is withdrawn: not found: "]);
    assert_eq!(parsed(&host.operate(&["secrets", "--json"]), 0)["secrets"][0]["state"], "missing");
}

/// Who asks while a check is under way waits for the next, together with all others who do.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_who_ask_at_once_cause_two_rounds_of_calls_at_most() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "refresh/many", "{\"key\":\"value-that-many-ask-about\"}");
    let (proxy, seen) = servers::proxy(bao.port);
    // A round takes long enough for all to have asked while the first is under way.
    let port = servers::free_port();
    servers::forward_after(port, proxy, Duration::from_secs(2));
    let rest = stores::vault_as_root(&host, port)
        + &secret("m/key", "vault", "path = \"refresh/many\"\nfield = \"key\"")
        + &Host::tool("it", 0, &["m/key"])
        + UNLIMITED;
    host.configure("", &rest);
    let _daemon = host.start();
    let requests = || seen.lock().unwrap().count("HTTP/1.1\r\n");
    let mut admins = Vec::new();
    for _ in 0..30 {
        admins.push(host.admin().await);
    }
    let before = requests();
    admins[0].refresh(RefreshRequest::default()).await.unwrap();
    let one_round = requests() - before;
    assert!(one_round > 0);
    let before = requests();
    let asking = admins.into_iter().map(|mut admin| tokio::spawn(async move { admin.refresh(RefreshRequest::default()).await }));
    for answer in asking.collect::<Vec<_>>() {
        let answer = answer.await.unwrap().unwrap().into_inner();
        assert!(answer.changed.is_empty() && answer.failed.is_empty(), "{answer:?}");
    }
    let made = requests() - before;
    assert!((one_round..=2 * one_round).contains(&made), "{made} calls, where one round makes {one_round}");
}

/// A tool that was refused by its system asks for a fresh value: the source is asked once for all, and not again at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_refused_has_the_source_asked_once_for_all() {
    let bao = servers::openbao();
    let proxy = faults::Proxy::plain(bao.port);
    let host = Host::new();
    for name in ["it", "other"] {
        stores::vault_put(bao, &format!("fresh/{name}"), &format!("{{\"key\":\"the-first-value-of-{name}\"}}"));
    }
    let mut rest = stores::vault_as_root(&host, proxy.port) + "refresh-every = \"1h\"\n";
    for name in ["it", "other"] {
        rest += &secret(&format!("{name}/key"), "vault", &format!("path = \"fresh/{name}\"\nfield = \"key\""));
    }
    host.configure("", &(rest + &Host::tool("it", 0, &["it/key"]) + UNLIMITED + &Host::tool("no", 4242, &["other/key"])));
    let _daemon = host.start();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(host.client().session("it").secret("it/key").open().await.unwrap());
    }
    let text = |secret: &valetkey::client::Secret| secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    assert_eq!(text(&sessions[0].get("it/key").await.unwrap()), "the-first-value-of-it");
    stores::vault_put(bao, "fresh/it", "{\"key\":\"the-second-value-of-it\"}");
    assert_eq!(text(&sessions[0].fetch("it/key").await.unwrap()), "the-first-value-of-it", "nobody has asked the source");

    let reads = |since: Instant| {
        let requests = proxy.requests_since(since);
        requests.iter().filter(|request| request.what.contains("/secret/data/fresh")).count()
    };
    let since = Instant::now();
    let asking = (0..60).map(|number| {
        let session = sessions[number % 3].clone();
        async move { session.refetch("it/key").await }
    });
    for secret in futures_util::future::join_all(asking).await {
        assert_eq!(text(&secret.unwrap()), "the-second-value-of-it");
    }
    assert_eq!(reads(since), 1, "one question for sixty who ask: {:?}", proxy.requests_since(since));
    stores::vault_put(bao, "fresh/it", "{\"key\":\"the-third-value-of-it\"}");
    assert_eq!(text(&sessions[1].refetch("it/key").await.unwrap()), "the-second-value-of-it", "not again at once");
    assert_eq!(reads(since), 1);
    // What it may not have it cannot have asked for.
    assert!(sessions[2].refetch("other/key").await.is_err());
    assert_eq!(reads(since), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(text(&sessions[1].refetch("it/key").await.unwrap()), "the-third-value-of-it");
    assert_eq!(reads(since), 2);

    // A source that does not answer keeps nobody for long, nor from what there is.
    proxy.set(faults::Fault::Hang);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    assert_eq!(text(&sessions[0].refetch("it/key").await.unwrap()), "the-third-value-of-it");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

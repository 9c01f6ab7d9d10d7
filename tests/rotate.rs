//! Rotation over real sources, with real tools: one value after the other, nobody without a good one.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/hook.rs"]
mod hook;
#[path = "support/said.rs"]
mod said;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{collections::BTreeSet, fs, process::Output, time::Duration};

use daemon::{Host, eventually};
use hook::{digest, hook, steps, taken};
use said::{lines, said, says};
use serde_json::Value;
use stores::{UNLIMITED, borrowed, secret};
use valetkey::client::Session;

async fn value(session: &Session, name: &str) -> String {
    session.fetch(name).await.unwrap().expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// A tool that moves to each new version as soon as it hears of it.
fn moves(session: &Session) -> tokio::task::JoinHandle<()> {
    let (session, mut changes) = (session.clone(), session.watch());
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            session.acknowledge(&change.secret).await.unwrap();
        }
    })
}

fn tool(secrets: &[&str]) -> String {
    Host::tool("it", 0, secrets) + UNLIMITED
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_value_takes_the_place_of_the_old_one_in_a_sealed_file() {
    let host = Host::new();
    let mut rest = host.seal(&[("it/key", b"the-first-value"), ("given/key", b"the-first-given-value")]);
    rest += &secret("it/key", "sealed", "rotation = { generate = { length = 40, alphabet = \"hex\", prefix = \"k_\" } }");
    rest += &secret("given/key", "sealed", "");
    host.configure("", &(rest + &tool(&["it/key", "given/key"])));
    let _daemon = host.start();
    let session = host.client().session("it").secret("it/key").secret("given/key").open().await.unwrap();
    assert_eq!(value(&session, "it/key").await, "the-first-value");
    let _moving = moves(&session);

    says(
        &host.operate(&["rotate", "it/key", "--dry-run"]),
        0,
        &["it/key: would be rotated (generate) from version 1", "with 1 holders"],
    );
    let out = host.operate(&["rotate", "it/key", "--json"]);
    says(&out, 0, &[]);
    let told = lines(&out);
    let last = told.last().unwrap();
    assert_eq!(
        (last["end"].as_str(), last["old_version"].as_str(), last["new_version"].as_str()),
        (Some("rotated"), Some("1"), Some("2"))
    );
    assert!(told.iter().any(|line| line["step"] == "overlap" && line["holders"][0]["tool"] == "it"), "{told:?}");
    let new = value(&session, "it/key").await;
    assert!(new.starts_with("k_") && new.len() == 42, "{}", new.len());
    assert!(!said(&out).contains(&new[2..]) && !host.log().contains(&new[2..]), "it is in no output and in no log");

    // Nothing of the rotation is left in the file.
    let listed = host.valetkey(&[
        "seal",
        "list",
        "--file",
        host.path("secrets.sealed").to_str().unwrap(),
        "--identity",
        host.path("identity.key").to_str().unwrap(),
    ]);
    says(&listed, 0, &["it/key", "2"]);
    assert!(!said(&listed).contains("valetkey-rotation"), "{}", said(&listed));

    // A value of the operator's.
    says(&host.operate(&["rotate", "given/key"]), 1, &["given/key: refused", "--stdin"]);
    let socket = host.admin_socket();
    let given = ["rotate", "given/key", "--stdin", "--socket", socket.to_str().unwrap()];
    says(&host.valetkey_with(&given, b"the-second-given-value\n"), 0, &["given/key: rotated from 1 to 2"]);
    assert_eq!(value(&session, "given/key").await, "the-second-given-value");
    says(&host.valetkey_with(&given, b"the-second-given-value\n"), 1, &["not rotated, all is as it was", "is the old one"]);

    says(&host.operate(&["rotate", "it/key", "--older-than", "1h"]), 0, &["left as it is"]);
    says(&host.operate(&["rotate", "--all-of", "it", "--dry-run"]), 0, &["given/key: left as it is", "it/key: would be rotated"]);
    says(&host.operate(&["rollback", "it/key"]), 1, &["not being rotated"]);
    says(&host.operate(&["rotate", "no/such"]), 1, &["no secret no/such"]);
    let versions = said(&host.operate(&["secrets", "--versions"]));
    assert!(versions.contains("current") && versions.contains("rotated"), "{versions}");
    let audit =
        fs::read_dir(host.path("var/audit")).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default());
    let audit: String = audit.collect();
    assert!(audit.contains("\"rotation.step\"") && audit.contains("\"finish\"") && !audit.contains("the-second-given-value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_goes_through_its_steps_over_openbao_and_the_old_value_lives_until_all_have_moved() {
    let bao = servers::openbao();
    let host = Host::new();
    stores::vault_put(bao, "rotate/hooked", r#"{"key":"the-first-value","other":"stays"}"#);
    let hook = hook(&host, "");
    let mut rest = stores::vault_as_root(&host, bao.port);
    rest +=
        &secret("it/key", "vault", &format!("path = \"rotate/hooked\"\nfield = \"key\"\nrotation = {{ hook = [\"{hook}\"] }}"));
    host.configure("", &(rest + &tool(&["it/key"])));
    let _daemon = host.start();
    let session = host.client().session("it").secret("it/key").open().await.unwrap();
    fs::write(host.path("system").join(digest(&value(&session, "it/key").await)), "").unwrap();

    // Nobody says that it has moved: it stays in the overlap.
    let operated = {
        let host_path = host.admin_socket();
        tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_valetkey"));
            command.args(["rotate", "it/key", "--json", "--socket", host_path.to_str().unwrap()]).output().unwrap()
        })
    };
    eventually("it is in the overlap", || said(&host.operate(&["secrets", "--versions"])).contains("overlap"));
    assert_eq!(taken(&host).len(), 2, "both are good");
    says(&host.operate(&["rotate", "it/key"]), 1, &["is being rotated"]);
    let new = session.fetch("it/key").await.unwrap();
    eventually("the listing shows who is behind", || said(&host.operate(&["secrets", "--versions"])).contains("previous"));
    assert_eq!(taken(&host).len(), 2, "it has the new one, and has not said that it uses it");
    session.acknowledge(&new).await.unwrap();
    let out = operated.await.unwrap();
    says(&out, 0, &[]);
    let behind = lines(&out).into_iter().filter(|line| line["holders"][0]["moved"] == false).count();
    assert!(behind > 0, "it was shown who is behind");
    assert_eq!(steps(&host), ["create", "set", "test", "retire"]);
    let new = new.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    assert_eq!(taken(&host), BTreeSet::from([digest(&new)]));
    let (_, now) = bao.vault("GET", "secret/data/rotate/hooked", "");
    assert!(now.contains(&new) && now.contains("stays"), "the other field is as it was");
    let (_, list) = bao.vault("LIST", "secret/metadata/rotate", "");
    assert!(!list.contains("valetkey-rotation"), "{list}");
    let log = host.log();
    assert!(!log.contains(&new) && !log.contains("the-first-value"), "no value is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_has_the_old_value_back_and_takes_the_new_one_away() {
    let bao = servers::openbao();
    let moto = servers::moto();
    let host = Host::new();
    stores::vault_put(bao, "rotate/back", r#"{"key":"the-first-value"}"#);
    stores::aws_put(moto, "rotate-back", "the-first-value").await;
    let hook = hook(&host, "");
    let (aws, environment) = stores::aws(&host, moto.port, "owner");
    let mut rest = stores::vault_as_root(&host, bao.port) + &aws + &host.seal(&[("rotate/back", b"the-first-value")]);
    let rotation = format!("rotation = {{ hook = [\"{hook}\"] }}");
    rest += &secret("in/vault", "vault", &format!("path = \"rotate/back\"\nfield = \"key\"\n{rotation}"));
    rest += &secret("in/aws", "aws", &format!("path = \"rotate-back\"\n{rotation}"));
    rest += &secret("in/file", "sealed", &format!("path = \"rotate/back\"\n{rotation}"));
    let names = ["in/vault", "in/aws", "in/file"];
    host.configure("", &(rest + &tool(&names)));
    let mut daemon = host.spawn(&borrowed(&environment));
    daemon.wait_until_serving().unwrap();
    let session = host.client().session("it").secrets(names).open().await.unwrap();
    for name in names {
        // One system for each of them: what the others' hooks left is not of this one.
        taken(&host).iter().for_each(|digest| fs::remove_file(host.path("system").join(digest)).unwrap());
        fs::write(host.path("system").join(digest("the-first-value")), "").unwrap();
        assert_eq!(value(&session, name).await, "the-first-value");
        let socket = host.admin_socket();
        let rotating = tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_valetkey"));
            command.args(["rotate", name, "--socket", socket.to_str().unwrap()]).output().unwrap()
        });
        eventually("it is in the overlap", || said(&host.operate(&["secrets", "--versions"])).contains("overlap"));
        eventually(&format!("{name}: the new value is there"), || {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(value(&session, name)).starts_with("made-"))
        });
        let new = session.fetch(name).await.unwrap();
        session.acknowledge(&new).await.ok();
        // It has moved at once, so the overlap is over: what is too late is said.
        let moving = moves(&session);
        let out = rotating.await.unwrap();
        says(&out, 0, &["rotated from"]);
        says(&host.operate(&["rollback", name]), 1, &["not being rotated"]);
        moving.abort();

        // And once more, where it is not too late.
        let before = value(&session, name).await;
        let socket = host.admin_socket();
        let rotating = tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_valetkey"));
            command.args(["rotate", name, "--socket", socket.to_str().unwrap()]).output().unwrap()
        });
        eventually("it is in the overlap", || said(&host.operate(&["secrets", "--versions"])).contains("overlap"));
        eventually("the new value is there", || {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(value(&session, name)) != before)
        });
        let moving = moves(&session);
        says(&host.operate(&["rollback", name]), 0, &["rolled back"]);
        says(&rotating.await.unwrap(), 1, &["rolled back"]);
        assert_eq!(value(&session, name).await, before, "{name}");
        assert_eq!(steps(&host).last().unwrap(), "undo");
        assert_eq!(taken(&host), BTreeSet::from([digest(&before)]), "{name}: the new value is not taken any more");
        moving.abort();
    }
}

/// Starts a rotation, and waits until the hook is at this step.
fn until(host: &Host, step: &str) -> std::thread::JoinHandle<Output> {
    let socket = host.admin_socket();
    let rotating = std::thread::spawn(move || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.args(["rotate", "it/key", "--socket", socket.to_str().unwrap()]).output().unwrap()
    });
    eventually(&format!("the hook is at {step}"), || host.path(&format!("system/at-{step}")).exists());
    rotating
}

/// One line for each case of a daemon that is killed: what it was at, and how it ended.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_it_goes_on_and_all_ends_well() {
    let bao = servers::openbao();
    let mut table = Vec::new();
    for step in ["create", "set", "test", "retire"] {
        for after in [false, true] {
            let host = Host::new();
            let path = format!("rotate/killed-{step}-{after}");
            stores::vault_put(bao, &path, r#"{"key":"the-first-value"}"#);
            // It stands still at the step, before it has done anything or after, until the daemon has been killed.
            let stop = format!(
                "def stand_still():\n    if step == {step:?} and not os.path.exists(state + '/killed'):\n        \
                 open(state + '/at-' + step, 'w').close()\n        time.sleep(60)\n",
            );
            let when = if after { "import atexit; atexit.register(stand_still)\n" } else { "stand_still()\n" };
            let hook = hook(&host, &(stop + when));
            let mut rest = stores::vault_as_root(&host, bao.port);
            let rotation = format!("rotation = {{ hook = [\"{hook}\"] }}");
            rest += &secret("it/key", "vault", &format!("path = \"{path}\"\nfield = \"key\"\n{rotation}"));
            host.configure("", &(rest + &tool(&["it/key"])));
            let mut daemon = host.start();
            fs::write(host.path("system").join(digest("the-first-value")), "").unwrap();
            let rotating = until(&host, step);
            daemon.signal(libc::SIGKILL);
            daemon.wait(Duration::from_secs(5));
            drop(rotating.join());
            fs::write(host.path("system/killed"), "").unwrap();
            let _daemon = host.start();
            let over = || {
                let listing = said(&host.operate(&["secrets", "--versions", "--json"]));
                let listing: Value = serde_json::from_str(&listing).unwrap_or_default();
                let rotation = listing["secrets"][0]["rotation"].clone();
                (rotation["step"] == "over").then(|| rotation["end"].as_str().unwrap().to_owned())
            };
            eventually("it comes to its end", || over().is_some());
            let session = host.client().session("it").secret("it/key").open().await.unwrap();
            let now = value(&session, "it/key").await;
            let end = over().unwrap();
            table.push(format!("killed {} {step}: {end}", if after { "after" } else { "before" }));
            assert_eq!(end, if step == "create" { "undone" } else { "rotated" }, "{step} {after}\n{}", host.log());
            assert_eq!(now == "the-first-value", end == "undone");
            assert_eq!(taken(&host), BTreeSet::from([digest(&now)]), "what is current works, and nothing else: {step} {after}");
            let (_, list) = bao.vault("LIST", "secret/metadata/rotate", "");
            assert!(!list.contains(&format!("killed-{step}-{after}.valetkey-rotation")), "{list}");
        }
    }
    println!("{}", table.join("\n"));
}

#[test]
fn a_step_that_fails_or_hangs_is_undone_and_a_straggler_is_named_and_cut_off() {
    let host = Host::new();
    let fails = "if step == 'test': print(json.dumps({'error': 'no: ' + told['new']['value']})); sys.exit(0)\n";
    let hook = hook(&host, fails);
    let mut rest = host.seal(&[("it/key", b"the-first-value"), ("late/key", b"the-first-late-value")]);
    rest += &secret("it/key", "sealed", &format!("rotation = {{ hook = [\"{hook}\"], timeout = \"1s\" }}"));
    rest += &secret("late/key", "sealed", "rotation = { generate = {}, overlap = \"1s\", stragglers = \"end-session\" }");
    host.configure("", &(rest + &tool(&["it/key", "late/key"])));
    let _daemon = host.start();
    fs::write(host.path("system").join(digest("the-first-value")), "").unwrap();
    let out = host.operate(&["rotate", "it/key"]);
    says(&out, 1, &["it/key: test", "failed (1 times)", "not rotated, all is as it was"]);
    assert!(said(&out).contains("no: [redacted:it/key]"), "what a hook says is cleaned: {}", said(&out));
    assert_eq!(taken(&host), BTreeSet::from([digest("the-first-value")]));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let session = runtime.block_on(async {
        let session = host.client().session("it").secret("late/key").open().await.unwrap();
        value(&session, "late/key").await;
        session
    });
    let out = host.operate(&["rotate", "late/key"]);
    says(&out, 0, &["1 -> 2", "rotated from 1 to 2", "not moved in time: it (pid"]);
    runtime.block_on(async {
        let mut changes = session.watch();
        while changes.next().await.is_some() {}
        let ended = session.get("late/key").await.err().expect("its session has ended");
        assert!(ended.to_string().contains("rotated"), "{ended}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_clock_a_secret_is_rotated_before_it_is_too_old() {
    let bao = servers::openbao();
    let host = Host::new();
    stores::vault_put(bao, "rotate/clock", r#"{"key":"the-first-value"}"#);
    let mut rest = stores::vault_as_root(&host, bao.port);
    let by_the_clock = "path = \"rotate/clock\"\nfield = \"key\"\nrotate-every = \"4s\"\nrotation = { generate = {} }";
    rest += &secret("it/key", "vault", by_the_clock);
    host.configure("", &(rest + &tool(&["it/key"])));
    let _daemon = host.start();
    let session = host.client().session("it").secret("it/key").open().await.unwrap();
    assert_eq!(value(&session, "it/key").await, "the-first-value");
    let _moving = moves(&session);
    eventually("it was rotated twice", || {
        let listing: Value = serde_json::from_str(&said(&host.operate(&["secrets", "--versions", "--json"]))).unwrap();
        listing["secrets"][0]["versions"][0]["version"].as_str().is_some_and(|version| version.parse::<u32>().unwrap() >= 3)
    });
    assert_ne!(value(&session, "it/key").await, "the-first-value");
}

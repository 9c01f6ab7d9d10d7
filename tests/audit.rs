//! The audit log of the real daemon: each hand-out is on record before the client has it, whatever becomes of the daemon or its disk.
//!
//! `VALETKEY_TEST_AUDIT_KILLS` says how often the daemon is killed while it hands out (8).

#[path = "support/daemon.rs"]
mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::Host;
use serde_json::Value;
use valetkey::client::Session;

const MARKER: &[u8] = b"marker-7f3a9c-value-that-must-not-be-on-record";

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A host whose tool `t` may have `a` and `b`.
fn host(audit: &str) -> Host {
    let host = Host::new();
    let sealed = host.seal(&[("a", MARKER), ("b", MARKER), ("c", MARKER)]);
    let rest = format!(
        "{audit}\n{sealed}{}{}limits = {{ per-minute = 100000000, per-session = 100000000 }}\n",
        Host::secrets(&["a", "b", "c"]),
        Host::tool("t", uid(), &["a", "b"]),
    );
    host.configure("", &rest);
    host
}

fn log_dir(host: &Host) -> PathBuf {
    host.path("var/audit")
}

fn text(dir: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let logs = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned() + "\n").collect()
}

fn records(dir: &Path) -> Vec<Value> {
    text(dir).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(records: &'a [Value], event: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["event"] == event).collect()
}

/// Runs `valetkey audit verify` and says whether the log is whole, and what it printed.
fn verify(host: &Host, dir: &Path) -> (Option<i32>, Value) {
    let key = host.path("var/audit-signing-key.pub");
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    let out = command.args(["audit", "verify", "--json", "--public-key"]).arg(key).arg(dir).output().unwrap();
    let report = serde_json::from_slice(&out.stdout);
    (out.status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr))))
}

async fn session(host: &Host) -> Session {
    host.client().session("t").secrets(["a", "b"]).open().await.unwrap()
}

#[tokio::test]
async fn each_thing_that_happens_is_on_record_and_no_value_is() {
    let host = host("");
    let mut daemon = host.start();
    let session = session(&host).await;
    session.fetch("a").await.unwrap();
    session.fetch("b").await.unwrap();
    assert!(session.fetch("c").await.is_err());
    assert!(host.client().session("nobody").secret("a").open().await.is_err());
    let on_record = records(&log_dir(&host));
    // Before anything else: the hand-outs were on disk when the client had them.
    let handed = of(&on_record, "secret.handed-out");
    assert_eq!(handed.iter().map(|record| record["secret"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    for record in &handed {
        assert_eq!((&record["tool"], &record["uid"]), (&"t".into(), &uid().into()));
        assert_eq!(record["pid"], std::process::id());
        assert!(record["policy"].as_str().unwrap().contains("valetkey.toml:"), "{record}");
        assert!(record["version"].is_string() && record["duration_us"].is_u64());
        assert_eq!(record["session"].as_str().unwrap().len(), 32);
    }
    assert!(host.operate(&["revoke", "secret", "a"]).status.success());
    assert!(host.operate(&["reload"]).status.success());
    drop(session);
    daemon.stop();
    let on_record = records(&log_dir(&host));
    for event in [
        "daemon.started",
        "session.opened",
        "session.refused",
        "session.ended",
        "secret.denied",
        "secret.changed",
        "secret.revoked",
        "admin.action",
        "policy.reloaded",
        "daemon.stopped",
        "audit.file-opened",
        "audit.checkpoint",
    ] {
        assert!(!of(&on_record, event).is_empty(), "there is no {event}: {on_record:#?}");
    }
    let actions: Vec<_> = of(&on_record, "admin.action").into_iter().map(|record| record["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["revoke-secret", "reload"]);
    assert!(of(&on_record, "admin.action").iter().all(|record| record["uid"] == uid() && record["pid"].is_u64()));
    let marker = std::str::from_utf8(MARKER).unwrap();
    assert!(!text(&log_dir(&host)).contains(marker) && !text(&log_dir(&host)).contains(&marker[..16]));
    let (code, report) = verify(&host, &log_dir(&host));
    assert_eq!((code, &report["sealed"]), (Some(0), &true.into()), "{report}");
}

#[tokio::test]
async fn the_log_tells_what_was_used_and_what_of_policy_was_not() {
    let host = host("");
    let text = fs::read_to_string(host.config()).unwrap();
    host.write("valetkey.toml", &format!("{text}[audit]\ndirectory = \"{}\"\n", log_dir(&host).display()));
    let _daemon = host.start();
    let session = session(&host).await;
    session.fetch("a").await.unwrap();
    session.fetch("a").await.unwrap();
    assert!(session.fetch("c").await.is_err());
    // Somebody who only says that they are the tool's like: not to be counted as what the tool asks.
    assert!(host.client().session("nobody").secret("b").open().await.is_err());
    let json = |out: std::process::Output| -> Value {
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)))
    };
    let config = host.config().display().to_string();
    let usage = json(host.valetkey(&["audit", "usage", "--config", &config]));
    let entries: Vec<_> = usage["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap().to_owned();
            (text("tool"), text("secret"), one["count"].as_u64().unwrap(), one["denied"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(entries, [("t".into(), "a".into(), 2, 0), ("t".into(), "c".into(), 0, 1)]);
    let map = json(host.operate(&["blast-radius", "--used-since", "1d", "--json"]));
    let used: Vec<_> = map["edges"].as_array().unwrap().iter().filter(|edge| edge["kind"] == "used").collect();
    assert!(used.iter().any(|edge| edge["count"] == 2), "{used:?}");
    assert_eq!(of(&records(&log_dir(&host)), "admin.action").last().unwrap()["action"], "inventory");
    // A log of a moment does not tell what a day needs.
    let least = host.operate(&["suggest", "t", "--days", "1"]);
    assert!(!least.status.success() && least.stdout.is_empty(), "{least:?}");
    let mut longer = usage.clone();
    longer["since"] = "2020-01-01T00:00:00Z".into();
    host.write("usage.json", &longer.to_string());
    let least = host.operate(&["suggest", "t", "--days", "1", "--usage", host.path("usage.json").to_str().unwrap()]);
    let (patch, said) =
        (String::from_utf8_lossy(&least.stdout).into_owned(), String::from_utf8_lossy(&least.stderr).into_owned());
    assert!(least.status.success() && said.contains("used 1 of 2 grants"), "{patch}{said}");
    assert!(patch.contains("-secrets.\"b\" = {}") && !patch.contains("-secrets.\"a\""), "{patch}");
}

#[tokio::test]
async fn killed_while_it_hands_out_it_has_all_that_was_had() {
    let host = host("");
    let mut had = 0;
    let kills = std::env::var("VALETKEY_TEST_AUDIT_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    for round in 0..kills {
        let mut daemon = host.start();
        let counts: Vec<_> = (0..4).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for count in counts.clone() {
            let session = session(&host).await;
            tasks.spawn(async move {
                while session.fetch("a").await.is_ok() {
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(30 + round * 17 % 50)).await;
        daemon.signal(libc::SIGKILL);
        daemon.wait(Duration::from_secs(10));
        // What was on its way is had, or not, by then.
        tokio::time::sleep(Duration::from_millis(50)).await;
        tasks.shutdown().await;
        had += counts.iter().map(|count| count.load(Relaxed)).sum::<usize>();
    }
    let _daemon = host.start();
    let (code, report) = verify(&host, &log_dir(&host));
    assert_eq!(code, Some(0), "{report}");
    let on_record = records(&log_dir(&host));
    let handed = of(&on_record, "secret.handed-out").len();
    assert!(had > 100 && handed >= had, "{had} were had, and {handed} are on record");
}

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn mount(host: &Host, kib: u32) -> Option<Self> {
        let path = host.path("small");
        fs::create_dir(&path).unwrap();
        let size = format!("size={kib}k,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_handed_out_and_it_goes_on_by_itself() {
    let bare = Host::new();
    let Some(small) = Small::mount(&bare, 512) else { return eprintln!("skipped: this user may not mount") };
    let host = host(&format!("[audit]\ndirectory = \"{}/audit\"\n", small.0.display()));
    let mut daemon = host.start();
    let session = session(&host).await;
    session.fetch("a").await.unwrap();
    let filler = small.0.join("filler");
    let _ = fs::write(&filler, vec![1; 1 << 20]);
    // What fits into the last page is still written.
    let refused = loop {
        match tokio::time::timeout(Duration::from_millis(800), session.fetch("a")).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => break error.to_string(),
            // It waits, as the daemon told it to.
            Err(_) => break "waits".into(),
        }
    };
    assert!(refused.contains("audit log") || refused == "waits", "{refused}");
    let status = String::from_utf8(host.operate(&["status"]).stdout).unwrap();
    assert!(status.contains("CANNOT BE WRITTEN") && status.contains("No space"), "{status}");
    fs::remove_file(&filler).unwrap();
    until("it hands out again", async || session.fetch("a").await.is_ok()).await;
    daemon.stop();
    let dir = small.0.join("audit");
    let key = small.0.join("audit-signing-key.pub");
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    let out = command.args(["audit", "verify", "--public-key"]).arg(key).arg(&dir).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(!of(&records(&dir), "audit.recovered").is_empty());
}

#[tokio::test]
async fn a_second_daemon_has_no_part_in_a_log() {
    let host = host("");
    let _daemon = host.start();
    let other = self::host(&format!("[audit]\ndirectory = \"{}\"\n", log_dir(&host).display()));
    let mut second = other.spawn(&[]);
    let said = second.wait_until_serving().unwrap_err();
    assert!(other.log().contains("written to by another daemon"), "{said} {}", other.log());
}

#[tokio::test]
async fn what_was_changed_is_found_and_named_by_the_command() {
    let host = host("");
    let mut daemon = host.start();
    let session = session(&host).await;
    for _ in 0..5 {
        session.fetch("a").await.unwrap();
    }
    drop(session);
    daemon.stop();
    let dir = log_dir(&host);
    let file =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().ends_with("jsonl"));
    let file = file.unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    let line = whole.lines().position(|line| line.contains("secret.handed-out")).unwrap();
    let edit =
        |(at, text): (usize, &str)| if at == line { text.replace("\"secret\":\"a\"", "\"secret\":\"b\"") } else { text.into() };
    fs::write(&file, whole.split_inclusive('\n').enumerate().map(edit).collect::<String>()).unwrap();
    let (code, report) = verify(&host, &dir);
    assert_eq!(
        (code, &report["broken"]["what"], &report["broken"]["line"]),
        (Some(3), &"changed".into(), &(line + 1).into()),
        "{report}"
    );
    let cut: String = whole.split_inclusive('\n').take(line + 1).collect();
    fs::write(&file, cut).unwrap();
    assert_eq!(verify(&host, &dir).1["broken"]["what"], "truncated");
    fs::write(&file, whole).unwrap();
    assert_eq!(verify(&host, &dir).0, Some(0));
    let query = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        let out = command.args(["audit", "query", "--dir"]).arg(&dir).args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(query(&["--secret", "a", "--event", "secret.handed-out", "--json"]).lines().count(), 5);
    assert!(query(&["--tool", "t", "--since", "1h"]).contains("secret.handed-out"));
    assert!(query(&["--summary"]).contains("secret.handed-out  5"));
    assert_eq!(query(&["--until", "1d"]), "");
}

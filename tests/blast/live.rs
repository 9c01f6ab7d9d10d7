//! The map of a running daemon: what it tells is what configuration says and what its sessions hold, and a stale copy is found.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use valetkey::{
    blast::{Facts, Moment},
    config,
};

use super::{
    daemon::{Daemon, Host, eventually},
    says,
};

const VALUE: &str = "value-of-a-key-that-is-nowhere-else";

/// Three tools: one launched with a variable, one with a file, and this process, which asks.
fn host() -> (Host, Daemon) {
    let host = Host::new();
    let source = host.seal(&[("a/key", VALUE.as_bytes()), ("b/key", b"value-of-b-key"), ("c/key", b"value-of-c-key")]);
    let secrets = "[secret.\"a/key\"]\nsource = \"sealed\"\nenvironment = \"prod\"\nrotate-every = \"30d\"\n\
                   reaches = [{ system = \"api.a.com\", privilege = \"write\" }]\n\
                   [secret.\"b/key\"]\nsource = \"sealed\"\nunlocks = [\"sealed\"]\n[secret.\"c/key\"]\nsource = \"sealed\"\ncanary = true\n";
    let tools = "[tool.asks]\nrun-as = { user = \"0\", group = \"0\" }\nsecrets.\"a/key\" = {}\nsecrets.\"b/key\" = {}\n\
                 [tool.files]\nrun-as = { user = \"0\" }\non-rotation = \"restart\"\nsecrets.\"a/key\" = { file = \"KEY_FILE\" }\n\
                 [tool.variable]\nrun-as = { user = \"0\" }\nsecrets.\"a/key\" = { env = \"KEY\" }\nsecrets.\"c/key\" = { env = \"OLD\" }\n";
    host.configure("", &format!("{source}{secrets}{tools}"));
    let daemon = host.start();
    (host, daemon)
}

/// A tool that runs until it is dropped.
struct Launched(Child);

impl Launched {
    fn new(host: &Host, tool: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.args(["run", tool, "--socket", host.tools_socket().to_str().unwrap(), "--", "sleep", "600"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn map(host: &Host, question: &[&str]) -> Value {
    let out = host.operate(&[&["blast-radius", "--json"], question].concat());
    let said = says(&out, 0, &[]);
    assert!(!said.contains(VALUE));
    serde_json::from_str(&said).unwrap()
}

fn edges<'m>(map: &'m Value, kind: &str) -> Vec<&'m Value> {
    map["edges"].as_array().unwrap().iter().filter(|edge| edge["kind"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_on_the_map() {
    let (host, daemon) = host();
    let session = host.client().session("asks").secret("a/key").secret("b/key").open().await.unwrap();
    session.get("a/key").await.unwrap();
    let (_variable, _files) = (Launched::new(&host, "variable"), Launched::new(&host, "files"));
    eventually("three sessions hold a/key", || {
        edges(&map(&host, &[]), "held").iter().filter(|edge| edge["to"] == "version:a/key@1").count() == 3
    });
    let live = map(&host, &[]);
    assert_eq!(live["view"], "live");
    let held: Vec<_> = edges(&live, "held")
        .into_iter()
        .map(|edge| {
            (edge["from"].as_str().unwrap(), edge["to"].as_str().unwrap(), edge["channel"].as_str().unwrap(), &edge["retired"])
        })
        .collect();
    let no = &json!(false);
    assert_eq!(
        held,
        [
            ("tool:asks", "version:a/key@1", "rpc", no),
            ("tool:files", "version:a/key@1", "file", no),
            ("tool:variable", "version:a/key@1", "env", no),
            ("tool:variable", "version:c/key@1", "env", no)
        ]
    );
    let declared: Vec<_> = edges(&live, "declared").iter().map(|edge| (edge["from"].clone(), edge["to"].clone())).collect();
    assert!(declared.contains(&(json!("tool:asks"), json!("secret:b/key"))), "declared, and not held: {declared:?}");
    let own = edges(&live, "held").into_iter().find(|edge| edge["from"] == "tool:asks").unwrap();
    assert_eq!((&own["pid"], &own["sure"], &own["uid"]), (&std::process::id().into(), &"observed".into(), &0.into()));
    let since: Moment = own["since"].as_str().unwrap().parse().unwrap();
    assert!(Moment::from(std::time::SystemTime::now()).since(since).as_secs() < 60);

    // What is allowed is told the same with and without the daemon.
    let offline = host.valetkey(&["blast-radius", "--json", "--config", host.config().to_str().unwrap()]);
    let offline: Value = serde_json::from_slice(&offline.stdout).unwrap();
    for kind in ["hosts", "runs", "allowed", "stored", "reaches", "unlocks"] {
        assert_eq!(edges(&live, kind), edges(&offline, kind), "{kind}");
        assert!(!edges(&live, kind).is_empty(), "{kind}");
    }

    let said = says(&host.operate(&["blast-radius", "--tool", "asks"]), 0, &[]);
    for words in
        ["  now: write on api.a.com (prod), by a/key\n", "    held by pid ", "b/key opens source sealed: 3 secrets there"]
    {
        assert!(said.contains(words), "{words}\nis not in\n{said}");
    }
    rotated(&host);
    drop(daemon);
    says(&host.operate(&["blast-radius"]), 4, &["no broker answers", "hint: "]);
}

/// A new version: who asks is told, who has a variable keeps the old one, and that is a finding.
fn rotated(host: &Host) {
    host.seal(&[("a/key", b"another-value-of-a-key")]);
    says(&host.operate(&["refresh", "a/key"]), 0, &["a/key"]);
    let lint = || -> Value { serde_json::from_slice(&host.operate(&["lint", "--format", "json"]).stdout).unwrap() };
    let retired = || -> Vec<Value> {
        let report = lint();
        let of_rule = report["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "VK-109");
        of_rule.map(|finding| finding["tool"].clone()).collect()
    };
    eventually("the one with a variable holds what is retired", || retired().contains(&json!("variable")));
    let said = says(&host.operate(&["blast-radius", "--secret", "a/key"]), 0, &[]);
    for words in [
        "of variable: version 1, which is no longer current, by env, for ",
        "variable keeps the old value until you restart it (pid ",
    ] {
        assert!(said.contains(words), "{words}\nis not in\n{said}");
    }
    assert!(said.contains("  files is restarted by its launcher"), "{said}");
}

/// There and back again: what crosses the socket loses nothing.
#[test]
fn facts_cross_the_socket_whole() {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/etc-valetkey");
    for name in ["valetkey.toml", "tools.d"] {
        assert!(Command::new("cp").arg("-r").arg(example.join(name)).arg(folder.path()).status().unwrap().success());
    }
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(folder.path()).status().unwrap().success());
    };
    run("chmod", &["-R", "go-w"]);
    let config = config::load(&folder.path().join("valetkey.toml")).unwrap_or_else(|problems| panic!("{problems:?}"));
    let facts = Facts::of_config(&config, "h", super::now());
    assert!(facts.secrets.iter().any(|secret| !secret.reaches.is_empty()) && facts.tools.len() > 1);
    let back = Facts::of_inventory(facts.to_inventory(), "h").unwrap();
    assert_eq!(back, Facts { sessions: Some(Vec::new()), ..facts });
}

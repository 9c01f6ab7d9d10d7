//! The `valetkey` command as scripts see it: exit codes, and JSON whose keys stay.

#[path = "support/daemon.rs"]
mod daemon;

use std::{
    fs,
    io::Read,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use daemon::{Daemon, Host, eventually};
use serde_json::Value;

const VALUE: &str = "value-of-a-key";

fn host() -> (Host, Daemon) {
    let host = Host::new();
    let source = host.seal(&[("a/key", VALUE.as_bytes()), ("b/key", b"value-of-b-key")]);
    let tools = Host::tool("it", 0, &["a/key"]) + &Host::tool("other", 4242, &["b/key"]);
    host.configure("", &format!("{source}{}{tools}", Host::secrets(&["a/key", "b/key"])));
    let daemon = host.start();
    (host, daemon)
}

#[track_caller]
fn says(out: &Output, code: i32, expected: &[&str]) -> String {
    let said = String::from_utf8([&*out.stdout, b"\n--\n", &*out.stderr].concat()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{said}");
    for words in expected {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
    said
}

#[track_caller]
fn json(out: &Output, code: i32) -> Value {
    says(out, code, &[]);
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[track_caller]
fn keys(object: &Value, expected: &[&str]) {
    let found: Vec<_> = object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_have_stable_shapes() {
    let (host, _daemon) = host();
    let session = host.client().session("it").secret("a/key").purpose("a test").open().await.unwrap();
    session.get("a/key").await.unwrap();

    let status = json(&host.operate(&["status", "--json"]), 0);
    let top = [
        "version",
        "pid",
        "ready",
        "started",
        "config",
        "configured",
        "reload_error",
        "last_good",
        "audit",
        "memory",
        "attestation",
        "remote",
        "sources",
        "tools",
        "secrets",
        "sessions",
        "handouts",
        "denials",
        "contained",
    ];
    keys(&status, &top);
    keys(&status["memory"], &["protection", "lost", "locked_bytes", "used_bytes"]);
    let source = ["name", "kind", "secrets", "last_good", "health", "unreachable_since", "problem", "next_check", "login"];
    keys(&status["sources"][0], &source);
    assert_eq!((&status["ready"], &status["sources"][0]["health"]), (&true.into(), &"ok".into()));
    assert_eq!(
        (&status["tools"], &status["secrets"], &status["sessions"], &status["handouts"]),
        (&2.into(), &2.into(), &1.into(), &1.into())
    );

    let tools = json(&host.operate(&["tools", "--json"]), 0);
    keys(&tools, &["tools"]);
    let tool = ["name", "description", "run_as", "secrets", "sessions", "handouts", "denials", "origin"];
    keys(&tools["tools"][0], &[&tool[..], &["redactions", "command", "deliveries", "contained_since", "contained_by"]].concat());

    let secrets = json(&host.operate(&["secrets", "--json"]), 0);
    keys(&secrets, &["secrets"]);
    let one = &secrets["secrets"][0];
    let secret = ["name", "state", "version", "source", "path", "environment", "reaches", "loaded", "tools", "holders"];
    keys(one, &[&secret[..], &["age_seconds", "max_stale_seconds", "next_check", "problem"]].concat());
    assert_eq!((&one["name"], &one["state"], &one["holders"]), (&"a/key".into(), &"held".into(), &1.into()));

    let sessions = json(&host.operate(&["sessions", "--json"]), 0);
    keys(&sessions, &["sessions"]);
    let one = &sessions["sessions"][0];
    let expected = [
        "session",
        "tool",
        "pid",
        "uid",
        "unit",
        "subject",
        "remote",
        "invocation",
        "opened",
        "purpose",
        "form",
        "scope",
        "held",
        "handouts",
    ];
    keys(one, &expected);
    keys(&one["held"][0], &["secret", "version", "since", "by"]);
    let held = &one["held"][0];
    assert_eq!((&held["secret"], &held["version"], &held["by"]), (&"a/key".into(), &"1".into(), &"rpc".into()));
    assert!(held["since"].as_str().unwrap() >= one["opened"].as_str().unwrap());
    assert_eq!((&one["pid"], &one["form"]), (&std::process::id().into(), &"stream".into()));

    // For people the same, and no value anywhere.
    for listing in ["status", "tools", "secrets", "sessions"] {
        let said = says(&host.operate(&[listing]), 0, &[]);
        assert!(!said.contains(VALUE), "{said}");
    }
    says(&host.operate(&["secrets"]), 0, &["SECRET", "STATE", "AGE", "NEXT CHECK", "HOLDERS", "a/key"]);
}

#[test]
fn get_prints_one_value_and_says_why_not() {
    let (host, daemon) = host();
    let socket = host.tools_socket();
    let socket = socket.to_str().unwrap();
    let get = |arguments: &[&str]| host.valetkey(&[&["get"], arguments, &["--socket", socket]].concat());
    let out = get(&["a/key", "--tool", "it"]);
    assert_eq!((out.status.code(), out.stdout.as_slice(), out.stderr.as_slice()), (Some(0), VALUE.as_bytes(), &[][..]));
    says(&get(&["b/key", "--tool", "it"]), 3, &["valetkey: denied (SCOPE_NOT_ALLOWED)", "  hint: "]);
    says(&get(&["b/key", "--tool", "other"]), 3, &["denied (TOOL_NOT_ALLOWED)"]);
    says(&get(&["not a name", "--tool", "it"]), 2, &["hint: "]);
    says(&get(&["a/key"]), 2, &["--tool"]);
    drop(daemon);
    says(&get(&["a/key", "--tool", "it"]), 4, &["no broker answers", "is valetkeyd running?", "hint: "]);
    says(&host.valetkey(&["get", "a/key", "--tool", "it", "--socket", "/nowhere/tools.sock"]), 4, &["/nowhere/tools.sock"]);
}

/// A value on a terminal stays there, in its scrollback and its recordings.
#[test]
fn a_terminal_gets_no_value_unless_it_is_asked_for() {
    let (host, _daemon) = host();
    let socket = host.tools_socket();
    let place = seal_place(&host);
    let get = ["get", "a/key", "--tool", "it", "--socket", socket.to_str().unwrap()];
    let unseal = ["unseal", "a/key", "--file", &place[1], "--identity", &place[3]];
    for command in [&get[..], &unseal[..]] {
        let (code, said) = on_a_terminal(command);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("standard output is a terminal") && !said.contains(VALUE), "{said}");
        let (code, said) = on_a_terminal(&[command, &["--reveal"]].concat());
        assert_eq!((code, said.as_str()), (0, VALUE));
    }
}

/// Runs a command with a new terminal as its input and output.
fn on_a_terminal(arguments: &[&str]) -> (i32, String) {
    let (mut ours, theirs) = (0, 0);
    let mut theirs = theirs;
    // SAFETY: openpty(3) fills in the two descriptors; everything else may be null.
    let opened = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(opened, 0);
    // SAFETY: both are open, and ours alone.
    let (mut ours, theirs) = unsafe {
        (<fs::File as std::os::fd::FromRawFd>::from_raw_fd(ours), <fs::File as std::os::fd::FromRawFd>::from_raw_fd(theirs))
    };
    assert!(ours.as_raw_fd() >= 0);
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    command.args(arguments).env_clear().stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // What is left of the other side goes with the command, and reading ends with an error then.
    drop(command);
    let mut said = Vec::new();
    let _ = ours.read_to_end(&mut said);
    (child.wait().unwrap().code().unwrap(), String::from_utf8(said).unwrap())
}

fn seal_place(host: &Host) -> [String; 4] {
    let path = |name: &str| host.path(name).display().to_string();
    ["--file".into(), path("secrets.sealed"), "--identity".into(), path("identity.key")]
}

#[test]
fn the_sealed_file_is_made_edited_and_read() {
    let host = Host::new();
    let place = seal_place(&host);
    let run = |arguments: &[&str], input: &str| {
        let place: Vec<_> = place.iter().map(String::as_str).collect();
        host.valetkey_with(&[arguments, &place].concat(), input.as_bytes())
    };
    says(&run(&["seal", "list"], ""), 1, &["there is no", "valetkey seal init"]);
    says(&run(&["seal", "init"], ""), 0, &["sealed to age1"]);
    for file in [&place[1], &place[3]] {
        assert_eq!(Path::new(file).metadata().unwrap().mode() & 0o777, 0o600, "{file}");
    }
    says(&run(&["seal", "init"], ""), 1, &["is there already"]);
    says(&run(&["seal", "set", "a/key"], "first\n"), 0, &["version 1"]);
    says(&run(&["seal", "set", "a/key"], VALUE), 0, &["version 2"]);
    says(&run(&["seal", "set", "b/key", "--keep-newline"], "line\n"), 0, &["version 1"]);
    says(&run(&["seal", "set", "a/key"], ""), 2, &["empty"]);
    says(&run(&["seal", "set", "not a name"], VALUE), 2, &["hint: such as"]);
    says(&run(&["seal", "set", "a/key"], &"x".repeat(1024 * 1024 + 1)), 2, &["longer than 1 MiB"]);
    let listing = json(&run(&["seal", "list", "--json"], ""), 0);
    let expected = serde_json::json!({ "secrets": [{ "name": "a/key", "version": 2 }, { "name": "b/key", "version": 1 }] });
    assert_eq!(listing, expected);
    assert_eq!(run(&["unseal", "a/key"], "").stdout, VALUE.as_bytes());
    assert_eq!(run(&["unseal", "b/key"], "").stdout, b"line\n");
    says(&run(&["unseal", "c/key"], ""), 1, &["holds no c/key"]);
    says(&run(&["seal", "remove", "a/key"], ""), 0, &["is gone"]);
    says(&run(&["seal", "remove", "a/key"], ""), 1, &["holds no a/key"]);
    let said = says(&run(&["seal", "list"], ""), 0, &["b/key"]);
    assert!(!said.contains("a/key"), "{said}");
    assert!(!fs::read(&place[1]).unwrap().windows(4).any(|text| text == b"line"), "it is sealed");
}

/// The longest value that can be sealed arrives.
#[test]
fn a_value_of_a_mebibyte_arrives() {
    let host = Host::new();
    let value = vec![b'v'; 1024 * 1024];
    let source = host.seal(&[("a/key", &value)]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("it", 0, &["a/key"])));
    let _daemon = host.start();
    let out = host.valetkey(&["get", "a/key", "--tool", "it", "--socket", host.tools_socket().to_str().unwrap()]);
    assert!(out.status.success() && out.stdout == value, "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn check_reports_every_mistake() {
    let (host, _daemon) = host();
    let config = host.config();
    let config = config.to_str().unwrap();
    says(&host.valetkey(&["check", "--config", config]), 0, &["ok: 2 tools, 2 secrets, 1 sources"]);
    let report = json(&host.valetkey(&["check", "--json", "--config", config]), 0);
    keys(&report, &["config", "ok", "tools", "secrets", "sources", "problems"]);
    let bad = fs::read_to_string(config).unwrap() + "[tool.bad]\nrun-as = { usr = \"0\" }\nsecrets.\"no/such\" = {}\n";
    host.write("valetkey.toml", &bad);
    let report = json(&host.valetkey(&["check", "--json", "--config", config]), 1);
    assert_eq!(report["ok"], false);
    let problems = report["problems"].as_array().unwrap();
    assert!(problems.len() >= 2, "{report}");
    keys(&problems[0], &["file", "line", "severity", "what", "instead"]);
    says(&host.valetkey(&["check", "--config", "/nowhere/valetkey.toml"]), 1, &["/nowhere/valetkey.toml"]);
    // The examples that are shipped; they name users and units which this host need not have.
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/etc-valetkey/valetkey.toml");
    let out = host.valetkey(&["check", "--json", "--config", example.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    keys(&report, &["config", "ok", "tools", "secrets", "sources", "problems"]);
}

#[test]
fn explain_names_the_line_or_what_is_missing() {
    let (host, daemon) = host();
    let config = host.config();
    let config = config.to_str().unwrap();
    let offline = |tool: &str, secret: &str| host.valetkey(&["explain", tool, secret, "--json", "--config", config]);
    let online = |tool: &str, secret: &str| host.operate(&["explain", tool, secret, "--json"]);
    for (tool, secret, code) in [("it", "a/key", 0), ("it", "b/key", 3), ("it", "no/such", 3), ("nobody", "a/key", 3)] {
        let (offline, online) = (json(&offline(tool, secret), code), json(&online(tool, secret), code));
        assert_eq!(offline, online);
        keys(&online, &["tool", "secret", "allowed", "verdict", "origin", "run_as", "missing", "delivery", "exposure"]);
        assert_eq!(online["allowed"], code == 0);
        assert_eq!(online["origin"].is_string() && online["missing"].is_null(), code == 0, "{online}");
    }
    says(&host.operate(&["explain", "it", "a/key"]), 0, &["allowed: ", "valetkey.toml:"]);
    says(&host.valetkey(&["explain", "not a tool", "a/key", "--config", config]), 2, &["hint: "]);
    says(&host.valetkey(&["explain", "it", "a/key", "--config", config, "--socket", "/x"]), 2, &["cannot be used with"]);
    drop(daemon);
    says(&host.operate(&["explain", "it", "a/key"]), 4, &["no broker answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_ends() {
    let (host, _daemon) = host();
    let open = async || host.client().session("it").secret("a/key").open().await.unwrap();
    let count = || json(&host.operate(&["sessions", "--json"]), 0)["sessions"].as_array().unwrap().len();
    let (one, two) = (open().await, open().await);
    let listing = json(&host.operate(&["sessions", "--json"]), 0);
    let id = listing["sessions"][0]["session"].as_str().unwrap().to_owned();
    says(&host.operate(&["revoke", "session", &id]), 0, &["1 sessions ended"]);
    says(&host.operate(&["revoke", "session", &id]), 0, &["0 sessions ended"]);
    assert_eq!(count(), 1);
    says(&host.operate(&["revoke", "tool", "it"]), 0, &["1 sessions ended"]);
    assert_eq!(count(), 0);
    for session in [one, two] {
        let ended = session.fetch("a/key").await.err().unwrap();
        assert!(ended.to_string().contains("an operator revoked this session"), "{ended}");
    }
    let holder = open().await;
    holder.get("a/key").await.unwrap();
    says(&host.operate(&["revoke", "secret", "a/key"]), 0, &["1 sessions that hold it were told"]);
    eventually("the client has dropped it too", || holder.cached("a/key").is_none());
    assert!(holder.get("a/key").await.is_err());
    assert_eq!(json(&host.operate(&["secrets", "--json"]), 0)["secrets"][0]["state"], "revoked");
    says(&host.operate(&["reload"]), 0, &["a/key changed", "reloaded"]);
    holder.get("a/key").await.unwrap();
    says(&host.operate(&["revoke", "secret", "no/such"]), 1, &["no such secret is in memory"]);
    says(&host.valetkey(&["revoke"]), 2, &["Usage"]);
}

/// Who is neither root, nor the daemon's user, nor in the admin group.
#[test]
fn an_operator_must_be_one() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let (host, _daemon) = host();
    let socket = host.admin_socket();
    let as_nobody = || {
        let program = host.path("valetkey");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_valetkeyd"), &program).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(program);
        command.args(["status", "--socket", socket.to_str().unwrap()]).env_clear().uid(65534).gid(65534).stdin(Stdio::null());
        command.output().unwrap()
    };
    says(&as_nobody(), 4, &["ermission denied", "run this as root"]);
    // And if someone has opened the socket to all, the daemon looks at who it is.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    says(&as_nobody(), 3, &["admin calls are for root"]);
}

#[test]
fn the_rest_of_the_commands() {
    let (host, daemon) = host();
    for shell in ["bash", "zsh", "fish"] {
        let out = host.valetkey(&["completions", shell]);
        assert!(out.status.success() && out.stdout.len() > 1000, "{shell}");
        says(&out, 0, &["valetkey", "explain", "refresh"]);
    }
    says(&host.valetkey(&["completions", "tcsh"]), 2, &[]);
    let config = host.config();
    let out = host.valetkey(&["doctor", "--json", "--config", config.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    keys(&report, &["ok", "checks"]);
    for check in report["checks"].as_array().unwrap() {
        assert!(check["name"].is_string() && check["found"].is_string(), "{check}");
        let state = check["state"].as_str().unwrap();
        assert!(["ok", "warning", "bad"].contains(&state));
        assert_eq!(check["remedy"].is_string(), state != "ok", "{check}");
    }
    assert_eq!(out.status.code(), Some(i32::from(report["ok"] == false)));
    says(&host.valetkey(&["--version"]), 0, &["valetkey 0.1.0"]);
    says(&host.valetkey(&["--help"]), 0, &["Exit codes: 0 ok, 1 failed, 2 usage, 3 denied or found, 4"]);
    says(&host.valetkey(&[]), 2, &["Usage"]);
    says(&host.valetkey(&["no-such-command"]), 2, &[]);
    drop(daemon);
    // Killed: the socket's file is there, and nobody listens.
    for command in ["status", "tools", "secrets", "sessions", "refresh", "reload"] {
        says(&host.operate(&[command]), 4, &["no broker answers at", "nobody answers: systemctl restart valetkeyd"]);
    }
    fs::remove_file(host.admin_socket()).unwrap();
    says(&host.operate(&["status"]), 4, &["is valetkeyd running?"]);
}

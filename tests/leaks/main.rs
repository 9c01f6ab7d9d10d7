//! Real MCP servers that give their key away, each in its own way. Started directly, every leak is seen, which shows that this test would
//! see it; started through the launcher, no encoding of the key leaves on any channel, and the conversation goes on as before.

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/leaks.rs"]
mod leaks;
#[path = "../support/mcp.rs"]
mod mcp;

mod clients;
mod scanner;
mod servers;

use std::{collections::BTreeSet, time::Duration};

use daemon::{Daemon, Host};
use mcp::{Conversation, Reply, Said, Server};
use serde_json::{Value, json};

const SECRET: &str = "leak/key";
/// Every character that some encoding writes in its own way.
const AWKWARD: &str = r#"sk_live_51H8"quote\back/slash+p=é"#;
/// A key that can stand in an HTTP header.
const PLAIN: &str = "glpat-Mk7Zq0Wb3Xr9Tn5Vy2Lc";

/// One request, and what must come of it where the launcher stands between.
struct Turn {
    method: &'static str,
    params: Value,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    /// Not a byte is changed.
    Same,
    /// The placeholder stands where the key stood, as it is or in JSON to any depth, and nothing else is changed.
    Named,
    /// The answer is a valid one that has the placeholder.
    Marked,
}

fn call(tool: &str, arguments: Value, then: Then) -> Turn {
    Turn { method: "tools/call", params: json!({ "name": tool, "arguments": arguments }), then }
}

/// What was heard of a server.
struct Told {
    replies: Vec<Reply>,
    said: Said,
}

fn converse(command: &[String], key: Option<(&str, &str)>, server: &Server, turns: &[Turn]) -> Told {
    let mut talk = Conversation::start(command, key, server.era);
    let mut replies = vec![talk.request("tools/list", json!({}))];
    replies.extend(turns.iter().map(|turn| talk.request(turn.method, turn.params.clone())));
    Told { replies, said: talk.end() }
}

/// Nobody between: the key is in the environment that the client gives.
fn directly(server: &Server, key: &str, turns: &[Turn]) -> Told {
    converse(&server.command, Some((server.variable, key)), server, turns)
}

/// The command that a client's configuration has for a server once the launcher stands before it.
fn wrapped(host: &Host, server: &Server) -> Vec<String> {
    let socket = host.tools_socket().display().to_string();
    let launcher = [env!("CARGO_BIN_EXE_valetkey"), "run", "--socket", &socket, server.name, "--"];
    mcp::line(&launcher).into_iter().chain(server.command.iter().cloned()).collect()
}

/// A daemon that has the key, and a tool that gets it in its variable.
fn host(server: &Server, key: &str) -> (Host, Daemon) {
    let host = Host::new();
    let source = host.seal(&[(SECRET, key.as_bytes())]);
    let (name, variable) = (server.name, server.variable);
    let tool =
        format!("[tool.{name}]\nrun-as = {{ user = \"0\" }}\nsecrets.\"{SECRET}\" = {{ env = \"{variable}\" }}\n{}", UNLIMITED);
    host.configure("log-level = \"debug\"\n", &format!("{source}{}{tool}", Host::secrets(&[SECRET])));
    let daemon = host.start();
    (host, daemon)
}

const UNLIMITED: &str = "limits = { per-minute = 100000, concurrent = 1000, per-session = 100000 }\n";

/// The ways in which the key is in what a process wrote: `stdout escaped escaped`, `stderr base64`.
fn seen(stdout: &[u8], stderr: &[u8], key: &str) -> BTreeSet<String> {
    let on = |channel, text| leaks::find(text, key.as_bytes()).into_iter().map(move |encoding| format!("{channel} {encoding}"));
    on("stdout", stdout).chain(on("stderr", stderr)).collect()
}

/// The same for each line by itself: one that says the key plainly does not hide another's way from being named.
fn seen_in_lines(stdout: &[u8], stderr: &[u8], key: &str) -> BTreeSet<String> {
    let lines = |text: &[u8]| text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let stdout = lines(stdout).into_iter().flat_map(|line| seen(&line, b"", key)).collect::<BTreeSet<_>>();
    stdout.into_iter().chain(lines(stderr).into_iter().flat_map(|line| seen(b"", &line, key))).collect()
}

/// Each of these leaks is there when nobody stands between.
fn leaks_directly(server: Option<Server>, key: &str, turns: &[Turn], expected: &[&str]) {
    let Some(server) = server else { return };
    let told = directly(&server, key, turns);
    let seen = seen_in_lines(&told.said.stdout, &told.said.stderr, key);
    for leak in expected {
        assert!(seen.contains(*leak), "{}: no leak {leak:?}; seen: {seen:?}", server.name);
    }
}

/// Through the launcher none is, and the answers are as the turns say.
fn is_clean_when_wrapped(server: Option<Server>, key: &str, turns: &[Turn]) {
    let Some(server) = server else { return };
    let mut direct = directly(&server, key, turns);
    let (host, _daemon) = host(&server, key);
    let mut told = converse(&wrapped(&host, &server), None, &server, turns);
    for _ in 0..3 {
        if by_force(&told) {
            // On a busy machine a server may need longer than a client waits, and is ended. Its last words are then lost.
            told = converse(&wrapped(&host, &server), None, &server, turns);
        }
    }
    if newlines(&told.said.stderr) < newlines(&direct.said.stderr) {
        // A server's first start may have more to log than the next: caches that it makes, modules that it compiles.
        direct = directly(&server, key, turns);
    }
    nothing_left(&host, &told.said.stdout, &told.said.stderr, key);
    let wanted = [Then::Same].into_iter().chain(turns.iter().map(|turn| turn.then));
    for ((before, after), then) in direct.replies.iter().zip(&told.replies).zip(wanted) {
        compare(before, after, then, key);
    }
    let (code, took) = (told.said.status.code(), told.said.took_to_end);
    let log = String::from_utf8_lossy(&told.said.stderr);
    if by_force(&told) {
        assert!(direct.said.took_to_end > TOLD_TO_GO / 2, "{code:?} after {took:?}: {log}");
    } else {
        nothing_is_lost(&direct.said, &told.said, key);
        assert_eq!(code, direct.said.status.code(), "{code:?} after {took:?}: {log}");
    }
    // A client waits for two seconds, and then it kills.
    let late = took.saturating_sub(direct.said.took_to_end);
    assert!(late.as_millis() < 1000, "{late:?} later than without the launcher");
}

/// How long a server whose input was closed may go by itself before the launcher ends it (docs/run.md).
const TOLD_TO_GO: Duration = Duration::from_secs(1);

/// The launcher told it to go, or killed it.
fn by_force(told: &Told) -> bool {
    let signalled = [Some(128 + 15), Some(128 + 9)].contains(&told.said.status.code());
    signalled && told.said.took_to_end >= TOLD_TO_GO
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|b| **b == b'\n').count()
}

/// Every line has come through, in whatever form: notifications and log lines too. The launcher may add to the log.
fn nothing_is_lost(direct: &Said, wrapped: &Said, key: &str) {
    assert_eq!(newlines(&wrapped.stdout), newlines(&direct.stdout), "{}", String::from_utf8_lossy(&wrapped.stdout));
    assert!(newlines(&wrapped.stderr) >= newlines(&direct.stderr), "{}", String::from_utf8_lossy(&wrapped.stderr));
    for (before, after) in [(&direct.stdout, &wrapped.stdout), (&direct.stderr, &wrapped.stderr)] {
        let marked = String::from_utf8_lossy(after).contains(&placeholder());
        assert_eq!(marked, !leaks::find(before, key.as_bytes()).is_empty(), "{}", String::from_utf8_lossy(after));
    }
}

/// Neither on the channels of the tool, nor in the daemon's log.
fn nothing_left(host: &Host, stdout: &[u8], stderr: &[u8], key: &str) {
    let text = String::from_utf8_lossy;
    let seen = seen(stdout, stderr, key);
    assert!(seen.is_empty(), "{seen:?}\n{}\n{}", text(stdout), text(stderr));
    let log = leaks::find(host.log().as_bytes(), key.as_bytes());
    assert!(log.is_empty(), "in the daemon's log: {log:?}");
}

fn compare(before: &Reply, after: &Reply, then: Then, key: &str) {
    let text = |reply: &Reply| String::from_utf8(reply.line.clone()).unwrap();
    match then {
        Then::Same => assert_eq!(text(before), text(after)),
        Then::Named => assert_eq!(named(&text(before), key), after.value),
        Then::Marked => assert!(text(after).contains(&placeholder()), "{}", text(after)),
    }
    // Either era: an answer has its number, and a result or an error.
    assert_eq!(before.value["id"], after.value["id"]);
    assert_eq!(before.value.get("result").is_some(), after.value.get("result").is_some(), "{}", after.value);
    assert_eq!(before.value["error"]["code"], after.value["error"]["code"]);
}

fn placeholder() -> String {
    format!("[redacted:{SECRET}]")
}

/// A line with the placeholder in place of the key, which stands there in JSON to a depth of three. What is left is compared as JSON, for
/// the launcher may write a line that it changes in its own way.
fn named(line: &str, key: &str) -> Value {
    let mut forms = vec![key.to_owned()];
    for depth in 0..3 {
        let quoted = Value::from(forms[depth].as_str()).to_string();
        forms.push(quoted[1..quoted.len() - 1].to_owned());
    }
    let replaced = forms.iter().rev().fold(line.to_owned(), |line, form| line.replace(form, &placeholder()));
    serde_json::from_str(&replaced).unwrap()
}

//! One server after another: the direct start first, then the launcher.

use serde_json::json;

use super::{
    AWKWARD, Conversation, Daemon, Host, PLAIN, Then, Told, Turn, call, converse, directly, host, is_clean_when_wrapped, leaks,
    leaks_directly,
    mcp::{self, Era, Reflecting, Server},
    nothing_left, wrapped,
};

/// Encodings that a server is handed and says again.
fn forms(key: &str) -> Vec<String> {
    let base64 = |before: &str| base64(format!("{before}{key}:after").as_bytes());
    let hex: String = key.bytes().map(|b| format!("{b:02X}")).collect();
    let percent: String = key.bytes().map(|b| format!("%{b:02x}")).collect();
    let double = percent.replace('%', "%25");
    let unicode: String = key.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    vec![
        base64(""),
        base64("u:"),
        base64("user:"),
        base64("me:").replace('+', "-").replace('/', "_"),
        hex,
        percent,
        double,
        unicode,
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |chunk: &[u8]| {
        let n = chunk.iter().chain(&[0, 0]).take(3).fold(0, |n, b| n << 8 | usize::from(*b));
        let digit = |at: usize| if at <= chunk.len() { char::from(DIGITS[n >> (18 - 6 * at) & 63]) } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

/// Of every kind of content that the server has, one that does not differ from call to call.
fn everything_turns() -> Vec<Turn> {
    let innocent = "a long line of \u{2028} \"nothing\" \\ <b>&amp;</b> %41 \\u0041 c2tfbGl2ZQ== é ".repeat(200);
    let same = |tool, arguments| call(tool, arguments, Then::Same);
    let mut turns = vec![
        call("get-env", json!({}), Then::Marked),
        call("echo", json!({ "message": format!("the key is {AWKWARD}, twice: {AWKWARD}") }), Then::Named),
        same("echo", json!({ "message": innocent })),
        same("get-structured-content", json!({ "location": "Chicago" })),
        same("get-tiny-image", json!({})),
        same("get-annotated-message", json!({ "messageType": "error", "includeImage": true })),
        same("get-resource-links", json!({ "count": 3 })),
        Turn { method: "resources/list", params: json!({}), then: Then::Same },
        Turn { method: "prompts/list", params: json!({}), then: Then::Same },
        Turn { method: "no/such-method", params: json!({}), then: Then::Same },
        Turn { method: "no/such-method", params: json!({ "key": AWKWARD }), then: Then::Same },
    ];
    turns.extend(forms(AWKWARD).into_iter().map(|form| call("echo", json!({ "message": form }), Then::Marked)));
    turns
}

#[test]
fn everything_shows_its_environment() {
    let expected =
        ["stdout escaped", "stdout escaped escaped", "stdout base64", "stdout hex", "stdout percent", "stdout percent percent"];
    leaks_directly(mcp::everything(), AWKWARD, &everything_turns(), &expected);
}

#[test]

fn everything_is_clean_when_wrapped() {
    is_clean_when_wrapped(mcp::everything(), AWKWARD, &everything_turns());
}

/// The limit that documentation states: a key that the tool compressed is not recognised. No promise is broken, and none is made.
#[test]

fn a_compressed_key_passes() {
    let Some(server) = mcp::everything() else { return };
    let data = format!("data:text/plain;base64,{}", base64(AWKWARD.as_bytes()));
    let turns = [call("gzip-file-as-resource", json!({ "name": "k.gz", "data": data, "outputType": "resource" }), Then::Same)];
    let (host, _daemon) = host(&server, AWKWARD);
    let told = converse(&wrapped(&host, &server), None, &server, &turns);
    let blob = told.replies[1].value["result"]["content"][0]["resource"]["blob"].as_str().unwrap().to_owned();
    assert_eq!(gunzip(&blob), AWKWARD.as_bytes());
    nothing_left(&host, &told.said.stdout, &told.said.stderr, AWKWARD);
}

fn gunzip(base64: &str) -> Vec<u8> {
    let script = "base64 -d | gzip -dc";
    let mut child = std::process::Command::new("sh")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), base64.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

/// What the API says in its refusal comes back as the message of a JSON-RPC error.
fn gitlab_turns() -> Vec<Turn> {
    let ask = || json!({ "project_id": "a/b", "file_path": "x" });
    vec![call("get_file_contents", ask(), Then::Named), call("search_repositories", json!({ "search": 5 }), Then::Same)]
}

#[test]
fn gitlab_repeats_its_token_in_an_error() {
    let api = Reflecting::start();
    leaks_directly(mcp::gitlab(&api.url), PLAIN, &gitlab_turns(), &["stdout raw"]);
}

#[test]

fn gitlab_is_clean_when_wrapped() {
    let api = Reflecting::start();
    is_clean_when_wrapped(mcp::gitlab(&api.url), PLAIN, &gitlab_turns());
}

/// It logs what the API answers. The token is never there as it is.
fn atlassian_turns() -> Vec<Turn> {
    vec![call("jira_get_issue", json!({ "issue_key": "ABC-1" }), Then::Same)]
}

#[test]
fn atlassian_logs_its_credentials_in_base64() {
    let api = Reflecting::start();
    let Some(server) = mcp::atlassian(&api.url) else { return };
    let told = directly(&server, PLAIN, &atlassian_turns());
    let log = String::from_utf8_lossy(&told.said.stderr);
    assert!(!log.contains(PLAIN) && log.contains("Rejected Basic "), "{log}");
    assert!(leaks::find(&told.said.stderr, PLAIN.as_bytes()).contains("base64"), "{log}");
}

#[test]

fn atlassian_is_clean_when_wrapped() {
    let api = Reflecting::start();
    is_clean_when_wrapped(mcp::atlassian(&api.url), PLAIN, &atlassian_turns());
}

/// Every leak of `tests/mcp/leaky.py`; what it says on standard output beside its answers is compared by nobody but the scanner.
fn leaky_turns() -> Vec<Turn> {
    let says = |tool| call(tool, json!({}), Then::Same);
    let mut turns: Vec<_> = ["fail", "notify", "halves", "stray", "weather"].into_iter().map(says).collect();
    turns.push(call("wrapped", json!({}), Then::Marked));
    turns
}

const LEAKY: &[&str] =
    &["stderr raw", "stderr escaped", "stderr utf-16", "stderr hex", "stdout raw", "stdout escaped", "stdout escaped base64"];

#[test]
fn a_python_server_leaks_in_its_log_and_notifications() {
    leaks_directly(mcp::leaky(&["--banner"]), AWKWARD, &leaky_turns(), LEAKY);
}

/// One that is said in two halves would not be seen by a filter that gives up waiting.
#[test]
fn a_key_in_two_halves_is_seen_whole() {
    leaks_directly(mcp::leaky(&[]), AWKWARD, &[call("halves", json!({}), Then::Same)], &["stderr raw"]);
}

#[test]

fn a_python_server_is_clean_when_wrapped() {
    is_clean_when_wrapped(mcp::leaky(&["--banner"]), AWKWARD, &leaky_turns());
}

/// The era without a handshake: the same leaks, in a result, an error and its data, `_meta`, a name, a buffer.
fn modern_turns() -> Vec<Turn> {
    vec![
        call("environment", json!({}), Then::Marked),
        call("fail", json!({}), Then::Named),
        call("buffer", json!({}), Then::Marked),
        call("log", json!({}), Then::Same),
        call("meta", json!({}), Then::Marked),
        call("weather", json!({}), Then::Same),
        Turn { method: "resources/read", params: json!({ "uri": "example:account" }), then: Then::Named },
        Turn { method: "resources/read", params: json!({ "uri": "example:nothing" }), then: Then::Same },
    ]
}

#[test]
fn a_stateless_server_leaks_in_results_and_errors() {
    let expected = ["stdout escaped", "stdout percent", "stdout numbers", "stderr base64"];
    leaks_directly(mcp::modern(), AWKWARD, &modern_turns(), &expected);
}

#[test]

fn a_stateless_server_is_clean_when_wrapped() {
    is_clean_when_wrapped(mcp::modern(), AWKWARD, &modern_turns());
}

/// Our example server takes its key from the broker while it runs, and says it to nobody, whatever its upstream answers.
#[test]
fn the_example_leaks_nothing_by_itself() {
    let (host, _daemon, server) = example();
    let mut talk = Conversation::start(&server.command, None, server.era);
    let forecast = talk.request("tools/call", json!({ "name": "forecast", "arguments": { "city": "Oslo" } }));
    assert!(forecast.value.to_string().contains("does not accept our key"), "{}", forecast.value);
    let info = talk.request("tools/call", json!({ "name": "key_info", "arguments": {} }));
    assert!(info.value.to_string().contains("weather/api-key version 1"), "{}", info.value);
    let said = talk.end();
    nothing_left(&host, &said.stdout, &said.stderr, PLAIN);
}

#[test]

fn the_example_is_the_same_when_wrapped() {
    let turns = [call("forecast", json!({ "city": "Oslo" }), Then::Same), call("key_info", json!({}), Then::Same)];
    let (host, _daemon, server) = example();
    let direct = converse(&server.command, None, &server, &turns);
    let told = converse(&wrapped(&host, &server), None, &server, &turns);
    let lines = |told: &Told| told.replies.iter().map(|reply| reply.line.clone()).collect::<Vec<_>>();
    assert_eq!(lines(&direct), lines(&told));
    nothing_left(&host, &told.said.stdout, &told.said.stderr, PLAIN);
}

/// The example, the daemon that has its key, and an upstream that refuses it and says so at length.
fn example() -> (Host, Daemon, Server) {
    const KEY: &str = "weather/api-key";
    let host = Host::new();
    let source = host.seal(&[(KEY, PLAIN.as_bytes())]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&[KEY]), Host::tool("weather", 0, &[KEY])));
    let daemon = host.start();
    // Cargo builds examples with the tests, beside them.
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/mcp-server");
    assert!(program.exists(), "{} is not built: run `cargo build --example mcp-server`", program.display());
    let (program, socket) = (program.display().to_string(), host.tools_socket().display().to_string());
    let command = mcp::line(&[&program, &Reflecting::start().url, &socket]);
    (host, daemon, Server { name: "weather", command, variable: "", era: Era::Initialize })
}

//! The example MCP server, started by real MCP clients over stdio, with its key from a real daemon and an upstream that accepts
//! only the current one.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/mcp.rs"]
mod mcp;
#[allow(dead_code)]
#[path = "support/scan.rs"]
mod scan;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use daemon::{Daemon, Host, eventually};
use rmcp::{
    RoleClient, ServiceExt,
    model::{CallToolRequestParams, CallToolResult},
    service::RunningService,
    transport::TokioChildProcess,
};
use serde_json::{Value, json};

const OWN: u32 = 0;
const KEY: &str = "weather/api-key";
const FIRST: &str = "marker-MCPFIRST-7c41e09b2d";
const SECOND: &str = "marker-MCPSECOND-55b0f3a8c6";

/// An HTTP server that answers whoever has the key of the day. Its refusal repeats what it refused, as careless ones do.
struct Upstream {
    port: u16,
    key: Arc<Mutex<String>>,
    /// The first line of each request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream =
            Self { port: listener.local_addr().unwrap().port(), key: Arc::new(Mutex::new(FIRST.into())), seen: Arc::default() };
        let (key, seen) = (upstream.key.clone(), upstream.seen.clone());
        thread::spawn(move || listener.incoming().for_each(|client| answer(client.unwrap(), &key, &seen)));
        upstream
    }

    fn accept_only(&self, key: &str) {
        *self.key.lock().unwrap() = key.into();
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(mut client: TcpStream, key: &Mutex<String>, seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    seen.lock().unwrap().push(request.lines().next().unwrap_or_default().into());
    let allowed = request.lines().any(|line| line == format!("Authorization: Bearer {}", key.lock().unwrap()));
    let (status, body) = if allowed { ("200 OK", r#"{"celsius":-3}"#.into()) } else { ("401 Unauthorized", request) };
    let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// A host whose tool `weather` may have its key, or may not.
fn configure(host: &Host, secret: &str) {
    let source = host.seal(&[]);
    let secrets = Host::secrets(&[KEY, "other/key"]);
    let tools = Host::tool("weather", OWN, &[secret]) + &Host::tool("other", 4242, &[KEY, "other/key"]);
    host.configure("log-level = \"debug\"\n", &format!("{source}{secrets}{tools}"));
}

fn host() -> Host {
    let host = Host::new();
    host.seal(&[(KEY, FIRST.as_bytes()), ("other/key", b"of-no-interest")]);
    configure(&host, KEY);
    host
}

/// Cargo builds examples with the tests, beside them.
fn server() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let server = test.parent().unwrap().parent().unwrap().join("examples/mcp-server");
    assert!(server.exists(), "{} is not built: run `cargo build --example mcp-server`", server.display());
    server
}

/// Starts the server with what it writes kept in files as well. The shell becomes nobody's identity: the server is a process
/// of its own, and it is the one that connects to the daemon.
fn recorded(host: &Host, upstream: &Upstream) -> Vec<String> {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let (stdout, stderr) = (quoted(&host.path("stdout")), quoted(&host.path("stderr")));
    let script = format!("\"$0\" \"$@\" 2>>{stderr} | tee -a {stdout}");
    let arguments = [server().display().to_string(), upstream.url(), host.tools_socket().display().to_string()];
    ["sh".into(), "-c".into(), script].into_iter().chain(arguments).collect()
}

type Client = RunningService<RoleClient, ()>;

async fn connect(host: &Host, upstream: &Upstream) -> Client {
    let line = recorded(host, upstream);
    let mut command = tokio::process::Command::new(&line[0]);
    command.args(&line[1..]);
    ().serve(TokioChildProcess::new(command).unwrap()).await.unwrap()
}

/// Whether the tool failed, and what the model is shown.
async fn call(client: &Client, tool: &'static str, arguments: Value) -> (bool, String) {
    let request = CallToolRequestParams::new(tool).with_arguments(arguments.as_object().unwrap().clone());
    let CallToolResult { is_error, content, .. } = client.call_tool(request).await.unwrap();
    let text: Vec<_> = content.iter().map(|block| block.as_text().unwrap().text.clone()).collect();
    (is_error == Some(true), text.join("\n"))
}

async fn forecast(client: &Client) -> (bool, String) {
    call(client, "forecast", json!({ "city": "Oslo" })).await
}

fn good() -> (bool, String) {
    (false, r#"{"celsius":-3}"#.into())
}

fn sessions(host: &Host) -> Vec<Value> {
    let out = host.valetkey(&["sessions", "--json", "--socket", host.admin_socket().to_str().unwrap()]);
    let listing: Value = serde_json::from_slice(&out.stdout).unwrap();
    listing["sessions"].as_array().unwrap().clone()
}

fn revoke(host: &Host) {
    let out = host.valetkey(&["revoke", "--socket", host.admin_socket().to_str().unwrap(), "tool", "weather"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn held(host: &Host) -> Value {
    let versions = |session: &Value| -> Value {
        let held = session["held"].as_array().unwrap().iter();
        held.map(|held| json!({ "secret": held["secret"], "version": held["version"] })).collect()
    };
    sessions(host).iter().map(versions).collect()
}

fn holds(version: &str) -> Value {
    json!([[{ "secret": KEY, "version": version }]])
}

fn read(host: &Host, name: &str) -> String {
    fs::read_to_string(host.path(name)).unwrap()
}

/// Neither what the model sees, nor the client's log, nor the daemon's.
fn no_key_was_written(host: &Host) {
    for name in ["stdout", "stderr", "log"] {
        let text = read(host, name);
        assert!(name == "stderr" || !text.is_empty(), "{name} was recorded");
        for key in [FIRST, SECOND] {
            // A piece would be as bad.
            assert!(!text.contains(&key[7..]), "{name}: {text}");
        }
    }
}

fn rotate(host: &Host, daemon: &Daemon, upstream: &Upstream) {
    upstream.accept_only(SECOND);
    host.seal(&[(KEY, SECOND.as_bytes())]);
    daemon.signal(libc::SIGHUP);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_uses_its_key_and_shows_it_to_nobody() {
    let (host, upstream) = (host(), Upstream::start());
    let _daemon = host.start();
    let client = connect(&host, &upstream).await;
    assert_eq!(client.peer_info().unwrap().server_info.as_ref().unwrap().name, "weather");
    let mut tools: Vec<_> = client.list_all_tools().await.unwrap().into_iter().map(|tool| tool.name.to_string()).collect();
    tools.sort();
    assert_eq!(tools, ["forecast", "key_info"]);
    assert_eq!(forecast(&client).await, good());
    assert_eq!(call(&client, "key_info", json!({})).await, (false, format!("{KEY} version 1")));
    assert_eq!(held(&host), holds("1"));

    // What the model writes stays one part of the path.
    let city = json!({ "city": "x/../../admin HTTP/1.0\r\nHost: evil\r\n\r\n" });
    assert_eq!(call(&client, "forecast", city).await, good());
    assert_eq!(
        upstream.seen()[1],
        "GET /forecast/x%2F%2E%2E%2F%2E%2E%2Fadmin%20HTTP%2F1%2E0%0D%0AHost%3A%20evil%0D%0A%0D%0A HTTP/1.0"
    );

    client.cancel().await.unwrap();
    eventually("the session ends with the server", || held(&host) == json!([]));
    no_key_was_written(&host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_used_by_the_next_call() {
    let (host, upstream) = (host(), Upstream::start());
    let daemon = host.start();
    let client = connect(&host, &upstream).await;
    assert_eq!(forecast(&client).await, good());
    rotate(&host, &daemon, &upstream);
    eventually("the server holds the new version", || held(&host) == holds("2"));
    assert_eq!(forecast(&client).await, good());
    assert_eq!(call(&client, "key_info", json!({})).await.1, format!("{KEY} version 2"));
    let acknowledged = |line: &str| line.contains("version in use") && line.contains("version=2");
    eventually("the daemon hears that it is in use", || host.log().lines().any(acknowledged));
    assert!(read(&host, "stderr").contains("is now version 2, was 1"));
    no_key_was_written(&host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_upstream_refuses_is_a_clean_error() {
    let (host, upstream) = (host(), Upstream::start());
    let daemon = host.start();
    let client = connect(&host, &upstream).await;
    // Nobody told the daemon: it has no newer one.
    upstream.accept_only(SECOND);
    let (failed, text) = forecast(&client).await;
    assert!(failed && text.contains("does not accept our key"), "{text}");
    assert_eq!(upstream.seen().len(), 1, "the same version is not tried twice");
    rotate(&host, &daemon, &upstream);
    eventually("the server holds the new version", || held(&host) == holds("2"));
    assert_eq!(forecast(&client).await, good());
    no_key_was_written(&host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_survives_the_daemon() {
    let (host, upstream) = (host(), Upstream::start());
    let mut daemon = host.start();
    let client = connect(&host, &upstream).await;
    daemon.signal(libc::SIGKILL);
    daemon.wait(Duration::from_secs(20));
    assert_eq!(forecast(&client).await, good(), "the key is in the server's memory");

    // The key is changed at the upstream while there is no daemon to ask for the new one.
    upstream.accept_only(SECOND);
    let (failed, text) = forecast(&client).await;
    assert!(failed && text.contains("no broker answers at"), "{text}");

    host.seal(&[(KEY, SECOND.as_bytes())]);
    let _again = host.start();
    eventually("the server is connected again", || held(&host) == holds("2"));
    assert_eq!(forecast(&client).await, good());
    no_key_was_written(&host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_server_says_so_and_uses_its_key_no_more() {
    let (host, upstream) = (host(), Upstream::start());
    let _daemon = host.start();
    let client = connect(&host, &upstream).await;
    assert_eq!(forecast(&client).await, good());
    revoke(&host);
    eventually("the server hears it", || read(&host, "stderr").contains("the session has ended"));
    let asked = upstream.seen().len();
    let (failed, text) = forecast(&client).await;
    assert!(failed && text.contains("an operator revoked this session"), "{text}");
    assert_eq!(upstream.seen().len(), asked);
    no_key_was_written(&host);
}

#[test]
fn a_server_that_is_not_allowed_its_key_says_so_at_the_start() {
    let host = host();
    configure(&host, "other/key");
    let _daemon = host.start();
    let start = |socket: &Path| {
        let mut command = Command::new(server());
        command.arg("http://127.0.0.1:1").arg(socket).stdin(Stdio::null());
        let out = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let (code, stdout, stderr) = start(&host.tools_socket());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("mcp-server: denied (SCOPE_NOT_ALLOWED): ") && stderr.contains(KEY), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");

    let (code, stdout, stderr) = start(&host.path("no-such.sock"));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("no broker answers at") && stderr.contains("is valetkeyd running?"), "{stderr}");
}

/// While a session is open, the buffers of its connection still hold what they last received. They go with it, wiped.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_left_in_a_revoked_servers_memory() {
    let (host, upstream) = (host(), Upstream::start());
    let daemon = host.start();
    let client = connect(&host, &upstream).await;
    assert_eq!(forecast(&client).await, good());
    rotate(&host, &daemon, &upstream);
    eventually("the server holds the new version", || held(&host) == holds("2"));
    for _ in 0..20 {
        assert_eq!(forecast(&client).await, good());
    }
    let pid = sessions(&host)[0]["pid"].as_u64().unwrap() as u32;
    revoke(&host);
    eventually("no copy is left", || [FIRST, SECOND].iter().all(|key| scan::scan(pid, key.as_bytes()).is_empty()));
    assert!(forecast(&client).await.0);
}

#[test]
fn the_client_configurations_carry_no_environment_and_so_no_key() {
    let files: Vec<_> = fs::read_dir("examples/client-configs").unwrap().map(|entry| entry.unwrap().path()).collect();
    let files = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    for (path, text) in files.clone().map(|path| (path.display(), fs::read_to_string(path).unwrap())) {
        let config: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let server = config.get("mcpServers").or(config.get("servers")).and_then(|servers| servers.get("weather")).unwrap();
        assert_eq!(server["args"], json!(["http://weather.internal:8080"]), "{path}");
        assert!(server["command"].as_str().unwrap().ends_with("/mcp-server") && server.get("env").is_none(), "{path}");
    }
    assert_eq!(files.count(), 4);
}

/// The official SDK for Python, with the handshake of today and with the one before it.
#[test]
fn the_official_python_client_drives_it_as_well() {
    if mcp::python().is_none() {
        return;
    }
    let (host, upstream) = (host(), Upstream::start());
    let _daemon = host.start();
    for mode in ["auto", "legacy"] {
        let line = recorded(&host, &upstream);
        let server = json!({ "command": line[0], "args": line[1..] });
        let calls = json!([["forecast", { "city": "Oslo" }], ["key_info", {}]]);
        let out = mcp::python_client(&json!({ "mode": mode, "server": server, "calls": calls })).unwrap();
        let (stdout, stderr) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert!(out.status.success(), "{mode}: {stderr}");
        let seen: Value = serde_json::from_str(&stdout).unwrap();
        assert!(seen["protocol"].is_string());
        assert_eq!((&seen["server"], &seen["tools"]), (&json!("weather"), &json!(["forecast", "key_info"])), "{mode}");
        let shown = |call: usize| (seen["calls"][call]["isError"] == true, seen["calls"][call]["content"][0]["text"].clone());
        assert_eq!(shown(0), (false, r#"{"celsius":-3}"#.into()), "{mode}");
        assert_eq!(shown(1), (false, format!("{KEY} version 1").into()), "{mode}");
        assert!(!(stdout + &stderr).contains(&FIRST[7..]));
    }
    no_key_was_written(&host);
}

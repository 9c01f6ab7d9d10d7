//! The same through real clients, with the server named in their configuration as a user would do it: with the key in `env` before, with
//! the launcher as `command` after.

use std::{fs, path::PathBuf, process::Output};

use rmcp::{
    model::{CallToolRequestParams, ProtocolVersion},
    service::{ClientLifecycleMode, ClientServiceExt},
    transport::TokioChildProcess,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{
    AWKWARD, Daemon, Host, PLAIN, host,
    mcp::{self, Era, Reflecting, Server},
    nothing_left, placeholder, seen, wrapped,
};

/// How a client's configuration names a server.
enum Way {
    /// With its key in the file.
    Direct,
    Wrapped,
}

/// A host, with a daemon where one is needed, and the entry for a server.
fn entry(server: &Server, key: &str, way: &Way) -> (Host, Option<Daemon>, Value) {
    let (host, daemon, command, env) = match way {
        Way::Direct => (Host::new(), None, server.command.clone(), json!({ server.variable: key })),
        Way::Wrapped => {
            let (host, daemon) = host(server, key);
            let command = wrapped(&host, server);
            (host, Some(daemon), command, json!({}))
        }
    };
    (host, daemon, json!({ "command": command[0], "args": command[1..], "env": env }))
}

fn config(host: &Host, name: &str, entry: &Value) -> PathBuf {
    let file = host.path(".mcp.json");
    fs::write(&file, json!({ "mcpServers": { name: entry } }).to_string()).unwrap();
    file
}

/// Calls a tool with MCP Inspector. What it printed.
fn inspect(server: &Server, key: &str, way: &Way, arguments: &[&str]) -> (Host, Output) {
    let (host, _daemon, entry) = entry(server, key, way);
    let file = config(&host, server.name, &entry);
    let arguments = [&["--method", "tools/call", "--tool-name"], arguments].concat();
    let out = mcp::inspector().unwrap().run(&file, server.name, &arguments);
    (host, out)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn for_inspector(api: &Reflecting) -> Option<(Server, Server)> {
    mcp::inspector()?;
    Some((mcp::everything()?, mcp::gitlab(&api.url)?))
}

#[test]
fn inspector_is_shown_a_key_by_direct_servers() {
    let api = Reflecting::start();
    let Some((everything, gitlab)) = for_inspector(&api) else { return };
    let (_, out) = inspect(&everything, AWKWARD, &Way::Direct, &["get-env"]);
    assert!(seen(&out.stdout, b"", AWKWARD).contains("stdout escaped escaped"), "{}", text(&out.stdout));
    let (_, out) = inspect(&gitlab, PLAIN, &Way::Direct, GITLAB);
    assert!(text(&out.stderr).contains(&format!("Rejected Bearer {PLAIN}")), "{}", text(&out.stderr));
}

const GITLAB: &[&str] = &["get_file_contents", "--tool-arg", "project_id=a", "--tool-arg", "file_path=x"];

#[test]

fn inspector_is_shown_a_placeholder_through_the_launcher() {
    let api = Reflecting::start();
    let Some((everything, gitlab)) = for_inspector(&api) else { return };
    let (host, out) = inspect(&everything, AWKWARD, &Way::Wrapped, &["get-env"]);
    nothing_left(&host, &out.stdout, &out.stderr, AWKWARD);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
    let environment: Value = serde_json::from_str(shown["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(environment[everything.variable], placeholder());
    let (host, out) = inspect(&gitlab, PLAIN, &Way::Wrapped, GITLAB);
    nothing_left(&host, &out.stdout, &out.stderr, PLAIN);
    assert!(text(&out.stderr).contains(&format!("Rejected Bearer {}", placeholder())), "{}", text(&out.stderr));
}

/// Calls tools with the official client for Python. What it was told, and what it and the server wrote.
fn python(server: &Server, way: &Way, mode: &str, calls: &Value) -> (Host, Value, Output) {
    let (host, _daemon, entry) = entry(server, AWKWARD, way);
    let out = mcp::python_client(&json!({ "mode": mode, "server": entry, "calls": calls })).unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told = serde_json::from_slice(&out.stdout).unwrap();
    (host, told, out)
}

/// Both eras, and a server of each language.
fn for_python() -> Option<[(Server, &'static str, Value); 4]> {
    let (everything, leaky, modern) = (mcp::everything()?, mcp::leaky(&["--banner"])?, mcp::modern()?);
    mcp::python()?;
    let calls = json!([["fail", {}], ["weather", {}]]);
    Some([
        (everything, "legacy", json!([["get-env", {}], ["echo", { "message": "hello" }]])),
        (leaky.clone(), "legacy", json!([["wrapped", {}], ["weather", {}]])),
        (leaky, "auto", json!([["wrapped", {}], ["weather", {}]])),
        (modern, "auto", calls),
    ])
}

#[test]
fn the_python_client_is_shown_a_key_by_direct_servers() {
    for (server, mode, calls) in for_python().into_iter().flatten() {
        let (_, told, out) = python(&server, &Way::Direct, mode, &calls);
        assert!(!seen(&out.stdout, b"", AWKWARD).is_empty(), "{told}");
    }
}

#[test]

fn the_python_client_is_shown_a_placeholder_through_the_launcher() {
    for (server, mode, calls) in for_python().into_iter().flatten() {
        let (_, before, _) = python(&server, &Way::Direct, mode, &calls);
        let (host, after, out) = python(&server, &Way::Wrapped, mode, &calls);
        nothing_left(&host, &out.stdout, &out.stderr, AWKWARD);
        assert!(after["calls"][0].to_string().contains("[redacted:"), "{after}");
        for same in ["server", "protocol", "tools"] {
            assert_eq!(before[same], after[same]);
        }
        assert_eq!(before["calls"][1], after["calls"][1]);
    }
}

/// Calls a tool with rmcp, which passes its whole environment on. What it was told, and the server's standard error.
async fn rust(server: &Server, way: &Way, tool: &'static str) -> (Host, String, Vec<u8>) {
    let (host, _daemon, entry) = entry(server, AWKWARD, way);
    let words =
        |value: &Value| value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut command = tokio::process::Command::new(entry["command"].as_str().unwrap());
    command.args(words(&entry["args"])).env("SOMEBODY_ELSES_TOKEN", "of-no-concern-to-the-server");
    command.envs(entry["env"].as_object().unwrap().iter().map(|(name, value)| (name, value.as_str().unwrap())));
    let (process, stderr) = TokioChildProcess::builder(command).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mode = match server.era {
        Era::Initialize => ClientLifecycleMode::Initialize,
        Era::Stateless => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
    };
    let client = ().serve_with_lifecycle(process, mode).await.unwrap();
    let tools = client.list_all_tools().await.unwrap();
    assert!(tools.iter().any(|offered| offered.name == tool));
    let told = match client.call_tool(CallToolRequestParams::new(tool)).await {
        Ok(result) => serde_json::to_string(&result).unwrap(),
        Err(error) => error.to_string(),
    };
    client.cancel().await.unwrap();
    let mut said = Vec::new();
    stderr.unwrap().read_to_end(&mut said).await.unwrap();
    (host, told, said)
}

fn for_rust() -> Option<[(Server, &'static str); 3]> {
    Some([(mcp::everything()?, "get-env"), (mcp::modern()?, "environment"), (mcp::modern()?, "fail")])
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_is_shown_a_key_by_direct_servers() {
    for (server, tool) in for_rust().into_iter().flatten() {
        let (_, told, _) = rust(&server, &Way::Direct, tool).await;
        assert!(!seen(told.as_bytes(), b"", AWKWARD).is_empty(), "{told}");
        assert_eq!(told.contains("SOMEBODY_ELSES_TOKEN"), tool != "fail", "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]

async fn rmcp_is_shown_a_placeholder_through_the_launcher() {
    for (server, tool) in for_rust().into_iter().flatten() {
        let (host, told, said) = rust(&server, &Way::Wrapped, tool).await;
        nothing_left(&host, told.as_bytes(), &said, AWKWARD);
        assert!(told.contains(&placeholder()), "{told}");
        // Neither is anything else that the client happened to have.
        assert!(!told.contains("SOMEBODY_ELSES_TOKEN"), "{told}");
    }
}

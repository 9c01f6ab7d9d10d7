//! Real MCP servers, and ways to talk to them over stdio with all that they write kept. `tests/setup/node` and `tests/setup/python`
//! install them; they are found where these put them.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long a server may take to answer: Python ones are slow to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, as a client's configuration would name it.
#[derive(Clone)]
pub struct Server {
    /// Also the tool's name, where it is one.
    pub name: &'static str,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The variable in which it expects its key.
    pub variable: &'static str,
    pub era: Era,
}

/// How a conversation begins.
#[derive(Clone, Copy, PartialEq)]
pub enum Era {
    /// With a handshake, as before the revision 2026-07-28.
    Initialize,
    /// With nothing: each request says what it needs to.
    Stateless,
}

/// The reference server of the protocol: every kind of content, and a tool that returns its environment.
pub fn everything() -> Option<Server> {
    let script = package("server-everything")?;
    Some(Server { name: "everything", command: line(&["node", &script, "stdio"]), variable: "API_KEY", era: Era::Initialize })
}

/// The archived server for GitLab, which asks the API at this address.
pub fn gitlab(url: &str) -> Option<Server> {
    let script = package("server-gitlab")?;
    let command = line(&["env", &format!("GITLAB_API_URL={url}"), "node", &script]);
    Some(Server { name: "gitlab", command, variable: "GITLAB_PERSONAL_ACCESS_TOKEN", era: Era::Initialize })
}

/// The server for Jira and Confluence, told to log all it can.
pub fn atlassian(url: &str) -> Option<Server> {
    let program = cached("atlassian", "bin/mcp-atlassian")?;
    let url = format!("JIRA_URL={url}");
    // What it logs must not hang on whether an index of packages answers it.
    let still = "FASTMCP_CHECK_FOR_UPDATES=off";
    let command = line(&["env", "PYTHONHASHSEED=0", still, &url, "JIRA_USERNAME=bot@example.com", &program, "-vv"]);
    Some(Server { name: "atlassian", command, variable: "JIRA_API_TOKEN", era: Era::Initialize })
}

/// `tests/mcp/leaky.py`, on the official SDK for Python.
pub fn leaky(arguments: &[&str]) -> Option<Server> {
    let command = [&*python()?, &ours("leaky.py")];
    Some(Server { name: "leaky", command: line(&[&command, arguments].concat()), variable: "KEY", era: Era::Initialize })
}

/// `tests/mcp/modern.mjs`, on the official SDK for TypeScript: stateless.
pub fn modern() -> Option<Server> {
    let packages = cached("node", "")?;
    Some(Server {
        name: "modern",
        command: line(&["node", &ours("modern.mjs"), &packages]),
        variable: "KEY",
        era: Era::Stateless,
    })
}

/// The folder with the packages of the npm registry.
pub fn node_packages() -> Option<String> {
    cached("node", "")
}

/// The interpreter that has the official SDK.
pub fn python() -> Option<String> {
    match std::env::var_os("VALETKEY_TEST_PYTHON") {
        Some(venv) => installed(&Path::new(&venv).join("bin/python")),
        None => cached("python", "bin/python"),
    }
}

fn package(name: &str) -> Option<String> {
    cached("node", &format!("node_modules/@modelcontextprotocol/{name}/dist/index.js"))
}

/// A file that `tests/setup` installs.
fn cached(folder: &str, file: &str) -> Option<String> {
    let cache =
        std::env::var_os("VALETKEY_TEST_CACHE").map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"), PathBuf::from);
    installed(&cache.join(folder).join(file))
}

fn installed(path: &Path) -> Option<String> {
    if path.exists() {
        return Some(path.display().to_string());
    }
    missing(&format!("{} is not installed: tests/run does it, with what is in tests/setup", path.display()))
}

/// Where CI lacks something that is a failure; elsewhere the test says what it left out.
fn missing<T>(advice: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{advice}");
    // Past the test harness, which would keep it to itself.
    let _ = writeln!(std::io::stderr().lock(), "SKIP {}: {advice}", thread::current().name().unwrap_or_default());
    None
}

/// A file of ours.
pub fn ours(name: &str) -> String {
    format!("{}/tests/mcp/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What MCP clients give a server of their own environment: the SDKs for TypeScript and Python pass these six and no other.
pub fn client_environment() -> Vec<(&'static str, String)> {
    let names = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];
    names.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect()
}

/// One answer.
#[derive(Clone)]
pub struct Reply {
    /// As it came, without its newline.
    pub line: Vec<u8>,
    pub value: Value,
}

/// All that a server wrote, and how it ended.
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: ExitStatus,
    /// From the end of its standard input to its own end.
    pub took_to_end: Duration,
}

/// A conversation with a server, as a client holds it. The server is killed on drop.
pub struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stdout: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    era: Era,
    next: u64,
}

impl Conversation {
    /// Starts a server with a client's environment and this variable, and opens the conversation.
    pub fn start(command: &[String], variable: Option<(&str, &str)>, era: Era) -> Self {
        let mut server = Command::new(&command[0]);
        server.args(&command[1..]).env_clear().envs(client_environment()).envs(variable);
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = server.spawn().unwrap_or_else(|error| panic!("{}: {error}", command[0]));
        let (stdin, mut stderr) = (child.stdin.take(), child.stderr.take().unwrap());
        let lines = read_lines(child.stdout.take().unwrap());
        let stderr = thread::spawn(move || {
            let mut all = Vec::new();
            stderr.read_to_end(&mut all).unwrap();
            all
        });
        let mut it = Self { child, stdin, lines, stdout: Vec::new(), stderr: Some(stderr), era, next: 0 };
        it.open();
        it
    }

    fn open(&mut self) {
        match self.era {
            Era::Initialize => {
                let client = json!({ "name": "test", "version": "1" });
                let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
                let reply = self.request("initialize", hello);
                assert!(reply.value["result"]["serverInfo"].is_object(), "{}", reply.value);
                self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
            }
            Era::Stateless => {
                let reply = self.request("server/discover", json!({}));
                assert_eq!(reply.value["result"]["supportedVersions"], json!(["2026-07-28"]), "{}", reply.value);
            }
        }
    }

    /// Sends a request and waits for its answer. What else comes meanwhile is kept.
    pub fn request(&mut self, method: &str, mut params: Value) -> Reply {
        self.next += 1;
        let id = self.next;
        if self.era == Era::Stateless {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        } else {
            params["_meta"] = json!({ "progressToken": id });
        }
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.answer(id)
    }

    fn answer(&mut self, id: u64) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("no answer to {id}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the server ended before it answered {id}: {}", self.complaint()),
            };
            self.stdout.extend_from_slice(&line);
            let line = line.strip_suffix(b"\n").unwrap_or(&line).to_vec();
            match serde_json::from_slice::<Value>(&line) {
                Ok(value) if value["id"] == id => return Reply { line, value },
                _ => {}
            }
        }
    }

    fn complaint(&mut self) -> String {
        let _ = self.child.kill();
        self.stderr.take().map_or_else(String::new, |stderr| String::from_utf8_lossy(&stderr.join().unwrap()).into_owned())
    }

    fn send(&mut self, message: &Value) {
        let written = self.stdin.as_mut().unwrap().write_all(format!("{message}\n").as_bytes());
        written.unwrap_or_else(|error| panic!("{error}: {}", self.complaint()));
    }

    /// Says goodbye as clients do, by closing standard input, and waits for the end of all.
    pub fn end(mut self) -> Said {
        let begun = Instant::now();
        drop(self.stdin.take());
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not end with its standard input");
            thread::sleep(Duration::from_millis(5));
        };
        let took_to_end = begun.elapsed();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.stdout.extend_from_slice(&line);
        }
        let stderr = self.stderr.take().unwrap().join().unwrap();
        Said { stdout: std::mem::take(&mut self.stdout), stderr, status, took_to_end }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).unwrap() > 0 {
            let _ = send.send(std::mem::take(&mut line));
        }
    });
    lines
}

/// The official client for Python, with this request (see `tests/mcp/client.py`). What it printed, and the server's standard error.
pub fn python_client(request: &Value) -> Option<Output> {
    let mut client = Command::new(python()?);
    client.arg(ours("client.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.spawn().unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// MCP Inspector, which needs a newer Node than the servers do.
pub fn inspector() -> Option<Inspector> {
    let program = cached("node", "node_modules/.bin/mcp-inspector")?;
    let node = Command::new("node").arg("--version").output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let node = node.unwrap_or_default();
    let major = node.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major >= Some(20) {
        return Some(Inspector { program });
    }
    missing(&format!("the MCP inspector needs Node 20 or newer; this is {:?}", node.trim()))
}

pub struct Inspector {
    program: String,
}

impl Inspector {
    /// Runs it without its browser, with this configuration file of an MCP client.
    pub fn run(&self, config: &Path, server: &str, arguments: &[&str]) -> Output {
        let mut client = Command::new(&self.program);
        client.arg("--cli").arg("--config").arg(config).args(["--server", server]).args(arguments);
        // It looks for a keychain to keep secrets in, and says so at length.
        client.env("MCP_INSPECTOR_SECRET_STORE", "memory").env("HOME", config.parent().unwrap()).stdin(Stdio::null());
        client.output().unwrap()
    }
}

/// An API on loopback that lets nobody in, and repeats in each refusal, reason and body, how it was asked.
pub struct Reflecting {
    pub url: String,
}

impl Reflecting {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for client in listener.incoming() {
                thread::spawn(move || refuse(&mut client.unwrap()));
            }
        });
        Self { url }
    }
}

fn refuse(client: &mut std::net::TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let header = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
    let credentials = header.and_then(|line| Some(line.split_once(": ")?.1)).unwrap_or_default();
    let body = json!({ "errorMessages": [format!("Rejected {credentials}")] }).to_string();
    let status = format!("401 Rejected {credentials}\r\nContent-Type: application/json\r\nConnection: close");
    let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

//! The peer: a cached read from AWS's own local agent (`aws_workload_credentials_provider`) over loopback HTTP.
//!
//! It is measured where `VALETKEY_BENCH_PEER` names its binary and `VALETKEY_TEST_PYTHON` (or `.cache/python`) has moto to stand
//! behind it:
//!
//!     cargo install --locked aws_workload_credentials_provider --version 3.1.2 --root .cache/peer
//!     VALETKEY_BENCH_PEER=.cache/peer/bin/aws-workload-credentials-provider cargo bench --bench handouts

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::load::{Measured, measured, timed};

/// The running peer, and moto behind it. Killed when dropped.
pub struct Peer {
    children: Vec<Child>,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const TOKEN: &str = "bench-token";

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port()
}

/// Starts it, or says why it is not measured.
pub fn start(value: &[u8]) -> Result<Peer, String> {
    let binary = std::env::var_os("VALETKEY_BENCH_PEER")
        .map(PathBuf::from)
        .ok_or("VALETKEY_BENCH_PEER is not set; see benches/README.md")?;
    let python = std::env::var_os("VALETKEY_TEST_PYTHON").map_or_else(|| PathBuf::from(".cache/python"), PathBuf::from);
    let moto = python.join("bin/moto_server");
    if !moto.exists() {
        return Err("moto is not installed: run tests/setup/python".into());
    }
    let (moto_port, port) = (free_port(), free_port());
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new(moto);
    command.args(["-H", "127.0.0.1", "-p", &moto_port.to_string()]);
    let quiet = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())
    };
    let mut peer = Peer { children: vec![quiet(&mut command)?], port, _dir: dir };
    wait_for("moto", moto_port)?;
    let body = format!(
        r#"{{"Name":"bench","SecretString":"{}","ClientRequestToken":"00000000-0000-0000-0000-000000000001"}}"#,
        String::from_utf8_lossy(value)
    );
    let headers = "X-Amz-Target: secretsmanager.CreateSecret\r\nContent-Type: application/x-amz-json-1.1\r\n\
        Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=0\r\n";
    post(moto_port, headers, &body)?;
    let config = peer._dir.path().join("config.toml");
    let text = format!(
        "[logging]\nlog_level = \"NONE\"\nlog_to_file = false\n[capabilities.secrets_manager]\nhttp_port = {port}\nmax_conn = 800\nregion = \"us-east-1\"\n\
         [capabilities.secrets_manager.cache]\nttl_seconds = 300\ncache_size = 1000\n"
    );
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(binary);
    command.args(["sm", "start", "--config"]).arg(&config).env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{moto_port}"));
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b").env("AWS_REGION", "us-east-1");
    command.env("AWS_TOKEN", TOKEN).env("AWS_EC2_METADATA_DISABLED", "true");
    peer.children.push(quiet(&mut command)?);
    wait_for("the peer", port)?;
    let answer = exchange(port)?;
    if answer.windows(value.len()).any(|window| window == value) {
        Ok(peer)
    } else {
        Err(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn wait_for(what: &str, port: u16) -> Result<(), String> {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(format!("{what} does not listen"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn post(port: u16, headers: &str, body: &str) -> Result<(), String> {
    let request = format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
}

fn request(port: u16) -> Vec<u8> {
    format!("GET /secretsmanager/get?secretId=bench HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Aws-Parameters-Secrets-Token: {TOKEN}\r\n\r\n").into_bytes()
}

fn exchange(port: u16) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    stream.write_all(&request(port)).map_err(|e| e.to_string())?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).map_err(|e| e.to_string())?;
    answer.truncate(length);
    Ok(answer)
}

/// One request under way on each of `count` connections.
#[derive(Clone)]
pub struct HttpLoad {
    port: u16,
    pub count: usize,
}

impl Peer {
    pub fn load(&self, count: usize) -> HttpLoad {
        HttpLoad { port: self.port, count }
    }
}

impl HttpLoad {
    pub async fn run(&self, window: Duration) -> Measured {
        let mut tasks = tokio::task::JoinSet::new();
        let mut streams = Vec::new();
        for _ in 0..self.count {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            streams.push(stream);
        }
        let begins = Instant::now() + window / 5;
        let ends = begins + window;
        for mut stream in streams {
            let request = request(self.port);
            tasks.spawn_local(async move {
                let mut answer = vec![0; 4096];
                timed(begins, ends, async || {
                    stream.write_all(&request).await.expect("a request");
                    // One small answer comes in one piece.
                    stream.read(&mut answer).await.expect("an answer")
                })
                .await
            });
        }
        measured(tasks.join_all().await.concat(), window)
    }
}

//! Real servers for the tests: moto (the AWS API) and OpenBao (the Vault API), and listeners of our own that look at what goes by.
//! `tests/setup/python` installs the two; they are found in `VALETKEY_TEST_PYTHON`, or else where it puts them.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

/// A server process, killed at its drop and at the end of this one.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server on a free port and waits until `ready` answers with 200. `command` gets the port.
    fn start(command: impl Fn(u16) -> Command, ready: &str) -> Self {
        for _ in 0..5 {
            let port = free_port();
            let mut server = Self { child: spawn(command(port)), port };
            let deadline = Instant::now() + Duration::from_secs(60);
            // A server that ends at once found its port taken meanwhile.
            while server.child.try_wait().unwrap().is_none() {
                if matches!(http(port, "GET", ready, &[], ""), Ok((200, _))) {
                    return server;
                }
                assert!(Instant::now() < deadline, "a server is not ready after a minute");
                thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("a server does not start");
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One call with the root token. The answer's status and body.
    pub fn vault(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.vault_in("", method, path, body)
    }

    /// The same in a namespace.
    pub fn vault_in(&self, namespace: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let headers = [("X-Vault-Token", ROOT_TOKEN), ("X-Vault-Namespace", namespace)];
        let (status, answer) = http(self.port, method, &format!("/v1/{path}"), &headers, body).unwrap();
        assert!(status < 300, "{method} {path}: {status} {answer}");
        (status, answer)
    }
}

impl Server {
    /// Makes an IAM user with this policy at moto, and returns its key's id and secret. Three calls.
    pub fn aws_user(&self, name: &str, policy: &str) -> (String, String) {
        let scope = "AWS4-HMAC-SHA256 Credential=AKIAOWNER/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";
        let call = |query: String| {
            let headers = [("Authorization", scope), ("Content-Type", "application/x-www-form-urlencoded")];
            let body = format!("Version=2010-05-08&UserName={name}&{query}");
            let (status, answer) = http(self.port, "POST", "/", &headers, &body).unwrap();
            assert_eq!(status, 200, "{answer}");
            answer
        };
        call("Action=CreateUser".into());
        call(format!("Action=PutUserPolicy&PolicyName=p&PolicyDocument={policy}"));
        let keys = call("Action=CreateAccessKey".into());
        let tag = |tag: &str| keys.split_once(&format!("<{tag}>")).unwrap().1.split_once("</").unwrap().0.to_owned();
        (tag("AccessKeyId"), tag("SecretAccessKey"))
    }
}

/// The token of every OpenBao that is started here.
pub const ROOT_TOKEN: &str = "marker-root-token";

/// The AWS API, shared by the tests of one binary: use names of your own.
pub fn moto() -> &'static Server {
    static MOTO: OnceLock<Server> = OnceLock::new();
    MOTO.get_or_init(|| start_moto(None))
}

/// An AWS API that enforces IAM policies and signatures after this many calls.
pub fn start_moto(calls_without_policies: Option<u32>) -> Server {
    start_moto_of(calls_without_policies, || Command::new(python().join("bin/moto_server")))
}

/// The same, and it looks at the resources of a policy too: see `moto_iam.py`.
pub fn start_moto_iam(calls_without_policies: u32) -> Server {
    start_moto_of(Some(calls_without_policies), || {
        let mut command = Command::new(python().join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/moto_iam.py"));
        command
    })
}

/// An AWS API whose secrets are rotated by a function of the test's: see `moto_rotation.py`.
pub fn start_moto_rotation() -> Server {
    start_moto_of(None, || {
        let mut command = Command::new(python().join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/moto_rotation.py"));
        command
    })
}

fn start_moto_of(calls_without_policies: Option<u32>, program: impl Fn() -> Command) -> Server {
    let command = |port: u16| {
        let mut command = program();
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.envs(calls_without_policies.map(|calls| ("INITIAL_NO_AUTH_ACTION_COUNT", calls.to_string())));
        command
    };
    Server::start(command, "/moto-api/data.json")
}

/// The Vault API with version 2 of the key-value engine at `secret`, shared by the tests of one binary: use paths of your own.
pub fn openbao() -> &'static Server {
    static OPENBAO: OnceLock<Server> = OnceLock::new();
    OPENBAO.get_or_init(start_openbao)
}

/// An OpenBao for one test alone.
pub fn start_openbao() -> Server {
    let command = |port: u16| {
        let mut command = Command::new(python().join("bin/bao"));
        command.args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")]);
        command.arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        command
    };
    Server::start(command, "/v1/sys/health")
}

/// An OpenBao that speaks TLS, and the file of the authority that vouches for it. It is ready when it takes connections.
pub fn start_openbao_tls(folder: &Path) -> (Server, PathBuf) {
    let port = free_port();
    let mut command = Command::new(python().join("bin/bao"));
    command.args(["server", "-dev-tls", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")]);
    command.arg(format!("-dev-listen-address=127.0.0.1:{port}"));
    command.arg(format!("-dev-tls-cert-dir={}", folder.display()));
    let server = Server { child: spawn(command), port };
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "a server is not ready after a minute");
        thread::sleep(Duration::from_millis(50));
    }
    let authority = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let authority =
        authority.into_iter().find(|path| path.to_string_lossy().ends_with("ca.pem")).expect("no authority's certificate");
    (server, authority)
}

/// An OpenBao as one would run it: TLS, its data on disk, sealed when it starts.
pub struct Production {
    server: Option<Server>,
    folder: PathBuf,
    pub port: u16,
    pub authority: PathBuf,
    pub root: String,
    unseal_key: String,
    client: reqwest::Client,
}

/// Makes one in this folder, initialised and unsealed.
pub fn start_openbao_production(folder: &Path) -> Production {
    let port = free_port();
    let authority = folder.join("cert.pem");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(&authority)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let path = folder.display();
    std::fs::create_dir(folder.join("data")).unwrap();
    let config = format!(
        "storage \"raft\" {{\n  path = \"{path}/data\"\n  node_id = \"one\"\n}}\nlistener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  \
         tls_cert_file = \"{path}/cert.pem\"\n  tls_key_file = \"{path}/key.pem\"\n}}\napi_addr = \"https://127.0.0.1:{port}\"\n\
         cluster_addr = \"https://127.0.0.1:{}\"\n",
        port + 1
    );
    std::fs::write(folder.join("bao.hcl"), config).unwrap();
    let pem = reqwest::Certificate::from_pem(&std::fs::read(&authority).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_merge([pem]).no_proxy().build().unwrap();
    let (root, unseal_key) = Default::default();
    let mut production = Production { server: None, folder: folder.into(), port, authority, root, unseal_key, client };
    production.start_again();
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(production.initialise()));
    production
}

impl Production {
    /// Starts it: sealed.
    pub fn start_again(&mut self) {
        let mut command = Command::new(python().join("bin/bao"));
        command.arg("server").arg(format!("-config={}", self.folder.join("bao.hcl").display()));
        self.server = Some(Server { child: spawn(command), port: self.port });
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "a server is not ready after a minute");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn kill(&mut self) {
        self.server = None;
    }

    async fn initialise(&mut self) {
        let made = self.call("PUT", "sys/init", r#"{"secret_shares":1,"secret_threshold":1}"#).await;
        self.root = made["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = made["keys_base64"][0].as_str().unwrap().to_owned();
        self.unseal().await;
    }

    /// Unseals it, and waits until it serves.
    pub async fn unseal(&self) {
        self.call("PUT", "sys/unseal", &format!("{{\"key\":\"{}\"}}", self.unseal_key)).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.try_call("GET", "sys/health", "").await.is_none() {
            assert!(Instant::now() < deadline, "it does not serve when unsealed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn put(&self, path: &str, value: &str) {
        let body = format!("{{\"data\":{{\"key\":\"{value}\"}}}}");
        self.call("POST", &format!("secret/data/{path}"), &body).await;
    }

    /// One call with the root token, tried again for a while where it fails.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.try_call(method, path, body).await {
                Some(answer) => return answer,
                None if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(100)).await,
                None => panic!("{method} {path} fails"),
            }
        }
    }

    async fn try_call(&self, method: &str, path: &str, body: &str) -> Option<serde_json::Value> {
        let url = format!("https://127.0.0.1:{}/v1/{path}", self.port);
        let call = self.client.request(method.parse().unwrap(), url).header("X-Vault-Token", &self.root).body(body.to_owned());
        let answer = call.send().await.ok().filter(|answer| answer.status().is_success())?;
        let text = answer.text().await.ok()?;
        Some(if text.is_empty() { serde_json::Value::Null } else { serde_json::from_str(&text).unwrap() })
    }
}

fn python() -> PathBuf {
    let cache =
        || std::env::var_os("VALETKEY_TEST_CACHE").map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"), PathBuf::from);
    let venv = std::env::var_os("VALETKEY_TEST_PYTHON").map_or_else(|| cache().join("python"), PathBuf::from);
    assert!(venv.join("bin/bao").exists(), "the test servers are not installed in {}: run tests/setup/python", venv.display());
    venv
}

/// A port that is free now, and the next one too, which OpenBao takes for its cluster.
pub fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// Starts a process that ends with this one, even if this one is killed. The kernel ties it to the thread that starts it, so that is one
/// that never ends.
fn spawn(mut command: Command) -> Child {
    let (answer, started) = mpsc::channel();
    thread::spawn(move || {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: prctl(2) is a plain system call, and async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        answer.send(command.spawn()).unwrap();
        loop {
            thread::park();
        }
    });
    started.recv().unwrap().expect("a test server cannot be started")
}

/// A call of the plainest kind.
pub fn http(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// Everything that was sent to a listener, and how many connections were made and are open still.
#[derive(Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    /// What a proxy passed back.
    pub answers: Vec<u8>,
    pub connections: usize,
    pub open: usize,
}

impl Seen {
    /// How often a text was sent.
    pub fn count(&self, text: &str) -> usize {
        Self::count_in(&self.bytes, text)
    }

    /// How often a text was answered.
    pub fn count_answered(&self, text: &str) -> usize {
        Self::count_in(&self.answers, text)
    }

    fn count_in(bytes: &[u8], text: &str) -> usize {
        bytes.windows(text.len()).filter(|window| window.eq_ignore_ascii_case(text.as_bytes())).count()
    }
}

/// Waits for what takes a moment.
pub async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One HTTP request with its body; none where the client has gone.
fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.split_once("content-length: ").map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
            if request.len() >= end + 4 + length {
                return Some(request);
            }
        }
        match client.read(&mut chunk) {
            Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    }
}

/// A listener that gives everyone the same answer, and closes the connection only if that says so.
pub fn listener(answer: &str) -> (u16, Arc<Mutex<Seen>>) {
    let answer = answer.to_owned();
    listen("127.0.0.1", move |mut client, seen| {
        while let Some(request) = read_request(&mut client) {
            seen.lock().unwrap().bytes.extend(request);
            if client.write_all(answer.as_bytes()).is_err() || answer.contains("Connection: close") {
                break;
            }
        }
    })
}

/// A listener that answers each request as it is told to, and keeps connections open.
pub fn answering(answer: impl Fn(&[u8]) -> String + Send + Sync + 'static) -> (u16, Arc<Mutex<Seen>>) {
    listen("127.0.0.1", move |mut client, seen| {
        while let Some(request) = read_request(&mut client) {
            let answer = answer(&request);
            seen.lock().unwrap().bytes.extend(request);
            if client.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    })
}

/// An answer of an API that speaks JSON. More headers can follow the status on lines of their own.
pub fn json(status: &str, body: &str) -> String {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}", body.len());
    format!("{head}\r\n\r\n{body}")
}

/// A listener that hands everything on to a server on this host, and remembers it.
pub fn proxy(upstream: u16) -> (u16, Arc<Mutex<Seen>>) {
    proxy_at("127.0.0.1", upstream)
}

/// The same at another address of this host.
pub fn proxy_at(address: &str, upstream: u16) -> (u16, Arc<Mutex<Seen>>) {
    listen(address, move |mut client, seen| {
        let mut server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
        let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let answered = seen.clone();
        let answers = thread::spawn(move || {
            let mut chunk = [0; 16384];
            while let Ok(read @ 1..) = back.read(&mut chunk) {
                answered.lock().unwrap().answers.extend_from_slice(&chunk[..read]);
                if to_client.write_all(&chunk[..read]).is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown(std::net::Shutdown::Both);
        });
        let mut chunk = [0; 16384];
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            seen.lock().unwrap().bytes.extend_from_slice(&chunk[..read]);
            if server.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = answers.join();
    })
}

/// From now on hands on what comes to a port that was free until now.
pub fn forward(port: u16, upstream: u16) {
    forward_after(port, upstream, Duration::ZERO);
}

/// The same, each connection after a wait.
pub fn forward_after(port: u16, upstream: u16, wait: Duration) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                thread::sleep(wait);
                let server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
                let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from_server, &mut to_client);
                    let _ = to_client.shutdown(std::net::Shutdown::Both);
                });
                let (mut client, mut server) = (client, server);
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

fn listen(address: &str, serve: impl Fn(TcpStream, &Arc<Mutex<Seen>>) + Send + Sync + 'static) -> (u16, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (all, serve) = (seen.clone(), Arc::new(serve));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (seen, serve) = (all.clone(), serve.clone());
            thread::spawn(move || {
                {
                    let mut seen = seen.lock().unwrap();
                    seen.connections += 1;
                    seen.open += 1;
                }
                serve(client.unwrap(), &seen);
                seen.lock().unwrap().open -= 1;
            });
        }
    });
    (port, seen)
}

//! The audit log where it is sent: each record arrives, in order, whoever is killed; and hand-outs do not wait for it.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "support/servers.rs"]
mod servers;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use certificates::{Authority, Issued, SERVER, Wanted};
use daemon::{Host, eventually};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value,
    logs::v1::{LogRecord, ResourceLogs},
};
use sandbox::Sandbox;
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

const MARKER: &[u8] = b"marker-51c07e-value-that-must-not-be-exported";

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A host whose tool `t` may have `a`, not `b`, and whose audit log is sent as this says.
fn host(export: &str) -> Host {
    let host = Host::new();
    let sealed = host.seal(&[("a", MARKER), ("b", MARKER)]);
    let tool = Host::tool("t", uid(), &["a"]) + "limits = { per-minute = 1000000, per-session = 1000000 }\n";
    host.configure("", &format!("{export}\n{sealed}{}{tool}", Host::secrets(&["a", "b"])));
    host
}

/// The numbers of all records on disk.
fn on_disk(host: &Host) -> Vec<u64> {
    let mut files: Vec<_> = fs::read_dir(host.path("var/audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let logs = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    let text: String = logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record["seq"].as_u64()).collect()
}

/// Each record arrived, and what arrived for the first time came in order.
#[track_caller]
fn complete(host: &Host, arrived: &[u64]) {
    let mut seen = BTreeSet::new();
    let first_times: Vec<_> = arrived.iter().copied().filter(|seq| seen.insert(*seq)).collect();
    assert_eq!(first_times, on_disk(host));
}

/// The first exporter as `valetkey status --json` shows it.
fn exporter(host: &Host) -> Value {
    nth_exporter(host, 0)
}

fn nth_exporter(host: &Host, at: usize) -> Value {
    let out = host.operate(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
    status["audit"]["exporters"][at].clone()
}

fn seq_of(entry: &str) -> u64 {
    assert!(!entry.contains(std::str::from_utf8(MARKER).unwrap()));
    entry.lines().find_map(|line| line.strip_prefix("VALETKEY_SEQ=")?.parse().ok()).unwrap()
}

/// A stand-in for journald that keeps what it is sent.
struct Journal(UnixDatagram);

impl Journal {
    fn listen(path: &Path) -> Self {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    fn entry(&self) -> String {
        let mut buffer = vec![0; 1 << 18];
        let length = self.0.recv(&mut buffer).expect("an entry within 10 s");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Takes entries until this one has come.
    fn until(&self, seq: u64, seen: &mut Vec<u64>) {
        while !seen.contains(&seq) {
            seen.push(seq_of(&self.entry()));
        }
    }

    /// Takes what is under way, as one would that is to be closed: who is killed leaves its queue to systemd.
    fn drain(&self, seen: &mut Vec<u64>) {
        self.0.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length) = self.0.recv(&mut buffer) {
            seen.push(seq_of(std::str::from_utf8(&buffer[..length]).unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_dead_holds_up_nobody_and_gets_everything_later() {
    let host = host("");
    let socket = host.path("journal");
    let text = fs::read_to_string(host.config()).unwrap();
    let export = format!("[audit.export.it]\nkind = \"journald\"\nsocket = \"{}\"\n", socket.display());
    host.write("valetkey.toml", &(text + &export));
    let mut daemon = host.start();
    let session = host.client().session("t").secret("a").open().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        session.fetch("a").await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    assert!(times[100] < Duration::from_millis(100), "{:?}", times[100]);
    eventually("its trouble is told", || exporter(&host)["problem"].is_string());
    let state = exporter(&host);
    assert!(state["problem"].as_str().unwrap().contains("journald at"), "{state}");
    assert!(state["waiting"].as_u64().unwrap() > 200 && state["waits_since"].is_string() && state["seq"] == 0, "{state}");

    // It comes, and goes in the middle; then the daemon goes, and comes back.
    let mut seen = Vec::new();
    let journal = Journal::listen(&socket);
    journal.until(100, &mut seen);
    fs::remove_file(&socket).unwrap();
    journal.drain(&mut seen);
    drop(journal);
    for _ in 0..20 {
        session.fetch("a").await.unwrap();
    }
    let journal = Journal::listen(&socket);
    journal.until(*on_disk(&host).last().unwrap(), &mut seen);
    drop(session);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let mut daemon = host.start();
    host.client().session("t").secret("a").open().await.unwrap().fetch("a").await.unwrap();
    // Read meanwhile: a queue of few datagrams is all that there is.
    let reading = std::thread::spawn(move || {
        let mut last = String::new();
        while !last.contains("VALETKEY_EVENT=daemon.stopped") {
            last = journal.entry();
            seen.push(seq_of(&last));
        }
        (journal, seen)
    });
    assert!(daemon.stop().success());
    let (journal, mut seen) = reading.join().unwrap();
    journal.until(*on_disk(&host).last().unwrap(), &mut seen);
    complete(&host, &seen);
    let log = host.log();
    assert_eq!(log.matches("the audit log is sent again").count(), log.matches("the audit log is not sent").count(), "{log}");
}

/// Retention may be quicker than one that is dead: then it is said what was lost, and on record.
#[test]
fn what_was_pruned_before_it_was_sent_is_on_record() {
    let host = host("");
    let socket = host.path("journal");
    let text = fs::read_to_string(host.config()).unwrap();
    let export = format!("[audit.export.it]\nkind = \"journald\"\nsocket = \"{}\"\n", socket.display());
    host.write("valetkey.toml", &(text + &export));
    let journal = Journal::listen(&socket);
    let mut daemon = host.start();
    let mut seen = Vec::new();
    journal.until(2, &mut seen);
    fs::remove_file(&socket).unwrap();
    journal.drain(&mut seen);
    drop(journal);
    assert!(daemon.stop().success());
    let log = host.path("var/audit");
    let bookmark: Value = serde_json::from_slice(&fs::read(log.join("export-it.json")).unwrap()).unwrap();
    let sent = bookmark["seq"].as_u64().unwrap();
    // As pruning leaves it: whole files are gone, and the log goes on in a later one.
    let last = *on_disk(&host).last().unwrap();
    assert!(sent < last, "{sent} of {last}");
    let old = log.join("audit-00000000000000000001.jsonl");
    let text = fs::read_to_string(&old).unwrap();
    let line = text.lines().last().unwrap();
    fs::write(log.join(format!("audit-{last:020}.jsonl")), format!("{line}\n")).unwrap();
    fs::remove_file(old).unwrap();

    let journal = Journal::listen(&socket);
    let mut daemon = host.start();
    eventually("the gap is told", || exporter(&host)["lost"].as_u64() == Some(last - 1 - sent));
    let entry = loop {
        let entry = journal.entry();
        if entry.contains("VALETKEY_EVENT=export.gap") {
            break entry;
        }
    };
    for field in [format!("FIRST_SEQ={}", sent + 1), format!("LAST_SEQ={}", last - 1), "ACTION=it".into(), "REASON=gone".into()] {
        assert!(entry.contains(&format!("VALETKEY_{field}\n")), "{field}: {entry}");
    }
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
}

/// A collector that keeps what it is sent, and rejects what it is told to.
#[derive(Clone, Default)]
struct Collector {
    got: Arc<Mutex<Vec<ResourceLogs>>>,
    rejects: Arc<Mutex<i64>>,
    /// The header that it wants to see.
    wants: Arc<Mutex<Option<&'static str>>>,
    connections: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(&self, request: Request<ExportLogsServiceRequest>) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let wanted = *self.wants.lock().unwrap();
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if wanted.is_some() && shown != wanted {
            return Err(Status::unauthenticated("said: marker-of-the-collector"));
        }
        self.got.lock().unwrap().extend(request.into_inner().resource_logs);
        let rejected_log_records = std::mem::take(&mut *self.rejects.lock().unwrap());
        let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message: String::new() });
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

impl Collector {
    async fn listen(&self, port: u16) -> tokio::task::JoinHandle<()> {
        self.listen_by(port, Server::builder()).await
    }

    async fn listen_by(&self, port: u16, mut server: Server) -> tokio::task::JoinHandle<()> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let connections = self.connections.clone();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener).map(move |accepted| {
            connections.fetch_add(1, Relaxed);
            accepted
        });
        let server = server.add_service(LogsServiceServer::new(self.clone()));
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() })
    }

    fn records(&self) -> Vec<LogRecord> {
        let got = self.got.lock().unwrap();
        got.iter().flat_map(|logs| &logs.scope_logs).flat_map(|logs| logs.log_records.clone()).collect()
    }

    fn seqs(&self) -> Vec<u64> {
        let seq = |record: &LogRecord| match attribute(record, "seq") {
            Some(any_value::Value::IntValue(seq)) => seq as u64,
            other => panic!("{other:?}"),
        };
        self.records().iter().map(seq).collect()
    }
}

fn attribute(record: &LogRecord, name: &str) -> Option<any_value::Value> {
    record.attributes.iter().find(|one| one.key == name)?.value.clone()?.value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_record_whoever_is_killed() {
    let (port, headers) = (servers::free_port(), "[audit.export.it]\nkind = \"otlp\"\n");
    let host = host("");
    host.write("headers", "Authorization: Bearer first\n");
    let text = fs::read_to_string(host.config()).unwrap();
    let file = host.path("headers").display().to_string();
    let export = format!("{headers}endpoint = \"http://127.0.0.1:{port}\"\nheaders-file = \"{file}\"\n");
    host.write("valetkey.toml", &(text + &export));
    let mut daemon = host.start();
    let session = host.client().session("t").secret("a").open().await.unwrap();
    session.fetch("a").await.unwrap();
    eventually("nobody is there", || exporter(&host)["problem"].as_str().is_some_and(|why| why.contains("cannot be reached")));

    // It comes, and wants another header than the first.
    let collector = Collector::default();
    *collector.wants.lock().unwrap() = Some("Bearer second");
    let listening = collector.listen(port).await;
    eventually("it is refused", || exporter(&host)["problem"].as_str().is_some_and(|why| why.contains("credentials")));
    host.write("headers", "Authorization: Bearer second\n");
    eventually("all arrived", || exporter(&host)["waiting"] == 0);

    // It goes while records are made, and comes back.
    listening.abort();
    let _ = listening.await;
    for _ in 0..50 {
        session.fetch("a").await.unwrap();
    }
    let listening = collector.listen(port).await;
    let before = on_disk(&host).len() as u64;
    eventually("it goes on", || exporter(&host)["seq"].as_u64() >= Some(before));
    drop(session);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    *collector.rejects.lock().unwrap() = 2;
    let mut daemon = host.start();
    host.client().session("t").secret("a").open().await.unwrap().fetch("a").await.unwrap();
    eventually("what it rejects is counted", || exporter(&host)["refused"] == 2);
    assert!(daemon.stop().success());
    complete(&host, &collector.seqs());

    let records = collector.records();
    let text = |text: &str| Some(any_value::Value::StringValue(text.into()));
    let of = |event: &str| records.iter().find(|record| attribute(record, "event") == text(event)).unwrap();
    let given = of("secret.handed-out");
    assert_eq!((given.severity_text.as_str(), given.event_name.as_str()), ("INFO", "valetkey.secret.handed-out"));
    assert_eq!((attribute(given, "tool"), attribute(given, "secret")), (text("t"), text("a")));
    assert_eq!(attribute(given, "uid"), Some(any_value::Value::IntValue(uid().into())));
    assert!(given.time_unix_nano > 1_700_000_000_000_000_000);
    assert_eq!(of("audit.checkpoint").severity_text, "DEBUG");
    let (everything, log) = (format!("{:?}", collector.got.lock().unwrap()), host.log());
    assert!(everything.contains("valetkeyd") && !everything.contains(std::str::from_utf8(MARKER).unwrap()));
    assert!(!log.contains("marker-of-the-collector") && !log.contains("Bearer"), "{log}");
    drop(listening);
}

/// Over TLS, by an authority of its own; and what is no such collector is sent nothing, its header least of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_tls_proves_who_it_is_first() {
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let port = servers::free_port();
    let host = host("");
    host.write("headers", "authorization: Bearer marker-of-a-header\n");
    host.write("ca.pem", &ours.pem());
    let text = fs::read_to_string(host.config()).unwrap();
    let path = |name: &str| host.path(name).display().to_string();
    let export = format!(
        "[audit.export.it]\nkind = \"otlp\"\nendpoint = \"https://localhost:{port}\"\nheaders-file = \"{}\"\nca-file = \"{}\"\n",
        path("headers"),
        path("ca.pem")
    );
    host.write("valetkey.toml", &(text + &export));
    let mut daemon = host.start();
    host.client().session("t").secret("a").open().await.unwrap().fetch("a").await.unwrap();
    let (localhost, elsewhere) = (SERVER, Wanted { names: &["collector.example.com"], ..SERVER });
    let by = |issued: &Issued| {
        let identity = Identity::from_pem(&issued.pem, &issued.key);
        Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap()
    };
    let wrong = [
        ("another authority", by(&another.issue(&localhost))),
        ("another name", by(&ours.issue(&elsewhere))),
        ("one that has ended", by(&ours.issue(&Wanted { until: -60, ..localhost.clone() }))),
        ("no TLS", Server::builder()),
    ];
    for (what, server) in wrong {
        let impostor = Collector::default();
        let listening = impostor.listen_by(port, server).await;
        eventually(what, || impostor.connections.load(Relaxed) > 0);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let problem = exporter(&host)["problem"].clone();
        assert!(problem.as_str().is_some_and(|why| why.contains("cannot be reached")), "{what}: {problem}");
        assert!(impostor.seqs().is_empty(), "{what}");
        listening.abort();
        let _ = listening.await;
    }
    let collector = Collector::default();
    *collector.wants.lock().unwrap() = Some("Bearer marker-of-a-header");
    let listening = collector.listen_by(port, by(&ours.issue(&localhost))).await;
    eventually("all arrived", || exporter(&host)["waiting"] == 0);
    assert!(daemon.stop().success());
    complete(&host, &collector.seqs());
    assert!(!host.log().contains("marker-of-a-header"));
    drop(listening);
}

/// Passes on what comes to a port, until it is aborted and all connections with it.
async fn forward(port: u16, to: u16) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut here, _)) = listener.accept().await {
            connections.spawn(async move {
                let Ok(mut there) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            });
        }
    })
}

/// Asks moto, which does not look at signatures.
fn ask_moto(port: u16, service: &str, method: &str, path: &str, target: &str, body: &str) -> String {
    let scope =
        format!("AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0");
    let headers = [("Authorization", scope.as_str()), ("X-Amz-Target", target), ("Content-Type", "application/x-amz-json-1.1")];
    let (status, answer) = servers::http(port, method, path, &headers, body).unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

/// All lines on disk.
fn lines(host: &Host) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(host.path("var/audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let logs = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    logs.flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudwatch_logs_and_s3_get_every_record_whoever_is_killed() {
    let (moto, port) = (servers::moto(), servers::free_port());
    ask_moto(moto.port, "s3", "PUT", "/audit-of-tests", "", "");
    let host = host("");
    host.write("aws", "[default]\naws_access_key_id = AKIAVALETKEY\naws_secret_access_key = secret-of-aws\n");
    let account = format!(
        "region = \"us-east-1\"\nendpoint = \"http://127.0.0.1:{port}\"\ncredentials-file = \"{}\"\n",
        host.path("aws").display()
    );
    let text = fs::read_to_string(host.config()).unwrap();
    let logs = "log-group = \"valetkey/audit\"\nlog-stream = \"host-1\"\ncreate-group = true\n";
    let objects = "bucket = \"audit-of-tests\"\nprefix = \"valetkey/host-1\"\nevery = \"1s\"\n";
    let export = format!(
        "[audit.export.a]\nkind = \"cloudwatch-logs\"\n{logs}{account}[audit.export.b]\nkind = \"s3\"\n{objects}{account}"
    );
    host.write("valetkey.toml", &(text + &export));
    let mut daemon = host.start();
    let session = host.client().session("t").secret("a").open().await.unwrap();
    session.fetch("a").await.unwrap();
    let told = |at: usize, what: &str| nth_exporter(&host, at)["problem"].as_str().is_some_and(|why| why.contains(what));
    eventually("nobody is there", || told(0, "cannot be reached") && told(1, "cannot be reached"));
    let forwarding = forward(port, moto.port).await;
    eventually("all arrived", || (0..2).all(|at| nth_exporter(&host, at)["seq"].as_u64() > Some(3)));
    // It is cut off while records are made.
    forwarding.abort();
    let _ = forwarding.await;
    for _ in 0..50 {
        session.fetch("a").await.unwrap();
    }
    eventually("it is noticed", || told(0, "cannot be reached") && told(1, "cannot be reached"));
    let forwarding = forward(port, moto.port).await;
    eventually("it goes on", || nth_exporter(&host, 0)["problem"].is_null());
    drop(session);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let mut daemon = host.start();
    host.client().session("t").secret("a").open().await.unwrap().fetch("a").await.unwrap();
    assert!(daemon.stop().success());
    drop(forwarding);

    let on_disk = lines(&host);
    let query = "{\"logGroupName\":\"valetkey/audit\",\"logStreamName\":\"host-1\",\"startFromHead\":true}";
    let events: Value =
        serde_json::from_str(&ask_moto(moto.port, "logs", "POST", "/", "Logs_20140328.GetLogEvents", query)).unwrap();
    let messages: BTreeSet<_> =
        events["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, on_disk.iter().cloned().collect());

    // Objects by their names: each record once, whoever was killed, and in order.
    let listing = ask_moto(moto.port, "s3", "GET", "/audit-of-tests?list-type=2", "", "");
    let keys: Vec<_> = listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect();
    assert!(
        keys.len() >= 2 && keys.iter().all(|key| key.starts_with("valetkey/host-1/20") && key.ends_with(".jsonl")),
        "{keys:?}"
    );
    let objects = keys.iter().map(|key| ask_moto(moto.port, "s3", "GET", &format!("/audit-of-tests/{key}"), "", ""));
    let stored: Vec<_> = objects.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(stored, on_disk);
    let log = host.log();
    assert!(!log.contains("secret-of-aws") && !stored.concat().contains(std::str::from_utf8(MARKER).unwrap()), "{log}");
}

#[tokio::test]
async fn standard_output_has_the_lines_and_nothing_else() {
    let host = host("[audit.export.out]\nkind = \"stdout\"");
    let out = fs::File::create(host.path("out")).unwrap();
    let mut daemon = host.spawn_as(&[], |command| _ = command.stdout(out));
    daemon.wait_until_serving().unwrap();
    host.client().session("t").secret("a").open().await.unwrap().fetch("a").await.unwrap();
    assert!(daemon.stop().success());
    let text = fs::read_to_string(host.path("out")).unwrap();
    assert_eq!(text.lines().map(str::to_owned).collect::<Vec<_>>(), lines(&host));
    assert!(!host.log().contains("{\"v\":1,\"seq\":"));
}

/// A real journald, under a real systemd.
#[test]
fn the_journal_has_every_record_with_its_fields() {
    let host = host("[audit.export.journal]\nkind = \"journald\"");
    let dir = host.dir.path().display().to_string();
    let program = |name: &str, path: &str| format!("{path}:/usr/local/bin/{name}:ro");
    let binds = [
        format!("{dir}:{dir}"),
        program("valetkeyd", env!("CARGO_BIN_EXE_valetkeyd")),
        program("valetkey", env!("CARGO_BIN_EXE_valetkey")),
    ];
    let Some(sandbox) = Sandbox::start(&binds) else { return };
    let state = format!("--setenv=STATE_DIRECTORY={dir}/var");
    let config = host.config().display().to_string();
    let properties = ["--property=Type=notify", "--property=Restart=on-failure", "--property=RestartSec=100ms"];
    let start = [&["systemd-run", "--quiet", "--unit=valetkeyd", &state], &properties[..]].concat();
    sandbox.exec(&[&start[..], &["valetkeyd", "--config", &config]].concat());
    let socket = host.tools_socket().display().to_string();
    let get = |name: &str| sandbox.sdbox(&["run", "valetkey", "get", name, "--tool", "t", "--socket", &socket]).status.success();
    assert!(get("a") && !get("b"));
    // journald goes in the middle, and what it had not read yet is read by the next.
    sandbox.exec(&["systemctl", "kill", "--signal=STOP", "systemd-journald"]);
    assert!(get("a"));
    sandbox.exec(&["systemctl", "kill", "--signal=KILL", "systemd-journald"]);
    assert!(get("a"));
    // Then the daemon.
    sandbox.exec(&["systemctl", "kill", "--signal=KILL", "valetkeyd"]);
    let begun = Instant::now();
    while !get("a") {
        assert!(begun.elapsed() < Duration::from_secs(20), "the daemon does not come back");
    }
    sandbox.exec(&["systemctl", "stop", "valetkeyd"]);
    sandbox.exec(&["journalctl", "--sync"]);

    let query = |arguments: &[&str]| -> Vec<Value> {
        let text = sandbox.exec(&[&["journalctl", "--no-pager", "--all", "--output=json"], arguments].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = query(&["SYSLOG_IDENTIFIER=valetkeyd", "SYSLOG_FACILITY=10"]);
    let seqs: Vec<_> = all.iter().map(|entry| entry["VALETKEY_SEQ"].as_str().unwrap().parse::<u64>().unwrap()).collect();
    complete(&host, &seqs);
    let given = query(&["VALETKEY_TOOL=t", "VALETKEY_EVENT=secret.handed-out"]);
    assert!(given.len() >= 4, "{given:?}");
    for entry in &given {
        assert!(entry["MESSAGE"].as_str().unwrap().starts_with("a (version "), "{entry}");
        assert_eq!((&entry["PRIORITY"], &entry["VALETKEY_SECRET"]), (&"6".into(), &"a".into()));
        assert_eq!(entry["MESSAGE_ID"], given[0]["MESSAGE_ID"]);
    }
    let refused = query(&["VALETKEY_OUTCOME=denied", "PRIORITY=4"]);
    assert!(refused.iter().any(|entry| entry["VALETKEY_EVENT"] == "session.refused"), "{refused:?}");
    let everything = sandbox.exec(&["journalctl", "--no-pager", "--all", "--output=export"]);
    assert!(!everything.contains(std::str::from_utf8(MARKER).unwrap()));
}

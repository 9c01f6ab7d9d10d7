//! Spans as a collector gets them: what happened, under which names, and never a value.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon::Host;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use raw::{Raw, get_unary, open_unary};
use stores::{UNLIMITED, marker, secret, text};
use tonic::{Request, Response, Status};

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|one| (one.key.clone(), text(one))).collect()
}

fn find<'s>(spans: &'s [Span], name: &str, holds: &[(&str, &str)]) -> Option<&'s Span> {
    spans.iter().find(|span| {
        let has = attributes(&span.attributes);
        span.name == name && holds.iter().all(|(key, value)| has.get(*key).is_some_and(|found| found == value))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_what_happened_and_no_value() {
    let (collector, endpoint) = Collector::start().await;
    let (host, bao) = (Host::new(), servers::openbao());
    let markers: Vec<_> = (8100..8104).map(|seed| text(&marker(seed, 40))).collect();
    let [sealed, vault, said, asked] = &*markers else { panic!() };
    stores::vault_put(bao, "traces/one", &format!("{{\"key\":\"{vault}\"}}"));
    let body = format!("{{\"errors\":[\"{said}\"]}}");
    let refusing = servers::listener(&format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len())).0;
    let mut config = host.seal(&[("s/key", sealed.as_bytes())]) + &stores::vault_as_root(&host, bao.port);
    let token = host.path("vault-token").display().to_string();
    config += &format!("[source.refusing]\nkind = \"vault\"\naddress = \"http://127.0.0.1:{refusing}\"\n");
    config += &format!("auth = {{ token-file = \"{token}\" }}\n");
    config += &secret("s/key", "sealed", "");
    config += &secret("v/key", "vault", "path = \"traces/one\"\nfield = \"key\"");
    config += &secret("v/field", "vault", "path = \"traces/one\"\nfield = \"wrong\"\nrequired = false");
    config += &secret("r/key", "refusing", "path = \"traces/one\"\nrequired = false");
    config += &(Host::tool("it", 0, &["s/key", "v/key", "v/field", "r/key"]) + UNLIMITED);
    host.configure(&format!("otlp-endpoint = \"{endpoint}\"\nlog-level = \"trace\""), &config);
    let mut daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["s/key", "v/key"]).await.unwrap();
    assert!(raw.secret(1, "s/key").await.value == sealed.as_bytes());
    let session = open_unary(&mut broker, "it", &["s/key", "v/key"]).await.unwrap().session;
    get_unary(&mut broker, &session, &["s/key", "v/key"]).await.unwrap();
    for name in [asked, sealed, "v/field"] {
        let _ = raw.get(2, name).await;
    }
    let lower = asked.to_lowercase();
    for (tool, scope) in [(lower.as_str(), "s/key"), ("it", &lower), (asked, asked)] {
        assert!(open_unary(&mut broker, tool, &[scope]).await.is_err());
    }
    host.operate(&["refresh"]);
    assert!(host.operate(&["reload"]).status.success());
    drop((raw, broker));
    // The last of them go out with the daemon.
    assert!(daemon.stop().success());
    tokio::time::sleep(Duration::from_millis(200)).await;

    let spans = collector.spans();
    for (name, holds) in [
        ("load", &[("outcome", "2 read, 2 failed")][..]),
        ("load source", &[("source", "vault"), ("secrets", "2")]),
        ("check", &[("source", "sealed"), ("outcome", "answered")]),
        ("open", &[("tool", "it"), ("secrets", "2"), ("outcome", "opened")]),
        ("open", &[("outcome", "ToolNotAllowed")]),
        ("hand-out", &[("tool", "it"), ("secrets", "s/key"), ("outcome", "handed out")]),
        ("hand-out", &[("tool", "it"), ("secrets", "s/key v/key"), ("outcome", "handed out")]),
        ("hand-out", &[("tool", "it"), ("outcome", "OutsideScope")]),
        ("reload", &[("outcome", "done")]),
    ] {
        let told: Vec<_> = spans.iter().map(|span| (&span.name, attributes(&span.attributes))).collect();
        assert!(find(&spans, name, holds).is_some(), "no {name} with {holds:?} among {told:#?}");
    }
    // Who reads of a source's load finds the load that it was part of.
    let (load, source) = (find(&spans, "load", &[]).unwrap(), find(&spans, "load source", &[("source", "vault")]).unwrap());
    assert_eq!((&source.parent_span_id, &source.trace_id), (&load.span_id, &load.trace_id));
    let everything = format!("{:?}", collector.0.lock().unwrap());
    assert!(everything.contains("valetkeyd") && !everything.contains("Event {"), "spans alone, and whose they are");
    for marker in markers.iter().chain([&lower]) {
        for part in [&marker[..20], &marker[20..]] {
            assert!(!everything.contains(part), "a span shows {part}");
        }
    }
    let log = host.log();
    assert!(log.contains("TRACE") && !log.contains(sealed) && !log.contains(vault), "the log is filtered as it is without spans");
    assert!(!host.log().contains("hand-out{"), "the log has no spans");
}

/// One that is gone, or never was, is nobody's trouble.
#[test]
fn a_collector_that_is_not_there_delays_nobody() {
    let host = Host::new();
    let source = host.seal(&[("a/key", b"value-of-a-key")]);
    let rest = format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("it", 0, &["a/key"]));
    host.configure(&format!("otlp-endpoint = \"http://127.0.0.1:{}\"", servers::free_port()), &rest);
    let mut daemon = host.start();
    for _ in 0..3 {
        let out = host.valetkey(&["get", "a/key", "--tool", "it", "--socket", host.tools_socket().to_str().unwrap()]);
        assert_eq!(out.stdout, b"value-of-a-key");
    }
    let begun = std::time::Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for bad in ["http://192.0.2.1:4317", "127.0.0.1:4317", "https://user:password@h:4317"] {
        host.configure(&format!("otlp-endpoint = \"{bad}\""), &rest);
        let out = host.valetkey(&["check", "--config", host.config().to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1), "{bad}");
    }
}

//! Callers who take too much, say too much or say nothing: they are bounded, and others do not feel them.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use daemon::{Host, eventually};
use prost::bytes::Bytes;
use raw::{Raw, get_unary, open_unary, reason};
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;
use valetkey::proto::v1::{session_request::Request, session_response::Response, *};

const VALUE: &[u8] = b"value-of-a-key";

/// A host with two secrets and a tool that is this process. Who `calm` is cannot be told apart from `it` by the kernel, so the
/// configuration knows one tool for this test program and one for a program that each test may start beside it.
fn host(daemon: &str, limits: &str) -> Host {
    let host = Host::new();
    let source = host.seal(&[("a/key", VALUE), ("b/key", &[b'x'; 60_000])]);
    let tool = Host::tool("it", 0, &["a/key", "b/key"]);
    host.configure(daemon, &format!("{source}{}{tool}limits = {{ {limits} }}\n", Host::secrets(&["a/key", "b/key"])));
    host
}

const UNLIMITED: &str = "per-minute = 100000000, concurrent = 10000, per-session = 1000000000";

fn failed(answer: Result<Response, tonic::Status>) -> Failed {
    match answer {
        Ok(Response::Failed(failed)) => failed,
        Ok(_) => panic!("not refused"),
        Err(status) => panic!("{status:?}"),
    }
}

fn sessions(host: &Host) -> Vec<serde_json::Value> {
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["sessions", "--json"]).stdout).unwrap();
    listing["sessions"].as_array().unwrap().clone()
}

/// How long one hand-out takes now, to someone who does no harm, in the worst of a hundred.
async fn worst_of_a_hundred(host: &Host) -> Duration {
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    let mut worst = Duration::ZERO;
    for id in 0..100 {
        let begun = Instant::now();
        assert_eq!(raw.secret(id, "a/key").await.value, VALUE);
        worst = worst.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    worst
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_asks_too_often_is_told_how_long_to_wait() {
    let host = host("", "per-minute = 60");
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    // To open it is a request too.
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    for id in 0..9 {
        raw.secret(id, "a/key").await;
    }
    let refused = failed(raw.get(10, "a/key").await);
    assert_eq!((refused.reason(), refused.id), (Reason::LimitReached, 10));
    let limit = LimitReached { limit: "per-minute".into(), of: "tool".into(), value: 60 };
    assert_eq!(refused.limit, Some(limit));
    let wait = refused.retry_after_millis.unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    // The same by a unary call, of any session of the tool.
    let status = open_unary(&mut broker, "it", &["a/key"]).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "LIMIT_REACHED"));
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() <= Duration::from_secs(1));
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!((metadata["limit"].as_str(), metadata["of"].as_str(), metadata["value"].as_str()), ("per-minute", "tool", "60"));
    // Who waits as long as it was told is served.
    tokio::time::sleep(Duration::from_millis(wait)).await;
    raw.secret(11, "a/key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_served_whole_or_costs_nothing() {
    let host = host("", "per-minute = 60");
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let ask = async |broker: &mut raw::Broker, count: usize| get_unary(broker, &session, &vec!["a/key"; count]).await;
    // More than can ever pass: waiting would not help, and it is not told to.
    let status = ask(&mut broker, 11).await.err().unwrap();
    assert_eq!(reason(&status), "LIMIT_REACHED");
    assert!(status.get_details_retry_info().is_none() && status.message().contains("ask for fewer in one call"), "{status:?}");
    assert_eq!(ask(&mut broker, 7).await.unwrap().len(), 7);
    let status = ask(&mut broker, 8).await.err().unwrap();
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(ask(&mut broker, 2).await.unwrap().len(), 2, "what was refused has taken nothing");
    assert_eq!(reason(&get_unary(&mut broker, &session, &[]).await.err().unwrap()), "BAD_REQUEST");
    assert_eq!(reason(&ask(&mut broker, 101).await.err().unwrap()), "BAD_REQUEST");
}

/// All of them or none, in the record too: of a refused call the session holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_leaves_no_record_of_hand_outs() {
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let status = get_unary(&mut broker, &session, &["a/key", "b/key"]).await.err().unwrap();
    assert_eq!(reason(&status), "OUTSIDE_SCOPE");
    let listed = &sessions(&host)[0];
    assert!(listed["held"].as_array().unwrap().is_empty() && listed["handouts"] == 0, "{listed}");
    let mut same = broker.clone();
    same.acknowledge_version(AcknowledgeVersionRequest { session, name: "a/key".into(), version: "1".into() }).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_has_so_many_sessions_and_a_session_so_many_hand_outs() {
    let host = host("", "concurrent = 3, per-session = 5");
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Raw::open(&mut broker, "it", &["a/key"]).await.unwrap());
    }
    let status = Raw::open(&mut broker, "it", &["a/key"]).await.err().unwrap();
    assert_eq!(reason(&status), "LIMIT_REACHED");
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(reason(&open_unary(&mut broker, "it", &["a/key"]).await.err().unwrap()), "LIMIT_REACHED");
    for id in 0..5 {
        open[0].secret(id, "a/key").await;
    }
    let refused = failed(open[0].get(5, "a/key").await);
    assert_eq!((refused.reason(), refused.retry_after_millis), (Reason::LimitReached, None));
    open[1].secret(0, "a/key").await;
    open.remove(0);
    eventually("its place is free", || sessions(&host).len() == 2);
    Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_so_many_connections() {
    let host = host("max-connections-per-peer = 4", UNLIMITED);
    let _daemon = host.start();
    let mut brokers = Vec::new();
    for _ in 0..4 {
        let mut broker = raw::broker(&host.tools_socket()).await;
        let raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
        brokers.push((broker, raw));
    }
    // The fifth is accepted by the kernel, and closed.
    let mut fifth = UnixStream::connect(host.tools_socket()).unwrap();
    fifth.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(fifth.read(&mut [0; 16]), Ok(0) | Err(_)));
    eventually("it is said", || host.log().contains("max-connections-per-peer"));
    brokers[0].1.secret(1, "a/key").await;
    brokers.clear();
    eventually("places are free", || {
        let mut again = UnixStream::connect(host.tools_socket()).unwrap();
        again.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // A server that admits speaks first: its settings.
        matches!(again.read(&mut [0; 16]), Ok(1..)) || again.write_all(b"x").is_ok() && sessions(&host).is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_a_bound() {
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let huge = "x".repeat(300 * 1024);
    let status = open_unary(&mut broker, &huge, &["a/key"]).await.err().unwrap();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    let status = raw.get(1, &huge).await.err().unwrap();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    // Within the bound, and nonsense all the same.
    let long = "x".repeat(200 * 1024);
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    assert_eq!(failed(raw.get(1, &long).await).reason(), Reason::OutsideScope);
    assert_eq!(reason(&Raw::open(&mut broker, "it", &vec!["a/key"; 1001]).await.err().unwrap()), "BAD_REQUEST");
    assert!(host.log().lines().all(|line| line.len() < 2000), "what a caller sends does not fill the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_gets_at_once_are_answered_in_order_and_others_are_served() {
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let alone = worst_of_a_hundred(&host).await;
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    let begun = Instant::now();
    (0..10_000).for_each(|id| raw.ask(id, "a/key"));
    let greedy = tokio::spawn(async move {
        for id in 0..10_000 {
            let Response::Secret(secret) = raw.hear().await.unwrap() else { panic!("{id}: not a secret") };
            assert!(secret.id == id && secret.value == VALUE);
        }
        begun.elapsed()
    });
    let beside = worst_of_a_hundred(&host).await;
    println!("10,000 pipelined in {:?}; worst of 100 others: alone {alone:?}, beside it {beside:?}", greedy.await.unwrap());
    assert!(beside < Duration::from_secs(1), "{beside:?}");
}

/// Asks for 60 kB, ten thousand times on each of several streams, and reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_costs_little_and_stops_nobody() {
    let host = host("drain-timeout = \"1s\"", UNLIMITED);
    let mut daemon = host.start();
    worst_of_a_hundred(&host).await;
    let before = daemon.rss();
    let mut deaf = Vec::new();
    // A connection each: on a shared one the first would take its window, and the others would not even be opened.
    for _ in 0..24 {
        let mut broker = raw::broker(&host.tools_socket()).await;
        let raw = Raw::open(&mut broker, "it", &["b/key"]).await.unwrap();
        (0..10_000).for_each(|id| raw.ask(id, "b/key"));
        deaf.push((broker, raw));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = daemon.rss().saturating_sub(before);
    let beside = worst_of_a_hundred(&host).await;
    println!("24 streams that nobody reads: {grown} KiB more; worst of 100 others: {beside:?}");
    // hyper's own client lets 2 MiB of a stream wait, so that what waits is at the caller. The bound is generous all the same.
    assert!(grown < 64 * 1024, "{grown} KiB more");
    assert!(beside < Duration::from_secs(1), "{beside:?}");
    // What a revocation ends is over, whether or not its holder listens.
    assert!(host.operate(&["revoke", "tool", "it"]).status.success());
    assert!(sessions(&host).iter().all(|session| session["tool"] != "it"));
    let begun = Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(4), "drained within drain-timeout: {:?}", begun.elapsed());
}

/// A window of nothing: the daemon cannot send a byte of an answer, and keeps but one.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_window_holds_up_itself() {
    let host = host("", UNLIMITED);
    let daemon = host.start();
    let before = daemon.rss();
    let mut closed = Vec::new();
    for _ in 0..20 {
        let path = host.tools_socket();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint =
            Endpoint::from_static("http://localhost").initial_stream_window_size(1).initial_connection_window_size(65_535);
        let mut broker = raw::Broker::new(endpoint.connect_with_connector(connector).await.unwrap());
        let raw = Raw::start(&mut broker).await.unwrap();
        raw.say(Request::Open(raw::open("it", &["b/key"])));
        (0..1000).for_each(|id| raw.ask(id, "b/key"));
        closed.push((broker, raw));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(worst_of_a_hundred(&host).await < Duration::from_secs(1));
    let grown = daemon.rss().saturating_sub(before);
    println!("20 streams without a window: {grown} KiB more");
    assert!(grown < 32 * 1024, "{grown} KiB more");
}

#[test]
fn what_is_no_http2_is_closed() {
    let host = host("", UNLIMITED);
    let daemon = host.start();
    let inputs: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
        b"\n",
    ];
    for socket in [host.tools_socket(), host.admin_socket()] {
        for input in inputs {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            let _ = stream.write_all(input);
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            assert!(
                ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
                "{input:?} is not closed"
            );
            assert!(answer.len() < 1024, "{}", String::from_utf8_lossy(&answer));
        }
    }
    assert!(host.operate(&["status"]).status.success());
    assert!(!host.log().contains("panicked"), "{}", host.log());
    drop(daemon);
}

/// Who connects and says nothing, or half of a hello, does not keep its place.
#[test]
fn a_silent_connection_is_let_go() {
    let host = host("max-connections-per-peer = 4", UNLIMITED);
    let _daemon = host.start();
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..4).map(|_| UnixStream::connect(host.tools_socket()).unwrap()).collect();
    silent[1].write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    silent[2].write_all(b"PRI *").unwrap();
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

/// Streams that are opened and reset at once, as fast as it goes (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_are_bounded() {
    let host = host("", UNLIMITED);
    let daemon = host.start();
    worst_of_a_hundred(&host).await;
    let before = daemon.rss();
    let attack = tokio::spawn({
        let socket = host.tools_socket();
        async move {
            let (mut resets, mut connections) = (0_u64, 0_u64);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(3) {
                connections += 1;
                let io = tokio::net::UnixStream::connect(&socket).await.unwrap();
                let Ok((mut send, connection)) = h2_handshake(io).await else { continue };
                let driver = tokio::spawn(connection);
                while begun.elapsed() < Duration::from_secs(3) {
                    let Ok(ready) = send.ready().await else { break };
                    send = ready;
                    let request = http::Request::post("http://localhost/valetkey.v1.Broker/Session")
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let Ok((response, mut body)) = send.send_request(request, false) else { break };
                    body.send_reset(h2::Reason::CANCEL);
                    drop(response);
                    resets += 1;
                    if resets % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                driver.abort();
            }
            (resets, connections)
        }
    });
    let beside = worst_of_a_hundred(&host).await;
    let (resets, connections) = attack.await.unwrap();
    let grown = daemon.rss().saturating_sub(before);
    println!("{resets} resets on {connections} connections: {grown} KiB more; worst of 100 others: {beside:?}");
    assert!(beside < Duration::from_secs(1) && grown < 64 * 1024);
    eventually("nothing of it is left", || sessions(&host).is_empty());
}

async fn h2_handshake(
    io: tokio::net::UnixStream,
) -> Result<(h2::client::SendRequest<Bytes>, h2::client::Connection<tokio::net::UnixStream, Bytes>), h2::Error> {
    h2::client::Builder::new().initial_max_send_streams(100).handshake(io).await
}

/// A session by unary calls is its process's: its id is worth nothing to another, though it is the same user and program.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_id_is_worth_nothing_to_another_process() {
    const SESSION: &str = "VALETKEY_TEST_SESSION";
    if let Ok(stolen) = std::env::var(SESSION) {
        let socket = std::env::var_os("VALETKEY_TEST_SOCKET").unwrap();
        let mut broker = raw::broker(socket.as_ref()).await;
        let status = get_unary(&mut broker, &stolen, &["a/key"]).await.err().unwrap();
        assert_eq!(reason(&status), "SESSION_NOT_OPEN");
        let session = || stolen.clone();
        assert!(broker.renew_session(RenewSessionRequest { session: session() }).await.is_err());
        assert!(broker.watch_secrets(WatchSecretsRequest { session: session() }).await.is_err());
        // Not an error, and without effect.
        broker.close_session(CloseSessionRequest { session: session() }).await.unwrap();
        return;
    }
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_session_id_is_worth_nothing_to_another_process", "--nocapture"])
        .env(SESSION, &session)
        .env("VALETKEY_TEST_SOCKET", host.tools_socket())
        .output()
        .unwrap();
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    assert_eq!(get_unary(&mut broker, &session, &["a/key"]).await.unwrap()[0].value, VALUE, "its own process has it still");
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_sessions_end_unless_they_are_renewed() {
    let host = host("session-lifetime = \"2s\"", UNLIMITED);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let (kept, left) = (
        open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session,
        open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session,
    );
    let mut stream = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    let id = sessions(&host).iter().find(|one| one["form"] == "stream").unwrap()["session"].as_str().unwrap().to_owned();
    // A stream is not renewed, and above all does not become a session that expires.
    let status = broker.renew_session(RenewSessionRequest { session: id }).await.unwrap_err();
    assert_eq!(reason(&status), "BAD_REQUEST");
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        broker.renew_session(RenewSessionRequest { session: kept.clone() }).await.unwrap();
    }
    assert_eq!(reason(&get_unary(&mut broker, &left, &["a/key"]).await.err().unwrap()), "SESSION_NOT_OPEN");
    assert_eq!(get_unary(&mut broker, &kept, &["a/key"]).await.unwrap()[0].value, VALUE);
    assert_eq!(stream.secret(1, "a/key").await.value, VALUE);
    assert_eq!(sessions(&host).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_must_begin_with_open_and_have_but_one() {
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    for first in [
        Some(Request::Get(Get { id: 1, name: "a/key".into(), fresh: false })),
        Some(Request::Acknowledge(Acknowledge { name: "a/key".into(), version: "1".into() })),
        None,
    ] {
        let mut raw = Raw::start(&mut broker).await.unwrap();
        raw.up.send(SessionRequest { request: first }).unwrap();
        assert_eq!(reason(&raw.hear().await.err().unwrap()), "BAD_REQUEST");
    }
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    raw.say(Request::Open(raw::open("it", &["b/key"])));
    let status = raw.hear().await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(&status), "BAD_REQUEST");
    eventually("its session has ended", || sessions(&host).is_empty());
    // One that says nothing is closed after a while.
    let begun = Instant::now();
    let mut silent = Raw::start(&mut broker).await.unwrap();
    assert_eq!(reason(&silent.hear().await.err().unwrap()), "BAD_REQUEST");
    assert!(begun.elapsed() < Duration::from_secs(15));
}

/// A later version of the contract may know more: what this one does not know is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_passed_over() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct LaterOpen {
        #[prost(string, tag = "1")]
        tool: String,
        #[prost(string, repeated, tag = "2")]
        scope: Vec<String>,
        #[prost(string, tag = "1900")]
        later: String,
    }
    let host = host("", UNLIMITED);
    let _daemon = host.start();
    let mut client = tonic::client::Grpc::new(daemon::channel(&host.tools_socket()).await);
    client.ready().await.unwrap();
    let open = LaterOpen { tool: "it".into(), scope: vec!["a/key".into()], later: "more".into() };
    let codec = tonic_prost::ProstCodec::<LaterOpen, Opened>::default();
    let path = http::uri::PathAndQuery::from_static("/valetkey.v1.Broker/OpenSession");
    let opened = client.unary(tonic::Request::new(open), path, codec).await.unwrap().into_inner();
    assert!(!opened.session.is_empty());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/valetkey.v1.Broker/NoSuchCall");
    let codec = tonic_prost::ProstCodec::<LaterOpen, Opened>::default();
    let status = client.unary(tonic::Request::new(LaterOpen::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Names that steer a terminal or begin a line of the log.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_says_reaches_no_log_and_no_terminal_as_it_is() {
    const NASTY: [&str; 5] = ["\u{1b}[31mred", "two\nlines WARN forged", "bell\u{7}", "\u{9b}31m", "right\u{202e}to-left"];
    for format in ["human", "json"] {
        let host = host(&format!("log-format = \"{format}\"\nlog-level = \"debug\""), UNLIMITED);
        let _daemon = host.start();
        let mut broker = raw::broker(&host.tools_socket()).await;
        for nasty in NASTY {
            assert_eq!(reason(&open_unary(&mut broker, nasty, &["a/key"]).await.err().unwrap()), "BAD_REQUEST");
            assert_eq!(reason(&open_unary(&mut broker, "it", &[nasty]).await.err().unwrap()), "BAD_REQUEST");
            let purpose = Open { purpose: nasty.into(), ..raw::open("it", &["a/key"]) };
            assert_eq!(reason(&broker.open_session(purpose).await.err().unwrap()), "BAD_REQUEST", "{nasty:?}");
            let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
            assert_eq!(failed(raw.get(1, nasty).await).reason(), Reason::OutsideScope);
            raw.acknowledge(nasty, nasty);
            assert_eq!(failed(raw.hear().await).reason(), Reason::BadRequest);
            assert!(get_unary(&mut broker, nasty, &[nasty]).await.is_err());
            for out in [
                host.operate(&["revoke", "tool", nasty]),
                host.operate(&["revoke", "secret", nasty]),
                host.operate(&["explain", nasty, nasty]),
                host.operate(&["sessions"]),
            ] {
                let said = [out.stdout, out.stderr].concat();
                assert!(!String::from_utf8_lossy(&said).contains(nasty), "{}", String::from_utf8_lossy(&said));
            }
        }
        let log = host.log();
        assert!(log.contains("outside the scope"), "{log}");
        assert!(log.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{log:?}");
        assert!(log.lines().all(|line| !line.starts_with("lines WARN")), "{log}");
    }
}

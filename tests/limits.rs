//! No tool takes more than its share, and who tries is slowed down: the real daemon, over its real sockets.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use daemon::{Host, eventually};
use raw::{Broker, Raw, get_unary, open_unary, reason};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use valetkey::{
    client::{Error, Retry},
    proto::v1::{session_request::Request, session_response::Response, *},
};

const VALUE: &[u8] = b"value-of-a-key";
const SECRETS: [&str; 3] = ["a/key", "b/key", "c/key"];
/// Users who run a tool of their own, or none.
const OTHER: u32 = 4242;
const STRANGER: u32 = 4343;

/// This process is `it`, which has these limits; `[daemon]` and further tables as given.
fn host(daemon: &str, limits: &str, rest: &str) -> Host {
    let host = Host::new();
    let source = host.seal(&SECRETS.map(|name| (name, VALUE)));
    let tools = Host::tool("it", 0, &SECRETS) + &format!("limits = {{ {limits} }}\n") + &Host::tool("other", OTHER, &["a/key"]);
    let metrics = format!("metrics = \"{}\"\n", host.path("run/metrics.sock").display());
    host.configure(&format!("{metrics}{daemon}"), &format!("{source}{}{tools}{rest}", Host::secrets(&SECRETS)));
    host
}

const PLENTY: &str = "per-minute = 6000000, concurrent = 1000, per-session = 1000000";

/// Which limit it was, whose, its value, and whether to wait.
fn limit(status: &Status) -> (String, String, String, bool) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, "LIMIT_REACHED"), "{status:?}");
    let metadata = status.get_details_error_info().unwrap().metadata;
    let of = |key: &str| metadata[key].clone();
    (of("limit"), of("of"), of("value"), status.get_details_retry_info().is_some())
}

fn reached(status: &Status) -> String {
    let (limit, of, value, wait) = limit(status);
    format!("{limit} of {of} = {value}{}", if wait { ", wait" } else { "" })
}

fn scrape(host: &Host) -> String {
    let mut stream = UnixStream::connect(host.path("run/metrics.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The sum of a counter's samples that hold all of these.
fn metric(host: &Host, name: &str, labels: &[&str]) -> u64 {
    let page = scrape(host);
    let lines = page.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

async fn broker(host: &Host) -> Broker {
    raw::broker(&host.tools_socket()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_has_its_own_bound() {
    let host = host("", "per-second = 4, per-minute = 600", "");
    let _daemon = host.start();
    let mut broker = broker(&host).await;
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let mut passed = 0;
    let status = loop {
        match get_unary(&mut broker, &session, &["a/key"]).await {
            Ok(_) => passed += 1,
            Err(status) => break status,
        }
    };
    // To open was one of the four. A slow host lets one or two more pass meanwhile.
    assert!((3..10).contains(&passed), "{passed}");
    assert_eq!(reached(&status), "per-second of tool = 4, wait");
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait <= Duration::from_millis(250), "{wait:?}");
    let status = get_unary(&mut broker, &session, &["a/key"; 5]).await.err().unwrap();
    assert_eq!(reached(&status), "per-second of tool = 4", "five never pass at once, and need not wait for it");
    // To renew counts as well, and to close is always possible.
    let renewed = loop {
        if let Err(status) = broker.renew_session(RenewSessionRequest { session: session.clone() }).await {
            break status;
        }
    };
    assert_eq!(reached(&renewed), "per-second of tool = 4, wait");
    broker.close_session(CloseSessionRequest { session }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_requests_are_under_way_at_one_time() {
    let host = host("", &format!("{PLENTY}, concurrent-requests = 2"), "");
    let _daemon = host.start();
    let mut broker = broker(&host).await;
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let watch = || WatchSecretsRequest { session: session.clone() };
    let first = broker.watch_secrets(watch()).await.unwrap();
    let _second = broker.watch_secrets(watch()).await.unwrap();
    assert_eq!(reached(&broker.watch_secrets(watch()).await.unwrap_err()), "concurrent-requests of tool = 2, wait");
    let status = get_unary(&mut broker, &session, &["a/key"]).await.err().unwrap();
    assert_eq!(reached(&status), "concurrent-requests of tool = 2, wait");
    drop(first);
    let begun = Instant::now();
    while get_unary(&mut broker, &session, &["a/key"]).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "its place is not free");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_declares_so_many_secrets() {
    let host = host("", "secrets-per-session = 2", "");
    let _daemon = host.start();
    let mut broker = broker(&host).await;
    assert_eq!(
        reached(&open_unary(&mut broker, "it", &SECRETS).await.unwrap_err()),
        "secrets-per-session of tool = 2",
        "waiting does not help"
    );
    open_unary(&mut broker, "it", &["a/key", "b/key", "a/key"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_it_is_old_and_another_can_be_opened() {
    let host = host("session-lifetime = \"1h\"", &format!("{PLENTY}, session-lifetime = \"10s\""), "");
    let _daemon = host.start();
    let begun = Instant::now();
    let mut broker = broker(&host).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    let unary = open_unary(&mut broker, "it", &["a/key"]).await.unwrap();
    let expires: std::time::SystemTime = unary.expires.unwrap().try_into().unwrap();
    assert!(expires.duration_since(std::time::SystemTime::now()).unwrap() <= Duration::from_secs(10));
    let library = host.client().session("it").secret("a/key").open().await.unwrap();
    library.get("a/key").await.unwrap();

    let Response::Revoked(revoked) = raw.hear().await.unwrap() else { panic!("not an end") };
    assert!((9.0..18.0).contains(&begun.elapsed().as_secs_f32()), "{:?}", begun.elapsed());
    let limit = LimitReached { limit: "session-lifetime".into(), of: "tool".into(), value: 10 };
    assert_eq!((revoked.name.as_str(), revoked.reason(), revoked.limit), ("", Reason::LimitReached, Some(limit)));
    assert_eq!(reached(&raw.hear().await.err().unwrap()), "session-lifetime of tool = 10");
    let status = get_unary(&mut broker, &unary.session, &["a/key"]).await.err().unwrap();
    assert!(["LIMIT_REACHED", "SESSION_NOT_OPEN"].contains(&reason(&status).as_str()), "{status:?}");
    Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    // The library has done so by itself.
    assert_eq!(library.fetch("a/key").await.unwrap().expose(<[u8]>::to_vec), VALUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tools_together_have_a_ceiling() {
    let host = host("", PLENTY, "[limits]\nper-minute = 60\n");
    let _daemon = host.start();
    let mut broker = broker(&host).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    let mut passed = 0;
    let failed = loop {
        match raw.get(passed, "a/key").await.unwrap() {
            Response::Failed(failed) => break failed,
            _ => passed += 1,
        }
    };
    assert!((9..15).contains(&passed), "{passed}");
    let limit = LimitReached { limit: "per-minute".into(), of: "daemon".into(), value: 60 };
    assert_eq!(failed.limit, Some(limit));
    tokio::time::sleep(Duration::from_millis(failed.retry_after_millis.unwrap())).await;
    raw.secret(10, "a/key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_limits_too() {
    let host = host("", PLENTY, "[limits]\nadmin-per-minute = 120\n");
    let _daemon = host.start();
    let mut admin = host.admin().await;
    let mut answered = 0;
    let status = loop {
        match admin.status(StatusRequest {}).await {
            Ok(_) => answered += 1,
            Err(status) => break status,
        }
        assert!(answered < 100, "no limit");
    };
    assert_eq!(reached(&status), "admin-per-minute of user = 120, wait");
    let out = host.operate(&["status"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("admin calls in a minute"), "{out:?}");
}

/// Whoever guesses is bounded, and takes nothing from a tool of the same user.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_tool_takes_of_no_tools_share() {
    let host = host("", PLENTY, "[limits]\nopens-per-minute = 60\n");
    let _daemon = host.start();
    let mut broker = broker(&host).await;
    let mut denied = 0;
    while reason(&open_unary(&mut broker, "nobody", &["a/key"]).await.unwrap_err()) == "TOOL_NOT_ALLOWED" {
        denied += 1;
    }
    assert!((10..16).contains(&denied), "{denied}");
    assert_eq!(reached(&open_unary(&mut broker, "nobody", &["a/key"]).await.unwrap_err()), "opens-per-minute of user = 60, wait");
    assert_eq!(reached(&open_unary(&mut broker, "other", &["a/key"]).await.unwrap_err()), "opens-per-minute of user = 60, wait");
    open_unary(&mut broker, "it", &["a/key"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_waits_as_long_as_it_is_told() {
    let host = host("", "per-minute = 120", "");
    let _daemon = host.start();
    let session = host.client().session("it").secret("a/key").open().await.unwrap();
    let begun = Instant::now();
    // Twenty at once, of which the opening was one, and then two in a second.
    for _ in 0..22 {
        session.fetch("a/key").await.unwrap();
    }
    let took = begun.elapsed();
    assert!((1.2..8.0).contains(&took.as_secs_f32()), "{took:?}");
    // Opening waits too; and who has no time is told at once.
    host.client().session("it").secret("a/key").open().await.unwrap();
    let hasty = host.client().timeout(Duration::from_millis(200));
    let Err(error) = hasty.session("it").secret("a/key").open().await else { panic!("not refused") };
    let Error::Limited { limit, .. } = &error else { panic!("{error}") };
    assert!(limit == "per-minute" && matches!(error.retry(), Retry::After(_)), "{error:?}");
}

/// A loop that is denied again and again: few lines, and exact counts.
#[tokio::test(flavor = "multi_thread")]
async fn denials_do_not_fill_the_log() {
    let host = host("", PLENTY, "");
    let mut daemon = host.start();
    for _ in 0..15 {
        let mut broker = broker(&host).await;
        let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
        // One after the other they are names that the caller makes up, and one that there is.
        for id in 0..30_u64 {
            let name = if id % 3 == 0 { "b/key".into() } else { format!("made/up-{id}") };
            assert!(matches!(raw.get(id, &name).await, Ok(Response::Failed(_))));
        }
    }
    for uid in 0..300 {
        let mut broker = if uid % 30 == 0 { broker(&host).await } else { continue };
        for name in ["billing", "other", "no-such-tool"] {
            assert!(open_unary(&mut broker, name, &["a/key"]).await.is_err());
        }
    }
    assert!(daemon.stop().success());
    let log = host.log();
    let denied: Vec<_> = log.lines().filter(|line| line.contains("denied")).collect();
    assert!(denied.len() < 12, "{denied:#?}");
    let count = |reason: &str| -> u64 {
        let lines = denied.iter().filter(|line| line.contains(reason));
        lines.map(|line| line.split("count=").nth(1).map_or(1, |rest| rest.split(' ').next().unwrap().parse().unwrap())).sum()
    };
    assert_eq!((count("OutsideScope"), count("ToolNotAllowed")), (450, 30), "{denied:#?}");
    assert!(denied.iter().any(|line| line.contains("count=") && line.contains("again and again")), "{denied:#?}");
}

/// Asks as fast as it can, on several connections and in both forms, and does not care what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_a_limit_is_read_slowly() {
    let host = host("", "per-minute = 600, concurrent = 100", "");
    let _daemon = host.start();
    let (mut streams, mut answered, mut refused) = (Vec::new(), 0_u64, 0_u64);
    for _ in 0..8 {
        let mut broker = broker(&host).await;
        let raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
        (0..2000).for_each(|id| raw.ask(id, "a/key"));
        streams.push(raw);
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    for raw in &mut streams {
        while let Ok(answer) = tokio::time::timeout_at(until, raw.hear()).await {
            match answer.unwrap() {
                Response::Secret(_) => answered += 1,
                Response::Failed(failed) if failed.reason() == Reason::LimitReached => refused += 1,
                _ => panic!("another answer"),
            }
        }
        // What came meanwhile on the others waits there, and is counted below.
    }
    for raw in &mut streams {
        while let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_millis(1), raw.hear()).await {
            match answer {
                Response::Secret(_) => answered += 1,
                _ => refused += 1,
            }
        }
    }
    // Forty refusals of each connection are free, and then twenty a second: of sixteen thousand requests hardly any were heard.
    assert!(refused < 8 * (40 + 20 * 6), "{refused}");
    assert!((92..200).contains(&answered), "{answered}");
    let told = metric(&host, "valetkey_limits_reached_total", &["tool=\"it\"", "limit=\"per-minute\""]);
    assert!(told >= refused && told < refused + 40, "{told} {refused}");
    // Nobody else notices.
    let mut child = start("polite", OTHER, &host);
    let worst: u64 = answer(&mut child).parse().unwrap();
    assert!(worst < 1000, "{worst} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_room_for_tools() {
    let host = host("max-connections = 16\nmax-connections-per-peer = 16", PLENTY, "");
    let _daemon = host.start();
    let mut child = start("crowd", STRANGER, &host);
    assert_eq!(answer(&mut child), "there");
    eventually("it is said", || host.log().contains("those who are no tool of the policy"));
    let mut broker = broker(&host).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    raw.secret(1, "a/key").await;
}

/// Another user's process: this program again.
fn start(what: &str, uid: u32, host: &Host) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "as_another_user"]).uid(uid).gid(uid);
    command.env("VALETKEY_TEST_AS", what).env("VALETKEY_TEST_SOCKET", host.tools_socket());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What it says; it ends when its input does.
fn answer(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find_map(|line| Some(line.unwrap().split_once("answer: ")?.1.to_owned())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by other tests, as another user"]
async fn as_another_user() {
    let (Ok(what), Some(socket)) = (std::env::var("VALETKEY_TEST_AS"), std::env::var_os("VALETKEY_TEST_SOCKET")) else { return };
    let socket = std::path::PathBuf::from(socket);
    if what == "polite" {
        let mut raw = Raw::open(&mut raw::broker(&socket).await, "other", &["a/key"]).await.unwrap();
        let mut worst = Duration::ZERO;
        for id in 0..40 {
            let begun = Instant::now();
            assert_eq!(raw.secret(id, "a/key").await.value, VALUE);
            worst = worst.max(begun.elapsed());
            raw.say(Request::Acknowledge(Acknowledge { name: "a/key".into(), version: "1".into() }));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("answer: {}", worst.as_millis());
        return;
    }
    let crowd: Vec<_> = (0..16).map(|_| UnixStream::connect(&socket)).collect();
    // Until all have been judged.
    std::thread::sleep(Duration::from_millis(300));
    println!("answer: there");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(crowd);
}

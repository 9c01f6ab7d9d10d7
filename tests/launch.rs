//! What a launcher gets and says: the real daemon, and the contract spoken by hand.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use daemon::{Host, eventually};
use raw::{Raw, reason};
use tonic::Status;
use valetkey::proto::v1::{
    Channel, CloseSessionRequest, Get, Launch, LaunchPlan, OnRedaction, OnRotation, Open, Opened, RedactRequest, RedactResponse,
    Redacted, RenewSessionRequest, delivered::To, session_request::Request, session_response::Response,
};

const MARKER: &str = "mArKeR-4711-of-a-key";
const OTHER: &str = "mArKeR-4711-of-another";
const DECOY: &str = "mArKeR-4711-of-a-decoy";

/// A host whose one tool is this process, with these lines beside its `run-as`.
fn configure(host: &Host, tool: &str) {
    let source = host.seal(&[]);
    let secrets = Host::secrets(&["a/key", "b/key", "a/decoy"]) + "canary = true\n";
    let metrics = format!("metrics = \"{}\"", host.path("run/metrics.sock").display());
    host.configure(&metrics, &format!("{source}{secrets}[tool.it]\nrun-as = {{ user = \"0\" }}\n{tool}"));
}

fn host(tool: &str) -> (Host, daemon::Daemon) {
    let host = Host::new();
    host.seal(&[("a/key", MARKER.as_bytes()), ("b/key", OTHER.as_bytes()), ("a/decoy", DECOY.as_bytes())]);
    configure(&host, tool);
    let daemon = host.start();
    (host, daemon)
}

const ALL: &str =
    "secrets.\"a/key\" = { env = \"A_KEY\" }\nsecrets.\"b/key\" = {}\nsecrets.\"a/decoy\" = { fd = \"DECOY_FILE\" }\n";

fn launch(command: &[&str]) -> Open {
    let command = command.iter().map(ToString::to_string).collect();
    Open { launch: Some(Launch { command }), purpose: "valetkey run".into(), ..raw::open("it", &[]) }
}

async fn open(host: &Host, open: Open) -> Result<(Raw, Opened), Status> {
    let mut raw = Raw::start(&mut raw::broker(&host.tools_socket()).await).await?;
    raw.say(Request::Open(open));
    match raw.hear().await? {
        Response::Opened(opened) => Ok((raw, opened)),
        _ => panic!("the first answer is not `opened`"),
    }
}

async fn refused(host: &Host, what: Open) -> Status {
    open(host, what).await.err().expect("it is refused")
}

fn reload(host: &Host) {
    let out = host.operate(&["reload"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn json(host: &Host, listing: &str) -> serde_json::Value {
    serde_json::from_slice(&host.operate(&[listing, "--json"]).stdout).unwrap()
}

fn sessions(host: &Host) -> Vec<serde_json::Value> {
    json(host, "sessions")["sessions"].as_array().unwrap().clone()
}

fn metrics(host: &Host) -> String {
    let mut wire = UnixStream::connect(host.path("run/metrics.sock")).unwrap();
    wire.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    answer
}

/// No value is in the log, whatever happened.
fn log(host: &Host) -> String {
    let log = host.log();
    assert!(!log.contains("mArKeR"), "a value is in the log:\n{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_gets_what_policy_delivers_and_how() {
    let sandbox = "sandbox = { read = [\"/usr\"], write = [\"/tmp/x\"], connect = [443, 80], memory = \"1G\", processes = 64, files = 1024, cpu = \"10m\" }\n";
    let tool = format!(
        "{ALL}environment = [\"HTTPS_PROXY\", \"NODE_ENV=production\"]\ninherit = true\nredact-shapes = true\non-redaction = \"stop\"\n\
         on-rotation = \"signal:SIGUSR1\"\n{sandbox}"
    );
    let (host, _daemon) = host(&tool);
    let (mut raw, opened) = open(&host, launch(&["node", "index.js"])).await.unwrap();
    let names: Vec<_> = opened.secrets.iter().map(|secret| (secret.name.as_str(), secret.version.as_str())).collect();
    assert_eq!(names, [("a/decoy", "1"), ("a/key", "1")], "what is asked for over gRPC is not in it");
    let plan = opened.plan.unwrap();
    let to: Vec<_> = plan.secrets.iter().map(|one| (one.secret.as_str(), one.to.clone().unwrap(), one.canary)).collect();
    assert_eq!(to, [("a/decoy", To::Fd("DECOY_FILE".into()), true), ("a/key", To::Env("A_KEY".into()), false)]);
    assert_eq!(plan.command, ["node", "index.js"]);
    assert_eq!(plan.environment, ["HTTPS_PROXY", "NODE_ENV=production"]);
    assert!(plan.inherit && plan.redact && plan.redact_shapes);
    assert_eq!((plan.on_redaction(), plan.on_rotation()), (OnRedaction::Stop, OnRotation::Signal));
    assert_eq!(plan.rotation_signal, libc::SIGUSR1);
    let sandbox = plan.sandbox.unwrap();
    assert_eq!((sandbox.read, sandbox.write, sandbox.connect), (vec!["/usr".into()], vec!["/tmp/x".into()], vec![443, 80]));
    assert_eq!((sandbox.max_memory, sandbox.max_processes, sandbox.max_files, sandbox.max_cpu_seconds), (1 << 30, 64, 1024, 600));
    assert!(!sandbox.unix_sockets);

    assert_eq!(raw.secret(1, "a/key").await.value, MARKER.as_bytes());
    assert_eq!(raw.secret(2, "a/decoy").await.value, DECOY.as_bytes());
    let Ok(Response::Failed(failed)) = raw.get(3, "b/key").await else { panic!("it is not in the scope") };
    assert_eq!(failed.reason().as_str_name(), "REASON_OUTSIDE_SCOPE");

    let session = &sessions(&host)[0];
    assert_eq!((&session["form"], &session["purpose"]), (&"stream".into(), &"valetkey run".into()));
    drop(raw);
    eventually("it ends with its stream", || sessions(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_unsaid_is_the_safe_choice() {
    let (host, _daemon) = host(ALL);
    let (_raw, opened) = open(&host, launch(&["node"])).await.unwrap();
    let LaunchPlan { environment, inherit, redact, redact_shapes, sandbox, .. } = opened.plan.clone().unwrap();
    assert!(environment.is_empty() && !inherit && redact && !redact_shapes && sandbox.is_none());
    let plan = opened.plan.unwrap();
    assert_eq!((plan.on_redaction(), plan.on_rotation(), plan.rotation_signal), (OnRedaction::Report, OnRotation::NotifyOnly, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_needs_no_secret_and_declares_none() {
    let (host, _daemon) = host("command = [\"/usr/bin/true\"]\n");
    let (_raw, opened) = open(&host, launch(&[])).await.unwrap();
    assert!(opened.secrets.is_empty() && opened.plan.unwrap().secrets.is_empty());
    // Only for launchers.
    let status = refused(&host, raw::open("it", &[])).await;
    assert_eq!(reason(&status), "BAD_REQUEST");
    let status = refused(&host, Open { launch: Some(Launch::default()), ..raw::open("it", &["a/key"]) }).await;
    assert_eq!(reason(&status), "BAD_REQUEST", "{status:?}");
    // What a launcher reports goes up its stream: it must have one.
    let mut broker = raw::broker(&host.tools_socket()).await;
    let status = broker.open_session(launch(&[])).await.err().unwrap();
    assert_eq!(reason(&status), "BAD_REQUEST", "{status:?}");
    let status = refused(&host, Open { tool: "other".into(), ..launch(&[]) }).await;
    assert_eq!(reason(&status), "TOOL_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_command_is_the_only_one() {
    let (host, _daemon) = host(&format!("{ALL}command = [\"/usr/bin/npx\", \"-y\", \"server@1.2.3\"]\n"));
    for same in [&[][..], &["/usr/bin/npx", "-y", "server@1.2.3"]] {
        let (_raw, opened) = open(&host, launch(same)).await.unwrap();
        assert_eq!(opened.plan.unwrap().command, ["/usr/bin/npx", "-y", "server@1.2.3"]);
    }
    for other in [&["/usr/bin/env"][..], &["/usr/bin/npx", "-y"], &["/usr/bin/npx", "-y", "server@1.2.3", MARKER], &[""]] {
        let status = refused(&host, launch(other)).await;
        let expected = if other == [""] { "BAD_REQUEST" } else { "COMMAND_NOT_ALLOWED" };
        assert_eq!(reason(&status), expected, "{other:?}: {status:?}");
        assert!(!status.message().contains("mArKeR"));
    }
    let status = refused(&host, launch(&["env"])).await;
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains("`command` in [tool.it]"), "{status:?}");
    let log = log(&host);
    assert!(log.contains("reason=CommandNotAllowed") && log.contains("\"npx\""), "{log}");
    assert!(sessions(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_command_nothing_is_launched() {
    let (host, _daemon) = host(ALL);
    let status = refused(&host, launch(&[])).await;
    assert_eq!(reason(&status), "COMMAND_NOT_ALLOWED");
    assert!(status.message().contains("`--`"), "{status:?}");
    for bad in [&["a\0b"][..], &["x"; 2000]] {
        assert_eq!(reason(&refused(&host, launch(bad)).await), "BAD_REQUEST");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_closed_before_anything_starts() {
    let (host, _daemon) = host(ALL);
    let (mut raw, _) = open(&host, launch(&["node"])).await.unwrap();
    assert!(host.operate(&["revoke", "secret", "a/decoy"]).status.success());
    let status = refused(&host, launch(&["node"])).await;
    assert_eq!(reason(&status), "SECRET_UNAVAILABLE");
    assert!(status.message().contains("a/decoy"), "{status:?}");
    assert!(log(&host).contains("not launched, because a secret is not to be had"), "{}", host.log());
    // What runs already hears it, and goes on.
    let told = raw.hear().await.unwrap();
    assert!(matches!(told, Response::Revoked(revoked) if revoked.name == "a/decoy"));
    assert_eq!(raw.secret(1, "a/key").await.value, MARKER.as_bytes());
    // One that no launcher delivers is no matter.
    reload(&host);
    assert!(host.operate(&["revoke", "secret", "b/key"]).status.success());
    open(&host, launch(&["node"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_source_never_had_is_not_launched_without() {
    let host = Host::new();
    let source = host.seal(&[("a/key", MARKER.as_bytes())]);
    let secrets = Host::secrets(&["a/key", "no/key"]) + "required = false\n";
    let tool =
        "[tool.it]\nrun-as = { user = \"0\" }\nsecrets.\"a/key\" = { env = \"A\" }\nsecrets.\"no/key\" = { file = \"B\" }\n";
    host.configure("", &format!("{source}{secrets}{tool}"));
    let _daemon = host.start();
    let status = refused(&host, launch(&["node"])).await;
    assert_eq!((reason(&status).as_str(), status.message().contains("no/key")), ("SECRET_UNAVAILABLE", true), "{status:?}");
    assert!(sessions(&host).is_empty());
}

/// Not a test: the part of a launcher in `a_launcher_that_becomes_its_tool_...`. It opens, gets, says so, hangs up, and becomes a tool
/// that lives until its input ends.
#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn a_launcher() {
    let Ok(socket) = std::env::var("TEST_SOCKET") else { return };
    let mut raw = Raw::start(&mut raw::broker(socket.as_ref()).await).await.unwrap();
    raw.say(Request::Open(launch(&["/bin/cat"])));
    let Ok(Response::Opened(opened)) = raw.hear().await else { panic!("it is not opened") };
    assert!(!opened.plan.unwrap().redact);
    assert_eq!(raw.secret(1, "a/key").await.value, MARKER.as_bytes());
    println!("session {}", opened.session);
    drop(raw);
    panic!("{}", Command::new("/bin/cat").exec());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_becomes_its_tool_has_a_session_as_long_as_that_lives() {
    let (host, _daemon) = host("secrets.\"a/key\" = { env = \"A_KEY\" }\nredact = false\n");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_launcher", "--ignored", "--nocapture"]).env("TEST_SOCKET", host.tools_socket());
    let mut tool = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tool.stdout.take().unwrap()).lines().map(Result::unwrap);
    let session = lines.find_map(|line| line.split_once("session ").map(|(_, id)| id.to_owned())).unwrap();
    let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    eventually("it has become its tool", || program(tool.id()).ends_with("cat"));
    // The stream is gone by now, as it was made to be closed at exec: wait for the daemon to have seen that.
    eventually("the connection is gone", || metrics(&host).contains("valetkey_connections{socket=\"tools\"} 0.0\n"));
    let open = sessions(&host);
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((&open[0]["session"], &open[0]["form"], &open[0]["pid"]), (&session.into(), &"process".into(), &tool.id().into()));
    assert_eq!(open[0]["held"][0]["secret"], "a/key");
    let text = String::from_utf8(host.operate(&["sessions"]).stdout).unwrap();
    assert!(text.contains("process"), "{text}");
    // A new policy judges it like any other.
    reload(&host);
    assert_eq!(sessions(&host).len(), 1);
    drop(tool.stdin.take());
    assert!(tool.wait().unwrap().success());
    eventually("it ends with the process", || sessions(&host).is_empty());
    assert!(log(&host).contains("why=ProcessGone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_judges_what_is_launched() {
    let (host, _daemon) = host(ALL);
    let (mut raw, _) = open(&host, launch(&["node", "index.js"])).await.unwrap();
    // It is pinned to what runs, it gets one more, and one comes another way: all that is no reason.
    configure(
        &host,
        &format!("{}command = [\"node\", \"index.js\"]\n", ALL.replace("\"b/key\" = {}", "\"b/key\" = { env = \"B\" }")),
    );
    reload(&host);
    assert_eq!(raw.secret(1, "a/key").await.value, MARKER.as_bytes());
    assert_eq!(sessions(&host)[0]["scope"].as_array().unwrap().len(), 2, "what it has stays what it was launched with");
    configure(&host, &format!("{ALL}command = [\"python\"]\n"));
    reload(&host);
    let Ok(Response::Revoked(revoked)) = raw.hear().await else { panic!("it is not told") };
    assert_eq!((revoked.name.as_str(), revoked.reason().as_str_name()), ("", "REASON_SCOPE_NOT_ALLOWED"));
    eventually("it is ended", || sessions(&host).is_empty());

    let (mut raw, _) = open(&host, launch(&[])).await.unwrap();
    configure(&host, "secrets.\"a/key\" = { env = \"A_KEY\" }\ncommand = [\"python\"]\n");
    reload(&host);
    assert!(matches!(raw.hear().await, Ok(Response::Revoked(_))), "a grant is gone");
}

fn found(name: &str, encoding: &str, count: u64) -> Redacted {
    let channel = Channel::Stdout.into();
    Redacted { name: name.into(), version: "1".into(), channel, encoding: encoding.into(), count, ..Redacted::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_counted_and_told() {
    let (host, _daemon) = host(ALL);
    let (mut raw, opened) = open(&host, launch(&["node"])).await.unwrap();
    raw.say(Request::Redacted(found("a/key", "base64", 3)));
    raw.say(Request::Redacted(Redacted { channel: Channel::Stderr.into(), stopped: true, ..found("a/key", "raw", 1) }));
    raw.say(Request::Redacted(Redacted { name: String::new(), version: String::new(), ..found("", "shape", 2) }));
    // In order: what follows is answered when they are dealt with.
    raw.secret(1, "a/key").await;
    let log = log(&host);
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a value was found where none should be")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for part in
        ["WARN", "tool=it", "secret=a/key", "version=1", "channel=\"stdout\"", "encoding=\"base64\"", "count=3", "stopped=false"]
    {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
    assert!(lines[0].contains(&format!("session={}", opened.session)), "{}", lines[0]);
    assert!(lines[1].contains("channel=\"stderr\"") && lines[1].contains("stopped=true"), "{}", lines[1]);
    assert!(lines[2].contains("secret=-") && lines[2].contains("encoding=\"shape\""), "{}", lines[2]);

    let page = metrics(&host);
    for (labels, count) in [
        ("secret=\"a/key\",channel=\"stdout\",encoding=\"base64\"", 3),
        ("secret=\"a/key\",channel=\"stderr\",encoding=\"raw\"", 1),
        ("secret=\"\",channel=\"stdout\",encoding=\"shape\"", 2),
    ] {
        let line = format!("valetkey_redactions_total{{tool=\"it\",{labels}}} {count}\n");
        assert!(page.contains(&line), "{line} is not in {page}");
    }
    assert_eq!(json(&host, "tools")["tools"][0]["redactions"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_raises_the_alarm() {
    let (host, _daemon) = host(ALL);
    let (mut raw, _) = open(&host, launch(&["node"])).await.unwrap();
    raw.say(Request::Redacted(found("a/decoy", "raw", 1)));
    raw.secret(1, "a/key").await;
    let log = log(&host);
    let line = log.lines().find(|line| line.contains("CANARY")).unwrap_or_else(|| panic!("no alarm in {log}"));
    assert!(line.contains("ERROR") && line.contains("secret=a/decoy") && line.contains("tool=it"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_reports_is_a_line_and_an_exact_number() {
    let (host, _daemon) = host(ALL);
    let (mut raw, _) = open(&host, launch(&["node"])).await.unwrap();
    for _ in 0..5000 {
        raw.say(Request::Redacted(found("a/key", "raw", 2)));
    }
    raw.secret(1, "a/key").await;
    assert!(
        metrics(&host)
            .contains("valetkey_redactions_total{tool=\"it\",secret=\"a/key\",channel=\"stdout\",encoding=\"raw\"} 10000\n")
    );
    let told = || log(&host).matches("a value was found").count();
    // On a slow machine ten seconds may pass meanwhile.
    assert!((1..=3).contains(&told()), "{}", host.log());
    eventually("the rest is summed up", || log(&host).contains("total=10000"));
    assert!((2..=4).contains(&told()), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_make_no_sense_end_the_stream() {
    let (host, _daemon) = host(ALL);
    let bad = [
        found("b/key", "raw", 1),
        found("no/such", "raw", 1),
        found(MARKER, "raw", 1),
        found("a/key", "rot13", 1),
        found("a/key", "raw", 0),
        found("a/key", "raw", u64::MAX),
        Redacted { version: "a b".into(), ..found("a/key", "raw", 1) },
        Redacted { channel: 0, ..found("a/key", "raw", 1) },
        Redacted { channel: 99, ..found("a/key", "raw", 1) },
    ];
    for report in bad {
        let (mut raw, _) = open(&host, launch(&["node"])).await.unwrap();
        raw.say(Request::Redacted(report.clone()));
        let status = raw.hear().await.err().unwrap_or_else(|| panic!("{report:?} is taken"));
        assert_eq!(reason(&status), "BAD_REQUEST", "{report:?}");
    }
    // Nor from a tool that nobody launched.
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    raw.say(Request::Redacted(found("a/key", "raw", 1)));
    assert_eq!(reason(&raw.hear().await.err().unwrap()), "BAD_REQUEST");
    assert!(!log(&host).contains("a value was found"));
    assert_eq!(json(&host, "tools")["tools"][0]["redactions"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_which_program_and_no_more() {
    let (host, _daemon) = host(ALL);
    let (_raw, _) = open(&host, launch(&["/opt/mArKeR/bin/node", "--token", MARKER])).await.unwrap();
    let log = log(&host);
    let line = log.lines().find(|line| line.contains("session opened")).unwrap();
    assert!(line.contains("program=\"node\"") && line.contains("secrets=2"), "{line}");
    assert!(!String::from_utf8(host.operate(&["sessions", "--json"]).stdout).unwrap().contains("mArKeR"));
}

/// Has a text cleaned that comes in these pieces.
async fn redact(host: &Host, session: &str, pieces: &[&str]) -> Result<Vec<RedactResponse>, Status> {
    let mut requests: Vec<_> =
        pieces.iter().map(|piece| RedactRequest { text: piece.as_bytes().to_vec(), ..RedactRequest::default() }).collect();
    requests[0].session = session.into();
    let mut answers = raw::broker(&host.tools_socket()).await.redact(tokio_stream::iter(requests)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

fn text(answers: &[RedactResponse]) -> String {
    answers.iter().map(|answer| String::from_utf8(answer.text.clone()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_cleaned_of_all_and_names_what_the_session_may_know() {
    let (host, _daemon) = host(ALL);
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = raw::open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let (first, rest) = MARKER.split_at(7);
    let answers = redact(&host, &session, &["a line\nkey=", first, rest, &format!(" and {OTHER}\nend"), " of it"]).await.unwrap();
    assert_eq!(text(&answers), "a line\nkey=[redacted:a/key] and [redacted]\nend of it");
    assert_eq!(answers[0].text, b"a line\n", "a line that is complete does not wait");
    let found: Vec<_> = answers.iter().flat_map(|answer| &answer.found).collect();
    let told: Vec<_> =
        found.iter().map(|one| (one.name.as_str(), one.version.as_str(), one.encoding.as_str(), one.count, one.line)).collect();
    assert_eq!(told, [("", "", "", 1, 2), ("a/key", "1", "raw", 1, 2)], "what is outside the scope is not named");
    // The version before is found as well, while a process may still have it.
    host.seal(&[("a/key", b"another-value-of-it")]);
    assert!(host.operate(&["refresh"]).status.success());
    let answers = redact(&host, &session, &[&format!("{MARKER} another-value-of-it")]).await.unwrap();
    assert_eq!(text(&answers), "[redacted:a/key] [redacted:a/key]");
    assert!(
        metrics(&host).contains("valetkey_redactions_total{tool=\"it\",secret=\"b/key\",channel=\"text\",encoding=\"raw\"} 1\n")
    );
    assert!(!log(&host).contains("CANARY"));
    redact(&host, &session, &[DECOY]).await.unwrap();
    assert!(log(&host).contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_open_session_of_its_own_has_a_text_cleaned() {
    let (host, _daemon) = host(&format!("{ALL}limits = {{ per-minute = 60, concurrent = 16, per-session = 1000 }}\n"));
    for nothing in ["", "no-such", "00000000000000000000000000000000"] {
        let status = redact(&host, nothing, &["text"]).await.err().unwrap();
        assert_eq!(reason(&status), "SESSION_NOT_OPEN", "{nothing}");
    }
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = raw::open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let status = {
        let again = |text: &str| RedactRequest { session: session.clone(), text: text.into(), ..RedactRequest::default() };
        let mut answers = broker.redact(tokio_stream::iter([again("a\n"), again("b\n")])).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().text, b"a\n");
        answers.message().await.err().unwrap()
    };
    assert_eq!(reason(&status), "BAD_REQUEST", "named twice");
    // It counts against the tool's limit: sixty a minute, ten at once.
    let mut passed = 0;
    let limited = loop {
        match redact(&host, &session, &["x"]).await {
            Ok(_) => passed += 1,
            Err(status) => break status,
        }
        assert!(passed < 60, "no limit");
    };
    assert_eq!(reason(&limited), "LIMIT_REACHED");
    broker.close_session(CloseSessionRequest { session: session.clone() }).await.unwrap();
    assert_eq!(reason(&redact(&host, &session, &["x"]).await.err().unwrap()), "SESSION_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_never_end_do_not_pile_up() {
    let (host, mut daemon) = host(ALL);
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = raw::open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let mut open = Vec::new();
    let limited = loop {
        let (up, requests) = tokio::sync::mpsc::channel(1);
        up.send(RedactRequest { session: session.clone(), text: b"begun\nno end".to_vec(), shapes: false }).await.unwrap();
        match broker.redact(tokio_stream::wrappers::ReceiverStream::new(requests)).await {
            Ok(answers) => {
                let mut answers = answers.into_inner();
                assert_eq!(answers.message().await.unwrap().unwrap().text, b"begun\n");
                open.push((up, answers));
            }
            Err(status) => break status,
        }
        assert!(open.len() < 100, "no limit");
    };
    assert_eq!((open.len(), reason(&limited).as_str()), (8, "LIMIT_REACHED"));
    // One that is done makes room.
    drop(open.pop());
    let again = async || redact(&host, &session, &["x"]).await;
    let mut room = again().await;
    for _ in 0..500 {
        if room.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        room = again().await;
    }
    room.unwrap();
    // They end with the session,
    broker.close_session(CloseSessionRequest { session: session.clone() }).await.unwrap();
    let status = open[0].1.message().await.err().unwrap();
    assert_eq!(reason(&status), "SESSION_NOT_OPEN");
    // and none keeps the daemon from stopping.
    drop(open);
    let mut admin = host.admin().await;
    let (_up, requests) = tokio::sync::mpsc::channel::<RedactRequest>(1);
    let _answers = admin.redact(tokio_stream::wrappers::ReceiverStream::new(requests)).await.unwrap();
    let begun = std::time::Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!log(&host).contains("drain-timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_values_is_slow() {
    let (host, _daemon) = host(ALL);
    let mut broker = raw::broker(&host.tools_socket()).await;
    let session = raw::open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    // 3 MiB go through at once, and what is above them at 16 MiB a minute.
    let line = format!("{}\n", "guess-at-a-value ".repeat(1000));
    let piece = line.repeat(12);
    let pieces = vec![piece.as_str(); 24];
    let begun = std::time::Instant::now();
    redact(&host, &session, &pieces).await.unwrap();
    let over = (pieces.len() * piece.len()) as f64 / 1048576.0 - 16.0 / 6.0;
    let least = Duration::from_secs_f64(over / 16.0 * 60.0 * 0.8);
    assert!(begun.elapsed() > least, "{:?} is less than {least:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_launcher_opened_is_not_renewed() {
    let (host, _daemon) = host(ALL);
    let (mut raw, opened) = open(&host, launch(&["node"])).await.unwrap();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let status = broker.renew_session(RenewSessionRequest { session: opened.session }).await.err().unwrap();
    assert_eq!(reason(&status), "BAD_REQUEST");
    raw.say(Request::Get(Get { id: 1, name: "a/key".into(), fresh: false }));
    assert!(matches!(raw.hear().await, Ok(Response::Secret(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_how_a_secret_is_delivered_and_what_that_shows() {
    let (host, _daemon) = host(&format!("{ALL}command = [\"npx\", \"server\"]\n"));
    let explain = |secret: &str, more: &[&str]| host.operate(&[&["explain", "it", secret], more].concat());
    let text = |secret| String::from_utf8(explain(secret, &[]).stdout).unwrap();
    for (secret, parts) in [
        ("a/key", ["in the variable A_KEY", "/proc/PID/environ"]),
        ("a/decoy", ["a canary that nobody uses", "/proc/PID/fd"]),
        ("b/key", ["over gRPC", "in the memory of the tool alone"]),
    ] {
        let said = text(secret);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let said: serde_json::Value = serde_json::from_slice(&explain("a/decoy", &["--json"]).stdout).unwrap();
    assert_eq!(said["delivery"], "fd DECOY_FILE");
    assert!(said["exposure"].as_str().unwrap().contains("child_process"), "{said}");
    let offline = host.valetkey(&["explain", "it", "a/decoy", "--json", "--config", host.config().to_str().unwrap()]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&offline.stdout).unwrap()["exposure"], said["exposure"]);

    let tools = json(&host, "tools");
    assert_eq!(tools["tools"][0]["command"], serde_json::json!(["npx", "server"]));
    assert_eq!(
        tools["tools"][0]["deliveries"],
        serde_json::json!([
            { "secret": "a/decoy", "by": "fd", "variable": "DECOY_FILE" },
            { "secret": "a/key", "by": "env", "variable": "A_KEY" },
            { "secret": "b/key", "by": "rpc", "variable": null },
        ])
    );
    let text = String::from_utf8(host.operate(&["tools"]).stdout).unwrap();
    assert!(text.contains("npx server") && text.contains("REDACTIONS"), "{text}");
}

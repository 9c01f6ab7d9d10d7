//! What deserves a shout is heard: by a real program and a real HTTP server.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use daemon::{Host, eventually};
use raw::Raw;
use serde_json::Value;
use valetkey::proto::v1::{RedactRequest, session_response::Response};

const VALUE: &[u8] = b"value-of-a-key-7f3a";
const DECOY: &str = "value-of-the-decoy-9b1c";

/// This process is `it`, and may have one of three secrets.
fn host(alarm: &str) -> Host {
    let host = Host::new();
    let source = host.seal(&[("a/key", VALUE), ("b/key", VALUE), ("c/decoy", DECOY.as_bytes())]);
    let secrets = Host::secrets(&["a/key", "b/key", "c/decoy"]) + "canary = true\n";
    let tools = Host::tool("it", 0, &["a/key"]) + &Host::tool("other", 4242, &["b/key", "c/decoy"]);
    let alarm = format!("[alarm]\nstate-file = \"{}\"\n{alarm}", host.path("alarm.json").display());
    host.configure("", &format!("{source}{secrets}{tools}{alarm}"));
    host
}

/// A program that keeps each alarm that it is given, in a file.
fn hook(host: &Host) -> (String, PathBuf) {
    let (program, heard) = (host.path("hook"), host.path("heard"));
    fs::write(&program, format!("#!/bin/sh\ncat >> {}\n", heard.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program.to_str().unwrap().into(), heard)
}

fn heard(file: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn kinds(file: &PathBuf) -> Vec<String> {
    heard(file).iter().map(|alarm| alarm["alarm"].as_str().unwrap().to_owned()).collect()
}

fn with_hook() -> (Host, PathBuf) {
    let host = host("");
    let (program, heard) = hook(&host);
    let text = fs::read_to_string(host.config()).unwrap();
    host.write("valetkey.toml", &format!("{text}hook = [\"{program}\"]\ndenials-per-minute = 8\n"));
    (host, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_hears_of_each_and_of_no_value() {
    let (host, file) = with_hook();
    let mut daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    raw.secret(1, "a/key").await;
    eventually("the first use is heard", || kinds(&file) == ["first-use"]);
    let first = &heard(&file)[0];
    assert_eq!((first["tool"].as_str(), first["secret"].as_str(), first["uid"].as_u64()), (Some("it"), Some("a/key"), Some(0)));
    assert_eq!((first["schema"].as_u64(), first["count"].as_u64()), (Some(1), Some(1)));
    assert!(first["time"].as_str().unwrap().ends_with('Z') && !first["host"].as_str().unwrap().is_empty(), "{first}");
    raw.secret(2, "a/key").await;

    // A secret that there is; one that there is not is a denial, and nothing to shout about.
    assert!(matches!(raw.get(3, "no/such").await, Ok(Response::Failed(_))));
    for id in 4..14 {
        assert!(matches!(raw.get(id, "b/key").await, Ok(Response::Failed(_))));
    }
    eventually("both are heard", || kinds(&file).len() == 3);
    let all = heard(&file);
    let denied = all.iter().find(|alarm| alarm["alarm"] == "denied-secret").unwrap();
    assert_eq!((denied["secret"].as_str(), denied["count"].as_u64()), (Some("b/key"), Some(1)));
    assert!(all.iter().any(|alarm| alarm["alarm"] == "denials-per-minute" && alarm["tool"] == "it"), "{all:#?}");

    let session = raw::open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    let text = RedactRequest { session, text: format!("it says {DECOY}\n").into(), ..RedactRequest::default() };
    let mut answers = broker.redact(tokio_stream::iter([text])).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    eventually("the canary is heard", || kinds(&file).contains(&"canary".into()));
    // What was summed up is told at the end.
    assert!(daemon.stop().success());
    let all = heard(&file);
    let denied: u64 =
        all.iter().filter(|alarm| alarm["alarm"] == "denied-secret").map(|one| one["count"].as_u64().unwrap()).sum();
    assert_eq!(denied, 10, "{all:#?}");
    let said = fs::read_to_string(&file).unwrap() + &host.log() + &fs::read_to_string(host.path("alarm.json")).unwrap();
    assert!(!said.contains(DECOY) && !said.contains("value-of-a-key"), "{said}");
    assert!(host.log().contains("ALARM: it was handed a/key"), "{}", host.log());

    // A restart has forgotten nothing.
    let _again = host.start();
    let before = heard(&file).len();
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &["a/key"]).await.unwrap();
    raw.secret(1, "a/key").await;
    assert!(matches!(raw.get(2, "b/key").await, Ok(Response::Failed(_))));
    eventually("what comes after it is heard", || heard(&file).len() > before);
    assert_eq!(kinds(&file).iter().filter(|kind| *kind == "first-use").count(), 1);
}

/// A server that answers each request with the next of these.
fn server(answers: &'static [&'static str]) -> (u16, mpsc::Receiver<(Vec<String>, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_lowercase());
            }
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            (&stream).write_all(text.as_bytes()).unwrap();
            tell.send((head, String::from_utf8(body).unwrap())).unwrap();
        }
    });
    (port, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_hears_of_it_with_a_token_and_again_where_it_must() {
    let (port, told) = server(&["503 Busy", "307 Elsewhere\r\nLocation: http://127.0.0.1:1/", "204 No Content"]);
    let host = host("");
    host.write("token", "a-token-of-alarms\n");
    let text = fs::read_to_string(host.config()).unwrap();
    let token = host.path("token");
    let webhook = format!("webhook = {{ url = \"http://127.0.0.1:{port}/in\", token-file = \"{}\" }}\n", token.display());
    host.write("valetkey.toml", &format!("{text}{webhook}"));
    let mut daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    raw.secret(1, "a/key").await;
    let hear = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    let (head, body) = hear();
    assert_eq!(head[0], "post /in http/1.1");
    for line in ["content-type: application/json", "authorization: bearer a-token-of-alarms"] {
        assert!(head.iter().any(|one| one == line), "{head:?}");
    }
    let alarm: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((alarm["alarm"].as_str(), alarm["secret"].as_str()), (Some("first-use"), Some("a/key")));
    assert_eq!(hear().1, body, "a fault of the moment is tried again; this one leads elsewhere, and nobody follows it");
    assert!(matches!(raw.get(2, "b/key").await, Ok(Response::Failed(_))));
    let (_, body) = hear();
    assert!(body.contains("denied-secret") && !body.contains("value-of"), "{body}");
    assert!(daemon.stop().success());
    let log = host.log();
    assert!(log.contains("an alarm could not be delivered: the webhook answers 307"), "{log}");
    assert!(!log.contains("a-token-of-alarms"));
}

/// The addresses of chat channels are credentials.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_a_credential_stays_in_its_file() {
    let (port, told) = server(&["200 OK", "403 Forbidden"]);
    let host = host("");
    let file = host.path("address");
    let put = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(&format!("http://127.0.0.1:{port}/hooks/T0001/a-channel-key?wait=true\n"));
    let text = fs::read_to_string(host.config()).unwrap();
    host.write("valetkey.toml", &format!("{text}webhook = {{ url-file = \"{}\" }}\n", file.display()));
    let mut daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    raw.secret(1, "a/key").await;
    let hear = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(hear().0[0], "post /hooks/t0001/a-channel-key?wait=true http/1.1");
    // It is read anew for each alarm; and never told, wherever it leads.
    put(&format!("http://127.0.0.1:{port}/hooks/T0001/another-channel-key"));
    assert!(matches!(raw.get(2, "b/key").await, Ok(Response::Failed(_))));
    assert_eq!(hear().0[0], "post /hooks/t0001/another-channel-key http/1.1");
    assert!(daemon.stop().success());
    put("http://alerts.example.com/hooks/T0001/a-third-channel-key");
    let mut daemon = host.start();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    assert!(matches!(raw.get(1, "b/key").await, Ok(Response::Failed(_))));
    let begun = std::time::Instant::now();
    while !host.log().contains("does not hold an https address") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", host.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    daemon.stop();
    assert!(!host.log().contains("channel-key"), "{}", host.log());
}

#[test]
fn a_hook_that_others_could_change_stops_the_start() {
    let (host, _) = with_hook();
    let hook = host.path("hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
    let out = host.valetkey(&["check", "--config", host.config().to_str().unwrap()]);
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(!out.status.success() && said.contains("`hook` in [alarm] can be changed by others"), "{said}");
}

//! `valetkey redact`: a filter, and a check for CI; with the real daemon and without one.

#[path = "support/daemon.rs"]
mod daemon;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Output, Stdio},
};

use daemon::{Host, eventually};

const KEY: &str = "mArKeR-4711-of-a-key";
const OTHER: &str = "mArKeR-4711-of-another";
const DECOY: &str = "mArKeR-4711-of-a-decoy";

fn host() -> (Host, daemon::Daemon) {
    let host = Host::new();
    let source = host.seal(&[("a/key", KEY.as_bytes()), ("b/key", OTHER.as_bytes()), ("a/decoy", DECOY.as_bytes())]);
    let secrets = Host::secrets(&["a/key", "b/key", "a/decoy"]) + "canary = true\n";
    host.configure("", &format!("{source}{secrets}{}", Host::tool("it", 0, &["a/key", "b/key", "a/decoy"])));
    let daemon = host.start();
    (host, daemon)
}

/// The command with this environment.
fn command(host: &Host, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    command.arg("redact").args(arguments).env_clear().env("HOME", host.dir.path()).envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run(host: &Host, arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
    let mut child = command(host, arguments, environment);
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn admin(host: &Host) -> String {
    host.admin_socket().to_str().unwrap().into()
}

fn tools(host: &Host) -> String {
    host.tools_socket().to_str().unwrap().into()
}

fn out(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

fn text() -> String {
    format!("clean\nkey={KEY} {{\"b\":\"{OTHER}\"}}\n\nBasic {}\nno end {KEY}", base64(&format!("user:{KEY}")))
}

#[test]
fn an_operator_filters_what_the_daemon_holds() {
    let (host, _daemon) = host();
    let (code, stdout, stderr) = out(&run(&host, &["--socket", &admin(&host)], &[], text().as_bytes()));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(!stdout.contains("mArKeR") && !stdout.contains(&base64(KEY)[..12]), "{stdout}");
    let lines: Vec<_> = stdout.split('\n').collect();
    assert_eq!(lines[..3], ["clean", "key=[redacted:a/key] {\"b\":\"[redacted:b/key]\"}", ""]);
    assert!(lines[3].starts_with("Basic ") && lines[3].contains("[redacted:a/key]"), "{stdout}");
    assert_eq!((lines[4], lines.len()), ("no end [redacted:a/key]", 5));
    assert!(host.log().contains("an operator has a text cleaned") && !host.log().contains("mArKeR"));
    assert!(!host.log().contains("CANARY"));
    run(&host, &["--check", "--socket", &admin(&host)], &[], DECOY.as_bytes());
    assert!(host.log().contains("CANARY"), "{}", host.log());
}

#[test]
fn a_tool_is_told_the_names_of_its_session() {
    let (host, _daemon) = host();
    let (code, stdout, stderr) =
        out(&run(&host, &["--tool", "it", "--secret", "b/key", "--socket", &tools(&host)], &[], text().as_bytes()));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stderr}");
    assert!(
        stdout.starts_with("clean\nkey=[redacted] {\"b\":\"[redacted:b/key]\"}\n\n") && stdout.ends_with("no end [redacted]"),
        "{stdout}"
    );
    let check = ["--check", "--json", "--tool", "it", "--secret", "b/key", "--socket", &tools(&host)];
    let (code, stdout, _) = out(&run(&host, &check, &[], text().as_bytes()));
    assert_eq!(code, Some(3));
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        found["found"],
        serde_json::json!([
            { "secret": null, "form": null, "count": 3, "lines": [2, 4, 5] },
            { "secret": "b/key", "form": "raw", "count": 1, "lines": [2] },
        ])
    );
    let (code, _, stderr) = out(&run(&host, &["--tool", "other", "--secret", "b/key", "--socket", &tools(&host)], &[], b"x"));
    assert!(code == Some(3) && stderr.contains("TOOL_NOT_ALLOWED"), "{stderr}");
    let (code, _, stderr) = out(&run(&host, &["--tool", "it", "--socket", &tools(&host)], &[], b"x"));
    assert!(code == Some(2) && stderr.contains("--secret"), "{stderr}");
}

#[test]
fn a_check_tells_names_forms_numbers_and_lines_and_never_a_value() {
    let host = Host::new();
    let environment = [("API_KEY", KEY), ("OTHER", OTHER)];
    let check = |more: &[&str], input: &str| {
        out(&run(
            &host,
            &[&["--check", "--variable", "API_KEY", "--variable", "OTHER"], more].concat(),
            &environment,
            input.as_bytes(),
        ))
    };
    let (code, stdout, stderr) = check(&[], &text());
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    let expected =
        "SECRET   FORM    TIMES  LINES\nAPI_KEY  base64  1      4\nAPI_KEY  raw     2      2, 5\nOTHER    raw     1      2\n";
    assert_eq!(stderr, expected);
    let (code, stdout, stderr) = check(&["--json"], &text());
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, stderr.as_str()), (Some(3), ""));
    assert_eq!(found["found"][1], serde_json::json!({ "secret": "API_KEY", "form": "raw", "count": 2, "lines": [2, 5] }));
    assert_eq!(check(&[], "clean\n"), (Some(0), String::new(), String::new()));
    let (code, stdout, _) = check(&["--json"], "");
    assert_eq!(
        (code, serde_json::from_str(&stdout).unwrap()),
        (Some(0), serde_json::json!({ "found": [], "not_looked_for": [] }))
    );
}

#[test]
fn a_sealed_file_is_enough() {
    let host = Host::new();
    host.seal(&[("a/key", KEY.as_bytes()), ("b/key", b"short")]);
    let (sealed, identity) = (host.path("secrets.sealed"), host.path("identity.key"));
    let arguments = ["--sealed", sealed.to_str().unwrap(), "--identity", identity.to_str().unwrap()];
    let (code, stdout, stderr) = out(&run(&host, &arguments, &[], text().as_bytes()));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("key=[redacted:a/key]") && stderr.contains("b/key has fewer than 8 bytes"), "{stdout}{stderr}");
    // Beside a variable.
    let both = [&arguments[..], &["--variable", "X"]].concat();
    let (_, stdout, _) = out(&run(&host, &both, &[("X", OTHER)], text().as_bytes()));
    assert!(stdout.contains("[redacted:X]") && stdout.contains("[redacted:a/key]"), "{stdout}");
    let (code, stdout, stderr) = out(&run(&host, &["--sealed", "/no/such", "--identity", "/no/such"], &[], b"x"));
    assert!((code, stdout.as_str()) == (Some(1), "") && !stderr.is_empty(), "{stderr}");
}

#[test]
fn a_check_for_nothing_is_an_error() {
    let host = Host::new();
    for (arguments, environment, code, says) in [
        (&["--variable", "NO_SUCH"][..], &[][..], 2, "there is no variable NO_SUCH with a value"),
        (&["--variable", "EMPTY"], &[("EMPTY", "")], 2, "there is no variable EMPTY with a value"),
        (&["--variable", "SHORT"], &[("SHORT", "1234567")], 1, "no value of 8 bytes or more"),
        (&["--variable", "not a name"], &[], 2, "hint"),
        (&["--json"], &[], 2, "--check"),
        (&["--socket", "/no/such.sock"], &[], 4, "no broker answers"),
    ] {
        let arguments = [arguments, if arguments[0] == "--json" { &[] } else { &["--check"] }].concat();
        let (found, stdout, stderr) = out(&run(&host, &arguments, environment, b"text"));
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

/// Over pipes that stay open: a line that is complete is passed on, and what is not waits.
fn streams(mut child: Child) {
    let (mut into, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    let mut turn = |write: &[&str], expected: &str| {
        for part in write {
            into.write_all(part.as_bytes()).unwrap();
            into.flush().unwrap();
        }
        line.clear();
        from.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    };
    let (first, rest) = KEY.split_at(9);
    turn(&["one\n"], "one\n");
    turn(&["two ", first, rest, "\n"], "two [redacted:a/key]\n");
    turn(&["three\nhalf of the next"], "three\n");
    drop(into);
    let mut rest = String::new();
    from.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "half of the next");
    assert!(child.wait().unwrap().success());
}

#[test]
fn each_complete_line_goes_out_at_once() {
    let (host, _daemon) = host();
    streams(command(&host, &["--socket", &admin(&host)], &[]));
    streams(command(&host, &["--tool", "it", "--secret", "a/key", "--socket", &tools(&host)], &[]));
    let (sealed, identity) = (host.path("secrets.sealed"), host.path("identity.key"));
    streams(command(&host, &["--sealed", sealed.to_str().unwrap(), "--identity", identity.to_str().unwrap()], &[]));
}

/// Most memory it ever had, in KiB.
fn peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_long_text_takes_no_more_memory_than_a_short_one() {
    let host = Host::new();
    let mut child = command(&host, &["--variable", "API_KEY"], &[("API_KEY", KEY)]);
    let (mut into, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        let (mut found, mut total, mut piece) = (0, 0, vec![0; 1 << 16]);
        while let Ok(length @ 1..) = from.read(&mut piece) {
            total += length;
            found += piece[..length].iter().filter(|b| **b == b'[').count();
        }
        (found, total)
    });
    let line = format!("{} {KEY} {}\n", "x y z ".repeat(50), "text ".repeat(50));
    let block = line.repeat(100);
    let mut early = 0;
    for round in 0..200 {
        into.write_all(block.as_bytes()).unwrap();
        if round == 20 {
            early = peak(&child);
        }
    }
    let late = peak(&child);
    drop(into);
    let (found, total) = reading.join().unwrap();
    assert_eq!((found, total), (20_000, 200 * (block.len() - 100 * KEY.len() + 100 * "[redacted:API_KEY]".len())));
    assert!(child.wait().unwrap().success());
    assert!(early > 0 && late < early + 4096, "{early} KiB grew to {late} KiB");
}

#[test]
fn a_line_without_end_is_an_error_and_not_passed_on() {
    let host = Host::new();
    let (code, stdout, stderr) = out(&run(&host, &["--variable", "API_KEY"], &[("API_KEY", KEY)], &vec![b'x'; 9 << 20]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("longer than 8 MiB"), "{stderr}");
    let (host, _daemon) = self::host();
    let (code, stdout, stderr) = out(&run(&host, &["--socket", &admin(&host)], &[], &vec![b'x'; 9 << 20]));
    assert!((code, stdout.as_str()) == (Some(1), "") && stderr.contains("longer than 8 MiB"), "{code:?} {stderr}");
}

#[test]
fn a_variable_that_is_looked_for_is_in_no_environment_any_more() {
    let host = Host::new();
    let mut child = command(&host, &["--variable", "API_KEY"], &[("API_KEY", KEY)]);
    let environ = || std::fs::read(format!("/proc/{}/environ", child.id())).unwrap();
    eventually("it is wiped", || !environ().windows(KEY.len()).any(|part| part == KEY.as_bytes()) && !environ().is_empty());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn bytes_that_are_no_text_pass_as_they_are() {
    let host = Host::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let output = run(&host, &["--variable", "API_KEY"], &[("API_KEY", KEY)], &bytes);
    assert!(output.status.success() && output.stdout == bytes);
}

/// Put together here: a scanner of repositories would take it for a real one.
fn github_token() -> String {
    format!("ghp_{}", "aB3dE5gH7jK9".repeat(3))
}

/// The block of a private key, in four lines.
fn private_key() -> String {
    let body = format!("{}\n", "aB3dE5gH7jK9mN1p".repeat(4)).repeat(2);
    format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----")
}

#[test]
fn shapes_are_taken_out_where_that_is_asked_for() {
    let (host, _daemon) = host();
    let input = format!("key={KEY}\ntoken {}\n{}\nend\n", github_token(), private_key());
    let clean = "key=[redacted:a/key]\ntoken [redacted:shape/github-token]\n[redacted:shape/private-key]\nend\n";
    let (admin, tools) = (admin(&host), tools(&host));
    host.seal(&[("a/key", KEY.as_bytes())]);
    let (sealed, identity) = (host.path("secrets.sealed"), host.path("identity.key"));
    for arguments in [
        &["--socket", &admin][..],
        &["--tool", "it", "--secret", "a/key", "--socket", &tools],
        &["--sealed", sealed.to_str().unwrap(), "--identity", identity.to_str().unwrap()],
    ] {
        let with = [&["--shapes"], arguments].concat();
        let (code, stdout, stderr) = out(&run(&host, &with, &[], input.as_bytes()));
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), clean, ""), "{arguments:?}");
        let (code, _, stderr) = out(&run(&host, &[&["--check"], &with[..]].concat(), &[], input.as_bytes()));
        let told = "SECRET              FORM   TIMES  LINES\n\
            a/key               raw    1      1\nshape/github-token  shape  1      2\nshape/private-key   shape  1      3\n";
        assert_eq!((code, stderr.as_str()), (Some(3), told), "{arguments:?}");
        let (_, stdout, _) = out(&run(&host, arguments, &[], input.as_bytes()));
        assert!(stdout.contains(&github_token()), "they are not asked for");
    }
    assert!(host.log().contains("encoding=\"shape\"") && !host.log().contains("shape/"), "a shape is no secret: {}", host.log());
}

#[test]
fn shapes_alone_need_no_daemon() {
    let host = Host::new();
    let input = format!("key={KEY}\n{}\n", github_token());
    let (code, stdout, stderr) = out(&run(&host, &["--shapes=only"], &[], input.as_bytes()));
    assert_eq!((code, stdout, stderr.as_str()), (Some(0), format!("key={KEY}\n[redacted:shape/github-token]\n"), ""));
    let (code, stdout, _) = out(&run(&host, &["--check", "--json", "--shapes=only"], &[], input.as_bytes()));
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(3));
    assert_eq!(
        found["found"],
        serde_json::json!([{ "secret": "shape/github-token", "form": "shape", "count": 1, "lines": [2] }])
    );
    assert_eq!(out(&run(&host, &["--check", "--shapes=only"], &[], b"clean\n")).0, Some(0));
    let (code, _, stderr) = out(&run(&host, &["--shapes=only", "--variable", "X"], &[("X", KEY)], b"x"));
    assert!(code == Some(2) && stderr.contains("--shapes"), "{stderr}");
}

#[test]
fn base64_that_is_broken_into_lines_is_found() {
    let host = Host::new();
    let encoded = base64(&format!("{}{KEY}{}", "x".repeat(40), "y".repeat(60)));
    let wrapped: Vec<_> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let (code, stdout, _) = out(&run(&host, &["--variable", "API_KEY"], &[("API_KEY", KEY)], wrapped.join("\n").as_bytes()));
    let inner = &base64(&format!("{}{KEY}", "x".repeat(42)))[60..80];
    assert!(code == Some(0) && stdout.contains("[redacted:API_KEY]"), "{stdout}");
    assert!(!stdout.replace('\n', "").contains(&inner[..10]), "{stdout}");
}

#[test]
fn a_canary_within_a_longer_value_raises_the_alarm() {
    let host = Host::new();
    let around = format!("around-{DECOY}-around");
    let source = host.seal(&[("a/key", around.as_bytes()), ("a/decoy", DECOY.as_bytes())]);
    let secrets = Host::secrets(&["a/key", "a/decoy"]) + "canary = true\n";
    host.configure("", &format!("{source}{secrets}{}", Host::tool("it", 0, &["a/key", "a/decoy"])));
    let _daemon = host.start();
    let (_, stdout, _) = out(&run(&host, &["--socket", &admin(&host)], &[], format!("got {around} here\n").as_bytes()));
    assert_eq!(stdout, "got [redacted:a/key] here\n");
    let alarm = |log: &str| log.lines().any(|line| line.contains("CANARY") && line.contains("a/decoy"));
    assert!(alarm(&host.log()), "{}", host.log());
}

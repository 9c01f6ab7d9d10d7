//! `valetkey run` as a user has it: the real daemon, the real launcher, real programs behind it.

#[path = "support/daemon.rs"]
mod daemon;
#[allow(dead_code)]
#[path = "support/scan.rs"]
mod scan;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use daemon::{Daemon, Host, eventually};

const NAME: &str = "a/key";
const UNLIMITED: &str = "limits = { per-minute = 1000000, concurrent = 1000, per-session = 1000000 }\n";

/// Made when it runs: a literal would stand in the memory of this program, and in its file.
fn marker(n: u32) -> String {
    format!("mArKeR-{}-{n}-{}", "run".repeat(3), u64::from(n + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A tool `it` with these lines beside its `run-as`.
fn host(tool: &str) -> (Host, Daemon) {
    let host = Host::new();
    host.seal(&[(NAME, marker(1).as_bytes()), ("a/decoy", marker(9).as_bytes())]);
    configure(&host, tool);
    let daemon = host.start();
    (host, daemon)
}

fn configure(host: &Host, tool: &str) {
    let source = host.seal(&[]);
    let secrets = Host::secrets(&[NAME, "a/decoy"]) + "canary = true\n";
    let tool = format!("[tool.it]\nrun-as = {{ user = \"0\" }}\n{tool}\n{UNLIMITED}");
    host.configure("log-level = \"debug\"\n", &format!("{source}{secrets}{tool}"));
}

const ENV: &str = "secrets.\"a/key\" = { env = \"A_KEY\" }\n";

fn launcher(host: &Host, command: &[&str]) -> Command {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    launcher.arg("run").arg("--socket").arg(host.tools_socket()).arg("it");
    if !command.is_empty() {
        launcher.arg("--").args(command);
    }
    launcher.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", host.dir.path());
    launcher.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    launcher
}

fn run(host: &Host, command: &[&str]) -> Output {
    launcher(host, command).output().unwrap()
}

fn sh(host: &Host, script: &str) -> Output {
    run(host, &["sh", "-c", script])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A launched tool that is still there.
struct Launched {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Launched {
    fn start(host: &Host, script: &str) -> Self {
        Self::of(launcher(host, &["sh", "-c", script]))
    }

    fn of(mut launcher: Command) -> Self {
        let mut child = launcher.stdin(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Closes its input, and gives its exit code and the rest of what it said.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), rest + &errors)
    }
}

fn seal(host: &Host, value: &str) {
    host.seal(&[(NAME, value.as_bytes())]);
    let out = host.operate(&["reload"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn the_tool_has_its_secret_and_little_else() {
    let (host, _daemon) = host(&format!("{ENV}environment = [\"PASSED\", \"SET=as said\"]\n"));
    let out = launcher(&host, &["env"]).env("PASSED", "on").env("OTHER_SERVERS_KEY", marker(5)).output().unwrap();
    let mut variables: Vec<String> = text(&out.stdout).lines().map(String::from).collect();
    variables.sort();
    let home = format!("HOME={}", host.dir.path().display());
    assert_eq!(variables, ["A_KEY=[redacted:a/key]", &home, "PASSED=on", "PATH=/usr/bin:/bin", "SET=as said"]);
    let out = launcher(&host, &["sh", "-c", "test ${#A_KEY} -gt 20 && printf %s \"$A_KEY\" | sha256sum"]).output().unwrap();
    let expected = Command::new("sh").args(["-c", &format!("printf %s '{}' | sha256sum", marker(1))]).output().unwrap();
    assert_eq!(text(&out.stdout), text(&expected.stdout), "it is the value itself");
    let mut all = launcher(&host, &["env"]);
    all.env("OTHER_SERVERS_KEY", "passed-on").args(["x"]);
    let mut inherited = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    inherited.args(["run", "--inherit", "it", "--socket"]).arg(host.tools_socket()).args(["--", "env"]);
    let out = inherited.env("OTHER_SERVERS_KEY", "passed-on").output().unwrap();
    assert!(text(&out.stdout).contains("OTHER_SERVERS_KEY=passed-on"));
}

#[test]
fn no_socket_need_be_named_and_no_environment_given() {
    let host = Host::new();
    host.seal(&[(NAME, marker(1).as_bytes()), ("a/decoy", marker(9).as_bytes())]);
    configure(&host, ENV);
    let text_of = fs::read_to_string(host.config()).unwrap();
    let run_dir = host.path(".local/state/valetkey/run");
    fs::create_dir_all(run_dir.parent().unwrap()).unwrap();
    fs::set_permissions(run_dir.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    host.write("valetkey.toml", &text_of.replace(&host.path("run").display().to_string(), &run_dir.display().to_string()));
    let _daemon = host.spawn(&[]);
    eventually("the daemon serves", || run_dir.join("tools.sock").exists());
    let launch = || {
        let mut launcher = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        launcher.args(["run", "it", "--", "/bin/sh", "-c", "echo ${#A_KEY}"]).env_clear().env("HOME", host.dir.path());
        launcher.output().unwrap()
    };
    eventually("it finds the daemon below its home", || launch().status.success());
    assert_eq!(text(&launch().stdout).trim(), marker(1).len().to_string());
}

#[test]
fn files_and_descriptors_hold_the_value_for_the_tool_alone() {
    let (host, _daemon) = host("secrets.\"a/key\" = { file = \"A_FILE\" }\nsecrets.\"a/decoy\" = { fd = \"D_FILE\" }\n");
    let script = "wc -c < $A_FILE; sh -c 'sh -c \"wc -c < $A_FILE\"'; wc -c < $D_FILE; echo x > $A_FILE; \
                  cat $A_FILE $D_FILE; env | grep -c _FILE; echo $A_FILE";
    let out = sh(&host, script);
    let said = text(&out.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let len = marker(1).len().to_string();
    assert_eq!(lines[..3], [&len, &len, &marker(9).len().to_string()], "{said}{}", text(&out.stderr));
    assert_eq!(lines[3..5], ["[redacted:a/key][redacted:a/decoy]2", lines[4]], "{said}");
    let path = Path::new(lines[4]);
    assert!(!path.exists(), "{} is nowhere but in the tool's own namespace", path.display());
}

#[test]
fn nothing_is_started_where_a_secret_cannot_be_had() {
    let (host, daemon) = host(ENV);
    let proof = host.path("started");
    let script = format!("touch {}", proof.display());
    assert!(host.operate(&["revoke", "secret", NAME]).status.success());
    let out = sh(&host, &script);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(NAME), "{}", text(&out.stderr));
    let mut launcher = launcher(&host, &["sh", "-c", &script]);
    drop(daemon);
    let out = launcher.output().unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    assert!(!proof.exists());
}

#[test]
fn policy_says_what_runs() {
    let (host, _daemon) = host(&format!("{ENV}command = [\"sh\", \"-c\", \"echo pinned\"]\n"));
    assert_eq!(text(&run(&host, &[]).stdout), "pinned\n");
    let out = run(&host, &["sh", "-c", "echo other"]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(3), ""));
    assert!(text(&out.stderr).contains("COMMAND_NOT_ALLOWED"), "{}", text(&out.stderr));
}

#[test]
fn exit_codes_are_those_of_the_tool() {
    let (host, _daemon) = host(ENV);
    assert_eq!(sh(&host, "exit 42").status.code(), Some(42));
    assert_eq!(sh(&host, "kill -TERM $$").status.code(), Some(143));
    assert_eq!(run(&host, &["no-such-program"]).status.code(), Some(127));
    assert_eq!(run(&host, &["/etc/passwd"]).status.code(), Some(126));
}

#[test]
fn without_redaction_the_launcher_becomes_the_tool() {
    let (host, _daemon) = host(&format!("{ENV}redact = false\n"));
    let mut launched = Launched::start(&host, "echo $$ $A_KEY; read line; kill -KILL $$");
    let pid = launched.child.id();
    assert_eq!(launched.line(), format!("{pid} {}", marker(1)), "the same process, and nobody between");
    let sessions = text(&host.operate(&["sessions"]).stdout);
    assert!(sessions.contains("process") && sessions.contains(&pid.to_string()), "{sessions}");
    launched.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(launched.child.wait().unwrap().signal(), Some(libc::SIGKILL));
    eventually("its session ends with the process", || !text(&host.operate(&["sessions"]).stdout).contains(&pid.to_string()));
}

#[test]
fn a_find_is_told_with_its_name_version_channel_and_encoding() {
    let (host, _daemon) = host(ENV);
    let out = sh(&host, "printf %s \"$A_KEY\" | base64 -w0; echo; echo \"$A_KEY\" >&2");
    assert!(!text(&out.stdout).is_empty());
    let log = host.log();
    for told in ["channel=\"stdout\" encoding=\"base64\"", "channel=\"stderr\" encoding=\"raw\""] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let tools: serde_json::Value = serde_json::from_slice(&host.operate(&["tools", "--json"]).stdout).unwrap();
    assert!(tools.to_string().contains("\"redactions\":2"), "{tools}");
    assert!(!log.contains(&marker(1)));
}

#[test]
fn a_canary_raises_the_alarm() {
    let (host, _daemon) = host("secrets.\"a/decoy\" = { env = \"AWS_SECRET_ACCESS_KEY\" }\n");
    assert_eq!(text(&sh(&host, "echo $AWS_SECRET_ACCESS_KEY").stdout), "[redacted:a/decoy]\n");
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("CANARY") && line.contains("a/decoy")), "{log}");
}

#[test]
fn a_canary_within_a_longer_value_raises_the_alarm_too() {
    let (host, _daemon) = host(&format!("{ENV}secrets.\"a/decoy\" = {{ env = \"DECOY\" }}\n"));
    seal(&host, &format!("around-{}-around", marker(9)));
    let out = sh(&host, "echo \"{\\\"a\\\":\\\"$A_KEY\\\"}\"; printf %s $A_KEY >&2");
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("{\"a\":\"[redacted:a/key]\"}\n", "[redacted:a/key]"));
    let log = host.log();
    for channel in ["stdout", "stderr"] {
        let alarm = |line: &str| line.contains("CANARY") && line.contains("a/decoy") && line.contains(channel);
        assert!(log.lines().any(alarm), "{channel}: {log}");
    }
}

#[test]
fn what_a_program_takes_out_of_a_value_is_taken_out_by_itself() {
    let (host, _daemon) = host(ENV);
    let password = format!("{}+&@", marker(4));
    let encoded = password.replace('+', "%2B").replace('&', "%26").replace('@', "%40");
    for (value, print) in [
        (
            format!("postgres://app:{encoded}@db.internal.example:5432/app"),
            "urllib.parse.unquote(urllib.parse.urlsplit(v).password)",
        ),
        (format!("postgres://app:{encoded}@db.internal.example:5432/app"), "urllib.parse.urlsplit(v).password"),
        (format!("Server=db.example;User Id=app;Password={password};Encrypt=True"), "v.split('Password=')[1].split(';')[0]"),
        (format!("Authorization: Bearer {password}"), "v.split()[-1]"),
        (format!("{{\"user\":\"app\",\"nested\":{{\"password\":\"{password}\"}}}}"), "json.loads(v)['nested']['password']"),
    ] {
        seal(&host, &value);
        let script = format!("import json, os, urllib.parse; v = os.environ['A_KEY']; print('it is', {print})");
        let out = run(&host, &["python3", "-c", &script]);
        assert_eq!(text(&out.stdout), "it is [redacted:a/key]\n", "{print}: {}", text(&out.stderr));
    }
}

#[test]
fn the_first_find_can_stop_the_tool() {
    let (host, _daemon) = host(&format!("{ENV}on-redaction = \"stop\"\n"));
    let mut launched = Launched::start(&host, "echo before; read line; echo \"leak $A_KEY\"; sleep 60; echo after");
    assert_eq!(launched.line(), "before");
    launched.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let begun = Instant::now();
    let (code, rest) = launched.end();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(code, Some(137), "{rest}");
    assert!(!rest.contains("leak") && rest.contains("on-redaction"), "nothing of that text passes: {rest}");
    assert!(host.log().contains("stopped=true"));
    // One that has ended before it can be killed has not succeeded.
    let out = sh(&host, "echo \"leak $A_KEY\"");
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(137), ""));
}

#[test]
fn a_new_version_restarts_the_tool_and_both_are_taken_out() {
    let (host, _daemon) = host(&format!("{ENV}on-rotation = \"restart\"\n"));
    let script = format!("echo start $$; while read line; do echo \"$line $A_KEY {}\"; done", marker(1));
    let mut launched = Launched::start(&host, &script);
    let first = launched.line();
    seal(&host, &marker(2));
    let second = launched.line();
    assert!(first.starts_with("start ") && second.starts_with("start ") && first != second, "{first} / {second}");
    let pid = first.trim_start_matches("start ");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the old one is gone before the new one starts");
    launched.child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(launched.line(), "hello [redacted:a/key] [redacted:a/key]", "the new version, and the old");
    eventually("the daemon knows that the new version is in use", || host.log().contains("version in use"));
    assert_eq!(launched.end().0, Some(0));
}

#[test]
fn a_new_version_is_written_where_the_old_one_was() {
    for (delivery, on_rotation, waits) in [
        ("file", "rewrite", "while test \"$(wc -c < $A_FILE)\" = $before; do sleep 0.05; done"),
        ("fd", "signal:USR1", "trap 'go=1' USR1; while test -z \"$go\"; do sleep 0.05; done"),
    ] {
        let (host, _daemon) =
            host(&format!("secrets.\"a/key\" = {{ {delivery} = \"A_FILE\" }}\non-rotation = \"{on_rotation}\"\n"));
        let script = format!("before=$(wc -c < $A_FILE); echo ready; {waits}; wc -c < $A_FILE; cat $A_FILE; echo");
        let mut launched = Launched::start(&host, &script);
        assert_eq!(launched.line(), "ready");
        let value = marker(3).repeat(2);
        seal(&host, &value);
        assert_eq!(launched.line(), value.len().to_string(), "{delivery}");
        assert_eq!(launched.line(), "[redacted:a/key]", "{delivery}");
        assert_eq!(launched.end().0, Some(0));
    }
}

#[test]
fn an_operator_who_revokes_the_session_stops_the_tool() {
    let (host, _daemon) = host(ENV);
    let mut launched = Launched::start(&host, "echo here; sleep 60 & sleep 60");
    assert_eq!(launched.line(), "here");
    assert!(host.operate(&["revoke", "tool", "it"]).status.success());
    let begun = Instant::now();
    let (code, rest) = launched.end();
    assert!(begun.elapsed() < Duration::from_secs(5), "{rest}");
    assert_eq!(code, Some(137), "{rest}");
    assert!(rest.contains("revoked"), "{rest}");
}

#[test]
fn a_daemon_that_restarts_does_not_disturb_the_tool() {
    let (host, mut daemon) = host(ENV);
    let mut launched = Launched::start(&host, "echo here; while read line; do echo \"$line $A_KEY\"; done");
    assert_eq!(launched.line(), "here");
    daemon.stop();
    launched.child.stdin.as_mut().unwrap().write_all(b"meanwhile\n").unwrap();
    assert_eq!(launched.line(), "meanwhile [redacted:a/key]");
    let _again = host.start();
    eventually("what was found meanwhile is told", || host.log().matches("a value was found").count() == 1);
    assert_eq!(launched.end().0, Some(0));
}

/// Looks at everything that could be left behind: arguments, environments, files, memory, core dumps.
#[test]
fn nothing_of_a_value_is_left_in_the_launcher_or_on_disk() {
    let (host, _daemon) = host("secrets.\"a/key\" = { file = \"A_FILE\" }\nsecrets.\"a/decoy\" = { env = \"D\" }\n");
    // The tool itself has one of the two in its environment; the other it does not read.
    let mut launched = Launched::start(&host, "echo $PPID $$; read line; cat $A_FILE; echo; echo \"$D\"; echo done; read line");
    let line = launched.line();
    let mut words = line.split(' ');
    let pid = |word: Option<&str>| word.unwrap().parse::<u32>().unwrap();
    let (guardian, tool, launcher) = (pid(words.next()), pid(words.next()), launched.child.id());
    assert!(!scan::scan(tool, marker(9).as_bytes()).is_empty(), "the scan finds what is there");
    for process in [launcher, guardian] {
        for value in [marker(1), marker(9)] {
            let hits = scan::scan(process, value.as_bytes());
            assert!(hits.is_empty(), "process {process} of {launcher} (launcher), {guardian} (guardian): {hits:x?}");
            for file in ["environ", "cmdline", "comm"] {
                let said = fs::read(format!("/proc/{process}/{file}")).unwrap();
                assert!(!said.windows(16).any(|w| value.as_bytes().windows(16).any(|v| v == w)), "{file} of {process}");
            }
        }
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let owner = fs::metadata(format!("/proc/{process}/environ")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
        assert!(limits.contains("Max core file size"));
    }
    // And after the values have passed. Where the processor kept a part of one for a moment, on the stack, nobody wipes.
    launched.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    // The last line that was written may be kept for as long as it may go on; this one is harmless.
    assert_eq!([launched.line(), launched.line(), launched.line()], ["[redacted:a/key]", "[redacted:a/decoy]", "done"]);
    for value in [marker(1), marker(9)] {
        let hits = scan::scan(launcher, value.as_bytes());
        let hits: Vec<_> = hits.into_iter().filter(|hit| hit.mapping != "[stack]").collect();
        assert!(hits.is_empty(), "{hits:?}");
    }
    let core = fs::read_to_string(format!("/proc/{tool}/limits")).unwrap();
    let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "no core of the tool");
    // Not a crash either leaves one.
    let cores = || {
        fs::read_dir(host.dir.path()).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with("core")).count()
    };
    // Twice: the first finds Rust's handler, which looks for a stack that overflowed and then lets the next one through.
    for _ in 0..2 {
        // SAFETY: numbers; our own child.
        unsafe { libc::kill(launcher as i32, libc::SIGSEGV) };
        std::thread::sleep(Duration::from_millis(50));
    }
    launched.child.wait().unwrap();
    eventually("the tree is gone with the launcher", || {
        [guardian, tool].iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    assert_eq!(cores(), 0);
    for value in [marker(1), marker(9)] {
        for place in [host.dir.path(), Path::new("/dev/shm"), Path::new("/run/valetkey")] {
            assert_eq!(holding(place, value.as_bytes()), Vec::<String>::new());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("valetkey/files") && !mounts.contains("valetkey-files"), "{mounts}");
}

/// Files below a folder that hold the bytes.
fn holding(folder: &Path, value: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, value));
        } else if kind.is_file() && fs::read(&path).is_ok_and(|bytes| bytes.windows(value.len()).any(|w| w == value)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn the_sandbox_and_the_files_go_together() {
    let (host, _daemon) = host("secrets.\"a/key\" = { file = \"A_FILE\" }\nsandbox = {}\n");
    let socket = host.tools_socket().display().to_string();
    let script = format!(
        "wc -c < $A_FILE; cat /etc/shadow; ls {}; python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"{socket}\")'",
        host.dir.path().display()
    );
    let out = sh(&host, &script);
    assert_eq!(text(&out.stdout).trim(), marker(1).len().to_string(), "{}", text(&out.stderr));
    let errors = text(&out.stderr);
    assert!(errors.matches("ermission denied").count() >= 2 && errors.contains("Error"), "{errors}");
    assert_eq!(text(&host.operate(&["sessions"]).stdout).trim(), "none", "nobody reached the broker from within");
}

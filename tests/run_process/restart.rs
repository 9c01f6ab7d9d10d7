//! A tool that is started anew for a new credential, under a client that does not notice.

use std::{fs, io::BufRead, io::BufReader, net::TcpListener, path::PathBuf};

use serde_json::{Value, json};

use super::*;

/// A server of the protocol's first era: it refuses everything before the opening, and calls itself by its start's number.
const SERVER: &str = r#"
import json, os, sys, socket, time
version, opened = os.environ["VERSION"], False
port = socket.socket(); port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
port.bind(("127.0.0.1", int(os.environ["PORT"]))); port.listen()
def say(message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    method, id = request["method"], request.get("id")
    if method == "initialize": say({"id": id, "result": {"version": version}})
    elif method == "notifications/initialized": opened = True
    elif not opened: say({"id": id, "error": {"code": -32600, "message": "not opened"}})
    elif method == "slow": time.sleep(request["params"]["seconds"]); say({"id": id, "result": version})
    else: say({"id": id, "result": version})
"#;

struct Session {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    restart: PathBuf,
    _dir: tempfile::TempDir,
}

impl Session {
    fn start(server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let restart = dir.path().join("restart");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = launcher(&["--relay-input", "--restart-file", restart.to_str().unwrap()]);
        command.args(["python3", "-c", server]).env("PORT", port.to_string()).env("RESTART", &restart);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, restart, _dir: dir }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    /// Panics after ten seconds: what waits may wait for ever.
    fn receive(&mut self) -> Value {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let (mut line, limit) = (String::new(), Timespec { tv_sec: 10, tv_nsec: 0 });
        if self.out.buffer().is_empty() {
            let ready = poll(&mut [PollFd::new(self.out.get_ref(), PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ready, 1, "the tool says nothing");
        }
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn call(&mut self, id: u32, method: &str) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": { "seconds": 0.1 } }));
        let answer = self.receive();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    fn open(&mut self) {
        assert_eq!(self.call(0, "initialize")["result"]["version"], "0");
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }

    /// Asks for this many restarts at once, and returns when the launcher has been asked.
    fn restart(&self, times: u32) {
        let before = self.restart.with_extension("new");
        fs::write(&before, times.to_string()).unwrap();
        fs::rename(&before, &self.restart).unwrap();
        eventually("the request was taken", || !self.restart.exists());
    }

    fn close(mut self) {
        drop(self.child.stdin.take());
        let (status, took) = end(&mut self.child);
        assert!(status.success() && took < Duration::from_secs(1), "the end reaches a relayed tool too: {status:?}, {took:?}");
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

/// Of a test that fails nothing is left.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_survives_and_three_new_versions_make_one_restart() {
    let mut session = Session::start(SERVER);
    session.open();
    assert_eq!(session.call(1, "which")["result"], "0");
    session.restart(3);
    let mut id = 1;
    eventually("the new one answers", || {
        id += 1;
        session.call(id, "which")["result"] == "3"
    });
    session.restart(1);
    eventually("another one", || {
        id += 1;
        session.call(id, "which")["result"] == "4"
    });
    session.close();
}

#[test]
fn a_request_under_way_is_answered_before_the_restart_and_the_next_one_waits() {
    let mut session = Session::start(SERVER);
    session.open();
    session.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "slow", "params": { "seconds": 1 } }));
    session.restart(1);
    std::thread::sleep(Duration::from_millis(400));
    session.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "which" }));
    let (first, second) = (session.receive(), session.receive());
    assert_eq!((&first["id"], &first["result"]), (&json!(1), &json!("0")));
    assert_eq!((&second["id"], &second["result"]), (&json!(2), &json!("1")));
    session.close();
}

#[test]
fn a_request_that_takes_too_long_is_answered_with_an_error() {
    let mut session = Session::start(SERVER);
    session.open();
    session.send(&json!({ "jsonrpc": "2.0", "id": "long", "method": "slow", "params": { "seconds": 60 } }));
    let start = Instant::now();
    session.restart(1);
    let answer = session.receive();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("long"), &json!(-32000)));
    assert!((4..9).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(session.call(2, "which")["result"], "1");
    session.close();
}

#[test]
fn a_server_without_an_opening_is_just_restarted() {
    let mut session =
        Session::start(&SERVER.replace("opened = os.environ[\"VERSION\"], False", "opened = os.environ[\"VERSION\"], True"));
    assert_eq!(session.call(1, "which")["result"], "0");
    session.restart(1);
    let mut id = 1;
    eventually("the new one answers", || {
        id += 1;
        session.call(id, "which")["result"] == "1"
    });
    session.close();
}

#[test]
fn a_client_that_goes_during_a_restart_ends_it() {
    let mut session = Session::start(&SERVER.replace("for line", "import signal; signal.signal(15, signal.SIG_IGN)\nfor line"));
    session.open();
    session.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "slow", "params": { "seconds": 60 } }));
    session.restart(1);
    drop(session.child.stdin.take());
    let (_, took) = end(&mut session.child);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Says that a restart is asked for, and that a request has come since and waits. The one before takes as long as it is told to.
fn restart_behind_a_slow_request(session: &mut Session, seconds: f64) {
    session.open();
    session.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "slow", "params": { "seconds": seconds } }));
    session.restart(1);
    std::thread::sleep(Duration::from_millis(400));
    session.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "which" }));
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn a_tool_that_survives_a_signal_gets_what_waited_for_its_successor() {
    let survives = "import signal\nfor s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\nfor line";
    for number in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let mut session = Session::start(&SERVER.replace("for line", survives));
        restart_behind_a_slow_request(&mut session, 1.0);
        signal(&session.child, number);
        let (first, second) = (session.receive(), session.receive());
        assert_eq!((&first["id"], &first["result"]), (&json!(1), &json!("0")));
        assert_eq!((&second["id"], &second["result"]), (&json!(2), &json!("0")), "signal {number}: nothing took its place");
        assert_eq!(session.call(3, "which")["result"], "0");
        session.close();
    }
}

#[test]
fn what_a_client_said_before_it_went_reaches_the_tool_that_was_to_be_replaced() {
    let mut session = Session::start(SERVER);
    restart_behind_a_slow_request(&mut session, 0.8);
    drop(session.child.stdin.take());
    for id in [1, 2] {
        let answer = session.receive();
        assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!("0")));
    }
    let (status, took) = end(&mut session.child);
    assert!(status.success() && took < Duration::from_secs(2), "{status:?}, {took:?}");
}

/// Lines of one request each, together far more than may wait, and than the pipe holds.
fn flood() -> String {
    let request = |id: u32| json!({ "jsonrpc": "2.0", "id": id, "method": "which", "params": { "text": "x".repeat(1000) } });
    (10_000..14_000).map(|id| format!("{}\n", request(id))).collect()
}

fn memory_of(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A server that, when it is started anew, says so and then waits to be let on: until it has answered the opening, the client's
/// requests wait.
fn slow_to_begin() -> String {
    let wait = "if version != '0':
            open(os.environ['RESTART'] + '.begun', 'w')
            while not os.path.exists(os.environ['RESTART'] + '.go'): time.sleep(0.01)";
    SERVER.replace("if method == \"initialize\":", &format!("if method == \"initialize\":\n        {wait}\n       "))
}

/// Restarts such a one, and returns when requests wait.
fn restart_slowly(session: &Session) {
    session.restart(1);
    let begun = session.restart.with_added_extension("begun");
    eventually("the new one has begun", || begun.exists());
}

fn still(session: &Session) -> bool {
    let moved = || fs::read_to_string(format!("/proc/{}/io", session.child.id())).unwrap();
    let before = moved();
    std::thread::sleep(Duration::from_millis(100));
    before == moved()
}

#[test]
fn a_client_that_says_much_during_a_restart_is_not_read_without_bound_and_loses_nothing() {
    let mut session = Session::start(&slow_to_begin());
    session.open();
    assert_eq!(session.call(1, "which")["result"], "0");
    let before = memory_of(session.child.id());
    restart_slowly(&session);
    let mut input = session.child.stdin.take().unwrap();
    let flood = flood();
    let writer = std::thread::spawn(move || {
        input.write_all(flood.as_bytes()).unwrap();
        input
    });
    eventually("it has begun to read", || memory_of(session.child.id()) > before + (512 << 10));
    eventually("nothing more is read", || still(&session));
    let grown = memory_of(session.child.id()).saturating_sub(before);
    assert!(!writer.is_finished() && grown < 3 << 20, "{grown} bytes");
    fs::write(session.restart.with_added_extension("go"), "").unwrap();
    for id in 10_000..14_000 {
        let answer = session.receive();
        assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!("1")));
    }
    session.child.stdin = Some(writer.join().unwrap());
    session.close();
}

#[test]
fn a_client_that_goes_while_it_is_not_read_is_noticed() {
    let mut session = Session::start(&slow_to_begin());
    session.open();
    restart_slowly(&session);
    let mut input = session.child.stdin.take().unwrap();
    let flood = flood();
    // As much as goes: what may wait, and what the pipe holds.
    rustix::fs::fcntl_setfl(&input, rustix::fs::OFlags::NONBLOCK).unwrap();
    let (mut written, mut idle) = (0, 0);
    while idle < 50 && written < flood.len() {
        match input.write(&flood.as_bytes()[written..]) {
            Ok(taken) => (written, idle) = (written + taken, 0),
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert!((1 << 20..2 << 20).contains(&written), "{written}");
    drop(input);
    let (_, took) = end(&mut session.child);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_tool_that_is_no_server_is_restarted_with_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("restart");
    let mut command = launcher(&["--restart-file", file.to_str().unwrap()]);
    command.args(["sh", "-c", "sleep 607 & echo $VERSION $!; wait"]);
    let mut child = piped(command);
    let first = line(&mut child);
    let (version, sleeper) = first.split_once(' ').unwrap();
    assert_eq!(version, "0");
    fs::write(&file, "1").unwrap();
    assert!(line(&mut child).starts_with("1 "));
    assert!(!PathBuf::from(format!("/proc/{sleeper}")).exists(), "the old tree was gone before");
    drop(child.stdin.take());
    end(&mut child);
}

#[test]
fn a_relay_carries_what_is_not_json_rpc_byte_for_byte() {
    let mut command = launcher(&["--relay-input"]);
    command.arg("cat");
    let mut child = piped(command);
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let mut input = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == text, "{} of {} bytes", got.len(), text.len());
    end(&mut child);
}

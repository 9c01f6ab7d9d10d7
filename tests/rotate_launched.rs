//! A real MCP server behind `valetkey run`, whose key is rotated while a real client calls it: by a restart, by a file and by a signal.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/hook.rs"]
mod hook;
#[path = "support/mcp.rs"]
mod mcp;
#[path = "support/said.rs"]
mod said;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use daemon::Host;
use hook::{digest, hook, taken};
use said::{lines, said};
use serde_json::Value;
use stores::{UNLIMITED, secret};

/// How each tool gets the key, and what becomes of it when there is another.
const TOOLS: [(&str, &str, &str, &str); 3] = [
    ("restarts", "env", "env = \"KEY\"", "restart"),
    ("rewrites", "file", "file = \"KEY_FILE\"", "rewrite"),
    ("signals", "signal", "file = \"KEY_FILE\"", "signal:HUP"),
];

/// A client that calls all the time.
struct Steady {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Steady {
    fn start(host: &Host, python: &str, tool: &str) -> Self {
        let socket = host.tools_socket();
        let mut client = Command::new(python);
        client.args([&mcp::ours("steady.py"), "work", env!("CARGO_BIN_EXE_valetkey"), "run", "--socket"]).arg(socket).arg(tool);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(host.path(&format!("{tool}.err"))).unwrap());
        let mut child = client.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn ready(&mut self) {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }

    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut told = String::new();
        self.out.read_to_string(&mut told).unwrap();
        assert!(self.child.wait().unwrap().success(), "{told}");
        serde_json::from_str(&told).unwrap()
    }
}

#[test]
fn no_call_is_lost_while_the_key_of_a_launched_server_rotates() {
    let Some(python) = mcp::python() else { return };
    let rotations: usize = std::env::var("VALETKEY_ROTATIONS").map_or(4, |number| number.parse().unwrap());
    let bao = servers::openbao();
    let host = Host::new();
    stores::vault_put(bao, "launched/key", r#"{"key":"the-first-key-of-all"}"#);
    let hook = hook(&host, "");
    let system = host.path("system");
    fs::write(system.join(digest("the-first-key-of-all")), "").unwrap();
    let rotation =
        format!("path = \"launched/key\"\nfield = \"key\"\nrotation = {{ hook = [\"{hook}\"], stragglers = \"wait\" }}");
    let mut rest = stores::vault_as_root(&host, bao.port) + &secret("it/key", "vault", &rotation);
    let launcher = env!("CARGO_BIN_EXE_valetkey");
    for (tool, how, delivery, on_rotation) in TOOLS {
        rest += &format!(
            "[tool.{tool}]\nrun-as = {{ user = \"0\", exe = {launcher:?} }}\ncommand = [{python:?}, {:?}, {system:?}, {how:?}]\n\
             secrets.\"it/key\" = {{ {delivery} }}\non-rotation = \"{on_rotation}\"\n{UNLIMITED}",
            mcp::ours("keyed.py")
        );
    }
    host.configure("", &rest);
    let _daemon = host.start();
    let mut clients: BTreeMap<&str, Steady> =
        TOOLS.iter().map(|(tool, ..)| (*tool, Steady::start(&host, &python, tool))).collect();
    clients.values_mut().for_each(Steady::ready);

    let mut took = Vec::new();
    for number in 0..rotations {
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let out = host.operate(&["rotate", "it/key", "--json"]);
        took.push(begun.elapsed());
        let told = lines(&out);
        let last = told.last().unwrap();
        assert_eq!(last["end"], "rotated", "rotation {number}: {}\n{}", said(&out), host.log());
        let moved = |line: &Value| -> BTreeSet<String> {
            let holders = line["holders"].as_array().into_iter().flatten().filter(|holder| holder["moved"] == true);
            holders.map(|holder| holder["tool"].as_str().unwrap().to_owned()).collect()
        };
        let all = told.iter().map(moved).max_by_key(BTreeSet::len).unwrap();
        assert_eq!(all.len(), TOOLS.len(), "each of them is seen to move: {}", said(&out));
        assert_eq!(taken(&host).len(), 1, "the old one is retired");
    }
    std::thread::sleep(Duration::from_millis(300));
    took.sort();
    println!(
        "{rotations} rotations, to the last of three servers moved and the old key retired: p50 {:.2?}",
        took[took.len() / 2]
    );
    for (tool, client) in clients {
        let told = client.end();
        let came = told["came"].as_object().unwrap();
        println!("{tool}: {} calls, the slowest {:.2} s: {came:?}", told["calls"], told["slowest"].as_f64().unwrap());
        let log = fs::read_to_string(host.path(&format!("{tool}.err"))).unwrap();
        assert_eq!(came.keys().collect::<Vec<_>>(), ["taken"], "{tool}: {came:?}\n{log}\n{}", host.log());
        assert!(told["calls"].as_u64().unwrap() > 20, "{tool}: {told}");
    }
    let log = host.log();
    assert!(!log.contains("the-first-key-of-all") && !log.contains("made-"), "a value is in the log");
}

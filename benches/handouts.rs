//! Hand-outs against floors and a peer, side by side in one run. Prints the table that stands in `benches/README.md`.
//!
//! `cargo bench --bench handouts` measures; `-- --quick` does so in shorter windows, `-- --only=stream:16` one row.
//!
//! Each server is a process of its own, each client this process: one thread, one connection, N streams or calls under way. Windows
//! alternate between the two sides, so that what else the machine does falls on both; figures are medians over the rounds, ratios
//! are medians of the rounds' ratios. The client is the same for both sides: it sends bytes made beforehand and looks at no answer
//! but its length, so what is compared is the servers.

#[path = "../tests/support/daemon.rs"]
mod daemon;

mod handouts {
    pub mod echo;
    pub mod load;
    pub mod peer;
    pub mod table;
}

use std::time::{Duration, Instant};

use daemon::Host;
use handouts::{
    echo,
    load::{self, Load, Shape},
    peer,
    table::{Side, compare, print_rows},
};

/// 64 bytes, as most keys are.
const VALUE: [u8; 64] = *b"sk_live_0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, part, socket, sizes, ..] = &arguments[..]
        && part == "echo-server"
    {
        return echo::serve(socket, sizes);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (5, Duration::from_millis(300)) } else { (15, Duration::from_millis(500)) };
    println!("hand-outs of a {}-byte secret, {rounds} rounds of {} ms a side\n", VALUE.len(), window.as_millis());

    let host = host();
    let daemon = host.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sizes = runtime.block_on(load::answer_sizes(&host));
    let echo = echo::start(&host, sizes);
    let aws = peer::start(&VALUE);
    let only = arguments.iter().find_map(|argument| argument.strip_prefix("--only="));
    let mut rows = Vec::new();
    for (shape, counts) in [(Shape::Stream, [1, 16, 64]), (Shape::Unary, [1, 16, 64])] {
        for count in counts {
            if only.is_some_and(|only| only != format!("{}:{count}", shape.name())) {
                continue;
            }
            let ours = Load::daemon(&host, shape, count);
            let floor = Load::echo(&echo, shape, count);
            let sides = [Side::Grpc(ours), Side::Grpc(floor)];
            let peers = aws.as_ref().ok().map(|peer| Side::Http(peer.load(if count == 16 { 8 } else { count })));
            rows.push(compare(&runtime, shape, count, sides, peers, rounds, window));
        }
    }
    print_rows(&rows, aws.as_ref().map_err(Clone::clone));
    if only.is_some() {
        return;
    }
    runtime.block_on(cached_reads(&host));
    drop(daemon);
    memory();
}

fn host() -> Host {
    let host = Host::new();
    let source = host.seal(&[("bench/key", &VALUE)]);
    let limits = "limits = { per-minute = 1000000000, concurrent = 1000, concurrent-requests = 1000, per-session = 1000000000000 }\n\
        [limits]\nper-second = 1000000000\nper-minute = 4000000000\n";
    let tool = Host::tool("bench", rustix::process::getuid().as_raw(), &["bench/key"]);
    host.configure(
        // What the record of each costs is measured by `recorded`.
        "log-level = \"warn\"\nmax-connections-per-peer = 200\n\n[audit]\nenabled = false\n",
        &format!("{source}{}{tool}{limits}", Host::secrets(&["bench/key"])),
    );
    host
}

/// A program that has a session reads from its own memory, which the daemon keeps current.
async fn cached_reads(host: &Host) {
    let session = host.client().session("bench").secret("bench/key").open().await.expect("a session");
    session.get("bench/key").await.expect("a hand-out");
    let mut each = Vec::new();
    for _ in 0..21 {
        const TIMES: u32 = 100_000;
        let begun = Instant::now();
        for _ in 0..TIMES {
            let secret = session.get("bench/key").await.expect("it is in memory");
            std::hint::black_box(secret.expose(|value| value[0]));
        }
        each.push(begun.elapsed() / TIMES);
    }
    each.sort();
    println!("\nclient's cached read: {} ns (median of {})", each[each.len() / 2].as_nanos(), each.len());
}

/// What ten thousand secrets cost.
fn memory() {
    const COUNT: usize = 10_000;
    let host = Host::new();
    let names: Vec<String> = (0..COUNT).map(|i| format!("bench/key-{i:05}")).collect();
    let secrets: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), VALUE.as_slice())).collect();
    let source = host.seal(&secrets);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let tool = Host::tool("bench", rustix::process::getuid().as_raw(), &names);
    host.configure("", &format!("{source}{}{tool}", Host::secrets(&names)));
    let begun = Instant::now();
    let daemon = host.start();
    let boot = begun.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon's status");
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("a known key");
        line.split_whitespace().nth(1).expect("a number").parse::<f64>().expect("a number")
    };
    let json = host.valetkey(&["status", "--json", "--socket", host.admin_socket().to_str().expect("a path")]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let (locked, used) = (&json["memory"]["locked_bytes"], &json["memory"]["used_bytes"]);
    let each = locked.as_f64().expect("a number") / COUNT as f64;
    println!(
        "{COUNT} secrets of {} bytes: RSS {:.1} MB, peak {:.1} MB; locked {locked} bytes ({each:.0} a secret), used {used}; boot {} ms",
        VALUE.len(),
        kib("VmRSS") / 1024.0,
        kib("VmHWM") / 1024.0,
        boot.as_millis()
    );
}

//! Hand-outs with the audit log off, batched and sync, beside two floors on the same disk in the same run: one write and fdatasync alone, and
//! bare group commit of as many bytes by as many waiters. Prints a table of `benches/README.md`.
//!
//! And hand-outs while the log is sent to somebody who is not there, or who never answers.
//!
//! `cargo bench --bench recorded` measures; `-- --quick` in fewer rounds, `-- 64` for one number of callers.

#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "audit/floor.rs"]
mod floor;

#[expect(dead_code, reason = "shared with the benchmark of hand-outs, which uses all of it")]
mod handouts {
    pub mod load;
}

use std::time::Duration;

use daemon::Host;
use floor::{Measured, alone, bare, median};
use handouts::load::{Load, Shape};

const VALUE: [u8; 64] = *b"sk_live_0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ";
/// As long as a line of the log.
const LINE: [u8; 430] = [b'x'; 430];

fn host(audit: &str) -> Host {
    let host = Host::new();
    let source = host.seal(&[("bench/key", &VALUE)]);
    let limits =
        "limits = { per-minute = 1000000000, concurrent = 1000, concurrent-requests = 100000, per-session = 1000000000000 }\n";
    let tool = Host::tool("bench", rustix::process::getuid().as_raw(), &["bench/key"]);
    let daemon = "log-level = \"warn\"\nmax-connections-per-peer = 200\n";
    let ceilings = "[limits]\nper-second = 100000000\nper-minute = 1000000000\nconcurrent-requests = 100000\n";
    host.configure(daemon, &format!("[audit]\n{audit}\n{ceilings}{source}{}{tool}{limits}", Host::secrets(&["bench/key"])));
    host
}

/// One exporter that finds nobody, and one whose collector takes the connection and says nothing.
fn exporters(silent: &std::net::TcpListener) -> [String; 3] {
    let to = |port: u16| {
        format!("durability = \"sync\"\n[audit.export.dead]\nkind = \"otlp\"\nendpoint = \"http://127.0.0.1:{port}\"\n")
    };
    [r#"durability = "sync""#.into(), to(1), to(silent.local_addr().expect("an address").port())]
}

fn dead_exporters(runtime: &tokio::runtime::Runtime, rounds: usize, window: Duration) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let hosts = exporters(&silent).map(|audit| host(&audit));
    let _daemons = [0, 1, 2].map(|at| hosts[at].start());
    println!("\n| exporter, 16 callers | sync/s | to none | p50 us | p99 us |\n|---|---|---|---|---|");
    let mut all: [Vec<Measured>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..3 {
            let at = (turn + round) % 3;
            let measured =
                tokio::task::LocalSet::new().block_on(runtime, Load::daemon(&hosts[at], Shape::Stream, 16).run(window));
            all[at].push(Measured { rate: measured.per_second, p50: measured.p50, p99: measured.p99 });
        }
    }
    let floors: Vec<f64> = all[0].iter().map(|none| none.rate).collect();
    for (what, of) in ["none", "nobody is there", "it never answers"].into_iter().zip(all) {
        let ratios = of.iter().zip(&floors).map(|(one, none)| Measured { rate: one.rate / none, ..*one }).collect();
        let (ratio, Measured { rate, p50, p99 }) = (median(ratios).rate, median(of));
        println!("| {what} | {rate:.0} | {ratio:.2} | {} | {} |", p50.as_micros(), p99.as_micros());
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 3 } else { 9 };
    let window = Duration::from_millis(400);
    let hosts = ["enabled = false", "durability = \"batched\"", "durability = \"sync\""].map(host);
    let _daemons = [0, 1, 2].map(|at| hosts[at].start());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let disk = tempfile::tempdir().expect("a folder");
    println!("{rounds} rounds of {} ms a side\n", window.as_millis());
    println!(
        "| form, callers | off/s | batched/s | sync/s | batched to off | bare group commit/s | sync to the slower of off and bare | p50 us off / batched / sync / fdatasync | p99 us off / batched / sync |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let only: Option<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    for shape in [Shape::Stream, Shape::Unary] {
        for count in [1, 16, 64, 256].into_iter().filter(|count| only.is_none_or(|only| only == *count)) {
            let mut all: [Vec<Measured>; 5] = Default::default();
            for round in 0..rounds {
                // Which side comes first alternates, so that none always follows the same.
                for turn in 0..3 {
                    let at = (turn + round) % 3;
                    let load = Load::daemon(&hosts[at], shape, count);
                    let measured = tokio::task::LocalSet::new().block_on(&runtime, load.run(window));
                    all[at].push(Measured { rate: measured.per_second, p50: measured.p50, p99: measured.p99 });
                }
                all[3].push(bare(disk.path(), count, &LINE));
                all[4].push(alone(disk.path(), &LINE));
            }
            let ratio = |of: usize, to: &dyn Fn(usize) -> f64| {
                let ratios = all[of].iter().enumerate().map(|(round, m)| Measured { rate: m.rate / to(round), ..*m });
                median(ratios.collect()).rate
            };
            let batched = ratio(1, &|round| all[0][round].rate);
            let sync = ratio(2, &|round| all[0][round].rate.min(all[3][round].rate));
            let [off, by_batch, by_sync, bare, alone] = all.map(median);
            let micros = |d: Duration| format!("{:.0}", d.as_secs_f64() * 1e6);
            println!(
                "| {}, {count} | {:.0} | {:.0} | {:.0} | {batched:.2} | {:.0} | {sync:.2} | {} / {} / {} / {} | {} / {} / {} |",
                shape.name(),
                off.rate,
                by_batch.rate,
                by_sync.rate,
                bare.rate,
                micros(off.p50),
                micros(by_batch.p50),
                micros(by_sync.p50),
                micros(alone.p50),
                micros(off.p99),
                micros(by_batch.p99),
                micros(by_sync.p99),
            );
        }
    }
    dead_exporters(&runtime, rounds, window);
}

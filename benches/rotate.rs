//! What it takes to rotate a thousand secrets that five hundred sessions hold: time, calls to the store and the daemon's memory, beside the calls
//! that nobody could save. `tests/setup/python` installs the store, OpenBao.
//!
//! `cargo bench --bench rotate`. Each session holds twenty of them, hears of each new version, fetches it and says that it uses it.

#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/faults.rs"]
mod faults;
#[path = "../tests/support/servers.rs"]
mod servers;
#[path = "../tests/support/stores.rs"]
mod stores;

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::Host;
use faults::Proxy;

const SECRETS: usize = 1000;
const HELD_BY_EACH: usize = 20;
/// To know what is current, and to change it.
const FEWEST: usize = 2 * SECRETS;

fn main() {
    // The sessions and the proxy are in this process, which may have as many descriptors as it wants.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("{SECRETS} secrets of OpenBao, each with `rotation = {{ generate = {{}} }}`; each session holds {HELD_BY_EACH}\n");
    println!("| sessions | holdings | time | a secret | calls | fewest | heard and moved | memory before, peak (MiB) |");
    println!("|---|---|---|---|---|---|---|---|");
    for sessions in [0, 50, 500] {
        runtime.block_on(row(sessions));
    }
}

fn names() -> Vec<String> {
    (0..SECRETS).map(|number| format!("turn/key-{number:04}")).collect()
}

async fn row(sessions: usize) {
    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    let names = names();
    names.iter().for_each(|name| stores::vault_put(bao, name, "{\"value\":\"the-first-value-of-many\"}"));
    let secrets: String = names.iter().map(|name| stores::secret(name, "vault", "rotation = { generate = {} }")).collect();
    let uid = rustix::process::getuid().as_raw();
    let tool = Host::tool("it", uid, &names.iter().map(String::as_str).collect::<Vec<_>>()) + stores::UNLIMITED;
    let source = stores::vault_as_root(&host, proxy.port) + "refresh-every = \"1h\"\n";
    host.configure(
        "max-sessions = 4096\nmax-connections = 8192\nmax-connections-per-peer = 4096\n",
        &format!("{source}{secrets}{tool}"),
    );
    let daemon = host.start();
    let moved = Arc::<AtomicUsize>::default();
    let mut open = Vec::new();
    for number in 0..sessions {
        let mine: Vec<_> = (0..HELD_BY_EACH).map(|at| names[(number * 37 + at * 53) % SECRETS].clone()).collect();
        let session = mine.iter().fold(host.client().session("it"), |session, name| session.secret(name.as_str()));
        let session = session.open().await.expect("a session");
        for name in &mine {
            session.get(name).await.expect("a secret");
        }
        let (following, counted) = (session.clone(), moved.clone());
        tokio::spawn(async move {
            let mut changes = following.watch();
            while let Some(change) = changes.next().await {
                if following.acknowledge(&change.secret).await.is_ok() {
                    counted.fetch_add(1, Relaxed);
                }
            }
        });
        open.push(session);
    }
    let pid = daemon.pid();
    let before = memory(pid, "VmRSS");
    // The peak from here on.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    let begun = Instant::now();
    let socket = host.admin_socket();
    let rotated = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command
            .args(["rotate", "--all-of", "it", "--json", "--socket", socket.to_str().expect("text")])
            .output()
            .expect("a command")
    });
    let rotated = rotated.await.expect("it ran");
    let took = begun.elapsed();
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    // Sessions that said it last may still be counted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let calls = proxy.requests_since(begun);
    println!(
        "| {sessions} | {} | {:.1} s | {:.1} ms | {} | {FEWEST} | {} | {:.0}, {:.0} |",
        sessions * HELD_BY_EACH,
        took.as_secs_f64(),
        took.as_secs_f64() * 1e3 / SECRETS as f64,
        calls.len(),
        moved.load(Relaxed),
        before,
        memory(pid, "VmHWM"),
    );
    let mut kinds = BTreeMap::<String, usize>::new();
    for call in calls {
        let method = call.what.split(' ').next().unwrap_or_default();
        let path = call.what.split(' ').nth(1).unwrap_or_default();
        let path = path.split("/turn").next().unwrap_or_default();
        let beside = if call.what.contains("valetkey-rotation") { " beside" } else { "" };
        *kinds.entry(format!("{method} {path}{beside}")).or_default() += 1;
    }
    println!("| … by kind | {kinds:?} | | | | | | |");
    drop(open);
}

/// In MiB.
fn memory(pid: u32, which: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    kib / 1024.0
}

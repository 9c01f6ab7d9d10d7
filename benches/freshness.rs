//! What it costs a store that a thousand secrets are kept fresh: calls and bytes for a load, and for an hour in which nothing changes, from
//! Vault's API (OpenBao) and AWS's (moto). `tests/setup/python` installs both.
//!
//! `cargo bench --bench freshness`. The hour is scaled: everything is checked each 10 s, for as long as six rounds take, and what was counted is
//! given for the twelve rounds of an hour with `refresh-every` at its default of 5 minutes.

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
    time::{Duration, Instant},
};

use daemon::Host;
use faults::{Proxy, Seen};

const COUNT: usize = 1000;
const EVERY: Duration = Duration::from_secs(10);
const ROUNDS: u32 = 6;
const ROUNDS_AN_HOUR: f64 = 12.0;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("{COUNT} secrets of 64 bytes; an hour is {ROUNDS_AN_HOUR} rounds, measured over {ROUNDS}\n");
    println!(
        "| store | calls: load | fewest | calls: idle hour | fewest | KiB sent: load | KiB sent: idle hour | calls at one time |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let value = "v".repeat(64);

    let (host, bao) = (Host::new(), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    names().iter().for_each(|name| stores::vault_put(bao, name, &format!("{{\"value\":\"{value}\"}}")));
    let source = stores::vault_as_root(&host, proxy.port);
    // A call tells of one path.
    row("Vault KV v2 (OpenBao)", &host, &source, "vault", &[], &proxy, (COUNT, COUNT));

    let (host, moto) = (Host::new(), servers::moto());
    let proxy = Proxy::plain(moto.port);
    let client = stores::owner(moto.port);
    runtime.block_on(async {
        for name in names() {
            client.create_secret().name(name).secret_string(&value).send().await.expect("a secret");
        }
    });
    let (source, environment) = stores::aws(&host, proxy.port, "secret-key-of-aws");
    // A batch tells of 20 with their values; a page of a listing of 100 without them.
    row("AWS Secrets Manager (moto)", &host, &source, "aws", &stores::borrowed(&environment), &proxy, (COUNT / 20, COUNT / 100));
}

fn names() -> Vec<String> {
    (0..COUNT).map(|number| format!("fresh/key-{number:04}")).collect()
}

fn row(
    what: &str,
    host: &Host,
    source: &str,
    name: &str,
    environment: &[(&str, &str)],
    proxy: &Proxy,
    (load_floor, round_floor): (usize, usize),
) {
    let names = names();
    let secrets: String = names.iter().map(|secret| stores::secret(secret, name, "")).collect();
    let freshness = format!("refresh-every = \"{}s\"\nmax-stale = \"1h\"\n", EVERY.as_secs());
    let tool = Host::tool("it", rustix::process::getuid().as_raw(), &names.iter().map(String::as_str).collect::<Vec<_>>());
    host.configure("", &format!("{source}{freshness}{secrets}{tool}"));
    let begun = Instant::now();
    let _daemon = host.start_with(environment);
    let loaded = Instant::now();
    std::thread::sleep(EVERY);
    let from = Instant::now();
    std::thread::sleep(EVERY * ROUNDS);
    let to = Instant::now();
    let all = proxy.requests_since(begun);
    let load: Vec<_> = all.iter().filter(|request| request.begun < loaded).collect();
    let idle: Vec<_> = all.iter().filter(|request| request.begun >= from && request.begun < to).collect();
    let hour = ROUNDS_AN_HOUR / f64::from(ROUNDS);
    let kib = |requests: &[&Seen]| requests.iter().map(|request| request.bytes).sum::<usize>() as f64 / 1024.0;
    println!(
        "| {what} | {} | {load_floor} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
        load.len(),
        idle.len() as f64 * hour,
        round_floor as f64 * ROUNDS_AN_HOUR,
        kib(&load),
        kib(&idle) * hour,
        proxy.take_most_at_once()
    );
    let mut kinds = BTreeMap::<_, usize>::new();
    for request in idle {
        let path = request.what.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let operation = request.what.rsplit('.').next().filter(|_| request.what.contains("x-amz-target"));
        let kind = operation.map_or_else(|| path.split("/fresh").next().unwrap_or_default().to_owned(), str::to_owned);
        *kinds.entry(kind).or_default() += 1;
    }
    println!("| … by kind, in {ROUNDS} rounds | {kinds:?} | | | | | | |");
}

//! A store that is out for ten minutes while fifty tools read: what they get, and what the store has to bear. Vault's API (OpenBao, which
//! `tests/setup/python` installs) behind a proxy that fails.
//!
//! `cargo bench --bench outage -- --outage 600 --fault reset --tools 50`. For half the secrets `max-stale` is half of the outage, for the others
//! twice as long; each is checked ten times in that time. Faults: reset, hang, 429, 503, portal, late.

#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/faults.rs"]
mod faults;
#[path = "../tests/support/raw.rs"]
mod raw;
#[path = "../tests/support/servers.rs"]
mod servers;
#[path = "../tests/support/stores.rs"]
mod stores;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::Host;
use faults::{Fault, PORTAL, Proxy, TOO_MANY, UNAVAILABLE};
use raw::Raw;
use tokio::{task::JoinSet, time::sleep};
use valetkey::proto::v1::session_response::Response;

const PAUSE: Duration = Duration::from_millis(200);
/// What a busy host may add to a time that is measured in another process.
const SLACK: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let outage = Duration::from_secs(argument("--outage").map_or(600, |text| text.parse().expect("seconds")));
    let tools: usize = argument("--tools").map_or(50, |text| text.parse().expect("a number"));
    let fault = argument("--fault").unwrap_or_else(|| "reset".into());
    let (every, max_stale) = (outage / 10, [outage / 2, outage * 2]);
    let (host, bao) = (Arc::new(Host::new()), servers::openbao());
    let proxy = Proxy::plain(bao.port);
    configure(&host, &proxy, tools, every, max_stale);
    put(bao, tools, "old");
    let _daemon = host.start();
    let over = Arc::new(AtomicBool::new(false));
    let mut reading = JoinSet::new();
    for number in 0..tools {
        let (host, over) = (host.clone(), over.clone());
        reading.spawn(async move { (number, read(&host, number, &over).await) });
    }
    sleep(every * 2).await;
    let most_before = proxy.take_most_at_once();
    let begun = Instant::now();
    proxy.set(named(&fault));
    sleep(outage / 2).await;
    put(bao, tools, "new");
    sleep((begun + outage).saturating_duration_since(Instant::now())).await;
    let ended = Instant::now();
    let most_during = proxy.take_most_at_once();
    proxy.set(Fault::Pass);
    // The longest wait between two tries, a timeout, and what it takes to catch up.
    sleep(Duration::from_secs(60).min(every) + Duration::from_secs(10)).await;
    over.store(true, Relaxed);
    let stories = reading.join_all().await;

    println!("{fault} for {} s, {tools} tools, checks each {} s\n", outage.as_secs(), every.as_secs());
    println!("| max-stale | reads ok | failed inside max-stale | served after | refused after | back in, first to last |");
    println!("|---|---|---|---|---|---|");
    for (half, max_stale) in max_stale.into_iter().enumerate() {
        let stories: Vec<_> = stories.iter().filter(|(number, _)| number % 2 == half).map(|(_, story)| story).collect();
        row(&stories, max_stale, every, begun, ended);
    }
    println!("\n| time | connections | requests | most within 100 ms |\n|---|---|---|---|");
    let minute = (outage / 10).min(Duration::from_secs(60));
    let windows = outage.as_secs() / minute.as_secs();
    for window in 0..u32::try_from(windows).expect("not so long") {
        let from = begun + minute * window;
        line(
            &proxy,
            &format!("{} s to {} s", (minute * window).as_secs(), (minute * (window + 1)).as_secs()),
            from,
            from + minute,
        );
    }
    line(&proxy, "10 s after", ended, ended + Duration::from_secs(10));
    line(&proxy, "all after", ended, Instant::now());
    println!(
        "\nrequests under way at one time, at the most: {most_before} before, {most_during} during, {} after",
        proxy.take_most_at_once()
    );
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

fn named(fault: &str) -> Fault {
    match fault {
        "reset" => Fault::Reset,
        "hang" => Fault::Hang,
        "429" => TOO_MANY,
        "503" => UNAVAILABLE,
        "portal" => PORTAL,
        "late" => Fault::Late(Duration::from_secs(1)),
        other => panic!("no fault is called {other}"),
    }
}

fn name(number: usize) -> String {
    format!("outage/s{number}")
}

fn configure(host: &Host, proxy: &Proxy, tools: usize, every: Duration, max_stale: [Duration; 2]) {
    let mut config = stores::vault_as_root(host, proxy.port);
    config += &format!("refresh-every = \"{}s\"\n", every.as_secs().max(1));
    let names: Vec<_> = (0..tools).map(name).collect();
    for (number, name) in names.iter().enumerate() {
        let rest = format!("field = \"key\"\nmax-stale = \"{}s\"", max_stale[number % 2].as_secs());
        config += &stores::secret(name, "vault", &rest);
    }
    let tool = Host::tool("it", rustix::process::getuid().as_raw(), &names.iter().map(String::as_str).collect::<Vec<_>>());
    host.configure("max-connections-per-peer = 500", &format!("{config}{tool}{}", stores::UNLIMITED));
}

fn put(bao: &servers::Server, tools: usize, value: &str) {
    (0..tools).for_each(|number| stores::vault_put(bao, &name(number), &format!("{{\"key\":\"value-of-{value}\"}}")));
}

/// When each read was answered: whether the value is the new one, and its age; or not at all.
type Story = Vec<(Instant, Option<(bool, u64)>)>;

async fn read(host: &Host, number: usize, over: &AtomicBool) -> Story {
    let name = name(number);
    let mut raw = Raw::open(&mut raw::broker(&host.tools_socket()).await, "it", &[&name]).await.expect("a session");
    let mut story = Story::new();
    while !over.load(Relaxed) {
        raw.ask(1, &name);
        loop {
            match raw.hear().await.expect("the session goes on") {
                Response::Secret(secret) => {
                    break story.push((Instant::now(), Some((secret.value.ends_with(b"new"), secret.age_seconds))));
                }
                Response::Failed(_) => break story.push((Instant::now(), None)),
                _ => {}
            }
        }
        sleep(PAUSE).await;
    }
    story
}

fn row(stories: &[&Story], max_stale: Duration, every: Duration, begun: Instant, ended: Instant) {
    // It may have been confirmed one check before the outage.
    let (fresh, stale) = (begun + max_stale.saturating_sub(every * 2), begun + max_stale + SLACK);
    let reads = || stories.iter().flat_map(|story| story.iter());
    let during = || reads().filter(|(at, _)| *at >= begun && *at < ended);
    let good = during().filter(|(_, read)| read.is_some()).count();
    let failed = during().filter(|(at, read)| read.is_none() && *at < fresh).count();
    let late =
        reads().filter(|(at, read)| read.is_some_and(|(_, age)| age > max_stale.as_secs() || (*at < ended && *at > stale)));
    let refused = during().filter(|(_, read)| read.is_none()).count();
    let back = stories.iter().map(|story| {
        let back = story.iter().find(|(at, read)| *at > ended && read.is_some_and(|(new, _)| new));
        back.map_or(f32::INFINITY, |(at, _)| at.duration_since(ended).as_secs_f32())
    });
    let (first, last) = back.fold((f32::INFINITY, 0.0_f32), |(first, last), back| (first.min(back), last.max(back)));
    println!("| {} s | {good} | {failed} | {} | {refused} | {first:.1} s to {last:.1} s |", max_stale.as_secs(), late.count());
}

fn line(proxy: &Proxy, when: &str, from: Instant, to: Instant) {
    let requests = proxy.requests_since(from).iter().filter(|request| request.begun < to).count();
    let connections = proxy.connections_since(from) - proxy.connections_since(to);
    println!("| {when} | {connections} | {requests} | {} |", proxy.burst_between(from, to));
}

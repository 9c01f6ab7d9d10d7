//! Fifty tools, of which one takes no notice of its limit: what the others feel of it, and whether what was refused is counted exactly.
//!
//! Each tool is a user and a process of its own. Forty-nine have a secret handed out twenty times a second, well within their limit of a
//! hundred. The fiftieth asks a hundred times its limit, in several ways, and never waits as it is told. Rounds without and with it alternate.
//!
//!     cargo bench --bench flood            # as root: tools are told apart by their user
//!
//! On a slow host, or a build without optimisation, `VALETKEY_BENCH_PAUSE_MS` has the others ask more seldom.

#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/raw.rs"]
mod raw;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use daemon::Host;
use raw::{Raw, get_unary, open_unary};
use valetkey::proto::v1::session_response::Response;

const TOOLS: u32 = 50;
const FIRST_USER: u32 = 52_000;
/// Requests in a second that a tool may make.
const LIMIT: u32 = 100;
/// The flooder asks so many times as often.
const TIMES: u32 = 100;
/// Between two requests of each other tool.
fn pause() -> Duration {
    let given = std::env::var("VALETKEY_BENCH_PAUSE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(given.unwrap_or(50))
}
const WINDOW: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;

/// How the flooder asks: the form, its connections, and requests under way on each.
const FLOODS: [(&str, usize, usize); 4] = [("stream", 1, 256), ("stream", 16, 64), ("unary", 1, 200), ("unary", 30, 32)];

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.iter().position(|word| word == "--as") {
        Some(at) => child(&arguments[at + 1..]),
        None if rustix::process::getuid().is_root() => parent(),
        None => println!("not measured: only root can start tools as different users"),
    }
}

fn parent() {
    let host = host();
    let _daemon = host.start();
    println!(
        "| the flooder | its answers, refused | by the daemon's count | held back | others' p50 quiet / flood us | p99 quiet / flood us | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (form, connections, under_way) in FLOODS {
        let (mut quiet, mut flood, mut seen, mut counted, mut wanted) = (vec![], vec![], (0, 0), (0, 0), 0);
        for _ in 0..ROUNDS {
            quiet.push(others(&host, || ()));
            let before = counts(&host);
            let mut flooder = start(&host, 0, &["flood", form, &connections.to_string(), &under_way.to_string()]);
            flood.push(others(&host, || go(&mut flooder)));
            let said: Vec<u64> = answers(&mut flooder);
            let after = counts(&host);
            (seen.0, seen.1, wanted) = (seen.0 + said[0], seen.1 + said[1], wanted + said[2]);
            (counted.0, counted.1) = (counted.0 + after.0 - before.0, counted.1 + after.1 - before.1);
            // Until the allowance is full again, for the next to begin alike.
            std::thread::sleep(Duration::from_secs(6));
        }
        let exact = if seen == counted { "the same" } else { "ANOTHER" };
        let ([quiet_50, quiet_99], [flood_50, flood_99]) = (medians(&quiet), medians(&flood));
        println!(
            "| {form}, {connections} x {under_way} | {}, {} | {}, {}: {exact} | {} | {quiet_50} / {flood_50} | {quiet_99} / {flood_99} | {:.2} |",
            seen.0,
            seen.1,
            counted.0,
            counted.1,
            wanted.saturating_sub(seen.0 + seen.1),
            flood_99 as f64 / quiet_99 as f64
        );
    }
}

fn host() -> Host {
    let host = Host::new();
    let source = host.seal(&[("bench/key", &[b'v'; 64])]);
    let limits = format!(
        "limits = {{ per-second = {LIMIT}, per-minute = {}, concurrent = 64, concurrent-requests = 1000 }}\n",
        LIMIT * 60
    );
    let tools: String =
        (0..TOOLS).map(|at| Host::tool(&format!("tool-{at}"), FIRST_USER + at, &["bench/key"]) + &limits).collect();
    let daemon = format!("metrics = \"{}\"\nlog-level = \"error\"", host.path("run/metrics.sock").display());
    host.configure(&daemon, &format!("{source}{}{tools}", Host::secrets(&["bench/key"])));
    host
}

/// The waits of all who are not the flooder, in microseconds, over one window.
fn others(host: &Host, begin: impl FnOnce()) -> Vec<u64> {
    let mut children: Vec<_> = (1..TOOLS).map(|at| start(host, at, &["quiet"])).collect();
    // The flood is there when they begin.
    begin();
    std::thread::sleep(Duration::from_millis(200));
    children.iter_mut().for_each(go);
    let mut waits: Vec<_> = children.iter_mut().flat_map(answers).collect();
    waits.sort_unstable();
    waits
}

fn medians(rounds: &[Vec<u64>]) -> [u64; 2] {
    [0.5, 0.99].map(|share| {
        let mut each: Vec<_> = rounds.iter().map(|waits| waits[((waits.len() - 1) as f64 * share) as usize]).collect();
        each.sort_unstable();
        each[each.len() / 2]
    })
}

fn start(host: &Host, at: u32, what: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("--as").arg(host.tools_socket()).arg(format!("tool-{at}")).args(what);
    command.uid(FIRST_USER + at).gid(FIRST_USER + at).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("a tool: is this folder open to other users?")
}

fn go(child: &mut Child) {
    // Ready, and then told to begin.
    let mut ready = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("a tool that is ready");
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("a tool that listens");
}

fn answers(child: &mut Child) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let numbers = lines.map(|line| line.expect("a line").trim().parse().expect("a number")).collect();
    assert!(child.wait().expect("a child").success());
    numbers
}

/// Hand-outs and refusals of the flooder, as the daemon counts them.
fn counts(host: &Host) -> (u64, u64) {
    let mut stream = UnixStream::connect(host.path("run/metrics.sock")).expect("the metrics");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    let sum = |name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(&format!("{name}{{tool=\"tool-0\"")));
        lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number") as u64).sum()
    };
    (sum("valetkey_handouts_total"), sum("valetkey_limits_reached_total"))
}

#[tokio::main(flavor = "current_thread")]
async fn child(arguments: &[String]) {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let numbers = match words[..] {
        [socket, tool, "quiet"] => quiet(Path::new(socket), tool).await,
        [socket, tool, "flood", form, connections, under_way] => {
            let (connections, under_way) = (connections.parse().expect("a number"), under_way.parse().expect("a number"));
            flood(Path::new(socket), tool, form, connections, under_way).await
        }
        _ => panic!("{words:?}"),
    };
    let text: String = numbers.iter().map(|number| format!("{number}\n")).collect();
    std::io::stdout().write_all(text.as_bytes()).expect("a parent");
}

/// Says that all is ready, and waits to be told to begin.
fn wait_to_begin() {
    std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush()).expect("a parent");
    std::io::stdin().read_line(&mut String::new()).expect("a parent");
}

async fn quiet(socket: &Path, tool: &str) -> Vec<u64> {
    let mut raw = Raw::open(&mut raw::broker(socket).await, tool, &["bench/key"]).await.expect("a session");
    raw.secret(0, "bench/key").await;
    wait_to_begin();
    // Not all in one moment.
    tokio::time::sleep(pause().mul_f64(f64::from(std::process::id() % 50) / 50.0)).await;
    let (begun, mut waits) = (Instant::now(), Vec::new());
    while begun.elapsed() < WINDOW {
        let asked = Instant::now();
        raw.secret(1, "bench/key").await;
        waits.push(asked.elapsed().as_micros() as u64);
        tokio::time::sleep(pause().saturating_sub(asked.elapsed())).await;
    }
    waits
}

/// What was answered, refused, and would have been asked by one who is not held back.
async fn flood(socket: &Path, tool: &str, form: &str, connections: usize, under_way: usize) -> Vec<u64> {
    let mut tasks = tokio::task::JoinSet::new();
    let socket: PathBuf = socket.into();
    let every = Duration::from_secs_f64(connections as f64 / f64::from(LIMIT * TIMES));
    let begin = tokio::sync::watch::Sender::new(false);
    let ready = std::sync::Arc::new(tokio::sync::Barrier::new(connections + 1));
    for _ in 0..connections {
        let (socket, tool, mut begins, ready) = (socket.clone(), tool.to_owned(), begin.subscribe(), ready.clone());
        let form = form.to_owned();
        tasks.spawn(async move {
            let mut broker = raw::broker(&socket).await;
            if form == "stream" {
                let raw = Raw::open(&mut broker, &tool, &["bench/key"]).await.expect("a session");
                ready.wait().await;
                begins.wait_for(|begun| *begun).await.expect("the start");
                flood_stream(raw, every, under_way).await
            } else {
                let session = open_unary(&mut broker, &tool, &["bench/key"]).await.expect("a session").session;
                ready.wait().await;
                begins.wait_for(|begun| *begun).await.expect("the start");
                flood_unary(broker, session, every, under_way).await
            }
        });
    }
    ready.wait().await;
    wait_to_begin();
    begin.send_replace(true);
    let all = tasks.join_all().await;
    let wanted = (WINDOW + Duration::from_millis(200)).as_secs_f64() * f64::from(LIMIT * TIMES);
    vec![all.iter().map(|(answered, _)| answered).sum(), all.iter().map(|(_, refused)| refused).sum(), wanted as u64]
}

async fn flood_stream(mut raw: Raw, every: Duration, under_way: usize) -> (u64, u64) {
    let ends = tokio::time::Instant::now() + WINDOW + Duration::from_millis(200);
    let mut turns = tokio::time::interval(every);
    let (mut asked, mut answered, mut refused) = (0_u64, 0, 0);
    loop {
        let waiting = asked - answered - refused;
        let over = tokio::time::Instant::now() >= ends;
        if over && waiting == 0 {
            return (answered, refused);
        }
        tokio::select! {
            _ = turns.tick(), if !over && waiting < under_way as u64 => {
                raw.ask(asked, "bench/key");
                asked += 1;
            }
            answer = raw.hear(), if waiting > 0 => match answer.expect("an answer") {
                Response::Secret(_) => answered += 1,
                _ => refused += 1,
            },
            () = tokio::time::sleep_until(ends), if !over => {}
        }
    }
}

async fn flood_unary(broker: raw::Broker, session: String, every: Duration, under_way: usize) -> (u64, u64) {
    let ends = tokio::time::Instant::now() + WINDOW + Duration::from_millis(200);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..under_way {
        let (mut broker, session) = (broker.clone(), session.clone());
        let mut turns = tokio::time::interval(every * under_way as u32);
        tasks.spawn(async move {
            let (mut answered, mut refused) = (0, 0);
            while tokio::time::Instant::now() < ends {
                turns.tick().await;
                match get_unary(&mut broker, &session, &["bench/key"]).await {
                    Ok(_) => answered += 1,
                    Err(status) if status.code() == tonic::Code::ResourceExhausted => refused += 1,
                    Err(status) => panic!("{status:?}"),
                }
            }
            (answered, refused)
        });
    }
    tasks.join_all().await.into_iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

//! What `valetkey run` costs, each figure beside its floor in the same run. Prints the tables that stand in `benches/README.md`.
//!
//! `cargo bench --bench run` measures the launcher as Cargo built it; set `VALETKEY_BENCH_LAUNCHER` to one that is linked statically, as
//! `benches/README.md` says. `-- --quick` takes fewer rounds.
//!
//! Sides alternate within each round, so that what else the machine does falls on all; figures are medians over the rounds, what is
//! added is the median of the rounds' differences.

#[path = "../tests/support/daemon.rs"]
mod daemon;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use daemon::Host;

const SECRETS: [&str; 3] = ["bench/one", "bench/two", "bench/three"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, part, size, ..] = &arguments[..]
        && part == "echo-child"
    {
        return echo(size.parse().expect("a size"));
    }
    if let [_, part, command @ ..] = &arguments[..]
        && part == "bare-relay"
    {
        return bare_relay(command);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let host = host();
    let _daemon = host.start();
    let launcher = std::env::var_os("VALETKEY_BENCH_LAUNCHER").map_or(env!("CARGO_BIN_EXE_valetkey").into(), PathBuf::from);
    println!("launcher: {}", linked(&launcher));
    start(&host, &launcher, if quick { 40 } else { 250 });
    relay(&host, &launcher, quick);
    with_a_real_client(&host, &launcher, if quick { 100 } else { 750 });
}

/// Three secrets of forty bytes, and a tool for each way to be launched.
fn host() -> Host {
    let host = Host::new();
    let value = |n: usize| format!("sk_live_{n}_4eC39HqLyjWDarjtT1zdp7dcXY0Z8a");
    let values: Vec<String> = (0..SECRETS.len()).map(value).collect();
    let sealed: Vec<(&str, &[u8])> = SECRETS.iter().zip(&values).map(|(name, value)| (*name, value.as_bytes())).collect();
    let source = host.seal(&sealed);
    let uid = rustix::process::getuid().as_raw();
    let tool = |name: &str, more: &str| {
        let grants = SECRETS.iter().enumerate().map(|(n, secret)| format!("secrets.\"{secret}\" = {{ env = \"KEY_{n}\" }}\n"));
        let limits = "limits = { per-minute = 1000000, concurrent = 100 }";
        format!("[tool.{name}]\nrun-as = {{ user = \"{uid}\" }}\n{}{limits}\n{more}\n", grants.collect::<String>())
    };
    let tools = tool("redacting", "") + &tool("plain", "redact = false");
    host.configure("log-level = \"error\"\n", &format!("{source}{}{tools}", Host::secrets(&SECRETS)));
    host
}

fn linked(launcher: &Path) -> String {
    let bytes = std::fs::read(launcher).expect("the launcher");
    // A program header of type PT_INTERP (elf(5)): it names the dynamic loader.
    let [at, size, count] = [(0x20, 8), (0x36, 2), (0x38, 2)].map(|(at, len): (usize, usize)| {
        let mut number = [0; 8];
        number[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(number) as usize
    });
    let dynamic = (0..count).any(|n| bytes[at + n * size..].starts_with(&3u32.to_le_bytes()));
    format!("{:.1} MB, linked {}", bytes.len() as f64 / 1e6, if dynamic { "dynamically" } else { "statically" })
}

/// The words that put a command behind the launcher.
fn behind(host: &Host, launcher: &Path, tool: &str) -> Vec<String> {
    let socket = host.tools_socket().display().to_string();
    [&launcher.display().to_string(), "run", "--socket", &socket, tool, "--"].map(String::from).to_vec()
}

fn start(host: &Host, launcher: &Path, rounds: usize) {
    let command = |words: &[String]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear();
        command
    };
    let program = || vec!["/bin/true".to_string()];
    let behind = |tool: &str| [behind(host, launcher, tool), program()].concat();
    let sides = [("/bin/true", program()), ("run, redacting", behind("redacting")), ("run, redact = false", behind("plain"))];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    for round in 0..rounds + 10 {
        for n in 0..sides.len() {
            let n = (n + round) % sides.len();
            let begun = Instant::now();
            let output = command(&sides[n].1).output().expect("it starts");
            let took = begun.elapsed().as_secs_f64() * 1e3;
            assert!(output.status.success(), "{}: {}", sides[n].0, output.status);
            if round >= 10 {
                times[n].push(took);
            }
        }
    }
    println!("\n| start of | p50 ms | p90 ms | added to a plain start, p50 ms |\n|---|---|---|---|");
    for (n, (name, _)) in sides.iter().enumerate() {
        let added = times[n].iter().zip(&times[0]).map(|(one, floor)| one - floor).collect();
        println!("| {name} | {:.2} | {:.2} | {:+.2} |", quantile(&times[n], 0.5), quantile(&times[n], 0.9), median(added));
    }
}

/// A child that answers each line with one of the given size, as an MCP server would.
fn echo(size: usize) {
    let mut answer = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":""#.to_vec();
    let end = b"\"}]}}\n";
    while answer.len() + end.len() < size {
        answer.extend_from_slice(
            &b"Oslo has 3 degrees, wind from the north-west, and a clear sky. "[..(size - answer.len() - end.len()).min(63)],
        );
    }
    answer.extend_from_slice(end);
    let (mut lines, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        out.write_all(&answer).and_then(|()| out.flush()).expect("a reader");
        line.clear();
    }
}

/// The least that can stand between a tool and its client: the input is the tool's own, and what it writes is read and written, with
/// calls that wait. Nothing is looked at.
fn bare_relay(command: &[String]) {
    let mut tool = Command::new(&command[0]).args(&command[1..]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut from = tool.stdout.take().expect("a pipe");
    // Not through the standard library's buffer, which looks for line ends.
    let mut to = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().expect("a descriptor"));
    let mut buffer = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        to.write_all(&buffer[..got]).expect("a reader");
    }
    let _ = tool.wait();
}

struct Talk {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Talk {
    fn with(words: &[String]) -> Self {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("it starts");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, to, from: BufReader::with_capacity(1 << 20, from) }
    }

    /// One request of 200 bytes and its answer, in microseconds.
    fn round(&mut self, size: usize, buffer: &mut Vec<u8>) -> f64 {
        let request = [vec![b'q'; 199], vec![b'\n']].concat();
        buffer.resize(size, 0);
        let begun = Instant::now();
        self.to.write_all(&request).expect("a reader");
        self.from.read_exact(buffer).expect("an answer");
        begun.elapsed().as_secs_f64() * 1e6
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn relay(host: &Host, launcher: &Path, quick: bool) {
    println!(
        "\n| reply | direct p50 / p99 us | bare relay, added p50 us | `valetkey run` p50 / p99 us | added p50 us | to the bare relay us | again direct, added p50 us |\n|---|---|---|---|---|---|---|"
    );
    for (size, rounds) in [(300, 4000), (100_000, 600), (1_000_000, 120)] {
        let own = std::env::current_exe().expect("this program").display().to_string();
        let child = vec![own.clone(), "echo-child".to_string(), size.to_string()];
        let through = [behind(host, launcher, "redacting"), child.clone()].concat();
        let bare = [vec![own, "bare-relay".to_string()], child.clone()].concat();
        let mut talks = [Talk::with(&child), Talk::with(&through), Talk::with(&bare), Talk::with(&child)];
        let mut times: [Vec<f64>; 4] = Default::default();
        let (mut buffer, warm) = (Vec::new(), rounds / 10);
        for round in 0..if quick { rounds / 10 } else { rounds } + warm {
            for n in 0..talks.len() {
                let n = (n + round) % talks.len();
                let took = talks[n].round(size, &mut buffer);
                if round >= warm {
                    times[n].push(took);
                }
            }
        }
        let to = |n: usize, floor: usize| median(times[n].iter().zip(&times[floor]).map(|(one, floor)| one - floor).collect());
        let figures = |n: usize| format!("{:.1} / {:.1}", quantile(&times[n], 0.5), quantile(&times[n], 0.99));
        println!(
            "| {size} B | {} | {:+.1} | {} | {:+.1} | {:+.1} | {:+.1} |",
            figures(0),
            to(2, 0),
            figures(1),
            to(1, 0),
            to(1, 2),
            to(3, 0)
        );
    }
    by_itself(host, launcher, if quick { 2000 } else { 20_000 });
}

/// The same small reply where nothing else is measured in between, so that no side has slept for long: each in a loop of its own,
/// the loops taking turns.
fn by_itself(host: &Host, launcher: &Path, rounds: usize) {
    let own = std::env::current_exe().expect("this program").display().to_string();
    let child = vec![own.clone(), "echo-child".to_string(), "300".to_string()];
    let through = [behind(host, launcher, "redacting"), child.clone()].concat();
    let bare = [vec![own, "bare-relay".to_string()], child.clone()].concat();
    let mut talks = [Talk::with(&child), Talk::with(&bare), Talk::with(&through)];
    let (mut times, mut buffer): ([Vec<f64>; 3], _) = Default::default();
    for _ in 0..10 {
        for (talk, times) in talks.iter_mut().zip(&mut times) {
            let all: Vec<f64> = (0..rounds / 10).map(|_| talk.round(300, &mut buffer)).collect();
            times.extend(&all[all.len() / 10..]);
        }
    }
    let [direct, bare, through] = times.map(|times| quantile(&times, 0.5));
    println!(
        "\n300 B in loops of their own, p50 us: {direct:.1} directly, {bare:.1} through a bare relay ({:+.1}), {through:.1} through the \
         launcher ({:+.1})",
        bare - direct,
        through - direct
    );
}

/// The Python SDK's client and `server-everything`, where `tests/setup` has installed them.
fn with_a_real_client(host: &Host, launcher: &Path, calls: usize) {
    let cache =
        std::env::var_os("VALETKEY_TEST_CACHE").map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"), PathBuf::from);
    let (python, server) =
        (cache.join("python/bin/python"), cache.join("node/node_modules/@modelcontextprotocol/server-everything/dist/index.js"));
    if !python.exists() || !server.exists() {
        return println!("\na real client and server: install them first, with tests/setup/python and tests/setup/node");
    }
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/latency.py");
    let server = vec!["node".to_string(), server.display().to_string(), "stdio".to_string()];
    let through = [behind(host, launcher, "redacting"), server.clone()].concat();
    let variant = |name: &str, words: &[String]| format!("{name}={}", serde_json::to_string(words).expect("JSON"));
    let mut command = Command::new(python);
    command.arg(probe).args(["--sessions", "2", "--calls", &calls.to_string()]);
    command.args([variant("direct", &server), variant("again", &server), variant("run", &through)]);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!(
        "\nPython's MCP client and server-everything, a call of `echo`, in microseconds:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn median(values: Vec<f64>) -> f64 {
    quantile(&values, 0.5)
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

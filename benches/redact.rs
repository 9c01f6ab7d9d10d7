//! The redactor against `memcpy` of the same text and against `aho-corasick`, side by side in one run. Prints the tables that
//! stand in `benches/README.md`.
//!
//! `cargo bench --bench redact --no-default-features --features run`
//!
//! Figures are CPU time of the one thread, medians of five, except those for building, which are wall time: it is what the start
//! of a tool waits for. Patterns are the forms of made-up secrets that the redactor itself would look for.

mod redact {
    pub mod corpus;
    pub mod hostile;
}

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aho_corasick::AhoCorasick;
use redact::{corpus, hostile};
use rustix::time::{ClockId, clock_gettime};
use valetkey::{
    name::{SecretName, Version},
    redact::{
        Redactor,
        bench::{Scanner, forms},
    },
    secret::{SecretValue, WipingAllocator},
};

// As in the launcher.
#[global_allocator]
static ALLOCATOR: WipingAllocator<dlmalloc::GlobalDlmalloc> = WipingAllocator::over(dlmalloc::GlobalDlmalloc);

const SIZE: usize = 32 << 20;
/// The peer is up to a hundred times slower: it gets less of the text.
const PEER_SIZE: usize = 4 << 20;

fn main() {
    let secrets = corpus::secrets(1500);
    let mut patterns: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).filter(|form| form.len() <= 256).collect();
    println!("{:.1} distinct forms a secret\n", patterns.len() as f64 / secrets.len() as f64);
    patterns.truncate(10_000);
    scans(&patterns);
    worst(&patterns);
    whole();
    builds();
}

/// CPU seconds of this thread, median of five.
pub fn cpu_time(mut work: impl FnMut()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = now();
            work();
            now() - start
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn rate(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e9
}

fn memcpy(text: &[u8], copy: &mut [u8]) -> f64 {
    rate(text.len(), cpu_time(|| black_box(&mut *copy).copy_from_slice(black_box(text))))
}

fn scans(patterns: &[Vec<u8>]) {
    println!(
        "| patterns | text | scan GB/s | memcpy GB/s | to memcpy | aho-corasick GB/s | to it |\n|---|---|---|---|---|---|---|"
    );
    let near = corpus::back_to_back(SIZE, &patterns[..1000], true);
    let dense = corpus::dense(SIZE, &patterns[..1000]);
    let texts = [("JSON-RPC", corpus::json_rpc(SIZE)), ("logs", corpus::logs(SIZE)), ("near misses", near), ("dense", dense)];
    let mut copy = vec![1; SIZE + 1024];
    let short: Vec<Vec<u8>> = (0..10).map(|n| format!("pass-{n}-wrd{}", "x".repeat(n % 4)).into_bytes()).collect();
    let sets = [10, 100, 1000, 10_000].map(|count| (count.to_string(), patterns[..count].to_vec()));
    let with_short = ("100, and 10 short".to_owned(), [&patterns[..100], &short].concat());
    for (label, set) in sets.iter().chain([&with_short]) {
        let ours = Scanner::of(set).expect("random bytes");
        let peer = AhoCorasick::new(set).expect("an automaton");
        for (name, text) in &texts {
            let copied = memcpy(text, &mut copy[..text.len()]);
            let scanned = rate(text.len(), cpu_time(|| _ = black_box(ours.count(black_box(text)))));
            let part = &text[..PEER_SIZE];
            let theirs = rate(part.len(), cpu_time(|| _ = black_box(peer.find_iter(black_box(part)).count())));
            // All of them, overlaps included: what redaction needs, and what the peer's usual search does not give.
            let missed = peer.find_iter(part).filter(|one| ours.covered(&part[one.range()]) < one.len()).count();
            assert_eq!(missed, 0, "{name}: the peer finds what we do not");
            println!(
                "| {label} | {name} | {scanned:.2} | {copied:.1} | {:.2} | {theirs:.2} | {:.1} |",
                scanned / copied,
                scanned / theirs
            );
        }
    }
}

/// The slowest texts that somebody who knows the secrets, and can time the scan, comes up with.
fn worst(patterns: &[Vec<u8>]) {
    println!("\n| patterns | slowest text | scan GB/s |\n|---|---|---|");
    for count in [10, 1000, 10_000] {
        for (what, rate) in hostile::slowest(&patterns[..count]) {
            println!("| {count} | {what} | {rate:.2} |");
        }
    }
    for (what, rate) in hostile::repetitive() {
        println!("| 1 secret | {what} | {rate:.3} |");
    }
}

/// The whole redactor, line by line, views included.
fn whole() {
    println!("\n| secrets | text | redact GB/s | to memcpy |\n|---|---|---|---|");
    let mut copy = vec![1; SIZE + 1024];
    for (name, text) in [
        ("JSON-RPC", corpus::json_rpc(SIZE)),
        ("JSON-RPC, no escapes", corpus::plain_json_rpc(SIZE)),
        ("logs", corpus::logs(SIZE)),
    ] {
        // Found beforehand: a search byte by byte would weigh as much as what is measured.
        let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        for count in [3, 10, 150] {
            let redactor = knows(&values(count));
            let redacted =
                rate(text.len(), cpu_time(|| lines.iter().for_each(|line| drop(black_box(redactor.redact(black_box(line)))))));
            println!("| {count} | {name} | {redacted:.2} | {:.2} |", redacted / memcpy(&text, &mut copy[..text.len()]));
        }
    }
}

type Named = (SecretName, Version, SecretValue);

fn values(count: usize) -> Vec<Named> {
    let value = |(n, bytes): (usize, Vec<u8>)| {
        let name = format!("bench/s{n}").parse().expect("a name");
        (name, Version::from(1), SecretValue::copy_from(&bytes).expect("memory"))
    };
    corpus::secrets(count).into_iter().enumerate().map(value).collect()
}

fn knows(values: &[Named]) -> Redactor {
    let redactor = Redactor::new().expect("random bytes");
    let _ = redactor.learn_all(values.iter().map(|(name, version, value)| (name, version, value)));
    redactor
}

/// From values to a redactor that knows them: inside every start of a tool.
fn builds() {
    println!("\n| secrets | built in ms, first | median | wiped in ms, median |\n|---|---|---|---|");
    for count in [1, 3, 10, 150, 10_000] {
        let values = values(count);
        let rounds = if count > 1000 { 3 } else { 51 };
        let (mut built, mut wiped) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = Instant::now();
            let redactor = knows(&values);
            built.push(start.elapsed());
            let start = Instant::now();
            drop(redactor);
            wiped.push(start.elapsed());
        }
        let first = built[0];
        println!("| {count} | {:.3} | {:.3} | {:.3} |", ms(first), ms(median(built)), ms(median(wiped)));
    }
    let redactor = knows(&values(10_000));
    let (mut learned, mut forgotten) = (Vec::new(), Vec::new());
    for (n, (name, _, value)) in values(10_200)[10_000..].iter().enumerate() {
        let start = Instant::now();
        let _ = redactor.learn(name, &Version::from(n as u64), value);
        learned.push(start.elapsed());
        let start = Instant::now();
        redactor.forget(name, &Version::from(n as u64 / 2));
        forgotten.push(start.elapsed());
    }
    let most = |all: &[Duration]| ms(all.iter().copied().max().unwrap_or_default());
    println!("\nof 10,000 and more, one learned: median {:.3} ms, most {:.3}", ms(median(learned.clone())), most(&learned));
    println!("one forgotten, where there was one: most {:.3} ms", most(&forgotten));
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

//! The audit log beside two floors in the same run: one write and fdatasync alone, and bare group commit of the same bytes. And how long it
//! takes to verify and to ask.
//!
//!     cargo bench --bench audit -- [RECORDS]        for verify and query; a million where no number is given

#[path = "audit/floor.rs"]
mod floor;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use floor::{Measured, alone, bare, median, threads};

use valetkey::{
    audit::{
        Durability, Event, Kind, Log, Outcome, Place, Settings, SigningKey, Who,
        disk::Directory,
        read::{Filter, Wanted, query},
        verify::{How, verify},
    },
    name::{SecretName, SessionId, ToolName, Version},
    peer::{Peer, Process, Unit},
};

const ROUNDS: usize = 9;

struct Facts {
    who: Who,
    secret: SecretName,
    version: Version,
}

impl Facts {
    fn new() -> Self {
        let tool: ToolName = "billing".parse().expect("a name");
        let peer = Peer {
            process: Process { pid: 4711, pidfd_inode: 7 },
            uid: 990,
            gid: 990,
            groups: vec![],
            unit: Some(Unit { name: "mcp-billing.service".into(), invocation: Some("0".repeat(32)), cgroup: 1 }),
            executable: None,
            remote: None,
        };
        let who = Who::new(Some(&tool), Some(&SessionId::new([7; 16])), Some(&peer));
        Self { who, secret: "stripe/api-key".parse().expect("a name"), version: Version::from(7) }
    }

    fn event(&self) -> Event<'_> {
        Event {
            who: Some(&self.who),
            secret: Some(&self.secret),
            version: Some(&self.version),
            policy: Some(Place { file: Path::new("/etc/valetkey/tools.d/billing.toml"), line: 6 }),
            duration: Some(Duration::from_micros(12)),
            ..Event::new(Kind::SecretHandedOut, Outcome::Success)
        }
    }
}

fn log(dir: &Path, durability: Durability) -> Log {
    let disk = Arc::new(Directory::take(dir).expect("a directory"));
    let settings = Settings { durability, ..Settings::default() };
    Log::open(disk, SigningKey::generate().expect("a key"), settings).expect("a log").0
}

/// Appends one. Who is faster than the disk waits here, and would be refused in a daemon.
fn put(log: &Log, facts: &Facts) {
    while log.append(&facts.event()).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn appending(dir: &Path) {
    let facts = Facts::new();
    let (sync, batched) = (log(&dir.join("sync"), Durability::Sync), log(&dir.join("batched"), Durability::Batched));
    sync.append(&facts.event()).expect("up").wait().expect("on disk");
    // As long as a line of the log.
    let line = vec![b'x'; 430];
    println!(
        "| waiters | log, records/s | p50 / p99 us | bare group commit/s | p50 / p99 us | rate to bare | one fdatasync/s | p50 us | batched, records/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let micros = |d: Duration| format!("{:.0}", d.as_secs_f64() * 1e6);
    for count in [1, 16, 64, 256] {
        let mut all: [Vec<Measured>; 4] = Default::default();
        for _ in 0..ROUNDS {
            all[0].push(threads(count, &|| _ = sync.append(&facts.event()).expect("up").wait().expect("on disk")));
            all[1].push(bare(dir, count, &line));
            all[2].push(alone(dir, &line));
        }
        // By themselves: what they leave to be written must not slow down the others.
        for _ in 0..ROUNDS {
            all[3].push(threads(count.min(4), &|| put(&batched, &facts)));
            while batched.append(&facts.event()).is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::thread::sleep(Duration::from_secs(1));
        let ratio = all[0].iter().zip(&all[1]).map(|(a, b)| Measured { rate: a.rate / b.rate, ..*a }).collect();
        let ratio = median(ratio).rate;
        let [ours, bare, alone, batched] = all.map(median);
        println!(
            "| {count} | {:.0} | {} / {} | {:.0} | {} / {} | {ratio:.2} | {:.0} | {} | {:.0} |",
            ours.rate,
            micros(ours.p50),
            micros(ours.p99),
            bare.rate,
            micros(bare.p50),
            micros(bare.p99),
            alone.rate,
            micros(alone.p50),
            batched.rate,
        );
    }
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn reading(dir: &Path, records: u64) {
    let facts = Facts::new();
    let key = {
        let log = log(dir, Durability::Batched);
        let begun = Instant::now();
        (0..records).for_each(|_| put(&log, &facts));
        let key = log.public_key().expect("a key");
        log.close();
        let took = begun.elapsed();
        println!("\n{records} records written in {took:.1?}: {:.0} records/s", records as f64 / took.as_secs_f64());
        key
    };
    let disk = Directory::read_only(dir).expect("the log");
    let before = peak_memory();
    let begun = Instant::now();
    let how = How { keys: &[key], threads: 2, anchor: None, progress: &|_| {} };
    let found = verify(&disk, &how).expect("read");
    let took = begun.elapsed();
    assert!(found.is_sealed(), "{found:?}");
    let gigabytes = found.bytes as f64 / 1e9;
    println!("verified in {took:.2?}: {gigabytes:.2} GB, {:.2} GB/s", gigabytes / took.as_secs_f64());
    for (what, filter, wanted) in [
        ("count all", Filter::default(), Wanted::Counts),
        ("find one tool that is not there", Filter { tool: Some("other".into()), ..Filter::default() }, Wanted::Records),
        ("find all of one secret", Filter { secret: Some("stripe/api-key".into()), ..Filter::default() }, Wanted::Records),
    ] {
        let begun = Instant::now();
        let mut bytes = 0;
        let summary = query(&disk, &filter, wanted, 2, &mut |lines| {
            bytes += lines.len();
            Ok(())
        });
        let took = begun.elapsed();
        println!("{what}: {} records in {took:.2?}, {:.2} GB/s", summary.expect("read").records, gigabytes / took.as_secs_f64());
    }
    println!("peak memory: {} KiB before reading, {} KiB after", before, peak_memory());
}

fn main() {
    let records = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    // On a disk: many hosts have /tmp in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    if !std::env::args().any(|argument| argument == "--read") {
        appending(dir.path());
    }
    reading(&dir.path().join("read"), records);
}

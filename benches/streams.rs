//! The whole redactor as the launcher uses it: a stream that is given 64 KiB at a time, and its answer copied. Beside `memcpy`.
//!
//! `cargo bench --bench streams --no-default-features --features run`
//!
//! CPU time of the one thread, medians of five, except the building, which is wall time.

#[path = "redact/corpus.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod corpus;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use valetkey::{
    name::{SecretName, Version},
    redact::{Redactor, Wanted},
    secret::{SecretValue, WipingAllocator},
};

// As in the launcher.
#[global_allocator]
static ALLOCATOR: WipingAllocator<dlmalloc::GlobalDlmalloc> = WipingAllocator::over(dlmalloc::GlobalDlmalloc);

const SIZE: usize = 32 << 20;
const READ: usize = 64 << 10;

fn main() {
    println!("| secrets | text | stream GB/s | to memcpy |\n|---|---|---|---|");
    let escaped = |text: Vec<u8>| {
        let quoted = |line: &[u8]| serde_json::to_string(&String::from_utf8_lossy(line)).expect("JSON");
        text.split(|b| *b == b'\n').map(|line| format!("{{\"data\":{}}}\n", quoted(line))).collect::<String>().into_bytes()
    };
    let texts = [
        ("JSON-RPC", corpus::json_rpc(SIZE)),
        ("JSON-RPC, no escapes", corpus::plain_json_rpc(SIZE)),
        ("logs", corpus::logs(SIZE)),
        ("JSON-RPC in JSON", escaped(corpus::json_rpc(SIZE / 2))),
    ];
    for (name, text) in &texts {
        let mut copy = vec![1; text.len()];
        let copied = rate(text.len(), cpu_time(|| black_box(&mut copy).copy_from_slice(black_box(text))));
        for count in [3, 10, 150] {
            let redactor = Redactor::streaming().expect("random bytes");
            learn(&redactor, &values(count));
            let streamed = rate(text.len(), cpu_time(|| pass(&redactor, text, &mut copy)));
            println!("| {count} | {name} | {streamed:.2} | {:.2} |", streamed / copied);
        }
    }
    println!("\n| secrets | to build, ms |\n|---|---|");
    for count in [1, 3, 10, 150] {
        let values = values(count);
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let start = Instant::now();
                let redactor = Redactor::streaming().expect("random bytes");
                learn(&redactor, &values);
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("| {count} | {:.3} |", times[25].as_secs_f64() * 1e3);
    }
    let redactor = Redactor::streaming().expect("random bytes");
    learn(&redactor, &values(3));
    let line =
        br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"a \"line\" of three hundred bytes or so\n"#;
    let line = [line.as_slice(), "and more of it ".repeat(12).as_bytes(), b"\"}]}}\n"].concat();
    let mut stream = redactor.stream(Wanted::default());
    let time = cpu_time(|| (0..10_000).for_each(|_| drop(black_box(stream.push(&line)))));
    println!("\none line of {} bytes: {:.2} microseconds", line.len(), time * 100.0);
    let time = cpu_time(|| {
        (0..10_000).for_each(|_| {
            drop(black_box(stream.push(b"Password: ")));
            drop(black_box(stream.push(b"\n")));
        })
    });
    println!("a prompt and a newline: {:.2} microseconds", time * 100.0);
}

fn pass(redactor: &Redactor, text: &[u8], copy: &mut [u8]) {
    let mut stream = redactor.stream(Wanted::default());
    let mut at = 0;
    let mut put = |passed: &[u8]| {
        copy[at..at + passed.len()].copy_from_slice(passed);
        at += passed.len();
    };
    text.chunks(READ).for_each(|piece| put(&stream.push(piece).expect("short lines").text));
    put(&stream.finish().expect("short lines").text);
    assert_eq!(at, text.len(), "nothing to find");
}

fn values(count: usize) -> Vec<(SecretName, Version, SecretValue)> {
    let value = |(n, bytes): (usize, Vec<u8>)| {
        let name = format!("bench/s{n}").parse().expect("a name");
        (name, Version::from(1), SecretValue::copy_from(&bytes).expect("memory"))
    };
    corpus::secrets(count).into_iter().enumerate().map(value).collect()
}

fn learn(redactor: &Redactor, values: &[(SecretName, Version, SecretValue)]) {
    let _ = redactor.learn_all(values.iter().map(|(name, version, value)| (name, version, value)));
}

/// CPU seconds of this thread, median of five.
fn cpu_time(mut work: impl FnMut()) -> f64 {
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

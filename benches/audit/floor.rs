//! What any log that is on disk costs: one write and fdatasync alone, and bare group commit.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub const WINDOW: Duration = Duration::from_millis(400);

/// Rate, and the median and 99th of waits.
#[derive(Clone, Copy)]
pub struct Measured {
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

pub fn measured(mut waits: Vec<Duration>, window: Duration) -> Measured {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Measured { rate: waits.len() as f64 / window.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

/// Each of these threads does one after the other until the window ends.
pub fn threads(count: usize, once: &(dyn Fn() + Sync)) -> Measured {
    let ends = Instant::now() + WINDOW;
    let waits = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(move || {
                    let mut waits = Vec::with_capacity(10_000);
                    while Instant::now() < ends {
                        let begun = Instant::now();
                        once();
                        waits.push(begun.elapsed());
                    }
                    waits
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("no panic")).collect()
    });
    measured(waits, WINDOW)
}

fn append_file(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).expect("a file")
}

/// Group commit of bytes, and nothing else: no hash, no JSON, no order.
struct Bare {
    state: Mutex<(Vec<u8>, u64, u64)>,
    more: Condvar,
    done: Condvar,
    stop: AtomicBool,
}

impl Bare {
    fn put(&self, bytes: &[u8]) {
        let mut state = self.state.lock().expect("no panic");
        state.0.extend_from_slice(bytes);
        state.1 += 1;
        let mine = state.1;
        self.more.notify_one();
        while state.2 < mine {
            state = self.done.wait(state).expect("no panic");
        }
    }

    fn write(&self, file: &mut File) {
        let mut spare = Vec::new();
        loop {
            let mut state = self.state.lock().expect("no panic");
            while state.0.is_empty() {
                if self.stop.load(Relaxed) {
                    return;
                }
                state = self.more.wait_timeout(state, Duration::from_millis(20)).expect("no panic").0;
            }
            std::mem::swap(&mut state.0, &mut spare);
            let upto = state.1;
            drop(state);
            file.write_all(&spare).expect("space");
            file.sync_data().expect("a disk");
            spare.clear();
            self.state.lock().expect("no panic").2 = upto;
            self.done.notify_all();
        }
    }
}

pub fn bare(dir: &Path, count: usize, bytes: &[u8]) -> Measured {
    let bare = Bare { state: Mutex::default(), more: Condvar::new(), done: Condvar::new(), stop: AtomicBool::new(false) };
    let mut file = append_file(&dir.join("bare"));
    std::thread::scope(|scope| {
        scope.spawn(|| bare.write(&mut file));
        let measured = threads(count, &|| bare.put(bytes));
        bare.stop.store(true, Relaxed);
        measured
    })
}

pub fn alone(dir: &Path, bytes: &[u8]) -> Measured {
    let file = Mutex::new(append_file(&dir.join("alone")));
    threads(1, &|| {
        let mut file = file.lock().expect("no panic");
        file.write_all(bytes).expect("space");
        file.sync_data().expect("a disk");
    })
}

pub fn median(of: Vec<Measured>) -> Measured {
    let by = |key: &dyn Fn(&Measured) -> f64| {
        let mut values: Vec<f64> = of.iter().map(key).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Measured {
        rate: by(&|m| m.rate),
        p50: Duration::from_secs_f64(by(&|m| m.p50.as_secs_f64())),
        p99: Duration::from_secs_f64(by(&|m| m.p99.as_secs_f64())),
    }
}

//! What another process sees of a value that this one holds. The other process is this test binary, run once more.

#[path = "support/scan.rs"]
mod scan;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use scan::{Hit, descriptors, scan};
use valetkey::secret::{self, Protection, SecretValue, Settings, WipingAllocator};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

const HOLD_IN: &str = "VALETKEY_TEST_HOLD_IN";

/// Made at run time from a seed, so that the value stands in no program's read-only data.
fn needle() -> Vec<u8> {
    let mut state = std::hint::black_box(0x9e37_79b9_7f4a_7c15_u64);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'!' + (state % 90) as u8
    };
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(std::iter::repeat_with(&mut next).take(64));
    bytes
}

/// The other process: holds the value, says so, and lets it go when told to. Not a test on its own.
#[test]
fn holder() {
    let Ok(place) = env::var(HOLD_IN) else { return };
    let at_most = if place == "mlock" { Protection::Locked } else { Protection::MemfdSecret };
    let report = secret::set_up(Settings { at_most, ..Settings::default() }).expect("there is memory for secrets");
    let pause = |word: &str| {
        println!("{} {word}", report.kind);
        io::stdin().read_line(&mut String::new()).expect("the parent goes on");
    };
    match place.as_str() {
        "heap" => {
            let value = needle();
            pause("held");
            drop(value);
        }
        "pieces" => {
            let block = pieces();
            pause("held");
            drop(block);
        }
        _ => {
            let value = SecretValue::copy_from_wiping(needle()).expect("a value can be held");
            pause("held");
            drop(value);
        }
    }
    pause("dropped");
}

const PIECES: usize = 4000;

/// The value and parts of it, at all alignments and across any border: from its start, its middle and its end, of 15 bytes
/// (too short to count), of 16 and of 40, and whole.
fn pieces() -> Vec<u8> {
    let needle = needle();
    let mut block = Vec::with_capacity(PIECES * 257);
    for number in 0..PIECES {
        let piece = [&needle[..15], &needle[20..35], &needle[..16], &needle[24..64], &needle[..]][number % 5];
        block.extend_from_slice(piece);
        block.resize(257 * (number + 1), 0);
    }
    block
}

struct Holder {
    process: Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Holder {
    /// Starts a process that holds the value in such a place.
    fn start(place: &str) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program has a path"))
            .args(["--exact", "holder", "--nocapture"])
            .env(HOLD_IN, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be run again");
        let said = BufReader::new(process.stdout.take().expect("piped"));
        let told = process.stdin.take().expect("piped");
        Self { process, said, told }
    }

    /// Waits until it has come to this point, and says what memory it uses.
    fn wait_for(&mut self, word: &str) -> String {
        let mut lines = self.said.by_ref().lines().map_while(Result::ok);
        let line = lines.find(|line| line.ends_with(word)).expect("the holder gets this far");
        let mut words = line.rsplit(' ');
        words.nth(1).expect("it names its memory first").to_owned()
    }

    fn go_on(&mut self) {
        writeln!(self.told).expect("the holder listens");
    }

    fn scan(&self) -> Vec<Hit> {
        scan(self.process.id(), &needle())
    }

    /// What the kernel says of the mapping that has this line in its entry of `/proc/PID/smaps`.
    fn flags_of(&self, mapping: &str) -> String {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", self.process.id())).expect("mappings can be listed");
        let entry = smaps.lines().skip_while(|line| !line.contains(mapping));
        entry.into_iter().find_map(|line| line.strip_prefix("VmFlags: ")).expect("the mapping is there").to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn nobody_finds_a_value_in_memfd_secret() {
    let mut holder = Holder::start("memfd_secret");
    if holder.wait_for("held") != "memfd_secret" {
        eprintln!("not tested: this host has no memfd_secret");
        return;
    }
    assert_eq!(holder.scan(), []);
    assert_eq!(descriptors(holder.process.id(), "secretmem"), 0, "a descriptor would let others map the pages");
    let flags = holder.flags_of("/secretmem");
    for (flag, meaning) in [("lo", "locked"), ("dd", "not dumped"), ("dc", "not copied on fork")] {
        assert!(flags.split(' ').any(|given| given == flag), "the pages are {meaning}: {flags}");
    }
    holder.go_on();
    holder.wait_for("dropped");
    assert_eq!(holder.scan(), []);
}

/// Also shows that the scanner finds a value where there is one.
#[test]
fn locked_memory_holds_one_copy_until_it_is_dropped() {
    let mut holder = Holder::start("mlock");
    if holder.wait_for("held") != "mlock" {
        eprintln!("not tested: this host lets us lock no memory");
        return;
    }
    let hits = holder.scan();
    assert_eq!(hits.len(), 1, "{hits:?}");
    assert!(hits[0].full && hits[0].address.is_multiple_of(64) && hits[0].before.iter().all(|byte| *byte == 0));
    holder.go_on();
    holder.wait_for("dropped");
    assert_eq!(holder.scan(), []);
}

#[test]
fn the_wiping_allocator_leaves_nothing_of_a_freed_block() {
    let mut holder = Holder::start("heap");
    holder.wait_for("held");
    let hits = holder.scan();
    assert_eq!(hits.iter().filter(|hit| hit.full).count(), 1, "{hits:?}");
    holder.go_on();
    holder.wait_for("dropped");
    assert_eq!(holder.scan(), []);
}

/// The scanner itself: an empty answer must mean that there is nothing.
#[test]
fn the_scanner_finds_every_piece_once() {
    let mut holder = Holder::start("pieces");
    holder.wait_for("held");
    let hits = holder.scan();
    let count = |piece: std::ops::Range<usize>| hits.iter().filter(|hit| hit.piece == piece).count();
    assert_eq!([count(0..16), count(24..64), count(0..64)], [PIECES / 5; 3]);
    assert_eq!(hits.len(), PIECES / 5 * 3);
    assert!(hits.windows(2).all(|pair| pair[0].address < pair[1].address));
    holder.go_on();
    holder.wait_for("dropped");
    assert_eq!(holder.scan(), []);
}

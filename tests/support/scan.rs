//! Looks for a value in the memory of another process, as root or as the same user could.
//!
//! Every page that is present is read through `/proc/PID/mem` and searched for the value and for any piece of it of at least
//! 16 bytes: an allocator that overwrites the first bytes of a freed block hides whole matches, and little else. Memory
//! use stays at a few hundred KiB whatever the size of the process.
//!
//! Build the value at run time (a literal would be found in `.rodata` of every program that knows it), and let the process
//! stand still while it is scanned.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    ops::Range,
    os::unix::fs::FileExt,
};

/// The shortest piece of the value that counts.
const SHORTEST: usize = 16;
const PAGE: u64 = 4096;
/// Bytes read at a time, and pages looked up at a time.
const STEP: u64 = 256 * 1024;
const PAGES_AT_ONCE: u64 = 512;
const WORD: usize = 8;

/// A place where the value, or a piece of it, stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Address of its first byte.
    pub address: u64,
    /// The mapping it is in, as `/proc/PID/maps` names it; empty for anonymous memory.
    pub mapping: String,
    /// Which bytes of the value.
    pub piece: Range<usize>,
    /// Whether that is all of it.
    pub full: bool,
    /// Up to 16 bytes in front of it, from which can be told whose buffer it is.
    pub before: Vec<u8>,
}

/// All places in the memory of process `pid` where `needle`, or at least 16 bytes of it, stands. Pages that cannot be read
/// are passed over: that is what `memfd_secret` is for. Panics if the process cannot be looked at, or has no readable memory.
pub fn scan(pid: u32, needle: &[u8]) -> Vec<Hit> {
    let open = |name: &str| File::open(format!("/proc/{pid}/{name}")).unwrap_or_else(|e| panic!("/proc/{pid}/{name}: {e}"));
    let (memory, pagemap) = (open("mem"), open("pagemap"));
    let search = Search::new(needle);
    let mut hits = Vec::new();
    let mut read = 0;
    for line in BufReader::new(open("maps")).lines().map(|line| line.expect("/proc/PID/maps can be read")) {
        let (range, name) = mapping(&line);
        for present in present(&pagemap, range) {
            read += search.run(&memory, present, name, &mut hits);
        }
    }
    assert!(read > 0, "process {pid} has no memory that can be read: an empty answer would prove nothing");
    hits
}

/// `7f00-7f80 rw-p 00000000 00:00 0      [heap]`
fn mapping(line: &str) -> (Range<u64>, &str) {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("a line of maps starts with a range");
    let number = |text| u64::from_str_radix(text, 16).expect("addresses are hexadecimal");
    (number(start)..number(end), fields.nth(4).unwrap_or("").trim())
}

/// The runs of pages in `range` that are in memory or in swap. Reads the pagemap in small pieces: a mapping may span
/// terabytes of which nothing is there.
fn present(pagemap: &File, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    const IN_MEMORY_OR_SWAP: u64 = 0b11 << 62;
    range.clone().step_by((PAGE * PAGES_AT_ONCE) as usize).flat_map(move |start| {
        let count = (range.end - start).div_ceil(PAGE).min(PAGES_AT_ONCE);
        let mut entries = vec![0; count as usize * WORD];
        // A process's special mappings (vsyscall) have no entry.
        let known = pagemap.read_at(&mut entries, start / PAGE * WORD as u64).unwrap_or(0);
        let pages = entries[..known].chunks_exact(WORD).zip((start..).step_by(PAGE as usize));
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (entry, page) in pages {
            match runs.last_mut() {
                _ if u64::from_ne_bytes(entry.try_into().expect("entries are words")) & IN_MEMORY_OR_SWAP == 0 => {}
                Some(run) if run.end == page => run.end = page + PAGE,
                _ => runs.push(page..page + PAGE),
            }
        }
        runs
    })
}

/// Any piece of 16 bytes covers a whole aligned word, so one look-up for every eight bytes of memory finds them all.
struct Search<'a> {
    needle: &'a [u8],
    /// Where in the needle each of its words starts.
    words: HashMap<[u8; WORD], Vec<usize>>,
    /// The first bytes that any of them has, to pass over all others quickly.
    first: [bool; 256],
}

impl<'a> Search<'a> {
    fn new(needle: &'a [u8]) -> Self {
        assert!(needle.len() >= SHORTEST, "a needle of fewer than {SHORTEST} bytes is found by chance");
        let mut search = Self { needle, words: HashMap::new(), first: [false; 256] };
        for (at, word) in needle.windows(WORD).enumerate() {
            search.words.entry(word.try_into().expect("a window is a word")).or_default().push(at);
            search.first[usize::from(word[0])] = true;
        }
        search
    }

    /// Searches a run of present pages and says how many bytes of it could be read. Each read reaches over both ends of its
    /// step, so that what lies across a border is seen whole.
    fn run(&self, memory: &File, run: Range<u64>, mapping: &str, hits: &mut Vec<Hit>) -> u64 {
        let reach = (self.needle.len() + SHORTEST).next_multiple_of(WORD) as u64;
        let (mut at, mut read) = (run.start, 0);
        while at < run.end {
            let from = at.saturating_sub(reach).max(run.start);
            let until = (at + STEP).min(run.end);
            let mut bytes = vec![0; ((until + reach).min(run.end) - from) as usize];
            let known = memory.read_at(&mut bytes, from).unwrap_or(0);
            bytes.truncate(known);
            if from + known as u64 <= at {
                // EIO: secret memory, or gone since. On to the next page.
                at += PAGE;
                continue;
            }
            let until = until.min(from + known as u64);
            self.bytes(&bytes, from, at..until, mapping, hits);
            read += until - at;
            at = until;
        }
        read
    }

    /// Searches bytes read at address `from`, reporting what has an aligned word in `step`.
    fn bytes(&self, bytes: &[u8], from: u64, step: Range<u64>, mapping: &str, hits: &mut Vec<Hit>) {
        let offset = |address: u64| (address - from) as usize;
        for at in (offset(step.start)..offset(step.end)).step_by(WORD) {
            let Some(word) = bytes.get(at..at + WORD).filter(|word| self.first[usize::from(word[0])]) else { continue };
            let Some(places) = self.words.get(word) else { continue };
            let (start, piece) = places.iter().map(|&place| self.grow(bytes, at, place)).max_by_key(|(_, p)| p.len()).unwrap();
            let address = from + start as u64;
            let seen = |hit: &Hit| hit.address == address && hit.piece == piece;
            if piece.len() < SHORTEST || hits.iter().rev().take(8).any(seen) {
                continue;
            }
            let full = piece.len() == self.needle.len();
            let before = bytes[start.saturating_sub(16)..start].to_vec();
            hits.push(Hit { address, mapping: mapping.into(), piece, full, before });
        }
    }

    /// How far the needle and the bytes agree around a word that both have: where that starts, and which bytes of the needle.
    fn grow(&self, bytes: &[u8], at: usize, place: usize) -> (usize, Range<usize>) {
        let back = bytes[..at].iter().rev().zip(self.needle[..place].iter().rev()).take_while(|(a, b)| a == b).count();
        let on = bytes[at..].iter().zip(&self.needle[place..]).take_while(|(a, b)| a == b).count();
        (at - back, place - back..place + on)
    }
}

#[allow(dead_code, reason = "each test binary uses some of it")]
/// The number of descriptors of process `pid` whose target's name contains `text`.
pub fn descriptors(pid: u32, text: &str) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors can be listed");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains(text));
    open.flatten().map(target).filter(|&found| found).count()
}

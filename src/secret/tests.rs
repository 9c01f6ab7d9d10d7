use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    io::{Read, pipe},
    os::fd::AsRawFd,
    process::Command,
    sync::Barrier,
    thread,
};

use proptest::{collection::vec, prelude::*, sample::Index};
use rustix::process::{Resource, getrlimit};

use super::{
    arena::{Arena, GRANULE},
    bitmap::Bitmap,
    harden::harden_process,
    pages::{Pages, UNIT},
    *,
};

const SMALL: Settings = Settings { first_chunk: UNIT, at_least: Protection::Plain, at_most: Protection::MemfdSecret };
const LEVELS: [Protection; 3] = [Protection::Plain, Protection::Locked, Protection::MemfdSecret];

/// What the kernel reads at an address, if it may: a `write` from there answers EFAULT where a load would be a crash.
fn byte_at(address: *const u8) -> Option<u8> {
    let (mut from, to) = pipe().expect("there are descriptors left");
    // SAFETY: the kernel checks the address itself.
    let written = unsafe { libc::write(to.as_raw_fd(), address.cast(), 1) };
    let mut byte = [0];
    if written == 1 {
        from.read_exact(&mut byte).expect("one byte was written");
    }
    (written == 1).then_some(byte[0])
}

/// What a forked child reads there.
fn byte_in_child(address: *const u8) -> Option<u8> {
    const NOTHING: i32 = 255;
    // SAFETY: the child makes system calls only, and never returns.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(byte_at(address).map_or(NOTHING, i32::from));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    };
    assert!(libc::WIFEXITED(status));
    u8::try_from(libc::WEXITSTATUS(status)).ok().filter(|&byte| i32::from(byte) != NOTHING)
}

/// Runs the test of this name in a process of its own, where it finds `role` in its environment.
fn in_new_process(test: &str, role: &str) {
    let mut again = Command::new(env::current_exe().expect("this program has a path"));
    let run = again.args(["--exact", &format!("secret::tests::{test}"), "--nocapture"]).env(ROLE, role).output();
    let run = run.expect("this program can be run again");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

const ROLE: &str = "VALETKEY_TEST_ROLE";

fn role() -> Option<String> {
    env::var(ROLE).ok()
}

#[derive(Debug, Clone)]
enum Step {
    Hold(usize),
    Drop(Index),
}

fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => (0..=longest).prop_map(Step::Hold), 2 => any::<Index>().prop_map(Step::Drop)];
    vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a row of flags searched from the left.
    #[test]
    fn bitmap_takes_the_lowest_run_that_is_free(steps in steps(90)) {
        const LEN: usize = 256;
        let (mut bitmap, mut model, mut taken) = (Bitmap::new(LEN), [false; LEN], Vec::new());
        for step in steps {
            match step {
                Step::Hold(n) => {
                    let n = n.max(1);
                    let expected = (0..=LEN - n).find(|&at| !model[at..at + n].contains(&true));
                    prop_assert_eq!(bitmap.take(n), expected);
                    if let Some(at) = expected {
                        model[at..at + n].fill(true);
                        taken.push((at, n));
                    }
                }
                Step::Drop(which) if !taken.is_empty() => {
                    let (at, n) = taken.swap_remove(which.index(taken.len()));
                    bitmap.give_back(at, n);
                    model[at..at + n].fill(false);
                }
                Step::Drop(_) => {}
            }
            prop_assert_eq!(bitmap.taken(), model.iter().filter(|taken| **taken).count());
        }
    }

    /// Against a list of the values themselves, some of them longer than a chunk.
    #[test]
    fn arena_keeps_values_apart(steps in steps(UNIT + UNIT / 2), at_most in proptest::sample::select(&LEVELS)) {
        let arena = Arena::new(Settings { at_most, ..SMALL });
        let mut held = Vec::new();
        for (step, tag) in steps.into_iter().zip(1_u8..) {
            match step {
                Step::Hold(len) => {
                    // Mostly short ones.
                    let len = if len % 8 == 0 { len } else { len % 300 };
                    let value = vec![tag; len];
                    held.push((arena.hold(&value).expect("there is memory"), value));
                }
                Step::Drop(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                Step::Drop(_) => {}
            }
            let expected: usize = held.iter().map(|(_, value)| value.len().div_ceil(GRANULE).max(1) * GRANULE).sum();
            prop_assert_eq!(arena.report().used_bytes, expected);
            prop_assert!(held.iter().all(|(slot, value)| slot.bytes() == value));
        }
        held.clear();
        prop_assert_eq!(arena.report().used_bytes, 0);
    }
}

#[test]
fn sixty_four_bytes_cost_sixty_four_bytes() {
    let arena = Arena::new(SMALL);
    let slots: Vec<_> = (0..UNIT / GRANULE).map(|_| arena.hold(&[7; GRANULE]).unwrap()).collect();
    let report = arena.report();
    assert_eq!((slots.len(), report.used_bytes), (1024, UNIT));
    if report.kind > Protection::Plain {
        assert_eq!(report.locked_bytes, UNIT, "all in one chunk");
    }
}

#[test]
fn a_freed_slot_reads_as_zeros() {
    for at_most in LEVELS {
        let arena = Arena::new(Settings { at_most, ..SMALL });
        let slot = arena.hold(&[7; 100]).unwrap();
        let place = slot.bytes().as_ptr();
        let all = || (0..128).map(|at| byte_at(place.wrapping_add(at)).unwrap()).collect::<Vec<_>>();
        assert_eq!(all(), [vec![7; 100], vec![0; 28]].concat());
        drop(slot);
        assert_eq!(all(), [0; 128]);
    }
}

#[test]
fn guards_stand_at_both_ends() {
    for kind in LEVELS {
        let Ok(pages) = Pages::map(kind, UNIT) else { continue };
        let (first, after) = (pages.start().as_ptr(), pages.start().as_ptr().wrapping_add(UNIT));
        let edges = [first.wrapping_sub(1), first, after.wrapping_sub(1), after];
        assert_eq!(edges.map(|at| byte_at(at)), [None, Some(0), Some(0), None], "{kind}");
    }
}

#[test]
fn a_forked_child_has_no_value() {
    for at_most in LEVELS {
        let arena = Arena::new(Settings { at_most, ..SMALL });
        let slot = arena.hold(&[7; 64]).unwrap();
        let expected = if arena.report().kind == Protection::MemfdSecret { None } else { Some(0) };
        assert_eq!(byte_in_child(slot.bytes().as_ptr()), expected, "{at_most}");
        assert_eq!(slot.bytes(), [7; 64]);
    }
}

#[test]
fn threads_do_not_see_each_others_values() {
    let arena = Arena::new(SMALL);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for tag in 1..=4 {
            let (arena, start) = (&arena, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..2000 {
                    let value = vec![tag; 1 + round % 500];
                    let (slot, other) = (arena.hold(&value).unwrap(), arena.hold(&[tag; 64]).unwrap());
                    assert!(slot.bytes() == value && other.bytes() == [tag; 64]);
                }
            });
        }
    });
    assert_eq!(arena.report().used_bytes, 0);
}

#[test]
fn a_value_longer_than_a_chunk_has_one_of_its_own_for_as_long_as_it_lives() {
    let arena = Arena::new(SMALL);
    let short = arena.hold(b"short").unwrap();
    let before = arena.report();
    let long = arena.hold(&[7; 300_000]).unwrap();
    assert_eq!(long.bytes(), [7; 300_000]);
    let during = arena.report();
    assert!(during.kind == Protection::Plain || during.locked_bytes >= before.locked_bytes + 300_000, "{during}");
    drop(long);
    assert_eq!(arena.report(), before);
    assert_eq!(short.bytes(), b"short");
}

#[test]
fn weaker_memory_than_required_is_refused() {
    let arena = Arena::new(Settings { at_most: Protection::Plain, ..SMALL });
    let _held = arena.hold(b"held before").unwrap();
    let refused = Unprotected::TooWeak { required: Protection::Locked, remedy: "the settings ask for no more than this" };
    assert_eq!(arena.require(Protection::Locked), Err(refused.clone()));
    assert_eq!(arena.hold(b"held after").err(), Some(refused), "although the weak chunk has room");
}

#[test]
fn a_low_limit_on_locked_memory_is_lived_with() {
    if let Some(limit) = role() {
        return live_with(limit.parse().unwrap());
    }
    let highest = getrlimit(Resource::Memlock).maximum.unwrap_or(u64::MAX);
    for limit in [UNIT, 0].iter().filter(|limit| **limit as u64 <= highest) {
        in_new_process("a_low_limit_on_locked_memory_is_lived_with", &limit.to_string());
    }
}

/// In a process of its own, as an ordinary user: the limit does not bind root.
fn live_with(limit: usize) {
    let limits = libc::rlimit { rlim_cur: limit as u64, rlim_max: limit as u64 };
    // SAFETY: plain system calls. For an ordinary user the change of uid does nothing.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limits), 0);
        libc::setresuid(65534, 65534, 65534);
    }
    assert!(!rustix::process::geteuid().is_root());
    // The default asks for 1 MiB at first, which is more than either limit.
    let arena = Arena::new(Settings::default());
    let first = arena.report();
    assert_eq!(first.locked_bytes, limit);
    assert_eq!(first.kind == Protection::Plain, limit == 0);

    let strict = Arena::new(Settings { at_least: Protection::Locked, ..Settings::default() });
    let refusal = strict.hold(b"x").err().expect("the limit is used up").to_string();
    assert!(refusal.contains("mlock") && refusal.contains("LimitMEMLOCK="), "{refusal}");
    assert!(strict.report().lost.is_some_and(|text| text.contains("no secret can be held")));

    // One granule more than can be locked goes into ordinary memory, which the report says until it is gone again.
    let mut slots: Vec<_> = (0..limit / GRANULE).map(|_| arena.hold(&[7; GRANULE]).unwrap()).collect();
    assert_eq!(arena.report().kind, first.kind);
    slots.push(arena.hold(&[7; GRANULE]).unwrap());
    let weakest = arena.report();
    assert_eq!((weakest.kind, weakest.locked_bytes), (Protection::Plain, limit));
    assert!(weakest.to_string().contains("swap") && weakest.to_string().contains("LimitMEMLOCK="), "{weakest}");
    slots.pop();
    assert_eq!(arena.report().kind, first.kind);
}

#[test]
fn nothing_is_printed() {
    let value = SecretValue::copy_from(b"sk-not-a-real-key").unwrap();
    assert_eq!((format!("{value:?}"), format!("{value:#?}")), ("SecretValue".into(), "SecretValue".into()));
    assert_eq!((value.len(), value.is_empty()), (17, false));
    assert!(SecretValue::copy_from_wiping(Vec::new()).unwrap().is_empty());
}

#[test]
fn same_as_compares_every_byte() {
    let value = |bytes: &[u8]| SecretValue::copy_from(bytes).unwrap();
    let key = value(b"0123456789abcdef");
    assert!(key.same_as(&key) && key.same_as(&value(b"0123456789abcdef")) && value(b"").same_as(&value(b"")));
    for other in ["x123456789abcdef", "0123456789abcdex", "0123456x89abcdef", "0123456789abcde", ""] {
        assert!(!key.same_as(&value(other.as_bytes())), "{other}");
    }
}

/// An allocator that will take back only blocks of zeros.
struct Strict;

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Strict {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; the tests below have written to all of the block.
        unsafe {
            assert!(std::slice::from_raw_parts(block, layout.size()).iter().all(|byte| *byte == 0));
            System.dealloc(block, layout);
        }
    }
}

#[test]
fn blocks_are_wiped_before_they_are_freed_or_moved() {
    let allocator = WipingAllocator::over(Strict);
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: each block is used within its size and freed once, with the layout it has by then.
    unsafe {
        let block = allocator.alloc(layout);
        block.write_bytes(7, 100);
        let longer = allocator.realloc(block, layout, 5000);
        assert_eq!(std::slice::from_raw_parts(longer, 100), [7; 100]);
        longer.write_bytes(7, 5000);
        let shorter = allocator.realloc(longer, Layout::from_size_align(5000, 8).unwrap(), 10);
        assert_eq!(std::slice::from_raw_parts(shorter, 10), [7; 10]);
        allocator.dealloc(shorter, Layout::from_size_align(10, 8).unwrap());
    }
}

#[test]
fn a_process_gives_up_being_looked_at() {
    if role().is_none() {
        return in_new_process("a_process_gives_up_being_looked_at", "harden");
    }
    let report = harden_process();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.to_string(), "not dumpable: yes, no core files: yes, no new privileges: yes");
}

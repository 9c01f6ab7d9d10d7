//! Files cut into pieces that are read on several cores, with what they come to taken in order.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{disk::Disk, files::FileName, line::LONGEST};

/// Bytes of a piece: what a core has in its caches, more or less. In tests small logs have several too.
const PIECE: u64 = if cfg!(test) { 1024 } else { 2 << 20 };
/// Pieces that may be read ahead of what has been taken.
const AHEAD: usize = 8;

/// The pieces of a file of this length.
pub fn cut(length: u64) -> impl Iterator<Item = Range<u64>> {
    (0..length.div_ceil(PIECE)).map(move |at| at * PIECE..((at + 1) * PIECE).min(length))
}

/// Tells each line that begins in a range of a file, without its end; `None` for what has no end. The last may end after the range.
/// Stops where `tell` says `false`.
pub fn lines_of(
    disk: &dyn Disk,
    name: &FileName,
    range: Range<u64>,
    tell: &mut dyn FnMut(Option<&[u8]>) -> bool,
) -> io::Result<()> {
    let from = range.start.saturating_sub(1);
    let mut text = vec![0; (range.end - from) as usize + LONGEST];
    let length = disk.read(&name.to_string(), from, &mut text)?;
    let text = &text[..length];
    let mut at = match range.start {
        0 => 0,
        // A line that begins before belongs to the piece before.
        _ => memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1),
    };
    let end = ((range.end - from) as usize).min(text.len());
    while at < end {
        let line = memchr::memchr(b'\n', &text[at..]).map(|end| &text[at..at + end]);
        if !tell(line) {
            break;
        }
        at = line.map_or(end, |line| at + line.len() + 1);
    }
    Ok(())
}

struct Results<T> {
    done: BTreeMap<usize, io::Result<T>>,
    next: usize,
    taken: usize,
    stop: bool,
}

type Shared<T> = (Mutex<Results<T>>, Condvar);

/// Gives what the jobs of a plan come to, in order.
pub struct InOrder<'a, T> {
    shared: &'a Shared<T>,
}

impl<T> InOrder<'_, T> {
    /// One for each job; asked for more, it would wait for ever.
    pub fn next(&mut self) -> io::Result<T> {
        let (results, changed) = self.shared;
        let mut results = lock(results);
        loop {
            let at = results.taken;
            if let Some(result) = results.done.remove(&at) {
                results.taken += 1;
                changed.notify_all();
                return result;
            }
            results = changed.wait(results).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does each job of a plan, several at a time, and lets `take` have what they come to.
pub fn each<J: Sync, T: Send>(
    plan: &[J],
    threads: usize,
    work: impl Fn(&J) -> io::Result<T> + Sync,
    take: impl FnOnce(&mut InOrder<'_, T>) -> io::Result<()>,
) -> io::Result<()> {
    let shared = (Mutex::new(Results { done: BTreeMap::new(), next: 0, taken: 0, stop: false }), Condvar::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| work_on(plan, &shared, &work));
        }
        let taken = take(&mut InOrder { shared: &shared });
        lock(&shared.0).stop = true;
        shared.1.notify_all();
        taken
    })
}

fn work_on<J, T>(plan: &[J], (results, changed): &Shared<T>, work: &impl Fn(&J) -> io::Result<T>) {
    loop {
        let mut state = lock(results);
        while !state.stop && state.next < plan.len() && state.next >= state.taken + AHEAD {
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let at = state.next;
        if state.stop || at >= plan.len() {
            return;
        }
        state.next += 1;
        drop(state);
        let result = work(&plan[at]);
        lock(results).done.insert(at, result);
        changed.notify_all();
    }
}

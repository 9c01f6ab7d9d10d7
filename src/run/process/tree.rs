//! All processes that descend from this one, as /proc shows them.

use std::{collections::HashSet, fs, io, process};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process: its number, its parent's, and when it started. The last tells it from another one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    pid: i32,
    parent: i32,
    started: u64,
}

/// Sends the signal to each. Who is in the tree is settled first; a number that has changed hands since is left alone.
pub(super) fn signal_all(signal: Signal) {
    for seen in descendants(process::id() as i32) {
        let Some(pidfd) = Pid::from_raw(seen.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { continue };
        // The pidfd is of whoever has the number now: the same one, if it still started when it did.
        if look(seen.pid).is_some_and(|now| now.started == seen.started) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }
}

/// Collects children that have ended, without waiting, and calls `ended` with each. Says whether any are left.
pub(super) fn reap(mut ended: impl FnMut(i32, i32)) -> bool {
    loop {
        let mut status = 0;
        // SAFETY: a place for the status.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED) } {
            0 => return true,
            pid if pid > 0 => ended(pid, status),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

fn descendants(root: i32) -> Vec<Seen> {
    let all = everyone();
    let mut inside = HashSet::from([root]);
    // Parents may stand after their children: numbers wrap.
    loop {
        let before = inside.len();
        inside.extend(all.iter().filter(|seen| inside.contains(&seen.parent)).map(|seen| seen.pid).collect::<Vec<_>>());
        if inside.len() == before {
            break;
        }
    }
    all.into_iter().filter(|seen| seen.pid != root && inside.contains(&seen.pid)).collect()
}

fn everyone() -> Vec<Seen> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(look).collect()
}

fn look(pid: i32) -> Option<Seen> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): the second field, a name in parentheses, may hold anything, parentheses too.
fn parse(pid: i32, stat: &[u8]) -> Option<Seen> {
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(stat.get(after..)?).ok()?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Seen { pid, parent, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_a_parent() {
        let stat = b"42 (a) S 1 (b\n) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 1";
        assert_eq!(parse(42, stat), Some(Seen { pid: 42, parent: 7, started: 9876 }));
    }

    #[test]
    fn a_child_is_found_and_a_stranger_is_not() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants(process::id() as i32);
        assert!(found.iter().any(|seen| seen.pid == child.id() as i32 && seen.parent == process::id() as i32));
        assert!(!found.iter().any(|seen| seen.pid == 1));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

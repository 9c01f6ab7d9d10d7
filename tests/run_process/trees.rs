//! Whatever ends, nothing is left.

use std::{collections::BTreeSet, fs};

use super::*;

/// A word in the environment of all that a test starts, by which what is left is found, whoever its parent is now.
struct Mark(String);

impl Mark {
    fn new(name: &str) -> Self {
        Self(format!("VALETKEY_TEST_MARK={name}-{}", std::process::id()))
    }

    fn on(&self, mut command: Command) -> Command {
        let (name, value) = self.0.split_once('=').unwrap();
        command.env(name, value);
        command
    }

    /// Zombies have no environment any more; the launcher and its guardian have.
    fn living(&self) -> BTreeSet<i32> {
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.0.as_bytes())
        })
        .collect()
    }

    #[track_caller]
    fn all_gone(&self, within: Duration) {
        let start = Instant::now();
        while !self.living().is_empty() {
            let left: Vec<_> = self.living().into_iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline"))).collect();
            assert!(start.elapsed() < within, "left: {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        for pid in self.living() {
            // SAFETY: numbers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// A chain as npx makes it, a daemon that left the session and hears no SIGTERM, and a process that lost its parent.
const TREE: &str = "
    sh -c 'sh -c \"sleep 600; true\"; true' &
    python3 -c '
import os, signal
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)
open(os.environ[\"READY\"], \"w\").close()
signal.pause()'
    (sleep 601 & )
    echo ready
";

/// Starts the tree and whatever the tool does then; returns once all of it runs.
fn grown(mark: &Mark, then: &str) -> Child {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let mut command = mark.on(sh(&format!("{TREE} {then}")));
    command.env("READY", &ready).process_group(0);
    let mut child = piped(command);
    assert_eq!(line(&mut child), "ready");
    eventually("the daemon runs", || ready.exists());
    assert!(mark.living().len() >= 6, "{:?}", mark.living());
    child
}

fn guardian_of(child: &Child) -> i32 {
    let children = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().unwrap().split(' ').nth(2) == Some(&child.id().to_string())
    };
    let found: Vec<_> = children.filter(is_child).collect();
    assert_eq!(found.len(), 1, "one child, the guardian");
    found[0]
}

#[test]
fn the_tool_ends_and_takes_all_with_it() {
    let mark = Mark::new("ends");
    let mut child = grown(&mark, "exit 3");
    let (status, took) = end(&mut child);
    assert_eq!(status.code(), Some(3));
    assert!(mark.living().is_empty() && took < Duration::from_secs(1), "gone before the launcher: {took:?}");
}

#[test]
fn what_the_rest_of_the_tree_still_says_is_passed_on() {
    let out = output(sh("(sleep 0.05; echo late) & echo early"));
    assert_eq!(text(&out.stdout), "early\nlate\n");
}

#[test]
fn a_pipe_that_a_stranger_holds_does_not_hold_the_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let script = format!(
        "import socket,os; s=socket.socket(socket.AF_UNIX); s.connect({:?}); socket.send_fds(s,[b'x'],[1]); print('said')",
        path
    );
    let mut command = launcher(&[]);
    command.args(["python3", "-c", &script]);
    let mut child = piped(command);
    let (stream, _) = socket.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = rustix::net::RecvFlags::empty();
    rustix::net::recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut byte)], &mut buffer, flags).unwrap();
    let held: Vec<_> = buffer.drain().collect();
    assert_eq!(held.len(), 1);
    assert!(end(&mut child).0.success());
    assert_eq!(line(&mut child), "said");
}

#[test]
fn a_client_that_closes_input_finds_all_gone_within_two_seconds() {
    let mark = Mark::new("input");
    let mut child = grown(&mark, "trap '' TERM; exec sleep 602");
    drop(child.stdin.take());
    let (_, took) = end(&mut child);
    assert!(mark.living().is_empty());
    assert!((1000..2000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_server_that_hears_sigterm_may_tidy_up() {
    let mut child = piped(sh("trap 'echo tidy; exit 9' TERM; echo ready; while :; do sleep 0.05; done"));
    assert_eq!(line(&mut child), "ready");
    drop(child.stdin.take());
    let (status, took) = end(&mut child);
    assert_eq!((status.code(), line(&mut child).as_str()), (Some(9), "tidy"));
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_program_that_works_on_after_its_input_is_left_to_it() {
    let mut child = piped(sh_with(&["--stay"], "cat >/dev/null; sleep 2.5; echo done"));
    drop(child.stdin.take());
    assert_eq!(line(&mut child), "done");
    // A file or nothing as input is no client.
    let out = output(sh("sleep 2.2; echo done"));
    assert_eq!(text(&out.stdout), "done\n");
}

#[test]
fn the_launcher_is_killed_and_nothing_is_left() {
    let mark = Mark::new("killed");
    let mut child = grown(&mark, "sleep 603");
    child.kill().unwrap();
    mark.all_gone(Duration::from_secs(2));
    child.wait().unwrap();
}

#[test]
fn its_process_group_is_killed_and_nothing_is_left() {
    let mark = Mark::new("group");
    let mut child = grown(&mark, "sleep 604");
    // SAFETY: numbers; a group that the child leads.
    assert_eq!(unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) }, 0);
    mark.all_gone(Duration::from_secs(2));
    child.wait().unwrap();
}

#[test]
fn the_guardian_is_killed_and_nothing_is_left() {
    let mark = Mark::new("guardian");
    let mut child = grown(&mark, "sleep 605");
    let guardian = guardian_of(&child);
    // SAFETY: numbers.
    assert_eq!(unsafe { libc::kill(guardian, libc::SIGKILL) }, 0);
    let (status, _) = end(&mut child);
    assert_eq!(status.code(), Some(137), "the tool was killed with it");
    mark.all_gone(Duration::from_millis(100));
}

#[test]
fn both_are_killed_and_the_tool_goes_with_them() {
    let mark = Mark::new("both");
    let mut child = piped(mark.on(sh("echo ready; exec sleep 606")));
    assert_eq!(line(&mut child), "ready");
    let guardian = guardian_of(&child);
    for pid in [guardian, child.id() as i32] {
        // SAFETY: numbers.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    mark.all_gone(Duration::from_secs(2));
    child.wait().unwrap();
}

#[test]
fn there_are_no_zombies() {
    let mut child =
        piped(sh("for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3; ps -o stat= --ppid $PPID | xargs; read a"));
    let states = line(&mut child);
    assert!(!states.is_empty() && !states.contains('Z'), "{states}");
    drop(child.stdin.take());
    end(&mut child);
}

/// Looks for the text in all that a process has mapped for writing. None: the kernel does not let us.
fn memory_holds(pid: i32, text: &[u8]) -> Option<bool> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let found = maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).is_ok() && bytes.windows(text.len()).any(|window| window == text)
    });
    Some(found)
}

#[test]
fn the_guardian_holds_no_secret_and_cannot_be_inspected() {
    let mut child = piped(sh("echo $$; read a"));
    let tool = line(&mut child).parse().unwrap();
    let guardian = guardian_of(&child);
    assert!(fs::read_to_string(format!("/proc/{guardian}/comm")).unwrap().starts_with("valetkey-guard"));
    // A variable that came after the guardian was made, as a secret does.
    assert_eq!(memory_holds(tool, b"\0VERSION=0\0"), Some(true), "the search finds it where it is");
    match memory_holds(guardian, b"\0VERSION=0\0") {
        Some(found) => assert!(!found && rustix::process::geteuid().is_root()),
        None => assert!(!rustix::process::geteuid().is_root()),
    }
    drop(child.stdin.take());
    end(&mut child);
}

//! The contract of `valetkey run` for processes, kept with real ones: signals, pipes, terminals, and nothing left behind.

#[path = "support/process.rs"]
#[expect(dead_code, reason = "shared with tests that need other parts")]
mod process;
#[path = "run_process/restart.rs"]
mod restart;
#[path = "run_process/terminal.rs"]
mod terminal;
#[path = "run_process/trees.rs"]
mod trees;

use std::{
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use process::eventually;

/// The command that runs a program under the launcher.
fn launcher(options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(options).arg("--");
    command
}

/// The launcher's process half alone, with a filter that changes nothing: examples/supervise.rs.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/supervise");
    assert!(program.exists(), "build it first: cargo build --example supervise");
    program
}

fn sh(script: &str) -> Command {
    sh_with(&[], script)
}

fn sh_with(options: &[&str], script: &str) -> Command {
    let mut command = launcher(options);
    command.args(["sh", "-c", script]);
    command
}

/// Its standard streams are pipes, as an MCP client has it.
fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let out = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: numbers; our own child, not collected yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Waits for the end and says how long it took. Panics after ten seconds.
fn end(child: &mut Child) -> (std::process::ExitStatus, Duration) {
    let (start, mut status) = (Instant::now(), None);
    eventually("the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    (status.unwrap(), start.elapsed())
}

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_exit_code_is_the_tools() {
    for code in [0, 1, 77, 255] {
        assert_eq!(output(sh(&format!("exit {code}"))).status.code(), Some(code));
    }
    for (signal, number) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("USR1", 138)] {
        assert_eq!(output(sh(&format!("kill -{signal} $$; sleep 5"))).status.code(), Some(number), "{signal}");
    }
}

#[test]
fn what_cannot_be_run_is_said() {
    let run = |program: &str| {
        let mut command = launcher(&[]);
        command.arg(program);
        let out = output(command);
        (out.status.code(), text(&out.stderr).to_owned())
    };
    let (code, said) = run("/no/such/program");
    assert_eq!(
        (code, said.as_str()),
        (Some(127), "supervise: cannot run /no/such/program: No such file or directory (os error 2)\n")
    );
    assert_eq!(run("no-such-program").0, Some(127));
    let (code, said) = run("/etc/passwd");
    assert_eq!(code, Some(126), "{said}");
    assert_eq!(run("/etc").0, Some(126));
}

#[test]
fn a_script_without_an_interpreter_runs_as_in_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "echo $0 $1\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    let mut command = launcher(&[]);
    command.arg(&script).arg("argument");
    let out = output(command);
    assert_eq!(text(&out.stdout), format!("{} argument\n", script.display()));
}

#[test]
fn output_passes_in_order_and_all_of_it() {
    let out = output(sh("seq 1 200000; echo problem >&2; seq 200001 200010"));
    let expected: String = (1..=200_010).map(|n| format!("{n}\n")).collect();
    assert!(text(&out.stdout) == expected, "{} bytes of {}", out.stdout.len(), expected.len());
    assert_eq!(text(&out.stderr), "problem\n");
}

#[test]
fn a_line_comes_at_once_and_input_reaches_the_tool() {
    let mut child = piped(sh("read a; echo got $a; read b; echo and $b; cat"));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    assert_eq!(line(&mut child), "got one");
    input.write_all(b"two\nrest\n").unwrap();
    assert_eq!(line(&mut child), "and two");
    assert_eq!(line(&mut child), "rest");
    drop(input);
    let (status, took) = end(&mut child);
    assert!(status.success() && took < Duration::from_millis(900), "it saw the end at once: {took:?}");
}

#[test]
fn a_reader_that_does_not_read_stops_one_channel_alone() {
    let mut child = piped(sh("(while :; do echo full; done) & echo ready >&2; read x; echo late >&2; wait"));
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    std::io::BufRead::read_line(&mut errors, &mut said).unwrap();
    // Standard output is full before long.
    let pid = child.id();
    eventually("no one moves", || {
        let count = || std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let before = count();
        std::thread::sleep(Duration::from_millis(50));
        before == count()
    });
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    std::io::BufRead::read_line(&mut errors, &mut said).unwrap();
    assert_eq!(said, "ready\nlate\n");
    signal(&child, libc::SIGTERM);
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(end(&mut child).0.code(), Some(143), "signals are heard all the same");
}

#[test]
fn a_reader_that_goes_ends_the_tool() {
    let mut child = piped(sh("trap '' PIPE; while :; do echo more; sleep 0.01; done"));
    assert_eq!(line(&mut child), "more");
    drop(child.stdout.take());
    assert!(end(&mut child).1 < Duration::from_millis(1500));
    // As without a launcher: `yes | head -1`.
    let out = output({
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{} -- yes | head -1; echo ${{PIPESTATUS[0]}}", program().display())]);
        shell
    });
    assert_eq!(text(&out.stdout), "y\n141\n");
}

#[test]
fn nothing_shared_is_made_non_blocking() {
    let flags = |fd: &dyn std::os::fd::AsRawFd| {
        // SAFETY: numbers.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
    };
    let (input, mut to) = std::io::pipe().unwrap();
    let (mut from, out) = std::io::pipe().unwrap();
    let (mut from_errors, errors) = std::io::pipe().unwrap();
    let mut command = sh("read a; echo $a; echo b >&2; read b");
    let kept = (input.try_clone().unwrap(), out.try_clone().unwrap(), errors.try_clone().unwrap());
    let mut child = command.stdin(input).stdout(out).stderr(errors).spawn().unwrap();
    to.write_all(b"a\n").unwrap();
    from.read_exact(&mut [0; 2]).unwrap();
    from_errors.read_exact(&mut [0; 2]).unwrap();
    for flags in [flags(&kept.0), flags(&kept.1), flags(&kept.2)] {
        assert_eq!(flags & libc::O_NONBLOCK, 0);
    }
    to.write_all(b"\n").unwrap();
    end(&mut child);
}

#[test]
fn sockets_do_as_well_as_pipes() {
    use std::os::unix::net::UnixStream;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let own = |stream: &UnixStream| Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()));
    let mut command = sh("read a; seq 1 100000; exec sleep 60");
    let mut child = command.stdin(own(&theirs)).stdout(own(&theirs)).stderr(Stdio::null()).spawn().unwrap();
    drop((command, theirs));
    (&ours).write_all(b"a\n").unwrap();
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let mut got = vec![0; expected.len()];
    (&ours).read_exact(&mut got).unwrap();
    assert!(got == expected.as_bytes());
    // Node says the end this way: it shuts down its side and goes on reading.
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let (_, took) = end(&mut child);
    assert!((900..2000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn each_signal_is_forwarded() {
    // The kernel's numbers, real-time ones too; what a shell can trap.
    let signals: Vec<i32> =
        [1, 2, 3, 6, 10, 12, 14, 15, 16, 18, 20, 23, 24, 25, 26, 27, 28, 29, 30, libc::SIGRTMIN(), libc::SIGRTMAX()].into();
    let script = "import signal,sys\nfor n in map(int, sys.argv[1:]): signal.signal(n, lambda n, f: print(n, flush=True))\nprint('ready', flush=True)\nwhile True: signal.pause()";
    let mut command = launcher(&[]);
    command.args(["python3", "-c", script]).args(signals.iter().map(i32::to_string));
    let mut child = piped(command);
    assert_eq!(line(&mut child), "ready");
    for number in signals {
        signal(&child, number);
        assert_eq!(line(&mut child), number.to_string());
    }
    signal(&child, libc::SIGUSR1);
    assert_eq!(line(&mut child), "10");
    drop(child.stdin.take());
    end(&mut child);
}

/// The set in a line of /proc/PID/status, without two signals that the C library keeps to itself, and sets for what it starts.
fn ignored(line: &str) -> u64 {
    u64::from_str_radix(line.strip_prefix("SigIgn:\t").unwrap(), 16).unwrap() & 0x7fff_ffff
}

#[test]
fn the_tool_starts_with_default_signals_in_a_group_of_its_own_without_core_dumps() {
    let mut command = sh(
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; cut -d' ' -f5 /proc/$$/stat; echo $$; ulimit -Hc; ls -l /proc/self/fd | wc -l",
    );
    // SAFETY: a system call that is safe after fork.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let out = output(command);
    let lines: Vec<_> = text(&out.stdout).lines().collect();
    assert_eq!(lines[0], "SigBlk:\t0000000000000000");
    assert_eq!(ignored(lines[1]), 1, "as nohup wants it, and nothing else");
    assert_eq!(lines[2], lines[3]);
    assert_eq!(lines[4], "0");
    assert_eq!(lines[5].trim(), "5", "a header, three streams, and the directory that ls reads");
}

#[test]
fn a_tool_that_is_stopped_stops_the_launcher_and_both_go_on() {
    let state =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit(')').next().unwrap().chars().nth(1);
    let mut child = piped(sh("echo $$; read a; echo $a"));
    let tool: u32 = line(&mut child).parse().unwrap();
    signal(&child, libc::SIGTSTP);
    eventually("both are stopped", || state(tool) == Some('T') && state(child.id()) == Some('T'));
    signal(&child, libc::SIGCONT);
    child.stdin.as_mut().unwrap().write_all(b"on\n").unwrap();
    assert_eq!(line(&mut child), "on");
    assert!(end(&mut child).0.success());
}

#[test]
fn a_word_that_policy_forbids_stops_the_tool_before_it_is_passed_on() {
    let mut command = sh_with(&["--stop-at", "SECRET"], "echo fine; sleep 0.2; echo SECRET; sleep 60");
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!((text(&out.stdout), out.status.code()), ("fine\n", Some(137)));
}

#[test]
fn without_a_relay_the_launcher_becomes_the_tool() {
    let mut child = piped(sh_with(&["--replace"], "echo $$; grep SigIgn /proc/self/status; ulimit -Hc; kill -TERM $$"));
    assert_eq!(line(&mut child), child.id().to_string());
    assert_eq!(ignored(&line(&mut child)), 0);
    assert_eq!(line(&mut child), "0");
    assert_eq!(end(&mut child).0.signal(), Some(15));
}

#[test]
fn what_a_tool_is_to_give_up_is_given_up_before_it_runs() {
    for how in [&["--confined"][..], &["--confined", "--replace"]] {
        let out =
            output(sh_with(how, "ulimit -Sn; ulimit -Hn; grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status"));
        let (said, none) = (text(&out.stdout).replace('\t', " "), "0000000000000000");
        let dropped = format!("99\n100\nCapEff: {none}\n");
        assert!(said.starts_with(&dropped) && said.ends_with("NoNewPrivs: 1\nSeccomp: 2\n"), "{said}");
    }
}

//! A tool in a terminal, and a shell's job control over it. The terminals are real, and so is the shell.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use super::*;

/// The user's end of a terminal, and what runs in it.
struct Terminal {
    keyboard: OwnedFd,
    /// Held open, so that its settings can be looked at.
    screen: OwnedFd,
    child: Child,
    seen: String,
}

impl Terminal {
    /// As a terminal emulator does it: a session of its own, and this terminal as the controlling one.
    fn run(mut command: Command, arrange: impl FnOnce(&mut Command, &OwnedFd)) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let screen = ioctl_tiocgptpeer(&keyboard, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        tcsetwinsize(&keyboard, size(33, 101)).unwrap();
        for set in [Command::stdin, Command::stdout, Command::stderr] {
            set(&mut command, Stdio::from(screen.try_clone().unwrap()));
        }
        arrange(&mut command, &screen);
        let number = std::os::fd::AsRawFd::as_raw_fd(&screen);
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                if libc::ioctl(number, libc::TIOCSCTTY, 0) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.env("TERM", "xterm").spawn().unwrap();
        rustix::fs::fcntl_setfl(&keyboard, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
        Self { keyboard, screen, child, seen: String::new() }
    }

    fn start(command: Command) -> Self {
        Self::run(command, |_, _| {})
    }

    /// A shell with job control, in which `run` is the launcher.
    fn shell() -> Self {
        let mut shell = Command::new("bash");
        shell.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "PROMPT> ").env("run", program());
        let mut terminal = Self::start(shell);
        terminal.expect("PROMPT> ");
        terminal
    }

    fn types(&self, text: &str) {
        rustix::io::write(&self.keyboard, text.as_bytes()).unwrap();
    }

    fn enters(&self, text: &str) {
        self.types(&format!("{text}\n"));
    }

    /// Waits until the text is on the screen, and takes all up to it away.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no {text:?} in {:?}", self.seen);
            self.look();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn look(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(got) = rustix::io::read(&self.keyboard, &mut buffer[..]) {
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..got]));
        }
    }

    /// A shell that edits a line takes off the first of them alone.
    fn is_raw(&self) -> bool {
        !tcgetattr(&self.screen).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG)
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let (status, _) = end(&mut self.child);
        self.look();
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn the_tool_has_a_terminal_of_the_same_size() {
    let mut terminal = Terminal::start(sh("tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all three"));
    terminal.end();
    assert!(terminal.seen.starts_with("/dev/pts/"), "{}", terminal.seen);
    terminal.expect("\r\n33 101\r\nall three\r\n");
    assert!(!terminal.is_raw(), "put back");
}

#[test]
fn a_new_size_reaches_the_tool() {
    let mut terminal = Terminal::start(sh("trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"));
    terminal.expect("ready");
    tcsetwinsize(&terminal.keyboard, size(44, 55)).unwrap();
    terminal.expect("44 55");
    terminal.types("\x03");
    assert_eq!(terminal.end().code(), Some(130), "Ctrl-C");
}

#[test]
fn colours_and_prompts_survive() {
    let mut command = launcher(&[]);
    command.args(["ls", "--color=auto", "-d", "/"]);
    let mut terminal = Terminal::start(command);
    terminal.end();
    assert!(terminal.seen.contains("\x1b["), "{:?}", terminal.seen);
    let mut command = launcher(&[]);
    command.args(["python3", "-c", "import getpass; print('<' + getpass.getpass('Key: ') + '>')"]);
    let mut terminal = Terminal::start(command);
    terminal.expect("Key: ");
    terminal.enters("typed");
    let shown = terminal.expect("<typed>");
    assert!(!shown.contains("typed\r\n<"), "not echoed: {shown:?}");
    assert!(terminal.end().success());
}

#[test]
fn the_end_of_input_can_be_typed() {
    let mut command = launcher(&[]);
    command.arg("cat");
    let mut terminal = Terminal::start(command);
    eventually("it is raw", || terminal.is_raw());
    terminal.enters("line");
    terminal.expect("line\r\nline\r\n");
    terminal.types("\x04");
    assert!(terminal.end().success());
    assert!(!terminal.is_raw());
}

#[test]
fn the_launcher_is_killed_and_the_terminal_is_put_back() {
    let mut terminal = Terminal::start(sh("echo ready; sleep 60"));
    terminal.expect("ready");
    eventually("it is raw", || terminal.is_raw());
    terminal.child.kill().unwrap();
    eventually("it is put back", || !terminal.is_raw());
}

#[test]
fn a_shell_stops_it_and_goes_on_with_it() {
    let mut shell = Terminal::shell();
    shell.enters("$run -- sh -c 'echo begun; read a; echo got $a; read b; echo and $b'");
    shell.expect("begun\r\n");
    eventually("it is raw", || shell.is_raw());
    for _ in 0..2 {
        shell.types("\x1a");
        shell.expect("Stopped");
        shell.expect("PROMPT> ");
        shell.enters("stty -a | grep -o '.icanon'; echo shell works");
        shell.expect("\r\nshell works");
        shell.expect("PROMPT> ");
        shell.enters("fg");
        eventually("it is raw again", || shell.is_raw());
    }
    shell.enters("one");
    shell.expect("got one");
    shell.enters("two");
    shell.expect("and two");
    shell.expect("PROMPT> ");
    shell.enters("echo code $?");
    shell.expect("code 0");
}

#[test]
fn it_runs_in_the_background_and_comes_back() {
    let mut shell = Terminal::shell();
    shell.enters("$run -- sh -c 'sleep 0.3; echo from behind; read a; echo got $a' &");
    shell.expect("PROMPT> ");
    shell.expect("from behind");
    shell.enters("echo the shell has the keys");
    shell.expect("\r\nthe shell has the keys");
    shell.enters("fg");
    eventually("it is raw", || shell.is_raw());
    shell.enters("key");
    shell.expect("got key");
    shell.expect("PROMPT> ");
}

#[test]
fn it_stands_in_pipelines() {
    let mut shell = Terminal::shell();
    shell.enters("echo input | $run -- sh -c 'cat; test -t 1 && echo out is a terminal' ; echo code $?");
    shell.expect("\r\ninput\r\nout is a terminal\r\ncode 0");
    shell.enters("$run -- sh -c 'echo text; test -t 0 && test -t 2 && echo and terminals' | tr a-z A-Z");
    shell.expect("\r\nTEXT\r\nAND TERMINALS");
    // The next in the pipeline reads what is typed, as a pager does, not the tool.
    shell.enters("$run -- seq 1 3 | sh -c 'cat; read key </dev/tty; echo key $key'");
    shell.expect("3\r\n");
    shell.enters("space");
    shell.expect("key space");
}

#[test]
fn a_tool_in_a_pipeline_asks_for_keys_when_it_wants_them() {
    let mut shell = Terminal::shell();
    shell.enters("echo input | $run -- python3 -c 'import getpass; print(input(), getpass.getpass(\"Key: \"))'");
    shell.expect("\r\n");
    shell.expect("Key: ");
    shell.enters("typed");
    shell.expect("input typed");
    shell.expect("PROMPT> ");
    shell.enters("echo still here");
    shell.expect("\r\nstill here");
}

#[test]
fn a_hung_up_terminal_ends_the_tool() {
    let mut terminal = Terminal::start(sh("echo ready; sleep 60"));
    terminal.expect("ready");
    let closed = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    drop(std::mem::replace(&mut terminal.keyboard, closed));
    assert_eq!(end(&mut terminal.child).0.code(), Some(129));
}

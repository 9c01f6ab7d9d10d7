//! Processes to attack with: forked, so that each test reads from top to bottom.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Read, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Once,
    time::{Duration, Instant},
};

/// A child process. Killed and reaped on drop.
pub struct Child {
    pub pid: i32,
    reaped: bool,
}

impl Child {
    /// Runs `body` in a child, and exits.
    pub fn fork(body: impl FnOnce()) -> Self {
        prepare_to_panic();
        // SAFETY: no argument; the child runs `body` alone and exits without running what this process would at exit.
        match unsafe { libc::fork() } {
            0 => run(body),
            pid => Self { pid: checked(pid), reaped: false },
        }
    }

    /// The same, as this process number, which must be free. Needs root.
    pub fn fork_as(number: i32, body: impl FnOnce()) -> io::Result<Self> {
        prepare_to_panic();
        // SAFETY: integers only.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.exit_signal = libc::SIGCHLD as u64;
        args.set_tid = (&raw const number) as u64;
        args.set_tid_size = 1;
        // SAFETY: as a fork: no memory is shared; `args` and `number` outlive the call.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
            0 => run(body),
            -1 => Err(io::Error::last_os_error()),
            pid => Ok(Self { pid: pid as i32, reaped: false }),
        }
    }

    pub fn kill(&self) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for it; its exit code.
    pub fn reap(mut self) -> i32 {
        self.wait()
    }

    fn wait(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: our own child, not reaped yet.
        checked(unsafe { libc::waitpid(self.pid, &mut status, 0) });
        self.reaped = true;
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.wait();
        }
    }
}

/// What a panic in a child says. The usual hook takes locks, which another thread may have held when the child was forked; so does
/// setting one, and that is why it is set before.
fn prepare_to_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (usual, tests) = (std::panic::take_hook(), std::process::id());
        std::panic::set_hook(Box::new(move |panic| {
            if std::process::id() == tests { usual(panic) } else { say(&format!("in a child: {panic}\n")) }
        }));
    });
}

fn run(body: impl FnOnce()) -> ! {
    // SAFETY: integers only. No child outlives a test that was ended.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(body));
    leave(if outcome.is_ok() { 0 } else { 101 })
}

/// Ends this process at once, without what a program does at exit.
pub fn leave(code: i32) -> ! {
    // SAFETY: a number.
    unsafe { libc::_exit(code) }
}

/// What a child says on standard error: the usual way takes a lock.
pub fn say(text: &str) {
    // SAFETY: a pointer and its length.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// Panics if a call failed.
#[track_caller]
pub fn checked(outcome: i32) -> i32 {
    assert!(outcome >= 0, "{}", io::Error::last_os_error());
    outcome
}

pub fn sleep_forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// One process waits until another opens.
pub struct Gate(PipeReader, PipeWriter);

impl Gate {
    pub fn new() -> Self {
        let (wait, open) = io::pipe().unwrap();
        Self(wait, open)
    }
    pub fn open(&self) {
        (&self.1).write_all(b"!").unwrap();
    }
    pub fn wait(&self) {
        self.read(&mut [0]);
    }
    /// Passes a number from one process to another.
    pub fn send(&self, number: i32) {
        (&self.1).write_all(&number.to_ne_bytes()).unwrap();
    }
    pub fn receive(&self) -> i32 {
        let mut bytes = [0; 4];
        self.read(&mut bytes);
        i32::from_ne_bytes(bytes)
    }
    fn read(&self, bytes: &mut [u8]) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)), Ok(1), "nobody opened the gate");
        (&self.0).read_exact(bytes).unwrap();
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not come to hold");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A cgroup made by a test, with all that it had to make above it. Removed on drop.
pub struct Group {
    mount: PathBuf,
    path: String,
}

impl Group {
    pub fn make(mount: &Path, path: &str) -> Self {
        fs::create_dir_all(mount.join(&path[1..])).unwrap();
        Self { mount: mount.to_owned(), path: path.to_owned() }
    }

    pub fn directory(&self) -> PathBuf {
        self.mount.join(&self.path[1..])
    }

    pub fn add(&self, pid: i32) {
        fs::write(self.directory().join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut directory = self.directory();
        while directory != self.mount {
            // Fails on a directory that others use, as it should.
            eventually_removed(&directory);
            directory.pop();
        }
    }
}

fn eventually_removed(directory: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
}

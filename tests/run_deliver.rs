//! Secrets delivered as files in memory, to real programs: as root and as a user without privileges, in the launcher's place and under
//! its guardian.
#![cfg(feature = "run")]

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "support/launch.rs"]
mod launch;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "support/process.rs"]
mod process;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use launch::{BOTH, How, Outcome, become_user, break_call, launch, start_with};
use process::{Child, Gate};
use valetkey::{
    proto::v1::{self, delivered::To},
    run::{
        deliver::{Delivery, Error},
        process::Start,
        sandbox::Sandbox,
    },
};

const USER: u32 = 62_011;
const OTHER: u32 = 62_012;
const VALUE: &[u8] = b"sk_test_delivered_9f1c\nsecond line \xff";

/// Runs a launcher in a process of its own: hardened, with a home, as root and as [`USER`].
#[track_caller]
fn launcher(body: impl Fn(&Path)) {
    for user in [0, USER] {
        assert_eq!(launcher_as(user, &body), 0, "as user {user}");
    }
}

/// Each user, each way.
fn each_way() -> impl Iterator<Item = (u32, How)> {
    [0, USER].into_iter().flat_map(|user| BOTH.map(|how| (user, how)))
}

fn launcher_as(user: u32, body: impl Fn(&Path)) -> i32 {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(user), Some(user)).unwrap();
    Child::fork(|| {
        become_user(user);
        let _ = valetkey::secret::harden::deny_inspection();
        body(home.path());
    })
    .reap()
}

fn file(variable: &str) -> v1::Delivered {
    v1::Delivered { secret: "stripe/key".into(), to: Some(To::File(variable.into())), canary: false }
}

fn fd(variable: &str) -> v1::Delivered {
    v1::Delivered { secret: "stripe/key".into(), to: Some(To::Fd(variable.into())), canary: false }
}

fn delivered(wanted: &[v1::Delivered], rewritable: bool, home: &Path) -> Delivery {
    let delivery = Delivery::prepare(wanted, rewritable, Some(home)).unwrap();
    assert!(delivery.write("stripe/key", VALUE).unwrap());
    assert!(!delivery.write("another/key", b"").unwrap());
    delivery
}

/// What a tool prints that has this delivered to it, started either way.
#[track_caller]
fn prints(delivery: &Delivery, program: &str, arguments: &[&str], expected: &[u8]) {
    for how in BOTH {
        prints_as(how, || start_with(delivery, program, arguments, None), expected);
    }
}

#[track_caller]
fn prints_as(how: How, start: impl FnOnce() -> Start, expected: &[u8]) {
    let Outcome { code, out, errors } = launch(SAME, how, start);
    assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{how:?}, {code}: {errors}");
}

/// The user that a launcher in these tests is already.
const SAME: u32 = 0;

const PYTHON: &str = "import os, sys; sys.stdout.buffer.write(open(os.environ['KEY_FILE'], 'rb').read())";
const NODE: &str = "process.stdout.write(require('fs').readFileSync(process.env.KEY_FILE))";

#[test]
fn a_file_reaches_the_tool_and_what_it_starts() {
    let python_child = format!("import subprocess, sys; subprocess.run(['/usr/bin/python3', '-c', {PYTHON:?}])");
    // As npx does: Node starts a shell, which starts Node.
    let node_child =
        format!("require('child_process').spawnSync('/bin/sh', ['-c', 'exec node -e \"$0\"', {NODE:?}], {{ stdio: 'inherit' }})");
    launcher(|home| {
        let delivery = delivered(&[file("KEY_FILE")], false, home);
        prints(&delivery, "/bin/sh", &["-c", "cat \"$KEY_FILE\""], VALUE);
        prints(&delivery, "/usr/bin/python3", &["-c", PYTHON], VALUE);
        prints(&delivery, "/usr/bin/node", &["-e", NODE], VALUE);
        prints(&delivery, "/usr/bin/python3", &["-c", &python_child], VALUE);
        prints(&delivery, "/usr/bin/node", &["-e", &node_child], VALUE);
    });
}

#[test]
fn a_descriptor_reaches_the_tool() {
    launcher(|home| {
        for rewritable in [false, true] {
            let delivery = delivered(&[fd("KEY_FILE"), fd("SECOND")], rewritable, home);
            assert_eq!(delivery.keep().count(), 2);
            for _ in 0..2 {
                prints(&delivery, "/bin/sh", &["-c", "cat \"$KEY_FILE\""], VALUE);
                prints(&delivery, "/usr/bin/python3", &["-c", PYTHON], VALUE);
                prints(&delivery, "/usr/bin/node", &["-e", NODE], VALUE);
                // As a descriptor, and so from where it stands: a tool that is started anew finds it at the start.
                let number =
                    "import os, sys; sys.stdout.buffer.write(os.read(int(os.path.basename(os.environ['KEY_FILE'])), 99))";
                prints(&delivery, "/usr/bin/python3", &["-c", number], VALUE);
            }
        }
    });
}

#[test]
fn the_tool_cannot_change_what_it_was_given() {
    launcher(|home| {
        let delivery = delivered(&[fd("FD"), file("FILE")], false, home);
        let script = "import os, errno
for attempt in [
    lambda: os.open(os.environ['FILE'], os.O_WRONLY),
    lambda: os.unlink(os.environ['FILE']),
    lambda: os.open(os.path.dirname(os.environ['FILE']) + '/new', os.O_CREAT | os.O_WRONLY),
    lambda: os.write(os.open(os.environ['FD'], os.O_RDWR), b'x'),
    lambda: os.write(int(os.path.basename(os.environ['FD'])), b'x'),
]:
    try: attempt(); print('it could')
    except OSError as denied: print(denied.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EBADF))";
        prints(&delivery, "/usr/bin/python3", &["-c", script], b"True\n".repeat(5).as_slice());
        assert!(matches!(delivery.write("stripe/key", b"again"), Err(Error::Write { .. })), "sealed");
    });
}

/// A tool that says its number, and then for each line it gets reads its secret anew.
const READER: &str = "import os, sys
print(os.getpid(), flush=True)
for line in sys.stdin:
    sys.stdout.write(open(os.environ['KEY_FILE']).read() + '\\n'); sys.stdout.flush()";

struct Running {
    launcher: launch::Running,
    output: BufReader<io::PipeReader>,
    /// The tool's process number.
    pid: i32,
}

impl Running {
    fn start(how: How, delivery: &Delivery) -> Self {
        let launcher = launch::run(how, || start_with(delivery, "/usr/bin/python3", &["-c", READER], None), |_| {});
        let output = BufReader::new(launcher.output.try_clone().unwrap());
        let mut running = Self { launcher, output, pid: 0 };
        running.pid = running.line().parse().unwrap();
        running
    }

    fn reads(&mut self) -> String {
        self.launcher.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) {
        drop(self.launcher.input.take());
        assert_eq!(self.launcher.launcher.reap(), 0);
    }
}

#[test]
fn a_running_tool_reads_the_new_version() {
    launcher(|home| {
        for (way, how) in [file, fd].into_iter().flat_map(|way| BOTH.map(|how| (way, how))) {
            let delivery = delivered(&[way("KEY_FILE")], true, home);
            delivery.write("stripe/key", b"the first version").unwrap();
            let mut running = Running::start(how, &delivery);
            assert_eq!(running.reads(), "the first version");
            for version in ["short", "one that is longer than it was", "2"] {
                delivery.write("stripe/key", version.as_bytes()).unwrap();
                assert_eq!(running.reads(), version);
            }
            running.end();
        }
    });
}

#[test]
fn nobody_else_sees_the_file() {
    for (user, how) in each_way() {
        let body = |home: &Path| {
            let delivery = delivered(&[file("KEY_FILE")], true, home);
            delivery.write("stripe/key", b"one line").unwrap();
            let mut running = Running::start(how, &delivery);
            assert_eq!(running.reads(), "one line");
            let path = delivery.variables().next().unwrap().1.to_owned();
            let through_the_tool = format!("/proc/{}/root{path}", running.pid);
            // Neither outside, where there is nothing, nor in the launcher's table of mounts.
            assert_eq!(fs::read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" ramfs valetkey "));
            // The check below can see it, where it may.
            assert_eq!(fs::read(&through_the_tool).unwrap(), b"one line");
            if user == 0 {
                let stranger = Child::fork(|| {
                    become_user(OTHER);
                    for path in [&path, &through_the_tool] {
                        assert!(fs::read(path).is_err());
                    }
                });
                assert_eq!(stranger.reap(), 0);
            }
            running.end();
        };
        assert_eq!(launcher_as(user, body), 0, "as user {user}, {how:?}");
    }
}

#[test]
fn a_stranger_cannot_see_into_the_users_tool() {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(USER), Some(USER)).unwrap();
    let gate = Gate::new();
    let held = Child::fork(|| {
        become_user(USER);
        let delivery = delivered(&[file("KEY_FILE"), fd("KEY_FD")], false, home.path());
        let running = Running::start(How::Supervised, &delivery);
        gate.send(running.pid);
        process::sleep_forever();
    });
    let tool = gate.receive();
    let stranger = Child::fork(|| {
        become_user(OTHER);
        for what in ["root/", "environ", "fd/10", "mem"] {
            let denied =
                fs::metadata(format!("/proc/{tool}/{what}")).and_then(|_| fs::File::open(format!("/proc/{tool}/{what}")));
            assert!(denied.is_err(), "{what}");
        }
    });
    assert_eq!(stranger.reap(), 0);
    held.kill();
}

/// Files with the value in them, written since then, in the places where files in memory or for a while are.
fn left_behind(value: &[u8], home: &Path, since: SystemTime) -> Vec<String> {
    const DEEP: usize = 5;
    let mut found = Vec::new();
    let mut open: Vec<_> =
        ["/tmp", "/dev/shm", "/run", "/var/tmp"].iter().map(|path| (Path::new(path).to_owned(), DEEP)).collect();
    open.push((home.to_owned(), DEEP));
    while let Some((directory, deep)) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && deep > 0 {
                open.push((entry.path(), deep - 1));
            } else if metadata.is_file() && metadata.modified().unwrap() >= since {
                let text = fs::read(entry.path()).unwrap_or_default();
                if text.windows(value.len()).any(|window| window == value) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[test]
fn what_is_left_on_disk_is_seen() {
    let (home, since) = (tempfile::tempdir().unwrap(), SystemTime::now() - Duration::from_secs(1));
    fs::write(home.path().join("key"), "not on disk, please").unwrap();
    assert!(!left_behind(b"on disk, please", home.path(), since).is_empty());
}

#[test]
fn nothing_is_left_even_where_the_launcher_is_killed() {
    for (user, how) in each_way() {
        // Made at run time, so that no program on disk holds it.
        let since = SystemTime::now() - Duration::from_secs(1);
        let value: String = (0..24).map(|at| char::from(b'a' + ((at * 7 + std::process::id()) % 26) as u8)).collect();
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(home.path(), Some(user), Some(user)).unwrap();
        let gate = Gate::new();
        let launcher = Child::fork(|| {
            become_user(user);
            let delivery = Delivery::prepare(&[file("KEY_FILE"), fd("KEY_FD")], true, Some(home.path())).unwrap();
            delivery.write("stripe/key", value.as_bytes()).unwrap();
            let mut running = Running::start(how, &delivery);
            assert_eq!(running.reads(), value);
            gate.send(running.pid);
            process::sleep_forever();
        });
        let tool = gate.receive();
        let path = format!("/proc/{tool}/root{}/.local/state/valetkey/files/KEY_FILE", home.path().display());
        let packaged = format!("/proc/{tool}/root/run/valetkey-files/KEY_FILE");
        assert!([path, packaged].iter().any(|path| fs::read(path).is_ok_and(|found| found == value.as_bytes())), "it is there");
        assert_eq!(left_behind(value.as_bytes(), home.path(), since), [] as [&str; 0], "while it runs");
        launcher.kill();
        assert_eq!(launcher.reap(), 128 + libc::SIGKILL);
        // Its stdin has ended with the launcher.
        process::eventually("the tool ends", || !Path::new(&format!("/proc/{tool}/environ")).exists() || zombie(tool));
        assert_eq!(left_behind(value.as_bytes(), home.path(), since), [] as [&str; 0], "afterwards");
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" ramfs valetkey "));
    }
}

fn zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn the_namespace_gives_no_privileges_and_keeps_the_rest() {
    let body = |home: &Path| {
        std::env::set_current_dir(home).unwrap();
        let delivery = delivered(&[file("KEY_FILE")], false, home);
        let script = "grep -c '^Cap.*0000000000000000$' /proc/self/status; id -u; id -g; pwd; umount \"${KEY_FILE%/*}\" 2>/dev/null || echo kept";
        let expected = format!("5\n{USER}\n{USER}\n{}\nkept\n", home.display());
        prints(&delivery, "/bin/sh", &["-c", script], expected.as_bytes());
    };
    assert_eq!(launcher_as(USER, body), 0);
}

fn sandbox_for(delivery: &Delivery) -> Sandbox {
    let sandbox = Sandbox::prepare(&v1::Sandbox::default()).unwrap();
    sandbox.also_read(delivery.directory().unwrap()).unwrap();
    sandbox
}

#[test]
fn a_sandboxed_tool_reads_its_file_and_its_descriptor() {
    launcher(|home| {
        let delivery = delivered(&[file("KEY_FILE"), fd("KEY_FD")], true, home);
        let sandbox = sandbox_for(&delivery);
        let script = "cat \"$KEY_FILE\" \"$KEY_FD\"; cat /etc/shadow 2>/dev/null";
        for how in BOTH {
            prints_as(how, || start_with(&delivery, "/bin/sh", &["-c", script], Some(&sandbox)), &[VALUE, VALUE].concat());
        }
    });
}

/// What the tool finds: its file, its descriptor from where it stands, and what holds it.
const FINDS: &str = "import os, re
print(open(os.environ['KEY_FILE']).read(), os.read(int(os.path.basename(os.environ['KEY_FD'])), 99).decode())
print(re.findall('(NoNewPrivs|Seccomp|CapBnd):\t(\\S+)', open('/proc/self/status').read()))
try: open('/etc/passwd-', 'w')
except OSError as denied: print(denied.strerror)
try: os.listdir('/etc')
except OSError as denied: print(denied.strerror, flush=True)
import time; time.sleep(60)";

#[test]
fn a_tool_that_is_restarted_is_confined_anew_and_finds_the_new_version() {
    launcher(|home| {
        let delivery = Arc::new(delivered(&[file("KEY_FILE"), fd("KEY_FD")], true, home));
        delivery.write("stripe/key", b"first").unwrap();
        let sandbox = Arc::new(sandbox_for(&delivery));
        let start = {
            let delivery = delivery.clone();
            move || start_with(&delivery, "/usr/bin/python3", &["-c", FINDS], Some(&sandbox))
        };
        let (gate, again) = (Gate::new(), start.clone());
        let gate = Arc::new(gate);
        let waits = gate.clone();
        let running = launch::run(How::Supervised, start, move |sender| {
            std::thread::spawn(move || {
                waits.wait();
                sender.restart(Box::new(again()));
            });
        });
        let mut output = BufReader::new(running.output.try_clone().unwrap());
        for version in ["first", "second"] {
            let mut said = String::new();
            for _ in 0..4 {
                output.read_line(&mut said).unwrap();
            }
            let held = "[('CapBnd', '0000000000000000'), ('NoNewPrivs', '1'), ('Seccomp', '2')]";
            assert_eq!(said, format!("{version} {version}\n{held}\nPermission denied\nPermission denied\n"));
            delivery.write("stripe/key", b"second").unwrap();
            gate.open();
        }
    });
}

/// The last step before the program's own first one.
#[test]
fn the_tool_ends_with_its_guardian_whatever_holds_it() {
    const TIE: &str =
        "import ctypes; number = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(number)); print(number.value)";
    launcher(|home| {
        let delivery = delivered(&[file("KEY_FILE"), fd("KEY_FD")], false, home);
        let sandbox = sandbox_for(&delivery);
        for sandbox in [None, Some(&sandbox)] {
            prints_as(How::Supervised, || launch::start("/usr/bin/python3", &["-c", TIE], sandbox), b"9\n");
            for how in BOTH {
                prints_as(how, || start_with(&delivery, "/usr/bin/python3", &["-c", TIE], sandbox), b"9\n");
            }
        }
    });
}

#[test]
fn a_namespace_that_cannot_be_entered_starts_nothing() {
    launcher(|home| {
        let delivery = delivered(&[file("KEY_FILE")], false, home);
        break_call(libc::SYS_setns, libc::E2BIG);
        for how in BOTH {
            let Outcome { code, out, errors } = launch(SAME, how, || start_with(&delivery, "/bin/echo", &["started"], None));
            assert_eq!((code, out), (126, Vec::new()), "{how:?}: {errors}");
            assert!(errors.contains("namespaces") && errors.contains("Argument list too long"), "{how:?}: {errors}");
        }
    });
}

#[test]
fn where_it_cannot_be_had_it_is_an_error_and_never_a_file_on_disk() {
    for (call, errno, words) in [
        (libc::SYS_unshare, libc::EPERM, "unprivileged user namespaces"),
        (libc::SYS_unshare, libc::ENOSPC, "max_user_namespaces"),
        (libc::SYS_mount, libc::EACCES, "deliver with `fd` or `env`"),
        (libc::SYS_open_tree, libc::ENOSYS, "deliver with `fd` or `env`"),
    ] {
        let body = |home: &Path| {
            break_call(call, errno);
            let error = Delivery::prepare(&[file("KEY_FILE")], false, Some(home)).err().expect("it cannot be had");
            assert!(matches!(error, Error::NoNamespace { .. }), "{error}");
            assert!(error.hint().contains(words), "{}", error.hint());
            // It is not needed where no file is wanted.
            Delivery::prepare(&[fd("KEY_FD")], false, Some(home)).unwrap().write("stripe/key", VALUE).unwrap();
        };
        launcher(body);
    }
}

#[test]
fn names_and_places_that_do_not_fit_are_errors() {
    launcher(|home| {
        for name in ["", "..", "a/b", "a.b", "a\0b"] {
            let error = Delivery::prepare(&[file(name)], false, Some(home)).err().expect("no file's name");
            assert!(matches!(error, Error::Name { .. }), "{error}");
        }
        if !Path::new(valetkey::run::deliver::DIRECTORY).exists() {
            assert!(matches!(Delivery::prepare(&[file("KEY_FILE")], false, None), Err(Error::NoPlace)));
        }
    });
}

#[test]
fn nothing_of_the_launcher_is_left_open_in_the_tool() {
    launcher(|home| {
        let delivery = delivered(&[file("KEY_FILE"), fd("KEY_FD")], false, home);
        let sandbox = sandbox_for(&delivery);
        let script = "import os
keep = int(os.path.basename(os.environ['KEY_FD']))
print([fd for fd in map(int, os.listdir('/proc/self/fd')) if fd > 2 and fd != keep and os.path.exists(f'/proc/self/fd/{fd}')])";
        for how in BOTH {
            let start = || {
                // SAFETY: numbers. As a client that forgets about close-on-exec leaves it.
                process::checked(unsafe { libc::dup2(0, 99) });
                start_with(&delivery, "/usr/bin/python3", &["-c", script], Some(&sandbox))
            };
            prints_as(how, start, b"[]\n");
        }
    });
}

#[test]
fn what_can_be_overwritten_is_when_it_goes() {
    launcher(|home| {
        let delivery = Delivery::prepare(&[fd("KEY_FD")], true, Some(home)).unwrap();
        delivery.write("stripe/key", VALUE).unwrap();
        let kept = delivery.keep().next().unwrap().try_clone_to_owned().unwrap();
        drop(delivery);
        let mut text = Vec::new();
        fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept)))
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text, vec![0; VALUE.len()]);
    });
}

//! Alarms to a program of the operator's: JSON on its standard input, and nothing else of the daemon's.

use std::{
    fs,
    future::Future,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::Path,
    pin::Pin,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use tracing::info;

use super::outlet::{Deliver, Failure};

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(10);
/// What is logged of its complaints.
const COMPLAINTS: usize = 2048;

/// A program by its absolute path, and its arguments.
pub struct Hook(pub Vec<String>);

/// Could somebody other than root and the daemon's own user change what this program does? Then, or where it is none, why not.
pub fn check(program: &Path) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    let facts = fs::metadata(program).map_err(|error| format!("cannot be run: {}", error.kind()))?;
    if !facts.is_file() || facts.mode() & 0o111 == 0 {
        return Err("is no program: chmod 0755".into());
    }
    let path = program.canonicalize().map_err(|error| format!("cannot be run: {}", error.kind()))?;
    for (at, one) in path.ancestors().enumerate() {
        let facts = fs::metadata(one).map_err(|error| format!("cannot be run: {}", error.kind()))?;
        // In a sticky directory (/tmp) nobody can replace what is not theirs.
        let sticky = at > 0 && facts.mode() & 0o1000 != 0;
        if facts.uid() != 0 && facts.uid() != us {
            return Err(format!("can be changed by uid {}, who owns {}: chown root", facts.uid(), one.display()));
        }
        if facts.mode() & 0o022 != 0 && !sticky {
            return Err(format!("can be changed by others, who may write to {}: chmod go-w", one.display()));
        }
    }
    Ok(())
}

impl Deliver for Hook {
    fn deliver<'a>(&'a self, alarm: &'a str) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        let (command, alarm) = (self.0.clone(), alarm.to_owned());
        Box::pin(async move {
            let ran = tokio::task::spawn_blocking(move || run(&command, &alarm, WITHIN)).await;
            ran.unwrap_or_else(|_| Err("running the hook failed inside".into())).map_err(Failure::Final)
        })
    }
}

/// Starts a program of the operator's, by its path and with its arguments, if nobody else could have changed it: with no environment of ours, in
/// a process group of its own, and pipes for its input and its complaints.
pub(crate) fn start(command: &[String], output: Stdio) -> Result<Child, String> {
    let Some((program, arguments)) = command.split_first() else { return Err("there is no hook".into()) };
    // Each time: a package may have changed it since the start.
    check(Path::new(program)).map_err(|problem| format!("the hook {problem}"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/").process_group(0);
    let started = command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped()).spawn();
    started.map_err(|error| format!("the hook cannot be run: {error}"))
}

/// Runs it once. One that fails is not run again: what it has done already is its own affair.
fn run(command: &[String], alarm: &str, within: Duration) -> Result<(), String> {
    let mut child = start(command, Stdio::null())?;
    // It fits into the pipe. A hook that does not read it has decided to do without.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(alarm.as_bytes()).and_then(|()| input.write_all(b"\n"));
    }
    let mut complaints = Vec::new();
    let ended = wait(&mut child, within, &mut complaints);
    // Before it is waited for: until then nobody else can have its number.
    kill_group(&child);
    let status = child.wait().map_err(|error| format!("the hook cannot be waited for: {error}"))?;
    if !complaints.is_empty() {
        info!("the hook says: {}", String::from_utf8_lossy(&complaints).trim_end().escape_debug());
    }
    match ended {
        Ok(true) => succeeded(status),
        Ok(false) => Err(format!("the hook took longer than {} s, and was killed", within.as_secs_f32())),
        Err(error) => Err(format!("the hook cannot be waited for: {error}")),
    }
}

fn succeeded(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the hook failed: {status}")) }
}

/// Waits until it has ended, and reads what it complains of, of which it keeps the beginning. `false`: it takes too long.
fn wait(child: &mut Child, within: Duration, complaints: &mut Vec<u8>) -> io::Result<bool> {
    let begun = Instant::now();
    let pid = pid(child)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut errors = child.stderr.take();
    loop {
        let Some(left) = within.checked_sub(begun.elapsed()) else { return Ok(false) };
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut watched = vec![PollFd::new(&pidfd, PollFlags::IN)];
        watched.extend(errors.as_ref().map(|errors| PollFd::from_borrowed_fd(errors.as_fd(), PollFlags::IN)));
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = watched.iter().map(|one| !one.revents().is_empty()).collect();
        drop(watched);
        if ready.get(1) == Some(&true)
            && let Some(from) = &mut errors
        {
            let mut piece = [0; 1024];
            match from.read(&mut piece)? {
                0 => errors = None,
                read => {
                    let room = COMPLAINTS.saturating_sub(complaints.len());
                    complaints.extend_from_slice(&piece[..read.min(room)]);
                }
            }
            // All that it said before it ended is read first.
            continue;
        }
        if ready.first() == Some(&true) {
            return Ok(true);
        }
    }
}

pub(crate) fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// With all that it has started and that is still in its group.
pub(crate) fn kill_group(child: &Child) {
    if let Ok(pid) = pid(child) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// A hook of this text. It is written by a process of its own: a descriptor that is open for writing here may be in another thread's child for a
/// moment, and as long as that is so nobody can execute the file.
#[cfg(test)]
pub(crate) fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("hook").display().to_string();
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat > \"$0\" && chmod 755 \"$0\"", &path]).stdin(Stdio::piped());
    let mut child = writer.spawn().expect("a shell");
    let mut stdin = child.stdin.take().expect("its input");
    std::io::Write::write_all(&mut stdin, format!("#!/bin/sh\n{text}\n").as_bytes()).expect("written");
    drop(stdin);
    assert!(child.wait().is_ok_and(|status| status.success()));
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, text: &str) -> Vec<String> {
        vec![super::script(folder, text)]
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn it_gets_the_alarm_and_nothing_else() {
        let folder = folder();
        let out = folder.path().join("out");
        let _ours = fs::File::create(folder.path().join("ours")).unwrap();
        let hook = script(
            folder.path(),
            &format!("{{ cat; env; pwd; ls -l /proc/self/fd | grep -c ours || true; }} > {}", out.display()),
        );
        run(&hook, "{\"alarm\":\"canary\"}", WITHIN).unwrap();
        let said = fs::read_to_string(out).unwrap();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL=")).collect();
        assert_eq!(lines, ["{\"alarm\":\"canary\"}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/", "/", "0"]);
    }

    #[test]
    fn who_takes_too_long_is_killed_with_its_children() {
        let folder = folder();
        let pids = folder.path().join("pids");
        let hook = script(folder.path(), &format!("sleep 60 & echo $! > {}; while :; do echo noise >&2; done", pids.display()));
        let begun = Instant::now();
        let failed = run(&hook, "{}", Duration::from_millis(300)).unwrap_err();
        assert!(failed.contains("was killed") && begun.elapsed() < Duration::from_secs(5), "{failed}");
        let child: i32 = fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(5), "its child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_others_could_change_is_not_run() {
        let folder = folder();
        let hook = script(folder.path(), "exit 0");
        run(&hook, "{}", WITHIN).unwrap();
        fs::set_permissions(&hook[0], fs::Permissions::from_mode(0o777)).unwrap();
        assert!(run(&hook, "{}", WITHIN).unwrap_err().contains("chmod go-w"));
        fs::set_permissions(&hook[0], fs::Permissions::from_mode(0o644)).unwrap();
        assert!(run(&hook, "{}", WITHIN).unwrap_err().contains("no program"));
        assert!(run(&["/no/such".into()], "{}", WITHIN).unwrap_err().contains("cannot be run"));
        let failing = script(folder.path(), "exit 3");
        assert!(run(&failing, "{}", WITHIN).unwrap_err().contains("exit status: 3"));
    }
}

//! A caller, proven when it connected and provable again at any time.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::OnceCell,
};

use super::{
    Attestor, Method,
    cgroup::Place,
    executable::{self, FileState, Unseen},
    invocation::Run,
    kernel,
    refusal::{Fact, Refusal},
    unit,
};
use crate::peer::{Peer, Process};

/// The attested caller of a connection.
#[derive(Debug)]
pub struct Caller {
    peer: Peer,
    /// Is it with systemd itself, in no unit?
    manager: bool,
    /// The start of its unit that it belongs to, where systemd tells them apart.
    run: Option<Run>,
    attestor: Attestor,
    /// A handle on the process itself; a number would do for any later process too.
    pidfd: Arc<OwnedFd>,
    /// `/proc/PID`, as open while the pidfd's process lived: it stays that process's, and is dead when it is. Where it is needed.
    proc: Option<OwnedFd>,
    standing: Standing,
    executable: Result<FileState, Unseen>,
    exit: OnceCell<AsyncFd<Arc<OwnedFd>>>,
}

/// What must stay as it was at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    uid: u32,
    gid: u32,
    /// The id of the process's own cgroup, which is its unit's or below it.
    cgroup: u64,
}

impl Standing {
    fn compare(self, now: Self) -> Result<(), Refusal> {
        let changed =
            [(self.uid != now.uid, Fact::User), (self.gid != now.gid, Fact::Group), (self.cgroup != now.cgroup, Fact::Cgroup)];
        changed.into_iter().find(|(differs, _)| *differs).map_or(Ok(()), |(_, fact)| Err(Refusal::Changed(fact)))
    }
}

impl Caller {
    /// Who connected this accepted stream. About 15 microseconds; with executables on, the first caller of each program takes as long
    /// as its file takes to read, so do that off the accept loop.
    ///
    /// # Errors
    /// Every refusal: whoever cannot be proven to be someone is nobody.
    pub fn of(stream: &impl AsFd, attestor: &Attestor) -> Result<Self, Refusal> {
        let connected = kernel::peer_credentials(stream.as_fd()).map_err(|e| Refusal::kernel("SO_PEERCRED", e))?;
        let pid = i32::try_from(connected.pid).ok().and_then(Pid::from_raw).ok_or(Refusal::OtherNamespace)?;
        let groups = kernel::peer_groups(stream.as_fd()).map_err(|e| Refusal::kernel("SO_PEERGROUPS", e))?;
        let pidfd = match attestor.method() {
            Method::PidfdCgroup | Method::PidfdProc => {
                kernel::peer_pidfd(stream.as_fd()).map_err(|e| Refusal::kernel("SO_PEERPIDFD", e))?
            }
            Method::Weak => pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Refusal::kernel("pidfd_open", e))?,
        };
        let needs_proc = attestor.method() != Method::PidfdCgroup || attestor.settings().executable;
        let proc = needs_proc.then(|| open_proc(pid)).transpose()?;

        let standing = look(attestor, &pidfd, proc.as_ref())?;
        Standing { uid: connected.uid, gid: connected.gid, ..standing }.compare(standing)?;
        let place =
            attestor.0.tree.place(connected.pid, standing.cgroup).map_err(|refusal| match kernel::alive(pidfd.as_fd()) {
                Ok(false) => Refusal::Exited, // and its cgroup with it
                _ => refusal,
            })?;
        let manager = matches!(place, Place::Manager);
        let (unit, run) = match place {
            Place::Unit(unit, run) => (Some(unit), run),
            Place::Manager | Place::Elsewhere => (None, None),
        };
        let seen = match (&proc, attestor.settings().executable) {
            (Some(proc), true) => attestor.0.executables.see(proc.as_fd()),
            _ => Err(Unseen::Off),
        };
        let (executable, state) = match seen {
            Ok((executable, state)) => (Some(executable), Ok(state)),
            Err(unseen) => (None, Err(unseen)),
        };
        let pidfd_inode = match attestor.0.unique_pidfds {
            true => rustix::fs::fstat(&pidfd).map_err(|e| Refusal::kernel("stat of a pidfd", e))?.st_ino,
            false => 0,
        };
        let process = Process { pid: connected.pid, pidfd_inode };
        let caller = Self {
            peer: Peer { process, uid: connected.uid, gid: connected.gid, groups, unit, executable, remote: None },
            manager,
            run,
            attestor: attestor.clone(),
            pidfd: Arc::new(pidfd),
            proc,
            standing,
            executable: state,
            exit: OnceCell::new(),
        };
        // Last: all that was read by number was this process's, if it is still there.
        caller.alive()?;
        Ok(caller)
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Is it systemd itself, or a child of it that has gone to no unit? That it is the host's, and not a user's, its uid says.
    pub fn is_with_the_manager(&self) -> bool {
        self.manager
    }

    /// Why the peer has no executable. `None`: it has one.
    pub fn unseen_executable(&self) -> Option<&Unseen> {
        self.executable.as_ref().err()
    }

    /// Is the caller still who it was? About 1 microsecond, so that every hand-out can ask.
    ///
    /// # Errors
    /// It has exited, its unit was started again, or its user, group, cgroup or (where looked at) executable is another than at connect.
    pub fn recheck(&self) -> Result<(), Refusal> {
        self.standing.compare(look(&self.attestor, &self.pidfd, self.proc.as_ref())?)?;
        if self.run.as_ref().is_some_and(|run| !run.is_the_last()) {
            return Err(Refusal::Changed(Fact::Run));
        }
        if let (Ok(attested), Some(proc)) = (&self.executable, &self.proc) {
            let now = executable::state(proc.as_fd()).map_err(|e| Refusal::kernel("stat of the caller's executable", e))?;
            if now != *attested {
                return Err(Refusal::Changed(Fact::Executable));
            }
        }
        self.still_there() // last, as in `of`
    }

    /// Refuses a process that has exited, a zombie too: by what the event loop has heard of its pidfd where somebody waits for its
    /// exit there, and by asking the kernel where nobody does. For the first, the call before this one has found that it is not reaped.
    fn still_there(&self) -> Result<(), Refusal> {
        match self.exit.get() {
            Some(watch) if self.attestor.method() == Method::PidfdCgroup => {
                // Not by polling: a task that has used up its turn is told "pending" whatever there is to hear.
                match watch.try_io(Interest::READABLE, |_| Ok(())) {
                    Err(nothing) if nothing.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    _ => self.alive(),
                }
            }
            _ => self.alive(),
        }
    }

    /// The same, always by asking the kernel.
    fn alive(&self) -> Result<(), Refusal> {
        match kernel::alive(self.pidfd.as_fd()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Exited),
            Err(e) => Err(Refusal::kernel("poll of a pidfd", e)),
        }
    }

    /// Waits until the caller's process exits. Any number of tasks may wait; until one does, it costs nothing.
    ///
    /// Where it cannot be waited for (no memory for the watch), returns at once: a session had better end early than outlive its process.
    pub async fn exited(&self) {
        let register = || {
            // SAFETY: an `OwnedFd` in an `Arc` is open, and the same, for as long as the `AsyncFd` holds the `Arc`.
            unsafe { AsyncFd::register_with_interest(Arc::clone(&self.pidfd), Interest::READABLE) }
        };
        let Ok(watch) = self.exit.get_or_try_init(async || register()).await else { return };
        while let Ok(mut ready) = watch.readable().await {
            if self.alive().is_err() {
                return;
            }
            ready.clear_ready();
        }
    }
}

/// The process's user, group and cgroup now; right if it still lives after the call.
fn look(attestor: &Attestor, pidfd: &OwnedFd, proc: Option<&OwnedFd>) -> Result<Standing, Refusal> {
    let Some(proc) = proc.filter(|_| attestor.method() != Method::PidfdCgroup) else {
        let now = kernel::process_info(pidfd.as_fd()).map_err(|e| match kernel::alive(pidfd.as_fd()) {
            // ESRCH of a process that is there: it, or on some kernels its parent, has no number in this pid namespace.
            Ok(true) if e == rustix::io::Errno::SRCH => Refusal::OtherNamespace,
            _ => Refusal::kernel("PIDFD_GET_INFO", e),
        })?;
        return Ok(Standing { uid: now.uid, gid: now.gid, cgroup: now.cgroup });
    };
    // The directory itself belongs to the effective user and group, even of a process that may not be looked into (proc_pid(5)).
    let owner = rustix::fs::fstat(proc).map_err(|e| Refusal::kernel("stat of /proc/PID", e))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(proc, c"cgroup", flags, Mode::empty()).map_err(|e| Refusal::kernel("open of /proc/PID/cgroup", e))?;
    let text =
        std::io::read_to_string(std::fs::File::from(file)).map_err(|e| Refusal::from_io("read of /proc/PID/cgroup", &e))?;
    let cgroup = unit::own_path(&text)?.map_or(Ok(0), |path| attestor.0.tree.id(path))?;
    Ok(Standing { uid: owner.st_uid, gid: owner.st_gid, cgroup })
}

fn open_proc(pid: Pid) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{}", pid.as_raw_nonzero()), flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT => Refusal::Exited,
        other => Refusal::kernel("open of /proc/PID", other),
    })
}

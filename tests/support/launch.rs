//! Programs started as the launcher starts them, both ways: in the launcher's own place, and by its guardian, watched.

use std::{
    ffi::CString,
    fs::File,
    io::{PipeReader, PipeWriter, Read, Seek},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use valetkey::run::{
    deliver::Delivery,
    process::{self as launcher, Channel, Confinement, Filter, Guardian, NotStarted, Signals, Start, Variable, Verdict},
    sandbox::Sandbox,
};

use super::process::{self, Child};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The launcher becomes the tool.
    Replaced,
    /// The guardian starts the tool, and the launcher relays what it says.
    Supervised,
}

pub const BOTH: [How; 2] = [How::Replaced, How::Supervised];

/// A program with a clean environment.
pub fn start(program: &str, arguments: &[&str], sandbox: Option<&Sandbox>) -> Start {
    let text = |text: &str| CString::new(text).unwrap();
    Start {
        program: text(program),
        arguments: [program].iter().chain(arguments).map(|argument| text(argument)).collect(),
        environment: vec![Variable::new(b"PATH", b"/usr/bin:/bin").unwrap()],
        keep: Vec::new(),
        confinement: sandbox.map(|sandbox| sandbox.confinement().unwrap()),
        relay_input: false,
        ends_with_input: false,
    }
}

/// The same with what is delivered to it.
pub fn start_with(delivery: &Delivery, program: &str, arguments: &[&str], sandbox: Option<&Sandbox>) -> Start {
    let mut start = start(program, arguments, sandbox);
    let variables = delivery.variables();
    start.environment.extend(variables.map(|(name, path)| Variable::new(name.as_bytes(), path.as_bytes()).unwrap()));
    start.keep = delivery.keep().map(|fd| (fd.try_clone_to_owned().unwrap(), fd.as_raw_fd())).collect();
    delivery.confine(start.confinement.get_or_insert_with(Confinement::default)).unwrap();
    start
}

/// How a launch ended, and what was written meanwhile.
pub struct Outcome {
    pub code: i32,
    pub out: Vec<u8>,
    pub errors: String,
}

/// Launches in a process of its own, of this user, and waits for the end. `prepare` runs in that process.
pub fn launch(user: u32, how: How, prepare: impl FnOnce() -> Start) -> Outcome {
    let (mut out, mut errors) = (memory(), memory());
    let launcher = Child::fork(|| {
        become_user(user);
        stand_on(&File::open("/dev/null").unwrap(), &out, &errors);
        become_launcher(how, prepare, |_| {})
    });
    let code = launcher.reap();
    Outcome { code, out: text(&mut out), errors: String::from_utf8_lossy(&text(&mut errors)).into_owned() }
}

/// A launch that goes on, with pipes on both sides.
pub struct Running {
    pub launcher: Child,
    pub input: Option<PipeWriter>,
    pub output: PipeReader,
}

/// `with` gets what can send the launcher events, before the tool is started.
pub fn run(how: How, prepare: impl FnOnce() -> Start, with: impl FnOnce(launcher::Sender)) -> Running {
    let ((theirs, input), (output, out)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let launcher = Child::fork(|| {
        stand_on(&theirs, &out, &std::io::stderr());
        // What this process has of the other ends would keep them open.
        close(&[&input, &output, &theirs, &out]);
        become_launcher(how, prepare, with)
    });
    Running { launcher, input: Some(input), output }
}

fn become_launcher(how: How, prepare: impl FnOnce() -> Start, with: impl FnOnce(launcher::Sender)) -> ! {
    let code = match how {
        How::Replaced => not_started(&launcher::replace(&prepare(), None)),
        How::Supervised => {
            let guardian = Guardian::new().unwrap();
            let start = prepare();
            let signals = Signals::hold().unwrap();
            let (sender, events) = launcher::channel().unwrap();
            with(sender);
            let ended = launcher::supervise(guardian, &signals, start, &mut Everything, &events);
            ended.map_or_else(|failed| not_started(&failed), |ended| ended.code)
        }
    };
    process::leave(code.into())
}

fn not_started(why: &NotStarted) -> u8 {
    process::say(&why.to_string());
    why.code()
}

/// Passes everything.
struct Everything;

impl Filter for Everything {
    fn push(&mut self, _: Channel, bytes: &[u8], out: &mut Vec<u8>) -> Verdict {
        out.extend_from_slice(bytes);
        Verdict::Pass
    }
    fn finish(&mut self, _: Channel, _: &mut Vec<u8>) -> Verdict {
        Verdict::Pass
    }
}

/// Makes these the descriptors 0, 1 and 2 of this process.
fn stand_on(input: &impl AsFd, out: &impl AsFd, errors: &impl AsFd) {
    for (fd, number) in [(input.as_fd(), 0), (out.as_fd(), 1), (errors.as_fd(), 2)] {
        // SAFETY: numbers. What was there is the test's, which goes on in another process.
        process::checked(unsafe { libc::dup2(fd.as_raw_fd(), number) });
    }
}

fn close(all: &[&dyn AsRawFd]) {
    for fd in all {
        // SAFETY: numbers. This process leaves without dropping what owned them.
        process::checked(unsafe { libc::close(fd.as_raw_fd()) });
    }
}

fn memory() -> File {
    let fd: OwnedFd = rustix::fs::memfd_create(c"output", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    fd.into()
}

fn text(of: &mut File) -> Vec<u8> {
    let mut text = Vec::new();
    of.rewind().unwrap();
    of.read_to_end(&mut text).unwrap();
    text
}

/// Makes one system call fail in this process and in those it starts, as on a kernel that lacks it.
pub fn break_call(call: libc::c_long, errno: i32) {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which outlives the call.
    unsafe {
        process::checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        process::checked(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter));
    }
}

/// Becomes a user without privileges; for 0 it stays what it is.
pub fn become_user(user: u32) {
    if user != 0 {
        // SAFETY: integers, and an empty list.
        unsafe {
            process::checked(libc::setgroups(0, std::ptr::null()));
            process::checked(libc::setresgid(user, user, user));
            process::checked(libc::setresuid(user, user, user));
        }
    }
}

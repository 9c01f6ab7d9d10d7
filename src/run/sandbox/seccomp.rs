//! The seccomp filter: rules on system calls, turned into a program of classic BPF.
//!
//! The rules are in `calls`: a deny list like those that container runtimes ship. A call that is newer than the list is answered as
//! by a kernel that does not have it, so that libraries do what they did before it existed.

mod calls;

use std::io;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
use rustix::io::Errno;

use super::Error;
use crate::proto::v1;

/// linux/audit.h: the architecture whose numbers of calls these are.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the sandbox knows the system calls of x86_64 and aarch64 only");

/// On x86_64, calls of the x32 ABI have this bit, under which other numbers mean the same calls.
const X32: u32 = 0x4000_0000;

/// Where struct seccomp_data has the number, the architecture, and the low word of an argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn low_word(argument: u32) -> u32 {
    16 + 8 * argument
}

/// What holds of one argument. Only its low 32 bits are looked at: so does the kernel, of every argument that is tested here.
enum Test {
    /// Under the mask it is this.
    Is { argument: u32, mask: u32, value: u32 },
    /// It has one of these bits.
    Any { argument: u32, bits: u32 },
}

/// An answer to one call where all tests hold. The first rule that fits decides; without one, the call is allowed.
struct Rule {
    call: libc::c_long,
    tests: Vec<Test>,
    answer: u32,
}

/// The program for a sandbox.
pub(super) fn program(wanted: &v1::Sandbox) -> Vec<libc::sock_filter> {
    let mut program = vec![load(ARCH), jump(BPF_JEQ, ARCHITECTURE, 1, 0), answer(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    if cfg!(target_arch = "x86_64") {
        program.extend([jump(BPF_JGE, X32, 0, 1), answer(libc::SECCOMP_RET_KILL_PROCESS)]);
    }
    program.extend([jump(BPF_JGE, calls::NEWEST + 1, 0, 1), answer(errno(libc::ENOSYS))]);
    for rule in calls::rules(wanted) {
        program.extend(compiled(&rule));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

/// With the call's number loaded before and after.
fn compiled(rule: &Rule) -> Vec<libc::sock_filter> {
    let mut code = vec![answer(rule.answer)];
    // From the end to the start, as each jump must know how much it leaps over. Where a test fails, the number is loaded again.
    if !rule.tests.is_empty() {
        code.push(load(NUMBER));
    }
    for test in rule.tests.iter().rev() {
        let fails = code.len() as u8 - 1;
        let steps = match *test {
            Test::Is { argument, mask, value } => {
                vec![load(low_word(argument)), and(mask), jump(BPF_JEQ, value, 0, fails)]
            }
            Test::Any { argument, bits } => vec![load(low_word(argument)), jump(BPF_JSET, bits, 0, fails)],
        };
        code.splice(0..0, steps);
    }
    let rest = code.len() as u8;
    code.insert(0, jump(BPF_JEQ, rule.call as u32, 0, rest));
    code
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn and(mask: u32) -> libc::sock_filter {
    instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)
}

/// Leaps over `yes` instructions where the comparison holds, else over `no`.
fn jump(comparison: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, yes, no, value)
}

fn answer(action: u32) -> libc::sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, action)
}

fn errno(number: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// Whether this kernel has filters, with the answers that are given here.
pub(super) fn available() -> Result<(), Error> {
    for action in [libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_KILL_PROCESS] {
        // SAFETY: the kernel reads one number, which outlives the call.
        let asked = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
        match outcome(asked) {
            Ok(()) => {}
            Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => return Err(Error::NoSeccomp),
            Err(errno) => return Err(Error::Kernel { call: "seccomp", errno }),
        }
    }
    Ok(())
}

fn outcome(returned: libc::c_long) -> Result<(), Errno> {
    match returned {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

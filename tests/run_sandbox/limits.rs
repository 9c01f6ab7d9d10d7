//! Resource limits.

use std::fs::File;

use super::*;

#[test]
fn memory_is_bounded() {
    inside(&v1::Sandbox { max_memory: 512 << 20, ..Default::default() }, "limits::memory", &[]);
}

pub fn memory(_: &[String]) {
    assert!(Vec::<u8>::new().try_reserve_exact(1 << 30).is_err());
    assert!(Vec::<u8>::new().try_reserve_exact(16 << 20).is_ok());
}

#[test]
fn files_are_bounded() {
    inside(&v1::Sandbox { max_files: 32, ..Default::default() }, "limits::many_files", &[]);
}

pub fn many_files(_: &[String]) {
    let opened: Vec<_> = (0..64).map(|_| File::open("/dev/null")).take_while(Result::is_ok).collect();
    assert!((8..32).contains(&opened.len()), "{}", opened.len());
    // Nor can it be raised again.
    let more = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: a pointer to a struct that outlives the call.
    assert_eq!(denied(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &more) }.into()), libc::EPERM);
}

#[test]
fn a_fork_bomb_is_bounded() {
    /// By themselves: the limit counts all that a user runs.
    const BOMBERS: [u32; 2] = [62_002, 62_003];
    let wanted = v1::Sandbox { max_processes: 12, ..Default::default() };
    // The launcher and its guardian are the user's, too.
    for ((how, user), others) in BOTH.into_iter().zip(BOMBERS).zip(["0", "2"]) {
        let Outcome { code, errors, .. } = attacked(user, how, &wanted, "limits::a_fork_bomb", &[others], |_| {});
        assert_eq!(code, DONE, "{how:?}: {errors}");
    }
}

pub fn a_fork_bomb(others: &[String]) {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let room = 12 - threads - others[0].parse::<usize>().unwrap();
    let mut children = Vec::new();
    let failed = loop {
        // SAFETY: no arguments; the child does nothing but wait to be killed.
        match unsafe { libc::fork() } {
            0 => {
                // A run that is broken off must leave nothing that the next would count.
                // SAFETY: integers only.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                process::sleep_forever()
            }
            -1 => break io::Error::last_os_error().raw_os_error(),
            child => children.push(child),
        }
        assert!(children.len() < 64, "nothing stops it");
    };
    for child in &children {
        // SAFETY: an own child, not reaped.
        unsafe {
            process::checked(libc::kill(*child, libc::SIGKILL));
            process::checked(libc::waitpid(*child, std::ptr::null_mut(), 0));
        }
    }
    assert_eq!((failed, children.len()), (Some(libc::EAGAIN), room));
}

#[test]
fn processor_time_is_bounded() {
    let wanted = v1::Sandbox { max_cpu_seconds: 1, ..Default::default() };
    for how in BOTH {
        assert_eq!(attacked(USER, how, &wanted, "limits::spinning", &[], |_| {}).code, 128 + libc::SIGXCPU, "{how:?}");
    }
}

pub fn spinning(_: &[String]) {
    let start = std::time::Instant::now();
    while start.elapsed().as_secs() < 20 {
        std::hint::spin_loop();
    }
}

#[test]
fn core_dumps_are_off_and_limits_in_force_stay() {
    let child = Child::fork(|| {
        become_user(USER);
        let strict = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        // SAFETY: a pointer to a struct that outlives the call.
        process::checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &strict) });
        inside_as(0, &v1::Sandbox { max_files: 1024, ..Default::default() }, "limits::as_before", &[]);
    });
    assert_eq!(child.reap(), 0);
}

pub fn as_before(_: &[String]) {
    let read = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: the kernel fills the struct.
        process::checked(unsafe { libc::getrlimit(resource, &mut limit) });
        (limit.rlim_cur, limit.rlim_max)
    };
    assert_eq!((read(libc::RLIMIT_CORE), read(libc::RLIMIT_NOFILE)), ((0, 0), (64, 64)));
}

//! Resource limits.

use std::fs::File;

use super::*;

#[test]
fn memory_is_bounded() {
    inside(&v1::Sandbox { max_memory: 512 << 20, ..Default::default() }, || {
        assert!(Vec::<u8>::new().try_reserve_exact(1 << 30).is_err());
        assert!(Vec::<u8>::new().try_reserve_exact(16 << 20).is_ok());
    });
}

#[test]
fn files_are_bounded() {
    inside(&v1::Sandbox { max_files: 32, ..Default::default() }, || {
        let opened: Vec<_> = (0..64).map(|_| File::open("/dev/null")).take_while(Result::is_ok).collect();
        assert!((8..32).contains(&opened.len()), "{}", opened.len());
        // Nor can it be raised again.
        let more = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
        // SAFETY: a pointer to a struct that outlives the call.
        assert_eq!(denied(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &more) }.into()), libc::EPERM);
    });
}

#[test]
fn a_fork_bomb_is_bounded() {
    /// By itself: the limit counts all that a user runs.
    const BOMBER: u32 = 62_002;
    let status = inside_as(BOMBER, &v1::Sandbox { max_processes: 12, ..Default::default() }, || {
        let mut children = Vec::new();
        let failed = loop {
            // SAFETY: no arguments; the child does nothing but wait to be killed.
            match unsafe { libc::fork() } {
                0 => process::sleep_forever(),
                -1 => break io::Error::last_os_error().raw_os_error(),
                child => children.push(child),
            }
            assert!(children.len() < 64, "nothing stops it");
        };
        // SAFETY: own children, not reaped.
        children.iter().for_each(|child| assert_eq!(unsafe { libc::kill(*child, libc::SIGKILL) }, 0));
        assert_eq!((failed, children.len()), (Some(libc::EAGAIN), 11));
    });
    assert_eq!(status, 0);
}

#[test]
fn processor_time_is_bounded() {
    let spin = || loop {
        std::hint::spin_loop();
    };
    let wanted = v1::Sandbox { max_cpu_seconds: 1, ..Default::default() };
    assert_eq!(inside_as(USER, &wanted, spin), 128 + libc::SIGXCPU);
}

#[test]
fn core_dumps_are_off_and_limits_in_force_stay() {
    let (core, files) = (libc::RLIMIT_CORE, libc::RLIMIT_NOFILE);
    let read = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: the kernel fills the struct.
        process::checked(unsafe { libc::getrlimit(resource, &mut limit) });
        (limit.rlim_cur, limit.rlim_max)
    };
    let child = Child::fork(|| {
        become_user(USER);
        let strict = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        // SAFETY: a pointer to a struct that outlives the call.
        process::checked(unsafe { libc::setrlimit(files, &strict) });
        Sandbox::prepare(&v1::Sandbox { max_files: 1024, ..Default::default() }).unwrap().enter().unwrap();
        assert_eq!((read(core), read(files)), ((0, 0), (64, 64)));
    });
    assert_eq!(child.reap(), 0);
}

//! Privileges, other processes, and what of the kernel is closed.

use std::{fs, ptr};

use libc::{EACCES, ENOSYS, EPERM};

use super::*;

/// A process of the same user that is not in the sandbox.
fn neighbour(user: u32) -> Child {
    let child = Child::fork(|| {
        become_user(user);
        // SAFETY: integers only. As after an execve.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        process::sleep_forever()
    });
    let owned = || std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{}/environ", child.pid)).unwrap()) == user;
    process::eventually("the neighbour is one of the user's", owned);
    child
}

#[test]
fn processes_outside_are_out_of_reach() {
    for user in [0, USER] {
        let outside = neighbour(user);
        let pid = outside.pid;
        let environ = format!("/proc/{pid}/environ");
        // Whoever is not in the sandbox may.
        let free = || {
            become_user(user);
            fs::read(&environ).unwrap();
        };
        assert_eq!(Child::fork(free).reap(), 0);
        inside_as(user, &v1::Sandbox::default(), "kernel::a_process_outside", &[&pid.to_string()]);
    }
}

pub fn a_process_outside(pid: &[String]) {
    let pid: i32 = pid[0].parse().unwrap();
    let environ = format!("/proc/{pid}/environ");
    assert_eq!(error(fs::read(&environ)), EACCES);
    assert!(fs::read(format!("/proc/{pid}/maps")).is_err());
    assert!(fs::read_link(format!("/proc/{pid}/fd/0")).is_err());
    assert!(fs::read_link(format!("/proc/{pid}/cwd")).is_err());
    assert!(fs::read_dir(format!("/proc/{pid}/root/etc")).is_err());
    // SAFETY: integers and null pointers only.
    unsafe {
        assert_eq!(denied(libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0)), EPERM);
        let none = ptr::null::<libc::iovec>();
        assert_eq!(denied(libc::process_vm_readv(pid, none, 0, none, 0, 0) as libc::c_long), EPERM);
        assert_eq!(denied(libc::kill(pid, libc::SIGTERM).into()), EPERM);
    }
    // Its own children are its own.
    drop(Child::fork(|| process::sleep_forever()));
}

#[test]
fn the_doors_to_the_kernel_are_closed() {
    inside(&v1::Sandbox::default(), "kernel::doors", &[]);
}

pub fn doors(_: &[String]) {
    let call = |number: libc::c_long, first: libc::c_long| {
        // SAFETY: what the filter denies, the kernel does not run; else all pointers are null.
        denied(unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) })
    };
    for denied in [
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_pidfd_getfd,
        libc::SYS_open_by_handle_at,
        libc::SYS_chroot,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_shmget,
        libc::SYS_mq_open,
    ] {
        assert_eq!(call(denied, 0), EPERM, "{denied}");
    }
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID, 0x80 /* time */] {
        assert_eq!(call(libc::SYS_unshare, flag.into()), EPERM, "{flag:x}");
    }
    assert_eq!(call(libc::SYS_clone, (libc::CLONE_NEWUSER | libc::SIGCHLD).into()), EPERM);
    assert_eq!(call(libc::SYS_clone3, 0), ENOSYS);
    assert_eq!(call(470, 0), ENOSYS, "newer than the list");
    assert_eq!(call(libc::SYS_personality, 0x0040_0000 /* ADDR_NO_RANDOMIZE */), EPERM);
    // SAFETY: integers only; an ioctl that looks at no memory before it is denied.
    unsafe {
        assert_eq!(denied(libc::ioctl(0, libc::TIOCSTI, ptr::null::<u8>()).into()), EPERM);
        assert_eq!(libc::personality(0xffff_ffff), 0);
        assert_eq!(libc::unshare(libc::CLONE_FS), 0);
    }
    std::thread::spawn(|| ()).join().unwrap();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_another_architecture_kill() {
    for how in BOTH {
        let outcome = attacked(0, how, &v1::Sandbox::default(), "kernel::another_architecture", &[], |_| {});
        assert_eq!(outcome.code, 128 + libc::SIGSYS, "{how:?}: {}", outcome.errors);
    }
    assert_eq!(Child::fork(|| another_architecture(&[])).reap(), 0, "outside it is only unknown");
}

pub fn another_architecture(_: &[String]) {
    const X32: libc::c_long = 0x4000_0000;
    // SAFETY: no arguments.
    assert!(unsafe { libc::syscall(X32 | libc::SYS_getpid) } < 0);
}

#[test]
fn root_has_no_capabilities_and_execve_gives_none() {
    for how in BOTH {
        let sandbox = Sandbox::prepare(&v1::Sandbox::default()).unwrap();
        let status = launch(0, how, || start("/bin/cat", &["/proc/self/status"], Some(&sandbox)));
        let status = String::from_utf8(status.out).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{how:?}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{how:?}: {status}");
    }
}

#[test]
fn a_set_user_id_program_gives_nothing() {
    let place = Place::new();
    let id = place.program(Path::new("/usr/bin/id"));
    fs::set_permissions(&id, PermissionsExt::from_mode(0o4755)).unwrap();
    let wanted = v1::Sandbox { read: vec![text(place.0.path())], ..Default::default() };
    for how in BOTH {
        let user = |sandboxed: bool| {
            let outcome = launch(USER, how, || {
                let sandbox = sandboxed.then(|| Sandbox::prepare(&wanted).unwrap());
                start(&text(&id), &["-u"], sandbox.as_ref())
            });
            String::from_utf8(outcome.out).unwrap().trim().parse::<u32>().unwrap()
        };
        assert_eq!(user(false), 0, "without a sandbox it does");
        assert_eq!(user(true), USER, "{how:?}");
    }
}

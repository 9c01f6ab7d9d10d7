//! Which system calls a sandboxed tool is denied, and why.

use libc::*;

use super::{Rule, Test, errno};
use crate::proto::v1;

/// The newest call that this list was made with: `file_setattr` of Linux 6.17. From 424 on, all architectures have the same numbers.
pub(super) const NEWEST: u32 = 469;

const SYS_FCHMODAT2: c_long = 452;
const SYS_SETXATTRAT: c_long = 463;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_FILE_SETATTR: c_long = 469;

/// What no tool server needs, and what exploits of the kernel or of a neighbour begin with.
const DENIED: &[c_long] = &[
    // Other processes' memory and descriptors.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_pidfd_getfd,
    SYS_kcmp,
    // Queues of work for the kernel, which no filter sees.
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    // Mounts and namespaces. `unshare` and `clone` have rules of their own.
    SYS_setns,
    SYS_chroot,
    SYS_pivot_root,
    SYS_mount,
    SYS_umount2,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_open_by_handle_at,
    SYS_fanotify_init,
    // Keyrings are not namespaced, and the session's may be shared with the user's other processes.
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    // Memory, semaphores and queues under numbers that all processes of the user share. A container has its own; here there are none.
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_semctl,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_mq_open,
    SYS_mq_unlink,
    // Much kernel, seldom used.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_syslog,
    SYS_lookup_dcookie,
    SYS_nfsservctl,
    // The host itself. Root without capabilities could not either; this says so twice.
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    #[cfg(not(all(target_env = "musl", target_arch = "aarch64")))]
    SYS_kexec_file_load,
    #[cfg(all(target_env = "musl", target_arch = "aarch64"))]
    294, // kexec_file_load, which libc does not name there
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    SYS__sysctl,
];

/// What changes a file without opening it: Landlock does not see these.
const ATTRIBUTES: &[c_long] = &[
    SYS_fchmod,
    SYS_fchmodat,
    SYS_FCHMODAT2,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_SETXATTRAT,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    SYS_chown,
    #[cfg(target_arch = "x86_64")]
    SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    SYS_utime,
    #[cfg(target_arch = "x86_64")]
    SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    SYS_futimesat,
];

/// The flags that make a namespace, for `clone`, whose lowest byte is a signal.
const NEW_NAMESPACE: c_int =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// The rules, of which the first that fits decides.
pub(super) fn rules(wanted: &v1::Sandbox) -> Vec<Rule> {
    let mut rules = sockets(wanted);
    rules.extend(ways_around_connect());
    rules.extend(by_argument());
    rules.extend(DENIED.iter().map(|call| always(*call, errno(EPERM))));
    if wanted.write.is_empty() {
        rules.extend(ATTRIBUTES.iter().map(|call| always(*call, errno(EACCES))));
    }
    rules
}

/// Which sockets can be made: those whose connections Landlock sees. Every other family, and every other protocol over IP (SCTP,
/// MPTCP, raw), is one that it does not.
fn sockets(wanted: &v1::Sandbox) -> Vec<Rule> {
    let datagrams = if wanted.connect.is_empty() { errno(EACCES) } else { SECCOMP_RET_ALLOW };
    let (unix, listen) = if wanted.unix_sockets { (SECCOMP_RET_ALLOW, None) } else { (errno(EACCES), Some(errno(EACCES))) };
    let mut rules = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let of = |kind, protocol, answer| {
            let tests = vec![is(0, family), kind_is(kind), is(2, protocol)];
            Rule { call: SYS_socket, tests, answer }
        };
        rules.push(of(SOCK_STREAM, 0, SECCOMP_RET_ALLOW));
        rules.push(of(SOCK_STREAM, IPPROTO_TCP, SECCOMP_RET_ALLOW));
        rules.push(of(SOCK_DGRAM, 0, datagrams));
        rules.push(of(SOCK_DGRAM, IPPROTO_UDP, datagrams));
        rules.push(Rule { call: SYS_socket, tests: vec![is(0, family)], answer: errno(EPROTONOSUPPORT) });
    }
    // Which addresses this host has: getaddrinfo asks.
    let routes = vec![is(0, AF_NETLINK), is(2, NETLINK_ROUTE)];
    rules.push(Rule { call: SYS_socket, tests: routes, answer: SECCOMP_RET_ALLOW });
    rules.push(Rule { call: SYS_socket, tests: vec![is(0, AF_UNIX)], answer: unix });
    rules.push(always(SYS_socket, errno(EAFNOSUPPORT)));
    // A pair is connected for good, unless it is of datagrams: those can be sent elsewhere.
    for kind in [SOCK_STREAM, SOCK_SEQPACKET] {
        rules.push(Rule { call: SYS_socketpair, tests: vec![is(0, AF_UNIX), kind_is(kind)], answer: SECCOMP_RET_ALLOW });
    }
    rules.push(Rule { call: SYS_socketpair, tests: vec![is(0, AF_UNIX)], answer: unix });
    rules.push(always(SYS_socketpair, errno(EAFNOSUPPORT)));
    // Without bind, which Landlock denies, a TCP socket would listen on a port of the kernel's choice.
    rules.extend(listen.map(|answer| always(SYS_listen, answer)));
    rules
}

/// TCP Fast Open connects in `sendto`; an "upper layer protocol" may make another kind of socket out of one of TCP.
fn ways_around_connect() -> Vec<Rule> {
    const TCP_ULP: c_int = 31;
    let sends = [(SYS_sendto, 3), (SYS_sendmsg, 2), (SYS_sendmmsg, 3)];
    let fast_open = |(call, argument)| Rule {
        call,
        tests: vec![Test::Any { argument, bits: MSG_FASTOPEN as u32 }],
        answer: errno(EOPNOTSUPP),
    };
    let mut rules: Vec<_> = sends.into_iter().map(fast_open).collect();
    rules.push(Rule { call: SYS_setsockopt, tests: vec![is(1, IPPROTO_TCP), is(2, TCP_ULP)], answer: errno(ENOPROTOOPT) });
    rules
}

fn by_argument() -> Vec<Rule> {
    let namespaces =
        |call, bits: c_int| Rule { call, tests: vec![Test::Any { argument: 0, bits: bits as u32 }], answer: errno(EPERM) };
    const CLONE_NEWTIME: c_int = 0x80;
    const QUERY: c_int = -1;
    let mut rules = vec![
        namespaces(SYS_clone, NEW_NAMESPACE),
        namespaces(SYS_unshare, NEW_NAMESPACE | CLONE_NEWTIME),
        // Its flags are in memory, where no filter can look. Without it, libraries use `clone`.
        always(SYS_clone3, errno(ENOSYS)),
        Rule { call: SYS_personality, tests: vec![is(0, 0)], answer: SECCOMP_RET_ALLOW },
        Rule { call: SYS_personality, tests: vec![is(0, QUERY)], answer: SECCOMP_RET_ALLOW },
        always(SYS_personality, errno(EPERM)),
    ];
    // Typing into the terminal of whoever started the tool.
    for request in [TIOCSTI as c_int, TIOCLINUX as c_int] {
        rules.push(Rule { call: SYS_ioctl, tests: vec![is(1, request)], answer: errno(EPERM) });
    }
    rules
}

fn always(call: c_long, answer: u32) -> Rule {
    Rule { call, tests: Vec::new(), answer }
}

fn is(argument: u32, value: c_int) -> Test {
    Test::Is { argument, mask: u32::MAX, value: value as u32 }
}

/// The kind of a socket, without the flags that go with it.
fn kind_is(kind: c_int) -> Test {
    const SOCK_TYPE_MASK: u32 = 0xf;
    Test::Is { argument: 1, mask: SOCK_TYPE_MASK, value: kind as u32 }
}

//! Attacks on attestation, by real processes on the running kernel. As root: others cannot take on users and process numbers.

use std::{
    fs,
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use valetkey::attest::{Attestor, BadPath, Caller, Method, PeerStream, Refusal, Settings, Unseen};

#[path = "support/process.rs"]
mod process;
use process::{Child, Gate, Group, checked, eventually, sleep_forever};

/// A listening socket that anyone may connect to. One test at a time: a fork takes every descriptor of the others along.
struct Server {
    listener: UnixListener,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Server {
    fn start() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        fs::set_permissions(folder.path().join("s"), fs::Permissions::from_mode(0o666)).unwrap();
        PeerStream::prepare(&listener).unwrap();
        Some(Self { listener, folder, _alone: alone })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).unwrap()
    }

    fn accept(&self) -> UnixStream {
        self.listener.accept().unwrap().0
    }

    /// A child that connects, then does `next` with the connection, then stays.
    fn client(&self, next: impl FnOnce(UnixStream)) -> Child {
        Child::fork(|| {
            next(self.connect());
            sleep_forever()
        })
    }
}

fn attestor() -> Attestor {
    Attestor::new(Settings::default()).unwrap()
}

/// Every method that this kernel allows.
fn methods() -> Vec<Attestor> {
    let settings = Settings { allow_weak: true, ..Settings::default() };
    let best = Attestor::new(settings).unwrap().method();
    let all = [Method::PidfdCgroup, Method::PidfdProc, Method::Weak];
    let allowed = all.into_iter().skip_while(|method| *method != best);
    allowed.map(|method| Attestor::with_method(settings, method).unwrap()).collect()
}

fn become_user(id: u32) {
    let groups = [id + 1, id + 2];
    // SAFETY: pointers and lengths of arrays that outlive the calls; the process has one thread.
    unsafe {
        checked(libc::setgroups(2, groups.as_ptr()));
        checked(libc::setresgid(id, id, id));
        checked(libc::setresuid(id, id, id));
    }
}

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test hangs") })
}

/// To be called on a runtime.
async fn peer_stream(stream: UnixStream, attestor: &Attestor) -> Result<PeerStream, Refusal> {
    stream.set_nonblocking(true).unwrap();
    PeerStream::attest(tokio::net::UnixStream::from_std(stream).unwrap(), attestor).await
}

fn refusal(error: &std::io::Error) -> Refusal {
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

#[test]
fn the_same_process_is_named() {
    let Some(server) = Server::start() else { return };
    let _client = server.connect();
    let stream = server.accept();
    for attestor in methods() {
        let caller = Caller::of(&stream, &attestor).unwrap();
        let peer = caller.peer();
        assert_eq!((peer.process.pid, peer.uid, peer.gid), (std::process::id(), 0, 0), "{}", attestor.method());
        assert_ne!(peer.process.pidfd_inode, 0);
        assert!(matches!(caller.unseen_executable(), Some(Unseen::Off)));
        caller.recheck().unwrap();
    }
}

#[test]
fn a_child_of_another_user_is_named_with_its_groups() {
    let Some(server) = Server::start() else { return };
    let child = Child::fork(|| {
        become_user(4100);
        let _client = server.connect();
        sleep_forever()
    });
    let stream = server.accept();
    for attestor in methods() {
        let caller = Caller::of(&stream, &attestor).unwrap();
        let peer = caller.peer();
        assert_eq!((peer.process.pid, peer.uid, peer.gid), (child.pid as u32, 4100, 4100));
        assert_eq!(peer.groups, [4101, 4102]);
        caller.recheck().unwrap();
    }
}

#[test]
fn weak_is_refused_unless_it_is_allowed() {
    assert_eq!(Attestor::with_method(Settings::default(), Method::Weak).unwrap_err(), Refusal::Weak);
    let weak = Attestor::with_method(Settings { allow_weak: true, ..Settings::default() }, Method::Weak).unwrap();
    assert_eq!(weak.method().to_string(), "weak");
}

/// The peer dies, another process holds its connection, and its number is given to /usr/bin/sleep.
#[test]
fn a_recycled_process_number_is_nobody() {
    let Some(server) = Server::start() else { return };
    let told = Gate::new();
    let go = Gate::new();
    let peer = Child::fork(|| {
        let _client = server.connect();
        // SAFETY: as `Child::fork`.
        let keeper = checked(unsafe { libc::fork() });
        if keeper == 0 {
            sleep_forever(); // keeps the connection open
        }
        told.send(keeper);
        go.wait();
    });
    let keeper = told.receive();
    let (stream, early) = (server.accept(), attestor());
    let attested_early = Caller::of(&stream, &early).unwrap();
    go.open();
    let number = peer.pid;
    assert_eq!(peer.reap(), 0);
    let sleep = Child::fork_as(number, || {
        let _ = Command::new("/usr/bin/sleep").arg("60").exec();
    });
    let sleep = sleep.expect("the number was taken by another process: run again");
    eventually("sleep runs", || fs::read_link(format!("/proc/{number}/exe")).is_ok_and(|exe| exe.ends_with("sleep")));

    for attestor in methods() {
        let outcome = Caller::of(&stream, &attestor);
        match attestor.method() {
            // The number alone says "sleep", which is why this method is opt-in.
            Method::Weak => assert_eq!(outcome.unwrap().peer().process.pid, sleep.pid as u32),
            method => assert_eq!(outcome.unwrap_err(), Refusal::Exited, "{method}"),
        }
    }
    assert_eq!(attested_early.recheck(), Err(Refusal::Exited));
    // SAFETY: the grandchild that this test made, which holds its number as long as it lives.
    unsafe { libc::kill(keeper, libc::SIGKILL) };
}

fn send_descriptor(through: &UnixStream, what: &impl AsFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let fds = [what.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(through, &[IoSlice::new(b"fd")], &mut control, SendFlags::empty()).unwrap();
}

fn receive_descriptor(through: &UnixStream) -> UnixStream {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(through, &mut [std::io::IoSliceMut::new(&mut [0; 2])], &mut control, RecvFlags::empty()).unwrap();
    let RecvAncillaryMessage::ScmRights(mut fds) = control.drain().next().unwrap() else { panic!("no descriptor") };
    fds.next().unwrap().into()
}

#[test]
fn a_socket_passed_to_another_process_is_useless() {
    let Some(server) = Server::start() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thief = Child::fork(|| {
        let mut stolen = receive_descriptor(&theirs);
        stolen.write_all(b"give me the key").unwrap();
        sleep_forever()
    });
    let _peer = server.client(|mut stream| {
        stream.write_all(b"hello").unwrap();
        send_descriptor(&ours, &stream);
        sleep_forever() // the attested process lives on
    });
    let stream = server.accept();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        let attested = stream.caller().peer().process.pid;
        let expected = Refusal::OtherSender { attested, sender: thief.pid as u32 };
        for _ in 0..2 {
            let error = stream.read(&mut [0; 64]).await.unwrap_err();
            assert_eq!(refusal(&error), expected);
        }
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        // The caller itself is who it was; its connection is not.
        stream.caller().recheck().unwrap();
    });
}

#[test]
fn a_forked_child_cannot_ask_over_an_inherited_socket() {
    let Some(server) = Server::start() else { return };
    let told = Gate::new();
    let _peer = server.client(|mut stream| {
        let child = Child::fork(|| stream.write_all(b"give me the key").unwrap());
        told.send(child.pid);
        sleep_forever()
    });
    let child = told.receive();
    let stream = server.accept();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let attested = stream.caller().peer().process.pid;
        let error = stream.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(refusal(&error), Refusal::OtherSender { attested, sender: child as u32 });
    });
}

/// Both have written before anything is read: the first read gives the caller's bytes only, the next ends the connection at once.
#[test]
fn bytes_of_two_senders_are_never_read_as_one() {
    let Some(server) = Server::start() else { return };
    let (sent, seen) = (Gate::new(), Gate::new());
    let _peer = server.client(|mut stream| {
        stream.write_all(b"mine").unwrap();
        assert_eq!(Child::fork(|| stream.write_all(b"not mine").unwrap()).reap(), 0);
        sent.open();
        seen.wait();
        stream.write_all(b"mine again").unwrap();
        sleep_forever()
    });
    sent.wait();
    let stream = server.accept();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let mut text = [0; 64];
        assert_eq!(stream.read(&mut text).await.unwrap(), 4);
        assert_eq!(&text[..4], b"mine");
        // What the other has written is not looked at before more comes, and then it is the end: what came behind it is not read.
        seen.open();
        for _ in 0..2 {
            assert_eq!(refusal(&stream.read(&mut text).await.unwrap_err()).reason(), "OTHER_SENDER");
        }
    });
}

#[test]
fn bytes_sent_before_accept_name_their_sender() {
    let Some(server) = Server::start() else { return };
    let sent = Gate::new();
    let _peer = server.client(|mut stream| {
        stream.write_all(b"early").unwrap();
        sent.open();
        sleep_forever()
    });
    sent.wait();
    let stream = server.accept();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let mut early = [0; 5];
        stream.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
    });
}

#[test]
fn bytes_that_name_no_sender_are_refused() {
    let Some(server) = Server::start() else { return };
    let unprepared = UnixListener::bind(server.folder.path().join("u")).unwrap();
    let mut client = UnixStream::connect(server.folder.path().join("u")).unwrap();
    let stream = unprepared.accept().unwrap().0;
    client.write_all(b"before the socket names senders").unwrap();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let error = stream.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(refusal(&error), Refusal::NoSender);
    });
}

#[test]
fn descriptors_that_a_peer_sends_never_become_ours() {
    let Some(server) = Server::start() else { return };
    let client = server.connect();
    let stream = server.accept();
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        let (read, mut write) = std::io::pipe().unwrap();
        send_descriptor(&client, &read);
        drop(read);
        let mut text = [0; 8];
        assert_eq!(stream.read(&mut text).await.unwrap(), 2);
        // Had the daemon kept it, the pipe would still have a reader.
        assert_eq!(write.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn all_bytes_come_through_and_the_end_is_the_end() {
    let Some(server) = Server::start() else { return };
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    let mut client = server.connect();
    let stream = server.accept();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        for part in copy.chunks(7_919) {
            client.write_all(part).unwrap();
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    });
    on_tokio(async {
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        assert!(tokio::io::AsyncWrite::is_write_vectored(&stream));
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        assert_eq!(stream.write_vectored(&[IoSlice::new(b"good"), IoSlice::new(b"bye")]).await.unwrap(), 7);
        stream.shutdown().await.unwrap();
    });
    assert_eq!(writer.join().unwrap(), "goodbye");
}

#[test]
fn another_program_after_connect_is_noticed() {
    let Some(server) = Server::start() else { return };
    let go = Gate::new();
    let child = server.client(|stream| {
        // SAFETY: the descriptor is this process's own; without the flag it outlives the exec, so that the connection stays.
        unsafe { checked(libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, 0)) };
        go.wait();
        let _ = Command::new("/usr/bin/sleep").arg("60").exec();
    });
    let stream = server.accept();
    let with_executable = Attestor::new(Settings { executable: true, allow_weak: false }).unwrap();
    let caller = Caller::of(&stream, &with_executable).unwrap();
    let executable = caller.peer().executable.as_ref().unwrap();
    let this = std::env::current_exe().unwrap();
    assert_eq!(executable.path, this);
    let sum = Command::new("sha256sum").arg(&this).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&executable.sha256.to_string()));
    caller.recheck().unwrap();
    go.open();
    eventually("sleep runs", || fs::read_link(format!("/proc/{}/exe", child.pid)).is_ok_and(|exe| exe.ends_with("sleep")));
    let refused = caller.recheck().unwrap_err();
    assert_eq!(refused.to_string(), "the caller's executable changed after it connected");
}

/// In a mount namespace of its own a process can stand any file at any path, and its /proc/PID/exe says so.
#[test]
fn a_program_mounted_over_another_is_not_that_program() {
    let Some(server) = Server::start() else { return };
    let child = server.client(|stream| {
        let (evil, good) = (c"/usr/bin/sleep", c"/usr/bin/true");
        // SAFETY: strings that outlive the calls; the mount is in this process's own namespace, and goes with it.
        unsafe {
            checked(libc::unshare(libc::CLONE_NEWNS));
            checked(libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ));
            checked(libc::mount(evil.as_ptr(), good.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()));
            checked(libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, 0));
        }
        let _ = Command::new("/usr/bin/true").arg0("sleep").arg("60").exec();
    });
    eventually("it runs", || fs::read_link(format!("/proc/{}/exe", child.pid)).is_ok_and(|exe| exe == *"/usr/bin/true"));
    let stream = server.accept();
    let with_executable = Attestor::new(Settings { executable: true, allow_weak: false }).unwrap();
    let caller = Caller::of(&stream, &with_executable).unwrap();
    assert_eq!(caller.peer().executable, None);
    assert_eq!(caller.unseen_executable(), Some(&Unseen::Elsewhere("/usr/bin/true".into())));
}

#[test]
fn another_user_after_connect_is_noticed() {
    let Some(server) = Server::start() else { return };
    let (go, done) = (Gate::new(), Gate::new());
    let _child = server.client(|_stream| {
        go.wait();
        become_user(4200);
        done.open();
        sleep_forever()
    });
    let stream = server.accept();
    let callers: Vec<_> = methods().iter().map(|attestor| (attestor.method(), Caller::of(&stream, attestor).unwrap())).collect();
    go.open();
    done.wait();
    for (method, caller) in callers {
        assert_eq!(caller.recheck().unwrap_err().to_string(), "the caller's user id changed after it connected", "{method}");
    }
    // Before it was accepted, too.
    for attestor in methods() {
        assert_eq!(Caller::of(&stream, &attestor).unwrap_err().reason(), "CALLER_CHANGED");
    }
}

#[test]
fn a_process_that_died_is_nobody_and_its_exit_is_announced() {
    let Some(server) = Server::start() else { return };
    let child = server.client(|_stream| ());
    let stream = server.accept();
    let callers: Vec<_> = methods().iter().map(|attestor| Caller::of(&stream, attestor).unwrap()).collect();
    on_tokio(async {
        for caller in &callers {
            let early = tokio::time::timeout(Duration::from_millis(20), caller.exited()).await;
            assert!(early.is_err(), "announced before it happened");
        }
        child.kill();
        for caller in &callers {
            tokio::join!(caller.exited(), caller.exited());
            // A zombie: its number cannot be used again yet, and still it is nobody; to a task that has had its turn as well.
            assert_eq!(caller.recheck(), Err(Refusal::Exited));
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
            assert_eq!(caller.recheck(), Err(Refusal::Exited));
        }
        for attestor in methods() {
            assert_eq!(Caller::of(&stream, &attestor).unwrap_err(), Refusal::Exited, "{}", attestor.method());
        }
        child.reap();
        for caller in &callers {
            caller.exited().await;
            assert_eq!(caller.recheck(), Err(Refusal::Exited));
        }
        for attestor in methods() {
            assert_eq!(Caller::of(&stream, &attestor).unwrap_err(), Refusal::Exited, "{}", attestor.method());
        }
    });
}

#[test]
fn a_peer_in_a_child_pid_namespace_is_named_by_its_number_here() {
    let Some(server) = Server::start() else { return };
    let told = Gate::new();
    let _parent = Child::fork(|| {
        // SAFETY: concerns the children of this process only.
        unsafe { checked(libc::unshare(libc::CLONE_NEWPID)) };
        let child = server.client(|mut stream| {
            assert_eq!(std::process::id(), 1);
            stream.write_all(b"hello").unwrap();
        });
        told.send(child.pid);
        sleep_forever()
    });
    let number = told.receive();
    let stream = server.accept();
    on_tokio(async {
        for attestor in methods() {
            assert_eq!(Caller::of(&stream, &attestor).unwrap().peer().process.pid, number as u32);
        }
        let mut stream = peer_stream(stream, &attestor()).await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
    });
}

#[test]
fn a_peer_outside_the_daemons_pid_namespace_is_refused() {
    let Some(server) = Server::start() else { return };
    let _client = server.connect();
    let daemons_parent = Child::fork(|| {
        let attestor = attestor();
        // SAFETY: concerns the children of this process only.
        unsafe { checked(libc::unshare(libc::CLONE_NEWPID)) };
        let daemon = Child::fork(|| {
            let refused = Caller::of(&server.accept(), &attestor).unwrap_err();
            assert_eq!(refused, Refusal::OtherNamespace);
            // Of the methods that need /proc, none can be had: it shows another namespace's numbers.
            let needs_proc = Attestor::with_method(Settings::default(), Method::PidfdProc);
            assert_eq!(needs_proc.unwrap_err(), Refusal::NoProc);
        });
        assert_eq!(daemon.reap(), 0);
    });
    assert_eq!(daemons_parent.reap(), 0);
}

/// As `docker exec` and `nsenter` make them.
#[test]
fn a_peer_whose_parent_is_outside_the_pid_namespace_is_named() {
    let Some(server) = Server::start() else { return };
    let outside = Child::fork(|| {
        let attestor = attestor();
        // SAFETY: concerns the children of this process only.
        unsafe { checked(libc::unshare(libc::CLONE_NEWPID)) };
        let looked = Gate::new();
        let _daemon = Child::fork(|| {
            match Caller::of(&server.accept(), &attestor) {
                Ok(caller) => assert_eq!(caller.peer().process.pid, 2),
                Err(refused) => assert_eq!(refused, Refusal::OtherNamespace), // a kernel that has no answer
            }
            looked.open();
            sleep_forever()
        });
        let _peer = server.client(|_stream| sleep_forever()); // dropped first: a namespace's first process ends last
        looked.wait();
    });
    assert_eq!(outside.reap(), 0);
}

/// The unit that each method tells of a peer in this cgroup.
fn in_cgroup(server: &Server, uid: u32, path: &str) -> Vec<Result<Option<String>, Refusal>> {
    let mount = attestor().cgroups().unwrap().to_owned();
    let group = Group::make(&mount, path);
    let (go, done) = (Gate::new(), Gate::new());
    let child = Child::fork(|| {
        go.wait();
        become_user(uid);
        let _client = server.connect();
        done.open();
        sleep_forever()
    });
    group.add(child.pid);
    go.open();
    done.wait();
    let stream = server.accept();
    let ask = |attestor: &Attestor| Caller::of(&stream, attestor).map(|caller| caller.peer().unit.clone());
    let told = methods().into_iter().map(|attestor| {
        // Twice: found, and then from what was found.
        let first = ask(&attestor);
        assert_eq!(first, ask(&attestor));
        first.map(|unit| unit.map(|unit| unit.name))
    });
    let told = told.collect();
    drop(child);
    told
}

#[test]
fn a_unit_name_forged_below_a_unit_counts_for_nothing() {
    let Some(server) = Server::start() else { return };
    if attestor().cgroups().is_none() {
        return eprintln!("SKIP: no cgroup2 tree");
    }
    let name = |what: &str| format!("vk{}-{what}", std::process::id());
    let (x, y) = (name("x.service"), name("y@1.service"));
    for told in in_cgroup(&server, 4300, &format!("/{x}/system.slice/c1.service")) {
        assert_eq!(told, Ok(Some(x.clone())));
    }
    for told in in_cgroup(&server, 4300, &format!("/{}/_{y}/main/..c1.service", name("s.slice"))) {
        assert_eq!(told, Ok(Some(y.clone())));
    }
    // A user's own manager, and what is no unit at all, prove the user only.
    for path in [
        format!("/{}/user@4300.service/app.slice/mcp-billing.service", name("u.slice")),
        format!("/{}/session-1.scope/mcp-billing.service", name("u.slice")),
        format!("/{}/mcp-billing.service", name("docker")),
    ] {
        for told in in_cgroup(&server, 4300, &path) {
            assert_eq!(told, Ok(None), "{path}");
        }
    }
    for told in in_cgroup(&server, 4300, &format!("/{}", name("gone.service (deleted)"))) {
        assert_eq!(told, Err(Refusal::Cgroup(BadPath::Deleted)));
    }
}

#[test]
fn another_cgroup_after_connect_is_noticed() {
    let Some(server) = Server::start() else { return };
    let Some(mount) = attestor().cgroups().map(ToOwned::to_owned) else { return eprintln!("SKIP: no cgroup2 tree") };
    let [before, after] =
        ["before", "after"].map(|name| Group::make(&mount, &format!("/vk{}-{name}.service", std::process::id())));
    rustix::fs::setxattr(before.directory(), "user.invocation_id", &[b'a'; 32], rustix::fs::XattrFlags::empty()).unwrap();
    let go = Gate::new();
    let child = Child::fork(|| {
        go.wait();
        let _client = server.connect();
        sleep_forever()
    });
    before.add(child.pid);
    go.open();
    let stream = server.accept();
    let callers: Vec<_> = methods().iter().map(|attestor| Caller::of(&stream, attestor).unwrap()).collect();
    for caller in &callers {
        let unit = caller.peer().unit.as_ref().unwrap();
        assert!(unit.name.ends_with("-before.service"));
        assert_eq!(unit.invocation.as_deref(), Some("a".repeat(32).as_str()));
        caller.recheck().unwrap();
    }
    after.add(child.pid);
    for caller in &callers {
        assert_eq!(caller.recheck().unwrap_err().to_string(), "the caller's cgroup changed after it connected");
    }
    drop(child);
}

/// `cargo test --test attestation costs -- --ignored --nocapture`
#[test]
#[ignore = "prints what it costs, and proves nothing"]
fn costs() {
    fn time(what: &str, rounds: u32, mut once: impl FnMut()) {
        let best = (0..7).map(|_| {
            let start = Instant::now();
            (0..rounds).for_each(|_| once());
            start.elapsed() / rounds
        });
        println!("{what:55} {:8.2} us", best.min().unwrap().as_nanos() as f64 / 1000.0);
    }
    let server = Server::start().unwrap();
    let client = server.connect();
    let stream = server.accept();
    let with_executable = Attestor::new(Settings { executable: true, allow_weak: false }).unwrap();
    let start = Instant::now();
    let _ = Caller::of(&stream, &with_executable).unwrap();
    println!("first sight of a program of {} bytes: {:?}", fs::metadata("/proc/self/exe").unwrap().len(), start.elapsed());
    for attestor in methods().into_iter().chain([with_executable]) {
        let what = format!("{}{}", attestor.method(), if attestor.settings().executable { " + executable" } else { "" });
        time(&format!("attest, {what}"), 2_000, || drop(Caller::of(&stream, &attestor).unwrap()));
        let caller = Caller::of(&stream, &attestor).unwrap();
        time(&format!("recheck, {what}"), 20_000, || caller.recheck().unwrap());
    }
    drop((client, stream));
    on_tokio(async {
        // The reading alone, with a message of 64 bytes waiting; then the whole way, through the runtime.
        for size in [64, 16_384] {
            let message = vec![7; size];
            let mut buffer = vec![0; 32_768];
            let mut client = server.connect();
            let mut plain = {
                let unprepared = UnixListener::bind(server.folder.path().join(size.to_string())).unwrap();
                let client = UnixStream::connect(server.folder.path().join(size.to_string())).unwrap();
                let stream = unprepared.accept().unwrap().0;
                stream.set_nonblocking(true).unwrap();
                (client, tokio::net::UnixStream::from_std(stream).unwrap())
            };
            let mut checked = peer_stream(server.accept(), &attestor()).await.unwrap();
            let mut best = [Duration::MAX; 2];
            for _ in 0..9 {
                let rounds = 4_000;
                let start = Instant::now();
                for _ in 0..rounds {
                    plain.0.write_all(&message).unwrap();
                    assert_eq!(plain.1.read(&mut buffer).await.unwrap(), size);
                    assert!(plain.1.read(&mut buffer).now_or_never().is_none()); // as HTTP/2 does, which reads until it must wait
                }
                best[0] = best[0].min(start.elapsed() / rounds);
                let start = Instant::now();
                for _ in 0..rounds {
                    client.write_all(&message).unwrap();
                    assert_eq!(checked.read(&mut buffer).await.unwrap(), size);
                    assert!(checked.read(&mut buffer).now_or_never().is_none());
                }
                best[1] = best[1].min(start.elapsed() / rounds);
            }
            println!("write + wake + read of {size} bytes: plain {:?}, sender checked {:?}", best[0], best[1]);
        }
    });
}

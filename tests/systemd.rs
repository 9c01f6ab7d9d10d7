//! Attestation under a real systemd: what the kernel and systemd say of real units, to a server with all rights and to one with none.
//!
//! `tests/support/sdbox` boots systemd in namespaces of its own; where it cannot, these tests say why and pass.

#[path = "support/sandbox.rs"]
mod sandbox;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use sandbox::Sandbox;
use valetkey::attest::{Attestor, Caller, PeerStream, Settings};

const PROGRAM: &str = "/usr/local/libexec/attest-test";

/// Boots a systemd that can start this test as its services.
fn start() -> Option<Sandbox> {
    Sandbox::start(&[format!("{}:{PROGRAM}:ro", env::current_exe().unwrap().display())])
}

impl Sandbox {
    /// Starts a service whose program is this test, in a role.
    #[track_caller]
    fn unit(&self, name: &str, role: &str, properties: &[&str], before: &str) {
        let unit = format!("--unit={name}");
        let role = format!("--setenv=VALETKEY_ROLE={role}");
        let output = format!("--property=StandardOutput=file:/run/{name}.out");
        let shell = format!("{before} exec {PROGRAM} --exact role --nocapture");
        let properties: Vec<_> = properties.iter().map(|property| format!("--property={property}")).collect();
        let mut arguments = vec!["systemd-run", "--quiet", &unit, &role, &output];
        arguments.extend(properties.iter().map(String::as_str));
        arguments.extend(["/bin/sh", "-c", &shell]);
        self.exec(&arguments);
    }

    /// What the server told a client that runs as this unit.
    #[track_caller]
    fn reply(&self, name: &str) -> String {
        let start = Instant::now();
        loop {
            let output = self.exec(&["cat", &format!("/run/{name}.out")]);
            if let Some(reply) = output.lines().find_map(|line| line.split_once("REPLY ")) {
                return reply.1.to_owned();
            }
            if start.elapsed() > Duration::from_secs(10) {
                panic!("no reply to {name}: {output}\n{}", self.exec(&["journalctl", "-n60", "--no-pager"]));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn invocation(&self, name: &str) -> String {
        self.exec(&["systemctl", "show", "--property=InvocationID", "--value", name])
    }
}

/// Not a test: what the services in the sandbox run.
#[test]
fn role() {
    let Ok(role) = env::var("VALETKEY_ROLE") else { return };
    match role.split_once(' ').unwrap() {
        ("serve", socket) => serve(socket),
        ("ask", socket) => {
            ask(socket);
            std::thread::sleep(Duration::from_secs(120));
        }
        ("ask-once", socket) => ask(socket),
        other => panic!("{other:?}"),
    }
}

fn serve(socket: &str) {
    let attestor = Attestor::new(Settings::default()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    PeerStream::prepare(&listener).unwrap();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let reply = match Caller::of(&stream, &attestor) {
            Ok(caller) => match &caller.peer().unit {
                Some(unit) => format!("{} {}", unit.name, unit.invocation.as_deref().unwrap_or("-")),
                None => format!("uid {}", caller.peer().uid),
            },
            Err(refusal) => format!("{}: {refusal}", refusal.reason()),
        };
        let _ = writeln!(stream, "{reply}");
    }
}

fn ask(socket: &str) {
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if start.elapsed() > Duration::from_secs(10) => panic!("{socket}: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).unwrap();
    println!("REPLY {}", reply.trim());
}

#[test]
fn units_are_told_as_systemd_tells_them() {
    let Some(sandbox) = start() else { return };
    // One that may read /proc, and one that may do next to nothing: no capability, no sight of other processes, no users.
    sandbox.unit("open.service", "serve /run/open/s", &["RuntimeDirectory=open"], "");
    let hardened = [
        "RuntimeDirectory=hardened",
        "DynamicUser=yes",
        "ProtectProc=invisible",
        "ProcSubset=pid",
        "PrivateUsers=yes",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectControlGroups=yes",
        "SystemCallFilter=@system-service",
    ];
    sandbox.unit("hardened.service", "serve /run/hardened/s", &hardened, "");

    // In its own, delegated, cgroup a process without rights makes a cgroup named as another's unit, and moves there.
    let forge = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup) && mkdir -p system.slice/mcp-billing.service && \
                 echo 0 >system.slice/mcp-billing.service/cgroup.procs && \
                 grep -q 'system.slice/mcp-billing.service$' /proc/self/cgroup &&";
    for server in ["open", "hardened"] {
        let ask = format!("ask /run/{server}/s");
        let [dynamic, instance, forger] =
            [format!("{server}-dynamic.service"), format!("{server}@alice.service"), format!("{server}-forger.service")];
        sandbox.unit(&dynamic, &ask, &["DynamicUser=yes"], "");
        sandbox.unit(&instance, &ask, &[], "");
        sandbox.unit(&forger, &ask, &["DynamicUser=yes", "Delegate=yes"], forge);
        for name in [&dynamic, &instance, &forger] {
            let invocation = sandbox.invocation(name);
            assert_eq!(invocation.len(), 32);
            assert_eq!(sandbox.reply(name), format!("{name} {invocation}"), "asked of {server}");
        }

        // A process of the host's, in a cgroup that the sandbox does not have.
        let role = format!("VALETKEY_ROLE=ask-once /run/{server}/s");
        let reply = sandbox.exec(&["env", &role, PROGRAM, "--exact", "role", "--nocapture"]);
        assert!(reply.contains("REPLY CALLER_CGROUP: "), "asked of {server}: {reply}");
    }

    // A new start of a unit is told apart from the last.
    let before = sandbox.invocation("open-dynamic.service");
    sandbox.exec(&["systemctl", "stop", "open-dynamic.service"]);
    sandbox.exec(&["rm", "/run/open-dynamic.service.out"]);
    sandbox.unit("open-dynamic.service", "ask /run/open/s", &["DynamicUser=yes"], "");
    let after = sandbox.invocation("open-dynamic.service");
    assert_ne!(before, after);
    assert_eq!(sandbox.reply("open-dynamic.service"), format!("open-dynamic.service {after}"));
}

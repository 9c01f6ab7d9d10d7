//! `LoadCredential=` from the daemon, under a real systemd: who gets a credential, and that whoever does not get one does not start.

use std::{env, io::Read, os::unix::net::UnixStream};

#[path = "support/installed.rs"]
mod installed;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use installed::{Host, PROGRAM, RUN};

const SOCKET: &str = "/run/valetkey/credentials.sock";
const KEY: &str = "sk-from-the-sealed-file";

const BILLING: &str = r#"
[tool.billing]
run-as = { unit = "mcp-billing.service" }
secrets."stripe/api-key" = { credential = "stripe-key" }
secrets."stripe/binary" = { credential = "binary" }
secrets."stripe/large" = { credential = "large" }
secrets."stripe/asked" = {}
"#;

/// A template's instance, with as little as a tool may have.
const MAIL: &str = r#"
[tool.mail]
run-as = { unit = "mcp-mail@north.service" }
secrets."mail/password" = { credential = "password" }
limits = { per-minute = 12, concurrent = 1, per-session = 1 }
"#;

/// With every byte in it, as a key store has them.
fn large() -> Vec<u8> {
    (0..3_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn host() -> Option<Host> {
    let host = Host::start()?;
    let large = large();
    let secrets: [(&str, &[u8]); 5] = [
        ("stripe/api-key", KEY.as_bytes()),
        ("stripe/binary", b"\0first\nsecond\xff\0"),
        ("stripe/large", &large),
        ("stripe/asked", b"sk-for-the-one-who-asks"),
        ("mail/password", b"a-password-for-mail"),
    ];
    host.install("", &secrets, &[("billing", BILLING), ("mail", MAIL)]);
    host.shell("systemctl start valetkeyd.socket valetkeyd-admin.socket valetkeyd-credentials.socket", "");
    Some(host)
}

/// Runs a command as a unit with one credential: its exit code and output.
fn consume(host: &Host, unit: &str, id: &str, more: &str, command: &str) -> (Option<i32>, String) {
    let load = format!("-p LoadCredential={id}:{SOCKET}");
    host.try_shell(&format!("{RUN} --unit={unit} {load} {more} sh -c '{command}'"), "")
}

/// Not a test: what runs in the sandbox.
#[test]
fn role() {
    let Ok(role) = env::var("VALETKEY_ROLE") else { return };
    let (what, address) = role.split_once(' ').unwrap();
    match what {
        // Asks as systemd does, from an address of one's own choice.
        "ask" => println!("REPLY {}", ask(address)),
        // Connects in a child, which is gone before it is answered; what it connected is left to this process.
        "pass" => println!("REPLY {}", pass(address)),
        other => panic!("{other}"),
    }
}

fn connect(address: &str) -> std::io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes())?)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    Ok(UnixStream::from(socket))
}

/// What came: the value, or how a refusal looks.
fn read(mut stream: UnixStream) -> String {
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) if all.len() > 1024 * 1024 && all.iter().all(|byte| *byte == 0) => "refused".into(),
        Ok(_) => format!("given {}", String::from_utf8_lossy(&all)),
        Err(error) => format!("{error} after {}", all.len()),
    }
}

fn ask(address: &str) -> String {
    match connect(address) {
        Ok(stream) => read(stream),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn pass(address: &str) -> String {
    // Inherited, as a descriptor that was sent would be: connected by the child, in its own name.
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap()).unwrap();
    let child = process::Child::fork(|| connect(&socket, &SocketAddrUnix::new(SOCKET).unwrap()).unwrap());
    assert_eq!(child.reap(), 0);
    // The daemon does not run until now: see the test.
    std::fs::write("/run/passed", "").unwrap();
    read(UnixStream::from(socket))
}

#[test]
fn a_unit_gets_its_credentials() {
    let Some(host) = host() else { return };
    // The daemon does not run yet: who asks starts it.
    let read = |id: &str| format!("cat $CREDENTIALS_DIRECTORY/{id}");
    let (code, got) = consume(&host, "mcp-billing.service", "stripe-key", "", &read("stripe-key"));
    assert_eq!((code, got.as_str()), (Some(0), KEY), "{}", host.log());
    assert_eq!(host.property("valetkeyd", "ActiveState"), "active");

    // A unit that sees nothing of the host, as another user: systemd asks before it is shut in.
    let shut_in = "-p DynamicUser=yes -p PrivateNetwork=yes -p PrivateUsers=yes -p ProtectSystem=strict \
                   -p TemporaryFileSystem=/run -p PrivateMounts=yes";
    let (code, got) = consume(&host, "mcp-billing.service", "stripe-key", shut_in, &read("stripe-key"));
    assert_eq!((code, got.as_str()), (Some(0), KEY));
    let (code, got) =
        consume(&host, "mcp-billing.service", "binary", "", "od -An -c $CREDENTIALS_DIRECTORY/binary | tr -d \" \"");
    assert_eq!((code, got.as_str()), (Some(0), "\\0first\\nsecond377\\0\n"));

    let (code, got) = consume(&host, "mcp-billing.service", "large", "", "sha256sum <$CREDENTIALS_DIRECTORY/large");
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &large());
    let sum: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((code, got), (Some(0), format!("{sum}  -\n")));

    // Several at once, before each of its commands; and an instance of a template, by its own name.
    let three: String = ["stripe-key", "binary", "large"].iter().map(|id| format!("-p LoadCredential={id}:{SOCKET} ")).collect();
    let before =
        "-p 'ExecStartPre=test -s ${CREDENTIALS_DIRECTORY}/stripe-key' -p 'ExecStartPre=test -s ${CREDENTIALS_DIRECTORY}/large'";
    let said = host.shell(&format!("{RUN} --unit=mcp-billing.service {three} {before} sh -c 'ls $CREDENTIALS_DIRECTORY'"), "");
    assert_eq!(said, "binary\nlarge\nstripe-key\n");
    let (code, got) = consume(&host, "mcp-mail@north.service", "password", "", &read("password"));
    assert_eq!((code, got.as_str()), (Some(0), "a-password-for-mail"));

    // On record like any hand-out, and nobody holds a session afterwards.
    let log = host.log();
    assert!(log.contains("handed out as a credential") && log.contains("credential=\"stripe-key\""), "{log}");
    assert!(!log.contains(KEY), "a value is in the log");
    assert!(!host.shell(&format!("{RUN} valetkey sessions"), "").contains("billing"));

    // A new version reaches the next start.
    host.seal("stripe/api-key", b"sk-the-second");
    host.shell("systemctl reload valetkeyd", "");
    let (code, got) = consume(&host, "mcp-billing.service", "stripe-key", "", &read("stripe-key"));
    assert_eq!((code, got.as_str()), (Some(0), "sk-the-second"));
}

#[test]
fn a_refusal_makes_the_unit_fail() {
    let Some(host) = host() else { return };
    host.shell("systemctl start valetkeyd", "");
    // 243 is EXIT_CREDENTIALS. The command does not run, with a fallback neither.
    let refused = |unit: &str, id: &str, what: &str| {
        for fallback in ["", &format!("-p SetCredential={id}:fallback")] {
            let (code, said) = consume(&host, unit, id, fallback, "echo started; cat $CREDENTIALS_DIRECTORY/*");
            assert_eq!((code, said.contains("started")), (Some(243), false), "{unit} {id} {fallback}: {said}");
            host.says(what);
        }
    };
    refused(
        "mcp-billing.service",
        "no-such",
        "no tool that runs as unit mcp-billing.service has a secret with `credential = \"no-such\"`",
    );
    refused("mcp-mail.service", "password", "no tool that runs as unit mcp-mail.service");
    refused("mcp-mail@south.service", "password", "no tool that runs as unit mcp-mail@south.service");
    // Granted, and not as a credential. What repeats itself is told seldom.
    refused("mcp-billing.service", "asked", "no tool that runs as unit mcp-billing.service");

    // What may not be had now, for whatever reason.
    host.shell(&format!("{RUN} valetkey revoke secret stripe/api-key"), "");
    refused("mcp-billing.service", "stripe-key", "granted, but not to be had");
    // Over its limit: twelve requests a minute are two at once, to open a session and to be handed out.
    let mail = || consume(&host, "mcp-mail@north.service", "password", "", "true").0;
    assert_eq!((mail(), mail()), (Some(0), Some(243)), "{}", host.log());

    // No daemon, and none that could start: it waits for one in the queue, and fails with the socket.
    host.shell("systemctl stop valetkeyd valetkeyd-credentials.socket 2>/dev/null", "");
    let (code, _) = consume(&host, "mcp-billing.service", "binary", "", "echo started");
    assert_eq!(code, Some(243));
}

#[test]
fn nobody_else_gets_a_credential() {
    let Some(host) = host() else { return };
    host.shell("systemctl start valetkeyd", "");
    let address = "1ed610f1282ff0aa/unit/mcp-billing.service/stripe-key";
    let role = |what: &str, address: &str| format!("VALETKEY_ROLE='{what} {address}' {PROGRAM} --exact role --nocapture");
    let reply =
        |said: &str| said.lines().find_map(|line| line.split_once("REPLY ")).unwrap_or_else(|| panic!("{said}")).1.to_owned();
    let from = |options: &str, before: &str, address: &str| {
        let script = format!("{before} {}", role("ask", address));
        host.write("/run/ask", &script);
        let (_, said) = host.try_shell(&format!("{RUN} {options} sh /run/ask"), "");
        reply(&said)
    };

    // It works as it does for systemd, or the rest would show nothing.
    assert_eq!(from("--unit=mcp-billing.service", "", address), format!("given {KEY}"));
    // A running unit is asked for from systemd's own cgroup, when it is reloaded (systemd 260).
    let manager = "echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs;";
    assert_eq!(from("--unit=other.service", manager, address), format!("given {KEY}"));

    // Another user cannot connect, in whatever unit. Nor in a namespace where that user is root.
    assert_eq!(from("--unit=mcp-billing.service --uid=nobody", "", address), "PermissionDenied");
    assert_eq!(from("--unit=mcp-billing.service -p DynamicUser=yes", "exec unshare -rn env", address), "PermissionDenied");

    // Root in another unit, and in one whose cgroup has a cgroup of the right name.
    let refused = |options: &str, before: &str, address: &str, why: &str| {
        assert_eq!(from(options, before, address), "refused", "{options} {before} {address}");
        host.says(why);
    };
    refused("--unit=other.service", "", address, "it asks for a credential of unit mcp-billing.service from unit other.service");
    let forge = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup) && mkdir -p system.slice/mcp-billing.service && \
                 echo 0 >system.slice/mcp-billing.service/cgroup.procs && \
                 grep -q 'system.slice/mcp-billing.service$' /proc/self/cgroup &&";
    refused("--unit=forger.service -p Delegate=yes", forge, address, "from unit forger.service");
    // In no unit of the host's: from outside its cgroups.
    let said = host.shell(&role("ask", address), "");
    assert_eq!(reply(&said), "refused");
    host.says("CALLER_CGROUP");
    // The right unit, and a name that is not systemd's.
    for forged in ["mcp-billing.service/stripe-key", "XYZ/unit/mcp-billing.service/stripe-key", "1/unit/mcp-billing.service"] {
        refused("--unit=mcp-billing.service", "", forged, "NOT_AN_ADDRESS_OF_SYSTEMD");
    }
    // The right unit, and another's credential: not more than its own.
    refused("--unit=mcp-billing.service", "", "1/unit/mcp-mail@north.service/password", "from unit mcp-billing.service");

    // A process that has connected and is gone, and left the socket to another. The daemon is held up for as long as that takes.
    host.shell("systemctl kill --signal=STOP valetkeyd", "");
    host.write("/run/pass", &role("pass", address));
    host.shell("systemd-run --quiet --unit=mcp-billing.service -p StandardOutput=file:/run/pass.out sh /run/pass", "");
    host.shell("timeout 20 sh -c 'until test -e /run/passed; do sleep 0.05; done'", "");
    host.shell("systemctl kill --signal=CONT valetkeyd", "");
    host.shell("timeout 20 sh -c 'until grep -q REPLY /run/pass.out; do sleep 0.05; done'", "");
    assert_eq!(reply(&host.shell("cat /run/pass.out", "")), "refused");
    host.says("CALLER_EXITED");

    // Were the socket open to all, it would take root all the same.
    host.shell(&format!("chmod 666 {SOCKET}"), "");
    refused("--unit=mcp-billing.service --uid=nobody", "", address, "as uid 65534, and systemd is root");
    // And the daemon does not take a socket that is.
    host.shell("systemctl stop valetkeyd", "");
    let (code, _) = host.try_shell("systemctl start valetkeyd", "");
    assert_ne!(code, Some(0));
    host.says("has mode 0666, which lets in more than 0600: SocketMode=0600");
}

#[test]
fn a_users_manager_is_not_the_hosts() {
    let Some(host) = host() else { return };
    host.shell("systemctl start valetkeyd", "");
    // Of root itself: the hardest case, as root may connect.
    let (code, said) = host.try_shell("systemctl start user@0.service", "");
    if code != Some(0) {
        eprintln!("SKIP: no user's manager can be started here (Debian package libpam-systemd): {said}");
        return;
    }
    let run = "XDG_RUNTIME_DIR=/run/user/0 systemd-run --user --quiet --wait --pipe --collect --unit=mcp-billing.service";
    let (code, said) = host.try_shell(
        &format!("{run} -p LoadCredential=stripe-key:{SOCKET} sh -c 'echo started; cat $CREDENTIALS_DIRECTORY/*'"),
        "",
    );
    assert!(code != Some(0) && !said.contains("started") && !said.contains(KEY), "{code:?} {said}");
    host.says("it asks for a credential of unit mcp-billing.service from no unit");
}

#[test]
fn what_waits_is_answered_by_the_next_daemon() {
    let Some(host) = host() else { return };
    host.shell("systemctl start valetkeyd", "");
    // Held up, with units that wait for it; and then killed.
    host.shell("systemctl kill --signal=STOP valetkeyd", "");
    let start = format!(
        "systemd-run --quiet --unit=mcp-billing.service -p Type=oneshot --no-block -p RemainAfterExit=yes \
         -p LoadCredential=stripe-key:{SOCKET} sh -c 'cat $CREDENTIALS_DIRECTORY/stripe-key >/run/got'"
    );
    host.shell(&start, "");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(host.property("mcp-billing", "ActiveState"), "activating");
    host.shell("systemctl kill --signal=KILL valetkeyd", "");
    host.shell("timeout 20 sh -c 'until test -s /run/got; do sleep 0.05; done'", "");
    assert_eq!(host.shell("cat /run/got", ""), KEY);
    assert_eq!(host.property("mcp-billing", "ActiveState"), "active");
}

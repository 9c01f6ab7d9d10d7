//! How the daemon starts and stops: it serves with everything it must have or not at all, says every reason, and leaves nobody's
//! socket but its own.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use daemon::{Daemon, Host, eventually};
use stores::{marker, secret, text};

const LONG: Duration = Duration::from_secs(60);

fn host() -> Host {
    let host = Host::new();
    let source = host.seal(&[("a/key", b"value-of-a-key")]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("it", 0, &["a/key"])));
    host
}

/// Waits for the end of a daemon that must not start, and returns what it said.
fn refused(host: &Host, mut daemon: Daemon) -> String {
    let status = daemon.wait(LONG);
    let log = host.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("not started"), "{log}");
    log
}

#[track_caller]
fn assert_says(log: &str, expected: &[&str]) {
    for words in expected {
        assert!(log.contains(words), "it does not say {words:?}:\n{log}");
    }
}

/// One run against every source, with one of each failure, and a good secret in each: all reasons at once, and no value.
#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_said_in_one_run_and_no_value() {
    let (host, moto, bao) = (Host::new(), servers::moto(), servers::openbao());
    let value = text(&marker(30, 40));
    let json = format!("{{\"key\":\"{value}\"}}");
    let mut config = host.seal(&[("sealed/good", value.as_bytes()), ("sealed/json", json.as_bytes())]);
    stores::aws_put(moto, "boot/json", &json).await;
    stores::vault_put(bao, "boot/json", &json);
    let (aws, environment) = stores::aws(&host, moto.port, "secret-key-of-aws");
    config += &aws;
    config += &stores::vault_as_root(&host, bao.port);
    config += "[source.environment]\nkind = \"environment\"\n";
    // Nobody listens there, and there the token is wrong.
    let nobody = servers::free_port();
    config += &format!(
        "[source.aws-gone]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\nendpoint = \"http://127.0.0.1:{nobody}\"\n"
    );
    host.write("wrong-token", &value);
    let token = host.path("wrong-token");
    for (name, port) in [("vault-gone", nobody), ("vault-wrong", bao.port)] {
        config += &format!("[source.{name}]\nkind = \"vault\"\naddress = \"http://127.0.0.1:{port}\"\n");
        config += &format!("auth = {{ token-file = \"{}\" }}\n", token.display());
    }
    host.write("sealed-other", "not a sealed file");
    config += &format!(
        "[source.sealed-wrong]\nkind = \"sealed-file\"\nfile = \"{}\"\nidentity-file = \"{}\"\n",
        host.path("sealed-other").display(),
        host.path("identity.key").display()
    );
    let cases = [
        ("sealed/good", "sealed", "", ""),
        ("sealed/missing", "sealed", "", "not found"),
        ("sealed/field", "sealed", "path = \"sealed/json\"\nfield = \"wrong\"", "bad field"),
        ("sealed/wrong", "sealed-wrong", "", "refused"),
        ("aws/good", "aws", "path = \"boot/json\"\nfield = \"key\"", ""),
        ("aws/missing", "aws", "path = \"boot/missing\"", "not found"),
        ("aws/field", "aws", "path = \"boot/json\"\nfield = \"wrong\"", "bad field"),
        ("aws/gone", "aws-gone", "path = \"boot/json\"", "unreachable"),
        ("vault/good", "vault", "path = \"boot/json\"\nfield = \"key\"", ""),
        ("vault/missing", "vault", "path = \"boot/missing\"\nfield = \"key\"", "not found"),
        ("vault/field", "vault", "path = \"boot/json\"\nfield = \"wrong\"", "bad field"),
        ("vault/gone", "vault-gone", "path = \"boot/json\"\nfield = \"key\"", "unreachable"),
        ("vault/refused", "vault-wrong", "path = \"boot/json\"\nfield = \"key\"", "refused"),
        ("environment/good", "environment", "path = \"VK_GOOD\"", ""),
        ("environment/missing", "environment", "path = \"VK_MISSING\"", "not found"),
        ("environment/field", "environment", "path = \"VK_GOOD\"\nfield = \"wrong\"", "bad field"),
    ];
    for (name, source, rest, _) in cases {
        config += &secret(name, source, rest);
    }
    let tool = Host::tool("it", 0, &cases.map(|(name, ..)| name));
    host.configure("load-timeout = \"20s\"", &format!("{config}{tool}"));
    let mut environment = environment.clone();
    environment.push(("VK_GOOD", value.clone()));

    let log = refused(&host, host.spawn(&stores::borrowed(&environment)));
    for (name, source, _, cause) in cases {
        let reason = format!("secret {name} from source {source}: {cause}");
        assert_eq!(log.contains(&reason), !cause.is_empty(), "{reason}:\n{log}");
    }
    assert!(!log.contains(&value), "{log}");
    assert!(!host.tools_socket().exists() && !host.admin_socket().exists());

    // The same, and nothing of it is required: a warning each, and what there is is served.
    let optional = config.replace("\nsource = ", "\nrequired = false\nsource = ");
    host.configure("load-timeout = \"20s\"", &format!("{optional}{tool}"));
    fs::remove_file(host.path("log")).unwrap();
    let _daemon = host.start_with(&stores::borrowed(&environment));
    let log = host.log();
    for (name, source, _, cause) in cases.iter().filter(|(.., cause)| !cause.is_empty()) {
        let reason = format!("not required, and not to be had: secret {name} from source {source}: {cause}");
        assert!(log.contains(&reason), "{reason}:\n{log}");
    }
    assert!(!log.contains(&value), "{log}");
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["secrets", "--json"]).stdout).unwrap();
    let held = listing["secrets"].as_array().unwrap().iter().filter(|secret| secret["state"] == "held").count();
    assert_eq!(held, cases.iter().filter(|(.., cause)| cause.is_empty()).count());
}

/// A source that cannot even be set up does not hide what is wrong at the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_set_up_is_one_reason_among_others() {
    let host = Host::new();
    let mut config = host.seal(&[]);
    config +=
        "[source.vault]\nkind = \"vault\"\naddress = \"http://127.0.0.1:1\"\nauth = { token-file = \"credential:token\" }\n";
    config += &secret("sealed/missing", "sealed", "");
    config += &secret("vault/one", "vault", "path = \"x\"\nfield = \"key\"");
    host.configure("", &format!("{config}{}", Host::tool("it", 0, &["sealed/missing", "vault/one"])));
    let log = refused(&host, host.spawn(&[]));
    assert_says(&log, &["source vault: ", "systemd credential", "secret sealed/missing from source sealed: not found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_some_tool_may_use_is_asked_for() {
    let (host, moto) = (Host::new(), servers::moto());
    let (port, seen) = servers::proxy(moto.port);
    let (mut config, environment) = stores::aws(&host, port, "secret-key-of-aws");
    let names: Vec<_> = (0..30).map(|number| format!("least/s{number}")).collect();
    for name in &names {
        stores::aws_put(moto, name, &format!("value-of-{name}")).await;
        config += &secret(name, "aws", &format!("path = \"{name}\""));
    }
    let granted: Vec<_> = names.iter().take(25).map(String::as_str).collect();
    host.configure("", &format!("{config}{}", Host::tool("it", 0, &granted)));
    let _daemon = host.start_with(&stores::borrowed(&environment));
    let seen = seen.lock().unwrap();
    for (number, name) in names.iter().enumerate() {
        assert_eq!(seen.count(&format!("\"{name}\"")), usize::from(number < 25), "{name}");
    }
    assert_eq!(seen.count("secretsmanager.BatchGetSecretValue"), 2, "25 by 20");
    assert_eq!(seen.count("secretsmanager.GetSecretValue"), 0);
}

#[test]
fn a_second_daemon_in_the_same_place_refuses_and_does_no_harm() {
    let host = host();
    let _first = host.start();
    let log = refused(&host, host.spawn(&[]));
    assert_says(&log, &["tools.sock", "another daemon is serving here", "stop it, or set another `run-dir`"]);
    assert!(host.operate(&["status"]).status.success(), "the first still serves");
}

/// Whoever comes second finds the first, however close they are.
#[test]
fn of_many_that_start_at_once_one_serves() {
    let host = host();
    let mut daemons: Vec<_> = (0..6).map(|_| host.spawn(&[])).collect();
    let runs = |daemon: &mut Daemon| daemon.child.try_wait().unwrap().is_none();
    eventually("all but one have given up", || daemons.iter_mut().map(runs).filter(|runs| *runs).count() <= 1);
    let mut left: Vec<_> = daemons.iter_mut().filter_map(|daemon| runs(daemon).then_some(daemon)).collect();
    assert_eq!(left.len(), 1, "{}", host.log());
    left[0].wait_until_serving().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["pid"], left[0].pid());
}

#[test]
fn a_stale_socket_is_replaced_and_a_foreign_file_is_left_alone() {
    let host = host();
    fs::create_dir(host.path("run")).unwrap();
    // Bound once, and whoever bound it is gone.
    drop(UnixListener::bind(host.tools_socket()).unwrap());
    assert!(host.start().stop().success());

    for (what, put) in [("a file", true), ("a link", false)] {
        if put {
            fs::write(host.admin_socket(), "precious").unwrap();
        } else {
            std::os::unix::fs::symlink(host.path("log"), host.admin_socket()).unwrap();
        }
        let log = refused(&host, host.spawn(&[]));
        assert_says(&log, &["admin.sock", "not a socket of ours, so it is left alone"]);
        assert!(!host.admin_socket().symlink_metadata().unwrap().file_type().is_socket(), "{what} is gone");
        assert!(!host.tools_socket().exists(), "the other socket was bound, and went with the daemon");
        fs::remove_file(host.admin_socket()).unwrap();
    }
    // Another user's socket, stale or not, is not ours.
    drop(UnixListener::bind(host.admin_socket()).unwrap());
    chown(host.admin_socket(), Some(4242), None).unwrap();
    assert_says(&refused(&host, host.spawn(&[])), &["left alone"]);
}

#[test]
fn a_directory_in_which_others_could_act_is_refused() {
    let host = host();
    let run = host.path("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
    assert_says(&refused(&host, host.spawn(&[])), &["others may write to it", "chmod go-w"]);
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&run, Some(4242), None).unwrap();
    assert_says(&refused(&host, host.spawn(&[])), &["belongs to another user"]);
    chown(&run, Some(0), None).unwrap();
    // Who may write to the directory above can put another in its place.
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_says(&refused(&host, host.spawn(&[])), &["others may write"]);
}

/// From the first moment that a socket is there, until it serves: whoever connects must be allowed to.
#[test]
fn sockets_never_have_a_wider_mode_than_they_are_to_have() {
    let host = Host::new();
    let source = host.seal(&[("a/key", b"value-of-a-key")]);
    let modes = "tools-socket-mode = \"0660\"\nadmin-socket-mode = \"0600\"";
    host.configure(modes, &format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("it", 0, &["a/key"])));
    let (mut rounds, mut seen) = (0, 0);
    // The moment is short: a few rounds more where none was seen.
    while rounds < 5 || (seen == 0 && rounds < 50) {
        rounds += 1;
        let mut daemon = host.spawn(&[]);
        let begun = Instant::now();
        while UnixStream::connect(host.admin_socket()).is_err() {
            assert!(begun.elapsed() < LONG, "{}", host.log());
            // Only what can be reached: what is in a directory of mode 0700 is nobody else's.
            for entry in fs::read_dir(host.path("run")).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else { continue };
                let most = match entry.file_name().to_str() {
                    Some("tools.sock") => 0o660,
                    Some("admin.sock" | "credentials.sock") => 0o600,
                    _ if found.is_dir() => 0o700,
                    other => panic!("{other:?} is in the run directory"),
                };
                assert_eq!(found.mode() & 0o777 & !most, 0, "{entry:?} has mode {:o}", found.mode());
                seen += 1;
            }
        }
        let modes = [host.tools_socket(), host.admin_socket()].map(|path| path.metadata().unwrap().mode() & 0o777);
        assert_eq!(modes, [0o660, 0o600]);
        assert!(daemon.wait_until_serving().is_ok());
        assert!(daemon.stop().success());
        let left: Vec<_> = fs::read_dir(host.path("run")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(seen > 0, "the sockets were never seen before they served");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_calls_end_and_removes_the_sockets() {
    let host = host();
    let mut daemon = host.start();
    let session = host.client().session("it").secret("a/key").open().await.unwrap();
    session.get("a/key").await.unwrap();
    let begun = Instant::now();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "open sessions end at once: {:?}", begun.elapsed());
    assert!(!host.tools_socket().exists() && !host.admin_socket().exists());
    assert_says(&host.log(), &["stopping", "ShuttingDown", "stopped"]);
}

#[test]
fn what_a_killed_daemon_leaves_is_replaced_by_the_next() {
    let host = host();
    for _ in 0..2 {
        let mut daemon = host.start();
        daemon.signal(libc::SIGKILL);
        daemon.wait(LONG);
        assert!(host.tools_socket().exists() && host.admin_socket().exists());
    }
    let _again = host.start();
    assert!(host.operate(&["status"]).status.success());
}

/// A daemon that is told to read again, or to stop, as soon as it can be found.
#[test]
fn signals_are_heard_from_the_start() {
    let host = host();
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        for _ in 0..5 {
            let mut daemon = host.spawn(&[]);
            eventually("it is there", || UnixStream::connect(host.admin_socket()).is_ok());
            daemon.signal(signal);
            if signal == libc::SIGHUP {
                daemon.wait_until_serving().unwrap_or_else(|said| panic!("{said}"));
                eventually("it has read again", || host.log().contains("reloaded"));
                assert!(daemon.stop().success());
                fs::remove_file(host.path("log")).unwrap();
            } else {
                let status = daemon.wait(LONG);
                use std::os::unix::process::ExitStatusExt;
                // Killed while it loads is well too, as long as the next one starts.
                assert!(status.success() || status.signal() == Some(libc::SIGTERM), "{status}\n{}", host.log());
            }
        }
    }
}

#[test]
fn memory_weaker_than_required_is_refused() {
    use std::os::unix::process::CommandExt;
    let host = Host::new();
    let source = host.seal(&[("a/key", b"value-of-a-key")]);
    let rest = format!("{source}{}{}", Host::secrets(&["a/key"]), Host::tool("it", 0, &["a/key"]));
    host.configure("memory-protection = \"required-locked\"", &rest);
    for name in ["", "valetkey.toml", "identity.key", "secrets.sealed"] {
        chown(host.path(name), Some(65534), Some(65534)).unwrap();
    }
    let daemon = host.spawn_as(&[], |command| {
        command.uid(65534).gid(65534);
        // SAFETY: setrlimit(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                (libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) == 0).then_some(()).ok_or_else(std::io::Error::last_os_error)
            });
        }
    });
    assert_says(&refused(&host, daemon), &["memory-protection: ", "weaker memory is not allowed"]);
}

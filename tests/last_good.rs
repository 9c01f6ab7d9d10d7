//! The sealed copy of the last good values on disk: a host boots from it while its source is down, no longer than that is right, and
//! never with what may not be had any longer.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use daemon::{Daemon, Host, eventually};
use raw::{get_unary, open_unary};
use secrecy::ExposeSecret;
use stores::{marker, secret, text, vault_as_root, vault_put};
use valetkey::{
    proto::v1,
    source::sealed_file::{Identity, Seal},
};

const LONG: Duration = Duration::from_secs(60);
const NAME: &str = "the/key";

/// The road to a Vault, which can be cut.
struct Road {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Road {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let road = Self { port: listener.local_addr().unwrap().port(), open: Arc::new(AtomicBool::new(true)) };
        let open = road.open.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten().filter(|_| open.load(SeqCst)) {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let ends = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for (mut from, mut to) in ends {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        road
    }

    fn cut(&self) {
        self.open.store(false, SeqCst);
    }

    fn mend(&self) {
        self.open.store(true, SeqCst);
    }
}

/// A host whose secrets come over a road from a Vault, and which keeps a copy.
struct Copied {
    host: Host,
    road: Road,
    /// Of this test alone at the Vault.
    path: String,
    daemon: String,
    source: String,
    secrets: String,
    tool: String,
}

impl Copied {
    /// One secret, with this value.
    fn new(path: &str, value: &str) -> Self {
        let (host, bao) = (Host::new(), servers::openbao());
        vault_put(bao, path, &format!("{{\"key\":\"{value}\",\"other\":\"another-{value}\"}}"));
        let road = Road::to(bao.port);
        let (identity, _) = Identity::generate();
        host.write("last-good.key", identity.expose_secret());
        fs::create_dir(host.path("state")).unwrap();
        fs::set_permissions(host.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
        let source = vault_as_root(&host, road.port) + "refresh-every = \"1s\"\n";
        let secrets = secret(NAME, "vault", &format!("path = \"{path}\"\nfield = \"key\""));
        let tool = Host::tool("it", 0, &[NAME]) + stores::UNLIMITED;
        let copied = Self { host, road, path: path.into(), daemon: String::new(), source, secrets, tool };
        copied.configure();
        copied
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self.configure();
        self
    }

    fn configure(&self) {
        let Self { daemon, source, secrets, tool, .. } = self;
        let [file, identity] = ["state/last-good.age", "last-good.key"].map(|name| self.host.path(name));
        let last_good = format!("last-good = {{ file = \"{}\", identity-file = \"{}\" }}", file.display(), identity.display());
        self.host.configure(&format!("{last_good}\n{daemon}"), &format!("{source}{secrets}{tool}"));
    }

    fn file(&self) -> PathBuf {
        self.host.path("state/last-good.age")
    }

    /// What the copy has, opened with the identity.
    fn opened(&self) -> Option<String> {
        let identity = Identity::read(&self.host.path("last-good.key")).unwrap();
        let plain = Seal::open(&identity, &fs::read(self.file()).ok()?).unwrap();
        Some(String::from_utf8_lossy(&plain).into_owned())
    }

    fn has(&self, value: &str) -> bool {
        self.opened().is_some_and(|plain| plain.contains(value))
    }

    /// Starts, waits for the copy to have this, and kills the daemon as a loss of power would.
    fn leave_behind(&self, value: &str) {
        let daemon = self.host.start();
        eventually("the copy has the value", || self.has(value));
        kill(daemon);
    }

    /// Waits for the end of a daemon that must not start, and returns what it said.
    fn refused(&self) -> String {
        fs::write(self.host.path("log"), "").unwrap();
        let mut daemon = self.host.spawn(&[]);
        let status = daemon.wait(LONG);
        assert_eq!(status.code(), Some(1), "{}", self.host.log());
        self.host.log()
    }

    async fn get(&self) -> v1::Secret {
        self.try_get().await.unwrap()
    }

    async fn try_get(&self) -> Result<v1::Secret, tonic::Status> {
        let mut broker = raw::broker(&self.host.tools_socket()).await;
        let session = open_unary(&mut broker, "it", &[NAME]).await?.session;
        Ok(get_unary(&mut broker, &session, &[NAME]).await?.remove(0))
    }

    async fn refresh(&self) -> v1::RefreshResponse {
        self.host.admin().await.refresh(v1::RefreshRequest { secrets: Vec::new() }).await.unwrap().into_inner()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.host.operate(&["status", "--json"]).stdout).unwrap()
    }
}

fn kill(mut daemon: Daemon) {
    daemon.signal(libc::SIGKILL);
    daemon.wait(LONG);
}

fn value(seed: u64) -> String {
    text(&marker(seed, 40))
}

/// Every file below a folder, with what is in it.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    found
}

#[track_caller]
fn assert_nowhere_in_plain(host: &Host, value: &str) {
    for (path, content) in files(host.dir.path()) {
        assert!(!content.windows(value.len()).any(|window| window == value.as_bytes()), "it stands in {}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_boots_from_the_copy_and_then_follows_its_source() {
    for (seed, on_unreachable) in [(1, "fail"), (2, "wait")] {
        let (old, new) = (value(seed), value(seed + 10));
        let copied = Copied::new(&format!("copy/boots-{on_unreachable}"), &old)
            .with(|copied| copied.daemon = format!("on-unreachable = \"{on_unreachable}\"\n"));
        copied.leave_behind(&old);
        let facts = copied.file().metadata().unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.uid()), (0o600, 0));
        copied.road.cut();
        thread::sleep(Duration::from_secs(3));

        // The daemon before may have been stopped before it came to say so.
        let ready = || copied.host.log().matches(" ready").count();
        let before = ready();
        let mut daemon = copied.host.start();
        eventually("it is ready", || ready() > before);
        let got = copied.get().await;
        assert_eq!(got.value, old.as_bytes());
        assert!((3..30).contains(&got.age_seconds), "{} s", got.age_seconds);
        let log = copied.host.log();
        assert!(log.contains("values come from the sealed copy on disk"), "{log}");
        let status = copied.status();
        assert_eq!(
            (&status["last_good"]["served"][0]["source"], &status["last_good"]["served"][0]["secrets"]),
            (&"vault".into(), &1.into())
        );
        assert!(status["last_good"]["served"][0]["oldest"].is_string() && status["last_good"]["problem"].is_null(), "{status}");
        let told = String::from_utf8(copied.host.operate(&["status"]).stdout).unwrap();
        assert!(told.contains("1 values of vault come from it, confirmed 2"), "{told}");

        // The source is tried all the time.
        vault_put(servers::openbao(), &copied.path, &format!("{{\"key\":\"{new}\"}}"));
        copied.road.mend();
        eventually("the new value is in the copy", || copied.has(&new) && !copied.has(&old));
        let got = copied.get().await;
        assert!(got.value == new.as_bytes() && got.age_seconds < 5, "{} s", got.age_seconds);
        assert_eq!(copied.status()["last_good"]["served"].as_array().unwrap().len(), 0);
        assert!(daemon.stop().success());
        assert_nowhere_in_plain(&copied.host, &old);
        assert_nowhere_in_plain(&copied.host, &new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_than_max_stale_is_not_used() {
    let old = value(20);
    let copied = Copied::new("copy/stale", &old).with(|copied| copied.source += "max-stale = \"3s\"\n");
    copied.leave_behind(&old);
    copied.road.cut();
    thread::sleep(Duration::from_secs(4));
    let log = copied.refused();
    assert!(log.contains("secret the/key from source vault: unreachable"), "{log}");
    assert!(copied.has(&old), "who knows whether the clock was right");

    let copied = copied.with(|copied| copied.daemon = "on-unreachable = \"wait\"\n".into());
    let _daemon = copied.host.start();
    eventually("it waits", || copied.host.log().contains("waiting: 1 secrets"));
    assert!(copied.try_get().await.is_err());
    copied.road.mend();
    eventually("it is ready", || {
        copied.host.log().contains("INFO valetkey::daemon: ready") || copied.host.log().lines().any(|l| l.ends_with(" ready"))
    });
    assert_eq!(copied.get().await.value, old.as_bytes());

    // Stale while it runs: out of memory, and out of the copy.
    copied.road.cut();
    eventually("it has left the copy", || !copied.has(&old));
    assert!(copied.try_get().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_out_of_the_copy_before_the_answer() {
    let old = value(30);
    let copied = Copied::new("copy/revoked", &old);
    let daemon = copied.host.start();
    eventually("the copy has the value", || copied.has(&old));
    assert!(copied.host.operate(&["revoke", "secret", NAME]).status.success());
    assert!(copied.opened().is_some() && !copied.has(&old), "at once");
    kill(daemon);
    copied.road.cut();
    let log = copied.refused();
    assert!(log.contains("secret the/key from source vault: unreachable"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_source_or_policy_takes_away_is_out_of_the_copy() {
    let old = value(40);
    let bao = servers::openbao();
    // Found by a refresh that an operator asks for, and by the daemon's own check.
    for asked in [true, false] {
        let path = format!("copy/deleted-{asked}");
        let copied = Copied::new(&path, &old).with(|copied| {
            if asked {
                copied.source = copied.source.replace("\"1s\"", "\"10m\"");
            }
        });
        let daemon = copied.host.start();
        eventually("the copy has the value", || copied.has(&old));
        bao.vault("DELETE", &format!("secret/data/{path}"), "");
        if asked {
            assert_eq!(copied.refresh().await.failed.len(), 1);
            assert!(!copied.has(&old), "at once");
        }
        eventually("it has left the copy", || !copied.has(&old));
        kill(daemon);
        copied.road.cut();
        assert!(copied.refused().contains("unreachable"));
    }
    let copied = Copied::new("copy/granted", &old);
    let mut daemon = copied.host.start();
    eventually("the copy has the value", || copied.has(&old));
    let copied = copied.with(|copied| copied.tool = Host::tool("it", 0, &[]));
    let reloaded = copied.host.operate(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    assert!(!copied.has(&old), "at once");
    assert!(daemon.stop().success());
}

/// Two sources, one of them down: what the other refuses is not taken from the copy, and leaves it whatever comes of the start.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_start_does_not_come_back_at_the_next() {
    let (one, two) = (value(50), value(51));
    let bao = servers::openbao();
    vault_put(bao, "copy/two", &format!("{{\"key\":\"{two}\"}}"));
    let other = Road::to(bao.port);
    let copied = Copied::new("copy/one", &one).with(|copied| {
        let second = copied
            .source
            .replace("[source.vault]", "[source.second]")
            .replace(&copied.road.port.to_string(), &other.port.to_string());
        copied.source += &second;
        copied.secrets += &secret("the/second", "second", "path = \"copy/two\"\nfield = \"key\"");
        copied.tool = Host::tool("it", 0, &[NAME, "the/second"]);
    });
    copied.leave_behind(&two);
    assert!(copied.has(&one));
    other.cut();
    bao.vault("DELETE", "secret/data/copy/one", "");
    let log = copied.refused();
    assert!(log.contains("secret the/key from source vault: refused") && !log.contains("secret the/second"), "{log}");
    assert!(!copied.has(&one) && copied.has(&two));
    copied.road.cut();
    let log = copied.refused();
    assert!(log.contains("secret the/key from source vault: unreachable"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_elsewhere_is_not_used() {
    let old = value(60);
    let copied = Copied::new("copy/places", &old);
    copied.leave_behind(&old);
    copied.road.cut();
    let (source, secrets) = (copied.source.clone(), copied.secrets.clone());
    let mut copied = copied;
    let nobody = servers::free_port();
    for (what, source, secrets) in [
        ("path", source.clone(), secrets.replace("copy/places", "copy/other")),
        ("field", source.clone(), secrets.replace("\"key\"", "\"other\"")),
        ("address", source.replace(&copied.road.port.to_string(), &nobody.to_string()), secrets.clone()),
        ("namespace", format!("{source}namespace = \"team\"\n"), secrets.clone()),
        ("mount", format!("{source}mount = \"kv\"\n"), secrets.clone()),
        ("source", source.replace("source.vault", "source.vault2"), secrets.replace("\"vault\"", "\"vault2\"")),
    ] {
        copied = copied.with(|copied| (copied.source, copied.secrets) = (source, secrets));
        let log = copied.refused();
        assert!(log.contains("unreachable") && !log.contains("values come from"), "{what}: {log}");
    }
    // How the daemon logs in, and how fresh it keeps things, is no part of the place.
    fs::copy(copied.host.path("vault-token"), copied.host.path("vault-token-2")).unwrap();
    let copied = copied.with(|copied| {
        (copied.source, copied.secrets) = (source.replace("vault-token", "vault-token-2") + "max-stale = \"2h\"\n", secrets);
    });
    let _daemon = copied.host.start();
    assert_eq!(copied.get().await.value, old.as_bytes());
}

/// A reload while the source is down keeps an optional secret's value though its path has changed. It is still the old path's.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_from_before_a_reload_is_of_the_place_it_came_from() {
    let old = value(65);
    let copied = Copied::new("copy/before", &old).with(|copied| copied.secrets += "required = false\n");
    let daemon = copied.host.start();
    eventually("the copy has the value", || copied.has(&old));
    copied.road.cut();
    let copied = copied.with(|copied| copied.secrets = copied.secrets.replace("copy/before", "copy/after"));
    assert!(copied.host.operate(&["reload"]).status.success());
    thread::sleep(Duration::from_millis(2500));
    assert!(copied.opened().is_none_or(|plain| !plain.contains("copy/after")), "{:?}", copied.opened());
    kill(daemon);
    let mut daemon = copied.host.start();
    assert!(copied.try_get().await.is_err());
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_right_is_not_used_and_not_destroyed() {
    let old = value(70);
    let copied = Copied::new("copy/damaged", &old);
    copied.leave_behind(&old);
    copied.road.cut();
    let (file, good) = (copied.file(), fs::read(copied.file()).unwrap());
    let put = |bytes: &[u8]| {
        let _ = fs::remove_file(&file);
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let other = {
        let folder = copied.host.path("other.key");
        copied.host.write("other.key", Identity::generate().0.expose_secret());
        Seal::of(&Identity::read(&folder).unwrap()).unwrap().close(b"{\"version\":1,\"written\":1}\n").unwrap()
    };
    type Case<'a> = (&'static str, Box<dyn Fn() + 'a>);
    let cases: [Case; 8] = [
        ("is not what a daemon", Box::new(|| put(b""))),
        ("is not what a daemon", Box::new(|| put(&good[..good.len() / 2]))),
        ("is not what a daemon", Box::new(|| put(&changed))),
        ("is not what a daemon", Box::new(|| put(&other))),
        (
            "is open to others",
            Box::new(|| {
                put(&good);
                fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            }),
        ),
        (
            "belongs to another user",
            Box::new(|| {
                put(&good);
                chown(&file, Some(4242), None).unwrap();
            }),
        ),
        (
            "is a link",
            Box::new(|| {
                let elsewhere = copied.host.path("elsewhere");
                put(&good);
                fs::rename(&file, &elsewhere).unwrap();
                symlink(&elsewhere, &file).unwrap();
            }),
        ),
        (
            "is not a file",
            Box::new(|| {
                let _ = fs::remove_file(&file);
                assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
            }),
        ),
    ];
    for (words, make) in &cases {
        make();
        let before = file.symlink_metadata().unwrap();
        let log = copied.refused();
        assert!(log.contains("the last good copy is not used") && log.contains(words), "{words}: {log}");
        assert!(log.contains("unreachable"), "{words}: {log}");
        let after = file.symlink_metadata().unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()), "{words}: it is left as it was");
    }
    // A directory in which others could put an older copy in its place.
    put(&good);
    fs::set_permissions(copied.host.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(copied.refused().contains("can be written by others"));
    fs::set_permissions(copied.host.path("state"), fs::Permissions::from_mode(0o700)).unwrap();

    // With its source there the daemon starts, and a good one takes the place of the link, not of what it leads to.
    cases[6].1();
    copied.road.mend();
    let mut daemon = copied.host.start();
    eventually("there is a good one", || file.symlink_metadata().unwrap().is_file() && copied.has(&old));
    assert_eq!(fs::read(copied.host.path("elsewhere")).unwrap(), good);
    assert!(daemon.stop().success());

    // Missing is as at the first boot: no word about it.
    fs::remove_file(&file).unwrap();
    copied.road.cut();
    let log = copied.refused();
    assert!(log.contains("unreachable") && !log.contains("last good copy"), "{log}");
    // Without its identity the daemon does not start at all: that is a mistake, and not an outage.
    fs::remove_file(copied.host.path("last-good.key")).unwrap();
    copied.road.mend();
    assert!(copied.refused().contains("last-good: refused: cannot read"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_hand_outs_go_on() {
    let (old, new) = (value(80), value(81));
    let copied = Copied::new("copy/full", &old);
    let state = copied.host.path("state");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32k,mode=0700", "none"]).arg(&state).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIP: nothing can be mounted here");
        return;
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(state.clone());
    let daemon = copied.host.start();
    eventually("the copy has the value", || copied.has(&old));
    let fill = || {
        while fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(state.join("filler"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 64]))
            .is_ok()
        {}
    };
    fill();
    vault_put(servers::openbao(), &copied.path, &format!("{{\"key\":\"{new}\"}}"));
    eventually("it is said", || {
        copied.status()["last_good"]["problem"].as_str().is_some_and(|words| words.contains("No space left"))
    });
    assert!(copied.host.log().contains("the last good copy cannot be written"), "{}", copied.host.log());
    assert_eq!(copied.get().await.value, new.as_bytes());
    assert!(copied.has(&old), "the one before is still whole");
    // What may not be had any longer must go: no copy is better.
    assert!(copied.host.operate(&["revoke", "secret", NAME]).status.success());
    assert!(!copied.file().exists());
    fs::remove_file(state.join("filler")).unwrap();
    eventually("it is well again", || copied.status()["last_good"]["problem"].is_null() && copied.opened().is_some());
    assert!(!copied.has(&old) && !copied.has(&new));
    kill(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_said_and_hand_outs_go_on() {
    const NOBODY: u32 = 65534;
    let old = value(90);
    let copied = Copied::new("copy/read-only", &old);
    let give = |name: &str| chown(copied.host.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    ["", "valetkey.toml", "vault-token", "last-good.key", "state"].into_iter().for_each(give);
    let start = || {
        let mut daemon = copied.host.spawn_as(&[], |command| _ = command.uid(NOBODY).gid(NOBODY));
        daemon.wait_until_serving().unwrap_or_else(|said| panic!("{said}"));
        daemon
    };
    let mode = |mode| fs::set_permissions(copied.host.path("state"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o500);
    let mut daemon = start();
    assert_eq!(copied.get().await.value, old.as_bytes());
    let problem = |words: &str| copied.status()["last_good"]["problem"].as_str().is_some_and(|problem| problem.contains(words));
    eventually("it is said", || problem("Permission denied"));
    mode(0o700);
    eventually("it is written after all", || copied.has(&old));
    mode(0o500);
    // The operator must hear that the value is still there.
    let revoked = copied.host.operate(&["revoke", "secret", NAME]);
    let said = String::from_utf8(revoked.stderr).unwrap();
    assert!(!revoked.status.success() && said.contains("dropped from memory") && said.contains("may still have"), "{said}");
    assert!(copied.try_get().await.is_err() && problem("may still have"));
    mode(0o700);
    eventually("it is taken out after all", || copied.opened().is_some() && !copied.has(&old));
    assert!(daemon.stop().success());
}

//! What another process, as root, finds of a value in the memory of the running daemon: nothing, while it is held, while it is
//! handed out and tools stay connected, and after it is gone. (`memfd_secret` cannot be read, so "only where it is meant to be" means
//! nowhere; where the kernel gives less, it means one place.)

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/scan.rs"]
mod scan;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use daemon::{Daemon, Host, eventually};
use raw::{Broker, Raw, get_unary, open_unary};
use scan::{Hit, scan};
use secrecy::ExposeSecret;
use stores::{UNLIMITED, marker, secret, text};
use valetkey::{proto::v1, source::sealed_file::Identity};

const NAME: &str = "the/marker";
const HAND_OUTS: u64 = 1000;
const PULL_FROM: &str = "VALETKEY_TEST_PULL_FROM";

fn tool() -> String {
    Host::tool("puller", 0, &[NAME]) + UNLIMITED
}

/// What was found, in words that a failed assertion can print.
fn describe(hits: &[Hit]) -> String {
    let one = |hit: &Hit| format!("{:#x} {} {:?} after {:02x?}", hit.address, hit.mapping, hit.piece, hit.before);
    format!("{} hits:\n{}", hits.len(), hits.iter().take(20).map(one).collect::<Vec<_>>().join("\n"))
}

#[track_caller]
fn assert_clean(daemon: &Daemon, needle: &[u8], when: &str) {
    let hits = scan(daemon.pid(), needle);
    assert!(hits.is_empty(), "{when}: {}", describe(&hits));
}

/// Tools that stay connected: their connections, streams and sessions.
struct Connected {
    streams: Vec<Raw>,
    unary: Vec<(Broker, String)>,
}

/// A thousand hand-outs over streams and a thousand by unary calls, over so many sessions on so many connections. They stay open.
async fn pull(host: &Host, sessions: u64, connections: u64, value: &[u8]) -> Connected {
    let socket = host.tools_socket();
    let mut connected = Connected { streams: Vec::new(), unary: Vec::new() };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let broker = raw::broker(&socket).await;
        for _ in 0..sessions / connections {
            let (mut broker, value) = (broker.clone(), value.to_vec());
            tasks.spawn(async move {
                let mut stream = Raw::open(&mut broker, "puller", &[NAME]).await.unwrap();
                for id in 0..HAND_OUTS.div_ceil(sessions) {
                    assert!(stream.secret(id, NAME).await.value == value);
                }
                let session = open_unary(&mut broker, "puller", &[NAME]).await.unwrap().session;
                for _ in 0..HAND_OUTS.div_ceil(sessions) {
                    let got = get_unary(&mut broker, &session, &[NAME]).await.unwrap();
                    assert!(got.len() == 1 && got[0].value == value);
                }
                (stream, broker, session)
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        let (stream, broker, session) = done.unwrap();
        connected.streams.push(stream);
        connected.unary.push((broker, session));
    }
    connected
}

/// Processes that ask and ask, and are killed in the middle of it.
fn kill_some_pullers(host: &Host) {
    let pullers: Vec<_> = (0..4)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "a_process_that_pulls_until_it_is_killed"]).env(PULL_FROM, host.tools_socket());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let pids: Vec<_> = pullers.iter().map(|puller| u64::from(puller.id())).collect();
    eventually("each puller has been handed some", || {
        let sessions = sessions(host);
        pids.iter().all(|pid| sessions.iter().any(|session| session["pid"] == *pid && session["handouts"].as_u64() > Some(50)))
    });
    for mut puller in pullers {
        puller.kill().unwrap();
        puller.wait().unwrap();
    }
    eventually("their sessions end with them", || {
        sessions(host).iter().all(|session| !pids.iter().any(|pid| session["pid"] == *pid))
    });
}

/// The open sessions, as an operator sees them.
fn sessions(host: &Host) -> Vec<serde_json::Value> {
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["sessions", "--json"]).stdout).unwrap();
    listing["sessions"].as_array().unwrap().clone()
}

/// Not a test on its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_pulls_until_it_is_killed() {
    let Some(socket) = std::env::var_os(PULL_FROM) else { return };
    let mut broker = raw::broker(socket.as_ref()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut stream = Raw::open(&mut broker, "puller", &[NAME]).await.unwrap();
        tasks.spawn(async move {
            loop {
                (0..50).for_each(|id| stream.ask(id, NAME));
                for _ in 0..50 {
                    stream.hear().await.unwrap();
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// The whole story of one value in a running daemon. `rotate` puts `new` in its place at the source.
async fn nothing_is_found(host: &Host, mut daemon: Daemon, value: &[u8], new: Option<&[u8]>, rotate: impl AsyncFnOnce()) {
    daemon.wait_until_serving().unwrap_or_else(|said| panic!("{said}"));
    assert_clean(&daemon, value, "loaded");
    let alone = pull(host, 1, 1, value).await;
    assert_clean(&daemon, value, "handed out to one, who is still connected");
    let many = pull(host, 16, 4, value).await;
    assert_clean(&daemon, value, "handed out to sixteen, who are still connected");
    kill_some_pullers(host);
    assert_clean(&daemon, value, "tools were killed in the middle of it");
    drop((alone, many));
    // Sessions by unary calls belong to this process and not to its connections.
    assert!(host.operate(&["revoke", "tool", "puller"]).status.success());
    eventually("all sessions are closed", || sessions(host).is_empty());
    assert_clean(&daemon, value, "sessions are closed");

    let held = pull(host, 1, 1, value).await;
    assert!(host.operate(&["revoke", "secret", NAME]).status.success());
    assert_clean(&daemon, value, "the secret is revoked, its holder still connected");
    assert!(host.operate(&["reload"]).status.success());
    drop(held);

    let mut before = pull(host, 16, 4, value).await;
    rotate().await;
    daemon.signal(libc::SIGHUP);
    if let Some(new) = new {
        let told = tokio::time::timeout(Duration::from_secs(20), before.streams[0].hear()).await.unwrap().unwrap();
        assert!(matches!(told, v1::session_response::Response::Changed(_)), "holders are told");
        assert!(before.streams[0].secret(1, NAME).await.value == new);
        let after = pull(host, 16, 4, new).await;
        assert_clean(&daemon, value, "an older version was replaced");
        assert_clean(&daemon, new, "the newer version is handed out");
        drop(after);
    }
    drop(before);
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_sealed_file() {
    let (value, new) = (marker(1, 64), marker(2, 64));
    let host = Host::new();
    let source = host.seal(&[(NAME, &value)]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&[NAME]), tool()));
    nothing_is_found(&host, host.spawn(&[]), &value, Some(&new), async || drop(host.seal(&[(NAME, &new)]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_aws_secrets_manager() {
    let (value, new, key) = (marker(3, 64), marker(4, 64), marker(5, 40));
    let (moto, host) = (servers::moto(), Host::new());
    stores::aws_put(moto, "memory/one", &format!("{{\"key\":\"{}\",\"other\":1}}", text(&value))).await;
    let (source, environment) = stores::aws(&host, moto.port, &text(&key));
    let secret = secret(NAME, "aws", "path = \"memory/one\"\nfield = \"key\"");
    host.configure("", &format!("{source}{secret}{}", tool()));
    let daemon = host.spawn(&stores::borrowed(&environment));
    let rotate = async || stores::aws_put(moto, "memory/one", &format!("{{\"key\":\"{}\"}}", text(&new))).await;
    nothing_is_found(&host, daemon, &value, Some(&new), rotate).await;
}

#[cfg(feature = "aws-parameter-store")]
#[tokio::test(flavor = "multi_thread")]
async fn of_aws_parameter_store() {
    let (value, new, key) = (marker(12, 64), marker(13, 64), marker(14, 40));
    let (moto, host) = (servers::moto(), Host::new());
    stores::parameter_put(moto, "/memory/other", "other").await;
    stores::parameter_put(moto, "/memory/one", &text(&value)).await;
    let (source, environment) = stores::aws(&host, moto.port, &text(&key));
    let source = source.replace("aws-secrets-manager", "aws-parameter-store");
    // A folder: its object is made by us, and is one more place where the value could stay.
    let secret = secret(NAME, "aws", "path = \"/memory/\"\nfield = \"one\"");
    host.configure("", &format!("{source}{secret}{}", tool()));
    let daemon = host.spawn(&stores::borrowed(&environment));
    let rotate = async || stores::parameter_put(moto, "/memory/one", &text(&new)).await;
    nothing_is_found(&host, daemon, &value, Some(&new), rotate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_vault() {
    let (value, new) = (marker(6, 64), marker(7, 64));
    let (bao, host) = (servers::openbao(), Host::new());
    stores::vault_put(bao, "memory/one", &format!("{{\"key\":\"{}\",\"other\":1}}", text(&value)));
    let source = stores::vault_as_root(&host, bao.port);
    let secret = secret(NAME, "vault", "path = \"memory/one\"\nfield = \"key\"");
    host.configure("", &format!("{source}{secret}{}", tool()));
    let rotate = async || stores::vault_put(bao, "memory/one", &format!("{{\"key\":\"{}\"}}", text(&new)));
    nothing_is_found(&host, host.spawn(&[]), &value, Some(&new), rotate).await;
}

/// The sealed copy on disk is made of every value, and is where values come from while their source is down.
#[tokio::test(flavor = "multi_thread")]
async fn of_vault_with_a_copy_on_disk() {
    let (value, new) = (marker(12, 64), marker(13, 64));
    let (bao, host) = (servers::start_openbao(), Host::new());
    let put = |value: &[u8]| stores::vault_put(&bao, "memory/copied", &format!("{{\"key\":\"{}\"}}", text(value)));
    put(&value);
    host.write("last-good.key", Identity::generate().0.expose_secret());
    let [file, identity] = ["last-good.age", "last-good.key"].map(|name| host.path(name));
    let last_good = format!("last-good = {{ file = \"{}\", identity-file = \"{}\" }}", file.display(), identity.display());
    let secret = secret(NAME, "vault", "path = \"memory/copied\"\nfield = \"key\"");
    host.configure(&last_good, &format!("{}{secret}{}", stores::vault_as_root(&host, bao.port), tool()));
    let mut daemon = host.start();
    eventually("the copy is written", || file.exists());
    assert_clean(&daemon, &value, "the copy is written");
    let many = pull(&host, 16, 4, &value).await;
    put(&new);
    let before = fs::read(&file).unwrap();
    assert!(host.operate(&["reload"]).status.success());
    eventually("the copy is written again", || fs::read(&file).unwrap() != before);
    std::thread::sleep(Duration::from_millis(100));
    assert_clean(&daemon, &value, "an older version was replaced, in memory and in the copy");
    assert_clean(&daemon, &new, "the copy is written again");
    drop(many);
    daemon.signal(libc::SIGKILL);
    daemon.wait(Duration::from_secs(20));

    drop(bao);
    let mut daemon = host.start();
    assert_clean(&daemon, &new, "it came from the copy");
    let many = pull(&host, 16, 4, &new).await;
    assert_clean(&daemon, &new, "it came from the copy, and is handed out");
    assert!(host.operate(&["revoke", "secret", NAME]).status.success());
    assert_clean(&daemon, &new, "revoked, and out of the copy");
    drop(many);
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_environment() {
    let (value, ungranted) = (marker(8, 64), marker(9, 64));
    let host = Host::new();
    let source = "[source.environment]\nkind = \"environment\"\n";
    let secrets =
        secret(NAME, "environment", "path = \"VK_MARKER\"") + &secret("no/tools", "environment", "path = \"VK_UNGRANTED\"");
    host.configure("", &format!("{source}{secrets}{}", tool()));
    let mut daemon = host.spawn(&[("VK_MARKER", &text(&value)), ("VK_UNGRANTED", &text(&ungranted)), ("VK_OTHER", "stays")]);
    daemon.wait_until_serving().unwrap_or_else(|said| panic!("{said}"));
    let environ = String::from_utf8(fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap()).unwrap();
    assert!(environ.contains("VK_OTHER=stays") && !environ.contains(&text(&value)), "{environ}");
    assert!(!environ.contains(&text(&ungranted)), "a secret that nobody may use is no less one");
    assert_clean(&daemon, &ungranted, "configured, but for no tool");
    nothing_is_found(&host, daemon, &value, None, async || {}).await;
}

/// Where the kernel gives no protected memory, a value is in the arena, once, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn of_memory_that_is_not_protected() {
    const NOBODY: u32 = 65534;
    let (value, new) = (marker(10, 64), marker(11, 64));
    let host = Host::new();
    let source = host.seal(&[(NAME, &value)]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&[NAME]), tool()));
    let give = |name: &str| chown(host.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    ["", "valetkey.toml", "identity.key", "secrets.sealed"].into_iter().for_each(give);
    let mut daemon = host.spawn_as(&[], |command| {
        command.uid(NOBODY).gid(NOBODY);
        // SAFETY: setrlimit(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                (libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) == 0).then_some(()).ok_or_else(std::io::Error::last_os_error)
            });
        }
    });
    daemon.wait_until_serving().unwrap_or_else(|said| panic!("{said}"));
    let status: serde_json::Value = serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["memory"]["protection"], "plain");
    let one = |needle: &[u8], when: &str| {
        let hits = scan(daemon.pid(), needle);
        assert!(hits.len() == 1 && hits[0].full && hits[0].address.is_multiple_of(64), "{when}: {}", describe(&hits));
    };
    one(&value, "loaded");
    let many = pull(&host, 16, 4, &value).await;
    one(&value, "handed out, tools still connected");
    assert!(host.operate(&["reload"]).status.success());
    one(&value, "loaded again, and the same");
    host.seal(&[(NAME, &new)]);
    give("secrets.sealed");
    assert!(host.operate(&["reload"]).status.success());
    assert_clean(&daemon, &value, "replaced");
    one(&new, "the new version");
    assert!(host.operate(&["revoke", "secret", NAME]).status.success());
    assert_clean(&daemon, &new, "revoked");
    drop(many);
}

/// HTTP/2 cuts a long value into frames, and the first bytes of each pass through a buffer of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_value_longer_than_a_frame() {
    for (seed, length) in [(20, 15_000), (21, 16_384), (22, 40_000), (23, 300_000)] {
        let value = marker(seed, length);
        let host = Host::new();
        let source = host.seal(&[(NAME, &value)]);
        host.configure("", &format!("{source}{}{}", Host::secrets(&[NAME]), tool()));
        let daemon = host.start();
        // The thread that opened the file may still be giving back, and so wiping, what it worked with.
        daemon.rests();
        assert_clean(&daemon, &value, "loaded");
        let connected = pull_long(&host, &value).await;
        let hits = scan(daemon.pid(), &value);
        println!("{length} bytes, connection open: {}", describe(&hits));
        assert!(hits.is_empty(), "{length} bytes, tools still connected: {}", describe(&hits));
        drop(connected);
        eventually("the connection is closed", || sessions(&host).iter().all(|session| session["form"] == "unary"));
        assert_clean(&daemon, &value, "the connection is closed");
    }
}

async fn pull_long(host: &Host, value: &[u8]) -> (Raw, Broker) {
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut stream = Raw::open(&mut broker, "puller", &[NAME]).await.unwrap();
    let session = open_unary(&mut broker, "puller", &[NAME]).await.unwrap().session;
    for id in 0..20 {
        assert!(stream.secret(id, NAME).await.value == value);
        assert!(get_unary(&mut broker, &session, &[NAME]).await.unwrap()[0].value == value);
    }
    (stream, broker)
}

/// A tool that takes in few bytes at a time makes HTTP/2 cut a message wherever its window ends, in the value too; then the rest of the
/// value passes through the connection's buffer. It is the tool's own value, in one place, until the next message or the connection's end.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_value_cut_by_a_small_window() {
    let value = marker(30, 64);
    let host = Host::new();
    let source = host.seal(&[(NAME, &value)]);
    host.configure("", &format!("{source}{}{}", Host::secrets(&[NAME]), tool()));
    let daemon = host.start();
    let mut most = 0;
    for window in [330, 350, 370, 390] {
        let path = host.tools_socket();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost").initial_stream_window_size(window);
        let mut broker = Broker::new(endpoint.connect_with_connector(connector).await.unwrap());
        let mut stream = Raw::open(&mut broker, "puller", &[NAME]).await.unwrap();
        for id in 0..20 {
            assert!(stream.secret(id, NAME).await.value == value);
        }
        let hits = scan(daemon.pid(), &value);
        println!("window of {window}, connection open: {}", describe(&hits));
        most = most.max(hits.len());
        drop((stream, broker));
        eventually("the connection is closed", || scan(daemon.pid(), &value).is_empty());
    }
    assert!(most <= 1, "one connection, one buffer");
}

//! A tool that is compromised, cut off: it gets nothing more, what it held is good no more, and those who share it never notice.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/hook.rs"]
mod hook;
#[path = "support/pool.rs"]
mod pool;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/said.rs"]
mod said;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::{Host, eventually};
use hook::{digest, hook, taken};
use pool::{Connection, Pool, Work};
use said::{lines, said, says};
use serde_json::Value;
use stores::{UNLIMITED, secret};
use valetkey::client::{Error, Session, Swap};

fn part<'a>(line: &'a Value, name: &str) -> &'a Value {
    line["secrets"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap_or(&Value::Null)
}

async fn value(session: &Session, name: &str) -> String {
    session.fetch(name).await.unwrap().expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// A tool that uses a secret all the time, as its system would take it, and moves to each new version.
fn shares(session: &Session, system: std::path::PathBuf) -> (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>) {
    let (calls, failed, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let (session, counted, lost, stopped) = (session.clone(), calls.clone(), failed.clone(), stop.clone());
    tokio::spawn(async move {
        let mut changes = session.watch();
        let mut key = session.get("it/hooked").await.unwrap();
        while !stopped.load(Relaxed) {
            let good = system.join(key.expose(|bytes| digest(std::str::from_utf8(bytes).unwrap()))).exists();
            counted.fetch_add(1, Relaxed);
            lost.fetch_add(u64::from(!good), Relaxed);
            if let Ok(Some(change)) = tokio::time::timeout(Duration::from_millis(5), changes.next()).await {
                if change.secret.name() == "it/hooked" {
                    key = change.secret.clone();
                }
                session.acknowledge(&change.secret).await.unwrap();
            }
        }
    });
    (calls, failed, stop)
}

/// Told by its program, which is this test: another `run-as` than that of a tool which is told by its user alone.
fn mate(secrets: &[&str]) -> String {
    let program = std::env::current_exe().unwrap();
    Host::tool("mate", 0, secrets).replace("user = \"0\"", &format!("user = \"0\", exe = {program:?}")) + UNLIMITED
}

#[track_caller]
fn is_contained<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::Denied { reason, .. }) if reason == "TOOL_CONTAINED" => {}
        other => panic!("{other:?}"),
    }
}

fn audit(host: &Host) -> Vec<Value> {
    let files = fs::read_dir(host.path("var/audit")).unwrap().map(|file| file.unwrap().path());
    let text: String = files
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_cut_off_and_what_it_held_is_good_no_more_while_who_shares_it_goes_on() {
    let (bao, moto) = (servers::openbao(), servers::moto());
    let host = Host::new();
    stores::vault_put(bao, "contain/hooked", r#"{"key":"the-first-hooked-value"}"#);
    stores::aws_put(moto, "contain/shared", "the-first-shared-value").await;
    let (aws, environment) = stores::aws(&host, moto.port, "secret");
    let hook = hook(&host, "");
    let names: &[(&str, &[u8])] =
        &[("it/given", b"the-given-value"), ("it/past", b"the-past-value"), ("it/never", b"the-other-value")];
    let mut rest = host.seal(names) + &aws + &stores::vault_as_root(&host, bao.port);
    let hooked = format!("path = \"contain/hooked\"\nfield = \"key\"\nrotation = {{ hook = [\"{hook}\"] }}");
    rest += &secret("it/hooked", "vault", &hooked);
    rest += &secret("it/shared", "aws", "path = \"contain/shared\"\nrotation = { generate = {} }");
    rest += &secret("it/given", "sealed", "");
    rest += &secret("it/past", "sealed", "rotation = { generate = {} }");
    rest += &secret("it/never", "sealed", "rotation = { generate = {} }");
    let all = ["it/hooked", "it/shared", "it/given", "it/past", "it/never"];
    rest += &(Host::tool("it", 0, &all) + UNLIMITED + &mate(&["it/hooked", "it/shared"]));
    host.configure("", &rest);
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let daemon = host.start_with(&environment);
    let system = host.path("system");
    fs::write(system.join(digest("the-first-hooked-value")), "").unwrap();

    let open = |tool: &'static str, secrets: &'static [&'static str]| {
        let client = host.client();
        async move { secrets.iter().fold(client.session(tool), |session, secret| session.secret(*secret)).open().await }
    };
    let before = open("it", &["it/past"]).await.unwrap();
    assert_eq!(value(&before, "it/past").await, "the-past-value");
    drop(before);
    let bad = open("it", &["it/hooked", "it/shared", "it/given", "it/never"]).await.unwrap();
    for name in ["it/hooked", "it/shared", "it/given"] {
        value(&bad, name).await;
    }
    let mate = open("mate", &["it/hooked", "it/shared"]).await.unwrap();
    value(&mate, "it/shared").await;
    let (calls, failed, stop) = shares(&mate, system.clone());
    eventually("the mate works", || calls.load(Relaxed) > 10);

    // Nothing is done by a dry run, nor where nobody can be asked.
    let planned = host.operate(&["contain", "it", "--dry-run"]);
    says(
        &planned,
        1,
        &[
            "it would be contained",
            "it/hooked: would be rotated (hook)",
            "mate may have it too",
            "it/given: EXPOSED",
            "lose its session",
        ],
    );
    assert!(!said(&planned).contains("it/never"), "what it never had is left alone: {}", said(&planned));
    says(&host.operate(&["contain", "it"]), 2, &["--yes"]);
    says(&host.operate(&["contain", "no-such", "--yes"]), 1, &["there is no tool no-such"]);
    assert!(open("it", &["it/never"]).await.is_ok() && host.operate(&["release", "it"]).status.code() == Some(1));

    let out = host.operate(&["contain", "it", "--yes", "--json", "--reason", "drill", "--overlap", "20s"]);
    says(&out, 1, &[]);
    let told = lines(&out);
    let last = told.last().unwrap();
    assert_eq!((last["step"].as_str(), last["exposed"].as_u64()), (Some("over"), Some(1)), "{last}");
    for name in ["it/hooked", "it/shared", "it/past"] {
        assert_eq!(part(last, name)["fate"], "rotated", "{name}: {last}");
    }
    assert_eq!(part(last, "it/given")["fate"], "exposed");
    assert!(part(last, "it/given")["problem"].as_str().unwrap().contains("--stdin"), "{last}");
    assert_eq!(part(last, "it/never"), &Value::Null);
    assert!(told.iter().any(|line| !part(line, "it/hooked")["rotation"].is_null()), "its progress is shown");

    // Its session is over, and it opens none.
    is_contained(bad.fetch("it/given").await.map(drop));
    is_contained(open("it", &["it/never"]).await.map(drop));
    says(&host.operate(&["explain", "it", "it/never"]), 3, &["it is contained", "valetkey release it"]);
    says(&host.operate(&["status"]), 0, &["CONTAINED: it gets nothing"]);
    says(&host.operate(&["blast-radius", "--tool", "it"]), 0, &["It is CONTAINED, and gets nothing"]);
    says(&host.operate(&["tools"]), 0, &["it (CONTAINED)"]);

    // What it has is worthless, and the other one never noticed.
    let current = value(&mate, "it/hooked").await;
    assert_ne!(current, "the-first-hooked-value");
    assert_eq!(taken(&host), BTreeSet::from([digest(&current)]), "the system takes the new key alone");
    assert_ne!(value(&mate, "it/shared").await, "the-first-shared-value");
    let sofar = calls.load(Relaxed);
    eventually("the mate still works", || calls.load(Relaxed) > sofar + 10);
    stop.store(true, Relaxed);
    assert_eq!(failed.load(Relaxed), 0, "of {} calls of who shares it", calls.load(Relaxed));
    println!("contained in {} messages; {} calls of who shares the key, 0 failed", told.len(), calls.load(Relaxed));

    // All of it on record, and no value anywhere.
    let records = audit(&host);
    let of = |event: &str, action: &str| records.iter().filter(|r| r["event"] == event && r["action"] == action).count();
    assert_eq!((of("tool.contained", "blocked"), of("tool.contained", "over")), (1, 1));
    assert_eq!(of("admin.action", "contain"), 2, "one of a tool that there is not");
    assert!(records.iter().any(|r| r["event"] == "session.ended" && r["reason"] == "contained"));
    assert!(records.iter().any(|r| r["action"] == "contain" && r["detail"].as_str().is_some_and(|d| d.contains("drill"))));
    let record = fs::read_to_string(host.path("var/contained/it.json")).unwrap();
    for text in [&host.log(), &record, &said(&out), &format!("{records:?}")] {
        for secret in ["the-first-hooked-value", "the-first-shared-value", "the-given-value", "the-past-value", &current] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }

    // Neither a reload nor a restart lets it out; an operator does.
    says(&host.operate(&["reload"]), 0, &[]);
    is_contained(open("it", &["it/never"]).await.map(drop));
    drop(daemon);
    let _daemon = host.start_with(&environment);
    is_contained(open("it", &["it/never"]).await.map(drop));
    says(&host.operate(&["contain", "it", "--yes"]), 1, &["1 STILL EXPOSED", "it/given"]);
    let given = host.admin_socket();
    let rotate = ["rotate", "it/given", "--stdin", "--socket", given.to_str().unwrap()];
    says(&host.valetkey_with(&rotate, b"another-given-value"), 0, &["rotated from"]);
    says(&host.operate(&["contain", "it", "--yes"]), 0, &["done: all of 4 secrets that it held are rotated"]);
    says(&host.operate(&["release", "it"]), 0, &["may open sessions again"]);
    assert_eq!(value(&open("it", &["it/never"]).await.unwrap(), "it/never").await, "the-other-value");
    assert!(!host.path("var/contained/it.json").exists());
    assert_eq!(audit(&host).iter().filter(|r| r["event"] == "tool.released").count(), 1);
}

/// The drill: a live tool with a login of its own from OpenBao's database engine, and one from AWS that another tool's pool works with.
/// What it has fails at the database within seconds, and not one query of the other.
#[tokio::test(flavor = "multi_thread")]
async fn within_seconds_its_logins_fail_at_the_database_and_no_query_of_who_shares_one() {
    let Some(postgres) = pool::rotating() else {
        return println!("SKIP: the drill: PostgreSQL is not installed");
    };
    let (bao, moto) = (servers::openbao(), servers::moto());
    pool::run(&postgres, "ALTER ROLE postgres PASSWORD 'marker-password'");
    stores::vault_database(bao, "drill", postgres.port);
    stores::vault_database_role(bao, "drill", "app", "1h", "2h");
    let host = Host::new();
    let (aws, environment) = stores::aws(&host, moto.port, "secret");
    let url = |login: &str| format!("postgresql://{login}@127.0.0.1:{}/postgres", postgres.port);
    stores::aws_put(moto, "drill/shared", &url("app_a:the-first-password")).await;
    let admin = url("admin:the-password-of-admin");
    let mut rest = host.seal(&[("db/admin", admin.as_bytes())]) + &aws + &stores::vault_as_root(&host, bao.port);
    let hook = pool::install_hook(&host.path("rotate-postgresql"));
    let rotation = format!("rotation = {{ hook = [\"{hook}\", \"app_a\", \"app_b\"], with = [\"db/admin\"] }}");
    rest += &secret("db/admin", "sealed", "");
    rest += &secret("db/shared", "aws", &format!("path = \"drill/shared\"\n{rotation}"));
    rest += &secret("db/login", "vault", "path = \"/drill/creds/app\"\nper-session = true");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/shared", "db/login"]) + UNLIMITED + &mate(&["db/shared"])));
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let _daemon = host.start_with(&environment);

    let agent = host.client().session("it").secret("db/shared").secret("db/login").open().await.unwrap();
    let own: Value = serde_json::from_str(&value(&agent, "db/login").await).unwrap();
    let own = ["username", "password"].map(|field| own[field].as_str().unwrap().to_owned());
    assert_eq!(value(&agent, "db/shared").await, url("app_a:the-first-password"));
    let opens = |user: &str, word: &str| {
        let (user, word) = (user.to_owned(), word.to_owned());
        async move { Connection::open(postgres.port, &user, &word).await.is_ok() }
    };
    assert!(opens(&own[0], &own[1]).await && opens("app_a", "the-first-password").await);
    let mate = host.client().session("mate").secret("db/shared").open().await.unwrap();
    let pool = Swap::new(&mate, "db/shared", |url| async move { Pool::of(&url.to_text().unwrap()).await }).await.unwrap();
    let work = Work::begin(&Arc::new(pool));
    tokio::time::sleep(Duration::from_millis(500)).await;

    let begun = Instant::now();
    let socket = host.admin_socket();
    let contained = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.args(["contain", "it", "--yes", "--reason", "drill", "--socket", socket.to_str().unwrap()]).output().unwrap()
    });
    let until = async |user: &str, word: &str| {
        while opens(user, word).await {
            assert!(begun.elapsed() < Duration::from_secs(30), "{user} still logs in");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    };
    let (its_own, shared) = tokio::join!(until(&own[0], &own[1]), until("app_a", "the-first-password"));
    let out = contained.await.unwrap();
    says(&out, 0, &["db/login: given back", "db/shared: rotated to", "done: all of 2 secrets"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (queries, failures) = work.end().await;
    println!(
        "contained: its own login failed after {its_own:.2?}, the shared one after {shared:.2?}; {queries} queries of who shares it, {} failed",
        failures.len()
    );
    assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(3)]);
    assert!(queries > 100);
    is_contained(agent.fetch("db/shared").await.map(drop));
    for text in [&host.log(), &said(&out), &format!("{:?}", audit(&host))] {
        assert!(![&own[1], "the-first-password", "the-password-of-admin"].iter().any(|value| text.contains(*value)), "{text}");
    }
}

/// One line for each moment at which the daemon is killed, and how it ended.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_tool_stays_contained_and_the_rest_is_done() {
    let bao = servers::openbao();
    let mut table = Vec::new();
    for step in ["create", "set", "test", "overlap", "retire"] {
        let host = Host::new();
        let path = format!("contain/killed-{step}");
        stores::vault_put(bao, &path, r#"{"key":"the-first-value"}"#);
        let stop = format!(
            "if step == {step:?} and not os.path.exists(state + '/killed'):\n    open(state + '/at', 'w').close()\n    time.sleep(60)\n"
        );
        let hook = hook(&host, &stop);
        let rotation = format!("path = \"{path}\"\nfield = \"key\"\nrotation = {{ hook = [\"{hook}\"] }}");
        let tools = Host::tool("it", 0, &["it/hooked"]) + UNLIMITED + &mate(&["it/hooked"]);
        host.configure("", &(stores::vault_as_root(&host, bao.port) + &secret("it/hooked", "vault", &rotation) + &tools));
        let mut daemon = host.start();
        fs::write(host.path("system").join(digest("the-first-value")), "").unwrap();
        let open = |tool: &'static str| {
            let client = host.client();
            async move { client.session(tool).secret("it/hooked").open().await }
        };
        let bad = open("it").await.unwrap();
        value(&bad, "it/hooked").await;
        // In the overlap it waits for one who does not say that it has moved.
        let mate = open("mate").await.unwrap();
        value(&mate, "it/hooked").await;
        let socket = host.admin_socket();
        let asked = std::thread::spawn(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
            command.args(["contain", "it", "--yes", "--overlap", "3s", "--socket", socket.to_str().unwrap()]).output().unwrap()
        });
        match step {
            "overlap" => eventually("it waits", || said(&host.operate(&["secrets", "--versions"])).contains("overlap")),
            _ => eventually(&format!("the hook is at {step}"), || host.path("system/at").exists()),
        }
        daemon.signal(libc::SIGKILL);
        daemon.wait(Duration::from_secs(5));
        assert_ne!(asked.join().unwrap().status.code(), Some(0), "whoever asked does not hear that all is well");
        fs::write(host.path("system/killed"), "").unwrap();
        drop((bad, mate));
        let _daemon = host.start();
        is_contained(open("it").await.map(drop));
        let out = host.operate(&["contain", "it", "--yes", "--json"]);
        says(&out, 0, &[]);
        let mate = open("mate").await.unwrap();
        let now = value(&mate, "it/hooked").await;
        assert_ne!(now, "the-first-value");
        assert_eq!(taken(&host), BTreeSet::from([digest(&now)]), "what is current works, and nothing else: {step}");
        is_contained(open("it").await.map(drop));
        table.push(format!("killed in {step}: {}", part(lines(&out).last().unwrap(), "it/hooked")["fate"]));
    }
    println!("{}", table.join("\n"));
}

/// What is not as it should be on disk lets no tool out, and keeps nobody from cutting one off.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_lets_nobody_out() {
    let host = Host::new();
    let mut rest = host.seal(&[("it/key", b"the-first-value-of-it")]);
    rest += &secret("it/key", "sealed", "rotation = { generate = {} }");
    host.configure("", &(rest + &Host::tool("it", 0, &["it/key"]) + UNLIMITED));
    let mut daemon = host.start();
    let open = || {
        let client = host.client();
        async move { client.session("it").secret("it/key").open().await }
    };
    let session = open().await.unwrap();
    assert_eq!(value(&session, "it/key").await, "the-first-value-of-it");

    // In the place of its file stands something else.
    let file = host.path("var/contained/it.json");
    fs::create_dir(&file).unwrap();
    let out = host.operate(&["contain", "it", "--yes", "--reason", "saw the-first-value-of-it in a paste"]);
    says(&out, 1, &["only until the daemon restarts", "it/key: rotated to 2", "saw [redacted:it/key] in a paste"]);
    is_contained(session.fetch("it/key").await.map(drop));
    is_contained(open().await.map(drop));
    fs::remove_dir(&file).unwrap();
    says(&host.operate(&["contain", "it", "--yes"]), 0, &["done: all of 1 secrets"]);
    assert!(file.is_file());
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("the-first-value-of-it") && !host.log().contains("the-first-value-of-it"));
    assert!(!format!("{:?}", audit(&host)).contains("the-first-value-of-it"));
    says(&host.operate(&["release", "it"]), 0, &[]);

    // The daemon ended between the block and anything else: the next one finds out what the tool had.
    let session = open().await.unwrap();
    let second = value(&session, "it/key").await;
    assert!(daemon.stop().success());
    drop(session);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let blocked = serde_json::json!({
        "format": 1, "tool": "it", "by": "operator uid 0", "reason": "", "since": since, "overlap": 1, "stopped": [], "parts": {},
        "unknown": "", "looked": false,
    });
    fs::write(&file, blocked.to_string()).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut daemon = host.start();
    is_contained(open().await.map(drop));
    eventually("what it had is rotated", || {
        let record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap_or_default();
        record["parts"]["it/key"]["fate"] == "rotated"
    });
    assert!(!host.log().contains(&second));

    // Where there is no place for rotations nothing could be contained, and so what is must not be forgotten.
    assert!(daemon.stop().success());
    fs::remove_dir_all(host.path("var/rotations")).unwrap();
    fs::write(host.path("var/rotations"), "").unwrap();
    let refused = host.spawn(&[]).wait_until_serving();
    assert!(refused.is_err(), "it serves");
    assert!(host.log().contains("says that tools are contained"), "{}", host.log());
}

/// A rule contains the tool that an alarm is about, and no tool by what others say that they are.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_contains_the_tool_that_it_is_about_and_no_other() {
    let host = Host::new();
    let mut rest = host.seal(&[("it/key", b"the-first-value"), ("it/decoy", b"the-decoy-that-nobody-uses")]);
    rest += &(secret("it/key", "sealed", "rotation = { generate = {} }") + &secret("it/decoy", "sealed", "canary = true"));
    rest += "[alarm]\ncontain = [\"canary\", \"denials-per-minute\"]\ndenials-per-minute = 5\n";
    let launcher = env!("CARGO_BIN_EXE_valetkey");
    let launched =
        format!("[tool.leaky]\nrun-as = {{ user = \"0\", exe = {launcher:?} }}\nsecrets.\"it/decoy\" = {{ env = \"DECOY\" }}\n");
    rest += &(Host::tool("it", 0, &["it/key"]) + UNLIMITED + &Host::tool("victim", 4242, &["it/key"]) + &launched);
    host.configure("", &rest);
    let _daemon = host.start();
    let client = host.client();
    for _ in 0..20 {
        let refused = client.session("victim").secret("it/key").open().await.map(drop);
        assert!(matches!(refused, Err(Error::Denied { .. } | Error::Limited { .. })), "{refused:?}");
    }
    let session = client.session("it").secret("it/key").open().await.unwrap();
    value(&session, "it/key").await;
    for _ in 0..20 {
        let _ = session.fetch("it/decoy").await;
    }
    let contained = || -> Vec<String> {
        let status: Value = serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap();
        serde_json::from_value(status["contained"].clone()).unwrap()
    };
    eventually("the one that asks and asks is contained", || contained() == ["it"]);
    is_contained(session.fetch("it/key").await.map(drop));
    eventually("what it had is rotated", || said(&host.operate(&["secrets", "--versions"])).contains("rotated"));

    let mut leaks = Command::new(env!("CARGO_BIN_EXE_valetkey"))
        .args(["run", "leaky", "--socket", host.tools_socket().to_str().unwrap(), "--", "sh", "-c", "echo $DECOY; exec sleep 60"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the one that gives the decoy away is contained", || contained() == ["it", "leaky"]);
    eventually("its launcher stops it", || leaks.try_wait().unwrap().is_some());
    let records = audit(&host);
    let by: Vec<_> = records.iter().filter(|r| r["action"] == "blocked").map(|r| r["detail"].as_str().unwrap()).collect();
    assert_eq!(by, ["alarm denials-per-minute", "alarm canary"]);
    // A file that says nothing any more still blocks, and is said.
    drop(_daemon);
    fs::write(host.path("var/contained/leaky.json"), "").unwrap();
    let _daemon = host.start();
    assert_eq!(contained(), ["it", "leaky"]);
    assert!(host.log().contains("is not known any more what is to be rotated"), "{}", host.log());
}

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    disk::{
        Directory,
        faulty::{Fault, FaultyDisk},
    },
    verify::{How, Verified, verify},
    *,
};
use crate::{
    name::SessionId,
    peer::{Certificate, Executable, Jwt, Peer, Process, Remote, Sha256, Token, Unit},
};

fn event(count: u64) -> Event<'static> {
    Event { count: Some(count), ..Event::new(Kind::SecretHandedOut, Outcome::Success) }
}

fn open(disk: &FaultyDisk, settings: Settings) -> Log {
    Log::open(Arc::new(disk.clone()), SigningKey::generate().unwrap(), settings).unwrap().0
}

fn check(disk: &dyn disk::Disk, key: PublicKey) -> Verified {
    verify(disk, &How { keys: &[key], threads: 2, anchor: None, progress: &|_| {} }).unwrap()
}

/// The counts of all hand-outs in a directory, in the order of the log.
fn counts(dir: &Path) -> Vec<u64> {
    let disk = Directory::read_only(dir).unwrap();
    let names = files::list(&disk).unwrap();
    // What is left of a write has no end, and may be anything.
    let text = names.iter().map(|name| std::fs::read(dir.join(name.to_string())).unwrap());
    let text: String = text.map(|text| String::from_utf8_lossy(&text).into_owned() + "\n").collect();
    let records = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    records.filter(|record| record["event"] == "secret.handed-out").filter_map(|record| record["count"].as_u64()).collect()
}

#[tokio::test]
async fn many_wait_and_each_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Directory::take(dir.path()).unwrap());
    let (log, _) = Log::open(disk.clone(), SigningKey::generate().unwrap(), Settings::default()).unwrap();
    let log = Arc::new(log);
    let dispatched = log.clone();
    let dispatcher = tokio::spawn(async move { dispatched.dispatch().await });
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let log = log.clone();
        tasks.spawn(async move {
            for at in 0..20 {
                log.append(&event(task * 20 + at)).unwrap().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let mut on_record = counts(dir.path());
    on_record.sort_unstable();
    assert_eq!(on_record, (0..64 * 20).collect::<Vec<_>>());
    assert!(log.syncs().count() < 64 * 20 / 2, "syncs are shared: {}", log.syncs().count());
    dispatcher.abort();
    let _ = dispatcher.await;
    // Without a dispatcher too.
    log.append(&event(9999)).unwrap().await.unwrap();
    log.close();
    let found = check(&*disk, log.public_key().unwrap());
    assert!(found.is_sealed(), "{found:?}");
}

#[test]
fn a_thread_may_wait_and_one_need_not() {
    let disk = FaultyDisk::default();
    let log = open(&disk, Settings { durability: Durability::Batched, ..Settings::default() });
    log.append(&event(1)).unwrap().wait().unwrap();
    log.note(&event(2));
    let begun = Instant::now();
    while log.state().records < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "what lingers is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= LINGER / 2);
    log.close();
    assert!(log.append(&event(3)).is_err());
    assert!(check(&disk, log.public_key().unwrap()).is_sealed());
}

#[test]
fn where_the_disk_fails_nothing_is_acknowledged_and_it_comes_back_by_itself() {
    let disk = FaultyDisk::default();
    let log = open(&disk, Settings::default());
    log.append(&event(1)).unwrap().wait().unwrap();
    disk.fail(Some(Fault::Full { after: 100 }));
    assert_eq!(log.append(&event(2)).unwrap().wait(), Err(Unavailable));
    assert!(!log.is_up() && log.state().down.unwrap().contains("space"));
    assert!(log.append(&event(3)).is_err());
    disk.fail(None);
    let begun = Instant::now();
    while !log.is_up() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    log.append(&event(4)).unwrap().wait().unwrap();
    log.close();
    assert!(check(&disk, log.public_key().unwrap()).is_sealed());
    let text: String = disk.names().iter().map(|name| String::from_utf8_lossy(&disk.get(name).unwrap()).into_owned()).collect();
    assert!(text.contains("\"reason\":\"write-failed\",\"lost\":2"), "{text}");
}

#[test]
fn a_log_that_cannot_be_taken_up_is_down_and_tried_again() {
    let disk = FaultyDisk::default();
    disk.fail(Some(Fault::ReadOnly));
    let log = open(&disk, Settings::default());
    assert!(log.append(&event(1)).is_err());
    assert!(log.state().down.unwrap().contains("ead-only"));
    disk.fail(None);
    let begun = Instant::now();
    while !log.is_up() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn peer() -> Peer {
    Peer {
        process: Process { pid: 4711, pidfd_inode: 5 },
        uid: 1000,
        gid: 1000,
        groups: vec![],
        unit: Some(Unit { name: "mcp-\"billing\".service".into(), invocation: Some("a".repeat(32)), cgroup: 7 }),
        executable: Some(Executable { path: "/bin/x".into(), sha256: Sha256([0xab; 32]) }),
        remote: None,
    }
}

/// Every field of every kind stands in the schema, as what the schema says. A small reader of schemas: of JSON Schema it knows `type`,
/// `enum`, `pattern` for a few fixed patterns, `required`, `properties` and `additionalProperties: false`, and fails on any other word.
#[test]
fn the_schema_knows_every_field_of_every_kind() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/audit.schema.json")).unwrap();
    let disk = FaultyDisk::default();
    let log = open(
        &disk,
        Settings {
            rules: Rules { file_bytes: 4000, keep: Keep { age: Duration::ZERO, bytes: 0 }, ..Rules::default() },
            ..Settings::default()
        },
    );
    let (tool, session, peer) = ("billing".parse().unwrap(), SessionId::new([7; 16]), peer());
    let certificate = Certificate {
        sha256: Sha256([0xcd; 32]),
        uris: vec!["spiffe://host/\"x\"".into()],
        dns: vec![],
        emails: vec![],
        vouched_by: [crate::peer::Authority::File(Path::new("/etc/ca.pem").into())].into(),
    };
    let jwt = Jwt { issuer: "ci".into(), subject: "run\n1".into(), claims: Default::default() };
    let over_network = |token| {
        let (address, certificate) = ("192.0.2.1:4711".parse().unwrap(), Some(Arc::new(certificate.clone())));
        Peer::over_network(Remote { address, certificate, token: Some(token) }, 1)
    };
    let issued = over_network(Token::Issued { id: "0123456789abcdef".into(), name: "ci".into() });
    let callers = [peer, issued, over_network(Token::Jwt(Arc::new(jwt)))];
    let mut callers = callers.iter().map(|peer| Who::new(Some(&tool), Some(&session), Some(peer))).cycle();
    let (secret, version, source) = ("a/b".parse().unwrap(), "v\\1\"".parse().unwrap(), "prod".parse().unwrap());
    let now = std::time::SystemTime::now();
    for kind in Kind::ALL.iter().copied().filter(|kind| !kind.as_str().starts_with("audit.")) {
        for outcome in Outcome::ALL {
            let who = callers.next().unwrap();
            let full = Event {
                reason: Some("x"),
                who: Some(&who),
                secret: Some(&secret),
                version: Some(&version),
                source: Some(&source),
                policy: Some(Place { file: Path::new("/etc/\u{1}x.toml"), line: 3 }),
                action: Some("x"),
                channel: Some("stdout"),
                encoding: Some("raw"),
                canary: true,
                count: Some(1),
                limit: Some(2),
                range: Some((1, 2)),
                since: Some(now),
                duration: Some(Duration::from_micros(5)),
                request_id: Some("r\n"),
                detail: Some("d\u{202e}"),
                ..Event::new(kind, *outcome)
            };
            log.append(&full).unwrap().wait().unwrap();
            log.append(&Event::new(kind, *outcome)).unwrap().wait().unwrap();
        }
    }
    disk.fail(Some(Fault::Full { after: 100 }));
    assert!(log.append(&event(1)).unwrap().wait().is_err());
    disk.fail(None);
    let begun = Instant::now();
    while !log.is_up() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    log.close();
    // The files that were pruned are gone: look at what is left, and at one log more that was not pruned.
    let seen = [records(&disk), records(&unpruned())].concat();
    for kind in Kind::ALL.iter().filter(|kind| kind.as_str().starts_with("audit.")) {
        assert!(seen.iter().any(|record| record["event"] == kind.as_str()), "the test makes no {}", kind.as_str());
    }
    for record in seen {
        conforms(&record, &schema);
    }
}

fn unpruned() -> FaultyDisk {
    let disk = FaultyDisk::default();
    let log = open(&disk, Settings { rules: Rules { file_bytes: 500, ..Rules::default() }, ..Settings::default() });
    (0..5).for_each(|at| _ = log.append(&event(at)).unwrap().wait().unwrap());
    disk
}

fn records(disk: &FaultyDisk) -> Vec<serde_json::Value> {
    let names = disk.names().into_iter().filter(|name| name.ends_with(".jsonl"));
    // What is left of a write has no end.
    let text: Vec<u8> = names.flat_map(|name| [disk.get(&name).unwrap(), b"\n".to_vec()].concat()).collect();
    text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn conforms(record: &serde_json::Value, schema: &serde_json::Value) {
    let known = ["$schema", "$id", "title", "description", "type", "required", "properties", "additionalProperties"];
    assert!(schema.as_object().unwrap().keys().all(|word| known.contains(&word.as_str())));
    assert_eq!(schema["additionalProperties"], false);
    for field in schema["required"].as_array().unwrap() {
        assert!(record.get(field.as_str().unwrap()).is_some(), "{field} is missing in {record}");
    }
    for (field, value) in record.as_object().unwrap() {
        let rule = schema["properties"][field].as_object().unwrap_or_else(|| panic!("{field} is not in the schema: {record}"));
        assert!(rule["description"].as_str().is_some_and(|text| !text.is_empty()), "{field} has no meaning");
        for (word, wants) in rule {
            let fits = match (word.as_str(), value) {
                ("description", _) => true,
                ("const", value) => value == wants,
                ("enum", value) => wants.as_array().unwrap().contains(value),
                ("minimum", value) => value.as_u64() >= wants.as_u64(),
                ("maxLength", value) => value.as_str().unwrap().chars().count() as u64 <= wants.as_u64().unwrap(),
                ("type", serde_json::Value::String(_)) => wants == "string",
                ("type", serde_json::Value::Number(number)) => wants == "integer" && number.is_u64(),
                ("type", serde_json::Value::Bool(_)) => wants == "boolean",
                ("pattern", value) => fits_pattern(value.as_str().unwrap(), wants.as_str().unwrap()),
                (word, _) => panic!("the test does not know {word}"),
            };
            assert!(fits, "{field} is not {word} {wants}: {record}");
        }
    }
}

fn fits_pattern(value: &str, pattern: &str) -> bool {
    let hex = |count| value.len() == count && value.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    match pattern {
        "^[0-9a-f]{16}$" => hex(16),
        "^[0-9a-f]{32}$" => hex(32),
        "^[0-9a-f]{64}$" => hex(64),
        "^[0-9a-f]{128}$" => hex(128),
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$" => line::parse_time(value.as_bytes()).is_some(),
        "^audit-[0-9]{20}(\\.[1-9][0-9]*)?\\.jsonl$" => files::FileName::parse(value).is_some(),
        other => panic!("the test does not know the pattern {other}"),
    }
}

/// What a child does that is killed: it appends, and prints what was acknowledged.
#[test]
fn a_child_that_appends() {
    let Some(dir) = std::env::var_os("VALETKEY_TEST_AUDIT_CHILD").map(std::path::PathBuf::from) else { return };
    let key = SigningKey::read_or_make(&dir.join("key")).unwrap();
    let disk = Arc::new(Directory::take(&dir.join("log")).unwrap());
    let rules = Rules { file_bytes: 100_000, ..Rules::default() };
    let (log, _) = Log::open(disk, key, Settings { rules, ..Settings::default() }).unwrap();
    let (log, next) = (&log, &std::sync::atomic::AtomicU64::new(1));
    let run = u64::from(std::process::id()) << 32;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                loop {
                    let at = run + next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    log.append(&event(at)).unwrap().wait().unwrap();
                    // One write each: a line is whole or not there.
                    let _ = std::io::stdout().lock().write_all(format!("acknowledged {at}\n").as_bytes());
                }
            });
        }
    });
}

#[test]
fn killed_at_any_moment_it_has_all_that_was_acknowledged() {
    let kills = std::env::var("VALETKEY_TEST_AUDIT_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(30);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut torn = 0;
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["audit::tests::a_child_that_appends", "--exact", "--nocapture", "--test-threads=1"])
            .env("VALETKEY_TEST_AUDIT_CHILD", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (begun, begins) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let numbers = lines.filter_map(|line| line.split_once("acknowledged ")?.1.parse::<u64>().ok());
            numbers.inspect(|_| _ = begun.send(())).collect::<Vec<_>>()
        });
        // Some while they start, most while they write; not the same moment twice.
        if round % 5 != 4 {
            begins.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        std::thread::sleep(Duration::from_micros((round * 7919) % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(reader.join().unwrap());
        if round % 10 == 9 || round + 1 == kills {
            let key = SigningKey::read(&dir.path().join("key")).unwrap().public();
            let found = check(&Directory::read_only(&dir.path().join("log")).unwrap(), key);
            assert_eq!(found.broken, None, "after {} kills", round + 1);
            torn = found.torn;
        }
    }
    let on_record: std::collections::HashSet<_> = counts(&dir.path().join("log")).into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|at| !on_record.contains(at)).collect();
    assert!(lost.is_empty(), "of {} acknowledged, lost: {lost:?}", acknowledged.len());
    assert!(acknowledged.len() as u64 > kills, "{} acknowledged in {kills} runs", acknowledged.len());
    println!("{kills} kills, {} acknowledged, all on record, {torn} torn tails declared", acknowledged.len());
}

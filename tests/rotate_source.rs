//! Secrets that their source rotates by itself: AWS by the function that a secret has, OpenBao by a static role.

#[path = "support/daemon.rs"]
mod daemon;
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
    collections::HashMap,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aws_sdk_secretsmanager::{Client, types::RotationRulesType};
use daemon::{Host, eventually};
use pool::{CONNECTIONS, Connection, Pool, Work, run};
use postgres::Postgres;
use said::{lines, says};
use serde_json::{Value, json};
use stores::{UNLIMITED, secret};
use valetkey::client::{Secret, Swap};

/// One that asks for passwords on TCP, and has a user whose password others change.
fn database() -> Option<Postgres> {
    let asks = "local all all trust\nhost all all 127.0.0.1/32 password\n";
    let postgres = postgres::start(servers::free_port(), Some(asks))?;
    run(
        &postgres,
        "ALTER ROLE postgres PASSWORD 'marker-password'; CREATE ROLE app LOGIN PASSWORD 'the-first-password'; \
         CREATE TABLE counts (n bigint); GRANT SELECT ON counts TO public",
    );
    Some(postgres)
}

async fn rotate(host: &Host, name: &str) -> Output {
    let (socket, name) = (host.admin_socket(), name.to_owned());
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.args(["rotate", &name, "--json", "--socket", socket.to_str().unwrap()]).output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(secret: &Secret) -> String {
    secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn login(secret: &Secret) -> (String, String) {
    let login: Value = serde_json::from_str(&text(secret)).unwrap();
    (login["username"].as_str().unwrap().into(), login["password"].as_str().unwrap().into())
}

async fn works(postgres: &Postgres, user: &str, word: &str) -> bool {
    Connection::open(postgres.port, user, word).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_rotates_under_a_pool_and_no_query_fails() {
    let bao = servers::openbao();
    let Some(postgres) = database() else {
        return println!("SKIP: a static role under a pool: PostgreSQL is not installed");
    };
    let rotations: usize = std::env::var("VALETKEY_ROTATIONS").map_or(20, |number| number.parse().unwrap());
    stores::vault_database(bao, "static", postgres.port);
    stores::vault_static_role(bao, "static", "app", "app", 86400);
    let host = Host::new();
    let by_source = "rotation = { source = {} }\nrotate-every = \"30d\"";
    let mut rest = stores::vault_as_root(&host, bao.port);
    rest += &secret("db/login", "vault", &format!("path = \"/static/static-creds/app\"\n{by_source}"));
    host.configure("", &(rest + &Host::tool("it", 0, &["db/login"]) + UNLIMITED));
    let _daemon = host.start();
    let session = host.client().session("it").secret("db/login").open().await.unwrap();
    let first = login(&session.get("db/login").await.unwrap());
    let port = postgres.port;
    let pool = Swap::new(&session, "db/login", move |secret| async move {
        let (user, word) = login(&secret);
        Pool::as_user(port, &user, &word).await
    });
    let pool = Arc::new(pool.await.unwrap());
    let work = Work::begin(&pool);
    says(&host.operate(&["rotate", "db/login", "--dry-run"]), 0, &["source"]);
    let mut took = Vec::new();
    for number in 0..rotations {
        let begun = Instant::now();
        let out = rotate(&host, "db/login").await;
        assert_eq!(lines(&out).last().unwrap()["end"], "rotated", "rotation {number}: {:?}\n{}", out, host.log());
        took.push(begun.elapsed());
    }
    let (queries, failures) = work.end().await;
    took.sort();
    println!(
        "{rotations} rotations of a static role, {queries} queries over {CONNECTIONS} connections, {} failed; to the last holder moved: \
         p50 {:?}, p99 {:?}",
        failures.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(3)]);
    assert!(queries > 100);
    let last = login(&session.get("db/login").await.unwrap());
    assert!(works(&postgres, &last.0, &last.1).await && !works(&postgres, &first.0, &first.1).await);
    let log = host.log();
    assert!(!log.contains(&first.1) && !log.contains(&last.1), "a value is in the log");
}

/// The engine's own clock is followed: what it changed is here a moment later, though nobody asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_that_rotates_by_its_own_clock_is_noticed_at_once() {
    let bao = servers::openbao();
    let Some(postgres) = database() else {
        return println!("SKIP: a static role by its own clock: PostgreSQL is not installed");
    };
    stores::vault_database(bao, "clock", postgres.port);
    stores::vault_static_role(bao, "clock", "app", "app", 5);
    let host = Host::new();
    // Looked after by the role's own clock alone.
    let rarely = "refresh-every = \"1h\"\n";
    let rest =
        stores::vault_as_root(&host, bao.port) + rarely + &secret("db/login", "vault", "path = \"/clock/static-creds/app\"");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/login"]) + UNLIMITED));
    let _daemon = host.start();
    let session = host.client().session("it").secret("db/login").open().await.unwrap();
    let mut changes = session.watch();
    let mut had = session.get("db/login").await.unwrap();
    for _ in 0..2 {
        let change = loop {
            let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.expect("it changes").unwrap();
            // One that came before the first `get` was told already.
            if change.secret.version() != had.version() {
                break change;
            }
        };
        had = change.secret.clone();
        let (user, word) = login(&had);
        assert!(works(&postgres, &user, &word).await, "what was told of works");
    }
}

/// The rotation function of a secret, as those that AWS publishes: create, set, test and finish, for each version that is pending.
struct Function {
    aws: Client,
    postgres: Postgres,
    /// What it does not do, for as long as this is set.
    stalls: AtomicBool,
    began: AtomicU64,
}

impl Function {
    async fn turn(&self) {
        let stages = self.stages().await;
        let labelled =
            |label: &str| stages.iter().find(|(_, labels)| labels.iter().any(|one| one == label)).map(|(id, _)| id.clone());
        let (Some(current), Some(pending)) = (labelled("AWSCURRENT"), labelled("AWSPENDING")) else { return };
        if current == pending || self.stalls.load(Relaxed) {
            return;
        }
        let number = self.began.fetch_add(1, Relaxed);
        let word = format!("made-by-the-function-{number}");
        let value = json!({ "username": "app", "password": word }).to_string();
        let put = self.aws.put_secret_value().secret_id("rotates/app").client_request_token(&pending);
        put.version_stages("AWSPENDING").secret_string(value).send().await.unwrap();
        run(&self.postgres, &format!("ALTER ROLE app PASSWORD '{word}'"));
        assert!(works(&self.postgres, "app", &word).await);
        let finish = self.aws.update_secret_version_stage().secret_id("rotates/app").version_stage("AWSCURRENT");
        finish.move_to_version_id(pending).remove_from_version_id(current).send().await.unwrap();
    }

    async fn stages(&self) -> HashMap<String, Vec<String>> {
        self.aws.describe_secret().secret_id("rotates/app").send().await.unwrap().version_ids_to_stages.unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_rotates_by_the_function_of_the_secret_and_is_followed_to_the_end() {
    let Some(postgres) = database() else {
        return println!("SKIP: RotateSecret: PostgreSQL is not installed");
    };
    let moto = servers::start_moto_rotation();
    let host = Host::new();
    stores::aws_put(&moto, "rotates/app", &json!({ "username": "app", "password": "the-first-password" }).to_string()).await;
    let (aws, environment) = stores::aws(&host, moto.port, "secret");
    let mut rest = aws
        + &secret("db/word", "aws", "path = \"rotates/app\"\nfield = \"password\"\nrotation = { source = { within = \"2s\" } }");
    rest += &secret("db/user", "aws", "path = \"rotates/app\"\nfield = \"username\"");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/word", "db/user"]) + UNLIMITED));
    let environment = stores::borrowed(&environment);
    let mut daemon = host.start_with(&environment);
    let owner = stores::owner(moto.port);

    // Not before its rotation is turned on, and never by a value of ours.
    let out = rotate(&host, "db/word").await;
    let last = lines(&out).pop().unwrap();
    assert_eq!(last["end"], "undone", "{out:?}");
    assert!(last["problem"].as_str().unwrap().contains("turned on"), "{last}");
    let socket = host.admin_socket();
    let given = ["rotate", "db/word", "--stdin", "--socket", socket.to_str().unwrap()];
    says(&host.valetkey_with(&given, b"another-word"), 1, &["makes its own values"]);
    let rules = RotationRulesType::builder().automatically_after_days(30).build();
    let arn = "arn:aws:lambda:eu-west-1:123456789012:function:rotates";
    let on = owner.rotate_secret().secret_id("rotates/app").rotation_lambda_arn(arn).rotation_rules(rules);
    on.rotate_immediately(false).send().await.unwrap();

    let (stalls, began) = (AtomicBool::new(false), AtomicU64::new(0));
    let function = Arc::new(Function { aws: owner, postgres, stalls, began });
    let turns = function.clone();
    let running = tokio::spawn(async move {
        loop {
            turns.turn().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let session = host.client().session("it").secret("db/word").secret("db/user").open().await.unwrap();
    assert_eq!(text(&session.get("db/word").await.unwrap()), "the-first-password");
    for number in 0..5 {
        let asking = rotate(&host, "db/word");
        // Holds the version, and says that it has moved.
        let moving = async {
            let mut changes = session.watch();
            let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.expect("it changes").unwrap();
            session.acknowledge(&change.secret).await.unwrap();
            text(&session.get("db/word").await.unwrap())
        };
        let (out, word) = tokio::join!(asking, moving);
        let last = lines(&out).pop().unwrap();
        assert_eq!((last["end"].as_str(), last["way"].as_str()), (Some("rotated"), Some("source")), "{out:?}\n{}", host.log());
        assert_eq!(word, format!("made-by-the-function-{number}"));
        assert!(works(&function.postgres, "app", &word).await);
    }
    assert_eq!(function.began.load(Relaxed), 5, "one rotation each, and none besides");

    // A function that does not come to an end: said, waited for, over a restart too, and never begun twice.
    function.stalls.store(true, Relaxed);
    let waiting = tokio::spawn({
        let host = host.admin_socket();
        async move {
            tokio::process::Command::new(env!("CARGO_BIN_EXE_valetkey"))
                .args(["rotate", "db/word", "--socket"])
                .arg(host)
                .output()
                .await
        }
    });
    eventually("it is said that the source does not end", || host.log().contains("its source is at it for longer than 2 s"));
    says(&host.operate(&["rollback", "db/word"]), 1, &["has no way back"]);
    says(&host.operate(&["rotate", "db/word"]), 1, &["is being rotated"]);
    let pending = function.stages().await;
    daemon.signal(libc::SIGKILL);
    daemon.wait(Duration::from_secs(5));
    waiting.await.unwrap().unwrap();
    drop(session);
    let _daemon = host.start_with(&environment);
    let session = host.client().session("it").secret("db/word").open().await.unwrap();
    assert_eq!(text(&session.get("db/word").await.unwrap()), "made-by-the-function-4", "the old one is good until then");
    assert_eq!(function.stages().await, pending, "the same rotation");
    let over = || host.log().matches("rotation: over").count();
    let before = over();
    let mut changes = session.watch();
    function.stalls.store(false, Relaxed);
    let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.expect("it changes").unwrap();
    assert_eq!(text(&change.secret), "made-by-the-function-5");
    session.acknowledge(&change.secret).await.unwrap();
    eventually("it comes to its end", || over() > before);

    // One that hangs is ended by who turns the rotation off there.
    function.stalls.store(true, Relaxed);
    let asked = rotate(&host, "db/word");
    let turned_off = async {
        while !function.stages().await.values().any(|labels| *labels == ["AWSPENDING"]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        function.aws.cancel_rotate_secret().secret_id("rotates/app").send().await.unwrap();
    };
    let (out, ()) = tokio::join!(asked, turned_off);
    assert_eq!(lines(&out).pop().unwrap()["end"], "undone", "{out:?}");
    let rules = RotationRulesType::builder().automatically_after_days(30).build();
    let on = function.aws.rotate_secret().secret_id("rotates/app").rotation_lambda_arn(arn).rotation_rules(rules);
    on.rotate_immediately(false).send().await.unwrap();
    let pending = function.stages().await.into_iter().find(|(_, labels)| *labels == ["AWSPENDING"]).unwrap().0;
    let label = function.aws.update_secret_version_stage().secret_id("rotates/app").version_stage("AWSPENDING");
    label.remove_from_version_id(pending).send().await.unwrap();

    // One that AWS began by itself is not begun once more, and what comes of it is noticed.
    function.stalls.store(true, Relaxed);
    function.aws.rotate_secret().secret_id("rotates/app").client_request_token("a".repeat(40)).send().await.unwrap();
    says(&host.operate(&["rotate", "db/word"]), 1, &["its source is at it already"]);
    function.stalls.store(false, Relaxed);
    eventually("the new one is here", || {
        host.operate(&["refresh"]);
        let listed = String::from_utf8(host.operate(&["secrets"]).stdout).unwrap();
        listed.contains(&"a".repeat(12))
    });
    assert_eq!(text(&session.fetch("db/word").await.unwrap()), "made-by-the-function-6");
    running.abort();
    let log = host.log();
    assert!(!log.contains("made-by-the-function") && !log.contains("the-first-password"), "a value is in the log");
}

#[test]
fn only_sources_that_do_it_are_told_to_rotate() {
    let host = Host::new();
    let aws = "[source.aws]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\n";
    let parameters = "[source.parameters]\nkind = \"aws-parameter-store\"\nregion = \"eu-west-1\"\n";
    let sealed = host.seal(&[("s", b"the-value-of-s")]);
    let sources = format!("{sealed}{aws}{parameters}{}", stores::vault_as_root(&host, 8200));
    let by_source = "rotation = { source = {} }";
    let check = |source: &str, rest: &str, more: &[&str]| {
        host.configure("", &format!("{sources}{}{}{UNLIMITED}", secret("s", source, rest), Host::tool("it", 0, &["s"])));
        host.valetkey(&[&["check", "--config", host.config().to_str().unwrap()], more].concat())
    };
    let refused = [
        ("sealed", by_source, "rotates nothing by itself"),
        ("parameters", by_source, "rotates nothing by itself"),
        ("vault", by_source, "is for static roles alone"),
        ("vault", &format!("path = \"/database/creds/app\"\n{by_source}"), "is for static roles alone"),
        ("aws", &format!("stage = \"AWSPREVIOUS\"\n{by_source}"), "names one version for good"),
        ("aws", "rotation = { source = {}, generate = {} }", "stands beside `source`"),
        ("vault", "path = \"/database/static-creds/app\"\nrotation = { generate = {} }", "for a static role is `source`"),
    ];
    for (source, rest, words) in refused {
        says(&check(source, rest, &[]), 1, &[words]);
    }
    let allows = check("aws", &format!("path = \"prod/s\"\n{by_source}"), &["--upstream-policy", "aws", "--source", "aws"]);
    says(&allows, 0, &["secretsmanager:RotateSecret", "secretsmanager:DescribeSecret"]);
    assert!(!said::said(&allows).contains("PutSecretValue"), "it writes nothing itself");
    let allows = check("vault", &format!("path = \"/db/static-creds/app\"\n{by_source}"), &["--upstream-policy", "vault"]);
    says(&allows, 0, &["path \"db/static-creds/app\"", "path \"db/rotate-role/app\" {\n  capabilities = [\"update\"]"]);
    assert!(!said::said(&allows).contains("sys/leases"), "it has no lease");
}

//! Credentials that are made for one session: OpenBao's database engine over a real PostgreSQL, whose roles come and go with sessions.

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
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::{Daemon, Host, eventually};
use pool::{Connection, Pool, Work};
use postgres::Postgres;
use said::{said, says};
use serde_json::Value;
use servers::Server;
use stores::{UNLIMITED, secret};
use valetkey::client::{Error, Secret, Session, Swap};

/// One that asks for passwords on TCP, and knows the engine's user by one.
fn database(server: &Server, mount: &str) -> Option<Postgres> {
    let asks = "local all all trust\nhost all all 127.0.0.1/32 password\n";
    let postgres = postgres::start(servers::free_port(), Some(asks))?;
    pool::run(
        &postgres,
        "ALTER ROLE postgres PASSWORD 'marker-password'; CREATE TABLE counts (n bigint); GRANT SELECT ON counts TO public",
    );
    stores::vault_database(server, mount, postgres.port);
    Some(postgres)
}

fn configure(host: &Host, server: &Server, path: &str) {
    let mut rest = host.seal(&[("a/key", b"the-value-of-a-key")]) + &stores::vault_as_root(host, server.port);
    rest += &secret("db/login", "vault", &format!("path = \"{path}\"\nper-session = true"));
    rest += &secret("db/user", "vault", &format!("path = \"{path}\"\nfield = \"username\"\nper-session = true"));
    rest += &secret("db/word", "vault", &format!("path = \"{path}\"\nfield = \"password\"\nper-session = true"));
    rest += &secret("a/key", "sealed", "");
    let launcher = env!("CARGO_BIN_EXE_valetkey");
    let launched = format!(
        "[tool.launched]\nrun-as = {{ user = \"0\", exe = {launcher:?} }}\nsecrets.\"db/user\" = {{ env = \"DB_USER\" }}\n\
         secrets.\"db/word\" = {{ env = \"DB_WORD\" }}\nredact = true\n"
    );
    let tool = Host::tool("it", 0, &["db/login", "db/user", "db/word", "a/key"]) + UNLIMITED;
    host.configure("", &(rest + &launched + &tool));
}

fn text(secret: &Secret) -> String {
    secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// User and password of the whole that was lent.
fn login(secret: &Secret) -> (String, String) {
    let login: Value = serde_json::from_str(&text(secret)).unwrap();
    let field = |name: &str| login[name].as_str().unwrap().to_owned();
    (field("username"), field("password"))
}

async fn works(postgres: &Postgres, (user, word): &(String, String)) -> bool {
    Connection::open(postgres.port, user, word).await.is_ok()
}

async fn until_it_fails(postgres: &Postgres, login: &(String, String)) -> Duration {
    let begun = Instant::now();
    while works(postgres, login).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it still logs in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

fn listed(host: &Host) -> usize {
    let text = fs::read_to_string(host.path("var/leases.json")).unwrap_or_default();
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    list["leases"].as_object().map_or(0, serde_json::Map::len)
}

async fn open(host: &Host, secrets: &[&str]) -> Session {
    secrets.iter().fold(host.client().session("it"), |session, secret| session.secret(*secret)).open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_its_own_and_it_ends_with_the_session_however_that_ends() {
    let bao = servers::openbao();
    let Some(postgres) = database(bao, "each") else {
        return println!("SKIP: credentials for each session: PostgreSQL is not installed");
    };
    stores::vault_database_role(bao, "each", "app", "1h", "2h");
    let host = Host::new();
    configure(&host, bao, "/each/creds/app");
    let mut daemon = host.start();
    assert_eq!(listed(&host), 0, "nothing is made before somebody asks");
    let [one, two] = [open(&host, &["db/login", "db/user", "db/word"]).await, open(&host, &["db/login"]).await];
    let (mine, theirs) = (one.get("db/login").await.unwrap(), two.get("db/login").await.unwrap());
    let (first, second) = (login(&mine), login(&theirs));
    assert!(first.0 != second.0 && mine.version() != theirs.version(), "no two sessions share one");
    assert!(works(&postgres, &first).await && works(&postgres, &second).await);
    let (user, word) = (one.get("db/user").await.unwrap(), one.get("db/word").await.unwrap());
    assert_eq!((text(&user), text(&word)), first, "a user and its password come from one lease");
    assert_eq!((listed(&host), user.version()), (2, mine.version()));
    let listing = said(&host.operate(&["secrets"]));
    assert!(listing.contains("db/login") && listing.contains("per-session"), "{listing}");
    says(&host.operate(&["rotate", "db/login"]), 1, &["refused"]);

    // Its end, by its own will; by an operator's; with the launcher's process.
    drop((mine, user, word, one));
    println!("closed: good for {:?} more", until_it_fails(&postgres, &first).await);
    assert!(works(&postgres, &second).await, "the other goes on");
    says(&host.operate(&["revoke", "tool", "it"]), 0, &["1 sessions ended"]);
    println!("revoked: good for {:?} more", until_it_fails(&postgres, &second).await);
    let script = "echo user $DB_USER; printf '%s %s' $DB_USER $DB_WORD > $1; sleep 1; exec 1>&-; sleep 1";
    let out = host.path("launched");
    let launched = Command::new(env!("CARGO_BIN_EXE_valetkey"))
        .args(["run", "launched", "--socket", host.tools_socket().to_str().unwrap(), "--", "sh", "-c", script, "sh"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(launched.status.success(), "{}", said(&launched));
    assert!(String::from_utf8_lossy(&launched.stdout).contains("user [redacted:db/user]"), "{}", said(&launched));
    let lent = fs::read_to_string(&out).unwrap();
    let lent = lent.split_once(' ').map(|(user, word)| (user.to_owned(), word.to_owned())).unwrap();
    println!("launched and over: good for {:?} more", until_it_fails(&postgres, &lent).await);
    eventually("nothing is on the list", || listed(&host) == 0);

    // By an operator's word on the secret: the session goes on, without what it had, and another is made when it asks.
    let session = open(&host, &["db/login", "db/word"]).await;
    let revoked = login(&session.get("db/login").await.unwrap());
    let word = session.get("db/word").await.unwrap();
    says(&host.operate(&["revoke", "secret", "db/user"]), 0, &["given back: 1 credentials"]);
    assert!(!works(&postgres, &revoked).await, "when the command says so, it is so");
    let begun = Instant::now();
    let again = loop {
        let again = session.get("db/login").await.unwrap();
        if again.version() != word.version() {
            break again;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it was not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(works(&postgres, &login(&again)).await);
    assert_eq!(text(&session.get("db/word").await.unwrap()), login(&again).1, "all of it is of the new one");
    says(&host.operate(&["revoke", "secret", "db/login"]), 0, &["given back: 1 credentials"]);
    says(&host.operate(&["revoke", "secret", "db/login"]), 0, &["given back: 0 credentials"]);
    drop(session);

    // By the daemon's end; and by its death, after which the next one does it.
    let session = open(&host, &["db/login"]).await;
    let stopped = login(&session.get("db/login").await.unwrap());
    assert!(daemon.stop().success());
    // Or it would ask the next one.
    drop(session);
    println!("stopped: good for {:?} more", until_it_fails(&postgres, &stopped).await);
    let mut daemon = host.start();
    let session = open(&host, &["db/login"]).await;
    let killed = login(&session.get("db/login").await.unwrap());
    daemon.signal(libc::SIGKILL);
    daemon.wait(Duration::from_secs(5));
    drop(session);
    assert!(works(&postgres, &killed).await && listed(&host) == 1, "nobody could give it back");
    let daemon = host.start();
    // What the next one lends at once is none of what it gives back.
    let session = open(&host, &["db/login"]).await;
    let at_once = login(&session.get("db/login").await.unwrap());
    println!("killed and started: good for {:?} more", until_it_fails(&postgres, &killed).await);
    eventually("the old one is off the list", || listed(&host) == 1);
    assert!(works(&postgres, &at_once).await);
    drop(session);
    eventually("nothing is on the list", || listed(&host) == 0);
    let leases = pool::run(&postgres, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'");
    assert_eq!(leases, "0", "no role is left at the database");

    // Contained, its sessions' credentials go with them.
    let session = open(&host, &["db/login"]).await;
    let contained = login(&session.get("db/login").await.unwrap());
    says(&host.operate(&["contain", "it", "--dry-run"]), 0, &["db/login", "would be given back"]);
    says(&host.operate(&["contain", "it", "--yes"]), 0, &["db/login: given back", "all of 1 secrets"]);
    assert!(!works(&postgres, &contained).await, "when the command says so, it is so");
    let log = host.log();
    for (user, word) in [first, second, lent, stopped, killed, contained] {
        assert!(!log.contains(&word) && !log.contains(&user), "a value is in the log");
    }
    drop(daemon);
}

/// Whoever has the password that the engine was set up with can do nothing with it any more; what the engine makes goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_changes_its_own_password_when_an_operator_says_so() {
    let bao = servers::openbao();
    let Some(postgres) = database(bao, "own") else {
        return println!("SKIP: an engine's own password: PostgreSQL is not installed");
    };
    stores::vault_database_role(bao, "own", "app", "1h", "2h");
    let host = Host::new();
    configure(&host, bao, "/own/creds/app");
    let _daemon = host.start();
    let session = open(&host, &["db/login"]).await;
    let before = login(&session.get("db/login").await.unwrap());
    let known = ("postgres".to_owned(), "marker-password".to_owned());
    assert!(works(&postgres, &known).await);
    let root = |arguments: &[&str]| host.operate(&[&["rotate-root"], arguments].concat());
    says(&root(&["vault", "own/rotate-root/pg"]), 2, &["nobody can have the old one back", "say --yes"]);
    for (source, path, why) in [
        ("vault", "own/rotate-root/none", "the credential of that engine is not rotated"),
        ("vault", "own/roles/app", "the path is refused"),
        ("vault", "sys/rotate-root", "the path is refused"),
        ("vault", "own/rotate-root/../pg", "the path is refused"),
        ("none", "own/rotate-root/pg", "there is no source none"),
        ("sealed", "own/rotate-root/pg", "has no engines"),
    ] {
        says(&root(&[source, path, "--yes"]), 1, &[why]);
        assert!(works(&postgres, &known).await, "{path}");
    }
    says(&root(&["vault", "own/rotate-root/pg", "--yes"]), 0, &["a credential that nobody else knows"]);
    assert!(!works(&postgres, &known).await, "the old password is good still");
    assert!(works(&postgres, &before).await, "what was made goes on");
    let another = open(&host, &["db/login"]).await;
    assert!(works(&postgres, &login(&another.get("db/login").await.unwrap())).await, "and more can be made");
    eventually("it is on record", || {
        let dir = host.path("var/audit");
        let log = said(&host.valetkey(&["audit", "query", "--dir", dir.to_str().unwrap(), "--json"]));
        log.matches("rotate-root-done").count() == 3 && log.contains("vault own/rotate-root/pg")
    });
    assert!(!host.log().contains("marker-password"));
}

/// Many leases one after the other under a pool that is used all the time: the role's longest life is seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_lives_through_many_leases_and_no_query_fails() {
    let bao = servers::openbao();
    let Some(postgres) = database(bao, "pool") else {
        return println!("SKIP: leases under a pool: PostgreSQL is not installed");
    };
    stores::vault_database_role(bao, "pool", "app", "3s", "6s");
    let host = Host::new();
    configure(&host, bao, "/pool/creds/app");
    let _daemon = host.start();
    let session = open(&host, &["db/login"]).await;
    let (port, made) = (postgres.port, Arc::<AtomicU64>::default());
    let counted = made.clone();
    let pool = Swap::new(&session, "db/login", move |secret| {
        counted.fetch_add(1, Relaxed);
        async move {
            let (user, word) = login(&secret);
            Pool::as_user(port, &user, &word).await
        }
    });
    let pool = Arc::new(pool.await.unwrap());
    let work = Work::begin(&pool);
    let seconds: u64 = std::env::var("VALETKEY_LEASE_SECONDS").map_or(15, |number| number.parse().unwrap());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let ((queries, failures), made) = (work.end().await, made.load(Relaxed));
    println!("{seconds} s, {made} credentials one after the other, {queries} queries, {} failed", failures.len());
    assert!(failures.is_empty(), "{:?}\n{}", &failures[..failures.len().min(3)], host.log());
    assert!(made >= 3 && queries > 1000, "{made} {queries}");
    let roles = pool::run(&postgres, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'");
    assert!(roles.parse::<u32>().unwrap() <= 2, "those that were replaced are gone: {roles}");
}

/// A source that does not answer keeps nobody else waiting, and gives nobody somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_source_is_silent_the_ask_fails_and_others_are_served() {
    let host = Host::new();
    // Takes connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut rest = host.seal(&[("a/key", b"the-value-of-a-key")]) + &stores::vault_as_root(&host, port);
    rest += &secret("db/login", "vault", "path = \"/database/creds/app\"\nper-session = true");
    rest += &secret("a/key", "sealed", "");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/login", "a/key"]) + UNLIMITED));
    let mut daemon: Daemon = host.start();
    let session = open(&host, &["db/login", "a/key"]).await;
    let waits = {
        let session = session.clone();
        tokio::spawn(async move { session.fetch("db/login").await.map(drop) })
    };
    let other = open(&host, &["a/key"]).await;
    for _ in 0..50 {
        let begun = Instant::now();
        other.fetch("a/key").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    let refused = tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap();
    assert!(matches!(refused, Err(Error::Unavailable { .. } | Error::TimedOut(_))), "{refused:?}");
    eventually("the log says why", || host.log().contains("none could be made for this session"));
    assert!(daemon.stop().success());
}

/// Each with its line, and what to write instead.
#[test]
fn where_nothing_is_made_for_a_session_configuration_says_so() {
    let host = Host::new();
    let tool = "[tool.it]\nrun-as = { unit = \"mcp-it.service\" }\n";
    let vault = "[source.vault]\nkind = \"vault\"\naddress = \"http://127.0.0.1:1\"\nauth = { token-file = \"/run/token\" }\n";
    let made = "source = \"vault\"\npath = \"/database/creds/app\"\nper-session = true";
    let cases = [
        ("source = \"sealed\"\nper-session = true", "{}", "`per-session` in [secret.\"db\"] is for what an engine"),
        ("source = \"vault\"\npath = \"app\"\nper-session = true", "{}", "path = \"/database/creds/app\""),
        (&format!("{made}\nrotation = {{ generate = {{}} }}"), "{}", "`rotation` in [secret.\"db\"] has no meaning beside"),
        (&format!("{made}\nmax-stale = \"1m\""), "{}", "`max-stale` in [secret.\"db\"] has no meaning beside"),
        (made, "{ credential = \"db\" }", "a unit has none"),
    ];
    for (secret, grant, expected) in cases {
        let sealed = host.seal(&[("x", b"the-value-of-x")]);
        host.configure("", &format!("{sealed}{vault}[secret.\"db\"]\n{secret}\n{tool}secrets.\"db\" = {grant}\n"));
        says(&host.valetkey(&["check", "--config", host.config().to_str().unwrap()]), 1, &[expected]);
    }
    host.configure("", &format!("{vault}[secret.\"db\"]\n{made}\n{tool}secrets.\"db\" = {{}}\n"));
    says(&host.valetkey(&["check", "--config", host.config().to_str().unwrap()]), 0, &[]);
    let policy = host.valetkey(&["check", "--config", host.config().to_str().unwrap(), "--upstream-policy", "vault"]);
    says(&policy, 0, &["database/creds/app", "sys/leases/revoke", "sys/leases/renew"]);
}

/// `[source.sts]` of one role, at this AWS API.
fn sts(host: &Host, port: u16, policy: &std::path::Path) -> (String, Vec<(&'static str, String)>) {
    let (_, environment) = stores::aws(host, port, "secret");
    let source = format!(
        "[source.sts]\nkind = \"aws-sts\"\nregion = \"eu-west-1\"\nrole-arn = \"arn:aws:iam::123456789012:role/deploy\"\n\
         sts-endpoint = \"http://127.0.0.1:{port}\"\nsession-policy = {policy:?}\nlife = \"15m\"\n"
    );
    (source, environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_credentials_of_a_role_narrowed_by_a_policy_and_named_after_its_tool() {
    let moto = servers::start_moto(None);
    let host = Host::new();
    let policy = host.path("deploy.json");
    let statement = r#"{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::artifacts/*"}"#;
    fs::write(&policy, format!("{{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [{statement}]\n}}\n")).unwrap();
    let (mut rest, environment) = sts(&host, moto.port, &policy);
    for (name, field) in [("whole", ""), ("id", "AccessKeyId"), ("key", "SecretAccessKey"), ("token", "SessionToken")] {
        let field = if field.is_empty() { String::new() } else { format!("field = \"{field}\"\n") };
        rest += &secret(&format!("aws/{name}"), "sts", &format!("{field}per-session = true"));
    }
    let names = ["aws/whole", "aws/id", "aws/key", "aws/token"];
    host.configure("", &(rest + &Host::tool("it", 0, &names) + UNLIMITED));
    let environment = stores::borrowed(&environment);
    let _daemon = host.start_with(&environment);

    let (one, two) = (open(&host, &names).await, open(&host, &["aws/whole"]).await);
    let mut of_one = Vec::new();
    for name in names {
        of_one.push(text(&one.get(name).await.unwrap()));
    }
    let whole: Value = serde_json::from_str(&of_one[0]).unwrap();
    let fields = ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(|field| whole[field].as_str().unwrap().to_owned());
    assert_eq!(of_one[1..], fields, "all of a session come from one call");
    assert_eq!(whole["Version"], 1);
    let other: Value = serde_json::from_str(&text(&two.get("aws/whole").await.unwrap())).unwrap();
    assert_ne!(whole["AccessKeyId"], other["AccessKeyId"], "no two sessions share one");

    // They are good, and AWS sees whose they are and how little they may do.
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
        .region(aws_sdk_sts::config::Region::new("eu-west-1"))
        .credentials_provider(aws_sdk_sts::config::Credentials::new(
            &fields[0],
            &fields[1],
            Some(fields[2].clone()),
            None,
            "test",
        ))
        .endpoint_url(format!("http://127.0.0.1:{}", moto.port));
    let caller = aws_sdk_sts::Client::from_conf(config.build()).get_caller_identity().send().await.unwrap();
    assert_eq!(caller.arn(), Some("arn:aws:sts::123456789012:assumed-role/deploy/valetkey-it"));
    let (_, data) = servers::http(moto.port, "GET", "/moto-api/data.json", &[], "").unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    let taken = data["sts"]["AssumedRole"].as_array().unwrap();
    let narrowed = |role: &&Value| {
        let policy: Value = serde_json::from_str(role["policy"].as_str().unwrap_or_default()).unwrap_or_default();
        policy["Statement"][0] == serde_json::from_str::<Value>(statement).unwrap()
    };
    assert_eq!((taken.len(), taken.iter().filter(narrowed).count()), (2, 2), "{taken:?}");

    // Without the policy that is meant nothing is taken at all.
    fs::write(&policy, "{}").unwrap();
    let three = open(&host, &["aws/whole"]).await;
    match three.get("aws/whole").await.map(drop) {
        Err(Error::Unavailable { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(host.log().contains("it has no `Statement`"), "{}", host.log());
    let (_, data) = servers::http(moto.port, "GET", "/moto-api/data.json", &[], "").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["sts"]["AssumedRole"].as_array().unwrap().len(), 2);

    // AWS takes none back: who revokes what was made is told so. The sessions have none of it any more, and are not made others here.
    let out = host.operate(&["revoke", "secret", "aws/key"]);
    says(&out, 1, &["given back: 0", "STILL GOOD, of tool it: ", "s more", "2 credentials that were made of it are still good"]);
    eventually("it is withdrawn", || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(one.get("aws/id")).is_err())
    });

    // Who contains the tool is told so, and until when, by the next daemon too.
    says(&host.operate(&["contain", "it", "--dry-run"]), 1, &["aws/whole: EXPOSED", "until it ends by itself"]);
    let out = host.operate(&["contain", "it", "--yes"]);
    let all = names.map(|name| format!("{name}: EXPOSED"));
    says(
        &out,
        1,
        &["1 more of it, of other sessions", "takes no credentials of a role back", "revoke the role's active sessions"],
    );
    says(&out, 1, &all.each_ref().map(String::as_str));
    drop((one, two, three));
    assert_eq!(listed(&host), 2);
    drop(_daemon);
    let _daemon = host.start_with(&environment);
    let out = host.operate(&["contain", "it", "--yes"]);
    says(&out, 1, &["s more"]);
    says(&out, 1, &all.each_ref().map(String::as_str));
    let kept = fs::read_to_string(host.path("var/leases.json")).unwrap();
    for value in &fields {
        assert!(!host.log().contains(value) && !kept.contains(value), "a value is in the log, or on the list");
    }
    let policy = host.valetkey(&["check", "--config", host.config().to_str().unwrap(), "--upstream-policy", "aws"]);
    says(&policy, 0, &["sts:AssumeRole", "arn:aws:iam::123456789012:role/deploy"]);
}

#[test]
fn a_role_is_for_sessions_and_says_what_is_wrong() {
    let host = Host::new();
    let (good, _) = sts(&host, 1, std::path::Path::new("/etc/valetkey/deploy.json"));
    let tool = Host::tool("it", 0, &["s"]) + UNLIMITED;
    let cases = [
        (good.as_str(), "", "per-session = true beside it"),
        (&good, "per-session = true\npath = \"x\"", "the role is that of its source"),
        (&good, "per-session = true\nfield = \"password\"", "is none of a credential of AWS"),
        (&good, "per-session = true\nrotation = { source = {} }", "has no meaning beside `per-session`"),
        (&good.replace("15m", "5m"), "per-session = true", "15 minutes to 12 hours"),
        (&good.replace("role-arn", "#"), "per-session = true", "role-arn"),
    ];
    for (source, rest, words) in cases {
        host.configure("", &format!("{source}{}{tool}", secret("s", "sts", rest)));
        says(&host.valetkey(&["check", "--config", host.config().to_str().unwrap()]), 1, &[words]);
    }
}

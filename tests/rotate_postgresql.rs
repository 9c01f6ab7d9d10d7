//! A tool with a pool of connections to a real PostgreSQL, whose password is rotated under it by the shipped hook: not one query fails.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use daemon::Host;
use postgres::Postgres;
use stores::{UNLIMITED, secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};
use valetkey::client::Swap;

/// One that asks everybody for a password. In the clear on loopback, so that the client below stays small; what the server keeps is the hook's
/// verifier all the same.
fn postgres() -> Option<Postgres> {
    let asks = "local all all trust\nhost all all 127.0.0.1/32 password\n";
    let postgres = postgres::start(servers::free_port(), Some(asks))?;
    run(
        &postgres,
        "CREATE ROLE admin LOGIN CREATEROLE PASSWORD 'the-password-of-admin'; CREATE ROLE app NOLOGIN; \
         CREATE ROLE app_a LOGIN IN ROLE app PASSWORD 'the-first-password'; CREATE ROLE app_b NOLOGIN IN ROLE app; \
         CREATE TABLE counts (n bigint); INSERT INTO counts VALUES (0); GRANT SELECT, UPDATE ON counts TO app;",
    );
    Some(postgres)
}

/// Over the socket, which asks for no password.
fn run(postgres: &Postgres, statements: &str) -> String {
    let out = Command::new(postgres.programs.join("psql"))
        .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
        .arg(postgres.folder.path().join("data"))
        .args(["-p", &postgres.port.to_string(), "-d", "postgres", "-c", statements])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A connection that knows of PostgreSQL's protocol what a query needs (version 3, "Message Formats").
struct Connection(TcpStream);

impl Connection {
    async fn open(port: u16, user: &str, password: &str) -> Result<Self, String> {
        let mut connection = Self(TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?);
        let mut start = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", "postgres", ""] {
            start.extend(text.as_bytes());
            start.push(0);
        }
        connection.send(None, &start).await?;
        loop {
            match connection.receive().await? {
                (b'R', body) if body[..4] == [0, 0, 0, 3] => {
                    connection.send(Some(b'p'), &[password.as_bytes(), b"\0"].concat()).await?;
                }
                (b'Z', _) => return Ok(connection),
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        self.0.write_all(&message).await.map_err(|error| error.to_string())
    }

    /// The next message; what is an error there is one here.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), String> {
        let broken = |error: std::io::Error| format!("the connection broke: {error}");
        let kind = self.0.read_u8().await.map_err(broken)?;
        let mut body = vec![0; self.0.read_u32().await.map_err(broken)? as usize - 4];
        self.0.read_exact(&mut body).await.map_err(broken)?;
        match kind {
            b'E' => Err(String::from_utf8_lossy(&body).replace('\0', " ")),
            _ => Ok((kind, body)),
        }
    }

    async fn query(&mut self, statement: &str) -> Result<(), String> {
        self.send(Some(b'Q'), &[statement.as_bytes(), b"\0"].concat()).await?;
        while self.receive().await?.0 != b'Z' {}
        Ok(())
    }
}

const CONNECTIONS: usize = 20;

/// As many connections as a pool has, opened at once.
struct Pool(Vec<Mutex<Connection>>);

impl Pool {
    async fn of(url: &str) -> Result<Self, String> {
        let (login, place) = url.strip_prefix("postgresql://").unwrap().split_once('@').unwrap();
        let ((user, password), port) = (login.split_once(':').unwrap(), place.split([':', '/']).nth(1).unwrap());
        let opening = (0..CONNECTIONS).map(|_| Connection::open(port.parse().unwrap(), user, password));
        let connections = futures_util::future::try_join_all(opening).await?;
        Ok(Self(connections.into_iter().map(Mutex::new).collect()))
    }
}

/// The shipped hook, as a package would install it.
fn install_hook(host: &Host) -> String {
    let installed = host.path("rotate-postgresql");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/rotators/postgresql"), &installed).unwrap();
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).unwrap();
    installed.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn not_one_query_of_a_pool_fails_while_its_login_rotates() {
    let Some(postgres) = postgres() else {
        return println!("SKIP: rotation under a pool: PostgreSQL is not installed");
    };
    let rotations: usize = std::env::var("VALETKEY_ROTATIONS").map_or(25, |number| number.parse().unwrap());
    let bao = servers::openbao();
    let host = Host::new();
    let url = |login: &str| format!("postgresql://{login}@127.0.0.1:{}/postgres", postgres.port);
    stores::vault_put(bao, "rotate/app", &format!("{{\"url\":\"{}\"}}", url("app_a:the-first-password")));
    stores::vault_put(bao, "rotate/admin", &format!("{{\"url\":\"{}\"}}", url("admin:the-password-of-admin")));
    let hook = install_hook(&host);
    let rotation = format!("rotation = {{ hook = [\"{hook}\", \"app_a\", \"app_b\"], with = [\"db/admin\"] }}");
    let mut rest = stores::vault_as_root(&host, bao.port);
    rest += &secret("db/url", "vault", &format!("path = \"rotate/app\"\nfield = \"url\"\n{rotation}"));
    rest += &secret("db/admin", "vault", "path = \"rotate/admin\"\nfield = \"url\"");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/url"]) + UNLIMITED));
    let _daemon = host.start();
    let session = host.client().session("it").secret("db/url").open().await.unwrap();
    let pool =
        Arc::new(Swap::new(&session, "db/url", |url| async move { Pool::of(&url.to_text().unwrap()).await }).await.unwrap());

    let (stop, queries, failures) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let work: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (pool, stop, queries, failures) = (pool.clone(), stop.clone(), queries.clone(), failures.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let current = pool.get();
                    let mut connection = current.0[number].lock().await;
                    match connection.query("SELECT n FROM counts").await {
                        Ok(()) => _ = queries.fetch_add(1, Relaxed),
                        Err(error) => failures.lock().await.push(error),
                    }
                    // A tool is not always busy: the processors are shared with the servers here.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();

    let mut took = Vec::new();
    for number in 0..rotations {
        let begun = Instant::now();
        let socket = host.admin_socket();
        let out = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
            command.args(["rotate", "db/url", "--json", "--socket", socket.to_str().unwrap()]).output().unwrap()
        });
        let out = out.await.unwrap();
        assert!(out.status.success(), "rotation {number}: {}\n{}", String::from_utf8_lossy(&out.stdout), host.log());
        took.push(begun.elapsed());
    }
    stop.store(true, Relaxed);
    for worker in work {
        worker.await.unwrap();
    }
    let failures = failures.lock().await;
    took.sort();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{rotations} rotations, {} queries over {CONNECTIONS} connections, {} failed; from rotate to the last holder moved and the old login retired: \
         p50 {p50:?}, p99 {p99:?}",
        queries.load(Relaxed),
        failures.len()
    );
    assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(3)]);
    assert!(queries.load(Relaxed) > rotations as u64 * 20, "queries were under way");

    // Only one of the two can log in, and by the value that is current.
    let logins = run(
        &postgres,
        "SELECT count(*) FROM pg_authid WHERE rolname IN ('app_a', 'app_b') AND rolcanlogin AND rolpassword LIKE 'SCRAM%'",
    );
    assert_eq!(logins, "1");
    let first = Connection::open(postgres.port, "app_a", "the-first-password").await;
    assert!(first.is_err(), "the first password is not good any more");
    let log = host.log();
    assert!(!log.contains("the-password-of-admin") && !log.contains("postgresql://"), "no value is in the log");
}

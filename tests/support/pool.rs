//! A pool of connections to PostgreSQL, as a tool has one.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    task::JoinHandle,
};
use valetkey::client::Swap;

use super::{postgres, postgres::Postgres, servers};

/// One that asks everybody for a password, with two roles that take turns and one that may change them, as the shipped hook wants it. In the
/// clear on loopback, so that the client below stays small; what the server keeps is the hook's verifier all the same.
pub fn rotating() -> Option<Postgres> {
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

/// The shipped hook for it, as a package would install it.
pub fn install_hook(to: &Path) -> String {
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/rotators/postgresql"), to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    to.display().to_string()
}

/// Over the socket, which asks for no password.
pub fn run(postgres: &Postgres, statements: &str) -> String {
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
pub struct Connection(TcpStream);

impl Connection {
    pub async fn open(port: u16, user: &str, password: &str) -> Result<Self, String> {
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

    pub async fn query(&mut self, statement: &str) -> Result<(), String> {
        self.send(Some(b'Q'), &[statement.as_bytes(), b"\0"].concat()).await?;
        while self.receive().await?.0 != b'Z' {}
        Ok(())
    }
}

pub const CONNECTIONS: usize = 20;

/// As many connections as a pool has, opened at once.
pub struct Pool(pub Vec<Mutex<Connection>>);

impl Pool {
    pub async fn of(url: &str) -> Result<Self, String> {
        let (login, place) = url.strip_prefix("postgresql://").unwrap().split_once('@').unwrap();
        let ((user, password), port) = (login.split_once(':').unwrap(), place.split([':', '/']).nth(1).unwrap());
        Self::as_user(port.parse().unwrap(), user, password).await
    }

    pub async fn as_user(port: u16, user: &str, password: &str) -> Result<Self, String> {
        let opening = (0..CONNECTIONS).map(|_| Connection::open(port, user, password));
        let connections = futures_util::future::try_join_all(opening).await?;
        Ok(Self(connections.into_iter().map(Mutex::new).collect()))
    }
}

/// Queries over all connections of a pool, until they are stopped.
pub struct Work {
    stop: Arc<AtomicBool>,
    queries: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Work {
    pub fn begin(pool: &Arc<Swap<Pool>>) -> Self {
        let (stop, queries, failures) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let worker = |number| {
            let (pool, stop, queries, failures) = (pool.clone(), stop.clone(), queries.clone(), failures.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let current = pool.get();
                    let connection: &Mutex<Connection> = &current.0[number];
                    match connection.lock().await.query("SELECT n FROM counts").await {
                        Ok(()) => _ = queries.fetch_add(1, Relaxed),
                        Err(error) => failures.lock().await.push(error),
                    }
                    // A tool is not always busy: the processors are shared with the servers here.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let workers = (0..CONNECTIONS).map(worker).collect();
        Self { stop, queries, failures, workers }
    }

    /// How many there were, and what went wrong.
    pub async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        (self.queries.load(Relaxed), std::mem::take(&mut *self.failures.lock().await))
    }
}

//! A tool with a pool of connections to a real PostgreSQL, whose password is rotated under it by the shipped hook: not one query fails.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/pool.rs"]
mod pool;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{process::Command, sync::Arc, time::Instant};

use daemon::Host;
use pool::{CONNECTIONS, Connection, Pool, Work, install_hook, rotating, run};
use stores::{UNLIMITED, secret};
use valetkey::client::Swap;

#[tokio::test(flavor = "multi_thread")]
async fn not_one_query_of_a_pool_fails_while_its_login_rotates() {
    let Some(postgres) = rotating() else {
        return println!("SKIP: rotation under a pool: PostgreSQL is not installed");
    };
    let rotations: usize = std::env::var("VALETKEY_ROTATIONS").map_or(25, |number| number.parse().unwrap());
    let bao = servers::openbao();
    let host = Host::new();
    let url = |login: &str| format!("postgresql://{login}@127.0.0.1:{}/postgres", postgres.port);
    stores::vault_put(bao, "rotate/app", &format!("{{\"url\":\"{}\"}}", url("app_a:the-first-password")));
    stores::vault_put(bao, "rotate/admin", &format!("{{\"url\":\"{}\"}}", url("admin:the-password-of-admin")));
    let hook = install_hook(&host.path("rotate-postgresql"));
    let rotation = format!("rotation = {{ hook = [\"{hook}\", \"app_a\", \"app_b\"], with = [\"db/admin\"] }}");
    let mut rest = stores::vault_as_root(&host, bao.port);
    rest += &secret("db/url", "vault", &format!("path = \"rotate/app\"\nfield = \"url\"\n{rotation}"));
    rest += &secret("db/admin", "vault", "path = \"rotate/admin\"\nfield = \"url\"");
    host.configure("", &(rest + &Host::tool("it", 0, &["db/url"]) + UNLIMITED));
    let _daemon = host.start();
    let session = host.client().session("it").secret("db/url").open().await.unwrap();
    let pool =
        Arc::new(Swap::new(&session, "db/url", |url| async move { Pool::of(&url.to_text().unwrap()).await }).await.unwrap());

    let work = Work::begin(&pool);
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
    let (queries, failures) = work.end().await;
    took.sort();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{rotations} rotations, {} queries over {CONNECTIONS} connections, {} failed; from rotate to the last holder moved and the old login retired: \
         p50 {p50:?}, p99 {p99:?}",
        queries,
        failures.len()
    );
    assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(3)]);
    assert!(queries > rotations as u64 * 20, "queries were under way");

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

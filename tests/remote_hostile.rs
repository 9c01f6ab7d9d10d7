//! Hostile input of every layer at once, for as long as one likes: broken TLS, broken HTTP/2, broken calls, floods and stalls, while honest
//! callers are served. A quarter of a minute here; `VALETKEY_TEST_HOSTILE_SECONDS=3600 cargo test --test remote_hostile -- --nocapture`
//! goes on for an hour, and prints the table.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/h2.rs"]
mod h2;
#[path = "support/remote.rs"]
mod remote;

use std::{
    fs,
    future::Future,
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use certificates::{CLIENT, Issued, Wanted};
use daemon::Daemon;
use h2::{PREFACE, frame, head, head_of, literal};
use remote::{Site, VALUE};
use rustls::{
    ClientConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What attackers share.
struct Field {
    port: u16,
    /// Of a tool that there is, and that is granted nothing.
    hostile: Issued,
    with_certificate: Arc<ClientConfig>,
    anonymous: Arc<ClientConfig>,
    over: AtomicBool,
}

/// splitmix64: the same for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// A few edits: bytes changed, taken out, put in, doubled, or all that follows left away.
    fn edit(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len().max(1));
            match self.below(6) {
                _ if bytes.is_empty() => bytes.extend(self.bytes(16)),
                0 | 1 => bytes[at] = self.next() as u8,
                2 => bytes[at] ^= 1 << self.below(8),
                3 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                4 => _ = bytes.splice(at..at, self.bytes(16)),
                _ if self.below(4) == 0 => bytes.truncate(at),
                _ => {
                    let piece = bytes[at..(at + 1 + self.below(64)).min(bytes.len())].to_vec();
                    let _ = bytes.splice(at..at, piece);
                }
            }
        }
    }
}

impl Field {
    fn new(site: &Site) -> Self {
        let hostile = site.clients.issue(&Wanted { names: &["spiffe://example.org/tools/hostile"], ..CLIENT });
        let (with_certificate, anonymous) = (Arc::new(site.tls_config(Some(&hostile))), Arc::new(site.tls_config(None)));
        Self { port: site.port, hostile, with_certificate, anonymous, over: AtomicBool::new(false) }
    }

    /// From one of many addresses: what one address may do is bounded, and bounded for each alike.
    async fn connect(&self, chance: &mut Chance) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 1, chance.next() as u8, 2 + chance.below(250) as u8), 0).into())?;
        socket.connect((Ipv4Addr::LOCALHOST, self.port).into()).await
    }

    async fn tls(&self, config: &Arc<ClientConfig>, chance: &mut Chance) -> io::Result<TlsStream<TcpStream>> {
        self.tls_over(config, self.connect(chance).await?).await
    }

    async fn tls_over<S: AsyncRead + AsyncWrite + Unpin>(&self, config: &Arc<ClientConfig>, over: S) -> io::Result<TlsStream<S>> {
        TlsConnector::from(config.clone()).connect(ServerName::try_from("localhost").unwrap(), over).await
    }

    /// Writes all of it on a connection that has shown its certificate, and reads what comes until the daemon has had enough, or `at_most`.
    async fn say(&self, chance: &mut Chance, bytes: Vec<u8>, at_most: Duration) -> io::Result<()> {
        let stream = self.tls(&self.with_certificate, chance).await?;
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = async { drop(write.write_all(&bytes).await) };
        let reading = read_all(&mut read);
        let _ = timeout(at_most, async { tokio::join!(writing, reading) }).await;
        Ok(())
    }

    /// Writes `what` on and on, until the daemon ends the connection, or two seconds are over.
    async fn flood(&self, chance: &mut Chance, first: Vec<u8>, mut what: impl FnMut(u32) -> Vec<u8>) -> io::Result<()> {
        let stream = self.tls(&self.with_certificate, chance).await?;
        let (mut read, mut write) = tokio::io::split(stream);
        let flooding = async {
            write.write_all(PREFACE).await?;
            write.write_all(&first).await?;
            for number in 0.. {
                write.write_all(&what(number)).await?;
            }
            io::Result::Ok(())
        };
        let _ = timeout(Duration::from_secs(2), async {
            tokio::select! { _ = flooding => (), () = read_all(&mut read) => () }
        })
        .await;
        Ok(())
    }
}

async fn read_all(read: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; 16 * 1024];
    while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// A wire that now and then changes a byte on its way to the daemon.
struct Torn(TcpStream, Chance);

impl AsyncRead for Torn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Torn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = buf.to_vec();
        if self.1.below(2) == 0 && !bytes.is_empty() {
            let at = self.1.below(bytes.len());
            bytes[at] ^= 1 << self.1.below(8);
        }
        Pin::new(&mut self.0).poll_write(cx, &bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Shows a certificate that is none any more, signed for by the right key.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

const CALLS: &[&str] = &[
    "/valetkey.v1.Broker/Session",
    "/valetkey.v1.Broker/OpenSession",
    "/valetkey.v1.Broker/GetSecrets",
    "/valetkey.v1.Broker/AcknowledgeVersion",
    "/valetkey.v1.Broker/RenewSession",
    "/valetkey.v1.Broker/CloseSession",
    "/valetkey.v1.Broker/WatchSecrets",
    "/valetkey.v1.Broker/Redact",
    "/valetkey.v1.Admin/Status",
    "/valetkey.v1.Admin/Explain",
    "/valetkey.v1.Admin/Contain",
    "/valetkey.v1.Admin/Rotate",
    "/valetkey.v1.Admin/IssueToken",
    "/valetkey.v1.Admin/Redact",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/no/such",
];

/// A message as gRPC frames it.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// `Open` with a tool, a scope and a purpose.
fn opens() -> Vec<u8> {
    [&[10, 7][..], b"hostile", &[18, 5], b"a/key", &[26, 4], b"harm"].concat()
}

/// Calls one after the other, each with its message; some with more headers than they should have.
fn calls(chance: &mut Chance) -> Vec<u8> {
    let mut all = PREFACE.to_vec();
    for number in 0..=chance.below(40) as u32 {
        let stream = 2 * number + 1;
        let mut body = opens();
        chance.edit(&mut body);
        let mut body = message(&body);
        if chance.below(4) == 0 {
            chance.edit(&mut body);
        }
        let mut headers = head_of(chance.one(CALLS));
        match chance.below(6) {
            0 => headers.extend(literal("grpc-encoding", chance.one(&["gzip", "zstd", "identity", "x"]))),
            1 => headers.extend(literal("grpc-timeout", chance.one(&["1n", "99999999H", "-1S", "x", "99999999999S"]))),
            2 => headers.extend(literal("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")),
            _ => {}
        }
        all.extend(frame(1, 4, stream, &headers));
        all.extend(frame(0, chance.below(2) as u8, stream, &body));
    }
    all
}

type Attack = for<'a> fn(&'a Field, &'a mut Chance) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

const SOON: Duration = Duration::from_millis(500);

/// By name. Each is one try.
const ATTACKS: &[(&str, Attack)] =
    &[
        ("bytes that are no TLS", |field, chance| {
            Box::pin(async move {
                let mut stream = field.connect(chance).await?;
                stream.write_all(&chance.bytes(4000)).await?;
                let _ = timeout(SOON, read_all(&mut stream)).await;
                Ok(())
            })
        }),
        ("ClientHello, edited", |field, chance| {
            Box::pin(async move {
                let name = ServerName::try_from("localhost").unwrap();
                let mut hello = Vec::new();
                rustls::ClientConnection::new(field.with_certificate.clone(), name).unwrap().write_tls(&mut hello)?;
                chance.edit(&mut hello);
                let mut stream = field.connect(chance).await?;
                stream.write_all(&hello).await?;
                let _ = timeout(SOON, read_all(&mut stream)).await;
                Ok(())
            })
        }),
        ("records changed on the way", |field, chance| {
            Box::pin(async move {
                let torn = Torn(field.connect(chance).await?, Chance(chance.next()));
                let mut stream = timeout(SOON, field.tls_over(&field.with_certificate, torn)).await??;
                stream.write_all(&calls(chance)).await?;
                let _ = timeout(SOON, read_all(&mut stream)).await;
                Ok(())
            })
        }),
        ("client certificate, edited", |field, chance| {
            Box::pin(async move {
                let mut der = field.hostile.der.clone();
                chance.edit(&mut der);
                let key = PrivateKeyDer::from_pem_slice(field.hostile.key.as_bytes()).unwrap();
                let shown = CertifiedKey::new(vec![CertificateDer::from(der)], any_supported_type(&key).unwrap());
                let mut config = ClientConfig::clone(&field.anonymous);
                config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(shown)));
                let mut stream = field.tls(&Arc::new(config), chance).await?;
                let _ = timeout(SOON, read_all(&mut stream)).await;
                Ok(())
            })
        }),
        ("no certificate", |field, chance| {
            Box::pin(async move {
                let mut stream = field.tls(&field.anonymous, chance).await?;
                stream.write_all(&calls(chance)).await?;
                let _ = timeout(SOON, read_all(&mut stream)).await;
                Ok(())
            })
        }),
        ("HTTP/2, edited", |field, chance| {
            Box::pin(async move {
                let mut bytes = calls(chance);
                chance.edit(&mut bytes);
                field.say(chance, bytes, SOON).await
            })
        }),
        ("frames by chance", |field, chance| {
            Box::pin(async move {
                let mut bytes = PREFACE.to_vec();
                for _ in 0..chance.below(60) {
                    let payload = if chance.below(3) == 0 { head() } else { chance.bytes(300) };
                    bytes.extend(frame(chance.below(12) as u8, chance.next() as u8, chance.below(20) as u32, &payload));
                }
                field.say(chance, bytes, SOON).await
            })
        }),
        ("calls with edited messages", |field, chance| {
            Box::pin(async move {
                let bytes = calls(chance);
                field.say(chance, bytes, SOON).await
            })
        }),
        ("streams reset as they open", |field, chance| {
            Box::pin(field.flood(chance, Vec::new(), |number| {
                let stream = 2 * number + 1;
                [frame(1, 4, stream, &head()), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
            }))
        }),
        ("CONTINUATION without an end", |field, chance| {
            Box::pin(field.flood(chance, frame(1, 0, 1, &head()), |number| match number % 2 {
                0 => frame(9, 0, 1, &literal("x-filler", &"y".repeat(100)).repeat(100)),
                _ => frame(9, 0, 1, &[]).repeat(100),
            }))
        }),
        ("headers that unpack to much", |field, chance| {
            // One long header into the table of the other side (RFC 7541, 6.2.1), and references to it by the thousand.
            let long: Vec<u8> = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
            let first = [head(), long].concat();
            Box::pin(field.flood(chance, frame(1, 5, 1, &first), |number| {
                frame(1, 5, 2 * number + 3, &[head(), vec![0xbe; 15_000]].concat())
            }))
        }),
        ("giant metadata", |field, chance| {
            Box::pin(async move {
                let many = literal("x-filler", &"y".repeat(120)).repeat(100 + chance.below(100));
                let mut bytes = [PREFACE, &frame(1, 0, 1, &head())].concat();
                (0..chance.below(200)).for_each(|_| bytes.extend(frame(9, 0, 1, &many)));
                bytes.extend(frame(9, 4, 1, &[]));
                field.say(chance, bytes, SOON).await
            })
        }),
        ("pings, settings, windows", |field, chance| {
            let kind = chance.below(5);
            Box::pin(field.flood(chance, frame(1, 4, 1, &head()), move |_| {
                let one = match kind {
                    0 => frame(6, 0, 0, &[7; 8]),
                    1 => frame(4, 0, 0, &[]),
                    2 => frame(8, 0, 0, &1_u32.to_be_bytes()),
                    3 => frame(0, 0, 1, &[]),
                    _ => frame(2, 0, 1, &[0, 0, 0, 3, 16]),
                };
                one.repeat(200)
            }))
        }),
        ("a byte at a time", |field, chance| {
            Box::pin(async move {
                let mut stream = field.tls(&field.with_certificate, chance).await?;
                for byte in calls(chance) {
                    stream.write_all(&[byte]).await?;
                    sleep(Duration::from_millis(150)).await;
                    if field.over.load(Relaxed) {
                        break;
                    }
                }
                Ok(())
            })
        }),
        ("asks and never reads", |field, chance| {
            Box::pin(async move {
                // No window at all for what is answered (RFC 9113, 6.5.2).
                let mut stream = field.tls(&field.with_certificate, chance).await?;
                let window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
                stream.write_all(&[&PREFACE[..24], &window, &calls(chance)[PREFACE.len()..]].concat()).await?;
                for _ in 0..20 {
                    sleep(Duration::from_millis(200)).await;
                    stream.write_all(&frame(6, 0, 0, &[7; 8])).await?;
                    if field.over.load(Relaxed) {
                        break;
                    }
                }
                Ok(())
            })
        }),
    ];

/// What somebody honest went through.
#[derive(Default)]
struct Served {
    took: Vec<Duration>,
    failed: Vec<String>,
}

impl Served {
    fn line(&mut self, who: &str) -> String {
        self.took.sort();
        let at = |share: f64| self.took[((self.took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        let (count, failed) = (self.took.len(), self.failed.len());
        format!("| {who} | {count} | {failed} | {:.1} | {:.1} | {:.1} |", at(0.5), at(0.99), at(1.0))
    }
}

/// Calls again and again until all is over.
async fn honest<F: Future<Output = Result<(), String>>>(field: &Field, pause: Duration, mut call: impl FnMut() -> F) -> Served {
    let mut served = Served::default();
    while !field.over.load(Relaxed) {
        let begun = Instant::now();
        match call().await {
            Ok(()) => served.took.push(begun.elapsed()),
            Err(why) => served.failed.push(why),
        }
        sleep(pause).await;
    }
    served
}

fn files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

fn size(directory: &std::path::Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_of_every_layer_at_once() {
    let seconds = std::env::var("VALETKEY_TEST_HOSTILE_SECONDS").map_or(15, |seconds| seconds.parse().unwrap());
    let hostile = "[tool.hostile]\nrun-as = { certificate = { uri = \"spiffe://example.org/tools/hostile\" } }\n";
    // As many failures as it takes to be heard each time: here it is what reads the bytes that is tried, not who is let near it.
    let remote =
        "failures-per-minute = 100000\nmax-connections-per-address = 200\nhandshake-timeout = \"2s\"\nrequest-timeout = \"3s\"\n";
    let site =
        Site::new(remote, &format!("{}{hostile}", Site::TOOL.replace("limits = {", "limits = { per-session = 1000000000,")));
    let mut daemon = site.start();
    let field = Arc::new(Field::new(&site));
    let caller = site.caller("honest", &site.client()).client().timeout(Duration::from_secs(10));
    let far = caller.session("billing").secret("a/key").open().await.unwrap();
    let near = site.host.client().session("billing").secret("a/key").open().await.unwrap();
    let fetch = async |session: &valetkey::client::Session| match session.fetch("a/key").await {
        Ok(secret) if secret.to_text().is_ok_and(|text| text.as_bytes() == VALUE) => Ok(()),
        Ok(_) => Err("another value".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let newcomer = async || {
        let session = caller.session("billing").secret("a/key").open().await.map_err(|error| error.to_string())?;
        fetch(&session).await
    };
    sleep(Duration::from_secs(1)).await;
    let (rss_before, files_before, processor_before) = (daemon.rss(), files(&daemon), daemon.processor());
    let begun = Instant::now();
    let tries: Arc<Vec<AtomicU64>> = Arc::new(ATTACKS.iter().map(|_| AtomicU64::new(0)).collect());
    let attackers: Vec<_> = (0..ATTACKS.len() * 2)
        .map(|number| {
            let (field, tries) = (field.clone(), tries.clone());
            tokio::spawn(async move {
                let mut chance = Chance(0x5eed + number as u64);
                while !field.over.load(Relaxed) {
                    let number = number % ATTACKS.len();
                    // However it ends: what counts is how the daemon is.
                    let _ = timeout(Duration::from_secs(20), ATTACKS[number].1(&field, &mut chance)).await;
                    tries[number].fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let watching = async {
        let mut most = 0;
        let mut told = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            sleep(Duration::from_secs(1)).await;
            most = most.max(daemon.rss());
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!("{} s: {} kB, {} files open", begun.elapsed().as_secs(), daemon.rss(), files(&daemon));
            }
        }
        field.over.store(true, Relaxed);
        most
    };
    let pause = Duration::from_millis(25);
    let (most, mut far_served, mut near_served, mut newcomers) = tokio::join!(
        watching,
        honest(&field, pause, || fetch(&far)),
        honest(&field, pause, || fetch(&near)),
        honest(&field, Duration::from_millis(250), newcomer)
    );
    let took = begun.elapsed().as_secs_f64();
    let busy = (daemon.processor() - processor_before) / took;
    for attacker in attackers {
        let _ = attacker.await;
    }
    // Those that were slow are let go in their time.
    daemon::eventually("connections are let go", || files(&daemon) <= files_before + 2);
    let mut idle = 1.0;
    daemon::eventually("it is idle", || {
        let before = daemon.processor();
        std::thread::sleep(Duration::from_secs(1));
        idle = daemon.processor() - before;
        idle < 0.1
    });
    println!("\n| attack | tries | a second |\n|---|---|---|");
    for ((name, _), tries) in ATTACKS.iter().zip(&*tries) {
        let tries = tries.load(Relaxed);
        println!("| {name} | {tries} | {:.1} |", tries as f64 / took);
    }
    println!("\n| honest callers | served | failed | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|---|");
    println!("{}\n{}", far_served.line("over the network"), near_served.line("on this host"));
    println!("{}", newcomers.line("connecting anew"));
    let (log, records) = (site.host.log(), size(&site.host.path("var/audit")));
    println!(
        "\n{took:.0} s; memory {rss_before} kB before, {most} at the most, {} after; {:.0} % of a core, {:.1} % after; log {} kB, audit log {} kB",
        daemon.rss(),
        busy * 100.0,
        idle * 100.0,
        log.len() / 1024,
        records / 1024,
    );
    for (who, served) in [("far", &far_served), ("near", &near_served), ("newcomers", &newcomers)] {
        assert!(served.failed.is_empty() && served.took.len() > 10, "{who}: {:?}", &served.failed[..served.failed.len().min(5)]);
    }
    assert!(tries.iter().all(|tries| tries.load(Relaxed) > 0), "an attack was not tried once");
    assert!(most < rss_before + 150_000, "{most} kB, of {rss_before} before");
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains(std::str::from_utf8(VALUE).unwrap()), "a value is in the log");
    assert!((log.len() as u64 + records) < 4096 * 1024 + seconds * 64 * 1024, "{} bytes of log, {records} of records", log.len());
    assert!(site.host.operate(&["status"]).status.success());
    assert!(daemon.stop().success());
}

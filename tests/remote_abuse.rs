//! Callers over the network who mean harm: what they can take is bounded, and others are served meanwhile.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/h2.rs"]
mod h2;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/remote.rs"]
mod remote;

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use h2::{PREFACE, frame, head, literal};
use remote::{Site, VALUE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use valetkey::{client::Session, proto::v1::broker_client::BrokerClient};

async fn honest(site: &Site) -> Session {
    let caller = site.caller("honest", &site.client()).client().timeout(Duration::from_secs(10));
    caller.session("billing").secret("a/key").open().await.unwrap()
}

/// The slowest of many hand-outs to somebody who does no harm, while `harm` goes on.
async fn served_meanwhile(session: &Session, harm: impl Future<Output = ()>) -> Duration {
    tokio::pin!(harm);
    let mut worst = Duration::ZERO;
    let asking = async {
        for _ in 0..40 {
            let begun = Instant::now();
            assert_eq!(session.fetch("a/key").await.unwrap().to_text().unwrap().as_bytes(), VALUE);
            worst = worst.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::join!(asking, harm);
    worst
}

/// Writes until the daemon has had enough or the time is over, and says whether it ended the connection.
async fn write_all(site: &Site, what: impl Fn(u32) -> Vec<u8>, for_long: Duration) -> bool {
    let mut stream = site.tls(Some(&site.client())).await.unwrap();
    if stream.write_all(PREFACE).await.is_err() {
        return true;
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 16 * 1024];
        while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let begun = Instant::now();
    for number in 0.. {
        let written = tokio::time::timeout(Duration::from_secs(2), write.write_all(&what(number))).await;
        if !matches!(written, Ok(Ok(()))) || reading.is_finished() {
            return true;
        }
        if begun.elapsed() > for_long {
            return reading.is_finished();
        }
    }
    unreachable!("the numbers do not end")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_as_they_are_opened() {
    let site = Site::new("failures-per-minute = 100000\n", Site::TOOL);
    let daemon = site.start();
    let session = honest(&site).await;
    let before = daemon.rss();
    let harm = async {
        let one = |number: u32| {
            let stream = 2 * number + 1;
            [frame(1, 4, stream, &head()), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
        };
        let ended = futures_util::future::join_all((0..4).map(|_| write_all(&site, one, Duration::from_secs(5)))).await;
        assert!(ended.iter().all(|ended| *ended), "a connection that resets all it opens is ended: {ended:?}");
    };
    let worst = served_meanwhile(&session, harm).await;
    assert!(worst < Duration::from_secs(2), "an honest caller waited {worst:?}");
    assert!(daemon.rss() < before + 40_000, "{} kB more", daemon.rss() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_an_end() {
    let site = Site::new("failures-per-minute = 100000\n", Site::TOOL);
    let daemon = site.start();
    let session = honest(&site).await;
    let before = daemon.rss();
    let harm = async {
        // CONTINUATION frames for ever, none of which ends the headers.
        let one = |number: u32| match number {
            0 => frame(1, 0, 1, &head()),
            _ => frame(9, 0, 1, &literal("x-filler", &"y".repeat(100)).repeat(100)),
        };
        let ended = futures_util::future::join_all((0..4).map(|_| write_all(&site, one, Duration::from_secs(5)))).await;
        assert!(ended.iter().all(|ended| *ended), "{ended:?}");
        // Empty ones, which take no room.
        let empty = |number: u32| if number == 0 { frame(1, 0, 1, &head()) } else { frame(9, 0, 1, &[]).repeat(1000) };
        assert!(write_all(&site, empty, Duration::from_secs(5)).await, "empty frames go on for ever");
    };
    let worst = served_meanwhile(&session, harm).await;
    assert!(worst < Duration::from_secs(2), "an honest caller waited {worst:?}");
    assert!(daemon.rss() < before + 40_000, "{} kB more", daemon.rss() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_too_much() {
    let site = Site::new("", Site::TOOL);
    let daemon = site.start();
    let before = daemon.rss();
    let me = site.client();
    let mut broker = BrokerClient::new(site.channel(Some(&me)).await);
    for size in [20_000, 200_000, 2_000_000] {
        let mut request = tonic::Request::new(raw::open("billing", &["a/key"]));
        request.metadata_mut().insert("x-filler", "y".repeat(size).parse().unwrap());
        let refused = broker.open_session(request).await.err().unwrap();
        assert_ne!(refused.code(), tonic::Code::Ok);
        broker = BrokerClient::new(site.channel(Some(&me)).await);
    }
    assert!(raw::open_unary(&mut broker, "billing", &["a/key"]).await.is_ok());
    assert!(daemon.rss() < before + 30_000, "{} kB more", daemon.rss() - before);
}

/// Who connects and says nothing, who says half a header, and who has no call: each is let go in its time.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_slow_are_let_go() {
    let site = Site::new(
        "handshake-timeout = \"1s\"\nrequest-timeout = \"2s\"\nidle-timeout = \"3s\"\nfailures-per-minute = 1000\n",
        Site::TOOL,
    );
    let _daemon = site.start();
    // No handshake.
    let begun = Instant::now();
    let mut silent = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!((900..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    site.record("login.refused", "HANDSHAKE_TIMED_OUT");
    // A handshake, and half of a header, one byte at a time.
    let begun = Instant::now();
    let mut slow = site.tls(Some(&site.client())).await.unwrap();
    slow.write_all(PREFACE).await.unwrap();
    let whole = frame(1, 0, 1, &head());
    let (mut read, mut write) = tokio::io::split(slow);
    let dribble = tokio::spawn(async move {
        for byte in whole {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut buffer = [0; 1024];
    while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    assert!((1500..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    dribble.abort();
    // One call, and then none; a session meanwhile stays.
    let session = honest(&site).await;
    let mut idle = BrokerClient::new(site.channel(Some(&site.client())).await);
    let opened = raw::open_unary(&mut idle, "billing", &["a/key"]).await.unwrap().session;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(raw::get_unary(&mut idle, &opened, &["a/key"]).await.is_err(), "an idle connection is let go");
    assert!(session.fetch("a/key").await.is_ok(), "a session is no idle connection");
}

/// Handshakes by the thousand, whole and half, from one address: an address that fails too often is not heard, and who is connected is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes() {
    let site = Site::new("max-connections = 600\nfailures-per-minute = 100\n", Site::TOOL);
    let daemon = site.start();
    let session = honest(&site).await;
    let before = daemon.rss();
    let harm = async {
        let begun = Instant::now();
        let mut half = Vec::new();
        let mut tried = 0;
        while begun.elapsed() < Duration::from_secs(4) {
            // Without a certificate: a whole handshake for nothing.
            let whole = futures_util::future::join_all((0..8).map(|_| site.tls(None))).await;
            tried += whole.len();
            if let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", site.port)).await {
                half.push(stream);
            }
        }
        assert!(tried > 100, "{tried} handshakes are no flood");
    };
    let worst = served_meanwhile(&session, harm).await;
    assert!(worst < Duration::from_secs(2), "an honest caller waited {worst:?}");
    site.record("login.refused", "TOO_MANY_FAILURES");
    assert!(daemon.rss() < before + 60_000, "{} kB more", daemon.rss() - before);
    // Summed up: what a flood leaves on record does not grow with it.
    let records = site.records().iter().filter(|one| one["event"] == "login.refused").count();
    assert!(records < 20, "{records} records of one address");
    // A minute after its last failure at the latest it is heard again; those who are connected were served all along.
    assert!(session.fetch("a/key").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let site = Site::new("max-connections-per-address = 4\n", Site::TOOL);
    let _daemon = site.start();
    let me = site.client();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(site.tls(Some(&me)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let fifth = async {
        let mut stream = site.tls(Some(&me)).await?;
        stream.write_all(PREFACE).await?;
        let mut buffer = [0; 64];
        match stream.read(&mut buffer).await? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    };
    assert!(fifth.await.is_err());
    site.record("login.refused", "TOO_MANY_CONNECTIONS");
    open.pop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let session = honest(&site).await;
    assert!(session.fetch("a/key").await.is_ok());
}

//! Callers over the network: who gets in by its certificate, who does not, and what is on record of each.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/remote.rs"]
mod remote;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use certificates::{Authority, CLIENT, Issued, SERVER, Wanted};
use daemon::eventually;
use remote::{Site, VALUE};
use tonic::Code;
use valetkey::{
    client::{Error, Remote, Session},
    proto::v1::{StatusRequest, admin_client::AdminClient, broker_client::BrokerClient},
};

async fn open(caller: Remote, secrets: &[&str]) -> Result<Session, Error> {
    caller.client().timeout(Duration::from_secs(2)).session("billing").secrets(secrets.iter().copied()).open().await
}

fn reason(error: &Error) -> &str {
    match error {
        Error::Denied { reason, .. } => reason,
        other => panic!("not a denial: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_policy_names_gets_what_is_granted_over_the_network_and_no_more() {
    let site = Site::new("", Site::TOOL);
    let _daemon = site.start();
    let me = site.client();
    let session = open(site.caller("me", &me), &["a/key"]).await.unwrap();
    assert_eq!(session.get("a/key").await.unwrap().to_text().unwrap().as_bytes(), VALUE);

    // The same tool's other grant is for this host: over the network it looks like one that does not exist.
    let near = open(site.caller("me", &me), &["local/key"]).await.err().unwrap();
    let none = open(site.caller("me", &me), &["no/key"]).await.err().unwrap();
    assert_eq!(
        (reason(&near), near.to_string().replace("local/key", "X")),
        ("SCOPE_NOT_ALLOWED", none.to_string().replace("no/key", "X"))
    );
    eventually("the log says what is missing", || site.host.log().contains("its grant does not say `remote = true`"));
    // On this host it is granted.
    let here = site.host.client().session("billing").secrets(["a/key", "local/key"]).open().await.unwrap();
    assert!(here.get("local/key").await.is_ok());

    let handed_out = site.records().into_iter().find(|record| record["event"] == "secret.handed-out").unwrap();
    assert_eq!(handed_out["subject"], "spiffe://example.org/tools/billing");
    assert_eq!(handed_out["cert_sha256"], me.sha256());
    assert!(handed_out["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{handed_out}");
    assert!(handed_out.get("uid").is_none() && handed_out.get("pid").is_none(), "{handed_out}");
    let sessions = site.host.operate(&["sessions"]);
    assert!(String::from_utf8_lossy(&sessions.stdout).contains("spiffe://example.org/tools/billing"));
}

/// One row for each way that a handshake goes: who comes with what, and what is on record of it.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_right_and_wrong() {
    let site = Site::new("", Site::TOOL);
    let others = Authority::new("others");
    let of = |authority: &Authority, wanted: Wanted<'_>| authority.issue(&wanted);
    let good = site.client();
    let revoked = site.client();
    site.host.write("crl.pem", &site.clients.revoked(&[&revoked], 3600));
    site.configure(&format!("crl-file = \"{}\"\nfailures-per-minute = 1000", site.host.path("crl.pem").display()), Site::TOOL);
    let _daemon = site.start();

    let handshakes: Vec<(&str, Option<Issued>, &str)> = vec![
        ("no certificate", None, "CERTIFICATE_MISSING"),
        ("ended", Some(of(&site.clients, Wanted { from: -7200, until: -60, ..CLIENT })), "CERTIFICATE_EXPIRED"),
        ("not yet", Some(of(&site.clients, Wanted { from: 3600, ..CLIENT })), "CERTIFICATE_NOT_YET_VALID"),
        ("of another authority", Some(of(&others, CLIENT)), "CERTIFICATE_UNKNOWN_AUTHORITY"),
        ("of the servers' authority", Some(of(&site.servers, CLIENT)), "CERTIFICATE_UNKNOWN_AUTHORITY"),
        ("for servers", Some(of(&site.clients, Wanted { server: true, ..CLIENT })), "CERTIFICATE_BAD"),
        ("revoked", Some(revoked), "CERTIFICATE_REVOKED"),
    ];
    for (who, certificate, why) in handshakes {
        let caller = match &certificate {
            Some(certificate) => site.caller("row", certificate),
            None => site.anonymous(),
        };
        let error = open(caller, &["a/key"]).await.err().unwrap_or_else(|| panic!("{who} was let in"));
        assert!(matches!(error, Error::RemoteUnreachable { .. } | Error::TimedOut(_)), "{who}: {error}");
        let record = site.record("login.refused", why);
        assert_eq!(record["outcome"], "denied", "{who}");
        assert!(record["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{who}: {record}");
    }
    // A certificate that is good, of somebody else: TLS lets it in, policy does not.
    for names in [&["spiffe://example.org/tools/billing2"][..], &["billing.example.com"], &[]] {
        let stranger = of(&site.clients, Wanted { names, ..CLIENT });
        let error = open(site.caller("stranger", &stranger), &["a/key"]).await.err().unwrap();
        assert_eq!(reason(&error), "TOOL_NOT_ALLOWED", "{names:?}");
    }
    let record = site.record("session.refused", "TOOL_NOT_ALLOWED");
    assert!(record["subject"].is_string() && record["cert_sha256"].is_string(), "{record}");
    let session = open(site.caller("good", &good), &["a/key"]).await.unwrap();
    assert!(session.get("a/key").await.is_ok());
}

/// What a foreign client sees: OpenSSL, and bytes that are no TLS at all.
#[tokio::test(flavor = "multi_thread")]
async fn old_tls_plain_text_and_other_protocols_are_refused() {
    let site = Site::new("failures-per-minute = 1000\n", Site::TOOL);
    let _daemon = site.start();
    let (certificate, key) = site.client().write(&site.host, "me");
    let (port, ca) = (site.port, site.host.path("servers-ca.pem"));
    let s_client = |extra: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost", "-brief"]);
        command.arg("-CAfile").arg(&ca).arg("-cert").arg(&certificate).arg("-key").arg(&key).args(extra);
        let out = command.stdin(Stdio::null()).output().expect("openssl is there");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let good = s_client(&["-alpn", "h2", "-tls1_3"]);
    assert!(good.contains("TLSv1.3") && good.contains("Verification: OK"), "{good}");
    let old = s_client(&["-alpn", "h2", "-tls1_2"]);
    assert!(!old.contains("CONNECTION ESTABLISHED"), "{old}");
    site.record("login.refused", "TLS_TOO_OLD");
    let other = s_client(&["-alpn", "http/1.1"]);
    assert!(other.contains("no application protocol") || !other.contains("ALPN protocol: http/1.1"), "{other}");
    site.record("login.refused", "NOT_HTTP2");

    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    // An alert of TLS at the most: no frame of HTTP/2.
    assert!(answer.len() <= 7 && answer.first().is_none_or(|first| *first == 21), "{answer:?}");
    site.record("login.refused", "NOT_TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_there_for_those_who_ask_for_it() {
    let site = Site::new("min-tls = \"1.2\"\n", Site::TOOL);
    let _daemon = site.start();
    let (certificate, key) = site.client().write(&site.host, "me");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", site.port), "-brief", "-alpn", "h2", "-tls1_2"]);
    command.arg("-CAfile").arg(site.host.path("servers-ca.pem")).arg("-cert").arg(certificate).arg("-key").arg(key);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("CONNECTION ESTABLISHED") && said.contains("TLSv1.2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_exchange_is_hybrid_where_the_caller_can() {
    let site = Site::new("", Site::TOOL);
    let _daemon = site.start();
    let stream = site.tls(Some(&site.client())).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(format!("{group:?}"), "X25519MLKEM768");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0, "each connection proves itself anew");
}

/// Each selector has its own authority: one that may vouch for partners vouches for nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_vouches_for_those_that_policy_says() {
    let site = Site::new("", "");
    let partners = Authority::new("partners");
    site.host.write("partners-ca.pem", &partners.pem());
    let (general, of_partners) = (site.host.path("clients-ca.pem"), site.host.path("partners-ca.pem"));
    let tool = |name: &str, uri: &str, ca: &std::path::Path| {
        format!(
            "[tool.{name}]\nrun-as = {{ certificate = {{ uri = \"{uri}\", ca-file = \"{}\" }} }}\nsecrets.\"a/key\" = {{ remote = true }}\n",
            ca.display()
        )
    };
    let policy = tool("billing", "spiffe://example.org/tools/billing", &general)
        + &tool("partner", "spiffe://partner.example/x", &of_partners);
    site.configure("", &policy);
    let _daemon = site.start();
    // The partners' authority signs a name of ours: the handshake is good, and it is nobody.
    let forged = partners.issue(&CLIENT);
    assert_eq!(reason(&open(site.caller("forged", &forged), &["a/key"]).await.err().unwrap()), "TOOL_NOT_ALLOWED");
    assert!(open(site.caller("good", &site.client()), &["a/key"]).await.is_ok());
    let partner = partners.issue(&Wanted { names: &["spiffe://partner.example/x"], ..CLIENT });
    let opened = site.caller("partner", &partner).client().session("partner").secret("a/key").open().await;
    assert!(opened.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_or_ends_while_connected_gets_nothing_more() {
    let site = Site::new("", Site::TOOL);
    let (kept, revoked) = (site.client(), site.client());
    site.host.write("crl.pem", &site.clients.revoked(&[], 3600));
    site.configure(&format!("crl-file = \"{}\"", site.host.path("crl.pem").display()), Site::TOOL);
    let _daemon = site.start();
    let issued = Instant::now();
    let ends = site.clients.issue(&Wanted { until: 10, ..CLIENT });
    let good = open(site.caller("kept", &kept), &["a/key"]).await.unwrap();
    let soon_revoked = open(site.caller("revoked", &revoked), &["a/key"]).await.unwrap();
    let soon_over = open(site.caller("ends", &ends), &["a/key"]).await.unwrap();
    for session in [&good, &soon_revoked, &soon_over] {
        session.fetch("a/key").await.unwrap();
    }
    site.host.write("crl.pem", &site.clients.revoked(&[&revoked], 3600));
    let begun = Instant::now();
    while soon_revoked.fetch("a/key").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is revoked and still served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let record = site.record("secret.denied", "PEER_CHANGED");
    assert_eq!(record["cert_sha256"], revoked.sha256());
    tokio::time::sleep(Duration::from_secs(11).saturating_sub(issued.elapsed())).await;
    assert!(soon_over.fetch("a/key").await.is_err(), "its certificate has ended");
    assert!(good.fetch("a/key").await.is_ok());
    // A list that is outdated says nothing about today.
    site.host.write("crl.pem", &site.clients.revoked(&[], 2));
    let begun = Instant::now();
    while good.fetch("a/key").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(8), "the list is outdated and still believed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Server certificate, authority and all are replaced under a thousand open sessions. None is dropped, and the next handshake has the new.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_a_thousand_connections() {
    const MANY: usize = 1000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let site = Site::new("max-connections = 1100\nmax-connections-per-address = 1100\n", Site::TOOL);
    let _daemon = site.start();
    let me = site.client();
    let mut sessions = Vec::with_capacity(MANY);
    for _ in 0..MANY / 20 {
        let opening = (0..20).map(|_| async {
            let mut broker = BrokerClient::new(site.channel(Some(&me)).await);
            raw::Raw::open(&mut broker, "billing", &["a/key"]).await.unwrap()
        });
        sessions.extend(futures_util::future::join_all(opening).await);
    }
    let ids = |site: &Site| -> std::collections::BTreeSet<String> {
        let listing = site.host.operate(&["sessions", "--json"]).stdout;
        let listing: serde_json::Value = serde_json::from_slice(&listing).unwrap();
        listing["sessions"].as_array().unwrap().iter().map(|one| one["session"].as_str().unwrap().to_owned()).collect()
    };
    let before = ids(&site);
    assert_eq!(before.len(), MANY);
    let certificate_now = async || {
        let stream = site.tls(Some(&me)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = certificate_now().await;

    // Another certificate for the daemon, and another authority beside the old one for callers. Half of the pair first, as it happens.
    let renewed = site.servers.issue(&SERVER);
    site.host.write("server.pem", &renewed.pem);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(certificate_now().await, first, "half of a pair is not used");
    site.host.write("server.key", &renewed.key);
    let successor = Authority::new("clients 2");
    site.host.write("clients-ca.pem", &format!("{}{}", site.clients.pem(), successor.pem()));
    let begun = Instant::now();
    while certificate_now().await != renewed.der {
        assert!(begun.elapsed() < Duration::from_secs(10), "the new certificate is not in force");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (id, session) in sessions.iter_mut().enumerate() {
        assert_eq!(session.secret(id as u64 + 1, "a/key").await.value, VALUE, "session {id} was dropped");
    }
    assert_eq!(ids(&site), before, "they are the same sessions");
    let next = open(site.caller("next", &successor.issue(&CLIENT)), &["a/key"]).await.unwrap();
    assert!(next.get("a/key").await.is_ok(), "the new authority vouches");
    // And when the old one is taken away, whom it vouched for gets nothing more.
    site.host.write("clients-ca.pem", &successor.pem());
    let begun = Instant::now();
    while sessions[0].get(5000, "a/key").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the old authority is still believed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(next.fetch("a/key").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_connections_and_ends_with_it() {
    let site = Site::new("", Site::TOOL);
    let _daemon = site.start();
    let me = site.client();
    let mut broker = BrokerClient::new(site.channel(Some(&me)).await);
    let session = raw::open_unary(&mut broker, "billing", &["a/key"]).await.unwrap().session;
    assert_eq!(raw::get_unary(&mut broker, &session, &["a/key"]).await.unwrap()[0].value, VALUE);
    // The same certificate on another connection, and the same session's id: it is another caller.
    let mut thief = BrokerClient::new(site.channel(Some(&me)).await);
    let status = raw::get_unary(&mut thief, &session, &["a/key"]).await.err().unwrap();
    assert_eq!(raw::reason(&status), "SESSION_NOT_OPEN");
    drop(broker);
    eventually("the session has ended", || {
        site.records().iter().any(|one| one["event"] == "session.ended" && one["session"] == session.as_str())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_operator_over_the_network_unless_roles_say_so() {
    let site = Site::new("", Site::TOOL);
    let _daemon = site.start();
    let mut admin = AdminClient::new(site.channel(Some(&site.client())).await);
    assert_eq!(admin.status(StatusRequest {}).await.err().unwrap().code(), Code::Unimplemented);
}

/// A gRPC library that is not ours (grpc core, by Python), with nothing but the words of the contract: `tests/setup/python grpc` installs it.
#[tokio::test(flavor = "multi_thread")]
async fn grpcio_is_served_and_refused_like_anyone() {
    let python = remote::python();
    let policy = format!("{}[tool.ci]\nrun-as = {{ token = \"ci\" }}\nsecrets.\"a/key\" = {{ remote = true }}\n", Site::TOOL);
    let site = Site::new("client-certificates = \"optional\"\nfailures-per-minute = 1000\n", &policy);
    let _daemon = site.start();
    let (certificate, key) = site.client().write(&site.host, "me");
    let (wrong, wrong_key) = Authority::new("others").issue(&CLIENT).write(&site.host, "wrong");
    let token = site.token(&["ci"]);
    let text = |path: std::path::PathBuf| path.display().to_string();
    let none = String::new;
    // Tool, certificate, key, token; and what it comes to: a value, or the code that every gRPC library knows.
    let rows = [
        ("billing", text(certificate.clone()), text(key.clone()), none(), std::str::from_utf8(VALUE).unwrap()),
        ("ci", none(), none(), token.clone(), std::str::from_utf8(VALUE).unwrap()),
        ("ci", text(certificate), text(key), token.clone(), std::str::from_utf8(VALUE).unwrap()),
        ("billing", none(), none(), none(), "UNAUTHENTICATED"),
        ("billing", none(), none(), token, "PERMISSION_DENIED"),
        ("ci", none(), none(), "vkt_0000000000000000_none".into(), "UNAUTHENTICATED"),
        ("billing", text(wrong), text(wrong_key), none(), "UNAVAILABLE"),
        ("billing", "plain".into(), none(), none(), "UNAVAILABLE"),
    ];
    for (tool, certificate, key, token, wanted) in rows {
        let mut command = Command::new(&python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpcio_client.py"));
        command.args([&format!("localhost:{}", site.port), site.host.path("servers-ca.pem").to_str().unwrap(), tool, "a/key"]);
        let out = command.args([&certificate, &key, &token]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        assert_eq!(said, wanted, "{tool} {certificate} {token}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

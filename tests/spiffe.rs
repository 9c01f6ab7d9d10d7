//! The daemon's identity, and whom it believes, from a SPIFFE agent. There is no SPIRE to be had in the registries that tests install
//! from: the agent here serves the contract of the SPIFFE project's own Python library (`tests/setup/python grpc`), which is asked too.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/remote.rs"]
mod remote;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use certificates::{Authority, CLIENT, Issued, Wanted};
use daemon::eventually;
use remote::{Site, VALUE};
use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
use serde_json::{Value, json};
use valetkey::client::{Error, Session};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/workload_api.py");
const ID: &str = "spiffe://example.org/valetkey";
/// Of the daemon: its id, and a name that ordinary TLS clients look for.
const DAEMON: Wanted<'static> = Wanted { names: &[ID, "localhost"], from: -3600, until: 3600, server: true };

/// An agent, and the site whose daemon asks it. The site's own authority of servers is the trust domain's.
struct Agent<'a> {
    site: &'a Site,
    process: Option<Child>,
}

impl<'a> Agent<'a> {
    fn of(site: &'a Site) -> Self {
        fs::create_dir(site.host.path("agent")).unwrap();
        Self { site, process: None }
    }

    fn socket(&self) -> PathBuf {
        self.site.host.path("agent/api.sock")
    }

    fn start(&mut self) {
        let mut command = Command::new(remote::python());
        command.arg(SCRIPT).arg(self.socket()).arg(self.site.host.path("agent/state.json"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "serving");
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn tell(&self, state: &Value) {
        let (new, state_file) = (self.site.host.path("agent/new"), self.site.host.path("agent/state.json"));
        fs::write(&new, state.to_string()).unwrap();
        fs::rename(new, state_file).unwrap();
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn svid(id: &str, own: &Issued, bundle: &[&Authority]) -> Value {
    let bundle: Vec<_> = bundle.iter().map(|authority| base64(&authority.der())).collect();
    json!({ "id": id, "chain": [base64(&own.der)], "key": base64(&own.key_der()), "bundle": bundle })
}

/// Whose certificate, for which tool, with which names; and what comes of it.
type Row<'a> = (&'a Authority, &'a str, &'a [&'a str], Result<(), &'a str>);

const TOOLS: &str = "[tool.partner]\nrun-as = { certificate = { uri = \"spiffe://partner.org/*\" } }\nsecrets.\"a/key\" = { remote = true }\n\
    [tool.late]\nrun-as = { certificate = { uri = \"spiffe://late.org/x\" } }\nsecrets.\"a/key\" = { remote = true }\n\
    [tool.by-host]\nrun-as = { certificate = { dns = \"billing.example.com\" } }\nsecrets.\"a/key\" = { remote = true }\n";

/// `client_ca`: with an authority for callers in a file as well.
fn site(client_ca: bool) -> Site {
    let site = Site::bare();
    let path = |name: &str| site.host.path(name).display().to_string();
    let mut lines = format!("spiffe-endpoint-socket = \"unix://{}\"\nfailures-per-minute = 1000\n", path("agent/api.sock"));
    if client_ca {
        lines += &format!("client-ca-file = \"{}\"\n", path("clients-ca.pem"));
    }
    site.configure_all(&lines, &format!("{}{TOOLS}", Site::TOOL));
    site
}

/// What comes of a caller with these names in a certificate of this authority.
async fn caller(site: &Site, authority: &Authority, tool: &str, names: &[&str]) -> Result<Session, Error> {
    let certificate = authority.issue(&Wanted { names, ..CLIENT });
    let file = format!("caller-{}", certificate.sha256());
    let client = site.caller(&file, &certificate).client().timeout(Duration::from_secs(5));
    let session = client.session(tool).secret("a/key").open().await?;
    session.fetch("a/key").await?;
    Ok(session)
}

async fn gets_in(site: &Site, authority: &Authority) -> Session {
    let begun = std::time::Instant::now();
    loop {
        match caller(site, authority, "billing", CLIENT.names).await {
            Ok(session) => return session,
            Err(error) => assert!(begun.elapsed().as_secs() < 20, "{error}\n{}", site.host.log()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The certificate that the daemon shows.
async fn shown(site: &Site) -> Vec<u8> {
    let stream = site.tls(Some(&site.servers.issue(&CLIENT))).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Waits until the daemon shows this one.
async fn shows(site: &Site, certificate: &Issued) {
    let begun = std::time::Instant::now();
    while shown(site).await != certificate.der {
        assert!(begun.elapsed().as_secs() < 20, "{}", site.host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_who_its_agent_says_and_follows_it() {
    let site = site(false);
    let mut agent = Agent::of(&site);
    let _daemon = site.start();
    let home = &site.servers;
    let log = |words: &str| eventually(words, || site.host.log().contains(words));
    // No agent: nobody is served over the network, and nobody is to blame; on this host all is as ever.
    log("cannot connect");
    assert!(site.tls(None).await.is_err());
    site.record("login.refused", "NO_IDENTITY");
    let local = site.host.client().session("billing").secret("a/key").open().await.unwrap();
    assert!(local.fetch("a/key").await.is_ok());
    // A place where others could put theirs.
    let folder = site.host.path("agent");
    let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    log("others may write");
    mode(0o755);
    // One that takes the connection and says nothing.
    let silent = std::os::unix::net::UnixListener::bind(agent.socket()).unwrap();
    log("no answer within 10 s");
    drop(silent);
    fs::remove_file(agent.socket()).unwrap();
    // One that does not know the daemon.
    agent.tell(&json!({ "deny": "no identity issued" }));
    agent.start();
    log("the agent knows no identity for this daemon");
    // It is registered.
    let first = home.issue(&DAEMON);
    agent.tell(&json!({ "svids": [svid(ID, &first, &[home])] }));
    let session = gets_in(&site, home).await;
    log("this daemon is spiffe://example.org/valetkey, with the bundles of example.org");
    shows(&site, &first).await;
    // The SPIFFE project's own client hears the same of it.
    let told = Command::new(remote::python()).arg(SCRIPT).arg(agent.socket()).output().unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"));
    assert_eq!((&told["id"], &told["domains"]), (&ID.into(), &json!(["example.org"])));
    // Its certificate is renewed: the next connection is shown it, those that are open stay.
    let second = home.issue(&DAEMON);
    agent.tell(&json!({ "svids": [svid(ID, &second, &[home])] }));
    shows(&site, &second).await;
    assert!(session.fetch("a/key").await.is_ok());
    // What cannot be used changes nothing: a key of another certificate, a certificate that names another, bytes that are none.
    let good = svid(ID, &second, &[home]);
    let mut other_key = svid(ID, &first, &[home]);
    other_key["key"] = good["key"].clone();
    let mut other_name = good.clone();
    other_name["id"] = "spiffe://example.org/other".into();
    let mut no_bundle = good.clone();
    no_bundle["bundle"] = json!([]);
    let mut torn = good.clone();
    torn["chain"] = json!([base64(&second.der[..100])]);
    for (bad, words) in [
        (other_key, "do not go together"),
        (other_name, "names another"),
        (no_bundle, "without authorities"),
        (torn, "no certificate that can be read"),
    ] {
        agent.tell(&json!({ "svids": [bad] }));
        log(words);
        assert_eq!(shown(&site).await, second.der, "{words}");
    }
    assert!(session.fetch("a/key").await.is_ok());
    // The agent goes away, and comes back.
    agent.tell(&json!({ "svids": [good] }));
    agent.kill();
    log("asked again");
    assert_eq!(shown(&site).await, second.der);
    assert!(gets_in(&site, home).await.fetch("a/key").await.is_ok());
    fs::remove_file(agent.socket()).unwrap();
    let third = home.issue(&DAEMON);
    agent.tell(&json!({ "svids": [svid(ID, &third, &[home])] }));
    agent.start();
    shows(&site, &third).await;
    let status = site.host.operate(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["remote"]["spiffe_id"], ID);
    assert!(status["remote"]["certificate_until"].is_string());
    // It ends, and is not renewed: from then on the daemon is nobody.
    let short = home.issue(&Wanted { until: 3, ..DAEMON });
    agent.tell(&json!({ "svids": [svid(ID, &short, &[home])] }));
    eventually("it has ended", || {
        let status = site.host.operate(&["status"]);
        String::from_utf8_lossy(&status.stdout).contains("NO CERTIFICATE")
    });
    let refused = site.tls(Some(&home.issue(&CLIENT))).await.unwrap_err();
    assert_ne!(refused.kind(), std::io::ErrorKind::InvalidData, "it was shown a certificate, and did not want it: {refused}");
    for key in [&first, &second, &third, &short].map(|one| base64(&one.key_der())) {
        assert!(!site.host.log().contains(&key[..40]), "a key is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_vouches_for_its_own_and_for_nothing_else() {
    let site = site(true);
    let mut agent = Agent::of(&site);
    let (home, partner) = (&site.servers, Authority::new("partner"));
    let own = home.issue(&DAEMON);
    let state = |more: Value| {
        let mut state =
            json!({ "svids": [svid(ID, &own, &[home])], "federated": { "spiffe://partner.org": [base64(&partner.der())] } });
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state
    };
    agent.tell(&state(json!({})));
    agent.start();
    let _daemon = site.start();
    gets_in(&site, home).await;
    let billing = CLIENT.names[0];
    let rows: [Row<'_>; 14] = [
        (home, "billing", &[billing], Ok(())),
        (&partner, "partner", &["spiffe://partner.org/tools/crm"], Ok(())),
        // Each for itself alone.
        (&partner, "billing", &[billing], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        (home, "partner", &["spiffe://partner.org/tools/crm"], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        // One that stands in a file may vouch for hosts, and for no id of a trust domain that the agent knows.
        (&site.clients, "by-host", &["billing.example.com"], Ok(())),
        (&site.clients, "billing", &[billing], Err("TOOL_NOT_ALLOWED")),
        (&site.clients, "partner", &["spiffe://partner.org/tools/crm", "billing.example.com"], Err("TOOL_NOT_ALLOWED")),
        // A name of a host is none of theirs to give, beside an id of theirs or without.
        (&partner, "by-host", &["billing.example.com"], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        (&partner, "by-host", &["spiffe://partner.org/x", "billing.example.com"], Err("TOOL_NOT_ALLOWED")),
        (home, "by-host", &[billing, "billing.example.com"], Err("TOOL_NOT_ALLOWED")),
        // Whoever has two ids has none; and what only looks like one is none.
        (&partner, "billing", &["spiffe://partner.org/x", billing], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        (home, "billing", &[billing, "spiffe://example.org/other"], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        (home, "billing", &["spiffe://example.org/tools/billing/"], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
        (home, "partner", &["spiffe://example.org@partner.org/x"], Err("CERTIFICATE_UNKNOWN_AUTHORITY")),
    ];
    for (authority, tool, names, wanted) in rows {
        let went = caller(&site, authority, tool, names).await;
        match (wanted, went) {
            (Ok(()), Ok(session)) => assert_eq!(session.get("a/key").await.unwrap().to_text().unwrap().as_bytes(), VALUE),
            (Err("TOOL_NOT_ALLOWED"), Err(error)) => assert!(error.to_string().contains(tool), "{names:?}: {error}"),
            (Err(reason), Err(_)) => _ = site.record("login.refused", reason),
            (wanted, went) => panic!("{tool} {names:?}: {wanted:?}, but {:?}\n{}", went.map(drop), site.host.log()),
        }
    }
    // A domain that the agent did not know may be told of by a file, until the agent knows it: in an open session too.
    let late = caller(&site, &site.clients, "late", &["spiffe://late.org/x"]).await.unwrap();
    let theirs = Authority::new("late");
    let bundles = json!({ "spiffe://partner.org": [base64(&partner.der())], "late.org": [base64(&theirs.der())] });
    agent.tell(&state(json!({ "federated": bundles })));
    let begun = std::time::Instant::now();
    while late.fetch("a/key").await.is_ok() {
        assert!(begun.elapsed().as_secs() < 10, "who is another's by now goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(caller(&site, &site.clients, "late", &["spiffe://late.org/x"]).await.is_err());
    caller(&site, &theirs, "late", &["spiffe://late.org/x"]).await.unwrap();
    // A revoked one, by the agent's list.
    let lost = home.issue(&CLIENT);
    let client = site.caller("lost", &lost).client().timeout(Duration::from_secs(5));
    let session = client.session("billing").secret("a/key").open().await.unwrap();
    assert!(session.fetch("a/key").await.is_ok());
    let list = home.revoked(&[&lost], 3600);
    let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
    agent.tell(&state(json!({ "crl": [base64(&list)] })));
    let partner_stays = caller(&site, &partner, "partner", &["spiffe://partner.org/tools/crm"]).await.unwrap();
    let begun = std::time::Instant::now();
    while session.fetch("a/key").await.is_ok() {
        assert!(begun.elapsed().as_secs() < 10, "a revoked certificate goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(partner_stays.fetch("a/key").await.is_ok(), "no list is about its authority");
    // A new authority beside the old, and then instead of it: whom the old one has vouched for gets nothing more, in an open session too.
    let next = Authority::new("next");
    let before = gets_in(&site, home).await;
    agent.tell(&json!({ "svids": [svid(ID, &own, &[home, &next])] }));
    let after = gets_in(&site, &next).await;
    assert!(before.fetch("a/key").await.is_ok());
    assert!(partner_stays.fetch("a/key").await.is_err(), "its federation has ended");
    agent.tell(&json!({ "svids": [svid(ID, &own, &[&next])] }));
    let begun = std::time::Instant::now();
    while before.fetch("a/key").await.is_ok() {
        assert!(begun.elapsed().as_secs() < 10, "an authority that was taken away is still believed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(after.fetch("a/key").await.is_ok());
}

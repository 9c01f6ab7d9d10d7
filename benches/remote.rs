//! Callers over the network against a floor: whole handshakes a second, and hand-outs over mTLS, beside a bare tonic server with tonic's own
//! TLS (rustls, aws-lc-rs) and the same certificates. Prints the table that stands in `benches/README.md`.
//!
//! `cargo bench --bench remote`; `-- --quick` for shorter windows. The client is the same for both sides and takes its share of the machine:
//! of a handshake about half.

#[path = "../tests/support/certificates.rs"]
mod certificates;
#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/raw.rs"]
mod raw;
#[path = "../tests/support/remote.rs"]
mod remote;

use std::{
    convert::Infallible,
    pin::Pin,
    process::{Child, Command, Stdio},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use certificates::Issued;
use prost::Message;
use remote::{Site, with_token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Certificate, Channel, Identity, Server, ServerTlsConfig},
};
use valetkey::proto::v1::{GetSecretsRequest, GetSecretsResponse, Opened, Secret, broker_client::BrokerClient};

const WITHOUT_RECORDS: &str = "[audit]\nenabled = false\n";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, part, port, certificate, key, ca, ..] = &arguments[..]
        && part == "echo-server"
    {
        return serve_echo(port, [certificate, key, ca]);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (5, Duration::from_millis(500)) } else { (11, Duration::from_secs(1)) };
    let policy = "[tool.billing]\nrun-as = { certificate = { uri = \"spiffe://example.org/tools/billing\" } }\n\
        secrets.\"a/key\" = { remote = true }\n\
        limits = { per-minute = 1000000000, concurrent = 1000, concurrent-requests = 1000, per-session = 1000000000000 }\n\
        [tool.by-token]\nrun-as = { token = \"bench\" }\nsecrets.\"a/key\" = { remote = true }\n\
        limits = { per-minute = 1000000000, concurrent = 1000, concurrent-requests = 1000, per-session = 1000000000000 }\n\
        [tool.by-jwt]\nrun-as = { jwt = { issuer = \"login\", subject = \"bench\" } }\nsecrets.\"a/key\" = { remote = true }\n\
        limits = { per-minute = 1000000000, concurrent = 1000, concurrent-requests = 1000, per-session = 1000000000000 }\n\
        [limits]\nper-second = 1000000000\nper-minute = 4000000000\n";
    let site = Site::bare();
    let jwt = jwt(&site);
    let issuer = format!(
        "[issuer.login]\nissuer = \"https://login.example.com\"\naudience = [\"valetkey\"]\nalgorithms = [\"ES256\"]\njwks-file = \"{}\"\n",
        site.host.path("jwks.json").display()
    );
    site.configure("max-connections-per-address = 500\n", &format!("{policy}{issuer}{WITHOUT_RECORDS}"));
    let _daemon = site.start();
    let echo = Echo::start(&site);
    let me = site.client();
    let token = site.token(&["bench"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("{rounds} rounds of {} ms a side\n", window.as_millis());
    println!("| what | ours/s | floor/s | rate to floor |\n|---|---|---|---|");
    let (ours, floor) = (site.port, echo.port);
    let shake = |port| runtime.block_on(handshakes(&site, port, &me, window));
    row("whole handshakes, 8 at a time", rounds, || shake(ours), || shake(floor));
    for calls in [1, 16] {
        for (what, tool, token) in [
            ("GetSecrets over mTLS", "billing", None),
            ("the same with an issued token", "by-token", Some(&*token)),
            ("the same with a JSON Web Token", "by-jwt", Some(&*jwt)),
        ] {
            let get = |port, tool| runtime.block_on(gets(&site, port, &me, tool, token, calls, window));
            row(&format!("{what}, {calls} under way"), rounds, || get(ours, Some(tool)), || get(floor, None));
        }
    }
}

/// A token of an identity provider, good for an hour, whose keys are in a file.
fn jwt(site: &Site) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
    let key = EncodingKey::from_ec_der(rcgen::KeyPair::generate().expect("a key").serialized_der());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("its public half");
    jwk.common.key_id = Some("one".into());
    site.host.write("jwks.json", &serde_json::json!({ "keys": [jwk] }).to_string());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a date").as_secs();
    let claims = serde_json::json!({
        "iss": "https://login.example.com", "aud": "valetkey", "sub": "bench", "iat": now, "exp": now + 3600,
    });
    let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

fn row(what: &str, rounds: usize, ours: impl Fn() -> f64, floor: impl Fn() -> f64) {
    let mut rates: Vec<(f64, f64)> = Vec::new();
    for round in 0..rounds {
        // Which side comes first alternates, so that neither always follows the other.
        rates.push(if round % 2 == 0 {
            (ours(), floor())
        } else {
            let second = floor();
            (ours(), second)
        });
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of = |value: fn(&(f64, f64)) -> f64| median(rates.iter().map(value).collect());
    println!("| {what} | {:.0} | {:.0} | {:.2} |", of(|r| r.0), of(|r| r.1), of(|r| r.0 / r.1));
}

/// A connection counts when the server has said its first word over it: only then has it looked at the client's certificate.
async fn handshakes(site: &Site, port: u16, me: &Issued, window: Duration) -> f64 {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let ends = Instant::now() + window;
    let one = || async {
        let mut count = 0_u32;
        while Instant::now() < ends {
            let mut stream = site.tls_at(port, Some(me)).await.expect("a handshake");
            stream.write_all(PREFACE).await.expect("a connection");
            stream.read_u8().await.expect("an answer");
            count += 1;
        }
        count
    };
    let counts = futures_util::future::join_all((0..8).map(|_| one())).await;
    f64::from(counts.iter().sum::<u32>()) / window.as_secs_f64()
}

/// Without a tool no session is opened: the floor has none.
async fn gets(
    site: &Site,
    port: u16,
    me: &Issued,
    tool: Option<&str>,
    token: Option<&str>,
    calls: usize,
    window: Duration,
) -> f64 {
    let channel = site.channel_at(port, Some(me)).await;
    let one = || {
        let mut broker: BrokerClient<Channel> = BrokerClient::new(channel.clone());
        async move {
            let id = match tool {
                Some(tool) => {
                    let open = raw::open(tool, &["a/key"]);
                    let opened = match token {
                        Some(token) => broker.open_session(with_token(open, token)).await,
                        None => broker.open_session(open).await,
                    };
                    opened.expect("a session").into_inner().session
                }
                None => "0".repeat(32),
            };
            let request = GetSecretsRequest { session: id, names: vec!["a/key".into()], fresh: false };
            let ends = Instant::now() + window;
            let mut count = 0_u32;
            while Instant::now() < ends {
                let request = request.clone();
                let answer = match token {
                    Some(token) => broker.get_secrets(with_token(request, token)).await,
                    None => broker.get_secrets(request).await,
                };
                assert_eq!(answer.expect("an answer").into_inner().secrets.len(), 1);
                count += 1;
            }
            count
        }
    };
    let counts = futures_util::future::join_all((0..calls).map(|_| one())).await;
    f64::from(counts.iter().sum::<u32>()) / window.as_secs_f64()
}

/// The floor. Killed when dropped.
struct Echo {
    child: Child,
    port: u16,
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Echo {
    fn start(site: &Site) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let files = ["server.pem", "server.key", "clients-ca.pem"].map(|name| site.host.path(name));
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command.arg("echo-server").arg(port.to_string()).args(files).stdin(Stdio::null());
        let child = command.spawn().expect("the echo");
        daemon::eventually("the echo listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port }
    }
}

/// Answers every call with what the daemon would, made beforehand.
#[derive(Clone)]
struct Bare(GetSecretsResponse);

impl NamedService for Bare {
    const NAME: &'static str = "valetkey.v1.Broker";
}

impl tonic::server::UnaryService<GetSecretsRequest> for Bare {
    type Response = GetSecretsResponse;
    type Future = std::future::Ready<Result<tonic::Response<GetSecretsResponse>, tonic::Status>>;
    fn call(&mut self, _: tonic::Request<GetSecretsRequest>) -> Self::Future {
        let Secret { pad, id, name, version, age_seconds, value } = &self.0.secrets[0];
        let (pad, name, version, value) = (pad.clone(), name.clone(), version.clone(), value.clone());
        let secret = Secret { pad, id: *id, name, version, age_seconds: *age_seconds, value };
        std::future::ready(Ok(tonic::Response::new(GetSecretsResponse { secrets: vec![secret] })))
    }
}

impl tower_service::Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<GetSecretsResponse, GetSecretsRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(bare, request).await)
        })
    }
}

fn serve_echo(port: &str, [certificate, key, ca]: [&String; 3]) {
    let read = |path: &String| std::fs::read(path).expect("a file");
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(read(certificate), read(key)));
    let tls = tls.client_ca_root(Certificate::from_pem(read(ca)));
    // What the daemon's answer weighs: its padding, names and value.
    let secret = Secret {
        pad: vec![0; 320],
        id: 0,
        name: "a/key".into(),
        version: "1".into(),
        age_seconds: 1,
        value: remote::VALUE.to_vec(),
    };
    let bare = Bare(GetSecretsResponse { secrets: vec![secret] });
    assert!(bare.0.encoded_len() > 300 && Opened::default().encoded_len() == 0);
    // As many threads as the daemon has for the network.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut server = Server::builder().tls_config(tls).expect("certificates");
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        server.add_service(bare).serve(address).await.expect("the echo serves");
    });
}

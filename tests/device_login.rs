//! Operators who log in at an identity provider, the package oidc-provider, by a code in a browser; and its tokens while its keys change.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/mcp.rs"]
mod mcp;
#[path = "support/remote.rs"]
mod remote;
#[path = "support/said.rs"]
mod said;
#[path = "support/servers.rs"]
mod servers;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use daemon::{Host, eventually};
use remote::{Site, with_token};
use said::{said, says};
use serde_json::Value;
use servers::http;
use tonic::Code;
use valetkey::proto::v1::{StatusRequest, admin_client::AdminClient};

const RESOURCE: &str = "https://valetkey.example.com";

/// The provider, on a port of its own.
struct Issuer {
    child: Child,
    port: u16,
}

impl Issuer {
    fn start() -> Option<Self> {
        let packages = mcp::node_packages()?;
        let port = servers::free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/issuer.mjs");
        let mut command = Command::new("node");
        command.args([script, &packages, &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let issuer = Self { child: command.spawn().unwrap(), port };
        eventually("the issuer answers", || http(port, "GET", "/jwks", &[], "").is_ok());
        Some(issuer)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn post(&self, path: &str) {
        let (status, answer) = http(self.port, "POST", path, &[], "").unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
    }

    fn form(&self, path: &str, body: &str) -> Value {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let (_, answer) = http(self.port, "POST", path, &headers, body).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// A token for this person, as a program would get it that need not wait.
    fn token(&self, who: &str, resource: &str) -> String {
        let device = self.form("/device/auth", &format!("client_id=valetkey&scope=openid%20admin&resource={resource}"));
        self.post(&format!("/yes?code={}&who={who}", device["user_code"].as_str().unwrap()));
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let code = device["device_code"].as_str().unwrap();
        let body = format!("client_id=valetkey&grant_type={grant}&device_code={code}&resource={resource}");
        self.form("/token", &body)["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site(issuer: &Issuer) -> Site {
    let site = Site::new("client-certificates = \"optional\"\nfailures-per-minute = 10000\n", "");
    configure(&site, issuer);
    site
}

fn configure(site: &Site, issuer: &Issuer) {
    let rest = format!(
        "[issuer.login]\nissuer = \"{}\"\naudience = [\"{RESOURCE}\"]\nalgorithms = [\"ES256\"]\n[roles]\n\
         operator = [{{ jwt = {{ issuer = \"login\", claims = {{ groups = \"operators\" }} }} }}]\n{}",
        issuer.url(),
        Host::tool("it", 0, &["a/key"])
    );
    site.configure("client-certificates = \"optional\"\nfailures-per-minute = 10000\n", &rest);
}

fn profile(site: &Site, issuer: &str, more: &str) {
    let folder = site.host.path(".config/valetkey");
    fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "[profile.prod]\naddress = \"localhost:{}\"\nca-file = {:?}\nissuer = {issuer:?}\nclient-id = \"valetkey\"\n\
         scope = \"openid admin\"\ntoken-file = {:?}\n{more}",
        site.port,
        site.host.path("servers-ca.pem"),
        site.host.path("token"),
    );
    fs::write(folder.join("profiles.toml"), text).unwrap();
    fs::set_permissions(folder.join("profiles.toml"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
    command.args(arguments).args(["--profile", "prod"]).env("HOME", site.host.dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(site: &Site, arguments: &[&str]) -> Output {
    command(site, arguments).output().unwrap()
}

/// Logs in, and does in the browser what `person` makes of the code. What was said, and whether it went well.
fn log_in(site: &Site, person: impl FnOnce(&str)) -> (bool, String) {
    let mut child = command(site, &["login"]).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("same code") && err.read_line(&mut said).unwrap() > 0 {}
    let code = said.split_once("enter the code: ").map(|(_, rest)| rest.lines().next().unwrap().to_owned());
    if let Some(code) = code {
        person(&code);
    }
    err.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().success(), said)
}

#[test]
fn an_operator_logs_in_by_a_code_and_has_the_role_of_their_claims() {
    let Some(issuer) = Issuer::start() else { return };
    let site = site(&issuer);
    let _daemon = site.start();
    profile(&site, &issuer.url(), &format!("resource = \"{RESOURCE}\"\n"));
    says(&run(&site, &["status"]), 3, &["profile prod is not logged in", "valetkey login --profile prod"]);

    let (well, told) = log_in(&site, |code| issuer.post(&format!("/yes?code={code}&who=alice")));
    assert!(well && told.contains("/device") && told.contains("logged in for profile prod, until 20"), "{told}");
    let file = site.host.path("token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&file).unwrap();
    assert!(!told.contains(&token), "the token is on the terminal");
    says(&run(&site, &["status"]), 0, &["serving"]);
    says(&run(&site, &["refresh"]), 0, &[]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    says(&run(&site, &["status"]), 1, &["open to others", "chmod 600"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // More than the role may.
    says(&run(&site, &["contain", "it", "--yes"]), 3, &["security"]);
    let record = site.record_that("an operator's action", |record| record["event"] == "admin.action");
    assert!(record["subject"].as_str().unwrap().contains("alice"), "{record}");

    // A person without the role, and one who says no; the token from before stays where nothing new came.
    let (well, _) = log_in(&site, |code| issuer.post(&format!("/yes?code={code}&who=mallory")));
    assert!(well);
    says(&run(&site, &["status"]), 3, &[]);
    let before = fs::read_to_string(&file).unwrap();
    let (well, told) = log_in(&site, |code| issuer.post(&format!("/no?code={code}")));
    assert!(!well && told.contains("refused in the browser"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert!(!site.host.log().contains(&token) && !site.host.log().contains(&before));
}

#[test]
fn what_is_wrong_with_a_login_is_said() {
    let Some(issuer) = Issuer::start() else { return };
    let site = site(&issuer);
    let resource = format!("resource = \"{RESOURCE}\"\n");
    let wrong = [
        (issuer.url() + "/", resource.as_str(), "speaks for another issuer"),
        ("http://login.example.com".into(), &resource, "in the clear"),
        (format!("http://127.0.0.1:{}", servers::free_port()), &resource, "is the issuer there"),
        // An opaque token, which nobody can verify.
        (issuer.url(), "", "can be verified by its signature"),
    ];
    for (url, more, words) in wrong {
        profile(&site, &url, more);
        let (well, told) = log_in(&site, |code| issuer.post(&format!("/yes?code={code}&who=alice")));
        assert!(!well && told.contains(words), "{url}: {told}");
        assert!(!site.host.path("token").exists());
    }
    fs::write(site.host.path(".config/valetkey/profiles.toml"), "[profile.prod]\naddress = \"x:1\"\nca-file = \"/x\"\n").unwrap();
    says(&run(&site, &["login"]), 2, &["does not say where to log in", "client-id"]);
}

/// The provider signs by another key again and again, and keeps the one before: no good token is refused, and no other taken.
#[tokio::test(flavor = "multi_thread")]
async fn its_keys_rotate_under_load() {
    let Some(issuer) = Issuer::start() else { return };
    let site = site(&issuer);
    let _daemon = site.start();
    let channel = site.channel(None).await;
    let status = async |token: &str| {
        let mut admin = AdminClient::new(channel.clone());
        admin.status(with_token(StatusRequest {}, token)).await.map(drop).map_err(|status| status.code())
    };
    let (mut good, mut bad, mut before) = (0, 0, Vec::new());
    for round in 0..8 {
        let fresh = issuer.token("alice", RESOURCE);
        for token in before.iter().chain([&fresh]) {
            assert_eq!(status(token).await, Ok(()), "round {round}: {}", site.host.log());
            good += 1;
        }
        // Of another API, of nobody with a role, with a signature that is not its own.
        let (head, signature) = fresh.rsplit_once('.').unwrap();
        let other = issuer.token("alice", "https://other.example.com");
        let forged = format!("{head}.{}", other.rsplit_once('.').unwrap().1);
        assert_ne!(signature, other.rsplit_once('.').unwrap().1);
        for (token, code) in [
            (&other, Code::Unauthenticated),
            (&forged, Code::Unauthenticated),
            (&issuer.token("mallory", RESOURCE), Code::PermissionDenied),
        ] {
            assert_eq!(status(token).await, Err(code), "round {round}");
            bad += 1;
        }
        before = vec![fresh];
        issuer.post("/rotate");
        // It is asked for its keys once a second at the most.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    println!("8 rotations of keys: {good} good tokens taken, {bad} others refused");
    // Two rotations on, its key is gone.
    let begun = Instant::now();
    issuer.post("/rotate");
    while status(&before[0]).await.is_ok() {
        // The next token by a new key has the keys read again.
        assert_eq!(status(&issuer.token("alice", RESOURCE)).await, Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(20), "a key that is gone is still good");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!said(&run(&site, &["login"])).contains("panicked"));
}

//! No level of the log, no error, no answer to a tool or an operator shows a value or a credential: every level of every crate is on,
//! errors are driven out of every source, and all that was said is searched.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use base64::{Engine, prelude::BASE64_STANDARD};
use daemon::{Host, eventually};
use raw::{Raw, get_unary, open_unary};
use stores::{marker, secret, text};
use valetkey::proto::v1::*;

/// All that must not be seen, each with its name.
#[derive(Default)]
struct Markers(Vec<(&'static str, String)>);

impl Markers {
    fn add(&mut self, what: &'static str) -> String {
        let value = text(&marker(1000 + self.0.len() as u64, 40));
        self.0.push((what, value.clone()));
        value
    }

    /// Raw, in base64 at each of its three alignments, in hexadecimal; and any half of it.
    #[track_caller]
    fn assert_none_in(&self, place: &str, said: &[u8]) {
        let said = String::from_utf8_lossy(said);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (what, value) in &self.0 {
            let mut forms = vec![value[..20].to_owned(), value[20..].to_owned(), hex(&value.as_bytes()[..20])];
            forms.push(hex(&value.as_bytes()[20..]).to_uppercase());
            // What surrounds a value changes the first and the last character of its base64.
            for shift in 0..3 {
                let encoded = BASE64_STANDARD.encode([&vec![b'x'; shift], value.as_bytes()].concat());
                forms.push(encoded[4..44].to_owned());
            }
            // As a list of numbers, which is how a derived Debug prints bytes.
            let numbers: Vec<_> = value.as_bytes()[..20].iter().map(ToString::to_string).collect();
            forms.push(numbers.join(", "));
            for form in forms {
                if let Some(at) = said.find(&form) {
                    let from = said[..at].rfind('\n').map_or(0, |line| line + 1);
                    let line = said[from..].lines().next().unwrap_or_default();
                    panic!("{place} shows {what} as {form:?}: {}", &line[..line.len().min(1500)]);
                }
            }
        }
    }
}

/// The search itself: an empty answer must mean that there is nothing.
#[test]
fn the_search_finds_each_form() {
    let mut markers = Markers::default();
    let value = markers.add("it");
    let halves = [value[..25].to_owned(), format!("...{}", &value[18..])];
    let hex: String = value.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = ["", "user:", "k="].map(|before| BASE64_STANDARD.encode(format!("{before}{value} and more")));
    for said in halves.into_iter().chain(encoded).chain([hex.to_uppercase(), hex, format!("{:?}", value.as_bytes())]) {
        let seen = std::panic::catch_unwind(|| markers.assert_none_in("a test", format!("before {said} after").as_bytes()));
        assert!(seen.is_err(), "not found: {said}");
    }
    markers.assert_none_in("a test", &value.as_bytes()[..15]);
}

/// A server that redirects to another, and one whose answer is a marker in broken JSON.
fn odd_servers(inside: &str) -> [u16; 2] {
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n";
    let body = format!("{{\"SecretString\": \"{inside}\", \"data\": {{\"data\": {{\"key\": \"{inside}\"");
    let broken = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    [servers::listener(redirect).0, servers::listener(&broken).0]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_said_shows_a_value_in_the_human_log() {
    nothing_is_shown("human").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_said_shows_a_value_in_the_json_log() {
    nothing_is_shown("json").await;
}

async fn nothing_is_shown(format: &str) {
    let mut markers = Markers::default();
    let (host, moto, bao) = (Host::new(), servers::moto(), servers::openbao());
    let (sealed, aws, vault, environment) = (
        markers.add("a sealed value"),
        markers.add("a value of AWS"),
        markers.add("a value of Vault"),
        markers.add("a variable"),
    );
    let (aws_key, bad_token) = (markers.add("a secret key of AWS"), markers.add("a token of Vault"));
    let neighbour = markers.add("a field beside the one that is wanted");
    let inside = markers.add("what stands in a broken answer");
    let json = |value: &str| format!("{{\"key\":\"{value}\",\"beside\":\"{neighbour}\"}}");
    let path = format!("markers/{format}");
    stores::aws_put(moto, &path, &json(&aws)).await;
    stores::vault_put(bao, &path, &json(&vault));
    let [redirect, broken] = odd_servers(&inside);

    let mut config = host.seal(&[("sealed/good", json(&sealed).as_bytes()), ("sealed/text", sealed.as_bytes())]);
    let (source, mut variables) = stores::aws(&host, moto.port, &aws_key);
    config += &source;
    // As a role's credentials are: with a session token.
    let session_token = markers.add("a session token of AWS");
    let keys =
        format!("aws_access_key_id = AKIAVALETKEY\naws_secret_access_key = {aws_key}\naws_session_token = {session_token}");
    host.write("aws", &format!("[default]\n{keys}\n"));
    config += &stores::vault_as_root(&host, bao.port);
    config += "[source.environment]\nkind = \"environment\"\n";
    variables.push(("VK_GOOD", environment.clone()));
    host.write("bad-token", &bad_token);
    let token = host.path("bad-token").display().to_string();
    for (name, port) in [("wrong", bao.port), ("redirect", redirect), ("broken", broken), ("gone", servers::free_port())] {
        let address = format!("http://127.0.0.1:{port}");
        config +=
            &format!("[source.v-{name}]\nkind = \"vault\"\naddress = \"{address}\"\nauth = {{ token-file = \"{token}\" }}\n");
        if name != "wrong" {
            config +=
                &format!("[source.a-{name}]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\nendpoint = \"{address}\"\n");
        }
    }
    // An identity that is none, and says a marker where it should say a key.
    let identity = markers.add("an identity of a sealed file");
    host.write("bad-identity", &identity);
    config += &format!(
        "[source.s-wrong]\nkind = \"sealed-file\"\nfile = \"{}\"\nidentity-file = \"{}\"\n",
        host.path("secrets.sealed").display(),
        host.path("bad-identity").display()
    );
    let mut names = Vec::new();
    let mut add = |name: &str, source: &str, path: &str, field: &str| {
        let field = if field.is_empty() { String::new() } else { format!("field = \"{field}\"\n") };
        config += &secret(name, source, &format!("path = \"{path}\"\n{field}required = false"));
        names.push(name.to_owned());
    };
    for (source, at) in [("sealed", "sealed/good"), ("aws", &path), ("vault", &path)] {
        add(&format!("{source}/good"), source, at, "key");
        add(&format!("{source}/no-field"), source, at, "wrong");
        add(&format!("{source}/pointer"), source, at, "/key/deeper");
        add(&format!("{source}/missing"), source, "no/such/path", "key");
    }
    add("sealed/not-json", "sealed", "sealed/text", "key");
    add("environment/good", "environment", "VK_GOOD", "");
    add("environment/not-json", "environment", "VK_GOOD", "key");
    for source in ["v-wrong", "v-redirect", "v-broken", "v-gone", "a-redirect", "a-broken", "a-gone", "s-wrong"] {
        add(&format!("{source}/one"), source, &path, "key");
    }
    let granted: Vec<_> = names.iter().map(String::as_str).collect();
    let tools = Host::tool("it", 0, &granted)
        + "limits = { per-minute = 1000000, concurrent = 1000 }\n"
        + &Host::tool("other", 4242, &["aws/good"]);
    let daemon_settings = format!("log-format = \"{format}\"\nlog-level = \"trace\"\nload-timeout = \"15s\"");
    let good = format!("{config}{tools}");
    host.configure(&daemon_settings, &good);
    let mut daemon = host.start_with(&stores::borrowed(&variables));
    let log = host.log();
    assert!(log.len() > 100_000 && log.contains("TRACE"), "every level of every crate speaks: {} bytes", log.len());

    // Hand-outs, and every refusal there is.
    let mut heard = Vec::new();
    let mut broker = raw::broker(&host.tools_socket()).await;
    let scope: Vec<_> = granted.iter().copied().filter(|name| *name != "environment/good").collect();
    let mut raw = Raw::open(&mut broker, "it", &scope).await.unwrap();
    for (name, value) in [("sealed/good", &sealed), ("aws/good", &aws), ("vault/good", &vault)] {
        assert!(raw.secret(1, name).await.value == value.as_bytes());
    }
    let session = open_unary(&mut broker, "it", &["aws/good", "v-gone/one"]).await.unwrap().session;
    assert!(get_unary(&mut broker, &session, &["aws/good"]).await.unwrap()[0].value == aws.as_bytes());
    for name in scope.iter().copied().filter(|name| !name.ends_with("/good")).chain(["environment/good", "no/such", &*aws]) {
        match raw.get(2, name).await.unwrap() {
            session_response::Response::Failed(failed) => {
                // The name that it asked for comes back to it, and to nobody else.
                heard.push(Failed { name: String::new(), ..failed }.message.into_bytes());
            }
            _ => panic!("{name} was handed out"),
        }
    }
    let mut statuses = vec![
        get_unary(&mut broker, &session, &["aws/good", "v-gone/one"]).await.err().unwrap(),
        get_unary(&mut broker, &session, &[&aws]).await.err().unwrap(),
        get_unary(&mut broker, &aws, &["aws/good"]).await.err().unwrap(),
        open_unary(&mut broker, "other", &["aws/good"]).await.err().unwrap(),
        open_unary(&mut broker, "it", &["no/such"]).await.err().unwrap(),
        // Values where names belong: what is no name is not said again.
        open_unary(&mut broker, &format!("{vault}!"), &["aws/good"]).await.err().unwrap(),
        open_unary(&mut broker, "it", &[&format!("{vault}!")]).await.err().unwrap(),
    ];
    raw.say(session_request::Request::Open(raw::open("it", &[&vault])));
    statuses.push(raw.hear().await.err().unwrap());
    for status in &statuses {
        heard.push(format!("{status:?}").into_bytes());
        heard.push(status.details().to_vec());
    }

    // Every question and order of an operator.
    let mut operated = Vec::new();
    let config_path = host.config().display().to_string();
    let online: [&[&str]; 14] = [
        &["status"],
        &["status", "--json"],
        &["tools", "--json"],
        &["secrets"],
        &["secrets", "--json"],
        &["sessions", "--json"],
        &["explain", "it", "aws/good", "--json"],
        &["explain", "other", "vault/good"],
        &["refresh"],
        &["refresh", "--json"],
        &["revoke", "session", &session],
        &["revoke", "secret", "vault/good"],
        &["reload"],
        &["secrets", "--json"],
    ];
    for arguments in online {
        let out = host.operate(arguments);
        operated.push((arguments.join(" "), [out.stdout, out.stderr].concat()));
    }
    for arguments in [&["check", "--config", &config_path][..], &["check", "--json", "--config", &config_path]] {
        let out = host.valetkey(arguments);
        operated.push((arguments.join(" "), [out.stdout, out.stderr].concat()));
    }

    // Configuration with a credential in a place where none belongs.
    let pasted = markers.add("what was pasted into configuration");
    for bad in [
        format!("[source.x]\nkind = \"vault\"\naddress = \"https://h\"\ntoken = \"{pasted}\"\n"),
        format!("[source.x]\nkind = \"vault\"\naddress = \"https://h\"\nauth = {{ token-file = \"{pasted}\" }}\n"),
        format!("[source.x]\nkind = \"{pasted}\"\n"),
        format!("[secret.\"x/y\"]\nsource = \"{pasted}\"\n"),
        format!("[secret.\"x/y\"]\nsource = \"sealed\"\nvalue = \"{pasted}\"\n"),
        format!("[tool.x]\nrun-as = {{ user = \"{pasted}\" }}\nsecrets.\"aws/good\" = {{ env = \"{pasted}\" }}\n"),
        format!("[tool.x]\nrun-as = {{ user = \"0\" }}\nsecrets.\"{pasted}\" = {{}}\n"),
        format!("[{pasted}]\n"),
        format!("x = \"{pasted}\n"),
        pasted.clone(),
    ] {
        host.configure(&daemon_settings, &format!("{bad}\n{good}"));
        for arguments in [&["reload"][..], &["status", "--json"]] {
            let out = host.operate(arguments);
            operated
                .push((format!("{} with {}", arguments[0], bad.replace(&pasted, "MARKER")), [out.stdout, out.stderr].concat()));
        }
        let out = host.valetkey(&["check", "--json", "--config", &config_path]);
        operated.push((format!("check with {}", bad.replace(&pasted, "MARKER")), [out.stdout, out.stderr].concat()));
    }
    // New values, so that what is old is gone from where it was held, and known all the same.
    let newer = markers.add("a newer value of AWS");
    stores::aws_put(moto, &path, &json(&newer)).await;
    host.configure(&daemon_settings, &good);
    daemon.signal(libc::SIGHUP);
    eventually("it has reloaded", || host.log().contains("aws/good changed"));
    let mut raw = Raw::open(&mut broker, "it", &["aws/good"]).await.unwrap();
    assert!(raw.secret(1, "aws/good").await.value == newer.as_bytes());
    drop(raw);
    assert!(daemon.stop().success());

    for said in &heard {
        markers.assert_none_in("an answer to a tool", said);
    }
    for (command, said) in &operated {
        markers.assert_none_in(&format!("`valetkey {command}`"), said);
    }
    let log = host.log();
    markers.assert_none_in("the log", log.as_bytes());
    let root = [("the root token", servers::ROOT_TOKEN.to_owned())];
    for (what, token) in root {
        assert!(!log.contains(&token), "the log shows {what}");
    }
    assert!(!log.contains("panicked"));
    let cleaned = log.matches("[redacted:").count();
    let (answers, commands, kib) = (heard.len(), operated.len(), log.len() / 1024);
    println!("{answers} answers to tools, {commands} of commands, {kib} KiB of log searched, cleaned in {cleaned} places");
    if let Some(copy) = std::env::var_os("VALETKEY_TEST_LOG") {
        std::fs::write(copy, &log).unwrap();
    }
}

/// A daemon that does not start says why without a value too, before its log filter knows any.
#[test]
fn a_daemon_that_refuses_its_configuration_shows_nothing_of_it() {
    let mut markers = Markers::default();
    let pasted = markers.add("what was pasted into configuration");
    for bad in [
        format!("[source.x]\nkind = \"vault\"\naddress = \"https://h\"\ntoken = \"{pasted}\"\n"),
        format!("k = {pasted}"),
        pasted.clone(),
    ] {
        let host = Host::new();
        host.configure("", &bad);
        let mut daemon = host.spawn(&[]);
        assert_eq!(daemon.wait(std::time::Duration::from_secs(20)).code(), Some(1));
        assert!(host.log().contains("valetkey.toml"), "{}", host.log());
        markers.assert_none_in("standard error", host.log().as_bytes());
    }
}

//! What a scraper sees: a page of the format that scrapers read, the numbers that are true, and never a value. And who may see it.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use daemon::{Daemon, Host, eventually};
use raw::{Raw, get_unary, open_unary};
use stores::{UNLIMITED, marker, secret, text};

/// One answer: status, head, body.
type Answer = (u16, String, String);

fn ask(mut wire: impl Read + Write, request: &str) -> Answer {
    wire.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn socket(host: &Host) -> PathBuf {
    host.path("run/metrics.sock")
}

fn setting(host: &Host) -> String {
    format!("metrics = \"{}\"\n", socket(host).display())
}

fn scrape(host: &Host) -> Page {
    let (status, head, body) = ask(UnixStream::connect(socket(host)).unwrap(), GET);
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    Page::parse(&body)
}

/// A page, read as strictly as its format is written.
struct Page {
    text: String,
    /// Type and help, by name.
    families: BTreeMap<String, (String, String)>,
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends as it should");
        let (mut families, mut samples, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && name.starts_with("valetkey_") && help.ends_with('.') && !help.contains('\\'), "{line}");
                let before = families.insert(name.to_owned(), (String::new(), help.to_owned()));
                assert!(before.is_none(), "twice: {line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(name == family && ["gauge", "counter", "histogram", "info"].contains(&kind), "{line}");
                families.get_mut(name).unwrap().0 = kind.to_owned();
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert!(name == family && name.ends_with(&format!("_{unit}")) && ["seconds", "bytes"].contains(&unit), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = labels_of(series);
                let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} stands under {family}"));
                let suffixes: &[&str] = match families[&family].0.as_str() {
                    "gauge" => &[""],
                    "counter" => &["_total"],
                    "info" => &["_info"],
                    _ => &["_bucket", "_sum", "_count"],
                };
                assert!(suffixes.contains(&suffix), "{line}");
                assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        assert!(families.values().all(|(kind, _)| !kind.is_empty()));
        let page = Self { text: text.to_owned(), families, samples };
        page.buckets_add_up(body);
        page
    }

    /// In the order in which they stand, buckets do not shrink, and the last is all.
    fn buckets_add_up(&self, body: &str) {
        let (mut last, mut complete) = (0.0, 0);
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, mut labels) = labels_of(series);
            let Some(name) = name.strip_suffix("_bucket") else {
                last = 0.0;
                continue;
            };
            let value: f64 = value.parse().unwrap();
            assert!(value >= last, "{line}");
            last = value;
            if labels.remove("le").unwrap() == "+Inf" {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                let count = self.samples.iter().find(|(series, _)| {
                    let (found, of) = labels_of(series);
                    found == format!("{name}_count") && of == labels_of(&format!("x{labels}")).1
                });
                assert_eq!(count.map(|(_, count)| *count), Some(value), "{line}");
                (last, complete) = (0.0, complete + 1);
            }
        }
        let histograms = self.samples.keys().filter(|series| labels_of(series).0.ends_with("_count")).count();
        assert!(complete == histograms && complete > 0, "{complete} of {histograms} end with +Inf");
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("there is no {series} in\n{}", self.text))
    }

    #[track_caller]
    fn says(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            assert_eq!(self.value(series), *value, "{series}");
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn labels_of(series: &str) -> (&str, BTreeMap<&str, &str>) {
    let Some((name, rest)) = series.split_once('{') else { return (series, BTreeMap::new()) };
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("{series}"));
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{series}"));
        let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("{series}"));
        assert!(is_name(key) && !value.contains(['\\', '\n']) && labels.insert(key, value).is_none(), "{series}");
        rest = after.strip_prefix(',').unwrap_or(after);
        assert!(!after.is_empty() || rest.is_empty(), "{series}");
    }
    (name, labels)
}

fn host() -> (Host, Daemon) {
    let host = Host::new();
    let source = host.seal(&[("a/key", b"value-of-a-key"), ("b/key", b"value-of-b-key")]);
    let tools = Host::tool("it", 0, &["a/key"]) + UNLIMITED + &Host::tool("other", 4242, &["b/key"]);
    host.configure(&setting(&host), &format!("{source}{}{tools}", Host::secrets(&["a/key", "b/key"])));
    let daemon = host.start();
    (host, daemon)
}

#[test]
fn the_page_has_what_the_docs_say_and_nothing_else() {
    let (host, _daemon) = host();
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows: Vec<_> = docs.lines().filter(|line| line.starts_with("| `valetkey_")).map(str::to_owned).collect();
    let page = scrape(&host);
    let families = page.text.lines().filter_map(|line| line.strip_prefix("# HELP ")).map(|rest| rest.split_once(' ').unwrap());
    let told: Vec<_> = families.map(|(name, help)| format!("| `{name}` | {} | {help} |", page.families[name].0)).collect();
    assert_eq!(rows, told);
    // Each label is explained.
    let labels: BTreeSet<_> = page.samples.keys().flat_map(|series| labels_of(series).1.into_keys()).collect();
    for label in labels.into_iter().filter(|label| *label != "le") {
        assert!(docs.contains(&format!("`{label}`")), "docs/metrics.md does not explain the label {label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_true() {
    let (host, daemon) = host();
    let page = scrape(&host);
    page.says(&[
        ("valetkey_build_info{version=\"0.1.0\"}", 1.0),
        ("valetkey_ready", 1.0),
        ("valetkey_source_info{source=\"sealed\",kind=\"sealed-file\"}", 1.0),
        ("valetkey_source_reachable{source=\"sealed\"}", 1.0),
        ("valetkey_source_outage_seconds{source=\"sealed\"}", 0.0),
        ("valetkey_secret_state{secret=\"a/key\",source=\"sealed\",state=\"held\"}", 1.0),
        ("valetkey_secret_state{secret=\"a/key\",source=\"sealed\",state=\"stale\"}", 0.0),
        ("valetkey_secret_max_stale_seconds{secret=\"a/key\"}", 3600.0),
        ("valetkey_handouts_total{tool=\"it\"}", 0.0),
        ("valetkey_sessions{tool=\"it\"}", 0.0),
        ("valetkey_handout_duration_seconds_count", 0.0),
        ("valetkey_reloads_total{result=\"failed\"}", 0.0),
        ("valetkey_connections{socket=\"tools\"}", 0.0),
    ]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for date in ["valetkey_start_timestamp_seconds", "valetkey_source_last_good_timestamp_seconds{source=\"sealed\"}"] {
        assert!((now - 60.0..=now).contains(&page.value(date)), "{date}");
    }
    assert!(page.value("valetkey_secret_age_seconds{secret=\"a/key\"}") < 60.0);
    assert!(page.value("valetkey_arena_used_bytes") > 0.0);

    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["a/key"]).await.unwrap();
    for id in 1..=3 {
        raw.secret(id, "a/key").await;
    }
    let session = open_unary(&mut broker, "it", &["a/key"]).await.unwrap().session;
    get_unary(&mut broker, &session, &["a/key", "a/key"]).await.unwrap();
    assert!(get_unary(&mut broker, &session, &["b/key"]).await.is_err());
    assert!(open_unary(&mut broker, "it", &["b/key"]).await.is_err());
    assert!(open_unary(&mut broker, "other", &["b/key"]).await.is_err());
    for made_up in ["nobody", "someone", "not a name"] {
        assert!(open_unary(&mut broker, made_up, &["b/key"]).await.is_err());
    }
    assert!(host.operate(&["revoke", "secret", "a/key"]).status.success());
    host.write("tools.d/bad.toml", "[tool");
    assert!(!host.operate(&["reload"]).status.success());
    assert!(daemon.pid() > 0);
    scrape(&host).says(&[
        ("valetkey_handouts_total{tool=\"it\"}", 5.0),
        ("valetkey_handouts_total{tool=\"other\"}", 0.0),
        ("valetkey_sessions{tool=\"it\"}", 2.0),
        ("valetkey_connections{socket=\"tools\"}", 1.0),
        // Three of one secret each, and one of two.
        ("valetkey_handout_duration_seconds_count", 4.0),
        ("valetkey_refusals_total{tool=\"it\",reason=\"OUTSIDE_SCOPE\"}", 1.0),
        ("valetkey_refusals_total{tool=\"it\",reason=\"SCOPE_NOT_ALLOWED\"}", 1.0),
        ("valetkey_refusals_total{tool=\"other\",reason=\"TOOL_NOT_ALLOWED\"}", 1.0),
        ("valetkey_refusals_total{tool=\"\",reason=\"TOOL_NOT_ALLOWED\"}", 2.0),
        ("valetkey_refusals_total{tool=\"\",reason=\"BAD_REQUEST\"}", 1.0),
        ("valetkey_secret_state{secret=\"a/key\",source=\"sealed\",state=\"revoked\"}", 1.0),
        ("valetkey_secret_state{secret=\"a/key\",source=\"sealed\",state=\"held\"}", 0.0),
        ("valetkey_reloads_total{result=\"failed\"}", 1.0),
        ("valetkey_reload_failed", 1.0),
    ]);
    fs::remove_file(host.path("tools.d/bad.toml")).unwrap();
    assert!(host.operate(&["reload"]).status.success());
    scrape(&host).says(&[("valetkey_reloads_total{result=\"done\"}", 1.0), ("valetkey_reload_failed", 0.0)]);
}

#[test]
fn the_socket_is_for_those_who_may_use_the_admin_socket() {
    let host = Host::new();
    let rest = host.seal(&[("a/key", b"value-of-a-key")]) + &Host::secrets(&["a/key"]) + &Host::tool("it", 0, &["a/key"]);
    for (group, mode, gid) in [("", 0o600, 0), ("admin-group = \"daemon\"\n", 0o660, 1)] {
        host.configure(&format!("{}{group}", setting(&host)), &rest);
        let mut daemon = host.start();
        let (metrics, admin) = (socket(&host).metadata().unwrap(), host.admin_socket().metadata().unwrap());
        assert!(metrics.file_type().is_socket());
        assert_eq!((metrics.mode() & 0o777, metrics.gid(), metrics.uid()), (mode, gid, admin.uid()));
        assert_eq!((metrics.mode(), metrics.gid()), (admin.mode(), admin.gid()));
        scrape(&host);
        assert!(daemon.stop().success());
        assert!(!socket(&host).exists(), "its file goes with it");
    }
}

#[test]
fn a_port_of_this_host_serves_the_same_and_no_other_address_is_taken() {
    let host = Host::new();
    let rest = host.seal(&[("a/key", b"value-of-a-key")]) + &Host::secrets(&["a/key"]) + &Host::tool("it", 0, &["a/key"]);
    let port = servers::free_port();
    host.configure(&format!("metrics = \"127.0.0.1:{port}\""), &rest);
    let daemon = host.start();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (status, _, body) = ask(connect(), GET);
    assert_eq!(status, 200);
    assert_eq!(Page::parse(&body).value("valetkey_ready"), 1.0);
    // Nothing else is there.
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 405),
        ("DELETE /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 404),
        ("no HTTP at all\r\n\r\n", 400),
    ] {
        let (status, head, body) = ask(connect(), request);
        assert_eq!(status, expected, "{request}");
        assert!(!body.contains("valetkey_"));
        assert_eq!(head.contains("allow: get"), status == 405);
    }
    let many: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
    assert_eq!(ask(connect(), &format!("GET /metrics HTTP/1.1\r\n{many}\r\n")).0, 431);
    // Who says nothing, or says it slowly, is sent away; and holds up no tool meanwhile.
    let mut silent: Vec<_> = (0..8).map(|_| connect()).collect();
    silent[0].write_all(b"GET /met").unwrap();
    let begun = Instant::now();
    let get = host.valetkey(&["get", "a/key", "--tool", "it", "--socket", host.tools_socket().to_str().unwrap()]);
    assert!(get.status.success());
    for wire in &mut silent {
        wire.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        let _ = wire.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("valetkey_"));
    }
    assert!((4..29).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(ask(connect(), GET).0, 200);
    drop(daemon);

    for open in ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464", "127.0.0.1:0", "localhost", "metrics.sock"] {
        host.configure(&format!("metrics = \"{open}\""), &rest);
        let out = host.valetkey(&["check", "--config", host.config().to_str().unwrap()]);
        let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
        assert!(out.status.code() == Some(1) && said.contains("`metrics`"), "{open}: {said}");
    }
    host.configure(&format!("metrics = \"{}\"\nadmin-socket = \"{0}\"", socket(&host).display()), &rest);
    assert_eq!(host.valetkey(&["check", "--config", host.config().to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn a_port_that_is_taken_stops_the_start_and_says_so() {
    let host = Host::new();
    let rest = host.seal(&[("a/key", b"value-of-a-key")]) + &Host::secrets(&["a/key"]) + &Host::tool("it", 0, &["a/key"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    host.configure(&format!("metrics = \"{}\"", taken.local_addr().unwrap()), &rest);
    let mut daemon = host.spawn(&[]);
    assert_eq!(daemon.wait(Duration::from_secs(30)).code(), Some(1));
    assert!(host.log().contains("for `metrics`: Address already in use"), "{}", host.log());
}

/// Who asks for spans where there is no code for them hears how to get it.
#[cfg(not(feature = "otel"))]
#[test]
fn a_build_without_spans_refuses_to_be_told_of_a_collector() {
    let host = Host::new();
    let rest = host.seal(&[("a/key", b"value-of-a-key")]) + &Host::secrets(&["a/key"]) + &Host::tool("it", 0, &["a/key"]);
    host.configure("otlp-endpoint = \"http://127.0.0.1:4317\"", &rest);
    let out = host.valetkey(&["check", "--config", host.config().to_str().unwrap()]);
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("`otlp-endpoint`") && said.contains("cargo build --release --features otel"), "{said}");
}

#[test]
fn a_daemon_that_waits_for_its_sources_says_so() {
    let (host, bao) = (Host::new(), servers::openbao());
    stores::vault_put(bao, "metrics/waits", "{\"key\":\"value-that-is-waited-for\"}");
    let port = servers::free_port();
    let rest = stores::vault_as_root(&host, port)
        + &secret("w/key", "vault", "path = \"metrics/waits\"\nfield = \"key\"")
        + &Host::tool("it", 0, &["w/key"]);
    host.configure(&format!("{}on-unreachable = \"wait\"\n", setting(&host)), &rest);
    let _daemon = host.spawn(&[]);
    eventually("it says what it waits for", || host.log().contains("waiting: 1 secrets cannot be had yet"));
    let page = scrape(&host);
    page.says(&[
        ("valetkey_ready", 0.0),
        ("valetkey_source_reachable{source=\"vault\"}", 0.0),
        ("valetkey_sessions{tool=\"it\"}", 0.0),
        ("valetkey_handouts_total{tool=\"it\"}", 0.0),
    ]);
    assert!(page.value("valetkey_source_outage_seconds{source=\"vault\"}") > 0.0);
    assert!(!page.samples.keys().any(|series| series.starts_with("valetkey_secret_age")));
    let said = String::from_utf8(host.operate(&["status"]).stdout).unwrap();
    assert!(said.contains("waiting for sources, no tool is served yet"), "{said}");
    let status: serde_json::Value = serde_json::from_slice(&host.operate(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["ready"], &status["sources"][0]["health"]), (&false.into(), &"unreachable".into()));
    let out = host.operate(&["refresh"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nothing has been loaded yet"));
    // It comes.
    servers::forward(port, bao.port);
    eventually("it is ready", || scrape(&host).value("valetkey_ready") == 1.0);
    scrape(&host).says(&[("valetkey_secret_state{secret=\"w/key\",source=\"vault\",state=\"held\"}", 1.0)]);
    let said = String::from_utf8(host.operate(&["status"]).stdout).unwrap();
    assert!(!said.contains("waiting for sources"), "{said}");
}

#[test]
fn an_outage_is_seen_while_it_lasts() {
    let (host, bao) = (Host::new(), servers::start_openbao());
    stores::vault_put(&bao, "metrics/outage", "{\"key\":\"value-of-before-the-outage\"}");
    let rest = stores::vault_as_root(&host, bao.port)
        + &secret("o/key", "vault", "path = \"metrics/outage\"\nfield = \"key\"")
        + &Host::tool("it", 0, &["o/key"]);
    host.configure(&format!("{}load-timeout = \"5s\"\n", setting(&host)), &rest);
    let _daemon = host.start();
    scrape(&host).says(&[("valetkey_source_reachable{source=\"vault\"}", 1.0)]);
    drop(bao);
    assert_eq!(host.operate(&["refresh"]).status.code(), Some(1));
    let (first, begun) = (scrape(&host), Instant::now());
    first.says(&[
        ("valetkey_source_reachable{source=\"vault\"}", 0.0),
        ("valetkey_secret_state{secret=\"o/key\",source=\"vault\",state=\"held\"}", 1.0),
        ("valetkey_ready", 1.0),
    ]);
    std::thread::sleep(Duration::from_millis(300));
    let (second, most) = (scrape(&host), begun.elapsed().as_secs_f64() + 1.0);
    for series in ["valetkey_source_outage_seconds{source=\"vault\"}", "valetkey_secret_age_seconds{secret=\"o/key\"}"] {
        let grown = second.value(series) - first.value(series);
        assert!((0.29..most).contains(&grown), "{series} grew by {grown}");
    }
}

/// Values that are found, that have no such field, that a source refuses, that stand in what it says, and that callers send.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_is_ever_in_it() {
    let (host, bao) = (Host::new(), servers::openbao());
    let markers: Vec<_> = (7000..7006).map(|seed| text(&marker(seed, 40))).collect();
    let [sealed, vault, token, said, broken, asked] = &*markers else { panic!() };
    let json = |value: &str| format!("{{\"key\":\"{value}\",\"beside\":\"{value}\"}}");
    stores::vault_put(bao, "metrics/marker", &json(vault));
    let answer = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let refusing = servers::listener(&answer("403 Forbidden", &format!("{{\"errors\":[\"{said}\"]}}"))).0;
    let breaking = servers::listener(&answer("200 OK", &format!("{{\"data\":{{\"data\":{{\"key\":\"{broken}\""))).0;
    let mut config = host.seal(&[("s/good", json(sealed).as_bytes()), ("s/text", sealed.as_bytes())]);
    config += &stores::vault_as_root(&host, bao.port);
    host.write("bad-token", token);
    for (name, port) in [("wrong", bao.port), ("refusing", refusing), ("breaking", breaking), ("gone", servers::free_port())] {
        let token = host.path("bad-token").display().to_string();
        config += &format!("[source.{name}]\nkind = \"vault\"\naddress = \"http://127.0.0.1:{port}\"\n");
        config += &format!("auth = {{ token-file = \"{token}\" }}\n");
    }
    let mut names = Vec::new();
    for (name, source, path, field) in [
        ("s/good", "sealed", "s/good", "key"),
        ("s/field", "sealed", "s/good", "wrong"),
        ("s/text", "sealed", "s/text", "key"),
        ("v/good", "vault", "metrics/marker", "key"),
        ("v/field", "vault", "metrics/marker", "wrong"),
        ("v/missing", "vault", "metrics/no-such", "key"),
        ("w/one", "wrong", "metrics/marker", "key"),
        ("r/one", "refusing", "metrics/marker", "key"),
        ("b/one", "breaking", "metrics/marker", "key"),
        ("g/one", "gone", "metrics/marker", "key"),
    ] {
        config += &secret(name, source, &format!("path = \"{path}\"\nfield = \"{field}\"\nrequired = false"));
        names.push(name);
    }
    let tools = Host::tool("it", 0, &names) + UNLIMITED;
    host.configure(&format!("{}load-timeout = \"10s\"\n", setting(&host)), &format!("{config}{tools}"));
    let _daemon = host.start();
    let mut pages = vec![scrape(&host).text];
    let mut broker = raw::broker(&host.tools_socket()).await;
    let mut raw = Raw::open(&mut broker, "it", &["s/good", "v/good", "v/field"]).await.unwrap();
    assert!(raw.secret(1, "s/good").await.value == sealed.as_bytes());
    assert!(raw.secret(2, "v/good").await.value == vault.as_bytes());
    for name in ["v/field", asked, sealed] {
        let _ = raw.get(3, name).await;
    }
    let lower = asked.to_lowercase();
    for (tool, scope) in [(asked.as_str(), "s/good"), ("it", asked), (&lower, "s/good"), ("it", &lower), (sealed, sealed)] {
        assert!(open_unary(&mut broker, tool, &[scope]).await.is_err());
    }
    pages.push(scrape(&host).text);
    let refreshed = host.operate(&["refresh"]);
    assert_eq!(refreshed.status.code(), Some(1));
    host.configure(&setting(&host), &format!("{config}{tools}[{asked}]\n"));
    assert_eq!(host.operate(&["reload"]).status.code(), Some(1));
    pages.push(scrape(&host).text);
    pages.extend([refreshed.stdout, refreshed.stderr].map(|said| String::from_utf8(said).unwrap()));
    pages.extend([["status"], ["secrets"]].map(|command| String::from_utf8(host.operate(&command).stdout).unwrap()));
    assert!(pages[2].contains("valetkey_secret_state{secret=\"v/field\",source=\"vault\",state=\"missing\"} 1"), "{}", pages[2]);
    for page in &pages {
        for marker in markers.iter().chain([&lower]) {
            for part in [&marker[..20], &marker[20..]] {
                assert!(!page.contains(part), "{part} is in\n{page}");
            }
        }
    }
}

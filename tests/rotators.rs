//! The shipped rotators that need no daemon to be tried: each step twice, as a crash would have it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/rotators");

/// Runs one step, twice, and returns the second answer.
fn step(rotator: &str, argument: &str, step: &str, told: &Value) -> Value {
    let mut told = told.clone();
    told["protocol"] = json!(1);
    told["step"] = json!(step);
    told["secret"] = json!("a/secret");
    if told["with"].is_null() {
        told["with"] = json!({});
    }
    let mut answer = Value::Null;
    for _ in 0..2 {
        let mut command = Command::new(format!("{SHIPPED}/{rotator}"));
        command.arg(argument).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{told}\n").as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        answer = serde_json::from_slice(&out.stdout).unwrap();
    }
    answer
}

#[test]
fn an_ssh_key_is_added_before_the_old_one_goes() {
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        return println!("SKIP: the SSH rotator: ssh-keygen is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorized_keys");
    let key = folder.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let (old, public) = (fs::read_to_string(&key).unwrap(), fs::read_to_string(key.with_extension("pub")).unwrap());
    fs::write(&file, format!("ssh-ed25519 AAAAsomebody else\nrestrict,pty {public}")).unwrap();
    let run = |what: &str, told: Value| step("ssh-key", file.to_str().unwrap(), what, &told);
    let lines = || fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();

    let new = run("create", json!({ "rotation": "0a", "old": { "value": old } }))["value"].as_str().unwrap().to_owned();
    assert!(new.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") && lines().len() == 2);
    let told = json!({ "rotation": "0a", "old": { "value": old }, "new": { "value": new } });
    assert!(run("test", told.clone())["error"].as_str().unwrap().contains("not in the file"));
    assert_eq!(run("set", told.clone()), json!({}));
    assert_eq!(lines().len(), 3, "twice is once, and the old key is still good");
    assert!(lines()[2].starts_with("restrict,pty ssh-ed25519 ") && lines()[2].ends_with(" valetkey-0a"), "{:?}", lines());
    assert_eq!(run("test", told.clone()), json!({}));
    assert_eq!(run("undo", told.clone()), json!({}));
    assert_eq!(lines().len(), 2);
    run("set", told.clone());
    assert_eq!(run("retire", told), json!({}));
    assert!(lines().len() == 2 && lines()[0].ends_with("else") && lines()[1].ends_with("valetkey-0a"), "{:?}", lines());
    assert!(
        run("create", json!({ "rotation": "0b", "old": { "value": "no key" } }))["value"].is_string(),
        "the old one is not needed"
    );
}

/// A service with keys: by id, the name and the key.
type Keys = Arc<Mutex<BTreeMap<String, (String, String)>>>;

fn service() -> (u16, Keys) {
    let keys: Keys = Arc::new(Mutex::new(BTreeMap::from([("1".into(), ("first".into(), "the-first-key".into()))])));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = keys.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(client);
            let (mut head, mut length, mut bearer) = (String::new(), 0, String::new());
            reader.read_line(&mut head).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let (name, value) = line.trim().split_once(": ").unwrap_or_default();
                match name.to_lowercase().as_str() {
                    "content-length" => length = value.parse().unwrap(),
                    "authorization" => bearer = value.trim_start_matches("Bearer ").to_owned(),
                    "" => break,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (method, path) = (head.split(' ').next().unwrap(), head.split(' ').nth(1).unwrap());
            let mut keys = all.lock().unwrap();
            let own = keys.iter().find(|(_, (_, key))| *key == bearer).map(|(id, (name, _))| json!({ "id": id, "name": name }));
            let (status, answer) = match (method, path) {
                ("GET", "/v1/keys/self") => own.map_or((401, Value::Null), |own| (200, own)),
                _ if bearer != "the-admin-key" => (403, Value::Null),
                ("GET", "/v1/keys") => (200, keys.iter().map(|(id, (name, _))| json!({ "id": id, "name": name })).collect()),
                ("POST", "/v1/keys") => {
                    let name = serde_json::from_slice::<Value>(&body).unwrap()["name"].as_str().unwrap().to_owned();
                    let id = format!("{}", keys.len() + 100);
                    let key = format!("key-{id}-{name}");
                    keys.insert(id.clone(), (name, key.clone()));
                    (200, json!({ "id": id, "key": key }))
                }
                ("DELETE", path) => {
                    let gone = keys.remove(path.trim_start_matches("/v1/keys/"));
                    (if gone.is_some() { 200 } else { 404 }, Value::Null)
                }
                _ => (400, Value::Null),
            };
            let text = answer.to_string();
            let _ = write!(
                reader.get_mut(),
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    (port, keys)
}

#[test]
fn an_api_key_is_made_before_the_old_one_is_deleted_and_found_again_by_its_rotation() {
    let (port, keys) = service();
    let base = format!("http://127.0.0.1:{port}/v1");
    let with = json!({ "service/admin": { "value": "the-admin-key" } });
    let run = |what: &str, told: Value| step("http-api-key", &base, what, &told);
    let names = || keys.lock().unwrap().values().map(|(name, _)| name.clone()).collect::<Vec<_>>();

    let create = json!({ "rotation": "0a", "old": { "value": "the-first-key" }, "with": with });
    run("create", create.clone());
    assert_eq!(names(), ["first", "valetkey-0a"], "of two tries one key is left");
    // A crash before it is stored: nobody knows its value, and it goes.
    assert_eq!(run("undo", create.clone()), json!({}));
    assert_eq!(names(), ["first"]);

    let new = run("create", create)["value"].as_str().unwrap().to_owned();
    let told = json!({ "rotation": "0a", "old": { "value": "the-first-key" }, "new": { "value": new }, "with": with });
    assert_eq!(run("set", told.clone()), json!({}));
    assert_eq!(run("test", told.clone()), json!({}));
    assert_eq!(names().len(), 2);
    assert_eq!(run("retire", told), json!({}), "and again, when the old key is gone");
    assert_eq!(names(), ["valetkey-0a"]);
    let wrong = json!({ "rotation": "0a", "new": { "value": "nonsense" }, "with": with });
    assert!(run("test", wrong)["error"].as_str().unwrap().contains("HTTP 401"));
}

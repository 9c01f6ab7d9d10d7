//! A rotation hook, and the system with two keys that it tells.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use super::daemon::Host;

/// A hook that does what a system with two keys would: `old` and `new` are good between `set` and `retire`. It writes what it did.
pub fn hook(host: &Host, extra: &str) -> String {
    let path = host.path("hook");
    let state = host.path("system");
    fs::create_dir_all(&state).unwrap();
    let script = format!(
        r#"#!/usr/bin/python3
import json, sys, os, hashlib, secrets, time
told = json.loads(sys.stdin.readline())
step, token = told["step"], told["rotation"]
state = {state:?}
key = lambda which: hashlib.sha256(told[which]["value"].encode()).hexdigest() if which in told else None
def log(line):
    with open(state + "/log", "a") as file: file.write(line + "\n")
answer = {{}}
{extra}
if step == "create":
    answer = {{"value": "made-" + secrets.token_hex(16)}}
elif step == "set":
    open(state + "/" + key("new"), "w").close()
elif step == "test":
    if not os.path.exists(state + "/" + key("new")): answer = {{"error": "it is not taken"}}
elif step == "retire" and key("old"):
    if os.path.exists(state + "/" + key("old")): os.remove(state + "/" + key("old"))
elif step == "undo" and key("new"):
    if os.path.exists(state + "/" + key("new")): os.remove(state + "/" + key("new"))
log(step)
print(json.dumps(answer))
"#,
        state = state.to_str().unwrap(),
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

pub fn steps(host: &Host) -> Vec<String> {
    fs::read_to_string(host.path("system/log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How many values the system of the hook takes.
pub fn taken(host: &Host) -> BTreeSet<String> {
    let entries = fs::read_dir(host.path("system")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name.len() == 64).collect()
}

pub fn digest(value: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Secrets from the daemon's environment.

use std::{collections::HashMap, process::Command};

use valetkey::{
    secret::SecretValue,
    source::{
        Cause,
        environment::{Environment, Settings, take_from_environment},
    },
};

use super::*;

#[tokio::test]
async fn captured_values_are_given() {
    let values = HashMap::from([
        ("PLAIN".to_owned(), SecretValue::copy_from(b"marker").unwrap()),
        ("JSON".to_owned(), SecretValue::copy_from(br#"{"key":"marker-key"}"#).unwrap()),
    ]);
    let source = Environment::new(Settings { values });
    let plain = fetch_one(&source, "PLAIN", None).await;
    assert_value(&plain, b"marker");
    assert_eq!(plain.unwrap().version.as_str(), "1");
    assert_value(&fetch_one(&source, "JSON", Some("key")).await, b"marker-key");
    assert_failed(fetch_one(&source, "PATH", None).await, Cause::NotFound, "$PATH");
}

#[test]
fn a_taken_variable_is_gone_from_proc() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "environment::in_a_process_of_its_own", "--ignored", "--test-threads=1"])
        .env("TAKEN", "marker-taken")
        .env("TAKEN_TOO", "marker-left")
        .env("EMPTY", "")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn in_a_process_of_its_own() {
    let shown = |text: &str| {
        let block = std::fs::read("/proc/self/environ").unwrap();
        block.windows(text.len()).any(|window| window == text.as_bytes())
    };
    if std::env::var_os("TAKEN").is_none() {
        return; // Somebody runs all the ignored tests.
    }
    assert!(shown("TAKEN=marker-taken"));
    // SAFETY: the test harness has started nothing else that looks at the environment.
    let [taken, empty, missing] = ["TAKEN", "EMPTY", "MISSING"].map(|name| unsafe { take_from_environment(name) });
    taken.unwrap().expose(|bytes| assert_eq!(bytes, b"marker-taken"));
    assert!(empty.unwrap().is_empty());
    assert!(missing.is_none());
    assert!(std::env::var_os("TAKEN").is_none());
    assert!(!shown("marker-taken"), "the value is still in /proc/self/environ");
    assert!(shown("TAKEN_TOO=marker-left"), "another variable was changed");
    assert_eq!(std::env::var("TAKEN_TOO").unwrap(), "marker-left");
}

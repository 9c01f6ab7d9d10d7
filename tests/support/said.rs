//! What a command said.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::process::Output;

use serde_json::Value;

pub fn said(out: &Output) -> String {
    String::from_utf8([&*out.stdout, &*out.stderr].concat()).unwrap()
}

#[track_caller]
pub fn says(out: &Output, code: i32, expected: &[&str]) {
    let said = said(out);
    assert_eq!(out.status.code(), Some(code), "{said}");
    for words in expected {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
}

/// Each line of `--json`.
pub fn lines(out: &Output) -> Vec<Value> {
    String::from_utf8(out.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

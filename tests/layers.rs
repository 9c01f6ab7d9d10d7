//! Holds the modules of `src/` to their order: each imports only those above it, as ARCHITECTURE.md tells.

use std::{collections::BTreeMap, fs, path::Path};

/// In the order of a secret's path. `proto` is the contract's words, generated.
const ORDER: [&str; 27] = [
    "proto", "secret", "name", "measure", "peer", "redact", "source", "limits", "audit", "export", "policy", "store", "refresh",
    "session", "lease", "alarm", "broker", "rotate", "contain", "attest", "delivery", "config", "blast", "daemon", "client",
    "run", "cli",
];

/// A module, and what it must never import however high that stands.
const NEVER: [(&str, &[&str]); 9] = [
    ("policy", &["secret", "store", "source"]),
    ("limits", &["secret", "store", "source"]),
    ("audit", &["secret", "redact", "store", "source"]),
    ("export", &["secret", "store"]),
    ("session", &["secret", "store", "source"]),
    ("alarm", &["secret", "store"]),
    ("blast", &["secret", "store", "source", "refresh", "session", "broker", "attest", "delivery"]),
    ("run", &["store", "source", "policy", "session", "broker", "attest", "delivery", "config", "daemon", "refresh", "limits"]),
    (
        "client",
        &["store", "source", "policy", "session", "broker", "attest", "delivery", "config", "daemon", "redact", "refresh"],
    ),
];

/// Crates that may appear in these modules only.
const ONLY_IN: [(&str, &[&str]); 15] = [
    ("jsonwebtoken", &["attest/remote"]),
    ("x509_cert", &["attest/remote/names", "attest/remote/spiffe"]),
    ("aws_sigv4", &["export/aws"]),
    ("aws_sdk", &["source/aws"]),
    ("aws_config", &["source/aws"]),
    ("aws_smithy", &["source/aws"]),
    ("vaultrs", &["source/vault"]),
    ("age::", &["source/sealed_file"]),
    ("prometheus_client", &["delivery/metrics"]),
    ("hyper::", &["delivery/metrics"]),
    ("opentelemetry", &["daemon/traces", "export/otlp"]),
    ("tracing_opentelemetry", &["daemon/traces"]),
    ("sd_notify", &["daemon"]),
    ("tonic::Status", &["delivery", "client", "cli"]),
    ("std::env", &["daemon", "cli", "client", "source/environment", "secret", "run"]),
];

fn sources(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let name = path.strip_prefix("src").unwrap().with_extension("").to_str().unwrap().to_owned();
            found.insert(name, without_comments_and_tests(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn without_comments_and_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Top-level modules that a text imports from its own crate, be it by `use crate::{...}` or by a path in the code.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(list) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && c.is_ascii_alphabetic() => {
                            found.push(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn top(module: &str) -> &str {
    module.split('/').next().unwrap()
}

#[test]
fn each_module_imports_only_those_above_it() {
    let mut modules = BTreeMap::new();
    sources(Path::new("src"), &mut modules);
    assert!(modules.len() > 20, "the walk found the tree");
    let place = |module: &str| ORDER.iter().position(|name| *name == module);
    let mut wrong = Vec::new();
    for (module, text) in
        modules.iter().filter(|(module, _)| !["lib", "bin/valetkey", "bin/valetkeyd"].contains(&module.as_str()))
    {
        let own = place(top(module)).unwrap_or_else(|| panic!("src/{module}.rs is in no place of ARCHITECTURE.md's table"));
        for import in imports(text) {
            let Some(other) = place(&import) else { continue };
            if other > own {
                wrong.push(format!("{module} imports {import}, which stands below it"));
            }
        }
        for (who, what) in NEVER {
            let imported = imports(text).into_iter().filter(|import| top(module) == who && what.contains(&import.as_str()));
            wrong.extend(imported.map(|import| format!("{module} imports {import}, which it must never know")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn some_crates_stay_in_their_corner() {
    let mut modules = BTreeMap::new();
    sources(Path::new("src"), &mut modules);
    for (what, homes) in ONLY_IN {
        let at_home = |module: &str| homes.iter().any(|home| module.starts_with(home)) || module.starts_with("bin/");
        // As a word of its own: "Stage::" is not "age::".
        let starts = |text: &str, at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let mentions = |text: &str| text.match_indices(what).any(|(at, _)| starts(text, at));
        let strays: Vec<_> = modules.iter().filter(|(module, text)| mentions(text) && !at_home(module)).map(|(m, _)| m).collect();
        assert!(strays.is_empty(), "{what} stands in {strays:?}, and belongs to {homes:?} alone");
    }
}

#[test]
fn the_test_sees_what_it_looks_for() {
    let text = "use crate::{\n    a::{b, c},\n    d,\n};\nfn f() { crate::e::g() }";
    assert_eq!(imports(text), ["a", "d", "e"]);
}

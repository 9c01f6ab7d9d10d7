//! What README says is what happens: the demo prints its block, the commands it names are there, and the other pages name what the
//! code has.

use std::{fs, process::Command};

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Every page that a user reads.
fn pages() -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let names = |folder: &str| {
        let entries = fs::read_dir(format!("{root}/{folder}")).unwrap();
        entries.map(|entry| format!("{folder}{}", entry.unwrap().file_name().to_str().unwrap())).collect::<Vec<_>>()
    };
    let pages: Vec<_> = names("").into_iter().chain(names("docs/")).filter(|name| name.ends_with(".md")).collect();
    assert!(pages.len() > 8, "{pages:?}");
    pages
}

/// What stands in code, fenced or within a line.
fn code(markdown: &str) -> String {
    let mut fenced = false;
    let mut text = String::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            text += &format!("{line}\n");
        } else {
            line.split('`').skip(1).step_by(2).for_each(|span| text += &format!("{span}\n"));
        }
    }
    text
}

/// The fenced block that holds this text.
fn block<'a>(markdown: &'a str, holds: &str) -> &'a str {
    let block = markdown.split("```").skip(1).step_by(2).find(|block| block.contains(holds)).unwrap();
    block.split_once('\n').unwrap().1
}

/// Puts `with` in the place of the digits after each `before`.
fn number(text: &str, before: &str, with: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out += before;
        out += with;
        out += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

#[test]
fn the_demo_prints_what_readme_shows() {
    demo(env!("CARGO_BIN_EXE_valetkey"));
}

/// As after `cargo run`, which builds the daemon's program alone: it holds the operator's commands too.
#[test]
fn the_demo_is_the_same_without_the_launcher_beside_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = folder.path().join("valetkeyd");
    fs::copy(env!("CARGO_BIN_EXE_valetkeyd"), &alone).unwrap();
    demo(alone.to_str().unwrap());
}

fn demo(program: &str) {
    let folder = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
    let out = Command::new(program).arg("demo").env("TMPDIR", folder.path()).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    let told = said.replace(fs::canonicalize(folder.path()).unwrap().to_str().unwrap(), "/tmp");
    let told = number(&told, "/tmp/valetkey-demo-", "4242");
    let told = number(&told, "(pid ", "4242");
    let told = number(&told, "user = \"", "1000");
    // Where the host has no memfd_secret, the demo says so in a line of its own.
    let told: String =
        told.lines().filter(|line| !line.starts_with("   (values are in ")).map(|line| format!("{line}\n")).collect();
    assert_eq!(told, block(&read("README.md"), "1. Sealed three made-up secrets"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

#[test]
fn every_command_that_the_pages_name_is_there() {
    let help = Command::new(env!("CARGO_BIN_EXE_valetkey")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let mut seen = 0;
    for page in pages() {
        let code = code(&read(&page));
        for (at, word) in code.match_indices("valetkey ") {
            let before = code[..at].chars().next_back();
            let command: String = code[at + word.len()..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if before.is_none_or(|c| c.is_whitespace() || c == '(') && !command.is_empty() && !command.starts_with('-') {
                assert!(commands.contains(&command.as_str()), "{page} names `valetkey {command}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen} commands were found in the pages");
}

#[test]
fn every_link_leads_to_a_file() {
    for page in pages() {
        let text = read(&page);
        let folder = page.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let path = format!("{}/{folder}{}", env!("CARGO_MANIFEST_DIR"), link.split('#').next().unwrap());
            assert!(fs::exists(&path).unwrap(), "{page} links to {link}");
        }
    }
}

#[test]
fn the_architecture_page_lists_the_modules_in_their_order() {
    let page = read("ARCHITECTURE.md");
    let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    let mut modules: Vec<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    for module in &modules {
        assert!(rows.contains(&module.as_str()), "{module} has no row in ARCHITECTURE.md");
    }
    modules.sort();
    let order = read("tests/layers.rs");
    let (_, order) = order.split_once("const ORDER").unwrap();
    let order: Vec<_> = order.split_once(';').unwrap().1.split_once("];").unwrap().0.split('"').skip(1).step_by(2).collect();
    let listed: Vec<_> = rows.iter().copied().filter(|row| order.contains(row)).collect();
    assert_eq!(listed, order, "the page's table and tests/layers.rs tell the same order");
}

#[test]
fn the_errors_page_has_every_reason() {
    let page = read("docs/errors.md");
    let proto = read("proto/valetkey/v1/broker.proto");
    let reasons = proto.lines().filter_map(|line| line.trim().strip_prefix("REASON_")?.split_once(" = ")).map(|(name, _)| name);
    for reason in reasons.filter(|reason| *reason != "UNSPECIFIED") {
        assert!(page.contains(&format!("| `{reason}` |")), "docs/errors.md leaves {reason} out");
    }
    let refusals = read("src/attest/refusal.rs");
    let words = refusals.split("=> \"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(word, _)| word);
    for word in words.filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_')) {
        assert!(page.contains(&format!("| `{word}` |")), "docs/errors.md leaves {word} out");
    }
}

#[test]
fn the_blast_radius_page_has_every_finding() {
    let page = read("docs/blast-radius.md");
    for rule in valetkey::blast::RULES {
        assert!(
            page.contains(&format!("| `{}` | {} | {} |", rule.id, rule.name, rule.level)),
            "{} is not as the page says",
            rule.id
        );
    }
}

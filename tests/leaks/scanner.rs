//! The scanner finds what was hidden by hand, and nothing where there is nothing.

use super::{AWKWARD, PLAIN, leaks::find};

fn ways(text: impl AsRef<[u8]>, secret: &str) -> Vec<String> {
    find(text.as_ref(), secret.as_bytes()).into_iter().collect()
}

#[track_caller]
fn found(text: impl AsRef<[u8]>, secret: &str, way: &str) {
    let ways = ways(text, secret);
    assert!(ways.iter().any(|found| found == way), "not {way:?} but {ways:?}");
}

#[test]
fn it_sees_a_secret_and_a_piece_of_one() {
    found(format!("key={AWKWARD}."), AWKWARD, "raw");
    for start in 0..=PLAIN.len() - 12 {
        found(format!("..{}..", &PLAIN[start..start + 12]), PLAIN, "raw");
    }
    // Less than that is in the names of things.
    assert!(ways(&PLAIN[..11], PLAIN).is_empty());
}

#[test]
fn it_takes_escapes_off() {
    let quote = |text: &str| serde_json::to_string(text).unwrap();
    found(quote(AWKWARD), AWKWARD, "escaped");
    found(quote(&quote(AWKWARD)), AWKWARD, "escaped escaped");
    found(quote(&quote(&quote(AWKWARD))), AWKWARD, "escaped escaped escaped");
    let units: String = "p\u{1f511}assword-and-more".encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    found(&units, "p\u{1f511}assword-and-more", "escaped");
    found(quote(&units), "p\u{1f511}assword-and-more", "escaped escaped");
    let python: String = AWKWARD.bytes().map(|b| format!("\\x{b:02x}")).collect();
    found(python, AWKWARD, "escaped");
    found(AWKWARD.replace('/', "\\/").replace('"', "\\\""), AWKWARD, "escaped");
    let html = "sk_live_51H8&quot;quote&bsol;back&#x2f;slash&#43;p&#61;&eacute;";
    found(html, AWKWARD, "entities");
    found(html.replace('&', "&amp;"), AWKWARD, "entities entities");
}

#[test]
fn it_takes_percent_signs_off() {
    let percent: String = PLAIN.bytes().map(|b| format!("%{b:02x}")).collect();
    found(&percent, PLAIN, "percent");
    found(percent.replace('%', "%25"), PLAIN, "percent percent");
    found("a+word+and+another%21", "a word and another!", "percent");
}

/// With coreutils, which know nothing of us: any bytes before and after.
#[test]
fn it_sees_base64_at_every_offset() {
    for before in 0..4 {
        let text = format!("{}{PLAIN}and more", "x".repeat(before));
        let encode = |arguments: &str| shell(&format!("base64 {arguments}"), text.as_bytes());
        found(encode("-w0"), PLAIN, "base64");
        found(encode("-w20"), PLAIN, "base64");
        found(encode("-w8").replace('\n', "\\n"), PLAIN, "escaped base64");
        found(format!("path/{}", encode("-w0").replace('+', "-").replace('/', "_")), PLAIN, "base64");
        let twice = shell("base64 -w0 | base64 -w0", text.as_bytes());
        found(twice, PLAIN, "base64 base64");
    }
    let wide: Vec<u8> = AWKWARD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    found(&wide, AWKWARD, "utf-16");
    found(shell("base64", &wide), AWKWARD, "base64 utf-16");
}

#[test]
fn it_sees_hexadecimal_and_lists_of_numbers() {
    let with = |form: fn(u8) -> String| AWKWARD.bytes().map(form).collect::<String>();
    found(with(|b| format!("{b:02x}")), AWKWARD, "hex");
    found(format!("f{}", with(|b| format!("{b:02X}"))), AWKWARD, "hex");
    found(with(|b| format!("{b:02x}:")), AWKWARD, "hex");
    found(with(|b| format!("0x{b:02x}, ")), AWKWARD, "hex");
    found(shell("od -An -tx1", AWKWARD.as_bytes()), AWKWARD, "hex");
    found(shell("base64 -w0 | od -An -tx1", AWKWARD.as_bytes()), AWKWARD, "hex base64");
    found(format!("{{\"type\":\"Buffer\",\"data\":{:?}}}", AWKWARD.as_bytes()), AWKWARD, "numbers");
    found(shell("od -An -tu1", AWKWARD.as_bytes()), AWKWARD, "numbers");
}

/// Prose, source code, and a file full of base64.
#[test]
fn it_finds_nothing_where_there_is_nothing() {
    for file in ["README.md", "src/broker.rs", "tests/setup/package-lock.json"] {
        assert!(ways(std::fs::read(file).unwrap(), AWKWARD).is_empty(), "{file}");
    }
}

fn shell(script: &str, input: &[u8]) -> String {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

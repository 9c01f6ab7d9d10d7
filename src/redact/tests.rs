use std::{collections::HashSet, time::Instant};

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(bytes: &[u8]) -> SecretValue {
    SecretValue::copy_from(bytes).unwrap()
}

fn knows(values: &[&[u8]]) -> Redactor {
    let redactor = Redactor::new().unwrap();
    for (n, bytes) in values.iter().enumerate() {
        let _ = redactor.learn(&name(&format!("s{n}")), &1.into(), &value(bytes));
    }
    redactor
}

fn redacted(redactor: &Redactor, text: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(&redactor.redact(text.as_ref())).into_owned()
}

/// Encoders that share no code with ours.
fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let chars = bits.as_bytes().chunks(6).map(|six| {
        let six = format!("{:0<6}", std::str::from_utf8(six).unwrap());
        char::from(ALPHABET[usize::from_str_radix(&six, 2).unwrap()])
    });
    let text: String = chars.collect();
    format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))
}

fn percent(bytes: &[u8], keep: &str, space: &str, upper: bool) -> String {
    let one = |b: &u8| match char::from(*b) {
        ' ' => space.to_owned(),
        c if c.is_ascii_alphanumeric() || keep.contains(c) => c.to_string(),
        _ if upper => format!("%{b:02X}"),
        _ => format!("%{b:02x}"),
    };
    bytes.iter().map(one).collect()
}

const AWKWARD: &str = "sk live_51H8\"quote\\back/slash+<p>&=é\u{1f511}\ttab%41";

#[test]
fn a_value_is_found_in_every_form() {
    let s = AWKWARD;
    let b = s.as_bytes();
    let ascii = |upper: bool| -> String {
        let unit = |u: u16| if upper { format!("\\u{u:04X}") } else { format!("\\u{u:04x}") };
        let one =
            |c: char| if c.is_ascii() { c.to_string() } else { c.encode_utf16(&mut [0; 2]).iter().map(|u| unit(*u)).collect() };
        json(s).trim_matches('"').chars().map(one).collect()
    };
    let hex = |upper: bool| -> String { b.iter().map(|x| if upper { format!("{x:02X}") } else { format!("{x:02x}") }).collect() };
    let forms = [
        ("raw", s.to_owned()),
        ("JSON", json(s)),
        ("JSON in JSON", json(&json(s))),
        ("JSON in JSON in JSON", json(&json(&json(s)))),
        ("JSON five deep", json(&json(&json(&json(&json("sk live\\\"x\"y")))))),
        ("JSON, ASCII only, lower", ascii(false)),
        ("JSON, ASCII only, upper", ascii(true)),
        ("JSON, slash escaped", json(s).replace('/', "\\/")),
        ("JSON, Go", json(s).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")),
        ("JSON, PHP", ascii(false).replace('/', "\\/")),
        ("JSON, .NET", ascii(true).replace("\\\"", "\\u0022").replace('+', "\\u002B").replace('<', "\\u003C")),
        ("JSON, every character \\u, nested", json(&s.encode_utf16().map(|u| format!("\\u{u:04x}")).collect::<String>())),
        ("encodeURIComponent", percent(b, "-_.!~*'()", "%20", true)),
        ("percent, lower", percent(b, "-_.~", "%20", false)),
        ("percent in a path", percent(b, "-_.~/", "%20", true)),
        ("form", percent(b, "-_.*", "+", true)),
        ("form, lower", percent(b, "-_.*", "+", false)),
        ("percent, every byte", b.iter().map(|x| format!("%{x:02x}")).collect()),
        ("percent, twice", percent(percent(b, "", "%20", true).as_bytes(), "", "%20", true)),
        ("percent in JSON", json(&percent(b, "\"\\", "%20", true))),
        ("hex, lower", hex(false)),
        ("hex, upper", hex(true)),
        ("Debug of str", format!("{s:?}")),
        ("Debug of Option<String>, nested", format!("{:?}", format!("{:?}", Some(s)))),
        ("escape_default", s.escape_default().to_string()),
        ("escape_ascii", b.escape_ascii().to_string()),
        ("every byte \\x", b.iter().map(|x| format!("\\x{x:02X}")).collect()),
        ("octal", b.iter().map(|x| format!("\\{x:03o}")).collect()),
        ("Debug of Vec<u8>", format!("{:?}", b.to_vec())),
        ("Debug of Bytes", format!("{:?}", bytes::Bytes::copy_from_slice(b))),
        ("JSON of Vec<u8>", serde_json::to_string(b).unwrap()),
        ("Debug of Vec<u8>, hex", format!("{b:02x?}")),
        ("Basic", base64(format!("someone:{s}").as_bytes())),
        ("Basic, no user", base64(format!("{s}:").as_bytes())),
    ];
    let redactor = knows(&[b, b"sk live\\\"x\"y"]);
    for (form, text) in forms {
        let line = format!("before {text} after");
        let clean = redacted(&redactor, &line);
        assert!(clean.starts_with("before ") && clean.ends_with(" after"), "{form}: {clean}");
        // Nothing stays but quotes, brackets, backslashes, and the characters of base64 that a neighbour has a part in.
        let rest = clean.replace("before", "").replace("after", "").replace("[redacted:s0]", "").replace("[redacted:s1]", "");
        let rest = rest.replace("Some", "").replace("b\"", "").chars().filter(|c| c.is_alphanumeric()).count();
        let most = if form.starts_with("Basic") { 14 } else { 0 };
        assert!(clean.contains("[redacted:s") && rest <= most, "{form}: {clean}");
    }
    let units: Vec<u16> = s.encode_utf16().collect();
    for bytes in
        [units.iter().flat_map(|u| u.to_le_bytes()).collect::<Vec<_>>(), units.iter().flat_map(|u| u.to_be_bytes()).collect()]
    {
        assert_eq!(redacted(&redactor, bytes), "[redacted:s0]");
    }
}

#[test]
fn base64_is_found_whatever_stands_around_it() {
    for len in 8..40u8 {
        let secret: Vec<u8> = (0..len).map(|i| i.wrapping_mul(37) ^ 0xfb).collect();
        let redactor = knows(&[&secret]);
        for (before, after) in (0..4).flat_map(|b| (0..4).map(move |a| (b, a))) {
            let text = base64(&[&vec![b'o'; before], secret.as_slice(), &vec![b'o'; after]].concat());
            for text in [text.replace('+', "-").replace('/', "_"), text] {
                let clean = redacted(&redactor, &text);
                // At most the sextets that hold bits of a neighbour stay: four bits of the secret at each end. Padding adds four.
                let stays = clean.replace("[redacted:s0]", "").trim_end_matches('=').len();
                assert!(clean.contains("[redacted:s0]") && stays * 6 <= (before + after) * 8 + 12, "{text} {clean}");
            }
        }
    }
}

#[test]
fn the_parts_of_a_value_are_found() {
    let pem = "-----BEGIN PRIVATE KEY-----\r\nMIIEvQIBADANBgkqhkiG9w0B\r\nshort\r\nAQEFAASCBKcwggSjAgEAAoIB\r\n-----END PRIVATE KEY-----\r\n";
    let account =
        r#"{"type": "account", "key": {"private": "line-one-of-it\nline-two-of-it", "pin": "1234"}, "list": ["tab\tseparated"]}"#;
    let dsn = "postgres://app:p%40ss/word%21@db.internal/main";
    let redactor = knows(&[pem.as_bytes(), account.as_bytes(), dsn.as_bytes(), b"trailing-newline\n"]);
    for (text, clean) in [
        ("x MIIEvQIBADANBgkqhkiG9w0B y", "x [redacted:s0] y"),
        ("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
        ("AQEFAASCBKcwggSjAgEAAoIB\nshort", "[redacted:s0]\nshort"),
        (&json(pem), "\"[redacted:s0]\\r\\n\""),
        ("line-two-of-it", "[redacted:s1]"),
        ("tab\tseparated", "[redacted:s1]"),
        ("1234 account", "1234 account"),
        ("p@ss/word!", "[redacted:s2]"),
        ("db.internal/main", "db.internal/main"),
        ("trailing-newline", "[redacted:s3]"),
        (&base64(b"trailing-newline"), "[redacted:s3]Q=="),
    ] {
        assert_eq!(redacted(&redactor, text), clean, "{text}");
    }
}

#[test]
fn overlapping_finds_are_one_and_nothing_of_either_stays() {
    let redactor = knows(&[b"abcdefgh12345", b"12345ijklmnopq"]);
    assert_eq!(redacted(&redactor, "<abcdefgh12345ijklmnopq>"), "<[redacted:s1]>");
    assert_eq!(redacted(&redactor, "abcdefgh12345abcdefgh12345"), "[redacted:s0]");
}

#[test]
fn an_escape_is_not_cut_in_half() {
    // The text holds a newline and not the secret; redacting the `n` alone would leave a broken escape.
    let redactor = knows(&[b"nabcdefgh"]);
    assert_eq!(redacted(&redactor, r#"{"m":"x\nabcdefgh"}"#), r#"{"m":"x[redacted:s0]"}"#);
}

#[test]
fn a_piece_of_a_long_value_is_found() {
    let long: Vec<u8> = (0..5000u32).map(|i| b'a' + (i.wrapping_mul(2_654_435_761) >> 27) as u8 % 26).collect();
    let redactor = knows(&[&long]);
    assert_eq!(redacted(&redactor, &long), "[redacted:s0]");
    let cut = redacted(&redactor, &long[..4000]);
    assert!(cut.starts_with("[redacted:s0]") && cut.len() < 13 + 256, "{cut}");
}

#[test]
fn short_values_are_said_to_be_short() {
    let redactor = Redactor::new().unwrap();
    for (bytes, too_short) in [("", true), ("1234567", true), ("  1234567\n", true), ("12345678", false), ("abc\ndef\nghi", true)]
    {
        let learned = redactor.learn(&name("pin"), &1.into(), &value(bytes.as_bytes()));
        assert_eq!(learned, Learned { too_short }, "{bytes:?}");
        assert_eq!(redactor.learn(&name("pin"), &1.into(), &value(bytes.as_bytes())), learned);
    }
    assert_eq!(redacted(&redactor, "1234567"), "1234567");
}

#[test]
fn a_version_is_known_until_it_is_forgotten() {
    let redactor = knows(&[]);
    let (stripe, github) = (name("stripe"), name("github"));
    let _ = redactor.learn(&stripe, &1.into(), &value(b"first-value"));
    let _ = redactor.clone().learn(&stripe, &2.into(), &value(b"second-value"));
    let _ = redactor.learn(&github, &1.into(), &value(b"first-value"));
    let sizes = redactor.engine().sizes();
    let _ = redactor.learn(&stripe, &1.into(), &value(b"first-value"));
    assert_eq!(redactor.engine().sizes(), sizes, "learning again adds nothing");
    assert_eq!(redacted(&redactor, "first-value second-value"), "[redacted:stripe] [redacted:stripe]");
    redactor.forget(&stripe, &1.into());
    redactor.forget(&stripe, &9.into());
    assert_eq!(redacted(&redactor, "first-value second-value"), "[redacted:github] [redacted:stripe]");
    redactor.forget(&github, &1.into());
    redactor.forget(&stripe, &2.into());
    assert_eq!(redacted(&redactor, "first-value second-value"), "first-value second-value");
    assert!(redactor.engine().sizes().is_empty());
}

#[test]
fn the_tables_hold_nothing_of_a_value() {
    let secrets: Vec<String> = (0..50).map(|n| format!("sk_live_{n:02}_4eC39HqLyjWDarjtT1zdp7dc-{n}\"\\é")).collect();
    let redactor = knows(&secrets.iter().map(|s| s.as_bytes()).collect::<Vec<_>>());
    let memory = redactor.engine().memory();
    let held: HashSet<&[u8]> = memory.windows(8).collect();
    assert!(held.len() > 10_000);
    for secret in &secrets {
        let in_clear = variants::each(secret.as_bytes(), &mut |_, form| {
            assert!(form.windows(8).all(|window| !held.contains(window)), "a window of a form is in the tables");
        });
        assert!(in_clear);
    }
    let clean = redactor.redact(secrets[7].as_bytes());
    assert_eq!(clean.as_ref(), b"[redacted:s7]");
}

#[test]
fn ten_thousand_are_learned_one_at_a_time_or_at_once() {
    let many: Vec<_> =
        (0..10_000u64).map(|n| (name(&format!("n{n}")), Version::from(n), value(format!("key-{n:08}").as_bytes()))).collect();
    let (singly, batch) = (Redactor::new().unwrap(), Redactor::new().unwrap());
    let start = Instant::now();
    let _ = batch.learn_all(many.iter().map(|(n, v, s)| (n, v, s)));
    let at_once = start.elapsed();
    for (n, v, s) in &many[..2000] {
        let _ = singly.learn(n, v, s);
    }
    eprintln!("at once {at_once:?}, 2000 singly {:?}", start.elapsed() - at_once);
    assert!(singly.engine().sizes().len() <= 6, "few tables: {:?}", singly.engine().sizes());
    for n in [0, 1, 999, 1999] {
        let text = format!("<key-{n:08}>");
        assert_eq!(redacted(&batch, &text), format!("<[redacted:n{n}]>"));
        assert_eq!(redacted(&singly, &text), format!("<[redacted:n{n}]>"));
    }
}

#[test]
fn values_are_learned_while_text_is_redacted() {
    let redactor = knows(&[b"always-known"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..300u64 {
                let _ = redactor.learn(&name("turning"), &n.into(), &value(format!("turning-value-{n}").as_bytes()));
                assert_eq!(redacted(&redactor, format!("turning-value-{n}!")), "[redacted:turning]!");
                redactor.forget(&name("turning"), &n.into());
            }
        });
        scope.spawn(|| (0..3000).for_each(|_| assert_eq!(redacted(&redactor, "always-known"), "[redacted:s0]")));
    });
}

/// What the redactor must do to a text without escapes, the slow way: mark every byte of every occurrence of every form.
fn oracle(secrets: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut marked = vec![false; text.len()];
    for secret in secrets {
        let _ = variants::each(secret, &mut |_, form| {
            for at in 0..text.len() {
                if text[at..].starts_with(form) {
                    marked[at..at + form.len()].fill(true);
                }
            }
        });
    }
    let mut clean = Vec::new();
    for (at, b) in text.iter().enumerate() {
        match marked[at] {
            false => clean.push(*b),
            true if at == 0 || !marked[at - 1] => clean.push(b'#'),
            true => {}
        }
    }
    clean
}

/// Tokens that touch say no more than one.
fn tokens_as_marks(clean: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(clean).into_owned();
    for n in 0..4 {
        text = text.replace(&format!("[redacted:s{n}]"), "#");
    }
    while text.contains("##") {
        text = text.replace("##", "#");
    }
    text.into_bytes()
}

fn secrets(alphabet: &'static str) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let chars: Vec<char> = alphabet.chars().collect();
    let secret = prop::collection::vec(prop::sample::select(chars), 8..13);
    prop::collection::vec(secret.prop_map(|s| s.into_iter().collect::<String>().into_bytes()), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_slow_oracle(
        secrets in secrets("ab"),
        // (which secret, from, to, how): pieces of secrets and of their forms, back to back.
        pieces in prop::collection::vec((0..4usize, 0..6usize, 6..14usize, 0..5usize), 1..12),
    ) {
        let redactor = knows(&secrets.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut text = Vec::new();
        for (which, from, to, how) in pieces {
            let whole = &secrets[which % secrets.len()];
            let piece = &whole[from.min(whole.len())..to.min(whole.len())];
            match how {
                0 => text.extend_from_slice(whole),
                1 => text.extend(base64(whole).trim_end_matches('=').bytes()),
                2 => text.extend(piece.iter().flat_map(|b| format!("{b:02x}").into_bytes())),
                _ => text.extend_from_slice(piece),
            }
        }
        let clean = redactor.redact(&text);
        prop_assert_eq!(tokens_as_marks(&clean), oracle(&secrets, &text));
        prop_assert_eq!(matches!(clean, Cow::Borrowed(_)), clean.as_ref() == text);
        for secret in &secrets {
            let mut left = false;
            let _ = variants::each(secret, &mut |_, form| left |= clean.windows(form.len()).any(|w| w == form));
            prop_assert!(!left, "a form is left in {}", String::from_utf8_lossy(&clean));
        }
    }

    #[test]
    fn no_mix_of_escapes_hides_a_value(
        secrets in secrets("ab\"\\/nu0é\u{1f511}\t "),
        styles in prop::collection::vec(0..5usize, 64),
        nesting in 0..3usize,
        around in "[abnu0/ é]{0,6}",
    ) {
        let redactor = knows(&secrets.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let secret = String::from_utf8(secrets[0].clone()).unwrap();
        prop_assume!(secret.trim_ascii().len() >= 8);
        // A JSON string whose characters are each escaped in one of the ways the grammar allows.
        let escaped: String = secret.chars().zip(&styles).map(|(c, style)| match (style, c) {
            (0, c) => c.encode_utf16(&mut [0; 2]).iter().map(|u| format!("\\u{u:04x}")).collect(),
            (1, c) => c.encode_utf16(&mut [0; 2]).iter().map(|u| format!("\\u{u:04X}")).collect(),
            (2, '/') => "\\/".to_owned(),
            (_, c) => json(&c.to_string()).trim_start_matches('"').strip_suffix('"').map(|s| if c == '"' { "\\\"".into() } else { s.to_owned() }).unwrap(),
        }).collect();
        let mut line = format!("\"{}{escaped}{}\"", around, around);
        for _ in 0..nesting {
            line = json(&line);
        }
        let clean = redacted(&redactor, format!("{{\"m\":{line}}}"));
        let parsed: serde_json::Value = serde_json::from_str(&clean).map_err(|e| TestCaseError::fail(format!("{clean}: {e}")))?;
        let mut inner = parsed["m"].as_str().unwrap().to_owned();
        prop_assert!(!inner.contains(secret.trim_ascii()));
        while let Ok(next) = serde_json::from_str::<String>(&inner) {
            inner = next;
            prop_assert!(!inner.contains(secret.trim_ascii()), "{clean}");
        }
        prop_assert!(clean.contains("[redacted:s"), "{}", clean);
    }

    #[test]
    fn text_without_a_secret_stays_as_it_is(secrets in secrets("xyz\"\\é"), text in "[a-w0-9 %\\\\\"/{}\\n]{0,200}") {
        let redactor = knows(&secrets.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let before: Vec<u8> = text.clone().into_bytes();
        // A form of hex, decimal or base64 can come about by chance in no text this short.
        prop_assert!(matches!(redactor.redact(&before), Cow::Borrowed(same) if same == before));
    }

    #[test]
    fn any_bytes_at_all_are_safe(secret in prop::collection::vec(any::<u8>(), 0..40), text in prop::collection::vec(any::<u8>(), 0..300)) {
        let redactor = knows(&[&secret]);
        let _ = redactor.redact(&text);
        let around = [text.as_slice(), &secret, &text].concat();
        let clean = redactor.redact(&around);
        let core = secret.trim_ascii();
        if core.len() >= 8 && !core.contains(&b'\n') {
            prop_assert!(!clean.windows(core.len()).any(|w| w == core));
        }
        let _ = redactor.redact_str(&String::from_utf8_lossy(&around));
    }
}

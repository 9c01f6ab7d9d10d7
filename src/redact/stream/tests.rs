use std::sync::Arc;

use super::*;
use crate::{
    name::Version,
    redact::{Form, Learned},
    secret::SecretValue,
};

fn learn(redactor: &Redactor, name: &str, version: u64, value: &str) -> Learned {
    redactor.learn(&name.parse().unwrap(), &version.into(), &SecretValue::copy_from(value.as_bytes()).unwrap())
}

fn knowing(values: &[&str]) -> Redactor {
    let redactor = Redactor::streaming().unwrap();
    for (n, value) in values.iter().enumerate() {
        assert!(!learn(&redactor, &format!("s{n}"), 1, value).too_short);
    }
    redactor
}

fn push(stream: &mut Stream, piece: &str) -> String {
    String::from_utf8(stream.push(piece.as_bytes()).unwrap().text.into_owned()).unwrap()
}

fn finish(stream: &mut Stream) -> String {
    String::from_utf8(stream.finish().unwrap().text.into_owned()).unwrap()
}

fn clean(redactor: &Redactor, text: &str) -> String {
    String::from_utf8(redactor.clean(text.as_bytes(), Wanted::default()).unwrap().text.into_owned()).unwrap()
}

const SECRET: &str = "4eC39HqLyjWDarjtT1zdp7dc";

#[test]
fn prompts_and_progress_come_out_at_once() {
    let mut stream = knowing(&[SECRET, "Passphrase of some length"]).stream(Wanted::default());
    for piece in
        ["Username: ", "[sudo] password for ann: ", "\r 10 % ", "\r 20 % [==>  ]", "[12/40] cc", "\x1b[32mok\x1b[0m ", "> "]
    {
        assert_eq!(push(&mut stream, piece), piece);
    }
    assert_eq!(push(&mut stream, "\nPass"), "\n", "the start of a value");
    assert_eq!(push(&mut stream, "word: "), "Password: ");
    assert_eq!(finish(&mut stream), "");
}

#[test]
fn only_what_may_be_a_value_is_held() {
    let mut stream = knowing(&[SECRET]).stream(Wanted::default());
    assert_eq!(push(&mut stream, "key 4eC39"), "key ");
    assert_eq!(stream.held(), 5);
    assert_eq!(push(&mut stream, "Hq"), "");
    assert_eq!(push(&mut stream, "-"), "4eC39Hq-");
    assert_eq!(push(&mut stream, "4eC39HqLyjWDarjtT1zdp7dc"), "[redacted:s0]");
    assert_eq!(push(&mut stream, "."), ".");
    for (held, rest) in [("\\u00", "34eC"), ("%3", "4eC3"), ("&#5", "2;eC"), ("\\", "\\x"), ("NGVDMz", "--")] {
        assert_eq!(push(&mut stream, held), "", "{held} is held");
        assert_eq!(push(&mut stream, rest).len() + stream.held(), held.len() + rest.len());
        push(&mut stream, "\n");
    }
    assert_eq!(push(&mut stream, "4eC39"), "");
    assert_eq!(finish(&mut stream), "4eC39", "the end shows that it is no value");
}

#[test]
fn two_halves_with_a_pause_are_one_value() {
    for form in
        [SECRET, "\\u0034eC39HqLyjWDarjtT1zdp7d\\u0063", "%34eC39HqLyjWDarjtT1zdp7d%63", "NGVDMzlIcUx5aldEYXJqdFQxemRwN2Rj"]
    {
        for cut in 1..form.len() {
            let mut stream = knowing(&[SECRET]).stream(Wanted::default());
            let (first, second) = form.split_at(cut);
            let before = push(&mut stream, &format!("log: {first}"));
            assert!("log: ".starts_with(&before), "{before}");
            // Nothing here looks at a clock; a pause can only be a push of nothing.
            assert_eq!(push(&mut stream, ""), "");
            let out = before + &push(&mut stream, second) + &push(&mut stream, "!\n");
            assert_eq!(out, "log: [redacted:s0]!\n", "{form} cut at {cut}");
        }
    }
}

#[test]
fn a_line_of_json_is_held_until_it_ends_and_stays_json() {
    let mut stream = knowing(&[SECRET, "1234567890"]).stream(Wanted::default());
    assert_eq!(push(&mut stream, "{\"id\":1,\"a\":\""), "");
    assert_eq!(push(&mut stream, "4eC39HqLyjWDarjtT1zdp7dc\", \"pin\" : 1234567890, \"n\":1.50e+3}"), "");
    assert_eq!(push(&mut stream, "\r\n"), "{\"id\":1,\"a\":\"[redacted:s0]\", \"pin\" : \"[redacted:s1]\", \"n\":1.50e+3}\r\n");
    assert_eq!(stream.held(), 0);
    for (line, clean) in [
        (r#"{"4eC39HqLyjWDarjtT1zdp7dc":[ 1.0,-0 ]}"#, r#"{"[redacted:s0]":[ 1.0,-0 ]}"#),
        (r#"["{\"pin\":1234567890,\"z\":1,\"a\":2}"]"#, r#"["{\"pin\":\"[redacted:s1]\",\"z\":1,\"a\":2}"]"#),
        (r#"["{\"x\":\"{\\\"pin\\\":1234567890}\"}"]"#, r#"["{\"x\":\"{\\\"pin\\\":\\\"[redacted:s1]\\\"}\"}"]"#),
        (r#"[12345678901,{"b":"\u0034eC39HqLyjWDarjtT1zdp7dc\n"}]"#, r#"["[redacted:s1]",{"b":"[redacted:s0]\n"}]"#),
        (r#"{"a":1} 4eC39HqLyjWDarjtT1zdp7dc"#, r#"{"a":1} [redacted:s0]"#),
    ] {
        assert_eq!(push(&mut stream, &format!("{line}\n")), format!("{clean}\n"));
    }
}

#[test]
fn an_answer_that_cannot_be_cleaned_is_withheld() {
    // The value is part of the structure, in which no string can stand.
    let redactor = knowing(&["[[[[[[[["]);
    let answer = clean(&redactor, "{\"jsonrpc\":\"2.0\",\"id\":\"q-7\",\"result\":[[[[[[[[[1]]]]]]]]]}\n");
    assert_eq!(
        answer,
        "{\"jsonrpc\":\"2.0\",\"id\":\"q-7\",\"error\":{\"code\":-32603,\"message\":\"withheld: the answer holds a secret that could not be taken out\"}}\n"
    );
    let passed =
        redactor.clean(b"{\"method\":\"x\",\"id\":1,\"params\":[[[[[[[[[1]]]]]]]]]}\nnext\n", Wanted::default()).unwrap();
    assert_eq!(passed.text.as_ref(), b"next\n", "a request is no answer");
    assert_eq!(passed.hits.len(), 1, "what is dropped is told");
}

#[test]
fn a_line_of_json_without_an_end_fails_closed() {
    let mut stream = knowing(&[SECRET]).stream(Wanted::default());
    let mut piece = vec![b'x'; 1 << 20];
    assert_eq!(stream.push(b"{\"a\":\"4eC39HqLyjWDarjtT1zdp7dc").unwrap().text.len(), 0);
    let failed = (0..80).find(|_| match stream.push(&piece) {
        Ok(passed) => {
            assert!(passed.text.is_empty());
            false
        }
        Err(LineTooLong) => true,
    });
    assert_eq!(failed, Some(63));
    piece.push(b'\n');
    assert_eq!(stream.push(&piece).unwrap_err(), LineTooLong);
    assert_eq!(stream.finish().unwrap_err(), LineTooLong);
}

#[test]
fn a_version_learned_within_a_line_is_redacted_and_so_is_the_old_one() {
    let redactor = knowing(&[SECRET]);
    let mut stream = redactor.stream(Wanted::default());
    assert_eq!(push(&mut stream, "old 4eC39HqLyjWDarjtT1zdp7dc, new rot"), "old [redacted:s0], new rot");
    let _ = learn(&redactor, "s0", 2, "rotated-value");
    assert_eq!(
        push(&mut stream, "ated-value, again rotat"),
        "[redacted:s0], again ",
        "its start was passed on before it was known"
    );
    assert_eq!(push(&mut stream, "ed-value, old 4eC39HqLyjWDarjtT1zdp7dc\n"), "[redacted:s0], old [redacted:s0]\n");
    redactor.forget(&"s0".parse().unwrap(), &1.into());
    assert_eq!(push(&mut stream, "4eC39HqLyjWDarjtT1zdp7dc\n"), "4eC39HqLyjWDarjtT1zdp7dc\n");
}

#[test]
fn hits_say_what_was_found_and_how_it_was_written() {
    let redactor = knowing(&[SECRET]);
    let _ = learn(&redactor, "other/same", 7, SECRET);
    let text = "4eC39HqLyjWDarjtT1zdp7dc 4eC39HqLyjWDarjtT1zdp7dc NGVDMzlIcUx5aldEYXJqdFQxemRwN2Rj %34eC39HqLyjWDarjtT1zdp7dc\n";
    let passed = redactor.clean(text.as_bytes(), Wanted::default()).unwrap();
    assert_eq!(passed.text.as_ref(), b"[redacted:s0] [redacted:s0] [redacted:s0] [redacted:s0]\n");
    for (name, version) in [("s0", 1), ("other/same", 7)] {
        for (form, count) in [(Form::Raw, 2), (Form::Base64, 1), (Form::Percent, 1)] {
            let hit = Hit { name: name.parse().unwrap(), version: Some(Version::from(version)), form, count, line: None };
            assert!(passed.hits.contains(&hit), "{hit:?} in {:?}", passed.hits);
        }
    }
    assert_eq!(passed.hits.len(), 6);
}

#[test]
fn a_secret_that_may_not_be_named_is_not() {
    let redactor = knowing(&[SECRET, "other-value-here"]);
    let _ = learn(&redactor, "s9", 1, SECRET);
    let named = |allowed: &'static str| Wanted {
        named: Some(Arc::new(move |name: &SecretName| name.as_str() == allowed)),
        ..Wanted::default()
    };
    let text = format!("{SECRET} other-value-here [{{\"a\":\"{SECRET}\"}}]\n[\"{SECRET}\"]\n");
    let out = |wanted| String::from_utf8(redactor.clean(text.as_bytes(), wanted).unwrap().text.into_owned()).unwrap();
    assert_eq!(out(named("s1")), "[redacted] [redacted:s1] [{\"a\":\"[redacted]\"}]\n[\"[redacted]\"]\n");
    assert_eq!(out(named("s9")), "[redacted:s9] [redacted] [{\"a\":\"[redacted:s9]\"}]\n[\"[redacted:s9]\"]\n");
}

#[test]
fn what_holds_no_value_passes_as_it_is_from_where_it_was_read() {
    let redactor = knowing(&[SECRET]);
    let mut text = b"\xff\xfe\0 caf\xc3\n\r\n\n{\"a\": 1.0e5 }\r\n[1\x00]\n{\"b\":\"\\u00e9\"}\n\\x \\ % & last\n".to_vec();
    let mut stream = redactor.stream(Wanted::default());
    assert!(matches!(stream.push(&text).unwrap(), Passed { text: Cow::Borrowed(same), hits } if same == text && hits.is_empty()));
    text.extend_from_slice(b"no end");
    assert!(matches!(stream.push(&text).unwrap().text, Cow::Borrowed(same) if same == text));
    assert_eq!(finish(&mut stream), "");
}

#[test]
fn base64_broken_into_lines_is_found_and_holds_only_what_it_must() {
    let base64 = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBNGVDMzlIcUx5aldEYXJqdFQxemRwN2RjQUFBQUFB";
    for line_end in ["\n", "\r\n", "\n  "] {
        let mut stream = knowing(&[SECRET]).stream(Wanted::default());
        let (first, second) = base64.split_at(68);
        assert_eq!(push(&mut stream, &format!("{first}{line_end}")), first[..60], "{line_end:?}");
        assert_eq!(push(&mut stream, &format!("{second}\n")), "[redacted:s0]QUFBQUFB\n");
        let escaped = line_end.escape_debug();
        assert_eq!(
            push(&mut stream, &format!("[\"{first}{escaped}{second}\"]\n")),
            format!("[\"{}[redacted:s0]QUFBQUFB\"]\n", &first[..60])
        );
    }
    let mut stream = knowing(&[SECRET]).stream(Wanted::default());
    for line in [
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a4\n",
        "ready at /usr/lib/node_modules/some/long/path/NGVD\n",
    ] {
        assert_eq!(push(&mut stream, line), line, "a log line is not held");
    }
}

#[test]
fn a_redactor_without_patterns_in_the_clear_holds_by_length() {
    let redactor = Redactor::new().unwrap();
    let _ = learn(&redactor, "s0", 1, SECRET);
    let mut stream = redactor.stream(Wanted::default());
    let long = "word ".repeat(100);
    let out = push(&mut stream, &format!("{long}4eC39HqLyj"));
    assert!(out.len() > 200 && long.starts_with(&out));
    let rest = push(&mut stream, "WDarjtT1zdp7dc\n");
    assert_eq!(out + &rest, format!("{long}[redacted:s0]\n"));
}

#[test]
fn a_long_line_without_an_end_is_let_go_as_it_passes() {
    let mut stream = knowing(&[SECRET]).stream(Wanted::default());
    let piece = "progress 12 of 40\r".repeat(500);
    for _ in 0..100 {
        assert_eq!(push(&mut stream, &piece), piece);
        assert!(stream.text.len() < 2 * MOST_CONTEXT);
        assert_eq!(push(&mut stream, "4eC39Hq"), "");
        assert_eq!(push(&mut stream, "LyjWDarjtT1zdp7dc"), "[redacted:s0]");
    }
}

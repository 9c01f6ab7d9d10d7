use super::*;
use crate::redact::{Redactor, Wanted};

fn clean(text: &str) -> String {
    let redactor = Redactor::new().unwrap();
    let passed = redactor.clean(text.as_bytes(), Wanted { shapes: true, ..Wanted::default() }).unwrap();
    assert!(passed.hits.iter().all(|hit| hit.form == Form::Shape && hit.version.is_none()));
    String::from_utf8(passed.text.into_owned()).unwrap()
}

/// Put together here: a scanner of repositories would take them for real ones.
fn key(literal: &str, length: usize) -> String {
    literal.chars().chain("aB3dE5gH7jK9mN1pQ2sT4vW6yZ8".chars().cycle().take(length)).collect()
}

#[test]
fn each_shape_is_found_between_other_words() {
    for shape in &SHAPES {
        let upper = shape.name.starts_with("aws");
        let literal = std::str::from_utf8(shape.literal).unwrap();
        let mut found = key(literal, shape.length.start);
        if upper {
            found = found.to_uppercase();
        }
        assert_eq!(clean(&format!("a {found}, b")), format!("a [redacted:shape/{}], b", shape.name));
        let short = &found[..found.len() - 1];
        assert_eq!(clean(short), short);
        assert_eq!(clean(&format!("x{found}")), format!("x{found}"), "in the middle of a word");
        assert_eq!(clean(&format!("{{\"a\":\"\\n{found}\"}}")), format!("{{\"a\":\"\\n[redacted:shape/{}]\"}}", shape.name));
    }
}

#[test]
fn tokens_secrets_and_blocks_are_found() {
    let jwt = format!("eyJ{}.eyJ{}.{}", key("", 20), key("", 30), key("", 43));
    assert_eq!(clean(&format!("Bearer {jwt}\n")), "Bearer [redacted:shape/jwt]\n");
    for assigned in ["aws_secret_access_key = ", "\"SecretAccessKey\": \"", "AWS-Secret-Access-Key=", "secretAccessKey\\\":\\\""]
    {
        let found = clean(&format!("{assigned}{} x", key("", 40)));
        assert_eq!(found, format!("{assigned}[redacted:shape/aws-secret-access-key] x"));
    }
    let body = (0..5).map(|_| key("", 64) + "\n").collect::<String>();
    for label in ["", "RSA ", "ENCRYPTED ", "OPENSSH "] {
        let block = format!("-----BEGIN {label}PRIVATE KEY-----\n{body}-----END {label}PRIVATE KEY-----");
        assert_eq!(clean(&format!("a\n{block}\nb\n")), "a\n[redacted:shape/private-key]\nb\n");
        assert_eq!(clean(&format!("{{\"k\":\"{}\"}}", block.replace('\n', "\\n"))), "{\"k\":\"[redacted:shape/private-key]\"}");
    }
    let public = format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n");
    assert_eq!(clean(&public), public);
}

#[test]
fn a_shape_is_found_wherever_a_stream_is_cut() {
    let body = (0..3).map(|_| key("", 64) + "\n").collect::<String>();
    let block = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----");
    let text = format!("a {} b\nc {block} d\n", key("ghp_", 36));
    for cut in 0..text.len() {
        let mut stream = Redactor::streaming().unwrap().stream(Wanted { shapes: true, ..Wanted::default() });
        let (first, second) = text.as_bytes().split_at(cut);
        let mut out = stream.push(first).unwrap().text.into_owned();
        out.extend_from_slice(&stream.push(second).unwrap().text);
        out.extend_from_slice(&stream.finish().unwrap().text);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "a [redacted:shape/github-token] b\nc [redacted:shape/private-key] d\n", "cut at {cut}");
    }
}

#[test]
fn a_prompt_is_not_held() {
    let mut stream = Redactor::streaming().unwrap().stream(Wanted { shapes: true, ..Wanted::default() });
    for prompt in ["Password: ", "Continue? [y/N] ", "> "] {
        assert_eq!(stream.push(prompt.as_bytes()).unwrap().text.as_ref(), prompt.as_bytes());
    }
}

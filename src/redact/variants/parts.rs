//! What a program takes out of a value and uses by itself, and so may print by itself: the strings of JSON, the password of a URL or
//! of a connection string, the token of a header, the text behind base64, the lines behind `\n`.
//!
//! What stands in the same value and says where the secret is for (a host, a user, a region) is left out: to take it out of the text
//! would break that and protect nothing.

use base64::Engine;
use zeroize::Zeroizing;

use super::{
    super::views::{Layer, View},
    FLOOR,
};

/// Calls `see` with each part. A part may have parts of its own.
pub(super) fn each(value: &str, see: &mut dyn FnMut(&[u8])) {
    let bytes = value.as_bytes();
    if matches!(bytes.first(), Some(b'{' | b'[')) && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        // Its own rules, and no others: a public string in it may look like an assignment.
        return json_leaves(bytes, see);
    }
    url_password(bytes, see);
    assigned(bytes, see);
    token_of_scheme(value, see);
    behind_base64(bytes, see);
    lines_behind_escapes(bytes, see);
}

/// Keys of JSON secrets, as AWS Secrets Manager and others write them, whose values say where the secret is for: `us-east-1`
/// and `postgres` are in every other line of a log.
const PUBLIC_KEYS: [&[u8]; 12] = [
    b"database",
    b"dbInstanceIdentifier",
    b"dbname",
    b"engine",
    b"host",
    b"hostname",
    b"port",
    b"protocol",
    b"region",
    b"scheme",
    b"type",
    b"token_uri",
];

/// The strings in a JSON object or array, without the object's keys, and without what stands under a public key. Of numbers those
/// under the key of a secret: others are times and ids.
fn json_leaves(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    let (mut rest, mut key): (_, &[u8]) = (value, b"");
    while let Some(open) = rest.iter().position(|b| *b == b'"') {
        let inside = &rest[open + 1..];
        let mut end = 0;
        while inside[end] != b'"' {
            end += if inside[end] == b'\\' { 2 } else { 1 };
        }
        rest = &inside[end + 1..];
        if let Some(after) = rest.trim_ascii_start().strip_prefix(b":") {
            key = &inside[..end];
            let after = after.trim_ascii_start();
            let number = after.iter().take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b)).count();
            if is_secret_key(key) {
                see(&after[..number]);
            }
        } else if !PUBLIC_KEYS.contains(&key) {
            match View::whole_of(Layer::Backslash, &inside[..end]) {
                Some(plain) => see(plain.bytes()),
                None => see(&inside[..end]),
            }
        }
    }
}

/// The password in `scheme://user:password@host`, as written and decoded; or the token in `scheme://token@host`.
fn url_password(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    let Some(scheme) = value.windows(3).position(|w| w == b"://") else { return };
    let rest = &value[scheme + 3..];
    let authority = rest.split(|b| b"/?#".contains(b)).next().unwrap_or(rest);
    // A password with a raw `/` in it is not a valid URL, and common.
    let userinfo = [authority, rest].iter().find_map(|text| Some(&text[..text.iter().rposition(|b| *b == b'@')?]));
    let Some(userinfo) = userinfo else { return };
    let secret = userinfo.iter().position(|b| *b == b':').map_or(userinfo, |colon| &userinfo[colon + 1..]);
    as_written_and_decoded(secret, see);
}

fn as_written_and_decoded(secret: &[u8], see: &mut dyn FnMut(&[u8])) {
    see(secret);
    if let Some(plain) = View::whole_of(Layer::Percent, secret) {
        see(plain.bytes());
    }
}

/// What a key is called whose value is a secret, or holds one.
const SECRET_KEYS: [&str; 17] = [
    "accesskey",
    "accountkey",
    "apikey",
    "authkey",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "signature",
    "signingkey",
    "token",
    "webhook",
];
/// The same, where it is all of the key.
const SECRET_WORDS: [&str; 6] = ["auth", "key", "pass", "pat", "pin", "sig"];
/// A key that ends like this says what a secret is called, or where it is: `SharedAccessKeyName`, `aws_access_key_id`, `token_uri`.
const NO_SECRET: [&str; 8] = ["name", "id", "uri", "url", "type", "file", "path", "expiry"];

fn is_secret_key(key: &[u8]) -> bool {
    let letters = |b: &u8| b.is_ascii_alphanumeric().then(|| b.to_ascii_lowercase() as char);
    let key: String = key.iter().filter_map(letters).collect();
    let named = SECRET_KEYS.iter().any(|word| key.contains(word)) || key.ends_with("key") || SECRET_WORDS.contains(&key.as_str());
    named && !NO_SECRET.iter().any(|end| key.ends_with(end))
}

/// The values of `password=...` in a connection string, a query, a file of variables; of `X-Api-Key: ...` in a header.
fn assigned(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    let sign = |at: &usize| matches!(value[*at], b'=' | b':');
    for at in (0..value.len()).filter(sign) {
        let before = value[..at].trim_ascii_end();
        let length = before.iter().rev().take_while(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b)).count();
        if !is_secret_key(&before[before.len() - length..]) {
            continue;
        }
        let line = value[at + 1..].split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
        if let [quote @ (b'"' | b'\''), inside @ ..] = line {
            see(inside.split(|b| b == quote).next().unwrap_or(inside));
            continue;
        }
        // Where it ends depends on the format: each end is tried. What is taken too long is found nowhere else.
        let ends: [&[u8]; 3] = [b"", b";", b"; \t&#,"];
        ends.iter().for_each(|ends| {
            as_written_and_decoded(line.split(|b| ends.contains(b)).next().unwrap_or_default(), see);
        });
    }
}

/// HTTP's, and what services made like them.
const SCHEMES: [&str; 9] = ["bearer", "basic", "token", "bot", "key", "apikey", "ssws", "geniekey", "splunk"];

/// The token of `Bearer TOKEN`; of `Basic TOKEN` also the password in it.
fn token_of_scheme(value: &str, see: &mut dyn FnMut(&[u8])) {
    let Some((scheme, token)) = value.split_once(' ').map(|(scheme, token)| (scheme, token.trim())) else { return };
    if token.contains(' ') || !SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        return;
    }
    see(token.as_bytes());
    let Some(plain) = decoded(token.as_bytes()).filter(|_| scheme.eq_ignore_ascii_case("basic")) else { return };
    if let Some(colon) = plain.iter().position(|b| *b == b':') {
        see(&plain[colon + 1..]);
    }
}

/// The text that a value is base64 of, as secrets of Kubernetes and key files in variables are.
fn behind_base64(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    if let Some(plain) = decoded(value) {
        see(&plain);
    }
}

/// None where it is not text: then it is a key of that many letters, and nobody decodes it to print it.
fn decoded(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    use base64::engine::{DecodePaddingMode::Indifferent, GeneralPurpose, GeneralPurposeConfig};
    let any_padding = GeneralPurposeConfig::new().with_decode_padding_mode(Indifferent);
    let alphabets = [base64::alphabet::STANDARD, base64::alphabet::URL_SAFE];
    let mut joined = Zeroizing::new(Vec::with_capacity(value.len()));
    joined.extend(value.iter().filter(|b| !b.is_ascii_whitespace()));
    let mut plain = Zeroizing::new(vec![0; joined.len()]);
    let length = alphabets.into_iter().find_map(|alphabet| {
        GeneralPurpose::new(&alphabet, any_padding).decode_slice_unchecked(joined.as_slice(), &mut plain).ok()
    })?;
    plain.truncate(length);
    let is_text = std::str::from_utf8(&plain).is_ok_and(|text| !text.contains(|c: char| c.is_control() && !"\t\r\n".contains(c)));
    (is_text && plain.len() >= FLOOR).then_some(plain)
}

/// A PEM key in a variable has `\n` for its line ends, which the program turns into them.
fn lines_behind_escapes(value: &[u8], see: &mut dyn FnMut(&[u8])) {
    if value.contains(&b'\n') {
        return;
    }
    if let Some(plain) = View::whole_of(Layer::Backslash, value).filter(|plain| plain.bytes().contains(&b'\n')) {
        see(plain.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of eight bytes and more, each once.
    fn parts(value: &str) -> Vec<String> {
        let mut all = Vec::new();
        each(value, &mut |part| all.push(String::from_utf8(part.to_vec()).unwrap()));
        all.retain(|part| part.len() >= FLOOR && part != value);
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn a_url_and_a_connection_string_hold_a_password() {
        for (value, part) in [
            ("postgres://user:hunter2-hunter2@db.internal.example:5432/app?sslmode=require", "hunter2-hunter2"),
            ("redis://:hunter2-hunter2@10.0.0.1:6379/0", "hunter2-hunter2"),
            ("https://x-token-of-a-robot@github.com/org/repo.git", "x-token-of-a-robot"),
            ("Server=tcp:db.example,1433;User Id=admin;Password=hunter2-hunter2;Encrypt=True", "hunter2-hunter2"),
            ("jdbc:postgresql://db.example/app?user=admin&password=hunter2-hunter2&ssl=true", "hunter2-hunter2"),
            (
                "DefaultEndpointsProtocol=https;AccountName=storage1;AccountKey=aB3dE5gH7jK9mN1pQ2==;Suffix=x",
                "aB3dE5gH7jK9mN1pQ2==",
            ),
            ("Endpoint=sb://x.example/;SharedAccessKeyName=RootManage;SharedAccessKey=aB3dE5gH7jK9", "aB3dE5gH7jK9"),
        ] {
            assert!(parts(value).contains(&part.to_owned()), "{value}: {:?}", parts(value));
            // Nothing of it that is shorter, or is no secret.
            let harmless = |one: &String| one.contains(part) || part.contains(one.as_str());
            assert!(parts(value).iter().all(harmless), "{value}: {:?}", parts(value));
        }
        let quoted = parts("host=db.example port=5432 user=admin password='hunter2 hunter2' dbname=application");
        assert_eq!(quoted, ["hunter2 hunter2"]);
        let plain = parts("host=db.example user=admin password=hunter2-hunter2 dbname=application");
        assert!(plain.contains(&"hunter2-hunter2".into()) && !plain.contains(&"application".into()), "{plain:?}");
        let encoded = parts("amqp://user:p%40ss%2Fword-1@host/vhost");
        assert_eq!(encoded, ["p%40ss%2Fword-1", "p@ss/word-1"]);
    }

    #[test]
    fn a_header_holds_a_token() {
        for value in ["Bearer aB3dE5gH7jK9", "bearer  aB3dE5gH7jK9", "token aB3dE5gH7jK9", "SSWS aB3dE5gH7jK9"] {
            assert_eq!(parts(value), ["aB3dE5gH7jK9"], "{value}");
        }
        assert_eq!(parts("X-Api-Key: aB3dE5gH7jK9"), ["aB3dE5gH7jK9"]);
        assert!(parts("Authorization: Bearer aB3dE5gH7jK9").contains(&"Bearer aB3dE5gH7jK9".into()), "which has that part");
        // `user:hunter2-hunter2`
        assert_eq!(parts("Basic dXNlcjpodW50ZXIyLWh1bnRlcjI="), ["dXNlcjpodW50ZXIyLWh1bnRlcjI=", "hunter2-hunter2"]);
        assert_eq!(parts("correct horse-battery-staple"), Vec::<String>::new());
    }

    #[test]
    fn numbers_of_json_count_under_the_key_of_a_secret_alone() {
        let value = r#"{"created": 1732550000, "pin": 12345678, "account_id": 123456789012, "api_key" : 9988776655}"#;
        assert_eq!(parts(value), ["12345678", "9988776655"]);
    }

    #[test]
    fn what_a_program_decodes_is_known_decoded() {
        assert_eq!(parts("aHVudGVyMi1odW50ZXIy"), ["hunter2-hunter2"], "base64");
        assert_eq!(parts("aHVudGVyMi1odW50ZXIyIQ"), ["hunter2-hunter2!"], "without padding");
        assert_eq!(parts("ghp_aB3dE5gH7jK9mN1pQ2sT4vW6yZ8aB3dE5gH7"), Vec::<String>::new(), "no text");
        let lines = parts("-----BEGIN KEY-----\\nMIIEvQIBADANBgkq\\n-----END KEY-----\\n");
        assert_eq!(lines, ["-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n"]);
    }

    #[test]
    fn a_file_of_variables_holds_those_that_are_secrets() {
        let file = "REGION=eu-central-1\nexport API_KEY=\"aB3dE5gH7jK9\"\nDB_PASSWORD = hunter2-hunter2\nTOKEN_URL=https://id.example/t\n";
        assert_eq!(parts(file), ["aB3dE5gH7jK9", "hunter2-hunter2"]);
    }
}

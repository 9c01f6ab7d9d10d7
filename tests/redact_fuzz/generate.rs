//! Secrets, and texts with secrets in them.

use crate::{
    encode::{self, JSON_STYLES, PERCENT, base64, entities, hex, json, percent, utf16, wrapped},
    random::Random,
};

const PRINTABLE: &str = " !\"$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ\\^_`abcdefghijklmnopqrstuvwxyz{|}~";
const UNICODE: &str = "aZ3\"\\/é✓\u{1f511}ß\u{202e}日本<&'";
const PLAIN: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=-_.";

/// Those of MIME, PEM and `xxd -p`, and a few on either side of what counts as a line of many.
const COLUMNS: &[&usize] = &[&60, &64, &76, &60, &64, &76, &31, &32, &48, &57];

pub fn secret(random: &mut Random) -> String {
    let text = match random.below(10) {
        0 => random.text("ab", 8, 13),
        1 => random.text("ab\"\\/nu0é\u{1f511}\t ", 8, 14),
        2 | 3 => random.text(PRINTABLE, 12, 40),
        4 => random.text(UNICODE, 8, 20),
        5 => random.text("0123456789", 8, 16),
        6 => {
            let line_end = random.one_of(&["\n", "\r\n"]);
            (0..random.between(2, 4)).map(|_| random.text(PLAIN, 8, 30)).collect::<Vec<_>>().join(line_end)
        }
        7 => {
            let password = random.text("abcXYZ019!$*é", 8, 20);
            format!("postgres://app:{}@db.internal/main", percent(password.as_bytes(), ("", false), true))
        }
        8 => {
            let (user, password) = (random.text(PLAIN, 8, 12), random.text(PRINTABLE, 8, 20));
            serde_json::json!({ "user": user, "password": password, "pin": "1234" }).to_string()
        }
        _ => random.text(PLAIN, 8, 64),
    };
    if text.trim().len() < 8 { secret(random) } else { text }
}

/// A secret, as something prints it; or something near to it.
fn snippet(secret: &str, random: &mut Random) -> String {
    let bytes = secret.as_bytes();
    let url = random.chance(2);
    let around = |random: &mut Random| random.text("abcdefghij:{}\"0123\u{e9}", 0, 40).into_bytes();
    let encoded = |value: &[u8], random: &mut Random| {
        let all = [around(random), value.to_vec(), around(random)].concat();
        base64(&all, url, random.chance(2))
    };
    match random.below(17) {
        0 | 1 => secret.to_owned(),
        2 => hex(bytes, url, random.one_of(&["", "", ":", " ", "-"])),
        3 => percent(bytes, PERCENT[random.below(8)], url),
        4 => percent(percent(bytes, PERCENT[random.below(8)], url).as_bytes(), ("", false), url),
        5 => entities(secret, random),
        6 | 7 => encoded(bytes, random),
        8 => {
            let columns = random.one_of(COLUMNS);
            let line_end = random.one_of(&["\n", "\r\n", "\n    "]);
            wrapped(&encoded(bytes, random), *columns, line_end)
        }
        9 => encoded(&utf16(secret, false), random),
        10 => format!("Basic {}", base64(&[b"someone:", bytes].concat(), false, true)),
        11 => format!("'{}'", secret.replace('\'', random.one_of(&["'\\''", "''", "'\"'\"'"]))),
        12 => secret.chars().map(|c| format!("\\x{:02x}", c as u32 & 0xff)).collect(),
        13 => json(secret, random.below(JSON_STYLES), random),
        14 => secret.chars().take(random.between(1, 12)).collect(),
        15 => {
            let hex = hex(bytes, url, "");
            hex[..random.between(1, hex.len() - 1)].to_owned()
        }
        _ => random.text(PRINTABLE, 0, 20),
    }
}

fn words(secrets: &[String], random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..random.between(1, 4) {
        let which = random.below(secrets.len());
        text += &match random.below(3) {
            0 => random.text("abc xyz 0.:=?&%\\n/é-_", 0, 24),
            _ => snippet(&secrets[which], random),
        };
        text += random.one_of(&["", " ", ", ", "\"", "\n", "\\", "=", "%"]);
    }
    text
}

/// JSON text in a JSON string, some levels deep.
fn nested(secrets: &[String], deep: usize, random: &mut Random) -> String {
    let style = random.below(JSON_STYLES);
    if deep == 0 {
        let text = words(secrets, random);
        return json(&text, style, random);
    }
    let inner = document(secrets, deep - 1, random);
    json(&inner, style, random)
}

fn document(secrets: &[String], deep: usize, random: &mut Random) -> String {
    let text = nested(secrets, deep, random);
    let which = random.below(secrets.len());
    let digits = secrets[which].bytes().all(|b| b.is_ascii_digit()) && !secrets[which].starts_with('0');
    match random.below(6) {
        0 => format!("{{{text}: 1.50e+3, \"b\":[true,null , -0]}}"),
        1 if digits => format!("{{\"pin\":{},\"text\":{text}}}", secrets[which]),
        2 => format!("[ {text},{{\"\":{}}} ]", nested(secrets, 0, random)),
        3 => format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":{text}}}}}"),
        4 if secrets[which].starts_with('{') => format!("{{\"id\":1,\"result\":{},\"text\":{text}}}", secrets[which]),
        _ => format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}]}}}}",
            random.below(100)
        ),
    }
}

fn line(secrets: &[String], random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0..=4 => {
            let deep = random.below(3);
            document(secrets, deep, random).into_bytes()
        }
        5 => Vec::new(),
        6 => (0..random.below(40)).map(|_| random.next() as u8).filter(|b| *b != b'#').collect(),
        7 => {
            let which = random.below(secrets.len());
            let before = random.text(PRINTABLE, 0, 90).into_bytes();
            let all = [before, secrets[which].clone().into_bytes(), vec![b'x'; random.below(60)]].concat();
            let encoded = if random.chance(3) { hex(&all, false, "") } else { base64(&all, random.chance(2), true) };
            wrapped(&encoded, *random.one_of(COLUMNS), random.one_of(&["\n", "\r\n", "\n  "])).into_bytes()
        }
        8 => {
            let which = random.below(secrets.len());
            encode::utf16(&secrets[which], random.chance(2))
        }
        9 => {
            let mut broken = document(secrets, 0, random).into_bytes();
            broken.truncate(random.below(broken.len()));
            broken
        }
        _ => words(secrets, random).into_bytes(),
    }
}

pub fn text(secrets: &[String], random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..random.between(1, 4) {
        text.extend(line(secrets, random));
        text.extend_from_slice(random.one_of(&["\n", "\n", "\n", "\r\n", "\n\n"]).as_bytes());
    }
    if random.chance(2) {
        text.extend(line(secrets, random));
    }
    // The mark of the oracle.
    text.retain(|b| *b != b'#');
    text
}

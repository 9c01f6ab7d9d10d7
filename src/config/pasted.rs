//! Tells a name from a credential that was pasted where a name belongs. What may be a credential is never repeated: a report
//! ends up in terminals, CI logs and tickets.

/// Starts of credentials whose issuers made them easy to recognise.
#[rustfmt::skip]
const ISSUED: &[&str] = &[
    "sk_live_", "sk_test_", "rk_live_", "rk_test_", "pk_live_", "whsec_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    "glpat-", "xoxb-", "xoxp-", "xoxa-", "xapp-", "AKIA", "ASIA", "hvs.", "hvb.", "hvr.", "AIza", "ya29.", "eyJ", "npm_", "pypi-",
    "dop_v1_", "shpat_", "SG.", "AGE-SECRET-KEY-", "lin_api_", "ntn_", "hf_",
];

/// Is this text more likely a credential than a name?
pub(crate) fn looks_like_a_value(text: &str) -> bool {
    let issued = |start: &&str| text.strip_prefix(start).is_some_and(random);
    if ISSUED.iter().any(issued) || text.starts_with("-----BEGIN") {
        return true;
    }
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric());
    if words().any(|word| word.len() >= 20 && mixed(word)) || is_uuid(text) {
        return true;
    }
    // Base64 and the like: long, of all three kinds, and changing between them all the time, also from a digit back to a letter.
    let joined: Vec<Kind> = text.bytes().filter_map(kind).collect();
    let changes = joined.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let all = [Kind::Lower, Kind::Upper, Kind::Digit].iter().all(|kind| joined.contains(kind));
    let inside = text.as_bytes().windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1].is_ascii_alphabetic());
    joined.len() >= 24 && all && inside && changes * 3 >= joined.len() - 1
}

/// Does a word of a command line, or the value of a variable, hold what is more likely a credential? Digests and places in a store of
/// packages look random and are public: pinning by them is good practice.
pub(super) fn holds_a_value(text: &str) -> bool {
    let text = without_digests(text);
    let pieces = text.split(|c: char| c.is_whitespace() || "=,;?&\"'".contains(c)).filter(|piece| !piece.is_empty());
    pieces.into_iter().any(|piece| looks_like_a_value(piece) || has_password(piece))
}

/// `https://user:password@host`.
fn has_password(text: &str) -> bool {
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    authority.rsplit_once('@').is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
}

fn without_digests(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some((at, mark)) =
        ["sha256:", "sha512:", "/nix/store/"].iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min()
    {
        left.push_str(&rest[..at]);
        rest = rest[at + mark.len()..]
            .trim_start_matches(|c: char| c.is_ascii_hexdigit() || (mark.starts_with('/') && c.is_ascii_alphanumeric()));
    }
    left + rest
}

/// May this unknown key be repeated in a report? Only what reads as an option's name: `rotate-every`, `run_as`, `sha256`.
pub(super) fn may_be_shown(key: &str) -> bool {
    let word = |word: &str| {
        let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = word.len() - letters.len();
        (1..=16).contains(&letters.len()) && digits <= 3 && letters.bytes().all(|b| b.is_ascii_lowercase())
    };
    key.len() <= 40 && !looks_like_a_value(key) && key.split(['-', '_']).all(word)
}

#[derive(PartialEq)]
enum Kind {
    Lower,
    Upper,
    Digit,
}

fn kind(byte: u8) -> Option<Kind> {
    match byte {
        b'a'..=b'z' => Some(Kind::Lower),
        b'A'..=b'Z' => Some(Kind::Upper),
        b'0'..=b'9' => Some(Kind::Digit),
        _ => None,
    }
}

/// Do letters and digits alternate, as in hex, base32 and random ids?
fn mixed(word: &str) -> bool {
    word.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit()).count() >= 4
}

/// Does it hold eight letters and digits in a row that no word has: with a digit or a capital among them?
fn random(text: &str) -> bool {
    let word = |word: &str| word.len() >= 8 && word.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(word)
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_told_from_names() {
        for value in [
            "sk_live_51Hq7XzA9q2LmN",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "d41d8cd98f00b204e9800998ecf8427e",
            "550e8400-e29b-41d4-a716-446655440000",
            "hvs.CAESIJlWh3bFq",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        ] {
            assert!(looks_like_a_value(value), "{value}");
            assert!(!may_be_shown(value), "{value}");
        }
        for name in [
            "stripe/api-key",
            "prod/eu-west-1/customer2024-billing-key",
            "ProdStripeApiKeyForBillingServiceV2",
            "github.token",
            "oauth2/client-secret",
            "s3.backup/2024-11-30",
            "asia-pacific/key",
            "sk-eu/key",
            "npm_publish_token",
            "whsec_production",
            "pypi-upload-token",
        ] {
            assert!(!looks_like_a_value(name), "{name}");
        }
    }

    #[test]
    fn credentials_are_told_from_words_of_a_command() {
        for value in [
            "--token=ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "Authorization: Bearer sk_live_51Hq7XzA9q2LmN",
            "postgresql://app:hunter2@db.example.com/orders",
            "https://user:markerpassword@example.com",
            "d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert!(holds_a_value(value), "{value}");
        }
        for word in [
            "-y",
            "@modelcontextprotocol/server-everything@2026.8.31",
            "--endpoint=https://api.example.com/v1",
            "ghcr.io/github/github-mcp-server@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-nodejs-20.11.0/bin/node",
            "http://proxy.example.com:3128",
            "user@example.com",
            "production",
        ] {
            assert!(!holds_a_value(word), "{word}");
        }
    }

    #[test]
    fn only_an_options_name_is_repeated() {
        for key in ["rotate-every", "run_as", "sha256", "x"] {
            assert!(may_be_shown(key), "{key}");
        }
        for key in ["", "Password1", "hunter2!", "a b", "4f9d2c", "p4ssw0rd", "abcdefghijklmnopqrstuvwxyz", "a\nb", "é"] {
            assert!(!may_be_shown(key), "{key}");
        }
    }
}

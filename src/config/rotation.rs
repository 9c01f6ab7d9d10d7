//! `rotation` of a secret: where a new value comes from, and how long the old one is good for.

use std::{path::Path, time::Duration};

use super::{
    pasted::{holds_a_value, looks_like_a_value},
    read::{Key, Section, key},
    sources::SourceSettings,
};
use crate::{
    alarm::hook,
    name::SecretName,
    rotate::{Alphabet, BySource, Generate, Hook, How, QuietHours, Settings, Stragglers},
    source::vault::rotates_at,
};

pub(super) const KEYS: &[Key] = &[
    key("generate", "{ length = 32, alphabet = \"alphanumeric\" }"),
    key("hook", "[\"/usr/libexec/valetkey/rotate-postgresql\"]"),
    key("source", "{ within = \"15m\" }"),
    key("with", "[\"db/admin\"]"),
    key("timeout", "\"30s\""),
    key("overlap", "\"1h\""),
    key("overlap-at-least", "\"10m\""),
    key("stragglers", "\"report\", \"end-session\" or \"wait\""),
    key("quiet-hours", "\"08:00-18:00\""),
];
pub(super) const GENERATE_KEYS: &[Key] = &[
    key("length", "32"),
    key("alphabet", "\"alphanumeric\", \"hex\", \"base64url\" or \"printable\""),
    key("prefix", "\"live_\""),
];

pub(super) const SOURCE_KEYS: &[Key] = &[key("within", "\"15m\"")];

const STRAGGLERS: &[(&str, Stragglers)] =
    &[("report", Stragglers::Report), ("end-session", Stragglers::EndSession), ("wait", Stragglers::Wait)];
const ALPHABETS: &[(&str, Alphabet)] = &[
    ("alphanumeric", Alphabet::Alphanumeric),
    ("hex", Alphabet::Hex),
    ("base64url", Alphabet::Base64Url),
    ("printable", Alphabet::Printable),
];

/// Longer than any key that a person or a protocol takes.
const LONGEST: u64 = 4096;
/// A value that can be guessed is no secret: as many bits as a key of AES-128 has less a few, which 22 letters and digits have.
const FEWEST_BITS: f64 = 112.0;
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a function of AWS Lambda may run.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// Reads it; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(secret: &Section<'_>, source: Option<&SourceSettings>) -> Option<Settings> {
    let section = secret.section("rotation", KEYS, &[])?;
    let by_source = section.section("source", SOURCE_KEYS, &[]).map(|section| by_source(&section));
    match source {
        Some(source) if section.has("source") => {
            if let Some(why) = rotates_nothing(secret, source) {
                section.reject_for("source", why, "one of: hook, generate");
            }
        }
        Some(source) => {
            if let Some(why) = unwritable(secret, source) {
                secret.reject_for("rotation", why, "no `rotation`; rotate it at its source, which `refresh-every` notices");
            }
        }
        None => {}
    }
    let default = Settings::default();
    let generate = section.section("generate", GENERATE_KEYS, &[]).map(|section| generate(&section));
    let hook = section.has("hook").then(|| read_hook(&section)).flatten();
    let ways: Vec<_> = ["hook", "source", "generate"].into_iter().filter(|way| section.has(way)).collect();
    if let [first, .., last] = ways.as_slice() {
        let why = format!("stands beside `{first}`, which makes its own values");
        section.reject_for(last, why, "one of: generate, hook, source");
    }
    for key in ["with", "timeout"].into_iter().filter(|key| section.has(key) && !section.has("hook")) {
        section.reject_for(key, "is for a `hook`", "no such key, or a hook");
    }
    let overlap = section.duration("overlap").unwrap_or(default.overlap);
    let overlap_at_least = section.duration("overlap-at-least");
    if overlap_at_least.is_some_and(|least| least > overlap) {
        section.reject("overlap-at-least", "is longer than `overlap`");
    }
    let quiet_hours = section.parsed("quiet-hours", |text| {
        QuietHours::parse(text).ok_or("is not a time of day to another, in UTC, such as 08:00-18:00")
    });
    Some(Settings {
        how: hook.map(How::Hook).or(by_source.map(How::Source)).or(generate.map(How::Generate)).unwrap_or(How::Given),
        overlap,
        overlap_at_least,
        stragglers: section.choice("stragglers", STRAGGLERS).unwrap_or(default.stragglers),
        quiet_hours,
    })
}

/// Why nothing can be written there.
fn unwritable(secret: &Section<'_>, source: &SourceSettings) -> Option<&'static str> {
    match source {
        _ if secret.text("stage").is_some_and(|stage| stage != "AWSCURRENT") => {
            Some("is of no use beside `stage`, which names one version for good")
        }
        SourceSettings::Environment => Some("is of no use for a secret of the environment, which nobody can change"),
        SourceSettings::AwsParameterStore(_) => {
            Some("is not possible in Parameter Store, which has no check-and-set: keep the secret in Secrets Manager")
        }
        SourceSettings::Vault(vault) if vault.kv_version == 1 => {
            Some("needs version 2 of the key-value engine: version 1 has no check-and-set")
        }
        SourceSettings::Vault(_) if secret.text("path").is_some_and(|path| path.starts_with('/')) => Some(
            "is for the key-value engine: what another engine makes has its own way to change, which for a static role is `source`",
        ),
        _ => None,
    }
}

fn by_source(section: &Section<'_>) -> BySource {
    BySource { within: section.duration("within").unwrap_or(WITHIN) }
}

/// Why a source does not rotate it by itself.
fn rotates_nothing(secret: &Section<'_>, source: &SourceSettings) -> Option<&'static str> {
    match source {
        SourceSettings::AwsSecretsManager(_) if secret.text("stage").is_some_and(|stage| stage != "AWSCURRENT") => {
            Some("is of no use beside `stage`, which names one version for good")
        }
        SourceSettings::AwsSecretsManager(_) => None,
        SourceSettings::Vault(_) if secret.text("path").is_some_and(|path| rotates_at(path).is_some()) => None,
        SourceSettings::Vault(_) => Some("is for static roles alone: path = \"/database/static-creds/app\""),
        SourceSettings::AwsParameterStore(_)
        | SourceSettings::AwsSts(_)
        | SourceSettings::SealedFile(_)
        | SourceSettings::Environment => {
            Some("is for AWS Secrets Manager and static roles of Vault or OpenBao: this source rotates nothing by itself")
        }
    }
}

fn generate(section: &Section<'_>) -> Generate {
    let default = Generate::default();
    let prefix = section.parsed("prefix", |text| match text {
        text if text.len() > 32 => Err("is longer than 32 characters"),
        text if !text.bytes().all(|b| b.is_ascii_graphic()) => Err("holds a character that is not printable ASCII"),
        text if looks_like_a_value(text) => Err("looks like a credential, and is not repeated here"),
        text => Ok(text.to_owned()),
    });
    let length = section.count("length", LONGEST).and_then(|length| usize::try_from(length).ok()).unwrap_or(default.length);
    let alphabet = section.choice("alphabet", ALPHABETS).unwrap_or(default.alphabet);
    if alphabet.bits(length) < FEWEST_BITS {
        let least = (FEWEST_BITS / alphabet.bits(1)).ceil();
        section.reject_for("length", "makes values that could be guessed", format!("length = {least}, or more"));
    }
    Generate { length, alphabet, prefix: prefix.unwrap_or_default() }
}

fn read_hook(section: &Section<'_>) -> Option<Hook> {
    let word = |word: &str| match word {
        word if word.chars().any(char::is_control) => Err("holds a control character"),
        // Everybody on the host sees the arguments of a process.
        word if holds_a_value(word) => {
            Err("looks like a credential, which every user of this host could see: name its secret in `with`")
        }
        word => Ok(word.to_owned()),
    };
    let with = section.list("with", |text| text.parse::<SecretName>().map_err(|_| "is not the name of a secret"));
    let timeout = section.duration("timeout").unwrap_or(TIMEOUT);
    let command = section.list("hook", word)?;
    let Some(program) = command.first() else {
        section.reject("hook", "is empty");
        return None;
    };
    if !program.starts_with('/') {
        section.reject("hook", "must begin with the absolute path of a program");
        return None;
    }
    if let Err(problem) = hook::check(Path::new(program)) {
        section.reject_for("hook", problem, "a program that belongs to root and that nobody else may write to");
    }
    Some(Hook { command, timeout, with: with.unwrap_or_default() })
}

//! `[alarm]`: what deserves a shout, and to whom.

use std::path::{Path, PathBuf};

use super::{
    address::{file_ref, url},
    pasted::looks_like_a_value,
    read::{Key, Refused, Section, key},
    sources::FileRef,
};
use crate::alarm::{Kind, Rules, hook};

/// Rules, and where alarms go beside the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlarmSettings {
    pub rules: Rules,
    /// A program by its absolute path, and its arguments.
    pub hook: Option<Vec<String>>,
    pub webhook: Option<WebhookTarget>,
    /// `None`: `alarm.json` in the daemon's state directory.
    pub state_file: Option<PathBuf>,
    /// Kinds for which the tool is contained that the alarm is about.
    pub contain: Vec<Kind>,
}

/// Where alarms are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookTarget {
    pub address: WebhookAddress,
    /// Holds a bearer token.
    pub token_file: Option<FileRef>,
    pub ca_file: Option<FileRef>,
}

/// https, or http on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookAddress {
    Url(String),
    /// Holds the address, which is itself a credential.
    File(FileRef),
}

pub(super) const KEYS: &[Key] = &[
    key("denied-secret", "true"),
    key("first-use", "true"),
    key("new-executable", "true"),
    key("canary", "true"),
    key("denials-per-minute", "60"),
    key("hook", "[\"/usr/local/sbin/valetkey-alarm\"]"),
    key("webhook", "{ url = \"https://alerts.example.com/valetkey\" }"),
    key("state-file", "\"/var/lib/valetkey/alarm.json\""),
    key("contain", "[\"canary\"]"),
];
pub(super) const WEBHOOK_KEYS: &[Key] = &[
    key("url", "\"https://alerts.example.com/valetkey\""),
    key("url-file", "\"credential:valetkey-alarm-url\""),
    key("token-file", "\"credential:valetkey-alarm\""),
    key("ca-file", "\"/etc/valetkey/alerts-ca.pem\""),
];

pub(super) const REFUSED: &[Refused] = &[];
const WEBHOOK_REFUSED: &[Refused] = &[Refused {
    name: "token",
    means: "token-file",
    why: "a credential may not stand in configuration",
    instead: "token-file = \"credential:NAME\": a systemd credential, or a file (0600)",
}];

pub(super) fn read(section: &Section<'_>) -> AlarmSettings {
    let default = Rules::default();
    let rule = |key, default| section.boolean(key).unwrap_or(default);
    let rules = Rules {
        denied_secret: rule("denied-secret", default.denied_secret),
        first_use: rule("first-use", default.first_use),
        new_executable: rule("new-executable", default.new_executable),
        canary: rule("canary", default.canary),
        denials_per_minute: section.count32("denials-per-minute", 1_000_000).or(default.denials_per_minute),
    };
    let kind = |word: &str| {
        let named = Kind::ALL.into_iter().find(|kind| kind.word() == word);
        named.ok_or("is no rule: canary, denied-secret, denials-per-minute, first-use, new-executable")
    };
    let contain = section.list("contain", kind).unwrap_or_default();
    for kind in &contain {
        if rules.is_off(*kind) {
            section.reject("contain", format_args!("holds {}, a rule that is off: it raises no alarm", kind.word()));
        }
    }
    AlarmSettings {
        contain,
        rules,
        hook: read_hook(section),
        webhook: section.section("webhook", WEBHOOK_KEYS, WEBHOOK_REFUSED).and_then(|section| webhook(&section)),
        state_file: section.absolute_path("state-file"),
    }
}

fn read_hook(section: &Section<'_>) -> Option<Vec<String>> {
    let word = |word: &str| match word {
        word if word.chars().any(char::is_control) => Err("holds a control character"),
        // Everybody on the host sees the arguments of a process.
        word if looks_like_a_value(word) => Err("looks like a credential, which every user of this host could see"),
        word => Ok(word.to_owned()),
    };
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
    Some(command)
}

fn webhook(section: &Section<'_>) -> Option<WebhookTarget> {
    let file = |key| match section.has(key) {
        true => section.parsed(key, file_ref).map(Some),
        false => Some(None),
    };
    let (token_file, ca_file) = (file("token-file"), file("ca-file"));
    let address = match (section.has("url"), section.has("url-file")) {
        (true, true) => {
            section.reject("url-file", "stands beside `url`: one of them");
            None
        }
        (false, true) => section.parsed("url-file", file_ref).map(WebhookAddress::File),
        _ => {
            section.require(&["url"]);
            section.parsed("url", url).map(WebhookAddress::Url)
        }
    };
    Some(WebhookTarget { address: address?, token_file: token_file?, ca_file: ca_file? })
}

/// The daemon looks at programs only where a tool is told by its own.
pub(super) fn warn_of_unseen_executables(section: &Section<'_>) {
    if section.has("new-executable") && section.boolean("new-executable") == Some(true) {
        let what = format!("`new-executable` in {} sees nothing: no tool is told by `exe` or `sha256`", section.title);
        section.warn(section.line_of("new-executable"), what, "new-executable = false, or `exe` in the `run-as` of a tool");
    }
}

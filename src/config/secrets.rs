//! `[secret."NAME"]`: which secrets there are, where each comes from and what it opens.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Defined,
    address::plain,
    read::{Key, Named, Refused, Section, key},
    rotation,
    sources::SourceSettings,
    spelling::nearest,
    variable::{is_variable, suggested},
};
#[cfg(feature = "aws-parameter-store")]
use crate::source::aws_parameter_store;
use crate::{
    name::{SecretName, SourceName},
    policy::Origin,
    rotate,
    source::aws_sts,
};

/// A secret as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSettings {
    pub origin: Origin,
    pub source: SourceName,
    /// The source's own name for it.
    pub path: String,
    /// One leaf of a JSON secret.
    pub field: Option<String>,
    /// Which of the source's labelled versions; `None`: the current one.
    pub stage: Option<String>,
    /// In place of its source's.
    pub max_stale: Option<Duration>,
    /// Does the daemon refuse to start without it?
    pub required: bool,
    /// Such as `prod`.
    pub environment: Option<String>,
    /// What a holder can get at.
    pub reaches: Vec<Reach>,
    /// Sources that a holder can log in to with it, and read whatever they give.
    pub unlocks: Vec<SourceName>,
    /// How often it should change. Where `rotation` says how, it does by itself; otherwise it is for reports.
    pub rotate_every: Option<Duration>,
    /// How it is rotated; `None`: only by hand, with a value that the operator gives.
    pub rotation: Option<rotate::Settings>,
    /// Nobody uses it: where it shows up, something has leaked.
    pub canary: bool,
    /// Must an operator let each use of it through?
    pub approval: bool,
    /// Is it made anew for each session, and good as long as that?
    pub per_session: bool,
}

/// A system that a secret opens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// Such as `api.stripe.com`.
    pub system: String,
    pub privilege: Privilege,
}

/// What a holder may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    Read,
    Write,
    Admin,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privilege = match self.privilege {
            Privilege::Read => "read",
            Privilege::Write => "write",
            Privilege::Admin => "admin",
        };
        write!(f, "{} ({privilege})", self.system)
    }
}

pub(super) const KEYS: &[Key] = &[
    key("source", "\"prod\""),
    key("path", "\"prod/mcp/stripe\""),
    key("field", "\"stripe_secret_key\""),
    key("stage", "\"AWSPREVIOUS\""),
    key("max-stale", "\"15m\""),
    key("required", "true"),
    key("environment", "\"prod\""),
    key("reaches", "[{ system = \"api.stripe.com\", privilege = \"write\" }]"),
    key("unlocks", "[\"prod\"]"),
    key("rotate-every", "\"30d\""),
    key("rotation", "{ generate = { length = 32 } }"),
    key("canary", "true"),
    key("approval", "\"required\""),
    key("per-session", "true"),
];
pub(super) const REACHES_KEYS: &[Key] =
    &[key("system", "\"api.stripe.com\""), key("privilege", "\"read\", \"write\" or \"admin\"")];

pub(super) const NAME_RULE: &str = "[secret.\"stripe/api-key\"]: letters, digits and `._/-`, at most 128";

const VALUE: &str = "a secret's value may not stand in configuration";
const VALUE_INSTEAD: &str =
    "source = \"NAME\" and path = \"the source's own name for it\"; and rotate the value if it was a real one";

const REFUSED: &[Refused] = &[
    Refused { name: "value", means: "source", why: VALUE, instead: VALUE_INSTEAD },
    Refused { name: "password", means: "source", why: VALUE, instead: VALUE_INSTEAD },
    Refused { name: "secret", means: "source", why: VALUE, instead: VALUE_INSTEAD },
    Refused { name: "token", means: "source", why: VALUE, instead: VALUE_INSTEAD },
];

const PRIVILEGES: &[(&str, Privilege)] = &[("read", Privilege::Read), ("write", Privilege::Write), ("admin", Privilege::Admin)];

/// Reads one secret; `None` where it cannot be used, and the reason is reported.
pub(super) fn read(named: &Named<'_, SecretName>, sources: &Defined<SourceName, SourceSettings>) -> Option<SecretSettings> {
    let title = format!("[secret.\"{}\"]", named.name);
    let section = named.open(title.clone(), &title, KEYS, REFUSED)?;
    let source = source(&section, sources);
    let kind = source.as_ref().and_then(|name| sources.usable.get(name));
    let path = match (section.has("path"), kind) {
        // All that comes from it is of one role.
        (_, Some(SourceSettings::AwsSts(sts))) => Some(sts.role.arn.as_str()),
        (false, _) => Some(named.name.as_str()),
        (true, _) => section.text("path"),
    };
    if let (Some(path), Some(kind)) = (path, kind) {
        check_path(&section, named.name.as_str(), path, kind);
    }
    let field = section.text("field").map(String::from);
    let stage = stage(&section, kind);
    let max_stale = section.duration("max-stale");
    let required = section.boolean("required").unwrap_or(true);
    let environment =
        section.parsed("environment", |text| if text.len() <= 64 { Ok(text.into()) } else { Err("is longer than 64 bytes") });
    let reaches = reaches(&section);
    let unlocks = unlocks(&section, sources);
    let rotate_every = section.duration("rotate-every");
    let rotation = rotation::read(&section, kind);
    let canary = section.boolean("canary").unwrap_or(false);
    for key in ["reaches", "unlocks"].into_iter().filter(|key| canary && section.has(key)) {
        let what =
            format!("`{key}` in {} has no meaning: a canary opens nothing, or it is a secret like any other", section.title);
        section.warn(section.line_of(key), what, format!("canary = true without `{key}`, and a value that opens nothing"));
    }
    let per_session = per_session(&section, path, kind);
    let origin = Origin { file: named.doc.file.clone(), line: named.line };
    Some(SecretSettings {
        origin,
        source: source?,
        path: path?.into(),
        field,
        stage,
        max_stale,
        required,
        environment,
        reaches,
        unlocks,
        rotate_every,
        rotation,
        canary,
        approval: section.choice("approval", &[("required", true), ("none", false)]).unwrap_or(false),
        per_session,
    })
}

/// Only where an engine makes something when it is read; and then nothing of it is kept, checked or rotated.
fn per_session(section: &Section<'_>, path: Option<&str>, kind: Option<&SourceSettings>) -> bool {
    let of_sts = matches!(kind, Some(SourceSettings::AwsSts(_)));
    if !section.boolean("per-session").unwrap_or(false) {
        if of_sts {
            section.reject_for("source", "makes credentials for one session each", "per-session = true beside it");
        }
        return false;
    }
    if of_sts {
        check_sts(section);
    } else {
        check_makes(section, path, kind);
    }
    for key in ["rotation", "rotate-every", "max-stale", "stage", "canary", "required"] {
        if section.has(key) {
            section.reject_for(
                key,
                "has no meaning beside `per-session`: each session has its own, as long as it lives",
                "per-session = true alone",
            );
        }
    }
    true
}

/// The role stands in its source.
fn check_sts(section: &Section<'_>) {
    if section.has("path") {
        section.reject_for("path", "has no meaning: the role is that of its source", "no such key");
    }
    if section.text("field").is_some_and(|field| !aws_sts::FIELDS.contains(&field)) {
        let fields = aws_sts::FIELDS.map(|field| format!("field = \"{field}\"")).join(", ");
        section.reject_for("field", "is none of a credential of AWS", format!("one of: {fields}; or none, for all in JSON"));
    }
}

fn check_makes(section: &Section<'_>, path: Option<&str>, kind: Option<&SourceSettings>) {
    let makes = |path: &str| path.starts_with('/');
    if !matches!(kind, None | Some(SourceSettings::Vault(_))) || path.is_some_and(|path| !makes(path)) {
        let why = "is for what an engine of Vault or OpenBao makes when it is read, with a lease";
        let instead = "a source of kind \"vault\", and path = \"/database/creds/app\"; or one of kind \"aws-sts\"";
        section.reject_for("per-session", why, instead);
    }
}

fn source(section: &Section<'_>, sources: &Defined<SourceName, SourceSettings>) -> Option<SourceName> {
    if !section.has("source") {
        section.missing("source");
        return None;
    }
    let text = section.text("source")?;
    if let Some(name) = sources.names.keys().find(|name| name.as_str() == text) {
        return Some(name.clone());
    }
    if sources.complete {
        let instead = match nearest(text, sources.names.keys().map(SourceName::as_str)) {
            Some(name) => format!("source = \"{name}\""),
            None => match sources.names.keys().map(SourceName::as_str).collect::<Vec<_>>() {
                names if names.is_empty() => "a [source.NAME] table in this file first".into(),
                names => format!("one of these: {}; or add a [source.NAME] table", names.join(", ")),
            },
        };
        section.reject_for("source", "names a source that is not defined", instead);
    }
    None
}

fn check_path(section: &Section<'_>, name: &str, path: &str, source: &SourceSettings) {
    let inherited = if section.has("path") { "" } else { " (it is the secret's own name, as there is no `path`)" };
    match source {
        SourceSettings::Environment if !is_variable(path) => {
            let instead = format!("path = \"{}\"", suggested(name));
            section.reject_for("path", format_args!("is not the name of an environment variable{inherited}"), instead);
        }
        SourceSettings::AwsSecretsManager(_) if path.contains(char::is_whitespace) => {
            section.reject("path", "holds a space");
        }
        SourceSettings::AwsSecretsManager(_) if path.chars().count() > 2048 => {
            section.reject("path", "is longer than 2,048 characters, and no id of a secret is");
        }
        #[cfg(feature = "aws-parameter-store")]
        SourceSettings::AwsParameterStore(_) => {
            if let Some(why) = aws_parameter_store::problem(path) {
                let instead =
                    "path = \"/prod/mcp/stripe\", with `:3` or `:LABEL` for one version; or a whole folder: \"/prod/mcp/\"";
                section.reject_for("path", format_args!("{why}{inherited}"), instead);
            }
        }
        SourceSettings::Vault(_) => {
            // One that begins with `/` is read as it is, whatever engine it belongs to.
            let whole = path.strip_prefix('/');
            if let Err(why) = plain(whole.unwrap_or(path)) {
                section.reject("path", format_args!("{why}{inherited}"));
            } else if let Some(bare) = whole.and_then(|path| path.strip_prefix("v1/")) {
                section.reject_for("path", "must leave out `/v1`", format!("path = \"/{bare}\""));
            }
        }
        _ => {}
    }
}

/// A staging label, where the source knows such.
fn stage(section: &Section<'_>, source: Option<&SourceSettings>) -> Option<String> {
    let label = section.parsed("stage", |text| match text.len() <= 256 && !text.contains(char::is_whitespace) {
        true => Ok(text.to_owned()),
        false => Err("is not a staging label of AWS Secrets Manager"),
    })?;
    if source.is_some_and(|source| !matches!(source, SourceSettings::AwsSecretsManager(_))) {
        section.reject_for(
            "stage",
            "is for aws-secrets-manager alone",
            "no `stage`; a parameter's label stands in `path` after a colon",
        );
        return None;
    }
    Some(label)
}

/// Names of sources. One that is not defined is a mistake: its author would believe that it is on the map.
fn unlocks(section: &Section<'_>, sources: &Defined<SourceName, SourceSettings>) -> Vec<SourceName> {
    let named = section.list("unlocks", |text| {
        text.parse::<SourceName>().map_err(|_| "is not the name of a source: lower-case letters, digits and `._-`, at most 64")
    });
    let mut named = named.unwrap_or_default();
    if sources.complete && named.iter().any(|name| !sources.names.contains_key(name)) {
        section.reject_for("unlocks", "names a source that is not defined", "the name of a [source.NAME] table of this file");
    }
    named.sort();
    named.dedup();
    named
}

fn reaches(section: &Section<'_>) -> Vec<Reach> {
    let mut found: BTreeMap<String, Privilege> = BTreeMap::new();
    for reach in section.sections("reaches", REACHES_KEYS).unwrap_or_default() {
        let all_there = REACHES_KEYS.iter().filter(|key| !reach.has(key.name)).map(|key| reach.missing(key.name)).count() == 0;
        let system = reach.text("system");
        let privilege = reach.choice("privilege", PRIVILEGES);
        if let (true, Some(system), Some(privilege)) = (all_there, system, privilege) {
            if system.len() > 253 || system.contains(char::is_whitespace) {
                reach.reject("system", "must be a host or another name without spaces");
            } else if found.insert(system.into(), privilege).is_some() {
                reach.reject_for("system", "is listed twice", "one entry a system, with the higher privilege");
            }
        }
    }
    found.into_iter().map(|(system, privilege)| Reach { system, privilege }).collect()
}

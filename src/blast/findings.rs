//! Findings: what is wider than it need be, each with a rule of a stable name and the line of configuration to change.
//!
//! What cannot be known is not reported: a grant is not unused because nobody counted.

mod rules;

use serde::Serialize;

use super::{exclusions::Exclusions, facts::Facts, graph::Graph, moment::Moment, weights::Weights};
use crate::policy::Origin;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Note,
    Warning,
    Error,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A kind of finding. The id stays; what is no longer looked for leaves a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub id: &'static str,
    pub name: &'static str,
    pub level: Level,
    pub about: &'static str,
    needs: Needs,
}

/// What must be known for a rule to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Sessions,
    /// Usage, of whatever time.
    Usage,
    /// Usage of all the days of the threshold.
    LongUsage,
}

const fn rule(id: &'static str, name: &'static str, level: Level, needs: Needs, about: &'static str) -> Rule {
    Rule { id, name, level, about, needs }
}

const UNUSED: Rule = rule(
    "VK-101",
    "unused-grant",
    Level::Warning,
    Needs::LongUsage,
    "A tool may have a secret that it has not used for as long as the threshold says.",
);
const SHARED: Rule = rule(
    "VK-102",
    "shared-secret",
    Level::Warning,
    Needs::Nothing,
    "More tools than the threshold says may have one secret: nobody can tell who leaked it, and a rotation touches all.",
);
const GOD_MODE: Rule = rule(
    "VK-103",
    "god-mode-tool",
    Level::Error,
    Needs::Nothing,
    "One tool may have more secrets, or is an administrator of more systems, than the threshold says.",
);
const MIXED: Rule = rule(
    "VK-104",
    "mixed-environments",
    Level::Warning,
    Needs::Nothing,
    "One tool may have secrets of production and of another environment.",
);
const EXPOSED: Rule = rule(
    "VK-105",
    "exposed-in-environment",
    Level::Note,
    Needs::Nothing,
    "A secret is delivered in an environment variable, which each child of the tool is given and /proc shows.",
);
const NO_ROTATION: Rule =
    rule("VK-106", "no-rotation", Level::Note, Needs::Nothing, "A secret that tools may have has no `rotate-every`.");
const OVERDUE: Rule = rule(
    "VK-107",
    "overdue-rotation",
    Level::Warning,
    Needs::Sessions,
    "A version is in use for longer than its secret's `rotate-every`.",
);
const DENIED: Rule = rule("VK-108", "denied-asks", Level::Warning, Needs::Usage, "A tool asked for a secret and was denied.");
const RETIRED: Rule = rule(
    "VK-109",
    "retired-version-held",
    Level::Warning,
    Needs::Sessions,
    "A process holds a version that is no longer the current one.",
);
const OVER_PRIVILEGED: Rule = rule(
    "VK-110",
    "more-privilege-than-used",
    Level::Warning,
    Needs::LongUsage,
    "A tool uses a system with less privilege than another secret would give it there, which it may have and does not use.",
);
const UNLOCKS: Rule = rule(
    "VK-111",
    "unlocks-source",
    Level::Error,
    Needs::Nothing,
    "A tool may have a secret that opens a source: it could read there what policy does not give it.",
);
const UNDECLARED: Rule = rule(
    "VK-112",
    "undeclared-reach",
    Level::Note,
    Needs::Nothing,
    "Nothing says what a secret opens that tools may have: its part of every score is a range.",
);
const EXPIRED: Rule = rule(
    "VK-191",
    "expired-exclusion",
    Level::Warning,
    Needs::Nothing,
    "An exclusion has expired: it excludes nothing any more.",
);
const IDLE: Rule =
    rule("VK-192", "idle-exclusion", Level::Note, Needs::Nothing, "An exclusion excludes nothing: what it was for is gone.");

/// Every rule, in order of id.
pub const RULES: [Rule; 14] = [
    UNUSED,
    SHARED,
    GOD_MODE,
    MIXED,
    EXPOSED,
    NO_ROTATION,
    OVERDUE,
    DENIED,
    RETIRED,
    OVER_PRIVILEGED,
    UNLOCKS,
    UNDECLARED,
    EXPIRED,
    IDLE,
];

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub id: &'static str,
    pub name: &'static str,
    pub level: Level,
    /// What it is about: names it is the same by from run to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    pub file: String,
    /// From 1.
    pub line: usize,
    pub what: String,
    pub instead: String,
    /// Who decided that it may stay, until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Excluded>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excluded {
    pub reason: String,
    pub expires: Moment,
}

impl Finding {
    fn new(rule: Rule, at: &Origin, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            id: rule.id,
            name: rule.name,
            level: rule.level,
            tool: None,
            secret: None,
            system: None,
            file: at.file.display().to_string(),
            line: at.line,
            what: what.into(),
            instead: instead.into(),
            excluded: None,
        }
    }

    fn tool(self, tool: &impl ToString) -> Self {
        Self { tool: Some(tool.to_string()), ..self }
    }

    fn secret(self, secret: &impl ToString) -> Self {
        Self { secret: Some(secret.to_string()), ..self }
    }

    fn system(self, system: &str) -> Self {
        Self { system: Some(system.into()), ..self }
    }

    /// The same from run to run, wherever its line moves.
    pub fn fingerprint(&self) -> String {
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        format!("{}|{}|{}|{}", self.id, part(&self.tool), part(&self.secret), part(&self.system))
    }
}

/// A rule that was not judged, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotJudged {
    pub id: &'static str,
    pub why: &'static str,
}

/// Rules that these facts are too few for.
pub fn not_judged(facts: &Facts, weights: &Weights) -> Vec<NotJudged> {
    let lacks = |rule: &Rule| match (rule.needs, &facts.usage) {
        (Needs::Sessions, _) if facts.sessions.is_none() => Some("what is held is not known: no daemon was asked"),
        (Needs::Usage | Needs::LongUsage, None) => Some("what is used is not known"),
        (Needs::LongUsage, Some(_)) if !rules::usage_is_long(facts, weights) => {
            Some("usage is known for fewer days than `unused-days`")
        }
        _ => None,
    };
    RULES.iter().filter_map(|rule| lacks(rule).map(|why| NotJudged { id: rule.id, why })).collect()
}

impl Graph<'_> {
    /// Every finding, worst first; those that are excluded last.
    pub fn findings(&self, exclusions: &Exclusions) -> Vec<Finding> {
        let mut findings = rules::all(self);
        let about_exclusions = exclusions.apply(&mut findings, self.facts.made);
        findings.extend(about_exclusions);
        findings.sort_by(|a, b| {
            let key = |finding: &Finding| (finding.excluded.is_some(), std::cmp::Reverse(finding.level));
            key(a).cmp(&key(b)).then_with(|| {
                let key = |f: &Finding| (f.id, f.tool.clone(), f.secret.clone(), f.system.clone(), f.file.clone(), f.line);
                key(a).cmp(&key(b))
            })
        });
        findings
    }
}

pub(super) fn expired(at: &Origin, what: String, instead: &str) -> Finding {
    Finding::new(EXPIRED, at, what, instead)
}

pub(super) fn idle(at: &Origin, what: String, instead: &str) -> Finding {
    Finding::new(IDLE, at, what, instead)
}

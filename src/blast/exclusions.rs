//! Exclusions: findings that somebody decided may stay, with a reason and a day on which that is looked at again.

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use toml::{Spanned, value::Datetime};

use super::{
    findings::{self, Excluded, Finding, RULES},
    moment::Moment,
};
use crate::policy::Origin;

/// What may stay. None by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exclusions(Vec<Exclusion>);

/// One of them. What it does not name, it does not ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    pub finding: String,
    pub tool: Option<String>,
    pub secret: Option<String>,
    pub reason: String,
    /// It counts until this day begins, in UTC.
    pub expires: Moment,
    pub at: Origin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    exclude: Vec<Spanned<Raw>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    finding: String,
    tool: Option<String>,
    secret: Option<String>,
    reason: String,
    expires: Datetime,
}

impl Exclusions {
    /// Reads a file of `[[exclude]]` tables. The first mistake in it, with its line.
    pub fn parse(file: &Path, text: &str) -> Result<Self, String> {
        let file: Arc<Path> = file.into();
        let line = |offset: usize| 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
        let wrong = |line: usize, what: &str| format!("{}:{line}: {what}", file.display());
        let read: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(1, |span| line(span.start));
            wrong(at, error.message())
        })?;
        let exclusion = |raw: Spanned<Raw>| {
            let at = Origin { file: file.clone(), line: line(raw.span().start) };
            let Raw { finding, tool, secret, reason, expires } = raw.into_inner();
            if !RULES.iter().any(|rule| rule.id == finding) {
                return Err(wrong(at.line, "`finding` is the id of no rule, such as VK-105"));
            }
            if reason.trim().is_empty() {
                return Err(wrong(at.line, "`reason` is empty: who reads this next will want to know"));
            }
            let day = expires.date.and_then(|date| Moment::of_day(date.year, date.month, date.day));
            let expires = day.ok_or_else(|| wrong(at.line, "`expires` is no day, such as 2027-06-30"))?;
            Ok(Exclusion { finding, tool, secret, reason, expires, at })
        };
        read.exclude.into_iter().map(exclusion).collect::<Result<_, _>>().map(Self)
    }

    /// Marks what is excluded, and tells exclusions that are over, or for nothing.
    pub(super) fn apply(&self, found: &mut [Finding], now: Moment) -> Vec<Finding> {
        let mut about = Vec::new();
        for exclusion in &self.0 {
            if exclusion.expires <= now {
                let what = format!("the exclusion of {} expired on {}: {}", exclusion.finding, exclusion.day(), exclusion.reason);
                about.push(findings::expired(
                    &exclusion.at,
                    what,
                    "a later `expires` where the reason still holds; or mend what it is about",
                ));
                continue;
            }
            let mut any = false;
            for finding in found.iter_mut().filter(|finding| exclusion.covers(finding)) {
                any = true;
                let (reason, expires) = (exclusion.reason.clone(), exclusion.expires);
                finding.excluded.get_or_insert(Excluded { reason, expires });
            }
            if !any {
                let what = format!("the exclusion of {} covers nothing: {}", exclusion.finding, exclusion.reason);
                about.push(findings::idle(&exclusion.at, what, "no such exclusion; or the names as they are now"));
            }
        }
        about
    }

    /// The same for tools and secrets under other names; reasons are left out.
    pub(super) fn rename(
        &self,
        mut tool: impl FnMut(&str) -> String,
        mut secret: impl FnMut(&str) -> String,
        file: &Arc<Path>,
    ) -> Self {
        let rename = |one: &Exclusion| Exclusion {
            tool: one.tool.as_deref().map(&mut tool),
            secret: one.secret.as_deref().map(&mut secret),
            reason: "(withheld)".into(),
            at: Origin { file: file.clone(), line: one.at.line },
            ..one.clone()
        };
        Self(self.0.iter().map(rename).collect())
    }
}

impl Exclusion {
    fn covers(&self, finding: &Finding) -> bool {
        let same = |asked: &Option<String>, found: &Option<String>| asked.is_none() || asked == found;
        self.finding == finding.id && same(&self.tool, &finding.tool) && same(&self.secret, &finding.secret)
    }

    fn day(&self) -> String {
        self.expires.to_string().chars().take(10).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Exclusions, String> {
        Exclusions::parse(Path::new("x.toml"), text)
    }

    #[test]
    fn an_exclusion_says_why_and_until_when() {
        let one = "# first\n[[exclude]]\nfinding = \"VK-105\"\ntool = \"a\"\nreason = \"it reads nothing else\"\nexpires = 2027-06-30\n";
        let Exclusions(read) = parse(one).unwrap();
        assert_eq!((read[0].tool.as_deref(), read[0].day().as_str(), read[0].at.line), (Some("a"), "2027-06-30", 2));
        for (from, to, says) in [
            ("reason = \"it reads nothing else\"\n", "", "reason"),
            ("it reads nothing else", " ", "`reason` is empty"),
            ("expires = 2027-06-30\n", "", "expires"),
            ("2027-06-30", "10:00:00", "no day"),
            ("VK-105", "VK-999", "no rule"),
            ("tool =", "tol =", "tol"),
        ] {
            let error = parse(&one.replace(from, to)).unwrap_err();
            assert!(error.starts_with("x.toml:") && error.contains(says), "{error}");
        }
        assert_eq!(parse(""), Ok(Exclusions::default()));
    }
}

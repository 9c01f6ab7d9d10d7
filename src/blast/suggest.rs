//! The least policy that what was used needs: a tool's file without the grants that nobody used, as a difference to read and apply.

use std::{fmt::Write, time::Duration};

use toml::{Table, Value};

use super::{
    facts::{Facts, UseFact},
    moment::Moment,
};
use crate::name::SecretName;

/// What to take away from one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// Grants that were not used since then, in order of name.
    pub unused: Vec<SecretName>,
    /// Grants that were.
    pub used: Vec<SecretName>,
    /// A unified difference of the tool's file; `None` where nothing is to go.
    pub difference: Option<String>,
    /// Of the unused, those that are written so that they cannot be taken out a line at a time: by hand.
    pub by_hand: Vec<SecretName>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuggestion {
    #[error("there is no tool {0:?} in the policy")]
    NoSuchTool(String),
    #[error("what is used is not known")]
    NoUsage,
    #[error("what is used is known since {known} only, and {days} days were asked for")]
    TooShort { known: Moment, days: u32 },
}

/// Looks at what a tool used in the last `days`. `text` is the file that defines it.
pub fn suggest(facts: &Facts, tool: &str, days: u32, text: &str) -> Result<Suggestion, NoSuggestion> {
    let fact = facts.tools.iter().find(|fact| fact.name.as_str() == tool);
    let fact = fact.ok_or_else(|| NoSuggestion::NoSuchTool(tool.into()))?;
    let usage = facts.usage.as_ref().ok_or(NoSuggestion::NoUsage)?;
    let since = facts.made.before(Duration::from_secs(u64::from(days) * 86_400));
    if usage.since > since {
        return Err(NoSuggestion::TooShort { known: usage.since, days });
    }
    let of_tool: Vec<&UseFact> = usage.entries.iter().filter(|entry| entry.tool.as_str() == tool).collect();
    let was_used = |secret: &SecretName| {
        let canary = facts.secrets.iter().any(|fact| fact.name == *secret && fact.canary);
        canary || of_tool.iter().any(|entry| entry.secret == *secret && entry.last.is_some_and(|last| last >= since))
    };
    let (used, unused): (Vec<_>, Vec<_>) = fact.grants.iter().partition(|grant| was_used(&grant.secret));
    let name = |grant: &&super::facts::GrantFact| grant.secret.clone();
    let mut lines: Vec<Option<&str>> = text.lines().map(Some).collect();
    let mut by_hand = Vec::new();
    for grant in &unused {
        if grant.at.file != fact.at.file || !take_out(&mut lines, grant.at.line, tool, &grant.secret) {
            by_hand.push(grant.secret.clone());
        }
    }
    let difference = (unused.len() > by_hand.len()).then(|| unified(&fact.at.file.display().to_string(), text, &lines));
    Ok(Suggestion { unused: unused.iter().map(name).collect(), used: used.iter().map(name).collect(), difference, by_hand })
}

/// A grant may stand on one line, or on several: the first number of lines without which the file says the same but for this grant.
fn take_out(lines: &mut [Option<&str>], line: usize, tool: &str, secret: &SecretName) -> bool {
    const MOST: usize = 8;
    let parse = |lines: &[Option<&str>]| {
        let text: String = lines.iter().flatten().map(|line| format!("{line}\n")).collect();
        text.parse::<Table>().ok()
    };
    let Some(wanted) = parse(lines).and_then(|table| without(table, tool, secret)) else { return false };
    let Some(start) = line.checked_sub(1).filter(|start| *start < lines.len()) else { return false };
    for end in start + 1..=lines.len().min(start + MOST) {
        let mut left = lines.to_vec();
        left[start..end].fill(None);
        if parse(&left).is_some_and(|table| same(table, tool, &wanted)) {
            lines.copy_from_slice(&left);
            return true;
        }
    }
    false
}

fn grants<'t>(table: &'t mut Table, tool: &str) -> Option<&'t mut Table> {
    table.get_mut("tool")?.get_mut(tool)?.get_mut("secrets")?.as_table_mut()
}

fn without(mut table: Table, tool: &str, secret: &SecretName) -> Option<Table> {
    grants(&mut table, tool)?.remove(secret.as_str())?;
    Some(with_grants(table, tool))
}

/// A tool whose last grant has gone may have lost the table of them too: that says the same.
fn with_grants(mut table: Table, tool: &str) -> Table {
    if let Some(tool) = table.get_mut("tool").and_then(|tools| tools.get_mut(tool)).and_then(Value::as_table_mut) {
        tool.entry("secrets").or_insert_with(|| Value::Table(Table::new()));
    }
    table
}

fn same(table: Table, tool: &str, wanted: &Table) -> bool {
    with_grants(table, tool) == *wanted
}

/// Lines that are gone, with three lines of context.
fn unified(file: &str, before: &str, after: &[Option<&str>]) -> String {
    const CONTEXT: usize = 3;
    let old: Vec<&str> = before.lines().collect();
    let mut text = format!("--- {file}\n+++ {file}\n");
    let (mut at, mut gone_before) = (0, 0);
    while let Some(first) = (at..old.len()).find(|line| after[*line].is_none()) {
        let start = first.saturating_sub(CONTEXT).max(at);
        let mut end = first;
        // What is near goes into one hunk.
        while let Some(next) = (end..old.len().min(end + 2 * CONTEXT + 1)).find(|line| after[*line].is_none()) {
            end = next + 1;
        }
        let stop = (end + CONTEXT).min(old.len());
        let gone = (start..stop).filter(|line| after[*line].is_none()).count();
        let length = stop - start;
        let _ = writeln!(text, "@@ -{},{length} +{},{} @@", start + 1, start + 1 - gone_before, length - gone);
        for line in start..stop {
            let sign = if after[line].is_none() { '-' } else { ' ' };
            let _ = writeln!(text, "{sign}{}", old[line]);
        }
        (at, gone_before) = (stop, gone_before + gone);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, grants: &[(usize, &str)]) -> (bool, String) {
        let mut lines: Vec<_> = text.lines().map(Some).collect();
        let all = grants.iter().all(|(line, secret)| take_out(&mut lines, *line, "a", &secret.parse().unwrap()));
        (all, lines.iter().flatten().map(|line| format!("{line}\n")).collect())
    }

    #[test]
    fn a_grant_is_taken_out_however_it_is_written() {
        let dotted = "[tool.a]\nsecrets.x = {}\nsecrets.\"y/z\" = { env = \"Y\" }\n";
        assert_eq!(after(dotted, &[(3, "y/z")]), (true, "[tool.a]\nsecrets.x = {}\n".into()));
        assert_eq!(after(dotted, &[(2, "x"), (3, "y/z")]), (true, "[tool.a]\n".into()));
        let table = "[tool.a.secrets]\nx = {}\n\"y/z\" = {}\n";
        assert_eq!(after(table, &[(2, "x")]), (true, "[tool.a.secrets]\n\"y/z\" = {}\n".into()));
        let header = "[tool.a]\n[tool.a.secrets.x]\nenv = \"X\"\n[tool.a.secrets.y]\n";
        assert_eq!(after(header, &[(2, "x")]), (true, "[tool.a]\n[tool.a.secrets.y]\n".into()));
        // On one line with others: by hand.
        let inline = "[tool.a]\nsecrets = { x = {}, y = {} }\n";
        assert_eq!(after(inline, &[(2, "x")]), (false, inline.into()));
    }

    #[test]
    fn the_difference_is_a_patch() {
        let text: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        let after: Vec<_> = text.lines().map(|line| (!matches!(line, "line 2" | "line 6" | "line 18")).then_some(line)).collect();
        let patch = unified("f", &text, &after);
        assert!(patch.contains("@@ -1,9 +1,7 @@\n line 1\n-line 2\n line 3\n"), "{patch}");
        assert!(patch.contains("@@ -15,6 +13,5 @@\n line 15\n line 16\n line 17\n-line 18\n line 19\n line 20\n"), "{patch}");
    }
}

//! What only shows when everything is read: names that nobody uses, two tools that one process can be, one credential under
//! two names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    Defined,
    problem::{Problem, Report, Severity},
    remote,
    secrets::SecretSettings,
    sources::SourceSettings,
};
use crate::{
    name::{SecretName, SourceName, ToolName},
    policy::{Origin, RunAs, ToolPolicy},
    rotate::How,
};

pub(super) fn check(
    sources: &Defined<SourceName, SourceSettings>,
    secrets: &Defined<SecretName, SecretSettings>,
    tools: &BTreeMap<ToolName, ToolPolicy>,
    main: &Path,
    report: &Report,
) {
    unused(sources, secrets, tools, report);
    remote::check_callers(tools, report);
    one_credential_twice(secrets, report);
    what_hooks_need(secrets, report);
    // Of many launched tools of one user each is told once, as beside the first of them, and not beside every other.
    let mut firsts = BTreeMap::new();
    for tool in tools.values().filter(|tool| is_launched(tool)) {
        let first = firsts.entry(selectors(&tool.run_as)).or_insert_with(|| place(&tool.origin, main));
        *first = place(&tool.origin, main).min(first.clone());
    }
    for (name, tool) in tools {
        for (other_name, other) in tools.iter().filter(|(other, _)| *other != name) {
            one_process_two_tools((name, tool), (other_name, other), &firsts, main, report);
        }
    }
}

fn add(report: &Report, severity: Severity, origin: &Origin, what: String, instead: String) {
    report.add(Problem { file: origin.file.clone(), line: origin.line, severity, what, instead });
}

/// Only warnings: that a package with a tool was removed must not keep the broker from starting.
fn unused(
    sources: &Defined<SourceName, SourceSettings>,
    secrets: &Defined<SecretName, SecretSettings>,
    tools: &BTreeMap<ToolName, ToolPolicy>,
    report: &Report,
) {
    for (name, origin) in &secrets.names {
        let for_a_hook = || {
            secrets
                .usable
                .values()
                .filter_map(|secret| secret.rotation.as_ref())
                .any(|rotation| matches!(&rotation.how, How::Hook(hook) if hook.with.contains(name)))
        };
        if secrets.complete && !tools.values().any(|tool| tool.grants.contains_key(name)) && !for_a_hook() {
            let instead = format!("secrets.\"{name}\" = {{}} in the [tool.NAME] that needs it, or remove the secret");
            add(report, Severity::Warning, origin, format!("no tool may have secret \"{name}\""), instead);
        }
    }
    for (name, origin) in &sources.names {
        if sources.complete && !secrets.usable.values().any(|secret| secret.source == *name) {
            let instead = format!("source = \"{name}\" in a [secret.\"NAME\"], or remove the source");
            add(report, Severity::Warning, origin, format!("no secret comes from source \"{name}\""), instead);
        }
    }
}

fn one_credential_twice(secrets: &Defined<SecretName, SecretSettings>, report: &Report) {
    let mut in_order: Vec<_> = secrets.usable.iter().collect();
    in_order.sort_by_key(|(_, secret)| secret.origin.line);
    let mut seen: BTreeMap<_, &SecretName> = BTreeMap::new();
    for (name, secret) in in_order {
        if let Some(first) = seen.insert((&secret.source, &secret.path, &secret.field), name) {
            let what = format!("secrets \"{first}\" and \"{name}\" are one credential: same source, path and field");
            let instead = "one secret, granted to each tool: two names hide who shares it".into();
            add(report, Severity::Warning, &secret.origin, what, instead);
        }
    }
}

/// A hook that needs a secret which is not defined would fail when it is too late to notice.
fn what_hooks_need(secrets: &Defined<SecretName, SecretSettings>, report: &Report) {
    for (name, secret) in secrets.usable.iter().filter(|_| secrets.complete) {
        let Some(How::Hook(hook)) = secret.rotation.as_ref().map(|rotation| &rotation.how) else { continue };
        for _ in hook.with.iter().filter(|needed| !secrets.names.contains_key(*needed) || *needed == name) {
            let what = format!("`with` in the rotation of secret \"{name}\" names one that is not defined, or itself");
            let instead = "a [secret.\"NAME\"] table for it, or the name of one that is there".into();
            add(report, Severity::Error, &secret.origin, what, instead);
        }
    }
}

fn one_process_two_tools(
    (name, tool): (&ToolName, &ToolPolicy),
    (other_name, other): (&ToolName, &ToolPolicy),
    firsts: &BTreeMap<Vec<String>, (bool, Origin)>,
    main: &Path,
    report: &Report,
) {
    let (narrow, wide) = (selectors(&tool.run_as), selectors(&other.run_as));
    if wide.is_empty() || !wide.iter().all(|selector| narrow.contains(selector)) {
        return;
    }
    let first = &other.origin;
    if narrow.len() > wide.len() {
        let what = format!("whatever is tool \"{name}\" can also say that it is tool \"{other_name}\" ({first})");
        let instead = format!("a selector for \"{other_name}\" that does not fit \"{name}\"");
        add(report, Severity::Warning, &tool.origin, what, instead);
    } else if place(first, main) < place(&tool.origin, main) && both_launched(tool, other) {
        one_credential_of_two_tools(tool, (other_name, other), report);
        if firsts.get(&narrow) == Some(&place(first, main)) && !tool.run_as.needs_executable() {
            let what = format!(
                "tools \"{other_name}\" ({first}) and \"{name}\" are told apart by `valetkey run` alone: any other program with this `run-as` can be either"
            );
            let instead = "a unit or user of its own for each tool, or exe = \"/usr/bin/valetkey\" in the `run-as` of both";
            add(report, Severity::Warning, &tool.origin, what, instead.into());
        }
    } else if place(first, main) < place(&tool.origin, main) {
        let what = format!(
            "tools \"{other_name}\" ({first}) and \"{name}\" have the same `run-as`: either can say that it is the other"
        );
        add(report, Severity::Error, &tool.origin, what, "a unit or user of its own for each tool".into());
    }
}

/// systemd names the unit and the credential, and no tool.
fn one_credential_of_two_tools(tool: &ToolPolicy, (other_name, other): (&ToolName, &ToolPolicy), report: &Report) {
    let taken: BTreeSet<_> = other.grants.values().filter_map(|rule| rule.delivery.credential()).collect();
    for rule in tool.grants.values().filter(|rule| rule.delivery.credential().is_some_and(|id| taken.contains(id))) {
        let what = format!("this `credential` of the unit is one of tool \"{other_name}\" too ({})", other.origin);
        add(report, Severity::Error, &rule.origin, what, "another name for one of them".into());
    }
}

/// The main file comes before the others.
fn place(origin: &Origin, main: &Path) -> (bool, Origin) {
    (*origin.file != *main, origin.clone())
}

/// Servers that one user's MCP client starts have that user in common. The launcher keeps them apart: it hands a tool's secrets to that
/// tool's command.
fn both_launched(tool: &ToolPolicy, other: &ToolPolicy) -> bool {
    is_launched(tool) && is_launched(other)
}

fn is_launched(tool: &ToolPolicy) -> bool {
    !tool.launch.command.is_empty() || tool.grants.values().any(|rule| rule.delivery.variable().is_some())
}

/// What the kernel compares, without the names that configuration gave to numbers.
fn selectors(run_as: &RunAs) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(run_as.unit.as_ref().map(|unit| format!("unit {unit}")));
    all.extend(run_as.user.as_ref().map(|user| format!("uid {}", user.id)));
    all.extend(run_as.group.as_ref().map(|group| format!("gid {}", group.id)));
    all.extend(run_as.exe.as_ref().map(|exe| format!("exe {}", exe.display())));
    all.extend(run_as.sha256.map(|digest| format!("sha256 {digest}")));
    all
}

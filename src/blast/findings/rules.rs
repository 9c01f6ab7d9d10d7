//! The rules, a function each.

use std::{collections::BTreeMap, time::Duration};

use super::{
    DENIED, EXPOSED, Finding, GOD_MODE, MIXED, NO_ROTATION, OVER_PRIVILEGED, OVERDUE, RETIRED, SHARED, UNDECLARED, UNLOCKS,
    UNUSED,
};
use crate::{
    blast::{
        facts::{Channel, Facts, SecretFact, ToolFact},
        graph::{Graph, Id},
        moment::Moment,
        walk::Walk,
        weights::Weights,
    },
    config::Privilege,
    measure::rough,
};

pub fn all(graph: &Graph<'_>) -> Vec<Finding> {
    let mut walk = Walk::new(graph);
    let mut found = Vec::new();
    for (id, tool) in graph.tools() {
        found.extend(god_mode(graph, id, tool, &mut walk));
        found.extend(mixed(graph, id, tool));
        found.extend(exposed(graph, id, tool));
        found.extend(unlocks(graph, id, tool));
        found.extend(unused(graph, id, tool));
    }
    for (id, secret) in graph.secrets().filter(|(id, _)| !graph.granted_to.of(*id).is_empty()) {
        // What ends with each session is shared by nobody, and never old.
        if !secret.per_session {
            found.extend(shared(graph, id, secret));
            found.extend(rotation(graph, id, secret));
        }
        found.extend(undeclared(graph, id, secret));
    }
    found.extend(retired(graph));
    found.extend(denied(graph));
    found
}

/// Some of many names, for a sentence.
fn some(names: impl Iterator<Item = impl ToString>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

fn god_mode(graph: &Graph<'_>, id: Id, tool: &ToolFact, walk: &mut Walk) -> Option<Finding> {
    let threshold = &graph.weights.threshold;
    graph.walk_allowed(walk, id);
    let secrets = tool.grants.len();
    let admin = walk.systems.iter().filter(|reached| reached.privilege == Privilege::Admin).count();
    let many = (secrets > threshold.secrets_of_a_tool).then(|| format!("may have {secrets} secrets"));
    let powerful = (admin > threshold.admin_of_a_tool).then(|| format!("is an administrator of {admin} systems"));
    let both: Vec<_> = many.into_iter().chain(powerful).collect();
    let what = format!("tool {} {}: whoever takes it over has them all", tool.name, both.join(" and "));
    let found = Finding::new(GOD_MODE, &tool.at, what, "several tools, each with the secrets of one task");
    (!both.is_empty()).then(|| found.tool(&tool.name))
}

fn is_production(environment: &str) -> bool {
    matches!(environment, "prod" | "production" | "live")
}

fn mixed(graph: &Graph<'_>, id: Id, tool: &ToolFact) -> Option<Finding> {
    let environments = graph.grants_of(id).filter_map(|(secret, _)| {
        let fact = graph.secret(secret);
        Some((fact.environment.as_deref().filter(|_| !fact.canary)?, &fact.name))
    });
    let (production, other): (Vec<_>, Vec<_>) = environments.partition(|(environment, _)| is_production(environment));
    let ((_, production), (environment, other)) = (production.first()?, other.first()?);
    let what = format!("tool {} may have {production} of production and {other} of {environment}", tool.name);
    let instead = "a tool for each environment: what is tried out in one must not reach the other";
    Some(Finding::new(MIXED, &tool.at, what, instead).tool(&tool.name))
}

fn exposed<'a>(graph: &'a Graph<'_>, id: Id, tool: &'a ToolFact) -> impl Iterator<Item = Finding> + 'a {
    let in_environment = graph.grants_of(id).filter(|(_, grant)| grant.channel == Channel::Env);
    // To be found where a variable shows up is what a canary is for.
    in_environment.filter(|(secret, _)| !graph.secret(*secret).canary).map(|(_, grant)| {
        let secret = &grant.secret;
        let what =
            format!("{secret} is in an environment variable of tool {}, which its children inherit and /proc shows", tool.name);
        let instead =
            format!("secrets.\"{secret}\" = {{ file = \"NAME_FILE\" }} (or fd), where the tool can read its key from a file");
        Finding::new(EXPOSED, &grant.at, what, instead).tool(&tool.name).secret(secret)
    })
}

fn unlocks<'a>(graph: &'a Graph<'_>, id: Id, tool: &'a ToolFact) -> impl Iterator<Item = Finding> + 'a {
    graph.grants_of(id).flat_map(move |(secret, grant)| {
        graph.unlocks.of(secret).iter().map(move |unlock| {
            let source = graph.source(unlock.to);
            let stored = graph.stored.of(unlock.to).len();
            let what = format!(
                "tool {} may have {}, which opens source {} with its {stored} secrets: it could read them there, past policy and record",
                tool.name, grant.secret, source.name
            );
            let instead = "a credential with less rights, or grants of what the tool needs from that source";
            let found = Finding::new(UNLOCKS, &grant.at, what, instead);
            found.tool(&tool.name).secret(&grant.secret).system(source.name.as_str())
        })
    })
}

fn unused_since(facts: &Facts, weights: &Weights) -> Moment {
    facts.made.before(Duration::from_secs(u64::from(weights.threshold.unused_days) * 86_400))
}

/// Is all known that was used in the days of the threshold?
pub fn usage_is_long(facts: &Facts, weights: &Weights) -> bool {
    facts.usage.as_ref().is_some_and(|usage| usage.since <= unused_since(facts, weights))
}

/// Grants that nobody used, each by the stronger of two rules.
fn unused<'a>(graph: &'a Graph<'_>, id: Id, tool: &'a ToolFact) -> impl Iterator<Item = Finding> + 'a {
    let since = unused_since(graph.facts, graph.weights);
    let judged = usage_is_long(graph.facts, graph.weights);
    let was_used = move |secret: Id| graph.use_of(id, secret).and_then(|used| used.last).is_some_and(|last| last >= since);
    let mut used_at: BTreeMap<Id, (Privilege, Id)> = BTreeMap::new();
    for (secret, _) in graph.grants_of(id).filter(|(secret, _)| judged && was_used(*secret)) {
        for way in graph.reaches.of(secret) {
            let used = used_at.entry(way.to).or_insert((way.privilege, secret));
            *used = (*used).max((way.privilege, secret));
        }
    }
    let days = graph.weights.threshold.unused_days;
    let idle = graph.grants_of(id).filter(move |(secret, _)| judged && !was_used(*secret) && !graph.secret(*secret).canary);
    idle.map(move |(secret, grant)| {
        let more = graph.reaches.of(secret).iter().find_map(|way| {
            let (used, by) = used_at.get(&way.to)?;
            (way.privilege > *used).then_some((way, *used, *by))
        });
        let Some((way, used, by)) = more else {
            let what = format!("tool {} may have {} and has not used it for {days} days", tool.name, grant.secret);
            let instead = format!("no such grant; valetkey suggest {} shows the rest", tool.name);
            return Finding::new(UNUSED, &grant.at, what, instead).tool(&tool.name).secret(&grant.secret);
        };
        let (system, by) = (graph.systems[way.to as usize], &graph.secret(by).name);
        let what = format!(
            "tool {} may {} {system} with {}, unused for {days} days, and uses it to {} alone, with {by}",
            tool.name,
            verb(way.privilege),
            grant.secret,
            verb(used)
        );
        let found = Finding::new(OVER_PRIVILEGED, &grant.at, what, format!("{by} alone"));
        found.tool(&tool.name).secret(&grant.secret).system(system)
    })
}

fn verb(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Read => "read",
        Privilege::Write => "write to",
        Privilege::Admin => "administer",
    }
}

fn shared(graph: &Graph<'_>, id: Id, secret: &SecretFact) -> Option<Finding> {
    let tools = graph.granted_to.of(id);
    let what = || {
        let names = some(tools.iter().map(|link| &graph.tool(link.to).name));
        format!("{} tools may have {} ({names}): a leak of it names nobody, and a rotation touches all", tools.len(), secret.name)
    };
    let found = || Finding::new(SHARED, &secret.at, what(), "a credential of its own for each tool").secret(&secret.name);
    (tools.len() > graph.weights.threshold.shared_by && !secret.canary).then(found)
}

fn rotation(graph: &Graph<'_>, id: Id, secret: &SecretFact) -> Option<Finding> {
    if secret.canary {
        return None;
    }
    let Some(every) = secret.rotate_every else {
        let what = format!("nothing says how often {} should change", secret.name);
        return Some(
            Finding::new(NO_ROTATION, &secret.at, what, "rotate-every = \"90d\", and a way to rotate it").secret(&secret.name),
        );
    };
    // A version is at least as old as the oldest of its holders.
    let held = graph.holders_of(id).min_by_key(|held| held.fact.since)?;
    let age = graph.facts.made.since(held.fact.since);
    let what = format!(
        "{} should change every {}, and pid {} of tool {} has had version {} for {}",
        secret.name,
        rough(every),
        held.session.pid,
        graph.tool(held.tool).name,
        held.fact.version,
        rough(age)
    );
    (age > every)
        .then(|| Finding::new(OVERDUE, &secret.at, what, "rotate it at its source, then: valetkey refresh").secret(&secret.name))
}

fn undeclared(graph: &Graph<'_>, id: Id, secret: &SecretFact) -> Option<Finding> {
    let what = format!("nothing says what {} opens", secret.name);
    let instead = "reaches = [{ system = \"api.example.com\", privilege = \"read\" }]";
    graph.is_undeclared(id).then(|| Finding::new(UNDECLARED, &secret.at, what, instead).secret(&secret.name))
}

/// One for a tool and a secret, however many processes of it there are.
fn retired(graph: &Graph<'_>) -> Vec<Finding> {
    let mut pairs: BTreeMap<(Id, Id), Vec<String>> = BTreeMap::new();
    for held in &graph.held {
        let holder = graph.holder(held);
        if holder.retired {
            pairs.entry((held.tool, held.secret)).or_default().push(format!("pid {} version {}", holder.pid, holder.version));
        }
    }
    let finding = |((tool, secret), holders): ((Id, Id), Vec<String>)| {
        let (tool_fact, secret_fact) = (graph.tool(tool), graph.secret(secret));
        let at = graph.grant(tool, secret).map_or(&tool_fact.at, |grant| &grant.at);
        let current = secret_fact.current.as_ref().map(ToString::to_string).unwrap_or_default();
        let (name, holders) = (&secret_fact.name, some(holders.iter()));
        let what = format!("tool {} holds what is no longer current of {name} ({holders}; current is {current})", tool_fact.name);
        let instead = "on-rotation = \"restart\", or a restart of those processes";
        Finding::new(RETIRED, at, what, instead).tool(&tool_fact.name).secret(name)
    };
    pairs.into_iter().map(finding).collect()
}

fn denied(graph: &Graph<'_>) -> Vec<Finding> {
    let usage = graph.facts.usage.iter().flat_map(|usage| &usage.entries);
    let finding = |entry: &crate::blast::facts::UseFact| {
        let tool = graph.tool_id(entry.tool.as_str()).map(|id| graph.tool(id))?;
        let (denied, secret) = (entry.denied, &entry.secret);
        let what = format!("tool {} asked for {secret} in vain, {denied} times", tool.name);
        let instead =
            format!("a look at why it asks (is it still what it was?), or the grant: valetkey explain {} {secret}", tool.name);
        Some(Finding::new(DENIED, &tool.at, what, instead).tool(&tool.name).secret(secret))
    };
    usage.filter(|entry| entry.denied > 0).filter_map(finding).collect()
}

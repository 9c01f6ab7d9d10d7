//! The graph: names as numbers, neighbours as ranges of sorted arrays. A million grants fit into some tens of megabytes, and a question
//! touches only what it asks about.

use std::collections::HashMap;

use super::{
    facts::{Channel, Facts, GrantFact, HeldFact, SecretFact, SessionFact, SourceFact, ToolFact, UseFact},
    score::Range,
    weights::Weights,
};
use crate::config::Privilege;

/// Numbers of things: places in the lists of [`Facts`], and in [`Graph::systems`].
pub type Id = u32;

/// Several lists, one after another: what neighbours each thing.
#[derive(Debug, Clone)]
pub struct Rows<T> {
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T: Copy> Rows<T> {
    /// Of pairs of row and item. Items of one row stay in the order in which they come.
    fn new(rows: usize, pairs: impl Iterator<Item = (Id, T)> + Clone) -> Self {
        let mut starts = vec![0u32; rows + 1];
        pairs.clone().for_each(|(row, _)| starts[row as usize + 1] += 1);
        for row in 0..rows {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut items = Vec::new();
        if let Some((_, first)) = pairs.clone().next() {
            items = vec![first; starts[rows] as usize];
        }
        for (row, item) in pairs {
            items[next[row as usize] as usize] = item;
            next[row as usize] += 1;
        }
        Self { starts, items }
    }

    pub fn of(&self, row: Id) -> &[T] {
        &self.items[self.range(row)]
    }

    fn range(&self, row: Id) -> std::ops::Range<usize> {
        self.starts[row as usize] as usize..self.starts[row as usize + 1] as usize
    }

    fn bytes(&self) -> usize {
        self.starts.capacity() * size_of::<u32>() + self.items.capacity() * size_of::<T>()
    }
}

/// A grant, seen from either end: the other end, which of the tool's grants it is, and how it is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub to: Id,
    pub place: u32,
    pub channel: Channel,
}

/// A tool's use of a secret that it may have: the secret, and which entry of the usage.
#[derive(Debug, Clone, Copy)]
struct Entry {
    to: Id,
    place: u32,
}

/// A secret that reaches a system, seen from either end, and how much that weighs.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub to: Id,
    pub privilege: Privilege,
    /// Sensitivity x privilege.
    pub depth: Range,
}

/// A secret that opens a source, seen from either end.
#[derive(Debug, Clone, Copy)]
pub struct Unlock {
    pub to: Id,
    /// Was it told by a host that both name, and not by the operator?
    pub derived: bool,
}

/// What a walk asks of a secret at each visit: one cache line, because a walk of a large host waits for memory and little else.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Profile {
    pub lifetime: f64,
    pub opens: Opens,
    /// Is it the key to a source?
    pub unlocks: bool,
}

/// What a secret opens by itself.
#[derive(Debug, Clone, Copy)]
pub enum Opens {
    Nothing,
    /// Nobody said what: sensitivity x privilege.
    Undeclared(Range),
    /// One system, as most do.
    One(Way),
    /// Those in [`Graph::reaches`].
    Several,
}

/// A version that a session holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'f> {
    pub tool: Id,
    pub secret: Id,
    pub session: &'f SessionFact,
    pub fact: &'f HeldFact,
}

/// The graph of these facts. What its questions answer is in [`super::answer`].
#[derive(Debug)]
pub struct Graph<'f> {
    pub facts: &'f Facts,
    pub weights: &'f Weights,
    /// In order of name.
    pub systems: Vec<&'f str>,
    /// What a caller must be, each once, in order; and which one each tool's is.
    pub(super) callers: Vec<String>,
    pub(super) caller_of: Vec<Id>,
    pub(super) grants: Rows<Link>,
    pub(super) granted_to: Rows<Link>,
    pub(super) reaches: Rows<Way>,
    pub(super) reached_by: Rows<Way>,
    pub(super) unlocks: Rows<Unlock>,
    pub(super) unlocked_by: Rows<Unlock>,
    pub(super) profiles: Vec<Profile>,
    pub(super) stored: Rows<Id>,
    pub(super) source_of: Vec<Id>,
    pub(super) held: Vec<Held<'f>>,
    pub(super) held_by: Rows<u32>,
    pub(super) holders: Rows<u32>,
    /// Places in the list of sessions.
    pub(super) sessions_by_tool: Rows<u32>,
    /// Usage of what is granted, by tool: the secret, and which entry.
    used: Rows<Entry>,
    tools_by_name: HashMap<&'f str, Id>,
    secrets_by_name: HashMap<&'f str, Id>,
}

fn numbered<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<&'n str, Id> {
    names.zip(0..).collect()
}

impl<'f> Graph<'f> {
    pub fn new(facts: &'f Facts, weights: &'f Weights) -> Self {
        let (tools, secrets, sources) = (facts.tools.len(), facts.secrets.len(), facts.sources.len());
        let systems: Vec<&str> = facts.systems().into_iter().collect();
        let tools_by_name = numbered(facts.tools.iter().map(|tool| tool.name.as_str()));
        let secrets_by_name = numbered(facts.secrets.iter().map(|secret| secret.name.as_str()));
        let sources_by_name = numbered(facts.sources.iter().map(|source| source.name.as_str()));
        let systems_by_name = numbered(systems.iter().copied());

        let mut hosts: HashMap<&str, Vec<Id>> = HashMap::new();
        for (source, number) in facts.sources.iter().zip(0..) {
            source.hosts.iter().for_each(|host| hosts.entry(host).or_default().push(number));
        }
        let mut links = Vec::new();
        for (tool, number) in facts.tools.iter().zip(0..) {
            let known = tool.grants.iter().zip(0..);
            links.extend(
                known.filter_map(|(grant, place)| {
                    Some((number, *secrets_by_name.get(grant.secret.as_str())?, place, grant.channel))
                }),
            );
        }
        let mut ways = Vec::new();
        let mut keys = Vec::new();
        for (secret, number) in facts.secrets.iter().zip(0..) {
            let environment = secret.environment.as_deref();
            for reach in &secret.reaches {
                let Some(system) = systems_by_name.get(reach.system.as_str()) else { continue };
                let sensitivity = weights.sensitivity(Some(&reach.system), environment);
                ways.push((number, *system, reach.privilege, sensitivity.times(weights.privilege(reach.privilege))));
            }
            keys.extend(unlocks(secret, &sources_by_name, &hosts).into_iter().map(|(source, derived)| (number, source, derived)));
        }
        // One of an unknown source has nowhere to be read from.
        let source_of: Vec<Id> =
            facts.secrets.iter().map(|secret| sources_by_name.get(secret.source.as_str()).copied().unwrap_or(Id::MAX)).collect();
        let stored = source_of.iter().copied().zip(0..).filter(|(source, _)| *source != Id::MAX);
        let caller = |tool: &ToolFact| tool.run_as.join(", ");
        let mut callers: Vec<String> = facts.tools.iter().map(caller).collect();
        callers.sort_unstable();
        callers.dedup();
        let place = |tool: &ToolFact| callers.binary_search(&caller(tool)).ok().and_then(|place| place.try_into().ok());
        let caller_of = facts.tools.iter().map(|tool| place(tool).unwrap_or_default()).collect();
        let held = held(facts, &tools_by_name, &secrets_by_name);
        let sessions = facts.sessions.iter().flatten().zip(0..);
        let sessions = sessions.filter_map(|(session, place)| Some((*tools_by_name.get(session.tool.as_str())?, place)));
        let sessions: Vec<(Id, u32)> = sessions.collect();
        let mut graph = Self {
            facts,
            weights,
            grants: Rows::new(tools, links.iter().map(|&(tool, to, place, channel)| (tool, Link { to, place, channel }))),
            granted_to: Rows::new(
                secrets,
                links.iter().map(|&(to, secret, place, channel)| (secret, Link { to, place, channel })),
            ),
            reaches: Rows::new(
                secrets,
                ways.iter().map(|(secret, system, privilege, depth)| {
                    (*secret, Way { to: *system, privilege: *privilege, depth: *depth })
                }),
            ),
            reached_by: Rows::new(
                systems.len(),
                ways.iter().map(|(secret, system, privilege, depth)| {
                    (*system, Way { to: *secret, privilege: *privilege, depth: *depth })
                }),
            ),
            unlocks: Rows::new(
                secrets,
                keys.iter().map(|(secret, to, derived)| (*secret, Unlock { to: *to, derived: *derived })),
            ),
            unlocked_by: Rows::new(
                sources,
                keys.iter().map(|(secret, source, derived)| (*source, Unlock { to: *secret, derived: *derived })),
            ),
            profiles: Vec::new(),
            stored: Rows::new(sources, stored),
            source_of,
            held_by: Rows::new(tools, held.iter().map(|held| held.tool).zip(0..)),
            holders: Rows::new(secrets, held.iter().map(|held| held.secret).zip(0..)),
            held,
            sessions_by_tool: Rows::new(tools, sessions.into_iter()),
            systems,
            callers,
            caller_of,
            used: Rows::new(tools, std::iter::empty()),
            tools_by_name,
            secrets_by_name,
        };
        graph.profiles = graph.secrets().map(|(id, secret)| graph.profile(id, secret)).collect();
        graph.take_usage();
        graph
    }

    fn profile(&self, id: Id, secret: &SecretFact) -> Profile {
        let unknown = || {
            let sensitivity = self.weights.sensitivity(None, secret.environment.as_deref());
            sensitivity.by(self.weights.unknown_privilege())
        };
        let lifetime = self.weights.lifetime(secret.rotate_every.is_some() || secret.per_session);
        let opens = match self.reaches.of(id) {
            [] if self.is_undeclared(id) => Opens::Undeclared(unknown()),
            [] => Opens::Nothing,
            [way] => Opens::One(*way),
            _ => Opens::Several,
        };
        Profile { lifetime, opens, unlocks: !self.unlocks.of(id).is_empty() }
    }

    fn take_usage(&mut self) {
        let Some(usage) = &self.facts.usage else { return };
        let mut used = Vec::new();
        for (entry, place) in usage.entries.iter().zip(0..) {
            let (tool, secret) = (self.tool_id(entry.tool.as_str()), self.secret_id(entry.secret.as_str()));
            // What was denied is no line of the graph.
            if let (Some(tool), Some(secret)) = (tool, secret)
                && self.grant(tool, secret).is_some()
            {
                used.push((tool, Entry { to: secret, place }));
            }
        }
        used.sort_by_key(|(tool, link)| (*tool, link.to));
        self.used = Rows::new(self.facts.tools.len(), used.iter().copied());
    }

    pub fn tool_id(&self, name: &str) -> Option<Id> {
        self.tools_by_name.get(name).copied()
    }

    pub fn secret_id(&self, name: &str) -> Option<Id> {
        self.secrets_by_name.get(name).copied()
    }

    pub fn system_id(&self, name: &str) -> Option<Id> {
        self.systems.binary_search(&name).ok().and_then(|place| place.try_into().ok())
    }

    pub(super) fn tools(&self) -> impl Iterator<Item = (Id, &'f ToolFact)> + use<'f> {
        (0..).zip(&self.facts.tools)
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = (Id, &'f SecretFact)> + use<'f> {
        (0..).zip(&self.facts.secrets)
    }

    pub(super) fn tool(&self, id: Id) -> &'f ToolFact {
        &self.facts.tools[id as usize]
    }

    pub(super) fn secret(&self, id: Id) -> &'f SecretFact {
        &self.facts.secrets[id as usize]
    }

    pub(super) fn source(&self, id: Id) -> &'f SourceFact {
        &self.facts.sources[id as usize]
    }

    /// What policy says of this pair, where it allows it.
    pub fn grant(&self, tool: Id, secret: Id) -> Option<&'f GrantFact> {
        let row = self.grants.of(tool);
        let place = row.binary_search_by_key(&secret, |link| link.to).ok()?;
        Some(&self.tool(tool).grants[row[place].place as usize])
    }

    /// A tool's grants, with the numbers of their secrets.
    pub(super) fn grants_of(&self, tool: Id) -> impl Iterator<Item = (Id, &'f GrantFact)> + '_ {
        let fact = self.tool(tool);
        self.grants.of(tool).iter().map(|link| (link.to, &fact.grants[link.place as usize]))
    }

    pub(super) fn held_of(&self, tool: Id) -> impl Iterator<Item = &Held<'f>> {
        self.held_by.of(tool).iter().map(|place| &self.held[*place as usize])
    }

    pub(super) fn held_of_pair(&self, tool: Id, secret: Id) -> impl Iterator<Item = &Held<'f>> {
        // In order of tool, then of secret.
        let row = self.held_by.of(tool);
        let start = row.partition_point(|place| self.held[*place as usize].secret < secret);
        row[start..].iter().map(|place| &self.held[*place as usize]).take_while(move |held| held.secret == secret)
    }

    pub(super) fn holders_of(&self, secret: Id) -> impl Iterator<Item = &Held<'f>> {
        self.holders.of(secret).iter().map(|place| &self.held[*place as usize])
    }

    /// How a tool used a secret that it may have; `None` where nothing is known, or it did not.
    pub(super) fn use_of(&self, tool: Id, secret: Id) -> Option<&'f UseFact> {
        let usage = self.facts.usage.as_ref()?;
        let row = self.used.of(tool);
        let found = row.binary_search_by_key(&secret, |link| link.to).ok()?;
        usage.entries.get(row[found].place as usize)
    }

    /// All that it used, or asked for, of what it may have.
    pub(super) fn uses_of(&self, tool: Id) -> impl Iterator<Item = (Id, &'f UseFact)> + '_ {
        let entries = self.facts.usage.as_ref().map(|usage| usage.entries.as_slice()).unwrap_or_default();
        self.used.of(tool).iter().filter_map(|link| Some((link.to, entries.get(link.place as usize)?)))
    }

    /// Did nobody say what it opens?
    pub(super) fn is_undeclared(&self, secret: Id) -> bool {
        let fact = self.secret(secret);
        fact.reaches.is_empty() && !fact.canary && self.unlocks.of(secret).is_empty()
    }

    /// What the arrays take, in bytes, beside the facts.
    pub fn bytes(&self) -> usize {
        let names = (self.tools_by_name.capacity() + self.secrets_by_name.capacity()) * size_of::<(&str, Id)>();
        let links = self.grants.bytes() + self.granted_to.bytes() + self.used.bytes();
        let ways = self.reaches.bytes() + self.reached_by.bytes() + self.unlocks.bytes() + self.unlocked_by.bytes();
        let held = self.held.capacity() * size_of::<Held<'_>>() + self.held_by.bytes() + self.holders.bytes();
        let rest =
            self.systems.capacity() * size_of::<&str>() + self.source_of.capacity() * size_of::<Id>() + self.stored.bytes();
        names + links + ways + held + rest + self.profiles.capacity() * size_of::<Profile>()
    }
}

fn held<'f>(facts: &'f Facts, tools: &HashMap<&str, Id>, secrets: &HashMap<&str, Id>) -> Vec<Held<'f>> {
    let of_session = |session: &'f SessionFact| {
        let tool = tools.get(session.tool.as_str()).copied();
        session
            .held
            .iter()
            .filter_map(move |fact| Some(Held { tool: tool?, secret: *secrets.get(fact.secret.as_str())?, session, fact }))
    };
    let mut held: Vec<_> = facts.sessions.iter().flatten().flat_map(of_session).collect();
    held.sort_by_key(|held| (held.tool, held.secret, held.session.pid, held.session.id.as_str()));
    held
}

/// Sources that a secret opens: those that the operator names, and those at whose own address the secret is good.
fn unlocks(secret: &SecretFact, numbers: &HashMap<&str, Id>, hosts: &HashMap<&str, Vec<Id>>) -> Vec<(Id, bool)> {
    let told = secret.unlocks.iter().filter_map(|name| numbers.get(name.as_str())).map(|source| (*source, false));
    let reached = secret.reaches.iter().filter_map(|reach| hosts.get(reach.system.as_str())).flatten();
    let mut found: Vec<_> = told.chain(reached.map(|source| (*source, true))).collect();
    // What the operator says stands before what is derived.
    found.sort_unstable();
    found.dedup_by_key(|(source, _)| *source);
    found
}

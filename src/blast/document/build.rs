//! A document made from the graph: its nodes and lines, all of them or those that an answer is about.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Detail, Document, Edge, EdgeKind, HeldDetail, Node, NodeId, Nodes, Period, Place, Question, SCHEMA_VERSION, SecretNode,
    SourceNode, Sure, ToolNode, View,
};
use crate::{
    blast::{
        answer::{Answer, SystemPart, ToolLine, Unknown},
        findings::Finding,
        graph::{Graph, Id},
        walk::Walk,
    },
    policy::Origin,
};

/// What of the graph a document shows.
struct Part {
    tools: BTreeSet<Id>,
    secrets: BTreeSet<Id>,
    sources: BTreeSet<Id>,
    systems: BTreeSet<Id>,
}

impl<'f> Graph<'f> {
    /// Answers a question.
    pub fn document(&'f self, question: Question, findings: Vec<Finding>) -> Result<Document<'f>, Unknown> {
        let answer = match &question {
            Question::Everything => None,
            Question::Tool(name) => Some(Answer::Tool(Box::new(self.about_tool(name)?))),
            Question::Secret(name) => Some(Answer::Secret(Box::new(self.about_secret(name)?))),
            Question::System(name) => Some(Answer::System(Box::new(self.about_system(name)?))),
        };
        let part = answer.as_ref().map(|answer| self.part_of(answer));
        let facts = self.facts;
        Ok(Document {
            schema: "valetkey.blast-radius",
            schema_version: SCHEMA_VERSION,
            made: facts.made,
            host: &facts.host,
            configuration: &facts.configuration,
            view: if facts.sessions.is_some() { View::Live } else { View::Configuration },
            usage: facts.usage.as_ref().map(|usage| Period { since: usage.since, until: usage.until }),
            pseudonymised: false,
            question,
            answer,
            difference: None,
            nodes: self.nodes(part.as_ref()),
            edges: self.edges(part.as_ref()),
            findings,
            weights: self.weights,
        })
    }

    /// The names in an answer: the tools, and the ways from them.
    fn part_of(&self, answer: &Answer) -> Part {
        let mut part =
            Part { tools: BTreeSet::new(), secrets: BTreeSet::new(), sources: BTreeSet::new(), systems: BTreeSet::new() };
        let paths: Vec<&Vec<String>> = match answer {
            Answer::Tool(answer) => {
                part.tools.extend(self.tool_id(&answer.tool));
                part.secrets.extend(answer.secrets.iter().filter_map(|secret| self.secret_id(&secret.secret)));
                self.add_systems(&mut part, &answer.systems)
            }
            Answer::Secret(answer) => {
                part.secrets.extend(self.secret_id(&answer.secret));
                part.tools.extend(answer.tools.iter().filter_map(|tool| self.tool_id(&tool.tool)));
                self.add_systems(&mut part, &answer.systems)
            }
            Answer::System(answer) => {
                part.systems.extend(self.system_id(&answer.system));
                part.secrets.extend(answer.secrets.iter().filter_map(|secret| self.secret_id(&secret.secret)));
                part.tools.extend(answer.tools.iter().filter_map(|tool| self.tool_id(&tool.tool)));
                answer.tools.iter().map(|tool| &tool.path).collect()
            }
        };
        let stops = paths.into_iter().flatten().filter_map(|stop| self.secret_id(stop.strip_prefix("secret:")?));
        part.secrets.extend(stops);
        for secret in &part.secrets {
            part.sources.extend(Some(self.source_of[*secret as usize]).filter(|source| *source != Id::MAX));
            part.sources.extend(self.unlocks.of(*secret).iter().map(|unlock| unlock.to));
        }
        part
    }

    fn add_systems<'a>(&self, part: &mut Part, systems: &'a [SystemPart]) -> Vec<&'a Vec<String>> {
        part.systems.extend(systems.iter().filter_map(|system| self.system_id(&system.system)));
        systems.iter().map(|system| &system.path).collect()
    }

    fn nodes(&'f self, part: Option<&Part>) -> Nodes<'f> {
        let shows = |of: fn(&Part) -> &BTreeSet<Id>, id: Id| part.is_none_or(|part| of(part).contains(&id));
        let mut walk = Walk::new(self);
        let mut nodes =
            Nodes { hosts: vec![Node { id: NodeId::Host(&self.facts.host), name: &self.facts.host }], ..Nodes::default() };
        let mut callers = BTreeSet::new();
        for (id, tool) in self.tools().filter(|(id, _)| shows(|part| &part.tools, *id)) {
            callers.insert(self.caller_of[id as usize]);
            let ToolLine { score, held, worst, .. } = self.line(id, &mut walk);
            let (name, at) = (tool.name.as_str(), Place(&tool.at));
            let (description, on_rotation) = (tool.description.as_str(), tool.on_rotation.as_str());
            nodes.tools.push(ToolNode {
                id: NodeId::Tool(name),
                name,
                description,
                at,
                on_rotation,
                contained: tool.contained,
                score,
                held,
                worst,
            });
        }
        let caller = |id: &Id| self.callers[*id as usize].as_str();
        nodes.callers = callers.iter().map(caller).map(|name| Node { id: NodeId::Caller(name), name }).collect();
        let mut versions = BTreeSet::new();
        for (id, secret) in self.secrets().filter(|(id, _)| shows(|part| &part.secrets, *id)) {
            let name = secret.name.as_str();
            versions.extend(self.holders_of(id).map(|held| (name, held.fact.version.as_str())));
            versions.extend(secret.current.as_ref().map(|version| (name, version.as_str())));
            nodes.secrets.push(SecretNode {
                id: NodeId::Secret(name),
                name,
                at: Place(&secret.at),
                environment: secret.environment.as_deref(),
                canary: secret.canary,
                rotate_every_seconds: secret.rotate_every.map(|every| every.as_secs()),
                shared_by: self.granted_to.of(id).len(),
                undeclared: self.is_undeclared(id),
            });
        }
        nodes.versions = versions.into_iter().map(|(of, name)| Node { id: NodeId::Version(of, name), name }).collect();
        let sources = (0..).zip(&self.facts.sources).filter(|(id, _)| shows(|part| &part.sources, *id));
        nodes.sources = sources
            .map(|(id, source)| SourceNode {
                id: NodeId::Source(source.name.as_str()),
                name: source.name.as_str(),
                source_kind: &source.kind,
                secrets: self.stored.of(id).len(),
            })
            .collect();
        let systems = (0..).zip(&self.systems).filter(|(id, _)| shows(|part| &part.systems, *id));
        nodes.systems = systems.map(|(_, name)| Node { id: NodeId::System(name), name }).collect();
        nodes
    }

    fn edges(&'f self, part: Option<&Part>) -> Vec<Edge<'f>> {
        let shows = |of: fn(&Part) -> &BTreeSet<Id>, id: Id| part.is_none_or(|part| of(part).contains(&id));
        let mut edges = Vec::new();
        let mut callers = BTreeSet::new();
        for (id, tool) in self.tools().filter(|(id, _)| shows(|part| &part.tools, *id)) {
            let caller = NodeId::Caller(&self.callers[self.caller_of[id as usize] as usize]);
            if callers.insert(caller) {
                edges.push(edge(EdgeKind::Hosts, NodeId::Host(&self.facts.host), caller, Sure::Enforced));
            }
            let of_tool = NodeId::Tool(tool.name.as_str());
            edges.push(edge(EdgeKind::Runs, caller, of_tool, Sure::Enforced).at(&tool.at));
            for (secret, grant) in self.grants_of(id).filter(|(secret, _)| shows(|part| &part.secrets, *secret)) {
                let to = NodeId::Secret(self.secret(secret).name.as_str());
                let detail = Detail::Grant { channel: grant.channel, variable: grant.variable.as_deref(), remote: grant.remote };
                edges.push(edge(EdgeKind::Allowed, of_tool, to, Sure::Enforced).at(&grant.at).with(detail));
            }
            self.live_edges(id, &|secret| shows(|part| &part.secrets, secret), &mut edges);
        }
        for (id, secret) in self.secrets().filter(|(id, _)| shows(|part| &part.secrets, *id)) {
            let from = NodeId::Secret(secret.name.as_str());
            let mut versions: BTreeSet<_> = self.holders_of(id).map(|held| held.fact.version.as_str()).collect();
            versions.extend(secret.current.as_ref().map(|version| version.as_str()));
            let version = |version| NodeId::Version(secret.name.as_str(), version);
            edges.extend(versions.into_iter().map(|name| edge(EdgeKind::Of, version(name), from, Sure::Observed)));
            let source = self.source_of[id as usize];
            if source != Id::MAX && shows(|part| &part.sources, source) {
                let to = NodeId::Source(self.source(source).name.as_str());
                edges.push(edge(EdgeKind::Stored, from, to, Sure::Enforced).at(&secret.at));
            }
            for way in self.reaches.of(id).iter().filter(|way| shows(|part| &part.systems, way.to)) {
                let (to, detail) = (NodeId::System(self.systems[way.to as usize]), Detail::Reach { privilege: way.privilege });
                edges.push(edge(EdgeKind::Reaches, from, to, Sure::Declared).at(&secret.at).with(detail));
            }
            for unlock in self.unlocks.of(id).iter().filter(|unlock| shows(|part| &part.sources, unlock.to)) {
                let sure = if unlock.derived { Sure::Derived } else { Sure::Declared };
                let to = NodeId::Source(self.source(unlock.to).name.as_str());
                edges.push(edge(EdgeKind::Unlocks, from, to, sure).at(&secret.at));
            }
        }
        edges
    }

    fn live_edges(&'f self, tool: Id, shows: &dyn Fn(Id) -> bool, edges: &mut Vec<Edge<'f>>) {
        let fact = self.tool(tool);
        let from = NodeId::Tool(fact.name.as_str());
        let mut declared: BTreeMap<Id, usize> = BTreeMap::new();
        let sessions = self.sessions_by_tool.of(tool).iter();
        let scopes = sessions.filter_map(|place| self.facts.sessions.as_ref()?.get(*place as usize)).flat_map(|one| &one.scope);
        for secret in scopes.filter_map(|name| self.secret_id(name.as_str())) {
            *declared.entry(secret).or_default() += 1;
        }
        for (secret, sessions) in declared.into_iter().filter(|(secret, _)| shows(*secret)) {
            let to = NodeId::Secret(self.secret(secret).name.as_str());
            edges.push(edge(EdgeKind::Declared, from, to, Sure::Declared).with(Detail::Scope { sessions }));
        }
        for held in self.held_of(tool).filter(|held| shows(held.secret)) {
            let secret = self.secret(held.secret);
            let detail = HeldDetail {
                channel: held.fact.channel,
                pid: held.session.pid,
                uid: held.session.uid,
                unit: held.session.unit.as_deref(),
                remote: held.session.remote.as_deref(),
                session: &held.session.id,
                since: held.fact.since,
                retired: secret.current.as_ref().is_some_and(|current| *current != held.fact.version),
            };
            let to = NodeId::Version(secret.name.as_str(), held.fact.version.as_str());
            edges.push(edge(EdgeKind::Held, from, to, Sure::Observed).with(Detail::Held(Box::new(detail))));
        }
        for (secret, used) in self.uses_of(tool).filter(|(secret, _)| shows(*secret)) {
            let to = NodeId::Secret(self.secret(secret).name.as_str());
            let detail = Detail::Used { count: used.count, first: used.first, last: used.last, denied: used.denied };
            edges.push(edge(EdgeKind::Used, from, to, Sure::Observed).with(detail));
        }
    }
}

fn edge<'f>(kind: EdgeKind, from: NodeId<'f>, to: NodeId<'f>, sure: Sure) -> Edge<'f> {
    Edge { kind, from, to, sure, at: None, detail: Detail::None {} }
}

impl<'f> Edge<'f> {
    fn at(self, at: &'f Origin) -> Self {
        Self { at: Some(Place(at)), ..self }
    }

    fn with(self, detail: Detail<'f>) -> Self {
        Self { detail, ..self }
    }
}

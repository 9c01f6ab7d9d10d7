//! The document: what a question is answered with, and what every form is made from. Its JSON has a version; within one, fields are
//! added, and none is renamed or taken away. Everything in it is in an order that depends on names alone, so that two can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Serialize, Serializer};

use super::{
    answer::{Answer, SystemPart, ToolLine, Unknown},
    compare::Difference,
    facts::Channel,
    findings::Finding,
    graph::{Graph, Id},
    moment::Moment,
    score::Score,
    walk::Walk,
    weights::Weights,
};
use crate::{config::Privilege, policy::Origin};

/// Of the JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "about", content = "name")]
pub enum Question {
    Everything,
    Tool(String),
    Secret(String),
    System(String),
}

/// Where the facts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// A daemon was asked: what is held is known.
    Live,
    /// Configuration alone.
    Configuration,
}

/// A question's answer, and the part of the graph that it is about.
#[derive(Debug, Serialize)]
pub struct Document<'f> {
    pub schema: &'static str,
    pub schema_version: u32,
    pub made: Moment,
    pub host: &'f str,
    pub configuration: &'f str,
    pub view: View,
    /// The time that usage covers; `None` where nothing is known of it.
    pub usage: Option<Period>,
    /// Do names stand for others?
    pub pseudonymised: bool,
    pub question: Question,
    pub answer: Option<Answer>,
    /// What another policy would change, where that was asked.
    pub difference: Option<Difference>,
    pub nodes: Nodes<'f>,
    pub edges: Vec<Edge<'f>>,
    pub findings: Vec<Finding>,
    pub weights: &'f Weights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Period {
    pub since: Moment,
    pub until: Moment,
}

#[derive(Debug, Default, Serialize)]
pub struct Nodes<'f> {
    pub hosts: Vec<Node<'f>>,
    pub callers: Vec<Node<'f>>,
    pub tools: Vec<ToolNode<'f>>,
    pub secrets: Vec<SecretNode<'f>>,
    pub versions: Vec<Node<'f>>,
    pub sources: Vec<SourceNode<'f>>,
    pub systems: Vec<Node<'f>>,
}

#[derive(Debug, Serialize)]
pub struct Node<'f> {
    pub id: NodeId<'f>,
    pub name: &'f str,
}

#[derive(Debug, Serialize)]
pub struct ToolNode<'f> {
    pub id: NodeId<'f>,
    pub name: &'f str,
    pub description: &'f str,
    pub at: Place<'f>,
    pub on_rotation: &'f str,
    #[serde(flatten)]
    pub score: Score,
    pub held: Option<usize>,
    pub worst: Option<SystemPart>,
}

#[derive(Debug, Serialize)]
pub struct SecretNode<'f> {
    pub id: NodeId<'f>,
    pub name: &'f str,
    pub at: Place<'f>,
    pub environment: Option<&'f str>,
    pub canary: bool,
    pub rotate_every_seconds: Option<u64>,
    /// Tools that may have it. More than one share it.
    pub shared_by: usize,
    pub undeclared: bool,
}

#[derive(Debug, Serialize)]
pub struct SourceNode<'f> {
    pub id: NodeId<'f>,
    pub name: &'f str,
    pub source_kind: &'f str,
    /// All that it gives, be it in this document or not.
    pub secrets: usize,
}

/// The name of a node, unique: `tool:billing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId<'f> {
    Host(&'f str),
    Caller(&'f str),
    Tool(&'f str),
    Secret(&'f str),
    /// Of a secret.
    Version(&'f str, &'f str),
    Source(&'f str),
    System(&'f str),
}

impl NodeId<'_> {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Caller(_) => "caller",
            Self::Tool(_) => "tool",
            Self::Secret(_) => "secret",
            Self::Version(..) => "version",
            Self::Source(_) => "source",
            Self::System(_) => "system",
        }
    }
}

impl fmt::Display for NodeId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(secret, version) => write!(f, "version:{secret}@{version}"),
            Self::Host(name)
            | Self::Caller(name)
            | Self::Tool(name)
            | Self::Secret(name)
            | Self::Source(name)
            | Self::System(name) => write!(f, "{}:{name}", self.kind()),
        }
    }
}

impl Serialize for NodeId<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `file:line`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'f>(pub &'f Origin);

impl Serialize for Place<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// A line of the graph: what it means, where it comes from, and how sure it is.
#[derive(Debug, Serialize)]
pub struct Edge<'f> {
    pub kind: EdgeKind,
    pub from: NodeId<'f>,
    pub to: NodeId<'f>,
    pub sure: Sure,
    /// The line of configuration that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Place<'f>>,
    #[serde(flatten)]
    pub detail: Detail<'f>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeKind {
    /// A caller is on the host.
    Hosts,
    /// A caller is accepted as a tool.
    Runs,
    /// Policy grants a tool a secret.
    Allowed,
    /// An open session of the tool declares it.
    Declared,
    /// An open session of the tool was handed a version.
    Held,
    /// A version is one of a secret's.
    Of,
    /// The tool was handed it, or asked in vain, in the time that usage covers.
    Used,
    /// A secret comes from a source.
    Stored,
    /// A secret opens a system.
    Reaches,
    /// A secret opens a source.
    Unlocks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// The broker holds everyone to it.
    Enforced,
    /// It was seen.
    Observed,
    /// Somebody said so: the operator of what a secret reaches, a tool of its scope.
    Declared,
    /// It follows from other lines.
    Derived,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Detail<'f> {
    None {},
    Grant {
        channel: Channel,
        #[serde(skip_serializing_if = "Option::is_none")]
        variable: Option<&'f str>,
    },
    Scope {
        sessions: usize,
    },
    Held(Box<HeldDetail<'f>>),
    Used {
        count: u64,
        first: Option<Moment>,
        last: Option<Moment>,
        denied: u64,
    },
    Reach {
        privilege: Privilege,
    },
}

#[derive(Debug, Serialize)]
pub struct HeldDetail<'f> {
    pub channel: Channel,
    pub pid: u32,
    pub uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'f str>,
    pub session: &'f str,
    pub since: Moment,
    pub retired: bool,
}

/// What of the graph a document shows.
pub(super) struct Part {
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
            nodes.tools.push(ToolNode { id: NodeId::Tool(name), name, description, at, on_rotation, score, held, worst });
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
                let detail = Detail::Grant { channel: grant.channel, variable: grant.variable.as_deref() };
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

impl Document<'_> {
    /// Tools, worst first.
    pub fn worst_first(&self) -> Vec<&ToolNode<'_>> {
        let mut tools: Vec<_> = self.nodes.tools.iter().collect();
        tools.sort_by(|a, b| {
            let key = |tool: &ToolNode<'_>| (tool.score.score, tool.score.depth, tool.score.systems);
            key(b).cmp(&key(a)).then_with(|| a.name.cmp(b.name))
        });
        tools
    }
}

//! The document: what a question is answered with, and what every form is made from. Its JSON has a version; within one, fields are
//! added, and none is renamed or taken away. Everything in it is in an order that depends on names alone, so that two can be compared.

mod build;

use std::fmt;

use serde::{Serialize, Serializer};

use super::{
    answer::{Answer, SystemPart},
    compare::Difference,
    facts::Channel,
    findings::Finding,
    moment::Moment,
    score::Score,
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
    /// It is cut off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub contained: bool,
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
        /// It may go to a caller over the network too.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        remote: bool,
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
    /// The address of a caller over the network; its pid is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<&'f str>,
    pub session: &'f str,
    pub since: Moment,
    pub retired: bool,
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

//! What pictures show: who may have what, where it comes from, and what it opens. Who calls and which versions are held is for tables.

use std::collections::{BTreeMap, BTreeSet};

use crate::blast::{
    document::{Detail, Document, Edge, EdgeKind, NodeId, Sure},
    text::word,
};

/// Nodes in order with their labels, and lines between them.
pub struct Drawing<'d> {
    pub nodes: BTreeMap<NodeId<'d>, String>,
    pub lines: Vec<Line<'d>>,
}

pub struct Line<'d> {
    pub from: NodeId<'d>,
    pub to: NodeId<'d>,
    pub label: String,
    /// Is it less than sure?
    pub dashed: bool,
}

impl<'d> Drawing<'d> {
    pub fn whole(document: &'d Document<'_>) -> Self {
        Self::of_worst(document, usize::MAX)
    }

    /// The worst tools, this many, and what leads on from them.
    pub fn of_worst(document: &'d Document<'_>, tools: usize) -> Self {
        let all = tools >= document.nodes.tools.len();
        let shown: BTreeSet<_> = document.worst_first().into_iter().take(tools).map(|tool| tool.id).collect();
        let held = held(document);
        let drawn =
            |edge: &&Edge<'_>| matches!(edge.kind, EdgeKind::Allowed | EdgeKind::Stored | EdgeKind::Reaches | EdgeKind::Unlocks);
        let mut lines = Vec::new();
        let mut nodes: BTreeMap<NodeId<'_>, String> = BTreeMap::new();
        let mut label = |id: NodeId<'d>| _ = nodes.entry(id).or_insert_with(|| name(id).into());
        if all {
            document.nodes.secrets.iter().for_each(|secret| label(secret.id));
        }
        shown.iter().copied().for_each(&mut label);
        let mut secrets: BTreeSet<NodeId<'_>> = BTreeSet::new();
        for edge in document.edges.iter().filter(drawn) {
            // Grants come before what leads on from their secrets.
            let kept = match edge.kind {
                EdgeKind::Allowed => shown.contains(&edge.from),
                _ => all || secrets.contains(&edge.from),
            };
            if !kept {
                continue;
            }
            if edge.kind == EdgeKind::Allowed {
                secrets.insert(edge.to);
            }
            label(edge.from);
            label(edge.to);
            let is_held = held.contains(&(edge.from, edge.to));
            let dashed = edge.kind == EdgeKind::Stored || edge.sure == Sure::Derived;
            lines.push(Line { from: edge.from, to: edge.to, label: label_of(edge, is_held), dashed });
        }
        Self { nodes, lines }
    }
}

/// Which tool holds some version of which secret.
fn held<'d>(document: &'d Document<'_>) -> BTreeSet<(NodeId<'d>, NodeId<'d>)> {
    let held = document.edges.iter().filter(|edge| edge.kind == EdgeKind::Held);
    held.filter_map(|edge| match edge.to {
        NodeId::Version(secret, _) => Some((edge.from, NodeId::Secret(secret))),
        _ => None,
    })
    .collect()
}

fn name(id: NodeId<'_>) -> &str {
    match id {
        NodeId::Host(name)
        | NodeId::Caller(name)
        | NodeId::Tool(name)
        | NodeId::Secret(name)
        | NodeId::Version(_, name)
        | NodeId::Source(name)
        | NodeId::System(name) => name,
    }
}

fn label_of(edge: &Edge<'_>, held: bool) -> String {
    match (&edge.detail, edge.kind) {
        (Detail::Grant { channel, remote, .. }, _) if held => format!("{channel}{}, held", over(*remote)),
        (Detail::Grant { channel, remote, .. }, _) => format!("{channel}{}", over(*remote)),
        (Detail::Reach { privilege }, _) => word(*privilege).into(),
        (_, EdgeKind::Stored) => "from".into(),
        _ => "opens".into(),
    }
}

fn over(remote: bool) -> &'static str {
    if remote { ", network too" } else { "" }
}

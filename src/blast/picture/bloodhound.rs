//! BloodHound's OpenGraph: `graph` with `nodes` and `edges`. Its rules (docs of BloodHound, "OpenGraph schema"): ids unique over all that is
//! loaded, at most three kinds a node, kinds of edges of letters, digits and underscores, properties of plain values with lower-case
//! names, none of them `objectid`. Ids hold no colon there, so each is a digest of host and name.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use crate::blast::document::{Detail, Document, Edge, EdgeKind, NodeId};

/// The graph, whole.
pub fn opengraph(document: &Document<'_>) -> Value {
    let id = |node: NodeId<'_>| identity(document.host, node);
    let node = |node: NodeId<'_>, name: &str, more: Value| {
        let mut properties = json!({ "name": name, "host": document.host });
        merge(&mut properties, more);
        json!({ "id": id(node), "kinds": [kind_of_node(node), "Valetkey"], "properties": properties })
    };
    let nodes = &document.nodes;
    let mut all: Vec<Value> = Vec::new();
    for plain in nodes.hosts.iter().chain(&nodes.callers).chain(&nodes.versions).chain(&nodes.systems) {
        all.push(node(plain.id, plain.name, json!({})));
    }
    for tool in &nodes.tools {
        let score = &tool.score;
        let more = json!({
            "scorelow": score.score.low, "scorehigh": score.score.high, "systems": score.systems, "secrets": score.secrets,
            "at": tool.at.0.to_string(),
        });
        all.push(node(tool.id, tool.name, more));
    }
    for secret in &nodes.secrets {
        let mut more = json!({ "sharedby": secret.shared_by, "canary": secret.canary, "at": secret.at.0.to_string() });
        if let Some(environment) = secret.environment {
            more["environment"] = json!(environment);
        }
        all.push(node(secret.id, secret.name, more));
    }
    nodes.sources.iter().for_each(|source| all.push(node(source.id, source.name, json!({ "sourcekind": source.source_kind }))));
    let edges = document.edges.iter().map(|edge| {
        json!({
            "kind": kind_of_edge(edge.kind),
            "start": { "value": id(edge.from), "match_by": "id" },
            "end": { "value": id(edge.to), "match_by": "id" },
            "properties": properties(edge),
        })
    });
    let edges: Vec<_> = edges.collect();
    json!({ "metadata": { "source_kind": "Valetkey" }, "graph": { "nodes": all, "edges": edges } })
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// A system is the same one from whatever host it is reached.
fn identity(host: &str, node: NodeId<'_>) -> String {
    let name = match node {
        NodeId::System(_) => node.to_string(),
        _ => format!("{host}\0{node}"),
    };
    let hex: String = digest(&SHA256, name.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02X}")).collect();
    format!("VK-{hex}")
}

fn kind_of_node(node: NodeId<'_>) -> &'static str {
    match node {
        NodeId::Host(_) => "Vk_Host",
        NodeId::Caller(_) => "Vk_Caller",
        NodeId::Tool(_) => "Vk_Tool",
        NodeId::Secret(_) => "Vk_Secret",
        NodeId::Version(..) => "Vk_Version",
        NodeId::Source(_) => "Vk_Source",
        NodeId::System(_) => "Vk_System",
    }
}

fn kind_of_edge(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Hosts => "Vk_Hosts",
        EdgeKind::Runs => "Vk_RunsAs",
        EdgeKind::Allowed => "Vk_Allowed",
        EdgeKind::Declared => "Vk_Declared",
        EdgeKind::Held => "Vk_Holds",
        EdgeKind::Of => "Vk_VersionOf",
        EdgeKind::Used => "Vk_Used",
        EdgeKind::Stored => "Vk_StoredIn",
        EdgeKind::Reaches => "Vk_Reaches",
        EdgeKind::Unlocks => "Vk_Unlocks",
    }
}

fn properties(edge: &Edge<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| _ = all.insert(name.into(), value);
    put("sure", serde_json::to_value(edge.sure).unwrap_or_default());
    if let Some(at) = edge.at {
        put("at", at.0.to_string().into());
    }
    match &edge.detail {
        Detail::None {} => {}
        Detail::Grant { channel, variable, remote } => {
            put("channel", channel.word().into());
            if let Some(variable) = variable {
                put("variable", (*variable).into());
            }
            if *remote {
                put("remote", true.into());
            }
        }
        Detail::Scope { sessions } => put("sessions", (*sessions).into()),
        Detail::Held(held) => {
            put("channel", held.channel.word().into());
            put("pid", held.pid.into());
            put("uid", held.uid.into());
            put("since", held.since.to_string().into());
            put("retired", held.retired.into());
        }
        Detail::Used { count, denied, .. } => {
            put("count", (*count).into());
            put("denied", (*denied).into());
        }
        Detail::Reach { privilege } => put("privilege", crate::blast::text::word(*privilege).into()),
    }
    all
}

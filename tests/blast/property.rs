//! For random policies: what the map allows is what policy grants, and what it reaches is what a slow and plain search finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use proptest::prelude::*;
use valetkey::{
    blast::{Facts, Graph, Weights},
    config::{AuditSettings, Config, DaemonSettings, Privilege, Reach, SecretSettings, SourceSettings},
    limits::Limits,
    name::{SecretName, SourceName, ToolName},
    peer::{Peer, Process},
    policy::{Account, Decision, Delivery, Launch, Origin, Policy, Request, Rule, RunAs, ToolPolicy},
};

use super::now;

const TOOLS: usize = 6;
const SECRETS: usize = 8;
const SOURCES: usize = 3;
const SYSTEMS: usize = 5;

/// Source, what it reaches with which privilege, which sources it opens, canary.
type SecretShape = (usize, BTreeMap<usize, usize>, BTreeSet<usize>, bool);

#[derive(Debug, Clone)]
struct Shape {
    /// Of each tool, its secrets and how each is delivered.
    grants: Vec<BTreeMap<usize, usize>>,
    secrets: Vec<SecretShape>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let grants = prop::collection::vec(prop::collection::btree_map(0..SECRETS, 0usize..4, 0..4), TOOLS);
    let secret = (
        0..SOURCES,
        prop::collection::btree_map(0..SYSTEMS, 0usize..3, 0..3),
        prop::collection::btree_set(0..SOURCES, 0..2),
        any::<bool>(),
    );
    (grants, prop::collection::vec(secret, SECRETS)).prop_map(|(grants, secrets)| Shape { grants, secrets })
}

fn name<N: std::str::FromStr>(kind: &str, number: usize) -> N
where
    N::Err: std::fmt::Debug,
{
    format!("{kind}{number}").parse().unwrap()
}

fn origin(line: usize) -> Origin {
    Origin { file: Path::new("tools.toml").into(), line }
}

fn privilege(number: usize) -> Privilege {
    [Privilege::Read, Privilege::Write, Privilege::Admin][number]
}

fn config(shape: &Shape) -> Config {
    let secrets = shape.secrets.iter().enumerate().map(|(number, (source, reaches, unlocks, canary))| {
        let reach = |(system, with): (&usize, &usize)| Reach { system: format!("system{system}"), privilege: privilege(*with) };
        let settings = SecretSettings {
            origin: origin(number + 1),
            source: name("source", *source),
            path: "p".into(),
            field: None,
            stage: None,
            max_stale: None,
            required: true,
            environment: None,
            reaches: reaches.iter().map(reach).collect(),
            unlocks: unlocks.iter().map(|source| name("source", *source)).collect(),
            rotate_every: None,
            approval: false,
            rotation: None,
            canary: *canary,
            per_session: false,
        };
        (name("secret", number), settings)
    });
    let secrets: BTreeMap<SecretName, _> = secrets.collect();
    let tools = shape.grants.iter().enumerate().map(|(number, grants)| {
        let rule = |(secret, by): (&usize, &usize)| {
            let variable = format!("V{secret}");
            let delivery = match by {
                0 => Delivery::Rpc,
                1 => Delivery::Env(variable),
                2 => Delivery::File(variable),
                _ => Delivery::Fd(variable),
            };
            (name("secret", *secret), Rule { delivery, remote: false, origin: origin(100 * number + secret) })
        };
        let tool = ToolPolicy {
            description: String::new(),
            run_as: RunAs { user: Some(Account { id: number as u32, name: number.to_string() }), ..RunAs::default() },
            grants: grants.iter().map(rule).collect(),
            limits: Limits::default(),
            launch: Launch::default(),
            origin: origin(number + 1),
        };
        (name::<ToolName>("tool", number), tool)
    });
    let names = secrets.keys().cloned().collect();
    let sources = (0..SOURCES).map(|number| (name::<SourceName>("source", number), SourceSettings::Environment));
    Config {
        file: Path::new("valetkey.toml").into(),
        daemon: DaemonSettings::default(),
        alarm: None,
        audit: AuditSettings::default(),
        remote: None,
        issuers: BTreeMap::new(),
        sources: sources.collect(),
        policy: Policy::new(tools.collect(), names),
        secrets,
        problems: Vec::new(),
    }
}

fn peer(uid: u32) -> Peer {
    let process = Process { pid: 1, pidfd_inode: 1 };
    Peer { process, uid, gid: 0, groups: Vec::new(), unit: None, executable: None, remote: None }
}

/// The line that hands it out, asked of policy as a tool would.
fn decided(policy: &Policy, tool: usize, secret: usize) -> Option<usize> {
    let (peer, tool, secret): (_, ToolName, SecretName) = (peer(tool as u32), name("tool", tool), name("secret", secret));
    let scope = match policy.decide(&peer, &Request::Open { tool: &tool, scope: std::slice::from_ref(&secret) }) {
        Decision::AllowSession(scope) => scope,
        _ => return None,
    };
    match policy.decide(&peer, &Request::Get { scope: &scope, secret: secret.as_str() }) {
        Decision::Allow(grant) => Some(grant.origin().line),
        _ => None,
    }
}

/// Rounds until nothing is added: secrets give sources, sources give secrets.
fn reached(shape: &Shape, tool: usize) -> (BTreeMap<String, Privilege>, usize) {
    let mut secrets: BTreeSet<usize> = shape.grants[tool].keys().copied().collect();
    loop {
        let open: BTreeSet<usize> = secrets.iter().flat_map(|secret| &shape.secrets[*secret].2).copied().collect();
        let more: BTreeSet<usize> = (0..SECRETS).filter(|secret| open.contains(&shape.secrets[*secret].0)).collect();
        let before = secrets.len();
        secrets.extend(more);
        if secrets.len() == before {
            break;
        }
    }
    let mut systems = BTreeMap::new();
    for (system, with) in secrets.iter().flat_map(|secret| &shape.secrets[*secret].1) {
        let most = systems.entry(format!("system{system}")).or_insert(privilege(*with));
        *most = (*most).max(privilege(*with));
    }
    (systems, secrets.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_map_allows_is_what_policy_grants(shape in shape()) {
        let config = config(&shape);
        let (facts, weights) = (Facts::of_config(&config, "h", now()), Weights::defaults().unwrap());
        let graph = Graph::new(&facts, &weights);
        for tool in 0..TOOLS {
            for secret in 0..SECRETS {
                let ids = (graph.tool_id(&format!("tool{tool}")).unwrap(), graph.secret_id(&format!("secret{secret}")).unwrap());
                let mapped = graph.grant(ids.0, ids.1).map(|grant| grant.at.line);
                prop_assert_eq!(mapped, decided(&config.policy, tool, secret));
            }
        }
    }

    #[test]
    fn what_the_map_reaches_is_what_a_plain_search_finds(shape in shape()) {
        let config = config(&shape);
        let (facts, weights) = (Facts::of_config(&config, "h", now()), Weights::defaults().unwrap());
        let graph = Graph::new(&facts, &weights);
        for tool in 0..TOOLS {
            let answer = graph.about_tool(&format!("tool{tool}")).unwrap();
            let (systems, secrets) = reached(&shape, tool);
            let found: BTreeMap<_, _> = answer.systems.iter().map(|one| (one.system.clone(), one.privilege)).collect();
            prop_assert_eq!(&found, &systems);
            prop_assert_eq!(answer.score.secrets + answer.score.beyond, secrets);
            prop_assert!(answer.score.score.low <= answer.score.score.high);
            // And from the other end.
            for (system, with) in &systems {
                let back = graph.about_system(system).unwrap();
                let of_tool = back.tools.iter().find(|one| one.tool == answer.tool).map(|one| one.privilege);
                prop_assert_eq!(of_tool, Some(*with));
            }
        }
    }

    /// A grant more never makes a score less.
    #[test]
    fn more_is_never_less(shape in shape(), tool in 0..TOOLS, secret in 0..SECRETS) {
        let mut more = shape.clone();
        more.grants[tool].entry(secret).or_insert(0);
        let weights = Weights::defaults().unwrap();
        let score = |shape: &Shape| {
            let facts = Facts::of_config(&config(shape), "h", now());
            let score = Graph::new(&facts, &weights).about_tool(&format!("tool{tool}")).unwrap().score;
            (score.score.low, score.score.high, score.systems)
        };
        let (before, after) = (score(&shape), score(&more));
        prop_assert!(before.0 <= after.0 && before.1 <= after.1 && before.2 <= after.2, "{:?} {:?}", before, after);
    }
}

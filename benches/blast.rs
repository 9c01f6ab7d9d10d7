//! The map of a very large host: 10,000 tools, 100,000 secrets, 1,000,000 grants. How long it takes to build, what it takes of memory, and
//! how long each question and the full JSON take. The goals: a question under 100 ms, the JSON under 5 s.

use std::{
    hint::black_box,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use valetkey::{
    blast::{
        self, Channel, Exclusions, Facts, GrantFact, Graph, HeldFact, Moment, Question, SecretFact, SessionFact, SourceFact,
        ToolFact, Weights,
    },
    config::{Privilege, Reach},
    policy::Origin,
};

const TOOLS: usize = 10_000;
const SECRETS: usize = 100_000;
const GRANTS_OF_A_TOOL: usize = 100;
const SOURCES: usize = 50;
const SYSTEMS: usize = 20_000;

/// The same each time, and nothing in order.
fn spread(number: usize, of: usize) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % of
}

fn facts() -> Facts {
    let file: std::sync::Arc<Path> = Path::new("/etc/valetkey/tools.d/tools.toml").into();
    let at = |line: usize| Origin { file: file.clone(), line };
    let source = |number: usize| format!("source-{:02}", number % SOURCES).parse().expect("a name");
    let now = Moment::from_seconds(1_800_000_000);
    let privileges = [Privilege::Read, Privilege::Write, Privilege::Admin];
    let sources = (0..SOURCES).map(|n| SourceFact { name: source(n), kind: "vault".into(), hosts: Vec::new() }).collect();
    let reach = |n: usize, k: usize| Reach {
        system: format!("system-{:05}.example.com", spread(n * 3 + k, SYSTEMS)),
        privilege: privileges[spread(n + k, 3)],
    };
    let secrets: Vec<_> = (0..SECRETS)
        .map(|n| SecretFact {
            name: format!("team-{:03}/service/key-{n:06}", n % 200).parse().expect("a name"),
            source: source(spread(n, SOURCES)),
            environment: ["prod", "dev", "staging"].get(n % 4).map(ToString::to_string),
            reaches: (0..n % 4).map(|k| reach(n, k)).collect(),
            // One in ten thousand opens a source of two thousand.
            unlocks: if n % 10_000 == 77 { vec![source(n / 10_000)] } else { Vec::new() },
            rotate_every: (n % 2 == 0).then_some(Duration::from_secs(30 * 86_400)),
            canary: n % 1_000 == 0,
            per_session: false,
            current: Some(1.into()),
            at: at(n),
        })
        .collect();
    let tool = |t: usize| ToolFact {
        name: format!("tool-{t:05}").parse().expect("a name"),
        description: "does something for somebody".into(),
        run_as: vec![format!("unit mcp-{t}.service")],
        grants: (0..GRANTS_OF_A_TOOL)
            .map(|g| GrantFact {
                secret: secrets[(spread(t, SECRETS) + g * 991) % SECRETS].name.clone(),
                channel: Channel::ALL[(t + g) % 5],
                variable: None,
                remote: false,
                at: at(t * 100 + g),
            })
            .collect(),
        on_rotation: "notify-only".into(),
        contained: false,
        at: at(t * 100),
    };
    let tools: Vec<_> = (0..TOOLS).map(tool).collect();
    let session = |t: usize| SessionFact {
        id: format!("{t:032x}"),
        tool: tools[t].name.clone(),
        pid: t as u32 + 1000,
        uid: 1000,
        unit: None,
        remote: None,
        opened: now,
        scope: tools[t].grants.iter().take(10).map(|grant| grant.secret.clone()).collect(),
        held: tools[t]
            .grants
            .iter()
            .take(5)
            .map(|grant| HeldFact { secret: grant.secret.clone(), version: 1.into(), channel: grant.channel, since: now })
            .collect(),
    };
    let sessions = Some((0..TOOLS).map(session).collect());
    let configuration = "/etc/valetkey/valetkey.toml".into();
    let mut facts = Facts { host: "bench".into(), made: now, configuration, sources, secrets, tools, sessions, usage: None };
    facts.sort();
    facts
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}

/// The middle of several.
fn median(times: usize, mut run: impl FnMut()) -> Duration {
    let mut all: Vec<_> = (0..times)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .collect();
    all.sort();
    all[times / 2]
}

/// Counts, and keeps nothing.
#[derive(Default)]
struct Sink(usize);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn row(what: &str, took: Duration, note: &str) {
    println!("{what:44} {:>10.1} ms  {note}", took.as_secs_f64() * 1000.0);
}

fn main() {
    let before = resident();
    let facts = facts();
    let grants: usize = facts.tools.iter().map(|tool| tool.grants.len()).sum();
    let with_facts = resident();
    println!("{TOOLS} tools, {SECRETS} secrets, {grants} grants, {} systems", facts.systems().len());
    println!("facts: {} MiB", (with_facts - before) >> 20);
    let weights = Weights::defaults().expect("the defaults can be read");
    row("build", median(5, || drop(black_box(Graph::new(&facts, &weights)))), "");
    let graph = Graph::new(&facts, &weights);
    println!("graph: {} MiB of arrays", graph.bytes() >> 20);

    let key = facts.secrets.iter().find(|secret| !secret.unlocks.is_empty()).expect("one opens a source");
    let opens = key.name.as_str();
    let holder = facts.tools.iter().find(|tool| tool.grants.iter().any(|grant| grant.secret == key.name));
    let holder = holder.map_or("tool-00001", |tool| tool.name.as_str());
    let system = graph.systems[graph.systems.len() / 2];
    row("all tools in a line", median(11, || drop(black_box(graph.overview()))), "");
    row("--tool", median(11, || drop(black_box(graph.about_tool("tool-00003")))), "");
    row("--tool, with the key to a source", median(11, || drop(black_box(graph.about_tool(holder)))), "");
    row("--secret", median(11, || drop(black_box(graph.about_secret("team-001/service/key-000001")))), "");
    row("--secret, the key to a source", median(11, || drop(black_box(graph.about_secret(opens)))), "");
    row("--system", median(11, || drop(black_box(graph.about_system(system)))), "");
    let document = |question: &Question| graph.document(question.clone(), Vec::new()).expect("it is there");
    let tool = Question::Tool(holder.into());
    row("--tool, as a document", median(11, || drop(black_box(document(&tool)))), "");
    row("findings", median(3, || drop(black_box(graph.findings(&Exclusions::default())))), "");

    let begun = Instant::now();
    let findings = graph.findings(&Exclusions::default());
    let found = findings.len();
    let whole = graph.document(Question::Everything, findings).expect("it is there");
    let mut sink = Sink::default();
    blast::write_json(&mut sink, &whole).expect("a sink takes it");
    row(
        "full JSON, findings and all",
        begun.elapsed(),
        &format!("{} MiB, {} edges, {found} findings", sink.0 >> 20, whole.edges.len()),
    );
    println!("resident with the document: {} MiB", resident() >> 20);
    row("mermaid of it", median(1, || drop(black_box(blast::mermaid(&whole)))), "");
    row("svg of it", median(1, || drop(black_box(blast::svg(&whole)))), "");
}

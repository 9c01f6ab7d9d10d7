//! Every form: made from the JSON, so that it agrees with it; and whole, whatever names it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use serde_json::Value;
use valetkey::{
    blast::{self, Document, Exclusions, Facts, GrantFact, Graph, Pseudonyms, Question, SecretFact, ToolFact, Weights},
    config::{Privilege, Reach},
    policy::Origin,
};

use super::{Etc, now, says, seeded, valetkey};

const HOSTILE: &str = "</script><script>alert(1)</script>\"'`&;|]})>--><!--\u{1b}[31m\u{202e}\\n#quot;%%{init:{}}%%\nend";

/// A host whose every free text is hostile.
fn hostile() -> Facts {
    let etc = seeded::etc();
    let mut facts = seeded::facts(&etc);
    facts.host = HOSTILE.into();
    facts.configuration = HOSTILE.into();
    let at = Origin { file: std::path::Path::new(HOSTILE).into(), line: 1 };
    for secret in &mut facts.secrets {
        secret.environment = Some(HOSTILE.into());
        secret.at = at.clone();
        secret.reaches.iter_mut().for_each(|reach| reach.system += HOSTILE);
    }
    for tool in &mut facts.tools {
        tool.description = HOSTILE.into();
        tool.run_as = vec![HOSTILE.into(), tool.name.to_string()];
        tool.at = at.clone();
        tool.grants.iter_mut().for_each(|grant| {
            grant.variable = Some(HOSTILE.into());
            grant.at = at.clone();
        });
    }
    facts
}

/// Makes a document of these facts for `see`.
fn with<T>(facts: &Facts, see: impl FnOnce(&Document<'_>) -> T) -> T {
    let weights = Weights::defaults().unwrap();
    let graph = Graph::new(facts, &weights);
    let findings = graph.findings(&Exclusions::default());
    see(&graph.document(Question::Everything, findings).unwrap())
}

/// Something that knows the form says whether it is whole.
fn python(program: &str, input: &str) -> String {
    let mut child = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn text_does_not_steer_a_terminal() {
    let facts = hostile();
    let weights = Weights::defaults().unwrap();
    let graph = Graph::new(&facts, &weights);
    let system = facts.secrets.iter().find_map(|secret| secret.reaches.first()).unwrap().system.clone();
    for question in
        [Question::Everything, Question::Tool("deploy".into()), Question::Secret("vault/token".into()), Question::System(system)]
    {
        let text = graph.document(question, Vec::new()).unwrap().text();
        assert!(text.lines().count() > 3 && !text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        assert!(!text.lines().any(|line| line == "end"), "a name began a line of its own:\n{text}");
    }
}

#[test]
fn dot_and_mermaid_quote_all_names() {
    let facts = hostile();
    let (dot, mermaid) = with(&facts, |document| (blast::dot(document), blast::mermaid(document)));
    for line in dot.lines() {
        // What is left without the quoted strings is the form's own.
        let (mut outside, mut quoted, mut escaped) = (String::new(), false, false);
        for c in line.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                c if !quoted => outside.push(c),
                _ => {}
            }
        }
        assert!(!quoted, "{line}");
        assert!(!outside.contains("script") && !outside.contains('<'), "{line}");
    }
    for line in mermaid.lines().skip(1) {
        assert_eq!(line.matches('"').count(), 2, "{line}");
        assert!(!line.contains('<') && !line.contains('`') && !line.contains("%%"), "{line}");
        assert!(line.starts_with("  n"), "{line}");
    }
}

#[test]
fn svg_is_well_formed_and_holds_no_script() {
    let facts = hostile();
    let svg = with(&facts, blast::svg);
    let program = "import sys,xml.dom.minidom as m\nd=m.parse(sys.stdin)\n\
                   print(sorted({e.tagName for e in d.getElementsByTagName('*')}))\n\
                   print(sorted({a for e in d.getElementsByTagName('*') for a in e.attributes.keys()}))";
    let said = python(program, &svg);
    let mut lines = said.lines();
    assert_eq!(lines.next().unwrap(), "['g', 'path', 'rect', 'style', 'svg', 'text', 'title']");
    let attributes = "['aria-label', 'class', 'd', 'height', 'role', 'rx', 'viewBox', 'width', 'x', 'xmlns', 'y']";
    assert_eq!(lines.next().unwrap(), attributes);
}

#[test]
fn the_page_holds_the_document_and_nothing_else_runs() {
    for facts in [seeded::facts(&seeded::etc()), hostile()] {
        let (page, json) = with(&facts, |document| {
            (blast::html(document, &Question::Tool("deploy".into())).unwrap(), serde_json::to_value(document).unwrap())
        });
        let program = "import sys,json\nfrom html.parser import HTMLParser\nclass P(HTMLParser):\n\
                       \x20 def __init__(s): super().__init__(); s.tags=[]; s.scripts=[]; s.on=0\n\
                       \x20 def handle_starttag(s,t,a): s.tags.append([t,dict(a)]); s.on=1\n\
                       \x20 def handle_endtag(s,t): s.on=0\n\
                       \x20 def handle_data(s,d):\n    if s.on and s.tags[-1][0] in('script','style'): s.scripts.append([s.tags[-1],d])\n\
                       p=P(); p.feed(sys.stdin.read()); p.close(); print(json.dumps([p.tags,p.scripts]))";
        let parsed: Value = serde_json::from_str(&python(program, &page)).unwrap();
        let tags: BTreeSet<_> = parsed[0].as_array().unwrap().iter().map(|tag| tag[0].as_str().unwrap()).collect();
        let expected = "body div h1 head html meta noscript script style table tbody td th thead title tr"
            .split(' ')
            .collect::<BTreeSet<_>>();
        assert_eq!(tags, expected);
        let scripts = parsed[1].as_array().unwrap();
        let of = |id: &str| scripts.iter().find(|one| one[0][1]["id"] == id).unwrap()[1].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(of("data")).unwrap(), json, "the page shows what the JSON says");
        assert_eq!(scripts.len(), 4, "a style, two of data and one that runs");
        // Nothing is loaded, and the policy names what may run by its hash.
        let policy = parsed[0].as_array().unwrap().iter().find(|tag| tag[1]["http-equiv"] == "Content-Security-Policy").unwrap();
        let policy = policy[1]["content"].as_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        for (tag, text) in scripts.iter().map(|one| (&one[0], one[1].as_str().unwrap())) {
            if tag[1]["type"] != "application/json" {
                let hash = python(
                    "import sys,hashlib,base64\nprint(base64.b64encode(hashlib.sha256(sys.stdin.buffer.read()).digest()).decode())",
                    text,
                );
                assert!(policy.contains(&format!("'sha256-{}'", hash.trim())), "{policy}");
            }
        }
        for loads in ["src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML", "eval("] {
            let own: String = page.lines().filter(|line| !line.contains("application/json")).collect();
            assert!(!own.contains(loads), "{loads}");
        }
    }
}

#[test]
fn sarif_has_what_code_scanning_asks_for() {
    let facts = hostile();
    let (sarif, findings) = with(&facts, |document| (blast::sarif(document), document.findings.len()));
    let run = &sarif["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!((results.len(), sarif["version"].as_str()), (findings, Some("2.1.0")));
    let mut prints = BTreeSet::new();
    for result in results {
        assert_eq!(rules[result["ruleIndex"].as_u64().unwrap() as usize]["id"], result["ruleId"]);
        let location = &result["locations"][0]["physicalLocation"];
        assert!(location["region"]["startLine"].as_u64().unwrap() >= 1);
        let uri = location["artifactLocation"]["uri"].as_str().unwrap();
        assert!(uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains(['<', '"', '#']), "{uri}");
        assert!(prints.insert(result["partialFingerprints"]["valetkey/v1"].as_str().unwrap()), "two alike");
        assert!(["note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
    }
}

#[test]
fn opengraph_keeps_to_its_rules() {
    let facts = hostile();
    let graph = with(&facts, blast::opengraph);
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let properties = |of: &Value| {
        for (name, value) in of["properties"].as_object().unwrap() {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()) && name != "objectid", "{name}");
            assert!(!value.is_object() && !value.is_array() && !value.is_null(), "{name} {value}");
        }
    };
    let mut ids = BTreeSet::new();
    for node in graph["graph"]["nodes"].as_array().unwrap() {
        let id = node["id"].as_str().unwrap();
        assert!(!id.contains(':') && ids.insert(id), "{id}");
        let kinds = node["kinds"].as_array().unwrap();
        assert!(kinds.len() <= 3 && kinds.iter().all(|kind| word(kind.as_str().unwrap())));
        properties(node);
    }
    for edge in graph["graph"]["edges"].as_array().unwrap() {
        assert!(word(edge["kind"].as_str().unwrap()));
        assert!(["start", "end"].iter().all(|end| ids.contains(edge[end]["value"].as_str().unwrap())), "{edge}");
        properties(edge);
    }
    let top: Vec<_> = graph.as_object().unwrap().keys().collect();
    assert_eq!(top, ["graph", "metadata"]);
}

#[test]
fn two_runs_are_the_same() {
    let etc = seeded::etc();
    let facts = seeded::facts(&etc);
    let mut shuffled = facts.clone();
    shuffled.tools.reverse();
    shuffled.secrets.reverse();
    shuffled.sources.reverse();
    shuffled.tools.iter_mut().for_each(|tool| tool.grants.reverse());
    shuffled.sort();
    assert_eq!(shuffled, facts);
    let all = |facts: &Facts| {
        with(facts, |document| {
            let json = serde_json::to_string(document).unwrap();
            let (sarif, opengraph) = (blast::sarif(document).to_string(), blast::opengraph(document).to_string());
            [json, document.text(), blast::dot(document), blast::mermaid(document), blast::svg(document), sarif, opengraph]
        })
    };
    assert_eq!(all(&facts), all(&shuffled));
}

#[test]
fn a_flowchart_stays_within_what_renderers_take() {
    let facts = many(2_000, 10_000);
    let mermaid = with(&facts, blast::mermaid);
    let lines = mermaid.lines().filter(|line| line.contains("-->") || line.contains("-.->")).count();
    assert!(lines <= 500 && lines > 200, "{lines} lines");
    assert!(mermaid.chars().count() < 50_000);
    assert!(mermaid.contains("%% the worst ") && mermaid.contains(" of 2000 tools"), "{}", &mermaid[..80]);
    let svg = with(&facts, blast::svg);
    assert!(svg.contains("The worst 40 of 2000 tools"));
}

#[test]
fn pseudonyms_leave_no_name() {
    let etc = seeded::etc();
    let facts = seeded::facts(&etc);
    let weights = Weights::defaults().unwrap();
    let by = Pseudonyms::new(&[7; 32]);
    let renamed = by.facts(&facts, &weights).unwrap();
    let all = with(&renamed, |document| {
        let text = [document.text(), blast::dot(document), blast::svg(document), blast::sarif(document).to_string()].concat();
        text + &serde_json::to_string(document).unwrap() + &blast::opengraph(document).to_string()
    });
    let folder = etc.path("").display().to_string();
    let systems = facts.systems();
    let names = facts.tools.iter().map(|tool| tool.name.to_string()).chain(systems.iter().map(ToString::to_string));
    let names = names.chain(
        ["stripe/key", "VAULT_TOKEN_FILE", "web-1", ".service", "all.toml", folder.trim_end_matches('/')].map(String::from),
    );
    // `audit` and `search` are words of the forms too.
    for name in
        names.filter(|name| !["audit", "search", "deploy", "orders", "mail", "weather", "github"].contains(&name.as_str()))
    {
        assert!(!all.contains(&name), "{name} is told");
    }
    for name in ["tool:deploy", "tool:audit", "tool:mail", "tool:github", "secret:decoy"] {
        assert!(!all.contains(name), "{name} is told");
    }
    // The same map: as many lines of each kind, and the same scores.
    let shape = |facts: &Facts| {
        with(facts, |document| {
            let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
            document.edges.iter().for_each(|edge| *kinds.entry(format!("{:?}", edge.kind)).or_default() += 1);
            let scores: Vec<_> = document.worst_first().iter().map(|tool| tool.score.clone()).collect();
            let findings: BTreeSet<_> = document.findings.iter().map(|finding| finding.id).collect();
            (kinds, scores, findings)
        })
    };
    assert_eq!(shape(&renamed), shape(&facts));
    assert_eq!(by.facts(&facts, &weights).unwrap(), renamed, "one key, one name");
    assert_ne!(Pseudonyms::new(&[8; 32]).facts(&facts, &weights).unwrap(), renamed);

    let config = etc.config();
    let out = valetkey(&["blast-radius", "--config", &config, "--pseudonymise", "--tool", "deploy", "--json"]);
    let said = says(&out, 0, &["\"pseudonymised\": true", "tool-"]);
    assert!(!said.contains("deploy") && !said.contains("vault.example.com"), "{said}");
}

#[test]
fn a_map_is_for_its_owner_alone() {
    let etc = seeded::etc();
    let (config, map) = (etc.config(), etc.path("map.html"));
    fs::write(&map, "before").unwrap();
    fs::set_permissions(&map, fs::Permissions::from_mode(0o644)).unwrap();
    for form in ["html", "json", "text", "svg", "mermaid", "dot", "sarif", "opengraph"] {
        let out = valetkey(&["blast-radius", "--config", &config, "--format", form, "--output", map.to_str().unwrap()]);
        assert_eq!(says(&out, 0, &[]), "");
        assert_eq!(fs::metadata(&map).unwrap().permissions().mode() & 0o777, 0o600, "{form}");
        assert!(fs::metadata(&map).unwrap().len() > 300, "{form}");
    }
    says(&valetkey(&["blast-radius", "--config", &config, "--output", "/nowhere/map"]), 1, &["/nowhere/map cannot be written"]);
    let weights = says(&valetkey(&["blast-radius", "--print-weights"]), 0, &["scale = 1.5"]);
    etc.write("weights.toml", &weights.replace("[system]", "[system]\n\"users.db\" = 0.0"));
    let file = etc.path("weights.toml").display().to_string();
    let said = says(&valetkey(&["blast-radius", "--config", &config, "--weights", &file]), 0, &[]);
    assert!(said.contains("      0  audit: "), "{said}");
    etc.write("weights.toml", "scale = 2.0\n");
    says(
        &valetkey(&["blast-radius", "--config", &config, "--weights", &file]),
        2,
        &["weights.toml: missing field", "--print-weights"],
    );
}

/// A large host, the same each time: each tool has some secrets, some secrets open a source.
pub fn many(tools: usize, secrets: usize) -> Facts {
    let etc = Etc::new(&[("valetkey.toml", "")]);
    let mut facts = etc.facts(None);
    let at = |line: usize| Origin { file: std::path::Path::new("/etc/valetkey/tools.d/all.toml").into(), line };
    let source = |number: usize| format!("source-{:02}", number % 20).parse().unwrap();
    facts.sources =
        (0..20).map(|number| blast::SourceFact { name: source(number), kind: "vault".into(), hosts: Vec::new() }).collect();
    let privileges = [Privilege::Read, Privilege::Write, Privilege::Admin];
    facts.secrets = (0..secrets)
        .map(|number| SecretFact {
            name: format!("team-{:02}/key-{number:05}", number % 50).parse().unwrap(),
            source: source(number),
            environment: ["prod", "dev", "staging"].get(number % 4).map(ToString::to_string),
            reaches: (0..number % 3)
                .map(|reach| Reach {
                    system: format!("system-{:04}.example.com", (number * 7 + reach * 13) % (secrets / 5)),
                    privilege: privileges[(number + reach) % 3],
                })
                .collect(),
            unlocks: if number % 2_500 == 1_234 { vec![source(number / 2_500 + 7)] } else { Vec::new() },
            rotate_every: (number % 2 == 0).then_some(std::time::Duration::from_secs(86_400)),
            canary: number % 97 == 0,
            per_session: false,
            current: None,
            at: at(number + 1),
        })
        .collect();
    facts.tools = (0..tools)
        .map(|number| ToolFact {
            name: format!("tool-{number:05}").parse().unwrap(),
            description: "does something".into(),
            run_as: vec![format!("unit mcp-{number}.service")],
            grants: (0..1 + number % 20)
                .map(|grant| GrantFact {
                    secret: facts.secrets[(number * 31 + grant * 977) % secrets].name.clone(),
                    channel: blast::Channel::ALL[(number + grant) % 5],
                    variable: None,
                    remote: false,
                    at: at(number + grant),
                })
                .collect(),
            on_rotation: "notify-only".into(),
            contained: false,
            at: at(number + 1),
        })
        .collect();
    facts.made = now();
    facts.sort();
    facts
}

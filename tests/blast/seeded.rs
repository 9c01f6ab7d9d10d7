//! A host with twelve tools: two sharing one key, one canary, one over-privileged, one with the keys to a source. Its map is compared with
//! one drawn by hand.

use serde_json::Value;
use valetkey::blast::{Exclusions, Facts, Finding, Graph, Question, Usage, Weights};

use super::{Etc, now, says, valetkey};

const MAIN: &str = r#"[source.sealed]
kind = "sealed-file"
file = "/etc/valetkey/secrets.age"
identity-file = "/etc/valetkey/identity"
[source.vault]
kind = "vault"
address = "https://vault.example.com:8200"
auth = { token-file = "/etc/valetkey/token" }
[secret."stripe/key"]
source = "sealed"
environment = "prod"
reaches = [{ system = "api.stripe.com", privilege = "write" }]
rotate-every = "30d"
[secret."mail/password"]
source = "sealed"
environment = "prod"
reaches = [{ system = "smtp.example.com", privilege = "write" }]
rotate-every = "90d"
[secret."github/admin"]
source = "sealed"
environment = "prod"
reaches = [{ system = "api.github.com", privilege = "admin" }]
rotate-every = "90d"
[secret."github/read"]
source = "sealed"
environment = "prod"
reaches = [{ system = "api.github.com", privilege = "read" }]
rotate-every = "90d"
[secret."vault/token"]
source = "sealed"
environment = "prod"
reaches = [{ system = "vault.example.com", privilege = "admin" }]
rotate-every = "90d"
[secret."db/orders"]
source = "vault"
environment = "prod"
reaches = [{ system = "orders.db", privilege = "admin" }, { system = "report.db", privilege = "read" }]
rotate-every = "90d"
[secret."db/users"]
source = "vault"
environment = "prod"
reaches = [{ system = "users.db", privilege = "admin" }]
rotate-every = "90d"
[secret."db/test"]
source = "sealed"
environment = "dev"
reaches = [{ system = "orders.test", privilege = "admin" }]
rotate-every = "90d"
[secret."search/key"]
source = "sealed"
rotate-every = "90d"
[secret."weather/key"]
source = "sealed"
environment = "prod"
reaches = [{ system = "weather.example.com", privilege = "read" }]
[secret.decoy]
source = "sealed"
canary = true
"#;

const TOOLS: &str = r#"[tool.audit]
run-as = { unit = "audit.service" }
secrets."db/users" = {}
[tool.billing]
run-as = { unit = "billing.service" }
secrets."stripe/key" = {}
[tool.deploy]
run-as = { unit = "deploy.service" }
secrets."vault/token" = { file = "VAULT_TOKEN_FILE" }
[tool.github]
run-as = { unit = "github.service" }
secrets."github/admin" = { file = "GITHUB_ADMIN_FILE" }
secrets."github/read" = { fd = "GITHUB_READ_FILE" }
secrets.decoy = { env = "GITHUB_OLD_TOKEN" }
[tool.invoices]
run-as = { unit = "invoices.service" }
secrets."stripe/key" = {}
[tool.mail]
run-as = { unit = "mail.service" }
secrets."mail/password" = { env = "SMTP_PASSWORD" }
[tool.orders]
run-as = { unit = "orders.service" }
secrets."db/orders" = {}
secrets."db/test" = {}
[tool.search]
run-as = { unit = "search.service" }
secrets."search/key" = {}
[tool.weather]
run-as = { unit = "weather.service" }
secrets."weather/key" = {}
[tool.weather-eu]
run-as = { unit = "weather-eu.service" }
secrets."weather/key" = {}
[tool.weather-uk]
run-as = { unit = "weather-uk.service" }
secrets."weather/key" = {}
[tool.weather-us]
run-as = { unit = "weather-us.service" }
secrets."weather/key" = {}
"#;

pub fn etc() -> Etc {
    Etc::new(&[("valetkey.toml", MAIN), ("tools.d/all.toml", TOOLS)])
}

/// All was used yesterday, but for two grants; and one tool asked for what it may not have.
pub fn usage() -> String {
    let used = [
        ("audit", "db/users"),
        ("billing", "stripe/key"),
        ("deploy", "vault/token"),
        ("github", "github/read"),
        ("invoices", "stripe/key"),
        ("mail", "mail/password"),
        ("orders", "db/orders"),
        ("orders", "db/test"),
        ("search", "search/key"),
        ("weather", "weather/key"),
        ("weather-eu", "weather/key"),
        ("weather-uk", "weather/key"),
    ];
    let entry = |(tool, secret): (&str, &str)| {
        format!(
            r#"{{"tool":"{tool}","secret":"{secret}","count":7,"first":"2026-09-01T00:00:00Z","last":"2027-01-14T00:00:00Z"}}"#
        )
    };
    let mut entries: Vec<_> = used.into_iter().map(entry).collect();
    // Too long ago.
    entries.push(r#"{"tool":"weather-us","secret":"weather/key","count":1,"first":null,"last":"2026-09-02T00:00:00Z"}"#.into());
    entries.push(r#"{"tool":"mail","secret":"stripe/key","count":0,"first":null,"last":null,"denied":3}"#.into());
    format!(
        r#"{{"schema":"valetkey.usage","schema_version":1,"since":"2026-09-01T00:00:00Z","until":"2027-01-15T08:00:00Z","entries":[{}]}}"#,
        entries.join(",")
    )
}

pub fn facts(etc: &Etc) -> Facts {
    etc.facts(Some(Usage::parse(&usage()).unwrap()))
}

/// Each line of the graph as JSON has it, in words: what, from, to, how sure, where, and the rest.
fn lines(etc: &Etc, document: &Value) -> Vec<String> {
    let known = ["kind", "from", "to", "sure", "at"];
    let line = |edge: &Value| {
        let text = |key: &str| edge[key].as_str().unwrap_or("-").to_owned();
        let rest = edge.as_object().unwrap().iter().filter(|(key, _)| !known.contains(&key.as_str()));
        let rest: Vec<_> = rest.map(|(key, value)| format!("{key}={}", value.to_string().replace('"', ""))).collect();
        let words = known.map(text).join(" ");
        etc.relative(format!("{words} {}", rest.join(" ")).trim_end())
    };
    document["edges"].as_array().unwrap().iter().map(line).collect()
}

/// By hand, from the two files above.
const MAP: &str = "\
hosts host:web-1 caller:unit audit.service enforced -
runs caller:unit audit.service tool:audit enforced tools.d/all.toml:1
allowed tool:audit secret:db/users enforced tools.d/all.toml:3 channel=rpc
used tool:audit secret:db/users observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit billing.service enforced -
runs caller:unit billing.service tool:billing enforced tools.d/all.toml:4
allowed tool:billing secret:stripe/key enforced tools.d/all.toml:6 channel=rpc
used tool:billing secret:stripe/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit deploy.service enforced -
runs caller:unit deploy.service tool:deploy enforced tools.d/all.toml:7
allowed tool:deploy secret:vault/token enforced tools.d/all.toml:9 channel=file variable=VAULT_TOKEN_FILE
used tool:deploy secret:vault/token observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit github.service enforced -
runs caller:unit github.service tool:github enforced tools.d/all.toml:10
allowed tool:github secret:decoy enforced tools.d/all.toml:14 channel=env variable=GITHUB_OLD_TOKEN
allowed tool:github secret:github/admin enforced tools.d/all.toml:12 channel=file variable=GITHUB_ADMIN_FILE
allowed tool:github secret:github/read enforced tools.d/all.toml:13 channel=fd variable=GITHUB_READ_FILE
used tool:github secret:github/read observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit invoices.service enforced -
runs caller:unit invoices.service tool:invoices enforced tools.d/all.toml:15
allowed tool:invoices secret:stripe/key enforced tools.d/all.toml:17 channel=rpc
used tool:invoices secret:stripe/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit mail.service enforced -
runs caller:unit mail.service tool:mail enforced tools.d/all.toml:18
allowed tool:mail secret:mail/password enforced tools.d/all.toml:20 channel=env variable=SMTP_PASSWORD
used tool:mail secret:mail/password observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit orders.service enforced -
runs caller:unit orders.service tool:orders enforced tools.d/all.toml:21
allowed tool:orders secret:db/orders enforced tools.d/all.toml:23 channel=rpc
allowed tool:orders secret:db/test enforced tools.d/all.toml:24 channel=rpc
used tool:orders secret:db/orders observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
used tool:orders secret:db/test observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit search.service enforced -
runs caller:unit search.service tool:search enforced tools.d/all.toml:25
allowed tool:search secret:search/key enforced tools.d/all.toml:27 channel=rpc
used tool:search secret:search/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit weather.service enforced -
runs caller:unit weather.service tool:weather enforced tools.d/all.toml:28
allowed tool:weather secret:weather/key enforced tools.d/all.toml:30 channel=rpc
used tool:weather secret:weather/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit weather-eu.service enforced -
runs caller:unit weather-eu.service tool:weather-eu enforced tools.d/all.toml:31
allowed tool:weather-eu secret:weather/key enforced tools.d/all.toml:33 channel=rpc
used tool:weather-eu secret:weather/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit weather-uk.service enforced -
runs caller:unit weather-uk.service tool:weather-uk enforced tools.d/all.toml:34
allowed tool:weather-uk secret:weather/key enforced tools.d/all.toml:36 channel=rpc
used tool:weather-uk secret:weather/key observed - count=7 denied=0 first=2026-09-01T00:00:00Z last=2027-01-14T00:00:00Z
hosts host:web-1 caller:unit weather-us.service enforced -
runs caller:unit weather-us.service tool:weather-us enforced tools.d/all.toml:37
allowed tool:weather-us secret:weather/key enforced tools.d/all.toml:39 channel=rpc
used tool:weather-us secret:weather/key observed - count=1 denied=0 first=null last=2026-09-02T00:00:00Z
stored secret:db/orders source:vault enforced valetkey.toml:34
reaches secret:db/orders system:orders.db declared valetkey.toml:34 privilege=admin
reaches secret:db/orders system:report.db declared valetkey.toml:34 privilege=read
stored secret:db/test source:sealed enforced valetkey.toml:44
reaches secret:db/test system:orders.test declared valetkey.toml:44 privilege=admin
stored secret:db/users source:vault enforced valetkey.toml:39
reaches secret:db/users system:users.db declared valetkey.toml:39 privilege=admin
stored secret:decoy source:sealed enforced valetkey.toml:56
stored secret:github/admin source:sealed enforced valetkey.toml:19
reaches secret:github/admin system:api.github.com declared valetkey.toml:19 privilege=admin
stored secret:github/read source:sealed enforced valetkey.toml:24
reaches secret:github/read system:api.github.com declared valetkey.toml:24 privilege=read
stored secret:mail/password source:sealed enforced valetkey.toml:14
reaches secret:mail/password system:smtp.example.com declared valetkey.toml:14 privilege=write
stored secret:search/key source:sealed enforced valetkey.toml:49
stored secret:stripe/key source:sealed enforced valetkey.toml:9
reaches secret:stripe/key system:api.stripe.com declared valetkey.toml:9 privilege=write
stored secret:vault/token source:sealed enforced valetkey.toml:29
reaches secret:vault/token system:vault.example.com declared valetkey.toml:29 privilege=admin
unlocks secret:vault/token source:vault derived valetkey.toml:29
stored secret:weather/key source:sealed enforced valetkey.toml:52
reaches secret:weather/key system:weather.example.com declared valetkey.toml:52 privilege=read";

#[test]
fn the_map_is_the_one_drawn_by_hand() {
    let (etc, weights) = (etc(), Weights::defaults().unwrap());
    let facts = facts(&etc);
    let graph = Graph::new(&facts, &weights);
    let document = graph.document(Question::Everything, graph.findings(&Exclusions::default())).unwrap();
    let json = serde_json::to_value(&document).unwrap();
    let found = lines(&etc, &json);
    let expected: Vec<_> = MAP.lines().collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());

    let names = |kind: &str| -> Vec<_> {
        json["nodes"][kind].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("hosts"), ["web-1"]);
    assert_eq!(names("callers").len(), 12);
    assert_eq!(names("versions"), [] as [&str; 0]);
    assert_eq!(names("sources"), ["sealed", "vault"]);
    let tools = "audit billing deploy github invoices mail orders search weather weather-eu weather-uk weather-us";
    assert_eq!(names("tools").join(" "), tools);
    let secrets =
        "db/orders db/test db/users decoy github/admin github/read mail/password search/key stripe/key vault/token weather/key";
    assert_eq!(names("secrets").join(" "), secrets);
    let systems = "api.github.com api.stripe.com orders.db orders.test report.db smtp.example.com users.db vault.example.com \
                   weather.example.com";
    assert_eq!(names("systems").join(" "), systems);
    assert_eq!((&json["schema"], &json["schema_version"]), (&"valetkey.blast-radius".into(), &1.into()));
    assert_eq!((&json["view"], &json["host"]), (&"configuration".into(), &"web-1".into()));
}

/// By hand, with the default weights. A score is 100 (1 - e^(-risk / 1.5)).
#[test]
fn scores_are_as_reckoned_by_hand() {
    let (etc, weights) = (etc(), Weights::defaults().unwrap());
    let facts = facts(&etc);
    let lines = Graph::new(&facts, &weights).overview().tools;
    let score = |tool: &str| {
        let line = lines.iter().find(|line| line.tool == tool).unwrap();
        let score = &line.score;
        (score.score.to_string(), score.depth.to_string(), score.secrets, score.beyond, score.systems, score.undeclared)
    };
    // Prod, write, rotated, rpc: 1.0 x 0.6 x 0.8 x 1.0 = 0.48; 1 - e^-0.32 = 0.27.
    assert_eq!(score("billing"), ("27".into(), "60".into(), 1, 0, 1, 0));
    // The same in a variable: 0.48 x 1.3 = 0.624; 1 - e^-0.416 = 0.34.
    assert_eq!(score("mail"), ("34".into(), "60".into(), 1, 0, 1, 0));
    // Of two ways to one system the worst: admin by file, 0.8 x 1.1 = 0.88; 1 - e^-0.587 = 0.44. A canary adds nothing.
    assert_eq!(score("github"), ("44".into(), "100".into(), 3, 0, 1, 0));
    // Unknown: from 0.2 x 0.3 to 1.0 x 1.0, x 0.8; 0.048 and 0.8; 3 and 41.
    assert_eq!(score("search"), ("3-41".into(), "6-100".into(), 1, 0, 0, 1));
    // Static: 1.0 x 0.3; 1 - e^-0.2 = 0.18.
    assert_eq!(score("weather"), ("18".into(), "30".into(), 1, 0, 1, 0));
    // The Vault by file 0.88, and through it, x 0.7: two admin 0.56 each, one read 0.168. 2.168; 1 - e^-1.445 = 0.76.
    assert_eq!(score("deploy"), ("76".into(), "100".into(), 1, 2, 4, 0));
    // Prod admin 0.8, prod read 0.24, dev admin 0.16: 1.2; 1 - e^-0.8 = 0.55.
    assert_eq!(score("orders"), ("55".into(), "100".into(), 2, 0, 3, 0));
    assert_eq!(lines[0].tool, "deploy", "worst first");
    assert_eq!(lines[1].tool, "orders");
}

fn found(etc: &Etc, findings: &[Finding]) -> Vec<String> {
    let name = |name: &Option<String>| name.clone().unwrap_or("-".into());
    let line = |f: &Finding| {
        let at = etc.relative(&format!("{}:{}", f.file, f.line));
        format!("{} {} {} {} {at}", f.id, name(&f.tool), name(&f.secret), name(&f.system))
    };
    findings.iter().map(line).collect()
}

#[test]
fn every_finding_is_found_and_none_besides() {
    let (etc, weights) = (etc(), Weights::defaults().unwrap());
    let facts = facts(&etc);
    let findings = Graph::new(&facts, &weights).findings(&Exclusions::default());
    let expected = [
        "VK-103 deploy - - tools.d/all.toml:7",
        "VK-111 deploy vault/token vault tools.d/all.toml:9",
        "VK-101 weather-us weather/key - tools.d/all.toml:39",
        "VK-102 - weather/key - valetkey.toml:52",
        "VK-104 orders - - tools.d/all.toml:21",
        "VK-108 mail stripe/key - tools.d/all.toml:18",
        "VK-110 github github/admin api.github.com tools.d/all.toml:12",
        "VK-105 mail mail/password - tools.d/all.toml:20",
        "VK-106 - weather/key - valetkey.toml:52",
        "VK-112 - search/key - valetkey.toml:49",
    ];
    assert_eq!(found(&etc, &findings), expected);
}

#[test]
fn what_is_not_known_is_not_found() {
    let (etc, weights) = (etc(), Weights::defaults().unwrap());
    let needs_usage = ["VK-101", "VK-108", "VK-110"];
    let facts = etc.facts(None);
    let findings = Graph::new(&facts, &weights).findings(&Exclusions::default());
    assert!(findings.iter().all(|finding| !needs_usage.contains(&finding.id)), "{findings:?}");
    let not_judged: Vec<_> = valetkey::blast::not_judged(&facts, &weights).into_iter().map(|one| one.id).collect();
    assert_eq!(not_judged, ["VK-101", "VK-107", "VK-108", "VK-109", "VK-110"]);
    // Usage of a few days says nothing of ninety; what was denied in them was denied.
    let mut short = Usage::parse(&usage()).unwrap();
    short.since = now().before(std::time::Duration::from_secs(86_400));
    let facts = etc.facts(Some(short));
    let findings = Graph::new(&facts, &weights).findings(&Exclusions::default());
    let of_usage: Vec<_> = findings.iter().map(|finding| finding.id).filter(|id| needs_usage.contains(id)).collect();
    assert_eq!(of_usage, ["VK-108"]);
}

#[test]
fn exclusions_hold_until_their_day() {
    let (etc, weights) = (etc(), Weights::defaults().unwrap());
    let facts = facts(&etc);
    let exclude = |finding: &str, tool: &str, expires: &str| {
        format!("[[exclude]]\nfinding = \"{finding}\"\ntool = \"{tool}\"\nreason = \"decided\"\nexpires = {expires}\n")
    };
    let text = [
        exclude("VK-103", "deploy", "2027-02-01"),
        exclude("VK-111", "deploy", "2027-01-15"),
        exclude("VK-104", "mail", "2027-02-01"),
    ];
    let exclusions = Exclusions::parse(&etc.path("exclusions.toml"), &text.concat()).unwrap();
    let findings = Graph::new(&facts, &weights).findings(&exclusions);
    let all = found(&etc, &findings);
    assert_eq!(all[0], "VK-111 deploy vault/token vault tools.d/all.toml:9", "expired on the day itself");
    assert!(all.contains(&"VK-191 - - - exclusions.toml:6".into()), "{all:#?}");
    assert!(all.contains(&"VK-192 - - - exclusions.toml:11".into()), "{all:#?}");
    assert_eq!(all.last().unwrap(), "VK-103 deploy - - tools.d/all.toml:7");
    assert_eq!(findings.last().unwrap().excluded.as_ref().unwrap().reason, "decided");
}

#[test]
fn the_questions_are_answered_in_sentences() {
    let etc = etc();
    let config = etc.config();
    let ask =
        |question: &[&str]| etc.relative(&says(&valetkey(&[&["blast-radius", "--config", &config], question].concat()), 0, &[]));
    let overview = ask(&[]);
    assert!(
        overview.starts_with(
            "     76  deploy: 4 systems by 1 secret and 2 more at their sources; worst is admin on vault.example.com (prod)\n"
        ),
        "{overview}"
    );
    assert!(overview.contains("   3-41  search: 0 systems by 1 secret, 1 of unknown reach; nothing is known"), "{overview}");
    assert!(overview.contains("12 tools, worst first, by score of 100; 7 findings."), "{overview}");
    assert!(overview.contains("From configuration alone"), "{overview}");

    let deploy = ask(&["--tool", "deploy"]);
    for line in [
        "If tool deploy is compromised: 4 systems by 1 secret and 2 more at their sources. Score 76, depth 100.",
        "It is a process that has: unit deploy.service (tools.d/all.toml:7)",
        "vault/token opens source vault, by the address it reaches: 2 secrets there can be read past the broker, policy and record.",
        "  may: admin on vault.example.com (prod), by vault/token",
        "  may: admin on users.db (prod), by vault/token -> [source vault] -> db/users",
        "  vault/token by file VAULT_TOKEN_FILE (tools.d/all.toml:9)",
    ] {
        assert!(deploy.lines().any(|found| found == line), "{line}\nis not in\n{deploy}");
    }
    let stripe = ask(&["--secret", "stripe/key"]);
    for line in [
        "If stripe/key of prod leaked: it comes from source sealed (valetkey.toml:9)",
        "  write on api.stripe.com (prod), by stripe/key",
        "WHO MAY HAVE IT: 2 tools",
        "  invoices by rpc (tools.d/all.toml:17)",
        "TO CHANGE IT: rotate it at source sealed, then: valetkey refresh stripe/key",
        "  billing is told and asks again",
    ] {
        assert!(stripe.lines().any(|found| found == line), "{line}\nis not in\n{stripe}");
    }
    let mail = ask(&["--secret", "mail/password"]);
    assert!(mail.contains("  mail keeps the old value until you restart it\n"), "{mail}");
    let users = ask(&["--system", "users.db"]);
    for line in [
        "users.db can be reached by 2 tools.",
        "  audit has admin, by db/users",
        "  deploy has admin, by vault/token -> [source vault] -> db/users",
        "  db/users (admin) (valetkey.toml:39)",
    ] {
        assert!(users.lines().any(|found| found == line), "{line}\nis not in\n{users}");
    }
    for (question, name) in [("--tool", "nobody"), ("--secret", "no/such"), ("--system", "nowhere")] {
        says(&valetkey(&["blast-radius", "--config", &config, question, name]), 2, &["there is no", name, "hint: "]);
    }
}

#[test]
fn another_policy_is_compared_before_it_ships() {
    let etc = etc();
    let config = etc.config();
    let what_if = |tools: &str, main: &str| {
        let other = Etc::new(&[("valetkey.toml", main), ("tools.d/all.toml", tools)]);
        let out = valetkey(&["blast-radius", "--config", &config, "--what-if", other.path("").to_str().unwrap()]);
        (out.status.code(), other.relative(&String::from_utf8(out.stdout).unwrap()))
    };
    let (code, said) = what_if(TOOLS, MAIN);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("valetkey.toml changes nothing that any tool can reach.\n"), "{said}");

    let (code, said) = what_if(&TOOLS.replace("secrets.\"db/test\" = {}\n", ""), MAIN);
    assert_eq!(code, Some(0), "{said}");
    for line in ["  orders: score 50, now 55", "  - may no longer have db/test", "  - no longer reaches orders.test (admin)"] {
        assert!(said.lines().any(|found| found == line), "{line}\nis not in\n{said}");
    }
    assert!(said.contains("gone: VK-104 warning: tool orders may have"), "{said}");

    let more = TOOLS.replace(
        "secrets.\"stripe/key\" = {}\n[tool.deploy]",
        "secrets.\"stripe/key\" = { env = \"KEY\" }\nsecrets.\"github/admin\" = {}\n[tool.deploy]",
    );
    let (code, said) = what_if(&more, MAIN);
    assert_eq!(code, Some(3), "{said}");
    for line in [
        "  + may have github/admin (tools.d/all.toml:7)",
        "  ! stripe/key by env, now by rpc",
        "  + reaches api.github.com (admin)",
        "With valetkey.toml something can reach more than now.",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\nis not in\n{said}");
    }
    // More privilege with the same grants; another caller; a tool less.
    let (code, said) =
        what_if(TOOLS, &MAIN.replace("api.stripe.com\", privilege = \"write\"", "api.stripe.com\", privilege = \"admin\""));
    assert!(code == Some(3) && said.contains("  + api.stripe.com: admin, now write\n"), "{said}");
    let (code, said) = what_if(&TOOLS.replace("\"mail.service\"", "\"post.service\""), MAIN);
    assert!(code == Some(3) && said.contains("  ! another caller: unit post.service, now unit mail.service\n"), "{said}");
    // Network reach is more, though everything else is as it was.
    let opened =
        TOOLS.replace("run-as = { unit = \"orders.service\" }", "run-as = { certificate = { dns = \"orders.example.com\" } }");
    let both =
        |remote: &str| opened.replace("secrets.\"db/test\" = {}", &format!("secrets.\"db/test\" = {{ remote = {remote} }}"));
    let (code, said) = what_if(&both("true"), MAIN);
    assert!(code == Some(3) && said.contains("  + db/test over the network too\n"), "{said}");
    let (code, said) = what_if(TOOLS.split("[tool.weather-us]").next().unwrap(), MAIN);
    assert!(code == Some(0) && said.contains("- weather-us: gone; it had 1 system by 1 secret; score 18\n"), "{said}");
}

#[test]
fn lint_and_suggest_are_for_pipelines() {
    let etc = etc();
    let config = etc.config();
    let lint = |more: &[&str]| valetkey(&[&["lint", "--config", &config], more].concat());
    let said = etc.relative(&says(&lint(&[]), 3, &["not judged: VK-101, what is used is not known"]));
    assert!(said.starts_with("tools.d/all.toml:7: error: tool deploy is an administrator of 3 systems: whoever takes it over has them all [VK-103]\n  instead: "), "{said}");
    says(&lint(&["--fail-on", "never"]), 0, &["findings, 0 excluded"]);
    let report: Value = serde_json::from_slice(&lint(&["--format", "json"]).stdout).unwrap();
    assert_eq!((&report["schema_version"], &report["findings"][0]["id"]), (&1.into(), &"VK-103".into()));
    let sarif: Value = serde_json::from_slice(&lint(&["--format", "sarif"]).stdout).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    // All that matters is excluded: what is left are notes.
    let excluded: Vec<_> = ["VK-103", "VK-111", "VK-102", "VK-104"]
        .map(|id| format!("[[exclude]]\nfinding = \"{id}\"\nreason = \"decided\"\nexpires = 9999-01-01\n"))
        .into();
    etc.write("exclusions.toml", &excluded.concat());
    says(&lint(&[]), 0, &["3 findings, 4 excluded"]);
    says(&lint(&["--all"]), 0, &["(excluded until 9999-01-01: decided)"]);
    says(&lint(&["--fail-on", "note"]), 3, &[]);
    says(&valetkey(&["lint", "--rules"]), 0, &["VK-101 unused-grant (warning): ", "VK-192"]);

    // Usage of long ago: nothing was used in the last ninety days but by chance of the calendar, so ask by a bound of many years.
    etc.write("usage.json", &usage().replace("2026-09-01T00:00:00Z\",\"until", "1990-01-01T00:00:00Z\",\"until"));
    let usage = etc.path("usage.json").display().to_string();
    let suggest = |tool: &str| valetkey(&["suggest", tool, "--config", &config, "--usage", &usage, "--days", "10000"]);
    let out = suggest("github");
    let patch = etc.relative(&says(&out, 0, &["tool github used 2 of 3 grants in 10000 days"]));
    let expected = "--- tools.d/all.toml\n+++ tools.d/all.toml\n@@ -9,7 +9,6 @@\n secrets.\"vault/token\" = { file = \"VAULT_TOKEN_FILE\" }\n [tool.github]\n run-as = { unit = \"github.service\" }\n-secrets.\"github/admin\" = { file = \"GITHUB_ADMIN_FILE\" }\n secrets.\"github/read\" = { fd = \"GITHUB_READ_FILE\" }\n secrets.decoy = { env = \"GITHUB_OLD_TOKEN\" }\n [tool.invoices]\n";
    assert_eq!(patch, expected);
    assert_eq!(says(&suggest("mail"), 0, &["used 1 of 1 grants"]), "", "nothing to take away");
    says(&suggest("nobody"), 2, &["there is no tool"]);
    says(&valetkey(&["suggest", "mail", "--config", &config]), 1, &["what is used is not known", "--usage"]);
}

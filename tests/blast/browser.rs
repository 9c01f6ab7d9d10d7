//! The page in a browser, where there is one (`chromium-headless-shell`, as `tests/setup` installs it, or `chromium`); and its formula
//! under node, which is there in any case, against the daemon's own.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use valetkey::blast::{self, Exclusions, Facts, Graph, Question, Weights};

use super::{forms::many, seeded};

fn page(facts: &Facts, open: &Question) -> (String, Value) {
    let weights = Weights::defaults().unwrap();
    let graph = Graph::new(facts, &weights);
    let document = graph.document(Question::Everything, graph.findings(&Exclusions::default())).unwrap();
    (blast::html(&document, open).unwrap(), serde_json::to_value(&document).unwrap())
}

/// Each score that the page reckons is the one in the document.
#[test]
fn the_page_counts_as_the_daemon_does() {
    let folder = tempfile::tempdir().unwrap();
    for facts in [seeded::facts(&seeded::etc()), many(400, 5_000)] {
        let (_, document) = page(&facts, &Question::Everything);
        let file = folder.path().join("document.json");
        fs::write(&file, document.to_string()).unwrap();
        let model = fs::read_to_string("src/blast/page/model.js").unwrap();
        let program = format!(
            "{model}\nconst model = makeModel(JSON.parse(require('fs').readFileSync(process.argv[1], 'utf8')));\n\
             const one = (id) => {{ const f = model.ofTool(id); return [id, f.score, f.depth, f.secrets, f.beyond, f.systems.length, f.undeclared]; }};\n\
             console.log(JSON.stringify([...model.tools.keys()].map(one)));"
        );
        let out = Command::new("node").args(["-e", &program]).arg(&file).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let found: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        let tools = document["nodes"]["tools"].as_array().unwrap();
        assert!(tools.len() >= 12 && found.len() == tools.len());
        for (found, tool) in found.iter().zip(tools) {
            let keys = ["id", "score", "depth", "secrets", "beyond", "systems", "undeclared"];
            assert_eq!(*found, Value::Array(keys.map(|key| tool[key].clone()).into()));
        }
    }
}

fn browser() -> Option<&'static str> {
    let known = ["chromium-headless-shell", "chromium", "google-chrome"];
    known
        .into_iter()
        .find(|name| std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(name).exists()))
}

fn drive(browser: &str, page: &Path, picture: &Path, does: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blast/browser.mjs");
    let out = Command::new("timeout")
        .args(["-k", "5", "90", "node"])
        .arg(script)
        .args([browser, page.to_str().unwrap(), picture.to_str().unwrap(), &does.to_string()])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = browser() else {
        println!("no browser is installed: the page is parsed and its formula checked, and not clicked through");
        return;
    };
    let kept = std::env::var_os("VALETKEY_PICTURES").map(std::path::PathBuf::from);
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| kept.clone().unwrap_or(folder.path().into()).join(name);
    let file = folder.path().join("map.html");

    let (html, _) = page(&seeded::facts(&seeded::etc()), &Question::Tool("deploy".into()));
    fs::write(&file, html).unwrap();
    let does = json!([
        ["text", "#detail h2"],
        ["text", "#detail .verdict"],
        ["count", "#detail svg.graph g.node"],
        ["click", "#detail input[type=checkbox]"],
        ["text", "#detail .verdict"],
        ["text", "#detail pre"],
        ["click", "#app [role=tab]:nth-child(4)"],
        ["count", ".list tbody tr"],
        ["click", "#app [role=tab]:nth-child(2)"],
        ["type", "#search", "stripe"],
        ["count", ".list tbody tr"],
        ["click", ".list button.pick"],
        ["text", "#detail h2"],
        ["key", "/"],
        ["focused", "#search"],
    ]);
    let told = drive(browser, &file, &place("small.png"), &does);
    assert_eq!(told["problems"], json!([]), "nothing is refused by the policy, nothing throws, nothing is loaded");
    assert_eq!(
        told["answers"],
        json!([
            "Tool deploy",
            "If it is compromised: 4 systems by 1 secret and 2 more at their sources. Score 76, depth 100. Untick a grant to see what is left without it.",
            8,
            true,
            "Without what is unticked: score 0 in place of 76; 0 systems by 0 secrets. No longer reached: vault.example.com, orders.db, users.db, report.db",
            told["answers"][5].as_str().unwrap(),
            true,
            10,
            true,
            true,
            1,
            true,
            "Secret stripe/key",
            true,
            true
        ])
    );
    assert!(told["answers"][5].as_str().unwrap().ends_with("all.toml:9: take out the grant of vault/token"));

    let (html, _) = page(&many(2_000, 10_000), &Question::Everything);
    fs::write(&file, html).unwrap();
    let does = json!([["count", ".list tbody tr"], ["click", ".list button.pick"], ["count", "#detail svg.graph g.node"]]);
    let told = drive(browser, &file, &place("large.png"), &does);
    assert_eq!((&told["problems"], &told["answers"][0]), (&json!([]), &json!(100)));
    println!("2,000 tools and 10,000 secrets: usable after {} ms", told["ready"]);
    assert!(told["ready"].as_f64().unwrap() < 5_000.0, "far from a second, even where others use this machine: {told}");
}

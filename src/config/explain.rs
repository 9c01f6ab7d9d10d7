//! Would a tool get a secret, by which line, and if not, what is to be written where.

use std::path::{Path, PathBuf};

use super::{Config, spelling::nearest};
use crate::{
    name::{SecretName, ToolName},
    policy::{Denial, Origin},
};

/// The answer of `valetkey explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub allowed: bool,
    /// One sentence for people.
    pub verdict: String,
    /// The line of policy that allows.
    pub origin: Option<Origin>,
    /// What a caller must be, each selector in words.
    pub run_as: Vec<String>,
    /// Where not allowed: what to write, and into which file.
    pub missing: Option<String>,
    /// How it reaches the process, where it may be had: `env`, `file`, `fd`, `credential` or `rpc`, and the variable or name.
    pub delivery: Option<String>,
    /// What that shows to others on the host.
    pub exposure: Option<String>,
}

/// Asks the policy about a caller that proves to be this tool and declares this secret. Whether a given process is the tool is
/// another question: `run_as` says what it must be.
pub fn explain(config: &Config, tool: &ToolName, secret: &SecretName) -> Explanation {
    let run_as = config.policy.tool(tool.as_str()).map(|policy| policy.run_as.describe()).unwrap_or_default();
    match config.policy.explain(tool, secret) {
        Ok(rule) => {
            let canary = if config.policy.is_canary(secret) { ", a canary that nobody uses," } else { "" };
            let how = rule.delivery.describe();
            let verdict = format!("tool {tool} may have {secret}{canary} {how}: {} says so", rule.origin);
            let word = rule.delivery.word();
            Explanation {
                allowed: true,
                verdict,
                origin: Some(rule.origin.clone()),
                run_as,
                missing: None,
                delivery: Some(rule.delivery.target().map_or_else(|| word.into(), |target| format!("{word} {target}"))),
                exposure: Some(rule.delivery.exposure().into()),
            }
        }
        Err(denial) => {
            let missing = missing(config, tool, secret, &denial);
            let verdict = denial.to_string();
            let (delivery, exposure) = (None, None);
            Explanation { allowed: false, verdict, origin: None, run_as, missing: Some(missing), delivery, exposure }
        }
    }
}

fn missing(config: &Config, tool: &ToolName, secret: &SecretName, denial: &Denial) -> String {
    let mut steps = Vec::new();
    if !config.secrets.contains_key(secret) {
        steps.push(no_such_secret(config, secret));
    }
    match (denial, config.policy.tool(tool.as_str())) {
        (Denial::NoSuchTool(_), _) | (_, None) => steps.push(no_such_tool(config, tool, secret)),
        (_, Some(policy)) => {
            // Below the last grant that stands in the tool's own file, where its author will look for it.
            let last = policy.grants.values().map(|rule| &rule.origin).filter(|origin| origin.file == policy.origin.file);
            let line = last.map(|origin| origin.line).max().unwrap_or(policy.origin.line);
            steps.push(format!(
                "to [tool.{tool}] in {}, after line {line}, add:\n  secrets.\"{secret}\" = {{}}",
                policy.origin.file.display()
            ));
        }
    }
    steps.join("\n")
}

fn no_such_secret(config: &Config, secret: &SecretName) -> String {
    let file = config.file.display();
    let source = config.sources.keys().next().map_or("NAME", |name| name.as_str());
    let close = nearest(secret.as_str(), config.secrets.keys().map(SecretName::as_str));
    let hint = close.map_or(String::new(), |name| format!(" (or ask for \"{name}\", which is there)"));
    format!("to {file}, add{hint}:\n  [secret.\"{secret}\"]\n  source = \"{source}\"\n  path = \"the source's own name for it\"")
}

fn no_such_tool(config: &Config, tool: &ToolName, secret: &SecretName) -> String {
    let file = drop_ins(&config.file).join(format!("{tool}.toml"));
    let close = nearest(tool.as_str(), config.policy.tools().map(|(name, _)| name.as_str()));
    let hint = close.map_or(String::new(), |name| format!(" (or ask for \"{name}\", which is there)"));
    let file = file.display();
    format!(
        "to {file}, add{hint}:\n  [tool.{tool}]\n  run-as = {{ unit = \"mcp-{tool}.service\" }}\n  secrets.\"{secret}\" = {{}}"
    )
}

fn drop_ins(main: &Path) -> PathBuf {
    main.parent().unwrap_or(Path::new("")).join("tools.d")
}

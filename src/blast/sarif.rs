//! SARIF 2.1.0 (OASIS), for code scanning: a rule for each kind of finding, a result for each finding, at its line of policy.

use serde_json::{Value, json};

use super::{
    document::Document,
    findings::{Finding, RULES},
};

/// What may not stand in a URI's path, percent-encoded (RFC 3986, section 3.3).
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte);
    let encoded = path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    let path: String = encoded.collect();
    let path = path.strip_prefix("./").unwrap_or(&path);
    if path.starts_with('/') { format!("file://{path}") } else { path.into() }
}

fn result(finding: &Finding) -> Value {
    let rule = RULES.iter().position(|rule| rule.id == finding.id);
    // Code scanning takes no line before the first.
    let region = json!({ "startLine": finding.line.max(1) });
    let mut result = json!({
        "ruleId": finding.id,
        "level": finding.level.to_string(),
        "message": { "text": format!("{}. Instead: {}", finding.what, finding.instead) },
        "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri(&finding.file) }, "region": region } }],
        "partialFingerprints": { "valetkey/v1": finding.fingerprint() },
    });
    if let Some(rule) = rule {
        result["ruleIndex"] = json!(rule);
    }
    result["suppressions"] = match &finding.excluded {
        Some(excluded) => json!([{ "kind": "external", "status": "accepted", "justification": excluded.reason }]),
        None => json!([]),
    };
    result
}

/// The findings of a document.
pub fn sarif(document: &Document<'_>) -> Value {
    let rule = |rule: &super::findings::Rule| {
        json!({
            "id": rule.id,
            "name": rule.name,
            "shortDescription": { "text": rule.about },
            "defaultConfiguration": { "level": rule.level.to_string() },
        })
    };
    let driver = json!({
        "name": "valetkey",
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "informationUri": env!("CARGO_PKG_REPOSITORY"),
        "rules": RULES.iter().map(rule).collect::<Vec<_>>(),
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": driver },
            "columnKind": "unicodeCodePoints",
            "results": document.findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn a_path_becomes_a_uri() {
        assert_eq!(uri("/etc/valetkey/tools.d/a b#c%.toml"), "file:///etc/valetkey/tools.d/a%20b%23c%25.toml");
        assert_eq!(uri("./tools.d/a.toml"), "tools.d/a.toml");
    }
}

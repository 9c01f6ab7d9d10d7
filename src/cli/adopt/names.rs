//! Names for what is taken out of a client's file.

use super::suspect::words;
use crate::name::{SecretName, ToolName};

/// A tool's name from what the client calls the server: lower case, and another number where it is taken.
pub fn tool(server: &str, taken: impl Fn(&str) -> bool) -> Option<ToolName> {
    let clean = cleaned(server, 56);
    numbered(&clean, taken)
}

/// `github/personal-access-token` for `GITHUB_PERSONAL_ACCESS_TOKEN` of the tool `github`.
pub fn secret(tool: &ToolName, variable: &str, taken: impl Fn(&str) -> bool) -> Option<SecretName> {
    let (all, own) = (words(variable), words(tool.as_str()));
    let rest = all.strip_prefix(own.as_slice()).filter(|rest| !rest.is_empty()).unwrap_or(&all);
    let leaf = cleaned(&rest.join("-"), 56);
    numbered(&format!("{tool}/{leaf}"), taken)
}

fn cleaned(text: &str, longest: usize) -> String {
    let mut clean = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            c if c.is_ascii_alphanumeric() || c == '_' => clean.push(c),
            _ if clean.ends_with('-') || clean.is_empty() => {}
            _ => clean.push('-'),
        }
    }
    let start = clean.trim_start_matches(['-', '_']);
    let short: String = start.chars().take(longest).collect();
    let short = short.trim_end_matches(['-', '_']);
    if short.is_empty() { "server".into() } else { short.into() }
}

fn numbered<N: std::str::FromStr>(name: &str, taken: impl Fn(&str) -> bool) -> Option<N> {
    let free = (1..).map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") }).find(|name| !taken(name))?;
    free.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_free() {
        let name = |server: &str| tool(server, |taken| taken == "taken").unwrap().to_string();
        for (server, expected) in [
            ("github", "github"),
            ("GitHub (work)", "github-work"),
            ("@scope/pkg.js", "scope-pkg-js"),
            ("taken", "taken-2"),
            ("日本", "server"),
            ("", "server"),
            ("-_x_-", "x"),
        ] {
            assert_eq!(name(server), expected);
        }
        assert!(name(&"a".repeat(200)).len() <= 64);
        let github = tool("github", |_| false).unwrap();
        let leaf = |variable: &str| secret(&github, variable, |taken| taken == "github/token").unwrap().to_string();
        assert_eq!(leaf("GITHUB_PERSONAL_ACCESS_TOKEN"), "github/personal-access-token");
        assert_eq!(leaf("GITHUB"), "github/github");
        assert_eq!(leaf("GITHUB_TOKEN"), "github/token-2");
        assert_eq!(leaf("apiKey"), "github/api-key");
    }
}

//! `certificate`, `token` and `jwt` of a `run-as`: what a caller over the network must be.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::IssuerSettings;
use crate::{
    config::{
        Defined,
        problem::{Problem, Report, Severity},
        read::{Key, Refused, Section, key},
    },
    name::{IssuerName, TokenName, ToolName},
    policy::{CertificateIs, JwtIs, Origin, RemoteAs, Roles, ToolPolicy},
};

pub const CERTIFICATE_KEYS: &[Key] = &[
    key("uri", "\"spiffe://example.org/tools/billing\""),
    key("dns", "\"billing.example.com\""),
    key("email", "\"billing@example.com\""),
    key("sha256", "\"64 hex digits: the digest of the certificate (DER)\""),
    key("ca-file", "\"/etc/valetkey/tls/partner-ca.pem\""),
];
pub const JWT_KEYS: &[Key] =
    &[key("issuer", "\"login\""), key("subject", "\"system:serviceaccount:mcp:billing\""), key("claims", "{ groups = \"mcp\" }")];

const NAMES: [&str; 4] = ["uri", "dns", "email", "sha256"];
const CERTIFICATE_REFUSED: &[Refused] = &[Refused {
    name: "cn",
    means: "dns",
    why: "a common name is text that authorities do not check (RFC 6125)",
    instead: "uri, dns or email: a subject alternative name",
}];

pub fn read(section: &Section<'_>) -> RemoteAs {
    RemoteAs {
        certificate: section.section("certificate", CERTIFICATE_KEYS, CERTIFICATE_REFUSED).map(|section| certificate(&section)),
        token: section.parsed("token", |text| text.parse::<TokenName>().map(|name| name.to_string())),
        jwt: section.section("jwt", JWT_KEYS, &[]).map(|section| jwt(&section)),
    }
}

fn certificate(section: &Section<'_>) -> CertificateIs {
    if !section.misspelt() && !NAMES.iter().any(|name| section.has(name)) {
        let what = format!("{} names nobody: every certificate of an authority would do", section.title);
        section.error(section.line, what, "uri = \"spiffe://example.org/tools/billing\", or dns, email or sha256");
    }
    CertificateIs {
        uri: section.parsed("uri", uri),
        dns: section.parsed("dns", dns),
        email: section.parsed("email", |text| match text.split_once('@') {
            Some((user, host)) if !user.is_empty() && !host.is_empty() && text.is_ascii() => Ok(text.to_owned()),
            _ => Err("is not an email address"),
        }),
        sha256: section.parsed("sha256", |text| text.parse().map_err(|_| "must be 64 hex digits")),
        ca_file: section.absolute_path("ca-file").map(Arc::<Path>::from),
    }
}

/// A URI whose authority is whole: `spiffe://example.org/*` is everybody of a trust domain, `spiffe://*` would be the world.
fn uri(text: &str) -> Result<String, &'static str> {
    let (scheme, rest) = text.split_once(':').ok_or("is not a URI")?;
    if scheme.is_empty() || rest.trim_matches('/').is_empty() || !text.is_ascii() || text.contains(' ') {
        return Err("is not a URI");
    }
    match text.matches('*').count() {
        0 => Ok(text.into()),
        1 if text.ends_with("/*") && rest.trim_start_matches('/').contains('/') && rest != "//*" => Ok(text.into()),
        _ => Err("may have one `*`, as its end and below a whole name: spiffe://example.org/tools/*"),
    }
}

fn dns(text: &str) -> Result<String, &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    if !name.split('.').all(label) {
        return Err("is not a DNS name in lower case");
    }
    if text.starts_with("*.") && !name.contains('.') {
        return Err("is all of a top-level domain");
    }
    Ok(text.into())
}

fn jwt(section: &Section<'_>) -> JwtIs {
    section.require(&["issuer"]);
    if !section.has("subject") && !section.has("claims") {
        let what = format!("{} names nobody: every token of that issuer would do", section.title);
        section.error(section.line, what, "subject = \"...\", or claims = { NAME = \"VALUE\" }");
    }
    let claims = section.texts("claims");
    if claims.as_ref().is_some_and(BTreeMap::is_empty) && !section.has("subject") {
        section.reject("claims", "names nobody");
    }
    let claims = claims.unwrap_or_default();
    JwtIs {
        issuer: section.text("issuer").unwrap_or_default().into(),
        subject: section.text("subject").map(str::to_owned),
        claims,
    }
}

/// Ways that configuration opens to the network, and that lead nowhere.
pub fn check_reach(
    listens: bool,
    issuers: &Defined<IssuerName, IssuerSettings>,
    tools: &BTreeMap<ToolName, ToolPolicy>,
    roles: Option<(&Roles, &Section<'_>)>,
    report: &Report,
) {
    let add = |severity, origin: &Origin, what: String, instead: &str| {
        report.add(Problem { file: origin.file.clone(), line: origin.line, severity, what, instead: instead.into() });
    };
    let unknown = |remote: &RemoteAs| {
        let issuer = remote.jwt.as_ref().map(|jwt| &jwt.issuer)?;
        (issuers.complete && !issuer.is_empty() && !issuers.names.contains_key(issuer.as_str())).then(|| issuer.clone())
    };
    const DEFINE: &str = "the NAME of an [issuer.NAME] in valetkey.toml";
    for (name, tool) in tools {
        if unknown(&tool.run_as.remote).is_some() {
            // Not repeated: what looks like a name may be a pasted value.
            add(
                Severity::Error,
                &tool.origin,
                format!("the `jwt` of tool \"{name}\" is of an issuer that is not defined"),
                DEFINE,
            );
        }
        if tool.run_as.remote != RemoteAs::default() && !listens {
            let what = format!("tool \"{name}\" is for callers over the network, and nobody can call so");
            add(Severity::Warning, &tool.origin, what, "[remote] in valetkey.toml");
        }
    }
    let Some((roles, section)) = roles else { return };
    if roles.selectors().any(|run_as| unknown(&run_as.remote).is_some()) {
        section.error(section.line, "a `jwt` in [roles] is of an issuer that is not defined", DEFINE);
    }
    if roles.has_remote() && !listens {
        section.warn(section.line, "[roles] has operators who call over the network, and nobody can call so", "[remote]");
    }
}

/// Two tools that one caller over the network can be.
pub fn check_callers(tools: &BTreeMap<ToolName, ToolPolicy>, report: &Report) {
    let selectors: Vec<_> = tools.iter().map(|(name, tool)| (name, tool, tool.run_as.remote.describe())).collect();
    for (name, tool, narrow) in selectors.iter().filter(|(.., narrow)| !narrow.is_empty()) {
        let wider = |(other, _, wide): &&(&ToolName, &ToolPolicy, Vec<String>)| {
            other != name && !wide.is_empty() && wide.iter().all(|selector| narrow.contains(selector))
        };
        for (other, first, wide) in selectors.iter().filter(wider) {
            let (severity, what) = match wide.len() == narrow.len() {
                true if other < name => (
                    Severity::Error,
                    format!(
                        "tools \"{other}\" ({}) and \"{name}\" are the same caller over the network: either can say that it is the other",
                        first.origin
                    ),
                ),
                true => continue,
                false => (
                    Severity::Warning,
                    format!(
                        "whoever is tool \"{name}\" over the network can also say that it is tool \"{other}\" ({})",
                        first.origin
                    ),
                ),
            };
            let instead = "a name of its own for each tool".into();
            report.add(Problem { file: tool.origin.file.clone(), line: tool.origin.line, severity, what, instead });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_somebodys() {
        for good in ["spiffe://example.org/tools/billing", "spiffe://example.org/tools/*", "spiffe://example.org/*", "urn:x:y"] {
            assert_eq!(uri(good).as_deref(), Ok(good));
        }
        for bad in ["spiffe://*", "spiffe://a*", "*", "a", "spiffe://", "spiffe://a/*/b", "spiffe://a/b*", "x y:z", ":a"] {
            assert!(uri(bad).is_err(), "{bad}");
        }
        for good in ["a.example.com", "*.example.com", "localhost"] {
            assert_eq!(dns(good).as_deref(), Ok(good));
        }
        for bad in ["*", "*.com", "A.example.com", "a..b", "", "a.*.com"] {
            assert!(dns(bad).is_err(), "{bad}");
        }
    }
}

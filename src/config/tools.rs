//! `[tool.NAME]`: which process is this tool, what it may have and how much of it.

use std::collections::BTreeMap;

use super::{
    Defined, credential, identity, launch, limits,
    read::{Key, Named, Section, key},
    secrets::SecretSettings,
    spelling::nearest,
    variable::{is_reserved_variable, is_variable, suggested},
};
use crate::{
    limits::Limits,
    name::{SecretName, ToolName},
    policy::{Delivery, Origin, RemoteAs, Rule, RunAs, ToolPolicy},
};

pub(super) const KEYS: &[Key] = &[
    key("description", "\"Creates invoices in Stripe\""),
    key("run-as", "{ unit = \"mcp-billing.service\" }"),
    key("secrets", "secrets.\"stripe/api-key\" = { env = \"STRIPE_SECRET_KEY\" }"),
    key("limits", "{ per-minute = 600, concurrent = 16, per-session = 10000 }"),
    key("command", "[\"npx\", \"-y\", \"server@1.2.3\"]"),
    key("environment", "[\"HTTPS_PROXY\", \"NODE_ENV=production\"]"),
    key("inherit", "false"),
    key("redact", "true"),
    key("redact-shapes", "false"),
    key("on-redaction", "\"report\""),
    key("on-rotation", "\"notify-only\""),
    key("on-contain", "\"notify-only\""),
    key("sandbox", "{ read = [\"/usr\"], connect = [443] }"),
];
pub(super) const GRANT_KEYS: &[Key] = &[
    key("env", "\"STRIPE_SECRET_KEY\""),
    key("file", "\"STRIPE_SECRET_KEY_FILE\""),
    key("fd", "\"STRIPE_SECRET_KEY_FILE\""),
    key("credential", "\"stripe-secret-key\""),
    key("remote", "true"),
];

pub(super) const NAME_RULE: &str = "[tool.billing]: lower-case letters, digits and `._-`, at most 64";

/// Reads one tool. What is wrong in it is reported, and then the whole configuration is refused.
pub(super) fn read(named: &Named<'_, ToolName>, secrets: &Defined<SecretName, SecretSettings>) -> Option<ToolPolicy> {
    let title = format!("[tool.{}]", named.name);
    let section = named.open(title.clone(), &title, KEYS, &[])?;
    let description = section.text("description").unwrap_or_default().into();
    let run_as = match section.section("run-as", identity::KEYS, identity::REFUSED) {
        Some(run_as) => identity::read(&run_as),
        None => {
            if !section.has("run-as") {
                section.missing("run-as");
            }
            RunAs::default()
        }
    };
    let grants = grants(&section, &run_as, secrets);
    credential::check_together(&section, &run_as, &grants);
    let limits = section.section("limits", limits::KEYS, &[]).map(|section| limits::of_tool(&section)).unwrap_or_default();
    check_launched(&section, &grants, &limits);
    let launch = launch::read(&section, &run_as, &grants);
    let origin = Origin { file: named.doc.file.clone(), line: named.line };
    Some(ToolPolicy { description, run_as, grants, limits, launch, origin })
}

/// A launcher has all of them in one session, and nothing of it could ever start.
fn check_launched(tool: &Section<'_>, grants: &BTreeMap<SecretName, Rule>, limits: &Limits) {
    let launched = grants.values().filter(|rule| rule.delivery.is_launched()).count();
    if launched > limits.secrets_per_session as usize {
        let why = format!("delivers {launched} secrets to one process, which `secrets-per-session` does not allow");
        tool.reject_for("secrets", why, format!("limits = {{ secrets-per-session = {launched} }}"));
    }
}

fn grants(tool: &Section<'_>, run_as: &RunAs, secrets: &Defined<SecretName, SecretSettings>) -> BTreeMap<SecretName, Rule> {
    let mut grants = BTreeMap::new();
    if !tool.has("secrets") {
        // One that is only launched needs none.
        if tool.has("command") {
            return grants;
        }
        tool.warn(tool.line, format!("{} may have no secret", tool.title), "secrets.\"NAME\" = {}");
        return grants;
    }
    let mut targets: BTreeMap<(bool, String), SecretName> = BTreeMap::new();
    for named in tool.named::<SecretName>("secrets", "secrets.\"stripe/api-key\" = {}") {
        let known = secrets.names.contains_key(&named.name);
        if !known && secrets.complete {
            undefined(tool, &named, secrets);
        }
        // The name of a secret that nothing defines may be a credential: it is not repeated.
        let title =
            if known { format!("`secrets.\"{}\"` of {}", named.name, tool.title) } else { format!("a grant of {}", tool.title) };
        let Some(section) = named.open(title, "secrets.\"NAME\" = {}", GRANT_KEYS, &[]) else { continue };
        let delivery = delivery(&section, &named.name, known);
        let key = delivery.word();
        if delivery.credential().is_some() && secrets.usable.get(&named.name).is_some_and(|secret| secret.per_session) {
            let why = "goes to a unit, and this secret is made for a session and ends with it: a unit has none";
            section.reject_for(
                "credential",
                why,
                "no `credential`: the tool asks over gRPC, or `env`, `file` or `fd` and valetkey run",
            );
        }
        if let Some(target) = delivery.target()
            && let Some(other) = targets.insert((delivery.is_launched(), target.to_owned()), named.name.clone())
            && known
        {
            let thing = if delivery.is_launched() { "variable" } else { "credential" };
            let why =
                if secrets.names.contains_key(&other) { format!("is the {thing} of \"{other}\" too") } else { "is taken".into() };
            section.reject_for(key, why, format!("{key} = \"{}\"", suggestion(key, Some(named.name.as_str()))));
        }
        let remote = remote(&section, run_as);
        let origin = Origin { file: named.doc.file.clone(), line: named.line };
        grants.insert(named.name, Rule { delivery, remote, origin });
    }
    grants
}

/// May it go over the network? Said by each grant, and only where there can be such a caller.
fn remote(grant: &Section<'_>, run_as: &RunAs) -> bool {
    let remote = grant.boolean("remote").unwrap_or(false);
    // Where `run-as` has mistakes, these come first.
    if remote && run_as.remote == RemoteAs::default() && *run_as != RunAs::default() {
        grant.reject_for("remote", "opens a way that nobody can come", "certificate, token or jwt in the tool's `run-as`");
    }
    remote
}

/// One way to reach the process, or none: then the tool asks.
fn delivery(grant: &Section<'_>, secret: &SecretName, known: bool) -> Delivery {
    let given: Vec<_> = ["env", "file", "fd", "credential"].into_iter().filter(|key| grant.has(key)).collect();
    if let [_, second, ..] = given.as_slice() {
        grant.reject_for(second, "stands beside another way to deliver the same secret", "one of: env, file, fd, credential");
    }
    let secret = known.then(|| secret.as_str());
    let mut found = Delivery::Rpc;
    for key in given {
        if key == "credential" {
            found = grant.parsed(key, credential::id).map_or(Delivery::Rpc, Delivery::Credential);
        } else if let Some(variable) = usable(grant, key, secret).map(String::from) {
            found = match key {
                "env" => Delivery::Env(variable),
                "file" => Delivery::File(variable),
                _ => Delivery::Fd(variable),
            };
        }
    }
    found
}

fn usable<'a>(grant: &Section<'a>, key: &str, secret: Option<&str>) -> Option<&'a str> {
    let variable = grant.text(key)?;
    let instead = || format!("{key} = \"{}\"", suggestion(key, secret));
    if !is_variable(variable) {
        grant.reject_for(key, "is not the name of an environment variable", instead());
    } else if is_reserved_variable(variable) {
        grant.reject_for(key, "is a variable that decides what programs run or trust", instead());
    } else {
        return Some(variable);
    }
    None
}

/// The name of a secret that nothing defines may be a credential: nothing is made of it.
fn suggestion(key: &str, secret: Option<&str>) -> String {
    let variable = secret.map_or_else(|| "STRIPE_SECRET_KEY".into(), suggested);
    match key {
        "env" => variable,
        "credential" => variable.to_lowercase().replace('_', "-"),
        _ => format!("{variable}_FILE"),
    }
}

fn undefined(tool: &Section<'_>, grant: &Named<'_, SecretName>, secrets: &Defined<SecretName, SecretSettings>) {
    let instead = match nearest(grant.name.as_str(), secrets.names.keys().map(SecretName::as_str)) {
        Some(name) => format!("secrets.\"{name}\" = {{}}"),
        None => "a [secret.\"NAME\"] table for it in valetkey.toml, or the name of one that is there".into(),
    };
    tool.error(grant.line, format!("{} is granted a secret that is not defined", tool.title), instead);
}

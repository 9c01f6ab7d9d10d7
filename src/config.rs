//! The configuration: `valetkey.toml` for the daemon, sources and secrets, and a drop-in for each tool in `tools.d/` beside it.
//!
//! Every mistake is reported at once, with file, line and what to write instead. No report repeats a value: it may be a
//! credential that was pasted into the wrong place. A drop-in, which a package may ship, can define tools and nothing else;
//! and a file that somebody other than root or the daemon could have written is refused, since policy is authority.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use crate::{
    name::{IssuerName, SecretName, SourceName, ToolName},
    policy::{Origin, Policy, ToolPolicy},
};

mod accounts;
mod address;
mod alarm;
mod audit;
mod credential;
mod daemon;
mod duration;
mod explain;
mod export;
mod file;
mod identity;
mod launch;
mod limits;
mod links;
mod pasted;
mod problem;
mod read;
mod remote;
mod roles;
mod rotation;
mod sandbox;
mod secrets;
mod sources;
mod spelling;
mod tools;
mod upstream;
mod variable;

pub use alarm::{AlarmSettings, WebhookAddress, WebhookTarget};
pub use audit::AuditSettings;
pub use daemon::{DaemonSettings, LastGoodSettings, LogFormat, MemoryProtection, MetricsAddress, OnUnreachable};
pub use duration::duration as parse_duration;
pub use explain::{Explanation, explain};
pub use export::{ExportSettings, OtlpSettings};
pub use problem::{Problem, Severity};
pub use read::Key;
pub use remote::{ClientCertificates, IssuerSettings, KeysFrom, OwnCertificate, RemoteSettings};
pub use secrets::{Privilege, Reach, SecretSettings};
pub use sources::{
    AwsRole, AwsSettings, AwsStsSettings, FileRef, Freshness, RoleId, SealedFileSettings, SourceSettings, VaultAuth,
    VaultSettings,
};
pub use upstream::{Upstream, upstream_policy, upstream_sources};
pub use variable::is_reserved_variable;
#[cfg(feature = "cli")]
pub(crate) use {duration::duration, pasted::looks_like_a_value, variable::is_variable};

use file::{Document, read_all};
use problem::Report;
use read::{Named, Refused, Section, key};

/// A configuration without errors.
#[derive(Debug)]
pub struct Config {
    /// The main file, as it was named.
    pub file: Arc<Path>,
    pub daemon: DaemonSettings,
    /// `None`: nothing deserves an alarm but what the log says anyway.
    pub alarm: Option<AlarmSettings>,
    pub audit: AuditSettings,
    /// `None`: nobody calls over the network.
    pub remote: Option<RemoteSettings>,
    pub issuers: BTreeMap<IssuerName, IssuerSettings>,
    pub sources: BTreeMap<SourceName, SourceSettings>,
    pub secrets: BTreeMap<SecretName, SecretSettings>,
    pub policy: Policy,
    /// Warnings: what is accepted, and probably not what was meant.
    pub problems: Vec<Problem>,
}

/// Names that configuration defines, whether or not what stands under them is right: a mistake in a secret must not be
/// reported a second time where a tool uses it.
struct Defined<N, T> {
    names: BTreeMap<N, Origin>,
    usable: BTreeMap<N, T>,
    /// Was all read that may define one? At the end: all that may use one, too. A mistake elsewhere must not make a name look
    /// absent, or unused.
    complete: bool,
}

/// Reads a configuration and everything beside it. Where there is an error, all errors and warnings, by file and line.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let report = Report::default();
    let loaded = load_into(path, &report);
    let failed = report.errors() > 0;
    let problems = report.sorted(path);
    if failed { Err(problems) } else { Ok(Config { problems, ..loaded }) }
}

fn load_into(path: &Path, report: &Report) -> Config {
    let files = read_all(path, report);
    let trees: Vec<_> = files.documents.iter().map(|document| (document, document.parse())).collect();
    let main_read = trees.iter().any(|(document, tree)| !document.drop_in && tree.is_some());
    let all_read = files.complete && trees.iter().all(|(_, tree)| tree.is_some());
    let tops: Vec<_> = trees.iter().filter_map(|(document, tree)| tree.as_ref().map(|tree| top(document, tree))).collect();
    let main = tops.iter().find(|section| !section.doc.drop_in);

    let daemon = main.and_then(|top| top.section("daemon", daemon::KEYS, &[])).map(|section| daemon::read(&section));
    let alarm =
        main.and_then(|top| top.section("alarm", alarm::KEYS, alarm::REFUSED)).map(|section| (alarm::read(&section), section));
    let audit = main.and_then(|top| top.section("audit", audit::KEYS, &[])).map(|section| audit::read(&section));
    let ceilings = main.and_then(|top| top.section("limits", limits::CEILING_KEYS, limits::CEILINGS_REFUSED));
    let ceilings = ceilings.map(|section| limits::ceilings(&section)).unwrap_or_default();
    let listener = main.and_then(|top| top.section("remote", remote::KEYS, remote::REFUSED));
    let over_network = listener.as_ref().and_then(remote::read);
    let named = main.map(|top| top.named("issuer", remote::ISSUER_RULE)).unwrap_or_default();
    let issuers = define(named, main_read, remote::read_issuer);
    let roles = main.and_then(|top| top.section("roles", roles::KEYS, &[])).map(|section| (roles::read(&section), section));
    let named = main.map(|top| top.named("source", sources::NAME_RULE)).unwrap_or_default();
    let sources = define(named, main_read, sources::read);
    let named = main.map(|top| top.named("secret", secrets::NAME_RULE)).unwrap_or_default();
    let before = report.errors();
    let secrets = define(named, main_read, |named| secrets::read(named, &sources));
    let sources = Defined { complete: main_read && report.errors() == before, ..sources };

    let before = report.errors();
    let mut tools: BTreeMap<ToolName, ToolPolicy> = BTreeMap::new();
    for named in tops.iter().flat_map(|top| top.named::<ToolName>("tool", tools::NAME_RULE)) {
        let Some(tool) = tools::read(&named, &secrets) else { continue };
        match tools.get(&named.name) {
            None => _ = tools.insert(named.name, tool),
            Some(first) => {
                let what = format!("tool \"{}\" is defined a second time; the first is at {}", named.name, first.origin);
                named.doc.add(Severity::Error, named.line, what, "one [tool.NAME] for each tool, in one file");
            }
        }
    }
    let secrets = Defined { complete: all_read && report.errors() == before, ..secrets };
    links::check(&sources, &secrets, &tools, path, report);
    let operators = roles.as_ref().map(|(roles, section)| (roles, section));
    remote::check_reach(listener.is_some(), &issuers, &tools, operators, report);
    if let Some((_, section)) = &alarm
        && !tools.values().any(|tool| tool.run_as.needs_executable())
    {
        alarm::warn_of_unseen_executables(section);
    }
    let roles = roles.map(|(roles, _)| roles).unwrap_or_default();
    let names: BTreeSet<SecretName> = secrets.usable.keys().cloned().collect();
    let canaries = secrets.usable.iter().filter(|(_, secret)| secret.canary).map(|(name, _)| name.clone()).collect();
    let approvals = secrets.usable.iter().filter(|(_, secret)| secret.approval).map(|(name, _)| name.clone()).collect();
    let per_session = secrets.usable.iter().filter(|(_, secret)| secret.per_session).map(|(name, _)| name.clone()).collect();
    Config {
        file: path.into(),
        daemon: daemon.unwrap_or_default(),
        alarm: alarm.map(|(settings, _)| settings),
        audit: audit.unwrap_or_default(),
        remote: over_network,
        issuers: issuers.usable,
        sources: sources.usable,
        secrets: secrets.usable,
        policy: Policy::new(tools, names)
            .with_canaries(canaries)
            .with_approvals(approvals)
            .with_per_session(per_session)
            .with_ceilings(ceilings)
            .with_roles(roles),
        problems: Vec::new(),
    }
}

const TOP_KEYS: &[Key] = &[
    key("daemon", "[daemon]"),
    key("audit", "[audit]"),
    key("limits", "[limits]"),
    key("alarm", "[alarm]"),
    key("remote", "[remote]"),
    key("issuer", "[issuer.NAME]"),
    key("roles", "[roles]"),
    key("source", "[source.NAME]"),
    key("secret", "[secret.\"NAME\"]"),
    key("tool", "[tool.NAME]"),
];
const DROP_IN_KEYS: &[Key] = &[key("tool", "[tool.NAME]")];

const NOT_HERE: &str = "a drop-in may define tools only; what a package ships must not say where secrets come from";
const DROP_IN_REFUSED: &[Refused] = &[
    Refused { name: "daemon", means: "", why: NOT_HERE, instead: "[daemon] in valetkey.toml" },
    Refused { name: "audit", means: "", why: NOT_HERE, instead: "[audit] in valetkey.toml" },
    Refused {
        name: "limits",
        means: "",
        why: NOT_HERE,
        instead: "[limits] in valetkey.toml, and limits = { ... } in [tool.NAME]",
    },
    Refused { name: "alarm", means: "", why: NOT_HERE, instead: "[alarm] in valetkey.toml" },
    Refused { name: "remote", means: "", why: NOT_HERE, instead: "[remote] in valetkey.toml" },
    Refused { name: "issuer", means: "", why: NOT_HERE, instead: "[issuer.NAME] in valetkey.toml" },
    Refused { name: "roles", means: "", why: NOT_HERE, instead: "[roles] in valetkey.toml" },
    Refused { name: "source", means: "", why: NOT_HERE, instead: "[source.NAME] in valetkey.toml" },
    Refused { name: "secret", means: "", why: NOT_HERE, instead: "[secret.\"NAME\"] in valetkey.toml" },
];

fn top<'a>(document: &'a Document<'a>, tree: &'a toml::de::DeTable<'a>) -> Section<'a> {
    match document.drop_in {
        true => Section::top(document, tree, "this drop-in", DROP_IN_KEYS, DROP_IN_REFUSED),
        false => Section::top(document, tree, "this file", TOP_KEYS, &[]),
    }
}

fn define<'a, N: Ord + Clone, T>(
    all: Vec<Named<'a, N>>,
    complete: bool,
    mut read: impl FnMut(&Named<'a, N>) -> Option<T>,
) -> Defined<N, T> {
    let mut defined = Defined { names: BTreeMap::new(), usable: BTreeMap::new(), complete };
    for named in all {
        if let Some(settings) = read(&named) {
            defined.usable.insert(named.name.clone(), settings);
        }
        defined.names.insert(named.name.clone(), Origin { file: named.doc.file.clone(), line: named.line });
    }
    defined
}

/// Every key that may stand in a configuration, by the table it stands in. What documentation and completion are checked against.
pub fn keys() -> Vec<(&'static str, &'static [Key])> {
    vec![
        ("", TOP_KEYS),
        ("daemon", daemon::KEYS),
        ("daemon: last-good", daemon::LAST_GOOD_KEYS),
        ("audit", audit::KEYS),
        ("audit: export, journald", export::JOURNALD_KEYS),
        ("audit: export, otlp", export::OTLP_KEYS),
        ("audit: export, cloudwatch-logs", export::CLOUDWATCH_KEYS),
        ("audit: export, s3", export::S3_KEYS),
        ("audit: export, stdout", export::STDOUT_KEYS),
        ("limits", limits::CEILING_KEYS),
        ("alarm", alarm::KEYS),
        ("alarm: webhook", alarm::WEBHOOK_KEYS),
        ("remote", remote::KEYS),
        ("issuer", remote::ISSUER_KEYS),
        ("roles", roles::KEYS),
        ("source, aws-secrets-manager", sources::aws::KEYS),
        ("source, aws-parameter-store", sources::aws::KEYS),
        ("source, vault", sources::vault::KEYS),
        ("source, vault: auth", sources::vault::AUTH_KEYS),
        ("source, vault: auth.approle", sources::vault::APPROLE_KEYS),
        ("source, vault: auth.jwt", sources::vault::JWT_KEYS),
        ("source, vault: auth.kubernetes", sources::vault::KUBERNETES_KEYS),
        ("source, vault: auth.cert", sources::vault::CERT_KEYS),
        ("source, aws-sts", sources::aws::STS_KEYS),
        ("source, sealed-file", sources::SEALED_FILE_KEYS),
        ("source, environment", sources::ENVIRONMENT_KEYS),
        ("secret", secrets::KEYS),
        ("secret: reaches", secrets::REACHES_KEYS),
        ("secret: rotation", rotation::KEYS),
        ("secret: rotation.generate", rotation::GENERATE_KEYS),
        ("secret: rotation.source", rotation::SOURCE_KEYS),
        ("tool", tools::KEYS),
        ("tool: run-as", identity::KEYS),
        ("tool: run-as, certificate", remote::CERTIFICATE_KEYS),
        ("tool: run-as, jwt", remote::JWT_KEYS),
        ("tool: secrets", tools::GRANT_KEYS),
        ("tool: limits", limits::KEYS),
        ("tool: sandbox", sandbox::KEYS),
    ]
}

//! Names that stand for others, so that a map can be shown to people who may not read it. The *facts* are renamed, before anything is
//! made of them: what is not in them cannot be in any form.

use std::{path::Path, str::FromStr, sync::Arc};

use aws_lc_rs::hmac;

use super::{
    document::Question,
    exclusions::Exclusions,
    facts::{Facts, GrantFact, HeldFact, SecretFact, SessionFact, SourceFact, ToolFact, Usage, UseFact},
    weights::Weights,
};
use crate::{
    config::Reach,
    name::{BadName, SecretName, SourceName, ToolName, Version},
    policy::Origin,
};

/// A keyed, one-way renaming: the same name has the same pseudonym under one key, and nobody without the key can try names out.
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// With a key of random bytes, which is to be forgotten after one output.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// `tool-0123456789abcdef`: valid as a name of whatever kind.
    fn of(&self, kind: &str, name: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{kind}\0{name}").as_bytes());
        let hex: String = tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}-{hex}")
    }

    fn name<N: FromStr<Err = BadName>>(&self, kind: &str, name: &str) -> Result<N, BadName> {
        self.of(kind, name).parse()
    }

    fn origin(&self, origin: &Origin) -> Origin {
        let file: Arc<Path> = Path::new(&self.file(&origin.file)).into();
        Origin { file, line: origin.line }
    }

    fn file(&self, path: &Path) -> String {
        self.of("file", &path.to_string_lossy())
    }

    fn unit(&self, unit: Option<&String>) -> Option<String> {
        unit.map(|unit| self.of("unit", unit))
    }
}

impl Pseudonyms {
    /// The same facts under other names. Kept are kinds, privileges, channels, times, process and line numbers, and names of environments
    /// that the weights know; descriptions are left out.
    pub fn facts(&self, facts: &Facts, weights: &Weights) -> Result<Facts, BadName> {
        let mut renamed = Facts {
            host: self.of("host", &facts.host),
            made: facts.made,
            configuration: self.file(Path::new(&facts.configuration)),
            sources: facts.sources.iter().map(|source| self.source(source)).collect::<Result<_, _>>()?,
            secrets: facts.secrets.iter().map(|secret| self.secret(secret, weights)).collect::<Result<_, _>>()?,
            tools: facts.tools.iter().map(|tool| self.tool(tool)).collect::<Result<_, _>>()?,
            sessions: facts.sessions.as_ref().map(|all| all.iter().map(|one| self.session(one)).collect()).transpose()?,
            usage: facts.usage.as_ref().map(|usage| self.usage(usage)).transpose()?,
        };
        renamed.sort();
        Ok(renamed)
    }

    /// The same weights, of systems under other names.
    pub fn weights(&self, weights: &mut Weights) {
        weights.rename_systems(|system| self.of("system", system));
    }

    /// The same exclusions, without their reasons.
    pub fn exclusions(&self, exclusions: &Exclusions) -> Exclusions {
        let file: Arc<Path> = Path::new(&self.of("file", "exclusions")).into();
        exclusions.rename(|tool| self.of("tool", tool), |secret| self.of("secret", secret), &file)
    }

    /// The same question.
    pub fn question(&self, question: &Question) -> Question {
        match question {
            Question::Everything => Question::Everything,
            Question::Tool(name) => Question::Tool(self.of("tool", name)),
            Question::Secret(name) => Question::Secret(self.of("secret", name)),
            Question::System(name) => Question::System(self.of("system", name)),
        }
    }
}

impl Pseudonyms {
    fn source(&self, source: &SourceFact) -> Result<SourceFact, BadName> {
        Ok(SourceFact {
            name: self.name("source", source.name.as_str())?,
            kind: source.kind.clone(),
            hosts: source.hosts.iter().map(|host| self.of("system", host)).collect(),
        })
    }

    fn secret(&self, secret: &SecretFact, weights: &Weights) -> Result<SecretFact, BadName> {
        let unlocks = secret.unlocks.iter().map(|source| self.name::<SourceName>("source", source.as_str()));
        let reach = |reach: &Reach| Reach { system: self.of("system", &reach.system), privilege: reach.privilege };
        let environment = secret.environment.as_ref().map(|environment| match weights.knows_environment(environment) {
            true => environment.clone(),
            false => self.of("environment", environment),
        });
        Ok(SecretFact {
            name: self.name::<SecretName>("secret", secret.name.as_str())?,
            source: self.name("source", secret.source.as_str())?,
            environment,
            reaches: secret.reaches.iter().map(reach).collect(),
            unlocks: unlocks.collect::<Result<_, _>>()?,
            rotate_every: secret.rotate_every,
            canary: secret.canary,
            per_session: secret.per_session,
            current: secret.current.as_ref().map(|version| self.version(&secret.name, version)).transpose()?,
            at: self.origin(&secret.at),
        })
    }

    fn version(&self, secret: &SecretName, version: &Version) -> Result<Version, BadName> {
        self.name("version", &format!("{secret}\0{version}"))
    }

    fn tool(&self, tool: &ToolFact) -> Result<ToolFact, BadName> {
        let grant = |grant: &GrantFact| {
            Ok::<_, BadName>(GrantFact {
                secret: self.name("secret", grant.secret.as_str())?,
                channel: grant.channel,
                variable: grant.variable.as_ref().map(|variable| self.of("variable", variable)),
                remote: grant.remote,
                at: self.origin(&grant.at),
            })
        };
        Ok(ToolFact {
            name: self.name::<ToolName>("tool", tool.name.as_str())?,
            description: String::new(),
            run_as: tool.run_as.iter().map(|selector| self.selector(selector)).collect(),
            grants: tool.grants.iter().map(grant).collect::<Result<_, _>>()?,
            on_rotation: tool.on_rotation.clone(),
            contained: tool.contained,
            at: self.origin(&tool.at),
        })
    }

    /// `unit mcp-billing.service`: its first word says what it is about.
    fn selector(&self, selector: &str) -> String {
        let (kind, name) = selector.split_once(' ').unwrap_or(("caller", selector));
        format!("{kind} {}", self.of(kind, name))
    }

    fn session(&self, session: &SessionFact) -> Result<SessionFact, BadName> {
        let held = |held: &HeldFact| {
            Ok::<_, BadName>(HeldFact {
                secret: self.name("secret", held.secret.as_str())?,
                version: self.version(&held.secret, &held.version)?,
                channel: held.channel,
                since: held.since,
            })
        };
        Ok(SessionFact {
            id: self.of("session", &session.id),
            tool: self.name("tool", session.tool.as_str())?,
            pid: session.pid,
            uid: session.uid,
            unit: self.unit(session.unit.as_ref()),
            remote: session.remote.as_ref().map(|address| self.of("address", address)),
            opened: session.opened,
            scope: session.scope.iter().map(|secret| self.name("secret", secret.as_str())).collect::<Result<_, _>>()?,
            held: session.held.iter().map(held).collect::<Result<_, _>>()?,
        })
    }

    fn usage(&self, usage: &Usage) -> Result<Usage, BadName> {
        let entry = |entry: &UseFact| {
            Ok::<_, BadName>(UseFact {
                tool: self.name("tool", entry.tool.as_str())?,
                secret: self.name("secret", entry.secret.as_str())?,
                ..entry.clone()
            })
        };
        Ok(Usage { entries: usage.entries.iter().map(entry).collect::<Result<_, _>>()?, ..*usage })
    }
}

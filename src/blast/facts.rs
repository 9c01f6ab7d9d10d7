//! What is known, in one place: what policy allows, what is held now, what was used. The names in it are the operator's own.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::moment::Moment;
use crate::{
    config::{Config, Reach, SourceSettings},
    name::{SecretName, SourceName, ToolName, Version},
    policy::{Delivery, OnRotation, Origin, ToolPolicy},
};

/// All that a map is made of. Tools, secrets and sources are in order of name, each once.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Where this was seen.
    pub host: String,
    /// When.
    pub made: Moment,
    /// The main file of the configuration.
    pub configuration: String,
    pub sources: Vec<SourceFact>,
    pub secrets: Vec<SecretFact>,
    pub tools: Vec<ToolFact>,
    /// Open sessions; `None` where no daemon was asked.
    pub sessions: Option<Vec<SessionFact>>,
    /// What was used; `None` where that is not known, which is not the same as nothing.
    pub usage: Option<Usage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFact {
    pub name: SourceName,
    /// As in configuration.
    pub kind: String,
    /// Hosts at which it is logged in to: a secret that reaches one of them opens this source.
    pub hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFact {
    pub name: SecretName,
    pub source: SourceName,
    pub environment: Option<String>,
    /// What the operator says that it opens; empty where nobody said.
    pub reaches: Vec<Reach>,
    /// Sources that the operator says it opens.
    pub unlocks: Vec<SourceName>,
    pub rotate_every: Option<Duration>,
    pub canary: bool,
    /// Each session has one of its own, which ends with it.
    pub per_session: bool,
    /// The version in memory; `None` where no daemon was asked, or where it has none.
    pub current: Option<Version>,
    pub at: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolFact {
    pub name: ToolName,
    pub description: String,
    /// What a caller must be, each selector in words.
    pub run_as: Vec<String>,
    /// In order of name.
    pub grants: Vec<GrantFact>,
    /// As in configuration: `notify-only`, `restart`, `reload`, `rewrite`, `signal`.
    pub on_rotation: String,
    /// It is cut off: it gets nothing, until it is released.
    pub contained: bool,
    pub at: Origin,
}

/// A line of policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFact {
    pub secret: SecretName,
    pub channel: Channel,
    /// Of the process that gets it, where it gets one.
    pub variable: Option<String>,
    /// May it go to a caller over the network too?
    pub remote: bool,
    pub at: Origin,
}

/// The way by which a value reaches a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Rpc,
    Fd,
    File,
    Credential,
    Env,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFact {
    pub id: String,
    pub tool: ToolName,
    pub pid: u32,
    pub uid: u32,
    pub unit: Option<String>,
    /// The address of a caller over the network, which has no process here.
    pub remote: Option<String>,
    pub opened: Moment,
    /// What it declared.
    pub scope: Vec<SecretName>,
    pub held: Vec<HeldFact>,
}

/// A version that a session was handed and may still have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFact {
    pub secret: SecretName,
    pub version: Version,
    pub channel: Channel,
    pub since: Moment,
}

/// What was asked for and handed out over some time, as an audit log tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The time that this covers: of what was before, nothing is known.
    pub since: Moment,
    pub until: Moment,
    pub entries: Vec<UseFact>,
}

/// One tool and one secret. The secret need not be granted, nor exist: what was denied counts too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseFact {
    pub tool: ToolName,
    pub secret: SecretName,
    /// Hand-outs.
    pub count: u64,
    pub first: Option<Moment>,
    pub last: Option<Moment>,
    /// Asks that were denied.
    pub denied: u64,
}

impl Channel {
    pub const ALL: [Self; 5] = [Self::Rpc, Self::Fd, Self::File, Self::Credential, Self::Env];

    /// The word of configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Fd => "fd",
            Self::File => "file",
            Self::Credential => "credential",
            Self::Env => "env",
        }
    }

    /// The channel of this word. One that is not known here is taken for the most exposed.
    pub fn of_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|channel| channel.word() == word).unwrap_or(Self::Env)
    }

    pub fn of(delivery: &Delivery) -> Self {
        Self::of_word(delivery.word())
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl Facts {
    /// What configuration alone tells.
    pub fn of_config(config: &Config, host: &str, made: Moment) -> Self {
        let sources = config.sources.iter();
        let sources = sources.map(|(name, settings)| SourceFact {
            name: name.clone(),
            kind: settings.kind().into(),
            hosts: hosts(settings),
        });
        let secrets = config.secrets.iter().map(|(name, secret)| SecretFact {
            name: name.clone(),
            source: secret.source.clone(),
            environment: secret.environment.clone(),
            reaches: secret.reaches.clone(),
            unlocks: secret.unlocks.clone(),
            rotate_every: secret.rotate_every,
            canary: secret.canary,
            per_session: secret.per_session,
            current: None,
            at: secret.origin.clone(),
        });
        Self {
            host: host.into(),
            made,
            configuration: config.file.display().to_string(),
            sources: sources.collect(),
            secrets: secrets.collect(),
            tools: config.policy.tools().map(|(name, tool)| ToolFact::of(name, tool)).collect(),
            sessions: None,
            usage: None,
        }
    }

    /// Puts tools, secrets and sources in order; of two with one name the first stands.
    pub fn sort(&mut self) {
        self.sources.sort_by(|a, b| a.name.cmp(&b.name));
        self.sources.dedup_by(|a, b| a.name == b.name);
        self.secrets.sort_by(|a, b| a.name.cmp(&b.name));
        self.secrets.dedup_by(|a, b| a.name == b.name);
        self.tools.sort_by(|a, b| a.name.cmp(&b.name));
        self.tools.dedup_by(|a, b| a.name == b.name);
        for tool in &mut self.tools {
            tool.grants.sort_by(|a, b| a.secret.cmp(&b.secret));
            tool.grants.dedup_by(|a, b| a.secret == b.secret);
        }
    }

    /// Every system that some secret reaches, in order.
    pub fn systems(&self) -> BTreeSet<&str> {
        self.secrets.iter().flat_map(|secret| &secret.reaches).map(|reach| reach.system.as_str()).collect()
    }
}

impl ToolFact {
    fn of(name: &ToolName, tool: &ToolPolicy) -> Self {
        let grants = tool.grants.iter().map(|(secret, rule)| GrantFact {
            secret: secret.clone(),
            channel: Channel::of(&rule.delivery),
            variable: rule.delivery.variable().map(String::from),
            remote: rule.remote,
            at: rule.origin.clone(),
        });
        let on_rotation = match tool.launch.on_rotation {
            OnRotation::NotifyOnly => "notify-only",
            OnRotation::Restart => "restart",
            OnRotation::Reload => "reload",
            OnRotation::Rewrite => "rewrite",
            OnRotation::Signal(_) => "signal",
        };
        Self {
            name: name.clone(),
            description: tool.description.clone(),
            run_as: tool.run_as.describe(),
            grants: grants.collect(),
            on_rotation: on_rotation.into(),
            contained: false,
            at: tool.origin.clone(),
        }
    }
}

/// Where the daemon logs in for this source. AWS's own addresses are those of its "Service endpoints and quotas" pages.
fn hosts(settings: &SourceSettings) -> Vec<String> {
    let host = |address: &str| address.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(String::from));
    let aws = |service: &str, settings: &crate::config::AwsSettings| {
        let own = format!("{service}.{}.amazonaws.com", settings.region);
        settings.endpoint.as_deref().and_then(host).into_iter().chain([own]).collect()
    };
    match settings {
        SourceSettings::AwsSecretsManager(settings) => aws("secretsmanager", settings),
        SourceSettings::AwsParameterStore(settings) => aws("ssm", settings),
        SourceSettings::AwsSts(settings) => vec![format!("sts.{}.amazonaws.com", settings.account.region)],
        SourceSettings::Vault(settings) => host(&settings.address).into_iter().collect(),
        SourceSettings::SealedFile(_) | SourceSettings::Environment => Vec::new(),
    }
}

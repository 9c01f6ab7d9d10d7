//! Facts as the admin socket carries them, there and back. Pure: messages in, messages out.

use std::{path::Path, sync::Arc, time::SystemTime};

use super::{
    facts::{Channel, Facts, GrantFact, HeldFact, SecretFact, SessionFact, SourceFact, ToolFact},
    moment::Moment,
};
use crate::{
    config::{Privilege, Reach},
    name::BadName,
    policy::Origin,
    proto::v1,
};

impl Facts {
    /// What a daemon tells: everything but the sessions, and the version of each secret that it holds.
    pub fn to_inventory(&self) -> v1::InventoryResponse {
        v1::InventoryResponse {
            config: self.configuration.clone(),
            made: Some(stamp(self.made)),
            sources: self.sources.iter().map(source_out).collect(),
            secrets: self.secrets.iter().map(secret_out).collect(),
            tools: self.tools.iter().map(tool_out).collect(),
            sessions: Vec::new(),
        }
    }

    /// What a daemon told. An error is a name that no daemon of this version has.
    pub fn of_inventory(told: v1::InventoryResponse, host: &str) -> Result<Self, BadName> {
        let mut files = Files::default();
        let v1::InventoryResponse { config, made, sources, secrets, tools, sessions } = told;
        let mut facts = Self {
            host: host.into(),
            made: moment(made.as_ref()),
            configuration: config,
            sources: sources.into_iter().map(source_in).collect::<Result<_, _>>()?,
            secrets: secrets.into_iter().map(|secret| secret_in(secret, &mut files)).collect::<Result<_, _>>()?,
            tools: tools.into_iter().map(|tool| tool_in(tool, &mut files)).collect::<Result<_, _>>()?,
            sessions: Some(sessions.into_iter().map(session_in).collect::<Result<_, _>>()?),
            usage: None,
        };
        facts.sort();
        Ok(facts)
    }
}

fn stamp(moment: Moment) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: moment.seconds(), nanos: 0 }
}

fn moment(stamp: Option<&prost_types::Timestamp>) -> Moment {
    stamp.and_then(|stamp| SystemTime::try_from(*stamp).ok()).map(Moment::from).unwrap_or_default()
}

/// Many lines are of few files: each name of one is kept once.
#[derive(Default)]
struct Files(Vec<Arc<Path>>);

impl Files {
    fn origin(&mut self, place: Option<v1::Place>) -> Origin {
        let v1::Place { file, line } = place.unwrap_or_default();
        let known = self.0.iter().rev().find(|known| known.as_os_str() == file.as_str()).cloned();
        let file = known.unwrap_or_else(|| {
            let file: Arc<Path> = Path::new(&file).into();
            self.0.push(file.clone());
            file
        });
        Origin { file, line: usize::try_from(line).unwrap_or(usize::MAX) }
    }
}

fn place(origin: &Origin) -> Option<v1::Place> {
    Some(v1::Place { file: origin.file.display().to_string(), line: origin.line as u64 })
}

fn none_if_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn source_out(source: &SourceFact) -> v1::InventorySource {
    v1::InventorySource { name: source.name.to_string(), kind: source.kind.clone(), hosts: source.hosts.clone() }
}

fn source_in(source: v1::InventorySource) -> Result<SourceFact, BadName> {
    Ok(SourceFact { name: source.name.parse()?, kind: source.kind, hosts: source.hosts })
}

fn secret_out(secret: &SecretFact) -> v1::InventorySecret {
    let reach =
        |reach: &Reach| v1::InventoryReach { system: reach.system.clone(), privilege: super::text::word(reach.privilege).into() };
    v1::InventorySecret {
        name: secret.name.to_string(),
        source: secret.source.to_string(),
        environment: secret.environment.clone().unwrap_or_default(),
        reaches: secret.reaches.iter().map(reach).collect(),
        unlocks: secret.unlocks.iter().map(ToString::to_string).collect(),
        rotate_every: secret.rotate_every.and_then(|every| every.try_into().ok()),
        canary: secret.canary,
        per_session: secret.per_session,
        current: secret.current.as_ref().map(ToString::to_string).unwrap_or_default(),
        at: place(&secret.at),
    }
}

fn secret_in(secret: v1::InventorySecret, files: &mut Files) -> Result<SecretFact, BadName> {
    let reach = |reach: v1::InventoryReach| {
        let privilege = match reach.privilege.as_str() {
            "read" => Privilege::Read,
            "write" => Privilege::Write,
            // What is not known is taken for the most.
            _ => Privilege::Admin,
        };
        Reach { system: reach.system, privilege }
    };
    Ok(SecretFact {
        name: secret.name.parse()?,
        source: secret.source.parse()?,
        environment: none_if_empty(secret.environment),
        reaches: secret.reaches.into_iter().map(reach).collect(),
        unlocks: secret.unlocks.iter().map(|source| source.parse()).collect::<Result<_, _>>()?,
        rotate_every: secret.rotate_every.and_then(|every| every.try_into().ok()),
        canary: secret.canary,
        per_session: secret.per_session,
        current: none_if_empty(secret.current).map(|version| version.parse()).transpose()?,
        at: files.origin(secret.at),
    })
}

fn tool_out(tool: &ToolFact) -> v1::InventoryTool {
    let grant = |grant: &GrantFact| v1::InventoryGrant {
        secret: grant.secret.to_string(),
        by: grant.channel.word().into(),
        variable: grant.variable.clone().unwrap_or_default(),
        remote: grant.remote,
        at: place(&grant.at),
    };
    v1::InventoryTool {
        name: tool.name.to_string(),
        description: tool.description.clone(),
        run_as: tool.run_as.clone(),
        grants: tool.grants.iter().map(grant).collect(),
        on_rotation: tool.on_rotation.clone(),
        contained: tool.contained,
        at: place(&tool.at),
    }
}

fn tool_in(tool: v1::InventoryTool, files: &mut Files) -> Result<ToolFact, BadName> {
    let mut grant = |grant: v1::InventoryGrant| {
        Ok::<_, BadName>(GrantFact {
            secret: grant.secret.parse()?,
            channel: Channel::of_word(&grant.by),
            variable: none_if_empty(grant.variable),
            remote: grant.remote,
            at: files.origin(grant.at),
        })
    };
    let grants = tool.grants.into_iter().map(&mut grant).collect::<Result<_, _>>()?;
    Ok(ToolFact {
        name: tool.name.parse()?,
        description: tool.description,
        run_as: tool.run_as,
        grants,
        on_rotation: tool.on_rotation,
        contained: tool.contained,
        at: files.origin(tool.at),
    })
}

fn session_in(session: v1::SessionInfo) -> Result<SessionFact, BadName> {
    let held = |held: v1::VersionedSecret| {
        Ok::<_, BadName>(HeldFact {
            secret: held.name.parse()?,
            version: held.version.parse()?,
            channel: Channel::of_word(&held.by),
            since: moment(held.since.as_ref()),
        })
    };
    Ok(SessionFact {
        id: session.session,
        tool: session.tool.parse()?,
        pid: session.pid,
        uid: session.uid,
        unit: none_if_empty(session.unit),
        remote: none_if_empty(session.remote),
        opened: moment(session.opened.as_ref()),
        scope: session.scope.iter().map(|secret| secret.parse()).collect::<Result<_, _>>()?,
        held: session.held.into_iter().map(held).collect::<Result<_, _>>()?,
    })
}

//! What is recorded: one event, in fields whose types cannot hold a value.
//!
//! `docs/audit.schema.json` has each field's meaning for those who read the log.

use std::time::{Duration, SystemTime};

use super::line::Fields;
use crate::{
    name::{SecretName, SessionId, SourceName, ToolName, Version},
    peer::{Peer, Remote, Token},
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable word that stands in the log.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one that is called so.
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }
    };
}

words! {
    /// What happened. The words are stable: programs sort by them.
    Kind {
        DaemonStarted = "daemon.started",
        DaemonStopped = "daemon.stopped",
        SessionOpened = "session.opened",
        SessionRefused = "session.refused",
        SessionEnded = "session.ended",
        /// A version of a secret goes to a process. Durable before the process has it.
        SecretHandedOut = "secret.handed-out",
        SecretDenied = "secret.denied",
        /// The process says that it uses this version now.
        SecretAcknowledged = "secret.acknowledged",
        /// A source gave another version, or none any more.
        SecretChanged = "secret.changed",
        SecretRevoked = "secret.revoked",
        /// A value was found where it should not be.
        RedactionFound = "redaction.found",
        PolicyReloaded = "policy.reloaded",
        PolicyRefused = "policy.refused",
        AdminAction = "admin.action",
        /// A secret is asked for that somebody must let through; and what was said.
        ApprovalRequested = "approval.requested",
        ApprovalGiven = "approval.given",
        ApprovalDenied = "approval.denied",
        /// Someone on the network did not prove who it is.
        LoginRefused = "login.refused",
        /// Denials like one that was recorded, counted over some time.
        DenialsSummed = "denials.summed",
        LimitReached = "limit.reached",
        AlarmRaised = "alarm.raised",
        RotationStep = "rotation.step",
        /// A tool is cut off, or what that takes is over.
        ToolContained = "tool.contained",
        ToolReleased = "tool.released",
        /// Records were gone before an exporter had sent them.
        ExportGap = "export.gap",
        // The log's own, which nobody else records.
        Checkpoint = "audit.checkpoint",
        Recovered = "audit.recovered",
        Pruned = "audit.pruned",
        FileOpened = "audit.file-opened",
        FileClosed = "audit.file-closed",
    }
}

words! {
    /// How it went.
    Outcome {
        Success = "success",
        Denied = "denied",
        Failure = "failure",
    }
}

/// A line of policy.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub file: &'a std::path::Path,
    /// From 1.
    pub line: usize,
}

/// What happened, to be recorded. Names come from types that are parsed; the few texts (`&str`) are fixed words of the program, except
/// `detail` and `request_id`, which are cleaned and cut.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub kind: Kind,
    pub outcome: Outcome,
    /// A stable word; the same as tools hear, where one heard it.
    pub reason: Option<&'a str>,
    /// The tool, the session and the process. For [`Kind::AdminAction`] the process is the operator's.
    pub who: Option<&'a Who>,
    pub secret: Option<&'a SecretName>,
    pub version: Option<&'a Version>,
    pub source: Option<&'a SourceName>,
    /// The line of policy that decided.
    pub policy: Option<Place<'a>>,
    /// What an operator did; a step of a rotation; the rule of an alarm; the name of a limit, or of an exporter.
    pub action: Option<&'a str>,
    /// Where a value was found, and how it was written there.
    pub channel: Option<&'a str>,
    pub encoding: Option<&'a str>,
    pub canary: bool,
    /// How many of these, where one record stands for several; or how many were concerned.
    pub count: Option<u64>,
    /// The value of a limit.
    pub limit: Option<u64>,
    /// The first and the last of the records that it is about.
    pub range: Option<(u64, u64)>,
    /// When the first of `count` was.
    pub since: Option<SystemTime>,
    /// How long it took, as far as the broker knows it.
    pub duration: Option<Duration>,
    /// The id of a request to a source, as that gave it.
    pub request_id: Option<&'a str>,
    /// More for people, in fixed words and names. Never a text of a caller or of a source.
    pub detail: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// An event with nothing but its kind and outcome.
    pub const fn new(kind: Kind, outcome: Outcome) -> Self {
        Self {
            kind,
            outcome,
            reason: None,
            who: None,
            secret: None,
            version: None,
            source: None,
            policy: None,
            action: None,
            channel: None,
            encoding: None,
            canary: false,
            count: None,
            limit: None,
            range: None,
            since: None,
            duration: None,
            request_id: None,
            detail: None,
        }
    }

    pub(super) fn write(&self, fields: &mut Fields<'_>) {
        fields.word("event", self.kind.as_str());
        fields.word("outcome", self.outcome.as_str());
        fields.some("reason", self.reason, Fields::text);
        if let Some(Who(rendered)) = self.who {
            fields.rendered(rendered);
        }
        // A secret's name needs no escaping.
        fields.some("secret", self.secret.map(SecretName::as_str), Fields::word);
        fields.some("version", self.version.map(Version::as_str), Fields::text);
        fields.some("source", self.source.map(SourceName::as_str), Fields::word);
        if let Some(Place { file, line }) = self.policy {
            fields.place("policy", file, line);
        }
        fields.some("action", self.action, Fields::text);
        fields.some("channel", self.channel, Fields::text);
        fields.some("encoding", self.encoding, Fields::text);
        if self.canary {
            fields.flag("canary", true);
        }
        fields.some("count", self.count, Fields::number);
        fields.some("limit", self.limit, Fields::number);
        fields.some("first_seq", self.range.map(|(first, _)| first), Fields::number);
        fields.some("last_seq", self.range.map(|(_, last)| last), Fields::number);
        fields.some("since", self.since, Fields::time);
        fields.some("duration_us", self.duration.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)), Fields::number);
        fields.some("request_id", self.request_id, Fields::text);
        fields.some("detail", self.detail, Fields::text);
    }
}

/// Who an event is about, as it stands in the record. Rendered once for each session: it is most of a record, and stays the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who(Box<[u8]>);

impl Who {
    pub fn new(tool: Option<&ToolName>, session: Option<&SessionId>, peer: Option<&Peer>) -> Self {
        let mut rendered = Vec::with_capacity(256);
        let mut fields = Fields::new(&mut rendered);
        fields.some("tool", tool.map(ToolName::as_str), Fields::word);
        if let Some(session) = session {
            fields.word("session", &session.to_string());
        }
        if let Some(remote) = peer.and_then(|peer| peer.remote.as_deref()) {
            write_remote(&mut fields, remote);
        } else if let Some(peer) = peer {
            fields.number("pid", peer.process.pid.into());
            fields.number("uid", peer.uid.into());
            fields.number("gid", peer.gid.into());
            fields.some("unit", peer.unit.as_ref().map(|unit| unit.name.as_str()), Fields::text);
            let invocation = peer.unit.as_ref().and_then(|unit| unit.invocation.as_deref());
            fields.some("invocation", invocation, Fields::text);
            if let Some(executable) = &peer.executable {
                fields.hex("exe_sha256", &executable.sha256.0);
            }
        }
        Self(rendered.into())
    }

    /// Of a caller over the network.
    pub fn remote(tool: Option<&ToolName>, session: Option<&SessionId>, remote: &Remote) -> Self {
        let mut rendered = Self::new(tool, session, None).0.into_vec();
        write_remote(&mut Fields::new(&mut rendered), remote);
        Self(rendered.into())
    }

    /// Of a caller of whom no more is known.
    pub fn caller(tool: Option<&ToolName>, session: Option<&SessionId>, pid: u32, uid: u32, unit: Option<&str>) -> Self {
        let mut rendered = Self::new(tool, session, None).0.into_vec();
        let mut fields = Fields::new(&mut rendered);
        fields.number("pid", pid.into());
        fields.number("uid", uid.into());
        fields.some("unit", unit, Fields::text);
        Self(rendered.into())
    }
}

/// Where it calls from, and what proves who it is. No token: of one that was issued its public id.
fn write_remote(fields: &mut Fields<'_>, remote: &Remote) {
    fields.text("remote", &remote.address.to_string());
    let subject = remote.subject();
    fields.some("subject", (!subject.is_empty()).then_some(&*subject), Fields::text);
    if let Some(certificate) = &remote.certificate {
        fields.hex("cert_sha256", &certificate.sha256.0);
    }
    match &remote.token {
        Some(Token::Issued { id, .. }) => fields.text("token", id),
        Some(Token::Jwt(jwt)) => fields.text("issuer", &jwt.issuer),
        None => {}
    }
}

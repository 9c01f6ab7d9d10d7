//! What of each event is on record, and that nothing is handed out before it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Broker, Event, Reason, Refusal, Refused, events, logins::LoginRefused, redactions::Find};
use crate::{
    alarm::{self, Alarm, Alarms},
    audit::{self, Kind, Log, Outcome, Place, Recorded, Ticket, Unavailable, Who},
    limits::Told,
    name::{SecretName, Version},
    peer::Peer,
    policy::Origin,
    session::{End, Session},
    store::{Absent, Held, Moment},
};

/// One secret, granted, read and on record: on its way to the tool.
#[derive(Debug)]
pub struct Handout {
    pub secret: SecretName,
    pub held: Arc<Held>,
    _recorded: Recorded,
}

impl Handout {
    /// There is none without a record of it.
    pub fn new(secret: SecretName, held: Arc<Held>, recorded: Recorded) -> Self {
        Self { secret, held, _recorded: recorded }
    }

    /// How long ago the daemon last heard that this version is current.
    pub fn age(&self) -> Duration {
        self.held.age(Moment::now())
    }
}

/// One that is not on record yet.
pub(super) struct Pending {
    pub secret: SecretName,
    pub held: Arc<Held>,
    pub ticket: Ticket,
}

impl Pending {
    pub async fn recorded(self) -> Result<Handout, Refused> {
        let Self { secret, held, ticket } = self;
        let recorded = ticket.await.map_err(|Unavailable| Refused::audit_unavailable())?;
        Ok(Handout::new(secret, held, recorded))
    }
}

/// What an operator did, and to what.
#[derive(Debug, Default)]
pub struct Deed<'a> {
    /// A fixed word.
    pub action: &'static str,
    pub session: Option<&'a Session>,
    pub secret: Option<&'a SecretName>,
    /// How many were concerned.
    pub count: Option<u64>,
    pub failed: bool,
    /// More, in names and ids.
    pub detail: Option<&'a str>,
}

/// The versions that were last on record.
pub(super) type Versions = Mutex<BTreeMap<SecretName, Option<Version>>>;

impl Broker {
    /// The audit log.
    pub fn audit(&self) -> &Log {
        &self.audit
    }

    /// Puts an event on record. It is there when the ticket says so.
    pub(super) fn put_on_record(&self, event: &Event<'_>) -> Result<Ticket, Unavailable> {
        with_record(event, |record| self.audit.append(record))
    }

    /// Has each alarm put on record.
    pub(super) fn record_alarms(&self, alarms: &Alarms) {
        let log = self.audit.clone();
        alarms.tell(Box::new(move |Alarm { kind, subject, count, .. }| {
            let alarm::Subject { tool, secret, session, pid, uid, unit, remote, .. } = subject;
            let (tool, session) = (tool.as_ref(), session.as_ref());
            let who = match (pid, uid, remote) {
                (_, _, Some(remote)) => Who::remote(tool, session, remote),
                (Some(pid), Some(uid), None) => Who::caller(tool, session, *pid, *uid, unit.as_deref()),
                _ => Who::new(tool, session, None),
            };
            let raised = audit::Event::new(audit::Kind::AlarmRaised, Outcome::Success);
            let (who, secret) = (Some(&who), secret.as_ref());
            log.note(&audit::Event { who, secret, action: Some(kind.word()), count: Some(*count), ..raised });
        }));
    }

    /// The daemon begins to serve.
    pub fn started(&self, detail: &str) {
        self.audit.note(&audit::Event { detail: Some(detail), ..audit::Event::new(Kind::DaemonStarted, Outcome::Success) });
    }

    /// Nothing more will happen: writes what waits, and seals the log.
    pub fn ended(&self) {
        self.finish();
        self.audit.note(&audit::Event::new(Kind::DaemonStopped, Outcome::Success));
        self.audit.close();
    }

    /// An operator did something.
    pub fn operated(&self, operator: &Peer, deed: &Deed<'_>) {
        let (tool, session) = (deed.session.map(|session| session.tool()), deed.session.map(|session| &session.id));
        let who = Who::new(tool, session, Some(operator));
        let outcome = if deed.failed { Outcome::Failure } else { Outcome::Success };
        let (action, secret, count) = (Some(deed.action), deed.secret, deed.count);
        self.audit.note(&audit::Event {
            who: Some(&who),
            action,
            secret,
            count,
            detail: deed.detail,
            ..audit::Event::new(Kind::AdminAction, outcome)
        });
    }

    /// Configuration was read again: how many sessions a new policy ended, or how many things were wrong with it.
    pub fn reloaded(&self, result: Result<usize, usize>) {
        let (kind, outcome, count) = match result {
            Ok(ended) => (Kind::PolicyReloaded, Outcome::Success, ended),
            Err(wrong) => (Kind::PolicyRefused, Outcome::Failure, wrong),
        };
        self.audit.note(&audit::Event { count: Some(count as u64), ..audit::Event::new(kind, outcome) });
    }

    /// Puts on record which secrets have another version than the last time, or none any more.
    pub(super) fn record_changes(&self) {
        let listing = self.store.listing();
        let mut known = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (source, entry)) in &listing {
            let version = entry.as_ref().ok().map(|facts| facts.version.clone());
            let before = known.insert(name.clone(), version.clone());
            if before.as_ref().is_some_and(|before| *before == version) || (before.is_none() && version.is_none()) {
                continue;
            }
            let (kind, outcome, reason) = match entry {
                Ok(_) => (Kind::SecretChanged, Outcome::Success, None),
                Err(Absent::Revoked) => (Kind::SecretRevoked, Outcome::Success, None),
                Err(Absent::Stale) => (Kind::SecretChanged, Outcome::Failure, Some("stale")),
                Err(Absent::NotLoaded | Absent::AtSource(_)) => (Kind::SecretChanged, Outcome::Failure, Some("withdrawn")),
            };
            let (secret, version, source) = (Some(name), version.as_ref(), Some(source));
            self.audit.note(&audit::Event { secret, version, source, reason, ..audit::Event::new(kind, outcome) });
        }
        known.retain(|name, _| listing.contains_key(name));
    }
}

/// Makes of an event what stands in the log. No text of a caller is in it.
fn with_record<T>(event: &Event<'_>, put: impl FnOnce(&audit::Event<'_>) -> T) -> T {
    let success = |kind| audit::Event::new(kind, Outcome::Success);
    match event {
        Event::SessionOpened(session) => {
            let count = Some(session.scope.secrets().count() as u64);
            put(&audit::Event { who: Some(&session.who), count, ..success(Kind::SessionOpened) })
        }
        Event::SessionEnded(session, why) => {
            put(&audit::Event { who: Some(&session.who), reason: Some(word(*why)), ..success(Kind::SessionEnded) })
        }
        Event::HandedOut { session, secret, version, by, took, first: _ } => put(&audit::Event {
            who: Some(&session.who),
            secret: Some(secret),
            version: Some(version),
            policy: Some(place(by)),
            duration: Some(*took),
            ..success(Kind::SecretHandedOut)
        }),
        Event::InUse { session, secret, version } => put(&audit::Event {
            who: Some(&session.who),
            secret: Some(secret),
            version: Some(version),
            ..success(Kind::SecretAcknowledged)
        }),
        Event::Refused(told) => with_refusal(told, put),
        Event::Found(told) => with_find(told, put),
        Event::LoginRefused(told) => with_login(told, put),
    }
}

fn place(Origin { file, line }: &Origin) -> Place<'_> {
    Place { file, line: *line }
}

fn with_refusal<T>(told: &Told<Refusal>, put: impl FnOnce(&audit::Event<'_>) -> T) -> T {
    let Told { event, count, others, .. } = told;
    let Refusal { kind: events::RefusalKind { reason, limit, secret, .. }, tool, session, peer, .. } = event;
    let who = (!others).then(|| Who::new(tool.as_ref(), session.as_ref(), Some(peer)));
    let kind = match (reason, session) {
        _ if *count > 1 || *others => Kind::DenialsSummed,
        (Reason::LimitReached, _) => Kind::LimitReached,
        (_, Some(_)) => Kind::SecretDenied,
        (_, None) => Kind::SessionRefused,
    };
    let outcome = if reason.is_denial() || *reason == Reason::LimitReached { Outcome::Denied } else { Outcome::Failure };
    put(&audit::Event {
        who: who.as_ref(),
        reason: (!others).then(|| reason.word()),
        secret: secret.as_ref().filter(|_| !others),
        action: limit.map(|limit| limit.name()),
        count: (kind == Kind::DenialsSummed).then_some(*count),
        ..audit::Event::new(kind, outcome)
    })
}

fn with_find<T>(told: &Told<Find>, put: impl FnOnce(&audit::Event<'_>) -> T) -> T {
    let Find { kind, session, version, stopped, canary } = &told.event;
    let who = Who::new(kind.tool.as_ref(), session.as_ref(), None);
    put(&audit::Event {
        who: Some(&who),
        reason: stopped.then_some("tool-stopped"),
        secret: kind.secret.as_ref(),
        version: version.as_ref(),
        channel: Some(kind.channel.word()),
        encoding: Some(kind.encoding),
        canary: *canary,
        count: Some(told.count),
        ..audit::Event::new(Kind::RedactionFound, Outcome::Success)
    })
}

fn with_login<T>(told: &Told<LoginRefused>, put: impl FnOnce(&audit::Event<'_>) -> T) -> T {
    let Told { event: LoginRefused { remote, reason, why }, count, others, .. } = told;
    let who = (!others).then(|| Who::remote(None, None, remote));
    put(&audit::Event {
        who: who.as_ref(),
        reason: (!others).then_some(reason),
        count: (*count > 1 || *others).then_some(*count),
        detail: (!others).then_some(why),
        ..audit::Event::new(Kind::LoginRefused, Outcome::Denied)
    })
}

/// A stable word for the end of a session.
fn word(end: End) -> &'static str {
    match end {
        End::Closed => "closed",
        End::ProcessGone => "process-gone",
        End::Expired => "expired",
        End::LifetimeReached => "lifetime-reached",
        End::Revoked => "revoked",
        End::PolicyChanged => "policy-changed",
        End::Rotated => "rotated",
        End::Contained => "contained",
        End::ShuttingDown => "shutting-down",
    }
}

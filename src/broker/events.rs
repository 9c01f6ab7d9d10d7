//! Everything that happens, in one place: [`Broker::note`] is where it is logged, counted for alarms and put on record. What repeats
//! itself comes here summed up.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{debug, field, info, warn};

use super::{
    Broker, Reason, Refused,
    logins::{self, LoginRefused},
    redactions::{self, Find},
};
use crate::{
    alarm::{Alarms, Subject},
    audit::{Ticket, Unavailable},
    limits::{Limit, Repeats, Told},
    name::{SecretName, SessionId, ToolName, Version},
    peer::{Peer, Seat},
    policy::{Origin, Plan, Policy},
    session::{End, Session},
};

/// After the first of a kind, one event tells of all that came in this time, and then in ever longer ones.
pub(super) const SHORTEST_SILENCE: Duration = Duration::from_secs(10);
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// Something that happened. Names and facts; no value, and nothing that a caller said but names that configuration has.
#[derive(Debug)]
pub enum Event<'a> {
    SessionOpened(&'a Session),
    SessionEnded(&'a Session, End),
    HandedOut {
        session: &'a Session,
        secret: &'a SecretName,
        version: &'a Version,
        /// The line of policy that decided.
        by: &'a Origin,
        /// How long it took to decide.
        took: Duration,
        /// The session had none of this secret before.
        first: bool,
    },
    /// The process says that it uses this version now.
    InUse {
        session: &'a Session,
        secret: &'a SecretName,
        version: &'a Version,
    },
    /// The first of its kind, or all of a time.
    Refused(&'a Told<Refusal>),
    /// The same of values that were found where they should not be.
    Found(&'a Told<Find>),
    /// The same of those over the network who did not prove who they are.
    LoginRefused(&'a Told<LoginRefused>),
}

/// Someone who was refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The tool that it is or, where that was not proven, says that it is; one of policy's.
    pub tool: Option<ToolName>,
    pub session: Option<SessionId>,
    pub peer: Peer,
    /// For the operator. May quote, cleaned, what the caller asked for.
    pub why: String,
}

/// Refusals that count together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusalKind {
    pub who: Who,
    pub reason: Reason,
    /// For [`Reason::LimitReached`].
    pub limit: Option<Limit>,
    /// Where configuration has one of the name that was asked for.
    pub secret: Option<SecretName>,
}

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// One that was proven to be this tool.
    Tool(ToolName),
    /// Someone who may have said that it is this tool.
    Stranger { seat: Seat, says: Option<ToolName> },
}

/// Whom a use case works for, as far as it is known.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub peer: &'a Peer,
    /// What it said. Policy may have no such tool.
    pub tool: &'a str,
    /// Set where it was proven.
    pub session: Option<&'a Session>,
}

impl<'a> From<&'a Session> for Asker<'a> {
    fn from(session: &'a Session) -> Self {
        Self { peer: &session.peer, tool: session.tool().as_str(), session: Some(session) }
    }
}

/// What is refused, until it is told.
pub(super) struct Refusals {
    /// There are no more kinds than policy has names.
    tools: Mutex<Repeats<RefusalKind, Refusal>>,
    /// Whose names are their own to choose.
    strangers: Mutex<Repeats<RefusalKind, Refusal>>,
    counts: Mutex<Counts>,
}

/// By tool (`None`: who is no tool of the policy), reason, and limit where it was one.
pub type Counts = BTreeMap<(Option<ToolName>, Reason, Option<Limit>), u64>;

/// Kinds of strangers' refusals apart.
const MOST_STRANGERS: usize = 1024;

impl Default for Refusals {
    fn default() -> Self {
        let repeats = |most| Mutex::new(Repeats::new(SHORTEST_SILENCE, LONGEST_SILENCE, most));
        Self { tools: repeats(usize::MAX), strangers: repeats(MOST_STRANGERS), counts: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusals {
    pub fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Counts one, and answers what is to be told.
    fn add(&self, policy: &Policy, asker: Asker<'_>, refused: &Refused, now: Duration) -> Option<Told<Refusal>> {
        // Only what policy knows is told apart by name, or who makes names up would fill the memory.
        let tool = asker.tool.parse().ok().filter(|tool: &ToolName| policy.tool(tool.as_str()).is_some());
        let limit = refused.limit.map(|reached| reached.limit);
        *lock(&self.counts).entry((tool.clone(), refused.reason, limit)).or_default() += 1;
        let who = match (asker.session, &tool) {
            (Some(session), _) => Who::Tool(session.tool().clone()),
            // It opens a session, and was proven to be the tool before it came to the limits of one.
            (None, Some(tool)) if refused.limit.is_some_and(|reached| reached.limit != Limit::OpensPerMinute) => {
                Who::Tool(tool.clone())
            }
            (None, _) => Who::Stranger { seat: asker.peer.seat(), says: tool.clone() },
        };
        let repeats = if matches!(who, Who::Tool(_)) { &self.tools } else { &self.strangers };
        let kind = RefusalKind { who, reason: refused.reason, limit, secret: refused.why.secret.clone() };
        let make = || Refusal {
            kind: kind.clone(),
            tool: tool.clone(),
            session: asker.session.map(|session| session.id),
            peer: asker.peer.clone(),
            why: if refused.why.text.is_empty() { refused.message.clone() } else { refused.why.text.clone() },
        };
        lock(repeats).add(&kind, 1, now, make, |_| ())
    }

    fn due(&self, now: Duration) -> Vec<Told<Refusal>> {
        let tools = lock(&self.tools).due(now);
        tools.into_iter().chain(lock(&self.strangers).due(now)).collect()
    }

    fn finish(&self) -> Vec<Told<Refusal>> {
        let tools = lock(&self.tools).finish();
        tools.into_iter().chain(lock(&self.strangers).finish()).collect()
    }
}

impl Broker {
    /// The one place where everything that happens comes by.
    pub(super) fn note(&self, event: &Event<'_>) {
        event.log();
        if let Some(alarms) = &self.alarms {
            event.alarm(alarms);
        }
        // What was made for a session ends with it, however it ends.
        if let (Event::SessionEnded(session, _), Some(leases)) = (event, self.leases()) {
            leases.ended(&session.id);
        }
        // Where the audit log is down, it counts what it lacks.
        let _ = self.put_on_record(event);
    }

    /// The same for what may happen only when it is on record.
    pub(super) fn note_hand_out(&self, event: &Event<'_>) -> Result<Ticket, Refused> {
        event.log();
        let ticket = self.put_on_record(event).map_err(|Unavailable| Refused::audit_unavailable())?;
        if let Some(alarms) = &self.alarms {
            event.alarm(alarms);
        }
        Ok(ticket)
    }

    /// Counts a refusal, and notes it unless it is to be summed up with others.
    pub(super) fn told<T>(&self, asker: Asker<'_>, result: Result<T, Refused>) -> Result<T, Refused> {
        result.inspect_err(|refused| {
            let policy = self.policy();
            if refused.reason.is_denial()
                && let Some(tally) = self.known_tally(&policy, asker.tool)
            {
                tally.denials.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            if refused.reason.is_denial()
                && let Some(alarms) = &self.alarms
            {
                let tool = asker.session.map(Session::tool);
                let subject = || Subject::of(asker.peer, tool.cloned(), asker.session.map(|session| session.id)).proven();
                alarms.denial(subject, tool, asker.peer.seat());
            }
            let told = self.refusals.add(&policy, asker, refused, self.uptime());
            told.iter().for_each(|told| self.note(&Event::Refused(told)));
        })
    }

    /// Counts finds, and notes them unless they are to be summed up with others.
    pub(super) fn found(&self, find: &Find, count: u64) {
        let told = self.redactions.add(find, count, self.uptime());
        told.iter().for_each(|told| self.note(&Event::Found(told)));
    }

    /// Notes what has waited long enough.
    pub(super) fn note_due(&self) {
        let now = self.uptime();
        self.refusals.due(now).iter().for_each(|told| self.note(&Event::Refused(told)));
        self.redactions.due(now).iter().for_each(|told| self.note(&Event::Found(told)));
        self.logins.due(now).iter().for_each(|told| self.note(&Event::LoginRefused(told)));
    }

    /// Notes all that waits to be summed up. When nothing more comes.
    pub fn finish(&self) {
        self.refusals.finish().iter().for_each(|told| self.note(&Event::Refused(told)));
        self.redactions.finish().iter().for_each(|told| self.note(&Event::Found(told)));
        self.logins.finish().iter().for_each(|told| self.note(&Event::LoginRefused(told)));
    }
}

impl Event<'_> {
    fn log(&self) {
        match self {
            Self::SessionOpened(session) => {
                let (peer, secrets) = (&session.peer, session.scope.secrets().count());
                let program = session.plan.as_ref().map(Plan::program);
                if let Some(remote) = &peer.remote {
                    let subject = remote.subject();
                    info!(tool = %session.tool(), session = %session.id, remote = %remote.address, subject, secrets, "session opened");
                } else {
                    info!(tool = %session.tool(), session = %session.id, pid = peer.process.pid, uid = peer.uid, unit = unit(peer), secrets, program, "session opened");
                }
            }
            Self::SessionEnded(session, why) => {
                info!(tool = %session.tool(), session = %session.id, ?why, "session ended");
            }
            Self::HandedOut { session, secret, version, by, .. } => {
                debug!(tool = %session.tool(), session = %session.id, %secret, %version, %by, "handing out");
            }
            Self::InUse { session, secret, version } => {
                debug!(tool = %session.tool(), session = %session.id, %secret, %version, "version in use");
            }
            Self::Refused(told) => log_refusal(told),
            Self::Found(told) => redactions::log(told),
            Self::LoginRefused(told) => logins::log(told),
        }
    }
}

impl Event<'_> {
    /// Does it deserve an alarm? Told in names and fixed words: what a caller asked for may be anything.
    fn alarm(&self, alarms: &Alarms) {
        match self {
            Self::SessionOpened(session) => {
                if let Some(executable) = &session.peer.executable {
                    alarms.runs(session.tool(), executable.sha256, || subject(session));
                }
            }
            Self::HandedOut { session, secret, first: true, .. } => alarms.used(session.tool(), secret, || subject(session)),
            Self::Refused(Told { event: Refusal { kind, tool, session, peer, .. }, count, .. }) => {
                if let (true, Some(_)) = (kind.reason.is_denial(), &kind.secret) {
                    let subject = Subject { secret: kind.secret.clone(), ..Subject::of(peer, tool.clone(), *session) };
                    let proven = matches!(&kind.who, Who::Tool(proven) if Some(proven) == tool.as_ref());
                    alarms.denied(if proven { subject.proven() } else { subject }, *count, kind.reason.word());
                }
            }
            Self::Found(Told { event: find, count, .. }) if find.canary => {
                let (tool, secret) = (find.kind.tool.clone(), find.kind.secret.clone());
                alarms.canary(
                    Subject { tool, secret, session: find.session, ..Subject::default() }.proven(),
                    *count,
                    find.kind.channel.word(),
                );
            }
            Self::Found(_) | Self::HandedOut { .. } | Self::SessionEnded(..) | Self::InUse { .. } | Self::LoginRefused(_) => {}
        }
    }
}

fn subject(session: &Session) -> Subject {
    Subject::of(&session.peer, Some(session.tool().clone()), Some(session.id)).proven()
}

fn log_refusal(Told { event, count, total, others }: &Told<Refusal>) {
    let Refusal { kind, tool, peer, why, .. } = event;
    let tool = tool.as_ref().map_or("-", |tool| tool.as_str());
    let remote = peer.remote.as_ref().map(|remote| field::display(remote.address));
    let subject = peer.remote.as_ref().map(|remote| remote.subject());
    let (pid, uid, unit) = match remote {
        Some(_) => (None, None, None),
        None => (Some(peer.process.pid), Some(peer.uid), Some(unit(peer))),
    };
    let reason = kind.reason;
    // What has a remedy at this host is a warning; a program's own mistakes are for who debugs it.
    let what = match kind.reason {
        reason if reason.is_denial() => "denied",
        Reason::LimitReached => "over a limit",
        Reason::SecretUnavailable => "not to be had",
        _ => return debug!(tool, pid, uid, unit, remote, subject, ?reason, count, total, "refused: {why}"),
    };
    match (others, count) {
        (true, _) => {
            warn!(count, total, "{what}: many callers of many kinds, the latest of them tool {tool}, {}: {why}", peer.seat())
        }
        (false, 1) => warn!(tool, pid, uid, unit, remote, subject, ?reason, total, "{what}: {why}"),
        (false, _) => {
            warn!(tool, pid, uid, unit, remote, subject, ?reason, count, total, "{what} again and again, the last time: {why}")
        }
    }
}

fn unit(peer: &Peer) -> &str {
    peer.unit.as_ref().map_or("-", |unit| &unit.name)
}

//! Secrets that somebody must let through each time: who asks, who said yes, and until when.
//!
//! An approval is for one tool, as one caller, and one secret; it ends by itself, and with the daemon. It takes nothing away from policy:
//! what is approved must be granted all the same, at each hand-out.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tracing::info;

use super::{Broker, Refused, random};
use crate::{
    audit::{self, Kind, Outcome, Who},
    name::{SecretName, ToolName},
    peer::{Peer, Seat},
    policy::Policy,
    session::Session,
};

/// Requests and decisions at one time.
const MOST: usize = 1024;
/// Of one tool: so that none fills the list for the others.
const MOST_OF_TOOL: usize = 32;
/// A request that nobody asks for any more.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// How long a "no" stands.
const DENIED_FOR: Duration = Duration::from_secs(900);
/// The longest time that a "yes" may stand.
pub const LONGEST: Duration = Duration::from_secs(86_400);

/// What an approval is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct For {
    tool: ToolName,
    seat: Seat,
    secret: SecretName,
}

/// One request, and what became of it.
#[derive(Debug, Clone)]
pub struct Approval {
    /// 16 hex digits.
    pub id: String,
    pub tool: ToolName,
    pub secret: SecretName,
    /// Who asks.
    pub seat: Seat,
    /// Why, in the caller's own words: nobody checked them.
    pub purpose: String,
    pub asked: SystemTime,
    pub state: State,
    last_asked: Instant,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waiting,
    Approved { until: Instant, ends: SystemTime, by: String },
    Denied { until: Instant },
}

/// What an operator decides.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    pub approve: bool,
    /// How long a "yes" stands.
    pub lifetime: Duration,
    /// For the record.
    pub reason: &'a str,
}

#[derive(Default)]
pub(super) struct Approvals(Mutex<BTreeMap<For, Approval>>);

impl Approvals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<For, Approval>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The word in listings.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved { .. } => "approved",
            Self::Denied { .. } => "denied",
        }
    }
}

impl Approval {
    fn is_over(&self, now: Instant) -> bool {
        match self.state {
            State::Waiting => now.duration_since(self.last_asked) >= FORGOTTEN,
            State::Approved { until, .. } | State::Denied { until } => until <= now,
        }
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for tool {} ({})", self.secret, self.tool, self.seat)
    }
}

impl Broker {
    /// Has somebody let this session have this secret? Who asks for the first time is put on the list of operators.
    pub(super) fn keep_to_approvals(&self, policy: &Policy, session: &Session, secret: &SecretName) -> Result<(), Refused> {
        if !policy.needs_approval(secret) {
            return Ok(());
        }
        let now = Instant::now();
        let wanted = For { tool: session.tool().clone(), seat: session.peer.seat(), secret: secret.clone() };
        let mut all = self.approvals.all();
        all.retain(|_, one| !one.is_over(now));
        if let Some(known) = all.get_mut(&wanted) {
            known.last_asked = now;
            return match known.state {
                State::Approved { .. } => Ok(()),
                State::Waiting => Err(Refused::approval_pending(secret, &known.id)),
                State::Denied { .. } => Err(Refused::approval_denied(secret)),
            };
        }
        if all.len() >= MOST || all.keys().filter(|one| one.tool == wanted.tool).count() >= MOST_OF_TOOL {
            return Err(Refused::too_many_approvals());
        }
        let asked = Approval {
            id: random()?[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
            tool: wanted.tool.clone(),
            secret: secret.clone(),
            seat: wanted.seat.clone(),
            purpose: session.purpose.clone(),
            asked: SystemTime::now(),
            state: State::Waiting,
            last_asked: now,
        };
        let id = asked.id.clone();
        all.insert(wanted, asked);
        drop(all);
        info!(tool = %session.tool(), session = %session.id, %secret, approval = id, "a hand-out waits: valetkey approve {id}");
        let detail = format!("approval {id}");
        let event = audit::Event::new(Kind::ApprovalRequested, Outcome::Success);
        self.audit.note(&audit::Event { who: Some(&session.who), secret: Some(secret), detail: Some(&detail), ..event });
        Err(Refused::approval_pending(secret, &id))
    }

    /// Every request that waits, and every decision that stands.
    pub fn approvals(&self) -> Vec<Approval> {
        let now = Instant::now();
        let mut all = self.approvals.all();
        all.retain(|_, one| !one.is_over(now));
        let mut list: Vec<_> = all.values().cloned().collect();
        list.sort_by_key(|one| one.asked);
        list
    }

    /// An operator decides, or changes what was decided. `None`: there is no such request.
    pub fn decide_approval(&self, operator: &Peer, id: &str, verdict: Verdict<'_>) -> Option<Approval> {
        let now = Instant::now();
        let by = operator.seat().to_string();
        let mut all = self.approvals.all();
        let found = all.values_mut().find(|one| one.id == id && !one.is_over(now))?;
        let lifetime = verdict.lifetime.min(LONGEST);
        found.state = match verdict.approve {
            true => State::Approved { until: now + lifetime, ends: SystemTime::now() + lifetime, by: by.clone() },
            false => State::Denied { until: now + DENIED_FOR },
        };
        let found = found.clone();
        drop(all);
        let (kind, outcome, how_long) = match verdict.approve {
            true => (Kind::ApprovalGiven, Outcome::Success, format!(" for {} s", lifetime.as_secs())),
            false => (Kind::ApprovalDenied, Outcome::Denied, String::new()),
        };
        let who = Who::new(Some(&found.tool), None, Some(operator));
        let detail = format!("approval {id} of {}{how_long}: {}", found.seat, verdict.reason);
        info!(approval = id, operator = by, "{}: {found}{how_long}", kind.as_str());
        let event = audit::Event {
            who: Some(&who),
            secret: Some(&found.secret),
            detail: Some(&detail),
            ..audit::Event::new(kind, outcome)
        };
        self.audit.note(&event);
        Some(found)
    }
}

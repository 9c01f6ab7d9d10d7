//! How use cases keep to the limits. Whose allowance is taken is decided by who the caller was proven to be: an attested tool takes of
//! its own, and who is no tool takes of its user's, so that nobody can use up what is somebody else's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Broker, Refused};
use crate::{
    limits::{Allowance, Limit, Limits, Meter, Places, Rate, Rates, Reached, RetryAfter, Tally, Whose},
    name::ToolName,
    peer::{Peer, Seat},
    policy::{Policy, ToolPolicy},
    session::{Form, Session},
};

/// What all callers together have taken.
#[derive(Default)]
pub(super) struct Taken {
    requests: Allowance,
    under_way: Places,
    strangers: Strangers,
    operators: Mutex<BTreeMap<Seat, Arc<Meter>>>,
}

/// Those who were refused before they were proven to be a tool, by user id and unit, or by whom a certificate or a token names.
#[derive(Default)]
struct Strangers {
    known: Mutex<BTreeMap<Seat, Arc<Meter>>>,
    /// Of all for whom there is no room: units come and go under names that their users choose.
    others: Arc<Meter>,
}

const MAX_STRANGERS: usize = 4096;
const MINUTE: Duration = Duration::from_secs(60);
/// For a place that another request holds: they take no longer than this, as a rule.
const SOON: Duration = Duration::from_millis(100);
/// For a session that another must give up.
const LATER: Duration = Duration::from_secs(1);

impl Strangers {
    fn meter(&self, peer: &Peer, now: Duration) -> Arc<Meter> {
        let who = peer.seat();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_STRANGERS && !known.contains_key(&who) {
            known.retain(|_, meter| !meter.is_full(now));
            if known.len() >= MAX_STRANGERS {
                return self.others.clone();
            }
        }
        known.entry(who).or_default().clone()
    }
}

/// A request that is under way, until it is dropped.
pub struct UnderWay {
    broker: Arc<Broker>,
    tally: Arc<Tally>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.tally.under_way.free();
        self.broker.taken.under_way.free();
    }
}

impl Broker {
    /// Takes a place for one request of this session, which lasts until its caller has the answer.
    pub fn begin(self: &Arc<Self>, session: &Session) -> Result<UnderWay, Refused> {
        self.told(session.into(), self.try_begin(session))
    }

    fn try_begin(self: &Arc<Self>, session: &Session) -> Result<UnderWay, Refused> {
        let policy = self.policy();
        let over = |of, value: u64| {
            let reached = Reached { limit: Limit::ConcurrentRequests, of, value };
            Err(Refused::limit(reached, Some(SOON), ""))
        };
        // A tool that policy has forgotten since is refused by the decision that follows.
        let own = policy.tool(session.tool().as_str()).map_or(u64::MAX, |tool| tool.limits.concurrent_requests.into());
        if !session.tally.under_way.take(own) {
            return over(Whose::Tool, own);
        }
        let all = policy.ceilings().concurrent_requests.into();
        if !self.taken.under_way.take(all) {
            session.tally.under_way.free();
            return over(Whose::Daemon, all);
        }
        Ok(UnderWay { broker: self.clone(), tally: session.tally.clone() })
    }

    /// Takes so many requests of the tool's allowance and of everyone's, or none of either.
    pub(super) fn keep_rate(
        &self,
        policy: &Policy,
        tool: &ToolPolicy,
        tally: &Tally,
        count: u64,
        now: Duration,
    ) -> Result<(), Refused> {
        let (own, all) = (Rates::from(&tool.limits), Rates::from(policy.ceilings()));
        tally.requests.take(&own, count, now).map_err(Refused::over)?;
        self.taken.requests.take(&all, count, now).map_err(|over| {
            tally.requests.give_back(&own, count);
            Refused::over(over)
        })
    }

    /// One request of an open session that is no hand-out.
    pub(super) fn keep_request_within_bounds(&self, session: &Session) -> Result<(), Refused> {
        let policy = self.policy();
        match policy.tool(session.tool().as_str()) {
            Some(tool) => self.keep_rate(&policy, tool, &session.tally, 1, self.uptime()),
            None => Ok(()),
        }
    }

    /// How long who said this much must be left waiting before it is heard again: for what is not refused, since nobody would say it
    /// again, and must not be said without end either.
    pub fn slow_down(&self, session: &Session) -> Option<Duration> {
        self.keep_request_within_bounds(session).err().and_then(|refused| refused.retry_after)
    }

    pub(super) fn keep_hand_outs_within_bounds(
        &self,
        policy: &Policy,
        session: &Session,
        count: u64,
        now: Duration,
    ) -> Result<(), Refused> {
        // A tool that policy has forgotten since is refused by the decision that follows.
        let Some(tool) = policy.tool(session.tool().as_str()) else { return Ok(()) };
        let most = tool.limits.per_session;
        if session.handouts.load(std::sync::atomic::Ordering::Relaxed).saturating_add(count) > most {
            let reached = Reached { limit: Limit::PerSession, of: Whose::Tool, value: most };
            return Err(Refused::limit(reached, None, "open a new session"));
        }
        self.keep_rate(policy, tool, &session.tally, count, now)
    }

    /// A session of so many secrets may be opened as this tool.
    pub(super) fn keep_sessions_within_bounds(&self, tool: &ToolName, secrets: usize) -> Result<Limits, Refused> {
        if *self.stopping.borrow() {
            return Err(Refused::shutting_down());
        }
        if !self.is_ready() {
            return Err(Refused::not_ready());
        }
        let policy = self.policy();
        // Policy allowed it a moment ago; where a reload has taken it away since, that ends the session at once.
        let Some(of_tool) = policy.tool(tool.as_str()) else { return Ok(Limits::default()) };
        let limits = of_tool.limits;
        let reached = |limit, of, value: u32| Reached { limit, of, value: value.into() };
        if secrets > limits.secrets_per_session as usize {
            let reached = reached(Limit::SecretsPerSession, Whose::Tool, limits.secrets_per_session);
            return Err(Refused::limit(reached, None, "declare fewer, or open several"));
        }
        self.keep_rate(&policy, of_tool, &self.tally(tool), 1, self.uptime())?;
        if self.sessions.count_of(tool) >= limits.concurrent as usize {
            return Err(Refused::limit(reached(Limit::Concurrent, Whose::Tool, limits.concurrent), Some(LATER), ""));
        }
        if self.sessions.count() >= self.settings.max_sessions as usize {
            return Err(Refused::limit(reached(Limit::MaxSessions, Whose::Daemon, self.settings.max_sessions), Some(LATER), ""));
        }
        Ok(limits)
    }

    /// Whoever is refused before it is proven to be a tool is bounded by its user id and unit. In place of a refusal that would tell
    /// more, once there were too many.
    pub(super) fn keep_strangers_within_bounds(&self, peer: &Peer, refused: Refused) -> Refused {
        let (most, now) = (self.policy().ceilings().opens_per_minute, self.uptime());
        let rate = Rate::new(most, MINUTE, Limits::per_second_of(most));
        match self.taken.strangers.meter(peer, now).take(&rate, 1, now) {
            Ok(()) => refused,
            Err(RetryAfter(wait)) => {
                let reached = Reached { limit: Limit::OpensPerMinute, of: Whose::User, value: most.into() };
                Refused::limit(reached, Some(wait), "")
            }
        }
    }

    /// One call of an operator.
    pub fn operate(&self, operator: &Peer) -> Result<(), Refused> {
        let most = self.policy().ceilings().admin_per_minute;
        let meter = self
            .taken
            .operators
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(by_user(operator.seat()))
            .or_default()
            .clone();
        let taken = meter.take(&Rate::new(most, MINUTE, Limits::per_second_of(most)), 1, self.uptime());
        taken.map_err(|RetryAfter(wait)| {
            let reached = Reached { limit: Limit::AdminPerMinute, of: Whose::User, value: most.into() };
            Refused::limit(reached, Some(wait), "")
        })
    }

    /// How long a session of this form and these limits may live.
    pub(super) fn end_of_life(&self, form: Form, limits: &Limits) -> (Form, Duration) {
        let until = self.uptime().saturating_add(limits.session_lifetime);
        match form {
            Form::Unary { expires } => (Form::Unary { expires: expires.min(until) }, until),
            form => (form, until),
        }
    }
}

/// An operator counts for all units of a user: who may name units could have as many allowances as it likes.
fn by_user(seat: Seat) -> Seat {
    match seat {
        Seat::User { uid, .. } => Seat::User { uid, unit: None },
        remote => remote,
    }
}

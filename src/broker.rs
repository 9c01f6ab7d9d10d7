//! The use cases, one function each: open, get, acknowledge, renew, close; and for operators end, revoke and replace the policy.
//! What launchers need beside them is in [`launch`]. The page to read first.
//!
//! A hand-out is always the same few steps: ask the kernel again who calls, keep to the limits, decide, read, record, hand over.
//! Nothing here can leave one out: the store reads only with a grant, and only `policy` makes grants.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tracing::{debug, field, info, warn};

use crate::{
    limits::{Meter, RetryAfter, Tally},
    measure::{Latency, span},
    name::{SecretName, SessionId, ToolName, Version, is_unprintable},
    peer::{Peer, Process, Witness},
    policy::{BadCommand, Decision, Denial, Kept, Plan, Policy, Request, Scope},
    session::{End, Form, Opening, Session, Sessions},
    store::{Held, Moment, Serial, Store},
};

mod credential;
mod launch;
mod redactions;
mod refused;
pub use launch::{Cleaning, Report};
pub use redactions::{Channel, Kind};
pub use refused::{Reason, Refused};

use redactions::Redactions;

/// Bounds over all tools.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Sessions open at one time, over all tools.
    pub max_sessions: usize,
    /// How long a unary session lives without being renewed.
    pub session_lifetime: Duration,
}

/// The broker. Everything it knows is names and facts; a value passes through it only inside [`Held`], unread.
pub struct Broker {
    settings: Settings,
    started: Instant,
    policy: RwLock<Arc<Policy>>,
    store: Store,
    sessions: Sessions,
    tallies: RwLock<BTreeMap<ToolName, Arc<Tally>>>,
    strangers: RwLock<BTreeMap<Stranger, Arc<Meter>>>,
    refusals: Mutex<BTreeMap<(Option<ToolName>, Reason), u64>>,
    latency: Latency,
    redactions: Redactions,
    /// Was everything loaded that the policy needs?
    ready: AtomicBool,
    stopping: watch::Sender<bool>,
}

/// What a process declares to open a session.
#[derive(Debug)]
pub struct Declaration<'a> {
    pub tool: &'a str,
    pub scope: &'a [String],
    pub purpose: &'a str,
    /// What a launcher is about to start; no word of it where policy is to say.
    pub launch: Option<&'a [String]>,
}

/// One secret, granted and read, on its way to the tool.
#[derive(Debug)]
pub struct Handout {
    pub secret: SecretName,
    pub held: Arc<Held>,
}

/// Secrets that one session may declare.
pub const MAX_SCOPE: usize = 1000;
/// Secrets that one unary call may ask for.
pub const MAX_BATCH: usize = 100;
const MAX_PURPOSE: usize = 200;
/// A user id, in a unit: who a caller is before it is a tool.
type Stranger = (u32, Option<String>);
const MAX_STRANGERS: usize = 4096;
/// Attempts to open a session in a minute by one of them, whichever tool it claims to be.
const OPENS_PER_MINUTE: u32 = 6000;

impl Broker {
    pub fn new(settings: Settings, policy: Policy, store: Store) -> Self {
        Self {
            settings,
            started: Instant::now(),
            policy: RwLock::new(Arc::new(policy)),
            store,
            sessions: Sessions::default(),
            tallies: RwLock::default(),
            strangers: RwLock::default(),
            refusals: Mutex::default(),
            latency: Latency::default(),
            redactions: Redactions::default(),
            ready: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }
    }

    /// Opens a session: the caller is the tool it names, and everything it declares is granted; or nothing is.
    pub fn open(&self, witness: &dyn Witness, declared: &Declaration<'_>, unary: bool) -> Result<Arc<Session>, Refused> {
        let span = span!("open", tool = tracing::field::Empty, secrets = tracing::field::Empty);
        let opened = span.in_scope(|| self.try_open(witness, declared, unary));
        match &opened {
            Ok(session) => {
                span.record("tool", session.tool().as_str()).record("secrets", session.scope.secrets().count());
                span.record("outcome", "opened");
            }
            Err(refused) => {
                span.record("outcome", field::debug(refused.reason));
                self.count(declared.tool, refused);
            }
        }
        opened
    }

    fn try_open(&self, witness: &dyn Witness, declared: &Declaration<'_>, unary: bool) -> Result<Arc<Session>, Refused> {
        let peer = witness.peer();
        self.keep_strangers_within_bounds(peer)?;
        let (tool, scope) = parse(declared)?;
        witness.recheck().map_err(|changed| self.deny(peer, &tool, Refused::changed(), &changed))?;
        let (scope, plan) = match declared.launch {
            Some(command) => self.accept_launch(peer, &tool, command).map(|(scope, plan)| (scope, Some(plan)))?,
            None => (self.accept(peer, &tool, &scope)?, None),
        };
        self.keep_sessions_within_bounds(&tool)?;
        let id = SessionId::new(random()?);
        let form = self.form(unary, plan.as_ref());
        let tally = self.tally(&tool);
        let opening = Opening { scope, peer: peer.clone(), purpose: declared.purpose.into(), plan, form, tally };
        let session = self.sessions.open(id, opening, SystemTime::now());
        let (secrets, program) = (session.scope.secrets().count(), session.plan.as_ref().map(Plan::program));
        info!(%tool, session = %id, pid = peer.process.pid, uid = peer.uid, unit = unit(peer), secrets, program, "session opened");
        Ok(session)
    }

    fn form(&self, unary: bool, plan: Option<&Plan>) -> Form {
        match plan {
            Some(plan) if !plan.launch.redact => Form::Process,
            _ if unary => Form::Unary { expires: self.uptime() + self.settings.session_lifetime },
            _ => Form::Stream,
        }
    }

    /// Hands out one secret of a session.
    pub fn get(&self, witness: &dyn Witness, session: &Session, secret: &str) -> Result<Handout, Refused> {
        self.measured(session, std::slice::from_ref, |begun| {
            self.still(witness, session)?;
            let policy = self.policy();
            self.keep_hand_outs_within_bounds(&policy, session, 1, begun)?;
            let handout = self.find(&policy, session, secret)?;
            record(session, &handout);
            Ok(handout)
        })
    }

    /// Hands out several secrets of a session: all of them or none.
    pub fn get_all(&self, witness: &dyn Witness, session: &Session, secrets: &[String]) -> Result<Vec<Handout>, Refused> {
        self.measured(session, Vec::as_slice, |begun| {
            if secrets.is_empty() || secrets.len() > MAX_BATCH {
                return Err(Refused::bad_request(format!("ask for at least one secret and at most {MAX_BATCH} in one call")));
            }
            self.still(witness, session)?;
            let policy = self.policy();
            self.keep_hand_outs_within_bounds(&policy, session, secrets.len() as u64, begun)?;
            let handouts = secrets.iter().map(|secret| self.find(&policy, session, secret)).collect::<Result<Vec<_>, _>>()?;
            // Only now: of a call that is refused, nothing was handed out.
            handouts.iter().for_each(|handout| record(session, handout));
            Ok(handouts)
        })
    }

    /// The process uses this version now, and none before it.
    pub fn acknowledge(&self, witness: &dyn Witness, session: &Session, secret: &str, version: &str) -> Result<(), Refused> {
        self.still(witness, session)?;
        let (Ok(secret), Ok(version)) = (secret.parse::<SecretName>(), version.parse::<Version>()) else {
            return Err(Refused::bad_request("an acknowledgement names a secret and a version".into()));
        };
        if session.held().get(&secret) != Some(&version) {
            return Err(Refused::bad_request(format!("this session was not handed version {version} of {secret}")));
        }
        debug!(tool = %session.tool(), session = %session.id, %secret, %version, "version in use");
        Ok(())
    }

    /// The session of this id, if this very process opened it and it is still open.
    pub fn session(&self, witness: &dyn Witness, id: &str) -> Result<Arc<Session>, Refused> {
        let id = id.parse().map_err(|_| Refused::not_open())?;
        let session = self.sessions.of(&id, &witness.peer().process).ok_or_else(Refused::not_open)?;
        match session.form() {
            Form::Unary { expires } if expires <= self.uptime() => {
                self.close(&session, End::Expired);
                Err(Refused::not_open())
            }
            _ => Ok(session),
        }
    }

    /// Extends a unary session and says until when.
    pub fn renew(&self, witness: &dyn Witness, session: &Session) -> Result<SystemTime, Refused> {
        self.still(witness, session)?;
        if !session.renew(self.uptime() + self.settings.session_lifetime) {
            return Err(Refused::bad_request(
                "this session lives as long as its stream or its process, and is not renewed".into(),
            ));
        }
        Ok(SystemTime::now() + self.settings.session_lifetime)
    }

    /// Ends one session. Ending one that has ended is nothing.
    pub fn close(&self, session: &Session, why: End) {
        if self.sessions.end_one(why, &session.id).is_some() {
            info!(tool = %session.tool(), session = %session.id, ?why, "session ended");
        }
    }

    /// Ends what a process that is gone has left open.
    pub fn process_gone(&self, process: &Process) {
        self.end(End::ProcessGone, |session| session.peer.process == *process);
    }

    /// What a second brings: unary sessions that were not renewed end, and finds that wait to be told are.
    pub fn expire(&self) {
        let now = self.uptime();
        self.redactions.tell_due(now);
        self.end(End::Expired, |session| matches!(session.form(), Form::Unary { expires } if expires <= now));
    }

    /// Ends every session that `which` picks, and says how many.
    pub fn end(&self, why: End, which: impl Fn(&Session) -> bool) -> usize {
        let ended = self.sessions.end(why, which);
        for session in &ended {
            info!(tool = %session.tool(), session = %session.id, ?why, "session ended");
        }
        ended.len()
    }

    /// Opens sessions from now on: what the policy needs has been loaded.
    pub fn ready(&self) {
        self.ready.store(true, Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Opens no session from now on, and ends those that are open.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        self.end(End::ShuttingDown, |_| true);
    }

    /// Resolves when [`stop`](Self::stop) was called.
    pub async fn stopped(&self) {
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Puts a new policy in force and judges every open session again. Says how many that ended.
    pub fn replace_policy(&self, policy: Policy) -> usize {
        let policy = Arc::new(policy);
        *self.policy.write().unwrap_or_else(std::sync::PoisonError::into_inner) = policy.clone();
        self.end(End::PolicyChanged, |session| {
            let kept = Kept { scope: &session.scope, command: session.command() };
            !matches!(policy.decide(&session.peer, &Request::Keep(kept)), Decision::AllowSession(_))
        })
    }

    /// Tells each session whose scope holds a secret that changed.
    pub fn announce_changes(&self) {
        self.sessions.list().iter().for_each(|session| session.tell());
    }

    /// The version that is in memory now, and which of all values that ever were it has.
    pub fn version(&self, secret: &SecretName) -> Option<(Version, Serial)> {
        self.store.version(secret.as_str())
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What this tool has taken.
    pub fn tally(&self, tool: &ToolName) -> Arc<Tally> {
        let known = self.tallies.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(tool).cloned();
        known.unwrap_or_else(|| {
            self.tallies.write().unwrap_or_else(std::sync::PoisonError::into_inner).entry(tool.clone()).or_default().clone()
        })
    }

    /// Hand-outs and denials of all tools.
    pub fn totals(&self) -> (u64, u64) {
        let tallies = self.tallies.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let add = |(handouts, denials): (u64, u64), tally: &Arc<Tally>| {
            (handouts + tally.handouts.load(Relaxed), denials + tally.denials.load(Relaxed))
        };
        tallies.values().fold((0, 0), add)
    }

    /// How often tools were refused, and why. `None` is who named no tool of the policy.
    pub fn refusals(&self) -> BTreeMap<(Option<ToolName>, Reason), u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Values that were found where they should not be, by kind, since the daemon started.
    pub fn redactions(&self) -> BTreeMap<Kind, u64> {
        self.redactions.totals()
    }

    /// How long it takes to hand out what one call asks for.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Measures one call, and counts it where it is refused. `all` is what it hands out.
    fn measured<T>(
        &self,
        session: &Session,
        all: impl Fn(&T) -> &[Handout],
        get: impl FnOnce(Instant) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let begun = Instant::now();
        let span = span!("hand-out", tool = %session.tool(), secrets = tracing::field::Empty);
        let got = span.in_scope(|| get(begun));
        match &got {
            Ok(handouts) => {
                self.latency.add(begun.elapsed());
                if !span.is_disabled() {
                    // Names that policy knows, where what was asked for may be anything.
                    let names: Vec<_> = all(handouts).iter().map(|handout| handout.secret.as_str()).collect();
                    span.record("secrets", names.join(" ")).record("outcome", "handed out");
                }
            }
            Err(refused) => {
                span.record("outcome", field::debug(refused.reason));
                self.count(session.tool().as_str(), refused);
            }
        }
        got
    }

    /// Only tools of the policy are counted by name, or who makes names up would fill the memory.
    fn count(&self, tool: &str, refused: &Refused) {
        let tool = tool.parse().ok().filter(|tool: &ToolName| self.policy().tool(tool.as_str()).is_some());
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry((tool, refused.reason)).or_default() += 1;
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The session is open, and the kernel says that its caller is who it was.
    fn still(&self, witness: &dyn Witness, session: &Session) -> Result<(), Refused> {
        if let Some(end) = session.ended() {
            return Err(Refused::ended(end));
        }
        witness.recheck().map_err(|changed| {
            self.close(session, End::ProcessGone);
            self.deny(witness.peer(), session.tool(), Refused::changed(), &changed)
        })
    }

    fn accept(&self, peer: &Peer, tool: &ToolName, scope: &[SecretName]) -> Result<Scope, Refused> {
        match self.policy().decide(peer, &Request::Open { tool, scope }) {
            Decision::AllowSession(scope) => Ok(scope),
            Decision::Deny(denial) => Err(self.deny(peer, tool, Refused::denied(&denial), &denial)),
            Decision::AllowLaunch(..) | Decision::Allow(_) => unreachable!("policy answers the question it is asked"),
        }
    }

    /// Decides, and reads what is granted.
    fn find(&self, policy: &Policy, session: &Session, secret: &str) -> Result<Handout, Refused> {
        let grant = match policy.decide(&session.peer, &Request::Get { scope: &session.scope, secret }) {
            Decision::Allow(grant) => grant,
            Decision::Deny(denial) => return Err(self.deny(&session.peer, session.tool(), Refused::denied(&denial), &denial)),
            _ => unreachable!("policy answers the question it is asked"),
        };
        let held = self.store.read(&grant).map_err(|absent| {
            warn!(tool = %session.tool(), session = %session.id, secret = %grant.secret(), "granted, but not to be had: {absent}");
            Refused::unavailable(grant.secret())
        })?;
        debug!(tool = %session.tool(), session = %session.id, secret = %grant.secret(), version = %held.version, by = %grant.origin(), "handing out");
        Ok(Handout { secret: grant.secret().clone(), held })
    }

    fn keep_hand_outs_within_bounds(&self, policy: &Policy, session: &Session, count: u64, now: Instant) -> Result<(), Refused> {
        // A tool that policy has forgotten since is refused by the decision that follows.
        let Some(tool) = policy.tool(session.tool().as_str()) else { return Ok(()) };
        if session.handouts.load(Relaxed) + count > tool.limits.per_session {
            return Err(Refused::limit("hand-outs in one session", None));
        }
        let most = tool.limits.at_once();
        if count > most {
            return Err(Refused::too_many_at_once(most));
        }
        let taken = session.tally.meter.take(&tool.limits, count, now.duration_since(self.started));
        taken.map_err(|RetryAfter(wait)| Refused::limit("requests a minute", Some(wait)))
    }

    fn keep_sessions_within_bounds(&self, tool: &ToolName) -> Result<(), Refused> {
        if *self.stopping.borrow() {
            return Err(Refused::ended(End::ShuttingDown));
        }
        if !self.is_ready() {
            return Err(Refused::not_ready());
        }
        let policy = self.policy();
        let of_tool = policy.tool(tool.as_str()).map_or(0, |policy| policy.limits.concurrent as usize);
        let soon = Some(Duration::from_secs(1));
        if self.sessions.count_of(tool) >= of_tool {
            warn!(%tool, limit = of_tool, "refused a session: the tool has as many as it may");
            return Err(Refused::limit("sessions of this tool at one time", soon));
        }
        if self.sessions.count() >= self.settings.max_sessions {
            warn!(%tool, limit = self.settings.max_sessions, "refused a session: max-sessions are open");
            return Err(Refused::limit("sessions at one time", soon));
        }
        Ok(())
    }

    /// Callers who are no tool yet are bounded by their user id and unit, or a loop of wrong guesses could fill the log.
    fn keep_strangers_within_bounds(&self, peer: &Peer) -> Result<(), Refused> {
        let who = (peer.uid, peer.unit.as_ref().map(|unit| unit.name.clone()));
        let known = self.strangers.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&who).cloned();
        let meter = known.unwrap_or_else(|| {
            let mut strangers = self.strangers.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Units come and go under names of their own; what they took is forgotten now and then, rather than kept for ever.
            if strangers.len() >= MAX_STRANGERS {
                strangers.clear();
            }
            strangers.entry(who).or_default().clone()
        });
        let limits = crate::limits::Limits { per_minute: OPENS_PER_MINUTE, ..Default::default() };
        meter.take(&limits, 1, self.uptime()).map_err(|RetryAfter(wait)| Refused::limit("sessions opened a minute", Some(wait)))
    }

    /// Puts a refusal on the record in the operator's words, and passes on what the tool may hear.
    fn deny(&self, peer: &Peer, tool: &ToolName, refused: Refused, why: &dyn std::fmt::Display) -> Refused {
        if self.policy().tool(tool.as_str()).is_some() {
            self.tally(tool).denials.fetch_add(1, Relaxed);
        }
        warn!(%tool, pid = peer.process.pid, uid = peer.uid, unit = unit(peer), reason = ?refused.reason, "denied: {why}");
        refused
    }
}

impl Handout {
    /// How long ago the daemon last heard that this version is current.
    pub fn age(&self) -> Duration {
        self.held.age(Moment::now())
    }
}

fn record(session: &Session, Handout { secret, held }: &Handout) {
    session.holds(secret, &held.version);
    session.tally.handouts.fetch_add(1, Relaxed);
}

fn unit(peer: &Peer) -> &str {
    peer.unit.as_ref().map_or("-", |unit| &unit.name)
}

fn random() -> Result<[u8; 16], Refused> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Refused::limit("random numbers of the system", Some(Duration::from_secs(1))))?;
    Ok(bytes)
}

fn parse(declared: &Declaration<'_>) -> Result<(ToolName, Vec<SecretName>), Refused> {
    if declared.launch.is_some() && !declared.scope.is_empty() {
        return Err(Refused::bad_request(
            "a launcher declares no scope: it gets what policy delivers to what it launches".into(),
        ));
    }
    if declared.scope.len() > MAX_SCOPE {
        return Err(Refused::bad_request(format!("a session declares at most {MAX_SCOPE} secrets")));
    }
    if declared.purpose.chars().count() > MAX_PURPOSE || declared.purpose.chars().any(is_unprintable) {
        return Err(Refused::bad_request(format!("a purpose is one line of at most {MAX_PURPOSE} characters")));
    }
    let tool = declared.tool.parse().map_err(|bad| Refused::bad_request(format!("{bad}")))?;
    let scope: Result<Vec<SecretName>, _> = declared.scope.iter().map(|name| name.parse()).collect();
    Ok((tool, scope.map_err(|bad| Refused::bad_request(format!("in the scope, {bad}")))?))
}

impl Refused {
    fn denied(denial: &Denial) -> Self {
        let (reason, message) = match denial {
            Denial::NoSuchTool(tool) | Denial::NotThisTool { tool, .. } => {
                (Reason::ToolNotAllowed, format!("this process may not act as tool {tool}; the daemon's log says why"))
            }
            Denial::EmptyScope => (Reason::BadRequest, "declare the secrets that are needed: the scope is empty".into()),
            Denial::NotGranted { tool, secret, .. } => (
                Reason::ScopeNotAllowed,
                format!(
                    "tool {tool} may not have {secret}, or there is none; the operator can see why with: valetkey explain {tool} {secret}"
                ),
            ),
            Denial::NoSuchCredential { unit, id } => {
                (Reason::ScopeNotAllowed, format!("unit {unit} may have no credential {id}"))
            }
            Denial::OutsideScope(_) => {
                (Reason::OutsideScope, "this session did not declare that secret: open one whose scope holds it".into())
            }
            Denial::Command(BadCommand::Other { tool, .. }) => (
                Reason::CommandNotAllowed,
                format!(
                    "policy says which command runs as tool {tool}, and this is another: leave out what stands after `--`, or have the \
                     operator change `command` in [tool.{tool}]"
                ),
            ),
            Denial::Command(BadCommand::None(tool)) => (
                Reason::CommandNotAllowed,
                format!(
                    "nothing says what is to run as tool {tool}: name it after `--`, or have the operator set `command` in [tool.{tool}]"
                ),
            ),
        };
        Self { reason, message, retry_after: None }
    }
}

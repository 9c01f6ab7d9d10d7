//! The use cases, one function each: open, get, acknowledge, renew, close; and for operators end, revoke and replace the policy.
//! What launchers need beside them is in [`launch`]. The page to read first.
//!
//! A hand-out is always the same few steps: ask the kernel again who calls, keep to the limits, decide, read, record, hand over.
//! Nothing here can leave one out: the store reads only with a grant, only `policy` makes grants, and a [`Handout`] is made only of what
//! the audit log has on record.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tracing::field;

use crate::{
    alarm::Alarms,
    audit::Log,
    lease::Leases,
    limits::{Limit, Reached, Tally, Whose},
    measure::{Latency, span},
    name::{SecretName, SessionId, ToolName, Version, is_unprintable},
    peer::{Peer, Process, Witness},
    policy::{BadCommand, Decision, Denial, Grant, Kept, Plan, Policy, Request, Scope},
    session::{End, Form, Opening, Session, Sessions},
    store::{Held, Serial, Store},
};

mod approval;
mod bounds;
mod contained;
mod credential;
mod events;
mod fresh;
mod launch;
mod lent;
mod logins;
mod record;
mod redactions;
mod refused;
mod units;

pub use approval::{Approval, LONGEST as LONGEST_APPROVAL, State as ApprovalState, Verdict};
pub use bounds::UnderWay;
pub use events::{Counts, Event, Refusal, RefusalKind, Who};
pub use launch::{Cleaning, Report};
pub use logins::LoginRefused;
pub use record::{Deed, Handout};
pub use redactions::{Channel, Kind};
pub use refused::{Reason, Refused};
pub use units::{Given, HandedTo, Outdated, UnitHolder};

use approval::Approvals;
use bounds::Taken;
use events::{Asker, Refusals};
use logins::Logins;
use record::Pending;
use redactions::Redactions;

/// Bounds over all tools.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Sessions open at one time, over all tools.
    pub max_sessions: u32,
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
    taken: Taken,
    latency: Latency,
    refusals: Refusals,
    redactions: Redactions,
    units: units::Units,
    logins: Logins,
    approvals: Approvals,
    contained: contained::Contained,
    leases: OnceLock<Leases>,
    fresh: fresh::Fresh,
    /// Does policy have secrets that are made for each session?
    lends: AtomicBool,
    /// `None`: nothing is configured to deserve one.
    alarms: Option<Arc<Alarms>>,
    audit: Arc<Log>,
    recorded: record::Versions,
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

/// Secrets that one session may declare.
pub const MAX_SCOPE: usize = 1000;
/// Secrets that one unary call may ask for.
pub const MAX_BATCH: usize = 100;
const MAX_PURPOSE: usize = 200;

impl Broker {
    pub fn new(settings: Settings, policy: Policy, store: Store, audit: Log) -> Self {
        let lends = AtomicBool::new(!policy.per_session().is_empty());
        Self {
            settings,
            started: Instant::now(),
            policy: RwLock::new(Arc::new(policy)),
            store,
            sessions: Sessions::default(),
            tallies: RwLock::default(),
            taken: Taken::default(),
            latency: Latency::default(),
            refusals: Refusals::default(),
            redactions: Redactions::default(),
            units: units::Units::default(),
            logins: Logins::default(),
            approvals: Approvals::default(),
            contained: contained::Contained::default(),
            leases: OnceLock::new(),
            fresh: fresh::Fresh::default(),
            lends,
            alarms: None,
            audit: Arc::new(audit),
            recorded: record::Versions::default(),
            ready: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }
    }

    /// The same, with someone who watches for what deserves an alarm.
    pub fn with_alarms(self, alarms: Option<Arc<Alarms>>) -> Self {
        alarms.iter().for_each(|alarms| self.record_alarms(alarms));
        Self { alarms, ..self }
    }

    pub fn alarms(&self) -> Option<&Arc<Alarms>> {
        self.alarms.as_ref()
    }

    /// Opens a session: the caller is the tool it names, and everything it declares is granted; or nothing is.
    pub fn open(&self, witness: &dyn Witness, declared: &Declaration<'_>, unary: bool) -> Result<Arc<Session>, Refused> {
        let span = span!("open", tool = tracing::field::Empty, secrets = tracing::field::Empty);
        let opened = span.in_scope(|| self.try_open(witness, declared, unary));
        match &opened {
            Ok(session) => {
                span.record("tool", session.tool().as_str()).record("secrets", session.scope.secrets().count());
                span.record("outcome", "opened");
                self.note(&Event::SessionOpened(session));
            }
            Err(refused) => _ = span.record("outcome", field::debug(refused.reason)),
        }
        self.told(Asker { peer: witness.peer(), tool: declared.tool, session: None }, opened)
    }

    fn try_open(&self, witness: &dyn Witness, declared: &Declaration<'_>, unary: bool) -> Result<Arc<Session>, Refused> {
        let peer = witness.peer();
        let proven = self.prove(witness, declared);
        let (tool, scope, plan) = proven.map_err(|refused| self.keep_strangers_within_bounds(peer, refused))?;
        self.not_contained(&tool)?;
        if !self.audit.is_up() {
            return Err(Refused::audit_unavailable());
        }
        let limits = self.keep_sessions_within_bounds(&tool, scope.secrets().count())?;
        if plan.is_some() {
            self.all_there(peer, &scope)?;
        }
        let id = SessionId::new(random()?);
        let (form, lives_until) = self.end_of_life(self.form(unary, plan.as_ref()), &limits);
        let (tally, lifetime, purpose) = (self.tally(&tool), limits.session_lifetime, declared.purpose.into());
        let opening = Opening { scope, peer: peer.clone(), purpose, plan, form, lifetime, lives_until, tally };
        let session = self.sessions.open(id, opening, SystemTime::now());
        // It may have been contained since, and then its sessions were ended before this one was there.
        self.not_contained(&tool).inspect_err(|_| _ = self.sessions.end_one(End::Contained, &session.id))?;
        Ok(session)
    }

    /// The caller is the tool that it says it is, and may have what it declares.
    fn prove(&self, witness: &dyn Witness, declared: &Declaration<'_>) -> Result<(ToolName, Scope, Option<Plan>), Refused> {
        let peer = witness.peer();
        let (tool, scope) = parse(declared)?;
        witness.recheck().map_err(|changed| Refused::changed().because(changed.to_string(), None))?;
        let (scope, plan) = match declared.launch {
            Some(command) => self.accept_launch(peer, &tool, command).map(|(scope, plan)| (scope, Some(plan)))?,
            None => (self.accept(peer, &tool, &scope)?, None),
        };
        Ok((tool, scope, plan))
    }

    fn form(&self, unary: bool, plan: Option<&Plan>) -> Form {
        match plan {
            Some(plan) if !plan.launch.redact => Form::Process,
            _ if unary => Form::Unary { expires: self.uptime() + self.settings.session_lifetime },
            _ => Form::Stream,
        }
    }

    /// Hands out one secret of a session.
    pub async fn get(&self, witness: &dyn Witness, session: &Session, secret: &str) -> Result<Handout, Refused> {
        let measured = self.measured(session);
        let since_start = measured.begun.duration_since(self.started);
        let lent = self.lend_first(witness, session, &[secret], since_start).await;
        let asked = lent.and_then(|counted| {
            measured.span.in_scope(|| {
                self.still(witness, session)?;
                let policy = self.policy();
                if !counted {
                    self.keep_hand_outs_within_bounds(&policy, session, 1, since_start)?;
                }
                let found = self.find(&policy, session, secret)?;
                self.record(session, found, measured.begun)
            })
        });
        let handout = match asked {
            Ok(pending) => pending
                .recorded()
                .await
                .and_then(|handout| self.hand_over(session, std::slice::from_ref(&handout)).map(|()| handout)),
            Err(refused) => Err(refused),
        };
        self.end_measured(session, &measured, handout, std::slice::from_ref)
    }

    /// Hands out several secrets of a session: all of them or none.
    pub async fn get_all(&self, witness: &dyn Witness, session: &Session, secrets: &[String]) -> Result<Vec<Handout>, Refused> {
        let measured = self.measured(session);
        let since_start = measured.begun.duration_since(self.started);
        let lent = match secrets.len() {
            1..=MAX_BATCH => self.lend_first(witness, session, secrets, since_start).await,
            _ => Ok(false),
        };
        let asked = lent.and_then(|counted| {
            measured.span.in_scope(|| {
                if secrets.is_empty() || secrets.len() > MAX_BATCH {
                    return Err(Refused::bad_request(format!("ask for at least one secret and at most {MAX_BATCH} in one call")));
                }
                self.still(witness, session)?;
                let policy = self.policy();
                let count = secrets.len() as u64;
                if !counted {
                    self.keep_hand_outs_within_bounds(&policy, session, count, since_start)?;
                }
                let found = secrets.iter().map(|secret| self.find(&policy, session, secret)).collect::<Result<Vec<_>, _>>()?;
                // Only now: of a call that is refused, nothing was handed out.
                found.into_iter().map(|found| self.record(session, found, measured.begun)).collect::<Result<Vec<_>, _>>()
            })
        });
        let handouts = match asked {
            Ok(pending) => self.all_recorded(session, pending).await,
            Err(refused) => Err(refused),
        };
        self.end_measured(session, &measured, handouts, Vec::as_slice)
    }

    async fn all_recorded(&self, session: &Session, pending: Vec<Pending>) -> Result<Vec<Handout>, Refused> {
        let mut handouts = Vec::with_capacity(pending.len());
        // They share a sync, or nearly so: when the first is on disk, the others are.
        for pending in pending {
            handouts.push(pending.recorded().await?);
        }
        self.hand_over(session, &handouts)?;
        Ok(handouts)
    }

    /// The process uses this version now, and none before it.
    pub fn acknowledge(&self, witness: &dyn Witness, session: &Session, secret: &str, version: &str) -> Result<(), Refused> {
        self.told(session.into(), self.try_acknowledge(witness, session, secret, version))
    }

    fn try_acknowledge(&self, witness: &dyn Witness, session: &Session, secret: &str, version: &str) -> Result<(), Refused> {
        self.still(witness, session)?;
        let (Ok(secret), Ok(version)) = (secret.parse::<SecretName>(), version.parse::<Version>()) else {
            return Err(Refused::bad_request("an acknowledgement names a secret and a version"));
        };
        if session.held().get(&secret) != Some(&version) {
            return Err(Refused::bad_request(format!("this session was not handed version {version} of {secret}")));
        }
        session.uses(&secret, &version);
        self.sessions.tell_moves();
        self.note(&Event::InUse { session, secret: &secret, version: &version });
        Ok(())
    }

    /// The session of this id, if this very process opened it and it is still open.
    pub fn session(&self, witness: &dyn Witness, id: &str) -> Result<Arc<Session>, Refused> {
        let id = id.parse().map_err(|_| Refused::not_open())?;
        let session = self.sessions.of(&id, witness.peer()).ok_or_else(Refused::not_open)?;
        match session.is_over(self.uptime()) {
            Some(end) => {
                self.close(&session, end);
                Err(Refused::ended(&session, end))
            }
            None => Ok(session),
        }
    }

    /// One more request of a session, which is neither a hand-out nor the first.
    pub fn request(&self, witness: &dyn Witness, session: &Session) -> Result<(), Refused> {
        let result = self.still(witness, session).and_then(|()| self.keep_request_within_bounds(session));
        self.told(session.into(), result)
    }

    /// Extends a unary session and says until when.
    pub fn renew(&self, session: &Session) -> Result<SystemTime, Refused> {
        let now = self.uptime();
        let renewed = session
            .renew(now + self.settings.session_lifetime)
            .ok_or_else(|| Refused::bad_request("this session lives as long as its stream or its process, and is not renewed"));
        self.told(session.into(), renewed).map(|until| SystemTime::now() + until.saturating_sub(now))
    }

    /// Ends one session. Ending one that has ended is nothing.
    pub fn close(&self, session: &Session, why: End) {
        if self.sessions.end_one(why, &session.id).is_some() {
            self.note(&Event::SessionEnded(session, why));
        }
    }

    /// Ends what a process that is gone has left open.
    pub fn process_gone(&self, process: &Process) {
        self.end(End::ProcessGone, |session| session.peer.process == *process);
    }

    /// What a second brings: sessions whose time is over end, and what waits to be summed up is told, finds in the log among it.
    pub fn expire(&self) {
        self.found_in_log(crate::redact::log::take_found());
        self.note_due();
        let now = self.uptime();
        for end in [End::Expired, End::LifetimeReached] {
            self.end(end, |session| session.is_over(now) == Some(end));
        }
    }

    /// Ends every session that `which` picks, and says how many.
    pub fn end(&self, why: End, which: impl Fn(&Session) -> bool) -> usize {
        let ended = self.sessions.end(why, which);
        ended.iter().for_each(|session| self.note(&Event::SessionEnded(session, why)));
        ended.len()
    }

    /// Opens sessions from now on: what the policy needs has been loaded.
    pub fn ready(&self) {
        self.record_changes();
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
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy.clone();
        self.note_whether_it_lends(&policy);
        self.end(End::PolicyChanged, |session| {
            let kept = Kept { scope: &session.scope, command: session.command() };
            !matches!(policy.decide(&session.peer, &Request::Keep(kept)), Decision::AllowSession(_))
        })
    }

    /// Tells each session whose scope holds a secret that changed.
    pub fn announce_changes(&self) {
        self.record_changes();
        self.sessions.list().iter().for_each(|session| session.tell());
    }

    /// The version that is in memory now, and which of all values that ever were it has.
    pub fn version(&self, secret: &SecretName) -> Option<(Version, Serial)> {
        self.store.version(secret.as_str())
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// May any open session still have this version in memory?
    pub fn may_be_held(&self, secret: &SecretName, version: &Version) -> bool {
        self.sessions.list().iter().any(|session| session.may_have(secret, version))
    }

    /// What this tool has taken.
    pub fn tally(&self, tool: &ToolName) -> Arc<Tally> {
        let known = self.tallies.read().unwrap_or_else(PoisonError::into_inner).get(tool).cloned();
        known.unwrap_or_else(|| {
            self.tallies.write().unwrap_or_else(PoisonError::into_inner).entry(tool.clone()).or_default().clone()
        })
    }

    /// The tally of a tool that policy has.
    fn known_tally(&self, policy: &Policy, tool: &str) -> Option<Arc<Tally>> {
        let tool: ToolName = tool.parse().ok()?;
        policy.tool(tool.as_str()).is_some().then(|| self.tally(&tool))
    }

    /// Hand-outs and denials of all tools.
    pub fn totals(&self) -> (u64, u64) {
        let tallies = self.tallies.read().unwrap_or_else(PoisonError::into_inner);
        let add = |(handouts, denials): (u64, u64), tally: &Arc<Tally>| {
            (handouts + tally.handouts.load(Relaxed), denials + tally.denials.load(Relaxed))
        };
        tallies.values().fold((0, 0), add)
    }

    /// How often tools were refused, and why. `None` is who named no tool of the policy.
    pub fn refusals(&self) -> Counts {
        self.refusals.counts()
    }

    /// Could this caller be a tool of the policy?
    pub fn knows(&self, peer: &Peer) -> bool {
        self.policy().knows(peer)
    }

    /// Values that were found where they should not be, by kind, since the daemon started.
    pub fn redactions(&self) -> BTreeMap<Kind, u64> {
        self.redactions.totals()
    }

    /// How long it takes to hand out what one call asks for.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Begins to measure one call.
    fn measured(&self, session: &Session) -> Measured {
        let span = span!("hand-out", tool = %session.tool(), secrets = tracing::field::Empty);
        let _ = session;
        Measured { begun: Instant::now(), span }
    }

    /// Measures one call, and counts it where it is refused. `all` is what it hands out.
    fn end_measured<T>(
        &self,
        session: &Session,
        Measured { begun, span }: &Measured,
        got: Result<T, Refused>,
        all: impl Fn(&T) -> &[Handout],
    ) -> Result<T, Refused> {
        match &got {
            Ok(handouts) => {
                self.latency.add(begun.elapsed());
                if !span.is_disabled() {
                    // Names that policy knows, where what was asked for may be anything.
                    let names: Vec<_> = all(handouts).iter().map(|handout| handout.secret.as_str()).collect();
                    span.record("secrets", names.join(" ")).record("outcome", "handed out");
                }
            }
            Err(refused) => _ = span.record("outcome", field::debug(refused.reason)),
        }
        self.told(session.into(), got)
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The session is open, and the kernel says that its caller is who it was.
    fn still(&self, witness: &dyn Witness, session: &Session) -> Result<(), Refused> {
        if let Some(end) = session.ended() {
            return Err(Refused::ended(session, end));
        }
        witness.recheck().map_err(|changed| {
            self.close(session, End::ProcessGone);
            Refused::changed().because(changed.to_string(), None)
        })
    }

    fn accept(&self, peer: &Peer, tool: &ToolName, scope: &[SecretName]) -> Result<Scope, Refused> {
        let policy = self.policy();
        match policy.decide(peer, &Request::Open { tool, scope }) {
            Decision::AllowSession(scope) => Ok(scope),
            Decision::Deny(denial) => Err(Refused::denied(&policy, &denial)),
            Decision::AllowLaunch(..) | Decision::Allow(_) => unreachable!("policy answers the question it is asked"),
        }
    }

    /// Decides, and reads what is granted.
    fn find<'p>(&self, policy: &'p Policy, session: &Session, secret: &str) -> Result<Found<'p>, Refused> {
        let grant = match policy.decide(&session.peer, &Request::Get { scope: &session.scope, secret }) {
            Decision::Allow(grant) => grant,
            Decision::Deny(denial) => return Err(Refused::denied(policy, &denial)),
            _ => unreachable!("policy answers the question it is asked"),
        };
        self.keep_to_approvals(policy, session, grant.secret())?;
        let held = match (policy.is_per_session(grant.secret()), self.leases.get()) {
            (true, Some(leases)) => leases.read(&grant, &session.id),
            _ => self.store.read(&grant),
        };
        let held = held.map_err(|absent| {
            let why = format!("{} is granted, but not to be had: {absent}", grant.secret());
            Refused::unavailable(grant.secret()).because(why, Some(grant.secret().clone()))
        })?;
        Ok(Found { grant, held })
    }

    /// Begins to put on record what was found.
    fn record(&self, session: &Session, Found { grant, held }: Found<'_>, begun: Instant) -> Result<Pending, Refused> {
        let (secret, took) = (grant.secret(), begun.elapsed());
        let first = !session.is_holder(secret.as_str());
        let event = Event::HandedOut { session, secret, version: &held.version, by: grant.origin(), took, first };
        let ticket = self.note_hand_out(&event)?;
        Ok(Pending { secret: secret.clone(), held, ticket })
    }

    /// What is on record goes to the tool, unless its session has ended while that was written.
    fn hand_over(&self, session: &Session, handouts: &[Handout]) -> Result<(), Refused> {
        if let Some(end) = session.ended() {
            return Err(Refused::ended(session, end));
        }
        for Handout { secret, held, .. } in handouts {
            session.holds(secret, &held.version);
        }
        session.tally.handouts.fetch_add(handouts.len() as u64, Relaxed);
        Ok(())
    }
}

/// A call that is under way.
struct Measured {
    begun: Instant,
    span: tracing::Span,
}

/// What is granted and there, and not handed out yet.
struct Found<'p> {
    grant: Grant<'p>,
    held: Arc<Held>,
}

fn random() -> Result<[u8; 16], Refused> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
        let reached = Reached { limit: Limit::Randomness, of: Whose::Daemon, value: 0 };
        Refused::limit(reached, Some(Duration::from_secs(1)), "")
    })?;
    Ok(bytes)
}

fn parse(declared: &Declaration<'_>) -> Result<(ToolName, Vec<SecretName>), Refused> {
    if declared.launch.is_some() && !declared.scope.is_empty() {
        return Err(Refused::bad_request("a launcher declares no scope: it gets what policy delivers to what it launches"));
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
    fn denied(policy: &Policy, denial: &Denial) -> Self {
        let secret = match denial {
            Denial::NotGranted { secret, .. } | Denial::NotRemote { secret, .. } => policy.secret(secret.as_str()).cloned(),
            Denial::OutsideScope(asked) => policy.secret(asked).cloned(),
            _ => None,
        };
        let (reason, message) = match denial {
            Denial::NoSuchTool(tool) | Denial::NotThisTool { tool, .. } => {
                (Reason::ToolNotAllowed, format!("this process may not act as tool {tool}; the daemon's log says why"))
            }
            Denial::EmptyScope => (Reason::BadRequest, "declare the secrets that are needed: the scope is empty".into()),
            Denial::NotGranted { tool, secret, .. } | Denial::NotRemote { tool, secret } => (
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
            Denial::RemoteLaunch(tool) => (
                Reason::CommandNotAllowed,
                format!("tool {tool} is launched on the daemon's own host alone: ask for its secrets one by one"),
            ),
            Denial::Command(BadCommand::None(tool)) => (
                Reason::CommandNotAllowed,
                format!(
                    "nothing says what is to run as tool {tool}: name it after `--`, or have the operator set `command` in [tool.{tool}]"
                ),
            ),
        };
        Self::new(reason, message).because(denial.to_string(), secret)
    }
}

//! The leases of all sessions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use tokio::{runtime::Handle, sync::Notify};
use tracing::{info, warn};

use super::{Host, List, NotLent, keep, record::Entry};
use crate::{
    name::{SecretName, SessionId, SourceName, ToolName, Version},
    policy::Grant,
    redact::Redactor,
    session::Session,
    source::{
        Cause, Source, SourceError, Wanted,
        lend::{Lend, Loan},
    },
    store::{Absent, Held, Serial},
};

/// How long a source may take to make a credential. Whoever asks waits for it.
const MAKE_WITHIN: Duration = Duration::from_secs(20);
/// Pauses between attempts to give a lease back.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How long an operator who revokes waits for the source, and how often it is looked.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// What nobody has any more stays known to the redactor for so long at the most: it may have been written somewhere.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// All leases that are out.
pub struct Leases(pub(super) Arc<Shared>);

pub(super) struct Shared {
    host: Arc<dyn Host>,
    pub control: Handle,
    redactor: Redactor,
    list: List,
    /// What an earlier daemon left on it: what this one lends is none of that.
    left: Mutex<BTreeMap<String, Entry>>,
    state: Mutex<State>,
    serial: AtomicU64,
    /// Leases that are being given back.
    going: AtomicUsize,
    gone: Notify,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Of>,
    /// What could not be given back yet, and why.
    owed: HashMap<String, Owed>,
}

/// A lease that its source has not taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub tool: ToolName,
    /// The one that it was made for first.
    secret: SecretName,
    /// Empty: nothing went wrong so far.
    problem: String,
    /// It is good until it ends by itself, whatever is done.
    pub for_good: bool,
}

impl Owed {
    fn of(tool: &ToolName, secret: &SecretName) -> Self {
        Self { tool: tool.clone(), secret: secret.clone(), problem: String::new(), for_good: false }
    }

    /// Why it is good still, in words.
    pub fn why(&self) -> &str {
        if self.problem.is_empty() { "its source has not taken it back yet" } else { &self.problem }
    }
}

/// What came of a revocation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// How many had one.
    pub sessions: usize,
    /// Those that are good still.
    pub owed: Vec<Owed>,
}

/// What one session has.
#[derive(Default)]
struct Of {
    /// By where it comes from: a user's name and its password, two secrets, come from one lease.
    slots: HashMap<Place, Slot>,
    values: BTreeMap<SecretName, Arc<Held>>,
}

pub(super) type Place = (SourceName, String);
/// Held while a lease is made, so that one session makes one.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Out>>>>;

/// A lease that is out.
pub(super) struct Out {
    pub loan: Loan,
    pub source: Arc<dyn Source>,
    pub place: Place,
    pub tool: ToolName,
    /// The secret that it was made for first.
    pub secret: SecretName,
    /// When it was made or extended, for how long, and whether that can be again.
    pub times: Mutex<(Instant, Duration, bool)>,
    /// Secrets under whose names the redactor knows something of it.
    learned: Mutex<BTreeSet<SecretName>>,
}

impl Out {
    pub fn ends(&self) -> Instant {
        let (since, life, _) = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        since + life
    }

    pub fn lender(&self) -> Result<&dyn Lend, SourceError> {
        self.source.lender().ok_or_else(no_lender)
    }
}

fn no_lender() -> SourceError {
    SourceError::new(Cause::Refused, "it makes no credentials for a session")
}

/// One lease, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub session: SessionId,
    pub tool: ToolName,
    pub secret: SecretName,
    pub version: Version,
    pub left: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a credential, which is on the list before anybody hears of it.
    pub async fn make(
        &self,
        source: &Arc<dyn Source>,
        place: &Place,
        tool: &ToolName,
        secret: &SecretName,
    ) -> Result<Out, NotLent> {
        let lender = source.lender().ok_or_else(no_lender)?;
        let late = || SourceError::new(Cause::Unreachable, format!("no answer within {} s", MAKE_WITHIN.as_secs()));
        let loan = tokio::time::timeout(MAKE_WITHIN, lender.borrow(&place.1, tool)).await.map_err(|_| late())??;
        let entry = entry(place, tool, secret, loan.life);
        let times = Mutex::new((Instant::now(), loan.life, loan.renewable));
        let (source, place, tool, secret) = (source.clone(), place.clone(), tool.clone(), secret.clone());
        let out = Out { loan, source, place, tool, secret, times, learned: Mutex::default() };
        if let Err(problem) = self.list.add(&out.loan.id, entry).await {
            // It is lost with this daemon otherwise.
            let _ = lender.give_back(&out.loan.id).await;
            return Err(NotLent::NotDurable(problem));
        }
        Ok(out)
    }

    /// What this secret is of a lease.
    fn value(&self, out: &Out, wanted: &Wanted) -> Result<Held, SourceError> {
        let value = out.lender()?.pick(&out.loan, wanted.field.as_deref())?;
        out.learned.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.secret.clone());
        if self.redactor.learn(&wanted.secret, &out.loan.version, &value).too_short {
            warn!(secret = %wanted.secret, "what was made is too short to be found in a text");
        }
        Ok(Held::lent(out.loan.version.clone(), self.serial.fetch_add(1, Relaxed), value))
    }

    /// For the session, while it is open. What it had of these secrets before goes.
    pub fn put(&self, session: &Session, out: &Out, wanted: &[Wanted]) -> Result<(), NotLent> {
        let values: Result<Vec<_>, SourceError> =
            wanted.iter().map(|wanted| Ok((wanted.secret.clone(), Arc::new(self.value(out, wanted)?)))).collect();
        let values = values?;
        let mut state = self.lock();
        // Under the lock: whoever ends it comes for what it has after that.
        if session.ended().is_some() {
            return Err(NotLent::Ended);
        }
        state.sessions.entry(session.id).or_default().values.extend(values);
        Ok(())
    }

    /// The secrets that a session has of a place.
    pub fn wanted(&self, session: &SessionId, place: &Place) -> Vec<Wanted> {
        let secrets: Vec<SecretName> =
            self.lock().sessions.get(session).map(|of| of.values.keys().cloned().collect()).unwrap_or_default();
        let places = secrets.iter().filter_map(|secret| self.host.place(secret).ok());
        places.filter(|(source, _, wanted)| (source, &wanted.path) == (&place.0, &place.1)).map(|(_, _, wanted)| wanted).collect()
    }

    /// They have ended under the session.
    pub fn withdraw(&self, session: &Session, secrets: &[Wanted]) {
        if let Some(of) = self.lock().sessions.get_mut(&session.id) {
            secrets.iter().for_each(|wanted| _ = of.values.remove(&wanted.secret));
        }
        session.tell();
    }

    pub async fn extended(&self, out: &Out, life: Duration, renewable: bool) {
        *out.times.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), life, renewable);
        let entry = entry(&out.place, &out.tool, &out.secret, life);
        if let Err(problem) = self.list.add(&out.loan.id, entry).await {
            warn!("the list of leases cannot be written: {problem}");
        }
    }

    /// Has it end at its source, in a task of its own, for as long as that takes.
    pub fn give_back(self: &Arc<Self>, out: Arc<Out>) {
        let shared = self.clone();
        // What nobody can have taken back keeps no daemon from stopping.
        let waited_for = usize::from(out.lender().is_ok_and(Lend::takes_back));
        self.going.fetch_add(waited_for, Relaxed);
        self.lock().owed.insert(out.loan.id.clone(), Owed::of(&out.tool, &out.secret));
        self.control.spawn(async move {
            let ends = out.ends();
            let given = shared.until_given_back(&out.loan.id, &out.source, ends).await;
            if given {
                info!(tool = %out.tool, secret = %out.secret, version = %out.loan.version, "lease given back");
            }
            shared.going.fetch_sub(waited_for, Relaxed);
            shared.gone.notify_waiters();
            let known = ends.saturating_duration_since(Instant::now()).min(REMEMBERED);
            tokio::time::sleep(known).await;
            let learned = std::mem::take(&mut *out.learned.lock().unwrap_or_else(PoisonError::into_inner));
            learned.iter().for_each(|secret| shared.redactor.forget(secret, &out.loan.version));
        });
    }

    fn owes(&self, id: &str, problem: String, for_good: bool) {
        if let Some(owed) = self.lock().owed.get_mut(id) {
            (owed.problem, owed.for_good) = (problem, for_good);
        }
    }

    /// `false`: it ended by itself before the source could be told.
    async fn until_given_back(&self, id: &str, source: &Arc<dyn Source>, ends: Instant) -> bool {
        let mut wait = AGAIN.0;
        let given = loop {
            let told = match source.lender() {
                Some(lender) => lender.give_back(id).await,
                None => break false,
            };
            match told {
                Ok(()) => break true,
                // The source does not know it: it has ended.
                Err(error) if error.cause == Cause::NotFound => break true,
                Err(_) if Instant::now() >= ends => break false,
                Err(error) if !source.lender().is_some_and(Lend::takes_back) => {
                    let left = ends.saturating_duration_since(Instant::now());
                    let good = format!("{error}; these are good for {} s more", left.as_secs());
                    info!("a credential for a session is not given back: {good}");
                    self.owes(id, good, true);
                    tokio::time::sleep(left).await;
                    break false;
                }
                Err(error) => {
                    warn!("a lease is not given back yet, and tried again: {error}");
                    self.owes(id, error.to_string(), false);
                }
            }
            tokio::time::sleep(wait.min(ends.saturating_duration_since(Instant::now()) + Duration::from_secs(1))).await;
            wait = (wait * 2).min(AGAIN.1);
        };
        self.lock().owed.remove(id);
        if let Err(problem) = self.list.remove(id).await {
            warn!("the list of leases cannot be written: {problem}");
        }
        given
    }

    /// The source that a lease came from, as configuration has it now: a reload may have put another in its place.
    pub fn source(&self, out: &Out) -> Arc<dyn Source> {
        self.host.source(&out.place.0).unwrap_or_else(|| out.source.clone())
    }

    /// The lease that stands in a session's slot now, in place of another.
    pub async fn replace(&self, session: &SessionId, place: &Place, new: Arc<Out>) -> Option<Arc<Out>> {
        let slot = self.lock().sessions.get(session)?.slots.get(place)?.clone();
        slot.lock().await.replace(new)
    }

    /// Is this the lease that the session has of that place?
    pub async fn is_current(&self, session: &SessionId, out: &Arc<Out>) -> bool {
        let slot = self.lock().sessions.get(session).and_then(|of| of.slots.get(&out.place).cloned());
        match slot {
            Some(slot) => slot.lock().await.as_ref().is_some_and(|current| Arc::ptr_eq(current, out)),
            None => false,
        }
    }

    /// The slot is empty again: the next who asks has another made.
    pub async fn clear(&self, session: &SessionId, place: &Place) {
        let slot = self.lock().sessions.get(session).and_then(|of| of.slots.get(place).cloned());
        if let Some(slot) = slot {
            slot.lock().await.take();
        }
    }
}

impl Leases {
    pub fn new(host: Arc<dyn Host>, redactor: Redactor, list: List, control: Handle) -> Self {
        let left = Mutex::new(list.all());
        let (state, serial, going, gone) = (Mutex::default(), AtomicU64::new(0), AtomicUsize::new(0), Notify::new());
        Self(Arc::new(Shared { host, control, redactor, list, left, state, serial, going, gone }))
    }

    /// What the session has of the grant's secret.
    pub fn read(&self, grant: &Grant<'_>, session: &SessionId) -> Result<Arc<Held>, Absent> {
        let state = self.0.lock();
        let held = state.sessions.get(session).and_then(|of| of.values.get(grant.secret()));
        held.cloned().ok_or(Absent::NotLoaded)
    }

    /// Its version. No grant: a version is a fact, not a value.
    pub fn version(&self, session: &SessionId, secret: &SecretName) -> Option<(Version, Serial)> {
        let state = self.0.lock();
        let held = state.sessions.get(session)?.values.get(secret)?;
        Some((held.version.clone(), held.serial()))
    }

    /// Has one made for this session, unless it has it. It is made though the caller goes away, and then given back with the session.
    pub async fn lend(&self, session: &Arc<Session>, secret: &SecretName) -> Result<(), NotLent> {
        let (shared, session, secret) = (self.0.clone(), session.clone(), secret.clone());
        let lent = self.0.control.spawn(async move { lend(&shared, &session, &secret).await });
        lent.await.unwrap_or_else(|_| Err(SourceError::new(Cause::Unreachable, "it failed inside").into()))
    }

    /// A session has ended: what was made for it ends too.
    pub fn ended(&self, session: &SessionId) {
        let Some(of) = self.0.lock().sessions.remove(session) else { return };
        for slot in of.slots.into_values() {
            let shared = self.0.clone();
            let take = move |slot: &mut Option<Arc<Out>>| slot.take().into_iter().for_each(|out| shared.give_back(out));
            // Somebody may be making one: who does finds the session ended, and nothing is left here.
            let at_once = slot.try_lock().map(|mut slot| take(&mut slot)).is_ok();
            if !at_once {
                let shared = self.0.clone();
                self.0.control.spawn(async move {
                    if let Some(out) = slot.lock().await.take() {
                        shared.give_back(out);
                    }
                });
            }
        }
    }

    /// Has all end that was made of this secret, because an operator said so, and comes back when its source has taken it back, or does not
    /// at once. A session that asks again has another made.
    pub async fn revoke(&self, secret: &SecretName) -> Revoked {
        let Ok((source, _, wanted)) = self.0.host.place(secret) else { return Revoked::default() };
        let place: Place = (source, wanted.path);
        let slots: Vec<(SessionId, Slot)> = {
            let state = self.0.lock();
            state.sessions.iter().filter_map(|(id, of)| Some((*id, of.slots.get(&place)?.clone()))).collect()
        };
        // Together: where one is being made, that is waited for.
        let taken = join_all(slots.into_iter().map(|(session, slot)| async move {
            let mut slot = slot.lock().await;
            let out = slot.take()?;
            let of_it = self.0.wanted(&session, &out.place);
            if let Some(of) = self.0.lock().sessions.get_mut(&session) {
                of_it.iter().for_each(|wanted| _ = of.values.remove(&wanted.secret));
            }
            let id = out.loan.id.clone();
            self.0.give_back(out);
            Some(id)
        }));
        let ids: Vec<String> = taken.await.into_iter().flatten().collect();
        let owed = || -> Vec<Owed> {
            let state = self.0.lock();
            ids.iter().filter_map(|id| state.owed.get(id).cloned()).collect()
        };
        let begun = Instant::now();
        while begun.elapsed() < GIVEN_BACK_WITHIN && owed().iter().any(|owed| !owed.for_good) {
            tokio::time::sleep(LOOK).await;
        }
        Revoked { sessions: ids.len(), owed: owed() }
    }

    /// Gives back what an earlier daemon did not.
    pub fn resume(&self) {
        let left = std::mem::take(&mut *self.0.left.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, Entry { source, ends, tool, secret }) in left {
            if let (Ok(tool), Ok(secret)) = (tool.parse(), secret.parse()) {
                self.0.lock().owed.insert(id.clone(), Owed::of(&tool, &secret));
            }
            let source = source.parse::<SourceName>().ok().and_then(|name| self.0.host.source(&name));
            let left = Duration::from_secs(ends.saturating_sub(seconds(SystemTime::now())));
            let shared = self.0.clone();
            self.0.control.spawn(async move {
                match source {
                    Some(source) => {
                        let given = shared.until_given_back(&id, &source, Instant::now() + left).await;
                        info!(given, "a lease that an earlier daemon left is over");
                    }
                    // Nobody can be told: it ends by itself.
                    None => {
                        shared.lock().owed.remove(&id);
                        let _ = shared.list.remove(&id).await;
                    }
                }
            });
        }
    }

    /// Those that are out.
    pub fn facts(&self) -> Vec<Facts> {
        let state = self.0.lock();
        let slots = state.sessions.iter().flat_map(|(session, of)| of.slots.values().map(move |slot| (session, slot)));
        let facts = |(session, slot): (&SessionId, &Slot)| {
            let slot = slot.try_lock().ok()?;
            let out = slot.as_ref()?;
            let left = out.ends().saturating_duration_since(Instant::now());
            let (tool, secret, version) = (out.tool.clone(), out.secret.clone(), out.loan.version.clone());
            Some(Facts { session: *session, tool, secret, version, left })
        };
        slots.filter_map(facts).collect()
    }

    /// Leases of a tool that gave it this secret, and that their source has not taken back. Those that it had for another secret first
    /// are among them, where both come from one place.
    pub fn owed(&self, tool: &ToolName, secret: &SecretName) -> Vec<Owed> {
        let of_tool: Vec<Owed> = self.0.lock().owed.values().filter(|owed| owed.tool == *tool).cloned().collect();
        let place = |secret: &SecretName| self.0.host.place(secret).ok().map(|(source, _, wanted)| (source, wanted.path));
        let from = place(secret);
        let gave = |owed: &Owed| owed.secret == *secret || (from.is_some() && place(&owed.secret) == from);
        of_tool.into_iter().filter(gave).collect()
    }

    /// Does what is made of this secret end with its session? If not, it is good until it ends by itself.
    pub fn ends_with_session(&self, secret: &SecretName) -> bool {
        let place = self.0.host.place(secret);
        place.is_ok_and(|(_, source, _)| source.lender().is_some_and(Lend::takes_back))
    }

    /// Resolves when nothing is being given back.
    pub async fn settled(&self) {
        loop {
            let gone = self.0.gone.notified();
            if self.0.going.load(Relaxed) == 0 {
                return;
            }
            gone.await;
        }
    }
}

async fn lend(shared: &Arc<Shared>, session: &Arc<Session>, secret: &SecretName) -> Result<(), NotLent> {
    let (name, source, wanted) = shared.host.place(secret).map_err(NotLent::Configuration)?;
    let place: Place = (name, wanted.path.clone());
    let slot = {
        let mut state = shared.lock();
        if session.ended().is_some() {
            return Err(NotLent::Ended);
        }
        state.sessions.entry(session.id).or_default().slots.entry(place.clone()).or_default().clone()
    };
    let mut slot = slot.lock().await;
    let out = match &*slot {
        Some(out) => out.clone(),
        None => {
            let out = Arc::new(shared.make(&source, &place, session.tool(), secret).await?);
            info!(tool = %session.tool(), session = %session.id, %secret, version = %out.loan.version, seconds = out.loan.life.as_secs(), "credential made for the session");
            out
        }
    };
    match shared.put(session, &out, std::slice::from_ref(&wanted)) {
        Ok(()) => {
            if slot.is_none() {
                let (weak, kept, shared) = (Arc::downgrade(session), out.clone(), shared.clone());
                *slot = Some(out);
                shared.control.clone().spawn(async move { keep::keep(shared, weak, kept).await });
            }
            // For who follows it by a call of its own.
            session.tell();
            Ok(())
        }
        Err(why) => {
            // Of a field that there is not, or of a session that ended meanwhile.
            if slot.is_none() {
                shared.give_back(out);
            }
            Err(why)
        }
    }
}

fn entry(place: &Place, tool: &ToolName, secret: &SecretName, life: Duration) -> Entry {
    let ends = seconds(SystemTime::now() + life);
    Entry { source: place.0.to_string(), ends, tool: tool.to_string(), secret: secret.to_string() }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

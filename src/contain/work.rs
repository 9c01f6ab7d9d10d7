//! What containing does, one thing after the other: what is durable first, what takes time last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use tokio::{runtime::Handle, sync::watch};
use tracing::{error, info, warn};

use super::{Fate, Folder, Host, Part, Record, Unit, UnitState, held};
use crate::{
    audit::{self, Kind, Outcome, Who},
    broker::Broker,
    name::{SecretName, ToolName, Version},
    rotate::{self, End, Rotations},
    session::Session,
};

/// Secrets that are rotated at one time.
const AT_ONCE: usize = 16;
/// How often a rotation that does not begin is tried again, and after how long: a source may be slow, and a secret that comes from the same
/// place may be in rotation.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(2);
/// Where it takes two operators, how long the first one's order waits for the second's.
pub const SECOND_WITHIN: Duration = Duration::from_secs(600);
/// How long a unit may take to stop before it is said that it runs on, and how often that is looked at.
const TO_STOP: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is ordered.
#[derive(Debug, Clone)]
pub struct Order {
    pub tool: ToolName,
    /// Who ordered it, in words.
    pub by: String,
    pub reason: String,
    /// How long those who share a secret have to move.
    pub overlap: Duration,
}

impl Order {
    /// Where nobody says how long.
    pub const OVERLAP: Duration = Duration::from_secs(30);
}

/// Where it stands, for those who follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub record: Record,
    pub phase: Phase,
    /// Rotations that are under way.
    pub rotations: BTreeMap<SecretName, rotate::Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was done.
    Planned,
    /// Nothing was done: a second operator must order the same.
    Waiting,
    Working,
    Over,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Over => "over",
        }
    }
}

/// Why a tool is not contained, or not released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no tool {0}; `valetkey tools` lists them")]
    NoSuchTool(ToolName),
    #[error("{0} is not contained; `valetkey status` lists those that are")]
    NotContained(ToolName),
    #[error("{0} stays contained, because its file cannot be removed: {1}")]
    NotReleased(ToolName, String),
}

/// All that are contained.
pub struct Containments {
    shared: Arc<Shared>,
    control: Handle,
}

struct Shared {
    broker: Arc<Broker>,
    rotations: Arc<Rotations>,
    host: Arc<dyn Host>,
    folder: Folder,
    tools: Mutex<BTreeMap<ToolName, watch::Sender<Progress>>>,
    /// One order at a time: what is on disk is what holds.
    turn: tokio::sync::Mutex<()>,
    /// One who writes.
    pen: tokio::sync::Mutex<()>,
    /// Orders that wait for a second operator: who gave the first, and when.
    first: Mutex<BTreeMap<ToolName, (String, std::time::Instant)>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ToolName, watch::Sender<Progress>>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containments {
    /// Blocks what an earlier daemon has contained. To be made before anybody is served.
    ///
    /// # Errors
    /// Where it cannot be known which tools those are.
    pub fn take(
        broker: Arc<Broker>,
        rotations: Arc<Rotations>,
        host: Arc<dyn Host>,
        folder: Folder,
        control: Handle,
    ) -> Result<Self, String> {
        let mut tools = BTreeMap::new();
        for (tool, record) in folder.read_all()? {
            broker.contain(&tool);
            let record = record.unwrap_or_else(|problem| {
                error!(%tool, "this tool is contained, and it is not known any more what is to be rotated: {problem}");
                Record::new(&tool, "an earlier order", "", Order::OVERLAP, SystemTime::now())
            });
            warn!(%tool, by = record.by, "this tool is contained: it gets nothing until it is released (valetkey release {tool})");
            let phase = if record.is_open() { Phase::Working } else { Phase::Over };
            tools.insert(tool, watch::Sender::new(Progress { record, phase, rotations: BTreeMap::new() }));
        }
        let (tools, turn, pen, first) = (Mutex::new(tools), Default::default(), Default::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { broker, rotations, host, folder, tools, turn, pen, first }), control })
    }

    /// Goes on with what a daemon before this one did not bring to an end. When all was loaded.
    pub fn resume(&self) {
        let open: Vec<_> = self.shared.lock().iter().filter(|(_, one)| one.borrow().phase == Phase::Working).map(first).collect();
        for tool in open {
            info!(%tool, "containing goes on");
            self.work(&tool);
        }
    }

    /// What containing this tool would do; nothing is done.
    pub async fn outlook(&self, order: &Order) -> Result<Progress, Refused> {
        let shared = &self.shared;
        let tool = &order.tool;
        shared.known(tool)?;
        let mut record = Record::new(tool, &order.by, &order.reason, order.overlap, SystemTime::now());
        let mut sessions = shared.broker.sessions().list();
        sessions.retain(|session| session.tool() == tool);
        shared.look(tool, &mut record, &sessions).await;
        let policy = shared.broker.policy();
        let open = record.open();
        for secret in open.iter().filter(|secret| policy.is_per_session(secret)) {
            let ends = shared.broker.leases().is_none_or(|leases| leases.ends_with_session(secret));
            let Some(part) = record.part(secret) else { continue };
            part.way = LEASE.into();
            if !ends {
                (part.fate, part.problem) =
                    (Fate::Exposed, "its source takes nothing back: it is good until it ends by itself".into());
            }
        }
        let outlooks = open.into_iter().filter(|secret| !policy.is_per_session(secret)).map(|secret| async {
            let outlook = shared.rotations.outlook(&secret, false).await;
            (secret, outlook)
        });
        let outlooks: Vec<_> = stream::iter(outlooks).buffered(AT_ONCE).collect().await;
        for (secret, outlook) in outlooks {
            let Some(part) = record.part(&secret) else { continue };
            match outlook {
                Ok(outlook) => part.way = outlook.way.word().into(),
                Err(why) => (part.fate, part.problem) = (Fate::Exposed, why.to_string()),
            }
        }
        Ok(Progress { record, phase: Phase::Planned, rotations: BTreeMap::new() })
    }

    /// Where it takes two: notes the order of this person. The other one, where somebody else ordered the same a short time ago.
    ///
    /// # Errors
    /// Where there is no such tool.
    pub fn second(&self, tool: &ToolName, person: &str) -> Result<Option<String>, Refused> {
        self.shared.known(tool)?;
        let mut first = self.shared.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.retain(|_, (_, at)| at.elapsed() < SECOND_WITHIN);
        match first.get(tool) {
            Some((other, _)) if other != person => Ok(first.remove(tool).map(|(other, _)| other)),
            _ => {
                first.insert(tool.clone(), (person.to_owned(), std::time::Instant::now()));
                Ok(None)
            }
        }
    }

    /// Contains a tool, and follows how that goes. It goes on whether or not anybody follows. Of one that is contained already, what is
    /// left is tried again.
    pub async fn contain(&self, order: Order) -> Result<watch::Receiver<Progress>, Refused> {
        let shared = &self.shared;
        let tool = order.tool.clone();
        let _turn = shared.turn.lock().await;
        let before = shared.lock().get(&tool).map(|one| one.borrow().clone());
        let mut record = match before {
            Some(Progress { phase: Phase::Working, .. }) => return shared.follow(&tool),
            Some(Progress { mut record, .. }) => {
                record.set_overlap(order.overlap);
                record
            }
            None => {
                shared.known(&tool)?;
                Record::new(&tool, &order.by, &order.reason, order.overlap, SystemTime::now())
            }
        };
        // First that it is so after a crash too, then that it is so, and only then what takes time. A disk that fails keeps nobody from being
        // cut off.
        let kept = shared.write(&record).await;
        let ended = shared.broker.contain(&tool);
        warn!(%tool, by = order.by, sessions_ended = ended.len(), "CONTAINED: this tool gets nothing until it is released");
        shared.note(&tool, Kind::ToolContained, "blocked", Outcome::Success, ended.len(), &order.by);
        shared.look(&tool, &mut record, &ended).await;
        if let Err(problem) = kept {
            let words = format!("it is blocked only until the daemon restarts, because that cannot be written: {problem}");
            error!(%tool, "{words}");
            record.unknown = [record.unknown, words].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join("; ");
        }
        let (progress, followed) = watch::channel(Progress { record, phase: Phase::Working, rotations: BTreeMap::new() });
        shared.lock().insert(tool.clone(), progress);
        shared.save(&tool).await;
        self.work(&tool);
        Ok(followed)
    }

    /// Lets it open sessions again.
    pub async fn release(&self, tool: &ToolName, by: &str) -> Result<(), Refused> {
        let shared = &self.shared;
        let _turn = shared.turn.lock().await;
        if !shared.lock().contains_key(tool) {
            return Err(Refused::NotContained(tool.clone()));
        }
        // Nobody writes how far it is in between, or the file would be there again.
        let _pen = shared.pen.lock().await;
        let (folder, gone) = (shared.folder.clone(), tool.clone());
        let removed = tokio::task::spawn_blocking(move || folder.remove(&gone)).await;
        let removed = removed.map_err(|_| "it failed inside".to_owned()).and_then(|removed| removed);
        removed.map_err(|problem| Refused::NotReleased(tool.clone(), problem))?;
        shared.lock().remove(tool);
        shared.broker.release(tool);
        warn!(%tool, by, "released: the tool may open sessions again");
        shared.note(tool, Kind::ToolReleased, "released", Outcome::Success, 0, by);
        Ok(())
    }

    /// Since when a tool is contained, and by whom.
    pub fn of(&self, tool: &ToolName) -> Option<(SystemTime, String)> {
        let tools = self.shared.lock();
        let progress = tools.get(tool)?.borrow();
        Some((progress.record.since(), progress.record.by.clone()))
    }

    /// Sees to all that is open, in a task of its own.
    fn work(&self, tool: &ToolName) {
        let (shared, tool) = (self.shared.clone(), tool.clone());
        self.control.spawn(async move { shared.work(&tool).await });
    }
}

fn first<A: Clone, B>((a, _): (&A, &B)) -> A {
    a.clone()
}

impl Shared {
    fn known(&self, tool: &ToolName) -> Result<(), Refused> {
        let known = self.broker.policy().tool(tool.as_str()).is_some();
        if known { Ok(()) } else { Err(Refused::NoSuchTool(tool.clone())) }
    }

    fn follow(&self, tool: &ToolName) -> Result<watch::Receiver<Progress>, Refused> {
        self.lock().get(tool).map(watch::Sender::subscribe).ok_or_else(|| Refused::NotContained(tool.clone()))
    }

    async fn write(&self, record: &Record) -> Result<(), String> {
        let (folder, record) = (self.folder.clone(), record.clone());
        let written = tokio::task::spawn_blocking(move || folder.write(&record)).await;
        written.map_err(|_| "writing failed inside".to_owned()).and_then(|written| written)
    }

    /// How far it is goes to disk. Where that cannot be, a restart does some of it again, and the tool stays contained.
    async fn save(&self, tool: &ToolName) {
        let _pen = self.pen.lock().await;
        let Some(record) = self.lock().get(tool).map(|one| one.borrow().record.clone()) else { return };
        if let Err(problem) = self.write(&record).await {
            warn!(%tool, "it is contained, and how far that is cannot be written: {problem}");
        }
    }

    /// What the tool holds, and where it still runs.
    async fn look(&self, tool: &ToolName, record: &mut Record, sessions: &[Arc<Session>]) {
        let (broker, host) = (&self.broker, &*self.host);
        record.stopped.extend(sessions.iter().map(|session| held::session(session)));
        for unit in held::units(broker, host, tool) {
            if !record.stopped.contains(&unit) {
                record.stopped.push(unit);
            }
        }
        if let Some(unit) = self.broker.policy().unit_to_stop(tool).filter(|unit| host.unit_runs(unit)) {
            record.unit = Some(Unit { name: unit.into(), state: UnitState::Stopping, problem: String::new() });
        }
        let (held, problem) = held::held(broker, host, tool, sessions).await;
        (record.unknown, record.looked) = (problem.unwrap_or_default(), true);
        for (secret, part) in held::parts(broker, tool, &held) {
            record.parts.entry(secret).or_insert(part);
        }
        // What could not be done before is tried again.
        record.parts.values_mut().filter(|part| part.fate == Fate::Exposed).for_each(|part| part.fate = Fate::Waiting);
    }

    fn note(&self, tool: &ToolName, kind: Kind, action: &str, outcome: Outcome, count: usize, by: &str) {
        let who = Who::new(Some(tool), None, None);
        let (who, action, count) = (Some(&who), Some(action), Some(count as u64));
        self.broker.audit().note(&audit::Event { who, action, count, detail: Some(by), ..audit::Event::new(kind, outcome) });
    }

    /// Changes what is known, and tells those who follow. `None`: it was released meanwhile.
    fn change<T>(&self, tool: &ToolName, change: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        let tools = self.lock();
        let (progress, mut changed) = (tools.get(tool)?, None);
        progress.send_modify(|progress| changed = Some(change(progress)));
        changed
    }

    /// Sees to all that is open.
    async fn work(&self, tool: &ToolName) {
        let Some(mut record) = self.change(tool, |progress| progress.record.clone()) else { return };
        if !record.looked {
            // The daemon ended between the block and this. Its sessions ended with it, and what they were handed is in the log.
            self.look(tool, &mut record, &[]).await;
            self.change(tool, |progress| progress.record = record);
            self.save(tool).await;
        }
        let Some(open) = self.change(tool, |progress| progress.record.open()) else { return };
        tokio::join!(self.stop_unit(tool), self.see_to_all(tool, open));
        let Some(exposed) = self.change(tool, |progress| {
            progress.phase = Phase::Over;
            let runs = progress.record.unit.as_ref().is_some_and(|unit| unit.state == UnitState::Running);
            progress.record.exposed() + usize::from(!progress.record.unknown.is_empty()) + usize::from(runs)
        }) else {
            return;
        };
        self.save(tool).await;
        let (outcome, by) = match exposed {
            0 => (Outcome::Success, "nothing that it held is good any more"),
            _ => (Outcome::Failure, "some of what it held may be good still, or its unit runs on"),
        };
        match exposed {
            0 => info!(%tool, "contained: {by}"),
            _ => error!(%tool, exposed, "contained, and {by}: valetkey contain {tool} says what"),
        }
        self.note(tool, Kind::ToolContained, "over", outcome, exposed, by);
    }

    async fn see_to_all(&self, tool: &ToolName, open: Vec<SecretName>) {
        stream::iter(open).for_each_concurrent(AT_ONCE, |secret| async move { self.see_to(tool, &secret).await }).await;
    }

    /// The unit that the tool is, where policy wants it stopped: until it is, or it is known why not.
    async fn stop_unit(&self, tool: &ToolName) {
        let Some(unit) = self.change(tool, |progress| progress.record.unit.clone()).flatten() else { return };
        if unit.state != UnitState::Stopping {
            return;
        }
        let mut problem = self.host.stop_unit(&unit.name).err();
        let begun = std::time::Instant::now();
        while problem.is_none() && self.host.unit_runs(&unit.name) {
            if begun.elapsed() >= TO_STOP {
                problem = Some(format!("{} s after it was asked for", TO_STOP.as_secs()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let state = if self.host.unit_runs(&unit.name) { UnitState::Running } else { UnitState::Stopped };
        let problem = problem.filter(|_| state == UnitState::Running).unwrap_or_default();
        let outcome = if state == UnitState::Stopped { Outcome::Success } else { Outcome::Failure };
        match outcome {
            Outcome::Success => info!(%tool, unit = unit.name, "its unit is stopped"),
            _ => error!(%tool, unit = unit.name, "its unit is to be stopped, and RUNS: {problem}"),
        }
        self.note(tool, Kind::ToolContained, "unit", outcome, 0, &unit.name);
        self.change(tool, |progress| {
            if let Some(unit) = &mut progress.record.unit {
                (unit.state, unit.problem) = (state, problem);
            }
        });
        self.save(tool).await;
    }

    /// One secret, until what the tool has of it is good no more, or it is known why not.
    async fn see_to(&self, tool: &ToolName, secret: &SecretName) {
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
            }
            let tried = match self.broker.policy().is_per_session(secret) {
                true => self.try_to_end(tool, secret).await,
                false => self.try_to_rotate(tool, secret).await,
            };
            match tried {
                Some(Tried::Done) | None => break,
                Some(Tried::Again(problem)) => {
                    warn!(%tool, %secret, "what a contained tool holds is not rotated yet: {problem}");
                    let last = attempt + 1 == TRIES;
                    let fate = if last { Fate::Exposed } else { Fate::Waiting };
                    self.settle(tool, secret, |part| (part.fate, part.problem) = (fate, problem));
                }
            }
        }
        self.save(tool).await;
    }

    fn settle(&self, tool: &ToolName, secret: &SecretName, change: impl FnOnce(&mut Part)) {
        self.change(tool, |progress| {
            progress.rotations.remove(secret);
            progress.record.part(secret).map(change)
        });
    }

    /// What was made for its sessions is given back as they end; here it is waited for.
    async fn try_to_end(&self, tool: &ToolName, secret: &SecretName) -> Option<Tried> {
        let owed = || self.broker.leases().map(|leases| leases.owed(tool, secret)).unwrap_or_default();
        let begun = std::time::Instant::now();
        while owed().iter().any(|owed| !owed.for_good) && begun.elapsed() < PAUSE * 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut owed = owed();
        // One that its source may take back yet is tried again.
        owed.sort_by_key(|owed| owed.for_good);
        let others = owed.len().saturating_sub(1);
        match owed.into_iter().next() {
            None => {
                self.settle(tool, secret, |part| {
                    part.way = LEASE.into();
                    part.problem.clear();
                    part.rotated(None);
                });
                Some(Tried::Done)
            }
            Some(owed) if owed.for_good => {
                let others =
                    if others > 0 { format!("; {others} more of it, of other sessions, as well") } else { String::new() };
                let problem = format!("{}{others}", owed.why());
                self.settle(tool, secret, |part| (part.way, part.fate, part.problem) = (LEASE.into(), Fate::Exposed, problem));
                Some(Tried::Done)
            }
            Some(owed) => Some(Tried::Again(owed.why().into())),
        }
    }

    /// `None`: it was released meanwhile, and is not to be rotated any more.
    async fn try_to_rotate(&self, tool: &ToolName, secret: &SecretName) -> Option<Tried> {
        let (overlap, has) = self
            .change(tool, |progress| (progress.record.overlap(), progress.record.part(secret).and_then(|part| part.version())))?;
        let rotated = |new: Option<&Version>| {
            self.settle(tool, secret, |part| {
                part.problem.clear();
                part.rotated(new);
            });
            Some(Tried::Done)
        };
        let followed = match self.rotations.of(secret) {
            // One that was begun before a restart, or by somebody else: it makes what the tool has worthless too, unless that is newer.
            Some(one) if !one.state.is_over() => self.rotations.hurry(secret, overlap),
            // It took away just what the tool has: begun by an earlier daemon, it has come to its end.
            Some(one) if one.state.end == Some(End::Rotated) && one.old == has => return rotated(one.new.as_ref()),
            _ => match self.broker.version(secret) {
                // Somebody has put another in its place since, as an operator does with one that only they can change.
                Some((current, _)) if has.as_ref().is_some_and(|has| *has != current) => return rotated(Some(&current)),
                _ => None,
            },
        };
        let followed = match followed {
            Some(followed) => followed,
            None => match self.rotations.start(secret, None, BY, Some(overlap)).await {
                Ok(followed) => followed,
                Err(rotate::Refused::CannotBe(_, why)) => {
                    self.settle(tool, secret, |part| (part.fate, part.problem) = (Fate::Exposed, why));
                    return Some(Tried::Done);
                }
                Err(refused) => return Some(Tried::Again(refused.to_string())),
            },
        };
        let ended = self.follow_rotation(tool, secret, followed).await?;
        match ended.state.end {
            Some(End::Rotated) if ended.new != has => rotated(ended.new.as_ref()),
            // Another's, which made what the tool has: now it is ours.
            Some(End::Rotated) => Some(Tried::Again("it was rotated just before the tool had it, and is once more".into())),
            Some(End::RolledBack) => Some(Tried::Again("its rotation was rolled back".into())),
            Some(End::Undone | End::Lost) | None => Some(Tried::Again(ended.problem)),
        }
    }

    /// To its end. `None`: it was released meanwhile.
    async fn follow_rotation(
        &self,
        tool: &ToolName,
        secret: &SecretName,
        mut followed: watch::Receiver<rotate::Progress>,
    ) -> Option<rotate::Progress> {
        self.change(tool, |progress| progress.record.part(secret).map(|part| part.fate = Fate::Rotating))?;
        self.save(tool).await;
        loop {
            let now = followed.borrow_and_update().clone();
            let way = now.way.word();
            self.change(tool, |progress| {
                if let Some(part) = progress.record.part(secret) {
                    part.way = way.into();
                }
                progress.rotations.insert(secret.clone(), now.clone());
            })?;
            if now.state.is_over() || followed.changed().await.is_err() {
                return Some(now);
            }
        }
    }
}

/// How what was made for a session is made worthless.
const LEASE: &str = "lease";
/// Who began a rotation.
const BY: &str = "containment";

enum Tried {
    Done,
    /// Not yet, and why.
    Again(String),
}

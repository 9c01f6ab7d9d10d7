//! All rotations of this daemon: begun, followed, rolled back, resumed after a restart, and begun by the clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use tracing::{info, warn};

use super::{
    Folder, Holder, Host, Record, Scheduled, Settings, State, Target, Way,
    drive::{self, Driving},
    holders,
    machine::{Event, Step},
    schedule,
};
use crate::{
    broker::Broker,
    name::{SecretName, Version},
    secret::SecretValue,
    source::{SourceError, write::Current},
};

/// Where a rotation stands, for those who follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub secret: SecretName,
    pub token: String,
    pub way: Way,
    /// Who began it: `operator`, `schedule` or `containment`.
    pub by: String,
    pub state: State,
    pub old: Option<Version>,
    /// The version that holders move to: the new one, or, when it is rolled back, the old one.
    pub new: Option<Version>,
    /// Everyone who has the secret, once there is something to move to.
    pub holders: Vec<Holder>,
    pub started: SystemTime,
    /// When holders have to have moved.
    pub deadline: Option<SystemTime>,
    pub ended: Option<SystemTime>,
    pub problem: String,
}

/// What a rotation would do.
#[derive(Debug, Clone)]
pub struct Outlook {
    pub way: Way,
    pub version: Version,
    /// When that version was made, where the source or our own record knows.
    pub since: Option<SystemTime>,
    pub holders: Vec<Holder>,
}

/// Why a rotation does not begin, or is not rolled back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} is being rotated; `valetkey secrets --versions` shows how far it is")]
    UnderWay(SecretName),
    #[error(
        "{0} is being rotated by another daemon (rotation {1}); if that is gone for good, restart it on its host, or remove what it left at the \
         source as docs/rotation.md says"
    )]
    Elsewhere(SecretName, String),
    #[error("{0} cannot be rotated: {1}")]
    CannotBe(SecretName, String),
    #[error("{0}: {1}")]
    Source(SecretName, SourceError),
    #[error("{0} is not being rotated: the old value is retired by now, or there was none")]
    NotUnderWay(SecretName),
    #[error("{0} is rotated by its source, which has no way back: rotate it once more")]
    NoWayBack(SecretName),
    #[error("{0} is at the step `{1}`, from which it is not rolled back: try again in a moment")]
    NotNow(SecretName, &'static str),
}

/// An operator's wish, for the one who drives.
#[derive(Default)]
pub(super) struct Asked {
    roll_back: AtomicBool,
    hurry: Mutex<Option<Duration>>,
    wake: Notify,
}

impl Asked {
    /// Is it wished, and possible? It is granted once.
    pub fn rolls_back(&self, state: State) -> bool {
        state.may_roll_back() && self.roll_back.swap(false, Relaxed)
    }

    /// From now on, holders have so long. Answered once.
    pub fn hurries(&self) -> Option<Duration> {
        self.hurry.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

struct UnderWay {
    progress: watch::Sender<Progress>,
    asked: Arc<Asked>,
}

/// What all that drive share.
pub(super) struct Shared {
    pub broker: Arc<Broker>,
    pub host: Arc<dyn Host>,
    pub folder: Folder,
    under_way: Mutex<BTreeMap<SecretName, UnderWay>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SecretName, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn holders(&self, secret: &SecretName, to: &Version) -> Vec<Holder> {
        holders::holders(&self.broker, &*self.host, secret, Some(to))
    }

    /// Tells those who follow.
    pub fn publish(&self, secret: &SecretName, record: &Record, waits_for: Option<&Version>, settings: Option<Settings>) {
        let holders = waits_for.map(|to| self.holders(secret, to)).unwrap_or_default();
        let waits = matches!(record.state.step, Step::Overlap | Step::Return);
        let deadline = waits_for.and(settings).filter(|_| waits).map(|settings| record.deadline(record.overlap(&settings)));
        if let Some(under_way) = self.lock().get(secret) {
            under_way.progress.send_replace(Progress { holders, deadline, ..progress(secret, record) });
        }
    }

    /// It is over: who asks from now on may begin another, and who follows this one hears so.
    pub fn ended(&self, secret: &SecretName, record: &Record) {
        let end = record.state.end.map_or("", super::End::word);
        info!(%secret, rotation = %record.token, end, "rotation: over");
        let under_way = self.lock().remove(secret);
        if let Some(UnderWay { progress: followed, .. }) = under_way {
            let last = progress(secret, record);
            let holders = last.new.as_ref().map(|to| self.holders(secret, to)).unwrap_or_default();
            followed.send_replace(Progress { holders, ..last });
        }
    }
}

fn progress(secret: &SecretName, record: &Record) -> Progress {
    Progress {
        secret: secret.clone(),
        token: record.token.clone(),
        way: record.way,
        by: record.by.clone(),
        state: record.state,
        old: record.base(),
        new: record.back().or_else(|| record.new_version()),
        holders: Vec::new(),
        started: record.started(),
        deadline: None,
        ended: record.ended(),
        problem: record.problem.clone(),
    }
}

/// All rotations of this daemon.
pub struct Rotations {
    shared: Arc<Shared>,
    control: Handle,
}

/// How often it is looked at what is due.
const TICK: Duration = Duration::from_secs(1);

impl Rotations {
    pub fn new(broker: Arc<Broker>, host: Arc<dyn Host>, folder: Folder, control: Handle) -> Self {
        Self { shared: Arc::new(Shared { broker, host, folder, under_way: Mutex::default() }), control }
    }

    /// Begins a rotation, and follows it. `given` is the new value, where the operator gave one; `overlap` how long holders have to move,
    /// where that is not as configured. It goes on whether or not anybody follows.
    pub async fn start(
        &self,
        secret: &SecretName,
        given: Option<SecretValue>,
        by: &'static str,
        overlap: Option<Duration>,
    ) -> Result<watch::Receiver<Progress>, Refused> {
        let cannot = |why: String| Refused::CannotBe(secret.clone(), why);
        match self.shared.folder.read(secret) {
            Ok(Some(record)) if !record.state.is_over() => return Err(Refused::UnderWay(secret.clone())),
            Ok(_) => {}
            Err(problem) => return Err(cannot(problem)),
        }
        let target = self.shared.host.target(secret).map_err(cannot)?;
        let way = drive::way(&target.settings, given.is_some()).map_err(cannot)?;
        let current = standing(secret, &target, way).await?;
        if let Some(token) = current.staged {
            self.shared.host.refresh(target.siblings).await;
            if way == Way::Source {
                return Err(cannot(format!("its source is at it already, for version {token}: what comes of that is noticed")));
            }
            return Err(Refused::Elsewhere(secret.clone(), token));
        }
        let token = token().ok_or_else(|| cannot("the system gives no random numbers".into()))?;
        let record = Record::begin(secret, token, way, by, &current.version, SystemTime::now()).with_overlap(overlap);
        self.drive(secret, record, given).ok_or_else(|| Refused::UnderWay(secret.clone()))
    }

    /// Drives it in a task of its own. `None`: one of this secret is driven already.
    fn drive(&self, secret: &SecretName, record: Record, carried: Option<SecretValue>) -> Option<watch::Receiver<Progress>> {
        let (progress, followed) = watch::channel(progress(secret, &record));
        let asked = Arc::new(Asked::default());
        match self.shared.lock().entry(secret.clone()) {
            std::collections::btree_map::Entry::Occupied(_) => return None,
            std::collections::btree_map::Entry::Vacant(free) => free.insert(UnderWay { progress, asked: asked.clone() }),
        };
        let (shared, secret) = (self.shared.clone(), secret.clone());
        self.control.spawn(Driving { shared, secret, record, carried, asked }.drive());
        Some(followed)
    }

    /// Goes on with what a daemon before this one did not bring to an end.
    pub fn resume(&self) {
        let (records, problems) = self.shared.folder.read_all();
        problems.iter().for_each(|problem| warn!("a rotation cannot be resumed: {problem}"));
        for mut record in records.into_iter().filter(|record| !record.state.is_over()) {
            let Some(secret) = record.secret() else { continue };
            info!(%secret, rotation = %record.token, step = record.state.step.word(), "rotation: resumed");
            record.state = record.state.next(Event::Resumed);
            self.drive(&secret, record, None);
        }
    }

    /// Has the old value back, where that is still possible.
    pub fn roll_back(&self, secret: &SecretName) -> Result<watch::Receiver<Progress>, Refused> {
        let under_way = self.shared.lock();
        let Some(UnderWay { progress, asked }) = under_way.get(secret) else { return Err(Refused::NotUnderWay(secret.clone())) };
        let followed = progress.subscribe();
        let (state, way) = (followed.borrow().state, followed.borrow().way);
        if way == Way::Source {
            return Err(Refused::NoWayBack(secret.clone()));
        }
        if !state.may_roll_back() {
            return Err(Refused::NotNow(secret.clone(), state.step.word()));
        }
        asked.roll_back.store(true, Relaxed);
        asked.wake.notify_one();
        Ok(followed)
    }

    /// Has the one of this secret that is under way wait for its holders no longer than this, and follows it.
    pub fn hurry(&self, secret: &SecretName, overlap: Duration) -> Option<watch::Receiver<Progress>> {
        let under_way = self.shared.lock();
        let UnderWay { progress, asked } = under_way.get(secret)?;
        *asked.hurry.lock().unwrap_or_else(PoisonError::into_inner) = Some(overlap);
        asked.wake.notify_one();
        Some(progress.subscribe())
    }

    /// Those that are under way.
    pub fn under_way(&self) -> Vec<Progress> {
        self.shared.lock().values().map(|one| one.progress.borrow().clone()).collect()
    }

    /// The rotation of a secret that is under way, or the last that there was.
    pub fn of(&self, secret: &SecretName) -> Option<Progress> {
        let under_way = self.shared.lock().get(secret).map(|one| one.progress.borrow().clone());
        under_way.or_else(|| self.last(secret).map(|record| progress(secret, &record)))
    }

    fn last(&self, secret: &SecretName) -> Option<Record> {
        self.shared.folder.read(secret).ok().flatten()
    }

    /// Who has which version of a secret.
    pub fn holders(&self, secret: &SecretName) -> Vec<Holder> {
        holders::holders(&self.shared.broker, &*self.shared.host, secret, None)
    }

    /// What a rotation would do; nothing is written.
    pub async fn outlook(&self, secret: &SecretName, given: bool) -> Result<Outlook, Refused> {
        let cannot = |why: String| Refused::CannotBe(secret.clone(), why);
        let target = self.shared.host.target(secret).map_err(cannot)?;
        let way = drive::way(&target.settings, given).map_err(cannot)?;
        let current = standing(secret, &target, way).await?;
        let recorded = || self.last(secret).and_then(|record| record.finished());
        let holders = self.shared.holders(secret, &current.version);
        Ok(Outlook { way, since: current.created.or_else(recorded), version: current.version, holders })
    }

    /// Begins what is due, for as long as it runs.
    pub async fn keep_schedule(&self) {
        let mut plans: HashMap<SecretName, Plan> = HashMap::new();
        let mut every = tokio::time::interval(TICK);
        loop {
            every.tick().await;
            let scheduled = self.shared.host.scheduled();
            plans.retain(|secret, _| scheduled.iter().any(|one| one.secret == *secret));
            let now = SystemTime::now();
            for one in scheduled {
                let plan = plans.get(&one.secret).copied().unwrap_or(Plan { look: now, failures: 0 });
                if plan.look <= now && !self.shared.lock().contains_key(&one.secret) {
                    plans.insert(one.secret.clone(), self.turn(&one, plan, now).await);
                }
            }
        }
    }

    /// A secret that may be due. Its source knows best how old it is: another host may have rotated it.
    async fn turn(&self, one: &Scheduled, plan: Plan, now: SystemTime) -> Plan {
        let Scheduled { secret, every, quiet_hours } = one;
        let again = |failures: u32| Plan { look: now + schedule::again_after(failures), failures };
        let since = match self.outlook(secret, false).await {
            // Of unknown age: from now on it is known.
            Ok(outlook) => outlook.since.unwrap_or(now),
            Err(refused) => {
                warn!(%secret, "it is to be rotated by the clock, and cannot be: {refused}");
                return again(plan.failures + 1);
            }
        };
        let due = schedule::due(since, *every, chance(secret), *quiet_hours);
        if now < due {
            return Plan { look: due, failures: 0 };
        }
        if !schedule::may_begin(now, *quiet_hours) {
            return Plan { look: now + Duration::from_secs(60), failures: 0 };
        }
        if let Err(refused) = self.start(secret, None, "schedule", None).await {
            warn!(%secret, "it is due to be rotated, and cannot be: {refused}");
        }
        // Whether it went well shows in its age, at the next turn.
        let Plan { look, failures } = again(plan.failures + 1);
        Plan { look: look.min(now + *every), failures }
    }
}

/// When a secret is looked at next.
#[derive(Clone, Copy)]
struct Plan {
    look: SystemTime,
    failures: u32,
}

/// What the source has of it now.
async fn standing(secret: &SecretName, target: &Target, way: Way) -> Result<Current, Refused> {
    let cannot = |why: String| Refused::CannotBe(secret.clone(), why);
    let (source, wanted) = (&target.source, &target.wanted);
    let looked = match (way, source.rotator(), source.writer()) {
        (Way::Source, Some(rotator), _) => rotator.standing(wanted).await,
        (Way::Source, None, _) => return Err(cannot(format!("a source of kind {} rotates nothing by itself", source.kind()))),
        (_, _, Some(writer)) => writer.look(wanted).await,
        (_, _, None) => return Err(cannot(unwritable(source.kind()))),
    };
    looked.map_err(|error| Refused::Source(secret.clone(), error))
}

fn unwritable(kind: &str) -> String {
    match kind {
        "vault" => "its source is version 1 of the key-value engine, which has no check-and-set".into(),
        kind => format!("a source of kind {kind} cannot be written to"),
    }
}

/// 128 random bits, in 32 hex digits.
fn token() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// A number from 0 to 1, for each secret its own and always the same.
fn chance(secret: &SecretName) -> f64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_str().as_bytes());
    let mut number = [0; 4];
    number.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    f64::from(u32::from_ne_bytes(number)) / f64::from(u32::MAX)
}

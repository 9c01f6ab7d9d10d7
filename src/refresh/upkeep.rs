//! After the first load: one task for each source, which checks its secrets by the schedule, and at once when it is asked to.
//!
//! Each task does one thing at a time. So there is never more than one check of a source under way, whoever asks for it: those who
//! ask while one runs wait together for the next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tracing::{Instrument, error, info, warn};

use super::{
    Plan, Planned, States, commit,
    schedule::{Schedule, Went},
};
use crate::{
    measure::span,
    name::{SecretName, SourceName},
    source::{Cause, Checked, Fetched, Known, SourceError, Wanted},
    store::{Absent, Keeper, Moment, Stamp},
};

/// How often stale values are looked for. A stale one is refused from its first moment on; this is about wiping it, and about telling
/// those who hold it.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the schedule is looked at though nothing is due: the host may have slept.
const LOOK: Duration = Duration::from_secs(5);
/// When what a load could not get is tried again, at the latest.
const SOON: Duration = Duration::from_secs(2);

/// The tasks that keep the store fresh. They end when it is dropped.
pub struct Upkeep {
    keepers: BTreeMap<SourceName, (mpsc::UnboundedSender<Order>, JoinHandle<()>)>,
    secrets: HashMap<SecretName, SourceName>,
}

/// What came of a refresh that somebody asked for.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Secrets that have another value now, or none any more.
    pub changed: BTreeSet<SecretName>,
    /// What could not be found out, or is refused.
    pub failed: BTreeMap<SecretName, SourceError>,
}

/// Check these now, or all that this source has, and say how it went.
struct Order {
    secrets: Option<BTreeSet<SecretName>>,
    answer: oneshot::Sender<Arc<Refreshed>>,
}

impl Upkeep {
    /// Starts the tasks on the current runtime.
    pub fn start(plan: &Plan, keeper: &Arc<Keeper>, states: &States) -> Self {
        let secrets = plan
            .sources
            .iter()
            .flat_map(|(name, planned)| planned.wanted.iter().map(move |wanted| (wanted.secret.clone(), name.clone())));
        let start = |(name, planned): (&SourceName, &Planned)| {
            let (orders, ordered) = mpsc::unbounded_channel();
            let plan = Plan { sources: BTreeMap::from([(name.clone(), planned.clone())]), ..plan.clone() };
            let (name, planned, keeper, states) = (name.clone(), planned.clone(), keeper.clone(), states.clone());
            let one = {
                let name = name.clone();
                move || One::new(name.clone(), planned.clone(), plan.clone(), keeper.clone(), states.clone())
            };
            (name, (orders, tokio::spawn(go_on(one, ordered))))
        };
        let changing = plan.sources.iter().filter(|(_, planned)| planned.source.changes());
        Self { keepers: changing.map(start).collect(), secrets: secrets.collect() }
    }

    /// Stops every task and waits until none runs any more: nothing is put into the store after that.
    pub async fn stop(mut self) {
        self.abort();
        for (_, (_, task)) in std::mem::take(&mut self.keepers) {
            let _ = task.await;
        }
    }

    fn abort(&self) {
        self.keepers.values().for_each(|(_, task)| task.abort());
    }

    /// Asks for these secrets to be checked now, or for all. The answer is ready when they have been; `false` where some were not:
    /// this was stopped, or a check broke down.
    pub fn refresh(&self, secrets: Option<&[SecretName]>) -> impl Future<Output = (Refreshed, bool)> + use<> {
        let mut wanted: BTreeMap<&SourceName, BTreeSet<SecretName>> = BTreeMap::new();
        for secret in secrets.unwrap_or_default() {
            if let Some(source) = self.secrets.get(secret) {
                wanted.entry(source).or_default().insert(secret.clone());
            }
        }
        let mut answers = Vec::new();
        for (name, (orders, _)) in &self.keepers {
            let secrets = match secrets {
                None => None,
                Some(_) if wanted.contains_key(name) => wanted.remove(name),
                Some(_) => continue,
            };
            let (answer, answered) = oneshot::channel();
            let of_source = || self.secrets.iter().filter(|(_, source)| *source == name).map(|(secret, _)| secret.clone());
            let asked: Vec<_> = secrets.as_ref().map_or_else(|| of_source().collect(), |asked| asked.iter().cloned().collect());
            let _ = orders.send(Order { secrets, answer });
            answers.push(async { (answered.await, asked) });
        }
        async move {
            let (mut all, mut complete) = (Refreshed::default(), true);
            let broken_off = SourceError::new(Cause::Unreachable, "its check was broken off; the daemon's log says why");
            for (answer, asked) in futures_util::future::join_all(answers).await {
                let Ok(refreshed) = answer else {
                    complete = false;
                    all.failed.extend(asked.into_iter().map(|secret| (secret, broken_off.clone())));
                    continue;
                };
                all.changed.extend(refreshed.changed.iter().cloned());
                all.failed.extend(refreshed.failed.iter().map(|(secret, error)| (secret.clone(), error.clone())));
            }
            (all, complete)
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Withdraws what is stale, for as long as it runs.
pub async fn sweep(keeper: Arc<Keeper>) {
    let mut every = tokio::time::interval(SWEEP);
    loop {
        every.tick().await;
        for secret in keeper.drop_stale(Moment::now()) {
            warn!(%secret, "withdrawn: {}", Absent::Stale);
        }
    }
}

/// The wait before checks begin again that broke down; and the longest, where they do so each time.
const BROKEN_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Checks until nobody keeps the orders any more. A bug in one check must not be the silent end of all of them.
async fn go_on(one: impl Fn() -> One, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut wait = BROKEN_WAIT.0;
    loop {
        let (one, begun) = (one(), Instant::now());
        let (source, states) = (one.name.clone(), one.states.clone());
        if AssertUnwindSafe(one.run(&mut orders)).catch_unwind().await.is_ok() {
            return;
        }
        if begun.elapsed() > BROKEN_WAIT.1 * 2 {
            wait = BROKEN_WAIT.0;
        }
        error!(%source, seconds = wait.as_secs(), "checks of it broke down, which is a bug: they begin again");
        let broken = SourceError::new(Cause::BadAnswer, "a check broke down: the daemon's log says how; please report it");
        states.change(&source, |state| {
            state.outage.get_or_insert((SystemTime::now(), broken));
        });
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BROKEN_WAIT.1);
    }
}

/// The upkeep of one source.
struct One {
    name: SourceName,
    planned: Planned,
    /// Of this source alone.
    plan: Plan,
    groups: Vec<Vec<Wanted>>,
    schedule: Schedule,
    began: Instant,
    keeper: Arc<Keeper>,
    states: States,
}

/// What a check found out, by secret.
type Found = HashMap<SecretName, Result<Checked, SourceError>>;

impl One {
    fn new(name: SourceName, planned: Planned, plan: Plan, keeper: Arc<Keeper>, states: States) -> Self {
        let mut wanted = planned.wanted.clone();
        // Those that one call can tell of stand together.
        wanted.sort_by(|a, b| (&a.path, &a.stage).cmp(&(&b.path, &b.stage)));
        let groups: Vec<_> = wanted.chunks(planned.source.check_size().max(1)).map(<[_]>::to_vec).collect();
        let every = planned.refresh_every.unwrap_or(Duration::MAX / 4);
        let mut schedule = Schedule::new(groups.len(), every, chance());
        if states.is_out(&name) {
            schedule.begin_in_outage();
        }
        // What nobody answered for is not left until its turn, which may be a day off.
        let unanswered = |wanted: &Wanted| match keeper.version(&wanted.secret) {
            Err(Absent::AtSource(error)) => !error.cause.is_final(),
            held => matches!(held, Err(Absent::NotLoaded | Absent::Stale)),
        };
        for (group, _) in groups.iter().enumerate().filter(|(_, group)| group.iter().any(unanswered)) {
            schedule.due_by(group, SOON.mul_f64(0.5 + 0.5 * chance()));
        }
        // What stands there of before may be of secrets that nobody wants any more.
        states.change(&name, |state| {
            state.next_checks.clear();
            state.unanswered.clear();
        });
        Self { name, planned, plan, groups, schedule, began: Instant::now(), keeper, states }
    }

    async fn run(mut self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let source = self.planned.source.clone();
        let checks = async {
            self.tell_when(0..self.groups.len());
            let (mut looked, mut moment) = (Instant::now(), Moment::now());
            loop {
                let next = self.schedule.next().map(|(group, due)| (group, self.began + due));
                let wake = next.map_or(looked + LOOK, |(_, due)| due.min(Instant::now() + LOOK));
                let order = tokio::select! {
                    biased;
                    order = orders.recv() => order,
                    () = tokio::time::sleep_until(wake) => None,
                };
                // Nobody can ask any more: so nobody keeps this.
                if order.is_none() && orders.is_closed() {
                    return;
                }
                let slept = Moment::now().since(moment).saturating_sub(looked.elapsed());
                (looked, moment) = (Instant::now(), Moment::now());
                if slept > LOOK {
                    info!(source = %self.name, seconds = slept.as_secs(), "the host has slept: everything is checked");
                    self.schedule.all_due(self.began.elapsed());
                    self.tell_when(0..self.groups.len());
                }
                if let Some(order) = order {
                    self.serve(order, orders).await;
                } else if let Some((group, due)) = next
                    && due <= Instant::now()
                {
                    self.check(group).await;
                }
            }
        };
        let keep = async {
            source.keep().await;
            // Without its login renewed a source may refuse one day, but it is never left unchecked.
            pending().await
        };
        // Two futures of one task: the login lives and ends with the checks.
        tokio::select! {
            () = checks => {}
            () = keep => {}
        }
    }

    /// One round of checks for all who wait for one.
    async fn serve(&mut self, first: Order, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let mut waiting = vec![first];
        while let Ok(order) = orders.try_recv() {
            waiting.push(order);
        }
        let all = waiting.iter().any(|order| order.secrets.is_none());
        let asked = |wanted: &Wanted| {
            all || waiting.iter().any(|order| order.secrets.as_ref().is_some_and(|secrets| secrets.contains(&wanted.secret)))
        };
        let groups: Vec<_> = (0..self.groups.len()).filter(|group| self.groups[*group].iter().any(asked)).collect();
        let mut refreshed = Refreshed::default();
        let mut silent = None;
        for group in groups {
            if let Some((2.., error)) = &silent {
                let rest = self.groups[group].iter().filter(|wanted| asked(wanted));
                refreshed.failed.extend(rest.map(|wanted| (wanted.secret.clone(), SourceError::clone(error))));
                continue;
            }
            let (went, changed, failed) = self.check(group).await;
            // One may be silent by itself. Where two are it is the source, and whoever waits is not kept for all the others' timeouts.
            silent = match (went, silent, failed.first()) {
                (Went::Unreachable { .. }, before, Some((_, error))) => {
                    Some((before.map_or(1, |(times, _)| times + 1), error.clone()))
                }
                _ => None,
            };
            refreshed.changed.extend(changed);
            refreshed.failed.extend(failed);
        }
        let refreshed = Arc::new(refreshed);
        waiting.into_iter().for_each(|order| drop(order.answer.send(refreshed.clone())));
    }

    /// Checks a group, and takes in what it finds. Says how it went, what changed and what failed.
    async fn check(&mut self, group: usize) -> (Went, Vec<SecretName>, Vec<(SecretName, SourceError)>) {
        let began = Stamp::now();
        let span = span!("check", source = %self.name, secrets = self.groups[group].len());
        let (known, mut found) = self.look(group).instrument(span.clone()).await;
        let known: HashMap<_, _> = known.into_iter().map(|known| (known.wanted.secret, known.version)).collect();
        let went = went(&found);
        let was_out = self.schedule.next_try().is_some();
        span.record(
            "outcome",
            match went {
                Went::Well { .. } => "answered",
                Went::InPart { .. } => "answered in part",
                Went::Unreachable { .. } => "unreachable",
                Went::Idle => "nothing to ask for",
            },
        );
        self.schedule.checked(group, went, self.began.elapsed(), chance());
        let mut failed = Vec::new();
        let mut news = Vec::new();
        for (secret, result) in found.drain() {
            match result {
                Ok(Checked::Same { .. }) => {
                    let confirmed = self.planned.confirmed(&secret, began);
                    let holds = known.get(&secret).is_some_and(|known| self.keeper.confirm(&secret, known, confirmed));
                    // It became stale and was wiped while its source was asked: it is read at once, not at its next turn.
                    if !holds && self.keeper.version(&secret) != Err(Absent::Revoked) {
                        self.schedule.due_by(group, self.began.elapsed());
                    }
                }
                Ok(Checked::Read(fetched)) => news.push((secret, self.name.clone(), Ok(fetched))),
                Err(error) => {
                    failed.push((secret.clone(), error.clone()));
                    // What is not final says nothing of the value that is held.
                    if error.cause.is_final() || !self.keeper.has_value(&secret) {
                        news.push((secret, self.name.clone(), Err::<Fetched, _>(error)));
                    }
                }
            }
        }
        let changed = commit(news, &self.plan, began, &self.keeper);
        if went != Went::Idle {
            self.tell(group, began, went, &changed, &failed);
        }
        match was_out == self.schedule.next_try().is_some() {
            true => self.tell_when(group..group + 1),
            false => self.tell_when(0..self.groups.len()),
        }
        (went, changed, failed)
    }

    /// Asks the source about a group: of what is held, whether it is current; of what is not, whether it can be had now. What was held,
    /// and what was found.
    async fn look(&self, group: usize) -> (Vec<Known>, Found) {
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        for wanted in &self.groups[group] {
            match self.keeper.version(&wanted.secret) {
                Ok(version) => known.push(Known { wanted: wanted.clone(), version }),
                // It stays so until a reload.
                Err(Absent::Revoked) => {}
                Err(_) => missing.push(wanted.clone()),
            }
        }
        let (checks, mut checked) = mpsc::unbounded_channel();
        let (fetches, mut fetched) = mpsc::unbounded_channel();
        let source = &self.planned.source;
        let work = async {
            if !known.is_empty() {
                source.check(&known, checks).await;
            }
            if !missing.is_empty() {
                source.fetch(&missing, fetches).await;
            }
        };
        let _ = tokio::time::timeout(self.plan.timeout, work).await;
        let mut found = Found::new();
        while let Ok((secret, result)) = checked.try_recv() {
            found.insert(secret, result);
        }
        while let Ok((secret, result)) = fetched.try_recv() {
            found.insert(secret, result.map(Checked::Read));
        }
        let silent = || SourceError::new(Cause::Unreachable, format!("no answer within {} s", self.plan.timeout.as_secs()));
        for wanted in known.iter().map(|known| &known.wanted).chain(&missing) {
            found.entry(wanted.secret.clone()).or_insert_with(|| Err(silent()));
        }
        (known, found)
    }

    /// Puts what happened on the record, once: an outage when it begins and ends, a refusal when it is new.
    fn tell(&self, group: usize, began: Stamp, went: Went, changed: &[SecretName], failed: &[(SecretName, SourceError)]) {
        let source = &self.name;
        for secret in changed {
            if let Ok(version) = self.keeper.version(secret) {
                info!(%source, %secret, %version, "new value");
            }
        }
        let silent = failed.iter().find(|(_, error)| !error.cause.is_final()).map(|(_, error)| error);
        let failed: HashMap<_, _> = failed.iter().map(|(secret, error)| (secret, error)).collect();
        let is_out = matches!(went, Went::Unreachable { .. }) && !self.schedule.fails_alone(group);
        self.states.change(source, |state| {
            for wanted in &self.groups[group] {
                let secret = &wanted.secret;
                match failed.get(secret).copied() {
                    Some(error) if error.cause.is_final() => {
                        if state.refused.insert(secret.clone(), error.clone()).is_none() {
                            warn!(%source, %secret, "its source does not give it: {error}");
                        }
                    }
                    Some(_) if is_out => {}
                    Some(error) => {
                        if state.unanswered.insert(secret.clone(), error.clone()).is_none() {
                            warn!(%source, %secret, "its source does not answer for it, and does for others: {error}");
                        }
                    }
                    None => {
                        state.refused.remove(secret);
                        state.unanswered.remove(secret);
                    }
                }
            }
            match (went, silent) {
                (Went::Unreachable { .. }, Some(_)) if !is_out => {}
                (Went::Unreachable { .. }, Some(error)) => {
                    if state.outage.is_none() {
                        warn!(%source, "cannot be reached, last good values are handed out for as long as max-stale allows: {error}");
                    }
                    let since = state.outage.take().map_or(began.date, |(since, _)| since);
                    state.outage = Some((since, error.clone()));
                }
                _ => {
                    if let Some((since, _)) = state.outage.take() {
                        let seconds = since.elapsed().unwrap_or_default().as_secs();
                        info!(%source, seconds, "can be reached again");
                    }
                    state.last_good = Some(began.date);
                }
            }
        });
    }

    /// Tells operators when these groups will be checked: only those for which that has changed, since there may be thousands.
    fn tell_when(&self, groups: Range<usize>) {
        let (now, date) = (self.began.elapsed(), SystemTime::now());
        let on_the_calendar = |at: Duration| date + at.saturating_sub(now);
        self.states.change(&self.name, |state| {
            state.next_try = self.schedule.next_try().map(on_the_calendar);
            for group in groups {
                let Some(due) = self.schedule.due(group).map(on_the_calendar) else { continue };
                self.groups[group].iter().for_each(|wanted| _ = state.next_checks.insert(wanted.secret.clone(), due));
            }
        });
    }
}

fn went(found: &Found) -> Went {
    let silent: Vec<_> = found.values().filter_map(|result| result.as_ref().err()).filter(|e| !e.cause.is_final()).collect();
    let retry_after = silent.iter().filter_map(|error| error.retry_after).max();
    let within = found.values().filter_map(|result| match result.as_ref().ok()? {
        Checked::Same { check_within } => *check_within,
        Checked::Read(fetched) => fetched.check_within,
    });
    match silent.len() {
        _ if found.is_empty() => Went::Idle,
        0 => Went::Well { within: within.min() },
        all if all == found.len() => Went::Unreachable { retry_after },
        _ => Went::InPart { retry_after },
    }
}

/// A number from 0 to 1. Where there is none to be had, jitter is not worth failing for.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Instant as Clock,
    };

    use super::*;
    use crate::{
        redact::Redactor,
        refresh::load,
        secret::SecretValue,
        source::{CheckOutcomes, Outcomes, Source, Working},
        store::{self, Store},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A store of ours, that answers each call as it is told to. Calls are counted from 1, the load's is the first.
    struct Told<A> {
        calls: AtomicUsize,
        size: usize,
        answer: A,
    }

    impl<A: Fn(usize, &Wanted) -> Result<u64, SourceError> + Send + Sync> Told<A> {
        fn new(size: usize, answer: A) -> Arc<Self> {
            Arc::new(Self { calls: AtomicUsize::new(0), size, answer })
        }

        fn call(&self, wanted: &Wanted) -> Result<Fetched, SourceError> {
            let call = self.calls.fetch_add(1, Relaxed) + 1;
            (self.answer)(call, wanted).map(|version| Fetched {
                value: SecretValue::copy_from(format!("value-of-version-{version}").as_bytes()).unwrap(),
                version: version.into(),
                check_within: None,
            })
        }
    }

    impl<A: Fn(usize, &Wanted) -> Result<u64, SourceError> + Send + Sync> Source for Told<A> {
        fn kind(&self) -> &'static str {
            "told"
        }

        fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
            Box::pin(async move {
                wanted.iter().for_each(|wanted| _ = outcomes.send((wanted.secret.clone(), self.call(wanted))));
            })
        }

        fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
            Box::pin(async move {
                for known in known {
                    let found = self.call(&known.wanted).map(|fetched| match fetched.version == known.version {
                        true => Checked::Same { check_within: None },
                        false => Checked::Read(fetched),
                    });
                    let _ = outcomes.send((known.wanted.secret.clone(), found));
                }
            })
        }

        fn check_size(&self) -> usize {
            self.size
        }

        /// Which no source should.
        fn keep(&self) -> Working<'_> {
            Box::pin(std::future::ready(()))
        }
    }

    struct Scene {
        plan: Plan,
        keeper: Arc<Keeper>,
        store: Store,
        states: States,
    }

    fn source_name() -> SourceName {
        "told".parse().unwrap()
    }

    fn secret(number: usize) -> SecretName {
        format!("s{number:05}").parse().unwrap()
    }

    impl Scene {
        fn new(source: Arc<dyn Source>, secrets: usize, every: Duration, max_stale: Duration) -> Self {
            let name = |number| Wanted { secret: secret(number), path: format!("{number:05}"), field: None, stage: None };
            let wanted: Vec<_> = (0..secrets).map(name).collect();
            let max_stale = wanted.iter().map(|wanted| (wanted.secret.clone(), max_stale)).collect();
            let planned = Planned { source, refresh_every: Some(every), wanted, max_stale, places: Default::default() };
            let plan = Plan { sources: BTreeMap::from([(source_name(), planned)]), timeout: SECOND * 5, ..Plan::default() };
            let (keeper, store) = store::new(Redactor::new().unwrap());
            Self { plan, keeper: Arc::new(keeper), store, states: States::default() }
        }

        async fn start(&self) -> Upkeep {
            load(&self.plan, &self.keeper).await.commit(&self.plan, &self.keeper, &self.states);
            Upkeep::start(&self.plan, &self.keeper, &self.states)
        }

        fn version(&self, number: usize) -> Option<String> {
            self.store.version(secret(number).as_str()).map(|(version, _)| version.to_string())
        }

        async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
            let begun = Clock::now();
            while !done(self) {
                assert!(begun.elapsed() < SECOND * 10, "not within ten seconds: {what}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            begun.elapsed()
        }
    }

    fn out() -> SourceError {
        SourceError::new(Cause::Unreachable, "nobody is there")
    }

    #[tokio::test]
    async fn a_check_that_panics_is_not_the_end_of_all_checks() {
        let source = Told::new(1, |call, _: &Wanted| match call {
            1 => Ok(1),
            2 | 3 => panic!("a bug in a check"),
            _ => Ok(2),
        });
        let scene = Scene::new(source, 1, SECOND / 5, SECOND * 60);
        let upkeep = scene.start().await;
        scene.until("operators see that it broke down", |scene| scene.states.is_out(&source_name())).await;
        let (refreshed, complete) = upkeep.refresh(None).await;
        assert!(!complete && refreshed.failed.len() == 1, "who asks for what breaks down does not hear that all is well");
        scene.until("the new version", |scene| scene.version(0).as_deref() == Some("2")).await;
        scene.until("that is over", |scene| !scene.states.is_out(&source_name())).await;
    }

    #[tokio::test]
    async fn a_secret_without_an_answer_does_not_make_the_others_stale() {
        let source = Told::new(1, |call, wanted: &Wanted| match (&*wanted.path, call) {
            ("00003", 11..) => Err(out()),
            _ => Ok(1),
        });
        let scene = Scene::new(source, 10, SECOND, SECOND * 4);
        let _upkeep = scene.start().await;
        let sweeping = tokio::spawn(sweep(scene.keeper.clone()));
        scene.until("it is stale", |scene| scene.version(3).is_none()).await;
        tokio::time::sleep(SECOND * 3).await;
        let held: Vec<_> = (0..10).filter(|number| scene.version(*number).is_some()).collect();
        assert_eq!(held, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        scene.until("it is not taken for an outage", |scene| !scene.states.is_out(&source_name())).await;
        tokio::time::sleep(SECOND * 2).await;
        assert!(!scene.states.is_out(&source_name()));
        assert_eq!(scene.states.problem(&source_name(), &secret(3)), Some(out()));
        assert_eq!(scene.states.problem(&source_name(), &secret(4)), None);
        sweeping.abort();
    }

    /// The value goes while its source is about to say that it is current.
    #[tokio::test]
    async fn what_becomes_stale_during_its_check_is_read_at_once() {
        let wipe = Arc::new(std::sync::OnceLock::<Arc<Keeper>>::new());
        let wiping = wipe.clone();
        let source = Told::new(1, move |call, _: &Wanted| {
            if call == 2 {
                let keeper = wiping.get().unwrap();
                assert_eq!(keeper.drop_stale(Moment::now().after(SECOND * 7200)).len(), 1);
            }
            Ok(1)
        });
        let scene = Scene::new(source.clone(), 1, SECOND * 3000, SECOND * 3600);
        wipe.set(scene.keeper.clone()).unwrap();
        let upkeep = scene.start().await;
        upkeep.refresh(None).await;
        scene.until("it is back", |scene| scene.version(0).is_some()).await;
        assert_eq!(source.calls.load(Relaxed), 3);
    }

    /// What was not required and could not be had is not left until its turn in an hour.
    #[tokio::test]
    async fn what_a_load_could_not_get_is_tried_soon() {
        // Three tries of the load.
        let source = Told::new(1, |call, wanted: &Wanted| match (&*wanted.path, call) {
            ("00001", ..=5) => Err(out()),
            _ => Ok(1),
        });
        let scene = Scene::new(source, 3, SECOND * 3000, SECOND * 3600);
        let _upkeep = scene.start().await;
        assert_eq!(scene.version(1), None);
        scene.until("it comes", |scene| scene.version(1).is_some()).await;
    }

    /// A secret that comes and goes: each change is told once, and nothing is told twice.
    #[tokio::test]
    async fn what_flaps_is_told_of_as_often_as_it_does() {
        let source = Told::new(1, |call, _: &Wanted| match call % 4 {
            0 => Err(SourceError::new(Cause::Refused, "not now")),
            1 | 2 => Ok(1),
            _ => Err(out()),
        });
        let scene = Scene::new(source.clone(), 1, SECOND * 3000, SECOND * 3600);
        let upkeep = scene.start().await;
        let mut changes = scene.store.changes();
        changes.mark_unchanged();
        for call in 2..42 {
            let before = *changes.borrow_and_update();
            let had = scene.version(0).is_some();
            upkeep.refresh(None).await;
            let has = scene.version(0).is_some();
            assert_eq!(has, call % 4 != 0, "at call {call}");
            assert_eq!(*changes.borrow_and_update() - before, u64::from(had != has), "at call {call}");
        }
        let state = scene.states.get(&source_name());
        assert!(state.refused.is_empty() && state.outage.is_none() && state.next_checks.len() == 1);
    }

    /// Who asks does not wait for the timeout of everything in a store that is out.
    #[tokio::test]
    async fn a_refresh_of_a_store_that_is_out_ends_soon_and_names_everything() {
        let source = Told::new(1, |call, _: &Wanted| if call <= 500 { Ok(1) } else { Err(out()) });
        let scene = Scene::new(source.clone(), 500, SECOND * 3000, SECOND * 3600);
        let upkeep = scene.start().await;
        let before = source.calls.load(Relaxed);
        let (refreshed, complete) = upkeep.refresh(None).await;
        assert!(complete && refreshed.failed.len() == 500);
        assert!(source.calls.load(Relaxed) - before <= 3, "{} calls", source.calls.load(Relaxed) - before);
        assert_eq!((0..500).filter(|number| scene.version(*number).is_some()).count(), 500, "they are still there");
    }

    /// Ten thousand secrets, each a group of its own: what one check costs beside the call itself.
    #[tokio::test]
    async fn what_a_check_costs_does_not_grow_with_what_is_not_checked() {
        let source = Told::new(1, |_, _: &Wanted| Ok(1));
        let scene = Scene::new(source, 10_000, SECOND * 3000, SECOND * 3600);
        let staged = load(&scene.plan, &scene.keeper).await;
        staged.commit(&scene.plan, &scene.keeper, &scene.states);
        let planned = scene.plan.sources[&source_name()].clone();
        let mut one = One::new(source_name(), planned, scene.plan.clone(), scene.keeper.clone(), scene.states.clone());
        let begun = Clock::now();
        one.tell_when(0..10_000);
        let all = begun.elapsed();
        let begun = Clock::now();
        for _ in 0..100 {
            let (group, _) = one.schedule.next().unwrap();
            one.check(group).await;
        }
        let check = begun.elapsed() / 100;
        println!("of 10,000: {all:?} to tell of all, {check:?} for a check of one");
        // A debug build on a busy host; before, each check told of all.
        assert!(check < Duration::from_millis(10), "{check:?}");
    }
}

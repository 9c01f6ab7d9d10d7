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
        // What is lent, whoever read it: the load, or who looked after it under another configuration.
        for (group, wanted) in groups.iter().enumerate() {
            let within = wanted.iter().filter_map(|wanted| keeper.check_within(&wanted.secret)).min();
            if let Some(within) = within {
                schedule.due_by(group, within.mul_f64(0.8 + 0.2 * chance()));
            }
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
                    self.check(group, &|_| true).await;
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
        // Those alone are asked about: of what else stands in their group, the turn comes.
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
            let (went, changed, failed) = self.check(group, &asked).await;
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

    /// Checks a group, or some of it, and takes in what it finds. Says how it went, what changed and what failed.
    async fn check(
        &mut self,
        group: usize,
        asked: &(dyn Fn(&Wanted) -> bool + Sync),
    ) -> (Went, Vec<SecretName>, Vec<(SecretName, SourceError)>) {
        let began = Stamp::now();
        let wanted: Vec<Wanted> = self.groups[group].iter().filter(|wanted| asked(wanted)).cloned().collect();
        let in_part = wanted.len() < self.groups[group].len();
        let span = span!("check", source = %self.name, secrets = wanted.len());
        let (known, mut found) = self.look(&wanted).instrument(span.clone()).await;
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
        match went {
            // The turn of the others comes as it would have come.
            Went::Well { within } if in_part && !was_out => {
                let within = within.map(|within| self.began.elapsed() + within.mul_f64(0.8 + 0.2 * chance()));
                within.into_iter().for_each(|at| self.schedule.due_by(group, at));
            }
            Went::Idle if in_part => {}
            went => self.schedule.checked(group, went, self.began.elapsed(), chance()),
        }
        let mut failed = Vec::new();
        let mut news = Vec::new();
        for (secret, result) in found.drain() {
            match result {
                Ok(Checked::Same { check_within }) => {
                    let confirmed = self.planned.confirmed(&secret, began);
                    let holds =
                        known.get(&secret).is_some_and(|known| self.keeper.confirm(&secret, known, confirmed, check_within));
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
            self.tell(group, &wanted, began, went, &changed, &failed);
        }
        match was_out == self.schedule.next_try().is_some() {
            true => self.tell_when(group..group + 1),
            false => self.tell_when(0..self.groups.len()),
        }
        (went, changed, failed)
    }

    /// Asks the source about these: of what is held, whether it is current; of what is not, whether it can be had now. What was held,
    /// and what was found.
    async fn look(&self, wanted: &[Wanted]) -> (Vec<Known>, Found) {
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        for wanted in wanted {
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
    fn tell(
        &self,
        group: usize,
        wanted: &[Wanted],
        began: Stamp,
        went: Went,
        changed: &[SecretName],
        failed: &[(SecretName, SourceError)],
    ) {
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
            for wanted in wanted {
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
mod tests;

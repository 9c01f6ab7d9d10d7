//! Keeps the store as fresh as its sources. One load reads every wanted secret, from all sources at once and within bounds; what
//! came is staged first, and goes into the store only when the load as a whole is good. After it [`Upkeep`] checks each secret from
//! time to time, and takes in what is new, and drops what is refused or stale.

pub mod last_good;
mod schedule;
mod state;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tracing::{Instrument, info, warn};

use self::last_good::Kept;
use crate::{
    measure::span,
    name::{SecretName, SourceName},
    source::{Cause, Fetched, Outcome, Source, SourceError, Wanted},
    store::{Absent, Change, Confirmed, Keeper, Stamp},
};

pub(crate) use last_good::file as own_file;
pub use last_good::{LastGood, LastGoodState};
pub use state::{SourceState, States};
pub use upkeep::{Refreshed, Upkeep, sweep};

/// What is to be read, and how fresh it is to be kept.
#[derive(Default, Clone)]
pub struct Plan {
    /// Only secrets that some tool may have.
    pub sources: BTreeMap<SourceName, Planned>,
    /// Secrets without which the daemon must not serve.
    pub required: BTreeSet<SecretName>,
    /// A source that has not answered by then is unreachable.
    pub timeout: Duration,
}

impl Plan {
    fn confirmed(&self, source: &SourceName, secret: &SecretName, at: Stamp) -> Confirmed {
        let unknown = Confirmed { at, max_stale: None, place: None };
        self.sources.get(source).map_or(unknown, |planned| planned.confirmed(secret, at))
    }
}

/// One source, and what is wanted of it.
#[derive(Clone)]
pub struct Planned {
    pub source: Arc<dyn Source>,
    /// How often each secret is checked. `None`: never.
    pub refresh_every: Option<Duration>,
    pub wanted: Vec<Wanted>,
    /// How long the last good value of each may be handed out. `None`: for ever.
    pub max_stale: BTreeMap<SecretName, Duration>,
    /// Where each comes from, in the words of configuration; none for what is on this host itself, see [`last_good`].
    pub places: BTreeMap<SecretName, Arc<str>>,
}

impl Planned {
    /// Is this secret the same one there, read from the same place by the same source?
    fn has_same(&self, other: &Self, secret: &SecretName) -> bool {
        let find = |planned: &Self| planned.wanted.iter().find(|wanted| wanted.secret == *secret).cloned();
        Arc::ptr_eq(&self.source, &other.source) && find(self).is_some_and(|wanted| find(other) == Some(wanted))
    }

    fn confirmed(&self, secret: &SecretName, at: Stamp) -> Confirmed {
        Confirmed { at, max_stale: self.max_stale.get(secret).copied(), place: self.places.get(secret).cloned() }
    }
}

/// A secret that could not be had.
#[derive(Debug, Clone)]
pub struct Failure {
    pub secret: SecretName,
    pub source: SourceName,
    pub error: SourceError,
    pub required: bool,
    /// Its source said nothing of it, and the value from before stands: it is still what is wanted, and not yet stale.
    pub held: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {} from source {}: {}", self.secret, self.source, self.error)
    }
}

/// What a load brought, not yet in the store.
#[derive(Debug)]
pub struct Staged {
    good: Vec<(SecretName, SourceName, Fetched)>,
    failures: Vec<Failure>,
    /// What could not be had either, and is in the sealed copy on disk.
    kept: Vec<(Failure, Kept)>,
    /// When it began: what a source gave was current then, at the least.
    began: Stamp,
    /// What operators had revoked by then. What they revoke while it loads stays revoked.
    revoked: HashSet<SecretName>,
}

impl Staged {
    /// Everything that could not be had.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Lets last good values stand for what an unreachable source could not give: policy can be changed during an outage. But not
    /// where configuration wants something else under that name than it did `before`.
    pub fn hold_over(&mut self, plan: &Plan, before: &Plan, keeper: &Keeper) {
        for failure in self.failures.iter_mut().filter(|failure| !failure.error.cause.is_final()) {
            let (now, before) = (plan.sources.get(&failure.source), before.sources.get(&failure.source));
            let same = now.zip(before).is_some_and(|(now, before)| now.has_same(before, &failure.secret));
            failure.held = same && keeper.has_value(&failure.secret);
        }
    }

    /// Is any of it required, and not held from before?
    pub fn lacks_required(&self) -> bool {
        self.failures.iter().any(|failure| failure.required && !failure.held)
    }

    /// Could everything required that is missing still be had by trying again?
    pub fn may_come(&self) -> bool {
        self.failures.iter().filter(|failure| failure.required).all(|failure| !failure.error.cause.is_final())
    }

    /// Puts what came into the store and drops what the sources did not give, unless it is [held over](Self::hold_over). Says which
    /// secrets changed.
    pub fn commit(self, plan: &Plan, keeper: &Keeper, states: &States) -> Vec<SecretName> {
        self.tell(plan, states);
        keeper.forgive(&self.revoked);
        let failures = self.failures.into_iter().filter(|failure| !failure.held);
        let found = failures.map(|failure| (failure.secret, failure.source, Err(failure.error)));
        let found = found.chain(self.good.into_iter().map(|(secret, source, fetched)| (secret, source, Ok(fetched))));
        let mut changed = commit(found.collect(), plan, self.began, keeper);
        changed.extend(last_good::commit(self.kept, plan, keeper));
        changed
    }

    /// Tells operators how it went, whether or not anything comes of it.
    pub fn tell(&self, plan: &Plan, states: &States) {
        states.retain(|source| plan.sources.contains_key(source));
        for name in plan.sources.keys() {
            let failures = self.failures.iter().chain(self.kept.iter().map(|(failure, _)| failure));
            let failures = || failures.clone().filter(|failure| failure.source == *name);
            let silent = failures().find(|failure| !failure.error.cause.is_final()).map(|failure| failure.error.clone());
            let spoke = self.good.iter().any(|(_, source, _)| source == name) || failures().any(|f| f.error.cause.is_final());
            let refused = failures().filter(|failure| failure.error.cause.is_final());
            let refused = refused.map(|failure| (failure.secret.clone(), failure.error.clone())).collect();
            states.change(name, |state| {
                state.refused = refused;
                state.outage = match (silent, state.outage.take()) {
                    (Some(error), before) if !spoke => Some((before.map_or_else(SystemTime::now, |(since, _)| since), error)),
                    _ => None,
                };
                if spoke {
                    state.last_good = Some(self.began.date);
                }
            });
        }
    }
}

/// Takes what was found out into the store, as of `began`, and says what changed.
fn commit(
    found: Vec<(SecretName, SourceName, Result<Fetched, SourceError>)>,
    plan: &Plan,
    began: Stamp,
    keeper: &Keeper,
) -> Vec<SecretName> {
    let good = found.iter().filter_map(|(secret, _, result)| result.as_ref().ok().map(|fetched| (secret, fetched)));
    for short in keeper.expect(good) {
        warn!("{short} is shorter than 8 bytes: logs cannot be cleaned of it without harm to other text");
    }
    let mut changed = Vec::new();
    for (secret, source, result) in found {
        let change = match result {
            Ok(fetched) => {
                let confirmed = plan.confirmed(&source, &secret, began);
                keeper.put(secret.clone(), source, fetched, confirmed)
            }
            // That nobody answers says less than what was known before: that it is stale, or refused.
            Err(error) if error.cause.is_final() || keeper.has_value(&secret) || is_unheard_of(keeper, &secret) => {
                keeper.drop_value(&secret, &source, Absent::AtSource(error))
            }
            Err(_) => Change::None,
        };
        if change != Change::None {
            changed.push(secret);
        }
    }
    changed
}

fn is_unheard_of(keeper: &Keeper, secret: &SecretName) -> bool {
    match keeper.version(secret) {
        Err(Absent::AtSource(error)) => !error.cause.is_final(),
        known => known == Err(Absent::NotLoaded),
    }
}

/// Tries at a source for what it could not be reached for, and the wait before each further one.
const TRIES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];

/// Reads everything in the plan.
pub async fn load(plan: &Plan, keeper: &Keeper) -> Staged {
    let span = span!("load");
    let staged = read_all(plan, keeper.revoked()).instrument(span.clone()).await;
    span.record("outcome", format!("{} read, {} failed", staged.good.len(), staged.failures.len()));
    staged
}

async fn read_all(plan: &Plan, revoked: HashSet<SecretName>) -> Staged {
    let began = Stamp::now();
    let total: usize = plan.sources.values().map(|planned| planned.wanted.len()).sum();
    let (progress, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for (name, Planned { source, wanted, .. }) in &plan.sources {
        let (name, source, wanted, progress) = (name.clone(), source.clone(), wanted.clone(), progress.clone());
        info!(source = %name, kind = source.kind(), secrets = wanted.len(), "loading");
        let span = span!("load source", source = %name, secrets = wanted.len());
        tasks.spawn(read_source(name, source, wanted, plan.timeout, progress).instrument(span));
    }
    drop(progress);
    let mut staged = Staged { good: Vec::with_capacity(total), failures: Vec::new(), kept: Vec::new(), began, revoked };
    let mut said = 0;
    while let Some((source, (secret, result))) = arrivals.recv().await {
        match result {
            Ok(fetched) => staged.good.push((secret, source, fetched)),
            Err(error) => {
                let required = plan.required.contains(&secret);
                staged.failures.push(Failure { secret, source, error, required, held: false });
            }
        }
        let done = staged.good.len() + staged.failures.len();
        if done == total || done >= said + 100.max(total / 10) {
            said = done;
            info!(done, total, failed = staged.failures.len(), "loading");
        }
    }
    staged.failures.sort_by(|a, b| (&a.source, &a.secret).cmp(&(&b.source, &b.secret)));
    staged
}

async fn read_source(
    name: SourceName,
    source: Arc<dyn Source>,
    mut wanted: Vec<Wanted>,
    timeout: Duration,
    progress: mpsc::UnboundedSender<(SourceName, Outcome)>,
) {
    let deadline = tokio::time::Instant::now() + timeout;
    let tell = |outcome| drop(progress.send((name.clone(), outcome)));
    let mut patience = Duration::ZERO;
    for (try_number, wait) in TRIES.iter().enumerate() {
        tokio::time::sleep(patience.max(*wait)).await;
        let last = try_number + 1 == TRIES.len();
        let (outcomes, mut arriving) = mpsc::unbounded_channel();
        let fetch = tokio::time::timeout_at(deadline, source.fetch(&wanted, outcomes));
        let collect = async {
            let mut left: BTreeMap<_, _> = wanted.iter().map(|wanted| (wanted.secret.clone(), wanted.clone())).collect();
            let mut again = Vec::new();
            while let Some((secret, result)) = arriving.recv().await {
                let Some(one) = left.remove(&secret) else { continue };
                match result {
                    Err(error) if error.cause.worth_retrying() && !last => again.push((one, error)),
                    result => tell((secret, result)),
                }
            }
            (again, left)
        };
        let (in_time, (mut again, left)) = tokio::join!(fetch, collect);
        again.extend(left.into_values().map(|one| (one, silent(timeout))));
        patience = again.iter().filter_map(|(_, error)| error.retry_after).max().unwrap_or_default();
        if again.is_empty() {
            return;
        }
        // A source may ask for more patience than there is.
        if last || in_time.is_err() || tokio::time::Instant::now() + patience >= deadline {
            again.into_iter().for_each(|(one, error)| tell((one.secret, Err(error))));
            return;
        }
        wanted = again.into_iter().map(|(one, _)| one).collect();
    }
}

fn silent(timeout: Duration) -> SourceError {
    SourceError::new(Cause::Unreachable, format!("no answer within {} s", timeout.as_secs()))
}

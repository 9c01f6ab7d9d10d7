//! Keeps the store as fresh as its sources. One load reads every wanted secret, from all sources at once and within bounds; what
//! came is staged first, and goes into the store only when the load as a whole is good.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    name::{SecretName, SourceName},
    source::{Cause, Fetched, Outcome, Source, SourceError, Wanted},
    store::{Absent, Change, Keeper},
};

/// What one load is to read.
#[derive(Default)]
pub struct Plan {
    /// Each source, and what is wanted of it: only secrets that some tool may have.
    pub sources: BTreeMap<SourceName, (Arc<dyn Source>, Vec<Wanted>)>,
    /// Secrets without which the daemon must not serve.
    pub required: BTreeSet<SecretName>,
    /// A source that has not answered by then is unreachable.
    pub timeout: Duration,
}

/// A secret that could not be had.
#[derive(Debug, Clone)]
pub struct Failure {
    pub secret: SecretName,
    pub source: SourceName,
    pub error: SourceError,
    pub required: bool,
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
}

impl Staged {
    /// Everything that could not be had.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Is any of it required?
    pub fn lacks_required(&self) -> bool {
        self.failures.iter().any(|failure| failure.required)
    }

    /// Puts what came into the store and drops what the sources refuse to give. An optional secret whose source did not answer
    /// keeps the value it has. Says which secrets changed.
    pub fn commit(self, keeper: &Keeper, now: SystemTime) -> Vec<SecretName> {
        for short in keeper.expect(self.good.iter().map(|(secret, _, fetched)| (secret, fetched))) {
            warn!("{short} is shorter than 8 bytes: logs cannot be cleaned of it without harm to other text");
        }
        let mut changed = Vec::new();
        for (secret, source, fetched) in self.good {
            if keeper.put(secret.clone(), source, fetched, now) != Change::None {
                changed.push(secret);
            }
        }
        for Failure { secret, source, error, .. } in self.failures {
            let keep = error.cause == Cause::Unreachable && keeper.has_value(&secret);
            if !keep && keeper.drop_value(&secret, &source, Absent::AtSource(error)) != Change::None {
                changed.push(secret);
            }
        }
        changed
    }
}

/// Tries at a source for what it could not be reached for, and the wait before each further one.
const TRIES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];

/// Reads everything in the plan.
pub async fn load(plan: &Plan) -> Staged {
    let total: usize = plan.sources.values().map(|(_, wanted)| wanted.len()).sum();
    let (progress, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for (name, (source, wanted)) in &plan.sources {
        let (name, source, wanted, progress) = (name.clone(), source.clone(), wanted.clone(), progress.clone());
        info!(source = %name, kind = source.kind(), secrets = wanted.len(), "loading");
        tasks.spawn(read_source(name, source, wanted, plan.timeout, progress));
    }
    drop(progress);
    let mut staged = Staged { good: Vec::with_capacity(total), failures: Vec::new() };
    let mut said = 0;
    while let Some((source, (secret, result))) = arrivals.recv().await {
        match result {
            Ok(fetched) => staged.good.push((secret, source, fetched)),
            Err(error) => {
                let required = plan.required.contains(&secret);
                staged.failures.push(Failure { secret, source, error, required });
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
    for (try_number, wait) in TRIES.iter().enumerate() {
        tokio::time::sleep(*wait).await;
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
        let silent = SourceError::new(Cause::Unreachable, format!("no answer within {} s", timeout.as_secs()));
        again.extend(left.into_values().map(|one| (one, silent.clone())));
        if again.is_empty() {
            return;
        }
        if last || in_time.is_err() {
            again.into_iter().for_each(|(one, error)| tell((one.secret, Err(error))));
            return;
        }
        wanted = again.into_iter().map(|(one, _)| one).collect();
    }
}

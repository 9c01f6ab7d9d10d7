//! The calls that a source makes to its store: how many at a time, how many so far, and how they ended.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::Semaphore;
use tracing::Instrument;

use super::{Cause, SourceError};
use crate::measure::{Latency, span};

/// One bound on the calls of one source, whatever they are for: loads, checks, logins and renewals.
#[derive(Debug)]
pub struct Calls {
    permits: Semaphore,
    most: usize,
    counts: Mutex<BTreeMap<&'static str, Arc<Counts>>>,
}

/// The calls of one operation.
#[derive(Debug, Default)]
pub struct Counts {
    /// All that ended, good and bad.
    pub latency: Latency,
    failed: Mutex<BTreeMap<Cause, u64>>,
}

impl Counts {
    /// How many ended badly, by kind.
    pub fn failed(&self) -> BTreeMap<Cause, u64> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Calls {
    /// At most this many at a time; 0 means 1.
    pub fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Semaphore::new(most), most, counts: Mutex::default() }
    }

    /// The most at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Makes one call when its turn comes, and counts how it ended. `operation` is the store's own name for it:
    /// `GetSecretValue`, or the method and kind of path. Never a path itself. A call within a call would wait for itself.
    pub async fn make<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let _permit = self.permits.acquire().await;
        let begun = Instant::now();
        let span = span!("call", operation);
        let result = call.instrument(span.clone()).await;
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(operation).or_default().clone();
        counts.latency.add(begun.elapsed());
        span.record("outcome", result.as_ref().err().map_or_else(|| "ok".into(), |error| error.cause.to_string()));
        if let Err(error) = &result {
            *counts.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(error.cause).or_default() += 1;
        }
        result
    }

    /// What was counted so far, by operation.
    pub fn counts(&self) -> Vec<(&'static str, Arc<Counts>)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(operation, counts)| (*operation, counts.clone())).collect()
    }
}

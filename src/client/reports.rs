//! What a launcher found in the output of its tool, on its way to the daemon.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::proto::v1::Redacted;

/// Finds that the daemon has not been told of. Those of one kind are counted, so that a tool which leaks in a loop fills no memory.
#[derive(Default)]
pub(super) struct Reports {
    untold: Mutex<BTreeMap<Kind, u64>>,
    news: Notify,
}

/// Secret, version, channel, encoding, and whether the tool is stopped for it.
type Kind = (String, String, i32, String, bool);

impl Reports {
    #[cfg(feature = "run")]
    pub fn add(&self, found: Redacted) {
        let Redacted { name, version, channel, encoding, count, stopped, line: _ } = found;
        *self.lock().entry((name, version, channel, encoding, stopped)).or_default() += count;
        self.news.notify_one();
    }

    /// Everything that is untold, and from now on is told.
    pub fn take(&self) -> Vec<Redacted> {
        let message = |((name, version, channel, encoding, stopped), count)| Redacted {
            name,
            version,
            channel,
            encoding,
            count,
            stopped,
            line: 0,
        };
        std::mem::take(&mut *self.lock()).into_iter().map(message).collect()
    }

    /// Resolves when there may be something to take.
    pub async fn added(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, u64>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

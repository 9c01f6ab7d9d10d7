//! The word to systemd's watchdog (`WatchdogSec=`, systemd.service(5)), given as long as the daemon answers.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::{runtime::Handle, sync::oneshot};
use tracing::warn;

use super::notify;
use crate::broker::Broker;

/// Tells systemd every third of the time it gives that the daemon answers; not where it does not, and then systemd ends it. Runs where
/// operators are served, which proves that side; returns at once where no watchdog is asked for.
pub async fn watch(broker: Arc<Broker>, tools: Handle) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let mut every = tokio::time::interval(within / 3);
    loop {
        every.tick().await;
        if tokio::time::timeout(within / 3, answers(broker.clone(), &tools)).await == Ok(true) {
            notify(&[NotifyState::Watchdog]);
        } else {
            warn!(seconds = within.as_secs_f32() / 3.0, "tools get no answer: systemd's watchdog is not told that all is well");
        }
    }
}

/// Does the side that serves tools get its turn, and have what a hand-out needs: the policy, the sessions and the store?
async fn answers(broker: Arc<Broker>, tools: &Handle) -> bool {
    let (done, asked) = oneshot::channel();
    tools.spawn(async move {
        broker.sessions().count();
        let policy = broker.policy();
        policy.granted().first().map(|secret| broker.version(secret));
        let _ = done.send(());
    });
    asked.await.is_ok()
}

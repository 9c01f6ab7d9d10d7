//! A way out for alarms: a bounded queue, and a task that delivers one after the other.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;

use super::Alarm;

/// Alarms that wait.
const ROOM: usize = 256;
/// Attempts for one, and the wait before the second. Each further wait is twice as long: half a minute in all.
const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// What is left at the end has so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why an alarm was not delivered. Never the answer's own words.
pub enum Failure {
    /// Another attempt may do.
    Passing(String),
    Final(String),
}

/// Someone who takes alarms, as JSON.
pub trait Deliver: Send + Sync + 'static {
    fn deliver<'a>(&'a self, alarm: &'a str) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;
}

/// What became of alarms, since the daemon started.
#[derive(Debug, Default)]
pub struct Deliveries {
    done: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Deliveries {
    /// Delivered; given up; and without room in the queue.
    pub fn read(&self) -> [(&'static str, u64); 3] {
        [("done", &self.done), ("failed", &self.failed), ("dropped", &self.dropped)]
            .map(|(word, count)| (word, count.load(Relaxed)))
    }
}

pub struct Outlet {
    pub name: &'static str,
    /// `None`: it is closed.
    queue: Mutex<Option<mpsc::Sender<Arc<Alarm>>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    deliveries: Arc<Deliveries>,
}

impl Outlet {
    pub fn start(name: &'static str, to: impl Deliver) -> Self {
        let (queue, alarms) = mpsc::channel(ROOM);
        let deliveries = Arc::<Deliveries>::default();
        let task = tokio::spawn(deliver_all(name, to, alarms, deliveries.clone()));
        Self { name, queue: Mutex::new(Some(queue)), task: Mutex::new(Some(task)), deliveries }
    }

    /// Never waits.
    pub fn send(&self, alarm: &Arc<Alarm>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(alarm.clone()).is_err()) {
            // Said once, and from then on counted.
            if self.deliveries.dropped.fetch_add(1, Relaxed) == 0 {
                warn!(to = self.name, "an alarm finds no room in its queue: the metric valetkey_alarm_deliveries counts them");
            }
        }
    }

    pub fn deliveries(&self) -> &Deliveries {
        &self.deliveries
    }

    /// Takes no more, and waits a while for what is under way.
    pub async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
            warn!(to = self.name, "alarms were still to be delivered at the end");
            task.abort();
        }
    }
}

async fn deliver_all(name: &'static str, to: impl Deliver, mut alarms: mpsc::Receiver<Arc<Alarm>>, deliveries: Arc<Deliveries>) {
    while let Some(alarm) = alarms.recv().await {
        match deliver(&to, &alarm.json()).await {
            Ok(()) => _ = deliveries.done.fetch_add(1, Relaxed),
            Err(why) => {
                deliveries.failed.fetch_add(1, Relaxed);
                warn!(to = name, alarm = alarm.kind.word(), "an alarm could not be delivered: {why}");
            }
        }
    }
}

async fn deliver(to: &impl Deliver, alarm: &str) -> Result<(), String> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match to.deliver(alarm).await {
            Ok(()) => return Ok(()),
            Err(Failure::Final(why)) => return Err(why),
            Err(Failure::Passing(_)) => tokio::time::sleep(wait).await,
        }
        wait *= 2;
    }
    to.deliver(alarm).await.map_err(|(Failure::Passing(why) | Failure::Final(why))| why)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::alarm::{Kind, Subject};

    struct Scripted(Mutex<Vec<Result<(), Failure>>>);

    impl Deliver for Scripted {
        fn deliver<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
            let next = self.0.lock().unwrap().pop();
            Box::pin(async move {
                match next {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn alarm() -> Arc<Alarm> {
        let subject = Subject::default();
        Arc::new(Alarm {
            kind: Kind::Canary,
            at: SystemTime::UNIX_EPOCH,
            subject,
            count: 1,
            text: "a text".into(),
            contains: false,
        })
    }

    async fn settled(outlet: &Outlet) {
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if outlet.deliveries.done.load(Relaxed) + outlet.deliveries.failed.load(Relaxed) > 0 {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_what_is_final_is_not() {
        let passing = || Err(Failure::Passing("busy".into()));
        // The last is the first.
        let outlet = Outlet::start("hook", Scripted(Mutex::new(vec![Ok(()), passing(), passing()])));
        outlet.send(&alarm());
        settled(&outlet).await;
        assert_eq!(outlet.deliveries.read().map(|(_, count)| count), [1, 0, 0]);
        let outlet = Outlet::start("hook", Scripted(Mutex::new(vec![Ok(()), Err(Failure::Final("no".into()))])));
        outlet.send(&alarm());
        settled(&outlet).await;
        assert_eq!(outlet.deliveries.read().map(|(_, count)| count), [0, 1, 0]);
        let outlet = Outlet::start("hook", Scripted(Mutex::new((0..20).map(|_| passing()).collect())));
        outlet.send(&alarm());
        settled(&outlet).await;
        assert_eq!(outlet.deliveries.read().map(|(_, count)| count), [0, 1, 0], "there is an end to it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_room_is_counted_and_the_end_does_not_wait() {
        let outlet = Outlet::start("hook", Scripted(Mutex::default()));
        tokio::task::yield_now().await;
        (0..ROOM + 40).for_each(|_| outlet.send(&alarm()));
        assert_eq!(outlet.deliveries.read()[2], ("dropped", 40));
        outlet.close().await;
        outlet.send(&alarm());
        assert_eq!(outlet.deliveries.read()[2], ("dropped", 41));
    }
}

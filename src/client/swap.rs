//! Something that is made of a secret's value, such as a connection pool, and made anew when the secret is rotated.

use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::{Changes, Error, Secret, Session};

/// What is made of a secret's current value. Who uses it takes it anew each time ([`get`](Self::get)), and gives it back by dropping it: when the
/// last user of the old one is done, the daemon is told that the new version is in use, and the old value can be retired.
///
/// ```no_run
/// # struct Pool; impl Pool { async fn connect(_: &str) -> std::io::Result<Self> { Ok(Pool) } }
/// # async fn run(session: valetkey::client::Session) -> Result<(), Box<dyn std::error::Error>> {
/// let pool = valetkey::client::Swap::new(&session, "db/url", |url| async move {
///     let url = url.to_text().map_err(std::io::Error::other)?;
///     Pool::connect(&url).await
/// })
/// .await?;
/// let one = pool.get(); // for one piece of work, not for longer
/// # drop(one); Ok(()) }
/// ```
#[derive(Debug)]
pub struct Swap<T> {
    current: Arc<RwLock<Arc<T>>>,
    task: tokio::task::JoinHandle<()>,
}

/// How often it is looked whether the last user of an old one is done.
const LOOK: Duration = Duration::from_millis(10);
/// The first and the longest wait before another try to make one.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Why there is none to begin with.
#[derive(Debug)]
pub enum NotMade<E> {
    /// The secret could not be had.
    Secret(Error),
    /// It was had, and nothing could be made of it.
    Make(E),
}

impl<E: std::fmt::Display> std::fmt::Display for NotMade<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(error) => error.fmt(f),
            Self::Make(error) => error.fmt(f),
        }
    }
}

impl<E: std::fmt::Debug + std::fmt::Display> std::error::Error for NotMade<E> {}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Makes the first, and from then on another for each new version. One that cannot be made leaves the old in use, and is tried again.
    ///
    /// # Errors
    /// Where the first cannot be made.
    pub async fn new<E, F, M>(session: &Session, name: &str, make: M) -> Result<Self, NotMade<E>>
    where
        M: Fn(Secret) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Send + 'static,
    {
        // Before the first is fetched: what changes meanwhile is heard of.
        let changes = session.watch();
        let secret = session.get(name).await.map_err(NotMade::Secret)?;
        let version = secret.clone();
        let first = make(secret).await.map_err(NotMade::Make)?;
        let current = Arc::new(RwLock::new(Arc::new(first)));
        let _ = session.acknowledge(&version).await;
        let following = follow(session.clone(), name.to_owned(), version, current.clone(), changes, make);
        Ok(Self { current, task: tokio::spawn(following) })
    }

    /// The one that is made of the current value.
    pub fn get(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T> Drop for Swap<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow<T, E, F, M>(
    session: Session,
    name: String,
    mut used: Secret,
    current: Arc<RwLock<Arc<T>>>,
    mut changes: Changes,
    make: M,
) where
    M: Fn(Secret) -> F,
    F: Future<Output = Result<T, E>>,
{
    let mut wait = RETRY.0;
    loop {
        let newest = session.cached(&name).filter(|newest| !newest.same_as(&used));
        let Some(secret) = newest else {
            if changes.next().await.is_none() {
                return;
            }
            continue;
        };
        match make(secret.clone()).await {
            Ok(made) => {
                let before = std::mem::replace(&mut *current.write().unwrap_or_else(PoisonError::into_inner), Arc::new(made));
                let gone = Arc::downgrade(&before);
                drop(before);
                while gone.strong_count() > 0 {
                    tokio::time::sleep(LOOK).await;
                }
                let _ = session.acknowledge(&secret).await;
                (used, wait) = (secret, RETRY.0);
            }
            Err(_) => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

//! Telling a program of new versions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

use super::Secret;

/// A secret has a new version.
#[derive(Clone)]
pub struct Change {
    /// What to use from now on.
    pub secret: Secret,
    /// What to stop using.
    pub previous: Secret,
}

/// A stream of [`Change`]s.
pub struct Changes(Arc<Watcher>);

impl Changes {
    /// The next change. `None` when the session has ended. A slow reader misses versions between, never the newest.
    ///
    /// Can be cancelled, in `select!` say, without losing a change.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            {
                let mut news = self.0.lock();
                if let Some(name) = news.pending.keys().next().cloned() {
                    return news.pending.remove(&name);
                }
                if news.over {
                    return None;
                }
            }
            // One reader, and `notify_one` leaves a permit: what was told since the look above is not missed.
            self.0.told.notified().await;
        }
    }
}

/// What one reader has not read yet: at most one change of each secret, so that a reader who never comes holds no more old
/// values in memory than there are secrets.
#[derive(Default)]
struct Watcher {
    news: Mutex<News>,
    told: Notify,
}

#[derive(Default)]
struct News {
    pending: HashMap<String, Change>,
    over: bool,
}

impl Watcher {
    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every reader of one session.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    readers: Vec<Weak<Watcher>>,
    over: bool,
}

impl Watchers {
    pub fn subscribe(&self) -> Changes {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = Arc::new(Watcher::default());
        watcher.lock().over = inner.over;
        inner.readers.retain(|reader| reader.strong_count() > 0);
        inner.readers.push(Arc::downgrade(&watcher));
        Changes(watcher)
    }

    /// `secret` takes the place of `previous`: each reader hears of the newest, and of the one it knew before that.
    pub fn tell(&self, secret: &Secret, previous: &Secret) {
        self.each(|news| {
            let unread = news.pending.remove(secret.name());
            let previous = unread.map_or_else(|| previous.clone(), |unread| unread.previous);
            news.pending.insert(secret.name().into(), Change { secret: secret.clone(), previous });
        });
    }

    /// Drops what nobody has read: the value, or with an empty name every one, may no longer be held.
    pub fn forget(&self, name: &str) {
        self.each(|news| if name.is_empty() { news.pending.clear() } else { drop(news.pending.remove(name)) });
    }

    /// Nothing comes any more.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.each(|news| news.over = true);
    }

    fn each(&self, mut act: impl FnMut(&mut News)) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in inner.readers.iter().filter_map(Weak::upgrade) {
            act(&mut watcher.lock());
            watcher.told.notify_one();
        }
    }
}

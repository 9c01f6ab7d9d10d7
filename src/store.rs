//! The secrets in memory. One owner writes ([`Keeper`], held by `refresh`); everyone else reads, and only with a
//! [`Grant`](crate::policy::Grant).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    name::{SecretName, SourceName, Version},
    policy::Grant,
    redact::Redactor,
    secret::SecretValue,
    source::{Fetched, SourceError},
};

/// One version of a secret, as it is held.
#[derive(Debug)]
pub struct Held {
    pub version: Version,
    /// When the daemon last heard from the source that this version is current.
    pub confirmed: SystemTime,
    value: Arc<SecretValue>,
}

impl Held {
    /// Lends the value for as long as `look` runs.
    pub fn expose<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        self.value.expose(look)
    }

    /// Number of bytes of the value.
    pub fn value_len(&self) -> usize {
        self.value.len()
    }
}

/// Why a granted secret cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    #[error("it has not been loaded")]
    NotLoaded,
    #[error("its source has none: {0}")]
    AtSource(SourceError),
    #[error("an operator revoked it; a reload loads it again")]
    Revoked,
}

type Entry = Result<Arc<Held>, Absent>;

/// What may be told of an entry: the version and when it was last confirmed, or why there is none.
pub type Facts = Result<(Version, SystemTime), Absent>;

#[derive(Debug)]
struct Shelf {
    entries: RwLock<HashMap<SecretName, (SourceName, Entry)>>,
    changes: watch::Sender<u64>,
}

impl Shelf {
    // A panic while holding the lock leaves a map that is whole: every write is one insert or remove.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<SecretName, (SourceName, Entry)>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<SecretName, (SourceName, Entry)>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The read half.
#[derive(Debug, Clone)]
pub struct Store {
    shelf: Arc<Shelf>,
}

/// The write half. What it holds, the redactor knows: from before a value can be handed out, until it is replaced twice.
#[derive(Debug)]
pub struct Keeper {
    shelf: Arc<Shelf>,
    redactor: Redactor,
    /// Versions that were held before, and may still be in a tool's hands and so in an upstream's error.
    previous: Mutex<HashMap<SecretName, Version>>,
}

/// An empty store, whose values this redactor will know.
pub fn new(redactor: Redactor) -> (Keeper, Store) {
    let shelf = Arc::new(Shelf { entries: RwLock::default(), changes: watch::Sender::new(0) });
    (Keeper { shelf: shelf.clone(), redactor, previous: Mutex::default() }, Store { shelf })
}

impl Store {
    /// The value that the grant is for.
    pub fn read(&self, grant: &Grant<'_>) -> Result<Arc<Held>, Absent> {
        match self.shelf.read().get(grant.secret()) {
            Some((_, entry)) => entry.clone(),
            None => Err(Absent::NotLoaded),
        }
    }

    /// The version in memory now. No grant: a version is a fact, not a value.
    pub fn version(&self, secret: &str) -> Option<Version> {
        self.shelf.read().get(secret).and_then(|(_, entry)| entry.as_ref().ok()).map(|held| held.version.clone())
    }

    /// What is in memory, without values: source, and version and time or why not.
    pub fn listing(&self) -> BTreeMap<SecretName, (SourceName, Facts)> {
        let facts = |entry: &Entry| entry.as_ref().map(|held| (held.version.clone(), held.confirmed)).map_err(Clone::clone);
        self.shelf.read().iter().map(|(name, (source, entry))| (name.clone(), (source.clone(), facts(entry)))).collect()
    }

    /// Counts up at each change of any secret.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shelf.changes.subscribe()
    }
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Version and value are as they were.
    None,
    /// A new version, or a value where there was none.
    New,
    /// The value is gone.
    Gone,
}

impl Keeper {
    /// Tells the redactor of values that are about to be held: all at once, because each build of its tables costs. Names those
    /// that are too short to be found in a text.
    pub fn expect<'v>(&self, coming: impl IntoIterator<Item = (&'v SecretName, &'v Fetched)> + Clone) -> Vec<SecretName> {
        let values = coming.clone().into_iter().map(|(name, fetched)| (name, &fetched.version, &fetched.value));
        let learned = self.redactor.learn_all(values);
        let short = coming.into_iter().zip(learned).filter(|(_, learned)| learned.too_short);
        short.map(|((name, _), _)| name.clone()).collect()
    }

    /// The redactor forgets the version before the one that is replaced now.
    fn retire(&self, secret: &SecretName, replaced: Version) {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(older) = previous.insert(secret.clone(), replaced) {
            self.redactor.forget(secret, &older);
        }
    }

    /// Holds what a source gave. A value that it replaces is wiped when its last reader is done with it.
    pub fn put(&self, secret: SecretName, source: SourceName, fetched: Fetched, now: SystemTime) -> Change {
        let mut entries = self.shelf.write();
        let before = entries.get(&secret).and_then(|(_, entry)| entry.as_ref().ok());
        let same = before.filter(|held| held.version == fetched.version && held.value.same_as(&fetched.value));
        // The value that is held already stays where it is: a second copy would do nothing but exist.
        let (value, change) = match same {
            Some(held) => (held.value.clone(), Change::None),
            None => (Arc::new(fetched.value), Change::New),
        };
        let replaced = before.map(|held| held.version.clone()).filter(|version| *version != fetched.version);
        entries.insert(secret.clone(), (source, Ok(Arc::new(Held { version: fetched.version, confirmed: now, value }))));
        drop(entries);
        if let Some(replaced) = replaced {
            self.retire(&secret, replaced);
        }
        self.announce(change)
    }

    /// Is there a value in memory?
    pub fn has_value(&self, secret: &SecretName) -> bool {
        matches!(self.shelf.read().get(secret), Some((_, Ok(_))))
    }

    /// Drops the value and remembers why.
    pub fn drop_value(&self, secret: &SecretName, source: &SourceName, why: Absent) -> Change {
        let before = self.shelf.write().insert(secret.clone(), (source.clone(), Err(why)));
        self.announce(if matches!(before, Some((_, Ok(_)))) { Change::Gone } else { Change::None })
    }

    /// Drops the value because an operator said so. `None`: no such secret in memory.
    pub fn revoke(&self, secret: &str) -> Option<Change> {
        let (name, source) = {
            let entries = self.shelf.read();
            let (name, (source, _)) = entries.get_key_value(secret)?;
            (name.clone(), source.clone())
        };
        Some(self.drop_value(&name, &source, Absent::Revoked))
    }

    /// Forgets every secret that is not wanted any more.
    pub fn retain(&self, wanted: impl Fn(&SecretName) -> bool) {
        self.shelf.write().retain(|name, _| wanted(name));
        self.announce(Change::Gone);
    }

    fn announce(&self, change: Change) -> Change {
        if change != Change::None {
            self.shelf.changes.send_modify(|count| *count += 1);
        }
        change
    }
}

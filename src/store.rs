//! The secrets in memory. One owner writes ([`Keeper`], held by `refresh`); everyone else reads, and only with a
//! [`Grant`].

mod moment;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

pub use moment::{Moment, Stamp};

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
    pub confirmed: Stamp,
    /// How long after that it may be handed out. `None`: for ever, because it cannot change.
    pub max_stale: Option<Duration>,
    /// Where the value came from, in the words of configuration. `None`: from this host itself.
    pub place: Option<Arc<str>>,
    /// It is lent, or its source changes it then: it must be checked by this time.
    check_by: Option<Moment>,
    serial: Serial,
    value: Arc<SecretValue>,
}

/// Tells apart values that a source gave the same version: one made anew under its old name starts at 1 again, and some sources
/// keep no versions.
pub type Serial = u64;

impl Held {
    /// A value that was made for one session, and is in no store.
    pub fn lent(version: Version, serial: Serial, value: SecretValue) -> Self {
        let confirmed = Stamp::now();
        Self { version, confirmed, max_stale: None, place: None, check_by: None, serial, value: Arc::new(value) }
    }

    /// Lends the value for as long as `look` runs.
    pub fn expose<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        self.value.expose(look)
    }

    /// How long ago the daemon heard that it is current.
    pub fn age(&self, now: Moment) -> Duration {
        now.since(self.confirmed.moment)
    }

    fn facts(&self, now: Moment) -> HeldFacts {
        let (version, max_stale) = (self.version.clone(), self.max_stale);
        HeldFacts { version, confirmed: self.confirmed.date, age: self.age(now), max_stale }
    }

    pub fn is_stale(&self, now: Moment) -> bool {
        self.max_stale.is_some_and(|most| self.age(now) > most)
    }

    pub fn serial(&self) -> Serial {
        self.serial
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
    #[error("its source has not confirmed it within max-stale: the last good value is not handed out any longer")]
    Stale,
}

type Entry = Result<Arc<Held>, Absent>;

/// What may be told of an entry: the facts of what is held, or why there is nothing.
pub type Facts = Result<HeldFacts, Absent>;

/// What may be told of what is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFacts {
    pub version: Version,
    pub confirmed: SystemTime,
    pub age: Duration,
    pub max_stale: Option<Duration>,
}

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
    redactor: Redactor,
}

/// The write half. What it holds, the redactor knows: from before a value can be handed out, until it is replaced twice and nobody has
/// it any more.
#[derive(Debug)]
pub struct Keeper {
    shelf: Arc<Shelf>,
    redactor: Redactor,
    /// Versions that were held before, the latest last, and may still be in a tool's hands and so in an upstream's error.
    previous: Mutex<HashMap<SecretName, Vec<Version>>>,
    serial: AtomicU64,
}

/// So many versions of one secret stay known to the redactor after they went, whoever has them.
const MOST_PREVIOUS: usize = 64;

/// An empty store, whose values this redactor will know.
pub fn new(redactor: Redactor) -> (Keeper, Store) {
    let shelf = Arc::new(Shelf { entries: RwLock::default(), changes: watch::Sender::new(0) });
    let store = Store { shelf: shelf.clone(), redactor: redactor.clone() };
    (Keeper { shelf, redactor, previous: Mutex::default(), serial: AtomicU64::new(0) }, store)
}

impl Store {
    /// The value that the grant is for, unless it is stale.
    pub fn read(&self, grant: &Grant<'_>) -> Result<Arc<Held>, Absent> {
        match self.shelf.read().get(grant.secret()) {
            Some((_, Ok(held))) if held.is_stale(Moment::now()) => Err(Absent::Stale),
            Some((_, entry)) => entry.clone(),
            None => Err(Absent::NotLoaded),
        }
    }

    /// The version in memory now. No grant: a version is a fact, not a value.
    pub fn version(&self, secret: &str) -> Option<(Version, Serial)> {
        let entries = self.shelf.read();
        let (_, entry) = entries.get(secret)?;
        entry.as_ref().ok().map(|held| (held.version.clone(), held.serial))
    }

    /// What is in memory, without values: source, and version and time or why not.
    pub fn listing(&self) -> BTreeMap<SecretName, (SourceName, Facts)> {
        let now = Moment::now();
        let facts = |entry: &Entry| match entry {
            Ok(held) if held.is_stale(now) => Err(Absent::Stale),
            Ok(held) => Ok(held.facts(now)),
            Err(absent) => Err(absent.clone()),
        };
        self.shelf.read().iter().map(|(name, (source, entry))| (name.clone(), (source.clone(), facts(entry)))).collect()
    }

    /// Counts up at each change of any secret.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shelf.changes.subscribe()
    }

    /// What finds all that is held, and the version before it, in a text. It gives no value away but to who has it already.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}

/// When a source said that something is current, and how long that may be relied on.
#[derive(Debug, Clone)]
pub struct Confirmed {
    pub at: Stamp,
    pub max_stale: Option<Duration>,
    /// See [`Held::place`]. What is held already stays from where it came.
    pub place: Option<Arc<str>>,
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

    /// What goes now is known to the redactor for as long as somebody may have it, see [`forget_unheld`](Self::forget_unheld). If `held`
    /// is one that went before, it has come back: sources roll back.
    fn retire(&self, secret: &SecretName, gone: Version, held: Option<&Version>) {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = previous.entry(secret.clone()).or_default();
        previous.retain(|older| *older != gone && Some(older) != held);
        previous.push(gone);
        if previous.len() > MOST_PREVIOUS {
            self.redactor.forget(secret, &previous.remove(0));
        }
    }

    /// The redactor forgets what was held before the last version and is held by nobody any more, as far as `is_held` knows. The last
    /// one stays: who had it may have written it somewhere.
    pub fn forget_unheld(&self, is_held: impl Fn(&SecretName, &Version) -> bool) {
        let mut gone = Vec::new();
        {
            let mut all = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
            for (secret, previous) in all.iter_mut().filter(|(_, previous)| previous.len() > 1) {
                let last = previous.len() - 1;
                let mut at = 0;
                previous.retain(|version| {
                    let stays = at == last || is_held(secret, version);
                    at += 1;
                    if !stays {
                        gone.push((secret.clone(), version.clone()));
                    }
                    stays
                });
            }
        }
        gone.iter().for_each(|(secret, version)| self.redactor.forget(secret, version));
    }

    /// Holds what a source gave. A value that it replaces is wiped when its last reader is done with it. What an operator revoked stays
    /// revoked, see [`forgive`](Self::forgive).
    pub fn put(&self, secret: SecretName, source: SourceName, fetched: Fetched, confirmed: Confirmed) -> Change {
        let mut entries = self.shelf.write();
        if matches!(entries.get(&secret), Some((_, Err(Absent::Revoked)))) {
            return Change::None;
        }
        let before = entries.get(&secret).and_then(|(_, entry)| entry.as_ref().ok());
        let same = before.filter(|held| held.version == fetched.version && held.value.same_as(&fetched.value));
        // The value that is held already stays where it is: a second copy would do nothing but exist.
        let (value, serial, change) = match same {
            Some(held) => (held.value.clone(), held.serial, Change::None),
            None => (Arc::new(fetched.value), self.serial.fetch_add(1, Relaxed), Change::New),
        };
        let version = fetched.version;
        let check_by = fetched.check_within.map(|within| confirmed.at.moment.after(within));
        let replaced = before.map(|held| held.version.clone()).filter(|replaced| *replaced != version);
        let Confirmed { at, max_stale, place } = confirmed;
        let held = Held { version: version.clone(), confirmed: at, max_stale, place, check_by, serial, value };
        entries.insert(secret.clone(), (source, Ok(Arc::new(held))));
        drop(entries);
        if let Some(replaced) = replaced {
            self.retire(&secret, replaced, Some(&version));
        }
        self.announce(change)
    }

    /// The source says that this version is what it has. `false`, where another one is held by now, or none.
    pub fn confirm(&self, secret: &SecretName, version: &Version, confirmed: Confirmed, check_within: Option<Duration>) -> bool {
        let mut entries = self.shelf.write();
        let Some((_, Ok(held))) = entries.get_mut(secret) else { return false };
        if held.version != *version {
            return false;
        }
        if held.confirmed.moment <= confirmed.at.moment {
            let Confirmed { at, max_stale, .. } = confirmed;
            let (version, place, value) = (held.version.clone(), held.place.clone(), held.value.clone());
            let check_by = check_within.map(|within| at.moment.after(within));
            *held = Arc::new(Held { version, confirmed: at, max_stale, place, check_by, serial: held.serial, value });
        }
        true
    }

    /// Counts up at each change of any secret.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shelf.changes.subscribe()
    }

    /// What is held of a secret: its version, or why there is none.
    pub fn version(&self, secret: &SecretName) -> Result<Version, Absent> {
        match self.shelf.read().get(secret) {
            Some((_, entry)) => entry.as_ref().map(|held| held.version.clone()).map_err(Clone::clone),
            None => Err(Absent::NotLoaded),
        }
    }

    /// How long until what is held must be checked. `None`: whenever.
    pub fn check_within(&self, secret: &SecretName) -> Option<Duration> {
        let entries = self.shelf.read();
        let check_by = entries.get(secret)?.1.as_ref().ok()?.check_by?;
        Some(check_by.since(Moment::now()))
    }

    /// Is there a value in memory?
    pub fn has_value(&self, secret: &SecretName) -> bool {
        self.version(secret).is_ok()
    }

    /// Lends everything that is held, as [`refresh`](crate::refresh) alone may see it.
    pub fn each(&self, mut look: impl FnMut(&SecretName, &SourceName, &Held)) {
        let entries = self.shelf.read();
        for (secret, (source, entry)) in entries.iter() {
            if let Ok(held) = entry {
                look(secret, source, held);
            }
        }
    }

    /// Drops the value and remembers why. What an operator revoked stays revoked.
    pub fn drop_value(&self, secret: &SecretName, source: &SourceName, why: Absent) -> Change {
        self.drop_where(secret, source, why, |_| true)
    }

    /// The same, if this is what is to be dropped: looked at under the lock, so that nothing new goes in its place.
    fn drop_where(&self, secret: &SecretName, source: &SourceName, why: Absent, is_it: impl Fn(&Entry) -> bool) -> Change {
        let before = {
            let mut entries = self.shelf.write();
            match entries.get(secret) {
                Some((_, Err(Absent::Revoked))) => return Change::None,
                Some((_, entry)) if !is_it(entry) => return Change::None,
                _ => entries.insert(secret.clone(), (source.clone(), Err(why))),
            }
        };
        let Some((_, Ok(gone))) = before else { return self.announce(Change::None) };
        self.retire(secret, gone.version.clone(), None);
        self.announce(Change::Gone)
    }

    /// Drops every value that may not be handed out any longer, and says which.
    pub fn drop_stale(&self, now: Moment) -> Vec<SecretName> {
        let is_stale = |entry: &Entry| entry.as_ref().is_ok_and(|held| held.is_stale(now));
        let mut stale: Vec<_> = {
            let entries = self.shelf.read();
            let stale = entries.iter().filter(|(_, (_, entry))| is_stale(entry));
            stale.map(|(secret, (source, _))| (secret.clone(), source.clone())).collect()
        };
        // Looked at again, each: what was confirmed since then stays.
        stale.retain(|(secret, source)| self.drop_where(secret, source, Absent::Stale, is_stale) == Change::Gone);
        stale.into_iter().map(|(secret, _)| secret).collect()
    }

    /// What operators have revoked so far.
    pub fn revoked(&self) -> HashSet<SecretName> {
        let entries = self.shelf.read();
        let revoked = entries.iter().filter(|(_, (_, entry))| matches!(entry, Err(Absent::Revoked)));
        revoked.map(|(secret, _)| secret.clone()).collect()
    }

    /// What operators revoked may be held again, once its source gives it.
    pub fn forgive(&self, revoked: &HashSet<SecretName>) {
        let mut entries = self.shelf.write();
        for secret in revoked {
            if let Some((_, entry @ Err(Absent::Revoked))) = entries.get_mut(secret) {
                *entry = Err(Absent::NotLoaded);
            }
        }
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
        let unwanted: Vec<_> = self.shelf.write().extract_if(|name, _| !wanted(name)).collect();
        for (name, (_, entry)) in &unwanted {
            if let Ok(gone) = entry {
                self.retire(name, gone.version.clone(), None);
            }
        }
        self.announce(if unwanted.is_empty() { Change::None } else { Change::Gone });
    }

    fn announce(&self, change: Change) -> Change {
        if change != Change::None {
            self.shelf.changes.send_modify(|count| *count += 1);
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(value: &str, version: u64) -> Fetched {
        Fetched { value: SecretValue::copy_from(value.as_bytes()).unwrap(), version: version.into(), check_within: None }
    }

    fn put(keeper: &Keeper, value: &str, version: u64) -> Change {
        let (secret, fetched) = ("it".parse().unwrap(), fetched(value, version));
        let _ = keeper.expect([(&secret, &fetched)]);
        keeper.put(secret, "prod".parse().unwrap(), fetched, confirmed(Moment::now()))
    }

    fn confirmed(moment: Moment) -> Confirmed {
        let at = Stamp { moment, date: SystemTime::UNIX_EPOCH };
        Confirmed { at, max_stale: Some(Duration::from_secs(60)), place: None }
    }

    fn known(redactor: &Redactor, value: &str) -> bool {
        !redactor.redact_str(value).contains(value)
    }

    #[test]
    fn the_redactor_knows_this_version_and_the_one_before() {
        let redactor = Redactor::new().unwrap();
        let (keeper, _) = new(redactor.clone());
        let values = ["first-value-of-it", "second-value-of-it", "third-value-of-it"];
        for (version, value) in (1..).zip(values) {
            assert_eq!(put(&keeper, value, version), Change::New);
        }
        assert_eq!(values.map(|value| known(&redactor, value)), [true, true, true], "somebody may still have the first");
        keeper.forget_unheld(|_, version| *version == Version::from(1));
        assert_eq!(values.map(|value| known(&redactor, value)), [true, true, true], "somebody has it");
        keeper.forget_unheld(|_, _| false);
        assert_eq!(values.map(|value| known(&redactor, value)), [false, true, true]);
    }

    #[test]
    fn however_often_a_secret_changes_the_redactor_does_not_grow_without_end() {
        let redactor = Redactor::new().unwrap();
        let (keeper, _) = new(redactor.clone());
        for version in 1..=MOST_PREVIOUS as u64 + 2 {
            put(&keeper, &format!("value-number-{version}-of-it"), version);
        }
        assert!(!known(&redactor, "value-number-1-of-it") && known(&redactor, "value-number-2-of-it"));
    }

    #[test]
    fn a_source_that_rolls_back_does_not_make_the_redactor_forget_what_is_held() {
        let redactor = Redactor::new().unwrap();
        let (keeper, _) = new(redactor.clone());
        for (value, version) in [("first-value-of-it", 1), ("second-value-of-it", 2), ("first-value-of-it", 1)] {
            put(&keeper, value, version);
        }
        assert!(known(&redactor, "first-value-of-it") && known(&redactor, "second-value-of-it"));
    }

    #[test]
    fn what_is_revoked_and_loaded_again_stays_known() {
        let redactor = Redactor::new().unwrap();
        let (keeper, _) = new(redactor.clone());
        for _ in 0..3 {
            put(&keeper, "first-value-of-it", 1);
            assert_eq!(keeper.revoke("it"), Some(Change::Gone));
            assert!(known(&redactor, "first-value-of-it"), "a tool may still hold it");
            assert_eq!(put(&keeper, "first-value-of-it", 1), Change::None, "what is revoked stays revoked");
            keeper.forgive(&keeper.revoked());
        }
        put(&keeper, "second-value-of-it", 2);
        keeper.retain(|_| false);
        put(&keeper, "third-value-of-it", 3);
        keeper.forget_unheld(|_, _| false);
        assert!(known(&redactor, "third-value-of-it") && !known(&redactor, "first-value-of-it"));
    }

    #[test]
    fn what_is_stale_is_dropped_and_what_was_confirmed_is_not() {
        let (keeper, store) = new(Redactor::new().unwrap());
        let (secret, now) = ("it".parse().unwrap(), Moment::now());
        put(&keeper, "first-value-of-it", 1);
        let version = |number: u64| Version::from(number);
        let later = now.after(Duration::from_secs(50));
        keeper.confirm(&secret, &version(2), confirmed(later), None);
        assert_eq!(keeper.drop_stale(now.after(Duration::from_secs(59))), []);
        keeper.confirm(&secret, &version(1), confirmed(later), None);
        let serial = store.version("it");
        assert_eq!(keeper.drop_stale(now.after(Duration::from_secs(109))), []);
        assert_eq!(store.version("it"), serial, "a confirmation is no change");
        assert_eq!(keeper.drop_stale(now.after(Duration::from_secs(112))), std::slice::from_ref(&secret));
        assert_eq!(keeper.version(&secret), Err(Absent::Stale));
        keeper.confirm(&secret, &version(1), confirmed(later), None);
        assert_eq!(keeper.version(&secret), Err(Absent::Stale), "a value that is gone does not come back by a word");
    }

    #[test]
    fn another_value_of_the_same_version_is_news() {
        let (keeper, store) = new(Redactor::new().unwrap());
        assert_eq!(put(&keeper, "first-value-of-it", 1), Change::New);
        let before = store.version("it");
        assert_eq!(put(&keeper, "first-value-of-it", 1), Change::None);
        assert_eq!(store.version("it"), before);
        assert_eq!(put(&keeper, "other-value-of-it", 1), Change::New);
        assert_ne!(store.version("it"), before);
    }
}

//! The sealed copy of the last good values on disk: off unless configured. With it a host can boot while a source is down.
//!
//! It has what is held from sources elsewhere, and of each value where it came from and when it was confirmed. What comes from this
//! host itself (the environment, sealed files) is not in it: that is there at the next boot as it is now, and a second copy of it would be
//! one more thing to steal.
//!
//! What may no longer be had (refused by its source, stale, revoked, taken away by policy) leaves the copy at once, and before the call
//! returns that took it away. What is new goes in within two seconds. The copy is read at the first load alone, for what a source said
//! nothing final about, and no longer than `max-stale` after its confirmation, by the date. Not using it is always safe: whatever is odd
//! about the file, it is not used.

mod content;
pub(crate) mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use self::content::{Content, Facts};
use super::{Failure, Plan, Staged};
use crate::{
    name::{SecretName, SourceName},
    source::{
        Fetched, SourceError,
        sealed_file::{Identity, Seal},
    },
    store::{Change, Confirmed, Keeper, Moment, Serial, Stamp},
};
pub use content::Kept;

/// The wait after something changed, and the least time between two writes of what is new.
const SOON: Duration = Duration::from_secs(1);
/// The wait after a write failed.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two writes that only bring confirmations up to date.
const SELDOM: Duration = Duration::from_secs(60);

/// The copy of one daemon.
pub struct LastGood {
    file: PathBuf,
    identity_file: PathBuf,
    /// All that writing takes. The identity, which opens, is read when it is needed and not kept.
    seal: Seal,
    keeper: Arc<Keeper>,
    /// What was confirmed before this came from the copy.
    began: Moment,
    /// Has all been loaded once, so that a task follows what is held?
    followed: AtomicBool,
    /// Held while the file is written.
    disk: Mutex<Disk>,
    told: Mutex<Told>,
}

/// What is known of the file.
#[derive(Default)]
struct Disk {
    /// The values in it. `None`: nobody knows, as none was written, and one must be.
    has: Option<BTreeMap<SecretName, Written>>,
    /// The last write, and whether it failed.
    tried: Option<(Moment, bool)>,
    /// Since when something is new that is not in it.
    behind: Option<Moment>,
}

/// A value in the file: which it is, and what is said of it.
struct Written {
    serial: Serial,
    place: Arc<str>,
    confirmed: Moment,
}

/// What operators are told.
#[derive(Debug, Clone, Default)]
struct Told {
    written: Option<SystemTime>,
    problem: Option<String>,
}

/// How it goes with the copy, for operators.
#[derive(Debug, Clone)]
pub struct LastGoodState {
    pub file: PathBuf,
    /// When it was last written by this daemon.
    pub written: Option<SystemTime>,
    /// Why it is not what it should be.
    pub problem: Option<String>,
    /// How many of the values that are held come from it, by source, and when the oldest of them was confirmed.
    pub served: BTreeMap<SourceName, (usize, SystemTime)>,
}

/// How the file differs from what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    None,
    /// Confirmations are newer. To be written this long after the last write.
    Confirmed(Duration),
    New,
    /// It has what may not be had any longer.
    Gone,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LastGood {
    /// Reads the identity, to seal to it. Does not look at the file.
    pub fn new(file: PathBuf, identity_file: PathBuf, keeper: Arc<Keeper>) -> Result<Self, SourceError> {
        let seal = Seal::of(&Identity::read(&identity_file)?)?;
        let (followed, disk, told) = (AtomicBool::default(), Mutex::default(), Mutex::default());
        Ok(Self { file, identity_file, seal, keeper, began: Moment::now(), followed, disk, told })
    }

    pub fn state(&self) -> LastGoodState {
        let Told { written, problem } = lock(&self.told).clone();
        let mut served: BTreeMap<SourceName, (usize, SystemTime)> = BTreeMap::new();
        self.keeper.each(|_, source, held| {
            if held.confirmed.moment < self.began && held.place.is_some() {
                let (count, oldest) = served.entry(source.clone()).or_insert((0, held.confirmed.date));
                *count += 1;
                *oldest = held.confirmed.date.min(*oldest);
            }
        });
        LastGoodState { file: self.file.clone(), written, problem, served }
    }

    /// Gives a load what it could not have and the copy has; and takes out of the copy what the load found refused, whatever comes of
    /// the load.
    pub async fn fill(self: &Arc<Self>, staged: &mut Staged, plan: &Plan) {
        if staged.failures.is_empty() {
            return;
        }
        let refused = staged.failures.iter().filter(|failure| failure.error.cause.is_final());
        let refused: BTreeSet<_> = refused.map(|failure| failure.secret.clone()).collect();
        let this = self.clone();
        let read = spawn_blocking(move || this.read(&refused)).await;
        let Ok(Some(content)) = read else { return };
        staged.fill(content, plan, SystemTime::now());
        for (source, failures) in staged.kept_by_source() {
            let oldest = failures.iter().map(|kept| kept.age().as_secs()).max().unwrap_or_default();
            warn!(%source, secrets = failures.len(), oldest_seconds = oldest, "gives no answer: values come from the sealed copy on disk");
        }
    }

    /// What is in the file, without what is refused. `None` where there is no file, or none that can be relied on.
    fn read(&self, refused: &BTreeSet<SecretName>) -> Option<Content> {
        let disk = lock(&self.disk);
        let read = file::read(&self.file).and_then(|sealed| sealed.map(|sealed| self.open(&sealed)).transpose());
        let mut content = match read {
            Ok(content) => content?,
            Err(problem) => {
                self.tell(Some(format!("the last good copy is not used: {} {problem}", self.file.display())));
                return None;
            }
        };
        let before = content.secrets.len();
        content.secrets.retain(|secret, _| !refused.contains(secret));
        if content.secrets.len() < before {
            // By the old date: who set the clock back meanwhile must not make it look new.
            let written = self.put(&content.plain());
            self.tell(written.err().map(|problem| self.cannot_forget(&problem)));
        }
        drop(disk);
        Some(content)
    }

    fn open(&self, sealed: &[u8]) -> Result<Content, String> {
        let identity = Identity::read(&self.identity_file).map_err(|error| format!("cannot be opened: {error}"))?;
        let plain = Seal::open(&identity, sealed).map_err(String::from)?;
        Content::parse(&plain).ok_or_else(|| "opens, but is of another version than this daemon".into())
    }

    /// Takes a value out that is not in memory yet, because a load still waits for its source. Blocks.
    fn forget(&self, secret: &str) -> Result<bool, String> {
        let Ok(secret) = secret.parse::<SecretName>() else { return Ok(false) };
        let had = || file::read(&self.file).ok().flatten().and_then(|sealed| self.open(&sealed).ok());
        let had = had().is_some_and(|content| content.secrets.contains_key(&secret));
        if had {
            self.read(&BTreeSet::from([secret]));
            lock(&self.told).problem.clone().map_or(Ok(()), Err)?;
        }
        Ok(had)
    }

    /// Writes the first time, and goes on writing what changes; later only what must be written now.
    pub async fn settle(self: &Arc<Self>) {
        let followed = self.followed.swap(true, Relaxed);
        let this = self.clone();
        let _ = spawn_blocking(move || this.save_if_gone()).await;
        if !followed {
            tokio::spawn(self.clone().keep());
        }
    }

    /// A value was taken away: takes it out of the copy too, before this returns. Blocks. An error where that cannot be done.
    pub fn revoked(&self, secret: &str) -> Result<bool, String> {
        if self.followed.load(Relaxed) { self.save_if_gone().map(|()| false) } else { self.forget(secret) }
    }

    /// Writes the newest confirmations, at the daemon's end.
    pub async fn close(self: &Arc<Self>) {
        let this = self.clone();
        let save = move || {
            let mut disk = lock(&this.disk);
            if this.followed.load(Relaxed) && this.difference(&disk) != Difference::None {
                let _ = this.save(&mut disk);
            }
        };
        let _ = spawn_blocking(save).await;
    }

    fn save_if_gone(&self) -> Result<(), String> {
        let mut disk = lock(&self.disk);
        match self.difference(&disk) {
            Difference::Gone => self.save(&mut disk),
            _ => Ok(()),
        }
    }

    /// Follows what is held. Runs until it is dropped.
    async fn keep(self: Arc<Self>) {
        let mut changes = self.keeper.changes();
        loop {
            let this = self.clone();
            // Another write may be under way, and a disk can be slow.
            let wait = spawn_blocking(move || this.step()).await.unwrap_or(RETRY);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Writes if it is time to, and says when to look again.
    fn step(&self) -> Duration {
        let mut disk = lock(&self.disk);
        let wait = self.wait(&mut disk);
        if wait.is_zero() {
            let _ = self.save(&mut disk);
        }
        wait
    }

    /// How long until the next write; where none is needed, until the next look.
    fn wait(&self, disk: &mut Disk) -> Duration {
        let now = Moment::now();
        let difference = self.difference(disk);
        let since = disk.tried.map_or(Duration::MAX, |(tried, _)| now.since(tried));
        let failed = disk.tried.is_some_and(|(_, failed)| failed);
        match difference {
            Difference::None => SELDOM,
            _ if failed => RETRY.saturating_sub(since),
            Difference::Confirmed(after) => after.saturating_sub(since),
            Difference::New => {
                let behind = *disk.behind.get_or_insert(now);
                SOON.saturating_sub(now.since(behind))
            }
            Difference::Gone => Duration::ZERO,
        }
    }

    fn difference(&self, disk: &Disk) -> Difference {
        let Some(has) = &disk.has else { return Difference::Gone };
        let now = Moment::now();
        let (mut worst, mut still, mut least) = (Difference::None, 0, Duration::MAX);
        self.keeper.each(|secret, _, held| {
            let Some(place) = held.place.as_ref().filter(|_| !held.is_stale(now)) else { return };
            least = held.max_stale.unwrap_or(Duration::MAX).min(least);
            let known = has.get(secret);
            still += usize::from(known.is_some());
            worst = worst.max(match known {
                Some(known) if known.serial != held.serial() || known.place != *place => Difference::New,
                Some(known) if known.confirmed < held.confirmed.moment => Difference::Confirmed(Duration::ZERO),
                Some(_) => Difference::None,
                None => Difference::New,
            });
        });
        match worst {
            _ if still < has.len() => Difference::Gone,
            Difference::Confirmed(_) => Difference::Confirmed(SELDOM.max(least / 10)),
            other => other,
        }
    }

    /// Writes what is held.
    fn save(&self, disk: &mut Disk) -> Result<(), String> {
        let (mut plain, mut has) = (content::begin(SystemTime::now()), BTreeMap::new());
        let now = Moment::now();
        self.keeper.each(|secret, source, held| {
            let Some(place) = held.place.clone().filter(|_| !held.is_stale(now)) else { return };
            let version = held.version.as_str();
            let facts = Facts::new(secret, source, &place, version, held.confirmed.date, held.value_len());
            held.expose(|bytes| content::add(&mut plain, &facts, bytes));
            has.insert(secret.clone(), Written { serial: held.serial(), place, confirmed: held.confirmed.moment });
        });
        let gone = self.difference(disk) == Difference::Gone;
        let written = self.put(&plain);
        disk.tried = Some((Moment::now(), written.is_err()));
        match written {
            Ok(()) => {
                (disk.has, disk.behind) = (Some(has), None);
                lock(&self.told).written = Some(SystemTime::now());
                self.tell(None);
                Ok(())
            }
            Err(problem) if !gone => {
                self.tell(Some(format!("the last good copy cannot be written: {problem}")));
                Err(problem)
            }
            // Better no copy than one of what may not be had any longer.
            Err(problem) => match file::remove(&self.file) {
                Ok(()) => {
                    disk.has = None;
                    self.tell(Some(format!("the last good copy cannot be written, and was removed: {problem}")));
                    Ok(())
                }
                Err(_) => {
                    let problem = self.cannot_forget(&problem);
                    self.tell(Some(problem.clone()));
                    Err(problem)
                }
            },
        }
    }

    fn cannot_forget(&self, problem: &str) -> String {
        let file = self.file.display();
        format!("the last good copy may still have what is not to be had any longer, remove {file}: {problem}")
    }

    fn put(&self, plain: &[u8]) -> Result<(), String> {
        let sealed = self.seal.close(plain).map_err(|error| format!("cannot be sealed: {error}"))?;
        file::write(&self.file, &sealed)
    }

    /// Puts it on the record where it is new.
    fn tell(&self, problem: Option<String>) {
        let mut told = lock(&self.told);
        match (&told.problem, &problem) {
            (before, Some(problem)) if before.as_ref() != Some(problem) => warn!("{problem}"),
            (Some(_), None) => info!(file = %self.file.display(), "the last good copy is written again"),
            _ => {}
        }
        told.problem = problem;
    }
}

impl Staged {
    /// Takes from the copy what its source said nothing of, where it is the same place's and not stale.
    fn fill(&mut self, mut content: Content, plan: &Plan, now: SystemTime) {
        for failure in std::mem::take(&mut self.failures) {
            let planned = plan.sources.get(&failure.source).filter(|_| !failure.error.cause.is_final());
            let asked = planned
                .and_then(|planned| Some((planned.places.get(&failure.secret)?, *planned.max_stale.get(&failure.secret)?)));
            match asked.and_then(|(place, most)| content.take(&failure.secret, &failure.source, place, most, now)) {
                Some(kept) => self.kept.push((failure, kept)),
                None => self.failures.push(failure),
            }
        }
    }

    fn kept_by_source(&self) -> BTreeMap<&SourceName, Vec<&Kept>> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        self.kept.iter().for_each(|(failure, kept)| found.entry(&failure.source).or_default().push(kept));
        found
    }
}

/// Puts what came from the copy into the store, each as old as it is. Says which secrets changed.
pub(super) fn commit(kept: Vec<(Failure, Kept)>, plan: &Plan, keeper: &Keeper) -> Vec<SecretName> {
    let kept: Vec<_> = kept
        .into_iter()
        .map(|(Failure { secret, source, .. }, kept)| {
            let at = kept.confirmed;
            (secret, source, Fetched { value: kept.value, version: kept.version, check_within: None }, at)
        })
        .collect();
    let _ = keeper.expect(kept.iter().map(|(secret, _, fetched, _)| (secret, fetched)));
    let put = |(secret, source, fetched, at): (SecretName, SourceName, Fetched, Stamp)| {
        let confirmed: Confirmed = plan.confirmed(&source, &secret, at);
        (keeper.put(secret.clone(), source, fetched, confirmed) != Change::None).then_some(secret)
    };
    kept.into_iter().filter_map(put).collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::{redact::Redactor, secret::SecretValue, store};

    struct Held {
        folder: tempfile::TempDir,
        keeper: Arc<Keeper>,
        copy: LastGood,
    }

    fn held() -> Held {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        std::fs::write(&identity, Identity::generate().0.expose_secret()).unwrap();
        std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
        let keeper = Arc::new(store::new(Redactor::new().unwrap()).0);
        let copy = LastGood::new(folder.path().join("copy"), identity, keeper.clone()).unwrap();
        Held { folder, keeper, copy }
    }

    fn confirmed(seconds_ago: u64, max_stale: u64, place: Option<&str>) -> Confirmed {
        let moment = Moment::now().before(Duration::from_secs(seconds_ago));
        let at = Stamp { moment, date: SystemTime::now() - Duration::from_secs(seconds_ago) };
        Confirmed { at, max_stale: Some(Duration::from_secs(max_stale)), place: place.map(Arc::from) }
    }

    fn put(keeper: &Keeper, version: u64, confirmed: Confirmed) {
        let value = SecretValue::copy_from(format!("value-number-{version}").as_bytes()).unwrap();
        let fetched = Fetched { value, version: version.into(), check_within: None };
        let _ = keeper.put("it".parse().unwrap(), "prod".parse().unwrap(), fetched, confirmed);
    }

    fn about(copy: &LastGood, seconds: u64) {
        let wait = copy.wait(&mut lock(&copy.disk));
        assert!(wait.as_secs_f64() > seconds as f64 - 0.9 && wait <= Duration::from_secs(seconds), "{wait:?} is not {seconds} s");
    }

    #[test]
    fn what_is_new_is_written_soon_and_confirmations_seldom() {
        let Held { folder, keeper, copy } = held();
        let save = || copy.save(&mut lock(&copy.disk)).unwrap();
        put(&keeper, 1, confirmed(100, 3600, Some("there")));
        save();
        about(&copy, 60);
        assert_eq!(copy.difference(&lock(&copy.disk)), Difference::None);
        let secret = "it".parse().unwrap();
        keeper.confirm(&secret, &1.into(), confirmed(50, 3600, None), None);
        about(&copy, 360);
        keeper.confirm(&secret, &1.into(), confirmed(20, 30, None), None);
        about(&copy, 60);
        put(&keeper, 2, confirmed(10, 3600, Some("there")));
        about(&copy, 1);
        save();
        put(&keeper, 2, confirmed(5, 3600, Some("elsewhere")));
        about(&copy, 1);
        save();
        keeper.revoke("it");
        assert_eq!(copy.wait(&mut lock(&copy.disk)), Duration::ZERO);
        let read = copy.read(&BTreeSet::new()).unwrap();
        assert!(read.secrets.contains_key(&secret));
        assert_eq!(copy.save_if_gone(), Ok(()));
        assert!(copy.read(&BTreeSet::new()).unwrap().secrets.is_empty());
        drop(folder);
    }

    #[test]
    fn what_is_of_this_host_or_stale_is_not_in_it() {
        let Held { folder: _folder, keeper, copy } = held();
        for confirmed in [confirmed(1, 3600, None), confirmed(10, 5, Some("there"))] {
            put(&keeper, 1, confirmed);
            copy.save(&mut lock(&copy.disk)).unwrap();
            assert!(copy.read(&BTreeSet::new()).unwrap().secrets.is_empty());
        }
    }

    #[test]
    fn before_the_first_load_a_value_can_be_revoked_out_of_the_file() {
        let Held { folder: _folder, keeper, copy } = held();
        put(&keeper, 1, confirmed(1, 3600, Some("there")));
        copy.save(&mut lock(&copy.disk)).unwrap();
        assert_eq!((copy.revoked("other"), copy.revoked("it"), copy.revoked("it")), (Ok(false), Ok(true), Ok(false)));
        assert!(copy.read(&BTreeSet::new()).unwrap().secrets.is_empty());
    }
}

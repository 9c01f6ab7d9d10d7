//! Open sessions: who they are, what they may ask for, and which versions they were handed.
//!
//! A session is its tool's, its scope's and its process's. It ends with the stream or the process, when it is closed or not
//! renewed in time, or when an operator or a new policy ends it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use crate::{
    audit::Who,
    limits::Tally,
    name::{SecretName, SessionId, ToolName, Version},
    peer::Peer,
    policy::{Plan, Scope},
};

/// How a session is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It is a stream, and ends with it.
    Stream,
    /// A launcher opened it and became the tool: it ends with the process alone.
    Process,
    /// It was opened by a unary call and ends when not renewed by this time, measured since the daemon started.
    Unary { expires: Duration },
}

/// Why a session ended before its tool was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The stream, or the tool itself, closed it.
    Closed,
    /// Its process is gone.
    ProcessGone,
    /// It was not renewed.
    Expired,
    /// It has lived as long as its tool's limits allow.
    LifetimeReached,
    /// An operator ended it.
    Revoked,
    /// The policy that is in force now does not allow it.
    PolicyChanged,
    /// It did not move to the new version of a secret that was rotated.
    Rotated,
    /// Its tool was cut off.
    Contained,
    /// The daemon is stopping.
    ShuttingDown,
}

/// A version that a session was handed and may still have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub version: Version,
    /// When it was handed this version first.
    pub since: SystemTime,
}

/// Of one secret, what a session was handed first, and what last.
#[derive(Debug)]
struct Handed {
    first: Held,
    last: Held,
    /// All that it was handed, the latest last, of which it may have kept any.
    all: Vec<Version>,
    /// What it said that it uses.
    used: Option<Version>,
}

/// Of so many versions of one secret it is remembered that a session may have them.
const MOST_VERSIONS: usize = 64;

/// What a session does with a secret, as far as it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The version that it uses: what it acknowledged last, or what it had before the one that it has not acknowledged.
    pub used: Version,
    /// The version that it was handed last.
    pub handed: Version,
}

/// One open session.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub scope: Scope,
    pub peer: Peer,
    /// The tool, the session and the peer, as they stand on record.
    pub who: Who,
    /// What the caller said; nobody checked it.
    pub purpose: String,
    /// How policy wants it launched, where a launcher opened it.
    pub plan: Option<Plan>,
    pub opened: SystemTime,
    /// How long it may live, and until when that is, measured since the daemon started; a process that a launcher has become is not
    /// ended so.
    pub lifetime: Duration,
    pub lives_until: Duration,
    pub handouts: AtomicU64,
    /// What its tool has taken, this session's share included.
    pub tally: Arc<Tally>,
    form: Mutex<Form>,
    held: Mutex<BTreeMap<SecretName, Handed>>,
    ended: OnceLock<End>,
    /// Its stream, where it is one. A waker costs nothing at each request; there is room for one alone.
    follower: AtomicWaker,
    news: AtomicBool,
    /// Everyone else who follows it.
    watches: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one of these; if something did, what they guard would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub fn tool(&self) -> &ToolName {
        self.scope.tool()
    }

    pub fn form(&self) -> Form {
        *lock(&self.form)
    }

    /// Moves the end of a unary session, not beyond its lifetime, and says where it is now. `None`: it is none, and has no such end.
    pub fn renew(&self, until: Duration) -> Option<Duration> {
        match &mut *lock(&self.form) {
            Form::Unary { expires } => {
                *expires = until.min(self.lives_until);
                Some(*expires)
            }
            Form::Stream | Form::Process => None,
        }
    }

    /// Why time alone ends it at this moment, measured since the daemon started.
    pub fn is_over(&self, now: Duration) -> Option<End> {
        match self.form() {
            Form::Process => None,
            _ if self.lives_until <= now => Some(End::LifetimeReached),
            Form::Unary { expires } if expires <= now => Some(End::Expired),
            Form::Stream | Form::Unary { .. } => None,
        }
    }

    /// Remembers that this version was handed to the process. `true`: it held none of this secret before.
    pub fn holds(&self, secret: &SecretName, version: &Version) -> bool {
        self.handouts.fetch_add(1, Relaxed);
        let mut held = lock(&self.held);
        let now = || Held { version: version.clone(), since: SystemTime::now() };
        match held.get_mut(secret) {
            Some(before) if before.last.version == *version => {}
            Some(before) => {
                before.last = now();
                before.all.retain(|other| other != version);
                if before.all.len() == MOST_VERSIONS {
                    before.all.remove(0);
                }
                before.all.push(version.clone());
            }
            None => {
                let first = now();
                held.insert(secret.clone(), Handed { last: first.clone(), first, all: vec![version.clone()], used: None });
                return true;
            }
        }
        false
    }

    /// Remembers that the process said it uses this version, and none before it.
    pub fn uses(&self, secret: &SecretName, version: &Version) {
        if let Some(handed) = lock(&self.held).get_mut(secret) {
            handed.used = Some(version.clone());
        }
    }

    /// What it does with this secret. `None`: it was handed none of it.
    pub fn use_of(&self, secret: &SecretName) -> Option<Use> {
        let held = lock(&self.held);
        let handed = held.get(secret)?;
        let before_last = || handed.all.iter().rev().nth(1).unwrap_or(&handed.last.version);
        let used = match &handed.used {
            _ if self.keeps_first(secret) => &handed.first.version,
            Some(used) => used,
            None => before_last(),
        };
        Some(Use { used: used.clone(), handed: handed.last.version.clone() })
    }

    /// May its process still have this version in memory?
    pub fn may_have(&self, secret: &SecretName, version: &Version) -> bool {
        lock(&self.held).get(secret).is_some_and(|handed| handed.all.contains(version))
    }

    /// What it was handed and may still have.
    pub fn held(&self) -> BTreeMap<SecretName, Version> {
        lock(&self.held).iter().map(|(secret, held)| (secret.clone(), held.last.version.clone())).collect()
    }

    /// What its tool has, and since when. A launcher is handed each new version, for its filter; a process that it started with a value
    /// which stays as it was still has the first.
    pub fn held_since(&self) -> BTreeMap<SecretName, Held> {
        let has = |(secret, held): (&SecretName, &Handed)| {
            let has = if self.keeps_first(secret) { &held.first } else { &held.last };
            (secret.clone(), has.clone())
        };
        lock(&self.held).iter().map(has).collect()
    }

    fn keeps_first(&self, secret: &SecretName) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.keeps_first(secret))
    }

    /// How a secret of it reached the process, in the word of configuration: as its launcher was told, or over gRPC.
    pub fn delivered_by(&self, secret: &SecretName) -> &'static str {
        let planned = self.plan.iter().flat_map(|plan| &plan.secrets).find(|delivered| delivered.secret == *secret);
        planned.map_or("rpc", |delivered| delivered.to.word())
    }

    /// Does it end when its stream does?
    pub fn is_its_stream(&self) -> bool {
        self.form() == Form::Stream
    }

    /// The command it was launched with, where a launcher opened it.
    pub fn command(&self) -> Option<&[String]> {
        self.plan.as_ref().map(|plan| plan.command.as_slice())
    }

    /// Does it hold any version of this secret?
    pub fn is_holder(&self, secret: &str) -> bool {
        lock(&self.held).contains_key(secret)
    }

    pub fn ended(&self) -> Option<End> {
        self.ended.get().copied()
    }

    fn end(&self, why: End) {
        // The first reason stands.
        let _ = self.ended.set(why);
        self.tell();
    }

    /// Wakes the followers: something they should look at has changed.
    pub fn tell(&self) {
        self.news.store(true, Relaxed);
        self.follower.wake();
        self.watches.send_replace(());
    }

    /// Follows the session beside its stream. Changes with each [`tell`](Self::tell), or with several at once.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.watches.subscribe()
    }

    /// Ready once for each [`tell`](Self::tell), or for several at once. For the session's own stream: a second who polls takes the
    /// place of the first. `followed` is that stream's, for it to find `None` in at first: most polls are by the task that is
    /// registered already, and then cost nothing.
    pub fn poll_news(&self, followed: &mut Option<Waker>, cx: &mut Context<'_>) -> Poll<()> {
        if !followed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.follower.register(cx.waker());
            *followed = Some(cx.waker().clone());
        }
        if self.news.load(Relaxed) && self.news.swap(false, Relaxed) {
            // To wake a task is to forget it: the next poll registers it again, before it looks.
            *followed = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// What a session is opened with.
#[derive(Debug)]
pub struct Opening {
    pub scope: Scope,
    pub peer: Peer,
    pub purpose: String,
    pub plan: Option<Plan>,
    pub form: Form,
    pub lifetime: Duration,
    pub lives_until: Duration,
    pub tally: Arc<Tally>,
}

/// Every open session.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<SessionId, Arc<Session>>>,
    moves: watch::Sender<()>,
}

impl Sessions {
    /// Opens a session for a scope that policy accepted.
    pub fn open(&self, id: SessionId, opening: Opening, now: SystemTime) -> Arc<Session> {
        let Opening { scope, peer, purpose, plan, form, lifetime, lives_until, tally } = opening;
        let who = Who::new(Some(scope.tool()), Some(&id), Some(&peer));
        let session = Arc::new(Session {
            id,
            scope,
            peer,
            who,
            purpose,
            plan,
            opened: now,
            lifetime,
            lives_until,
            handouts: AtomicU64::new(0),
            tally,
            form: Mutex::new(form),
            held: Mutex::default(),
            ended: OnceLock::new(),
            follower: AtomicWaker::new(),
            news: AtomicBool::new(false),
            watches: watch::Sender::new(()),
        });
        lock(&self.open).insert(id, session.clone());
        session
    }

    /// The session of this id, if this very caller opened it.
    pub fn of(&self, id: &SessionId, peer: &Peer) -> Option<Arc<Session>> {
        lock(&self.open).get(id).filter(|session| session.peer.is(peer)).cloned()
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Session>> {
        let mut list: Vec<_> = lock(&self.open).values().cloned().collect();
        list.sort_by_key(|session| (session.opened, session.id));
        list
    }

    pub fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Changes whenever a session has moved to another version, or ended.
    pub fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    /// One has moved.
    pub fn tell_moves(&self) {
        self.moves.send_replace(());
    }

    /// Sessions open now as this tool.
    pub fn count_of(&self, tool: &ToolName) -> usize {
        lock(&self.open).values().filter(|session| session.tool() == tool).count()
    }

    /// Ends every session that `which` picks, tells it why, and returns how many there were.
    pub fn end(&self, why: End, which: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut open = lock(&self.open);
        let ids: Vec<_> = open.values().filter(|session| which(session)).map(|session| session.id).collect();
        let ended: Vec<_> = ids.iter().filter_map(|id| open.remove(id)).collect();
        drop(open);
        ended.iter().for_each(|session| session.end(why));
        self.tell_moves();
        ended
    }

    /// Ends one session. `None`: it had ended before.
    pub fn end_one(&self, why: End, id: &SessionId) -> Option<Arc<Session>> {
        let session = lock(&self.open).remove(id)?;
        session.end(why);
        self.tell_moves();
        Some(session)
    }
}

//! What deserves a shout, and how it is shouted: as a warning in the log, as a metric, and to a program or an address of the operator's.
//!
//! An alarm holds names and facts, never a value. Whoever is told, nobody who asks for a secret waits for it: alarms go into bounded
//! queues, and what finds no room is counted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use tracing::warn;

use crate::{
    limits::{Meter, Rate, Repeats, Told},
    name::{SecretName, SessionId, ToolName},
    peer::{Peer, Remote, Seat, Sha256},
};

pub mod hook;
mod memory;
mod outlet;
mod webhook;
pub use outlet::Deliveries;
pub use webhook::{Address, WebhookSettings};

use memory::{Kept, Memory};
use outlet::Outlet;

/// What deserves an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Someone asks for a secret that there is, and may not have it.
    pub denied_secret: bool,
    /// A tool has a secret for the first time since this host can remember.
    pub first_use: bool,
    /// A tool runs a program that it did not run before.
    pub new_executable: bool,
    /// The value of a secret that nobody uses turns up.
    pub canary: bool,
    /// One caller is denied more often than this in a minute.
    pub denials_per_minute: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { denied_secret: true, first_use: true, new_executable: true, canary: true, denials_per_minute: Some(60) }
    }
}

impl Rules {
    /// Does no alarm of this kind come?
    pub fn is_off(&self, kind: Kind) -> bool {
        match kind {
            Kind::DeniedSecret => !self.denied_secret,
            Kind::FirstUse => !self.first_use,
            Kind::NewExecutable => !self.new_executable,
            Kind::Canary => !self.canary,
            Kind::ManyDenials => self.denials_per_minute.is_none(),
        }
    }
}

/// Which rule it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    DeniedSecret,
    FirstUse,
    NewExecutable,
    Canary,
    ManyDenials,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::DeniedSecret, Self::FirstUse, Self::NewExecutable, Self::Canary, Self::ManyDenials];

    /// The key of the rule, and the word in alarms and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::DeniedSecret => "denied-secret",
            Self::FirstUse => "first-use",
            Self::NewExecutable => "new-executable",
            Self::Canary => "canary",
            Self::ManyDenials => "denials-per-minute",
        }
    }
}

/// Who it is about, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Where it was not proven to be the tool, the one that it said it is.
    pub tool: Option<ToolName>,
    /// It was.
    pub proven: bool,
    pub secret: Option<SecretName>,
    pub session: Option<SessionId>,
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    pub unit: Option<String>,
    pub executable: Option<Sha256>,
    /// A caller over the network: then there is no process, user or unit.
    pub remote: Option<Arc<Remote>>,
}

impl Subject {
    pub fn of(peer: &Peer, tool: Option<ToolName>, session: Option<SessionId>) -> Self {
        let here = peer.remote.is_none();
        Self {
            tool,
            proven: false,
            secret: None,
            session,
            pid: here.then_some(peer.process.pid),
            uid: here.then_some(peer.uid),
            remote: peer.remote.clone(),
            unit: peer.unit.as_ref().map(|unit| unit.name.clone()),
            executable: peer.executable.as_ref().map(|executable| executable.sha256),
        }
    }

    /// It was proven to be the tool.
    pub fn proven(self) -> Self {
        Self { proven: self.tool.is_some(), ..self }
    }

    pub fn with_secret(self, secret: &SecretName) -> Self {
        Self { secret: Some(secret.clone()), ..self }
    }
}

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    pub kind: Kind,
    pub at: SystemTime,
    pub subject: Subject,
    /// How often, since the last alarm of this kind about the same.
    pub count: u64,
    /// One sentence.
    pub text: String,
    /// A rule wants the tool contained that it is about, and the subject was proven to be that tool.
    pub contains: bool,
}

impl Alarm {
    /// As it is told to others. Absent is what is not known.
    fn json(&self) -> String {
        let Self { kind, at, subject, count, text, contains: _ } = self;
        let Subject { tool, proven: _, secret, session, pid, uid, unit, executable, remote } = subject;
        let said = json!({
            "schema": 1,
            "time": prost_types::Timestamp::from(*at).to_string(),
            "host": rustix::system::uname().nodename().to_string_lossy(),
            "alarm": kind.word(),
            "text": text,
            "count": count,
            "tool": tool.as_ref().map(ToString::to_string),
            "secret": secret.as_ref().map(ToString::to_string),
            "session": session.map(|session| session.to_string()),
            "pid": pid,
            "uid": uid,
            "unit": unit,
            "remote": remote.as_ref().map(|remote| remote.address.to_string()),
            "subject": remote.as_ref().map(|remote| remote.subject()),
            "exe_sha256": executable.map(|digest| digest.to_string()),
        });
        let mut said = said;
        if let Some(fields) = said.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        said.to_string()
    }
}

/// Who is denied more often than a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Denied {
    Tool(ToolName),
    /// One user, in all its units: their names are its own to choose; or one who calls over the network.
    Stranger(Seat),
    /// All for whom there is no room.
    Others,
}

/// Watches for what deserves an alarm, and tells of it.
pub struct Alarms {
    rules: Rules,
    since: Instant,
    memory: Memory,
    denials: Mutex<BTreeMap<Denied, Arc<Meter>>>,
    many: Mutex<Repeats<Denied, Subject>>,
    counts: [AtomicU64; Kind::ALL.len()],
    outlets: Vec<Outlet>,
    hears: OnceLock<Hears>,
    acts: OnceLock<Hears>,
    /// Kinds for which the tool is contained.
    contain: Vec<Kind>,
}

/// Is told of each alarm at once, and must not wait.
type Hears = Box<dyn Fn(&Alarm) + Send + Sync>;

/// Those whose denials are counted apart. Tools are as many as policy has; users may be more.
const MOST_DENIED: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where alarms go, and what is remembered where.
#[derive(Debug, Default)]
pub struct Settings {
    /// A program by its absolute path, and its arguments.
    pub hook: Option<Vec<String>>,
    pub webhook: Option<WebhookSettings>,
    /// What was used, and by which programs.
    pub state_file: Option<std::path::PathBuf>,
    /// Kinds for which the tool is contained that the alarm is about.
    pub contain: Vec<Kind>,
}

impl Alarms {
    /// Starts what delivers alarms, on the runtime that this is called in.
    ///
    /// # Errors
    /// Where the webhook cannot be used, in words.
    pub fn start(rules: Rules, settings: Settings) -> Result<Arc<Self>, String> {
        let mut outlets = Vec::new();
        if let Some(command) = settings.hook {
            outlets.push(Outlet::start("hook", hook::Hook(command)));
        }
        if let Some(webhook) = settings.webhook {
            outlets.push(Outlet::start("webhook", webhook::Webhook::new(webhook)?));
        }
        let memory = Memory::open(settings.state_file.filter(|_| rules.first_use || rules.new_executable));
        Ok(Arc::new(Self {
            rules,
            since: Instant::now(),
            memory,
            denials: Mutex::default(),
            many: Mutex::new(Repeats::new(Duration::from_secs(60), Duration::from_secs(600), MOST_DENIED)),
            counts: Default::default(),
            outlets,
            hears: OnceLock::new(),
            acts: OnceLock::new(),
            contain: settings.contain,
        }))
    }

    /// Has each alarm told to this too. The first stands.
    pub fn tell(&self, hears: Hears) {
        let _ = self.hears.set(hears);
    }

    /// Has this act on each alarm. The first stands.
    pub fn act(&self, acts: Hears) {
        let _ = self.acts.set(acts);
    }

    /// Someone was denied this secret so many times, for this reason.
    pub fn denied(&self, subject: Subject, count: u64, reason: &str) {
        if self.rules.denied_secret {
            let text = format!("{} was denied {}: {reason}", who(&subject), what(&subject));
            self.raise(Kind::DeniedSecret, subject, count, text);
        }
    }

    /// Someone was denied something. `proven`: it is the tool of the subject.
    pub fn denial(&self, subject: impl FnOnce() -> Subject, proven: Option<&ToolName>, seat: Seat) {
        let Some(most) = self.rules.denials_per_minute else { return };
        let seat = match seat {
            Seat::User { uid, .. } => Seat::User { uid, unit: None },
            remote => remote,
        };
        let mut who = proven.map_or(Denied::Stranger(seat), |tool| Denied::Tool(tool.clone()));
        let now = self.since.elapsed();
        let meter = {
            let mut denials = lock(&self.denials);
            if denials.len() >= MOST_DENIED && !denials.contains_key(&who) {
                denials.retain(|_, meter| !meter.is_full(now));
                if denials.len() >= MOST_DENIED {
                    who = Denied::Others;
                }
            }
            denials.entry(who.clone()).or_default().clone()
        };
        if meter.take(&Rate::new(most, Duration::from_secs(60), most), 1, now).is_err() {
            let told = lock(&self.many).add(&who, 1, now, subject, |_| ());
            self.many_denials(told);
        }
    }

    fn many_denials(&self, told: impl IntoIterator<Item = Told<Subject>>) {
        for Told { event, count, .. } in told {
            let text = format!(
                "{} is denied more than {} times a minute",
                who(&event),
                self.rules.denials_per_minute.unwrap_or_default()
            );
            self.raise(Kind::ManyDenials, event, count, text);
        }
    }

    /// A tool has this secret now.
    pub fn used(&self, tool: &ToolName, secret: &SecretName, subject: impl FnOnce() -> Subject) {
        if self.rules.first_use && self.memory.used(tool, secret) == Kept::New {
            let subject = subject().with_secret(secret);
            let text = format!("{tool} was handed {secret}, a grant that it had never used");
            self.raise(Kind::FirstUse, subject, 1, text);
        }
    }

    /// A tool runs this program.
    pub fn runs(&self, tool: &ToolName, digest: Sha256, subject: impl FnOnce() -> Subject) {
        // The first that is seen of a tool is what it runs; the next is another.
        if self.rules.new_executable && self.memory.runs(tool, digest) == Kept::New {
            let text = format!("{tool} runs a program that it has not run before, of digest {digest}");
            self.raise(Kind::NewExecutable, subject(), 1, text);
        }
    }

    /// The value of a secret that nobody uses was found so many times.
    pub fn canary(&self, subject: Subject, count: u64, channel: &str) {
        if self.rules.canary {
            let text =
                format!("the value of {}, which nobody uses, was found in {channel}: something has leaked", what(&subject));
            self.raise(Kind::Canary, subject, count, text);
        }
    }

    fn raise(&self, kind: Kind, subject: Subject, count: u64, text: String) {
        if let Some(raised) = self.counts.get(kind as usize) {
            raised.fetch_add(1, Relaxed);
        }
        let Subject { pid, uid, unit, remote, .. } = &subject;
        let remote = remote.as_ref().map(|remote| remote.address.to_string());
        warn!(alarm = kind.word(), pid, uid, unit, remote, count, "ALARM: {text}");
        let contains = subject.proven && self.contain.contains(&kind);
        let alarm = Arc::new(Alarm { kind, at: SystemTime::now(), subject, count, text, contains });
        for hears in [self.hears.get(), self.acts.get()].into_iter().flatten() {
            hears(&alarm);
        }
        self.outlets.iter().for_each(|outlet| outlet.send(&alarm));
    }

    /// Alarms raised since the daemon started, by kind.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().zip(self.counts.iter().map(|count| count.load(Relaxed)))
    }

    /// What became of them.
    pub fn deliveries(&self) -> impl Iterator<Item = (&'static str, &Deliveries)> + '_ {
        self.outlets.iter().map(|outlet| (outlet.name, outlet.deliveries()))
    }

    /// What time brings: alarms that were summed up, and what is remembered goes to disk. May block.
    pub fn settle(&self) {
        let due = lock(&self.many).due(self.since.elapsed());
        self.many_denials(due);
        self.memory.save();
    }

    /// The last of all: what waits is told, for as long as that may take. May block.
    pub async fn close(&self) {
        let last = lock(&self.many).finish();
        self.many_denials(last);
        self.memory.save();
        futures_util::future::join_all(self.outlets.iter().map(Outlet::close)).await;
    }
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarms").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn who(subject: &Subject) -> String {
    if let Some(remote) = &subject.remote {
        return match &subject.tool {
            Some(tool) => format!("tool {tool} ({}, over the network)", remote.subject()),
            None => format!("{}, over the network and no tool,", remote.subject()),
        };
    }
    match (&subject.tool, subject.uid) {
        (Some(tool), Some(uid)) => format!("tool {tool} (uid {uid})"),
        (Some(tool), None) => format!("tool {tool}"),
        (None, Some(uid)) => format!("uid {uid}, which is no tool,"),
        (None, None) => "someone".into(),
    }
}

fn what(subject: &Subject) -> String {
    subject.secret.as_ref().map_or_else(|| "a secret".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Seat = Seat::User { uid: 7, unit: None };

    fn alarms(rules: Rules) -> Arc<Alarms> {
        Alarms::start(rules, Settings::default()).unwrap()
    }

    fn count(alarms: &Alarms, kind: Kind) -> u64 {
        alarms.counts().find(|(one, _)| *one == kind).unwrap().1
    }

    #[test]
    fn a_grant_is_new_once_and_a_program_after_the_first() {
        let alarms = alarms(Rules::default());
        let (tool, secret): (ToolName, SecretName) = ("it".parse().unwrap(), "a/key".parse().unwrap());
        (0..3).for_each(|_| alarms.used(&tool, &secret, Subject::default));
        assert_eq!(count(&alarms, Kind::FirstUse), 1);
        for digest in [1, 1, 2, 1, 2, 3] {
            alarms.runs(&tool, Sha256([digest; 32]), Subject::default);
        }
        assert_eq!(count(&alarms, Kind::NewExecutable), 2, "the first program of a tool is no news");
    }

    #[test]
    fn denials_are_an_alarm_when_they_are_many() {
        let alarms = alarms(Rules { denials_per_minute: Some(5), ..Rules::default() });
        (0..5).for_each(|_| alarms.denial(Subject::default, None, USER));
        (0..5).for_each(|_| alarms.denial(Subject::default, Some(&"it".parse().unwrap()), USER));
        assert_eq!(count(&alarms, Kind::ManyDenials), 0);
        (0..1000).for_each(|_| alarms.denial(Subject::default, None, USER));
        assert_eq!(count(&alarms, Kind::ManyDenials), 1, "and the others are summed up");
    }

    #[test]
    fn what_is_off_is_silent() {
        let off =
            Rules { denied_secret: false, first_use: false, new_executable: false, canary: false, denials_per_minute: None };
        let alarms = alarms(off);
        alarms.denied(Subject::default(), 1, "x");
        alarms.used(&"it".parse().unwrap(), &"a".parse().unwrap(), Subject::default);
        alarms.canary(Subject::default(), 1, "stdout");
        (0..1000).for_each(|_| alarms.denial(Subject::default, None, USER));
        assert!(alarms.counts().all(|(_, count)| count == 0));
    }
}

//! Does what the machine says: one step after the other, each on disk before it is tried.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use super::{
    How, Record, Settings, State, Step, Stragglers, Target, Way,
    hook::{self, Answer, Told},
    machine::Event,
    rotations::Shared,
};
use crate::{
    audit::{self, Kind, Outcome, Who},
    name::{SecretName, Version},
    secret::SecretValue,
    session::{End as SessionEnd, Session},
    source::{
        Cause, Fetched, SourceError, Wanted,
        write::{Which, Write, WriteError},
    },
};

/// The first and the longest pause before a step that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Holders are looked at so often, beside each time when one of them moves.
const LOOK: Duration = Duration::from_millis(250);
/// So often a source is asked for the new version, where it does not come by itself.
const ASK: Duration = Duration::from_secs(2);

/// One rotation under way.
pub(super) struct Driving {
    pub shared: Arc<Shared>,
    pub secret: SecretName,
    pub record: Record,
    /// A new value that is nowhere but here.
    pub carried: Option<SecretValue>,
    pub asked: Arc<super::rotations::Asked>,
}

/// What came of trying a step, with what went wrong in words that hold no value.
type Tried = (Event, String);

fn done() -> Tried {
    (Event::Done, String::new())
}

impl Driving {
    /// Drives it to its end.
    pub async fn drive(mut self) {
        loop {
            self.record_durably().await;
            if self.record.state.is_over() {
                break;
            }
            let state = self.record.state;
            self.pause(state).await;
            let (event, problem) = match self.asked.rolls_back(state) {
                true => (Event::RollBack, String::new()),
                false => self.step(state).await,
            };
            if event == Event::Lost {
                // Whoever was first is followed.
                let siblings = self.target().map(|target| target.siblings);
                self.shared.host.refresh(siblings.unwrap_or_else(|_| vec![self.secret.clone()])).await;
            }
            self.note(state, event, &problem);
            self.record.problem = problem;
            self.record.state = state.next(event);
            if self.record.state.is_over() {
                self.record.is_over(SystemTime::now());
            }
        }
        self.shared.ended(&self.record);
    }

    /// Nothing is tried before it is on disk that it will be.
    async fn record_durably(&mut self) {
        self.publish(None);
        let mut wait = PAUSE.0;
        loop {
            let (folder, record) = (self.shared.folder.clone(), self.record.clone());
            let written = tokio::task::spawn_blocking(move || folder.write(&record)).await;
            match written {
                Ok(Ok(())) => return,
                Ok(Err(problem)) => warn!(secret = %self.secret, "a rotation waits, because its state cannot be written: {problem}"),
                Err(_) => warn!(secret = %self.secret, "a rotation waits: writing its state failed inside"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(PAUSE.1);
        }
    }

    async fn pause(&self, state: State) {
        if state.failed > 0 {
            let wait = (PAUSE.0 * 2_u32.pow(state.failed.saturating_sub(1).min(16))).min(PAUSE.1);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.asked.woken() => {}
            }
        }
    }

    fn publish(&self, waits_for: Option<&Version>) {
        self.shared.publish(&self.secret, &self.record, waits_for, self.target().ok().map(|target| target.settings));
    }

    /// On record, and in the log.
    fn note(&self, state: State, event: Event, problem: &str) {
        let (secret, token, step) = (&self.secret, &self.record.token, state.step.word());
        let (outcome, reason) = match event {
            Event::Done => (Outcome::Success, None),
            Event::RollBack => (Outcome::Success, Some("roll-back")),
            Event::Lost => (Outcome::Failure, Some("lost")),
            Event::Failed | Event::Impossible | Event::Resumed => (Outcome::Failure, Some("failed")),
        };
        match event {
            Event::Done => info!(%secret, rotation = %token, step, "rotation: step done"),
            Event::RollBack => info!(%secret, rotation = %token, step, "rotation: rolled back"),
            _ => warn!(%secret, rotation = %token, step, failed = state.failed + 1, "rotation: {problem}"),
        }
        let version = self.record.new_version().or_else(|| self.record.base());
        let action = Some(step);
        self.shared.broker.audit().note(&audit::Event {
            secret: Some(secret),
            version: version.as_ref(),
            action,
            reason,
            request_id: Some(token),
            ..audit::Event::new(Kind::RotationStep, outcome)
        });
    }

    fn target(&self) -> Result<Target, String> {
        self.shared.host.target(&self.secret)
    }

    async fn step(&mut self, state: State) -> Tried {
        let target = match self.target() {
            Ok(target) => target,
            // Configuration may be mended; what is under way stays as it is until then.
            Err(problem) => return (Event::Failed, problem),
        };
        let Some(writer) = target.source.writer() else { return (Event::Failed, "its source cannot be written to".into()) };
        let Some(base) = self.record.base() else { return (Event::Failed, "its record names no version".into()) };
        let work = Work { secret: &self.secret, target: &target, writer, base: &base, record: &self.record, shared: &self.shared };
        match state.step {
            Step::Create => work.create(&mut self.carried).await,
            Step::Set => work.set().await,
            Step::Test => work.test().await,
            Step::Finish => match work.finish(self.carried.as_ref()).await {
                Ok(new) => {
                    self.record.is_current(&new, SystemTime::now());
                    self.carried = None;
                    done()
                }
                Err(tried) => tried,
            },
            Step::Overlap | Step::Return => self.wait_for_holders(&target, state.step).await,
            Step::Retire => work.retire().await,
            Step::Restore => match work.restore().await {
                Ok(back) => {
                    self.record.is_back(&back, SystemTime::now());
                    done()
                }
                Err(tried) => tried,
            },
            Step::Undo => work.undo().await,
            Step::Over => done(),
        }
    }

    /// Until every holder that this daemon knows has moved, or the time for it is over.
    async fn wait_for_holders(&self, target: &Target, step: Step) -> Tried {
        let to = if step == Step::Overlap { self.record.new_version() } else { self.record.back() };
        let Some(to) = to else { return done() };
        let settings = &target.settings;
        let mut moves = self.shared.broker.sessions().moves();
        let mut asked = tokio::time::Instant::now();
        self.shared.host.refresh(target.siblings.clone()).await;
        loop {
            self.publish(Some(&to));
            let now = SystemTime::now();
            let held = self.shared.broker.version(&self.secret).map(|(version, _)| version);
            let behind: Vec<_> = self.shared.holders(&self.secret, &to).into_iter().filter(|holder| !holder.moved).collect();
            // What no tool may have is not held here, and nobody can be behind.
            let told = held.as_ref().is_none_or(|held| *held == to);
            let early = step == Step::Overlap && settings.overlap_at_least.is_some_and(|least| now < self.record.deadline(least));
            if told && behind.is_empty() && !early {
                return done();
            }
            if now >= self.record.deadline(settings.overlap) && !early {
                match settings.stragglers {
                    Stragglers::Wait => {}
                    how => return self.leave_behind(&behind, how),
                }
            }
            if !told && asked.elapsed() >= ASK {
                asked = tokio::time::Instant::now();
                self.shared.host.refresh(target.siblings.clone()).await;
            }
            tokio::select! {
                _ = moves.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.asked.woken() => {
                    if self.asked.rolls_back(self.record.state) {
                        return (Event::RollBack, String::new());
                    }
                }
            }
        }
    }

    /// Their time is over: they are named, and by policy cut off.
    fn leave_behind(&self, behind: &[super::Holder], how: Stragglers) -> Tried {
        for holder in behind {
            let (secret, tool, pid, version) = (&self.secret, &holder.tool, holder.pid, &holder.version);
            warn!(%secret, %tool, pid, %version, "rotation: this holder has not moved in time");
            let who = Who::new(Some(tool), Some(&holder.session), None, None);
            self.shared.broker.audit().note(&audit::Event {
                who: Some(&who),
                secret: Some(secret),
                version: Some(version),
                action: Some("straggler"),
                request_id: Some(&self.record.token),
                ..audit::Event::new(Kind::RotationStep, Outcome::Failure)
            });
        }
        if how == Stragglers::EndSession {
            let is_behind = |session: &Session| behind.iter().any(|holder| holder.session == session.id);
            self.shared.broker.end(SessionEnd::Rotated, is_behind);
        }
        let names: Vec<_> = behind.iter().map(|holder| format!("{} (pid {})", holder.tool, holder.pid)).collect();
        let problem = if names.is_empty() { String::new() } else { format!("not moved in time: {}", names.join(", ")) };
        (Event::Done, problem)
    }
}

/// What one step works with.
struct Work<'a> {
    secret: &'a SecretName,
    target: &'a Target,
    writer: &'a dyn Write,
    base: &'a Version,
    record: &'a Record,
    shared: &'a Shared,
}

impl Work<'_> {
    fn wanted(&self) -> &Wanted {
        &self.target.wanted
    }

    fn is_hooked(&self) -> bool {
        self.record.way == Way::Hook
    }

    /// A new value, staged where something else than the source must learn of it first.
    async fn create(&self, carried: &mut Option<SecretValue>) -> Tried {
        let old = match self.writer.value(self.wanted(), Which::Version(self.base)).await {
            Ok(old) => old,
            Err(error) => return failed(&error),
        };
        let made = match (carried.take(), &self.target.settings.how) {
            (Some(given), _) => Ok(given),
            (None, How::Generate(generate)) if self.record.way == Way::Generate => generate.value().map_err(|e| (Event::Failed, e.to_string())),
            (None, How::Hook(_)) if self.is_hooked() => self.run(Step::Create, Some(&old), None).await.and_then(|answer| {
                answer.value.ok_or_else(|| (Event::Failed, "the hook made no value: it must answer {\"value\":\"...\"}".into()))
            }),
            _ => Err((Event::Impossible, "configuration does not say any longer how it is rotated".into())),
        };
        let value = match made {
            Ok(value) => value,
            Err(tried) => return tried,
        };
        if value.same_as(&old) {
            return (Event::Impossible, "the new value is the old one".into());
        }
        self.expect(&value);
        if !self.is_hooked() {
            *carried = Some(value);
            return done();
        }
        tried(self.writer.stage(self.wanted(), self.base, &self.record.token, &value).await)
    }

    /// No line of the log may show it, from before anybody is told of it.
    fn expect(&self, value: &SecretValue) {
        let version: Version = self.token_as_version();
        let learned = self.shared.broker.store().redactor().learn(self.secret, &version, value);
        if learned.too_short {
            warn!(secret = %self.secret, "the new value is too short to be taken out of logs");
        }
    }

    fn token_as_version(&self) -> Version {
        self.record.token.parse().unwrap_or_else(|_| Version::from(0))
    }

    /// The new value, from the source.
    async fn new_value(&self) -> Result<Option<SecretValue>, SourceError> {
        let version = self.record.new_version();
        let which = version.as_ref().map_or(Which::Staged(&self.record.token), Which::Version);
        some(self.writer.value(self.wanted(), which).await)
    }

    async fn old_value(&self) -> Result<Option<SecretValue>, SourceError> {
        some(self.writer.value(self.wanted(), Which::Version(self.base)).await)
    }

    async fn set(&self) -> Tried {
        self.tell(Step::Set).await
    }

    async fn test(&self) -> Tried {
        self.tell(Step::Test).await
    }

    /// Runs a step of the hook, which needs the new value.
    async fn tell(&self, step: Step) -> Tried {
        if !self.is_hooked() {
            return done();
        }
        match (self.old_value().await, self.new_value().await) {
            (Ok(old), Ok(Some(new))) => {
                // After a restart nobody else has told the log of it yet.
                self.expect(&new);
                self.run(step, old.as_ref(), Some(&new)).await.map_or_else(|tried| tried, |_| done())
            }
            (Ok(_), Ok(None)) => (Event::Impossible, "the new value is not at the source any more".into()),
            (Err(error), _) | (_, Err(error)) => failed(&error),
        }
    }

    async fn finish(&self, carried: Option<&SecretValue>) -> Result<Version, Tried> {
        let token = &self.record.token;
        let written = match carried {
            _ if self.is_hooked() => self.writer.promote(self.wanted(), self.base, token).await,
            Some(value) => self.writer.write(self.wanted(), self.base, token, value).await,
            // It was in the memory of a process that is gone: either it became current there, or nobody will ever know it.
            None => return self.was_written().await,
        };
        written.map_err(|error| tried(Err::<(), _>(error)))
    }

    async fn was_written(&self) -> Result<Version, Tried> {
        let current = self.writer.look(self.wanted()).await.map_err(|error| failed(&error))?;
        match current.version == *self.base {
            true => Err((Event::Impossible, "the daemon ended before the new value was written: nothing has changed".into())),
            false => Ok(current.version),
        }
    }

    /// The old value is not taken any longer. Not where it is the one that is current: then something is wrong, and all stays as it is.
    async fn retire(&self) -> Tried {
        let (old, new) = match (self.old_value().await, self.new_value().await) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return failed(&error),
        };
        if let Err(tried) = self.is_not_current(old.as_ref(), "retired").await {
            return tried;
        }
        if self.is_hooked()
            && let Err(tried) = self.run(Step::Retire, old.as_ref(), new.as_ref()).await
        {
            return tried;
        }
        self.tidy().await
    }

    async fn restore(&self) -> Result<Version, Tried> {
        let Some(new) = self.record.new_version() else { return Err((Event::Lost, "there is no new version".into())) };
        let restored = self.writer.restore(self.wanted(), &new, self.base, &self.record.token).await;
        restored.map_err(|error| tried(Err::<(), _>(error)))
    }

    /// The new value is not taken any longer, and not staged; under the same condition.
    async fn undo(&self) -> Tried {
        let (old, new) = match (self.old_value().await, self.new_value().await) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return failed(&error),
        };
        if let Err(tried) = self.is_not_current(new.as_ref(), "taken back").await {
            return tried;
        }
        if self.is_hooked()
            && let Err(tried) = self.run(Step::Undo, old.as_ref(), new.as_ref()).await
        {
            return tried;
        }
        self.tidy().await
    }

    async fn is_not_current(&self, value: Option<&SecretValue>, what: &str) -> Result<(), Tried> {
        let (Some(value), true) = (value, self.is_hooked()) else { return Ok(()) };
        let current = async {
            let current = self.writer.look(self.wanted()).await?;
            self.writer.value(self.wanted(), Which::Version(&current.version)).await
        };
        match current.await {
            Ok(current) if current.same_as(value) => {
                Err((Event::Failed, format!("the value that is to be {what} is the current one: nothing is done")))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn tidy(&self) -> Tried {
        let tidied = self.writer.tidy(self.wanted(), &self.record.token).await;
        if tidied.is_ok() {
            self.shared.broker.store().redactor().forget(self.secret, &self.token_as_version());
        }
        tidied.map_or_else(|error| failed(&error), |()| done())
    }

    /// Runs a step of the hook, off the threads that serve.
    async fn run(&self, step: Step, old: Option<&SecretValue>, new: Option<&SecretValue>) -> Result<Answer, Tried> {
        let How::Hook(hook) = &self.target.settings.how else {
            return Err((Event::Failed, "configuration names no hook for it any longer".into()));
        };
        let copy = |value: Option<&SecretValue>| value.map(|value| value.expose(SecretValue::copy_from)).transpose();
        let unprotected = |error: crate::secret::Unprotected| (Event::Failed, error.to_string());
        let (old, new) = (copy(old).map_err(unprotected)?, copy(new).map_err(unprotected)?);
        let with = self.with().await?;
        let (hook, secret, token, base) = (hook.clone(), self.secret.clone(), self.record.token.clone(), self.base.clone());
        let ran = tokio::task::spawn_blocking(move || {
            let old = old.as_ref().map(|old| (&base, old));
            let told = Told { step, secret: &secret, token: &token, old, new: new.as_ref(), with: &with };
            hook::run(&hook.command, &told, hook.timeout)
        });
        match ran.await {
            Ok(Ok(answer)) => {
                if let Some(value) = &answer.value {
                    self.expect(value);
                }
                self.complain(step, &answer.complaints);
                Ok(answer)
            }
            Ok(Err(failure)) => {
                self.complain(step, &failure.complaints);
                let words = self.shared.broker.store().redactor().redact_str(&failure.words).into_owned();
                Err((if failure.is_final { Event::Impossible } else { Event::Failed }, words))
            }
            Err(_) => Err((Event::Failed, "running the hook failed inside".into())),
        }
    }

    /// The log's own filter cleans it, which knows the new value by now.
    fn complain(&self, step: Step, complaints: &[u8]) {
        if !complaints.is_empty() {
            let complaints = String::from_utf8_lossy(complaints);
            info!(secret = %self.secret, step = step.word(), "the hook says: {}", complaints.trim_end().escape_debug());
        }
    }

    /// The other secrets that the hook needs, as their sources have them now.
    async fn with(&self) -> Result<Vec<(SecretName, SecretValue)>, Tried> {
        let mut values = Vec::with_capacity(self.target.with.len());
        for (name, source, wanted) in &self.target.with {
            let (outcomes, mut arriving) = tokio::sync::mpsc::unbounded_channel();
            source.fetch(std::slice::from_ref(wanted), outcomes).await;
            match arriving.recv().await {
                Some((_, Ok(Fetched { value, version, .. }))) => {
                    let _ = self.shared.broker.store().redactor().learn(name, &version, &value);
                    values.push((name.clone(), value));
                }
                Some((_, Err(error))) => return Err((Event::Failed, format!("{name}, which the hook needs: {error}"))),
                None => return Err((Event::Failed, format!("{name}, which the hook needs: no answer"))),
            }
        }
        Ok(values)
    }
}

/// Something that is not there is no failure where it need not be.
fn some(value: Result<SecretValue, SourceError>) -> Result<Option<SecretValue>, SourceError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.cause == Cause::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(error: &SourceError) -> Tried {
    (Event::Failed, error.to_string())
}

fn tried<T>(result: Result<T, WriteError>) -> Tried {
    match result {
        Ok(_) => done(),
        Err(WriteError::Conflict) => (Event::Lost, "somebody else has changed it, or is about to".into()),
        Err(WriteError::Source(error)) => failed(&error),
    }
}

/// How a rotation of this secret begins.
pub(super) fn way(settings: &Settings, given: bool) -> Result<Way, String> {
    match (&settings.how, given) {
        (How::Hook(_), true) => Err("it is rotated by a hook, which makes its own values".into()),
        (_, true) => Ok(Way::Given),
        (How::Generate(_), false) => Ok(Way::Generate),
        (How::Hook(_), false) => Ok(Way::Hook),
        (How::Given, false) => {
            Err("nothing says where a new value comes from: give one on standard input (--stdin), or add `rotation` to its table".into())
        }
    }
}

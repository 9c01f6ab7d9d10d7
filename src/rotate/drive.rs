//! Does what the machine says: one step after the other, each on disk before it is tried.

mod work;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use self::work::Work;
use super::{BySource, How, Record, Settings, State, Step, Stragglers, Target, Way, machine::Event, rotations::Shared};
use crate::{
    audit::{self, Kind, Outcome, Who},
    name::{SecretName, Version},
    secret::SecretValue,
    session::{End as SessionEnd, Session},
    source::rotate::Turn,
};

/// The first and the longest pause before a step that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Holders are looked at so often, beside each time when one of them moves.
const LOOK: Duration = Duration::from_millis(250);
/// So often a source is asked for the new version, where it does not come by itself.
const ASK: Duration = Duration::from_secs(2);
/// A source that rotates by itself is asked again at first after this.
const SOON: Duration = Duration::from_millis(100);

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
            let state = self.record.state;
            if state.is_over() {
                break;
            }
            match state.step {
                // While holders move there is more to tell.
                Step::Overlap | Step::Return => {}
                // Who follows may have seen none of that: it can be over at once.
                Step::Retire => self.publish(self.record.new_version().as_ref()),
                _ => self.publish(None),
            }
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
            self.record.state = state.next(event);
            self.record.went(state, problem, SystemTime::now());
        }
        self.shared.ended(&self.secret, &self.record);
    }

    /// Nothing is tried before it is on disk that it will be.
    async fn record_durably(&mut self) {
        let mut wait = PAUSE.0;
        loop {
            let (folder, record) = (self.shared.folder.clone(), self.record.clone());
            let written = tokio::task::spawn_blocking(move || folder.write(&record)).await;
            match written {
                Ok(Ok(())) => return,
                Ok(Err(problem)) => {
                    warn!(secret = %self.secret, "a rotation waits, because its state cannot be written: {problem}")
                }
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
        if self.record.way == Way::Source {
            return self.step_of_source(&target, state).await;
        }
        let Some(writer) = target.source.writer() else { return (Event::Failed, "its source cannot be written to".into()) };
        let Some(base) = self.record.base() else { return (Event::Failed, "its record names no version".into()) };
        let work =
            Work { secret: &self.secret, target: &target, writer, base: &base, record: &self.record, shared: &self.shared };
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

    /// One that the source makes: all of it is the finish, and nothing is staged by us, retired or undone.
    async fn step_of_source(&mut self, target: &Target, state: State) -> Tried {
        match state.step {
            Step::Finish => match self.have_source_rotate(target).await {
                Ok(new) => {
                    self.record.is_current(&new, SystemTime::now());
                    done()
                }
                Err(tried) => tried,
            },
            Step::Overlap | Step::Return => self.wait_for_holders(target, state.step).await,
            Step::Restore => (Event::Lost, "its source rotated it, and has no way back".into()),
            Step::Create | Step::Set | Step::Test | Step::Retire | Step::Undo | Step::Over => done(),
        }
    }

    /// Tells the source, and waits for it.
    async fn have_source_rotate(&self, target: &Target) -> Result<Version, Tried> {
        let gone = |words: &str| Err((Event::Impossible, words.to_owned()));
        let How::Source(BySource { within }) = &target.settings.how else {
            return gone("configuration does not say any longer that its source rotates it");
        };
        let Some(source) = target.source.rotator() else { return gone("its source does not rotate secrets by itself") };
        let Some(base) = self.record.base() else { return Err((Event::Failed, "its record names no version".into())) };
        let begun = tokio::time::Instant::now();
        let mut wait = SOON;
        loop {
            match source.rotate(&target.wanted, &base, &self.record.token).await {
                Ok(Turn::Done(new)) => return Ok(new),
                Ok(Turn::UnderWay) if begun.elapsed() < *within => {}
                Ok(Turn::UnderWay) => {
                    let words = format!("its source is at it for longer than {} s: see there why", within.as_secs());
                    return Err((Event::Failed, words));
                }
                Ok(Turn::Lost) => return Err((Event::Lost, "somebody else has changed it".into())),
                Ok(Turn::Never(why)) => return gone(&why),
                Err(error) => return Err((Event::Failed, error.to_string())),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(ASK);
        }
    }

    /// Until every holder that this daemon knows has moved, or the time for it is over.
    async fn wait_for_holders(&mut self, target: &Target, step: Step) -> Tried {
        let to = if step == Step::Overlap { self.record.new_version() } else { self.record.back() };
        let Some(to) = to else { return done() };
        let settings = &target.settings;
        let mut moves = self.shared.broker.sessions().moves();
        let mut asked = tokio::time::Instant::now();
        self.shared.host.refresh(target.siblings.clone()).await;
        loop {
            let now = SystemTime::now();
            if let Some(overlap) = self.asked.hurries() {
                self.record.hurry(overlap, now);
            }
            self.publish(Some(&to));
            let held = self.shared.broker.version(&self.secret).map(|(version, _)| version);
            let behind: Vec<_> = self.shared.holders(&self.secret, &to).into_iter().filter(|holder| !holder.moved).collect();
            // What no tool may have is not held here, and nobody can be behind.
            let told = held.as_ref().is_none_or(|held| *held == to);
            let overlap = self.record.overlap(settings);
            let at_least =
                settings.overlap_at_least.map(|least| if self.record.is_hurried() { least.min(overlap) } else { least });
            let early = step == Step::Overlap && at_least.is_some_and(|least| now < self.record.deadline(least));
            if told && behind.is_empty() && !early {
                return done();
            }
            if now >= self.record.deadline(overlap) && !early {
                match settings.stragglers {
                    Stragglers::Wait if !self.record.is_hurried() => {}
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
            let unit = holder.unit.as_deref();
            warn!(%secret, %tool, pid, unit, %version, "rotation: this holder has not moved in time");
            let who = Who::new(Some(tool), holder.session.as_ref(), None);
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
            let is_behind = |session: &Session| behind.iter().any(|holder| holder.session == Some(session.id));
            self.shared.broker.end(SessionEnd::Rotated, is_behind);
        }
        let name = |holder: &super::Holder| match (&holder.session, &holder.unit) {
            (None, Some(unit)) => format!("{} ({unit})", holder.tool),
            _ if holder.pid == 0 => format!("{} (over the network)", holder.tool),
            _ => format!("{} (pid {})", holder.tool, holder.pid),
        };
        let names: Vec<_> = behind.iter().map(name).collect();
        let problem = if names.is_empty() { String::new() } else { format!("not moved in time: {}", names.join(", ")) };
        (Event::Done, problem)
    }
}

/// How a rotation of this secret begins.
pub(super) fn way(settings: &Settings, given: bool) -> Result<Way, String> {
    match (&settings.how, given) {
        (How::Hook(_), true) => Err("it is rotated by a hook, which makes its own values".into()),
        (How::Source(_), true) => Err("it is rotated by its source, which makes its own values".into()),
        (How::Source(_), false) => Ok(Way::Source),
        (_, true) => Ok(Way::Given),
        (How::Generate(_), false) => Ok(Way::Generate),
        (How::Hook(_), false) => Ok(Way::Hook),
        (How::Given, false) => {
            Err("nothing says where a new value comes from: give one on standard input (--stdin), or add `rotation` to its table"
                .into())
        }
    }
}

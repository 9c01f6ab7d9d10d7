//! What each step does: at the source, and through the hook at the system that the secret opens.

use tracing::{info, warn};

use super::{Tried, done};
use crate::{
    name::{SecretName, Version},
    rotate::{
        How, Record, Step, Target, Way,
        hook::{self, Answer, Told},
        machine::Event,
        rotations::Shared,
    },
    secret::SecretValue,
    source::{
        Cause, Fetched, SourceError, Wanted,
        write::{Which, Write, WriteError},
    },
};

/// What one step works with.
pub(super) struct Work<'a> {
    pub secret: &'a SecretName,
    pub target: &'a Target,
    pub writer: &'a dyn Write,
    pub base: &'a Version,
    pub record: &'a Record,
    pub shared: &'a Shared,
}

impl Work<'_> {
    fn wanted(&self) -> &Wanted {
        &self.target.wanted
    }

    fn is_hooked(&self) -> bool {
        self.record.way == Way::Hook
    }

    /// A new value, staged where something else than the source must learn of it first.
    pub async fn create(&self, carried: &mut Option<SecretValue>) -> Tried {
        let old = match self.writer.value(self.wanted(), Which::Version(self.base)).await {
            Ok(old) => old,
            Err(error) => return failed(&error),
        };
        let made = match (carried.take(), &self.target.settings.how) {
            (Some(given), _) => Ok(given),
            (None, How::Generate(generate)) if self.record.way == Way::Generate => {
                generate.value().map_err(|e| (Event::Failed, e.to_string()))
            }
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

    pub async fn set(&self) -> Tried {
        self.tell(Step::Set).await
    }

    pub async fn test(&self) -> Tried {
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

    pub async fn finish(&self, carried: Option<&SecretValue>) -> Result<Version, Tried> {
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
    pub async fn retire(&self) -> Tried {
        if !self.is_hooked() {
            return self.tidy().await;
        }
        let (old, new) = match (self.old_value().await, self.new_value().await) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return failed(&error),
        };
        if let Err(tried) = self.is_not_current(old.as_ref(), "retired").await {
            return tried;
        }
        match self.run(Step::Retire, old.as_ref(), new.as_ref()).await {
            Ok(_) => self.tidy().await,
            Err(tried) => tried,
        }
    }

    pub async fn restore(&self) -> Result<Version, Tried> {
        let Some(new) = self.record.new_version() else { return Err((Event::Lost, "there is no new version".into())) };
        let restored = self.writer.restore(self.wanted(), &new, self.base, &self.record.token).await;
        restored.map_err(|error| tried(Err::<(), _>(error)))
    }

    /// The new value is not taken any longer, and not staged; under the same condition.
    pub async fn undo(&self) -> Tried {
        if !self.is_hooked() {
            return self.tidy().await;
        }
        let (old, new) = match (self.old_value().await, self.new_value().await) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return failed(&error),
        };
        if let Err(tried) = self.is_not_current(new.as_ref(), "taken back").await {
            return tried;
        }
        match self.run(Step::Undo, old.as_ref(), new.as_ref()).await {
            Ok(_) => self.tidy().await,
            Err(tried) => tried,
        }
    }

    async fn is_not_current(&self, value: Option<&SecretValue>, what: &str) -> Result<(), Tried> {
        let Some(value) = value else { return Ok(()) };
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

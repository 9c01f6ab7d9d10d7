//! Writes to a sealed file: one editor at a time, the file replaced as a whole. What is staged stands beside the secret, under its name
//! and `.valetkey-rotation`; once it is current, what was current before stands there.

use std::time::{Duration, Instant};

use super::{
    super::{
        Cause, SourceError, Wanted, Working,
        field::{self, Json},
        write::{BESIDE, Beside, Current, Which, Write, WriteError, with_value},
    },
    Identity, Sealed, SealedFile,
};
use crate::{
    name::{SecretName, Version},
    secret::SecretValue,
};

/// For another editor to be done.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// The file, opened for changes to one secret.
struct Editing {
    file: SealedFile,
    name: SecretName,
    beside: SecretName,
    wanted: Wanted,
}

impl Sealed {
    /// Edits the file on a thread that may block.
    async fn edit<T: Send + 'static, E: From<SourceError> + Send + 'static>(
        &self,
        wanted: &Wanted,
        edit: impl FnOnce(&mut Editing) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (settings, wanted) = (self.settings.clone(), wanted.clone());
        let edited = tokio::task::spawn_blocking(move || {
            let identity = Identity::read(&settings.identity_file)?;
            let begun = Instant::now();
            let file = loop {
                match SealedFile::open(&settings.path, &identity) {
                    Err(error) if error.detail.contains("being edited") && begun.elapsed() < PATIENCE => {
                        std::thread::sleep(PAUSE)
                    }
                    opened => break opened?,
                }
            };
            edit(&mut Editing::new(file, wanted)?)
        });
        edited.await.unwrap_or_else(|_| Err(SourceError::new(Cause::BadAnswer, "editing the sealed file failed").into()))
    }
}

impl Editing {
    fn new(file: SealedFile, wanted: Wanted) -> Result<Self, SourceError> {
        let name = |text: String| text.parse().map_err(|bad| SourceError::new(Cause::NotFound, format!("{bad}")));
        let (own, beside) = (name(wanted.path.clone())?, name(format!("{}{BESIDE}", wanted.path))?);
        Ok(Self { file, name: own, beside, wanted })
    }

    fn version(&self) -> Result<Version, SourceError> {
        let missing = || SourceError::new(Cause::NotFound, format!("the sealed file has no secret {}", self.name));
        self.file.version(&self.name).map(Version::from).ok_or_else(missing)
    }

    fn value(&self) -> Result<SecretValue, SourceError> {
        self.version()?;
        let pick = |value: &SecretValue| value.expose(|bytes| field::pick(bytes, self.wanted.field.as_deref()));
        self.file.get(&self.name).map_or_else(|| Err(SourceError::new(Cause::NotFound, "it has no value")), pick)
    }

    fn beside(&self) -> Result<Option<Beside>, SourceError> {
        let odd = || SourceError::new(Cause::BadAnswer, format!("{} is not of a rotation", self.beside));
        let read = |value: &SecretValue| value.expose(|bytes| Beside::from_json(Json::parse(bytes).ok_or_else(odd)?));
        self.file.get(&self.beside).map(read).transpose()
    }

    /// What this token has staged, or has made current.
    fn of(&self, token: &str) -> Result<Beside, WriteError> {
        self.beside()?.filter(|beside| beside.token == token).ok_or(WriteError::Conflict)
    }

    fn keep_beside(&mut self, token: &str, base: &Version, value: &SecretValue, promoted: bool) -> Result<(), SourceError> {
        let json = SecretValue::copy_from(&Beside::to_json(token, base, value, promoted)?)?;
        self.file.set(&self.beside, &json).map(drop)
    }

    /// Puts a value in the secret's place, and what it replaces beside it, in one write.
    fn replace(&mut self, token: &str, base: &Version, value: &SecretValue) -> Result<Version, WriteError> {
        if self.version()? != *base {
            return Err(WriteError::Conflict);
        }
        let before = self.value()?;
        let whole = self.file.get(&self.name).map(|whole| whole.expose(|whole| with_value(whole, &self.wanted, value)));
        let Some(whole) = whole else { return Err(WriteError::Conflict) };
        let version = self.file.set(&self.name, &SecretValue::copy_from(&whole?).map_err(SourceError::from)?)?;
        self.keep_beside(token, base, &before, true)?;
        self.file.save()?;
        Ok(version.into())
    }
}

impl Write for Sealed {
    fn look<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>> {
        Box::pin(self.edit(wanted, |file| {
            let staged = file.beside()?.map(|beside| beside.token);
            Ok(Current { version: file.version()?, created: None, staged })
        }))
    }

    fn value<'a>(&'a self, wanted: &'a Wanted, which: Which<'a>) -> Working<'a, Result<SecretValue, SourceError>> {
        let (token, version) = match which {
            Which::Staged(token) => (Some(token.to_owned()), None),
            Which::Version(version) => (None, Some(version.clone())),
        };
        Box::pin(self.edit(wanted, move |file| {
            let missing = || SourceError::new(Cause::NotFound, "the sealed file does not have this version any more");
            let beside = file.beside()?;
            match version {
                Some(version) if file.version()? == version => file.value(),
                Some(version) => beside
                    .filter(|beside| beside.promoted && beside.base == version)
                    .map(|beside| beside.value)
                    .ok_or_else(missing),
                None => match beside.filter(|beside| Some(&beside.token) == token.as_ref()) {
                    Some(Beside { promoted: true, .. }) => file.value(),
                    Some(beside) => Ok(beside.value),
                    None => Err(missing()),
                },
            }
        }))
    }

    fn stage<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<(), WriteError>> {
        let (base, token) = (base.clone(), token.to_owned());
        Box::pin(async move {
            let value = value.expose(SecretValue::copy_from).map_err(SourceError::from)?;
            let stage = move |file: &mut Editing| match file.beside()? {
                Some(beside) if beside.token == token => Ok(()),
                Some(_) => Err(WriteError::Conflict),
                None if file.version()? != base => Err(WriteError::Conflict),
                None => {
                    // What could not be written in the end must not be set anywhere.
                    file.file.get(&file.name).map(|whole| whole.expose(|w| with_value(w, &file.wanted, &value))).transpose()?;
                    file.keep_beside(&token, &base, &value, false)?;
                    Ok(file.file.save()?)
                }
            };
            self.edit(wanted, stage).await
        })
    }

    fn promote<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Version, WriteError>> {
        let (base, token) = (base.clone(), token.to_owned());
        Box::pin(self.edit(wanted, move |file| match file.of(&token)? {
            Beside { promoted: true, .. } => Ok(file.version()?),
            staged => file.replace(&token, &base, &staged.value),
        }))
    }

    fn write<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<Version, WriteError>> {
        let (base, token) = (base.clone(), token.to_owned());
        Box::pin(async move {
            let value = value.expose(SecretValue::copy_from).map_err(SourceError::from)?;
            let write = move |file: &mut Editing| match file.beside()? {
                Some(beside) if beside.token == token && beside.promoted => Ok(file.version()?),
                Some(beside) if beside.token != token => Err(WriteError::Conflict),
                _ => file.replace(&token, &base, &value),
            };
            self.edit(wanted, write).await
        })
    }

    fn restore<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        earlier: &'a Version,
        token: &'a str,
    ) -> Working<'a, Result<Version, WriteError>> {
        let (base, earlier, token) = (base.clone(), earlier.clone(), token.to_owned());
        Box::pin(self.edit(wanted, move |file| {
            let before = file.of(&token)?;
            match before.promoted && before.base == earlier {
                true => file.replace(&token, &base, &before.value),
                // It was restored by a call of which nobody heard the end: now the newer one stands beside.
                false if before.promoted && before.base == base => Ok(file.version()?),
                false => Err(WriteError::Conflict),
            }
        }))
    }

    fn tidy<'a>(&'a self, wanted: &'a Wanted, token: &'a str) -> Working<'a, Result<(), SourceError>> {
        let token = token.to_owned();
        Box::pin(self.edit(wanted, move |file| match file.of(&token) {
            Ok(_) => {
                file.file.remove(&file.beside.clone());
                file.file.save()
            }
            Err(WriteError::Conflict) => Ok(()),
            Err(WriteError::Source(error)) => Err(error),
        }))
    }
}

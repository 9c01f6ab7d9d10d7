//! Writes to version 2 of the key-value engine, each with check-and-set (`cas` in the API's reference of KV version 2).
//!
//! The engine has no stages, so what is staged stands beside the secret, under its path and `.valetkey-rotation`.

use std::{str, sync::Arc, time::SystemTime};

use zeroize::Zeroizing;

use super::{
    super::{
        Cause, SourceError, Wanted, Working,
        field::{self, Json},
        write::{BESIDE, Beside, Current, Which, Write, WriteError, with_value},
    },
    Vault,
    client::{Call, Client},
    errors::{Asked, Failed, Of},
    read::{is_path, only_value, value},
    token::Token,
};
use crate::{name::Version, secret::SecretValue};

/// An object of the engine, as the server answered it.
struct Object {
    body: Zeroizing<Vec<u8>>,
    version: Version,
}

impl Vault {
    /// Makes a call, and once more with another token where this one has died.
    async fn authorised(&self, operation: &'static str, call: &(dyn Fn() -> Call + Sync), asked: Asked<'_>) -> Answer {
        let token = self.tokens.get().await.map_err(|error| Failed { error, of: Of::Server })?;
        match self.once(&token, operation, call(), asked).await {
            Err(failed) if failed.of == Of::Token => match self.tokens.suspect(&token).await {
                Ok(Some(another)) => self.once(&another, operation, call(), asked).await,
                Ok(None) => Err(failed),
                Err(error) => Err(Failed { error, of: Of::Server }),
            },
            answer => answer,
        }
    }

    async fn once(&self, token: &Arc<Token>, operation: &'static str, call: Call, asked: Asked<'_>) -> Answer {
        let client: Client<'_> = self.access.client(Some(&token.value)).map_err(|error| Failed { error, of: Of::Server })?;
        client.ask(operation, call, asked).await
    }

    /// The newest version of an object, or an older one. `None`: there is none.
    async fn object(&self, path: &str, version: Option<&Version>) -> Result<Option<Object>, SourceError> {
        if !is_path(path) {
            return Err(SourceError::new(Cause::NotFound, "`path` is not the path of a secret below the mount"));
        }
        let full = self.full(path);
        let call = || Call::get(&full).query(version.map(|version| format!("version={version}")));
        let body = match self.authorised("GET kv/data", &call, Asked::Secret(&full)).await {
            Ok(body) => body,
            Err(failed) if failed.error.cause == Cause::NotFound || failed.error.detail.contains("newest version is") => {
                return Ok(None);
            }
            Err(failed) => return Err(failed.error),
        };
        let version = self.parse(&body, path)?.1;
        Ok(Some(Object { body, version }))
    }

    async fn existing(&self, path: &str, version: Option<&Version>) -> Result<Object, SourceError> {
        let missing =
            || SourceError::new(Cause::NotFound, format!("{}: there is no such secret, or not this version", self.full(path)));
        self.object(path, version).await?.ok_or_else(missing)
    }

    /// Writes an object where this version is the newest; 0: where there is none.
    async fn put(&self, path: &str, cas: &str, data: &[u8]) -> Result<Version, WriteError> {
        let full = self.full(path);
        let head = format!("{{\"options\":{{\"cas\":{cas}}},\"data\":");
        let body = || {
            let mut body = Zeroizing::new(Vec::with_capacity(head.len() + data.len() + 1));
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(data);
            body.push(b'}');
            Call::post_json(full.clone(), body)
        };
        let answer = self.authorised("POST kv/data", &body, Asked::Write(&full)).await.map_err(|failed| match failed.of {
            Of::Conflict => WriteError::Conflict,
            _ => WriteError::Source(failed.error),
        })?;
        let version = Json::parse(&answer).and_then(|answer| number(answer.at("data")?.at("version")?));
        Ok(version.ok_or_else(|| SourceError::new(Cause::BadAnswer, format!("{full}: the answer to a write has no version")))?)
    }

    /// What the object becomes with this value.
    fn data(&self, object: &Object, wanted: &Wanted, value: &SecretValue) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let (data, _) = self.parse(&object.body, &wanted.path)?;
        if wanted.field.is_none() && only_value(data).is_some() {
            return value.expose(|bytes| field::replaced(data.text(), "value", bytes));
        }
        let whole = with_value(data.text(), wanted, value)?;
        match Json::parse(&whole).is_some_and(|whole| whole.kind() == "an object") {
            true => Ok(whole),
            false => {
                Err(SourceError::new(Cause::BadField, "the secret is a JSON object, and the new value is none: name a `field`"))
            }
        }
    }

    fn value_of(&self, object: &Object, wanted: &Wanted) -> Result<SecretValue, SourceError> {
        value(self.parse(&object.body, &wanted.path)?.0, wanted.field.as_deref())
    }

    async fn beside(&self, wanted: &Wanted) -> Result<Option<Beside>, SourceError> {
        let path = beside(wanted);
        let Some(object) = self.object(&path, None).await? else { return Ok(None) };
        Beside::from_json(self.parse(&object.body, &path)?.0).map(Some)
    }

    async fn staged(&self, wanted: &Wanted, token: &str) -> Result<Beside, WriteError> {
        self.beside(wanted).await?.filter(|beside| beside.token == token).ok_or(WriteError::Conflict)
    }

    /// Puts a value in the place of the one that `base` has. Where another is there by now, it may be this very one, written by a call
    /// of which nobody heard the end.
    async fn replace(&self, wanted: &Wanted, base: &Version, value: &SecretValue) -> Result<Version, WriteError> {
        let object = self.existing(&wanted.path, None).await?;
        if object.version != *base {
            return match self.value_of(&object, wanted)?.same_as(value) {
                true => Ok(object.version),
                false => Err(WriteError::Conflict),
            };
        }
        let data = self.data(&object, wanted, value)?;
        self.put(&wanted.path, base.as_str(), &data).await
    }
}

type Answer = Result<Zeroizing<Vec<u8>>, Failed>;

fn beside(wanted: &Wanted) -> String {
    format!("{}{BESIDE}", wanted.path)
}

fn number(json: Json<'_>) -> Option<Version> {
    let text = (json.kind() == "a number").then(|| str::from_utf8(json.text()).ok())??;
    text.parse::<u64>().ok().map(Version::from)
}

fn created(body: &[u8]) -> Option<SystemTime> {
    let created = Json::parse(body)?.at("data")?.at("metadata")?.at("created_time")?.leaf()?.ok()?;
    let created = created.expose(|text| str::from_utf8(text).ok()?.parse::<prost_types::Timestamp>().ok())?;
    created.try_into().ok()
}

impl Write for Vault {
    fn look<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>> {
        Box::pin(async move {
            let object = self.existing(&wanted.path, None).await?;
            let staged = self.beside(wanted).await?.map(|beside| beside.token);
            Ok(Current { created: created(&object.body), version: object.version, staged })
        })
    }

    fn value<'a>(&'a self, wanted: &'a Wanted, which: Which<'a>) -> Working<'a, Result<SecretValue, SourceError>> {
        Box::pin(async move {
            match which {
                Which::Version(version) => self.value_of(&self.existing(&wanted.path, Some(version)).await?, wanted),
                Which::Staged(token) => match self.staged(wanted, token).await {
                    Ok(beside) => Ok(beside.value),
                    Err(WriteError::Source(error)) => Err(error),
                    Err(WriteError::Conflict) => Err(SourceError::new(Cause::NotFound, "nothing is staged for this rotation")),
                },
            }
        })
    }

    fn stage<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<(), WriteError>> {
        Box::pin(async move {
            // What could not be written in the end must not be set anywhere.
            let object = self.existing(&wanted.path, None).await?;
            if object.version != *base {
                return Err(WriteError::Conflict);
            }
            self.data(&object, wanted, value)?;
            let json = Beside::to_json(token, base, value, false)?;
            match self.put(&beside(wanted), "0", &json).await {
                Ok(_) => Ok(()),
                Err(WriteError::Conflict) => self.staged(wanted, token).await.map(drop),
                Err(error) => Err(error),
            }
        })
    }

    fn promote<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(async move {
            let staged = self.staged(wanted, token).await?;
            self.replace(wanted, base, &staged.value).await
        })
    }

    fn write<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        _token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(self.replace(wanted, base, value))
    }

    fn restore<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        earlier: &'a Version,
        _token: &'a str,
    ) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(async move {
            let earlier = self.value_of(&self.existing(&wanted.path, Some(earlier)).await?, wanted)?;
            self.replace(wanted, base, &earlier).await
        })
    }

    fn tidy<'a>(&'a self, wanted: &'a Wanted, token: &'a str) -> Working<'a, Result<(), SourceError>> {
        Box::pin(async move {
            match self.beside(wanted).await? {
                Some(beside) if beside.token == token => {}
                _ => return Ok(()),
            }
            // All versions of it at once, so that no value is left and the next can be staged.
            let path = self.metadata_path(&beside(wanted));
            let call = || Call::delete(path.clone());
            match self.authorised("DELETE kv/metadata", &call, Asked::Write(&path)).await {
                Ok(_) => Ok(()),
                Err(failed) if failed.error.cause == Cause::NotFound => Ok(()),
                Err(failed) => Err(failed.error),
            }
        })
    }
}

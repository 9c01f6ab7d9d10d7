//! Writes to AWS Secrets Manager, by versions and their stages. A rotation's token is the id of its version (`ClientRequestToken`), so that a
//! call which is made twice makes one version. `AWSPENDING` is staged, and the lock: a label that is on another version already is moved
//! by nobody who does not say from where (`RemoveFromVersionId`, API reference of `UpdateSecretVersionStage`).

use std::time::SystemTime;

use aws_sdk_secretsmanager::operation::{describe_secret::DescribeSecretOutput, get_secret_value::GetSecretValueOutput};

use super::{
    super::{
        SourceError, Wanted, Working,
        aws::{Api, Session},
        write::{Current, Which, Write, WriteError, with_value},
    },
    AwsSecretsManager, Blob, CURRENT, Cause, Client, Secret,
};
use crate::{name::Version, secret::SecretValue};

pub(super) const PENDING: &str = "AWSPENDING";

static API: Api = Api {
    name: "AWS Secrets Manager",
    absent: "there is no such secret in this account and region, or it has no such version",
    allow: "allow secretsmanager:GetSecretValue, DescribeSecret, PutSecretValue and UpdateSecretVersionStage to this role",
    malformed: "is `path` a name or an ARN of a secret?",
};

/// Made by a rotation of ours, here or on another host.
fn is_token(version: &str) -> bool {
    version.len() == 32 && version.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn version(id: &str) -> Result<Version, SourceError> {
    id.parse().map_err(|_| SourceError::new(Cause::BadAnswer, "AWS answered with a version id that is none"))
}

/// A secret's API, for a few calls.
pub(super) struct Way<'a> {
    session: Session<'a, Client>,
    id: &'a str,
}

/// Which version has which label.
pub(super) struct Stages(DescribeSecretOutput);

impl Stages {
    /// The version that has this label.
    pub fn of(&self, label: &str) -> Option<&str> {
        let mut all = self.0.version_ids_to_stages().into_iter().flatten();
        all.find(|(_, labels)| labels.iter().any(|one| one == label)).map(|(id, _)| id.as_str())
    }

    pub fn has(&self, version: &str, label: &str) -> bool {
        let labels = self.0.version_ids_to_stages().and_then(|all| all.get(version));
        labels.is_some_and(|labels| labels.iter().any(|one| one == label))
    }

    /// Is its rotation turned on?
    pub fn rotates(&self) -> bool {
        self.0.rotation_enabled() == Some(true)
    }
}

impl<'a> Way<'a> {
    pub async fn to(source: &'a AwsSecretsManager, wanted: &'a Wanted) -> Result<Self, SourceError> {
        let session = source.account.session(&API, AwsSecretsManager::client, false).await?;
        Ok(Self { session, id: &wanted.path })
    }

    /// Has AWS rotate it. A call that is made twice is made once.
    pub async fn rotate(&self, token: &str) -> Result<(), SourceError> {
        let call = |client: &Client| client.rotate_secret().secret_id(self.id).client_request_token(token).send();
        self.session.call("RotateSecret", call).await.map(drop).map_err(|failure| failure.error)
    }

    pub async fn stages(&self) -> Result<Stages, SourceError> {
        let call = self.session.call("DescribeSecret", |client| client.describe_secret().secret_id(self.id).send());
        call.await.map(Stages).map_err(|failure| failure.error)
    }

    async fn read(&self, version: &str) -> Result<GetSecretValueOutput, SourceError> {
        let call = |client: &Client| client.get_secret_value().secret_id(self.id).version_id(version).send();
        self.session.call("GetSecretValue", call).await.map_err(|failure| failure.error)
    }

    /// Moves a label to a version: from another, or, without one, from nowhere.
    async fn label(&self, label: &str, to: Option<&str>, from: Option<&str>) -> Result<(), SourceError> {
        let call = |client: &Client| {
            let call = client.update_secret_version_stage().secret_id(self.id).version_stage(label);
            call.set_move_to_version_id(to.map(Into::into)).set_remove_from_version_id(from.map(Into::into)).send()
        };
        self.session.call("UpdateSecretVersionStage", call).await.map(drop).map_err(|failure| failure.error)
    }

    /// Makes a version that nobody reads: its one label is its own id.
    async fn put(&self, wanted: &Wanted, base: &Version, token: &str, value: &SecretValue) -> Result<(), SourceError> {
        let before = Secret::from(self.read(base.as_str()).await?);
        let whole = with_value(&before.value, wanted, value)?;
        let call = |client: &Client| {
            let call = client.put_secret_value().secret_id(self.id).client_request_token(token).version_stages(token);
            let call = match std::str::from_utf8(&whole) {
                Ok(text) => call.secret_string(text),
                Err(_) => call.secret_binary(Blob::new(whole.to_vec())),
            };
            call.send()
        };
        self.session.call("PutSecretValue", call).await.map(drop).map_err(|failure| failure.error)
    }

    /// Moves `AWSCURRENT`, which AWS does where `from` has it and not otherwise.
    async fn make_current(&self, to: &str, from: &Version) -> Result<Version, WriteError> {
        let Err(error) = self.label(CURRENT, Some(to), Some(from.as_str())).await else { return Ok(version(to)?) };
        if !is_refusal(&error) {
            return Err(error.into());
        }
        // Another has it, or it was moved by a call of which nobody heard the end.
        match self.stages().await?.of(CURRENT) {
            Some(current) if current == to => Ok(version(to)?),
            Some(current) if current == from.as_str() => Err(error.into()),
            _ => Err(WriteError::Conflict),
        }
    }

    /// Takes the lock.
    async fn make_pending(&self, token: &str) -> Result<(), WriteError> {
        let Err(error) = self.label(PENDING, Some(token), None).await else { return Ok(()) };
        if !is_refusal(&error) {
            return Err(error.into());
        }
        let stages = self.stages().await?;
        match stages.of(PENDING) {
            Some(pending) if pending == token => Ok(()),
            // What AWS's own rotation leaves when it is done. Under an id of ours it is one that has not ended.
            Some(pending) if Some(pending) == stages.of(CURRENT) && !is_token(pending) => {
                let taken = self.label(PENDING, Some(token), Some(pending)).await;
                taken.map_err(|error| if is_refusal(&error) { WriteError::Conflict } else { error.into() })
            }
            Some(_) => Err(WriteError::Conflict),
            None => Err(error.into()),
        }
    }

    /// Takes a label from a version, where it is on it.
    async fn unlabel(&self, stages: &Stages, label: &str, from: &str) -> Result<(), SourceError> {
        if stages.of(label) != Some(from) {
            return Ok(());
        }
        self.label(label, None, Some(from)).await
    }

    async fn tidy(&self, token: &str) -> Result<(), SourceError> {
        let stages = self.stages().await?;
        self.unlabel(&stages, PENDING, token).await?;
        self.unlabel(&stages, token, token).await
    }
}

/// Did AWS answer, and say no?
fn is_refusal(error: &SourceError) -> bool {
    error.cause != Cause::Unreachable
}

impl Write for AwsSecretsManager {
    fn look<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>> {
        Box::pin(async move {
            let way = Way::to(self, wanted).await?;
            let stages = way.stages().await?;
            let none = || SourceError::new(Cause::NotFound, "no version of it is current");
            let current = stages.of(CURRENT).ok_or_else(none)?;
            let staged = stages.of(PENDING).filter(|pending| *pending != current || is_token(pending)).map(str::to_owned);
            let created = way.read(current).await?.created_date().and_then(|at| SystemTime::try_from(*at).ok());
            Ok(Current { version: version(current)?, created, staged })
        })
    }

    fn value<'a>(&'a self, wanted: &'a Wanted, which: Which<'a>) -> Working<'a, Result<SecretValue, SourceError>> {
        Box::pin(async move {
            let id = match which {
                Which::Staged(token) => token,
                Which::Version(version) => version.as_str(),
            };
            let answer = Way::to(self, wanted).await?.read(id).await?;
            Ok(Secret::from(answer).pick(wanted)?.value)
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
            let way = Way::to(self, wanted).await?;
            if way.stages().await?.of(CURRENT) != Some(base.as_str()) {
                return Err(WriteError::Conflict);
            }
            way.put(wanted, base, token, value).await?;
            way.make_pending(token).await
        })
    }

    fn promote<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(async move { Way::to(self, wanted).await?.make_current(token, base).await })
    }

    fn write<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        token: &'a str,
        value: &'a SecretValue,
    ) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(async move {
            let way = Way::to(self, wanted).await?;
            way.put(wanted, base, token, value).await?;
            way.make_current(token, base).await
        })
    }

    fn restore<'a>(
        &'a self,
        wanted: &'a Wanted,
        base: &'a Version,
        earlier: &'a Version,
        _token: &'a str,
    ) -> Working<'a, Result<Version, WriteError>> {
        Box::pin(async move { Way::to(self, wanted).await?.make_current(earlier.as_str(), base).await })
    }

    fn tidy<'a>(&'a self, wanted: &'a Wanted, token: &'a str) -> Working<'a, Result<(), SourceError>> {
        Box::pin(async move { Way::to(self, wanted).await?.tidy(token).await })
    }
}

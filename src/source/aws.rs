//! What the sources of AWS share: where the account is, how we log in there, how a call is made and what its failure means.
//!
//! Credentials are kept over many reads ([`login`]); connections are not, because the values that came over them lie in their
//! buffers. A [`Session`] is one read's way to the API: connections of its own, the credentials of all.

mod failure;
mod login;

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_secretsmanager::{
    config::{Credentials, ProvideCredentials, retry::RetryPartition},
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::http::Response;

pub(super) use self::failure::{Api, Failure, Scope};
use self::login::Login;
use super::{Calls, Cause, LoginFacts, SourceError};

/// Where the secrets are and how to get in.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// As `eu-west-1`.
    pub region: String,
    /// Of the API that is read, instead of the region's own address: a VPC endpoint, an emulator. Never of STS.
    pub endpoint: Option<String>,
    /// A profile of the shared configuration files. With this or `credentials_file` these are the credentials; without both, the
    /// SDK's default chain finds some: environment, profile, web identity, container, instance.
    pub profile: Option<String>,
    /// A shared credentials file in place of `~/.aws/credentials`: a systemd credential, say.
    pub credentials_file: Option<PathBuf>,
    /// Other files that the SDK takes credentials from. What is in them may change while we run.
    pub watched: Vec<PathBuf>,
    /// A role to take with these credentials: what is read is then read as that role, in its account.
    pub role: Option<Role>,
    /// The most calls at a time; 0 means 1.
    pub concurrency: usize,
}

/// A role, and what is said to STS to get it.
#[derive(Debug, Clone)]
pub struct Role {
    /// `arn:aws:iam::123456789012:role/valetkey`.
    pub arn: String,
    /// What the other account's owner asks of those who take the role.
    pub external_id: Option<String>,
    /// Instead of the region's own address.
    pub sts_endpoint: Option<String>,
}

/// One source's account: its login, its bound on calls, and what its calls have learnt of how fast they may go.
#[derive(Debug)]
pub(super) struct Account {
    pub settings: Settings,
    pub calls: Calls,
    login: Login,
    /// Of this source alone, and longer-lived than the clients: so AWS slows no other source down because of this one.
    pub partition: RetryPartition,
}

impl Account {
    /// Checks the settings. Calls nobody.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_name(&settings.region) {
            return Err(SourceError::new(Cause::Refused, "`region` is not a region's name, such as eu-west-1"));
        }
        let partition = RetryPartition::custom("valetkey").build();
        let login = Login::new(settings.clone());
        Ok(Self { calls: Calls::new(settings.concurrency), settings, login, partition })
    }

    pub fn login(&self) -> LoginFacts {
        self.login.facts()
    }

    /// Logs in, if that is not done already, and makes a client for one read. With `one_failure_is_enough` nothing is called any more
    /// once the store turns out to be unreachable.
    pub async fn session<C: Clone>(
        &self,
        api: &'static Api,
        client: fn(&Account, &SdkConfig) -> C,
        one_failure_is_enough: bool,
    ) -> Result<Session<'_, C>, SourceError> {
        self.login.look();
        let kept = self.login.kept(&self.calls).await?;
        Ok(Session {
            account: self,
            api,
            make: client,
            client: Mutex::new((kept.generation, client(self, &kept.config))),
            replaced: tokio::sync::Mutex::new(false),
            one_failure_is_enough,
            is_over: AtomicBool::new(false),
            over: Mutex::new(None),
        })
    }
}

/// Credentials for those who call other APIs of AWS: found, kept and replaced as those of sources are.
#[derive(Debug)]
pub struct Keys(Account);

impl Keys {
    /// Checks the settings. Calls nobody.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        Account::new(settings).map(Self)
    }

    /// Credentials that are good now, and which they are, to be [refused](Self::refused).
    pub async fn now(&self) -> Result<(Credentials, u64), SourceError> {
        self.0.login.look();
        let kept = self.0.login.kept(&self.0.calls).await?;
        let none = || SourceError::new(Cause::Refused, "there are no credentials");
        let credentials = kept.config.credentials_provider().ok_or_else(none)?.provide_credentials().await.map_err(|_| none())?;
        Ok((credentials, kept.generation))
    }

    /// AWS does not know these any longer.
    pub fn refused(&self, generation: u64) {
        self.0.login.forget(generation);
    }
}

/// One read's way to the API. Its connections, and the values in their buffers, go with it.
pub(super) struct Session<'a, C> {
    account: &'a Account,
    api: &'static Api,
    make: fn(&Account, &SdkConfig) -> C,
    /// Made with these credentials.
    client: Mutex<(u64, C)>,
    /// Were credentials that AWS refused replaced already? Once must do: the second refusal is meant.
    replaced: tokio::sync::Mutex<bool>,
    one_failure_is_enough: bool,
    is_over: AtomicBool,
    /// Why nothing more is called.
    over: Mutex<Option<Failure>>,
}

impl<C: Clone> Session<'_, C> {
    /// Makes one call. Where AWS does not know our credentials any longer, it is made once more with new ones.
    pub async fn call<T, E, F>(&self, operation: &'static str, send: impl Fn(&C) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, Response>>>,
        E: ProvideErrorMetadata,
    {
        if self.is_over.load(Relaxed)
            && let Some(why) = &*self.over.lock().unwrap_or_else(PoisonError::into_inner)
        {
            return Err(why.clone());
        }
        let (generation, client) = self.current().await?;
        let mut result = self.once(operation, send(&client)).await;
        if matches!(&result, Err(failure) if failure.scope == Scope::Login) {
            match self.with_other_credentials(generation).await {
                Ok(Some(client)) => result = self.once(operation, send(&client)).await,
                Ok(None) => {}
                // What was refused is out of date, perhaps; nothing is known before there is something newer to show.
                Err(failure) => result = Err(failure),
            }
        }
        if let Err(failure) = &result {
            self.end_after(failure);
        }
        result
    }

    async fn once<T, E, F>(&self, operation: &'static str, call: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, Response>>>,
        E: ProvideErrorMetadata,
    {
        let mut scope = Scope::Call;
        let call = async {
            call.await.map_err(|error| {
                let failure = self.api.explain(&error);
                scope = failure.scope;
                failure.error
            })
        };
        self.account.calls.make(operation, call).await.map_err(|error| Failure { error, scope })
    }

    /// The client, with credentials that are good for this call.
    async fn current(&self) -> Result<(u64, C), Failure> {
        let kept = self.account.login.kept(&self.account.calls).await.map_err(Failure::of_login)?;
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.0 != kept.generation {
            *client = (kept.generation, (self.make)(self.account, &kept.config));
        }
        Ok(client.clone())
    }

    /// A client with credentials that are not these; `None` where those that are found are the same.
    async fn with_other_credentials(&self, refused: u64) -> Result<Option<C>, Failure> {
        let mut replaced = self.replaced.lock().await;
        if !*replaced {
            *replaced = true;
            self.account.login.forget(refused);
        }
        let (generation, client) = self.current().await?;
        Ok((generation != refused).then_some(client))
    }

    fn end_after(&self, failure: &Failure) {
        let over = match failure.scope {
            Scope::Login => true,
            Scope::Store => self.one_failure_is_enough,
            Scope::Call => false,
        };
        if over {
            *self.over.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
            self.is_over.store(true, Relaxed);
        }
    }
}

/// How long the parts of a call may take.
fn timeouts() -> TimeoutConfig {
    let seconds = Duration::from_secs;
    TimeoutConfig::builder()
        .connect_timeout(seconds(5))
        .operation_attempt_timeout(seconds(12))
        .operation_timeout(seconds(30))
        .build()
}

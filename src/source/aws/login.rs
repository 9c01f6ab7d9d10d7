//! Credentials: found once, kept until shortly before they run out, and replaced when they change or AWS does not know them any
//! longer.

use std::{
    error::Error,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

#[expect(deprecated, reason = "their new home, aws-runtime, says that it is not for direct use")]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
use aws_config::{
    BehaviorVersion, Region, SdkConfig, default_provider::credentials::DefaultCredentialsChain, identity::IdentityCache,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig, retry::RetryConfig,
};
use aws_sdk_secretsmanager::{
    config::{Credentials, ProvideCredentials, SharedCredentialsProvider, retry::RetryPartition},
    error::SdkError,
};
use aws_sdk_sts::{
    config::Builder as StsBuilder,
    operation::{assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError},
};
use aws_smithy_runtime_api::http::Response;

use super::{Api, Role, Settings, timeouts};
use crate::source::{Calls, Cause, LoginFacts, SourceError, key_file};

/// So long before they run out credentials are replaced; half their time where that is less. An instance's role gets its next ones about
/// then.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// When replacing fails while the old ones are good still: not tried again before.
const PATIENCE: Duration = Duration::from_secs(30);

/// For all that the SDK does to find credentials: it has no bound of its own here.
const LONGEST: Duration = Duration::from_secs(20);

const STS: Api = Api {
    name: "AWS STS",
    absent: "there is no such role",
    allow: "let the role's trust policy name us (and our `external-id`), and allow us sts:AssumeRole on it",
    malformed: "is `role-arn` the ARN of a role?",
};

/// One account's credentials.
#[derive(Debug)]
pub(super) struct Login {
    settings: Settings,
    session_name: String,
    partition: RetryPartition,
    kept: Mutex<Option<Kept>>,
    /// Held through a login, so there is one at a time. Who has nothing else to use waits for what it brings.
    finding: tokio::sync::Mutex<Finding>,
    facts: Mutex<LoginFacts>,
}

#[derive(Debug, Default)]
struct Finding {
    /// What the files were like before credentials were last looked for.
    files: Vec<Option<FileFacts>>,
    /// The last that were found, and how many there were before them.
    last: Option<Credentials>,
    generation: u64,
}

/// Credentials, in a configuration that clients can be made of.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub config: SdkConfig,
    /// Where this is the same, so are the credentials.
    pub generation: u64,
    expires: Option<SystemTime>,
    renews: Option<SystemTime>,
}

/// Enough to see that a file was written or replaced.
#[derive(Debug, PartialEq, Eq)]
struct FileFacts {
    written: (i64, i64),
    inode: u64,
    size: u64,
}

impl Login {
    pub fn new(settings: Settings) -> Self {
        let method = match &settings {
            Settings { role: Some(_), .. } => "role",
            Settings { credentials_file: Some(_), .. } => "credentials-file",
            Settings { profile: Some(_), .. } => "profile",
            _ => "default",
        };
        Self {
            session_name: session_name(&rustix::system::uname().nodename().to_string_lossy()),
            partition: RetryPartition::custom("valetkey-sts").build(),
            kept: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
            facts: Mutex::new(LoginFacts { method, expires: None, renews: None, problem: None }),
            settings,
        }
    }

    pub fn facts(&self) -> LoginFacts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the credentials if the files that they come from are no longer what they were.
    pub fn look(&self) {
        // A login that is under way has looked at them already, and the next look sees what is changed after that.
        let Ok(finding) = self.finding.try_lock() else { return };
        if finding.files != self.files() {
            *self.lock() = None;
        }
    }

    /// Drops the credentials of this generation: AWS does not know them.
    pub fn forget(&self, generation: u64) {
        self.lock().take_if(|kept| kept.generation == generation);
    }

    /// The credentials, found anew where there are none that are good for a while. While new ones are looked for, and when they cannot
    /// be had, the old ones are used for as long as they last.
    pub async fn kept(&self, calls: &Calls) -> Result<Kept, SourceError> {
        if let Some(kept) = self.fresh() {
            return Ok(kept);
        }
        let mut finding = match (self.finding.try_lock(), self.lasting()) {
            (Ok(finding), _) => finding,
            (Err(_), Some(old)) => return Ok(old),
            (Err(_), None) => self.finding.lock().await,
        };
        if let Some(kept) = self.fresh() {
            return Ok(kept);
        }
        finding.files = self.files();
        let operation = if self.settings.role.is_some() { "AssumeRole" } else { "credentials" };
        match calls.make(operation, self.find()).await {
            Ok((config, credentials)) => {
                let kept = finding.number(config, credentials);
                self.keep(Some(kept.clone()), None);
                Ok(kept)
            }
            Err(error) => {
                let old = self.lasting().filter(|_| !error.cause.is_final());
                let old = old.map(|old| Kept { renews: Some(SystemTime::now() + PATIENCE), ..old });
                self.keep(old.clone(), Some(error.clone()));
                old.ok_or(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What need not be replaced yet.
    fn fresh(&self) -> Option<Kept> {
        let now = SystemTime::now();
        self.lock().clone().filter(|kept| kept.renews.is_none_or(|renews| now < renews))
    }

    /// What can be used still.
    fn lasting(&self) -> Option<Kept> {
        let now = SystemTime::now();
        self.lock().clone().filter(|kept| kept.expires.is_none_or(|expires| now < expires))
    }

    fn keep(&self, kept: Option<Kept>, problem: Option<SourceError>) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.expires = kept.as_ref().and_then(|kept| kept.expires);
        facts.renews = kept.as_ref().and_then(|kept| kept.renews);
        facts.problem = problem;
        *self.lock() = kept;
    }

    fn files(&self) -> Vec<Option<FileFacts>> {
        self.settings.credentials_file.iter().chain(&self.settings.watched).map(|path| FileFacts::of(path)).collect()
    }

    async fn find(&self) -> Result<(SdkConfig, Credentials), SourceError> {
        let too_long = |_| SourceError::new(Cause::Unreachable, format!("no credentials within {} s", LONGEST.as_secs()));
        if let Some(path) = &self.settings.credentials_file {
            key_file::check(path)?;
        }
        tokio::time::timeout(LONGEST, async {
            let own = self.own().await?;
            let config = self.config(own.clone()).await;
            let Some(role) = &self.settings.role else { return Ok((config, own)) };
            let taken = self.take(role, &config).await?;
            Ok((config.into_builder().credentials_provider(SharedCredentialsProvider::new(taken.clone())).build(), taken))
        })
        .await
        .map_err(too_long)?
    }

    /// What this host has to show. The provider is a new one each time: it would keep what it read in a file.
    async fn own(&self) -> Result<Credentials, SourceError> {
        let Settings { region, profile, .. } = &self.settings;
        let region = Region::new(region.clone());
        let provider = ProviderConfig::without_region().with_region(Some(region.clone()));
        let found = match self.profile_files() {
            None => {
                DefaultCredentialsChain::builder().region(region).configure(provider).build().await.provide_credentials().await
            }
            Some(files) => {
                let mut credentials = ProfileFileCredentialsProvider::builder().configure(&provider).profile_files(files);
                if let Some(profile) = profile {
                    credentials = credentials.profile_name(profile);
                }
                credentials.build().provide_credentials().await
            }
        };
        found.map_err(|error| explain(&error))
    }

    /// `None` where these are not the credentials.
    #[expect(deprecated, reason = "as for the import")]
    fn profile_files(&self) -> Option<ProfileFiles> {
        let Settings { profile, credentials_file, .. } = &self.settings;
        let files = ProfileFiles::builder().include_default_config_file(true);
        match (credentials_file, profile) {
            (Some(path), _) => Some(files.with_file(ProfileFileKind::Credentials, path).build()),
            (None, Some(_)) => Some(files.include_default_credentials_file(true).build()),
            (None, None) => None,
        }
    }

    /// What clients of any of the APIs are made of. It has no HTTP client: each makes its own, and closes its connections with it.
    async fn config(&self, credentials: Credentials) -> SdkConfig {
        let retries = RetryConfig::adaptive().with_max_attempts(3).with_max_backoff(Duration::from_secs(4));
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.settings.region.clone()))
            .retry_config(retries)
            .timeout_config(timeouts())
            .identity_cache(IdentityCache::no_cache())
            .credentials_provider(credentials)
            .load()
            .await
    }

    async fn take(&self, role: &Role, config: &SdkConfig) -> Result<Credentials, SourceError> {
        let mut sts = StsBuilder::from(config).retry_partition(self.partition.clone());
        if let Some(endpoint) = &role.sts_endpoint {
            sts = sts.endpoint_url(endpoint);
        }
        let call = aws_sdk_sts::Client::from_conf(sts.build())
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(&self.session_name)
            .set_external_id(role.external_id.clone());
        let answer = call.send().await.map_err(|error| STS.explain(&error).error)?;
        let taken =
            answer.credentials.ok_or_else(|| SourceError::new(Cause::BadAnswer, "AWS STS answered without credentials"))?;
        let expires = SystemTime::try_from(taken.expiration).ok();
        Ok(Credentials::new(taken.access_key_id, taken.secret_access_key, Some(taken.session_token), expires, "valetkey"))
    }
}

impl Finding {
    fn number(&mut self, config: SdkConfig, credentials: Credentials) -> Kept {
        if !self.last.as_ref().is_some_and(|last| same_keys(last, &credentials)) {
            self.generation += 1;
        }
        let expires = credentials.expiry();
        self.last = Some(credentials);
        Kept { config, generation: self.generation, expires, renews: expires.map(|expires| renewal(SystemTime::now(), expires)) }
    }
}

impl FileFacts {
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::metadata(path).ok()?;
        Some(Self { written: (facts.mtime(), facts.mtime_nsec()), inode: facts.ino(), size: facts.size() })
    }
}

fn same_keys(one: &Credentials, other: &Credentials) -> bool {
    one.access_key_id() == other.access_key_id()
        && one.secret_access_key() == other.secret_access_key()
        && one.session_token() == other.session_token()
}

/// When credentials that were found now are replaced.
fn renewal(now: SystemTime, expires: SystemTime) -> SystemTime {
    let left = expires.duration_since(now).unwrap_or_default();
    now + (left - EARLY.min(left / 2))
}

/// What CloudTrail shows of us: which host it was. Of the characters that STS takes, and at most 64.
fn session_name(host: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let host: String = host.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    format!("valetkey-{host}").chars().take(64).collect()
}

const NO_CREDENTIALS: &str =
    "this host has no credentials for AWS that can be used now: check `profile`, `credentials-file`, or the role of this host";

/// Where a profile takes a role, or a web identity is shown, it is STS who fails; its answer is somewhere below.
fn explain(error: &(dyn Error + 'static)) -> SourceError {
    let mut below = Some(error);
    while let Some(error) = below {
        if let Some(error) = error.downcast_ref::<SdkError<AssumeRoleError, Response>>() {
            return STS.explain(error).error;
        }
        if let Some(error) = error.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError, Response>>() {
            return STS.explain(error).error;
        }
        below = error.source();
    }
    SourceError::new(Cause::Unreachable, NO_CREDENTIALS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_before_they_run_out() {
        let now = SystemTime::now();
        for (left, kept_for) in [(3600, 3300), (900, 600), (600, 300), (120, 60), (0, 0)] {
            let seconds = Duration::from_secs;
            assert_eq!(renewal(now, now + seconds(left)), now + seconds(kept_for), "{left} s");
        }
        assert_eq!(renewal(now, now - Duration::from_secs(9)), now, "they have run out");
    }

    #[test]
    fn a_session_is_named_after_its_host() {
        assert_eq!(session_name("web-1.example.com"), "valetkey-web-1.example.com");
        assert_eq!(session_name("büro host/1"), "valetkey-b-ro-host-1");
        assert_eq!(session_name(&"h".repeat(300)).len(), 64);
        assert_eq!(session_name(""), "valetkey-");
    }
}

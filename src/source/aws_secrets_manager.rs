//! AWS Secrets Manager: twenty secrets a call, each read once however many names and fields it is wanted by.
//!
//! A secret can be named by its name, by its ARN, or by its ARN without the six characters that AWS adds at the end. Whether two of
//! these are the same secret is never guessed (a name says nothing of its account): the answer to one of them says it, by the ARN and the name in
//! it. So names are asked first, then one ARN of each that look the same, then what is left.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

#[expect(deprecated, reason = "their new home, aws-runtime, says that it is not for direct use")]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
use aws_config::{
    BehaviorVersion, Region, profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_secretsmanager::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, get_secret_value::GetSecretValueOutput},
    types::SecretValueEntry,
};
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::Blob;
use futures_util::StreamExt;
use zeroize::Zeroizing;

use super::{Cause, Fetched, Outcomes, Source, SourceError, Wanted, Working, field};
use crate::name::Version;

/// The most ids that one `BatchGetSecretValue` takes (its API reference).
const BATCH: usize = 20;

/// Where the secrets are and how to get in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As `eu-west-1`.
    pub region: String,
    /// Instead of the region's own address: a VPC endpoint, an emulator.
    pub endpoint: Option<String>,
    /// A profile of the shared configuration files. With this or `credentials_file` these are the credentials; without both, the
    /// SDK's default chain finds some: environment, profile, web identity, container, instance.
    pub profile: Option<String>,
    /// A shared credentials file in place of `~/.aws/credentials`: a systemd credential, say.
    pub credentials_file: Option<PathBuf>,
    /// The most calls at a time; 0 means 1.
    pub concurrency: usize,
}

/// The secrets of one account and region, and of other accounts by ARN. [`Wanted::path`] is a name or an ARN.
#[derive(Debug)]
pub struct AwsSecretsManager {
    settings: Settings,
}

impl AwsSecretsManager {
    /// Checks the settings. Calls nobody.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_name(&settings.region) {
            return Err(SourceError::new(Cause::Refused, "`region` is not a region's name, such as eu-west-1"));
        }
        Ok(Self { settings })
    }

    /// A client for one fetch: its connections, and the values in their buffers, go with it.
    #[expect(deprecated, reason = "as for the import")]
    async fn client(&self) -> Client {
        let Settings { region, endpoint, profile, credentials_file, .. } = &self.settings;
        let seconds = Duration::from_secs;
        let timeouts = TimeoutConfig::builder().connect_timeout(seconds(5)).operation_attempt_timeout(seconds(12));
        let mut config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(3).with_max_backoff(seconds(4)))
            .timeout_config(timeouts.operation_timeout(seconds(30)).build());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        if profile.is_some() || credentials_file.is_some() {
            let mut files = ProfileFiles::builder().include_default_config_file(true);
            files = match credentials_file {
                Some(path) => files.with_file(ProfileFileKind::Credentials, path),
                None => files.include_default_credentials_file(true),
            };
            let provider = ProviderConfig::without_region().with_region(Some(Region::new(region.clone())));
            let mut credentials = ProfileFileCredentialsProvider::builder().configure(&provider).profile_files(files.build());
            if let Some(profile) = profile {
                credentials = credentials.profile_name(profile);
            }
            config = config.credentials_provider(credentials.build());
        }
        Client::new(&config.load().await)
    }
}

impl Source for AwsSecretsManager {
    fn kind(&self) -> &'static str {
        "aws-secrets-manager"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let mut waiting: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
            for wanted in wanted {
                waiting.entry(&wanted.path).or_default().push(wanted);
            }
            if waiting.is_empty() {
                return;
            }
            let fetch = Fetch {
                client: self.client().await,
                concurrency: self.settings.concurrency.max(1),
                batch_refused: AtomicBool::new(false),
                waiting: Mutex::new(waiting),
                outcomes,
            };
            fetch.read(fetch.names()).await;
            fetch.read(fetch.one_arn_of_each_secret()).await;
            fetch.read(fetch.still_waiting()).await;
        })
    }
}

/// One fetch under way.
struct Fetch<'a> {
    client: Client,
    concurrency: usize,
    /// Set once the account's policy turns out not to allow batches, so that it is not asked fifty times.
    batch_refused: AtomicBool,
    /// Who waits for which name or ARN. What has had its outcome is gone from here.
    waiting: Mutex<BTreeMap<&'a str, Vec<&'a Wanted>>>,
    outcomes: Outcomes,
}

impl<'a> Fetch<'a> {
    fn still_waiting(&self) -> Vec<&'a str> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn names(&self) -> Vec<&'a str> {
        self.still_waiting().into_iter().filter(|id| !is_arn(id)).collect()
    }

    fn one_arn_of_each_secret(&self) -> Vec<&'a str> {
        let mut chosen: HashMap<&str, &str> = HashMap::new();
        for id in self.still_waiting() {
            let best = chosen.entry(without_suffix(id).unwrap_or(id)).or_insert(id);
            // The full one answers for the partial one too; the other way round it could be another secret's.
            if id.len() > best.len() {
                *best = id;
            }
        }
        chosen.into_values().collect()
    }

    /// Reads secrets that are all named by name, or all by ARN.
    async fn read(&self, ids: Vec<&'a str>) {
        futures_util::stream::iter(ids.chunks(BATCH))
            .for_each_concurrent(self.concurrency, async |ids| {
                if ids.len() > 1 && !self.batch_refused.load(Relaxed) {
                    self.batch(ids).await;
                }
                for id in self.waiting_of(ids) {
                    self.single(id).await;
                }
            })
            .await;
    }

    fn waiting_of(&self, ids: &[&'a str]) -> Vec<&'a str> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        ids.iter().copied().filter(|id| waiting.contains_key(id)).collect()
    }

    /// Reads as many as a batch gives. Those it says nothing of keep waiting: they are read one by one.
    async fn batch(&self, ids: &[&'a str]) {
        let mut next = None;
        loop {
            let ids_owned = ids.iter().map(|id| (*id).to_owned()).collect();
            let call = self.client.batch_get_secret_value().set_secret_id_list(Some(ids_owned)).set_next_token(next);
            let answer = match call.send().await {
                Ok(answer) => answer,
                Err(error) => {
                    let error = explain(&error);
                    match error.cause {
                        Cause::Unreachable => self.waiting_of(ids).into_iter().for_each(|id| self.fail(id, &error)),
                        // Many policies allow GetSecretValue alone; and one malformed id spoils a whole batch.
                        Cause::Refused => self.batch_refused.store(true, Relaxed),
                        _ => {}
                    }
                    return;
                }
            };
            for error in answer.errors() {
                let Some(id) = error.secret_id().and_then(|id| ids.iter().find(|asked| same(asked, id))) else { continue };
                self.fail(id, &describe(error.error_code(), None, None));
            }
            for entry in answer.secret_values.unwrap_or_default() {
                self.deliver(entry.into());
            }
            next = answer.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return;
            }
        }
    }

    async fn single(&self, id: &'a str) {
        match self.client.get_secret_value().secret_id(id).send().await {
            Ok(answer) => {
                self.deliver(answer.into());
                // Had the answer been the secret that was asked for, nobody would be waiting for it now.
                self.fail(id, &SourceError::new(Cause::BadAnswer, "AWS answered with another secret: check `endpoint`"));
            }
            Err(error) => self.fail(id, &explain(&error)),
        }
    }

    /// Gives a secret to all who wait for it: by its ARN, whole or in part, and, where names are being read, by its name.
    fn deliver(&self, secret: Secret) {
        let mut served = Vec::new();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // A secret of another account (read by ARN) must not be given out for our own of the same name: by then no name waits.
            let names = [Some(&*secret.arn), without_suffix(&secret.arn), Some(&*secret.name)];
            names.into_iter().flatten().filter_map(|id| waiting.remove(id)).for_each(|wanted| served.extend(wanted));
        }
        for wanted in served {
            let outcome = match &secret.version {
                None => Err(SourceError::new(Cause::BadAnswer, "AWS answered without a usable version id")),
                Some(version) => field::pick(&secret.value, wanted.field.as_deref()).map(|value| Fetched {
                    value,
                    version: version.clone(),
                    check_within: None,
                }),
            };
            let _ = self.outcomes.send((wanted.secret.clone(), outcome));
        }
    }

    fn fail(&self, id: &str, error: &SourceError) {
        let wanted = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        for wanted in wanted.into_iter().flatten() {
            let detail = format!("{id}: {}", error.detail);
            let _ = self.outcomes.send((wanted.secret.clone(), Err(SourceError::new(error.cause, detail))));
        }
    }
}

/// What AWS has for one secret, wiped when it has been given out.
struct Secret {
    arn: String,
    name: String,
    version: Option<Version>,
    value: Zeroizing<Vec<u8>>,
}

impl Secret {
    fn new(
        arn: Option<String>,
        name: Option<String>,
        version: Option<String>,
        text: Option<String>,
        binary: Option<Blob>,
    ) -> Self {
        let value = text.map(String::into_bytes).or(binary.map(Blob::into_inner)).unwrap_or_default();
        let version = version.and_then(|version| version.parse().ok());
        Self { arn: arn.unwrap_or_default(), name: name.unwrap_or_default(), version, value: Zeroizing::new(value) }
    }
}

impl From<SecretValueEntry> for Secret {
    fn from(entry: SecretValueEntry) -> Self {
        Self::new(entry.arn, entry.name, entry.version_id, entry.secret_string, entry.secret_binary)
    }
}

impl From<GetSecretValueOutput> for Secret {
    fn from(answer: GetSecretValueOutput) -> Self {
        Self::new(answer.arn, answer.name, answer.version_id, answer.secret_string, answer.secret_binary)
    }
}

fn is_arn(id: &str) -> bool {
    id.starts_with("arn:")
}

/// An ARN without the hyphen and the six characters that AWS adds to a secret's name in it. `None` for all that has no such end.
fn without_suffix(arn: &str) -> Option<&str> {
    let (stem, suffix) = arn.rsplit_once('-')?;
    (is_arn(arn) && suffix.len() == 6 && suffix.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(stem)
}

/// Is `answered` the id that was asked for, or the full ARN of it?
fn same(asked: &str, answered: &str) -> bool {
    asked == answered
        || without_suffix(answered)
            .is_some_and(|stem| stem == asked || (!is_arn(asked) && stem.ends_with(&format!(":secret:{asked}"))))
}

/// What a failed call means. Of what AWS sent only its error code and request id are repeated, never a message or a body.
fn explain<E: ProvideErrorMetadata>(error: &SdkError<E, Response>) -> SourceError {
    let unreachable = |words: &str| SourceError::new(Cause::Unreachable, words);
    match error {
        SdkError::ServiceError(refusal) => {
            let status = refusal.raw().status().as_u16();
            describe(refusal.err().code(), Some(status), refusal.err().meta().request_id())
        }
        SdkError::TimeoutError(_) => unreachable("AWS did not answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => unreachable("AWS did not answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_io() => {
            unreachable("no connection to AWS: check the network, `region` and `endpoint`")
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => unreachable(
            "the call could not be made: most often there are no credentials; check `profile`, or the role of this host",
        ),
        _ => SourceError::new(Cause::BadAnswer, "the answer is not one of AWS Secrets Manager: check `endpoint`"),
    }
}

/// Judges by code, and where there is none that we know (a proxy's answer, an XML body) by HTTP status.
fn describe(code: Option<&str>, status: Option<u16>, request: Option<&str>) -> SourceError {
    let (cause, words) = match (code.unwrap_or_default(), status) {
        ("ResourceNotFoundException", _) => {
            (Cause::NotFound, "there is no such secret in this account and region, or it has no value")
        }
        ("DecryptionFailure", _) => (Cause::Refused, "KMS does not decrypt it: allow kms:Decrypt on its key"),
        ("InvalidRequestException", _) => {
            (Cause::Refused, "it cannot be read in its state: most often it is marked for deletion")
        }
        ("InternalServiceError" | "InternalServiceErrorException" | "InternalFailure", _) => {
            (Cause::Unreachable, "AWS failed inside")
        }
        ("ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded", _) | (_, Some(429)) => {
            (Cause::Unreachable, "AWS limits the rate of our calls")
        }
        ("ExpiredTokenException" | "UnrecognizedClientException" | "InvalidClientTokenId", _) => {
            (Cause::Refused, "the credentials are not, or no longer, valid")
        }
        ("InvalidSignatureException" | "SignatureDoesNotMatch", _) => {
            (Cause::Refused, "the secret key is wrong, or this host's clock is")
        }
        ("AccessDeniedException" | "AccessDenied", _) | (_, Some(401 | 403)) => {
            (Cause::Refused, "AWS refuses: allow secretsmanager:GetSecretValue (and BatchGetSecretValue) to this role")
        }
        (_, Some(500..)) => (Cause::Unreachable, "AWS cannot answer now"),
        (_, Some(200..=399 | 404)) => (Cause::BadAnswer, "the answer is not one of AWS Secrets Manager: check `endpoint`"),
        _ => (Cause::BadAnswer, "AWS does not accept the request: is `path` a name or an ARN of a secret?"),
    };
    let plain = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let mut facts: Vec<String> = code.filter(|code| plain(code)).map(str::to_owned).into_iter().collect();
    facts.extend(status.map(|status| format!("HTTP {status}")));
    facts.extend(request.filter(|id| plain(id)).map(|id| format!("request {id}")));
    SourceError::new(cause, format!("{words} ({})", facts.join(", ")))
}

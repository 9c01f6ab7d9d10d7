//! AWS Secrets Manager: twenty secrets a call, each read once however many names and fields it is wanted by.
//!
//! A secret can be named by its name, by its ARN, or by its ARN without the six characters that AWS adds at the end. Whether two of
//! these are the same secret is never guessed (a name says nothing of its account): the answer to one of them says it, by the ARN and the name in
//! it. So names are asked first, then one ARN of each that look the same, then what is left.

mod rotate;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::{
    Client, config::Builder, operation::get_secret_value::GetSecretValueOutput, types::SecretValueEntry,
};
use aws_smithy_types::Blob;
use futures_util::StreamExt;
use zeroize::Zeroizing;

use super::{
    Calls, Cause, CheckOutcomes, Checked, Fetched, Known, LoginFacts, Outcomes, Source, SourceError, Wanted, Working,
    aws::{Account, Api, Scope, Session, Settings},
    field,
};
use crate::name::Version;

/// The most ids that one `BatchGetSecretValue` takes (its API reference).
const BATCH: usize = 20;

/// The longest id of a secret, in characters (the API reference of `GetSecretValue`).
const LONGEST_ID: usize = 2048;

/// The most bytes that a secret can have (quotas of AWS Secrets Manager).
const LARGEST: usize = 65_536;

/// The label of the version that is asked for without a label.
const CURRENT: &str = "AWSCURRENT";

static API: Api = Api {
    name: "AWS Secrets Manager",
    absent: "there is no such secret in this account and region, or it has no value",
    allow: "allow secretsmanager:GetSecretValue (and BatchGetSecretValue) to this role",
    malformed: "is `path` a name or an ARN of a secret?",
};

/// The secrets of one account and region, and of other accounts by ARN. [`Wanted::path`] is a name or an ARN.
#[derive(Debug)]
pub struct AwsSecretsManager {
    account: Account,
}

impl AwsSecretsManager {
    /// Checks the settings. Calls nobody.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        Ok(Self { account: Account::new(settings)? })
    }

    fn client(account: &Account, config: &SdkConfig) -> Client {
        let mut config = Builder::from(config).retry_partition(account.partition.clone());
        if let Some(endpoint) = &account.settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }

    async fn read<'a>(&self, all: impl Iterator<Item = &'a Wanted>, tell: &Tell<'_>, one_failure_is_enough: bool) {
        let (mut waiting, mut staged) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for wanted in all {
            match wanted.stage.as_deref().filter(|stage| *stage != CURRENT) {
                _ if problem(&wanted.path).is_some() => {
                    tell(wanted, Err(SourceError::new(Cause::NotFound, problem(&wanted.path).unwrap_or_default())));
                }
                None => waiting.entry(&*wanted.path).or_default().push(wanted),
                Some(stage) => staged.entry((&*wanted.path, stage)).or_default().push(wanted),
            }
        }
        if waiting.is_empty() && staged.is_empty() {
            return;
        }
        let session = match self.account.session(&API, Self::client, one_failure_is_enough).await {
            Ok(session) => session,
            Err(error) => {
                return waiting.values().chain(staged.values()).flatten().for_each(|wanted| tell(wanted, Err(error.clone())));
            }
        };
        let concurrency = self.account.calls.most();
        let read = Read { session, concurrency, batch_refused: AtomicBool::new(false), waiting: Mutex::new(waiting), tell };
        read.read(read.names()).await;
        read.read(read.one_arn_of_each_secret()).await;
        read.read(read.still_waiting()).await;
        let staged = futures_util::stream::iter(staged);
        staged.for_each_concurrent(concurrency, async |((id, stage), wanted)| read.staged(id, stage, &wanted).await).await;
    }
}

/// Where an outcome goes.
type Tell<'a> = dyn Fn(&Wanted, Result<Fetched, SourceError>) + Sync + 'a;

impl Source for AwsSecretsManager {
    fn kind(&self) -> &'static str {
        "aws-secrets-manager"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let tell = |wanted: &Wanted, outcome| drop(outcomes.send((wanted.secret.clone(), outcome)));
            self.read(wanted.iter(), &tell, false).await;
        })
    }

    /// A batch reads twenty secrets in one call; to ask for their versions alone would take twenty.
    fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
        Box::pin(async move {
            let tell = |wanted: &Wanted, outcome: Result<Fetched, SourceError>| {
                drop(outcomes.send((wanted.secret.clone(), outcome.map(Checked::Read))));
            };
            self.read(known.iter().map(|known| &known.wanted), &tell, true).await;
        })
    }

    fn check_size(&self) -> usize {
        BATCH
    }

    fn login(&self) -> Option<LoginFacts> {
        Some(self.account.login())
    }

    fn rotator(&self) -> Option<&dyn super::rotate::Rotate> {
        Some(self)
    }

    fn writer(&self) -> Option<&dyn super::write::Write> {
        Some(self)
    }

    fn calls(&self) -> Option<&Calls> {
        Some(&self.account.calls)
    }
}

/// One fetch or check under way.
struct Read<'a> {
    session: Session<'a, Client>,
    concurrency: usize,
    /// Set once the account's policy turns out not to allow batches, so that it is not asked fifty times.
    batch_refused: AtomicBool,
    /// Who waits for the current version of which name or ARN. What has had its outcome is gone from here.
    waiting: Mutex<BTreeMap<&'a str, Vec<&'a Wanted>>>,
    tell: &'a Tell<'a>,
}

impl<'a> Read<'a> {
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
        let mut next: Option<String> = None;
        // AWS cuts an answer that is too long into pages; never into more than there are secrets.
        for _ in ids {
            let call = |client: &Client| {
                let ids = ids.iter().map(|id| (*id).to_owned()).collect();
                client.batch_get_secret_value().set_secret_id_list(Some(ids)).set_next_token(next.clone()).send()
            };
            let answer = match self.session.call("BatchGetSecretValue", call).await {
                Ok(answer) => answer,
                Err(failure) => {
                    match (failure.scope, failure.error.cause) {
                        (Scope::Call, Cause::Refused) => self.batch_refused.store(true, Relaxed),
                        // One malformed id spoils a whole batch.
                        (Scope::Call, _) => {}
                        _ => self.waiting_of(ids).into_iter().for_each(|id| self.fail(id, &failure.error)),
                    }
                    return;
                }
            };
            for error in answer.errors() {
                let Some(id) = error.secret_id().and_then(|id| ids.iter().find(|asked| same(asked, id))) else { continue };
                self.fail(id, &API.say(error.error_code()));
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
        // The default, written out: policies may ask for it (`secretsmanager:VersionStage`).
        let call = |client: &Client| client.get_secret_value().secret_id(id).version_stage(CURRENT).send();
        match self.session.call("GetSecretValue", call).await {
            Ok(answer) => {
                self.deliver(answer.into());
                // Had the answer been the secret that was asked for, nobody would be waiting for it now.
                self.fail(id, &another_secret());
            }
            Err(failure) => self.fail(id, &failure.error),
        }
    }

    /// Reads the version that has this label. Batches give the current one alone.
    async fn staged(&self, id: &str, stage: &str, all: &[&Wanted]) {
        let call = |client: &Client| client.get_secret_value().secret_id(id).version_stage(stage).send();
        let answer = self.session.call("GetSecretValue", call).await.map(Secret::from).map_err(|failure| failure.error);
        let secret = match answer {
            Ok(secret) if same(id, &secret.arn) || id == secret.name => Ok(secret),
            Ok(_) => Err(another_secret()),
            Err(error) if error.cause == Cause::NotFound => {
                let words = format!("no version of it has the stage {stage}, or {}", error.detail);
                Err(SourceError { detail: words, ..error })
            }
            Err(error) => Err(error),
        };
        for wanted in all {
            let outcome = secret.as_ref().map_err(|error| about(id, error)).and_then(|secret| secret.pick(wanted));
            (self.tell)(wanted, outcome);
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
            (self.tell)(wanted, secret.pick(wanted));
        }
    }

    fn fail(&self, id: &str, error: &SourceError) {
        let wanted = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        for wanted in wanted.into_iter().flatten() {
            (self.tell)(wanted, Err(about(id, error)));
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

    fn pick(&self, wanted: &Wanted) -> Result<Fetched, SourceError> {
        let bad = |words: &str| SourceError::new(Cause::BadAnswer, words);
        let version = self.version.clone().ok_or_else(|| bad("AWS answered without a usable version id"))?;
        if self.value.len() > LARGEST {
            return Err(bad("the answer is larger than any secret of AWS is: check `endpoint`"));
        }
        Ok(Fetched { value: field::pick(&self.value, wanted.field.as_deref())?, version, check_within: None })
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

/// The same failure, with what it is about.
fn about(id: &str, error: &SourceError) -> SourceError {
    SourceError { detail: format!("{id}: {}", error.detail), ..error.clone() }
}

fn another_secret() -> SourceError {
    SourceError::new(Cause::BadAnswer, "AWS answered with another secret: check `endpoint`")
}

/// Why this cannot be the id of a secret. One such id would spoil a whole batch.
fn problem(id: &str) -> Option<&'static str> {
    if id.is_empty() {
        Some("`path` is empty: it must be a name or an ARN of a secret")
    } else if id.chars().count() > LONGEST_ID {
        Some("`path` is longer than 2,048 characters, and no id of a secret is")
    } else if id.contains(char::is_whitespace) {
        Some("`path` holds a space, and no id of a secret does")
    } else {
        None
    }
}

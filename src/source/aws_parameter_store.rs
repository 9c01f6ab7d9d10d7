//! AWS Systems Manager Parameter Store: ten parameters a call, or a folder of them at once as one JSON object.
//!
//! A check asks for the same without decryption. That costs no call to KMS and brings no protected value; what has another version
//! number then is read.

mod path;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use aws_config::SdkConfig;
use aws_lc_rs::digest;
use aws_sdk_ssm::{Client, config::Builder, types::Parameter};
use aws_smithy_types::DateTime;
use futures_util::StreamExt;
use zeroize::Zeroizing;

pub use self::path::problem;
use self::path::{One, Path};
use super::{
    Calls, Cause, CheckOutcomes, Checked, Fetched, Known, LoginFacts, Outcomes, Source, SourceError, Wanted, Working,
    aws::{Account, Api, Failure, Scope, Session, Settings},
    field,
};
use crate::name::Version;

/// The most names that one `GetParameters` takes, and the most parameters on one page of `GetParametersByPath` (their API references).
const BATCH: usize = 10;

/// No folder is larger: it becomes one value in memory.
const MOST_PAGES: usize = 1000;

static API: Api = Api {
    name: "AWS Systems Manager",
    absent: "there is no such parameter in this account and region, or no such version or label of it",
    allow: "allow ssm:GetParameters and ssm:GetParametersByPath to this role, and kms:Decrypt on the parameters' key",
    malformed: "is `path` a parameter's name, its ARN, or a folder that ends in `/`?",
};

/// The parameters of one account and region, and those that others share with it, by ARN. [`Wanted::path`] is a name, an ARN, one of these
/// with `:VERSION` or `:LABEL`, or a folder that ends in `/`.
///
/// The value of a folder is a JSON object of the names below it and their texts, so that a field can pick one.
#[derive(Debug)]
pub struct AwsParameterStore {
    account: Account,
    /// When what was read last was written, by path. A parameter that is deleted and made again begins at version 1 again: its number
    /// alone does not tell.
    written: Mutex<HashMap<String, Option<DateTime>>>,
}

impl AwsParameterStore {
    /// Checks the settings. Calls nobody.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        Ok(Self { account: Account::new(settings)?, written: Mutex::default() })
    }

    fn client(account: &Account, config: &SdkConfig) -> Client {
        let mut config = Builder::from(config).retry_partition(account.partition.clone());
        if let Some(endpoint) = &account.settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }

    async fn session(&self, one_failure_is_enough: bool) -> Result<Session<'_, Client>, SourceError> {
        self.account.session(&API, Self::client, one_failure_is_enough).await
    }

    /// Reads what is at these paths, and tells of each as it comes.
    async fn read(&self, session: &Session<'_, Client>, paths: Vec<&str>, decrypt: bool, tell: &Tell<'_>) {
        let (mut folders, mut ones) = (Vec::new(), Vec::new());
        for path in paths {
            match path::parse(path) {
                Ok(Path::Folder(folder)) => folders.push(folder),
                Ok(Path::One(one)) => ones.push(one),
                Err(why) => tell(path, Err(SourceError::new(Cause::NotFound, format!("`path` {why}")))),
            }
        }
        let calls = batches(ones).into_iter().map(Asked::Batch).chain(folders.into_iter().map(Asked::Folder));
        futures_util::stream::iter(calls)
            .for_each_concurrent(self.account.calls.most(), async |asked| match asked {
                Asked::Batch(ones) => batch(session, &ones, decrypt, tell).await,
                Asked::Folder(path) => {
                    tell(path, folder(session, path, decrypt).await.map_err(|failure| about(path, &failure.error)))
                }
            })
            .await;
    }

    /// Gives what was read to all who want something of it.
    fn give(
        &self,
        path: &str,
        found: Result<Found, SourceError>,
        all: &[&Wanted],
        give: impl Fn(&Wanted, Result<Fetched, SourceError>),
    ) {
        if let Ok(found) = &found {
            self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(path.into(), found.written);
        }
        for wanted in all {
            let outcome = found.as_ref().map_err(Clone::clone).and_then(|found| {
                let value = field::pick(&found.value, wanted.field.as_deref())?;
                Ok(Fetched { value, version: found.version.clone(), check_within: None })
            });
            give(wanted, outcome);
        }
    }

    /// Is this what was read last?
    fn is_known(&self, path: &str, found: &Found, all: &[&Known]) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(path) == Some(&found.written) && all.iter().all(|known| known.version == found.version)
    }
}

impl Source for AwsParameterStore {
    fn kind(&self) -> &'static str {
        "aws-parameter-store"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let send = |wanted: &Wanted, outcome| drop(outcomes.send((wanted.secret.clone(), outcome)));
            let mut by_path: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
            wanted.iter().for_each(|wanted| by_path.entry(&wanted.path).or_default().push(wanted));
            if by_path.is_empty() {
                return;
            }
            let tell = |path: &str, found| self.give(path, found, &by_path[path], send);
            match self.session(false).await {
                Ok(session) => self.read(&session, by_path.keys().copied().collect(), true, &tell).await,
                Err(error) => by_path.keys().for_each(|path| tell(path, Err(error.clone()))),
            }
        })
    }

    fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
        Box::pin(async move {
            let send = |wanted: &Wanted, outcome| drop(outcomes.send((wanted.secret.clone(), outcome)));
            let mut by_path: BTreeMap<&str, Vec<&Known>> = BTreeMap::new();
            known.iter().for_each(|known| by_path.entry(&known.wanted.path).or_default().push(known));
            if by_path.is_empty() {
                return;
            }
            let changed = Mutex::new(Vec::new());
            let look = |path: &str, found: Result<Found, SourceError>| {
                let Some((path, all)) = by_path.get_key_value(path) else { return };
                match found {
                    Ok(found) if !self.is_known(path, &found, all) => {
                        changed.lock().unwrap_or_else(PoisonError::into_inner).push(*path);
                    }
                    Ok(_) => all.iter().for_each(|known| send(&known.wanted, Ok(Checked::Same { check_within: None }))),
                    Err(error) => all.iter().for_each(|known| send(&known.wanted, Err(error.clone()))),
                }
            };
            let session = match self.session(true).await {
                Ok(session) => session,
                Err(error) => return by_path.keys().for_each(|path| look(path, Err(error.clone()))),
            };
            self.read(&session, by_path.keys().copied().collect(), false, &look).await;
            let changed = std::mem::take(&mut *changed.lock().unwrap_or_else(PoisonError::into_inner));
            let tell = |path: &str, found| {
                let all: Vec<_> = by_path[path].iter().map(|known| &known.wanted).collect();
                self.give(path, found, &all, |wanted, outcome| send(wanted, outcome.map(Checked::Read)));
            };
            self.read(&session, changed, true, &tell).await;
        })
    }

    fn check_size(&self) -> usize {
        BATCH
    }

    fn login(&self) -> Option<LoginFacts> {
        Some(self.account.login())
    }

    fn calls(&self) -> Option<&Calls> {
        Some(&self.account.calls)
    }
}

/// Where what is found at a path goes.
type Tell<'a> = dyn Fn(&str, Result<Found, SourceError>) + Sync + 'a;

enum Asked<'a> {
    Batch(Vec<One<'a>>),
    Folder(&'a str),
}

/// What is at a path, wiped when it has been given out.
struct Found {
    version: Version,
    written: Option<DateTime>,
    value: Zeroizing<Vec<u8>>,
}

/// Tens of names, and never two of one parameter in one call: the answer does not say which of them it is for.
fn batches(ones: Vec<One<'_>>) -> Vec<Vec<One<'_>>> {
    let mut rounds: Vec<Vec<One<'_>>> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for one in ones {
        let round = seen.entry(one.family().to_owned()).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(one);
        *round += 1;
    }
    rounds.iter().flat_map(|round| round.chunks(BATCH)).map(<[_]>::to_vec).collect()
}

/// Reads parameters by name. Where one of them spoils the call for all (it may not be read, or its key not be used), each is read alone.
async fn batch(session: &Session<'_, Client>, ones: &[One<'_>], decrypt: bool, tell: &Tell<'_>) {
    match (get(session, ones, decrypt).await, ones) {
        (Ok(found), _) => found.into_iter().for_each(|(path, found)| tell(path, found)),
        (Err(failure), [_, _, ..]) if failure.scope == Scope::Call => {
            for one in ones {
                Box::pin(batch(session, std::slice::from_ref(one), decrypt, tell)).await;
            }
        }
        (Err(failure), _) => ones.iter().for_each(|one| tell(one.whole, Err(about(one.whole, &failure.error)))),
    }
}

/// One call for parameters by name: what was found of each.
async fn get<'a>(
    session: &Session<'_, Client>,
    ones: &[One<'a>],
    decrypt: bool,
) -> Result<Vec<(&'a str, Result<Found, SourceError>)>, Failure> {
    let call = |client: &Client| {
        let names = ones.iter().map(|one| one.whole.to_owned()).collect();
        client.get_parameters().set_names(Some(names)).with_decryption(decrypt).send()
    };
    let answer = session.call("GetParameters", call).await?;
    let mut parameters = answer.parameters.unwrap_or_default();
    let missing = answer.invalid_parameters.unwrap_or_default();
    let of = |one: &One<'a>| {
        let is_it = |found: &Parameter| [found.name(), found.arn()].contains(&Some(one.base));
        match parameters.iter().position(is_it) {
            Some(at) => found(parameters.swap_remove(at), one),
            None if missing.iter().any(|name| name == one.whole) => Err(SourceError::new(Cause::NotFound, API.absent)),
            None => Err(SourceError::new(Cause::BadAnswer, "AWS answered, and not for this parameter: check `endpoint`")),
        }
    };
    let results: Vec<_> = ones.iter().map(of).collect();
    Ok(ones.iter().zip(results).map(|(one, result)| (one.whole, result.map_err(|error| about(one.whole, &error)))).collect())
}

fn found(parameter: Parameter, one: &One<'_>) -> Result<Found, SourceError> {
    let bad = |words: &str| SourceError::new(Cause::BadAnswer, words);
    let version = u64::try_from(parameter.version).map_err(|_| bad("AWS answered without a usable version number"))?;
    if one.selector.and_then(|selector| selector.parse().ok()).is_some_and(|asked: u64| asked != version) {
        return Err(bad("AWS answered with another version: check `endpoint`"));
    }
    let value = Zeroizing::new(parameter.value.unwrap_or_default().into_bytes());
    Ok(Found { version: version.into(), written: parameter.last_modified_date, value })
}

/// Reads all that is below a folder, and makes one object of it.
async fn folder(session: &Session<'_, Client>, path: &str, decrypt: bool) -> Result<Found, Failure> {
    let of_answer = |cause, words: &str| Failure { error: SourceError::new(cause, words), scope: Scope::Call };
    let mut members = BTreeMap::new();
    let mut next: Option<String> = None;
    for _ in 0..MOST_PAGES {
        // Without its last `/`, unless that is all there is: so AWS writes it.
        let asked = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let call = |client: &Client| {
            let call = client.get_parameters_by_path().path(asked).recursive(true).with_decryption(decrypt);
            call.max_results(BATCH as i32).set_next_token(next.clone()).send()
        };
        let answer = session.call("GetParametersByPath", call).await?;
        for parameter in answer.parameters.unwrap_or_default() {
            let Some(name) = parameter.name().and_then(|name| relative(path, name)).map(str::to_owned) else {
                return Err(of_answer(Cause::BadAnswer, "AWS answered with a parameter of another folder: check `endpoint`"));
            };
            members.insert(name, Member::from(parameter));
        }
        match answer.next_token.filter(|token| !token.is_empty()) {
            Some(token) if Some(&token) != next.as_ref() => next = Some(token),
            Some(_) => return Err(of_answer(Cause::BadAnswer, "AWS gives the same page again and again: check `endpoint`")),
            None if members.is_empty() => {
                return Err(of_answer(Cause::NotFound, "there is no parameter below this folder in this account and region"));
            }
            None => return Ok(Found { version: digest_of(&members), written: None, value: object(&members) }),
        }
    }
    Err(of_answer(Cause::BadAnswer, "there are more than 10,000 parameters below this folder: name a smaller one"))
}

/// A parameter of a folder.
struct Member {
    version: i64,
    written: Option<DateTime>,
    text: Zeroizing<String>,
}

impl From<Parameter> for Member {
    fn from(parameter: Parameter) -> Self {
        let text = Zeroizing::new(parameter.value.unwrap_or_default());
        Self { version: parameter.version, written: parameter.last_modified_date, text }
    }
}

/// The name of a parameter without the folder's, which not every API writes with a `/` at its start.
fn relative<'a>(folder: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(folder)
        .or_else(|| (folder == "/" && !name.starts_with('/')).then_some(name))
        .filter(|name| !name.is_empty())
}

/// A version for a folder: another one whenever one of its parameters comes, goes or changes.
fn digest_of(members: &BTreeMap<String, Member>) -> Version {
    let mut all = digest::Context::new(&digest::SHA256);
    for (name, Member { version, written, .. }) in members {
        all.update(format!("{name}\n{version}\n{written:?}\n").as_bytes());
    }
    let start = all.finish().as_ref().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte));
    // Sixteen digits are a version under any rule for those.
    format!("{start:016x}").parse().unwrap_or_else(|_| Version::from(start))
}

/// The JSON text of a folder, in a buffer that is large enough from the start, so that no outgrown copy stays behind.
fn object(members: &BTreeMap<String, Member>) -> Zeroizing<Vec<u8>> {
    // An escape is six bytes for one at the most.
    let size = members.iter().map(|(name, member)| 6 * (name.len() + member.text.len()) + 6).sum::<usize>() + 2;
    let mut json = Zeroizing::new(Vec::with_capacity(size));
    for (at, (name, member)) in members.iter().enumerate() {
        json.push(if at == 0 { b'{' } else { b',' });
        write_text(&mut json, name);
        json.push(b':');
        write_text(&mut json, &member.text);
    }
    json.push(b'}');
    json
}

fn write_text(json: &mut Vec<u8>, text: &str) {
    // A text into memory: neither can fail.
    let _ = serde_json::to_writer(json, text);
}

/// The same failure, with what it is about.
fn about(path: &str, error: &SourceError) -> SourceError {
    SourceError { detail: format!("{path}: {}", error.detail), ..error.clone() }
}

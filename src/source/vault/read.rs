//! Reads and checks: the key-value engines, and any other path as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    str,
    sync::{Mutex, PoisonError},
};

use futures_util::StreamExt;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    super::{
        Cause, Checked, Fetched, Known, SourceError, Wanted,
        field::{self, Json},
    },
    Engine, Vault,
    client::{Call, Client},
    errors::{Asked, Failed, Of},
    token::Token,
};
use crate::{
    name::{SecretName, Version},
    secret::SecretValue,
};

/// One path, and the secrets that are had from it.
pub(super) struct Job<'a> {
    pub path: &'a str,
    pub asked: Vec<Asking<'a>>,
}

/// One secret, and the version that is known where it is to be checked.
pub(super) struct Asking<'a> {
    pub wanted: &'a Wanted,
    pub known: Option<&'a Version>,
}

/// What became of one secret.
pub(super) type Found = (SecretName, Result<Checked, SourceError>);

/// Where the outcomes go.
pub(super) type Tell<'a> = &'a (dyn Fn(Found) + Sync);

/// The secrets that share a path share its job.
pub(super) fn jobs<'a>(asked: impl Iterator<Item = Asking<'a>>) -> Vec<Job<'a>> {
    let mut paths: BTreeMap<&str, Vec<Asking>> = BTreeMap::new();
    for asking in asked {
        paths.entry(&asking.wanted.path).or_default().push(asking);
    }
    paths.into_iter().map(|(path, asked)| Job { path, asked }).collect()
}

impl<'a> From<&'a Wanted> for Asking<'a> {
    fn from(wanted: &'a Wanted) -> Self {
        Self { wanted, known: None }
    }
}

impl<'a> From<&'a Known> for Asking<'a> {
    fn from(known: &'a Known) -> Self {
        Self { wanted: &known.wanted, known: Some(&known.version) }
    }
}

impl<'a> Job<'a> {
    fn is_check(&self) -> bool {
        self.asked.iter().any(|asking| asking.known.is_some())
    }

    /// The path as it stands in an engine that is none of key and value.
    pub fn other_path(&self) -> Option<&'a str> {
        self.path.strip_prefix('/')
    }

    fn fail(&self, error: &SourceError, tell: Tell) {
        for asking in &self.asked {
            tell((asking.wanted.secret.clone(), Err(error.clone())));
        }
    }
}

/// What the token's policy allows, as far as it was asked.
#[derive(Default)]
pub(super) struct Rights {
    known: bool,
    allowed: BTreeSet<String>,
}

impl Rights {
    /// Is `read` lost on this path? Only where that was found out.
    fn lost(&self, path: &str) -> bool {
        self.known && !self.allowed.contains(path)
    }

    pub fn allow(&self, path: &str) -> bool {
        self.known && self.allowed.contains(path)
    }
}

impl Vault {
    /// Does all jobs, and tells one outcome for each secret of theirs.
    pub(super) async fn run(&self, jobs: Vec<Job<'_>>, tell: Tell<'_>) {
        if jobs.is_empty() {
            return;
        }
        let fail_all = |jobs: &[Job], error: &SourceError| jobs.iter().for_each(|job| job.fail(error, tell));
        let (token, rights) = match self.prepare(&jobs).await {
            Ok(ready) => ready,
            Err(error) => return fail_all(&jobs, &error),
        };
        let refused = self.visit_all(&token, &rights, jobs, tell).await;
        if refused.is_empty() {
            return;
        }
        // One question for all that were refused: has the token died, or does its policy not allow them?
        match self.tokens.suspect(&token).await {
            Ok(None) => refused.iter().for_each(|(job, error)| job.fail(error, tell)),
            Ok(Some(token)) => {
                let again = refused.into_iter().map(|(job, _)| job).collect();
                for (job, error) in self.visit_all(&token, &rights, again, tell).await {
                    job.fail(&error, tell);
                }
            }
            Err(error) => refused.iter().for_each(|(job, _)| job.fail(&error, tell)),
        }
    }

    /// The token, and what it may do where that is worth a question.
    async fn prepare(&self, jobs: &[Job<'_>]) -> Result<(std::sync::Arc<Token>, Rights), SourceError> {
        let mut token = self.tokens.get().await?;
        for _ in 0..2 {
            match self.rights(&token, jobs).await {
                Ok(rights) => return Ok((token, rights)),
                Err(failed) if failed.of == Of::Policy => break,
                Err(failed) if failed.of == Of::Token => match self.tokens.suspect(&token).await? {
                    Some(another) => token = another,
                    None => break,
                },
                Err(failed) => return Err(failed.error),
            }
        }
        // It may not ask: then reading shows what it may do.
        *self.blind.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.generation);
        Ok((token, Rights::default()))
    }

    /// Metadata tell that a value is still the same, and not that it may still be read. One call for all paths tells that.
    async fn rights(&self, token: &Token, jobs: &[Job<'_>]) -> Result<Rights, Failed> {
        let mut paths = Vec::new();
        for job in jobs.iter().filter(|job| job.is_check()) {
            match (job.other_path(), self.access.settings.engine) {
                (Some(path), _) => paths.extend([path.to_owned(), LEASE_LOOKUP.to_owned()]),
                (None, Engine::V2) => paths.extend([self.full(job.path), self.metadata_path(job.path)]),
                (None, Engine::V1) => {}
            }
        }
        if paths.is_empty() || *self.blind.lock().unwrap_or_else(PoisonError::into_inner) == Some(token.generation) {
            return Ok(Rights::default());
        }
        let client = self.access.client(Some(&token.value)).map_err(|error| Failed { error, of: Of::Server })?;
        let call = Call::post("sys/capabilities-self", json!({ "paths": paths }));
        let read = |data: Json<'_>| {
            let may = |path: &String| {
                let wanted: &[&str] = if path == LEASE_LOOKUP { &["update", "root"] } else { &["read", "root"] };
                let mut all = data.at(path).into_iter().flat_map(Json::members);
                all.any(|(_, capability)| wanted.iter().any(|wanted| capability.is(wanted)))
            };
            Some(Rights { known: true, allowed: paths.iter().filter(|path| may(path)).cloned().collect() })
        };
        client.ask_for("POST sys/capabilities-self", call, Asked::Token, "data", read).await
    }

    /// Tells all outcomes but those of jobs that were refused because of the token, which it returns.
    async fn visit_all<'a>(
        &self,
        token: &Token,
        rights: &Rights,
        jobs: Vec<Job<'a>>,
        tell: Tell<'_>,
    ) -> Vec<(Job<'a>, SourceError)> {
        let client = match self.access.client(Some(&token.value)) {
            Ok(client) => client,
            Err(error) => {
                jobs.iter().for_each(|job| job.fail(&error, tell));
                return Vec::new();
            }
        };
        let (down, refused) = (Mutex::new(None::<SourceError>), Mutex::new(Vec::new()));
        let visit = async |job: Job<'a>| {
            let down_now = down.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(error) = down_now {
                return job.fail(&error, tell);
            }
            match self.visit(&client, token, rights, &job).await {
                Ok(found) => found.into_iter().for_each(tell),
                Err(Failed { error, of: Of::Token | Of::Policy }) => {
                    refused.lock().unwrap_or_else(PoisonError::into_inner).push((job, error));
                }
                Err(Failed { error, of }) => {
                    job.fail(&error, tell);
                    if of == Of::Server {
                        *down.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
            }
        };
        futures_util::stream::iter(jobs).for_each_concurrent(self.access.calls.most(), visit).await;
        refused.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn visit(&self, client: &Client<'_>, token: &Token, rights: &Rights, job: &Job<'_>) -> Result<Vec<Found>, Failed> {
        if !is_path(job.other_path().unwrap_or(job.path)) {
            let error = SourceError::new(Cause::NotFound, "`path` is not the path of a secret below the mount");
            return Err(Failed { error, of: Of::Path });
        }
        let full = self.full(job.path);
        if job.is_check() && rights.lost(&full) {
            let words = "reading is refused: its policy no longer has `read` on this path";
            return Err(Asked::Secret(&full).failed(Of::Path, Cause::Refused, words));
        }
        if let Some(path) = job.other_path() {
            return self.visit_other(client, token, rights, job, path).await;
        }
        let metadata = self.metadata_path(job.path);
        if job.is_check() && self.access.settings.engine == Engine::V2 && rights.allow(&metadata) {
            let current = self.current_version(client, &metadata).await?;
            if current.is_some_and(|current| job.asked.iter().all(|asking| asking.known == Some(&current))) {
                return Ok(job.each(|_| Ok(Checked::Same { check_within: None })));
            }
        }
        self.read(client, job, &full).await
    }

    /// The version that reading would give, where the metadata are plain about it.
    async fn current_version(&self, client: &Client<'_>, path: &str) -> Result<Option<Version>, Failed> {
        let body = match client.ask("GET kv/metadata", Call::get(path), Asked::Secret(path)).await {
            Ok(body) => body,
            // Reading finds the words for it.
            Err(Failed { of: Of::Path, .. }) => return Ok(None),
            Err(failed) => return Err(failed),
        };
        let current = || {
            let data = Json::parse(&body)?.at("data")?;
            let current = str::from_utf8(data.at("current_version")?.text()).ok()?;
            let version = data.at("versions")?.at(current)?;
            // A time of deletion may lie ahead: only one that there is none of is plain.
            let there = version.at("deletion_time")?.is("") && version.at("destroyed")?.text() == b"false";
            current.parse().ok().filter(|_| there)
        };
        Ok(current())
    }

    async fn read(&self, client: &Client<'_>, job: &Job<'_>, full: &str) -> Result<Vec<Found>, Failed> {
        let body = client.ask("GET kv/data", Call::get(full), Asked::Secret(full)).await?;
        let (data, version) = self.parse(&body, job.path).map_err(|error| Failed { error, of: Of::Path })?;
        Ok(job.each(|asking| {
            let value = value(data, asking.wanted.field.as_deref())?;
            Ok(Checked::Read(Fetched { value, version: version.clone(), check_within: None }))
        }))
    }

    pub(super) fn parse<'b>(&self, body: &'b Zeroizing<Vec<u8>>, path: &str) -> Result<(Json<'b>, Version), SourceError> {
        let odd = || {
            let words = format!("the answer for {path} is not one of a key-value engine: check `mount` and its version");
            SourceError::new(Cause::BadAnswer, words)
        };
        let data =
            Json::parse(body).and_then(|body| body.at("data")).filter(|data| data.kind() == "an object").ok_or_else(odd)?;
        if self.access.settings.engine == Engine::V1 {
            return Ok((data, Version::from(1)));
        }
        let version = data.at("metadata").and_then(|metadata| metadata.at("version")).filter(|v| v.kind() == "a number");
        let version = version.and_then(|version| str::from_utf8(version.text()).ok()?.parse().ok()).ok_or_else(odd)?;
        let data = data.at("data").filter(|data| data.kind() == "an object").ok_or_else(odd)?;
        Ok((data, version))
    }

    /// The path below `/v1/`.
    pub(super) fn full(&self, path: &str) -> String {
        let mount = &self.access.settings.mount;
        match (path.strip_prefix('/'), self.access.settings.engine) {
            (Some(path), _) => path.to_owned(),
            (None, Engine::V1) => format!("{mount}/{path}"),
            (None, Engine::V2) => format!("{mount}/data/{path}"),
        }
    }

    pub(super) fn metadata_path(&self, path: &str) -> String {
        format!("{}/metadata/{path}", self.access.settings.mount)
    }
}

pub(super) const LEASE_LOOKUP: &str = "sys/leases/lookup";

impl Job<'_> {
    /// The same for each of its secrets.
    pub fn each(&self, mut find: impl FnMut(&Asking) -> Result<Checked, SourceError>) -> Vec<Found> {
        self.asked.iter().map(|asking| (asking.wanted.secret.clone(), find(asking))).collect()
    }
}

/// What is wanted, out of a path's data.
pub(super) fn value(data: Json<'_>, field: Option<&str>) -> Result<SecretValue, SourceError> {
    match field {
        None => only_value(data).unwrap_or_else(|| field::pick(data.text(), None)),
        Some(_) => field::pick(data.text(), field),
    }
}

/// The leaf under `value`, where that is the only key.
pub(super) fn only_value(data: Json) -> Option<Result<SecretValue, SourceError>> {
    let mut members = data.members();
    let (key, value) = members.next()?;
    let alone = members.next().is_none() && key.is_some_and(|key| key.is("value"));
    (alone && !matches!(value.kind(), "an object" | "an array" | "null")).then(|| field::pick(data.text(), Some("value")))
}

/// Segments that a URL keeps as they are: the URL library drops `.` and `..`, which would read another secret than the one named.
pub(super) fn is_path(path: &str) -> bool {
    path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control))
}

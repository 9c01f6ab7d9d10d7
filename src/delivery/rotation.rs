//! The `Rotate`, `RollBack` and `RotateRoot` calls: what is asked for is begun, and each change is told until all is over.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::info;

use super::admin::Host;
use crate::{
    broker::{Broker, Deed},
    name::{SecretName, SourceName, Version},
    peer::Peer,
    proto::v1,
    rotate::{Holder, Outlook, Progress, Refused, Rotations, Step},
    secret::SecretValue,
    source::{Cause, SourceError, rotate::RootPath},
};

pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::Rotation, Status>> + Send>>;

/// Rotations of one call that are under way at one time.
const AT_ONCE: usize = 16;
/// Answers that wait for who reads slowly.
const WAITING: usize = 64;
/// How long a source may take to rotate an engine's own credential.
const ROOT_WITHIN: Duration = Duration::from_secs(60);

/// What is asked of each secret.
struct Asked {
    older_than: Option<Duration>,
    dry_run: bool,
    /// Of all of a tool: those that cannot be rotated are left out.
    lenient: bool,
}

pub fn rotate(broker: &Arc<Broker>, host: &dyn Host, operator: &Peer, request: v1::RotateRequest) -> Result<Answers, Status> {
    let v1::RotateRequest { secrets: named, all_of, older_than, dry_run, value, pad: _ } = request;
    let given = if value.is_empty() { None } else { Some(taken(value)?) };
    let rotations = rotations(host)?;
    let secrets = wanted(broker, &named, &all_of)?;
    if given.is_some() && (secrets.len() != 1 || !all_of.is_empty()) {
        return Err(Status::invalid_argument("a value is given for one secret"));
    }
    let older_than = older_than.map(Duration::try_from).transpose();
    let older_than = older_than.map_err(|_| Status::invalid_argument("an age is no less than nothing"))?;
    info!(operator = %operator.seat(), pid = operator.process.pid, secrets = secrets.len(), dry_run, "rotation asked for");
    let (secret, count) = (secrets.first().filter(|_| secrets.len() == 1), Some(secrets.len() as u64));
    let action = if dry_run { "rotate-dry-run" } else { "rotate" };
    broker.operated(operator, &Deed { action, secret, count, ..Deed::default() });
    let asked = Arc::new(Asked { older_than, dry_run, lenient: !all_of.is_empty() });
    let (tell, told) = mpsc::channel(WAITING);
    // In a task of its own: what has begun, and what waits for its turn, goes on though the caller goes away.
    tokio::spawn(async move {
        // A value is for one secret alone.
        let mut given = given;
        let turns = secrets.into_iter().map(|secret| one(rotations.clone(), secret, given.take(), asked.clone(), tell.clone()));
        let turns: Vec<_> = turns.collect();
        stream::iter(turns).for_each_concurrent(AT_ONCE, |turn| turn).await;
    });
    Ok(answers(told))
}

pub fn roll_back(broker: &Broker, host: &dyn Host, operator: &Peer, secret: &str) -> Result<Answers, Status> {
    let secret = secret.parse::<SecretName>().map_err(|bad| Status::invalid_argument(bad.to_string()))?;
    let followed = rotations(host)?.roll_back(&secret);
    info!(operator = %operator.seat(), pid = operator.process.pid, %secret, "roll-back asked for");
    // Only a name that there is: what else somebody typed may be anything.
    let known = (!matches!(followed, Err(Refused::NotUnderWay(_)))).then_some(&secret);
    broker.operated(operator, &Deed { action: "roll-back", secret: known, failed: followed.is_err(), ..Deed::default() });
    let followed = followed.map_err(|refused| Status::failed_precondition(refused.to_string()))?;
    let (tell, told) = mpsc::channel(WAITING);
    tokio::spawn(follow(followed, tell));
    Ok(answers(told))
}

/// An engine's own credential. It is on record before it is done, and again when it is known whether it was: nobody can have the old one back.
pub async fn rotate_root(
    broker: &Arc<Broker>,
    host: &dyn Host,
    operator: &Peer,
    request: v1::RotateRootRequest,
) -> Result<v1::RotateRootResponse, Status> {
    let v1::RotateRootRequest { source: name, path } = request;
    let name = name.parse::<SourceName>().map_err(|bad| Status::invalid_argument(bad.to_string()))?;
    let path = path.parse::<RootPath>().map_err(|bad| Status::invalid_argument(format!("the path is refused: {bad}")))?;
    let source = host
        .source(&name)
        .ok_or_else(|| Status::not_found(format!("there is no source {name}; `valetkey status` lists them")))?;
    info!(operator = %operator.seat(), pid = operator.process.pid, source = %name, path = path.as_str(), "rotation of an engine's own credential asked for");
    let detail = format!("{name} {}", path.as_str());
    broker.operated(operator, &Deed { action: "rotate-root", detail: Some(&detail), ..Deed::default() });
    // In a task of its own: half done is not known to be done, and goes on though the caller goes away.
    let (broker, operator) = (broker.clone(), operator.clone());
    let done = tokio::spawn(async move {
        let done = match source.rotator() {
            Some(rotator) => tokio::time::timeout(ROOT_WITHIN, rotator.rotate_root(&path)).await,
            None => Ok(Err(SourceError::new(Cause::BadField, "a source of its kind has no engines"))),
        };
        let late = || format!("no answer within {} s: it may have been done", ROOT_WITHIN.as_secs());
        let done = done.map_err(|_| late()).and_then(|done| done.map_err(|error| error.to_string()));
        let deed = Deed { action: "rotate-root-done", failed: done.is_err(), detail: Some(&detail), ..Deed::default() };
        broker.operated(&operator, &deed);
        done
    });
    let done = done.await.map_err(|_| Status::internal("it failed inside; the daemon's log says why"))?;
    done.map_err(|problem| Status::failed_precondition(format!("the credential of that engine is not rotated: {problem}")))?;
    Ok(v1::RotateRootResponse {})
}

fn rotations(host: &dyn Host) -> Result<Arc<Rotations>, Status> {
    host.rotations().ok_or_else(|| {
        Status::failed_precondition("the daemon has no state directory to keep rotations in, or still loads; its log says which")
    })
}

/// Off the message, and wiped there.
fn taken(value: Vec<u8>) -> Result<SecretValue, Status> {
    SecretValue::copy_from_wiping(value).map_err(|error| Status::unavailable(error.to_string()))
}

fn answers(told: mpsc::Receiver<v1::Rotation>) -> Answers {
    Box::pin(stream::unfold(told, |mut told| async move { told.recv().await.map(|rotation| (Ok(rotation), told)) }))
}

fn wanted(broker: &Broker, named: &[String], all_of: &str) -> Result<Vec<SecretName>, Status> {
    let parsed: Result<Vec<SecretName>, _> = named.iter().map(|name| name.parse()).collect();
    let mut secrets = parsed.map_err(|bad| Status::invalid_argument(bad.to_string()))?;
    let policy = broker.policy();
    if !all_of.is_empty() {
        let missing = || Status::not_found("there is no such tool; `valetkey tools` lists them");
        secrets.extend(policy.tool(all_of).ok_or_else(missing)?.grants.keys().cloned());
    }
    if let Some(unknown) = secrets.iter().find(|secret| policy.secret(secret.as_str()).is_none()) {
        return Err(Status::not_found(format!("configuration has no secret {unknown}; `valetkey secrets` lists them")));
    }
    secrets.sort();
    secrets.dedup();
    match secrets.is_empty() {
        true => Err(Status::invalid_argument("name secrets, or a tool whose secrets are meant")),
        false => Ok(secrets),
    }
}

/// One secret of a call, to the end of its rotation.
async fn one(
    rotations: Arc<Rotations>,
    secret: SecretName,
    given: Option<SecretValue>,
    asked: Arc<Asked>,
    tell: mpsc::Sender<v1::Rotation>,
) {
    let refused = |refused: &Refused| {
        let end = if asked.lenient && matches!(refused, Refused::CannotBe(..)) { "skipped" } else { "refused" };
        ended(&secret, end, &refused.to_string())
    };
    if asked.dry_run || asked.older_than.is_some() {
        let outlook = match rotations.outlook(&secret, given.is_some()).await {
            Ok(outlook) => outlook,
            Err(why) => return drop(tell.send(refused(&why)).await),
        };
        // Of unknown age is not known to be younger.
        let age = outlook.since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
        let young = asked.older_than.zip(age).is_some_and(|(least, age)| age < least);
        if young || asked.dry_run {
            let end = if young { "skipped" } else { "planned" };
            return drop(tell.send(planned(&secret, &outlook, end)).await);
        }
    }
    match rotations.start(&secret, given, "operator", None).await {
        Ok(followed) => follow(followed, tell).await,
        Err(why) => drop(tell.send(refused(&why)).await),
    }
}

/// Tells whatever changes, until it is over. Where nobody listens any more, it is followed to its end all the same: others wait for its turn.
async fn follow(mut followed: watch::Receiver<Progress>, tell: mpsc::Sender<v1::Rotation>) {
    let mut last = None;
    loop {
        let progress = followed.borrow_and_update().clone();
        if last.as_ref() != Some(&progress) {
            let _ = tell.send(told(&progress)).await;
        }
        if progress.state.is_over() {
            return;
        }
        last = Some(progress);
        if followed.changed().await.is_err() {
            return;
        }
    }
}

fn ended(secret: &SecretName, end: &str, problem: &str) -> v1::Rotation {
    v1::Rotation {
        secret: secret.to_string(),
        step: Step::Over.word().into(),
        end: end.into(),
        problem: problem.into(),
        ..Default::default()
    }
}

fn planned(secret: &SecretName, outlook: &Outlook, end: &str) -> v1::Rotation {
    v1::Rotation {
        way: outlook.way.word().into(),
        old_version: outlook.version.to_string(),
        old_since: outlook.since.map(Into::into),
        holders: outlook.holders.iter().map(holder).collect(),
        ..ended(secret, end, "")
    }
}

/// Where a rotation stands.
pub fn told(progress: &Progress) -> v1::Rotation {
    let version = |version: &Option<Version>| version.as_ref().map(ToString::to_string).unwrap_or_default();
    v1::Rotation {
        secret: progress.secret.to_string(),
        rotation: progress.token.clone(),
        way: progress.way.word().into(),
        step: progress.state.step.word().into(),
        end: progress.state.end.map(|end| end.word().to_owned()).unwrap_or_default(),
        old_version: version(&progress.old),
        new_version: version(&progress.new),
        holders: progress.holders.iter().map(holder).collect(),
        started: Some(progress.started.into()),
        deadline: progress.deadline.map(Into::into),
        ended: progress.ended.map(Into::into),
        problem: progress.problem.clone(),
        failed: progress.state.failed,
        old_since: None,
    }
}

fn holder(holder: &Holder) -> v1::RotationHolder {
    v1::RotationHolder {
        session: holder.session.map(|session| session.to_string()).unwrap_or_default(),
        unit: holder.unit.clone().unwrap_or_default(),
        tool: holder.tool.to_string(),
        pid: holder.pid,
        version: holder.version.to_string(),
        by: holder.by.into(),
        told: holder.told,
        moved: holder.moved,
    }
}

/// Each version of a secret that is in use, and by whom.
pub fn versions(holders: &[Holder], current: Option<&Version>, rotation: Option<&Progress>) -> Vec<v1::VersionInUse> {
    let mut by_version: BTreeMap<Version, Vec<v1::RotationHolder>> = BTreeMap::new();
    by_version.extend(current.map(|current| (current.clone(), Vec::new())));
    for one in holders {
        let moved = Some(&one.version) == current;
        by_version.entry(one.version.clone()).or_default().push(v1::RotationHolder { moved, ..holder(one) });
    }
    let stage = |version: &Version| if Some(version) == current { "current" } else { "previous" };
    let in_use = by_version.into_iter();
    let mut versions: Vec<_> = in_use
        .map(|(version, holders)| v1::VersionInUse { stage: stage(&version).into(), version: version.to_string(), holders })
        .collect();
    versions.sort_by_key(|version| version.stage != "current");
    let pending = rotation.filter(|rotation| matches!(rotation.state.step, Step::Set | Step::Test | Step::Finish));
    versions.extend(pending.map(|rotation| v1::VersionInUse {
        version: rotation.token.clone(),
        stage: "pending".into(),
        holders: Vec::new(),
    }));
    versions
}

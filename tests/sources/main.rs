//! The sources against the real servers they are for. Everything that a source says about a failure is searched for values and tokens:
//! all of them start with `marker`.
#![cfg(feature = "daemon")]

mod aws;
mod aws_login;
#[cfg(feature = "aws-parameter-store")]
mod aws_parameter_store;
mod environment;
#[path = "../support/postgres.rs"]
#[expect(dead_code, reason = "shared with a test that uses all of it")]
mod postgres;
mod sealed_file;
#[path = "../support/servers.rs"]
mod servers;
mod vault;

use std::collections::HashMap;

use valetkey::{
    name::SecretName,
    source::{Cause, Checked, Fetched, Known, Source, SourceError, Wanted},
};

fn wanted(secret: &str, path: &str, field: Option<&str>) -> Wanted {
    Wanted { secret: secret.parse().unwrap(), path: path.into(), field: field.map(str::to_owned), stage: None }
}

type Outcomes = HashMap<String, Result<Fetched, SourceError>>;

/// Fetches, and checks what holds for every fetch: one outcome for each wanted secret, and no value in any words.
async fn fetch(source: &dyn Source, wanted: &[Wanted]) -> Outcomes {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    source.fetch(wanted, sender).await;
    collect(wanted.iter(), receiver)
}

/// Checks, with the same assertions.
async fn check(source: &dyn Source, known: &[Known]) -> HashMap<String, Result<Checked, SourceError>> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    source.check(known, sender).await;
    collect(known.iter().map(|known| &known.wanted), receiver)
}

fn collect<'a, T: std::fmt::Debug>(
    wanted: impl Iterator<Item = &'a Wanted>,
    mut receiver: tokio::sync::mpsc::UnboundedReceiver<(SecretName, Result<T, SourceError>)>,
) -> HashMap<String, Result<T, SourceError>> {
    let mut outcomes = HashMap::new();
    while let Ok((name, outcome)) = receiver.try_recv() {
        let words = format!("{outcome:?} {}", outcome.as_ref().err().map(ToString::to_string).unwrap_or_default());
        assert!(!words.contains("marker"), "an outcome shows a value or a token: {words}");
        assert!(outcomes.insert(name.to_string(), outcome).is_none(), "two outcomes for {name}");
    }
    let mut names: Vec<_> = wanted.map(|wanted| wanted.secret.to_string()).collect();
    names.sort();
    let mut answered: Vec<_> = outcomes.keys().cloned().collect();
    answered.sort();
    assert_eq!(answered, names);
    outcomes
}

/// What a fetch brought, as a later check is asked about it.
fn known(wanted: &[Wanted], found: &Outcomes) -> Vec<Known> {
    let version = |wanted: &Wanted| found[wanted.secret.as_str()].as_ref().unwrap().version.clone();
    wanted.iter().map(|wanted| Known { wanted: wanted.clone(), version: version(wanted) }).collect()
}

async fn fetch_one(source: &dyn Source, path: &str, field: Option<&str>) -> Result<Fetched, SourceError> {
    fetch(source, &[wanted("it", path, field)]).await.remove("it").unwrap()
}

#[track_caller]
fn assert_value(outcome: &Result<Fetched, SourceError>, value: &[u8]) {
    let fetched = outcome.as_ref().unwrap_or_else(|error| panic!("{error}"));
    fetched.value.expose(|bytes| assert!(bytes == value, "another value: {:?}", String::from_utf8_lossy(bytes)));
}

#[track_caller]
fn assert_failed(outcome: Result<Fetched, SourceError>, cause: Cause, words: &str) {
    let error = outcome.map(|_| ()).unwrap_err();
    assert!(error.cause == cause && error.detail.contains(words), "not {cause} with {words:?}: {error}");
}

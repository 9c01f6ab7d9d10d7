//! A session, as a program uses it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Client, Error, Secret, link};
use crate::proto::v1::Open;

/// An open session. Clones are handles to the same one; it ends when the last is dropped.
#[derive(Clone)]
pub struct Session(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    timeout: Duration,
}

/// What the program and the connection's task both see.
pub(super) struct Shared {
    pub current: RwLock<HashMap<String, Secret>>,
    pub changes: broadcast::Sender<Change>,
    ended: OnceLock<Error>,
}

impl Shared {
    /// Remembers why the session ended, for whoever asks later.
    pub fn set_ended(&self, error: Error) {
        let _ = self.ended.set(error);
    }

    fn ended(&self) -> Error {
        self.ended.get().cloned().unwrap_or_else(|| Error::Ended("its connection's task has stopped; open a new one".into()))
    }

    /// Keeps a version that was handed out, and tells of it where it replaces another.
    pub fn keep(&self, secret: &Secret) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let previous = current.insert(secret.name().into(), secret.clone());
        drop(current);
        if let Some(previous) = previous.filter(|previous| !previous.same_as(secret)) {
            // No receiver: nobody watches, and the next `get` returns the new version all the same.
            let _ = self.changes.send(Change { secret: secret.clone(), previous });
        }
    }

    pub fn forget(&self, name: &str) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() { current.clear() } else { drop(current.remove(name)) }
    }

    fn read(&self, name: &str) -> Option<Secret> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// A request to the connection's task.
pub(super) enum Ask {
    Fetch { name: String, answer: oneshot::Sender<Result<Secret, Error>> },
    Acknowledge { name: String, version: String },
}

/// A secret has a new version.
#[derive(Clone)]
pub struct Change {
    /// What to use from now on.
    pub secret: Secret,
    /// What to stop using.
    pub previous: Secret,
}

impl Session {
    pub(super) async fn open(client: &Client, open: Open) -> Result<Self, Error> {
        let shared = Arc::new(Shared { current: RwLock::default(), changes: broadcast::Sender::new(64), ended: OnceLock::new() });
        let (asks, requests) = mpsc::channel(64);
        let opening = link::start(client, open, shared.clone(), requests);
        match tokio::time::timeout(client.timeout, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Error::TimedOut(client.timeout)),
        }
        Ok(Self(Arc::new(Handle { shared, asks, timeout: client.timeout })))
    }

    /// The secret's current version: from this process's memory where it was fetched before (the daemon tells of changes, so it
    /// is current while connected), from the daemon otherwise.
    ///
    /// # Errors
    /// Where the daemon refuses, or does not answer in time: [`Error::retry`] says whether to try again.
    pub async fn get(&self, name: &str) -> Result<Secret, Error> {
        match self.0.shared.read(name) {
            Some(secret) => Ok(secret),
            None => self.fetch(name).await,
        }
    }

    /// The version in this process's memory, if it was fetched before. Never waits.
    pub fn cached(&self, name: &str) -> Option<Secret> {
        self.0.shared.read(name)
    }

    /// Asks the daemon, whatever is in memory: after an upstream refused the value, say.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn fetch(&self, name: &str) -> Result<Secret, Error> {
        let (answer, answered) = oneshot::channel();
        let ended = || self.0.shared.ended();
        let ask = Ask::Fetch { name: name.into(), answer };
        let round = async {
            self.0.asks.send(ask).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        tokio::time::timeout(self.0.timeout, round).await.unwrap_or(Err(Error::TimedOut(self.0.timeout)))
    }

    /// New versions from now on, each with the one it replaces. A program that calls [`get`](Self::get) each time needs none.
    pub fn watch(&self) -> Changes {
        Changes(self.0.shared.changes.subscribe())
    }

    /// Tells the daemon that this process uses this version now and none before it, so that the old one can be retired.
    ///
    /// # Errors
    /// Where the session has ended.
    pub async fn acknowledge(&self, secret: &Secret) -> Result<(), Error> {
        let ask = Ask::Acknowledge { name: secret.name().into(), version: secret.version().into() };
        self.0.asks.send(ask).await.map_err(|_| self.0.shared.ended())
    }
}

/// A stream of [`Change`]s.
pub struct Changes(broadcast::Receiver<Change>);

impl Changes {
    /// The next change. `None` when the session has ended. A slow reader misses versions between, never the newest.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            match self.0.recv().await {
                Ok(change) => return Some(change),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

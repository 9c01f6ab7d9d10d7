//! A session, as a program uses it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Changes, Client, Error, Secret,
    changes::Watchers,
    link::{self, Ask},
    patience::patience,
    reports::Reports,
};
#[cfg(feature = "run")]
use crate::proto::v1::Redacted;
use crate::{
    proto::v1::{Open, Opened},
    secret,
};

/// An open session. Clones are handles to the same one; it ends when the last is dropped.
#[derive(Clone)]
pub struct Session(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    timeout: Duration,
}

/// What the program and the connection's task both see. The task writes, the program reads.
#[derive(Default)]
pub(super) struct Shared {
    current: RwLock<HashMap<String, Secret>>,
    /// Why there is no connection now, while there is none.
    trouble: RwLock<Option<Error>>,
    ended: OnceLock<Error>,
    pub watchers: Watchers,
    pub reports: Reports,
}

impl Shared {
    /// Remembers why the session ended, for whoever asks later, and forgets every value.
    pub fn end(&self, error: Error) {
        let _ = self.ended.set(error);
        self.forget("");
    }

    pub fn ended(&self) -> Error {
        self.ended.get().cloned().unwrap_or_else(|| Error::Ended("its connection's task has stopped; open a new one".into()))
    }

    /// Keeps a version that was handed out, and tells of it where it replaces another.
    pub fn keep(&self, secret: &Secret) {
        let previous = self.current.write().unwrap_or_else(PoisonError::into_inner).insert(secret.name().into(), secret.clone());
        if let Some(previous) = previous.filter(|previous| !previous.same_as(secret)) {
            self.watchers.tell(secret, &previous);
        }
    }

    /// Drops a value; with an empty name, every one.
    pub fn forget(&self, name: &str) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() {
            current.clear()
        } else {
            drop(current.remove(name))
        }
        drop(current);
        self.watchers.forget(name);
    }

    pub fn read(&self, name: &str) -> Option<Secret> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn trouble(&self) -> Option<Error> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Session {
    pub(super) async fn open(client: &Client, open: Open) -> Result<(Self, Opened), Error> {
        // A tool holds a few values, and its limit on locked memory is the usual 8 MiB. Where the program has set up its memory
        // already, that stands.
        let _ = secret::set_up(secret::Settings { first_chunk: 64 * 1024, ..Default::default() });
        let deadline = Instant::now() + client.timeout;
        loop {
            let shared = Arc::new(Shared::default());
            let (asks, requests) = mpsc::channel(64);
            let opening = link::start(client, open.clone(), shared.clone(), requests);
            let opened = tokio::time::timeout_at(deadline, opening).await.unwrap_or(Err(Error::TimedOut(client.timeout)));
            match opened {
                Ok(opened) => return Ok((Self(Arc::new(Handle { shared, asks, timeout: client.timeout })), opened)),
                Err(error) => match patience(&error, deadline) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(error),
                },
            }
        }
    }

    /// The secret's current version: from this process's memory where it was fetched before (the daemon tells of changes, so it
    /// is current while connected), from the daemon otherwise. While there is no daemon, what is in memory goes on to serve.
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

    /// Asks the daemon, whatever is in memory. Callers who ask for the same secret at the same time share one answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn fetch(&self, name: &str) -> Result<Secret, Error> {
        self.until_answered(name, false).await
    }

    /// The system that it opens has refused the value: has the daemon ask its source first, and gives what is current then. That may be the same
    /// version. However many ask, and however often, the source is asked every five seconds at the most. A call takes up to five seconds
    /// longer than [`fetch`](Self::fetch), and other requests of this session wait for it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn refetch(&self, name: &str) -> Result<Secret, Error> {
        self.until_answered(name, true).await
    }

    async fn until_answered(&self, name: &str, fresh: bool) -> Result<Secret, Error> {
        let deadline = Instant::now() + self.0.timeout;
        loop {
            let answer = self.ask(name, fresh, deadline).await;
            match answer.as_ref().err().and_then(|error| patience(error, deadline)) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return answer,
            }
        }
    }

    async fn ask(&self, name: &str, fresh: bool, deadline: Instant) -> Result<Secret, Error> {
        let Handle { shared, asks, timeout } = &*self.0;
        let (answer, answered) = oneshot::channel();
        let round = async {
            asks.send(Ask::Fetch { name: name.into(), fresh, answer }).await.map_err(|_| shared.ended())?;
            answered.await.map_err(|_| shared.ended())?
        };
        // Where there was no connection to ask over, that says more than the time it took to find out.
        let too_late = |_| Err(shared.trouble().unwrap_or(Error::TimedOut(*timeout)));
        tokio::time::timeout_at(deadline, round).await.unwrap_or_else(too_late)
    }

    /// New versions from now on, each with the one it replaces. A program that calls [`get`](Self::get) each time needs none.
    pub fn watch(&self) -> Changes {
        self.0.shared.watchers.subscribe()
    }

    /// Tells the daemon that this process uses this version now and none before it, so that the old one can be retired. A daemon
    /// that restarts is told again.
    ///
    /// # Errors
    /// Where the session has ended.
    pub async fn acknowledge(&self, secret: &Secret) -> Result<(), Error> {
        let ask = Ask::Acknowledge { name: secret.name().into(), version: secret.version().into() };
        self.0.asks.send(ask).await.map_err(|_| self.0.shared.ended())
    }

    /// Tells the daemon what was found in the output of a launched tool, as soon as there is a connection. Never waits.
    #[cfg(feature = "run")]
    pub(crate) fn report(&self, found: Redacted) {
        self.0.shared.reports.add(found);
    }

    /// Ends the session, and waits until the daemon has heard everything that it was told.
    #[cfg(feature = "run")]
    pub(crate) async fn finish(&self) {
        let (done, heard) = oneshot::channel();
        if self.0.asks.send(Ask::Finish(done)).await.is_ok() {
            // It is dropped, not sent, where the connection is gone as well.
            drop(heard.await);
        }
    }

    /// Why the daemon ended the session, where it has.
    #[cfg(feature = "run")]
    pub(crate) fn why_ended(&self) -> Error {
        self.0.shared.ended()
    }
}

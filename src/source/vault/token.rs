//! The one token of a source: got when it is first needed, kept alive, replaced before it ends.
//!
//! [`super::life`] decides, this acts. At most one attempt (login, renewal, or the question whether the token lives) is in flight. It is a
//! future that all who wait for it share: each of them drives it, none of them owns it, and when the last one is dropped, so is
//! the attempt. Nothing is spawned.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};
use tokio::sync::Notify;

use super::{
    super::{Cause, LoginFacts, SourceError},
    life::{Life, Step, Terms},
    login::Stamp,
};
use crate::secret::SecretValue;

/// Who grants tokens.
pub(super) trait Upstream: Send + Sync + 'static {
    fn log_in(&self) -> impl Future<Output = Result<Granted, SourceError>> + Send;

    fn renew(&self, token: &SecretValue, increment: Duration) -> impl Future<Output = Result<Terms, SourceError>> + Send;

    /// Does the server still know this token?
    fn is_alive(&self, token: &SecretValue) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// Gives a token back that is ours to give back.
    fn revoke(&self, token: &SecretValue) -> impl Future<Output = ()> + Send;

    /// Of the file that it logs in with.
    fn stamp(&self) -> Option<Stamp>;

    /// Is the token made by somebody else, so that a login yields nothing but what we are given?
    fn token_is_given(&self) -> bool;

    /// From 0 to 1.
    fn chance(&self) -> f64;
}

/// What a login yields.
pub(super) struct Granted {
    pub token: SecretValue,
    pub terms: Terms,
    /// Its life when it was fresh.
    pub full: Duration,
}

/// A token, and which one of those that there were.
#[derive(Debug)]
pub(super) struct Token {
    pub value: SecretValue,
    pub generation: u64,
}

#[derive(Debug)]
pub(super) struct Tokens<U>(Arc<Inner<U>>);

#[derive(Debug)]
struct Inner<U> {
    upstream: U,
    state: Mutex<State>,
    /// Tells the one who keeps the token that there is another plan.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    life: Life,
    token: Option<Arc<Token>>,
    generation: u64,
    in_flight: Option<WeakShared<Attempt>>,
    /// Why the last attempt failed.
    problem: Option<SourceError>,
    /// The file that the last login used.
    stamp: Option<Stamp>,
    /// When it was last asked whether this generation lives, and it did.
    alive: Option<(u64, Instant)>,
    closed: bool,
}

type Attempt = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

/// What an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// What is planned: to renew, or to log in.
    Planned,
    LogIn,
    /// To find out whether the token lives, and to log in if not.
    Verify,
}

/// How often somebody who waits sees attempts of others end before he gives up. Each of them is bounded.
const ROUNDS: u32 = 8;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<U: Upstream> Tokens<U> {
    pub fn new(upstream: U) -> Self {
        Self(Arc::new(Inner { upstream, state: Mutex::default(), changed: Notify::new() }))
    }

    /// The token, after a login if there is none.
    pub async fn get(&self) -> Result<Arc<Token>, SourceError> {
        let mut logged_in = false;
        for _ in 0..ROUNDS {
            let (attempt, ours) = {
                let mut state = self.0.state();
                self.0.notice_replaced(&mut state);
                match &state.token {
                    Some(token) if state.life.usable(now()) => return Ok(token.clone()),
                    _ if logged_in => break,
                    _ => {}
                }
                match state.flying() {
                    Some(attempt) => (attempt, false),
                    None => {
                        state.may_try(now())?;
                        (self.0.start(&mut state, Goal::LogIn), true)
                    }
                }
            };
            let result = attempt.await;
            // What another attempt came to shows in the state: a login that failed closes the gate for a while.
            if ours {
                result?;
                logged_in = true;
            }
        }
        Err(SourceError::new(Cause::Unreachable, "the tokens it gives live too short a time"))
    }

    /// Something was refused with this token: does it still live? `None`: it does, and the refusal stands. Otherwise the token to try it
    /// again with, after a login if need be.
    pub async fn suspect(&self, token: &Token) -> Result<Option<Arc<Token>>, SourceError> {
        let asked = now();
        for _ in 0..ROUNDS {
            let (attempt, ours) = {
                let mut state = self.0.state();
                if state.generation != token.generation || state.token.is_none() {
                    break;
                }
                if state.alive.is_some_and(|(generation, at)| generation == token.generation && at >= asked) {
                    return Ok(None);
                }
                match state.flying() {
                    Some(attempt) => (attempt, false),
                    None => (self.0.start(&mut state, Goal::Verify), true),
                }
            };
            let result = attempt.await;
            if ours {
                result?;
            }
        }
        match self.get().await? {
            another if another.generation != token.generation => Ok(Some(another)),
            _ => Err(SourceError::new(Cause::Unreachable, "whether the token still lives cannot be found out")),
        }
    }

    /// Renews and replaces the token for as long as it is driven.
    pub async fn keep(&self) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let next = {
                let mut state = self.0.state();
                let next = state.life.next().filter(|_| !state.closed);
                match (state.flying(), next) {
                    (Some(attempt), _) => Next::Join(attempt),
                    (None, Some((at, _))) if at <= now() => Next::Join(self.0.start(&mut state, Goal::Planned)),
                    (None, Some((at, _))) => Next::At(at),
                    (None, None) => Next::Wait,
                }
            };
            match next {
                Next::Join(attempt) => _ = attempt.await,
                Next::At(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = changed => {}
                    }
                }
                Next::Wait => changed.await,
            }
        }
    }

    /// Gives the token back. None is got afterwards.
    pub async fn close(&self) {
        let token = {
            let mut state = self.0.state();
            state.closed = true;
            state.token.take()
        };
        if let Some(token) = token {
            self.0.upstream.revoke(&token.value).await;
        }
    }

    /// How long the token still lives, where it ends.
    pub fn left(&self) -> Option<Duration> {
        self.0.state().life.left(now())
    }

    pub fn facts(&self, method: &'static str) -> LoginFacts {
        let (state, now) = (self.0.state(), now());
        let clock = |at: Instant| SystemTime::now() + at.saturating_duration_since(now);
        let held = state.token.is_some() && state.life.usable(now);
        LoginFacts {
            method,
            expires: state.life.ends().filter(|_| held).map(clock),
            renews: state.life.next().filter(|_| held).map(|(at, _)| clock(at)),
            problem: state.problem.clone().filter(|_| !held),
        }
    }
}

enum Next {
    Join(Shared<Attempt>),
    At(Instant),
    Wait,
}

fn closed() -> SourceError {
    SourceError::new(Cause::Unreachable, "the source is closed")
}

impl State {
    /// The attempt in flight, if anybody still drives it.
    fn flying(&self) -> Option<Shared<Attempt>> {
        self.in_flight.as_ref().and_then(WeakShared::upgrade).filter(|attempt| attempt.peek().is_none())
    }

    fn may_try(&self, now: Instant) -> Result<(), SourceError> {
        if self.closed {
            return Err(closed());
        }
        self.life.may_try(now).map_err(|wait| {
            let again = SourceError::new(Cause::Unreachable, "the last login failed");
            SourceError { retry_after: Some(wait), ..self.problem.clone().unwrap_or(again) }
        })
    }
}

impl<U: Upstream> Inner<U> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Was the file replaced that it logs in with? If that is the token itself, the one that is held has no say any more.
    fn notice_replaced(&self, state: &mut State) {
        let stamp = self.upstream.stamp();
        if stamp.is_none() || stamp == state.stamp {
            return;
        }
        // Whatever was refused was the old one. The file counts as seen, so that it opens the gate once.
        state.stamp = stamp;
        state.life.hope();
        if self.upstream.token_is_given() && state.token.is_some() {
            state.life.lost(now());
        }
    }

    /// Begins an attempt. It goes on for as long as anybody drives what is returned, or a clone of it.
    fn start(self: &Arc<Self>, state: &mut State, goal: Goal) -> Shared<Attempt> {
        let inner = self.clone();
        let attempt: Attempt = Box::pin(async move { inner.attempt(goal).await });
        let attempt = attempt.shared();
        state.in_flight = attempt.downgrade();
        self.changed.notify_one();
        attempt
    }

    async fn attempt(&self, goal: Goal) -> Result<(), SourceError> {
        let (token, step, increment) = {
            let state = self.state();
            (state.token.clone(), state.life.step(now()), state.life.increment())
        };
        match (goal, token) {
            (Goal::Planned, Some(token)) if step == Step::Renew => self.renew(&token, increment).await,
            (Goal::Verify, Some(token)) => self.verify(&token).await,
            _ => self.log_in().await,
        }
    }

    async fn log_in(&self) -> Result<(), SourceError> {
        // Read before the login reads the file: what replaces it meanwhile is seen as new.
        let stamp = self.upstream.stamp();
        let granted = self.upstream.log_in().await;
        let is_closed = self.state().closed;
        if let (Ok(Granted { token, .. }), true) = (&granted, is_closed) {
            // Nobody is left to give it back later.
            self.upstream.revoke(token).await;
            return Err(closed());
        }
        let (mut state, now, chance) = (self.state(), now(), self.upstream.chance());
        state.stamp = stamp.or(state.stamp);
        let result = granted.map(|Granted { token, terms, full }| {
            // A token that we are given may be the one we have: then what hangs on it stands.
            if !state.token.as_ref().is_some_and(|held| held.value.same_as(&token)) {
                state.generation += 1;
                state.token = Some(Arc::new(Token { value: token, generation: state.generation }));
            }
            state.life.logged_in(now, terms, full, chance);
        });
        if let Err(error) = &result {
            failed(&mut state, error, Step::LogIn, now, chance);
        }
        self.done(state, result)
    }

    async fn renew(&self, token: &Token, increment: Duration) -> Result<(), SourceError> {
        let renewed = self.upstream.renew(&token.value, increment).await;
        let (mut state, now, chance) = (self.state(), now(), self.upstream.chance());
        let result = renewed.map(|terms| state.life.renewed(now, terms, chance));
        if let Err(error) = &result {
            failed(&mut state, error, Step::Renew, now, chance);
        }
        self.done(state, result)
    }

    async fn verify(&self, token: &Token) -> Result<(), SourceError> {
        let asked = now();
        if self.upstream.is_alive(&token.value).await? {
            self.state().alive = Some((token.generation, asked));
            return Ok(());
        }
        {
            let mut state = self.state();
            state.token = None;
            state.life.lost(now());
            state.may_try(now())?;
        }
        self.log_in().await
    }

    fn done(&self, mut state: MutexGuard<'_, State>, result: Result<(), SourceError>) -> Result<(), SourceError> {
        state.problem = result.clone().err();
        drop(state);
        self.changed.notify_one();
        result
    }
}

fn failed(state: &mut State, error: &SourceError, step: Step, now: Instant, chance: f64) {
    match error.cause {
        Cause::Refused | Cause::NotFound => state.life.refused(now, step, chance),
        _ => state.life.unreachable(now, error.retry_after, chance),
    }
}

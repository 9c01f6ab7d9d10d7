//! Back-pressure: a connection on which much is refused is read more slowly, and then for a while not at all.
//!
//! To refuse costs as much as to serve, so a limit alone would let whoever ignores it take this thread from everyone else. What takes of
//! no tool's allowance takes of the connection's here: each refusal, and each call of a service that anybody may use. It is a process's
//! own connection, so that whoever is held up by it did it. News go on being sent meanwhile, and a process that ends is noticed.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tonic::body::Body;
use tower::Layer;
use tower_service::Service;

use crate::{
    attest::Attested,
    limits::{Meter, Rate},
};

/// Refusals that nobody is held up for. A program that does as it is told meets a few.
const FREE: u32 = 40;
/// Refusals in a second beyond them.
const RATE: Rate = Rate::new(20, Duration::from_secs(1), FREE);
/// What a connection can owe, and the longest that it is not read at a stretch.
const LONGEST: Duration = Duration::from_secs(5);
/// Bytes that are read at a time of one that owes: a few requests, and then others have their turn.
pub const SIP: usize = 512;

/// The pace at which a connection is read.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    refusals: Meter,
    /// In nanoseconds since then.
    held_until: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Instant::now(), refusals: Meter::default(), held_until: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Something was done that takes of nobody's allowance.
    pub fn charge(&self) {
        let now = self.since.elapsed();
        let owed = self.refusals.charge(&RATE, 1, LONGEST, now);
        if !owed.is_zero() {
            self.held_until.fetch_max((now + owed).as_nanos() as u64, Relaxed);
        }
    }

    /// How long the connection is not to be read, from now on.
    pub fn held(&self) -> Option<Duration> {
        let until = self.held_until.load(Relaxed);
        if until == 0 {
            return None;
        }
        let left = until.saturating_sub(self.since.elapsed().as_nanos() as u64);
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Was so much refused of late that it is read in sips?
    pub fn is_suspect(&self) -> bool {
        let until = self.held_until.load(Relaxed);
        until != 0 && !self.refusals.is_full(self.since.elapsed())
    }
}

/// Who calls, on a connection with this pace.
#[derive(Debug, Clone)]
pub struct Guest {
    pub caller: Attested,
    pub pace: Arc<Pace>,
}

/// Charges connections for what is refused on them.
#[derive(Debug, Clone)]
pub struct PaceLayer;

impl<S> Layer<S> for PaceLayer {
    type Service = Paced<S>;

    fn layer(&self, service: S) -> Paced<S> {
        Paced(service)
    }
}

/// A service whose refusals are charged.
#[derive(Debug, Clone)]
pub struct Paced<S>(S);

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Paced<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let pace = request.extensions().get::<Guest>().map(|guest| guest.pace.clone());
        let anybodys = !request.uri().path().starts_with("/valetkey.");
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A call that is refused has its status in the head. What is refused later charges for itself.
            if let Some(pace) = pace
                && (anybodys || answer.headers().get("grpc-status").is_some_and(|status| status != "0"))
            {
                pace.charge();
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_refusals_are_free_and_many_are_owed() {
        let pace = Pace::default();
        (0..FREE).for_each(|_| pace.charge());
        assert_eq!(pace.held(), None);
        (0..20).for_each(|_| pace.charge());
        let held = pace.held().unwrap();
        assert!(held > Duration::from_millis(800) && held <= Duration::from_secs(1), "{held:?}");
        assert!(pace.is_suspect());
        (0..1_000_000).for_each(|_| pace.charge());
        assert!(pace.held().unwrap() <= LONGEST, "nobody is held up for ever");
    }
}

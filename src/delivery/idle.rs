//! How long a connection may stay without a call: for callers over the network, of whom no kernel says whether they are still there. One
//! that says nothing, half of a header, or only pings, would hold its place for ever.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

/// The calls of one connection.
#[derive(Debug)]
pub struct Calls {
    since: Instant,
    under_way: AtomicUsize,
    /// When the last of them began or ended, in milliseconds since then. 0: there was none.
    last: AtomicU64,
}

/// The times that a connection has.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its first call.
    pub first: Duration,
    /// Without one.
    pub idle: Duration,
}

impl Default for Calls {
    fn default() -> Self {
        Self { since: Instant::now(), under_way: AtomicUsize::new(0), last: AtomicU64::new(0) }
    }
}

impl Calls {
    /// One begins. It ends when what this gives is dropped.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        self.mark();
        UnderWay(self.clone())
    }

    fn mark(&self) {
        self.last.store(self.since.elapsed().as_millis().max(1) as u64, Relaxed);
    }

    /// When its time is over, as things are.
    fn over_at(&self, patience: Patience) -> Instant {
        match (self.under_way.load(Relaxed), self.last.load(Relaxed)) {
            (0, 0) => self.since + patience.first,
            (0, last) => self.since + Duration::from_millis(last) + patience.idle,
            _ => Instant::now() + patience.idle,
        }
    }
}

/// A call, until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Calls>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mark();
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// Watches one connection.
pub struct Idle {
    calls: Arc<Calls>,
    patience: Patience,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    pub fn new(calls: Arc<Calls>, patience: Patience) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(calls.over_at(patience)));
        Self { calls, patience, timer }
    }

    /// Ready once its time is over.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let over_at = self.calls.over_at(self.patience);
            if over_at <= Instant::now() {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no call on it for too long"));
            }
            self.timer.as_mut().reset(over_at);
        }
    }
}

/// An answer that is under way until it is taken, or given up.
pub struct Counted {
    body: Body,
    _under_way: UnderWay,
}

impl Counted {
    pub fn body(body: Body, under_way: UnderWay) -> Body {
        Body::new(Self { body, _under_way: under_way })
    }
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { first: Duration::from_secs(10), idle: Duration::from_secs(300) };

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_call_ends() {
        let calls = Arc::new(Calls::default());
        let mut idle = Idle::new(calls.clone(), PATIENCE);
        let begun = Instant::now();
        std::future::poll_fn(|cx| idle.poll_over(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_with_a_call_stays_and_ends_after_it() {
        let calls = Arc::new(Calls::default());
        let mut idle = Idle::new(calls.clone(), PATIENCE);
        let call = calls.begin();
        let over = tokio::time::timeout(Duration::from_secs(3600), std::future::poll_fn(|cx| idle.poll_over(cx))).await;
        assert!(over.is_err(), "a session may last for hours");
        drop(call);
        let begun = Instant::now();
        std::future::poll_fn(|cx| idle.poll_over(cx)).await;
        assert!((299..=301).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}

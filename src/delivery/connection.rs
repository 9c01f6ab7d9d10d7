//! A connection that is served: when it is read, how fast, and for how long it may stay without a call.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::{
    gather::Gather,
    idle::Idle,
    pace::{Pace, SIP},
};

/// What HTTP/2 makes every client say first (RFC 9113, 3.4): 24 bytes, and the frame of its settings. Before that the server sends
/// no pings, so who never says it would keep a place for ever.
struct Hello {
    deadline: Pin<Box<tokio::time::Sleep>>,
    heard: usize,
}

impl Hello {
    const LENGTH: usize = 24 + 9;
    const WITHIN: Duration = Duration::from_secs(10);

    fn new() -> Self {
        Self { deadline: Box::pin(tokio::time::sleep(Self::WITHIN)), heard: 0 }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.deadline.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, "connected, and said nothing"))
    }
}

/// A connection that is served, and its share of the room. What each request on it carries is `I`.
pub struct Connection<S, I, P> {
    stream: Gather<S>,
    info: I,
    /// Until it is over.
    hello: Option<Hello>,
    pace: Arc<Pace>,
    /// Until it is read again.
    held: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Has it had its turn?
    yields: bool,
    idle: Option<Idle>,
    _place: P,
}

impl<S, I: Clone + Send + Sync + 'static, P> Connected for Connection<S, I, P> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<S, I, P> Connection<S, I, P> {
    pub fn new(stream: S, pace: Arc<Pace>, info: I, idle: Option<Idle>, place: P) -> Self {
        let (stream, hello) = (Gather::new(stream), Some(Hello::new()));
        Self { stream, info, hello, pace, held: None, yields: false, idle, _place: place }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Unpin, P: Unpin> Connection<S, I, P> {
    /// Pending while it is not to be read. What was written goes out all the same.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return self.poll_sent(cx);
        }
        if self.held.is_none() {
            let Some(wait) = self.pace.held() else { return Poll::Ready(Ok(())) };
            self.held = Some(Box::pin(tokio::time::sleep(wait)));
        }
        while let Some(sleep) = &mut self.held {
            if sleep.as_mut().poll(cx).is_pending() {
                return self.poll_sent(cx);
            }
            self.held = self.pace.held().map(|wait| Box::pin(tokio::time::sleep(wait)));
        }
        Poll::Ready(Ok(()))
    }

    /// Pending, once what was written is on its way; or why it is not.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// A little at a time, and then others have their turn.
    fn poll_sip(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(SIP);
        let mut sip = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut sip))?;
        let read = sip.filled().len();
        buf.advance(read);
        if read > 0 {
            self.yields = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Unpin, P: Unpin> AsyncRead for Connection<S, I, P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(Poll::Ready(over)) = self.idle.as_mut().map(|idle| idle.poll_over(cx)) {
            return Poll::Ready(Err(over));
        }
        let Self { stream, hello: Some(hello), .. } = &mut *self else {
            ready!(self.poll_held(cx))?;
            if self.pace.is_suspect() {
                return self.poll_sip(cx, buf);
            }
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        if let Poll::Ready(late) = hello.poll_late(cx) {
            return Poll::Ready(Err(late));
        }
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        let heard = hello.heard + buf.filled().len() - before;
        hello.heard = heard;
        if heard >= Hello::LENGTH {
            self.hello = None;
        }
        read
    }
}

// All forwarded, the vectored calls too: without them h2 copies payloads of up to 1,024 bytes into its own buffer.
impl<S: AsyncRead + AsyncWrite + Unpin, I: Unpin, P: Unpin> AsyncWrite for Connection<S, I, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

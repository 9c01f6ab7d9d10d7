//! Many small answers, one write.
//!
//! HTTP/2 libraries write each payload by itself, and each write wakes the other side. Here what one turn of the connection's task
//! writes is gathered and sent at its next turn, which comes as soon as every stream that is ready has had its own: with sixteen
//! sessions on a connection that is one system call and one wake-up in place of sixteen. A payload too large to gather goes straight on.
//!
//! What is gathered may hold values: it is wiped once it is sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::secret::wipe_bytes;

/// What is gathered at the most. Some forty hand-outs.
const ROOM: usize = 16 * 1024;

/// A stream whose writes are gathered. Whoever uses it must come back to it, to read or to flush, whenever its task is woken.
pub struct Gather<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// Was there a write since the last flush? Then the turn is not over, and there may be more.
    fresh: bool,
}

impl<S> Gather<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, gathered: Vec::new(), sent: 0, fresh: false }
    }

    fn clear(&mut self) {
        wipe_bytes(&mut self.gathered);
        self.gathered.clear();
        self.sent = 0;
    }
}

impl<S> Drop for Gather<S> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Sends all that is gathered.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fresh = false;
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The next turn begins with a read: what the last one gathered goes out now. Where it cannot, reading goes on.
        if let Poll::Ready(sent) = this.poll_send(cx) {
            sent?;
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if this.gathered.len() + length > ROOM {
            ready!(this.poll_send(cx))?;
        }
        if length > ROOM {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        }
        if this.gathered.is_empty() {
            // All of it at once: a buffer that grows leaves copies behind.
            this.gathered.reserve_exact(ROOM);
            // For the next turn.
            cx.waker().wake_by_ref();
        }
        parts.iter().for_each(|part| this.gathered.extend_from_slice(part));
        this.fresh = true;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        // Otherwise h2 copies payloads of up to 1,024 bytes into a buffer of its own, which nobody wipes.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.fresh) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn write(gather: &mut Gather<tokio::io::DuplexStream>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(gather).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn flush(gather: &mut Gather<tokio::io::DuplexStream>) -> Poll<io::Result<()>> {
        Pin::new(gather).poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn what_one_turn_writes_goes_out_at_the_next() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut gather = Gather::new(ours);
        for part in [b"one ".as_slice(), b"two ", b"three"] {
            assert!(matches!(write(&mut gather, part), Poll::Ready(Ok(_))));
            assert!(matches!(flush(&mut gather), Poll::Ready(Ok(()))));
        }
        let mut text = [0; 64];
        let early = tokio::time::timeout(std::time::Duration::from_millis(10), theirs.read(&mut text)).await;
        assert!(early.is_err(), "nothing is sent within the turn");
        assert!(matches!(flush(&mut gather), Poll::Ready(Ok(()))));
        let length = theirs.read(&mut text).await.unwrap();
        assert_eq!(&text[..length], b"one two three");
        assert!(gather.gathered.is_empty() && gather.gathered.capacity() >= ROOM);
    }

    #[tokio::test]
    async fn whatever_the_sizes_nothing_is_lost_or_moved() {
        // A narrow pipe, so that sends are cut short as well.
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let sizes = [1, 400, 16_000, 500, ROOM, ROOM + 1, 70_000, 3, 0, 12_000, 9_000];
        let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, size)| vec![i as u8; *size]).collect();
        let all = sent.concat();
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).await.unwrap();
            received
        });
        let mut gather = Gather::new(ours);
        for part in &sent {
            gather.write_all(part).await.unwrap();
        }
        gather.shutdown().await.unwrap();
        drop(gather);
        assert!(reading.await.unwrap() == all);
    }

    #[test]
    fn what_is_sent_is_wiped() {
        let (ours, _theirs) = tokio::io::duplex(1 << 20);
        let mut gather = Gather::new(ours);
        let _ = write(&mut gather, b"a value");
        let (_, _) = (flush(&mut gather), flush(&mut gather));
        // SAFETY: the bytes are within the vector's capacity, and were written.
        let left = unsafe { std::slice::from_raw_parts(gather.gathered.as_ptr(), 7) };
        assert_eq!(left, [0; 7]);
    }
}

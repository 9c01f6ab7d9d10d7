//! A caller's connection, which reads only what the caller itself wrote.
//!
//! Who connected and who asks need not be the same: a socket can be inherited by a child, or sent to another process, and all that
//! `SO_PEERCRED` and `SO_PEERPIDFD` ever name is who connected. So here the kernel attaches the sender to each message
//! (`SO_PASSCRED`), and bytes of any other process end the connection. A sender cannot name another process than itself, unless it
//! has `CAP_SYS_ADMIN`.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

use super::{Attestor, Caller, Refusal, kernel};

/// A connection of an attested caller.
#[derive(Debug)]
pub struct PeerStream {
    inner: UnixStream,
    caller: Arc<Caller>,
    /// Once someone else has written, nothing more is read: not from the caller either.
    refused: Option<Refusal>,
}

impl PeerStream {
    /// To be called on a listening socket before `listen`: each connection has it from its first byte on. On a socket that already
    /// listens, connections that wait in its queue do not have it, and what they send before they are accepted is refused; so a
    /// socket that systemd opens needs `PassCredentials=yes` in its unit.
    ///
    /// # Errors
    /// As setsockopt(2) of `SO_PASSCRED`.
    pub fn prepare(listener: &impl AsFd) -> io::Result<()> {
        Ok(kernel::name_senders(listener)?)
    }

    /// Attests the caller of an accepted connection.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub async fn attest(stream: UnixStream, attestor: &Attestor) -> Result<Self, Refusal> {
        // Where the listener was prepared this is set already; where not, what was sent without credentials is refused.
        kernel::name_senders(&stream).map_err(|e| Refusal::kernel("SO_PASSCRED", e))?;
        if !attestor.settings().executable {
            let caller = Caller::of(&stream, attestor)?;
            return Ok(Self::new(stream, caller));
        }
        // A program seen for the first time takes as long as its file takes to read.
        let attestor = attestor.clone();
        let attested =
            tokio::task::spawn_blocking(move || Caller::of(&stream, &attestor).map(|caller| Self::new(stream, caller)));
        attested.await.unwrap_or_else(|e| Err(Refusal::from_io("attestation", &e.into())))
    }

    fn new(inner: UnixStream, caller: Caller) -> Self {
        Self { inner, caller: Arc::new(caller), refused: None }
    }

    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Is what was just read the caller's own?
    fn check(&self, sender: Option<kernel::Credentials>) -> Result<(), Refusal> {
        // The kernel leaves pid 0 on what was sent before the socket was prepared, and on what comes from another pid namespace.
        let sender = sender.filter(|sender| sender.pid != 0).ok_or(Refusal::NoSender)?;
        let attested = self.caller.peer().process.pid;
        if sender.pid != attested {
            return Err(Refusal::OtherSender { attested, sender: sender.pid });
        }
        // The number is the caller's until the caller is reaped. That it was not, each use of what was read asks for itself, by
        // `recheck`: asking here as well would cost every hand-out one more call, and prove nothing more.
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) -> io::Error {
        self.refused = Some(refusal);
        let _ = rustix::net::shutdown(&self.inner, rustix::net::Shutdown::Both);
        refusal.into()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refusal) = this.refused {
            return Poll::Ready(Err(refusal.into()));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.inner.poll_read_ready(cx))?;
            // SAFETY: nothing is written through it but what the kernel writes.
            let unfilled = unsafe { buffer.unfilled_mut() };
            // A short read does not mean that the queue is empty, as it would elsewhere: the kernel stops before another sender's
            // bytes, and those are to end the connection now. So only the kernel says "would block".
            let received = this.inner.try_io(Interest::READABLE, || Ok(kernel::receive(this.inner.as_fd(), unfilled)?));
            let (read, sender) = match received {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                outcome => outcome?,
            };
            if read > 0
                && let Err(refusal) = this.check(sender)
            {
                return Poll::Ready(Err(this.refuse(refusal)));
            }
            // SAFETY: the kernel has written that many bytes to the unfilled part.
            unsafe { buffer.assume_init(read) };
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Each request's extensions carry its caller.
impl Connected for PeerStream {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.caller)
    }
}

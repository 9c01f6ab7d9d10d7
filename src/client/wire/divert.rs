//! Keeps values out of the HTTP/2 library's memory.
//!
//! That library reads into a buffer which lives as long as the connection, and hands out parts of it: a value would stay there until
//! others overwrite it. So the connection is read here, frame by frame (RFC 9113, section 4.1). What a DATA frame carries goes to a
//! buffer of ours, which is wiped as it is read; the library gets zeros of the same number, which is all that it needs to keep its
//! accounts.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::{Zeroize, Zeroizing};

use super::super::destination::Stream;

/// Read from the socket at once.
const BUFFER: usize = 16 * 1024;
const HEADER: usize = 9;
const DATA: u8 = 0;
/// A DATA frame may have padding, of which its reader hears nothing. The daemon sends none.
const PADDED: u8 = 8;

/// The connection, as the library sees it.
pub struct Divert {
    socket: Box<dyn Stream>,
    raw: Zeroizing<Vec<u8>>,
    /// What of `raw` was not looked at yet.
    unread: std::ops::Range<usize>,
    at: At,
    taken: Taken,
    /// The connection's preface (RFC 9113, section 3.4), which the library writes by itself: it waits here for the first frames, so that
    /// the daemon is woken once for all of it.
    preface: Option<Vec<u8>>,
}

/// Where in the sequence of frames the next byte stands.
enum At {
    Header([u8; HEADER], usize),
    Payload { left: usize, data: bool },
}

/// What DATA frames carried, in order. Shared by the connection and who reads the stream.
#[derive(Clone, Default)]
pub struct Taken(Arc<Mutex<Zeroizing<Vec<u8>>>>);

impl Taken {
    /// The next so many bytes, which have come: the library has said so.
    pub fn take(&self, count: usize) -> Zeroizing<Vec<u8>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count >= all.len() {
            return std::mem::take(&mut *all);
        }
        let first = Zeroizing::new(all[..count].to_vec());
        let rest = Zeroizing::new(all[count..].to_vec());
        *all = rest;
        first
    }

    fn add(&self, bytes: &[u8]) {
        super::grow(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), bytes);
    }
}

impl Divert {
    pub fn new(socket: Box<dyn Stream>) -> (Self, Taken) {
        let (raw, taken) = (Zeroizing::new(vec![0; BUFFER]), Taken::default());
        (Self { socket, raw, unread: 0..0, at: At::Header([0; HEADER], 0), taken: taken.clone(), preface: None }, taken)
    }

    /// Passes on as much as there is room for.
    fn pass(&mut self, to: &mut ReadBuf<'_>) -> io::Result<()> {
        while !self.unread.is_empty() && to.remaining() > 0 {
            let start = self.unread.start;
            let most = self.unread.len().min(to.remaining());
            let used = match &mut self.at {
                At::Header(header, have) => {
                    let used = most.min(HEADER - *have);
                    let bytes = &self.raw[start..start + used];
                    header[*have..*have + used].copy_from_slice(bytes);
                    to.put_slice(bytes);
                    *have += used;
                    if *have == HEADER {
                        self.at = payload(header)?;
                    }
                    used
                }
                At::Payload { left, data } => {
                    let used = most.min(*left);
                    let bytes = &mut self.raw[start..start + used];
                    if *data {
                        self.taken.add(bytes);
                        bytes.zeroize();
                    }
                    to.put_slice(bytes);
                    *left -= used;
                    if *left == 0 {
                        self.at = At::Header([0; HEADER], 0);
                    }
                    used
                }
            };
            self.unread.start += used;
        }
        Ok(())
    }
}

/// What follows this header.
fn payload(header: &[u8; HEADER]) -> io::Result<At> {
    let [high, middle, low, kind, flags, ..] = *header;
    let left = u32::from_be_bytes([0, high, middle, low]) as usize;
    if kind == DATA && flags & PADDED != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame has padding"));
    }
    Ok(if left == 0 { At::Header([0; HEADER], 0) } else { At::Payload { left, data: kind == DATA } })
}

impl AsyncRead for Divert {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.is_empty() {
            let mut buffer = ReadBuf::new(&mut this.raw);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer))?;
            this.unread = 0..buffer.filled().len();
        }
        Poll::Ready(this.pass(to))
    }
}

impl Divert {
    /// Writes what of the preface waits still, together with what follows it. How much of that was written.
    fn poll_write_after_preface(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while let Some(preface) = self.preface.as_mut().filter(|preface| !preface.is_empty()) {
            let all: Vec<_> = [io::IoSlice::new(preface)].into_iter().chain(slices.iter().copied()).collect();
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &all))?;
            let further = written.saturating_sub(preface.len());
            preface.drain(..written.min(preface.len()));
            if written == 0 || further > 0 {
                return Poll::Ready(Ok(further));
            }
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }
}

impl AsyncWrite for Divert {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.preface {
            None => {
                self.preface = Some(bytes.to_vec());
                Poll::Ready(Ok(bytes.len()))
            }
            Some(_) => self.poll_write_after_preface(cx, &[io::IoSlice::new(bytes)]),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.preface.as_ref().is_some_and(|preface| !preface.is_empty()) {
            ready!(self.poll_write_after_preface(cx, &[]))?;
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.preface.get_or_insert_default();
        self.poll_write_after_preface(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

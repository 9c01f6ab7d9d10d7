//! gRPC frames and bodies made by hand, for the answers that carry a value.
//!
//! tonic's own encoder copies each message into a buffer that a stream keeps for its whole life. Here a frame is one allocation,
//! filled straight from the protected page, handed to the connection without a copy, and wiped when the last reference goes. At least
//! [`HEAD`] bytes stand before the value, because HTTP/2 copies the start of each payload into a buffer that lives as long as the
//! connection (h2 copies payloads under 256 bytes whole, and about 247 bytes of longer ones). A message that is cut into several
//! payloads has more starts than one: there [`TAIL`] bytes stand *after* the last value too, so that the last payload starts with
//! them, and what was copied of the value is overwritten.
//!
//! What this does not reach: a peer whose flow-control window ends within a value makes HTTP/2 cut there, and the rest of that value
//! stands in its own connection's buffer until the next message or the connection's end (tests/memory.rs measures it).

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{Code, Status, body::Body};

use crate::{broker::Handout, secret::wipe_bytes};

/// Bytes before a value, at the least. h2's limit is 256; the rest is margin, checked by the memory scan in the tests.
const HEAD: usize = 320;

/// The largest payload that HTTP/2 sends unless a peer asks for more (RFC 9113, 4.2).
const PAYLOAD: usize = 16 * 1024;
/// Bytes after the last value of a message that does not fit one payload.
const TAIL: usize = PAYLOAD + HEAD;

/// A frame that holds a value, wiped when dropped.
struct Wiped(Vec<u8>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe_bytes(&mut self.0);
    }
}

/// The gRPC frame of a message without a value: a flag that says "not compressed", the length in four bytes, the message.
pub fn plain(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(5 + length);
    frame.push(0);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode_raw(&mut frame);
    frame.into()
}

/// The frame of `SessionResponse { secret }`.
pub fn session_secret(id: u64, handout: &Handout) -> Bytes {
    wrapped(2, &mut [Sized::of(id, handout)])
}

/// The frame of `GetSecretsResponse { secrets }`.
pub fn get_secrets(handouts: &[Handout]) -> Bytes {
    let mut secrets: Vec<_> = handouts.iter().map(|handout| Sized::of(0, handout)).collect();
    wrapped(1, &mut secrets)
}

/// One message whose field `tag` holds these `Secret` messages.
fn wrapped(tag: u32, secrets: &mut [Sized<'_>]) -> Bytes {
    let length_of = |secrets: &[Sized<'_>]| secrets.iter().map(|secret| field_len(tag, secret.length)).sum();
    let mut length: usize = length_of(secrets);
    if let Some(last) = secrets.last_mut().filter(|_| 5 + length > PAYLOAD) {
        last.add_tail();
        length = length_of(secrets);
    }
    // The capacity is exact: growing would leave a copy behind.
    let mut frame = Vec::with_capacity(5 + length);
    frame.push(0);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    for secret in secrets {
        encode_key(tag, WireType::LengthDelimited, &mut frame);
        encode_varint(secret.length as u64, &mut frame);
        secret.encode(&mut frame);
    }
    debug_assert_eq!(frame.len(), 5 + length);
    Bytes::from_owner(Wiped(frame))
}

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// A `valetkey.v1.Secret` that is about to be encoded, with its length.
struct Sized<'a> {
    id: u64,
    age: u64,
    name: &'a str,
    version: &'a str,
    handout: &'a Handout,
    /// Whether padding follows the value.
    tail: bool,
    length: usize,
}

const PAD: u32 = 1;
const ID: u32 = 2;
const NAME: u32 = 3;
const VERSION: u32 = 4;
const AGE: u32 = 5;
const VALUE: u32 = 15;

impl<'a> Sized<'a> {
    fn of(id: u64, handout: &'a Handout) -> Self {
        let (name, version) = (handout.secret.as_str(), handout.held.version.as_str());
        let age = handout.age().as_secs();
        let number = |tag, value: u64| if value == 0 { 0 } else { key_len(tag) + encoded_len_varint(value) };
        let length = field_len(PAD, HEAD)
            + number(ID, id)
            + field_len(NAME, name.len())
            + field_len(VERSION, version.len())
            + number(AGE, age)
            + field_len(VALUE, handout.held.value_len());
        Self { id, age, name, version, handout, tail: false, length }
    }

    /// A field may stand twice: whoever reads takes the last, and ignores this one either way.
    fn add_tail(&mut self) {
        self.tail = true;
        self.length += field_len(PAD, TAIL);
    }

    fn encode(&self, frame: &mut Vec<u8>) {
        let start = |tag, length: usize, frame: &mut Vec<u8>| {
            encode_key(tag, WireType::LengthDelimited, frame);
            encode_varint(length as u64, frame);
        };
        let number = |tag, value: u64, frame: &mut Vec<u8>| {
            if value != 0 {
                encode_key(tag, WireType::Varint, frame);
                encode_varint(value, frame);
            }
        };
        start(PAD, HEAD, frame);
        frame.resize(frame.len() + HEAD, 0);
        number(ID, self.id, frame);
        start(NAME, self.name.len(), frame);
        frame.extend_from_slice(self.name.as_bytes());
        start(VERSION, self.version.len(), frame);
        frame.extend_from_slice(self.version.as_bytes());
        number(AGE, self.age, frame);
        start(VALUE, self.handout.held.value_len(), frame);
        self.handout.held.expose(|value| frame.extend_from_slice(value));
        if self.tail {
            start(PAD, TAIL, frame);
            frame.resize(frame.len() + TAIL, 0);
        }
    }
}

/// Where a [`told`] body's story puts its frames.
#[derive(Clone, Default)]
pub struct Out {
    slot: Arc<Mutex<Option<Bytes>>>,
}

impl Out {
    /// Hands a frame to the connection, and comes back when it has room for another.
    pub async fn send(&self, frame: Bytes) {
        *self.slot() = Some(frame);
        let mut given = false;
        // Pending once without a waker: the body is polled again as soon as the connection can take more.
        poll_fn(|_| if std::mem::replace(&mut given, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Bytes>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Told<F> {
    story: Option<Pin<Box<F>>>,
    out: Out,
}

impl<F: Future<Output = Result<(), Status>> + Send + 'static> http_body::Body for Told<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(story) = &mut self.story else { return Poll::Ready(None) };
        let told = story.as_mut().poll(cx);
        if let Some(frame) = self.out.slot().take() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let Poll::Ready(end) = told else { return Poll::Pending };
        self.story = None;
        let status = end.err().unwrap_or_else(|| Status::new(Code::Ok, ""));
        let mut trailers = http::HeaderMap::with_capacity(3);
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

/// A response whose body is told by an async function: it sends frames to `Out` and ends with the status.
pub fn told<F>(story: impl FnOnce(Out) -> F) -> http::Response<Body>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let out = Out::default();
    let story = Some(Box::pin(story(out.clone())));
    let mut response = http::Response::new(Body::new(Told { story, out }));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

#[cfg(test)]
pub(super) mod tests;

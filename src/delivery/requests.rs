//! The messages in a request's body, read where they lie.
//!
//! tonic's decoder copies each into a buffer of its own first. Nearly always one payload holds one whole message, and then nothing
//! needs copying: at the rate of hand-outs that is worth a file.

use std::{
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body as _;
use prost::Message;
use tonic::{Status, body::Body};

use super::status;

/// The largest message that a tool may send: a scope of 1,000 long names fits.
pub const MAX_REQUEST: usize = 256 * 1024;
/// A flag that says "not compressed", and a length in four bytes, stand before each message.
const PREFIX: usize = 5;

/// What a caller sends, message by message.
pub struct Requests<T> {
    body: Body,
    /// What of the last payload has not been read. Empty while there is a beginning.
    payload: Bytes,
    /// The beginning of a message that is cut into several payloads.
    beginning: BytesMut,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Requests<T> {
    pub fn new(body: Body) -> Self {
        Self { body, payload: Bytes::new(), beginning: BytesMut::new(), message: PhantomData }
    }

    /// The next message; `None` when the caller has sent its last. After an error there is nothing more to come.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await.transpose()
    }

    /// The same, for those who wait for something else as well.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        loop {
            let whole = if self.beginning.is_empty() { take(&mut self.payload) } else { take(&mut self.beginning) };
            match whole {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            if !self.payload.is_empty() {
                self.beginning.extend_from_slice(&std::mem::take(&mut self.payload));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing here that we need.
                    let Ok(payload) = frame.into_data() else { continue };
                    if self.beginning.is_empty() {
                        self.payload = payload;
                    } else {
                        self.beginning.extend_from_slice(&payload);
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.beginning.is_empty() => return Poll::Ready(None),
                None => {
                    self.beginning.clear();
                    return Poll::Ready(Some(Err(status::bad_request("the last message is cut off"))));
                }
            }
        }
    }
}

/// Takes the message that the bytes begin with, if all of it is there.
fn take<T: Message + Default>(bytes: &mut impl Buf) -> Result<Option<T>, Status> {
    let there = bytes.chunk();
    let Some((prefix, rest)) = there.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, a, b, c, d] = *prefix;
    if compressed != 0 {
        return Err(Status::unimplemented("compressed messages are not taken: send them as they are"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_REQUEST {
        return Err(Status::out_of_range(format!("a message of {length} bytes is too large: {MAX_REQUEST} is the most")));
    }
    let Some(message) = rest.get(..length) else { return Ok(None) };
    // The decoder's own words would repeat nothing of the message, and help nobody either.
    let message = T::decode(message).map_err(|_| status::bad_request("the message is not the one that this call takes"))?;
    bytes.advance(PREFIX + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::v1::Get;

    /// A body that comes in these payloads.
    struct Cut(VecDeque<Bytes>);

    impl http_body::Body for Cut {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|payload| Ok(Frame::data(payload))))
        }
    }

    fn read(payloads: impl IntoIterator<Item = Vec<u8>>) -> (Vec<Get>, Option<Status>) {
        let mut requests = Requests::new(Body::new(Cut(payloads.into_iter().map(Bytes::from).collect())));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut messages = Vec::new();
        loop {
            match requests.poll_next(&mut cx) {
                Poll::Ready(Some(Ok(message))) => messages.push(message),
                Poll::Ready(Some(Err(status))) => return (messages, Some(status)),
                Poll::Ready(None) => return (messages, None),
                Poll::Pending => panic!("this body never waits"),
            }
        }
    }

    fn get(id: u64) -> Get {
        Get { id, name: "x".repeat(id as usize % 40), fresh: false }
    }

    fn framed(messages: &[Get]) -> Vec<u8> {
        messages.iter().flat_map(|message| super::super::frame::plain(message).to_vec()).collect()
    }

    proptest! {
        /// However the bytes are cut, the messages are the same.
        #[test]
        fn messages_come_out_whole(count in 0..20u64, cuts in prop::collection::vec(0..50usize, 0..40)) {
            let sent: Vec<_> = (0..count).map(get).collect();
            let mut rest = framed(&sent);
            let mut payloads = Vec::new();
            for cut in cuts {
                let after = rest.split_off(cut.min(rest.len()));
                payloads.push(std::mem::replace(&mut rest, after));
            }
            payloads.push(rest);
            let (received, end) = read(payloads);
            prop_assert_eq!(received, sent);
            prop_assert!(end.is_none());
        }

        #[test]
        fn nonsense_is_an_error_and_no_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..10)) {
            read(payloads);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let code = |bytes: Vec<u8>| read([bytes]).1.map(|status| status.code());
        let whole = framed(&[get(7)]);
        assert_eq!(code(whole[..whole.len() - 1].to_vec()), Some(tonic::Code::InvalidArgument), "cut off");
        assert_eq!(code([&[1], &whole[1..]].concat()), Some(tonic::Code::Unimplemented), "compressed");
        assert_eq!(code(vec![0, 0xff, 0, 0, 0]), Some(tonic::Code::OutOfRange), "too large, said before it is sent");
        assert_eq!(code(vec![0, 0, 0, 0, 2, 0x0f, 0xff]), Some(tonic::Code::InvalidArgument), "no message");
    }
}

//! One `Session` stream over HTTP/2, without the layers that a client of many calls needs: a launcher pays for each of them at the
//! start of every tool.

mod divert;

use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use prost::Message;
use tonic::Status;
use zeroize::Zeroizing;

use super::{
    Error,
    destination::{Destination, Opened},
};
use crate::proto::v1::{SessionRequest, SessionResponse};
use divert::{Divert, Taken};

/// The largest answer: no source gives a longer value than a sealed file can, and that is 16 MiB.
const MAX_RESPONSE: usize = 17 * 1024 * 1024;
/// What the daemon may send before it hears that some was read: more than a launcher's secrets together, as a rule.
const WINDOW: u32 = 1 << 20;
/// A gRPC message's prefix: a byte that says whether it is compressed, and four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// What goes up.
pub struct Up(SendStream<Bytes>);

/// What comes down.
pub struct Down {
    stream: Incoming,
    /// What the stream's frames carried.
    taken: Taken,
    /// What of it was not read yet: messages, and the start of one whose rest is still to come.
    unread: Zeroizing<Vec<u8>>,
}

/// A call is answered in two steps, and the first may come late.
enum Incoming {
    Asked(client::ResponseFuture),
    Answered(RecvStream),
    Over,
}

/// Opens a stream to this daemon.
pub async fn open(to: &Destination) -> Result<(Up, Down), Error> {
    let unreachable = |detail: &dyn Display| to.unreachable(&detail.to_string());
    let Opened { stream: connection, origin, token } = to.connect().await?;
    let mut settings = client::Builder::new();
    settings.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (connection, taken) = Divert::new(connection);
    let (mut calls, driver) = settings.handshake(connection).await.map_err(|error| unreachable(&error))?;
    // It ends when both halves of the stream are gone. What breaks it, whoever reads the stream is told.
    tokio::spawn(async move { drop(driver.await) });
    let request = Request::post(format!("{origin}/valetkey.v1.Broker/Session")).header("content-type", "application/grpc");
    let request = match token {
        Some(token) => request.header(AUTHORIZATION, bearer(&token).map_err(|error| unreachable(&error))?),
        None => request,
    };
    let request = request.header("te", "trailers").body(()).map_err(|error| unreachable(&error))?;
    let (answer, up) = calls.send_request(request, false).map_err(|error| unreachable(&error))?;
    Ok((Up(up), Down { stream: Incoming::Asked(answer), taken, unread: Zeroizing::default() }))
}

/// Not to be kept in the tables that compress headers, on either side.
fn bearer(token: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::try_from(Zeroizing::new(format!("Bearer {token}")).as_str())?;
    value.set_sensitive(true);
    Ok(value)
}

impl Up {
    /// Sends a message, or keeps it until the daemon has room. Where the connection is gone, the stream ends too, and says so.
    pub fn send(&mut self, message: &SessionRequest) {
        let mut frame = BytesMut::with_capacity(PREFIX + message.encoded_len());
        frame.put_u8(0);
        frame.put_u32(message.encoded_len() as u32);
        // It fits: there is as much room as it said that it needs.
        let _ = message.encode(&mut frame);
        drop(self.0.send_data(frame.freeze(), false));
    }

    #[cfg(feature = "run")]
    /// Says that no more is coming.
    pub fn finish(&mut self) {
        drop(self.0.send_data(Bytes::new(), true));
    }
}

impl Down {
    /// The next message; `None` where the daemon has ended the stream without complaint. Can be cancelled without losing one.
    pub async fn message(&mut self) -> Result<Option<SessionResponse>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// A message that is there as a whole. What was read is wiped.
    fn take(&mut self) -> Result<Option<SessionResponse>, Status> {
        let Some(len) = length(&self.unread)?.filter(|len| self.unread.len() >= *len) else { return Ok(None) };
        let message = decode(&self.unread[PREFIX..len])?;
        self.unread = Zeroizing::new(self.unread[len..].to_vec());
        Ok(Some(message))
    }

    /// Waits for more bytes. `false`: there are none.
    async fn receive(&mut self) -> Result<bool, Status> {
        if let Incoming::Asked(answer) = &mut self.stream {
            let answer = answer.await.map_err(broken)?;
            // A call that is refused at once has its status here.
            if let Some(status) = Status::from_header_map(answer.headers()) {
                self.stream = Incoming::Over;
                return if status.code() == tonic::Code::Ok { Ok(false) } else { Err(status) };
            }
            self.stream = Incoming::Answered(answer.into_body());
        }
        let Incoming::Answered(stream) = &mut self.stream else { return Ok(false) };
        match stream.data().await {
            Some(chunk) => {
                let chunk = chunk.map_err(broken)?;
                drop(stream.flow_control().release_capacity(chunk.len()));
                grow(&mut self.unread, &self.taken.take(chunk.len()));
                Ok(true)
            }
            None => {
                let trailers = stream.trailers().await.map_err(broken)?;
                self.stream = Incoming::Over;
                let status = trailers.as_ref().and_then(Status::from_header_map);
                match status.unwrap_or_else(|| Status::unavailable("it closed the connection")) {
                    status if status.code() == tonic::Code::Ok => Ok(false),
                    status => Err(status),
                }
            }
        }
    }
}

/// The length of the message that begins here, its prefix included; `None` where not even the prefix is there.
fn length(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let Some((&[compressed, ref len @ ..], _)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len) as usize;
    if compressed != 0 || len > MAX_RESPONSE {
        return Err(Status::internal("the answer is compressed or too long"));
    }
    Ok(Some(PREFIX + len))
}

/// Appends without leaving a copy where the bytes were before.
fn grow(buffer: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    if buffer.capacity() - buffer.len() < more.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((buffer.len() + more.len()).next_power_of_two()));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(more);
}

fn decode(bytes: impl bytes::Buf) -> Result<SessionResponse, Status> {
    SessionResponse::decode(bytes).map_err(|_| Status::internal("the answer is no message of this contract"))
}

/// The connection broke, or was broken off. No reason of the daemon's: trying again may help.
fn broken(error: h2::Error) -> Status {
    Status::unavailable(error.to_string())
}

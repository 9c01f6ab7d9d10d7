//! The load: N streams or N unary calls under way on one connection, always the same bytes up, only lengths looked at.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use valetkey::proto::v1::{CloseSessionRequest, Get, GetSecretsRequest, Open, Opened, SessionRequest, session_request::Request};

use crate::daemon::{Host, channel};

/// Bytes in, bytes out.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Stream,
    Unary,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Unary => "unary",
        }
    }
}

/// Where to send what.
#[derive(Clone)]
pub struct Load {
    socket: PathBuf,
    shape: Shape,
    pub count: usize,
    /// Opens a session first, where there is one to open.
    session: bool,
}

/// Rates and waits of one window.
pub struct Measured {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

/// Lengths of a stream's and of a unary call's answer.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub stream: usize,
    pub unary: usize,
}

fn open() -> Open {
    Open { tool: "bench".into(), scope: vec!["bench/key".into()], ..Default::default() }
}

fn stream_request(request: Request) -> Bytes {
    SessionRequest { request: Some(request) }.encode_to_vec().into()
}

fn get() -> Bytes {
    stream_request(Request::Get(Get { id: 1, name: "bench/key".into(), fresh: false }))
}

async fn client(socket: &std::path::Path) -> tonic::client::Grpc<Channel> {
    tonic::client::Grpc::new(channel(socket).await)
}

async fn unary(client: &mut tonic::client::Grpc<Channel>, path: &'static str, request: Bytes) -> Bytes {
    client.ready().await.expect("a connection");
    let path = PathAndQuery::from_static(path);
    client.unary(tonic::Request::new(request), path, Raw).await.expect("an answer").into_inner()
}

const GET_SECRETS: &str = "/valetkey.v1.Broker/GetSecrets";
const SESSION: &str = "/valetkey.v1.Broker/Session";

/// Opens a session where there is one to open, and makes the request for its secret.
async fn unary_get(client: &mut tonic::client::Grpc<Channel>, session: bool) -> (String, Bytes) {
    let session = if session {
        let opened = unary(client, "/valetkey.v1.Broker/OpenSession", open().encode_to_vec().into()).await;
        Opened::decode(opened).expect("an opened session").session
    } else {
        "0".repeat(32)
    };
    let request = GetSecretsRequest { session: session.clone(), names: vec!["bench/key".into()], fresh: false };
    (session, request.encode_to_vec().into())
}

async fn close(client: &mut tonic::client::Grpc<Channel>, session: String) {
    unary(client, "/valetkey.v1.Broker/CloseSession", CloseSessionRequest { session }.encode_to_vec().into()).await;
}

/// A stream on which one request is under way at a time.
struct Stream {
    up: tokio::sync::mpsc::Sender<Bytes>,
    down: tonic::Streaming<Bytes>,
}

impl Stream {
    async fn open(client: &mut tonic::client::Grpc<Channel>, session: bool) -> Self {
        let (up, requests) = tokio::sync::mpsc::channel(4);
        let requests = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
        if session {
            up.send(stream_request(Request::Open(open()))).await.expect("an open stream");
        }
        client.ready().await.expect("a connection");
        let down = client.streaming(requests, PathAndQuery::from_static(SESSION), Raw).await.expect("a stream").into_inner();
        let mut stream = Self { up, down };
        if session {
            stream.down.message().await.expect("an answer").expect("an opened session");
        }
        stream
    }

    async fn round(&mut self, request: &Bytes) -> usize {
        self.up.send(request.clone()).await.expect("an open stream");
        self.down.message().await.expect("an answer").expect("an answer").len()
    }
}

/// What the daemon's answers weigh, so that the echo's weigh the same.
pub async fn answer_sizes(host: &Host) -> Sizes {
    let mut grpc = client(&host.tools_socket()).await;
    let stream = Stream::open(&mut grpc, true).await.round(&get()).await;
    let (session, request) = unary_get(&mut grpc, true).await;
    let unary = unary(&mut grpc, GET_SECRETS, request).await.len();
    close(&mut grpc, session).await;
    Sizes { stream, unary }
}

impl Load {
    pub fn daemon(host: &Host, shape: Shape, count: usize) -> Self {
        Self { socket: host.tools_socket(), shape, count, session: true }
    }

    pub fn echo(socket: &std::path::Path, shape: Shape, count: usize) -> Self {
        Self { socket: socket.into(), shape, count, session: false }
    }

    /// One window: connect, warm up, measure.
    pub async fn run(&self, window: Duration) -> Measured {
        let mut grpc = client(&self.socket).await;
        let (mut streams, mut sessions, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.count {
            match self.shape {
                Shape::Stream => streams.push(Stream::open(&mut grpc, self.session).await),
                Shape::Unary => {
                    let (session, request) = unary_get(&mut grpc, self.session).await;
                    sessions.push(session);
                    requests.push(request);
                }
            }
        }
        let begins = Instant::now() + window / 5;
        let ends = begins + window;
        let mut tasks = tokio::task::JoinSet::new();
        for mut stream in streams {
            let request = get();
            tasks.spawn_local(async move { timed(begins, ends, async || stream.round(&request).await).await });
        }
        for request in requests {
            let mut grpc = grpc.clone();
            let call = async move || unary(&mut grpc, GET_SECRETS, request.clone()).await.len();
            tasks.spawn_local(timed(begins, ends, call));
        }
        let waits = tasks.join_all().await.concat();
        for session in sessions.into_iter().filter(|_| self.session) {
            close(&mut grpc, session).await;
        }
        measured(waits, window)
    }
}

/// Calls again and again; the waits of those calls that ended inside the window.
pub async fn timed(begins: Instant, ends: Instant, mut call: impl AsyncFnMut() -> usize) -> Vec<Duration> {
    let mut waits = Vec::with_capacity(100_000);
    let mut before = Instant::now();
    while before < ends {
        assert!(call().await > 64, "an answer without a value");
        let now = Instant::now();
        if now >= begins && now < ends {
            waits.push(now - before);
        }
        before = now;
    }
    waits
}

pub fn measured(mut waits: Vec<Duration>, window: Duration) -> Measured {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Measured { per_second: waits.len() as f64 / window.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

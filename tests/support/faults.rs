//! What can stand between a daemon and its store: a proxy whose faults can be switched at run time, and which counts what goes by.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

/// What the proxy does to whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Pass,
    /// Nobody listens.
    Refuse,
    /// Takes the connection and resets it.
    Reset,
    /// Takes the connection and says nothing for ever.
    Hang,
    /// Gives the answer byte by byte, one each tenth of a second.
    Drip,
    /// Gives this answer to every request.
    Answer(&'static str),
    /// Hands on the first half of each answer, and closes.
    Half,
    /// Hands on what the client says first, answers with a few bytes of the server's, and closes: the middle of a TLS handshake.
    Cut,
    /// Another server, on this port: for TLS, one with another certificate.
    Elsewhere(u16),
    /// Hands on every answer after this time.
    Late(Duration),
}

/// Asks for a second of patience.
pub const TOO_MANY: Fault = Fault::Answer(
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n\
     {\"errors\":[\"rate limit is exceeded\"]}",
);
pub const UNAVAILABLE: Fault =
    Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 31\r\n\r\n{\"errors\":[\"it is being mended\"]}");
pub const BAD_GATEWAY: Fault = Fault::Answer(
    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html><h1>502 Bad Gateway</h1></html>",
);
pub const PORTAL: Fault = Fault::Answer(
    "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html><h1>Please log in to the network</h1></html>",
);
pub const LANDING_PAGE: Fault = Fault::Answer(
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html><h1>Welcome to the hotel</h1></html>",
);

/// One HTTP request that went by, or came as far as the proxy.
#[derive(Debug, Clone)]
pub struct Seen {
    pub begun: Instant,
    /// `None` while it is under way.
    pub ended: Option<Instant>,
    /// Its first line, and the operation where that is in a header.
    pub what: String,
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    connections: Vec<Instant>,
    requests: Vec<Seen>,
    at_once: usize,
    most_at_once: usize,
    open: HashMap<usize, TcpStream>,
    listener: Option<TcpListener>,
    /// Of the present fault: whoever was served under an earlier one is served no more.
    turn: u64,
}

/// A listener of ours before a server. It stands aside when it is dropped.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    upstream: u16,
    /// Looks at requests; where the bytes are TLS, only at connections.
    plain: bool,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn plain(upstream: u16) -> Self {
        Self::new(upstream, true)
    }

    pub fn tls(upstream: u16) -> Self {
        Self::new(upstream, false)
    }

    fn new(upstream: u16, plain: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let proxy = Self { port, upstream, plain, state: Arc::default() };
        proxy.set(Fault::Pass);
        proxy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on; connections from before are cut.
    pub fn set(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = Some(fault);
        state.turn += 1;
        state.open.drain().for_each(|(_, stream)| _ = stream.shutdown(Shutdown::Both));
        if fault == Fault::Refuse {
            // What wakes the thread that accepts is the end of its listener.
            if let Some(listener) = state.listener.take() {
                rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both).unwrap();
            }
        } else if state.listener.is_none() {
            let listener = bind_again(self.port);
            state.listener = Some(listener.try_clone().unwrap());
            let proxy = self.clone();
            thread::spawn(move || proxy.accept(&listener));
        }
    }

    fn accept(&self, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            let (number, turn, fault) = {
                let mut state = self.state();
                state.connections.push(Instant::now());
                (state.connections.len(), state.turn, state.fault.unwrap())
            };
            if fault == Fault::Reset {
                // Closed with this set, a connection ends by RST.
                rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
                continue;
            }
            self.state().open.insert(number, client.try_clone().unwrap());
            let proxy = self.clone();
            thread::spawn(move || {
                let served = match fault {
                    Fault::Hang => hang(&client),
                    _ if proxy.plain => proxy.serve(&client, fault, turn),
                    _ => proxy.pass_bytes(&client, fault),
                };
                drop(served);
                let _ = client.shutdown(Shutdown::Both);
                proxy.state().open.remove(&number);
            });
        }
    }

    /// Requests and answers, one after the other.
    fn serve(&self, client: &TcpStream, fault: Fault, turn: u64) -> io::Result<()> {
        let mut upstream = None;
        while let Some(request) = read_message(client, Side::Request)? {
            let number = self.begin(&request);
            let answer = match fault {
                Fault::Answer(answer) => Ok(answer.as_bytes().to_vec()),
                _ => self.ask(&mut upstream, &request, fault),
            };
            // Before it is given: whoever has it may ask for the next already.
            self.end(number);
            give(client, &answer?, fault)?;
            if self.state().turn != turn {
                break;
            }
        }
        Ok(())
    }

    fn ask(&self, upstream: &mut Option<TcpStream>, request: &[u8], fault: Fault) -> io::Result<Vec<u8>> {
        if upstream.is_none() {
            *upstream = Some(TcpStream::connect(("127.0.0.1", self.upstream_of(fault)))?);
        }
        let server = upstream.as_mut().unwrap();
        server.write_all(request)?;
        let answer = read_message(server, Side::Answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Fault::Late(time) = fault {
            thread::sleep(time);
        }
        Ok(answer)
    }

    fn upstream_of(&self, fault: Fault) -> u16 {
        if let Fault::Elsewhere(port) = fault { port } else { self.upstream }
    }

    fn begin(&self, request: &[u8]) -> usize {
        let head = String::from_utf8_lossy(request);
        let target = head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-amz-target"));
        let what = format!("{} {}", head.lines().next().unwrap_or_default(), target.unwrap_or_default());
        let mut state = self.state();
        state.requests.push(Seen { begun: Instant::now(), ended: None, what, bytes: request.len() });
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        state.requests.len() - 1
    }

    fn end(&self, number: usize) {
        let mut state = self.state();
        state.requests[number].ended = Some(Instant::now());
        state.at_once -= 1;
    }

    fn pass_bytes(&self, client: &TcpStream, fault: Fault) -> io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", self.upstream_of(fault)))?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut chunk, mut given) = ([0; 16384], 0);
        loop {
            let read = (&server).read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            match fault {
                Fault::Cut => return (&*client).write_all(&chunk[..read.min(60)]),
                Fault::Half if given + read > 2000 => return (&*client).write_all(&chunk[..read / 2]),
                Fault::Drip => drip(client, &chunk[..read])?,
                Fault::Late(time) => thread::sleep(time),
                _ => {}
            }
            if fault != Fault::Drip {
                (&*client).write_all(&chunk[..read])?;
            }
            given += read;
        }
    }

    /// Connections made since then.
    pub fn connections_since(&self, since: Instant) -> usize {
        self.state().connections.iter().filter(|at| **at >= since).count()
    }

    /// Requests made since then.
    pub fn requests_since(&self, since: Instant) -> Vec<Seen> {
        self.state().requests.iter().filter(|request| request.begun >= since).cloned().collect()
    }

    /// Requests under way at one time since this was asked last.
    pub fn take_most_at_once(&self) -> usize {
        std::mem::take(&mut self.state().most_at_once)
    }

    /// The most connections or requests within a tenth of a second.
    pub fn burst_since(&self, since: Instant) -> usize {
        self.burst_between(since, Instant::now())
    }

    pub fn burst_between(&self, from: Instant, to: Instant) -> usize {
        let state = self.state();
        let mut requests = state.requests.iter().map(|request| request.begun);
        let mut connections = state.connections.iter().copied();
        let most = |times: &mut dyn Iterator<Item = Instant>| {
            let mut buckets = BTreeMap::<_, usize>::new();
            for at in times.filter(|at| *at >= from && *at < to) {
                *buckets.entry(at.duration_since(from).as_millis() / 100).or_default() += 1;
            }
            buckets.into_values().max().unwrap_or(0)
        };
        most(&mut requests).max(most(&mut connections))
    }
}

/// On the port that it had.
fn bind_again(port: u16) -> TcpListener {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) if begun.elapsed() > Duration::from_secs(10) => panic!("port {port}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn ends(it_does: bool) -> io::Result<()> {
    if it_does { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}

/// Until the other side, or a switch of the fault, ends it.
fn hang(mut client: &TcpStream) -> io::Result<()> {
    while client.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

fn drip(mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        client.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn give(mut client: &TcpStream, answer: &[u8], fault: Fault) -> io::Result<()> {
    match fault {
        Fault::Drip => drip(client, answer),
        Fault::Answer(text) => client.write_all(answer).and(ends(text.contains("Connection: close"))),
        // Some of the body, too.
        Fault::Half => client.write_all(&answer[..answer.len() - (body_of(answer) / 2).max(1)]).and(ends(true)),
        Fault::Cut => client.write_all(&answer[..answer.len().min(5)]).and(ends(true)),
        _ => client.write_all(answer),
    }
}

fn body_of(message: &[u8]) -> usize {
    message.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |end| message.len() - end - 4)
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Request,
    Answer,
}

/// One HTTP message with its body; none where the other side has gone before one.
fn read_message(mut stream: &TcpStream, side: Side) -> io::Result<Option<Vec<u8>>> {
    let (mut message, mut chunk) = (Vec::new(), [0; 16384]);
    loop {
        let whole = is_whole(&message, side);
        if whole == Some(true) {
            return Ok(Some(message));
        }
        match stream.read(&mut chunk)? {
            0 if whole.is_some() && side == Side::Answer => return Ok(Some(message)),
            0 => return Ok(None),
            read => message.extend_from_slice(&chunk[..read]),
        }
    }
}

/// `None` while its head is not.
fn is_whole(message: &[u8], side: Side) -> Option<bool> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&message[..end]).to_lowercase();
    let field =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned()));
    if let Some(length) = field("content-length") {
        return Some(message.len() - end >= length.parse().unwrap());
    }
    if field("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
        return Some(message[end..].ends_with(b"\r\n0\r\n\r\n") || &message[end..] == b"0\r\n\r\n");
    }
    let without_body = side == Side::Request || head.starts_with("http/1.1 204") || head.starts_with("http/1.1 304");
    Some(without_body)
}

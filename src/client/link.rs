//! The connection of a session: one task that talks to the daemon, and connects again when it restarts.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    Client, Error, Secret,
    session::{Ask, Shared},
};
use crate::proto::v1::{
    Acknowledge, Get, Open, SessionRequest, SessionResponse, broker_client::BrokerClient, session_request::Request,
    session_response::Response,
};

/// A value of 1 MiB, the most that the sealed file takes, with all that stands around it.
const LARGEST: usize = 2 * 1024 * 1024;

/// A channel to the daemon at this socket.
///
/// # Errors
/// Where nobody answers there.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority is for HTTP/2's sake: it must be a host name, and a socket's path is none.
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let cause: &dyn std::error::Error = &error;
        let mut detail = cause;
        while let Some(inner) = detail.source() {
            detail = inner;
        }
        Error::Unreachable { socket: socket.into(), detail: detail.to_string() }
    })
}

/// Opens the session and starts its task. The task ends when every handle is gone or the daemon ends the session for good.
pub async fn start(client: &Client, open: Open, shared: Arc<Shared>, asks: mpsc::Receiver<Ask>) -> Result<(), Error> {
    let live = Live::open(&client.socket, &open).await?;
    let task = Link { socket: client.socket.clone(), open, shared, asks, waiting: HashMap::new(), next_id: 1, asked: Vec::new() };
    tokio::spawn(task.run(live));
    Ok(())
}

struct Link {
    socket: std::path::PathBuf,
    open: Open,
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    waiting: HashMap<u64, (String, Option<oneshot::Sender<Result<Secret, Error>>>)>,
    next_id: u64,
    /// Taken from `asks`, but not sent yet: the connection broke.
    asked: Vec<(String, Option<oneshot::Sender<Result<Secret, Error>>>)>,
}

/// A session stream that the daemon granted.
struct Live {
    // Unbounded, yet bounded by the callers that wait: each has one request under way.
    up: mpsc::UnboundedSender<SessionRequest>,
    down: Streaming<SessionResponse>,
}

/// How a connection's life ended.
enum Over {
    /// Nobody needs the session any more.
    Dropped,
    /// The daemon will not have it any more.
    Refused(Error),
    /// Another connection may do.
    Broken,
}

impl Live {
    async fn open(socket: &Path, open: &Open) -> Result<Self, Error> {
        let (up, requests) = mpsc::unbounded_channel();
        let broken = |detail: String| Error::Unreachable { socket: socket.into(), detail };
        up.send(request(Request::Open(open.clone()))).map_err(|error| broken(error.to_string()))?;
        let mut broker = BrokerClient::new(connect(socket).await?).max_decoding_message_size(LARGEST);
        let error = |status: &tonic::Status| Error::from_status(status).unwrap_or_else(|| broken(status.message().into()));
        let mut down =
            broker.session(UnboundedReceiverStream::new(requests)).await.map_err(|status| error(&status))?.into_inner();
        match down.message().await {
            Ok(Some(SessionResponse { response: Some(Response::Opened(_)) })) => Ok(Self { up, down }),
            Ok(_) => Err(Error::BadAnswer("it did not say that the session is open".into())),
            Err(status) => Err(error(&status)),
        }
    }
}

impl Link {
    async fn run(mut self, mut live: Live) {
        loop {
            match self.serve(&mut live).await {
                Over::Dropped => return,
                Over::Refused(error) => return self.give_up(&error),
                Over::Broken => {}
            }
            live = match self.reconnect().await {
                Ok(live) => live,
                Err(Some(error)) => return self.give_up(&error),
                Err(None) => return,
            };
        }
    }

    async fn serve(&mut self, live: &mut Live) -> Over {
        for (name, answer) in std::mem::take(&mut self.asked) {
            self.fetch(live, name, answer);
        }
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => return Over::Dropped,
                    Some(Ask::Fetch { name, answer }) => self.fetch(live, name, Some(answer)),
                    Some(Ask::Acknowledge { name, version }) => send(live, Request::Acknowledge(Acknowledge { name, version })),
                },
                message = live.down.message() => match message {
                    Ok(Some(SessionResponse { response: Some(response) })) => {
                        if let Some(over) = self.hear(live, response) {
                            return over;
                        }
                    }
                    Ok(_) => return Over::Broken,
                    Err(status) => return Error::from_status(&status).map_or(Over::Broken, Over::Refused),
                },
            }
        }
    }

    fn fetch(&mut self, live: &Live, name: String, answer: Option<oneshot::Sender<Result<Secret, Error>>>) {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, (name.clone(), answer));
        send(live, Request::Get(Get { id, name }));
    }

    fn hear(&mut self, live: &Live, response: Response) -> Option<Over> {
        match response {
            Response::Secret(message) => {
                let waiting = self.waiting.remove(&message.id);
                let secret = Secret::take(message);
                if let Ok(secret) = &secret {
                    self.shared.keep(secret);
                }
                if let Some((_, Some(answer))) = waiting {
                    let _ = answer.send(secret);
                }
            }
            Response::Failed(failed) => {
                let error = Error::from_failed(&failed);
                if let Some((_, Some(answer))) = self.waiting.remove(&failed.id) {
                    let _ = answer.send(Err(error));
                }
            }
            Response::Changed(changed) => {
                let known = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).contains_key(&changed.name);
                if known {
                    self.fetch(live, changed.name, None);
                }
            }
            // The end of the whole session comes as the stream's status, right after this.
            Response::Revoked(revoked) => self.shared.forget(&revoked.name),
            Response::Opened(_) => return Some(Over::Broken),
        }
        None
    }

    /// Tries again, ever more slowly, until the daemon answers or nobody waits any more (`Err(None)`).
    async fn reconnect(&mut self) -> Result<Live, Option<Error>> {
        // What was known is asked for anew: a version may have changed while nobody listened.
        let known: Vec<String> = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        self.asked.extend(std::mem::take(&mut self.waiting).into_values());
        self.asked.extend(known.into_iter().map(|name| (name, None)));
        let mut wait = Duration::from_millis(20);
        loop {
            // A jitter of a quarter, so that the tools of a host do not all come at once.
            let jitter = wait.mul_f64(0.25 * f64::from(self.next_id as u32 % 16 + std::process::id() % 16) / 32.0);
            tokio::select! {
                () = tokio::time::sleep(wait + jitter) => {}
                () = closed(&mut self.asks, &mut self.asked) => return Err(None),
            }
            wait = (wait * 2).min(Duration::from_secs(5));
            match Live::open(&self.socket, &self.open).await {
                Ok(live) => return Ok(live),
                Err(error) if error.retry() == super::Retry::Never => return Err(Some(error)),
                Err(_) => {}
            }
        }
    }

    fn give_up(&mut self, error: &Error) {
        self.shared.forget("");
        self.shared.set_ended(error.clone());
        let waiting = std::mem::take(&mut self.waiting).into_values().chain(std::mem::take(&mut self.asked));
        for (_, answer) in waiting {
            let _ = answer.map(|answer| answer.send(Err(error.clone())));
        }
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            if let Ask::Fetch { answer, .. } = ask {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// Keeps what is asked for in the meantime, and ends when nobody is left to ask.
async fn closed(asks: &mut mpsc::Receiver<Ask>, asked: &mut Vec<(String, Option<oneshot::Sender<Result<Secret, Error>>>)>) {
    while let Some(ask) = asks.recv().await {
        if let Ask::Fetch { name, answer } = ask {
            asked.push((name, Some(answer)));
        }
    }
}

fn request(request: Request) -> SessionRequest {
    SessionRequest { request: Some(request) }
}

/// Where the connection is gone, the stream ends too, and what waits is asked for again on the next.
fn send(live: &Live, message: Request) {
    let _ = live.up.send(request(message));
}

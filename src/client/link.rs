//! The connection of a session: one task that talks to the daemon, and connects again when it restarts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Client, Error, Retry, Secret,
    backoff::Backoff,
    destination::Destination,
    patience::jittered,
    session::Shared,
    wire::{self, Down, Up},
};
use crate::proto::v1::{
    Acknowledge, Get, Open, Opened, Reason, Revoked, SessionRequest, SessionResponse, session_request::Request,
    session_response::Response,
};

const SHORTEST_RETRY: Duration = Duration::from_millis(10);

/// A request to the connection's task.
pub enum Ask {
    Fetch {
        name: String,
        /// The daemon is to ask its source first.
        fresh: bool,
        answer: Answer,
    },
    Acknowledge {
        name: String,
        version: String,
    },
    /// Ends the session, once everything that was to be told has been heard.
    #[cfg(feature = "run")]
    Finish(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<Secret, Error>>;

/// Opens the session and starts its task. The task ends when every handle is gone or the daemon ends the session for good.
pub async fn start(client: &Client, open: Open, shared: Arc<Shared>, asks: mpsc::Receiver<Ask>) -> Result<Opened, Error> {
    let (live, opened) = Live::open(&client.to, &open).await?;
    let wanted = Wanted { shared, flights: HashMap::new(), next_id: 1, outdated: BTreeSet::new(), retry_at: None };
    let link = Link { client: client.clone(), open, asks, wanted, acknowledged: HashMap::new() };
    tokio::spawn(link.run(live));
    Ok(opened)
}

struct Link {
    client: Client,
    open: Open,
    asks: mpsc::Receiver<Ask>,
    wanted: Wanted,
    /// What this process said it uses: said again to a daemon that restarted, which cannot know.
    acknowledged: HashMap<String, String>,
}

/// A session stream that the daemon granted. What goes up is bounded by the names that are asked for: each has at most one request
/// under way.
struct Live {
    up: Up,
    down: Down,
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
    async fn open(to: &Destination, open: &Open) -> Result<(Self, Opened), Error> {
        let broken = |detail: &str| to.unreachable(detail);
        let (mut up, mut down) = wire::open(to).await?;
        up.send(&request(Request::Open(open.clone())));
        match down.message().await {
            Ok(Some(SessionResponse { response: Some(Response::Opened(opened)) })) => Ok((Self { up, down }, opened)),
            Ok(Some(_)) => Err(Error::BadAnswer("it did not say that the session is open".into())),
            Ok(None) => Err(broken("it closed the connection")),
            Err(status) => Err(Error::from_status(&status).unwrap_or_else(|| broken(status.message()))),
        }
    }

    /// Where the connection is gone, the stream ends too, and what waits is asked for again on the next.
    fn send(&mut self, message: Request) {
        self.up.send(&request(message));
    }

    #[cfg(feature = "run")]
    /// Says that nothing more comes, and waits until the daemon has read all that did.
    async fn finish(&mut self) {
        self.up.finish();
        while let Ok(Some(_)) = self.down.message().await {}
    }
}

fn request(request: Request) -> SessionRequest {
    SessionRequest { request: Some(request) }
}

impl Link {
    async fn run(mut self, mut live: Live) {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            match self.serve(&mut live).await {
                Over::Dropped => return,
                Over::Refused(error) => return self.give_up(&error),
                Over::Broken => backoff.broke_after(since.elapsed()),
            }
            drop(live);
            live = match self.reconnect(&mut backoff).await {
                Ok(live) => live,
                Err(Some(error)) => return self.give_up(&error),
                Err(None) => return,
            };
        }
    }

    async fn serve(&mut self, live: &mut Live) -> Over {
        let shared = self.wanted.shared.clone();
        self.wanted.ask_again(live);
        // What was found while there was no connection.
        self.report(live);
        let mut say_again = self.acknowledged.clone();
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => return Over::Dropped,
                    Some(Ask::Fetch { name, fresh, answer }) => self.wanted.add((name, fresh), answer, Some(live)),
                    Some(Ask::Acknowledge { name, version }) => {
                        say_again.remove(&name);
                        self.acknowledged.insert(name.clone(), version.clone());
                        live.send(Request::Acknowledge(Acknowledge { name, version }));
                    }
                    #[cfg(feature = "run")]
                    Some(Ask::Finish(done)) => {
                        self.report(live);
                        live.finish().await;
                        drop(done);
                        return Over::Dropped;
                    }
                },
                () = shared.reports.added() => self.report(live),
                message = live.down.message() => match message {
                    Ok(Some(SessionResponse { response: Some(response) })) => {
                        if let Some(over) = self.hear(live, response, &mut say_again) {
                            return over;
                        }
                    }
                    Ok(_) => return Over::Broken,
                    Err(status) => return Error::from_status(&status).map_or(Over::Broken, Over::Refused),
                },
                () = self.wanted.time_to_retry() => self.wanted.ask_again(live),
            }
        }
    }

    fn report(&self, live: &mut Live) {
        self.wanted.shared.reports.take().into_iter().for_each(|found| live.send(Request::Redacted(found)));
    }

    fn hear(&mut self, live: &mut Live, response: Response, say_again: &mut HashMap<String, String>) -> Option<Over> {
        match response {
            Response::Secret(message) => {
                let (id, name, version) = (message.id, message.name.clone(), message.version.clone());
                self.wanted.settle(id, &name, &Secret::take(message));
                // The daemon takes an acknowledgement only for what it handed to this very session.
                if say_again.remove(&name).is_some_and(|acknowledged| acknowledged == version) {
                    live.send(Request::Acknowledge(Acknowledge { name, version }));
                }
            }
            // Asked again on another connection, by which this process is proven anew.
            Response::Failed(failed) if failed.reason() == Reason::PeerChanged => return Some(Over::Broken),
            Response::Failed(failed) => self.wanted.settle(failed.id, &failed.name, &Err(Error::from_failed(&failed))),
            Response::Changed(changed) => self.wanted.changed(changed.name, live),
            Response::Revoked(revoked) => return self.revoked(&revoked),
            Response::Opened(_) => return Some(Over::Broken),
        }
        None
    }

    /// One secret is withdrawn, or the whole session has ended. A daemon that stops is no reason to forget anything.
    fn revoked(&mut self, revoked: &Revoked) -> Option<Over> {
        if revoked.name.is_empty() {
            return Some(Error::from_revoked(revoked).map_or(Over::Broken, Over::Refused));
        }
        self.wanted.withdrawn(&revoked.name);
        None
    }

    /// Tries again, ever more slowly, until the daemon answers or nobody needs the session any more (`Err(None)`).
    async fn reconnect(&mut self, backoff: &mut Backoff) -> Result<Live, Option<Error>> {
        self.wanted.disconnected();
        let mut at_least = Duration::ZERO;
        loop {
            let attempt = async {
                tokio::time::sleep(backoff.next().max(at_least)).await;
                // A daemon that stands still takes the connection and never answers.
                let opening = tokio::time::timeout(self.client.timeout, Live::open(&self.client.to, &self.open));
                opening.await.unwrap_or(Err(Error::TimedOut(self.client.timeout)))
            };
            let opened = tokio::select! {
                opened = attempt => opened,
                () = listen(&mut self.asks, &mut self.wanted, &mut self.acknowledged) => return Err(None),
            };
            match opened {
                Ok(live) => {
                    self.wanted.shared.set_trouble(None);
                    return Ok(live.0);
                }
                Err(error) if error.retry() == Retry::Never => return Err(Some(error)),
                Err(error) => {
                    at_least = match &error {
                        Error::Limited { retry_after: Some(wait), .. } => jittered(*wait),
                        _ => Duration::ZERO,
                    };
                    self.wanted.shared.set_trouble(Some(error));
                }
            }
        }
    }

    fn give_up(&mut self, error: &Error) {
        self.wanted.shared.end(error.clone());
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            if let Ask::Fetch { name, fresh, answer } = ask {
                self.wanted.add((name, fresh), answer, None);
            }
        }
        let waiting = std::mem::take(&mut self.wanted.flights).into_values().flat_map(|flight| flight.answers);
        waiting.for_each(|answer| drop(answer.send(Err(error.clone()))));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wanted.shared.watchers.end();
    }
}

/// Keeps what is asked for while there is no connection, and ends when nobody is left to ask.
async fn listen(asks: &mut mpsc::Receiver<Ask>, wanted: &mut Wanted, acknowledged: &mut HashMap<String, String>) {
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Fetch { name, fresh, answer } => wanted.add((name, fresh), answer, None),
            Ask::Acknowledge { name, version } => drop(acknowledged.insert(name, version)),
            // There is nobody to tell.
            #[cfg(feature = "run")]
            Ask::Finish(_) => return,
        }
    }
}

/// A name, and whether its source is to be asked first.
type Key = (String, bool);

/// What the session waits for.
struct Wanted {
    shared: Arc<Shared>,
    flights: HashMap<Key, Flight>,
    next_id: u64,
    /// Names whose value in memory may no longer be current: fetched before anyone asks, and again where that fails.
    outdated: BTreeSet<String>,
    retry_at: Option<Instant>,
}

/// One secret that is asked for, and everyone who waits for it.
#[derive(Default)]
struct Flight {
    /// Of the request on this connection. `None`: not sent on it yet.
    id: Option<u64>,
    answers: Vec<Answer>,
}

impl Wanted {
    /// Someone waits for this. Who has given up meanwhile is dropped, so that what a long outage leaves is not asked for after it.
    fn add(&mut self, key: Key, answer: Answer, live: Option<&mut Live>) {
        let flight = self.flights.entry(key.clone()).or_default();
        flight.answers.retain(|answer| !answer.is_closed());
        flight.answers.push(answer);
        if let Some(live) = live {
            self.send(key, live);
        }
    }

    /// Asks for it, unless it is asked for already: answers and changes come in order, so that an answer under way is at least
    /// as new as the last change that was heard of.
    fn send(&mut self, key: Key, live: &mut Live) {
        let flight = self.flights.entry(key.clone()).or_default();
        if flight.id.is_none() {
            flight.id = Some(self.next_id);
            let (name, fresh) = key;
            live.send(Request::Get(Get { id: self.next_id, name, fresh }));
            self.next_id += 1;
        }
    }

    fn changed(&mut self, name: String, live: &mut Live) {
        if self.shared.read(&name).is_some() {
            self.outdated.insert(name.clone());
            self.send((name, false), live);
        }
    }

    fn withdrawn(&mut self, name: &str) {
        self.outdated.remove(name);
        self.shared.forget(name);
    }

    /// No request is under way any more, and any value may change while nobody listens.
    fn disconnected(&mut self) {
        self.flights.retain(|_, flight| {
            flight.id = None;
            flight.answers.retain(|answer| !answer.is_closed());
            !flight.answers.is_empty()
        });
        self.outdated = self.shared.names().into_iter().collect();
        self.retry_at = None;
    }

    fn ask_again(&mut self, live: &mut Live) {
        self.retry_at = None;
        let in_time = |flight: &Flight| flight.id.is_some() || flight.answers.iter().any(|answer| !answer.is_closed());
        self.flights.retain(|_, flight| in_time(flight));
        let outdated = self.outdated.iter().map(|name| (name.clone(), false));
        let keys: BTreeSet<_> = self.flights.keys().cloned().chain(outdated).collect();
        keys.into_iter().for_each(|key| self.send(key, live));
    }

    async fn time_to_retry(&self) {
        match self.retry_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// The answer to a request. One that failed leaves the value in memory in use where waiting may help, and takes it away where
    /// it cannot: the next `get` then says why.
    fn settle(&mut self, id: u64, name: &str, answer: &Result<Secret, Error>) {
        // Failed acknowledgements come with an id of 0, which no request has.
        let asked = [false, true].map(|fresh| (name.to_owned(), fresh));
        let is_answered = |key: &&Key| self.flights.get(*key).is_some_and(|flight| flight.id == Some(id));
        let Some(key) = asked.iter().find(is_answered) else { return };
        match answer.as_ref().map_err(Error::retry) {
            Ok(secret) => {
                self.outdated.remove(name);
                self.shared.keep(secret);
            }
            Err(Retry::After(wait)) if self.outdated.contains(name) => {
                // A wait of none would be a loop.
                let at = Instant::now() + jittered(wait.max(SHORTEST_RETRY));
                self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
            }
            Err(Retry::Never) if self.outdated.contains(name) => self.withdrawn(name),
            Err(_) => {}
        }
        let waiting = self.flights.remove(key).into_iter().flat_map(|flight| flight.answers);
        waiting.for_each(|waits| drop(waits.send(answer.clone())));
    }
}

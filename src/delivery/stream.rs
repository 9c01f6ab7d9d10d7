//! The `Session` call: the session is the stream.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tonic::{Status, body::Body};

use super::{
    frame::{self, Out},
    launch,
    pace::{Guest, Pace},
    requests::Requests,
    status,
};
use crate::{
    attest::Attested,
    broker::{Broker, Declaration, Handout, Reason, Refused, UnderWay},
    name::{SecretName, Version},
    proto::v1::{
        Failed, Get, Open, Opened, Revoked, SessionRequest, SessionResponse, VersionedName, session_request::Request,
        session_response::Response,
    },
    session::{End, Session},
    store::Serial,
};

/// However much a tool has said too much: no longer than this at a stretch.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A stream that has not said what it wants by then is closed.
pub const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Answers one `Session` call.
pub fn serve(broker: Arc<Broker>, guest: Guest, request: http::Request<Body>) -> http::Response<Body> {
    let requests = Requests::new(request.into_body());
    frame::told(|out| async move { tell(&broker, &guest, requests, &out).await.inspect_err(|_| guest.pace.charge()) })
}

async fn tell(broker: &Arc<Broker>, guest: &Guest, mut requests: Requests<SessionRequest>, out: &Out) -> Result<(), Status> {
    let caller = &guest.caller;
    let session = open(broker, caller, &mut requests).await.map_err(|refused| status::refused(&refused))?;
    let _closes = CloseOnDrop { broker, session: &session };
    let mut told = scope_versions(broker, &session);
    let mut hearing = Hearing { session: &session, requests, followed: None, turns: 0, pause: None };
    out.send(answer(Response::Opened(opened(&session, &told)))).await;
    loop {
        match poll_fn(|cx| hearing.poll_next(cx)).await {
            Next::News => tell_news(broker, &session, &mut told, out).await?,
            Next::Request(Request::Get(Get { id, name, fresh })) => match get(broker, caller, &session, &name, fresh).await {
                Ok((handout, _under_way)) => {
                    // Made just now for this session, which hears of it by this answer; when it is gone, that is news.
                    if let Some(version @ None) = told.get_mut(&handout.secret)
                        && broker.policy().is_per_session(&handout.secret)
                    {
                        *version = Some((handout.held.version.clone(), handout.held.serial()));
                    }
                    out.send(frame::session_secret(id, &handout)).await;
                }
                Err(refused) if ends_the_session(&refused) => return Err(status::refused(&refused)),
                Err(refused) => {
                    hearing.refused(&guest.pace);
                    out.send(answer(Response::Failed(failed(id, name, &refused)))).await;
                }
            },
            Next::Request(Request::Acknowledge(ack)) => {
                hearing.pause(broker.slow_down(&session));
                if let Err(refused) = broker.acknowledge(caller, &session, &ack.name, &ack.version) {
                    hearing.refused(&guest.pace);
                    out.send(answer(Response::Failed(failed(0, ack.name, &refused)))).await;
                }
            }
            Next::Request(Request::Redacted(found)) => {
                hearing.pause(broker.slow_down_reports(&session));
                if let Err(refused) = broker.redacted(caller, &session, &launch::report(&found)?) {
                    return Err(status::refused(&refused));
                }
            }
            Next::Request(Request::Open(_)) => {
                return Err(status::bad_request("this stream is open: open another for another scope"));
            }
            Next::Broken(status) => return Err(status),
            Next::Closed => return Ok(()),
        }
    }
}

/// One secret, and the place that its request takes until the answer is taken.
async fn get(
    broker: &Arc<Broker>,
    caller: &Attested,
    session: &Session,
    name: &str,
    fresh: bool,
) -> Result<(Handout, UnderWay), Refused> {
    let under_way = broker.begin(session)?;
    if fresh {
        broker.freshen(caller, session, name).await;
    }
    Ok((broker.get(caller, session, name).await?, under_way))
}

async fn open(broker: &Arc<Broker>, caller: &Attested, requests: &mut Requests<SessionRequest>) -> Result<Arc<Session>, Refused> {
    let wrong = || Refused::bad_request("the first request of a session must be `open`");
    let first = tokio::time::timeout(OPEN_WITHIN, requests.next()).await;
    let Ok(Ok(Some(SessionRequest { request: Some(Request::Open(open)) }))) = first else { return Err(wrong()) };
    let session = broker.open(caller, &declaration(&open), false)?;
    end_with_process(broker, caller, &session);
    Ok(session)
}

/// What an `Open` says.
pub fn declaration(open: &Open) -> Declaration<'_> {
    let launch = open.launch.as_ref().map(|launch| launch.command.as_slice());
    Declaration { tool: &open.tool, scope: &open.scope, purpose: &open.purpose, launch }
}

/// Ends the session when its process ends, whoever else may hold the other end of the socket by then.
pub fn end_with_process(broker: &Arc<Broker>, caller: &Attested, session: &Arc<Session>) {
    /// How long the watch on a process outlives its session, at the most.
    const LINGER: Duration = Duration::from_secs(30);
    let (broker, caller, session) = (broker.clone(), caller.clone(), Arc::downgrade(session));
    tokio::spawn(async move {
        while tokio::time::timeout(LINGER, caller.gone()).await.is_err() {
            if session.upgrade().is_none_or(|session| session.ended().is_some()) {
                return;
            }
        }
        if let Some(session) = session.upgrade() {
            // Of a caller over the network it is the connection that is gone.
            let end = if session.peer.remote.is_some() { End::Closed } else { End::ProcessGone };
            broker.close(&session, end);
        }
    });
}

enum Next {
    News,
    Request(Request),
    Broken(Status),
    Closed,
}

/// What a session's stream listens to.
struct Hearing<'a> {
    session: &'a Session,
    requests: Requests<SessionRequest>,
    followed: Option<Waker>,
    /// Requests heard since others had a turn.
    turns: usize,
    /// Until it listens to requests again.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Requests that one stream may have answered before all others have had a turn.
const TURNS: usize = 32;

impl Hearing<'_> {
    /// News of the session before the tool's next request: what is revoked is not handed out first. News are heard in a pause too.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.session.poll_news(&mut self.followed, cx).is_ready() {
            return Poll::Ready(Next::News);
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.turns >= TURNS {
            self.turns = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(request) = self.requests.poll_next(cx) else {
            self.turns = 0;
            return Poll::Pending;
        };
        self.turns += 1;
        Poll::Ready(match request {
            None => Next::Closed,
            Some(Err(status)) => Next::Broken(status),
            Some(Ok(SessionRequest { request: Some(request) })) => Next::Request(request),
            Some(Ok(SessionRequest { request: None })) => Next::Broken(status::bad_request("a request that asks for nothing")),
        })
    }

    /// Leaves requests unheard for a while.
    fn pause(&mut self, wait: Option<Duration>) {
        if let Some(wait) = wait {
            self.pause = Some(Box::pin(tokio::time::sleep(wait.min(LONGEST_PAUSE))));
        }
    }

    /// What was asked for was refused. What is read already waits too, as long as the connection is held.
    fn refused(&mut self, pace: &Pace) {
        pace.charge();
        self.pause(pace.held());
    }
}

/// The session ended, or secrets of its scope have new versions.
async fn tell_news(broker: &Broker, session: &Session, told: &mut Versions, out: &Out) -> Result<(), Status> {
    if let Some(end) = session.ended() {
        let refused = Refused::ended(session, end);
        out.send(answer(Response::Revoked(revoked(String::new(), &refused)))).await;
        return Err(status::refused(&refused));
    }
    for change in changes(broker, session, told) {
        let response = match change {
            Ok(changed) => Response::Changed(changed),
            Err(revoked) => Response::Revoked(revoked),
        };
        out.send(answer(response)).await;
    }
    Ok(())
}

/// What is in memory of each secret of a scope.
pub type Versions = BTreeMap<SecretName, Option<(Version, Serial)>>;

/// What changed since `told`, which it brings up to date: a new version, or a value that is gone.
pub fn changes(broker: &Broker, session: &Session, told: &mut Versions) -> Vec<Result<VersionedName, Revoked>> {
    let now = scope_versions(broker, session);
    let policy = broker.policy();
    let not_made_yet = |name, version: &Option<_>| version.is_none() && !told.contains_key(name) && policy.is_per_session(name);
    let changed = now.iter().filter(|(name, version)| told.get(*name) != Some(version) && !not_made_yet(*name, version));
    let changes = changed.map(|(name, version)| match version {
        Some((version, _)) => Ok(VersionedName { name: name.to_string(), version: version.to_string() }),
        None => Err(revoked(name.to_string(), &Refused::withdrawn(name))),
    });
    let changes = changes.collect();
    *told = now;
    changes
}

/// The version in memory of each secret of the scope.
pub fn scope_versions(broker: &Broker, session: &Session) -> Versions {
    session.scope.secrets().map(|name| (name.clone(), broker.version_for(session, name))).collect()
}

/// What a session that was granted is told.
pub fn opened(session: &Session, versions: &Versions) -> Opened {
    let version = |held: &Option<(Version, Serial)>| held.as_ref().map(|(version, _)| version.to_string()).unwrap_or_default();
    let secrets = versions.iter().map(|(name, v)| VersionedName { name: name.to_string(), version: version(v) });
    Opened {
        session: session.id.to_string(),
        secrets: secrets.collect(),
        expires: None,
        plan: session.plan.as_ref().map(launch::plan),
    }
}

/// An end that the tool did not ask for.
pub fn revoked(name: String, refused: &Refused) -> Revoked {
    let (reason, limit) = (status::reason(refused.reason).into(), status::limit(refused));
    Revoked { name, reason, message: refused.message.clone(), limit }
}

fn failed(id: u64, name: String, refused: &Refused) -> Failed {
    Failed {
        id,
        name,
        reason: status::reason(refused.reason).into(),
        message: refused.message.clone(),
        // Rounded up: who comes a moment too soon is refused again.
        retry_after_millis: refused.retry_after.map(|wait| wait.as_nanos().div_ceil(1_000_000) as u64),
        limit: status::limit(refused),
    }
}

fn answer(response: Response) -> bytes::Bytes {
    frame::plain(&SessionResponse { response: Some(response) })
}

fn ends_the_session(refused: &Refused) -> bool {
    matches!(refused.reason, Reason::PeerChanged | Reason::SessionNotOpen | Reason::ShuttingDown)
}

struct CloseOnDrop<'a> {
    broker: &'a Broker,
    session: &'a Session,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if self.session.is_its_stream() {
            self.broker.close(self.session, End::Closed);
        }
    }
}

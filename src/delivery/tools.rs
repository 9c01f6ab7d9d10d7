//! The `Broker` service.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use tonic::{Request, Response, Status, body::Body, server::NamedService};
use tower_service::Service;

use super::{
    frame,
    pace::Guest,
    redact,
    requests::{MAX_REQUEST, Requests},
    status, stream,
};
use crate::{
    attest::Attested,
    broker::{Broker, MAX_BATCH, Refused, UnderWay},
    proto::v1::{
        AcknowledgeVersionRequest, AcknowledgeVersionResponse, CloseSessionRequest, CloseSessionResponse, GetSecretsRequest,
        GetSecretsResponse, Open, Opened, RedactRequest, RenewSessionRequest, SecretEvent, SessionRequest, SessionResponse,
        WatchSecretsRequest, broker_server, secret_event::Event,
    },
    session::{End, Session},
};

pub const NAME: &str = broker_server::SERVICE_NAME;

/// The whole service. The two calls that carry values are answered by hand-made frames, the others by tonic's.
#[derive(Clone)]
pub struct Tools {
    broker: Arc<Broker>,
    unary: broker_server::BrokerServer<Unary>,
}

impl Tools {
    pub fn new(broker: Arc<Broker>) -> Self {
        let unary = broker_server::BrokerServer::new(Unary { broker: broker.clone() });
        Self { broker, unary: unary.max_decoding_message_size(MAX_REQUEST) }
    }
}

impl NamedService for Tools {
    const NAME: &'static str = broker_server::SERVICE_NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for Tools {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let Some(guest) = request.extensions().get::<Guest>().cloned() else {
            return Box::pin(async { Ok(unattested().into_http()) });
        };
        let broker = self.broker.clone();
        match request.uri().path() {
            "/valetkey.v1.Broker/Session" => Box::pin(async move { Ok(stream::serve(broker, guest, request)) }),
            "/valetkey.v1.Broker/GetSecrets" => Box::pin(async move {
                let told = |out: frame::Out| async move {
                    get_secrets(&broker, &guest.caller, request, &out).await.inspect_err(|_| guest.pace.charge())
                };
                Ok(frame::told(told))
            }),
            _ => self.unary.call(request),
        }
    }
}

async fn get_secrets(
    broker: &Arc<Broker>,
    caller: &Attested,
    request: http::Request<Body>,
    out: &frame::Out,
) -> Result<(), Status> {
    let mut requests = Requests::<GetSecretsRequest>::new(request.into_body());
    let Some(GetSecretsRequest { session, names, fresh }) = requests.next().await? else {
        return Err(status::bad_request("the call carries no request"));
    };
    let session = broker.session(caller, &session).map_err(refused)?;
    // Until the answer is taken.
    let _under_way = broker.begin(&session).map_err(refused)?;
    // One that asks for too many is refused below.
    let fresh = names.iter().filter(|_| fresh).take(MAX_BATCH);
    futures_util::future::join_all(fresh.map(|name| broker.freshen(caller, &session, name))).await;
    let handouts = broker.get_all(caller, &session, &names).await.map_err(refused)?;
    out.send(frame::get_secrets(&handouts)).await;
    Ok(())
}

/// Every connection is attested before it gets here: this answers a fault of ours.
fn unattested() -> Status {
    Status::internal("this connection carries no attested caller")
}

#[derive(Clone)]
struct Unary {
    broker: Arc<Broker>,
}

impl Unary {
    /// The session that a request names, which counts as one.
    fn session<T>(&self, request: &Request<T>, id: &str) -> Result<(Attested, Arc<Session>), Status> {
        let caller = caller(request)?;
        let session = self.broker.session(&caller, id).map_err(refused)?;
        self.broker.request(&caller, &session).map_err(refused)?;
        Ok((caller, session))
    }

    fn opened(&self, session: &Session, expires: std::time::SystemTime) -> Response<Opened> {
        let versions = stream::scope_versions(&self.broker, session);
        Response::new(Opened { expires: Some(expires.into()), ..stream::opened(session, &versions) })
    }
}

fn caller<T>(request: &Request<T>) -> Result<Attested, Status> {
    request.extensions().get::<Guest>().map(|guest| guest.caller.clone()).ok_or_else(unattested)
}

fn bad_first() -> Status {
    status::bad_request("the first request names an open session of this process")
}

fn refused(refused: Refused) -> Status {
    status::refused(&refused)
}

#[tonic::async_trait]
impl broker_server::Broker for Unary {
    type SessionStream = tokio_stream::Empty<Result<SessionResponse, Status>>;
    type WatchSecretsStream = Pin<Box<dyn Stream<Item = Result<SecretEvent, Status>> + Send>>;

    type RedactStream = redact::Answers;

    async fn redact(&self, request: Request<tonic::Streaming<RedactRequest>>) -> Result<Response<Self::RedactStream>, Status> {
        let caller = caller(&request)?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(stream::OPEN_WITHIN, requests.message()).await;
        let Ok(Some(first)) = first.map_err(|_| bad_first())? else { return Err(bad_first()) };
        let session = self.broker.session(&caller, &first.session).map_err(refused)?;
        let (redactor, place) = self.broker.cleaning(&caller, &session).map_err(refused)?;
        let asks = redact::Asks::Tool { session, _place: place };
        Ok(Response::new(redact::serve(self.broker.clone(), asks, redactor, Some(first), requests)))
    }

    async fn session(&self, _: Request<tonic::Streaming<SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::internal("Session is answered in delivery/stream.rs"))
    }

    async fn get_secrets(&self, _: Request<GetSecretsRequest>) -> Result<Response<GetSecretsResponse>, Status> {
        Err(Status::internal("GetSecrets is answered by hand-made frames"))
    }

    async fn open_session(&self, request: Request<Open>) -> Result<Response<Opened>, Status> {
        let caller = caller(&request)?;
        if request.get_ref().launch.is_some() {
            return Err(status::bad_request("a launcher opens its session as a stream, which it reports on"));
        }
        let session = self.broker.open(&caller, &stream::declaration(request.get_ref()), true).map_err(refused)?;
        stream::end_with_process(&self.broker, &caller, &session);
        let expires = self.broker.renew(&session).map_err(refused)?;
        Ok(self.opened(&session, expires))
    }

    async fn acknowledge_version(
        &self,
        request: Request<AcknowledgeVersionRequest>,
    ) -> Result<Response<AcknowledgeVersionResponse>, Status> {
        let said = request.get_ref();
        let (caller, session) = self.session(&request, &said.session)?;
        self.broker.acknowledge(&caller, &session, &said.name, &said.version).map_err(refused)?;
        Ok(Response::new(AcknowledgeVersionResponse {}))
    }

    async fn renew_session(&self, request: Request<RenewSessionRequest>) -> Result<Response<Opened>, Status> {
        let (_, session) = self.session(&request, &request.get_ref().session)?;
        let expires = self.broker.renew(&session).map_err(refused)?;
        Ok(self.opened(&session, expires))
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Result<Response<CloseSessionResponse>, Status> {
        // Never over a limit: who closes takes nothing.
        let caller = caller(&request)?;
        if let Ok(session) = self.broker.session(&caller, &request.get_ref().session) {
            self.broker.close(&session, End::Closed);
        }
        Ok(Response::new(CloseSessionResponse {}))
    }

    async fn watch_secrets(&self, request: Request<WatchSecretsRequest>) -> Result<Response<Self::WatchSecretsStream>, Status> {
        let (_, session) = self.session(&request, &request.get_ref().session)?;
        let under_way = self.broker.begin(&session).map_err(refused)?;
        let events = async_events(self.broker.clone(), session, under_way);
        Ok(Response::new(Box::pin(events)))
    }
}

/// The session's news, until it ends.
fn async_events(
    broker: Arc<Broker>,
    session: Arc<Session>,
    under_way: UnderWay,
) -> impl Stream<Item = Result<SecretEvent, Status>> + Send {
    use futures_util::stream::{self as futures, StreamExt};
    let news = session.watch();
    let first = std::collections::BTreeMap::new();
    let steps = futures::unfold((first, news, true, false), move |(mut told, mut news, first, over)| {
        // Held as long as the stream is.
        let _ = &under_way;
        let (broker, session) = (broker.clone(), session.clone());
        async move {
            if over {
                return None;
            }
            if !first && news.changed().await.is_err() {
                return None;
            }
            // Of a session that has ended that alone is news, as on the stream.
            let ended = session.ended();
            let events: Vec<_> = match ended {
                Some(end) => vec![Event::Revoked(stream::revoked(String::new(), &Refused::ended(&session, end)))],
                None => {
                    let changes = stream::changes(&broker, &session, &mut told).into_iter();
                    changes.map(|change| change.map_or_else(Event::Revoked, Event::Changed)).collect()
                }
            };
            let events = events.into_iter().map(|event| Ok(SecretEvent { event: Some(event) }));
            Some((futures::iter(events.collect::<Vec<_>>()), (told, news, false, ended.is_some())))
        }
    });
    steps.flatten()
}

//! The contract by hand, message by message, as a client that we did not write would speak it.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::path::Path;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use valetkey::proto::v1::{
    Acknowledge, Get, GetSecretsRequest, Open, Opened, Secret, SessionRequest, SessionResponse, broker_client::BrokerClient,
    session_request::Request, session_response::Response,
};

/// A `Session` stream.
pub struct Raw {
    pub up: UnboundedSender<SessionRequest>,
    pub down: Streaming<SessionResponse>,
}

pub type Broker = BrokerClient<Channel>;

/// A client on a connection of its own.
pub async fn broker(socket: &Path) -> Broker {
    BrokerClient::new(super::daemon::channel(socket).await).max_decoding_message_size(16 * 1024 * 1024)
}

pub fn open(tool: &str, scope: &[&str]) -> Open {
    Open { tool: tool.into(), scope: scope.iter().map(ToString::to_string).collect(), purpose: "a test".into(), launch: None }
}

impl Raw {
    /// Starts the call, and says nothing yet.
    pub async fn start(broker: &mut Broker) -> Result<Self, Status> {
        let (up, requests) = unbounded_channel();
        let down = broker.session(UnboundedReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { up, down })
    }

    /// Opens a session, and hears that it is.
    pub async fn open(broker: &mut Broker, tool: &str, scope: &[&str]) -> Result<Self, Status> {
        let mut raw = Self::start(broker).await?;
        raw.say(Request::Open(open(tool, scope)));
        match raw.hear().await? {
            Response::Opened(_) => Ok(raw),
            _ => panic!("the first answer is not `opened`"),
        }
    }

    pub fn say(&self, request: Request) {
        let _ = self.up.send(SessionRequest { request: Some(request) });
    }

    pub fn ask(&self, id: u64, name: &str) {
        self.say(Request::Get(Get { id, name: name.into(), fresh: false }));
    }

    pub fn acknowledge(&self, name: &str, version: &str) {
        self.say(Request::Acknowledge(Acknowledge { name: name.into(), version: version.into() }));
    }

    /// The next answer; where the stream ends well, that is an error too.
    pub async fn hear(&mut self) -> Result<Response, Status> {
        let message = self.down.message().await?;
        message.and_then(|message| message.response).ok_or_else(|| Status::ok("the stream ended"))
    }

    /// Asks for one secret and waits for it.
    pub async fn get(&mut self, id: u64, name: &str) -> Result<Response, Status> {
        self.ask(id, name);
        self.hear().await
    }

    pub async fn secret(&mut self, id: u64, name: &str) -> Secret {
        match self.get(id, name).await {
            Ok(Response::Secret(secret)) => secret,
            Ok(Response::Failed(failed)) => panic!("{}: {}", failed.reason().as_str_name(), failed.message),
            Ok(_) => panic!("another answer than a secret"),
            Err(status) => panic!("{status:?}"),
        }
    }
}

/// The same by unary calls.
pub async fn open_unary(broker: &mut Broker, tool: &str, scope: &[&str]) -> Result<Opened, Status> {
    Ok(broker.open_session(open(tool, scope)).await?.into_inner())
}

pub async fn get_unary(broker: &mut Broker, session: &str, names: &[&str]) -> Result<Vec<Secret>, Status> {
    let names = names.iter().map(ToString::to_string).collect();
    Ok(broker.get_secrets(GetSecretsRequest { session: session.into(), names, fresh: false }).await?.into_inner().secrets)
}

/// The stable reason in a refusal's details.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

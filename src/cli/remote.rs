//! Asking the daemon.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};
use zeroize::Zeroizing;

use super::{DENIED, FAILED, Failure, UNREACHABLE};
use crate::{
    client::{Error, Remote},
    proto::v1::admin_client::AdminClient,
};

/// Where a daemon is that operators ask.
#[derive(Debug, Clone)]
pub enum Place {
    Socket(PathBuf),
    Remote(Remote),
}

impl From<PathBuf> for Place {
    fn from(socket: PathBuf) -> Self {
        Self::Socket(socket)
    }
}

impl From<&Path> for Place {
    fn from(socket: &Path) -> Self {
        Self::Socket(socket.into())
    }
}

/// A client of the admin service.
pub type Admin = AdminClient<InterceptedService<Channel, Bearer>>;

/// What each call comes with: the token of a profile, where it has one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Asks the daemon at this place.
pub async fn admin(place: &Place) -> Result<Admin, Failure> {
    let (channel, bearer) = match place {
        Place::Socket(socket) => (connect(socket).await?, Bearer(None)),
        Place::Remote(remote) => (connect_to(remote).await?, bearer(remote)?),
    };
    Ok(AdminClient::with_interceptor(channel, bearer).max_decoding_message_size(64 * 1024 * 1024))
}

fn bearer(remote: &Remote) -> Result<Bearer, Failure> {
    let Some(token) = remote.token().map_err(|error| beyond(&error))? else { return Ok(Bearer(None)) };
    let header = Zeroizing::new(format!("Bearer {}", *token));
    let mut value = MetadataValue::try_from(header.as_str())
        .map_err(|_| Failure::new(FAILED, "the profile's token is none", "issue another"))?;
    value.set_sensitive(true);
    Ok(Bearer(Some(value)))
}

async fn connect_to(remote: &Remote) -> Result<Channel, Failure> {
    // The first time here, where what is wrong can be said as it is.
    let mut first = Some(remote.stream().await.map_err(|error| beyond(&error))?);
    let remote = remote.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (remote, first) = (remote.clone(), first.take());
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => remote.stream().await.map(TokioIo::new).map_err(std::io::Error::other),
            }
        }
    });
    // What it says is for HTTP/2 alone: TLS is the connector's.
    let connected = Endpoint::from_static("http://broker").connect_with_connector(connector).await;
    connected.map_err(|error| Failure::new(UNREACHABLE, error.to_string(), "the daemon's log may say why it refused"))
}

fn beyond(error: &Error) -> Failure {
    Failure::new(UNREACHABLE, error.to_string(), "is [remote] configured there, and does its log say why it refused?")
}

/// A channel to the daemon at this socket.
pub async fn connect(socket: &Path) -> Result<Channel, Failure> {
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
        unreachable(socket, &detail.to_string())
    })
}

fn unreachable(socket: &Path, detail: &str) -> Failure {
    let hint = match std::fs::symlink_metadata(socket) {
        Err(_) => "is valetkeyd running? (systemctl status valetkeyd, or --socket PATH for one that listens elsewhere)",
        Ok(_) if detail.contains("ermission") => "run this as root, as the daemon's user, or as a member of its `admin-group`",
        Ok(_) => "the socket is there and nobody answers: systemctl restart valetkeyd",
    };
    Failure::new(UNREACHABLE, format!("no broker answers at {}: {detail}", socket.display()), hint)
}

/// What the daemon's refusal means to an operator.
pub fn refused(status: &Status) -> Failure {
    let (code, hint) = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => (DENIED, "the daemon's log says who asked and why not"),
        Code::Unavailable => (UNREACHABLE, "is valetkeyd stopping? try again"),
        Code::Unimplemented => (FAILED, "the daemon is of another version: restart it after an upgrade"),
        Code::FailedPrecondition => (FAILED, "everything stays as it was; mend what is named and try again"),
        _ => (FAILED, "the daemon's log may say more"),
    };
    Failure::new(code, super::table::printable_lines(status.message()), hint)
}

//! Asking the daemon.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{DENIED, FAILED, Failure, UNREACHABLE};
use crate::proto::v1::admin_client::AdminClient;

/// A client of the admin service at this socket.
pub async fn admin(socket: &Path) -> Result<AdminClient<Channel>, Failure> {
    let channel = connect(socket).await?;
    Ok(AdminClient::new(channel).max_decoding_message_size(64 * 1024 * 1024))
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

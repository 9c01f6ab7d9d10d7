//! Asking the daemon.

use std::path::Path;

use tonic::{Code, Status, transport::Channel};

use super::{DENIED, FAILED, Failure, UNREACHABLE};
use crate::{
    client::{Error, connect},
    proto::v1::admin_client::AdminClient,
};

/// A client of the admin service at this socket.
pub async fn admin(socket: &Path) -> Result<AdminClient<Channel>, Failure> {
    let channel = connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(64 * 1024 * 1024))
}

fn unreachable(socket: &Path, error: &Error) -> Failure {
    let detail = match error {
        Error::Unreachable { detail, .. } => detail.clone(),
        other => other.to_string(),
    };
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

//! Where the daemon is.

use std::path::PathBuf;
#[cfg(feature = "client-tls")]
use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use zeroize::Zeroizing;

use super::Error;
#[cfg(feature = "client-tls")]
use super::Remote;

/// A daemon, on this host or beyond it.
#[derive(Debug, Clone)]
pub enum Destination {
    Socket(PathBuf),
    #[cfg(feature = "client-tls")]
    Remote(Arc<Remote>),
}

/// A connection to it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What it takes to speak on a connection.
pub struct Opened {
    pub stream: Box<dyn Stream>,
    /// The host, for HTTP/2's sake: it must be a host name, and a socket's path is none.
    pub origin: String,
    /// What each call comes with.
    pub token: Option<Zeroizing<String>>,
}

impl Destination {
    pub async fn connect(&self) -> Result<Opened, Error> {
        match self {
            Self::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| self.unreachable(&error.to_string()))?;
                Ok(Opened { stream: Box::new(stream), origin: "http://localhost".into(), token: None })
            }
            #[cfg(feature = "client-tls")]
            Self::Remote(remote) => remote.connect().await,
        }
    }

    pub fn unreachable(&self, detail: &str) -> Error {
        match self {
            Self::Socket(socket) => Error::Unreachable { socket: socket.clone(), detail: detail.into() },
            #[cfg(feature = "client-tls")]
            Self::Remote(remote) => remote.unreachable(detail),
        }
    }
}

//! The floor: a bare tonic server on the same kind of socket, whose answers weigh what the daemon's do. It runs on one thread, like
//! the daemon's tools side, and is otherwise what anyone would write first: the system's allocator, the defaults of tonic.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming, body::Body, server::NamedService};

use super::load::{Raw, Sizes};
use crate::daemon::Host;

/// The running echo. Killed when dropped.
pub struct Echo {
    child: Child,
    socket: PathBuf,
}

impl std::ops::Deref for Echo {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn start(host: &Host, sizes: Sizes) -> Echo {
    let socket = host.path("echo.sock");
    let sizes = format!("{},{}", sizes.stream, sizes.unary);
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    let child = command.arg("echo-server").arg(&socket).arg(sizes).stdin(Stdio::null()).spawn().expect("the echo");
    crate::daemon::eventually("the echo listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    Echo { child, socket }
}

#[derive(Clone)]
struct Bare {
    stream: Bytes,
    unary: Bytes,
}

impl NamedService for Bare {
    const NAME: &'static str = "valetkey.v1.Broker";
}

impl tonic::server::StreamingService<Bytes> for Bare {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answer = self.stream.clone();
        let answers = request.into_inner().map(move |request| request.map(|_| answer.clone()));
        std::future::ready(Ok(Response::new(Box::pin(answers))))
    }
}

impl tonic::server::UnaryService<Bytes> for Bare {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;
    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.unary.clone())))
    }
}

impl tower_service::Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(if request.uri().path().ends_with("/Session") {
                grpc.streaming(bare, request).await
            } else {
                grpc.unary(bare, request).await
            })
        })
    }
}

/// Runs as the echo.
pub fn serve(socket: &str, sizes: &str) {
    let (stream, unary) = sizes.split_once(',').expect("two sizes");
    let answer = |size: &str| Bytes::from(vec![7; size.parse().expect("a size")]);
    let bare = Bare { stream: answer(stream), unary: answer(unary) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(bare).serve_with_incoming(incoming).await.expect("the echo serves");
    });
}

//! Metrics for a scraper on this host: `GET /metrics` over HTTP/1.1, on a Unix socket or a loopback port, and nothing else. What is
//! told is in `page`.

mod page;

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tracing::{debug, warn};

use super::listener::Listener;
pub use page::Metrics;

/// Where scrapers connect.
#[derive(Debug)]
pub enum MetricsListener {
    Socket(Listener),
    Loopback(TcpListener),
}

/// Scrapers at one time. More wait in the kernel's queue.
const CONNECTIONS: usize = 4;
/// For the request's head to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For the answer to be taken.
const DONE_WITHIN: Duration = Duration::from_secs(20);
const MOST_HEADERS: usize = 32;
/// The least that hyper takes.
const MOST_HEAD_BYTES: usize = 8192;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl MetricsListener {
    /// Binds a port of this host. Configuration has seen to it that no other host can reach it.
    pub async fn loopback(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Loopback)
    }

    async fn accept(&self) -> Box<dyn Wire> {
        match self {
            Self::Socket(listener) => Box::new(listener.accept().await),
            Self::Loopback(listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Box::new(stream),
                    Err(error) => {
                        warn!(%error, "cannot accept a scraper's connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            },
        }
    }
}

/// Serves scrapers until `stop` resolves.
pub async fn serve_metrics(listener: MetricsListener, metrics: Metrics, stop: impl Future<Output = ()>) {
    let (metrics, permits) = (Arc::new(metrics), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut connections = tokio::task::JoinSet::new();
    let accepting = async {
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let wire = listener.accept().await;
            let metrics = metrics.clone();
            connections.spawn(async move {
                if let Ok(Err(error)) = tokio::time::timeout(DONE_WITHIN, serve(wire, &metrics)).await {
                    debug!(%error, "a scraper's connection ended");
                }
                drop(permit);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
}

/// One request, one answer: a scraper that keeps its connection would keep its place too.
async fn serve(wire: Box<dyn Wire>, metrics: &Metrics) -> Result<(), hyper::Error> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).keep_alive(false);
    http.max_headers(MOST_HEADERS).max_buf_size(MOST_HEAD_BYTES);
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, metrics)) });
    http.serve_connection(TokioIo::new(wire), answer).await
}

/// The type that scrapers know the text by (OpenMetrics 1.0, which Prometheus reads since 2.5).
const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<String> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is /metrics, and nothing else\n");
    }
    if request.method() != Method::GET {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET alone\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match metrics.page() {
        Ok(page) => {
            let mut response = Response::new(page);
            response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
            response
        }
        Err(std::fmt::Error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn plain(status: StatusCode, says: &str) -> Response<String> {
    let mut response = Response::new(says.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

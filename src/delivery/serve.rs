//! The two servers, with health and reflection.

use std::{io, sync::Arc, time::Duration};

use futures_core::Stream;
use tonic::transport::{Error, Server, server::Router};
use tower::layer::util::{Identity, Stack};

use super::{
    admin::{AdminService, Host},
    listener::LocalConnection,
    login::LoginLayer,
    pace::PaceLayer,
    remote::RemoteListener,
    tools::Tools,
};
use crate::{
    attest::Desk,
    broker::Broker,
    proto::v1::{DESCRIPTORS, admin_server::AdminServer},
};

/// Tells callers whether the daemon serves.
#[derive(Clone)]
pub struct Health(tonic_health::server::HealthReporter);

impl Default for Health {
    fn default() -> Self {
        Self(tonic_health::server::HealthReporter::new())
    }
}

impl Health {
    /// Tools, and the daemon as a whole.
    pub async fn tools(&self, serving: bool) {
        self.set(&["", super::tools::NAME], serving).await;
    }

    /// Operators.
    pub async fn admin(&self, serving: bool) {
        self.set(&[super::admin::NAME], serving).await;
    }

    async fn set(&self, services: &[&str], serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        for service in services {
            self.0.set_service_status(*service, if serving { Serving } else { NotServing }).await;
        }
    }
}

/// Bounds for one connection. No HTTP/2 pings: whether the process at the other end lives, its pidfd says.
fn server() -> Server<Layers> {
    Server::builder().max_concurrent_streams(256).http2_max_header_list_size(16 * 1024).layer(PaceLayer)
}

type Layers = Stack<PaceLayer, Identity>;

/// What ends a server is the end of its connections. A signal beside it would be heard while some are accepted and not served yet; that
/// there is one makes tonic ask each connection to come to its end.
fn never() -> std::future::Pending<()> {
    std::future::pending()
}

/// Serves tools until no more are coming and every connection is done.
pub async fn serve_tools(
    incoming: impl Stream<Item = io::Result<LocalConnection>>,
    broker: Arc<Broker>,
    health: Health,
) -> Result<(), Error> {
    let router = server().add_service(Tools::new(broker));
    with_common(router, &[super::tools::NAME], health).serve_with_incoming_shutdown(incoming, never()).await
}

/// Serves operators until no more are coming and every connection is done.
pub async fn serve_admin(
    incoming: impl Stream<Item = io::Result<LocalConnection>>,
    broker: Arc<Broker>,
    host: Arc<dyn Host>,
    health: Health,
) -> Result<(), Error> {
    let router = server().add_service(AdminServer::new(AdminService::new(broker, host)));
    with_common(router, &[super::admin::NAME], health).serve_with_incoming_shutdown(incoming, never()).await
}

/// What is served over the network, and by whom callers are asked who they are.
pub struct Remote {
    pub listener: RemoteListener,
    pub desk: Desk,
    pub broker: Arc<Broker>,
    pub health: Health,
    /// `Some`: operators may call over the network too.
    pub host: Option<Arc<dyn Host>>,
}

/// Pings say whether who is connected is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// Streams of one connection, and of them those that were reset and are not forgotten yet: who resets more is not served any more.
const STREAMS: u32 = 128;
const RESET_STREAMS: usize = 20;

/// Serves callers over the network until `stop` resolves and every connection is done.
pub async fn serve_remote(remote: Remote, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let Remote { listener, desk, broker, health, host } = remote;
    let login = LoginLayer { desk, broker: broker.clone(), failures: listener.failures() };
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(16 * 1024)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS))
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        // Who it is before what it costs: the pace is a caller's.
        .layer(login)
        .layer(PaceLayer);
    let router = server.add_service(Tools::new(broker.clone()));
    let (router, served): (_, &[_]) = match host {
        Some(host) => {
            let admin = AdminServer::new(AdminService::new(broker, host));
            (router.add_service(admin), &[super::tools::NAME, super::admin::NAME])
        }
        None => (router, &[super::tools::NAME]),
    };
    with_common(router, served, health).serve_with_incoming_shutdown(listener.incoming(stop), never()).await
}

/// Adds what both sides have: health, and reflection of what this side serves, and of nothing else.
fn with_common<L>(router: Router<L>, served: &[&str], health: Health) -> Router<L> {
    use tonic_health::{pb::health_server::HealthServer, server::HealthService};
    let router = router.add_service(HealthServer::new(HealthService::from_health_reporter(health.0)));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME);
    let reflection = served.iter().fold(reflection, |reflection, served| reflection.with_service_name(*served));
    match reflection.build_v1() {
        Ok(reflection) => router.add_service(reflection),
        // The descriptors are compiled in: a test reads them, so this cannot happen in a build that passed.
        Err(_) => router,
    }
}

//! The two servers, with health and reflection.

use std::{io, sync::Arc};

use futures_core::Stream;
use tonic::transport::{Error, Server, server::Router};
use tower::layer::util::{Identity, Stack};

use super::{
    admin::{AdminService, Host},
    listener::Connection,
    pace::PaceLayer,
    tools::Tools,
};
use crate::{
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
    incoming: impl Stream<Item = io::Result<Connection>>,
    broker: Arc<Broker>,
    health: Health,
) -> Result<(), Error> {
    let router = server().add_service(Tools::new(broker));
    with_common(router, super::tools::NAME, health).serve_with_incoming_shutdown(incoming, never()).await
}

/// Serves operators until no more are coming and every connection is done.
pub async fn serve_admin(
    incoming: impl Stream<Item = io::Result<Connection>>,
    broker: Arc<Broker>,
    host: Arc<dyn Host>,
    health: Health,
) -> Result<(), Error> {
    let router = server().add_service(AdminServer::new(AdminService::new(broker, host)));
    with_common(router, super::admin::NAME, health).serve_with_incoming_shutdown(incoming, never()).await
}

/// Adds what both sides have: health, and reflection of what this side serves, and of nothing else.
fn with_common(router: Router<Layers>, served: &str, health: Health) -> Router<Layers> {
    use tonic_health::{pb::health_server::HealthServer, server::HealthService};
    let router = router.add_service(HealthServer::new(HealthService::from_health_reporter(health.0)));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(served)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME);
    match reflection.build_v1() {
        Ok(reflection) => router.add_service(reflection),
        // The descriptors are compiled in: a test reads them, so this cannot happen in a build that passed.
        Err(_) => router,
    }
}

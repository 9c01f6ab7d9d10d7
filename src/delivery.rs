//! The gRPC services: `Broker` on the tools socket, `Admin` on the admin socket; and what systemd asks for on the credentials socket. Use cases are `broker`'s; what stands here is
//! how they travel. The one place that makes a `tonic::Status`.

mod admin;
mod credentials;
mod frame;
mod gather;
mod launch;
mod listener;
mod metrics;
mod pace;
mod passed;
mod places;
mod redact;
mod requests;
mod rotation;
mod serve;
mod status;
mod stream;
mod tools;

pub use admin::{Explanation, Host, HostStatus, Reloaded, SecretFacts, SourceFacts};
pub use credentials::serve_credentials;
pub use listener::{BindError, Listener, Socket};
pub use metrics::{Metrics, MetricsListener, serve_metrics};
pub use passed::{BadSocket, Expected};
pub use places::{Connections, Room};
pub use serve::{Health, serve_admin, serve_tools};

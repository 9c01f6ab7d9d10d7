//! The gRPC services: `Broker` on the tools socket, `Admin` on the admin socket; and what systemd asks for on the credentials socket. Use cases are `broker`'s; what stands here is
//! how they travel. The one place that makes a `tonic::Status`.

mod admin;
mod admin_approvals;
mod admin_tokens;
mod connection;
mod containment;
mod credentials;
mod frame;
mod gather;
mod idle;
mod launch;
mod listener;
mod login;
mod metrics;
mod pace;
mod passed;
mod places;
mod redact;
mod remote;
mod remote_places;
mod requests;
mod rotation;
mod serve;
mod status;
mod stream;
mod tools;

pub use admin::{Explanation, Host, HostStatus, Reloaded, RemoteFacts, SecretFacts, SourceFacts};
pub use credentials::serve_credentials;
pub use listener::{BindError, Listener, Socket};
pub use metrics::{Metrics, MetricsListener, serve_metrics};
pub use passed::{BadSocket, Expected};
pub use places::{Connections, Room};
pub use remote::{RemoteListener, RemoteRoom};
pub use serve::{Health, Remote, serve_admin, serve_remote, serve_tools};

//! The client library: a tool's side of the broker.
//!
//! ```no_run
//! # async fn run() -> Result<(), valetkey::client::Error> {
//! let session = valetkey::client::Client::new().session("billing").secret("stripe/api-key").open().await?;
//! let key = session.get("stripe/api-key").await?;
//! key.expose(|bytes| { /* use them here, and do not keep a copy */ });
//! # Ok(()) }
//! ```
//!
//! The daemon knows from the kernel which process calls, so there is nothing to log in with. What is declared must be what is
//! needed: asking for a secret that policy does not allow fails the whole session.
//!
//! A value is fetched once and then read from this process's own protected memory; the daemon tells the session of new versions,
//! and the library fetches them before anyone asks. When the daemon restarts, the library connects again by itself.
//!
//! Over a limit the library waits as long as the daemon says, with some jitter, and asks again: where waiting helps, and where it is over
//! before the call's time is ([`Client::timeout`]). Otherwise it says at once which limit it was. A session that has lived as long as it may
//! is opened anew.
//!
//! On its way here a value passes through buffers that are wiped behind it; none of them belongs to the HTTP/2 library.
//! [`harden_process`](crate::secret::harden_process) keeps other processes of the same user away.
//!
//! Set [`WipingAllocator`](crate::secret::WipingAllocator) as the program's global allocator, and what libraries leave
//! behind in freed memory is wiped too, those buffers among it:
//!
//! ```
//! #[global_allocator]
//! static WIPING: valetkey::secret::WipingAllocator = valetkey::secret::WipingAllocator::new();
//! # fn main() {}
//! ```

mod backoff;
mod changes;
mod error;
mod held;
mod link;
mod patience;
mod reports;
mod session;
mod swap;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use changes::{Change, Changes};
pub use error::{Error, Retry};
pub use held::Secret;
pub use session::Session;
pub use swap::{NotMade, Swap};

use crate::proto::v1::Open;
#[cfg(feature = "run")]
use crate::proto::v1::{Launch, LaunchPlan};

/// Where a daemon that runs as a system service listens for tools.
pub const SYSTEM_SOCKET: &str = "/run/valetkey/tools.sock";

/// Where one that a user runs for themselves does, below their home.
pub const OWN_SOCKET: &str = ".local/state/valetkey/run/tools.sock";

/// Finds the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// The daemon of this host: at [`SYSTEM_SOCKET`], or, where there is none, at `~/.local/state/valetkey/run/tools.sock`. No
    /// environment is needed beyond `HOME`, since MCP clients pass almost none.
    pub fn new() -> Self {
        let system = Path::new(SYSTEM_SOCKET);
        let own = std::env::home_dir().map(|home| home.join(OWN_SOCKET));
        let own = own.filter(|own| !system.exists() && own.exists());
        Self::at(own.as_deref().unwrap_or(system))
    }

    /// The daemon at this socket.
    pub fn at(socket: impl AsRef<Path>) -> Self {
        Self { socket: socket.as_ref().to_path_buf(), timeout: Duration::from_secs(10) }
    }

    /// How long one call may take, with every reconnection and every wait inside it. 10 s unless set.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Begins a session as this tool. Name the secrets that it needs, then [`open`](Declaration::open) it.
    pub fn session(&self, tool: impl Into<String>) -> Declaration {
        Declaration { client: self.clone(), open: Open { tool: tool.into(), ..Default::default() } }
    }
}

/// What a session will ask for.
#[derive(Debug, Clone)]
pub struct Declaration {
    client: Client,
    open: Open,
}

impl Declaration {
    /// Adds one secret to the scope.
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.open.scope.push(name.into());
        self
    }

    /// Adds several.
    pub fn secrets<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.open.scope.extend(names.into_iter().map(Into::into));
        self
    }

    /// Says why, for the operator's eyes: one line of at most 200 characters, never a value.
    pub fn purpose(mut self, purpose: impl Into<String>) -> Self {
        self.open.purpose = purpose.into();
        self
    }

    /// Opens the session.
    ///
    /// # Errors
    /// Where the daemon cannot be reached, or refuses: [`Error::retry`] says whether trying again can help.
    pub async fn open(self) -> Result<Session, Error> {
        Session::open(&self.client, self.open).await.map(|(session, _)| session)
    }
}

#[cfg(feature = "run")]
impl Client {
    /// Opens the session of a tool that is about to be launched, with this command or, where it is empty, with that of the policy:
    /// everything that policy delivers to such a process, and how.
    pub(crate) async fn launch(&self, tool: &str, command: Vec<String>) -> Result<(Session, LaunchPlan), Error> {
        let open = Open { tool: tool.into(), launch: Some(Launch { command }), ..Default::default() };
        let (session, opened) = Session::open(self, open).await?;
        let without = || Error::BadAnswer("it did not say how to launch the tool: it is of another version".into());
        Ok((session, opened.plan.ok_or_else(without)?))
    }
}

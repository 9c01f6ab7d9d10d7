//! What leases ask of the daemon: where a secret comes from.

use std::sync::{Arc, PoisonError, Weak};

use tracing::warn;

use super::{Operations, rotation::place};
use crate::{
    daemon::places,
    lease::{Host, Leases, List},
    name::{SecretName, SourceName},
    source::{Source, Wanted},
};

/// The list of leases that are out, in the state directory.
const FILE: &str = "leases.json";

struct Hosted(Weak<Operations>);

impl Operations {
    /// Makes what lends. Once.
    ///
    /// # Errors
    /// Where it cannot be known what an earlier daemon has lent: in words.
    pub fn host_leases(self: &Arc<Self>) -> Result<(), String> {
        let wanted = !self.broker.policy().per_session().is_empty();
        match List::take(places::state_dir().join(FILE)) {
            Ok(list) => {
                let host = Arc::new(Hosted(Arc::downgrade(self)));
                let redactor = self.broker.store().redactor().clone();
                self.broker.lend_by(Leases::new(host, redactor, list, self.control.clone()));
                Ok(())
            }
            Err(problem) if wanted => Err(format!("nothing can be made for sessions (per-session), because {problem}")),
            Err(problem) => {
                warn!("nothing can be made for sessions, because {problem}");
                Ok(())
            }
        }
    }
}

impl Host for Hosted {
    fn place(&self, secret: &SecretName) -> Result<(SourceName, Arc<dyn Source>, Wanted), String> {
        let operations = self.0.upgrade().ok_or("the daemon is stopping")?;
        let now = operations.now.read().unwrap_or_else(PoisonError::into_inner);
        let settings = now.config.secrets.get(secret).ok_or("configuration has no such secret any longer")?;
        let (source, wanted) = place(&now, secret)?;
        Ok((settings.source.clone(), source, wanted))
    }

    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>> {
        let operations = self.0.upgrade()?;
        let now = operations.now.read().unwrap_or_else(PoisonError::into_inner);
        now.sources.get(name).map(|(_, source)| source.clone())
    }
}

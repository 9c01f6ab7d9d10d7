//! A caller, whichever way it came.

use std::sync::Arc;

use super::{Caller, Visitor};
use crate::peer::{Changed, Peer, Witness};

/// Who calls, proven when it came and provable again. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Attested {
    /// A process of this host.
    Process(Arc<Caller>),
    /// Someone over the network.
    Visitor(Arc<Visitor>),
}

impl Attested {
    /// Waits until it is gone: the process, or the connection. Any number of tasks may wait.
    pub async fn gone(&self) {
        match self {
            Self::Process(caller) => caller.exited().await,
            Self::Visitor(visitor) => visitor.gone().await,
        }
    }
}

impl Witness for Attested {
    fn peer(&self) -> &Peer {
        match self {
            Self::Process(caller) => caller.peer(),
            Self::Visitor(visitor) => visitor.peer(),
        }
    }

    fn recheck(&self) -> Result<(), Changed> {
        match self {
            Self::Process(caller) => Witness::recheck(&**caller),
            Self::Visitor(visitor) => visitor.recheck(),
        }
    }
}

//! Tools that are cut off: whoever is one of them opens no session. Who orders that, and what else it takes, is not known here.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{Broker, Event, Refused};
use crate::{
    name::ToolName,
    session::{End, Session},
};

#[derive(Default)]
pub(super) struct Contained {
    tools: RwLock<BTreeSet<ToolName>>,
    /// Is there any? Most of the time there is not, and each session asks.
    any: AtomicBool,
}

impl Broker {
    /// Cuts a tool off, and answers which sessions that ended. A hand-out that was under way is not made.
    pub fn contain(&self, tool: &ToolName) -> Vec<Arc<Session>> {
        let mut tools = self.contained.tools.write().unwrap_or_else(PoisonError::into_inner);
        tools.insert(tool.clone());
        self.contained.any.store(true, Relaxed);
        drop(tools);
        let ended = self.sessions.end(End::Contained, |session| session.tool() == tool);
        ended.iter().for_each(|session| self.note(&Event::SessionEnded(session, End::Contained)));
        ended
    }

    /// Lets it open sessions again.
    pub fn release(&self, tool: &ToolName) {
        let mut tools = self.contained.tools.write().unwrap_or_else(PoisonError::into_inner);
        tools.remove(tool);
        self.contained.any.store(!tools.is_empty(), Relaxed);
    }

    /// Is it cut off?
    pub fn is_contained(&self, tool: &ToolName) -> bool {
        self.contained.any.load(Relaxed) && self.contained.tools.read().unwrap_or_else(PoisonError::into_inner).contains(tool)
    }

    /// Those that are.
    pub fn contained(&self) -> BTreeSet<ToolName> {
        self.contained.tools.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn not_contained(&self, tool: &ToolName) -> Result<(), Refused> {
        if self.is_contained(tool) { Err(Refused::contained()) } else { Ok(()) }
    }
}

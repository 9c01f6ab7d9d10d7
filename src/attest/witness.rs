//! A caller as the deciding code sees it: facts, and a way to ask the kernel again.

use super::Caller;
use crate::peer::{Changed, Peer, Witness};

impl Witness for Caller {
    fn peer(&self) -> &Peer {
        Self::peer(self)
    }

    fn recheck(&self) -> Result<(), Changed> {
        Self::recheck(self).map_err(|refusal| Changed(refusal.to_string()))
    }
}

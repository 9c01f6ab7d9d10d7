//! What systemd asks for when it starts a unit: one secret, by the name that policy gives it as a credential.

use tracing::{info, warn};

use super::{Broker, Declaration, Handout, Refused, unit};
use crate::{peer::Witness, policy::Denial, session::End};

impl Broker {
    /// The secret that is this credential of the caller's unit: a session of one hand-out, opened, judged and limited as any tool's. It
    /// ends at once, as nobody is there to hold it: the unit keeps the value until it ends.
    ///
    /// # Errors
    /// As for [`open`](Self::open) and [`get`](Self::get); and where policy has no such credential.
    pub fn credential(&self, witness: &dyn Witness, id: &str) -> Result<Handout, Refused> {
        let policy = self.policy();
        let (tool, secret) = policy.credential(witness.peer(), id).map_err(|denial| self.deny_credential(witness, &denial))?;
        let scope = [secret.to_string()];
        let purpose = format!("systemd credential {id}");
        let declared = Declaration { tool: tool.as_str(), scope: &scope, purpose: &purpose, launch: None };
        let session = self.open(witness, &declared, false)?;
        let handout = self.get(witness, &session, secret.as_str());
        self.close(&session, End::Closed);
        if let Ok(Handout { secret, held }) = &handout {
            info!(%tool, unit = unit(witness.peer()), credential = id, %secret, version = %held.version, "handed out as a credential");
        }
        handout
    }

    /// Of a unit that is no tool, and so counts for none.
    fn deny_credential(&self, witness: &dyn Witness, denial: &Denial) -> Refused {
        let peer = witness.peer();
        if let Err(refused) = self.keep_strangers_within_bounds(peer) {
            return refused;
        }
        let refused = Refused::denied(denial);
        self.count("", &refused);
        warn!(pid = peer.process.pid, uid = peer.uid, unit = unit(peer), reason = ?refused.reason, "denied: {denial}");
        refused
    }
}

//! What systemd asks for when it starts a unit: one secret, by the name that policy gives it as a credential.

use std::sync::Arc;

use tracing::info;

use super::{Broker, Declaration, Handout, Refused, UnderWay, events::Asker};
use crate::{peer::Witness, session::End};

impl Broker {
    /// The secret that is this credential of the caller's unit: a session of one hand-out, opened, judged, limited and recorded as any
    /// tool's. It ends at once, as nobody is there to hold it: the unit keeps the value until it ends.
    ///
    /// # Errors
    /// As for [`open`](Self::open) and [`get`](Self::get); and where policy has no such credential.
    pub async fn credential(self: &Arc<Self>, witness: &dyn Witness, id: &str) -> Result<(Handout, UnderWay), Refused> {
        let (policy, peer) = (self.policy(), witness.peer());
        let named = policy.credential(peer, id).map_err(|denial| Refused::denied(&policy, &denial));
        // Of a unit that is no tool, and so counts for none.
        let named = named.map_err(|refused| self.keep_strangers_within_bounds(peer, refused));
        let (tool, secret) = self.told(Asker { peer, tool: "", session: None }, named)?;
        let scope = [secret.to_string()];
        let purpose = format!("systemd credential {id}");
        let declared = Declaration { tool: tool.as_str(), scope: &scope, purpose: &purpose, launch: None };
        let session = self.open(witness, &declared, false)?;
        let under_way = self.begin(&session);
        let handed_out = match under_way {
            Ok(under_way) => self.get(witness, &session, secret.as_str()).await.map(|handout| (handout, under_way)),
            Err(refused) => Err(refused),
        };
        self.close(&session, End::Closed);
        if let Ok((Handout { secret, held, .. }, _)) = &handed_out {
            let unit = peer.unit.as_ref().map(|unit| unit.name.as_str());
            self.units.handed(unit.unwrap_or_default(), secret, &held.version);
            info!(%tool, unit, credential = id, %secret, version = %held.version, "handed out as a credential");
        }
        handed_out
    }
}

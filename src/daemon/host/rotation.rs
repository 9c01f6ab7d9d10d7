//! What rotation asks of the daemon: secrets as configuration has them, and fresh values.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use tracing::warn;

use super::{Now, Operations};
use crate::{
    broker::Broker,
    config::{Config, SecretSettings, SourceSettings},
    daemon::places,
    name::SecretName,
    rotate::{Folder, Host, How, Rotations, Scheduled, Target},
    source::{Source, Wanted, Working},
    store::Keeper,
};

/// The directory of the state directory where it is kept how far each rotation is.
const FOLDER: &str = "rotations";
/// How often it is looked whether somebody still has a version that went.
const FORGET: Duration = Duration::from_secs(5);

struct Hosted(Weak<Operations>);

impl Operations {
    /// Makes what rotates secrets. Once; nothing is rotated before [`begin`](Self::begin_rotations).
    pub fn host_rotations(self: &Arc<Self>) {
        let folder = match Folder::take(places::state_dir().join(FOLDER)) {
            Ok(folder) => folder,
            Err(problem) => {
                let wanted = self.config().secrets.values().any(|secret| secret.rotation.is_some());
                if wanted {
                    warn!("no secret is rotated, because it could not be kept where rotations stand: {problem}");
                }
                return;
            }
        };
        let host = Arc::new(Hosted(Arc::downgrade(self)));
        let rotations = Rotations::new(self.broker.clone(), host, folder, self.control.clone());
        let _ = self.rotations.set(Arc::new(rotations));
    }

    /// Lets tools have a secret checked at its source, where their system refused a value.
    pub fn host_refresh(self: &Arc<Self>) {
        let host = Arc::downgrade(self);
        self.broker.refresh_by(Box::new(move |secret| {
            let host = Hosted(host.clone());
            Box::pin(async move { host.refresh(vec![secret]).await })
        }));
    }

    /// Goes on with what was under way, and begins what is due. Once, when all was loaded.
    pub fn begin_rotations(&self) {
        self.control.spawn(forget(self.keeper.clone(), self.broker.clone()));
        if let Some(rotations) = self.rotations.get().cloned() {
            let _inside = self.control.enter();
            rotations.resume();
            if let Some(leases) = self.broker.leases() {
                leases.resume();
            }
            if let Some(containments) = self.containments.get() {
                containments.resume();
            }
            self.control.spawn(async move { rotations.keep_schedule().await });
        }
    }
}

/// Has the redactor forget old versions that nobody has any more.
async fn forget(keeper: Arc<Keeper>, broker: Arc<Broker>) {
    let mut every = tokio::time::interval(FORGET);
    loop {
        every.tick().await;
        keeper.forget_unheld(|secret, version| broker.may_be_held(secret, version));
    }
}

impl Hosted {
    fn operations(&self) -> Result<Arc<Operations>, String> {
        self.0.upgrade().ok_or_else(|| "the daemon is stopping".into())
    }
}

/// Where a secret is, and how it is asked for there.
pub(super) fn place(now: &Now, secret: &SecretName) -> Result<(Arc<dyn Source>, Wanted), String> {
    let settings = now.config.secrets.get(secret).ok_or("configuration has no such secret any longer")?;
    let (_, source) = now.sources.get(&settings.source).ok_or("its source is not configured any longer")?;
    let SecretSettings { path, field, stage, .. } = settings.clone();
    Ok((source.clone(), Wanted { secret: secret.clone(), path, field, stage }))
}

/// What configuration refuses beside `rotation` an operator may still ask for with a value of their own.
fn impossible(config: &Config, wanted: &Wanted, how: &How) -> Option<&'static str> {
    let source = config.secrets.get(&wanted.secret).and_then(|secret| config.sources.get(&secret.source));
    match source {
        // Which of them rotate by themselves, configuration has seen to.
        Some(SourceSettings::Vault(_)) if wanted.path.starts_with('/') && !matches!(how, How::Source(_)) => {
            Some("another engine than the key-value one makes it")
        }
        _ if wanted.stage.as_deref().is_some_and(|stage| stage != "AWSCURRENT") => Some("its `stage` names one version for good"),
        _ => None,
    }
}

impl Host for Hosted {
    fn target(&self, secret: &SecretName) -> Result<Target, String> {
        let operations = self.operations()?;
        let now = operations.now.read().unwrap_or_else(PoisonError::into_inner);
        let (source, wanted) = place(&now, secret)?;
        let configured = now.config.secrets.get(secret);
        let settings = configured.and_then(|secret| secret.rotation.clone()).unwrap_or_default();
        if let Some(why) = impossible(&now.config, &wanted, &settings.how) {
            return Err(why.into());
        }
        let with = match &settings.how {
            How::Hook(hook) => hook.with.as_slice(),
            How::Given | How::Generate(_) | How::Source(_) => &[],
        };
        let with = with.iter().map(|name| place(&now, name).map(|(source, wanted)| (name.clone(), source, wanted)));
        let with = with.collect::<Result<_, _>>()?;
        let same = |other: &SecretSettings| configured.is_some_and(|own| own.source == other.source && own.path == other.path);
        let siblings = now.config.secrets.iter().filter(|(_, other)| same(other)).map(|(name, _)| name.clone()).collect();
        Ok(Target { source, wanted, settings, with, siblings })
    }

    fn unit_runs(&self, unit: &str) -> bool {
        places::unit_runs(unit)
    }

    fn scheduled(&self) -> Vec<Scheduled> {
        let Ok(operations) = self.operations() else { return Vec::new() };
        let config = operations.config();
        let scheduled = config.secrets.iter().filter_map(|(secret, settings)| {
            let (every, rotation) = (settings.rotate_every?, settings.rotation.as_ref()?);
            let by_itself = rotation.how != How::Given;
            by_itself.then(|| Scheduled { secret: secret.clone(), every, quiet_hours: rotation.quiet_hours })
        });
        scheduled.collect()
    }

    fn refresh(&self, secrets: Vec<SecretName>) -> Working<'_> {
        Box::pin(async move {
            if let Ok(operations) = self.operations() {
                operations.refresh(Some(secrets)).await;
            }
        })
    }
}

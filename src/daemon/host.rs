//! What operators can ask of a running daemon, and what a reload does.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use tokio::{runtime::Handle, sync::Mutex};
use tracing::{error, info, warn};

use super::assemble::{self, Captured};
use crate::{
    broker::Broker,
    config::{self, Config, SourceSettings},
    delivery::{Explanation, Host, HostStatus, Reloaded, SecretFacts, SourceFacts},
    name::{SecretName, SourceName},
    refresh, secret,
    store::Keeper,
};

/// What a daemon is made of, as far as operators see it.
pub struct Parts {
    pub config: Arc<Config>,
    pub captured: Captured,
    pub keeper: Keeper,
    pub last_good: BTreeMap<SourceName, SystemTime>,
    /// How callers are attested.
    pub method: String,
}

/// The operators' side of a running daemon.
pub struct Operations {
    broker: Arc<Broker>,
    control: Handle,
    captured: Captured,
    keeper: Keeper,
    method: String,
    started: SystemTime,
    now: RwLock<Now>,
    /// One reload at a time.
    turn: Mutex<()>,
}

/// What a reload replaces.
struct Now {
    config: Arc<Config>,
    configured: SystemTime,
    last_good: BTreeMap<SourceName, SystemTime>,
    reload_error: String,
}

impl Operations {
    pub fn new(parts: Parts, broker: Arc<Broker>, control: Handle) -> Self {
        let Parts { config, captured, keeper, last_good, method } = parts;
        let started = SystemTime::now();
        let now = RwLock::new(Now { config, configured: started, last_good, reload_error: String::new() });
        Self { broker, control, captured, keeper, method, started, now, turn: Mutex::new(()) }
    }

    fn config(&self) -> Arc<Config> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads configuration and sources again. A bad file, or a required secret that cannot be had, changes nothing.
    pub async fn reload(&self) -> Result<Reloaded, Vec<String>> {
        let _turn = self.turn.lock().await;
        let before = self.config();
        let reloaded = self.try_reload(&before).await;
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        match &reloaded {
            Ok(Reloaded { changes, sessions_ended }) => {
                now.reload_error.clear();
                changes.iter().for_each(|change| info!("reload: {change}"));
                info!(sessions_ended, "reloaded");
            }
            Err(reasons) => {
                now.reload_error = reasons.join("\n");
                reasons.iter().for_each(|reason| error!("{reason}"));
                error!("reload failed, {} reasons above: everything stays as it was", reasons.len());
            }
        }
        reloaded
    }

    async fn try_reload(&self, before: &Config) -> Result<Reloaded, Vec<String>> {
        let lines = |problems: &[config::Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let config = config::load(&before.file).map_err(|problems| lines(&problems))?;
        // A file that someone is about to write is empty first. To take everything away, take the tools away, or stop the daemon.
        if config.sources.is_empty() && config.secrets.is_empty() && config.policy.tools().next().is_none() {
            return Err(vec![format!("{}: there is nothing in it: no source, no secret and no tool", config.file.display())]);
        }
        config.problems.iter().for_each(|problem| warn!("{problem}"));
        let mut changes = self.needs_restart(before, &config)?;
        let (sources, mut reasons) = assemble::sources(&config, &self.captured);
        let plan = assemble::plan(&config, &sources);
        let staged = refresh::load(&plan).await;
        if staged.lacks_required() || !reasons.is_empty() {
            reasons.extend(staged.failures().iter().map(ToString::to_string));
            return Err(reasons);
        }
        staged.failures().iter().for_each(|failure| warn!("not required, and not to be had: {failure}"));
        let last_good = assemble::last_good(&plan, &staged);

        let granted = config.policy.granted();
        // The new policy first: a secret that it takes away must not be handed out once more in between.
        let sessions_ended = self.broker.replace_policy(config.policy.clone());
        self.keeper.retain(|name| granted.contains(name));
        changes.extend(staged.commit(&self.keeper, SystemTime::now()).into_iter().map(|secret| format!("{secret} changed")));
        self.broker.announce_changes();
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        now.last_good.extend(last_good);
        now.configured = SystemTime::now();
        now.config = Arc::new(config);
        Ok(Reloaded { changes, sessions_ended })
    }

    /// What a reload cannot do: said, or refused where the daemon would go on with less than configuration asks for.
    fn needs_restart(&self, before: &Config, after: &Config) -> Result<Vec<String>, Vec<String>> {
        if after.policy.needs_executable() && !before.policy.needs_executable() {
            return Err(vec!["a tool is now told by its executable, which this daemon was not started for: restart it".into()]);
        }
        let granted = after.policy.granted();
        let from_environment = after.secrets.iter().filter(|(name, secret)| {
            granted.contains(name) && matches!(after.sources.get(&secret.source), Some(SourceSettings::Environment))
        });
        let unseen: Vec<_> = from_environment.filter(|(_, secret)| secret.required && !self.captured.has(&secret.path)).collect();
        if !unseen.is_empty() {
            let reason = |(name, secret): (&SecretName, &config::SecretSettings)| {
                format!("{name} comes from ${}, which was not taken at the start: restart the daemon with it", secret.path)
            };
            return Err(unseen.into_iter().map(reason).collect());
        }
        let same = before.daemon == after.daemon;
        Ok(if same { Vec::new() } else { vec!["[daemon] changed: it takes effect when the daemon restarts".into()] })
    }
}

impl Host for Operations {
    fn may_operate(&self, uid: u32, groups: &[u32]) -> bool {
        let admin_group = self.config().daemon.admin_group.as_ref().map(|group| group.id);
        uid == 0 || uid == rustix::process::geteuid().as_raw() || admin_group.is_some_and(|group| groups.contains(&group))
    }

    fn status(&self) -> HostStatus {
        let memory = secret::protection();
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        HostStatus {
            started: self.started,
            configured: now.configured,
            config: now.config.file.display().to_string(),
            memory_protection: memory.kind.to_string(),
            memory_protection_lost: memory.lost.unwrap_or_default().into(),
            arena_locked_bytes: memory.locked_bytes as u64,
            arena_used_bytes: memory.used_bytes as u64,
            attestation: self.method.clone(),
            reload_error: now.reload_error.clone(),
        }
    }

    fn sources(&self) -> BTreeMap<SourceName, SourceFacts> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let facts = |(name, settings): (&SourceName, &SourceSettings)| {
            (name.clone(), SourceFacts { kind: settings.kind(), last_good: now.last_good.get(name).copied() })
        };
        now.config.sources.iter().map(facts).collect()
    }

    fn secret(&self, name: &SecretName) -> SecretFacts {
        let config = self.config();
        let Some(secret) = config.secrets.get(name) else { return SecretFacts::default() };
        SecretFacts {
            path: secret.path.clone(),
            environment: secret.environment.clone().unwrap_or_default(),
            reaches: secret.reaches.iter().map(ToString::to_string).collect(),
        }
    }

    fn explain(&self, tool: &str, secret: &str) -> Explanation {
        let (Ok(tool), Ok(secret)) = (tool.parse(), secret.parse()) else {
            return Explanation {
                allowed: false,
                verdict: "one of these is not a name that a tool or a secret can have".into(),
                origin: String::new(),
                run_as: Vec::new(),
                missing: "`valetkey tools` and `valetkey secrets` list the names there are".into(),
            };
        };
        let config::Explanation { allowed, verdict, origin, run_as, missing } = config::explain(&self.config(), &tool, &secret);
        let origin = origin.map(|origin| origin.to_string()).unwrap_or_default();
        Explanation { allowed, verdict, origin, run_as, missing: missing.unwrap_or_default() }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Vec<String>>> + Send + '_>> {
        Box::pin(self.reload())
    }

    fn revoke_secret(&self, name: &str) -> bool {
        let _inside = self.control.enter();
        let dropped = self.keeper.revoke(name);
        self.broker.announce_changes();
        dropped.is_some()
    }
}

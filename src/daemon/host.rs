//! What operators can ask of a running daemon, and what a reload does.

mod containment;
mod leases;
mod rotation;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    task::JoinHandle,
};
use tracing::{Instrument, error, info, warn};

use super::{
    assemble::{self, Captured, Sources},
    remote::RemotePort,
    seen,
};
use crate::{
    attest::Tokens,
    blast::Facts,
    broker::Broker,
    config::{self, Config, SourceSettings},
    contain::Containments,
    delivery::{Explanation, Host, HostStatus, Reloaded, SecretFacts, SourceFacts},
    export::Exports,
    measure::span,
    name::{SecretName, SourceName, ToolName},
    peer::Peer,
    policy::{Account, Role},
    proto::v1,
    refresh::{self, LastGood, Plan, Refreshed, States, Upkeep},
    rotate::Rotations,
    secret,
    source::{Calls, Source, Working},
    store::Keeper,
};

/// What a daemon is made of, as far as operators see it.
pub struct Parts {
    pub config: Arc<Config>,
    pub captured: Captured,
    pub sources: Sources,
    pub keeper: Arc<Keeper>,
    pub last_good: Option<Arc<LastGood>>,
    pub exports: Exports,
    /// Those that operators issue, where callers over the network are served.
    pub tokens: Option<Arc<Tokens>>,
    pub remote: Option<RemotePort>,
    /// How callers are attested.
    pub method: String,
}

/// The operators' side of a running daemon.
pub struct Operations {
    broker: Arc<Broker>,
    control: Handle,
    captured: Captured,
    keeper: Arc<Keeper>,
    /// The sealed copy on disk, where one is configured.
    last_good: Option<Arc<LastGood>>,
    exports: Exports,
    tokens: Option<Arc<Tokens>>,
    remote: Option<RemotePort>,
    states: States,
    method: String,
    started: SystemTime,
    now: RwLock<Now>,
    /// What keeps the store fresh; none until all was loaded once, and while a reload replaces it.
    upkeep: RwLock<Option<Upkeep>>,
    /// One load at a time.
    turn: Mutex<()>,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    /// Was all loaded once?
    loaded: watch::Sender<bool>,
    closed: AtomicBool,
    sweep: JoinHandle<()>,
    rotations: OnceLock<Arc<Rotations>>,
    containments: OnceLock<Arc<Containments>>,
}

/// What a reload replaces.
struct Now {
    config: Arc<Config>,
    sources: Sources,
    plan: Plan,
    configured: SystemTime,
    reload_error: String,
}

/// The time that sources have to take back what they lent.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

impl Operations {
    pub fn new(parts: Parts, broker: Arc<Broker>, control: Handle) -> Self {
        let Parts { config, captured, sources, keeper, last_good, exports, tokens, remote, method } = parts;
        let started = SystemTime::now();
        let plan = assemble::plan(&config, &sources);
        let now = RwLock::new(Now { config, sources, plan, configured: started, reload_error: String::new() });
        let (states, upkeep, turn, loaded) = (States::default(), RwLock::default(), Mutex::default(), watch::Sender::new(false));
        // Beside the upkeep, and not part of it: a reload that takes its time must not keep stale values in memory.
        let sweep = control.spawn(refresh::sweep(keeper.clone()));
        Self {
            broker,
            control,
            captured,
            keeper,
            last_good,
            exports,
            tokens,
            remote,
            states,
            method,
            started,
            now,
            upkeep,
            turn,
            loaded,
            closed: AtomicBool::new(false),
            sweep,
            rotations: OnceLock::new(),
            containments: OnceLock::new(),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
        }
    }

    /// Reads everything for the first time. An error says everything that is missing; `None` says it too, where trying again may help:
    /// every source of what is missing cannot be reached.
    pub async fn first_load(&self) -> Result<Option<Vec<String>>, Vec<String>> {
        let _turn = self.turn.lock().await;
        if self.is_loaded() {
            return Ok(None);
        }
        let plan = self.plan();
        let mut staged = refresh::load(&plan, &self.keeper).await;
        if let Some(last_good) = &self.last_good {
            last_good.fill(&mut staged, &plan).await;
        }
        let failures = || staged.failures().iter().map(ToString::to_string).collect();
        if staged.lacks_required() {
            staged.tell(&plan, &self.states);
            return if staged.may_come() { Ok(Some(failures())) } else { Err(failures()) };
        }
        staged.failures().iter().for_each(|failure| warn!("not required, and not to be had: {failure}"));
        staged.commit(&plan, &self.keeper, &self.states);
        self.start_upkeep(&plan);
        self.settle_copy().await;
        Ok(None)
    }

    /// Whatever may not be had any longer is out of the copy on disk when this returns.
    async fn settle_copy(&self) {
        if let Some(last_good) = &self.last_good {
            last_good.settle().await;
        }
    }

    /// What sends the audit log elsewhere.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    pub fn load_timeout(&self) -> Duration {
        self.plan().timeout
    }

    fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// Resolves when all was loaded once, by a reload too.
    pub async fn loaded(&self) {
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    fn plan(&self) -> Plan {
        self.now.read().unwrap_or_else(PoisonError::into_inner).plan.clone()
    }

    fn start_upkeep(&self, plan: &Plan) {
        // A reload may end when sources have been closed already.
        if self.closed.load(Relaxed) {
            return;
        }
        let _inside = self.control.enter();
        let upkeep = Upkeep::start(plan, &self.keeper, &self.states);
        *self.upkeep.write().unwrap_or_else(PoisonError::into_inner) = Some(upkeep);
        self.loaded.send_replace(true);
    }

    async fn stop_upkeep(&self) {
        let upkeep = self.upkeep.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upkeep) = upkeep {
            upkeep.stop().await;
        }
    }

    /// Stops the upkeep, and gives back to the sources what they lent.
    pub async fn close(&self) {
        self.closed.store(true, Relaxed);
        self.sweep.abort();
        self.stop_upkeep().await;
        if let Some(last_good) = &self.last_good {
            last_good.close().await;
        }
        if let Some(leases) = self.broker.leases() {
            // What is still out is on the list for the next daemon.
            let _ = tokio::time::timeout(CLOSE_WITHIN, leases.settled()).await;
        }
        let sources = self.now.read().unwrap_or_else(PoisonError::into_inner).sources.clone();
        close(assemble::only_in(&sources, &Sources::new())).await;
    }

    /// Checks these secrets at their sources now, or all of them.
    pub async fn refresh(&self, secrets: Option<Vec<SecretName>>) -> Option<Refreshed> {
        let ask = || {
            self.upkeep.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|upkeep| upkeep.refresh(secrets.as_deref()))
        };
        if !self.is_loaded() {
            return None;
        }
        let refreshed = match ask() {
            Some(refreshing) => Some(refreshing.await).filter(|(_, complete)| *complete),
            None => None,
        };
        let refreshed = match refreshed {
            Some(refreshed) => refreshed,
            None => {
                // A reload is under way, or was when it was asked: who has the turn next finds what it left.
                drop(self.turn.lock().await);
                ask()?.await
            }
        };
        self.settle_copy().await;
        Some(refreshed.0)
    }

    fn config(&self) -> Arc<Config> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads configuration and sources again. A bad file, or a required secret that cannot be had, changes nothing.
    pub async fn reload(&self) -> Result<Reloaded, Vec<String>> {
        let _turn = self.turn.lock().await;
        let before = self.config();
        let span = span!("reload");
        let reloaded = self.try_reload(&before).instrument(span.clone()).await;
        span.record("outcome", if reloaded.is_ok() { "done" } else { "failed" });
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        match &reloaded {
            Ok(Reloaded { changes, sessions_ended }) => {
                now.reload_error.clear();
                self.reloads.fetch_add(1, Relaxed);
                changes.iter().for_each(|change| info!("reload: {change}"));
                info!(sessions_ended, "reloaded");
                self.broker.reloaded(Ok(*sessions_ended));
            }
            Err(reasons) => {
                now.reload_error = reasons.join("\n");
                self.reloads_failed.fetch_add(1, Relaxed);
                reasons.iter().for_each(|reason| error!("{reason}"));
                error!("reload failed, {} reasons above: everything stays as it was", reasons.len());
                self.broker.reloaded(Err(reasons.len()));
            }
        }
        reloaded
    }

    async fn try_reload(&self, before: &Config) -> Result<Reloaded, Vec<String>> {
        // Warnings are no reasons: `valetkey check` has them.
        let errors = |problems: Vec<config::Problem>| {
            let errors = problems.into_iter().filter(|problem| problem.severity == config::Severity::Error);
            errors.map(|problem| problem.to_string()).collect::<Vec<_>>()
        };
        let config = config::load(&before.file).map_err(errors)?;
        // A file that someone is about to write is empty first. To take everything away, take the tools away, or stop the daemon.
        if config.sources.is_empty() && config.secrets.is_empty() && config.policy.tools().next().is_none() {
            return Err(vec![format!("{}: there is nothing in it: no source, no secret and no tool", config.file.display())]);
        }
        config.problems.iter().for_each(|problem| warn!("{problem}"));
        let mut changes = self.needs_restart(before, &config)?;
        let sources_before = self.now.read().unwrap_or_else(PoisonError::into_inner).sources.clone();
        let (sources, mut reasons) = assemble::sources(&config, &self.captured, &sources_before);
        let plan = assemble::plan(&config, &sources);
        // What a check has read before the load must not be put over what the load reads.
        let paused = Paused(self);
        self.stop_upkeep().await;
        let mut staged = refresh::load(&plan, &self.keeper).await;
        staged.hold_over(&plan, &self.plan(), &self.keeper);
        if staged.lacks_required() || !reasons.is_empty() {
            reasons.extend(staged.failures().iter().filter(|failure| !failure.held).map(ToString::to_string));
            drop(paused);
            self.control.spawn(close(assemble::only_in(&sources, &sources_before)));
            return Err(reasons);
        }
        for failure in staged.failures() {
            let what = if failure.held { "the last good value stands" } else { "not required, and not to be had" };
            warn!("{what}: {failure}");
        }

        let granted = config.policy.granted();
        // The new policy first: a secret that it takes away must not be handed out once more in between.
        let sessions_ended = self.broker.replace_policy(config.policy.clone());
        self.keeper.retain(|name| granted.contains(name));
        let changed = staged.commit(&plan, &self.keeper, &self.states);
        changes.extend(changed.into_iter().map(|secret| format!("{secret} changed")));
        self.broker.announce_changes();
        self.settle_copy().await;
        self.start_upkeep(&plan);
        self.control.spawn(close(assemble::only_in(&sources_before, &sources)));
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now { config: Arc::new(config), sources, plan, configured: SystemTime::now(), reload_error: String::new() };
        Ok(Reloaded { changes, sessions_ended })
    }

    /// What a reload cannot do: said, or refused where the daemon would go on with less than configuration asks for.
    fn needs_restart(&self, before: &Config, after: &Config) -> Result<Vec<String>, Vec<String>> {
        if after.policy.needs_executable() && !before.policy.needs_executable() {
            return Err(vec!["a tool is now told by its executable, which this daemon was not started for: restart it".into()]);
        }
        let unseen = seen::unseen_accounts(after);
        if !unseen.is_empty() {
            return Err(unseen);
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
        let tables = [
            ("daemon", before.daemon == after.daemon),
            ("audit", before.audit == after.audit),
            ("alarm", before.alarm == after.alarm),
            ("remote", before.remote == after.remote),
            ("issuer", before.issuers == after.issuers),
        ];
        let changed = tables.into_iter().filter(|(_, same)| !same);
        Ok(changed.map(|(table, _)| format!("[{table}] changed: it takes effect when the daemon restarts")).collect())
    }
}

/// While a reload reads. Dropped before that has come to an end, because it failed or its caller went away, the upkeep goes on as before.
struct Paused<'a>(&'a Operations);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let there = self.0.upkeep.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.0.is_loaded() && !there {
            self.0.start_upkeep(&self.0.plan());
        }
    }
}

/// Gives back what sources lent, for as long as that may take.
async fn close(sources: Vec<Arc<dyn Source>>) {
    let closing = futures_util::future::join_all(sources.iter().map(|source| source.close()));
    let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
}

impl Host for Operations {
    fn role(&self, peer: &Peer) -> Option<Role> {
        let (config, policy) = (self.config(), self.broker.policy());
        let roles = policy.roles();
        if peer.remote.is_none() {
            let in_group = |group: &Account| peer.gid == group.id || peer.groups.contains(&group.id);
            let in_admin_group = config.daemon.admin_group.as_ref().is_some_and(in_group);
            // Where no table says what the group may do, its members may do all, as they always could.
            if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() || (in_admin_group && roles.is_empty()) {
                return Some(Role::Owner);
            }
        }
        roles.of(peer)
    }

    fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_deref()
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
            last_good: self.last_good.as_ref().map(|last_good| last_good.state()),
            exporters: self.exports.states(),
            reloads: (self.reloads.load(Relaxed), self.reloads_failed.load(Relaxed)),
            remote: self.remote.as_ref().map(RemotePort::facts),
        }
    }

    fn sources(&self) -> BTreeMap<SourceName, SourceFacts> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let facts = |(name, (settings, source)): (&SourceName, &(SourceSettings, Arc<dyn Source>))| {
            let state = self.states.get(name);
            // One of which no tool wants anything is in order too.
            let loaded = state.last_good.is_some() || !now.plan.sources.contains_key(name);
            let calls = source.calls().map(Calls::counts).unwrap_or_default();
            (name.clone(), SourceFacts { kind: settings.kind(), login: source.login(), loaded, state, calls })
        };
        now.sources.iter().map(facts).collect()
    }

    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.sources.get(name).map(|(_, source)| source.clone())
    }

    fn secret(&self, name: &SecretName) -> SecretFacts {
        let config = self.config();
        let Some(secret) = config.secrets.get(name) else { return SecretFacts::default() };
        SecretFacts {
            source: secret.source.to_string(),
            path: secret.path.clone(),
            environment: secret.environment.clone().unwrap_or_default(),
            reaches: secret.reaches.iter().map(ToString::to_string).collect(),
            next_check: self.states.next_check(&secret.source, name),
            problem: self.states.problem(&secret.source, name),
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
                delivery: String::new(),
                exposure: String::new(),
            };
        };
        let explained = config::explain(&self.config(), &tool, &secret);
        let contained = self.broker.is_contained(&tool) && explained.allowed;
        let blocked =
            || format!("{} but {tool} is contained: it gets nothing until `valetkey release {tool}`", explained.verdict);
        Explanation {
            allowed: explained.allowed && !contained,
            verdict: if contained { blocked() } else { explained.verdict },
            origin: explained.origin.map(|origin| origin.to_string()).unwrap_or_default(),
            run_as: explained.run_as,
            missing: explained.missing.unwrap_or_default(),
            delivery: explained.delivery.unwrap_or_default(),
            exposure: explained.exposure.unwrap_or_default(),
        }
    }

    fn inventory(&self) -> v1::InventoryResponse {
        Facts::of_config(&self.config(), "", SystemTime::now().into()).to_inventory()
    }

    fn refresh(&self, secrets: Option<Vec<SecretName>>) -> Working<'_, Option<Refreshed>> {
        Box::pin(self.refresh(secrets))
    }

    fn reload(&self) -> Working<'_, Result<Reloaded, Vec<String>>> {
        Box::pin(self.reload())
    }

    fn rotations(&self) -> Option<Arc<Rotations>> {
        self.rotations.get().filter(|_| self.is_loaded()).cloned()
    }

    fn containments(&self) -> Option<Arc<Containments>> {
        self.containments.get().filter(|_| self.is_loaded()).cloned()
    }

    fn contained(&self, tool: &ToolName) -> Option<(SystemTime, String)> {
        self.containments.get()?.of(tool)
    }

    fn revoke_secret(&self, name: &str) -> Result<bool, String> {
        let _inside = self.control.enter();
        let dropped = self.keeper.revoke(name).is_some();
        self.broker.announce_changes();
        // Here and now: what is revoked must not come back by a crash.
        let forget = |last_good: &Arc<LastGood>| tokio::task::block_in_place(|| last_good.revoked(name));
        let forgotten = self.last_good.as_ref().map_or(Ok(false), forget)?;
        Ok(dropped || forgotten)
    }
}

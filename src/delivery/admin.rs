//! The `Admin` service: what operators see and do. No answer carries a value: nothing here can read one.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, sync::atomic::Ordering::Relaxed, time::SystemTime};

use tonic::{Request, Response, Status};
use tracing::info;

use super::{containment, pace::Guest, redact, rotation, status};
use crate::{
    attest::{Attested, Tokens},
    broker::{Broker, Deed},
    contain::Containments,
    export,
    lease::Revoked,
    name::{SecretName, SourceName, ToolName},
    peer::{Peer, Witness},
    policy::{Delivery, Policy, Role},
    proto::v1::{self, admin_server},
    refresh::{LastGoodState, Refreshed, SourceState},
    rotate::{Rotations, of_sessions},
    session::{End, Form, Held, Session},
    source::{Counts, LoginFacts, Source, SourceError, Working},
    store::Absent,
};

pub const NAME: &str = admin_server::SERVICE_NAME;

/// What the service asks of the daemon that hosts it: everything that configuration knows, and the power to reload.
pub trait Host: Send + Sync {
    /// The role that this caller has as an operator. The socket's mode, or TLS, has let it in; this is the second look.
    fn role(&self, peer: &Peer) -> Option<Role>;
    /// The tokens that operators issue. `None`: nobody can call over the network.
    fn tokens(&self) -> Option<&Tokens>;
    fn status(&self) -> HostStatus;
    fn sources(&self) -> BTreeMap<SourceName, SourceFacts>;
    /// The source of this name.
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>>;
    fn secret(&self, name: &SecretName) -> SecretFacts;
    fn explain(&self, tool: &str, secret: &str) -> Explanation;
    /// The configuration in force, as a map is made of it; without sessions and versions.
    fn inventory(&self) -> v1::InventoryResponse;
    /// Checks these secrets now, or all. `None`: nothing has been loaded yet.
    fn refresh(&self, secrets: Option<Vec<SecretName>>) -> Working<'_, Option<Refreshed>>;
    fn reload(&self) -> Working<'_, Result<Reloaded, Vec<String>>>;
    /// What rotates secrets. `None`: there is no place to keep where rotations stand.
    fn rotations(&self) -> Option<Arc<Rotations>>;
    /// What contains tools. `None` as for rotations.
    fn containments(&self) -> Option<Arc<Containments>>;
    /// Since when a tool is contained, and who ordered it.
    fn contained(&self, tool: &ToolName) -> Option<(SystemTime, String)>;
    /// Drops a value from memory, and from the copy on disk; an error where that still has it. `false`: there is no such secret.
    fn revoke_secret(&self, name: &str) -> Result<bool, String>;
}

/// Facts about the daemon itself.
#[derive(Debug, Clone)]
pub struct HostStatus {
    pub started: SystemTime,
    pub configured: SystemTime,
    pub config: String,
    pub memory_protection: String,
    pub memory_protection_lost: String,
    pub arena_locked_bytes: u64,
    pub arena_used_bytes: u64,
    pub attestation: String,
    pub reload_error: String,
    /// The sealed copy on disk, where one is configured.
    pub last_good: Option<LastGoodState>,
    /// What sends the audit log elsewhere.
    pub exporters: Vec<export::State>,
    /// Reloads that took effect, and that did not.
    pub reloads: (u64, u64),
    /// Where callers over the network are served.
    pub remote: Option<RemoteFacts>,
}

/// Facts about the listener for callers over the network.
#[derive(Debug, Clone)]
pub struct RemoteFacts {
    pub address: SocketAddr,
    /// When the daemon's certificate ends. `None`: it has none to show.
    pub certificate_until: Option<SystemTime>,
    /// Who it is by its SPIFFE agent.
    pub spiffe_id: Option<String>,
}

/// Facts about a source.
#[derive(Debug, Clone)]
pub struct SourceFacts {
    pub kind: &'static str,
    pub state: SourceState,
    pub login: Option<LoginFacts>,
    /// Was anything read from it since the daemon started?
    pub loaded: bool,
    /// The calls that were made to it, by operation.
    pub calls: Vec<(&'static str, Arc<Counts>)>,
}

/// What configuration says of a secret.
#[derive(Debug, Clone, Default)]
pub struct SecretFacts {
    pub source: String,
    pub path: String,
    pub environment: String,
    pub reaches: Vec<String>,
    pub next_check: Option<SystemTime>,
    /// What its source said against it at the last check.
    pub problem: Option<SourceError>,
}

/// Would a tool get a secret, and why.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub allowed: bool,
    pub verdict: String,
    pub origin: String,
    pub run_as: Vec<String>,
    pub missing: String,
    pub delivery: String,
    pub exposure: String,
}

/// What a reload did.
#[derive(Debug, Clone, Default)]
pub struct Reloaded {
    pub changes: Vec<String>,
    pub sessions_ended: usize,
}

/// The service.
pub struct AdminService {
    broker: Arc<Broker>,
    host: Arc<dyn Host>,
}

impl AdminService {
    pub fn new(broker: Arc<Broker>, host: Arc<dyn Host>) -> Self {
        Self { broker, host }
    }

    /// Who asks, if they may do what takes this role.
    pub(super) fn operator<T>(&self, request: &Request<T>, takes: Role) -> Result<Attested, Status> {
        let caller = request.extensions().get::<Guest>().map(|guest| guest.caller.clone());
        let caller = caller.ok_or_else(|| Status::internal("this connection carries no attested caller"))?;
        let peer = caller.peer();
        caller.recheck().map_err(|changed| Status::unauthenticated(changed.to_string()))?;
        let role = self.host.role(peer);
        if role.is_some() {
            self.broker.operate(peer).map_err(|refused| status::refused(&refused))?;
        }
        match role {
            Some(role) if role >= takes => Ok(caller),
            Some(role) => {
                self.broker.operated(peer, &Deed { action: "refused", failed: true, ..Deed::default() });
                let (has, takes) = (role.word(), takes.word());
                Err(Status::permission_denied(format!(
                    "this takes the role {takes} or a higher one, and yours is {has}: [roles] in the configuration"
                )))
            }
            None => Err(Status::permission_denied(
                "admin calls are for root, the daemon's own user and who has a role: run as one of them",
            )),
        }
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(super) fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// One of which each session has its own, and nobody any other.
    fn made_for_sessions(&self, policy: &Policy, name: &SecretName) -> v1::SecretInfo {
        let facts = self.host.secret(name);
        let may = policy.tools().filter(|(_, tool)| tool.grants.contains_key(name));
        let holders = of_sessions(self.broker.sessions(), name, None);
        v1::SecretInfo {
            name: name.to_string(),
            source: facts.source,
            path: facts.path,
            environment: facts.environment,
            reaches: facts.reaches,
            state: "per-session".into(),
            tools: may.map(|(tool, _)| tool.to_string()).collect(),
            holders: holders.len() as u64,
            versions: rotation::versions(&holders, None, None),
            ..Default::default()
        }
    }

    fn tool(&self, name: &ToolName, tool: &crate::policy::ToolPolicy) -> v1::Tool {
        let tally = self.broker.tally(name);
        let contained = self.host.contained(name);
        v1::Tool {
            contained_since: contained.as_ref().map(|(since, _)| (*since).into()),
            contained_by: contained.map(|(_, by)| by).unwrap_or_default(),
            name: name.to_string(),
            description: tool.description.clone(),
            run_as: tool.run_as.describe(),
            secrets: tool.grants.keys().map(ToString::to_string).collect(),
            sessions: self.broker.sessions().count_of(name) as u64,
            handouts: tally.handouts.load(Relaxed),
            denials: tally.denials.load(Relaxed),
            origin: tool.origin.to_string(),
            redactions: tally.redactions.load(Relaxed),
            command: tool.launch.command.clone(),
            deliveries: tool.grants.iter().map(|(secret, rule)| delivery(secret, &rule.delivery)).collect(),
        }
    }
}

/// Bytes of reasons that one answer carries. They stand in a header, of which clients take 16 KiB, and there a byte may become three.
const MOST_TOLD: usize = 4 << 10;

/// The first of them, and how many more there are.
fn told(reasons: &[String]) -> String {
    let mut told = String::new();
    for (index, reason) in reasons.iter().enumerate() {
        if index > 0 && told.len() + reason.len() > MOST_TOLD {
            return told
                + &format!("and {} more: the daemon's log has all of them, and so has `valetkey check`", reasons.len() - index);
        }
        told += reason;
        told.push('\n');
    }
    told.truncate(told.trim_end().len());
    told
}

fn delivery(secret: &SecretName, delivery: &Delivery) -> v1::ToolDelivery {
    let variable = delivery.target().unwrap_or_default().to_owned();
    v1::ToolDelivery { secret: secret.to_string(), by: delivery.word().into(), variable }
}

fn source(name: &SourceName, facts: SourceFacts, secrets: u64) -> v1::SourceStatus {
    let SourceFacts { kind, state, login, loaded, .. } = facts;
    let (health, problem) = match (&state.outage, state.refused.first_key_value()) {
        (Some((_, error)), _) => ("unreachable", error.to_string()),
        (None, Some((secret, error))) => ("refusing", format!("{secret}: {error}")),
        (None, None) if !loaded => ("waiting", String::new()),
        (None, None) => ("ok", String::new()),
    };
    v1::SourceStatus {
        name: name.to_string(),
        kind: kind.into(),
        secrets,
        last_good: state.last_good.map(Into::into),
        health: health.into(),
        unreachable_since: state.outage.map(|(since, _)| since.into()),
        problem,
        next_check: state.next_checks.values().min().map(|at| (*at).into()),
        login: login.map(|login| v1::SourceLogin {
            method: login.method.into(),
            expires: login.expires.map(Into::into),
            renews: login.renews.map(Into::into),
            problem: login.problem.map(|problem| problem.to_string()).unwrap_or_default(),
        }),
    }
}

/// How the audit log is. `None`: there is none.
fn audit(broker: &Broker, exporters: Vec<export::State>) -> Option<v1::AuditStatus> {
    let log = broker.audit();
    let state = log.state();
    Some(v1::AuditStatus {
        public_key: log.public_key()?.to_string(),
        durability: log.durability().as_str().into(),
        problem: state.down.unwrap_or_default(),
        records: state.records,
        exporters: exporters.into_iter().map(exporter).collect(),
    })
}

fn exporter(state: export::State) -> v1::ExporterStatus {
    v1::ExporterStatus {
        name: state.name.to_string(),
        kind: state.kind.into(),
        seq: state.seq,
        waiting: state.waiting,
        waits_since: state.waits_since.map(Into::into),
        sent: state.sent,
        refused: state.refused,
        lost: state.lost,
        problem: state.problem.unwrap_or_default(),
    }
}

fn last_good(state: LastGoodState) -> v1::LastGood {
    let served = |(source, (secrets, oldest)): (SourceName, (usize, SystemTime))| v1::ServedFromCopy {
        source: source.to_string(),
        secrets: secrets as u64,
        oldest: Some(oldest.into()),
    };
    v1::LastGood {
        file: state.file.display().to_string(),
        written: state.written.map(Into::into),
        problem: state.problem.unwrap_or_default(),
        served: state.served.into_iter().map(served).collect(),
    }
}

fn session(session: &Session) -> v1::SessionInfo {
    let peer = &session.peer;
    let (unit, invocation) =
        peer.unit.as_ref().map_or_else(Default::default, |unit| (unit.name.clone(), unit.invocation.clone().unwrap_or_default()));
    let held = |(name, held): (SecretName, Held)| v1::VersionedSecret {
        by: session.delivered_by(&name).into(),
        name: name.to_string(),
        version: held.version.to_string(),
        since: Some(held.since.into()),
    };
    v1::SessionInfo {
        session: session.id.to_string(),
        tool: session.tool().to_string(),
        pid: peer.process.pid,
        uid: peer.uid,
        remote: peer.remote.as_ref().map(|remote| remote.address.to_string()).unwrap_or_default(),
        subject: peer.remote.as_ref().map(|remote| remote.subject()).unwrap_or_default(),
        unit,
        invocation,
        opened: Some(session.opened.into()),
        purpose: session.purpose.clone(),
        scope: session.scope.secrets().map(ToString::to_string).collect(),
        held: session.held_since().into_iter().map(held).collect(),
        handouts: session.handouts.load(Relaxed),
        form: match session.form() {
            Form::Stream => "stream",
            Form::Process => "process",
            Form::Unary { .. } => "unary",
        }
        .into(),
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.operator(&request, Role::Viewer)?;
        let host = self.host.status();
        let listing = self.broker.store().listing();
        let held_from =
            |name: &SourceName| listing.values().filter(|(source, entry)| source == name && entry.is_ok()).count() as u64;
        let sources = self.host.sources().into_iter().map(|(name, facts)| source(&name, facts, held_from(&name)));
        let (handouts, denials) = self.broker.totals();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: Some(host.started.into()),
            configured: Some(host.configured.into()),
            config: host.config,
            memory_protection: host.memory_protection,
            memory_protection_lost: host.memory_protection_lost,
            arena_locked_bytes: host.arena_locked_bytes,
            arena_used_bytes: host.arena_used_bytes,
            attestation: host.attestation,
            sources: sources.collect(),
            tools: self.broker.policy().tools().count() as u64,
            secrets: listing.values().filter(|(_, entry)| entry.is_ok()).count() as u64,
            sessions: self.broker.sessions().count() as u64,
            handouts,
            denials,
            reload_error: host.reload_error,
            last_good: host.last_good.map(last_good),
            ready: self.broker.is_ready(),
            audit: audit(&self.broker, host.exporters),
            contained: self.broker.contained().iter().map(ToString::to_string).collect(),
            remote: host.remote.map(|remote| v1::RemoteStatus {
                address: remote.address.to_string(),
                certificate_until: remote.certificate_until.map(Into::into),
                spiffe_id: remote.spiffe_id.unwrap_or_default(),
            }),
        }))
    }

    async fn list_tools(&self, request: Request<v1::ListToolsRequest>) -> Result<Response<v1::ListToolsResponse>, Status> {
        self.operator(&request, Role::Viewer)?;
        let tools = self.broker.policy().tools().map(|(name, tool)| self.tool(name, tool)).collect();
        Ok(Response::new(v1::ListToolsResponse { tools }))
    }

    async fn list_secrets(&self, request: Request<v1::ListSecretsRequest>) -> Result<Response<v1::ListSecretsResponse>, Status> {
        self.operator(&request, Role::Viewer)?;
        let (policy, sessions, rotations) = (self.broker.policy(), self.broker.sessions().list(), self.host.rotations());
        let secrets = self.broker.store().listing().into_iter().map(|(name, (source, entry))| {
            let facts = self.host.secret(&name);
            let may = policy.tools().filter(|(_, tool)| tool.grants.contains_key(&name));
            let rotation = rotations.as_ref().and_then(|rotations| rotations.of(&name));
            let current = entry.as_ref().ok().map(|held| &held.version);
            let holders = |name| match &rotations {
                Some(rotations) => rotations.holders(name),
                None => of_sessions(self.broker.sessions(), name, None),
            };
            v1::SecretInfo {
                versions: rotation::versions(&holders(&name), current, rotation.as_ref()),
                rotation: rotation.as_ref().map(rotation::told),
                source: source.to_string(),
                path: facts.path,
                version: entry.as_ref().map(|held| held.version.to_string()).unwrap_or_default(),
                environment: facts.environment,
                reaches: facts.reaches,
                loaded: entry.as_ref().ok().map(|held| held.confirmed.into()),
                state: match &entry {
                    Ok(_) => "held",
                    Err(Absent::Revoked) => "revoked",
                    Err(Absent::Stale) => "stale",
                    Err(_) => "missing",
                }
                .into(),
                tools: may.map(|(tool, _)| tool.to_string()).collect(),
                age_seconds: entry.as_ref().map(|held| held.age.as_secs()).unwrap_or_default(),
                max_stale: entry.as_ref().ok().and_then(|held| held.max_stale?.try_into().ok()),
                next_check: facts.next_check.map(Into::into),
                problem: match (&entry, facts.problem) {
                    (_, Some(problem)) => problem.to_string(),
                    (Err(absent), None) => absent.to_string(),
                    (Ok(_), None) => String::new(),
                },
                holders: sessions.iter().filter(|session| session.is_holder(name.as_str())).count() as u64,
                name: name.to_string(),
            }
        });
        let mut secrets: Vec<_> = secrets.collect();
        secrets.extend(policy.per_session().iter().map(|name| self.made_for_sessions(&policy, name)));
        secrets.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Response::new(v1::ListSecretsResponse { secrets }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        self.operator(&request, Role::Viewer)?;
        let sessions = self.broker.sessions().list().iter().map(|one| session(one)).collect();
        Ok(Response::new(v1::ListSessionsResponse { sessions }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        self.operator(&request, Role::Viewer)?;
        let v1::ExplainRequest { tool, secret } = request.get_ref();
        let Explanation { allowed, verdict, origin, run_as, missing, delivery, exposure } = self.host.explain(tool, secret);
        Ok(Response::new(v1::ExplainResponse { allowed, verdict, origin, run_as, missing, delivery, exposure }))
    }

    async fn inventory(&self, request: Request<v1::InventoryRequest>) -> Result<Response<v1::InventoryResponse>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        // A map of all that can be reached is one for an attacker too: who took it is on record.
        info!(operator = %operator.peer().seat(), pid = operator.peer().process.pid, "an operator took the inventory");
        self.broker.operated(operator.peer(), &Deed { action: "inventory", ..Deed::default() });
        let mut inventory = self.host.inventory();
        let listing = self.broker.store().listing();
        for secret in &mut inventory.secrets {
            let held = listing.get(secret.name.as_str()).and_then(|(_, entry)| entry.as_ref().ok());
            secret.current = held.map(|held| held.version.to_string()).unwrap_or_default();
        }
        let contained = self.broker.contained();
        for tool in &mut inventory.tools {
            tool.contained = contained.iter().any(|name| name.as_str() == tool.name);
        }
        inventory.sessions = self.broker.sessions().list().iter().map(|one| session(one)).collect();
        Ok(Response::new(inventory))
    }

    type RotateStream = rotation::Answers;

    async fn rotate(&self, request: Request<v1::RotateRequest>) -> Result<Response<Self::RotateStream>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        rotation::rotate(&self.broker, &*self.host, operator.peer(), request.into_inner()).map(Response::new)
    }

    type RollBackStream = rotation::Answers;

    async fn roll_back(&self, request: Request<v1::RollBackRequest>) -> Result<Response<Self::RollBackStream>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        rotation::roll_back(&self.broker, &*self.host, operator.peer(), &request.into_inner().secret).map(Response::new)
    }

    async fn rotate_root(&self, request: Request<v1::RotateRootRequest>) -> Result<Response<v1::RotateRootResponse>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        rotation::rotate_root(&self.broker, &*self.host, operator.peer(), request.into_inner()).await.map(Response::new)
    }

    type ContainStream = containment::Answers;

    async fn contain(&self, request: Request<v1::ContainRequest>) -> Result<Response<Self::ContainStream>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        containment::contain(&self.broker, &*self.host, operator.peer(), request.into_inner()).await.map(Response::new)
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        containment::release(&self.broker, &*self.host, operator.peer(), &request.into_inner().tool).await.map(Response::new)
    }

    type RedactStream = redact::Answers;

    async fn redact(
        &self,
        request: Request<tonic::Streaming<v1::RedactRequest>>,
    ) -> Result<Response<Self::RedactStream>, Status> {
        let operator = self.operator(&request, Role::Security)?;
        info!(operator = %operator.peer().seat(), pid = operator.peer().process.pid, "an operator has a text cleaned");
        self.broker.operated(operator.peer(), &Deed { action: "redact", ..Deed::default() });
        let redactor = self.broker.store().redactor().clone();
        let answers = redact::serve(self.broker.clone(), redact::Asks::Operator, redactor, None, request.into_inner());
        Ok(Response::new(answers))
    }

    async fn issue_token(&self, request: Request<v1::IssueTokenRequest>) -> Result<Response<v1::IssueTokenResponse>, Status> {
        self.issue_a_token(&request)
    }

    async fn list_tokens(&self, request: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.list_all_tokens(&request)
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        self.revoke_a_token(&request)
    }

    async fn list_approvals(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        self.list_all_approvals(&request)
    }

    async fn decide_approval(
        &self,
        request: Request<v1::DecideApprovalRequest>,
    ) -> Result<Response<v1::DecideApprovalResponse>, Status> {
        self.decide_an_approval(&request)
    }

    async fn refresh(&self, request: Request<v1::RefreshRequest>) -> Result<Response<v1::RefreshResponse>, Status> {
        let operator = self.operator(&request, Role::Operator)?;
        let names = request.into_inner().secrets;
        let secrets: Result<Vec<SecretName>, _> = names.iter().map(|name| name.parse()).collect();
        let secrets = secrets.map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let listing = self.broker.store().listing();
        if let Some(unknown) = secrets.iter().find(|secret| !listing.contains_key(*secret)) {
            return Err(Status::not_found(format!("{unknown} is no secret that a tool may have; `valetkey secrets` lists them")));
        }
        let (secret, count) = (secrets.first().filter(|_| secrets.len() == 1), Some(secrets.len() as u64));
        self.broker.operated(operator.peer(), &Deed { action: "refresh", secret, count, ..Deed::default() });
        let refreshed = self.host.refresh((!secrets.is_empty()).then_some(secrets)).await;
        let Some(Refreshed { changed, failed }) = refreshed else {
            return Err(Status::failed_precondition(
                "nothing has been loaded yet; `valetkey status` names the source that is waited for",
            ));
        };
        let failed = failed.into_iter();
        Ok(Response::new(v1::RefreshResponse {
            changed: changed.iter().map(ToString::to_string).collect(),
            failed: failed.map(|(secret, e)| v1::RefreshFailure { secret: secret.to_string(), problem: e.to_string() }).collect(),
        }))
    }

    async fn reload(&self, request: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadResponse>, Status> {
        let operator = self.operator(&request, Role::Operator)?;
        info!(operator = %operator.peer().seat(), pid = operator.peer().process.pid, "reload asked for");
        self.broker.operated(operator.peer(), &Deed { action: "reload", ..Deed::default() });
        let host = self.host.clone();
        // In a task of its own: it is carried through though its caller goes away. Half of one would leave nothing kept fresh.
        let reloading = tokio::spawn(async move { host.reload().await });
        let reloaded = reloading.await.map_err(|_| Status::internal("the reload failed inside; the daemon's log says why"))?;
        let Reloaded { changes, sessions_ended } = reloaded.map_err(|reasons| Status::failed_precondition(told(&reasons)))?;
        Ok(Response::new(v1::ReloadResponse { changes, sessions_ended: sessions_ended as u64 }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        // Of one session, or of more than that.
        let takes = match &request.get_ref().target {
            Some(v1::revoke_request::Target::Session(_)) => Role::Operator,
            _ => Role::Security,
        };
        let operator = self.operator(&request, takes)?;
        let Some(target) = request.into_inner().target else {
            return Err(Status::invalid_argument("say what to revoke: a session, a tool's sessions, or a secret's value"));
        };
        info!(operator = %operator.peer().seat(), pid = operator.peer().process.pid, ?target, "revocation asked for");
        let end = |action, which: &dyn Fn(&Session) -> bool| {
            let session = self.broker.sessions().list().into_iter().find(|session| which(session));
            let ended = self.broker.end(End::Revoked, which) as u64;
            let deed = Deed { action, session: session.as_deref(), count: Some(ended), ..Deed::default() };
            self.broker.operated(operator.peer(), &deed);
            ended
        };
        let sessions_ended = match target {
            v1::revoke_request::Target::Session(id) => end("revoke-session", &|session| session.id.to_string() == id),
            v1::revoke_request::Target::Tool(tool) => end("revoke-tool", &|session| session.tool().as_str() == tool),
            v1::revoke_request::Target::Secret(secret) => {
                let (broker, peer, name) = (self.broker.clone(), operator.peer().clone(), secret.clone());
                // In a task of its own: it is carried through, and on record, though its caller goes away.
                let revoking = tokio::spawn(async move {
                    let (secret, revoked) = broker.revoke_lent(&name).await?;
                    let (count, failed) = (Some(revoked.sessions as u64), !revoked.owed.is_empty());
                    let deed = Deed { action: "revoke-secret", secret: Some(&secret), count, failed, ..Deed::default() };
                    broker.operated(&peer, &deed);
                    Some(revoked)
                });
                let revoked = revoking.await.map_err(|_| Status::internal("it failed inside; the daemon's log says why"))?;
                if let Some(Revoked { sessions, owed }) = revoked {
                    let still_good = owed.iter().map(|owed| format!("of tool {}: {}", owed.tool, owed.why())).collect();
                    let given_back = (sessions - owed.len()) as u64;
                    return Ok(Response::new(v1::RevokeResponse {
                        given_back,
                        still_good,
                        per_session: true,
                        ..Default::default()
                    }));
                }
                let revoked = self.host.revoke_secret(&secret);
                // Only a name that there is: what else somebody typed may be anything.
                let listing = self.broker.store().listing();
                let (secret_name, failed) = (listing.keys().find(|name| name.as_str() == secret), !matches!(revoked, Ok(true)));
                let deed = Deed { action: "revoke-secret", secret: secret_name, failed, ..Deed::default() };
                self.broker.operated(operator.peer(), &deed);
                let revoked = revoked.map_err(|kept| {
                    Status::internal(format!("it is dropped from memory and its holders are told, but on disk {kept}"))
                })?;
                if !revoked {
                    return Err(Status::not_found("no such secret is in memory"));
                }
                let holders = self.broker.sessions().list();
                let sessions_told = holders.iter().filter(|session| session.is_holder(&secret)).count() as u64;
                return Ok(Response::new(v1::RevokeResponse { sessions_told, ..Default::default() }));
            }
        };
        Ok(Response::new(v1::RevokeResponse { sessions_ended, ..Default::default() }))
    }
}

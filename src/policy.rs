//! Who may have what. Pure: facts and names in, a decision out; no runtime, no clock, no values.
//!
//! Deny by default. A [`Scope`] and a [`Grant`] can be made nowhere else, and the store's read function takes a `Grant`: a
//! hand-out that skips the check does not compile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    limits::{Ceilings, Limits},
    name::{SecretName, ToolName},
    peer::{Peer, Sha256},
};

mod launch;
mod remote;
mod role;
pub use launch::{BadCommand, Delivered, Kept, Launch, OnContain, OnRedaction, OnRotation, Plan, Sandbox};
pub use remote::{CertificateIs, JwtIs, RemoteAs};
pub use role::{Role, Roles};

/// Every tool, and the secrets each may have.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    tools: BTreeMap<ToolName, ToolPolicy>,
    /// Those that a systemd unit is: hundreds of units ask at once when a host boots.
    of_unit: BTreeMap<String, Vec<ToolName>>,
    /// Every secret that configuration names, so that an operator can be told "not granted" from "no such secret".
    secrets: BTreeSet<SecretName>,
    /// Those of them that nobody uses: where one shows up, something has leaked.
    canaries: BTreeSet<SecretName>,
    /// Those that an operator must let through.
    approvals: BTreeSet<SecretName>,
    /// Those that a source makes anew for each session.
    per_session: BTreeSet<SecretName>,
    /// What all tools together may take.
    ceilings: Ceilings,
    /// What operators may do.
    roles: Roles,
}

/// One tool of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPolicy {
    pub description: String,
    pub run_as: RunAs,
    pub grants: BTreeMap<SecretName, Rule>,
    pub limits: Limits,
    pub launch: Launch,
    pub origin: Origin,
}

/// A line of policy: this tool may have this secret, delivered this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub delivery: Delivery,
    /// May it go to a caller over the network? Never implied by a grant.
    pub remote: bool,
    pub origin: Origin,
}

/// How a value reaches the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The tool asks over gRPC.
    Rpc,
    /// A launcher asks over gRPC and puts it into this environment variable of the tool.
    Env(String),
    /// A launcher puts it into a file in memory, whose path this variable has.
    File(String),
    /// A launcher puts it into a sealed descriptor, whose path this variable has.
    Fd(String),
    /// systemd asks for it when it starts the tool's unit, under this name, and puts it into the unit's credentials.
    Credential(String),
}

/// Where policy says so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What a caller must be. Every selector that is set must hold: those of a process for one of this host, [`RemoteAs`] for one over the
/// network. A way for which none is set is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunAs {
    /// A systemd unit's full name, such as `mcp-billing.service`.
    pub unit: Option<String>,
    pub user: Option<Account>,
    /// Primary or supplementary.
    pub group: Option<Account>,
    pub exe: Option<PathBuf>,
    pub sha256: Option<Sha256>,
    pub remote: RemoteAs,
}

/// A user or a group: the number that the kernel compares, and the name that configuration gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: u32,
    pub name: String,
}

impl RunAs {
    /// Does the caller fit every selector? If not, the first that it does not, for the operator.
    fn check(&self, peer: &Peer) -> Result<(), String> {
        if let Some(remote) = &peer.remote {
            return self.remote.check(remote);
        }
        if !self.is_local() {
            return Err("it calls from this host, and `run-as` has selectors for callers over the network alone".into());
        }
        if let Some(unit) = &self.unit {
            match &peer.unit {
                Some(found) if found.name == *unit => {}
                Some(found) => return Err(format!("it runs in unit {}, not {unit}", found.name)),
                None => return Err(format!("it runs in no systemd unit, and must run in {unit}")),
            }
        }
        if let Some(user) = &self.user
            && peer.uid != user.id
        {
            return Err(format!("it runs as uid {}, not as {} ({})", peer.uid, user.name, user.id));
        }
        if let Some(group) = &self.group
            && peer.gid != group.id
            && !peer.groups.contains(&group.id)
        {
            return Err(format!("it is not in group {} ({})", group.name, group.id));
        }
        if self.exe.is_none() && self.sha256.is_none() {
            return Ok(());
        }
        let Some(found) = &peer.executable else {
            return Err("the daemon may not see its executable".into());
        };
        if let Some(exe) = &self.exe
            && found.path != *exe
        {
            return Err(format!("it runs {}, not {}", found.path.display(), exe.display()));
        }
        match self.sha256 {
            Some(digest) if found.sha256 != digest => Err(format!("its executable has digest {}, not {digest}", found.sha256)),
            _ => Ok(()),
        }
    }

    /// May a process of this host fit? One without any selector at all is for tests: configuration refuses it.
    fn is_local(&self) -> bool {
        let on_network_alone = Self { remote: self.remote.clone(), ..Self::default() };
        self.remote == RemoteAs::default() || *self != on_network_alone
    }

    /// Does any selector look at the executable?
    pub fn needs_executable(&self) -> bool {
        self.exe.is_some() || self.sha256.is_some()
    }

    /// Each selector in words: `unit mcp-billing.service`.
    pub fn describe(&self) -> Vec<String> {
        let account = |what, a: &Account| format!("{what} {} ({})", a.name, a.id);
        let mut words = Vec::new();
        words.extend(self.unit.as_ref().map(|u| format!("unit {u}")));
        words.extend(self.user.as_ref().map(|u| account("user", u)));
        words.extend(self.group.as_ref().map(|g| account("group", g)));
        words.extend(self.exe.as_ref().map(|e| format!("exe {}", e.display())));
        words.extend(self.sha256.map(|d| format!("sha256 {d}")));
        words.extend(self.remote.describe());
        words
    }
}

/// What a session may ask for: declared by the tool, and within its grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    tool: ToolName,
    secrets: BTreeSet<SecretName>,
}

impl Scope {
    pub fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// In order of name.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.secrets.iter()
    }
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// A session as this tool, with this scope.
    Open { tool: &'a ToolName, scope: &'a [SecretName] },
    /// A session for a process that a launcher starts as this tool; no command is policy's own.
    Launch { tool: &'a ToolName, command: &'a [String] },
    /// That a session which was granted before goes on.
    Keep(Kept<'a>),
    /// One secret, in a session with this scope.
    Get { scope: &'a Scope, secret: &'a str },
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Decision<'p> {
    AllowSession(Scope),
    AllowLaunch(Scope, Box<Plan>),
    Allow(Grant<'p>),
    Deny(Denial),
}

/// Permission to read one secret now. Made by [`Policy::decide`] alone.
#[derive(Debug)]
pub struct Grant<'p> {
    secret: &'p SecretName,
    rule: &'p Rule,
}

impl<'p> Grant<'p> {
    pub fn secret(&self) -> &'p SecretName {
        self.secret
    }

    /// The line of policy that allows.
    pub fn origin(&self) -> &'p Origin {
        &self.rule.origin
    }
}

/// Why not. `Display` is for the operator: it tells apart what a tool must not be able to tell apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    #[error("there is no tool {0} in the policy")]
    NoSuchTool(ToolName),
    #[error("the caller is not tool {tool}: {mismatch}")]
    NotThisTool { tool: ToolName, mismatch: String },
    #[error("the declared scope is empty")]
    EmptyScope,
    #[error("tool {tool} has no grant for {secret} ({})", if *.exists { "the secret exists" } else { "there is no such secret" })]
    NotGranted { tool: ToolName, secret: SecretName, exists: bool },
    #[error("tool {tool} may have {secret}, but not over the network: its grant does not say `remote = true`")]
    NotRemote { tool: ToolName, secret: SecretName },
    #[error("a launcher of tool {0} calls over the network: it starts tools on the daemon's own host alone")]
    RemoteLaunch(ToolName),
    #[error("{0:?} is outside the scope that the session declared")]
    OutsideScope(String),
    #[error("{0}")]
    Command(BadCommand),
    #[error("no tool that runs as unit {unit} has a secret with `credential = {id:?}`")]
    NoSuchCredential { unit: String, id: String },
}

impl Policy {
    /// A policy of these tools; `secrets` are all that configuration names.
    pub fn new(tools: BTreeMap<ToolName, ToolPolicy>, secrets: BTreeSet<SecretName>) -> Self {
        let mut of_unit: BTreeMap<String, Vec<ToolName>> = BTreeMap::new();
        for (name, tool) in &tools {
            if let Some(unit) = &tool.run_as.unit {
                of_unit.entry(unit.clone()).or_default().push(name.clone());
            }
        }
        Self {
            tools,
            of_unit,
            secrets,
            canaries: BTreeSet::new(),
            approvals: BTreeSet::new(),
            per_session: BTreeSet::new(),
            ceilings: Ceilings::default(),
            roles: Roles::default(),
        }
    }

    /// The same, with these bounds over all tools.
    pub fn with_ceilings(self, ceilings: Ceilings) -> Self {
        Self { ceilings, ..self }
    }

    /// The same, with these roles for operators.
    pub fn with_roles(self, roles: Roles) -> Self {
        Self { roles, ..self }
    }

    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    pub fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }

    /// The secret of this name, if configuration names it.
    pub fn secret(&self, name: &str) -> Option<&SecretName> {
        self.secrets.get(name)
    }

    /// Could this caller be any tool at all?
    pub fn knows(&self, peer: &Peer) -> bool {
        self.tools.values().any(|tool| tool.run_as.check(peer).is_ok())
    }

    /// The same, with these secrets as canaries.
    pub fn with_canaries(self, canaries: BTreeSet<SecretName>) -> Self {
        Self { canaries, ..self }
    }

    /// The same, with these secrets as such that an operator must let through.
    pub fn with_approvals(self, approvals: BTreeSet<SecretName>) -> Self {
        Self { approvals, ..self }
    }

    /// Must an operator let it through?
    pub fn needs_approval(&self, secret: &SecretName) -> bool {
        self.approvals.contains(secret)
    }

    /// The same, with these secrets as such that are made anew for each session.
    pub fn with_per_session(self, per_session: BTreeSet<SecretName>) -> Self {
        Self { per_session, ..self }
    }

    /// Is it made anew for each session?
    pub fn is_per_session(&self, secret: &SecretName) -> bool {
        self.per_session.contains(secret)
    }

    /// Those that are.
    pub fn per_session(&self) -> &BTreeSet<SecretName> {
        &self.per_session
    }

    /// Is this a secret that nobody uses?
    pub fn is_canary(&self, secret: &SecretName) -> bool {
        self.canaries.contains(secret)
    }

    /// In order of name.
    pub fn tools(&self) -> impl Iterator<Item = (&ToolName, &ToolPolicy)> {
        self.tools.iter()
    }

    pub fn tool(&self, name: &str) -> Option<&ToolPolicy> {
        self.tools.get(name)
    }

    /// Every secret that some tool may have: the only ones worth loading.
    pub fn granted(&self) -> BTreeSet<&SecretName> {
        self.tools.values().flat_map(|tool| tool.grants.keys()).collect()
    }

    /// The files of authorities that selectors of tools and operators ask for.
    pub fn authorities(&self) -> Vec<PathBuf> {
        let tools = self.tools.values().map(|tool| &tool.run_as);
        remote::authorities(tools.chain(self.roles.selectors()).map(|run_as| &run_as.remote))
    }

    /// Does any tool's identity rest on its executable?
    pub fn needs_executable(&self) -> bool {
        self.tools.values().any(|tool| tool.run_as.needs_executable())
    }

    /// The one place that allows anything.
    pub fn decide(&self, peer: &Peer, request: &Request<'_>) -> Decision<'_> {
        let decision = match *request {
            Request::Open { tool, scope } => self.open(peer, tool, scope).map(Decision::AllowSession),
            Request::Launch { tool, command } => {
                self.launch(peer, tool, command).map(|(scope, plan)| Decision::AllowLaunch(scope, Box::new(plan)))
            }
            Request::Keep(kept) => self.keep(peer, kept).map(Decision::AllowSession),
            Request::Get { scope, secret } => self.get(peer, scope, secret).map(Decision::Allow),
        };
        decision.unwrap_or_else(Decision::Deny)
    }

    fn open(&self, peer: &Peer, name: &ToolName, declared: &[SecretName]) -> Result<Scope, Denial> {
        let tool = self.attested(peer, name)?;
        if declared.is_empty() {
            return Err(Denial::EmptyScope);
        }
        self.all_granted(peer, name, tool, declared.iter())?;
        Ok(Scope { tool: name.clone(), secrets: declared.iter().cloned().collect() })
    }

    /// A launcher declares nothing: it gets what policy delivers to a process that is launched, which may be no secret at all.
    fn launch(&self, peer: &Peer, name: &ToolName, command: &[String]) -> Result<(Scope, Plan), Denial> {
        let tool = self.attested(peer, name)?;
        if peer.remote.is_some() {
            return Err(Denial::RemoteLaunch(name.clone()));
        }
        let command = tool.launch.accepts(name, command).map_err(Denial::Command)?;
        let launched = tool.grants.iter().filter(|(_, rule)| rule.delivery.is_launched());
        let delivered = |(secret, rule): (&SecretName, &Rule)| Delivered {
            secret: secret.clone(),
            to: rule.delivery.clone(),
            canary: self.is_canary(secret),
        };
        let secrets: Vec<_> = launched.map(delivered).collect();
        let scope = Scope { tool: name.clone(), secrets: secrets.iter().map(|one| one.secret.clone()).collect() };
        Ok((scope, Plan { command, secrets, launch: tool.launch.clone() }))
    }

    /// What is launched already stays as it was launched, where policy still grants it all and would still run that command.
    fn keep(&self, peer: &Peer, kept: Kept<'_>) -> Result<Scope, Denial> {
        let (scope, name) = (kept.scope, &kept.scope.tool);
        let tool = self.attested(peer, name)?;
        self.all_granted(peer, name, tool, scope.secrets.iter())?;
        if let Some(command) = kept.command {
            tool.launch.accepts(name, command).map_err(Denial::Command)?;
        }
        Ok(scope.clone())
    }

    fn all_granted<'s>(
        &self,
        peer: &Peer,
        name: &ToolName,
        tool: &ToolPolicy,
        mut secrets: impl Iterator<Item = &'s SecretName>,
    ) -> Result<(), Denial> {
        secrets.try_for_each(|secret| self.grant(peer, name, tool, secret).map(drop))
    }

    /// The one look at a grant: that it is there, and reaches as far as the caller is away.
    fn grant<'p>(&'p self, peer: &Peer, name: &ToolName, tool: &'p ToolPolicy, secret: &SecretName) -> Result<Grant<'p>, Denial> {
        match tool.grants.get_key_value(secret) {
            Some((secret, rule)) if peer.remote.is_some() && !rule.remote => {
                Err(Denial::NotRemote { tool: name.clone(), secret: secret.clone() })
            }
            Some((secret, rule)) => Ok(Grant { secret, rule }),
            None => Err(self.not_granted(name, secret)),
        }
    }

    fn get(&self, peer: &Peer, scope: &Scope, secret: &str) -> Result<Grant<'_>, Denial> {
        let tool = self.attested(peer, &scope.tool)?;
        let Some(declared) = scope.secrets.get(secret) else {
            return Err(Denial::OutsideScope(secret.chars().take(128).collect()));
        };
        // The scope was within the grants when the session opened; the policy may have changed since.
        self.grant(peer, &scope.tool, tool, declared)
    }

    fn attested(&self, peer: &Peer, name: &ToolName) -> Result<&ToolPolicy, Denial> {
        let tool = self.tools.get(name).ok_or_else(|| Denial::NoSuchTool(name.clone()))?;
        match tool.run_as.check(peer) {
            Ok(()) => Ok(tool),
            Err(mismatch) => Err(Denial::NotThisTool { tool: name.clone(), mismatch }),
        }
    }

    fn not_granted(&self, tool: &ToolName, secret: &SecretName) -> Denial {
        Denial::NotGranted { tool: tool.clone(), secret: secret.clone(), exists: self.secrets.contains(secret) }
    }

    /// Which tool's which secret is the credential of this name in the caller's unit. That the unit may have it is not said by this:
    /// it is asked for as any secret is.
    pub fn credential(&self, peer: &Peer, id: &str) -> Result<(&ToolName, &SecretName), Denial> {
        let unit = peer.unit.as_ref().map_or("", |unit| unit.name.as_str());
        let mut all =
            self.tools_of_unit(unit).flat_map(|(name, tool)| tool.grants.iter().map(move |(secret, rule)| (name, secret, rule)));
        let found = all.find(|(_, _, rule)| rule.delivery.credential() == Some(id));
        let missing = || Denial::NoSuchCredential { unit: unit.to_owned(), id: id.to_owned() };
        found.map(|(name, secret, _)| (name, secret)).ok_or_else(missing)
    }

    /// Tools that this unit is, whatever else their selectors say.
    fn tools_of_unit(&self, unit: &str) -> impl Iterator<Item = (&ToolName, &ToolPolicy)> {
        self.of_unit.get(unit).into_iter().flatten().filter_map(|name| self.tools.get_key_value(name))
    }

    /// The tool that this unit is and that has this secret as a credential, and what becomes of the unit when there is a new version.
    pub fn unit_with(&self, unit: &str, secret: &SecretName) -> Option<(&ToolName, OnRotation)> {
        let has = |tool: &ToolPolicy| tool.grants.get(secret).is_some_and(|rule| rule.delivery.credential().is_some());
        let found = self.tools_of_unit(unit).find(|(_, tool)| has(tool))?;
        Some((found.0, found.1.launch.on_rotation))
    }

    /// What policy wants to become of this unit when a credential of it has a new version: the strongest that any tool of it has.
    pub fn unit_on_rotation(&self, unit: &str) -> Option<OnRotation> {
        let credentials = |tool: &ToolPolicy| tool.grants.values().any(|rule| rule.delivery.credential().is_some());
        let of_unit = self.tools_of_unit(unit).filter(|(_, tool)| credentials(tool));
        let wanted: Vec<_> = of_unit.map(|(_, tool)| tool.launch.on_rotation).collect();
        [OnRotation::Restart, OnRotation::Reload].into_iter().find(|does| wanted.contains(does))
    }

    /// The unit that is to be stopped when this tool is contained.
    pub fn unit_to_stop(&self, tool: &ToolName) -> Option<&str> {
        let policy = self.tools.get(tool)?;
        policy.run_as.unit.as_deref().filter(|_| policy.launch.on_contain == OnContain::Stop)
    }

    /// Does any tool of this unit want it stopped when it is contained?
    pub fn unit_may_be_stopped(&self, unit: &str) -> bool {
        self.tools_of_unit(unit).any(|(_, tool)| tool.launch.on_contain == OnContain::Stop)
    }

    /// Would this tool get this secret if it proved to be itself and declared it? The line that allows, or what is missing.
    pub fn explain(&self, tool: &ToolName, secret: &SecretName) -> Result<&Rule, Denial> {
        let policy = self.tools.get(tool).ok_or_else(|| Denial::NoSuchTool(tool.clone()))?;
        policy.grants.get(secret).ok_or_else(|| self.not_granted(tool, secret))
    }
}

#[cfg(test)]
mod tests;

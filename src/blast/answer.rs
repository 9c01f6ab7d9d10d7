//! The questions, and what answers are made of.

use std::collections::HashSet;

use serde::Serialize;

use super::{
    facts::{Channel, UseFact},
    graph::{Graph, Held, Id, Unlock},
    moment::Moment,
    score::{Percent, Score},
    walk::{PathStep, Reached, Walk},
};
use crate::config::Privilege;

/// An answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Tool(Box<ToolAnswer>),
    Secret(Box<SecretAnswer>),
    System(Box<SystemAnswer>),
}

/// That nothing of this name is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {name:?} on this map")]
pub struct Unknown {
    pub kind: &'static str,
    pub name: String,
}

/// All tools, worst first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub tools: Vec<ToolLine>,
}

/// One tool in a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolLine {
    pub tool: String,
    #[serde(flatten)]
    pub score: Score,
    /// Secrets of which a live session holds a version; `None` where no daemon was asked.
    pub held: Option<usize>,
    /// The worst of what it reaches.
    pub worst: Option<SystemPart>,
}

/// If this tool is compromised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolAnswer {
    pub tool: String,
    pub at: String,
    pub run_as: Vec<String>,
    /// It is cut off: it gets nothing, until it is released.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub contained: bool,
    /// Of all that it may have.
    pub score: Score,
    /// Of what its processes hold now; `None` where no daemon was asked.
    pub now: Option<Score>,
    pub secrets: Vec<ToolSecret>,
    /// Sources that its secrets open, and how many secrets each gives.
    pub unlocks: Vec<Opened>,
    /// Worst first.
    pub systems: Vec<SystemPart>,
    /// Secrets that it reaches of which nobody said what they open.
    pub undeclared: Vec<String>,
}

/// A secret as one tool may have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolSecret {
    pub secret: String,
    pub channel: Channel,
    pub variable: Option<String>,
    /// It may go to a caller over the network too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    pub at: String,
    pub environment: Option<String>,
    pub canary: bool,
    /// How many tools may have it.
    pub shared_by: usize,
    pub holders: Vec<Holder>,
    pub used: Option<Used>,
}

/// A process that holds a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub tool: String,
    pub pid: u32,
    pub uid: u32,
    pub unit: Option<String>,
    /// The address of a caller over the network; its pid is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    pub session: String,
    pub version: String,
    /// Is there a newer one?
    pub retired: bool,
    pub since: Moment,
    pub channel: Channel,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Used {
    pub count: u64,
    pub first: Option<Moment>,
    pub last: Option<Moment>,
    pub denied: u64,
}

/// A source that is opened beyond what the broker hands out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opened {
    pub source: String,
    pub secrets: usize,
    /// By which secret.
    pub by: String,
    /// `declared` by the operator, or `derived` from the source's address.
    pub sure: &'static str,
}

/// A system, and what it adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemPart {
    pub system: String,
    pub privilege: Privilege,
    /// Of the secret that reaches it.
    pub environment: Option<String>,
    /// Can what is held now reach it? `None` where no daemon was asked.
    pub now: Option<bool>,
    /// Sensitivity x privilege, of 100.
    pub depth: Percent,
    /// What it adds to the risk.
    pub risk: [f64; 2],
    /// A shortest way there: secrets and sources.
    pub path: Vec<String>,
}

/// If this secret leaked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SecretAnswer {
    pub secret: String,
    pub at: String,
    pub source: String,
    pub environment: Option<String>,
    pub canary: bool,
    pub rotate_every_seconds: Option<u64>,
    pub current: Option<String>,
    pub score: Score,
    /// `None` where no daemon was asked.
    pub holders: Option<Vec<Holder>>,
    /// Worst first.
    pub systems: Vec<SystemPart>,
    pub unlocks: Vec<Opened>,
    pub undeclared: bool,
    /// Tools that may have it, and what a rotation means for each.
    pub tools: Vec<SecretTool>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SecretTool {
    pub tool: String,
    pub channel: Channel,
    /// It may go to a caller over the network too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    pub at: String,
    pub used: Option<Used>,
    pub rotation: Rotation,
}

/// What becomes of a tool when a secret of it has a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// It asks, and is told of new versions.
    Asks,
    /// The launcher starts it anew.
    Restarts,
    /// The launcher puts the new value in the place of the old.
    Rewritten,
    /// It keeps the old value until somebody restarts it.
    KeepsOld,
}

/// Who can get at this system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemAnswer {
    pub system: String,
    pub secrets: Vec<SystemSecret>,
    /// Worst first.
    pub tools: Vec<SystemTool>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemSecret {
    pub secret: String,
    pub privilege: Privilege,
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemTool {
    pub tool: String,
    pub privilege: Privilege,
    pub now: Option<bool>,
    pub path: Vec<String>,
}

impl Graph<'_> {
    /// Every tool in a line, worst first.
    pub fn overview(&self) -> Overview {
        let mut tools = self.lines();
        tools.sort_by(|a, b| {
            let key = |line: &ToolLine| (line.score.score, line.score.depth, line.score.systems);
            key(b).cmp(&key(a)).then_with(|| a.tool.cmp(&b.tool))
        });
        Overview { tools }
    }

    /// A line for each tool, on several cores: walks wait for memory, and each core may wait for its own.
    fn lines(&self) -> Vec<ToolLine> {
        /// Fewer are done before a thread is there.
        const WORTH_A_THREAD: usize = 256;
        let all = self.facts.tools.len();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(all.div_ceil(WORTH_A_THREAD)).max(1);
        let share = all.div_ceil(threads);
        let part = |at: usize| {
            let mut walk = Walk::new(self);
            self.tools().skip(at * share).take(share).map(|(tool, _)| self.line(tool, &mut walk)).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|at| scope.spawn(move || part(at))).collect();
            let mut lines = part(0);
            // A panic of one is one of all.
            others.into_iter().for_each(|one| lines.extend(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
            lines
        })
    }

    pub(super) fn line(&self, tool: Id, walk: &mut Walk) -> ToolLine {
        self.walk_allowed(walk, tool);
        let worst = walk.systems.iter().max_by(|a, b| {
            a.risk.high.total_cmp(&b.risk.high).then(a.risk.low.total_cmp(&b.risk.low)).then(b.system.cmp(&a.system))
        });
        let worst = worst.map(|reached| self.part(walk, reached, None));
        let mut held: Vec<_> = self.held_of(tool).map(|held| held.secret).collect();
        held.dedup();
        let held = self.facts.sessions.is_some().then_some(held.len());
        ToolLine { tool: self.tool(tool).name.to_string(), score: walk.score(self), held, worst }
    }

    /// All that a tool may have.
    pub(super) fn walk_allowed(&self, walk: &mut Walk, tool: Id) {
        walk.from(self, self.grants.of(tool).iter().map(|link| (link.to, self.weights.channel(link.channel))));
    }

    /// What its processes hold.
    fn walk_held(&self, walk: &mut Walk, tool: Id) {
        walk.from(self, self.held_of(tool).map(|held| (held.secret, self.weights.channel(held.fact.channel))));
    }

    pub fn about_tool(&self, name: &str) -> Result<ToolAnswer, Unknown> {
        let tool = self.tool_id(name).ok_or_else(|| Unknown { kind: "tool", name: name.into() })?;
        let mut walk = Walk::new(self);
        let now = self.facts.sessions.is_some().then(|| {
            self.walk_held(&mut walk, tool);
            (walk.score(self), walk.systems.iter().map(|reached| reached.system).collect::<HashSet<_>>())
        });
        self.walk_allowed(&mut walk, tool);
        let reached_now = |system: Id| now.as_ref().map(|(_, systems)| systems.contains(&system));
        let fact = self.tool(tool);
        Ok(ToolAnswer {
            tool: name.into(),
            at: fact.at.to_string(),
            run_as: fact.run_as.clone(),
            contained: fact.contained,
            score: walk.score(self),
            secrets: self.secrets_of(tool),
            unlocks: self.opened(&walk),
            systems: walk.worst_first().iter().map(|reached| self.part(&walk, reached, reached_now(reached.system))).collect(),
            undeclared: walk.undeclared.iter().map(|place| self.name_at(&walk, *place)).collect(),
            now: now.map(|(score, _)| score),
        })
    }

    fn name_at(&self, walk: &Walk, place: u32) -> String {
        self.secret(walk.steps[place as usize].secret).name.to_string()
    }

    fn secrets_of(&self, tool: Id) -> Vec<ToolSecret> {
        let one = |(secret, grant): (Id, &super::facts::GrantFact)| {
            let fact = self.secret(secret);
            ToolSecret {
                secret: fact.name.to_string(),
                channel: grant.channel,
                variable: grant.variable.clone(),
                remote: grant.remote,
                at: grant.at.to_string(),
                environment: fact.environment.clone(),
                canary: fact.canary,
                shared_by: self.granted_to.of(secret).len(),
                holders: self.held_of_pair(tool, secret).map(|held| self.holder(held)).collect(),
                used: self.use_of(tool, secret).map(Used::from),
            }
        };
        self.grants_of(tool).map(one).collect()
    }

    /// Sources that were opened on a walk, each with the first secret that does.
    fn opened(&self, walk: &Walk) -> Vec<Opened> {
        let by = |source: Id| {
            walk.steps.iter().find_map(|step| {
                let unlock: Option<&Unlock> = self.unlocks.of(step.secret).iter().find(|unlock| unlock.to == source);
                unlock.map(|unlock| (self.secret(step.secret).name.to_string(), unlock.derived))
            })
        };
        let opened = walk.sources.iter().filter_map(|source| {
            let (by, derived) = by(*source)?;
            let secrets = self.stored.of(*source).len();
            let sure = if derived { "derived" } else { "declared" };
            Some(Opened { source: self.source(*source).name.to_string(), secrets, by, sure })
        });
        opened.collect()
    }

    fn part(&self, walk: &Walk, reached: &Reached, now: Option<bool>) -> SystemPart {
        let last = walk.steps[reached.by as usize].secret;
        // Enough digits to see what counts, and few enough to be the same on every machine.
        let round = |part: f64| (part * 1000.0).round() / 1000.0;
        SystemPart {
            system: self.systems[reached.system as usize].into(),
            privilege: reached.privilege,
            environment: self.secret(last).environment.clone(),
            now,
            depth: Percent::of(reached.depth),
            risk: [round(reached.risk.low), round(reached.risk.high)],
            path: walk.path(self, reached.by).into_iter().map(stop).collect(),
        }
    }

    pub(super) fn holder(&self, held: &Held<'_>) -> Holder {
        let current = self.secret(held.secret).current.as_ref();
        Holder {
            tool: self.tool(held.tool).name.to_string(),
            pid: held.session.pid,
            uid: held.session.uid,
            unit: held.session.unit.clone(),
            remote: held.session.remote.clone(),
            session: held.session.id.clone(),
            version: held.fact.version.to_string(),
            retired: current.is_some_and(|current| *current != held.fact.version),
            since: held.fact.since,
            channel: held.fact.channel,
        }
    }

    pub fn about_secret(&self, name: &str) -> Result<SecretAnswer, Unknown> {
        let secret = self.secret_id(name).ok_or_else(|| Unknown { kind: "secret", name: name.into() })?;
        let fact = self.secret(secret);
        let mut walk = Walk::new(self);
        walk.from(self, std::iter::once((secret, 1.0)));
        let tool = |link: &super::graph::Link| {
            let tool = self.tool(link.to);
            let grant = &tool.grants[link.place as usize];
            let used = self.use_of(link.to, secret).map(Used::from);
            let rotation = Rotation::of(grant.channel, &tool.on_rotation);
            SecretTool {
                tool: tool.name.to_string(),
                channel: grant.channel,
                remote: grant.remote,
                at: grant.at.to_string(),
                used,
                rotation,
            }
        };
        Ok(SecretAnswer {
            secret: name.into(),
            at: fact.at.to_string(),
            source: fact.source.to_string(),
            environment: fact.environment.clone(),
            canary: fact.canary,
            rotate_every_seconds: fact.rotate_every.map(|every| every.as_secs()),
            current: fact.current.as_ref().map(ToString::to_string),
            score: walk.score(self),
            holders: self.facts.sessions.is_some().then(|| self.holders_of(secret).map(|held| self.holder(held)).collect()),
            systems: walk.worst_first().iter().map(|reached| self.part(&walk, reached, None)).collect(),
            unlocks: self.opened(&walk),
            undeclared: self.is_undeclared(secret),
            tools: self.granted_to.of(secret).iter().map(tool).collect(),
        })
    }

    pub fn about_system(&self, name: &str) -> Result<SystemAnswer, Unknown> {
        let system = self.system_id(name).ok_or_else(|| Unknown { kind: "system", name: name.into() })?;
        let secrets = self.reached_by.of(system).iter().map(|way| {
            let fact = self.secret(way.to);
            SystemSecret { secret: fact.name.to_string(), privilege: way.privilege, at: fact.at.to_string() }
        });
        let mut walk = Walk::new(self);
        let mut tools: Vec<_> =
            self.could_reach(system).into_iter().filter_map(|tool| self.tool_at(&mut walk, tool, system)).collect();
        tools.sort_by(|a, b| {
            let key = |tool: &SystemTool| (tool.now, tool.privilege, std::cmp::Reverse(tool.path.len()));
            key(b).cmp(&key(a)).then_with(|| a.tool.cmp(&b.tool))
        });
        Ok(SystemAnswer { system: name.into(), secrets: secrets.collect(), tools })
    }

    /// Tools from which some way leads there: backwards, through what unlocks what.
    fn could_reach(&self, system: Id) -> Vec<Id> {
        let mut secrets: Vec<Id> = self.reached_by.of(system).iter().map(|way| way.to).collect();
        let mut seen: HashSet<Id> = secrets.iter().copied().collect();
        let mut opened = HashSet::new();
        let mut next = 0;
        while let Some(secret) = secrets.get(next).copied() {
            next += 1;
            let source = self.source_of[secret as usize];
            if source != Id::MAX && opened.insert(source) {
                let keys = self.unlocked_by.of(source).iter().map(|unlock| unlock.to);
                secrets.extend(keys.filter(|key| seen.insert(*key)));
            }
        }
        let mut tools: Vec<Id> = secrets.iter().flat_map(|secret| self.granted_to.of(*secret)).map(|link| link.to).collect();
        tools.sort_unstable();
        tools.dedup();
        tools
    }

    fn tool_at(&self, walk: &mut Walk, tool: Id, system: Id) -> Option<SystemTool> {
        let now = self.facts.sessions.is_some().then(|| {
            self.walk_held(walk, tool);
            walk.systems.iter().any(|reached| reached.system == system)
        });
        self.walk_allowed(walk, tool);
        let reached = walk.systems.iter().find(|reached| reached.system == system)?;
        let path = walk.path(self, reached.by).into_iter().map(stop).collect();
        Some(SystemTool { tool: self.tool(tool).name.to_string(), privilege: reached.privilege, now, path })
    }
}

fn stop(step: PathStep<'_>) -> String {
    match step {
        PathStep::Secret(name) => format!("secret:{name}"),
        PathStep::Source(name) => format!("source:{name}"),
    }
}

impl From<&UseFact> for Used {
    fn from(fact: &UseFact) -> Self {
        Self { count: fact.count, first: fact.first, last: fact.last, denied: fact.denied }
    }
}

impl Rotation {
    fn of(channel: Channel, on_rotation: &str) -> Self {
        match (channel, on_rotation) {
            (Channel::Rpc, _) => Self::Asks,
            (_, "restart") => Self::Restarts,
            (Channel::File | Channel::Fd, "rewrite" | "signal") | (Channel::Credential, "reload") => Self::Rewritten,
            _ => Self::KeepsOld,
        }
    }
}

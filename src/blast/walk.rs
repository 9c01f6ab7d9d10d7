//! From some secrets to all that they open: systems, and through sources that they unlock further secrets. Breadth first, so the first
//! way found is a shortest one; each secret once, so a circle ends.

use super::{
    graph::{Graph, Id, Opens, Profile, Way},
    score::{Range, Score},
};
use crate::config::Privilege;

/// A secret on the way.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub secret: Id,
    /// Sources that had to be opened on the way.
    pub depth: u8,
    /// The step that opened the source it is read from.
    pub from: Option<u32>,
}

/// A system that is reached.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    pub system: Id,
    /// The most, by any way.
    pub privilege: Privilege,
    /// The step that reaches it by a shortest way; of several the one with the most privilege.
    pub by: u32,
    by_privilege: Privilege,
    pub risk: Range,
    pub depth: Range,
}

/// A walk, and what it has found. One may be used for many walks: it keeps its memory.
#[derive(Debug)]
pub struct Walk {
    round: u32,
    secret_seen: Vec<u32>,
    source_seen: Vec<u32>,
    /// The round, and where in `systems`.
    system_seen: Vec<(u32, u32)>,
    pub steps: Vec<Step>,
    pub systems: Vec<Reached>,
    /// In the order found.
    pub sources: Vec<Id>,
    /// Steps to secrets of which nobody said what they open.
    pub undeclared: Vec<u32>,
    risk_of_undeclared: Range,
    depth: Range,
}

impl Walk {
    pub fn new(graph: &Graph<'_>) -> Self {
        Self {
            round: 0,
            secret_seen: vec![0; graph.facts.secrets.len()],
            source_seen: vec![0; graph.facts.sources.len()],
            system_seen: vec![(0, 0); graph.systems.len()],
            steps: Vec::new(),
            systems: Vec::new(),
            sources: Vec::new(),
            undeclared: Vec::new(),
            risk_of_undeclared: Range::default(),
            depth: Range::default(),
        }
    }

    /// From these secrets, each with the exposure of the way it is delivered.
    pub fn from(&mut self, graph: &Graph<'_>, secrets: impl Iterator<Item = (Id, f64)>) {
        self.round += 1;
        self.steps.clear();
        self.systems.clear();
        self.sources.clear();
        self.undeclared.clear();
        (self.risk_of_undeclared, self.depth) = (Range::default(), Range::default());
        for (secret, exposure) in secrets {
            if let Some(place) = self.step(secret, 0, None) {
                self.look(graph, place, exposure);
            }
        }
        let mut next = 0;
        while let Some(step) = self.steps.get(next).copied() {
            self.unlock(graph, step, next as u32);
            next += 1;
        }
    }

    fn step(&mut self, secret: Id, depth: u8, from: Option<u32>) -> Option<u32> {
        if std::mem::replace(&mut self.secret_seen[secret as usize], self.round) == self.round {
            return None;
        }
        self.steps.push(Step { secret, depth, from });
        Some(self.steps.len() as u32 - 1)
    }

    fn unlock(&mut self, graph: &Graph<'_>, step: Step, place: u32) {
        if !graph.profiles[step.secret as usize].unlocks {
            return;
        }
        for unlock in graph.unlocks.of(step.secret) {
            if std::mem::replace(&mut self.source_seen[unlock.to as usize], self.round) == self.round {
                continue;
            }
            self.sources.push(unlock.to);
            let depth = step.depth.saturating_add(1);
            // What is read at the source itself is delivered by nobody.
            let discount = graph.weights.discount.powi(depth.into());
            for secret in graph.stored.of(unlock.to) {
                if let Some(next) = self.step(*secret, depth, Some(place)) {
                    self.look(graph, next, discount);
                }
            }
        }
    }

    /// What a secret opens, with what its delivery or its distance multiplies by.
    fn look(&mut self, graph: &Graph<'_>, place: u32, factor: f64) {
        let secret = self.steps[place as usize].secret;
        let Profile { lifetime, ref opens, .. } = graph.profiles[secret as usize];
        match opens {
            Opens::Nothing => {}
            Opens::Undeclared(depth) => {
                self.undeclared.push(place);
                self.risk_of_undeclared = self.risk_of_undeclared.plus(depth.times(lifetime * factor));
                self.depth = self.depth.most(*depth);
            }
            Opens::One(way) => self.reach(place, way, lifetime * factor),
            Opens::Several => graph.reaches.of(secret).iter().for_each(|way| self.reach(place, way, lifetime * factor)),
        }
    }

    fn reach(&mut self, place: u32, way: &Way, factor: f64) {
        let risk = way.depth.times(factor);
        self.depth = self.depth.most(way.depth);
        let seen = &mut self.system_seen[way.to as usize];
        if seen.0 != self.round {
            *seen = (self.round, self.systems.len() as u32);
            let (privilege, depth) = (way.privilege, way.depth);
            self.systems.push(Reached { system: way.to, privilege, by: place, by_privilege: privilege, risk, depth });
            return;
        }
        let before = &mut self.systems[seen.1 as usize];
        before.risk = before.risk.most(risk);
        before.depth = before.depth.most(way.depth);
        before.privilege = before.privilege.max(way.privilege);
        let as_short = self.steps[before.by as usize].depth == self.steps[place as usize].depth;
        if as_short && way.privilege > before.by_privilege {
            (before.by, before.by_privilege) = (place, way.privilege);
        }
    }

    pub fn score(&self, graph: &Graph<'_>) -> Score {
        let risk = self.systems.iter().fold(self.risk_of_undeclared, |sum, reached| sum.plus(reached.risk));
        let secrets = self.steps.iter().take_while(|step| step.depth == 0).count();
        Score {
            secrets,
            beyond: self.steps.len() - secrets,
            systems: self.systems.len(),
            undeclared: self.undeclared.len(),
            ..Score::of(risk, self.depth, graph.weights.scale)
        }
    }

    /// The worst of what is reached, first; among equals by name.
    pub fn worst_first(&self) -> Vec<Reached> {
        let mut systems = self.systems.clone();
        systems.sort_by(|a, b| {
            b.risk.high.total_cmp(&a.risk.high).then(b.risk.low.total_cmp(&a.risk.low)).then(a.system.cmp(&b.system))
        });
        systems
    }

    /// Secrets and sources from the start to this step.
    pub fn path<'f>(&self, graph: &Graph<'f>, step: u32) -> Vec<PathStep<'f>> {
        let mut path = Vec::new();
        let mut at = Some(step);
        while let Some(step) = at.and_then(|place| self.steps.get(place as usize)) {
            let fact = graph.secret(step.secret);
            path.push(PathStep::Secret(fact.name.as_str()));
            if step.from.is_some() {
                path.push(PathStep::Source(fact.source.as_str()));
            }
            at = step.from;
        }
        path.reverse();
        path
    }
}

/// One stop of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStep<'f> {
    Secret(&'f str),
    Source(&'f str),
}

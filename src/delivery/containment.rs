//! The `Contain` and `Release` calls: what is ordered is done though its caller goes away, and each change is told until all is over.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::watch;
use tonic::Status;
use tracing::{info, warn};

use super::{admin::Host, rotation};
use crate::{
    broker::{Broker, Deed},
    contain::{Containments, Order, Phase, Progress, Refused, Stopped, Unit},
    name::{SecretName, ToolName, is_unprintable},
    peer::Peer,
    proto::v1,
};

pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::Containment, Status>> + Send>>;

/// Characters of a reason.
const MOST_REASON: usize = 200;
/// Who moves for longer than this is not being contained.
const LONGEST_OVERLAP: Duration = Duration::from_secs(3600);

pub async fn contain(broker: &Broker, host: &dyn Host, operator: &Peer, request: v1::ContainRequest) -> Result<Answers, Status> {
    let containments = containments(host)?;
    let dry_run = request.dry_run;
    let order = order(broker, operator, request)?;
    info!(operator = %operator.seat(), pid = operator.process.pid, tool = %order.tool, dry_run, "containing asked for");
    let (action, tool) = (if dry_run { "contain-dry-run" } else { "contain" }, order.tool.clone());
    let reason = order.reason.clone();
    if dry_run {
        let outlook = containments.outlook(&order).await;
        record(broker, operator, action, &tool, &reason, outlook.is_err());
        let outlook = outlook.map_err(|why| refused(&why))?;
        return Ok(Box::pin(stream::once(async move { Ok(told(&tool, &outlook)) })));
    }
    let mut order = order;
    // One that is contained already waits for nobody: what is left is tried again.
    if broker.policy().roles().two_to_contain() && containments.of(&tool).is_none() {
        let person = operator.person();
        let second = containments.second(&tool, &person).map_err(|why| {
            record(broker, operator, action, &tool, &reason, true);
            refused(&why)
        })?;
        match second {
            Some(first) => order.by = format!("operators {first} and {person}"),
            None => {
                let mut outlook = containments.outlook(&order).await.map_err(|why| {
                    record(broker, operator, action, &tool, &reason, true);
                    refused(&why)
                })?;
                outlook.phase = Phase::Waiting;
                warn!(%tool, operator = %operator.seat(), "containing waits for a second operator");
                record(broker, operator, "contain-first", &tool, &reason, false);
                return Ok(Box::pin(stream::once(async move { Ok(told(&tool, &outlook)) })));
            }
        }
    }
    // In a task of its own: half of it would be worse than none.
    let ordered = tokio::spawn(async move { containments.contain(order).await });
    let followed = ordered.await.map_err(|_| Status::internal("it failed inside; the daemon's log says why"))?;
    record(broker, operator, action, &tool, &reason, followed.is_err());
    Ok(follow(tool, followed.map_err(|why| refused(&why))?))
}

pub async fn release(broker: &Broker, host: &dyn Host, operator: &Peer, tool: &str) -> Result<v1::ReleaseResponse, Status> {
    let tool: ToolName = tool.parse().map_err(|bad| Status::invalid_argument(format!("{bad}")))?;
    let released = containments(host)?.release(&tool, &words(operator)).await;
    record(broker, operator, "release", &tool, "", released.is_err());
    released.map(|()| v1::ReleaseResponse {}).map_err(|why| refused(&why))
}

fn containments(host: &dyn Host) -> Result<Arc<Containments>, Status> {
    host.containments().ok_or_else(|| {
        Status::failed_precondition(
            "the daemon has no state directory to keep in mind what is contained, or still loads; its log says which",
        )
    })
}

/// On record: only a tool that there is, or was when it was contained.
fn record(broker: &Broker, operator: &Peer, action: &'static str, tool: &ToolName, reason: &str, failed: bool) {
    let known = broker.policy().tool(tool.as_str()).is_some() || broker.is_contained(tool);
    let detail = match (known, reason) {
        (true, "") => format!("tool {tool}"),
        (true, reason) => format!("tool {tool}: {reason}"),
        (false, _) => "no such tool".into(),
    };
    broker.operated(operator, &Deed { action, failed, detail: Some(&detail), ..Deed::default() });
}

fn order(broker: &Broker, operator: &Peer, request: v1::ContainRequest) -> Result<Order, Status> {
    let v1::ContainRequest { tool, reason, dry_run: _, overlap } = request;
    let tool = tool.parse().map_err(|bad| Status::invalid_argument(format!("{bad}")))?;
    if reason.chars().count() > MOST_REASON || reason.chars().any(is_unprintable) {
        return Err(Status::invalid_argument(format!("a reason is one line of at most {MOST_REASON} characters")));
    }
    let overlap = match overlap {
        None => Order::OVERLAP,
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|overlap| *overlap <= LONGEST_OVERLAP)
            .ok_or_else(|| Status::invalid_argument("those who share a secret have an hour at the most to move"))?,
    };
    // Whoever is in a hurry may paste what was found where it should not be.
    let reason = broker.store().redactor().redact_str(&reason).into_owned();
    Ok(Order { tool, by: words(operator), reason, overlap })
}

fn words(operator: &Peer) -> String {
    format!("operator {}", operator.seat())
}

fn refused(why: &Refused) -> Status {
    let words = why.to_string();
    match why {
        Refused::NoSuchTool(_) => Status::not_found(words),
        Refused::NotContained(_) => Status::failed_precondition(words),
        Refused::NotReleased(..) => Status::internal(words),
    }
}

/// Tells whatever changes, until it is over, or the tool is released.
fn follow(tool: ToolName, followed: watch::Receiver<Progress>) -> Answers {
    let begin = (tool, followed, None::<v1::Containment>);
    Box::pin(stream::unfold(begin, |(tool, mut followed, last)| async move {
        loop {
            if last.as_ref().is_some_and(|last| last.step == Phase::Over.word()) {
                return None;
            }
            let now = told(&tool, &followed.borrow_and_update());
            if last.as_ref() != Some(&now) {
                return Some((Ok(now.clone()), (tool, followed, Some(now))));
            }
            followed.changed().await.ok()?;
        }
    }))
}

fn told(tool: &ToolName, progress: &Progress) -> v1::Containment {
    let Progress { record, phase, rotations } = progress;
    let secret = |(name, part): (&String, &crate::contain::Part)| {
        let rotation = name.parse::<SecretName>().ok().and_then(|name| rotations.get(&name));
        let version = |version: Option<crate::name::Version>| version.map(|version| version.to_string()).unwrap_or_default();
        v1::ContainedSecret {
            name: name.clone(),
            version: version(part.version()),
            fate: part.fate.word().into(),
            new_version: version(part.new_version()),
            problem: part.problem.clone(),
            shared_with: part.shared_with.clone(),
            way: part.way.clone(),
            rotation: rotation.map(rotation::told),
        }
    };
    v1::Containment {
        tool: tool.to_string(),
        step: phase.word().into(),
        by: record.by.clone(),
        reason: record.reason.clone(),
        since: Some(record.since().into()),
        sessions: record.stopped.iter().map(|one| stopped(one, record.unit.as_ref())).collect(),
        secrets: record.parts.iter().map(secret).collect(),
        unknown: record.unknown.clone(),
        unit: record.unit.as_ref().map(|unit| unit.name.clone()).unwrap_or_default(),
        unit_state: record.unit.as_ref().map(|unit| unit.state.word().into()).unwrap_or_default(),
        unit_problem: record.unit.as_ref().map(|unit| unit.problem.clone()).unwrap_or_default(),
    }
}

fn stopped(one: &Stopped, unit: Option<&Unit>) -> v1::ContainedSession {
    let process = match one {
        Stopped { unit: Some(of), .. } if unit.is_some_and(|unit| unit.name == *of) => "with-unit",
        Stopped { session: None, .. } => "unit",
        Stopped { by_launcher: true, .. } => "stopped",
        _ => "told",
    };
    v1::ContainedSession {
        session: one.session.clone().unwrap_or_default(),
        pid: one.pid,
        unit: one.unit.clone().unwrap_or_default(),
        remote: one.remote.clone().unwrap_or_default(),
        process: process.into(),
    }
}

//! Approvals, as operators see and decide them.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::admin::AdminService;
use crate::{
    broker::{Approval, ApprovalState, LONGEST_APPROVAL, Verdict},
    name::is_unprintable,
    peer::Witness,
    policy::Role,
    proto::v1,
};

const LONGEST_REASON: usize = 200;

impl AdminService {
    pub(super) fn list_all_approvals(
        &self,
        request: &Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        self.operator(request, Role::Viewer)?;
        let approvals = self.broker().approvals().into_iter().map(approval).collect();
        Ok(Response::new(v1::ListApprovalsResponse { approvals }))
    }

    pub(super) fn decide_an_approval(
        &self,
        request: &Request<v1::DecideApprovalRequest>,
    ) -> Result<Response<v1::DecideApprovalResponse>, Status> {
        let operator = self.operator(request, Role::Security)?;
        let v1::DecideApprovalRequest { id, approve, lifetime, reason } = request.get_ref();
        if reason.chars().count() > LONGEST_REASON || reason.chars().any(is_unprintable) {
            return Err(Status::invalid_argument(format!("a reason is one line of at most {LONGEST_REASON} characters")));
        }
        let lifetime = lifetime.as_ref().map_or(Ok(Duration::from_secs(3600)), |lifetime| Duration::try_from(*lifetime));
        let fits = |lifetime: &Duration| !lifetime.is_zero() && *lifetime <= LONGEST_APPROVAL;
        let lifetime =
            lifetime.ok().filter(fits).ok_or_else(|| Status::invalid_argument("an approval stands for at most 24 hours"))?;
        let verdict = Verdict { approve: *approve, lifetime, reason };
        let decided = self.broker().decide_approval(operator.peer(), id, verdict);
        let none = || Status::not_found("no such request waits; `valetkey approvals` lists those that do");
        Ok(Response::new(v1::DecideApprovalResponse { approval: Some(approval(decided.ok_or_else(none)?)) }))
    }
}

fn approval(one: Approval) -> v1::Approval {
    let (ends, by) = match &one.state {
        ApprovalState::Approved { ends, by, .. } => (Some((*ends).into()), by.clone()),
        _ => (None, String::new()),
    };
    v1::Approval {
        id: one.id,
        tool: one.tool.to_string(),
        secret: one.secret.to_string(),
        caller: one.seat.to_string(),
        purpose: one.purpose,
        asked: Some(one.asked.into()),
        state: one.state.word().into(),
        ends,
        by,
    }
}

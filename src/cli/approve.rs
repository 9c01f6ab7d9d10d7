//! `valetkey approvals`, `approve` and `deny`: hand-outs that wait for somebody to let them through.

use serde::Serialize;

use super::{
    Failure, Outcome, USAGE, block_on,
    listings::{self, ask, print},
    remote,
    table::{layout, or_dash, printable},
    when,
};
use crate::{config::duration, proto::v1};

#[derive(Debug, clap::Args)]
#[command(after_help = "An approval is for one tool, as one caller, and one secret. It ends by itself.\n\n\
    Examples:\n  valetkey approvals\n  valetkey approve 4f0c2b1a99d3e0f7 --for 30m --reason \"INC-4711\"\n  valetkey deny 4f0c2b1a99d3e0f7")]
pub struct ApproveArgs {
    /// The request, by the id that `valetkey approvals` shows
    id: String,
    /// How long it stands, at most 24h
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    lifetime: String,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    socket: super::AdminSocket,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "The caller is told at once. It may ask again after 15 minutes.\n\n\
    Example:\n  valetkey deny 4f0c2b1a99d3e0f7 --reason \"not on a Friday\"")]
pub struct DenyArgs {
    /// The request, by the id that `valetkey approvals` shows
    id: String,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    socket: super::AdminSocket,
}

#[derive(Serialize)]
struct Approval {
    id: String,
    tool: String,
    secret: String,
    caller: String,
    purpose: Option<String>,
    asked: Option<String>,
    state: String,
    ends: Option<String>,
    by: Option<String>,
}

#[derive(Serialize)]
struct Approvals {
    approvals: Vec<Approval>,
}

pub fn list(args: &listings::Args) -> Outcome {
    let got: v1::ListApprovalsResponse = ask!(args, list_approvals, v1::ListApprovalsRequest {});
    let rows = got.approvals.iter().map(|one| {
        let (asked, ends) = (when::relative(one.asked.as_ref()), when::relative(one.ends.as_ref()));
        let purpose = or_dash(&printable(&one.purpose));
        vec![
            one.id.clone(),
            one.state.clone(),
            one.tool.clone(),
            one.secret.clone(),
            printable(&one.caller),
            asked,
            ends,
            purpose,
        ]
    });
    let text = layout(&["ID", "STATE", "TOOL", "SECRET", "CALLER", "ASKED", "ENDS", "PURPOSE"], &rows.collect::<Vec<_>>());
    let some = |text: String| (!text.is_empty()).then_some(text);
    let approval = |one: v1::Approval| Approval {
        id: one.id,
        tool: one.tool,
        secret: one.secret,
        caller: one.caller,
        purpose: some(one.purpose),
        asked: one.asked.map(|at| at.to_string()),
        state: one.state,
        ends: one.ends.map(|at| at.to_string()),
        by: some(one.by),
    };
    print(args, &Approvals { approvals: got.approvals.into_iter().map(approval).collect() }, || text)
}

pub fn approve(args: &ApproveArgs) -> Outcome {
    let lifetime = duration(&args.lifetime).map_err(|why| Failure::new(USAGE, format!("--for {why}"), "30m, 4h"))?;
    let lifetime = lifetime.try_into().map_err(|_| Failure::new(USAGE, "--for is too long", "at most 24h"))?;
    let request =
        v1::DecideApprovalRequest { id: args.id.clone(), approve: true, lifetime: Some(lifetime), reason: args.reason.clone() };
    let decided: v1::DecideApprovalResponse = ask!(args, decide_approval, request.clone());
    let one = decided.approval.unwrap_or_default();
    println!(
        "approved: {} for tool {}, {}, ends {}",
        one.secret,
        one.tool,
        printable(&one.caller),
        when::relative(one.ends.as_ref())
    );
    Ok(())
}

pub fn deny(args: &DenyArgs) -> Outcome {
    let request = v1::DecideApprovalRequest { id: args.id.clone(), approve: false, lifetime: None, reason: args.reason.clone() };
    let decided: v1::DecideApprovalResponse = ask!(args, decide_approval, request.clone());
    let one = decided.approval.unwrap_or_default();
    println!("denied: {} for tool {}, {}", one.secret, one.tool, printable(&one.caller));
    Ok(())
}

//! `valetkey explain`: which line of policy allows, or what is missing.

use std::path::PathBuf;

use serde::Serialize;

use super::{AdminSocket, DENIED, FAILED, Failure, Outcome, USAGE, block_on, remote, table::cell};
use crate::{config, proto::v1};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Asks the running daemon; with --config, a configuration on disk. Exit code 3 where it is not allowed.\n\n\
    Example:\n  valetkey explain billing stripe/api-key"
)]
pub struct Args {
    tool: String,
    secret: String,
    /// Judge by this configuration instead of the running daemon's
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    #[command(flatten)]
    socket: AdminSocket,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explanation {
    tool: String,
    secret: String,
    allowed: bool,
    verdict: String,
    origin: Option<String>,
    run_as: Vec<String>,
    missing: Option<String>,
    delivery: Option<String>,
    exposure: Option<String>,
}

pub fn run(args: &Args) -> Outcome {
    let explained = match &args.config {
        Some(file) => offline(args, file)?,
        None => ask_daemon(args)?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explained).map_err(std::io::Error::other)?);
    } else {
        println!("{}: {}", if explained.allowed { "allowed" } else { "not allowed" }, explained.verdict);
        if !explained.run_as.is_empty() {
            println!("tool {} is a process that has: {}", explained.tool, cell(&explained.run_as));
        }
        if let Some(exposure) = &explained.exposure {
            println!("there, {exposure}");
        }
        if let Some(missing) = &explained.missing {
            println!("{missing}");
        }
    }
    if explained.allowed { Ok(()) } else { Err(Failure::silent(DENIED)) }
}

fn offline(args: &Args, file: &std::path::Path) -> Result<Explanation, Failure> {
    let wrong = |bad: crate::name::BadName| Failure::new(USAGE, bad.to_string(), "valetkey explain TOOL SECRET");
    let (tool, secret) = (args.tool.parse().map_err(wrong)?, args.secret.parse().map_err(wrong)?);
    let config = config::load(file).map_err(|problems| {
        let hint = format!("valetkey check --config {}", file.display());
        Failure::new(FAILED, format!("the configuration has {} problems", problems.len()), hint)
    })?;
    let config::Explanation { allowed, verdict, origin, run_as, missing, delivery, exposure } =
        config::explain(&config, &tool, &secret);
    let origin = origin.map(|origin| origin.to_string());
    let (tool, secret) = (args.tool.clone(), args.secret.clone());
    Ok(Explanation { tool, secret, allowed, verdict, origin, run_as, missing, delivery, exposure })
}

fn ask_daemon(args: &Args) -> Result<Explanation, Failure> {
    let got = block_on(async {
        let mut admin = remote::admin(&args.socket.place()?).await?;
        let request = v1::ExplainRequest { tool: args.tool.clone(), secret: args.secret.clone() };
        admin.explain(request).await.map_err(|status| remote::refused(&status))
    })??;
    let v1::ExplainResponse { allowed, verdict, origin, run_as, missing, delivery, exposure } = got.into_inner();
    let some = |text: String| (!text.is_empty()).then_some(text);
    let (tool, secret) = (args.tool.clone(), args.secret.clone());
    let (missing, delivery, exposure) = (some(missing), some(delivery), some(exposure));
    Ok(Explanation { tool, secret, allowed, verdict, origin: some(origin), run_as, missing, delivery, exposure })
}

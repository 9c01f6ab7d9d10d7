//! `valetkey reload` and `valetkey revoke`: what an operator does to a running daemon.

use super::{AdminSocket, Outcome, block_on, remote};
use crate::proto::v1;

#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    socket: AdminSocket,
}

/// Returns when the reload is done, and fails when the new configuration is bad.
pub fn reload(args: &ReloadArgs) -> Outcome {
    let done = block_on(async {
        let mut admin = remote::admin(&args.socket.path()).await?;
        admin.reload(v1::ReloadRequest {}).await.map_err(|status| remote::refused(&status))
    })??;
    let v1::ReloadResponse { changes, sessions_ended } = done.into_inner();
    changes.iter().for_each(|change| println!("{change}"));
    println!("reloaded; {sessions_ended} sessions ended");
    Ok(())
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  valetkey revoke tool billing             end every session of a tool\n  \
    valetkey revoke secret stripe/api-key    drop its value from memory until the next reload")]
pub struct RevokeArgs {
    #[command(subcommand)]
    target: Target,
    #[command(flatten)]
    socket: AdminSocket,
}

#[derive(Debug, clap::Subcommand)]
enum Target {
    /// End one session, by the id that `valetkey sessions` shows
    Session { id: String },
    /// End every open session of a tool; policy still lets it open new ones
    Tool { name: String },
    /// Drop a secret's value from the daemon's memory and tell its holders
    Secret { name: String },
}

pub fn revoke(args: &RevokeArgs) -> Outcome {
    use v1::revoke_request::Target as Wire;
    let target = match &args.target {
        Target::Session { id } => Wire::Session(id.clone()),
        Target::Tool { name } => Wire::Tool(name.clone()),
        Target::Secret { name } => Wire::Secret(name.clone()),
    };
    let done = block_on(async {
        let mut admin = remote::admin(&args.socket.path()).await?;
        let request = v1::RevokeRequest { target: Some(target) };
        admin.revoke(request).await.map_err(|status| remote::refused(&status))
    })??;
    let v1::RevokeResponse { sessions_ended, sessions_told } = done.into_inner();
    match args.target {
        Target::Secret { .. } => println!("dropped from memory; {sessions_told} sessions that hold it were told"),
        _ => println!("{sessions_ended} sessions ended"),
    }
    Ok(())
}

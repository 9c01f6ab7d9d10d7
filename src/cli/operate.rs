//! `valetkey refresh`, `reload` and `revoke`: what an operator does to a running daemon.

use serde::Serialize;

use super::{
    AdminSocket, FAILED, Failure, Outcome, USAGE, block_on,
    listings::{self, ask, print},
    remote,
    table::printable,
};
use crate::{
    name::{BadName, SecretName},
    proto::v1,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Returns when the sources have answered. Secrets that are current stay as they are.\n\n\
    Examples:\n  valetkey refresh                     after a rotation, or when a source is back: everything\n  \
    valetkey refresh stripe/api-key      one secret")]
pub struct RefreshArgs {
    /// Names of secrets; without one, all that there are
    #[arg(value_name = "SECRET")]
    secrets: Vec<String>,
    #[command(flatten)]
    asked: listings::Args,
}

#[derive(Serialize)]
struct Refreshed {
    changed: Vec<String>,
    failed: Vec<Unrefreshed>,
}

#[derive(Serialize)]
struct Unrefreshed {
    secret: String,
    problem: String,
}

/// Returns when the sources have been asked, and fails when one of them did not say, or said no.
pub fn refresh(args: &RefreshArgs) -> Outcome {
    let names = args.secrets.iter().map(|name| name.parse::<SecretName>().map(drop));
    let wrong = |bad: BadName| Failure::new(USAGE, bad.to_string(), "`valetkey secrets` lists the names");
    names.collect::<Result<(), _>>().map_err(wrong)?;
    let got: v1::RefreshResponse = ask!(args.asked, refresh, v1::RefreshRequest { secrets: args.secrets.clone() });
    let failed = got.failed.into_iter().map(|failed| Unrefreshed { secret: failed.secret, problem: failed.problem });
    let refreshed = Refreshed { changed: got.changed, failed: failed.collect() };
    print(&args.asked, &refreshed, || refreshed_text(&refreshed))?;
    match refreshed.failed.len() {
        0 => Ok(()),
        _ if args.asked.json => Err(Failure::silent(FAILED)),
        number => {
            let what = format!("of {number} secrets the sources gave no value");
            Err(Failure::new(FAILED, what, "`valetkey status` says what to do about each source"))
        }
    }
}

fn refreshed_text(Refreshed { changed, failed }: &Refreshed) -> String {
    let is_gone = |secret: &String| failed.iter().any(|failed| failed.secret == *secret);
    let mut lines: Vec<_> = changed.iter().filter(|secret| !is_gone(secret)).map(|secret| format!("{secret} changed")).collect();
    lines.extend(failed.iter().map(|Unrefreshed { secret, problem }| {
        let gone = if changed.contains(secret) { " is withdrawn" } else { "" };
        format!("{secret}{gone}: {}", printable(problem))
    }));
    if lines.is_empty() {
        lines.push("all is current".into());
    }
    lines.join("\n") + "\n"
}

#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    socket: AdminSocket,
}

/// Returns when the reload is done, and fails when the new configuration is bad.
pub fn reload(args: &ReloadArgs) -> Outcome {
    let done = block_on(async {
        let mut admin = remote::admin(&args.socket.place()?).await?;
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
    /// Drop a secret's value from the daemon's memory and tell its holders; or give back what was made of it for sessions
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
        let mut admin = remote::admin(&args.socket.place()?).await?;
        let request = v1::RevokeRequest { target: Some(target) };
        admin.revoke(request).await.map_err(|status| remote::refused(&status))
    })??;
    let v1::RevokeResponse { sessions_ended, sessions_told, given_back, still_good, per_session } = done.into_inner();
    match args.target {
        Target::Secret { .. } if per_session => {
            println!("given back: {given_back} credentials that were made of it; a session that asks again has another made");
            still_good.iter().for_each(|one| println!("STILL GOOD, {}", printable(one)));
        }
        Target::Secret { .. } => println!("dropped from memory; {sessions_told} sessions that hold it were told"),
        _ => println!("{sessions_ended} sessions ended"),
    }
    match still_good.len() {
        0 => Ok(()),
        number => {
            let what = format!("{number} credentials that were made of it are still good");
            Err(Failure::new(FAILED, what, "they are tried again until they end; at the source they can be ended sooner"))
        }
    }
}

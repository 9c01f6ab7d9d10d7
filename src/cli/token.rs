//! `valetkey token`: tokens for callers over the network. A token is made here, and shown once; the daemon is told its digest.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    FAILED, Failure, Outcome, USAGE, block_on, keep_off_terminals,
    listings::{self, ask, print},
    remote,
    table::{layout, or_dash, printable},
    when,
};
use crate::{config::duration, proto::v1};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A token names a caller over the network for policy: run-as = { token = \"NAME\" }. Of it the daemon keeps a digest.\n\n\
    Examples:\n  valetkey token issue ci-runner --for 30d > token     once, and never again\n  \
    valetkey token issue ci-runner --certificate runner.pem > token     good with that certificate alone\n  \
    valetkey token list\n  valetkey token revoke ci-runner"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Issue a token to a name, and print it: the only time that it is seen
    Issue(IssueArgs),
    /// List the tokens that were issued; not the tokens themselves
    List(listings::Args),
    /// Revoke one token by its id, or all of a name; what was opened with it gets nothing more
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Whom it is for: what `token = "NAME"` in policy compares
    name: String,
    /// How long it is good for, at most 366d
    #[arg(long = "for", value_name = "TIME", default_value = "30d")]
    lifetime: String,
    /// Bind it to this client certificate (PEM): it is good with no other
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Print it even where standard output is a terminal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    socket: super::AdminSocket,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The id of a token, or a name
    id_or_name: String,
    #[command(flatten)]
    socket: super::AdminSocket,
}

pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Issue(args) => issue(args),
        Command::List(args) => list(args),
        Command::Revoke(args) => revoke(args),
    }
}

fn issue(args: &IssueArgs) -> Outcome {
    keep_off_terminals(args.reveal)?;
    let lifetime = duration(&args.lifetime).map_err(|why| Failure::new(USAGE, format!("--for {why}"), "30d, 12h, 90m"))?;
    let lifetime = lifetime.try_into().map_err(|_| Failure::new(USAGE, "--for is too long", "at most 366d"))?;
    let certificate_sha256 = args.certificate.as_deref().map(digest_of).transpose()?.unwrap_or_default();
    let (id, token) = new_token()?;
    let sha256 = sha256(token.as_bytes());
    let request = v1::IssueTokenRequest { id, name: args.name.clone(), sha256, lifetime: Some(lifetime), certificate_sha256 };
    let issued: v1::IssueTokenResponse = ask!(args, issue_token, request.clone());
    let mut out = std::io::stdout();
    out.write_all(token.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())?;
    let issued = issued.token.unwrap_or_default();
    eprintln!(
        "token {} for {}, good until {}",
        issued.id,
        issued.name,
        issued.expires.map(|at| at.to_string()).unwrap_or_default()
    );
    Ok(())
}

/// A public id, and a token with 256 random bits.
fn new_token() -> Result<(String, Zeroizing<String>), Failure> {
    let mut random = Zeroizing::new([0; 40]);
    aws_lc_rs::rand::fill(&mut *random).map_err(|_| Failure::new(FAILED, "the system gives no random numbers", "try again"))?;
    let id: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&random[8..]));
    let token = Zeroizing::new(["vkt_", &id, "_", &secret].concat());
    Ok((id, token))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

fn digest_of(file: &Path) -> Result<Vec<u8>, Failure> {
    let text = std::fs::read(file)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", file.display()), "name a file in PEM"))?;
    let certificate = CertificateDer::from_pem_slice(&text);
    let certificate = certificate
        .map_err(|_| Failure::new(FAILED, format!("{} holds no certificate", file.display()), "name a file in PEM"))?;
    Ok(sha256(&certificate))
}

#[derive(Serialize)]
struct Token {
    id: String,
    name: String,
    state: String,
    issued: Option<String>,
    expires: Option<String>,
    certificate_sha256: Option<String>,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Token>,
}

fn list(args: &listings::Args) -> Outcome {
    let got: v1::ListTokensResponse = ask!(args, list_tokens, v1::ListTokensRequest {});
    let rows = got.tokens.iter().map(|token| {
        let bound = token.certificate_sha256.get(..16).unwrap_or_default();
        let (issued, expires) = (when::relative(token.issued.as_ref()), when::relative(token.expires.as_ref()));
        vec![token.id.clone(), printable(&token.name), token.state.clone(), issued, expires, or_dash(bound)]
    });
    let text = layout(&["ID", "NAME", "STATE", "ISSUED", "ENDS", "CERTIFICATE"], &rows.collect::<Vec<_>>());
    let token = |token: v1::Token| Token {
        id: token.id,
        name: token.name,
        state: token.state,
        issued: token.issued.map(|at| at.to_string()),
        expires: token.expires.map(|at| at.to_string()),
        certificate_sha256: (!token.certificate_sha256.is_empty()).then_some(token.certificate_sha256),
    };
    print(args, &Tokens { tokens: got.tokens.into_iter().map(token).collect() }, || text)
}

fn revoke(args: &RevokeArgs) -> Outcome {
    let request = v1::RevokeTokenRequest { id_or_name: args.id_or_name.clone() };
    let done: v1::RevokeTokenResponse = ask!(args, revoke_token, request.clone());
    println!("revoked: {}", done.revoked.join(" "));
    Ok(())
}

//! `valetkey login`: a token for a profile from its identity provider, by the device authorization grant (RFC 8628): the operator says yes in a
//! browser on any machine, and none is needed on this one.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{DENIED, FAILED, Failure, Outcome, UNREACHABLE, block_on, profile, table::printable};
use crate::{
    refresh::own_file,
    source::other_end::{self, NoBody},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The profile needs `issuer`, `client-id` and `token-file` (docs/remote.md). The token is kept in that file (0600), for as long as its issuer \
    lets it live; no other is.\n\nExample:\n  valetkey login --profile prod && valetkey status --profile prod"
)]
pub struct Args {
    /// A broker on another host, from ~/.config/valetkey/profiles.toml
    #[arg(long, value_name = "NAME")]
    profile: String,
}

/// How a profile logs in.
pub struct Login {
    pub issuer: String,
    pub client_id: String,
    /// The address of the API that the token is for (RFC 8707), where the issuer asks for one.
    pub resource: Option<String>,
    pub scope: String,
    /// The token that says who it is, in place of the one for an API.
    pub id_token: bool,
    pub ca_file: Option<PathBuf>,
    /// Where the token is kept.
    pub token_file: PathBuf,
}

/// Of one answer.
const WITHIN: Duration = Duration::from_secs(20);
/// No answer of an issuer is longer.
const LARGEST: usize = 256 * 1024;
/// Between two questions, where the issuer names no time (RFC 8628, 3.2); and how much longer where that is too often (3.5).
const INTERVAL: u64 = 5;
/// The longest that an issuer is waited for, whatever it says.
const LONGEST: u64 = 1800;

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Device {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
}

/// RFC 6749, 5.2.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

pub fn run(args: &Args) -> Outcome {
    let login = profile::login(&args.profile)?;
    let token = block_on(log_in(&login))??;
    own_file::write(&login.token_file, token.as_bytes())
        .map_err(|why| Failure::new(FAILED, why, "`token-file` of the profile must be in a folder that is yours"))?;
    let until = match expiry(&token) {
        Some(at) => format!(", until {}", prost_types::Timestamp::from(at)),
        None => String::new(),
    };
    eprintln!("logged in for profile {}{until}", args.profile);
    Ok(())
}

async fn log_in(login: &Login) -> Result<Zeroizing<String>, Failure> {
    let client = client(login)?;
    let address = format!("{}/.well-known/openid-configuration", login.issuer.trim_end_matches('/'));
    let found: Discovered = answer(client.get(&address), &address).await?.map_err(|refusal| refused(&address, &refusal))?;
    // OpenID Connect Discovery 1.0, 4.3: exactly.
    if found.issuer != login.issuer {
        let what = format!("{address} speaks for another issuer, {}", printable(&found.issuer));
        return Err(Failure::new(FAILED, what, "`issuer` of the profile, letter by letter"));
    }
    let Some(device_endpoint) = found.device_authorization_endpoint else {
        let what = format!("{} offers no login by a device code (RFC 8628)", login.issuer);
        return Err(Failure::new(FAILED, what, "put a token of it into `token-file`, or use a client certificate"));
    };
    let (device_endpoint, token_endpoint) = (safe(login, device_endpoint)?, safe(login, found.token_endpoint)?);

    let mut asked = vec![("client_id", login.client_id.as_str()), ("scope", login.scope.as_str())];
    asked.extend(login.resource.as_deref().map(|resource| ("resource", resource)));
    let device: Device = answer(post(&client, &device_endpoint, &asked), &device_endpoint)
        .await?
        .map_err(|refusal| refused(&device_endpoint, &refusal))?;
    show(&device)?;

    let ends = Instant::now() + Duration::from_secs(device.expires_in.min(LONGEST));
    let mut interval = Duration::from_secs(device.interval.unwrap_or(INTERVAL).clamp(1, 60));
    let mut asked = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device.device_code.as_str()),
        ("client_id", login.client_id.as_str()),
    ];
    asked.extend(login.resource.as_deref().map(|resource| ("resource", resource)));
    loop {
        tokio::time::sleep(interval).await;
        if Instant::now() >= ends {
            return Err(Failure::new(FAILED, "nobody said yes in time", "valetkey login, once more"));
        }
        match answer::<Tokens>(post(&client, &token_endpoint, &asked), &token_endpoint).await {
            Ok(Ok(tokens)) => return pick(login, tokens),
            Ok(Err(Refusal { error, .. })) if error == "authorization_pending" => {}
            Ok(Err(Refusal { error, .. })) if error == "slow_down" => interval += Duration::from_secs(INTERVAL),
            Ok(Err(Refusal { error, .. })) if error == "access_denied" => {
                return Err(Failure::new(FAILED, "the login was refused in the browser", "valetkey login, once more"));
            }
            Ok(Err(Refusal { error, .. })) if error == "expired_token" => {
                return Err(Failure::new(FAILED, "nobody said yes in time", "valetkey login, once more"));
            }
            Ok(Err(refusal)) => return Err(refused(&token_endpoint, &refusal)),
            // RFC 8628, 3.5: what fails on the way is asked again, more slowly.
            Err(failure) if failure.code == UNREACHABLE => interval = (interval * 2).min(Duration::from_secs(60)),
            Err(failure) => return Err(failure),
        }
    }
}

fn show(device: &Device) -> Outcome {
    let mut out = std::io::stderr();
    let Device { user_code, verification_uri, verification_uri_complete, .. } = device;
    writeln!(out, "On any machine, open {}\nand enter the code: {}", printable(verification_uri), printable(user_code))?;
    if let Some(complete) = verification_uri_complete {
        writeln!(out, "or open {}, and see that it shows the same code", printable(complete))?;
    }
    Ok(())
}

/// The token that the daemon can verify: one with a signature in it.
fn pick(login: &Login, tokens: Tokens) -> Result<Zeroizing<String>, Failure> {
    let [access, id] = [tokens.access_token, tokens.id_token].map(|token| token.map(Zeroizing::new));
    match if login.id_token { id } else { access }.filter(|token| expiry(token).is_some()) {
        Some(token) => Ok(token),
        None => Err(Failure::new(
            FAILED,
            format!("{} gave no token that can be verified by its signature", login.issuer),
            "`resource` in the profile, where the issuer makes such tokens for an API alone; or `id-token = true`",
        )),
    }
}

/// Is this profile logged in, as far as can be seen here?
pub fn check(name: &str, token_file: &Path) -> Outcome {
    let again = || format!("valetkey login --profile {name}");
    let token = match std::fs::read_to_string(token_file).map(Zeroizing::new) {
        Ok(token) => token,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(DENIED, format!("profile {name} is not logged in"), again()));
        }
        // Whoever uses it says why.
        Err(_) => return Ok(()),
    };
    match expiry(token.trim()) {
        Some(at) if at <= SystemTime::now() => {
            let what = format!("the login of profile {name} ended at {}", prost_types::Timestamp::from(at));
            Err(Failure::new(DENIED, what, again()))
        }
        _ => Ok(()),
    }
}

/// When a JSON Web Token ends; `None`: it is none. Nothing is verified here: the daemon does.
fn expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(claims.get("exp")?.as_u64()?))
}

/// A code must not go in the clear, unless it stays on this host.
fn safe(login: &Login, address: String) -> Result<String, Failure> {
    if address.starts_with("https://") || (profile::is_loopback(&login.issuer) && profile::is_loopback(&address)) {
        return Ok(address);
    }
    let what = format!("{} names an address in the clear: {}", login.issuer, printable(&address));
    Err(Failure::new(FAILED, what, "its administrator can mend that"))
}

fn client(login: &Login) -> Result<reqwest::Client, Failure> {
    let failed = |what: String| Failure::new(FAILED, what, "`issuer-ca-file` of the profile");
    let client = other_end::client(None, login.ca_file.as_deref()).map_err(|error| failed(error.to_string()))?;
    client.timeout(WITHIN).no_proxy().build().map_err(|error| failed(error.to_string()))
}

fn post(client: &reqwest::Client, address: &str, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
    // The one thing that makes such a body here, and it makes a query of an address.
    let body = reqwest::Url::parse_with_params("https://form.invalid/", form).ok().and_then(|url| url.query().map(str::to_owned));
    client.post(address).header("content-type", "application/x-www-form-urlencoded").body(body.unwrap_or_default())
}

/// What is answered, be it a refusal.
async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder, address: &str) -> Result<Result<T, Refusal>, Failure> {
    let fails = |error: reqwest::Error| {
        Failure::new(
            UNREACHABLE,
            format!("{address}: {}", error.without_url()),
            "is the issuer there, and its certificate known here?",
        )
    };
    let answer = request.header("accept", "application/json").send().await.map_err(fails)?;
    let (status, good) = (answer.status(), answer.status().is_success());
    let body = other_end::body(answer, LARGEST).await.map_err(|why| match why {
        NoBody::Broken(error) => fails(error),
        NoBody::TooLong(_) => Failure::new(FAILED, format!("{address}: {why}"), "is it the issuer?"),
    })?;
    let odd = |_| {
        let what = format!("{address} answered {status}, and not as an issuer does");
        let code = if status.is_server_error() { UNREACHABLE } else { FAILED };
        Failure::new(code, what, "is it the issuer?")
    };
    Ok(match good {
        true => Ok(serde_json::from_slice(&body).map_err(odd)?),
        false => Err(serde_json::from_slice(&body).map_err(odd)?),
    })
}

fn refused(address: &str, refusal: &Refusal) -> Failure {
    let Refusal { error, error_description } = refusal;
    let why = error_description.as_deref().map_or(String::new(), |why| format!(": {}", printable(why)));
    Failure::new(
        FAILED,
        format!("{address} refuses: {}{why}", printable(error)),
        "`client-id`, `scope` and `resource` of the profile",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expiry(&token(r#"{"exp":1900000000}"#)), Some(UNIX_EPOCH + Duration::from_secs(1_900_000_000)));
        for none in ["", "opaque", "a.b", "e30.e30.c2ln", &token("{}"), &token(r#"{"exp":"soon"}"#)] {
            assert_eq!(expiry(none), None, "{none}");
        }
    }
}

//! What is asked of an address before anything is sent there, and the HTTP client that sends it.

use std::{fs, net::IpAddr, path::Path};

use zeroize::Zeroizing;

use super::{Cause, SourceError};

/// Does this host of an address name no other machine, so that nothing crosses a network? `localhost`, or a loopback address.
pub(crate) fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An HTTP client, to which each adds its times: over TLS by the authorities in this file, or by those of the system. It follows no redirect:
/// what it carries goes where configuration says, and nowhere else. `only`: the one address that it is for; `None` where others follow.
pub(crate) fn client(only: Option<&str>, ca_file: Option<&Path>) -> Result<reqwest::ClientBuilder, SourceError> {
    let http = reqwest::Client::builder().tls_backend_rustls().redirect(reqwest::redirect::Policy::none()).http1_only();
    Ok(match ca_file {
        Some(file) => http.tls_certs_only(authorities(file)?),
        // Reading the system's takes longer than most of what a client is made for.
        None if only.is_some_and(|address| address.starts_with("http:")) => http.tls_certs_only([]),
        None => http,
    })
}

/// Why there is no body.
pub(crate) enum NoBody {
    Broken(reqwest::Error),
    /// It is longer than this.
    TooLong(usize),
}

impl std::fmt::Display for NoBody {
    /// Without the address: it may be a credential itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "{error}"),
            Self::TooLong(most) => write!(f, "more than {most} bytes"),
        }
    }
}

/// The body of an answer, which may be so long.
pub(crate) async fn body(mut answer: reqwest::Response, most: usize) -> Result<Zeroizing<Vec<u8>>, NoBody> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(|error| NoBody::Broken(error.without_url()))? {
        if body.len() + chunk.len() > most {
            return Err(NoBody::TooLong(most));
        }
        // In one go: what outgrows its place leaves a copy behind.
        if body.capacity() == 0 {
            body.reserve_exact(most);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The authorities in a file of PEM, which may be read by all.
fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, SourceError> {
    let unusable = |why: &str| {
        let problem = format!("cannot use the certificates in {}: {why}", path.display());
        SourceError::new(Cause::Refused, problem)
    };
    let pem = fs::read(path).map_err(|error| unusable(&error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| unusable("they are not in PEM"))?;
    if certificates.is_empty() { Err(unusable("there are none")) } else { Ok(certificates) }
}

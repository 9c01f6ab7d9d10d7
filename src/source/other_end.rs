//! What is asked of an address before anything is sent there.

use std::{fs, net::IpAddr, path::Path};

use super::{Cause, SourceError};

/// Does this host of an address name no other machine, so that nothing crosses a network? `localhost`, or a loopback address.
pub(crate) fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The authorities in a file of PEM, which may be read by all.
pub(crate) fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, SourceError> {
    let unusable = |why: &str| {
        let problem = format!("cannot use the certificates in {}: {why}", path.display());
        SourceError::new(Cause::Refused, problem)
    };
    let pem = fs::read(path).map_err(|error| unusable(&error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| unusable("they are not in PEM"))?;
    if certificates.is_empty() { Err(unusable("there are none")) } else { Ok(certificates) }
}

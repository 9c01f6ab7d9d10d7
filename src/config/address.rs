//! Addresses, files and names at a source.

use super::sources::FileRef;
use crate::source::other_end::is_this_host;

/// A name at the source: without spaces, and without a way out of its folder.
pub(super) fn plain(text: &str) -> Result<String, &'static str> {
    if text.contains(char::is_whitespace) {
        Err("holds a space")
    } else if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        Err("must not start or end with `/`, nor hold `//`, `.` or `..`")
    } else {
        Ok(text.into())
    }
}

pub(super) fn file_ref(text: &str) -> Result<FileRef, &'static str> {
    if let Some(name) = text.strip_prefix("credential:") {
        let fits = name.len() <= 255 && !matches!(name, "" | "." | "..") && !name.contains(['/', ':']);
        return if fits { Ok(FileRef::Credential(name.into())) } else { Err("does not name a credential after `credential:`") };
    }
    if text.starts_with('/') { Ok(FileRef::Path(text.into())) } else { Err("must be an absolute path, or credential:NAME") }
}

/// An address that shows nobody on the way what is fetched from it.
pub(super) fn url(text: &str) -> Result<String, &'static str> {
    let wrong = "must be an address such as https://host:port";
    let uri: http::Uri = text.parse().map_err(|_| wrong)?;
    let authority = uri.authority().ok_or(wrong)?;
    if authority.as_str().contains('@') {
        return Err("must not hold a user or a password");
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("must not hold a query");
    }
    match uri.scheme_str() {
        Some("https") => Ok(text.trim_end_matches('/').into()),
        Some("http") if is_this_host(authority.host()) => Ok(text.trim_end_matches('/').into()),
        Some("http") => Err("must be https: secrets would cross the network in the clear"),
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_loopback_may_be_plain_http() {
        for good in
            ["https://vault.example.com", "http://127.0.0.1:8200", "http://[::1]:8200/", "http://localhost:1", "https://h/prefix"]
        {
            assert_eq!(url(good).as_deref(), Ok(good.trim_end_matches('/')), "{good}");
        }
        for bad in [
            "http://vault.example.com",
            "http://localhost.evil.com",
            "http://127.0.0.1.evil.com",
            "http://127.0.0.1@evil.com",
            "vault:8200",
            "ftp://h",
            "https://u:p@h",
            "https://h?token=x",
            "/x",
            "",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_a_path_or_a_credential() {
        let credential = file_ref("credential:vault-token").unwrap();
        assert_eq!(credential.resolve(Some(Path::new("/run/c"))), Some("/run/c/vault-token".into()));
        assert_eq!(credential.resolve(None), None);
        assert_eq!(file_ref("/a").unwrap().resolve(None), Some("/a".into()));
        for bad in ["credential:", "credential:../x", "credential:..", "token", "./token"] {
            assert!(file_ref(bad).is_err(), "{bad}");
        }
    }
}

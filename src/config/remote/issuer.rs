//! `[issuer.NAME]`: an identity provider whose JSON Web Tokens are taken, and for whom they must be.

use std::{path::PathBuf, time::Duration};

use crate::{
    config::{
        address::{file_ref, url},
        read::{Key, Named, Refused, Section, key},
        sources::FileRef,
    },
    name::IssuerName,
};

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// What the claim `iss` must be, letter by letter.
    pub issuer: String,
    pub keys: KeysFrom,
    /// One of these must be in the claim `aud`. Never empty.
    pub audience: Vec<String>,
    /// By their names in RFC 7518; none that is symmetric. Never empty.
    pub algorithms: Vec<String>,
    /// By how much its clock may differ from ours.
    pub leeway: Duration,
    /// The longest time that a token may be good for, from `iat` to `exp`.
    pub max_lifetime: Duration,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysFrom {
    /// A JSON Web Key Set (RFC 7517), read again when it changes.
    File(FileRef),
    /// OpenID Connect Discovery 1.0, below the issuer's own address.
    Discovery {
        /// In place of the host's own list of authorities.
        ca_file: Option<PathBuf>,
        /// At the latest; and at once where a token names a key that is not known.
        refresh_every: Duration,
    },
}

pub const KEYS: &[Key] = &[
    key("issuer", "\"https://login.example.com\""),
    key("audience", "[\"valetkey\"]"),
    key("algorithms", "[\"ES256\", \"RS256\"]"),
    key("jwks-file", "\"/etc/valetkey/login-jwks.json\""),
    key("ca-file", "\"/etc/valetkey/login-ca.pem\""),
    key("refresh-every", "\"1h\""),
    key("leeway", "\"30s\""),
    key("max-lifetime", "\"24h\""),
];
pub const NAME_RULE: &str = "[issuer.login]: lower-case letters, digits and `._-`, at most 64";

const REFUSED: &[Refused] = &[
    Refused {
        name: "secret",
        means: "",
        why: "a key that signs as well as it verifies would make this daemon an issuer",
        instead: "jwks-file, or discovery at `issuer`",
    },
    Refused {
        name: "jwks-url",
        means: "",
        why: "keys come from where the issuer itself says, or from a file",
        instead: "nothing: they are found at ISSUER/.well-known/openid-configuration",
    },
];

/// Those of RFC 7518 and RFC 8037 that are taken. None that is symmetric, and not `none`.
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const LONGEST_LEEWAY: Duration = Duration::from_secs(300);

/// What subjects begin with that no issuer has named: `token:ci-runner`, `sha256:...`, and the URIs of certificates.
const OF_OTHERS: [&str; 7] = ["token", "sha256", "spiffe", "urn", "http", "https", "mailto"];

pub fn read(named: &Named<'_, IssuerName>) -> Option<IssuerSettings> {
    let title = format!("[issuer.{}]", named.name);
    let section = named.open(title.clone(), &title, KEYS, REFUSED)?;
    if OF_OTHERS.contains(&named.name.as_str()) {
        let what = format!("{title} is called as callers with another proof are on record: `{}:...`", named.name);
        section.error(section.line, what, "another name, such as [issuer.login]");
    }
    section.require(&["issuer", "audience", "algorithms"]);
    let leeway = section.duration("leeway").unwrap_or(Duration::from_secs(30));
    if leeway > LONGEST_LEEWAY {
        section.reject("leeway", "is more than five minutes: tokens that have ended would be taken");
    }
    // All of them first: a mistake in one must not hide those in others.
    let (keys, issuer) = (keys(&section), section.text("issuer"));
    let audience = some(&section, "audience", |text| Ok::<_, &str>(text.to_owned()));
    let algorithms = some(&section, "algorithms", algorithm);
    let max_lifetime = section.duration("max-lifetime").unwrap_or(Duration::from_secs(86_400));
    let (issuer, audience, algorithms) = (issuer?.into(), audience?, algorithms?);
    Some(IssuerSettings { keys: keys?, issuer, audience, algorithms, leeway, max_lifetime })
}

fn keys(section: &Section<'_>) -> Option<KeysFrom> {
    if section.has("jwks-file") {
        let file = section.parsed("jwks-file", file_ref).map(KeysFrom::File);
        for key in ["ca-file", "refresh-every"].into_iter().filter(|key| section.has(key)) {
            section.reject_for(key, "is for keys that are fetched, and `jwks-file` has them", "one of the two");
        }
        return file;
    }
    section.parsed("issuer", url)?;
    Some(KeysFrom::Discovery {
        ca_file: section.absolute_path("ca-file"),
        refresh_every: section.duration("refresh-every").unwrap_or(Duration::from_secs(3600)),
    })
}

fn algorithm(text: &str) -> Result<String, &'static str> {
    match text {
        text if ALGORITHMS.contains(&text) => Ok(text.into()),
        text if text.starts_with("HS") => Err("is symmetric: whoever can check such a token can make one"),
        text if text.eq_ignore_ascii_case("none") => Err("is no signature at all"),
        _ => Err("is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"),
    }
}

fn some<T, E: std::fmt::Display>(section: &Section<'_>, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
    let list = section.list(key, parse)?;
    if list.is_empty() && !section.is_list_with_items(key) {
        section.reject(key, "is empty");
        return None;
    }
    Some(list)
}

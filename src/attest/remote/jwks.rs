//! The keys of an issuer: a JSON Web Key Set (RFC 7517), from a file or from where OpenID Connect Discovery says.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Unproven, issuer::is_symmetric};
use crate::source::other_end;

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// Below this address, which is the issuer's.
    Discovery {
        issuer: String,
        ca_file: Option<PathBuf>,
    },
}

/// The keys that verify an issuer's tokens now.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// One of them.
#[derive(Debug)]
pub struct Key {
    pub id: String,
    pub key: DecodingKey,
    /// What alone it is for, where its issuer says so.
    algorithm: Option<String>,
}

/// Far more than any issuer has.
const MOST_KEYS: usize = 64;
const LARGEST: usize = 1 << 20;
const FETCH_WITHIN: Duration = Duration::from_secs(10);

impl Keys {
    /// Reads a key set. What is for encryption, symmetric, or of a kind that is not known is left out: others may be good.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|_| "it is no JSON Web Key Set")?;
        let keys = set.keys.into_iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<_> = JwkSet { keys: keys.collect() }.keys.iter().filter_map(Key::new).collect();
        if keys.is_empty() { Err("it has no key that can verify a signature".into()) } else { Ok(Self(keys)) }
    }

    /// The key that a token names. One that names none has the only key there is for its algorithm.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, Unproven> {
        let mut fit = self.0.iter().filter(|key| id.is_none_or(|id| key.id == id));
        let named = fit.clone().next().is_some();
        let mut right = fit.by_ref().filter(|key| key.is_for(algorithm));
        match (right.next(), right.next()) {
            (Some(key), None) => Ok(key),
            (None, _) if named && id.is_some() => Err(Unproven::JwtAlgorithm),
            _ => Err(Unproven::JwtKey),
        }
    }

    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    pub fn ids(&self) -> BTreeSet<&str> {
        self.0.iter().map(|key| key.id.as_str()).collect()
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let symmetric = key.family() == Algorithm::HS256.family();
        let id = common.key_id.clone().unwrap_or_default();
        (signs && !symmetric).then(|| Self { id, key, algorithm: common.key_algorithm.map(|algorithm| algorithm.to_string()) })
    }

    /// Its kind fits, and its issuer says nothing else.
    fn is_for(&self, algorithm: Algorithm) -> bool {
        let name = format!("{algorithm:?}");
        !is_symmetric(algorithm)
            && self.key.family() == algorithm.family()
            && self.algorithm.as_ref().is_none_or(|own| *own == name)
    }
}

impl KeySource {
    /// Reads or fetches the keys that there are now.
    pub async fn read(&self) -> Result<Keys, String> {
        match self {
            Self::File(path) => {
                let text = tokio::fs::read(path).await.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                Keys::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
            }
            Self::Discovery { issuer, ca_file } => discover(issuer, ca_file.as_deref()).await,
        }
    }
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

async fn discover(issuer: &str, ca_file: Option<&std::path::Path>) -> Result<Keys, String> {
    let client = other_end::client(None, ca_file).map_err(|error| error.to_string())?;
    let client = client.timeout(FETCH_WITHIN).no_proxy().build().map_err(|error| error.to_string())?;
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let found: Discovered =
        serde_json::from_slice(&get(&client, &address).await?).map_err(|_| format!("{address} is no discovery document"))?;
    // OpenID Connect Discovery 1.0, 4.3: exactly.
    if found.issuer != issuer {
        return Err(format!("{address} speaks for another issuer"));
    }
    let safe = |uri: &str| uri.starts_with("https://") || (issuer.starts_with("http://") && uri.starts_with("http://"));
    if !safe(&found.jwks_uri) {
        return Err(format!("{address} names keys that would come in the clear"));
    }
    Keys::parse(&get(&client, &found.jwks_uri).await?).map_err(|why| format!("the keys that {address} names: {why}"))
}

async fn get(client: &reqwest::Client, address: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let fails = |error: reqwest::Error| format!("{address}: {}", error.without_url());
    let answer = client.get(address).send().await.and_then(reqwest::Response::error_for_status).map_err(fails)?;
    other_end::body(answer, LARGEST).await.map_err(|why| format!("{address}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    #[test]
    fn symmetric_keys_and_those_for_encryption_are_no_keys() {
        let oct = r#"{"kty":"oct","kid":"b","k":"c2VjcmV0"}"#;
        let enc = EC.replace("\"sig\"", "\"enc\"");
        let odd = r#"{"kty":"XYZ","kid":"c"}"#;
        assert!(Keys::parse(format!("{{\"keys\":[{oct},{enc},{odd}]}}").as_bytes()).is_err());
        let keys = Keys::parse(format!("{{\"keys\":[{oct},{enc},{odd},{EC}]}}").as_bytes()).unwrap();
        assert_eq!(keys.ids(), ["a"].into());
        assert!(keys.find(Some("a"), Algorithm::ES256).is_ok());
        assert!(keys.find(None, Algorithm::ES256).is_ok());
        for (id, algorithm, why) in [
            (Some("a"), Algorithm::HS256, Unproven::JwtAlgorithm),
            (Some("a"), Algorithm::RS256, Unproven::JwtAlgorithm),
            (Some("a"), Algorithm::ES384, Unproven::JwtAlgorithm),
            (Some("b"), Algorithm::HS256, Unproven::JwtKey),
            (None, Algorithm::RS256, Unproven::JwtKey),
        ] {
            assert_eq!(keys.find(id, algorithm).err(), Some(why), "{id:?} {algorithm:?}");
        }
    }
}

//! One identity provider: is this token its own, made for this broker, and good now?

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

use jsonwebtoken::{Algorithm, Header, Validation, decode};
use serde_json::{Map, Value};

use super::{Unproven, jwks::Keys, wire::now};
use crate::peer::{Jwt, Sha256};

/// What is expected of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerOptions {
    /// The NAME in configuration.
    pub name: String,
    /// The claim `iss`.
    pub issuer: String,
    pub audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    pub max_lifetime: Duration,
}

/// A token that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub jwt: Jwt,
    /// The key that signed it.
    pub key: String,
    /// The certificate that it is good with alone (RFC 8705, 3.1).
    pub bound: Option<Sha256>,
    /// Seconds since 1970, the leeway included.
    pub until: u64,
}

impl IssuerOptions {
    /// `None`: an algorithm is none that is known, or one that is symmetric.
    pub fn new(
        name: String,
        issuer: String,
        audience: Vec<String>,
        algorithms: &[String],
        leeway: Duration,
        max_lifetime: Duration,
    ) -> Option<Self> {
        let known = |name: &String| Algorithm::from_str(name).ok().filter(|one| !is_symmetric(*one));
        let algorithms = algorithms.iter().map(known).collect::<Option<Vec<_>>>()?;
        Some(Self { name, issuer, audience, algorithms, leeway, max_lifetime })
    }

    /// Checks all of it: type, algorithm, key, signature, issuer, audience, times, subject.
    pub fn check(&self, token: &str, header: &Header, keys: &Keys) -> Result<Checked, Unproven> {
        check_header(header)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Unproven::JwtAlgorithm);
        }
        let key = keys.find(header.kid.as_deref(), header.alg)?;
        let decoded = decode::<Map<String, Value>>(token, &key.key, &self.validation(header.alg));
        let claims = decoded.map_err(|error| of_error(error.kind()))?.claims;
        // That it is one text and this one: the library would take a list that holds it.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Unproven::JwtIssuer);
        }
        let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| is_plain(subject));
        let subject = subject.ok_or(Unproven::JwtSubject)?.to_owned();
        let until = self.until(&claims)?;
        let bound = bound(&claims)?;
        let jwt = Jwt { issuer: self.name.clone(), subject, claims: flatten(&claims) };
        Ok(Checked { jwt, key: key.id.clone(), bound, until })
    }

    /// One algorithm alone, that of the key: so that no token can choose how its key is to be read.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&self.audience);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation
    }

    /// Until when it is good. One that is good for ever, or from tomorrow on, is refused.
    fn until(&self, claims: &Map<String, Value>) -> Result<u64, Unproven> {
        let time = |claim: &str| {
            claims.get(claim).and_then(Value::as_f64).filter(|time| time.is_finite() && *time >= 0.0).map(|time| time as u64)
        };
        let (now, leeway) = (now(), self.leeway.as_secs());
        let expires = time("exp").ok_or(Unproven::JwtLifetime)?;
        let from = match claims.get("iat") {
            Some(_) => time("iat").ok_or(Unproven::JwtLifetime)?,
            None => now,
        };
        if from > now + leeway {
            return Err(Unproven::JwtNotYetValid);
        }
        if expires.saturating_sub(from) > self.max_lifetime.as_secs() {
            return Err(Unproven::JwtLifetime);
        }
        Ok(expires.saturating_add(leeway))
    }
}

pub fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// A token of another kind is no proof of who calls, however well it is signed (RFC 8725, 3.11); and what must be understood is not
/// understood here (RFC 7515, 4.1.11).
fn check_header(header: &Header) -> Result<(), Unproven> {
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    if !matches!(kind, "jwt" | "at+jwt") || header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Unproven::JwtBad);
    }
    Ok(())
}

/// A token that is bound to something else than a certificate cannot be told from one that was stolen, so it is refused.
fn bound(claims: &Map<String, Value>) -> Result<Option<Sha256>, Unproven> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let only = confirmation.as_object().filter(|all| all.len() == 1).and_then(|all| all.get("x5t#S256")?.as_str());
    let digest = only.and_then(|digest| URL_SAFE_NO_PAD.decode(digest).ok()).and_then(|digest| digest.try_into().ok());
    digest.map(|digest| Some(Sha256(digest))).ok_or(Unproven::JwtBad)
}

fn of_error(error: &jsonwebtoken::errors::ErrorKind) -> Unproven {
    use jsonwebtoken::errors::ErrorKind;
    match error {
        ErrorKind::InvalidSignature => Unproven::JwtSignature,
        ErrorKind::ExpiredSignature => Unproven::JwtExpired,
        ErrorKind::ImmatureSignature => Unproven::JwtNotYetValid,
        ErrorKind::InvalidAudience => Unproven::JwtAudience,
        ErrorKind::InvalidIssuer => Unproven::JwtIssuer,
        ErrorKind::InvalidSubject => Unproven::JwtSubject,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => Unproven::JwtAudience,
            "iss" => Unproven::JwtIssuer,
            "sub" => Unproven::JwtSubject,
            _ => Unproven::JwtLifetime,
        },
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidAlgorithmName => Unproven::JwtAlgorithm,
        _ => Unproven::JwtBad,
    }
}

/// A subject goes into records and listings.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(crate::name::is_unprintable)
}

/// Claims that are kept, and how deep they are looked into: what policy compares, and no more than a token can fill the memory with.
const MOST_CLAIMS: usize = 256;
const DEEPEST: usize = 4;

/// Each claim by its name, and one within another by its pointer (RFC 6901) from the top: `/kubernetes.io/namespace`.
fn flatten(claims: &Map<String, Value>) -> BTreeMap<String, BTreeSet<String>> {
    let mut flat = BTreeMap::new();
    for (name, value) in claims {
        add(&mut flat, name.clone(), value);
        if let Value::Object(inner) = value {
            flatten_into(&mut flat, &format!("/{}", escaped(name)), inner, 2);
        }
    }
    flat
}

fn flatten_into(flat: &mut BTreeMap<String, BTreeSet<String>>, above: &str, claims: &Map<String, Value>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    for (name, value) in claims {
        let pointer = format!("{above}/{}", escaped(name));
        if let Value::Object(inner) = value {
            flatten_into(flat, &pointer, inner, depth + 1);
        }
        add(flat, pointer, value);
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn add(flat: &mut BTreeMap<String, BTreeSet<String>>, name: String, value: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    let values: BTreeSet<_> = match value {
        Value::Array(items) => items.iter().take(MOST_CLAIMS).filter_map(text).collect(),
        one => text(one).into_iter().collect(),
    };
    if !values.is_empty() && flat.len() < MOST_CLAIMS {
        flat.insert(name, values);
    }
}

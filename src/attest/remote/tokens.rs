//! Tokens that operators issue. What is kept is the digest of each; the token itself is seen when it is shown to whoever issues it, and
//! when it is used.
//!
//! A token is `vkt_ID_SECRET`: a public id, by which it is listed and revoked, and 256 random bits. A plain SHA-256 is enough to keep: what
//! has that much chance in it cannot be guessed from its digest, however fast.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use super::{
    Unproven,
    wire::{now, sha256},
};
use crate::{name::TokenName, peer::Sha256, refresh::own_file};

/// How every token begins, so that scanners of repositories find one that was left there.
pub const PREFIX: &str = "vkt_";
/// Hex digits of an id.
const ID: usize = 16;
/// Nobody remembers for longer where a token is.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// What is revoked or has ended is kept on the list for so long.
const REMEMBERED: u64 = 90 * 86_400;
/// Tokens at one time.
const MOST: usize = 10_000;

/// What there is to know of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// Whom it was issued to: what `token = "NAME"` of a `run-as` compares.
    pub name: String,
    /// Of the whole token, in hex.
    sha256: String,
    /// Seconds since 1970, as all times here.
    pub issued: u64,
    pub expires: u64,
    /// The certificate that it may be used with alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// A token that is to be issued, by its digest.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub id: String,
    pub name: TokenName,
    pub sha256: Sha256,
    pub lifetime: Duration,
    pub certificate: Option<Sha256>,
}

/// Why a token cannot be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("a token's id is 16 hex digits, and no other token's")]
    Id,
    #[error("a token is good for at least a second and at most 366 days")]
    Lifetime,
    #[error("there are 10,000 tokens already: revoke some")]
    TooMany,
    #[error("the tokens cannot be written to disk: {0}")]
    Disk(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    schema: u32,
    tokens: BTreeMap<String, IssuedToken>,
}

const SCHEMA: u32 = 1;

/// All that were issued.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    issued: RwLock<BTreeMap<String, IssuedToken>>,
    /// One writer at a time.
    turn: Mutex<()>,
}

impl Tokens {
    /// Reads what was issued before.
    ///
    /// # Errors
    /// In words, where the file is not what the daemon wrote: rather none than somebody else's.
    pub fn open(file: PathBuf) -> Result<Self, String> {
        let fails = |why: String| format!("the tokens that were issued cannot be read: {} {why}", file.display());
        let issued = match own_file::read(&file).map_err(fails)? {
            None => BTreeMap::new(),
            Some(bytes) => match serde_json::from_slice::<File>(&bytes) {
                Ok(File { schema: SCHEMA, tokens }) => tokens,
                Ok(_) => return Err(fails("is of another version".into())),
                Err(_) => return Err(fails("is not what the daemon wrote".into())),
            },
        };
        Ok(Self { file, issued: RwLock::new(issued), turn: Mutex::default() })
    }

    /// Whose token this is, by its id and name.
    ///
    /// # Errors
    /// It was not issued here, has ended, was revoked, or is bound to a certificate that the caller does not have.
    pub fn check(&self, token: &str, certificate: Option<Sha256>) -> Result<(String, String), Unproven> {
        let digest = sha256(token.as_bytes()).to_string();
        let id = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id);
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let found = issued.get(id);
        // Compared in any case: how long it takes must not tell which ids there are.
        let kept = found.map_or(NOBODYS, |found| found.sha256.as_str());
        let same = verify_slices_are_equal(kept.as_bytes(), digest.as_bytes()).is_ok();
        let Some(found) = found.filter(|_| same) else { return Err(Unproven::TokenUnknown) };
        found.good()?;
        match &found.certificate {
            Some(bound) if certificate.is_none_or(|one| one.to_string() != *bound) => Err(Unproven::TokenOfAnother),
            _ => Ok((id.to_owned(), found.name.clone())),
        }
    }

    /// Is this one still good?
    pub fn recheck(&self, id: &str) -> Result<(), Unproven> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        issued.get(id).ok_or(Unproven::TokenRevoked)?.good()
    }

    /// Issues a token, on disk before it is good.
    pub fn issue(&self, new: &NewToken) -> Result<IssuedToken, BadToken> {
        let NewToken { id, name, sha256, lifetime, certificate } = new;
        if id.len() != ID || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(BadToken::Id);
        }
        if *lifetime > LONGEST || lifetime.as_secs() == 0 {
            return Err(BadToken::Lifetime);
        }
        let issued = IssuedToken {
            name: name.to_string(),
            sha256: sha256.to_string(),
            issued: now(),
            expires: now() + lifetime.as_secs(),
            certificate: certificate.map(|digest| digest.to_string()),
            revoked: None,
        };
        self.change(|tokens| {
            tokens.retain(|_, token| token.expires.max(token.revoked.unwrap_or_default()) + REMEMBERED > now());
            match () {
                () if tokens.contains_key(id) => Err(BadToken::Id),
                () if tokens.len() >= MOST => Err(BadToken::TooMany),
                () => {
                    tokens.insert(id.clone(), issued.clone());
                    Ok(())
                }
            }
        })?;
        Ok(issued)
    }

    /// Revokes by id, or all that were issued to a name, and says which.
    pub fn revoke(&self, id_or_name: &str) -> Result<Vec<String>, BadToken> {
        let mut revoked = Vec::new();
        self.change(|tokens| {
            let is_meant = |id: &str, token: &IssuedToken| id == id_or_name || token.name == id_or_name;
            for (id, token) in tokens.iter_mut().filter(|(id, token)| is_meant(id, token) && token.revoked.is_none()) {
                token.revoked = Some(now());
                revoked.push(id.clone());
            }
            Ok(())
        })?;
        Ok(revoked)
    }

    /// By id, oldest first.
    pub fn list(&self) -> Vec<(String, IssuedToken)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = issued.iter().map(|(id, token)| (id.clone(), token.clone())).collect();
        list.sort_by_key(|(id, token)| (token.issued, id.clone()));
        list
    }

    /// Changes a copy, writes it, and puts it in force.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, IssuedToken>) -> Result<(), BadToken>) -> Result<(), BadToken> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = self.issued.read().unwrap_or_else(PoisonError::into_inner).clone();
        change(&mut tokens)?;
        let file = File { schema: SCHEMA, tokens };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| BadToken::Disk(error.to_string()))?;
        own_file::write(&self.file, &text).map_err(BadToken::Disk)?;
        *self.issued.write().unwrap_or_else(PoisonError::into_inner) = file.tokens;
        Ok(())
    }
}

/// The digest of nothing that is a token.
const NOBODYS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl IssuedToken {
    fn good(&self) -> Result<(), Unproven> {
        match self.revoked {
            Some(_) => Err(Unproven::TokenRevoked),
            None if self.expires <= now() => Err(Unproven::TokenExpired),
            None => Ok(()),
        }
    }

    /// In a word for listings.
    pub fn state(&self) -> &'static str {
        match self.good() {
            Ok(()) => "good",
            Err(Unproven::TokenExpired) => "ended",
            Err(_) => "revoked",
        }
    }

    pub fn issued_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.issued)
    }

    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn tokens() -> (tempfile::TempDir, Tokens) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let tokens = Tokens::open(folder.path().join("tokens.json")).unwrap();
        (folder, tokens)
    }

    fn new(id: &str, token: &str, lifetime: u64, certificate: Option<Sha256>) -> NewToken {
        let lifetime = Duration::from_secs(lifetime);
        NewToken { id: id.into(), name: "ci".parse().unwrap(), sha256: sha256(token.as_bytes()), lifetime, certificate }
    }

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked_and_only_with_its_certificate() {
        let (folder, tokens) = tokens();
        let (id, token) = ("0123456789abcdef", "vkt_0123456789abcdef_AAAA");
        let bound = Sha256([7; 32]);
        tokens.issue(&new(id, token, 60, Some(bound))).unwrap();
        let good = Ok((id.to_owned(), "ci".to_owned()));
        assert_eq!(tokens.check(token, Some(bound)), good);
        assert_eq!(tokens.check(token, None), Err(Unproven::TokenOfAnother));
        assert_eq!(tokens.check(token, Some(Sha256([8; 32]))), Err(Unproven::TokenOfAnother));
        for other in ["vkt_0123456789abcdef_AAAB", "vkt_0123456789abcdee_AAAA", "vkt_", "vkt__", ""] {
            assert_eq!(tokens.check(other, Some(bound)), Err(Unproven::TokenUnknown), "{other}");
        }
        // What is on disk is all of it, and no token.
        let again = Tokens::open(folder.path().join("tokens.json")).unwrap();
        assert_eq!(again.check(token, Some(bound)), good);
        let text = std::fs::read_to_string(folder.path().join("tokens.json")).unwrap();
        assert!(!text.contains("AAAA") && text.contains(&sha256(token.as_bytes()).to_string()));
        assert_eq!(tokens.revoke(id).unwrap(), [id]);
        assert_eq!(tokens.check(token, Some(bound)), Err(Unproven::TokenRevoked));
        assert_eq!(tokens.recheck(id), Err(Unproven::TokenRevoked));
        assert_eq!(tokens.revoke("ci").unwrap(), Vec::<String>::new(), "it is already");
    }

    #[test]
    fn what_may_not_be_issued() {
        let (_folder, tokens) = tokens();
        let token = "vkt_0123456789abcdef_AAAA";
        for id in ["", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdeg", "../../etc/passwd"] {
            assert_eq!(tokens.issue(&new(id, token, 60, None)), Err(BadToken::Id));
        }
        assert_eq!(tokens.issue(&new("0123456789abcdef", token, 0, None)), Err(BadToken::Lifetime));
        assert_eq!(tokens.issue(&new("0123456789abcdef", token, 367 * 86_400, None)), Err(BadToken::Lifetime));
        tokens.issue(&new("0123456789abcdef", token, 1, None)).unwrap();
        assert_eq!(tokens.issue(&new("0123456789abcdef", token, 60, None)), Err(BadToken::Id), "an id is never used again");
        std::thread::sleep(Duration::from_millis(2100));
        assert_eq!(tokens.check(token, None), Err(Unproven::TokenExpired));
    }
}

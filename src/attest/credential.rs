//! systemd, which asks for a credential of a unit that it starts (`LoadCredential=NAME:SOCKET`, systemd.exec(5)).
//!
//! It says for whom in the address that it binds its own end to: NUL, a random number, `/unit/UNIT/NAME`. Any process can bind such a
//! name, so it is a claim. It counts if root connected, and from a process that systemd has put into that very unit already, as it has
//! when it starts one (seen with systemd 252, 257 and 262); or from systemd's own cgroup, where it comes from when a running unit is
//! reloaded (`RefreshOnReload=credentials`, systemd 260). So neither a user, nor a user's manager, nor a service that runs as root can
//! ask in the name of another unit.

use std::os::fd::AsFd;

use rustix::net::{SocketAddrUnix, getpeername};

use super::{Attestor, Caller, Refusal, unit};
use crate::peer::{Changed, Peer, Unit, Witness};

/// systemd, at the start of one unit, asking for one credential.
#[derive(Debug)]
pub struct Asker {
    caller: Caller,
    /// As the caller is, and in the unit that it asks for.
    peer: Peer,
    credential: String,
}

/// Why a caller is not systemd asking for a unit's credential, in the operator's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSystemd {
    #[error("the caller's address names no unit and credential, as systemd's does")]
    Address,
    #[error("it asks for a credential of unit {unit} as uid {uid}, and systemd is root")]
    User { unit: String, uid: u32 },
    #[error("it asks for a credential of unit {unit} from {}", .from.as_ref().map_or("no unit".into(), |from| format!("unit {from}")))]
    Unit { unit: String, from: Option<String> },
    #[error(transparent)]
    Unproven(#[from] Refusal),
}

impl NotSystemd {
    /// A word for machines, that stays the same.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address => "NOT_AN_ADDRESS_OF_SYSTEMD",
            Self::User { .. } => "NOT_ROOT",
            Self::Unit { .. } => "NOT_OF_THE_UNIT",
            Self::Unproven(refusal) => refusal.reason(),
        }
    }
}

impl Asker {
    /// Who connected this accepted stream, if it is systemd.
    ///
    /// # Errors
    /// Whoever else it is.
    pub fn of(stream: &impl AsFd, attestor: &Attestor) -> Result<Self, NotSystemd> {
        // Not what accept(2) returned: mio 1.2 makes no address of an abstract one.
        let address = getpeername(stream.as_fd()).ok().flatten().and_then(|address| SocketAddrUnix::try_from(address).ok());
        let name = address.as_ref().and_then(SocketAddrUnix::abstract_name);
        let (unit, credential) = name.and_then(parse).ok_or(NotSystemd::Address)?;
        let caller = Caller::of(stream, attestor)?;
        let found = caller.peer();
        if found.uid != 0 {
            return Err(NotSystemd::User { unit: unit.into(), uid: found.uid });
        }
        let at = match &found.unit {
            Some(own) if own.name == unit => own.clone(),
            None if caller.is_with_the_manager() => Unit { name: unit.into(), invocation: None, cgroup: 0 },
            other => {
                let from = other.as_ref().map(|own| own.name.clone());
                return Err(NotSystemd::Unit { unit: unit.into(), from });
            }
        };
        let peer = Peer { unit: Some(at), ..found.clone() };
        Ok(Self { caller, peer, credential: credential.into() })
    }

    /// The name of the credential that it asks for.
    pub fn credential(&self) -> &str {
        &self.credential
    }
}

impl Witness for Asker {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn recheck(&self) -> Result<(), Changed> {
        self.caller.recheck().map_err(|refusal| Changed(refusal.to_string()))
    }
}

/// The unit and the credential in `1ed610f1282ff0aa/unit/mcp-billing.service/key`. The number is not padded.
fn parse(address: &[u8]) -> Option<(&str, &str)> {
    let (number, rest) = std::str::from_utf8(address).ok()?.split_once("/unit/")?;
    let (unit, credential) = rest.split_once('/')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let random = matches!(number.len(), 1..=16) && number.bytes().all(hex);
    // `credential_name_valid` of systemd: what may be a file's and a descriptor's name.
    let named = !matches!(credential, "" | "." | "..")
        && credential.len() <= 255
        && credential.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'/' | b':'));
    (random && named && unit::is_unit(unit)).then_some((unit, credential))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_systemd() {
        for (address, unit, credential) in [
            ("1ed610f1282ff0aa/unit/c1.service/foo", "c1.service", "foo"),
            ("0/unit/tmpl@alice.service/foo.key", "tmpl@alice.service", "foo.key"),
            ("b3f83c86a52be7f5/unit/tmpl@a\\x2db-c\\x2fd.service/foo", "tmpl@a\\x2db-c\\x2fd.service", "foo"),
        ] {
            assert_eq!(parse(address.as_bytes()), Some((unit, credential)));
        }
    }

    #[test]
    fn other_addresses() {
        for address in [
            "",
            "1/unit/",
            "1/unit/c1.service",
            "1/unit/c1.service/",
            "1/unit//foo",
            "1/unit/c1.service/foo/bar",
            "1/unit/c1.service/..",
            "1/unit/c1.service/a:b",
            "1/unit/c1.service/a\nb",
            "1/unit/c1/foo",
            "1/unit/c1.slice/foo",
            "1/unit/c1@.service/foo",
            "1/unit/../c1.service/foo",
            "/unit/c1.service/foo",
            "1F/unit/c1.service/foo",
            "10000000000000000/unit/c1.service/foo",
            "1/user/c1.service/foo",
            "1\0/unit/c1.service/foo",
            "\x00001/unit/c1.service/foo",
        ] {
            assert_eq!(parse(address.as_bytes()), None, "{address:?}");
        }
        assert_eq!(parse(b"1/unit/c1.service/\xff"), None);
    }
}

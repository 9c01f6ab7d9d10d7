//! Names, parsed once and valid ever after.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Does this character do something else than stand where it is? Control characters, and those that turn the direction of a line or
/// cannot be seen.
pub fn is_unprintable(c: char) -> bool {
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || hidden
}

/// Why a text is not a name. The text itself is not repeated: what looks like a mistyped name may be a pasted value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct BadName {
    what: &'static str,
    problem: &'static str,
}

fn check(what: &'static str, text: &str, longest: usize, extra: &[u8], upper: bool) -> Result<(), BadName> {
    let bad = |problem| Err(BadName { what, problem });
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || (upper && b.is_ascii_uppercase());
    match text.as_bytes() {
        [] => bad("is empty"),
        bytes if bytes.len() > longest => bad("is too long"),
        [first, ..] if !ok(*first) => bad("must start with a letter or a digit"),
        bytes if bytes.iter().any(|b| !ok(*b) && !extra.contains(b)) => bad("holds a character that names may not have"),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal, $extra:literal, $upper:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check($what, text, $longest, $extra, $upper)?;
                Ok(Self(text.into()))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Names a secret: `stripe/api-key`. Letters, digits and `._/-`, at most 128; so it needs no escaping in JSON, in a log or
    /// in a placeholder.
    SecretName, "a secret's name", 128, b"._/-", true
);
name!(
    /// Names a tool: `billing`. Lower-case letters, digits and `._-`, at most 64.
    ToolName, "a tool's name", 64, b"._-", false
);
name!(
    /// Names a source: `prod`. Lower-case letters, digits and `._-`, at most 64.
    SourceName, "a source's name", 64, b"._-", false
);

name!(
    /// Names an exporter of the audit log: `siem`. Lower-case letters, digits and `._-`, at most 64; so it may be part of a file's name.
    ExporterName, "an exporter's name", 64, b"._-", false
);

name!(
    /// Names an issuer of tokens: `login`. Lower-case letters, digits and `._-`, at most 64.
    IssuerName, "an issuer's name", 64, b"._-", false
);

name!(
    /// Names whom a token was issued to: `ci-runner`. Lower-case letters, digits and `._-`, at most 64.
    TokenName, "a token's name", 64, b"._-", false
);

/// One value of a secret, as its source names it: a version id, a number. At most 128 printable ASCII characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |problem| Err(BadName { what: "a version", problem });
        match text.as_bytes() {
            [] => bad("is empty"),
            bytes if bytes.len() > 128 => bad("is too long"),
            bytes if bytes.iter().any(|b| !b.is_ascii_graphic()) => bad("holds a character that versions may not have"),
            _ => Ok(Self(text.into())),
        }
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a session: 128 random bits, written as 32 hex digits. Not a credential: a session is bound to the process that opened it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// Makes an id of 128 random bits.
    pub fn new(random: [u8; 16]) -> Self {
        Self(u128::from_ne_bytes(random))
    }
}

impl FromStr for SessionId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = BadName { what: "a session's id", problem: "must be 32 hex digits" };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| bad)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_exists_is_valid() {
        for good in ["stripe/api-key", "A", "9", "a.b_c/d-e"] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a b", "a\n", "a:b", "é", "-a", &"a".repeat(129)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("Billing".parse::<ToolName>().is_err());
        assert!("a/b".parse::<ToolName>().is_err());
    }

    #[test]
    fn an_error_does_not_repeat_the_text() {
        let error = "sk_live_51H8 pasted by mistake".parse::<SecretName>().unwrap_err();
        assert!(!error.to_string().contains("sk_live"), "{error}");
    }

    #[test]
    fn a_session_id_reads_back() {
        let id = SessionId::new([7; 16]);
        assert_eq!(id.to_string().parse::<SessionId>().unwrap(), id);
        for bad in ["", "7", "+0000000000000000000000000000007", &"g".repeat(32)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad:?}");
        }
    }
}

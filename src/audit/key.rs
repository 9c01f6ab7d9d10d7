//! The key that seals the log: Ed25519, by aws-lc-rs.
//!
//! What is signed begins with words of its own for each purpose, so that a signature for one can never be shown as another.

use std::{
    fmt,
    fs::OpenOptions,
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::line::{Tip, parse_hex, push_hex};

/// What a signature is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// All records up to here stand as they were written.
    Checkpoint,
    /// The log is no shorter than this.
    Head,
}

/// The private half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// The public half, which is all that verifying takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The first 16 hex digits of the SHA-256 of the public key: which key a signature is by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no key. What happened, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(String);

/// 64 bytes of a signature.
pub type Signature = [u8; 64];

const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// What stands before the 32 bytes of an Ed25519 public key in a SubjectPublicKeyInfo (RFC 8410, 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const TEXT: &str = "ed25519:";

fn message(purpose: Purpose, tip: &Tip, time: &[u8], key: &KeyId) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::Checkpoint => "checkpoint",
        Purpose::Head => "head",
    };
    let time = String::from_utf8_lossy(time);
    format!("valetkey audit {purpose} 1\n{}\n{}\n{time}\n{key}\n", tip.seq, tip.hash).into_bytes()
}

impl SigningKey {
    /// A new key, of the system's random numbers.
    pub fn generate() -> Result<Self, BadKey> {
        let no_numbers = |_| BadKey("the system gives no random numbers to make a signing key of".into());
        Ok(Self::of(Ed25519KeyPair::generate().map_err(no_numbers)?))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey(public) }
    }

    /// Reads a key from a PEM file (PKCS #8, as `openssl genpkey -algorithm ed25519` writes it), which nobody but its owner may read.
    pub fn read(path: &Path) -> Result<Self, BadKey> {
        let bad = |what: String| BadKey(format!("the audit log's signing key {} {what}", path.display()));
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| bad(format!("cannot be read: {error}")))?;
        let facts = file.metadata().map_err(|error| bad(format!("cannot be read: {error}")))?;
        if !facts.is_file() || facts.mode() & 0o077 != 0 {
            return Err(bad("must be a file that its owner alone may read: chmod 600 it".into()));
        }
        let mut pem = Zeroizing::new(String::with_capacity(4096));
        file.take(4096).read_to_string(&mut pem).map_err(|error| bad(format!("cannot be read: {error}")))?;
        let not_a_key = || bad("holds no Ed25519 key in PEM: make one with `openssl genpkey -algorithm ed25519`".into());
        let der = Zeroizing::new(from_pem(PRIVATE, &pem).ok_or_else(not_a_key)?);
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self::of).map_err(|_| not_a_key())
    }

    /// Reads the key of this file, or makes one and writes it there where there is none. A file that is there and bad is never replaced.
    pub fn read_or_make(path: &Path) -> Result<Self, BadKey> {
        match path.try_exists() {
            Ok(false) => {}
            _ => return Self::read(path),
        }
        let key = Self::generate()?;
        match key.write(path) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::read(path),
            Err(error) => Err(BadKey(format!("cannot write the audit log's signing key {}: {error}", path.display()))),
        }
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        // What version 1 of PKCS #8 holds, any tool can read.
        let der = self.pair.to_pkcs8v1().map_err(|_| std::io::Error::other("the key cannot be encoded"))?;
        let pem = Zeroizing::new(to_pem(PRIVATE, der.as_ref()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn sign(&self, purpose: Purpose, tip: &Tip, time: &[u8]) -> Signature {
        let signature = self.pair.sign(&message(purpose, tip, time, &self.public.id()));
        let mut bytes = [0; 64];
        bytes.copy_from_slice(signature.as_ref());
        bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl PublicKey {
    pub fn id(&self) -> KeyId {
        let mut id = Vec::with_capacity(16);
        push_hex(&super::line::hash(&self.0).0[..8], &mut id);
        KeyId(String::from_utf8_lossy(&id).into_owned())
    }

    /// As PEM (SubjectPublicKeyInfo), which other tools read.
    pub fn to_pem(&self) -> String {
        to_pem(PUBLIC, &[&PUBLIC_PREFIX[..], &self.0].concat())
    }

    /// Reads PEM, or `ed25519:` and 64 hex digits.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        let pem = || from_pem(PUBLIC, text)?.strip_prefix(&PUBLIC_PREFIX)?.try_into().ok();
        let key = text.strip_prefix(TEXT).map_or_else(pem, |hex| parse_hex(hex.as_bytes()));
        let wrong = "not a public key: give PEM (BEGIN PUBLIC KEY) of an Ed25519 key, or `ed25519:` and 64 hex digits";
        key.map(Self).ok_or_else(|| BadKey(wrong.into()))
    }

    pub(super) fn has_signed(&self, purpose: Purpose, tip: &Tip, time: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message(purpose, tip, time, &self.id()), signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = Vec::with_capacity(64);
        push_hex(&self.0, &mut hex);
        write!(f, "{TEXT}{}", String::from_utf8_lossy(&hex))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn to_pem(label: &str, der: &[u8]) -> String {
    // Room for a key: growing would leave a copy behind.
    let mut pem = String::with_capacity(256);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let text = Zeroizing::new(STANDARD.encode(der));
    for (at, digit) in text.char_indices() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(digit);
    }
    pem.push('\n');
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn from_pem(label: &str, text: &str) -> Option<Vec<u8>> {
    let rest = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let inner = rest.strip_suffix(&format!("-----END {label}-----"))?;
    let digits: Zeroizing<String> = Zeroizing::new(inner.split_ascii_whitespace().collect());
    STANDARD.decode(digits.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Sha256;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let made = SigningKey::read_or_make(&path).unwrap();
        assert_eq!(SigningKey::read_or_make(&path).unwrap().public(), made.public());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert!(SigningKey::read_or_make(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(SigningKey::read_or_make(&dir.path().join("other")).is_err(), "an empty file is not taken for none");
    }

    #[test]
    fn the_public_half_reads_back_in_both_forms() {
        let public = SigningKey::generate().unwrap().public();
        assert_eq!(PublicKey::parse(&public.to_string()).unwrap(), public);
        assert_eq!(PublicKey::parse(&public.to_pem()).unwrap(), public);
        for bad in ["", "ed25519:", "ed25519:00", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert!(PublicKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_signature_is_for_one_purpose_place_and_time() {
        let key = SigningKey::generate().unwrap();
        let tip = Tip { seq: 7, hash: Sha256([3; 32]) };
        let signature = key.sign(Purpose::Head, &tip, b"now");
        let signed = |purpose, tip: &Tip, time: &[u8]| key.public().has_signed(purpose, tip, time, &signature);
        assert!(signed(Purpose::Head, &tip, b"now"));
        assert!(!signed(Purpose::Checkpoint, &tip, b"now"));
        assert!(!signed(Purpose::Head, &Tip { seq: 8, ..tip }, b"now"));
        assert!(!signed(Purpose::Head, &Tip { hash: Sha256([4; 32]), ..tip }, b"now"));
        assert!(!signed(Purpose::Head, &tip, b"then"));
        assert!(!SigningKey::generate().unwrap().public().has_signed(Purpose::Head, &tip, b"now", &signature));
    }

    #[test]
    fn what_is_printed_of_a_signing_key_is_its_id() {
        let key = SigningKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().id()));
    }
}

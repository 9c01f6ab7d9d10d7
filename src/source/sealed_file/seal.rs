//! The age part: what is sealed to recipients, and opened with an identity. And the [`Seal`] of one who is both.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    iter,
};

use age::x25519::Recipient;
use aws_lc_rs::hmac;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Identity;
use crate::{secret::SecretValue, source::SourceError};

/// Seals to these recipients, of which there must be one at least. What it buffers is age's own, and wiped by the allocator.
pub(super) fn seal(plain: &[u8], recipients: &[Recipient], to: impl Write) -> io::Result<()> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let seal = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let mut sealing = seal.wrap_output(to)?;
    sealing.write_all(plain)?;
    sealing.finish().map(drop)
}

/// Opens what is sealed to this identity; in words, why not.
pub(super) fn unseal(sealed: &[u8], identity: &Identity) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    use age::DecryptError::{DecryptionFailed, InvalidMac, NoMatchingKeys};
    let words = |error| match error {
        NoMatchingKeys => "is sealed to another key than this identity, or damaged",
        InvalidMac | DecryptionFailed => "has been changed or is damaged: restore it",
        _ => "is not a file that age made, or is cut off: restore it",
    };
    let opened = age::Decryptor::new_buffered(sealed).map_err(words)?;
    let mut opened = opened.decrypt(iter::once(&identity.0 as &dyn age::Identity)).map_err(words)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len() + 1));
    opened.read_to_end(&mut plain).map_err(|_| "has been changed or is damaged: restore it")?;
    Ok(plain)
}

/// Seals what only the holder of the same identity will open, and proves to it who sealed. Age does not: whoever knows the recipient
/// can seal something else to it.
///
/// It is a line `valetkey-sealed-1 MAC`, and then what age makes. The MAC is HMAC-SHA-256, over the bytes that follow the line, by a key
/// made from the identity. With a `Seal` nothing can be opened: the identity need not stay in memory.
pub struct Seal {
    recipient: Recipient,
    key: SecretValue,
}

const HEAD: &[u8] = b"valetkey-sealed-1 ";
const MAC: usize = 64;

impl Seal {
    pub fn of(identity: &Identity) -> Result<Self, SourceError> {
        Ok(Self { recipient: identity.0.to_public(), key: SecretValue::copy_from(key(identity).as_ref())? })
    }

    pub fn close(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 1000 + 1024);
        seal(plain, std::slice::from_ref(&self.recipient), &mut sealed)?;
        let mac = self.key.expose(|key| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &sealed));
        let mut line = String::with_capacity(HEAD.len() + MAC + 1);
        mac.as_ref().iter().for_each(|byte| _ = write!(line, "{byte:02x}"));
        Ok([HEAD, line.as_bytes(), b"\n", &sealed].concat())
    }

    /// Opens what a seal of this identity closed; in words, why not. Nothing that anybody else made is even parsed.
    pub fn open(identity: &Identity, closed: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        const NOT_OURS: &str = "is not what a daemon with this identity wrote: it is damaged, or another's";
        let rest = closed.strip_prefix(HEAD).ok_or(NOT_OURS)?;
        let (mac, rest) = rest.split_at_checked(MAC).ok_or(NOT_OURS)?;
        let mac = unhex(mac).ok_or(NOT_OURS)?;
        let sealed = rest.strip_prefix(b"\n").ok_or(NOT_OURS)?;
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key(identity).as_ref()), sealed, &mac).map_err(|_| NOT_OURS)?;
        unseal(sealed, identity)
    }
}

/// Tells nothing about the identity, and nothing that was made otherwise has it.
fn key(identity: &Identity) -> hmac::Tag {
    let text = identity.0.to_string();
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, text.expose_secret().as_bytes()), b"valetkey-sealed-1")
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_identity_sealed_is_opened() {
        let identity = Identity(age::x25519::Identity::generate());
        let other = Identity(age::x25519::Identity::generate());
        let closed = Seal::of(&identity).unwrap().close(b"the content").unwrap();
        assert_eq!(&**Seal::open(&identity, &closed).unwrap(), b"the content");
        assert!(Seal::open(&other, &closed).is_err());
        for cut in 0..closed.len() {
            assert!(Seal::open(&identity, &closed[..cut]).is_err(), "cut off at {cut}");
        }
        for at in 0..closed.len() {
            let mut changed = closed.clone();
            changed[at] ^= 1;
            assert!(Seal::open(&identity, &changed).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn who_knows_the_recipient_cannot_make_one() {
        let identity = Identity(age::x25519::Identity::generate());
        let mut forged = Vec::new();
        seal(b"forged", &[identity.0.to_public()], &mut forged).unwrap();
        assert!(unseal(&forged, &identity).is_ok(), "age alone takes it");
        let closed = Seal::of(&identity).unwrap().close(b"the content").unwrap();
        let head = &closed[..HEAD.len() + MAC + 1];
        assert!(Seal::open(&identity, &[head, &forged].concat()).is_err());
        assert!(Seal::open(&identity, &forged).is_err());
    }
}

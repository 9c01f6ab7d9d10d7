//! A secret in this process.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::Error;
use crate::{proto::v1, secret::SecretValue};

/// One version of a secret, in protected memory, wiped when the last clone is dropped. There is no `Debug` and no `Display`: it
/// cannot end up in a log by accident.
///
/// ```compile_fail,E0277
/// # fn log(secret: valetkey::client::Secret) {
/// println!("{secret:?}");
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # fn log(secret: valetkey::client::Secret) {
/// println!("{secret}");
/// # }
/// ```
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    name: String,
    version: String,
    value: SecretValue,
}

impl Secret {
    /// Takes the value out of the message, and wipes the message.
    pub(super) fn take(message: v1::Secret) -> Result<Self, Error> {
        let v1::Secret { name, version, value, .. } = message;
        let value = SecretValue::copy_from_wiping(value);
        let value = value.map_err(|error| Error::Unavailable { message: error.to_string(), retry_after: None })?;
        Ok(Self(Arc::new(Inner { name, version, value })))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// As the source names it.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    #[cfg(feature = "run")]
    pub(crate) fn value(&self) -> &SecretValue {
        &self.0.value
    }

    /// Sources may give one version to two values.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.version() == other.version() && self.0.value.same_as(&other.0.value)
    }

    /// Lends the bytes. What is copied out is no longer protected: wipe it.
    pub fn expose<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        self.0.value.expose(look)
    }

    /// A copy as text that is wiped when dropped, for libraries that want a `&str` for longer.
    ///
    /// # Errors
    /// Where the bytes are not UTF-8.
    pub fn to_text(&self) -> Result<Zeroizing<String>, std::str::Utf8Error> {
        self.expose(|bytes| std::str::from_utf8(bytes).map(|text| Zeroizing::new(text.into())))
    }
}

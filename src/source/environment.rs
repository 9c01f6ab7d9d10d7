//! Secrets that the daemon itself was given in its environment: for containers, and for a first try. Anything else here is better.

use std::{collections::HashMap, ffi::CStr};

use zeroize::Zeroize;

use super::{Cause, Fetched, Outcomes, Source, SourceError, Wanted, Working, field};
use crate::{name::Version, secret::SecretValue};

/// What the daemon found in its environment as it started, see [`take_from_environment`].
pub struct Settings {
    /// Values by the variable's name, which is what [`Wanted::path`] means here.
    pub values: HashMap<String, SecretValue>,
}

/// The environment the daemon was started with. It does not change, so every version is `1`.
pub struct Environment {
    values: HashMap<String, SecretValue>,
}

impl Environment {
    /// Holds the captured values. Does not look at the process environment.
    pub fn new(settings: Settings) -> Self {
        Self { values: settings.values }
    }

    fn read(&self, wanted: &Wanted) -> Result<Fetched, SourceError> {
        let missing =
            || SourceError::new(Cause::NotFound, format!("the daemon was started without ${} in its environment", wanted.path));
        let value = self.values.get(&wanted.path).ok_or_else(missing)?;
        let value = value.expose(|bytes| field::pick(bytes, wanted.field.as_deref()))?;
        Ok(Fetched { value, version: Version::from(1), check_within: None })
    }
}

impl Source for Environment {
    fn kind(&self) -> &'static str {
        "environment"
    }

    fn changes(&self) -> bool {
        false
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            for wanted in wanted {
                let _ = outcomes.send((wanted.secret.clone(), self.read(wanted)));
            }
        })
    }
}

/// Takes a variable out of the process: reads its value, overwrites it where it stands, and unsets it.
///
/// Unsetting alone would leave the value in the block that the kernel gave the process at its start, where `/proc/PID/environ`
/// shows it to everyone who may trace the process, for as long as it lives (proc_pid_environ(5)). `None` where there is no such
/// variable, or no memory for it; the variable is gone in either case.
///
/// # Safety
///
/// No other thread may exist that could read or change the environment: call it first thing in `main`. And nothing may still hold a
/// pointer into the environment (`getenv`).
pub unsafe fn take_from_environment(name: &str) -> Option<SecretValue> {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    let mut taken = None;
    // SAFETY: `environ` is null or points to pointers to C strings, the last of them null (environ(7)), and by our contract nobody
    // changes them meanwhile. The strings are writable: the kernel puts them on the stack, and libc on the heap.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let length = CStr::from_ptr(*entry).count_bytes();
            let text = std::slice::from_raw_parts_mut((*entry).cast::<u8>(), length);
            if text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")) {
                // The first of several is the one that counts, as for getenv(3). All are wiped.
                let value = &mut text[name.len() + 1..];
                taken.get_or_insert_with(|| SecretValue::copy_from(value).ok());
                value.zeroize();
            }
            entry = entry.add(1);
        }
        if taken.is_some() {
            #[expect(clippy::disallowed_methods, reason = "the value itself is overwritten above")]
            std::env::remove_var(name);
        }
    }
    taken.flatten()
}

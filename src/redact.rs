//! The value-keyed redactor: it knows every value the daemon holds, in every form a value is likely to be printed in, and
//! puts `[redacted:NAME]` in its place.
//!
//! It looks for values, not for what looks like a secret: it finds a password that no rule would, and leaves alone a hash
//! that every rule would take. It holds none of the values ([`engine`]). What it cannot find: a value that was compressed,
//! encrypted, hashed, reversed or cut into pieces, and values of fewer than eight bytes.

#[doc(hidden)]
pub mod bench;
mod engine;
#[cfg(feature = "daemon")]
pub mod lines;
#[cfg(feature = "daemon")]
pub mod log;
mod variants;
mod views;

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    name::{SecretName, Version},
    secret::SecretValue,
};
use engine::{Crowd, Engine, Found, Keys, Owner, Prints, Table};
pub use variants::Form;
use views::View;

/// Layers of backslashes, and of percent-encoding, that are taken off a text in search of a value.
const BACKSLASH_LAYERS: usize = 4;
const PERCENT_LAYERS: usize = 2;

/// Finds the values of secrets in text, and takes them out. A cheap handle: clones share what they know.
#[derive(Clone)]
pub struct Redactor {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Keys,
    /// Held while a new engine is made, so that no addition is lost. Scans do not wait for it.
    known: Mutex<Known>,
    /// Swapped whole, and locked for no longer than that takes: a log line never waits for a table to be built.
    engine: RwLock<Arc<Engine>>,
}

#[derive(Default)]
struct Known {
    /// A source may give one version id to two values: both stay known.
    versions: HashMap<(SecretName, Version), Vec<KnownValue>>,
    next_id: u64,
    crowd: Crowd,
}

struct KnownValue {
    id: u64,
    digest: [u64; 2],
    learned: Learned,
}

/// What came of learning a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a value that is too short will not be redacted: tell the operator which secret it is, by name"]
pub struct Learned {
    /// The value, or every line of it, has fewer than eight bytes and will not be found in the clear: redacting it would
    /// take ordinary words out of ordinary text.
    pub too_short: bool,
}

impl Redactor {
    /// A redactor that knows nothing yet. Fails where the kernel gives no random bytes for its key.
    pub fn new() -> io::Result<Self> {
        let shared = Shared { keys: Keys::random()?, known: Mutex::default(), engine: RwLock::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Knows this version of the secret from now on, beside its others. Learning it again changes nothing.
    pub fn learn(&self, name: &SecretName, version: &Version, value: &SecretValue) -> Learned {
        self.learn_all([(name, version, value)])[0]
    }

    /// Learns many values at the price of one table. The answers come in the order of the values.
    pub fn learn_all<'v>(
        &self,
        values: impl IntoIterator<Item = (&'v SecretName, &'v Version, &'v SecretValue)>,
    ) -> Vec<Learned> {
        let keys = &self.shared.keys;
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        let (mut new, mut answers) = (Vec::new(), Vec::new());
        for (name, version, value) in values {
            let id = known.next_id;
            let digest = value.expose(|bytes| keys.tag(bytes));
            let versions = known.versions.entry((name.clone(), version.clone())).or_default();
            if let Some(same) = versions.iter().find(|one| one.digest == digest) {
                answers.push(same.learned);
                continue;
            }
            let (prints, learned) = value.expose(|bytes| prints(keys, &mut known.crowd, bytes));
            versions.push(KnownValue { id, digest, learned });
            known.next_id += 1;
            new.push((Owner { id, name: name.clone(), version: version.clone() }, prints));
            answers.push(learned);
        }
        if new.iter().any(|(_, prints)| !prints.is_empty()) {
            let next = self.engine().with(Table::build(new));
            self.publish(next);
        }
        answers
    }

    /// Forgets a version that nobody can have any more. Until then a retired one is redacted like the current.
    pub fn forget(&self, name: &SecretName, version: &Version) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = known.versions.remove(&(name.clone(), version.clone())) else { return };
        let next = self.engine().without(&gone.iter().map(|one| one.id).collect());
        self.publish(next);
    }

    /// The text with every known value replaced by `[redacted:NAME]`; the text itself where there is none.
    ///
    /// A form cannot span a newline; a text that was cut elsewhere may hide a value in the cut, so hand in whole lines.
    pub fn redact<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let engine = self.engine();
        let found = union(find(&engine, &self.shared.keys, text));
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = Vec::with_capacity(text.len());
        let mut from = 0;
        for Found { range, owner, .. } in found {
            clean.extend_from_slice(&text[from..range.start]);
            clean.extend_from_slice(format!("[redacted:{}]", owner.name).as_bytes());
            from = range.end;
        }
        clean.extend_from_slice(&text[from..]);
        Cow::Owned(clean)
    }

    /// [`redact`](Self::redact) for text. Where a binary value ended within a character, what is left of it becomes U+FFFD.
    pub fn redact_str<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(clean) => Cow::Owned(String::from_utf8_lossy(&clean).into_owned()),
        }
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.shared.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, next: Engine) {
        let next = Arc::new(next);
        let last = std::mem::replace(&mut *self.shared.engine.write().unwrap_or_else(PoisonError::into_inner), next);
        // Wiping the tables takes a while: not under the lock.
        drop(last);
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// What finds the value in any of its forms.
fn prints(keys: &Keys, crowd: &mut Crowd, value: &[u8]) -> (Prints, Learned) {
    let mut prints = Prints::default();
    let in_clear = variants::each(value, &mut |kind, form| keys.print(kind, form, crowd, &mut prints));
    (prints, Learned { too_short: !in_clear })
}

/// Every find in the text as it stands and with its escapes taken off, layer by layer, in terms of the text as it stands.
fn find<'e>(engine: &'e Engine, keys: &Keys, text: &[u8]) -> Vec<Found<'e>> {
    let mut found = Vec::new();
    let mut layers: Vec<View> = Vec::new();
    loop {
        let here = layers.last().map_or(text, |view| &view.bytes);
        let below = (layers.len() < BACKSLASH_LAYERS).then(|| View::backslash(here)).flatten();
        let mut at_layer = Vec::new();
        engine.scan(keys, here, &mut at_layer);
        find_percent(engine, keys, here, PERCENT_LAYERS, &mut at_layer);
        for Found { mut range, owner, form } in at_layer {
            // In the text itself an escape is one; what looks like one further down may be the value's own backslash.
            if let (true, Some(view)) = (layers.is_empty(), &below) {
                range = view.whole(range);
            }
            range = layers.iter().rev().fold(range, |range, view| view.source(range));
            found.push(Found { range, owner, form: form.seen_through(!layers.is_empty(), Form::Escaped) });
        }
        match below {
            Some(view) => layers.push(view),
            None => return found,
        }
    }
}

fn find_percent<'e>(engine: &'e Engine, keys: &Keys, text: &[u8], layers: usize, found: &mut Vec<Found<'e>>) {
    let Some(view) = (layers > 0).then(|| View::percent(text)).flatten() else { return };
    let mut inside = Vec::new();
    engine.scan(keys, &view.bytes, &mut inside);
    find_percent(engine, keys, &view.bytes, layers - 1, &mut inside);
    let outside =
        |one: Found<'e>| Found { range: view.source(one.range), form: one.form.seen_through(true, Form::Percent), ..one };
    found.extend(inside.into_iter().map(outside));
}

/// Finds that overlap become one: to pick the longest of them would leave the end of another in the clear. It has the name
/// of the longest, and among equals of the one learned first. Pieces of one secret that touch are one as well.
fn union(mut found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    found.sort_by_key(|one| (one.range.start, Reverse(one.range.end), one.owner.id));
    let mut all: Vec<(Found<'_>, usize)> = Vec::new();
    for one in found {
        let len = one.range.len();
        match all.last_mut() {
            Some((last, longest))
                if one.range.start < last.range.end
                    || (one.range.start == last.range.end && one.owner.name == last.owner.name) =>
            {
                last.range.end = last.range.end.max(one.range.end);
                if len > *longest {
                    (last.owner, last.form, *longest) = (one.owner, one.form, len);
                }
            }
            _ => all.push((one, len)),
        }
    }
    all.into_iter().map(|(one, _)| one).collect()
}

#[cfg(test)]
mod tests;

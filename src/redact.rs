//! The value-keyed redactor: it knows every value the daemon holds, in every form a value is likely to be printed in, and
//! puts `[redacted:NAME]` in its place.
//!
//! It looks for values, not for what looks like a secret: it finds a password that no rule would, and leaves alone a hash
//! that every rule would take. It holds none of the values ([`engine`]). What it cannot find: a value that was compressed,
//! encrypted, hashed, reversed or cut into pieces, and values of fewer than eight bytes.
//!
//! [`Redactor::clean`] is for a text that is all there, [`Redactor::stream`] for one that comes in pieces.

#[doc(hidden)]
pub mod bench;
mod engine;
mod find;
mod hits;
mod json;
#[cfg(feature = "daemon")]
pub mod lines;
#[cfg(feature = "daemon")]
pub mod log;
mod shapes;
mod stream;
mod variants;
mod views;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt, io,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    name::{SecretName, Version},
    secret::{SecretValue, wipe_stack},
};
use engine::{Crowd, Engine, Keys, Owner, Prints, Table};
use find::{Finder, Held};
pub use hits::Hit;
use hits::Hits;
use stream::Gathered;
pub use stream::{LineTooLong, MOST_HELD, Passed, Stream};
pub use variants::Form;

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
    tables: RwLock<Tables>,
}

#[derive(Clone)]
struct Tables {
    engine: Arc<Engine>,
    held: Arc<Held>,
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
    /// The value, or every line of it, has fewer than eight bytes or is a word such as `password`, and will not be found in
    /// the clear: redacting it would take ordinary words out of ordinary text.
    pub too_short: bool,
    /// The value is digits and nothing else. It is redacted, as it may be a real account number; but so is any other number
    /// that holds the same digits.
    pub digits_only: bool,
}

/// What is asked of a redactor beside its values.
#[derive(Clone, Default)]
pub struct Wanted {
    /// Takes out what has the shape of a well-known kind of key, too.
    pub shapes: bool,
    /// Tells in which line of the text each find is.
    pub lines: bool,
    /// Which secrets may be named in the text; the others become `[redacted]`. All, if absent.
    pub named: Option<Named>,
}

/// Says whether a secret may be named.
pub type Named = Arc<dyn Fn(&SecretName) -> bool + Send + Sync>;

impl Redactor {
    /// A redactor that knows nothing yet. Fails where the kernel gives no random bytes for its key.
    pub fn new() -> io::Result<Self> {
        Self::holding(Held::Longest)
    }

    /// One whose streams pass on all but what may be the start of a value. For this it holds the patterns in the clear, in
    /// protected memory: only for a process whose tool has the same secrets.
    pub fn streaming() -> io::Result<Self> {
        Self::holding(Gathered::default().sorted().map_or(Held::Longest, Held::Prefixes))
    }

    fn holding(held: Held) -> io::Result<Self> {
        let tables = Tables { engine: Arc::default(), held: Arc::new(held) };
        let shared = Shared { keys: Keys::random()?, known: Mutex::default(), tables: RwLock::new(tables) };
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
        let mut tables = self.tables();
        let mut gathered = matches!(*tables.held, Held::Prefixes(_)).then(Gathered::default);
        for (name, version, value) in values {
            let id = known.next_id;
            let digest = value.expose(|bytes| keys.tag(bytes));
            let versions = known.versions.entry((name.clone(), version.clone())).or_default();
            if let Some(same) = versions.iter().find(|one| one.digest == digest) {
                answers.push(same.learned);
                continue;
            }
            let (prints, learned) = value.expose(|bytes| prints(keys, &mut known.crowd, bytes, id, &mut gathered));
            versions.push(KnownValue { id, digest, learned });
            known.next_id += 1;
            new.push((Owner { id, name: name.clone(), version: version.clone() }, prints));
            answers.push(learned);
        }
        if new.iter().any(|(_, prints)| !prints.is_empty()) {
            tables.engine = Arc::new(tables.engine.with(Table::build(new)));
            if let Some(gathered) = gathered {
                tables.held = Arc::new(tables.held.changed(gathered, &HashSet::new()));
            }
            self.publish(tables);
        }
        wipe_stack();
        answers
    }

    /// Forgets a version that nobody can have any more. Until then a retired one is redacted like the current.
    pub fn forget(&self, name: &SecretName, version: &Version) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = known.versions.remove(&(name.clone(), version.clone())) else { return };
        let gone = gone.iter().map(|one| one.id).collect();
        let mut tables = self.tables();
        tables.engine = Arc::new(tables.engine.without(&gone));
        tables.held = Arc::new(tables.held.changed(Gathered::default(), &gone));
        self.publish(tables);
    }

    /// The text with every known value replaced by `[redacted:NAME]`; the text itself where there is none.
    ///
    /// A form cannot span a newline; a text that was cut elsewhere may hide a value in the cut, so hand in whole lines.
    pub fn redact<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        self.redact_and_tell(text).text
    }

    /// [`redact`](Self::redact), and what was found.
    pub fn redact_and_tell<'t>(&self, text: &'t [u8]) -> Passed<'t> {
        let tables = self.tables();
        let found = find::union(self.finder(&tables, false).find(text).found, &|_| true);
        if found.is_empty() {
            return Passed { text: Cow::Borrowed(text), hits: Vec::new() };
        }
        let (mut clean, mut hits) = (Vec::with_capacity(text.len()), Hits::default());
        let mut from = 0;
        for one in found {
            hits.count(&one, 0);
            clean.extend_from_slice(&text[from..one.range.start]);
            hits::placeholder(one.owner, true, &mut clean);
            from = one.range.end;
        }
        clean.extend_from_slice(&text[from..]);
        Passed { text: Cow::Owned(clean), hits: hits.into_list() }
    }

    /// A text that is all there, treated as a [`stream`](Self::stream) would: lines of JSON stay JSON, and what was found is
    /// told. Fails on a line of JSON that is longer than [`MOST_HELD`].
    pub fn clean<'t>(&self, text: &'t [u8], wanted: Wanted) -> Result<Passed<'t>, LineTooLong> {
        self.stream(wanted).clean(text)
    }

    /// Takes the values out of a text that comes in pieces. One stream for each channel: what is held of one must not be
    /// joined with another.
    pub fn stream(&self, wanted: Wanted) -> Stream {
        Stream::new(self.clone(), wanted)
    }

    /// [`redact`](Self::redact) for text. Where a binary value ended within a character, what is left of it becomes U+FFFD.
    pub fn redact_str<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(clean) => Cow::Owned(String::from_utf8_lossy(&clean).into_owned()),
        }
    }

    fn tables(&self) -> Tables {
        self.shared.tables.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finder<'e>(&'e self, tables: &'e Tables, shapes: bool) -> Finder<'e> {
        Finder { engine: &tables.engine, keys: &self.shared.keys, shapes, goes_on: None }
    }

    fn publish(&self, next: Tables) {
        let last = std::mem::replace(&mut *self.shared.tables.write().unwrap_or_else(PoisonError::into_inner), next);
        // Wiping the tables takes a while: not under the lock.
        drop(last);
    }

    #[cfg(test)]
    fn engine(&self) -> Arc<Engine> {
        self.tables().engine
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// What finds the value in any of its forms.
fn prints(keys: &Keys, crowd: &mut Crowd, value: &[u8], id: u64, gathered: &mut Option<Gathered>) -> (Prints, Learned) {
    let mut prints = Prints::default();
    let in_clear = variants::each(value, &mut |kind, form| {
        keys.print(kind, form, crowd, &mut prints);
        gathered.iter_mut().for_each(|gathered| gathered.add(id, form));
    });
    let digits_only = in_clear && value.trim_ascii().iter().all(u8::is_ascii_digit);
    (prints, Learned { too_short: !in_clear, digits_only })
}

#[cfg(test)]
mod tests;

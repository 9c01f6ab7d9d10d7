//! What stands in the copy before it is sealed: a line of JSON about all of it, then for each secret a line of JSON, the bytes of its
//! value as they are, and a line's end.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    name::{SecretName, SourceName, Version},
    secret::SecretValue,
    store::{Moment, Stamp},
};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Dates are milliseconds since 1970.
    written: u64,
}

/// What is known of a value. No part of it is secret.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    secret: String,
    source: String,
    place: String,
    version: String,
    confirmed: u64,
    bytes: usize,
}

impl Facts {
    pub fn new(
        secret: &SecretName,
        source: &SourceName,
        place: &str,
        version: &str,
        confirmed: SystemTime,
        bytes: usize,
    ) -> Self {
        let (secret, source) = (secret.to_string(), source.to_string());
        Self { secret, source, place: place.into(), version: version.into(), confirmed: millis(confirmed), bytes }
    }
}

/// What a file held.
pub struct Content {
    written: SystemTime,
    pub secrets: BTreeMap<SecretName, Entry>,
}

/// A value in the file, and the line about it.
pub struct Entry {
    facts: Facts,
    value: SecretValue,
}

/// A value from the copy, of the place that is wanted and fresh enough to be used.
#[derive(Debug)]
pub struct Kept {
    pub version: Version,
    pub value: SecretValue,
    pub confirmed: Stamp,
}

impl Kept {
    pub fn age(&self) -> Duration {
        Moment::now().since(self.confirmed.moment)
    }
}

fn millis(date: SystemTime) -> u64 {
    let since = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn date(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A content with nothing in it yet.
pub fn begin(written: SystemTime) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(64 * 1024));
    append_line(&mut plain, &Head { version: VERSION, written: millis(written) });
    plain
}

pub fn add(plain: &mut Zeroizing<Vec<u8>>, facts: &Facts, value: &[u8]) {
    append_line(plain, facts);
    append(plain, value);
    append(plain, b"\n");
}

fn append_line(plain: &mut Zeroizing<Vec<u8>>, facts: &impl Serialize) {
    // Texts and numbers can always be written.
    append(plain, &serde_json::to_vec(facts).unwrap_or_default());
    append(plain, b"\n");
}

/// A vector that grows by itself leaves its outgrown place as it was. Here that is wiped.
fn append(plain: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if plain.capacity() - plain.len() < bytes.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((plain.len() + bytes.len()) * 2));
        larger.extend_from_slice(plain);
        *plain = larger;
    }
    plain.extend_from_slice(bytes);
}

impl Content {
    pub fn parse(plain: &[u8]) -> Option<Self> {
        let (head, mut rest) = line::<Head>(plain)?;
        (head.version == VERSION).then_some(())?;
        let mut content = Self { written: date(head.written)?, secrets: BTreeMap::new() };
        while !rest.is_empty() {
            let (facts, after) = line::<Facts>(rest)?;
            let (value, after) = after.split_at_checked(facts.bytes)?;
            rest = after.strip_prefix(b"\n")?;
            let value = SecretValue::copy_from(value).ok()?;
            content.secrets.insert(facts.secret.parse().ok()?, Entry { facts, value });
        }
        Some(content)
    }

    /// The same again, as of the same time.
    pub fn plain(&self) -> Zeroizing<Vec<u8>> {
        let mut plain = begin(self.written);
        self.secrets.values().for_each(|entry| entry.value.expose(|value| add(&mut plain, &entry.facts, value)));
        plain
    }

    /// The value of a secret, if it came from this place and its source confirmed it within `most`. A date that is yet to come says
    /// that the clock was set back: nobody knows how long ago it was, so it is stale. The age by the date becomes one by the clock that
    /// nobody can set.
    pub fn take(
        &mut self,
        secret: &SecretName,
        source: &SourceName,
        place: &str,
        most: Duration,
        now: SystemTime,
    ) -> Option<Kept> {
        now.duration_since(self.written).ok()?;
        let of_it = |entry: &Entry| entry.facts.source == source.as_str() && entry.facts.place == place;
        let confirmed = self.secrets.get(secret).filter(|entry| of_it(entry)).and_then(|entry| date(entry.facts.confirmed))?;
        let age = now.duration_since(confirmed).ok().filter(|age| *age <= most)?;
        let Entry { facts, value } = self.secrets.remove(secret)?;
        let confirmed = Stamp { moment: Moment::now().before(age), date: confirmed };
        Some(Kept { version: facts.version.parse().ok()?, value, confirmed })
    }
}

/// The line at the start, and what follows it.
fn line<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<(T, &'a [u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&text[..end]).ok()?, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn content(confirmed: SystemTime, written: SystemTime) -> Content {
        let (secret, source) = ("a/key".parse().unwrap(), "prod".parse().unwrap());
        let mut plain = begin(written);
        for value in [&b"old"[..], b"with\nlines {}\n", &[0; 100_000]] {
            add(&mut plain, &Facts::new(&secret, &source, "there", "7", confirmed, value.len()), value);
        }
        let content = Content::parse(&plain).unwrap();
        assert_eq!(Content::parse(&content.plain()).unwrap().secrets.len(), 1);
        content
    }

    fn taken(content: &mut Content, source: &str, place: &str, now: SystemTime) -> Option<Kept> {
        content.take(&"a/key".parse().unwrap(), &source.parse().unwrap(), place, HOUR, now)
    }

    #[test]
    fn what_is_written_is_read_and_as_old_as_it_is() {
        let now = SystemTime::now();
        let confirmed = now - HOUR / 2;
        let kept = taken(&mut content(confirmed, now), "prod", "there", now).unwrap();
        assert_eq!((kept.version.as_str(), kept.value.len()), ("7", 100_000));
        assert!((1800..1802).contains(&kept.age().as_secs()), "{:?}", kept.age());
        assert!(confirmed.duration_since(kept.confirmed.date).unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn of_another_place_or_stale_or_from_the_future_is_nothing() {
        let now = SystemTime::now();
        for (source, place) in [("prod", "elsewhere"), ("other", "there")] {
            assert!(taken(&mut content(now, now), source, place, now).is_none(), "{source} {place}");
        }
        assert!(taken(&mut content(now - HOUR * 2, now), "prod", "there", now).is_none(), "stale");
        assert!(taken(&mut content(now + HOUR, now), "prod", "there", now).is_none(), "confirmed in the future");
        assert!(taken(&mut content(now - HOUR / 2, now), "prod", "there", now - HOUR / 4).is_none(), "the clock was set back");
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_not_read() {
        let plain = content(SystemTime::now(), SystemTime::now()).plain();
        let whole = plain.len();
        for end in [0, 1, 10, 40, 100, whole - 2, whole - 1] {
            assert!(Content::parse(&plain[..end]).is_none_or(|content| content.secrets.is_empty()), "{end}");
        }
        assert!(Content::parse(b"{\"version\":2,\"written\":1}\n").is_none());
    }
}

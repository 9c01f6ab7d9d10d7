//! Who on the network gets a connection: so many from one address, so many by one name, and for a while none from where everything fails.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    limits::{Meter, Rate},
    peer::Seat,
};

/// Whom a caller's address counts for: of IPv6 the network of a host, which may have as many addresses as it likes (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into())),
            v4 => Self(v4),
        }
    }
}

/// Places that are counted by something.
#[derive(Debug)]
pub struct Counted<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Counted<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq + Clone> Counted<K> {
    /// One more, where there are fewer than `most`.
    pub fn take(&self, key: K, most: usize) -> Option<Taken<K>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(&key).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        all.insert(key.clone(), count + 1);
        Some(Taken { all: self.clone(), key })
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Taken<K: Hash + Eq + Clone> {
    all: Counted<K>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Taken<K> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

/// By address and by name.
#[derive(Debug, Clone, Default)]
pub struct RemotePlaces {
    pub origins: Counted<Origin>,
    pub seats: Counted<Seat>,
}

/// Handshakes and logins that failed, by where they came from.
#[derive(Debug, Clone)]
pub struct Failures {
    per_minute: u32,
    since: Instant,
    meters: Arc<Mutex<BTreeMap<Origin, Arc<Meter>>>>,
}

/// Addresses that are told apart. Where more fail, those that were quiet for a minute are forgotten, and then no more are counted: a flood
/// from everywhere is met by the bound on handshakes at one time.
const MOST: usize = 16_384;
const MINUTE: Duration = Duration::from_secs(60);

impl Failures {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, since: Instant::now(), meters: Arc::default() }
    }

    fn rate(&self) -> Rate {
        Rate::new(self.per_minute, MINUTE, self.per_minute)
    }

    pub fn add(&self, address: IpAddr) {
        let (now, origin) = (self.since.elapsed(), Origin::from(address));
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= MOST && !meters.contains_key(&origin) {
            meters.retain(|_, meter| !meter.is_full(now));
            if meters.len() >= MOST {
                return;
            }
        }
        // What is owed is a minute at most: whoever stops is heard again.
        meters.entry(origin).or_default().charge(&self.rate(), 1, MINUTE, now);
    }

    /// Has this address failed too often to be heard now?
    pub fn too_many(&self, address: IpAddr) -> bool {
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(meter) = meters.get(&Origin::from(address)) else { return false };
        !meter.charge(&self.rate(), 0, MINUTE, self.since.elapsed()).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin_and_a_mapped_address_is_ipv4() {
        assert_eq!(Origin::from(ip("2001:db8:1:2::1")), Origin::from(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(Origin::from(ip("2001:db8:1:2::1")), Origin::from(ip("2001:db8:1:3::1")));
        assert_eq!(Origin::from(ip("::ffff:192.0.2.1")), Origin::from(ip("192.0.2.1")));
        assert_ne!(Origin::from(ip("192.0.2.1")), Origin::from(ip("192.0.2.2")));
    }

    #[test]
    fn places_are_given_back() {
        let places = Counted::<Origin>::default();
        let me = Origin::from(ip("192.0.2.1"));
        let taken: Vec<_> = (0..3).map_while(|_| places.take(me, 2)).collect();
        assert_eq!(taken.len(), 2);
        assert!(places.take(Origin::from(ip("192.0.2.2")), 2).is_some());
        drop(taken);
        assert!(places.take(me, 2).is_some());
        assert!(places.is_empty());
    }

    #[test]
    fn who_fails_too_often_is_not_heard_and_others_are() {
        let failures = Failures::new(10);
        (0..10).for_each(|_| failures.add(ip("192.0.2.1")));
        assert!(!failures.too_many(ip("192.0.2.1")));
        (0..5).for_each(|_| failures.add(ip("192.0.2.1")));
        assert!(failures.too_many(ip("192.0.2.1")));
        assert!(!failures.too_many(ip("192.0.2.2")));
    }
}

//! Who gets a connection when many want one.
//!
//! A process is no measure: one user can start many. So places are counted by user and unit; those who can be no tool have a part of
//! the room between them, and some of it is kept for tools that have no connection at all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    limits::{Repeats, Told},
    peer::{Peer, Seat},
};

/// How many may be connected at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub connections: usize,
    /// For one user id in one unit.
    pub per_peer: usize,
}

impl Room {
    /// For all together who can be no tool.
    fn for_strangers(self) -> usize {
        (self.connections / 4).max(1)
    }

    /// What is kept for those who have no connection yet.
    fn kept(self) -> usize {
        self.connections / 8
    }
}

/// Those who are connected to a listener, to be counted.
#[derive(Debug, Clone)]
pub struct Connections(Places);

impl Connections {
    pub fn count(&self) -> usize {
        self.0.taken().all
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    seats: HashMap<Seat, usize>,
    all: usize,
    strangers: usize,
    since: Instant,
    refused: Repeats<(Seat, &'static str), ()>,
}

impl Default for Taken {
    fn default() -> Self {
        let refused = Repeats::new(Duration::from_secs(10), Duration::from_secs(300), 1024);
        Self { seats: HashMap::new(), all: 0, strangers: 0, since: Instant::now(), refused }
    }
}

/// There is no place.
pub(super) struct Full {
    pub why: &'static str,
    /// How often since it was said last, where it is to be said.
    pub times: Option<u64>,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn connections(&self) -> Connections {
        Connections(self.clone())
    }

    /// `known`: it could be a tool of ours.
    pub fn take(&self, peer: &Peer, room: Room, known: bool) -> Result<Place, Full> {
        let seat = peer.seat();
        let mut taken = self.taken();
        if let Err(why) = taken.has_room(&seat, room, known) {
            let now = taken.since.elapsed();
            let told = taken.refused.add(&(seat, why), 1, now, || (), |()| ());
            return Err(Full { why, times: told.map(|Told { count, .. }| count) });
        }
        *taken.seats.entry(seat.clone()).or_default() += 1;
        taken.all += 1;
        taken.strangers += usize::from(!known);
        Ok(Place { places: self.clone(), seat, known })
    }
}

impl Taken {
    fn has_room(&self, seat: &Seat, room: Room, known: bool) -> Result<(), &'static str> {
        let own = self.seats.get(seat).copied().unwrap_or_default();
        if own >= room.per_peer {
            return Err("the caller has max-connections-per-peer open");
        }
        if !known && self.strangers >= room.for_strangers() {
            return Err("those who are no tool of the policy have a quarter of max-connections open");
        }
        if own > 0 && self.all + room.kept() >= room.connections {
            return Err("what is left of max-connections is kept for tools without one");
        }
        Ok(())
    }
}

/// A place, until it is dropped.
pub struct Place {
    places: Places,
    seat: Seat,
    known: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        taken.strangers -= usize::from(!self.known);
        if let Some(count) = taken.seats.get_mut(&self.seat) {
            *count -= 1;
            if *count == 0 {
                taken.seats.remove(&self.seat);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Process;

    fn peer(uid: u32) -> Peer {
        Peer {
            process: Process { pid: 1, pidfd_inode: 1 },
            uid,
            gid: uid,
            groups: vec![],
            unit: None,
            executable: None,
            remote: None,
        }
    }

    const ROOM: Room = Room { connections: 64, per_peer: 8 };

    /// Takes all that it can get.
    fn fill(places: &Places, uids: std::ops::Range<u32>, known: bool) -> Vec<Place> {
        uids.flat_map(|uid| std::iter::from_fn(move || places.take(&peer(uid), ROOM, known).ok())).collect()
    }

    #[test]
    fn strangers_leave_room_for_tools() {
        let places = Places::default();
        let strangers = fill(&places, 1000..1100, false);
        assert_eq!(strangers.len(), 16);
        assert_eq!(fill(&places, 1..2, true).len(), 8, "a tool has all that is its own");
    }

    #[test]
    fn tools_leave_room_for_those_that_have_none() {
        let places = Places::default();
        let greedy = fill(&places, 1..8, true);
        assert_eq!(places.connections().count(), 56);
        let late: Vec<_> = (8..16).map(|uid| places.take(&peer(uid), ROOM, true)).collect();
        assert!(late.iter().all(Result::is_ok), "each of eight more gets one");
        assert!(places.take(&peer(8), ROOM, true).is_err());
        drop(greedy);
        drop(late);
        assert_eq!(places.connections().count(), 0);
        assert!(places.taken().seats.is_empty());
    }
}

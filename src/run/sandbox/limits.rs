//! Resource limits.

use rustix::process::{Resource, Rlimit, getrlimit, getuid};

use super::Error;
use crate::{proto::v1, run::process::Limit};

/// Room for each that a policy can set, and for core dumps.
const MOST: usize = 5;

/// The limits to set. All but that on processes are for each process of the tool by itself; that one counts everything its user
/// runs on this host.
pub(super) struct Limits([Option<(Resource, Rlimit)>; MOST]);

impl Limits {
    pub(super) fn new(wanted: &v1::Sandbox) -> Result<Self, Error> {
        // See setrlimit(2) for RLIMIT_NPROC. A limit that binds nobody would be a smaller sandbox.
        if wanted.max_processes > 0 && getuid().is_root() {
            return Err(Error::ProcessesOfRoot);
        }
        Ok(Self([
            Some((Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })),
            at_most(Resource::As, wanted.max_memory, 0),
            at_most(Resource::Nproc, wanted.max_processes, 0),
            at_most(Resource::Nofile, wanted.max_files, 0),
            // A second between the signal that can be caught and the one that cannot.
            at_most(Resource::Cpu, wanted.max_cpu_seconds, 1),
        ]))
    }

    pub(super) fn list(&self) -> impl Iterator<Item = Limit> {
        let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
        self.0.iter().flatten().map(move |(resource, limit)| Limit {
            resource: *resource as u32,
            soft: number(limit.current),
            hard: number(limit.maximum),
        })
    }
}

/// A stricter limit that is in force already stays. Zero is no wish.
fn at_most(resource: Resource, wanted: u64, grace: u64) -> Option<(Resource, Rlimit)> {
    let held = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(wanted.min(held)), maximum: Some(wanted.saturating_add(grace).min(held)) };
    (wanted > 0).then_some((resource, limit))
}

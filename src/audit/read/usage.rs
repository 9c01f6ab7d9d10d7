//! What tools used: hand-outs, and asks in vain, counted for each tool and secret.

use std::{collections::BTreeMap, io, time::SystemTime};

use super::{Filter, begins, each_piece, field, number, parse_time};
use crate::audit::{disk::Disk, files, line::Link};

/// One tool and one secret, in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    pub handed_out: u64,
    /// The version that was handed out last, as the log has it.
    pub version: Option<String>,
    pub first: Option<SystemTime>,
    pub last: Option<SystemTime>,
    /// Asks that policy or the session's scope refused. Those of a process that is not the tool do not count, nor those over a limit.
    pub denied: u64,
}

/// What a log tells of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What was asked for, or the first record that there is where that is later: of what was before, nothing is known. `None`: there is
    /// no record.
    pub since: Option<SystemTime>,
    /// By tool and secret, as the log has their names.
    pub by: BTreeMap<(String, String), Use>,
}

/// Counts what was used not before `since`, on several cores.
pub fn usage(disk: &dyn Disk, since: Option<SystemTime>, threads: usize) -> io::Result<Usage> {
    let filter = Filter { since, ..Filter::default() };
    let mut all = Usage { since: known_since(disk, since)?, ..Usage::default() };
    each_piece(disk, &filter, threads, &|usage: &mut Usage, line, link| usage.add(line, link), &mut |piece| {
        all.join(piece);
        Ok(())
    })?;
    Ok(all)
}

fn known_since(disk: &dyn Disk, asked: Option<SystemTime>) -> io::Result<Option<SystemTime>> {
    let Some((first, _)) = files::whole_parts(disk)?.into_iter().next() else { return Ok(None) };
    Ok(begins(disk, &first)?.map(|begins| asked.map_or(begins, |asked| asked.max(begins))))
}

/// Reasons why policy refuses a tool that is who it says it is.
const DENIED: [&[u8]; 2] = [b"SCOPE_NOT_ALLOWED", b"OUTSIDE_SCOPE"];

impl Usage {
    fn add(&mut self, line: &[u8], link: &Link<'_>) {
        let handed_out = link.event == b"secret.handed-out";
        let denied = matches!(link.event, b"secret.denied" | b"session.refused" | b"denials.summed")
            && field(line, b",\"reason\":\"").is_some_and(|reason| DENIED.contains(&reason));
        if !handed_out && !denied {
            return;
        }
        let text = |key: &[u8]| field(line, key).and_then(|text| std::str::from_utf8(text).ok());
        let (Some(tool), Some(secret)) = (text(b",\"tool\":\""), text(b",\"secret\":\"")) else { return };
        let entry = self.by.entry((tool.into(), secret.into())).or_default();
        if denied {
            entry.denied += if link.event == b"denials.summed" { number(line, b",\"count\":").unwrap_or(1) } else { 1 };
        } else {
            entry.handed_out += 1;
            let at = parse_time(link.time);
            entry.first = entry.first.or(at);
            entry.last = at.or(entry.last);
            if let Some(version) = text(b",\"version\":\"") {
                // Most of the time it is the one before.
                match &mut entry.version {
                    Some(before) if before == version => {}
                    before => *before = Some(version.into()),
                }
            }
        }
    }

    /// Takes in what comes after.
    fn join(&mut self, later: Self) {
        for (key, use_) in later.by {
            let entry = self.by.entry(key).or_default();
            entry.handed_out += use_.handed_out;
            entry.denied += use_.denied;
            entry.first = entry.first.or(use_.first);
            entry.last = use_.last.or(entry.last);
            entry.version = use_.version.or(entry.version.take());
        }
    }
}

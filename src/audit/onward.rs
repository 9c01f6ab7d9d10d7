//! Reading the log on from a record that is known: what those do who send it elsewhere.
//!
//! Only what is durable is read. Lines that a failed write left behind are not: their numbers are those of records in the next file.

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    disk::Disk,
    files::{self, FileName},
    line::{Link, hash, parse_time},
};

/// A place in the log, behind a record. Written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The record's number, and the SHA-256 of its line.
    pub seq: u64,
    hash: String,
    /// Where the next one is to be looked for.
    file: String,
    offset: u64,
}

/// How much is taken at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    pub records: usize,
    /// Of lines with their ends. One record is taken however long it is.
    pub bytes: usize,
    /// No record after this one.
    pub up_to: u64,
}

/// Records that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    lines: Vec<u8>,
    ends: Vec<usize>,
    pub first: u64,
    /// When the first of them was written.
    pub time: SystemTime,
    /// The numbers of records before the first that are not there any more.
    pub missing: Option<(u64, u64)>,
    /// Behind the last of them.
    pub after: Position,
}

impl Batch {
    /// Each record's line, its end not included.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|end| end + 1));
        starts.zip(&self.ends).map(|(start, end)| &self.lines[start..*end])
    }

    /// All lines, each with its end.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Does the position belong to this log? Not where the record after it names another one before itself, or where the log is shorter:
/// then this is another log.
pub fn is_of_this_log(disk: &dyn Disk, position: &Position, durable: u64) -> io::Result<bool> {
    if position.seq > durable {
        return Ok(false);
    }
    let one = Most { records: 1, bytes: 0, up_to: durable };
    let Some(batch) = read_on(disk, Some(position), one)? else { return Ok(true) };
    let prev = batch.records().next().and_then(Link::of).map(|link| link.prev.to_string());
    Ok(batch.missing.is_some() || prev.is_none_or(|prev| prev == position.hash))
}

/// Reads the records after a position, or from the first that is there. `None`: there is none yet.
pub fn read_on(disk: &dyn Disk, from: Option<&Position>, most: Most) -> io::Result<Option<Batch>> {
    let names = files::list(disk)?;
    let known = from.map(|position| position.seq);
    let next = known.unwrap_or(0) + 1;
    let begin = names.iter().rposition(|name| name.first <= next).unwrap_or(0);
    let mut taking = Taking { known, most, batch: None, full: false };
    for (at, name) in names.iter().enumerate().skip(begin) {
        let text = name.to_string();
        let offset = from.filter(|position| position.file == text).map_or(0, |position| position.offset);
        // A line of that number or a later one, in this file, is what a write left behind that came to nothing.
        let end = names.get(at + 1).map_or(u64::MAX, |next: &FileName| next.first);
        let read = files::lines(disk, &text, offset, u64::MAX, &mut |at, line, ended| ended && taking.take(&text, at, line, end));
        match read {
            // It was pruned meanwhile: the next attempt finds what is there then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            read => read?,
        }
        if taking.full {
            break;
        }
    }
    Ok(taking.batch)
}

struct Taking {
    /// The last record that was taken, or was there before.
    known: Option<u64>,
    most: Most,
    batch: Option<Batch>,
    full: bool,
}

impl Taking {
    /// `false`: nothing more of this file is to be read.
    fn take(&mut self, file: &str, at: u64, line: &[u8], end: u64) -> bool {
        let Some(link) = Link::of(line) else { return true };
        if link.seq >= end {
            return false;
        }
        if self.known.is_some_and(|known| link.seq <= known) {
            return true;
        }
        let missing = self.known.map(|known| (known + 1, link.seq - 1)).filter(|(first, last)| first <= last);
        let is_full = |batch: &Batch| {
            let bytes = batch.lines.len() + line.len() + 1;
            missing.is_some() || batch.len() >= self.most.records || bytes > self.most.bytes
        };
        if link.seq > self.most.up_to || self.batch.as_ref().is_some_and(is_full) {
            self.full = true;
            return false;
        }
        let after =
            Position { seq: link.seq, hash: hash(line).to_string(), file: file.to_owned(), offset: at + line.len() as u64 + 1 };
        let batch = self.batch.get_or_insert_with(|| Batch {
            lines: Vec::new(),
            ends: Vec::new(),
            first: link.seq,
            time: parse_time(link.time).unwrap_or(UNIX_EPOCH),
            missing,
            after: after.clone(),
        });
        batch.lines.extend_from_slice(line);
        batch.ends.push(batch.lines.len());
        batch.lines.push(b'\n');
        batch.after = after;
        self.known = Some(link.seq);
        true
    }
}

#[cfg(test)]
mod tests;

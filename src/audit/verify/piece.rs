//! One piece of a file, checked for itself.

use std::{io, ops::Range};

use crate::{
    audit::{
        disk::Disk,
        files::FileName,
        in_order::lines_of,
        key::PublicKey,
        line::{Link, Tip, hash},
        marks::{Mark, Signed, check_checkpoint},
    },
    peer::Sha256,
};

/// What a piece came to.
pub struct Piece {
    pub records: u64,
    pub bytes: u64,
    /// What stood before its first record, and what it comes to; if each record follows the one before.
    pub clean: Option<(Tip, Tip)>,
    pub seen: Vec<Seen>,
}

/// A record that says something about the log.
pub struct Seen {
    pub seq: u64,
    /// Within its file, from 1, if the piece is the file's first or the file was read from its start; 0 otherwise.
    pub line: u64,
    pub what: What,
}

pub enum What {
    /// Of a record that was looked for.
    Hash(Sha256),
    Checkpoint(Signed),
    Mark(Mark),
}

/// What there is to see in a record.
pub fn look(
    line: &[u8],
    link: &Link<'_>,
    hash: &Sha256,
    number: u64,
    keys: &[PublicKey],
    looked_for: &[u64],
    seen: &mut Vec<Seen>,
) {
    let mut see = |what| seen.push(Seen { seq: link.seq, line: number, what });
    if looked_for.contains(&link.seq) {
        see(What::Hash(*hash));
    }
    if link.event == b"audit.checkpoint" {
        see(What::Checkpoint(check_checkpoint(line, link, keys)));
    } else if link.event.starts_with(b"audit.") {
        match Mark::parse(line) {
            Some(mark) => see(What::Mark(mark)),
            // One of the log's own records that cannot be read was not written by it.
            None => see(What::Checkpoint(Signed::Bad)),
        }
    }
}

/// Reads the lines that begin in a range of a file. The last of them may end after it.
pub fn read(disk: &dyn Disk, name: &FileName, range: Range<u64>, keys: &[PublicKey], looked_for: &[u64]) -> io::Result<Piece> {
    let mut piece = Piece { records: 0, bytes: 0, clean: None, seen: Vec::new() };
    let mut fits = true;
    let first = range.start == 0;
    lines_of(disk, name, range, &mut |line| {
        let link = line.and_then(Link::of);
        let before = link.map(|link| Tip { seq: link.seq - 1, hash: link.prev });
        let follows = |before: &Tip| piece.clean.is_none_or(|(_, tip)| tip == *before);
        let (Some(line), Some(link), Some(before)) = (line, link, before.filter(follows)) else {
            fits = false;
            return false;
        };
        let hash = hash(line);
        piece.records += 1;
        piece.bytes += line.len() as u64 + 1;
        look(line, &link, &hash, if first { piece.records } else { 0 }, keys, looked_for, &mut piece.seen);
        let (begin, _) = piece.clean.unwrap_or((before, before));
        piece.clean = Some((begin, Tip { seq: link.seq, hash }));
        true
    })?;
    if !fits {
        (piece.clean, piece.bytes) = (None, piece.bytes.max(1));
    }
    Ok(piece)
}

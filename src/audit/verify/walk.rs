//! A file in which something is amiss, line by line: what it is, and where.

use std::io;

use super::{Finding, Walk, What, piece};
use crate::audit::{
    files::{self, FileName},
    line::{Link, Tip, hash},
};

/// A line that does not follow the chain.
struct Misfit {
    at: u64,
    number: u64,
    /// What it looks like, where it looks like a record.
    link: Option<(u64, bool)>,
    hash: crate::peer::Sha256,
    ended: bool,
}

/// Finds the first line that does not fit, and takes in those before it. `None`: all fit.
pub fn first_wrong(walk: &mut Walk<'_>, name: &FileName) -> io::Result<Option<Finding>> {
    let whole = walk.whole_bytes(name)?;
    let looked_for = walk.looked_for();
    let (mut number, mut misfit, mut found) = (0, None, None);
    let (disk, keys) = (walk.disk, walk.how.keys);
    files::lines(disk, &name.to_string(), 0, whole, &mut |at, line, ended| {
        number += 1;
        let link = Link::of(line).filter(|_| ended);
        let fits = |link: &Link<'_>| match walk.begin {
            None => link.seq == name.first,
            Some(_) => link.follows(&walk.tip) && (number > 1 || link.seq == name.first),
        };
        let hash = hash(line);
        let Some(link) = link.filter(fits) else {
            let looks = link.map(|link| (link.seq, link.prev == walk.tip.hash));
            misfit = Some(Misfit { at, number, link: looks, hash, ended });
            return false;
        };
        walk.begin.get_or_insert(Tip { seq: link.seq - 1, hash: link.prev });
        walk.tip = Tip { seq: link.seq, hash };
        walk.result.records += 1;
        walk.result.bytes += line.len() as u64 + 1;
        let mut seen = Vec::new();
        piece::look(line, &link, &hash, number, keys, &looked_for, &mut seen);
        found = seen.iter().find_map(|seen| walk.take_in(name, seen));
        found.is_none()
    })?;
    match misfit {
        Some(misfit) if walk.is_open_end(name, misfit.at)? => Ok(None),
        Some(misfit) => classify(walk, name, &misfit).map(Some),
        None => Ok(found),
    }
}

fn classify(walk: &Walk<'_>, name: &FileName, misfit: &Misfit) -> io::Result<Finding> {
    let expected = walk.begin.map_or(name.first, |_| walk.tip.seq + 1);
    let after = After::read(walk, name, misfit, expected)?;
    let (what, line, seq, detail) = match misfit.link {
        None if !misfit.ended && after.is_last => {
            (What::Truncated, misfit.number, expected, "the line is cut off, and nothing declares that".to_owned())
        }
        None => (What::Changed, misfit.number, expected, "the line is no record of this log".to_owned()),
        Some((seq, _)) if seq > expected && misfit.number == 1 && name.first == seq => {
            (What::MissingFile, 0, expected, format!("records {expected} to {} are in no file", seq - 1))
        }
        Some((seq, true)) if seq != expected => {
            (What::Changed, misfit.number, expected, format!("its number was changed to {seq}"))
        }
        Some((seq, _)) if seq == expected && (after.next_follows || after.is_last) && misfit.number > 1 => {
            (What::Changed, misfit.number - 1, expected - 1, "its hash is not the one that the next record names".to_owned())
        }
        Some((seq, _)) if seq == expected && (after.next_follows || after.is_last) => (
            What::Changed,
            misfit.number,
            expected - 1,
            "the last record of the file before is not the one that this record names".to_owned(),
        ),
        Some((seq, _)) if seq == expected => {
            (What::Changed, misfit.number, expected, "it does not name the hash of the record before it".to_owned())
        }
        Some((seq, _)) if seq > expected && after.has_expected => {
            (What::Reordered, misfit.number, expected, format!("record {seq} stands in its place, and it comes later"))
        }
        Some((seq, _)) if seq > expected => {
            (What::Dropped, misfit.number, expected, format!("records {expected} to {} are missing before this line", seq - 1))
        }
        Some((seq, _)) => {
            (What::Inserted, misfit.number, seq, format!("a record {seq} stands where record {expected} should: one too many"))
        }
    };
    Ok(Finding { what, file: name.to_string(), line, seq, detail })
}

/// What stands after the line that does not fit.
struct After {
    is_last: bool,
    /// Does the next line name the misfit's hash? Then it is not the misfit that was changed.
    next_follows: bool,
    has_expected: bool,
}

impl After {
    fn read(walk: &Walk<'_>, name: &FileName, misfit: &Misfit, expected: u64) -> io::Result<Self> {
        let mut after = Self { is_last: true, next_follows: false, has_expected: false };
        let mut number = 0;
        let whole = walk.whole_bytes(name)?;
        files::lines(walk.disk, &name.to_string(), misfit.at, whole, &mut |_, line, _| {
            number += 1;
            let link = Link::of(line);
            match number {
                1 => return true,
                2 => {
                    after.is_last = false;
                    after.next_follows = link.is_some_and(|link| link.prev == misfit.hash);
                }
                _ => {}
            }
            after.has_expected |= link.is_some_and(|link| link.seq == expected);
            !after.has_expected
        })?;
        Ok(after)
    }
}

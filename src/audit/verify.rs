//! Is the log what was written? From the files and the public key alone.
//!
//! Files are cut into pieces, and the pieces are hashed on all cores: each record names the hash of the one before, so a piece can be
//! checked without those before it, and pieces are then joined in order. A file in which anything is amiss is read again from its start,
//! line by line, to say what and where. Memory does not grow with the log.

use std::{fmt, io, ops::Range};

use super::{
    disk::Disk,
    files::{self, FileName, FoundHead, Torn},
    in_order::{self, cut},
    key::{KeyId, PublicKey},
    line::{LONGEST, Tip},
    marks::{Mark, Signed, Trouble},
};
use crate::peer::Sha256;

mod piece;
mod walk;

use piece::{Piece, Seen};

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Changed,
    Dropped,
    Inserted,
    Reordered,
    Truncated,
    BadSignature,
    UnknownKey,
    MissingFile,
    HeadMissing,
    HeadBad,
    /// The daemon found records missing, and wrote that down.
    Declared,
}

impl What {
    /// A stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Truncated => "truncated",
            Self::BadSignature => "bad-signature",
            Self::UnknownKey => "unknown-key",
            Self::MissingFile => "missing-file",
            Self::HeadMissing => "head-missing",
            Self::HeadBad => "head-bad",
            Self::Declared => "declared",
        }
    }
}

/// The first place where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: What,
    /// A file of the log's directory.
    pub file: String,
    /// From 1; 0 where it is about the file as a whole.
    pub line: u64,
    /// The record that is concerned.
    pub seq: u64,
    /// In words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, file, line, seq, detail } = self;
        match line {
            0 => write!(f, "{file}, record {seq}: {}: {detail}", what.as_str()),
            line => write!(f, "{file}:{line}, record {seq}: {}: {detail}", what.as_str()),
        }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub files: usize,
    pub records: u64,
    pub bytes: u64,
    /// The first and the last record's number.
    pub first: u64,
    pub last: Tip,
    /// All up to this record is covered by a signature.
    pub signed: u64,
    /// Files that are gone because they were old or too many, as the log itself says.
    pub pruned: u64,
    /// Places where the daemon ended or the disk failed within a write, each declared: nothing acknowledged stood there.
    pub torn: u64,
    pub torn_bytes: u64,
    /// Bytes at the end that are no whole record, and that no daemon has declared yet: it ended within a write, and was not started since.
    pub open_bytes: u64,
    /// The first thing that is wrong. `None`: the log is whole.
    pub broken: Option<Finding>,
}

impl Verified {
    /// Records after the last signature. Of these it cannot be told whether some are missing.
    pub fn unsigned(&self) -> u64 {
        self.last.seq.saturating_sub(self.signed)
    }

    pub fn is_whole(&self) -> bool {
        self.broken.is_none()
    }

    /// Is it whole, and is all of it covered by a signature?
    pub fn is_sealed(&self) -> bool {
        self.is_whole() && self.unsigned() == 0 && self.open_bytes == 0
    }
}

/// How to verify.
pub struct How<'a> {
    /// All keys that the log was sealed with.
    pub keys: &'a [PublicKey],
    pub threads: usize,
    /// A record that is known from elsewhere: a head that was kept, or a copy of the log.
    pub anchor: Option<Tip>,
    /// Hears of progress: bytes read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Verifies a log that nobody writes to, or that is only appended to meanwhile.
pub fn verify(disk: &dyn Disk, how: &How<'_>) -> io::Result<Verified> {
    // The head first: a log that grows meanwhile is longer than its head, never shorter.
    let head = files::read_head(disk, how.keys)?;
    let names = files::list(disk)?;
    let declared = files::declared(disk, &names)?;
    let mut walk = Walk::new(disk, how, head, names.clone(), declared);
    let mut plan = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let length = walk.whole_bytes(name)?;
        plan.extend(cut(length).map(|range| (at, name, range)));
    }
    let looked_for = walk.looked_for();
    let read = |(_, name, range): &(usize, &FileName, Range<u64>)| piece::read(disk, name, range.clone(), how.keys, &looked_for);
    let mut plan_at = 0;
    in_order::each(&plan, how.threads, read, |results| {
        for (at, name) in names.iter().enumerate() {
            let mut pieces = Vec::new();
            while plan.get(plan_at).is_some_and(|(of, ..)| *of == at) {
                pieces.push(results.next()?);
                plan_at += 1;
            }
            if walk.file(name, pieces)?.is_some() {
                break;
            }
        }
        Ok(())
    })?;
    Ok(walk.end())
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    how: &'a How<'a>,
    head: FoundHead,
    names: Vec<FileName>,
    /// What the first records of files say about those before them.
    declared: Vec<Torn>,
    /// Before the first record of the first file.
    begin: Option<Tip>,
    tip: Tip,
    signed: u64,
    /// What the log says is gone: the end of each file, and the record that says so.
    pruned: Vec<(Tip, u64)>,
    seen_head: Option<Sha256>,
    seen_anchor: Option<Sha256>,
    result: Verified,
}

impl<'a> Walk<'a> {
    fn new(disk: &'a dyn Disk, how: &'a How<'a>, head: FoundHead, names: Vec<FileName>, declared: Vec<Torn>) -> Self {
        let result = Verified {
            files: names.len(),
            records: 0,
            bytes: 0,
            first: 0,
            last: Tip::NONE,
            signed: 0,
            pruned: 0,
            torn: 0,
            torn_bytes: 0,
            open_bytes: 0,
            broken: None,
        };
        let (seen_head, seen_anchor) = (None, None);
        let (begin, tip, signed, pruned) = (None, Tip::NONE, 0, Vec::new());
        Self { disk, how, head, names, declared, begin, tip, signed, pruned, seen_head, seen_anchor, result }
    }

    fn declared_about(&self, name: &FileName) -> Option<&Torn> {
        self.declared.iter().find(|torn| torn.file == *name)
    }

    /// How much of a file is records.
    fn whole_bytes(&self, name: &FileName) -> io::Result<u64> {
        let length = self.disk.len(&name.to_string())?;
        Ok(self.declared_about(name).map_or(length, |torn| torn.from.min(length)))
    }

    fn looked_for(&self) -> Vec<u64> {
        let head = if let FoundHead::Good(head) = &self.head { Some(head.tip.seq) } else { None };
        head.into_iter().chain(self.how.anchor.map(|tip| tip.seq)).collect()
    }

    /// Takes in one file: its pieces where they fit, line by line where they do not.
    fn file(&mut self, name: &FileName, pieces: Vec<Piece>) -> io::Result<Option<&Finding>> {
        let before = self.tip;
        let fits = match join(&pieces, name, self.begin.map(|_| before)) {
            Some((first_prev, tip)) => {
                self.begin.get_or_insert(Tip { seq: name.first - 1, hash: first_prev });
                self.tip = tip;
                for piece in &pieces {
                    self.result.records += piece.records;
                    self.result.bytes += piece.bytes;
                }
                let seen = pieces.iter().flat_map(|piece| &piece.seen);
                seen.map(|seen| self.take_in(name, seen)).find_map(|found| found)
            }
            None if pieces.iter().all(|piece| piece.bytes == 0) => None,
            None => walk::first_wrong(self, name)?,
        };
        (self.how.progress)(self.result.bytes);
        let broken = match fits {
            None => self.check_torn(name)?,
            found => found,
        };
        self.result.broken = broken;
        Ok(self.result.broken.as_ref())
    }

    /// Takes in a record that says something about the log itself.
    fn take_in(&mut self, name: &FileName, seen: &Seen) -> Option<Finding> {
        let wrong = |what, detail: String| Some(Finding { what, file: name.to_string(), line: seen.line, seq: seen.seq, detail });
        match &seen.what {
            piece::What::Hash(hash) => {
                if let FoundHead::Good(head) = &self.head
                    && head.tip.seq == seen.seq
                {
                    self.seen_head = Some(*hash);
                }
                if self.how.anchor.is_some_and(|anchor| anchor.seq == seen.seq) {
                    self.seen_anchor = Some(*hash);
                }
                None
            }
            piece::What::Checkpoint(Signed::Good) => {
                self.signed = self.signed.max(seen.seq - 1);
                None
            }
            piece::What::Checkpoint(Signed::Bad) => wrong(
                What::BadSignature,
                "the signature is not that of what stands before it: the log was written anew, or this record was".into(),
            ),
            piece::What::Checkpoint(Signed::Foreign(id)) => wrong(What::UnknownKey, self.unknown(id)),
            piece::What::Mark(Mark::Pruned { last, .. }) => {
                self.pruned.push((*last, seen.seq));
                None
            }
            piece::What::Mark(Mark::Recovered { trouble, old_key, .. }) => match trouble {
                Trouble::Torn | Trouble::WriteFailed => None,
                Trouble::KeyChanged => {
                    let known = old_key.as_ref().is_some_and(|id| self.how.keys.iter().any(|key| key.id() == *id));
                    let id = old_key.clone().unwrap_or(KeyId("-".into()));
                    if known { None } else { wrong(What::UnknownKey, self.unknown(&id)) }
                }
                Trouble::RecordsMissing | Trouble::HeadMissing | Trouble::HeadBad => {
                    let why = trouble.as_str();
                    wrong(
                        What::Declared,
                        format!("when the daemon took up the log here, it found {why}: what stood before may have been cut"),
                    )
                }
            },
            piece::What::Mark(_) => None,
        }
    }

    fn unknown(&self, id: &KeyId) -> String {
        format!("sealed with key {id}, which was not given: give its public half too, if it is one of yours")
    }

    /// What stands at the very end of a log, after all that its head knows of, may be a write that was cut off.
    fn is_open_end(&mut self, name: &FileName, from: u64) -> io::Result<bool> {
        let FoundHead::Good(head) = &self.head else { return Ok(false) };
        if head.tip.seq > self.tip.seq {
            return Ok(false);
        }
        for later in self.names.iter().filter(|later| *later > name) {
            if files::scan(self.disk, later, LONGEST as u64, 0)?.tip.is_some() {
                return Ok(false);
            }
        }
        self.result.open_bytes += self.disk.len(&name.to_string())?.saturating_sub(from);
        Ok(true)
    }

    /// What stands after the records of a file must be what was declared.
    fn check_torn(&mut self, name: &FileName) -> io::Result<Option<Finding>> {
        let length = self.disk.len(&name.to_string())?;
        let Some(declared) = self.declared_about(name).cloned() else { return Ok(None) };
        let found = if length > declared.from { Torn::read(self.disk, name, declared.from, true)? } else { None };
        let bytes = found.as_ref().map_or(0, |found| found.bytes);
        let fits = found.map_or(!declared.synced || declared.bytes == 0, |found| found.is(&declared));
        self.result.torn += 1;
        self.result.torn_bytes += bytes;
        Ok((!fits).then(|| Finding {
            what: if bytes < declared.bytes { What::Truncated } else { What::Changed },
            file: name.to_string(),
            line: 0,
            seq: self.tip.seq,
            detail: format!("what was left of a write that failed, after record {}, is not as it was declared", self.tip.seq),
        }))
    }

    fn end(mut self) -> Verified {
        self.result.broken = self.result.broken.take().or_else(|| self.wrong_at_an_end());
        if let FoundHead::Good(head) = &self.head {
            self.signed = self.signed.max(head.tip.seq.min(self.tip.seq));
        }
        self.result.first = self.begin.map_or(0, |begin| begin.seq + 1);
        self.result.last = self.tip;
        self.result.signed = self.signed;
        self.result.pruned = self.pruned.len() as u64;
        self.result
    }

    /// The log is whole between its ends: are these where they should be?
    fn wrong_at_an_end(&self) -> Option<Finding> {
        let at = |what, file: String, seq, detail| Some(Finding { what, file, line: 0, seq, detail });
        let begin = self.begin.unwrap_or(Tip::NONE);
        let last = self.names.last().map(FileName::to_string).unwrap_or_default();
        // The end first: what was cut off there may have said that what stood at the beginning was pruned.
        if let FoundHead::Good(found) = &self.head
            && found.tip.seq > self.tip.seq
        {
            let detail = format!(
                "the log ends with record {}, and its signed head says that there is a record {}",
                self.tip.seq, found.tip.seq
            );
            return at(What::Truncated, last, self.tip.seq, detail);
        }
        let said = |(gone, by): &(Tip, u64)| *gone == begin && *by <= self.signed;
        if begin != Tip::NONE && !self.pruned.iter().any(said) {
            let first = self.names.first().map(FileName::to_string).unwrap_or_default();
            let detail = format!(
                "the log begins with record {}, and no signed record says that what stood before was pruned",
                begin.seq + 1
            );
            return at(What::MissingFile, first, begin.seq, detail);
        }
        let head = |what, detail: &str| at(what, files::HEAD.into(), self.tip.seq, detail.into());
        match &self.head {
            FoundHead::Missing => {
                head(What::HeadMissing, "there is no head: without it nobody can tell whether the end was cut off")
            }
            FoundHead::Bad => head(What::HeadBad, "this is not the head that was written"),
            FoundHead::Foreign(found) => head(What::UnknownKey, &self.unknown(&found.key)),
            FoundHead::Good(found) if found.tip.seq > begin.seq && self.seen_head != Some(found.tip.hash) => {
                head(What::HeadBad, "the head is of another log: its record stands here with other content")
            }
            FoundHead::Good(_) => {
                self.anchor_is_missing(begin).and_then(|detail| at(What::Truncated, last, self.tip.seq, detail))
            }
        }
    }

    fn anchor_is_missing(&self, begin: Tip) -> Option<String> {
        let anchor = self.how.anchor.filter(|anchor| anchor.seq > begin.seq)?;
        (self.seen_anchor != Some(anchor.hash)).then(|| {
            format!(
                "record {} is not here with the hash that is known from elsewhere: this is an older or another log",
                anchor.seq
            )
        })
    }
}

/// Do the pieces of a file follow each other and what stood before? The `prev` of its first record, and what the chain has come to.
fn join(pieces: &[Piece], name: &FileName, before: Option<Tip>) -> Option<(Sha256, Tip)> {
    let mut tip = before;
    let mut first_prev = None;
    for piece in pieces.iter().filter(|piece| piece.bytes > 0) {
        let (first, last) = piece.clean.as_ref()?;
        let follows = tip.is_none_or(|tip| first.seq == tip.seq && first.hash == tip.hash);
        let begins = first_prev.is_some() || first.seq + 1 == name.first;
        if !follows || !begins {
            return None;
        }
        first_prev.get_or_insert(first.hash);
        tip = Some(*last);
    }
    Some((first_prev?, tip?))
}

#[cfg(test)]
mod tests;

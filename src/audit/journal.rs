//! The log on disk, written by one thread: what is appended, sealed, closed, taken up again and pruned.
//!
//! A file is never truncated, renamed or written again once something about it is in doubt: what stands after its last whole record is
//! *declared*, with its length and hash, in the first record of the file that follows. No clock and no thread here: time is an argument.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    disk::{Append, Disk},
    files::{self, FileName, FoundHead, HEAD, Head, Scanned, Torn},
    key::SigningKey,
    line::{LONGEST, Link, Tip, parse_time, push_line},
    marks::{Mark, Trouble, push_checkpoint},
    retain::{self, Keep, Kept},
};

/// When a new file is begun, and how long files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// Age after which a new file is begun.
    pub file_age: Duration,
    pub keep: Keep,
}

impl Default for Rules {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { file_bytes: 64 << 20, file_age: DAY, keep: Keep { age: 90 * DAY, bytes: 10 << 30 } }
    }
}

/// The log, and where it stands.
pub struct Journal {
    disk: Arc<dyn Disk>,
    key: SigningKey,
    rules: Rules,
    /// What the chain has come to on disk. `None` until that is known.
    durable: Option<Tip>,
    /// The file that is written to. `None`: none can be.
    current: Option<Current>,
    /// The last file that was written to, how much of it is durable, and whether a sync of it failed.
    left: Option<(FileName, u64, bool)>,
    /// A file that was begun by this process, and came to nothing.
    abandoned: Option<FileName>,
    /// All up to this record is signed.
    signed: u64,
    head_due: bool,
    out: Vec<u8>,
}

struct Current {
    name: FileName,
    file: Box<dyn Append>,
    length: u64,
    begun: SystemTime,
}

/// What was found when the log was taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenUp {
    /// Why it goes on in a new file; `None` where nothing was wrong.
    pub trouble: Option<Trouble>,
    /// Bytes that stand after the last whole record, and were never acknowledged.
    pub torn_bytes: u64,
    /// The first record's number from now on.
    pub next: u64,
}

impl Journal {
    /// Nothing is read or written before [`take_up`](Self::take_up).
    pub fn new(disk: Arc<dyn Disk>, key: SigningKey, rules: Rules) -> Self {
        Self {
            disk,
            key,
            rules,
            durable: None,
            current: None,
            left: None,
            abandoned: None,
            signed: 0,
            head_due: false,
            out: Vec::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.current.is_some()
    }

    /// The number of the last record that is durable.
    pub fn seq(&self) -> u64 {
        self.durable.map_or(0, |tip| tip.seq)
    }

    /// Is there a record, other than a seal, that no signature covers?
    pub fn is_unsealed(&self) -> bool {
        self.is_up() && (self.head_due || self.seq() > self.signed)
    }

    /// Begins or goes on, at the start and after a failure. `lost` is how many records were refused meanwhile.
    pub fn take_up(&mut self, lost: u64, now: SystemTime) -> io::Result<TakenUp> {
        self.leave(false);
        if let Some(name) = self.abandoned.take() {
            // Nothing in it was ever acknowledged, nor was it there before this process. What cannot be removed is declared.
            let _ = self.disk.remove(&name.to_string());
        }
        // What an earlier attempt made may be there, and not durably.
        self.disk.sync()?;
        let head = files::read_head(&*self.disk, &[self.key.public()])?;
        let names = files::list(&*self.disk)?;
        if names.is_empty() && self.durable.is_none() && self.begin_log(&head, now)? {
            return self.open_new(Tip::NONE, 0, |file| vec![Mark::FileOpened { file }], now);
        }
        let found = self.look(&names, &head)?;
        let trouble = self.judge(&head, &found);
        let torn_bytes = found.torn.iter().map(|torn| torn.bytes).sum();
        let tip = found.goes_on_from(&head, self.durable, trouble);
        match (trouble, found.last) {
            (None, Some((name, scanned))) if !scanned.closed => self.go_on_in(name, &scanned, tip)?,
            (trouble, _) => {
                let old_key = if let FoundHead::Foreign(head) = head { Some(head.key) } else { None };
                let torn = found.torn;
                let attempt = next_attempt(&*self.disk, &names, tip.seq + 1)?;
                self.open_new(tip, attempt, |file| first_marks(file, trouble, torn, lost, old_key), now)?;
            }
        }
        Ok(TakenUp { trouble, torn_bytes, next: tip.seq + 1 })
    }

    /// Before the first record: a head that says so, so that a log without one is never a new log.
    fn begin_log(&self, head: &FoundHead, now: SystemTime) -> io::Result<bool> {
        match head {
            FoundHead::Missing => {
                self.disk.replace(HEAD, Head::sign(&self.key, Tip::NONE, now).to_json().as_bytes())?;
                self.disk.sync()?;
                Ok(true)
            }
            FoundHead::Good(head) => Ok(head.tip == Tip::NONE),
            FoundHead::Bad | FoundHead::Foreign(_) => Ok(false),
        }
    }

    /// Reads back from the last file to the first that holds a whole record.
    fn look(&self, names: &[FileName], head: &FoundHead) -> io::Result<Found> {
        let sealed = if let FoundHead::Good(head) = head { head.tip.seq } else { 0 };
        let mut found = Found { last: None, torn: Vec::new() };
        for name in names.iter().rev() {
            self.disk.settle(&name.to_string())?;
            let left = self.left.as_ref().filter(|(left, ..)| left == name);
            let limit = left.map_or(u64::MAX, |(_, durable, _)| *durable);
            let scanned = files::scan(&*self.disk, name, limit, sealed)?;
            let synced = !left.is_some_and(|(.., failed)| *failed);
            found.torn.extend(Torn::read(&*self.disk, name, scanned.whole, synced)?);
            if scanned.tip.is_some() {
                found.last = Some((name.clone(), scanned));
                break;
            }
        }
        found.torn.reverse();
        Ok(found)
    }

    fn judge(&self, head: &FoundHead, found: &Found) -> Option<Trouble> {
        let tip = found.tip();
        if self.durable.is_some_and(|durable| durable.seq > tip.seq || (durable.seq == tip.seq && durable.hash != tip.hash)) {
            return Some(Trouble::RecordsMissing);
        }
        let sealed = found.last.as_ref().and_then(|(_, scanned)| scanned.looked_up);
        match head {
            FoundHead::Missing => Some(Trouble::HeadMissing),
            FoundHead::Bad => Some(Trouble::HeadBad),
            FoundHead::Foreign(_) => Some(Trouble::KeyChanged),
            FoundHead::Good(head) if head.tip.seq > tip.seq => Some(Trouble::RecordsMissing),
            FoundHead::Good(head) if sealed.is_some_and(|hash| hash != head.tip.hash) => Some(Trouble::RecordsMissing),
            FoundHead::Good(_) if self.durable.is_some() => Some(Trouble::WriteFailed),
            FoundHead::Good(_) => (!found.torn.is_empty()).then_some(Trouble::Torn),
        }
    }

    fn go_on_in(&mut self, name: FileName, scanned: &Scanned, tip: Tip) -> io::Result<()> {
        let file = self.disk.append(&name.to_string())?;
        self.durable = Some(tip);
        let begun = scanned.begun.unwrap_or(SystemTime::UNIX_EPOCH);
        self.current = Some(Current { name, file, length: scanned.whole, begun });
        Ok(())
    }

    /// Begins a file with these records and a seal.
    fn open_new(
        &mut self,
        before: Tip,
        attempt: u32,
        marks: impl FnOnce(FileName) -> Vec<Mark>,
        now: SystemTime,
    ) -> io::Result<TakenUp> {
        let name = FileName { first: before.seq + 1, attempt };
        self.leave(false);
        self.abandoned = Some(name.clone());
        let mut out = Vec::new();
        let tip = marks(name.clone()).iter().fold(before, |tip, mark| mark.push(tip, now, &mut out));
        let tip = push_checkpoint(&self.key, tip, now, &mut out);
        let mut file = self.disk.append(&name.to_string())?;
        write_all(&mut *file, &out)?;
        file.sync()?;
        self.disk.sync()?;
        self.abandoned = None;
        self.current = Some(Current { name, file, length: out.len() as u64, begun: now });
        (self.durable, self.signed, self.head_due) = (Some(tip), tip.seq, true);
        self.write_head(now);
        Ok(TakenUp { trouble: None, torn_bytes: 0, next: before.seq + 1 })
    }

    /// Appends records, of which each body ends where `ends` says, and comes back when they are durable. After an error none of them is,
    /// and nothing is written before the log has been [taken up](Self::take_up) again.
    pub fn commit(&mut self, bodies: &[u8], ends: &[usize]) -> io::Result<()> {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut start = 0;
        let tip = ends.iter().fold(self.durable.unwrap_or(Tip::NONE), |tip, end| {
            let tip = push_line(&bodies[start..*end], tip, &mut out);
            start = *end;
            tip
        });
        let done = self.put(&out, tip);
        self.out = out;
        done
    }

    fn put(&mut self, lines: &[u8], tip: Tip) -> io::Result<()> {
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("the log is not open"))?;
        let written = write_all(&mut *current.file, lines);
        let synced = if written.is_ok() { current.file.sync() } else { Ok(()) };
        let sync_failed = synced.is_err();
        if let Err(error) = written.and(synced) {
            self.leave(sync_failed);
            return Err(error);
        }
        current.length += lines.len() as u64;
        self.durable = Some(tip);
        Ok(())
    }

    /// Writes to the current file no more, and remembers how much of it is durable.
    fn leave(&mut self, sync_failed: bool) {
        if let Some(Current { name, length, .. }) = self.current.take() {
            self.left = Some((name, length, sync_failed));
        }
    }

    /// Signs what no signature covers, and writes the head.
    pub fn seal(&mut self, now: SystemTime) -> io::Result<()> {
        let before = self.durable.unwrap_or(Tip::NONE);
        if before.seq > self.signed {
            let mut out = Vec::new();
            let tip = push_checkpoint(&self.key, before, now, &mut out);
            self.put(&out, tip)?;
            (self.signed, self.head_due) = (tip.seq, true);
        }
        if self.head_due {
            self.write_head(now);
        }
        Ok(())
    }

    /// A head that cannot be written stays due: the log is longer than its head then, which it may be.
    fn write_head(&mut self, now: SystemTime) {
        let head = Head::sign(&self.key, self.durable.unwrap_or(Tip::NONE), now);
        self.head_due = self.disk.replace(HEAD, head.to_json().as_bytes()).is_err();
    }

    /// Closes the file and begins another, where it is large or old enough. Says whether it did.
    pub fn roll(&mut self, now: SystemTime) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        let age = now.duration_since(current.begun).unwrap_or_default();
        if current.length < self.rules.file_bytes && age < self.rules.file_age {
            return Ok(false);
        }
        let before = self.durable.unwrap_or(Tip::NONE);
        let records = before.seq + 1 - current.name.first;
        let closed = Mark::FileClosed { file: current.name.clone(), records, bytes: current.length };
        let mut out = Vec::new();
        let tip = push_checkpoint(&self.key, closed.push(before, now, &mut out), now, &mut out);
        self.put(&out, tip)?;
        (self.signed, self.head_due) = (tip.seq, true);
        self.write_head(now);
        self.open_new(tip, 0, |file| vec![Mark::FileOpened { file }], now)?;
        Ok(true)
    }

    /// Removes the oldest files where there are too many, after that is on the record and signed. Says which went, and whether one is
    /// held by a flag and stays.
    pub fn prune(&mut self, now: SystemTime) -> io::Result<(Vec<FileName>, bool)> {
        let kept = self.kept()?;
        let count = retain::too_many(&kept, &self.rules.keep, now);
        let held = kept.get(count).is_some_and(|file| file.held) && {
            let mut freed = kept.clone();
            freed[count].held = false;
            retain::too_many(&freed, &self.rules.keep, now) > count
        };
        if count == 0 || !self.is_up() {
            return Ok((Vec::new(), held));
        }
        let mut out = Vec::new();
        let mut tip = self.durable.unwrap_or(Tip::NONE);
        for (at, file) in kept[..count].iter().enumerate() {
            let Some(last) = retain::end_of(&kept, at) else { break };
            tip = Mark::Pruned { file: file.name.clone(), bytes: file.bytes, last }.push(tip, now, &mut out);
        }
        let tip = push_checkpoint(&self.key, tip, now, &mut out);
        self.put(&out, tip)?;
        (self.signed, self.head_due) = (tip.seq, true);
        self.write_head(now);
        let gone: Vec<_> = kept[..count].iter().map(|file| file.name.clone()).collect();
        for name in &gone {
            self.disk.remove(&name.to_string())?;
        }
        self.disk.sync()?;
        Ok((gone, held))
    }

    fn kept(&self) -> io::Result<Vec<Kept>> {
        let names = files::list(&*self.disk)?;
        let kept = names.into_iter().map(|name| {
            let text = name.to_string();
            let mut start = vec![0; LONGEST];
            let length = self.disk.read(&text, 0, &mut start)?;
            let line = start[..length].split(|b| *b == b'\n').next().unwrap_or_default();
            let link = Link::of(line).filter(|link| link.seq == name.first);
            let begins = link.and_then(|link| Some((parse_time(link.time)?, Tip { seq: link.seq - 1, hash: link.prev })));
            let (bytes, held) = (self.disk.len(&text)?, self.disk.is_append_only(&text));
            Ok(Kept { name, bytes, begins, held })
        });
        kept.collect()
    }
}

/// What is on disk.
struct Found {
    /// The last file with a whole record.
    last: Option<(FileName, Scanned)>,
    /// What stands after it, oldest first.
    torn: Vec<Torn>,
}

impl Found {
    fn tip(&self) -> Tip {
        self.last.as_ref().and_then(|(_, scanned)| scanned.tip).unwrap_or(Tip::NONE)
    }

    /// What the next record follows. Where records are missing, no number is given twice.
    fn goes_on_from(&self, head: &FoundHead, durable: Option<Tip>, trouble: Option<Trouble>) -> Tip {
        let tip = self.tip();
        if trouble != Some(Trouble::RecordsMissing) {
            return tip;
        }
        let highest = self.last.as_ref().map_or(0, |(_, scanned)| scanned.highest);
        let sealed = if let FoundHead::Good(head) = head { head.tip.seq } else { 0 };
        Tip { seq: tip.seq.max(highest).max(sealed).max(durable.map_or(0, |tip| tip.seq)), ..tip }
    }
}

fn first_marks(
    file: FileName,
    trouble: Option<Trouble>,
    torn: Vec<Torn>,
    lost: u64,
    old_key: Option<super::key::KeyId>,
) -> Vec<Mark> {
    let Some(trouble) = trouble else { return vec![Mark::FileOpened { file }] };
    let said = |torn| Mark::Recovered { trouble, torn, lost, old_key: old_key.clone() };
    match torn.len() {
        0 => vec![said(None)],
        _ => torn.into_iter().map(|torn| said(Some(torn))).collect(),
    }
}

/// A file of this number may be there already, with not one whole record. An empty one is taken.
fn next_attempt(disk: &dyn Disk, names: &[FileName], first: u64) -> io::Result<u32> {
    let Some(last) = names.iter().rfind(|name| name.first == first) else { return Ok(0) };
    Ok(if disk.len(&last.to_string())? == 0 { last.attempt } else { last.attempt + 1 })
}

fn write_all(file: &mut dyn Append, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Which files there are, in the order of the chain, and the signed head.

use std::{io, time::SystemTime};

use serde::Deserialize;

use super::{
    disk::Disk,
    key::{KeyId, PublicKey, Purpose, Signature, SigningKey},
    line::{Clock, Tip, hash, parse_hex, push_hex},
    marks::Mark,
};
use crate::peer::Sha256;

/// `audit-00000000000000000001.jsonl`: a file is named by the first record that was meant for it. Where an earlier attempt left such
/// a file without one whole record, the next has `.1`, `.2` and so on after the number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    pub first: u64,
    pub attempt: u32,
}

impl FileName {
    pub fn parse(name: &str) -> Option<Self> {
        let middle = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        let (first, attempt) = middle.split_once('.').unwrap_or((middle, "0"));
        let parsed = Self { first: first.parse().ok()?, attempt: attempt.parse().ok()? };
        // One way to write each, or two files could claim one place.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.attempt {
            0 => write!(f, "audit-{:020}.jsonl", self.first),
            attempt => write!(f, "audit-{:020}.{attempt}.jsonl", self.first),
        }
    }
}

/// The log's files, oldest first.
pub fn list(disk: &dyn Disk) -> io::Result<Vec<FileName>> {
    let mut names: Vec<_> = disk.list()?.iter().filter_map(|name| FileName::parse(name)).collect();
    names.sort();
    Ok(names)
}

/// The name of the head in the log's directory.
pub const HEAD: &str = "head.json";

/// The signed statement that the log is no shorter than this: what makes a cut-off tail stand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub tip: Tip,
    pub time: String,
    pub key: KeyId,
    pub signature: Signature,
}

/// What is found in the head's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundHead {
    Missing,
    /// It is no head, or its signature is wrong.
    Bad,
    /// By a key that was not given.
    Foreign(Head),
    Good(Head),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    seq: u64,
    hash: String,
    time: String,
    key_id: String,
    signature: String,
}

impl Head {
    pub fn sign(key: &SigningKey, tip: Tip, now: SystemTime) -> Self {
        let mut time = Vec::new();
        Clock::default().push(now, &mut time);
        let signature = key.sign(Purpose::Head, &tip, &time);
        Self { tip, time: String::from_utf8_lossy(&time).into_owned(), key: key.public().id(), signature }
    }

    pub fn to_json(&self) -> String {
        let mut signature = Vec::with_capacity(128);
        push_hex(&self.signature, &mut signature);
        format!(
            "{{\"v\":1,\"seq\":{},\"hash\":\"{}\",\"time\":\"{}\",\"key_id\":\"{}\",\"signature\":\"{}\"}}\n",
            self.tip.seq,
            self.tip.hash,
            self.time,
            self.key,
            String::from_utf8_lossy(&signature)
        )
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(text).ok()?;
        let tip = Tip { seq: raw.seq, hash: Sha256(parse_hex(raw.hash.as_bytes())?) };
        let signature = parse_hex(raw.signature.as_bytes())?;
        let head = Self { tip, time: raw.time, key: KeyId(raw.key_id), signature };
        (raw.v == 1 && head.to_json().as_bytes() == text).then_some(head)
    }
}

/// Reads the head and checks it against these keys.
pub fn read_head(disk: &dyn Disk, keys: &[PublicKey]) -> io::Result<FoundHead> {
    let mut text = vec![0; 4096];
    match disk.read(HEAD, 0, &mut text) {
        Ok(length) => text.truncate(length),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FoundHead::Missing),
        Err(error) => return Err(error),
    }
    let Some(head) = Head::parse(&text) else { return Ok(FoundHead::Bad) };
    Ok(match keys.iter().find(|key| key.id() == head.key) {
        None => FoundHead::Foreign(head),
        Some(key) if key.has_signed(Purpose::Head, &head.tip, head.time.as_bytes(), &head.signature) => FoundHead::Good(head),
        Some(_) => FoundHead::Bad,
    })
}

/// What stands in a file after its last whole record: nothing that was ever acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    pub file: FileName,
    pub from: u64,
    pub bytes: u64,
    pub sha256: Sha256,
    /// Is the disk known to hold it as it was read? Not after a failed sync.
    pub synced: bool,
}

impl Torn {
    /// Looks at what stands after `from`. `None`: nothing.
    pub fn read(disk: &dyn Disk, file: &FileName, from: u64, synced: bool) -> io::Result<Option<Self>> {
        let name = file.to_string();
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let (mut at, mut buffer) = (from, vec![0; 64 * 1024]);
        loop {
            let count = disk.read(&name, at, &mut buffer)?;
            context.update(&buffer[..count]);
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(context.finish().as_ref());
        Ok((at > from).then(|| Self { file: file.clone(), from, bytes: at - from, sha256: Sha256(sha256), synced }))
    }

    /// Does what stands there now match what was declared?
    pub fn is(&self, declared: &Self) -> bool {
        let place = (self.file == declared.file) && self.from == declared.from;
        place && (!declared.synced || (self.bytes == declared.bytes && self.sha256 == declared.sha256))
    }
}

/// What the first records of files declare about those before them. Whether these are in the chain is for others to find out.
pub fn declared(disk: &dyn Disk, names: &[FileName]) -> io::Result<Vec<Torn>> {
    let mut declared = Vec::new();
    for file in names {
        lines(disk, &file.to_string(), 0, u64::MAX, &mut |_, line, ended| {
            let Some(Mark::Recovered { torn, .. }) = ended.then(|| Mark::parse(line)).flatten() else { return false };
            declared.extend(torn.filter(|torn| torn.file < *file));
            true
        })?;
    }
    // Where there are two about one file, the first place is where its records end.
    declared.sort_by(|one, other| (&one.file, one.from).cmp(&(&other.file, other.from)));
    Ok(declared)
}

/// The log's files, and how much of each is records; at the end of the last there may be less.
pub fn whole_parts(disk: &dyn Disk) -> io::Result<Vec<(FileName, u64)>> {
    let names = list(disk)?;
    let declared = declared(disk, &names)?;
    let whole = |name: FileName| {
        let length = disk.len(&name.to_string())?;
        let torn = declared.iter().find(|torn| torn.file == name);
        Ok((name, torn.map_or(length, |torn| torn.from.min(length))))
    };
    names.into_iter().map(whole).collect()
}

/// One file, read line by line while each line follows the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// What the chain has come to at the end of what is whole. `None`: the file has no whole record.
    pub tip: Option<Tip>,
    /// How many bytes are whole.
    pub whole: u64,
    /// The `prev` of its first record.
    pub first_prev: Option<Sha256>,
    /// Was the file closed?
    pub closed: bool,
    /// The time of the first record.
    pub begun: Option<SystemTime>,
    /// The highest number of any line that looks like a record, be it in the chain or not.
    pub highest: u64,
    /// The hash of the record of the number that was looked for.
    pub looked_up: Option<Sha256>,
}

/// Reads a file from its start, as far as `limit` bytes, and looks up the hash of one record on the way.
pub fn scan(disk: &dyn Disk, file: &FileName, limit: u64, look_up: u64) -> io::Result<Scanned> {
    let mut found = Scanned { tip: None, whole: 0, first_prev: None, closed: false, begun: None, highest: 0, looked_up: None };
    let mut torn = false;
    lines(disk, &file.to_string(), 0, limit, &mut |at, line, ended| {
        let link = super::line::Link::of(line).filter(|_| ended);
        let follows = |link: &super::line::Link<'_>| match &found.tip {
            Some(tip) => link.follows(tip),
            None => link.seq == file.first,
        };
        found.highest = found.highest.max(link.map_or(0, |link| link.seq));
        let Some(link) = link.filter(follows).filter(|_| !torn) else {
            torn = true;
            return true;
        };
        let hash = hash(line);
        if link.seq == look_up {
            found.looked_up = Some(hash);
        }
        found.closed = link.event == b"audit.file-closed" || (found.closed && link.event == b"audit.checkpoint");
        found.first_prev.get_or_insert(link.prev);
        found.begun = found.begun.or_else(|| super::line::parse_time(link.time));
        found.tip = Some(Tip { seq: link.seq, hash });
        found.whole = at + line.len() as u64 + 1;
        true
    })?;
    Ok(found)
}

/// Tells each line from an offset on: where it begins, the line without its end, and whether it has one. What is longer than a record
/// may be is told in pieces without an end. Stops when `tell` says `false`.
pub fn lines(
    disk: &dyn Disk,
    name: &str,
    from: u64,
    limit: u64,
    tell: &mut dyn FnMut(u64, &[u8], bool) -> bool,
) -> io::Result<()> {
    const LARGEST: usize = 1 << 20;
    // Small at first: often the first lines are all that is asked for.
    let mut block = super::line::LONGEST;
    let (mut at, mut buffer, mut held) = (from, Vec::new(), 0);
    loop {
        buffer.resize(block + super::line::LONGEST, 0);
        let most = (limit.saturating_sub(at + held as u64)).min(block as u64) as usize;
        block = (block * 4).min(LARGEST);
        let count = disk.read(name, at + held as u64, &mut buffer[held..held + most])?;
        let text = &buffer[..held + count];
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &text[start..]) {
            if !tell(at + start as u64, &text[start..start + end], end < super::line::LONGEST) {
                return Ok(());
            }
            start += end + 1;
        }
        let over = text.len() - start;
        let last = count < most || most == 0;
        if over > 0 && (last || over >= super::line::LONGEST) {
            if !tell(at + start as u64, &text[start..], false) {
                return Ok(());
            }
            start = text.len();
        }
        let length = text.len();
        if last {
            return Ok(());
        }
        buffer.copy_within(start..length, 0);
        (at, held) = (at + start as u64, length - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_in_one_way() {
        for (first, attempt, name) in [(1, 0, "audit-00000000000000000001.jsonl"), (99, 2, "audit-00000000000000000099.2.jsonl")]
        {
            assert_eq!(FileName { first, attempt }.to_string(), name);
            assert_eq!(FileName::parse(name), Some(FileName { first, attempt }));
        }
        for bad in ["audit-1.jsonl", "audit-00000000000000000001.0.jsonl", "audit-00000000000000000001.jsonl.gz", "head.json"] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
        assert!(FileName { first: 7, attempt: 1 } > FileName { first: 7, attempt: 0 });
    }

    #[test]
    fn a_head_reads_back_and_not_when_it_was_touched() {
        let key = SigningKey::generate().unwrap();
        let head = Head::sign(&key, Tip { seq: 5, hash: Sha256([9; 32]) }, SystemTime::now());
        assert_eq!(Head::parse(head.to_json().as_bytes()), Some(head.clone()));
        assert_eq!(Head::parse(head.to_json().trim_end().as_bytes()), None);
        assert_eq!(Head::parse(b"{}"), None);
    }
}

//! Reading the log without verifying it: what a query asks for, and what follows as it is written.
//!
//! Fields of a record are found by their exact bytes, `,"tool":"billing"`: no text within a record can look so, because a quotation mark
//! within a text has a backslash before it. So a record is parsed only where it is shown.

mod usage;

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    time::{Duration, SystemTime},
};

use memchr::memmem::Finder;

use super::{
    disk::Disk,
    files::{self, FileName},
    in_order::{self, cut},
    line::{LONGEST, Link},
};

pub use super::line::parse_time;
pub use usage::{Usage, Use, usage};

/// What a record must say. `None`: anything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tool: Option<String>,
    pub secret: Option<String>,
    pub session: Option<String>,
    pub event: Option<String>,
    pub outcome: Option<String>,
    /// Not before, and before.
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
}

/// A filter, made ready to be asked of many records.
struct Needles {
    fields: Vec<Finder<'static>>,
    since: Option<Vec<u8>>,
    until: Option<Vec<u8>>,
}

impl Needles {
    fn of(filter: &Filter) -> Self {
        let fields = [
            ("tool", &filter.tool),
            ("secret", &filter.secret),
            ("session", &filter.session),
            ("event", &filter.event),
            ("outcome", &filter.outcome),
        ];
        let needle = |(field, wanted): (&str, &Option<String>)| {
            let json = serde_json::to_string(wanted.as_ref()?).ok()?;
            Some(Finder::new(format!(",\"{field}\":{json}").as_bytes()).into_owned())
        };
        let time = |time: SystemTime| {
            let mut text = Vec::new();
            super::line::Clock::default().push(time, &mut text);
            text
        };
        Self {
            fields: fields.into_iter().filter_map(needle).collect(),
            since: filter.since.map(time),
            until: filter.until.map(time),
        }
    }

    /// Times are written so that their texts sort as they do.
    fn fit(&self, line: &[u8], link: &Link<'_>) -> bool {
        self.since.as_ref().is_none_or(|since| link.time >= since.as_slice())
            && self.until.as_ref().is_none_or(|until| link.time < until.as_slice())
            && self.fields.iter().all(|needle| needle.find(line).is_some())
    }
}

/// Counts of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    pub first: Option<String>,
    pub last: Option<String>,
    pub events: BTreeMap<String, u64>,
    pub outcomes: BTreeMap<String, u64>,
    pub tools: BTreeMap<String, u64>,
    pub secrets: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, line: &[u8], link: &Link<'_>) {
        self.records += 1;
        let time = String::from_utf8_lossy(link.time);
        if self.first.is_none() {
            self.first = Some(time.to_string());
        }
        self.last = Some(time.into_owned());
        // One record may stand for several.
        let count = number(line, b",\"count\":");
        let count = if matches!(link.event, b"denials.summed" | b"redaction.found") { count.unwrap_or(1) } else { 1 };
        let tally = |counts: &mut BTreeMap<String, u64>, word: Option<&[u8]>| {
            let Some(word) = word.and_then(|word| std::str::from_utf8(word).ok()) else { return };
            match counts.get_mut(word) {
                Some(so_far) => *so_far += count,
                None => _ = counts.insert(word.to_owned(), count),
            }
        };
        tally(&mut self.events, Some(link.event));
        tally(&mut self.outcomes, field(line, b",\"outcome\":\""));
        tally(&mut self.tools, field(line, b",\"tool\":\""));
        tally(&mut self.secrets, field(line, b",\"secret\":\""));
    }

    fn join(&mut self, other: Self) {
        self.records += other.records;
        self.first = self.first.take().or(other.first);
        self.last = other.last.or(self.last.take());
        let both = [
            (&mut self.events, other.events),
            (&mut self.outcomes, other.outcomes),
            (&mut self.tools, other.tools),
            (&mut self.secrets, other.secrets),
        ];
        for (ours, theirs) in both {
            theirs.into_iter().for_each(|(word, count)| *ours.entry(word).or_default() += count);
        }
    }
}

/// What stands after a key, up to the end of a text or a number that needs no escaping.
fn field<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &line[memchr::memmem::find(line, key)? + key.len()..];
    Some(&rest[..rest.iter().position(|b| matches!(b, b'"' | b',' | b'}'))?])
}

fn number(line: &[u8], key: &[u8]) -> Option<u64> {
    std::str::from_utf8(field(line, key)?).ok()?.parse().ok()
}

/// What a query is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Records,
    Counts,
}

#[derive(Default)]
struct Found {
    lines: Vec<u8>,
    summary: Summary,
}

/// Tells the records that fit, oldest first, several at a time and each with its end; and counts them where that is wanted instead. On
/// several cores; memory does not grow with the log.
pub fn query(
    disk: &dyn Disk,
    filter: &Filter,
    wanted: Wanted,
    threads: usize,
    tell: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Summary> {
    let add = |found: &mut Found, line: &[u8], link: &Link<'_>| match wanted {
        Wanted::Counts => found.summary.add(line, link),
        Wanted::Records => {
            found.lines.extend_from_slice(line);
            found.lines.push(b'\n');
            found.summary.records += 1;
        }
    };
    let mut summary = Summary::default();
    each_piece(disk, filter, threads, &add, &mut |found: Found| {
        summary.join(found.summary);
        if found.lines.is_empty() { Ok(()) } else { tell(&found.lines) }
    })?;
    Ok(summary)
}

/// Adds the records that fit to what is kept of each piece of the log, on several cores, and takes the pieces in order.
fn each_piece<T: Default + Send>(
    disk: &dyn Disk,
    filter: &Filter,
    threads: usize,
    add: &(dyn Fn(&mut T, &[u8], &Link<'_>) + Sync),
    take: &mut dyn FnMut(T) -> io::Result<()>,
) -> io::Result<()> {
    let needles = Needles::of(filter);
    let files = within(disk, filter)?;
    let mut plan = Vec::new();
    for (name, whole) in &files {
        plan.extend(cut(*whole).map(|range| (name, range)));
    }
    let read = |(name, range): &(&FileName, Range<u64>)| {
        let mut kept = T::default();
        in_order::lines_of(disk, name, range.clone(), &mut |line| {
            if let Some(line) = line
                && let Some(link) = Link::of(line)
                && needles.fit(line, &link)
            {
                add(&mut kept, line, &link);
            }
            true
        })?;
        Ok(kept)
    };
    in_order::each(&plan, threads, read, |results| {
        for _ in &plan {
            take(results.next()?)?;
        }
        Ok(())
    })
}

/// The files that may hold records of the filter's time, and how much of each is records.
fn within(disk: &dyn Disk, filter: &Filter) -> io::Result<Vec<(FileName, u64)>> {
    /// A host's clock is set back now and then; by more than this it is not.
    const MARGIN: Duration = Duration::from_secs(86_400);
    let files = files::whole_parts(disk)?;
    let begins: Vec<_> = files.iter().map(|(name, _)| begins(disk, name)).collect::<io::Result<_>>()?;
    let kept = files.into_iter().enumerate().filter(|(at, _)| {
        let next = begins[at + 1..].iter().find_map(|begins| *begins);
        let too_old = filter.since.zip(next).is_some_and(|(since, next)| next + MARGIN < since);
        let too_new = filter.until.zip(begins[*at]).is_some_and(|(until, begins)| begins > until + MARGIN);
        !too_old && !too_new
    });
    Ok(kept.map(|(_, file)| file).collect())
}

/// The time of a file's first record.
fn begins(disk: &dyn Disk, name: &FileName) -> io::Result<Option<SystemTime>> {
    let mut start = vec![0; LONGEST];
    let length = disk.read(&name.to_string(), 0, &mut start)?;
    let line = start[..length].split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(Link::of(line).and_then(|link| parse_time(link.time)))
}

/// Reads on, over the ends of files.
pub struct Follow<'a> {
    disk: &'a dyn Disk,
    file: Option<FileName>,
    offset: u64,
}

impl<'a> Follow<'a> {
    /// From so many records before the end.
    pub fn from_end(disk: &'a dyn Disk, records: usize) -> io::Result<Self> {
        let names = files::list(disk)?;
        let mut left = records;
        if left == 0 {
            let offset = names.last().map_or(Ok(0), |name| disk.len(&name.to_string()))?;
            return Ok(Self { disk, file: names.last().cloned(), offset });
        }
        for name in names.iter().rev() {
            let mut starts = Vec::new();
            let text = name.to_string();
            // The end of a file is enough for most.
            let from = disk.len(&text)?.saturating_sub((left.saturating_mul(1024) as u64).max(LONGEST as u64));
            files::lines(disk, &text, from, u64::MAX, &mut |at, line, ended| {
                if ended && Link::of(line).is_some() {
                    starts.push(at);
                }
                true
            })?;
            if let Some(at) = starts.len().checked_sub(left) {
                return Ok(Self { disk, file: Some(name.clone()), offset: starts[at] });
            }
            left -= starts.len();
        }
        Ok(Self { disk, file: names.first().cloned(), offset: 0 })
    }

    /// Tells the records that were written since.
    pub fn read_on(&mut self, tell: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            let names = files::list(self.disk)?;
            let Some(file) = self.file.clone().or_else(|| names.first().cloned()) else { return Ok(()) };
            // Looked up before the file is read to its end: what is written to it comes before what is written to the next.
            let next = names.into_iter().find(|name| *name > file);
            let mut offset = self.offset;
            let read = files::lines(self.disk, &file.to_string(), offset, u64::MAX, &mut |at, line, ended| {
                if ended {
                    offset = at + line.len() as u64 + 1;
                    if Link::of(line).is_some() {
                        tell(line);
                    }
                }
                true
            });
            match read {
                // It was pruned meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && next.is_some() => {}
                read => read?,
            }
            (self.file, self.offset) = (Some(file), offset);
            let Some(next) = next else { return Ok(()) };
            (self.file, self.offset) = (Some(next), 0);
        }
    }
}

#[cfg(test)]
mod tests;

//! A disk that fails as disks do, for tests: short writes, no space, errors of a sync, and power cuts that keep what was synced and any
//! part of what was not.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use super::{Append, Disk};

pub const SECTOR: usize = 512;

/// What goes wrong next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This many bytes fit, and no more until space is made.
    Full { after: usize },
    /// A write takes only a part of what it is given; the rest is taken by the next.
    Short,
    /// A write fails.
    WriteError,
    /// A sync fails, and what was not durable is called clean.
    SyncError,
    /// Everything that would change something fails.
    ReadOnly,
    /// The directory cannot be synced.
    DirectoryError,
}

#[derive(Debug, Clone, Default)]
struct Content {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is on the disk.
    durable: Vec<u8>,
    /// What the kernel would still write: sectors that differ and have not failed.
    dirty: std::collections::BTreeSet<usize>,
}

impl Content {
    fn sectors(&self) -> usize {
        self.seen.len().div_ceil(SECTOR)
    }

    fn persist(&mut self, sector: usize) {
        let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.seen.len()));
        if from >= to {
            return;
        }
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.seen[from..to]);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, usize>,
    /// Which files there are after a power cut.
    durable_names: BTreeMap<String, usize>,
    contents: Vec<Content>,
    fault: Option<Fault>,
    /// Of the process that has the disk open; what an older one writes is lost.
    process: u64,
}

#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl FaultyDisk {
    pub fn fail(&self, fault: Option<Fault>) {
        self.0.lock().unwrap().fault = fault;
    }

    /// The process is killed: what it wrote stays as the kernel has it.
    pub fn kill(&self) {
        let mut state = self.0.lock().unwrap();
        state.process += 1;
        state.fault = None;
    }

    /// The power is cut: of what was not synced, each sector is kept or not as `dice` says.
    pub fn cut_power(&self, mut dice: impl FnMut() -> u64) {
        let mut state = self.0.lock().unwrap();
        state.process += 1;
        state.fault = None;
        // Which names there are: those that were durable, and any of the newer.
        let newer: Vec<_> = state.files.iter().map(|(name, at)| (name.clone(), *at)).collect();
        for (name, at) in newer {
            if state.durable_names.get(&name) != Some(&at) && dice() % 2 == 0 {
                state.durable_names.insert(name, at);
            }
        }
        let gone: Vec<_> = state.durable_names.keys().filter(|name| !state.files.contains_key(*name)).cloned().collect();
        for name in gone {
            if dice() % 2 == 0 {
                state.durable_names.remove(&name);
            }
        }
        state.files = state.durable_names.clone();
        for content in &mut state.contents {
            for sector in 0..content.sectors() {
                if content.dirty.contains(&sector) && dice() % 2 == 0 {
                    content.persist(sector);
                }
            }
            // Blocks may be allocated, and hold zeros.
            if dice() % 4 == 0 && content.durable.len() < content.seen.len() {
                content.durable.resize(content.seen.len(), 0);
            }
            content.seen = content.durable.clone();
            content.dirty.clear();
        }
    }

    /// What is in a file, for tests that change it.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.lock().unwrap();
        Some(state.contents[*state.files.get(name)?].seen.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        let at = state.contents.len();
        state.contents.push(Content { durable: content.clone(), seen: content, dirty: Default::default() });
        state.files.insert(name.into(), at);
        state.durable_names.insert(name.into(), at);
    }

    /// A disk of its own with the same content.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        let state = self.0.lock().unwrap();
        state.files.iter().for_each(|(name, at)| copy.put(name, state.contents[*at].seen.clone()));
        copy
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().files.keys().cloned().collect()
    }
}

impl State {
    fn may_change(&self) -> io::Result<()> {
        if self.fault == Some(Fault::ReadOnly) { Err(error(libc::EROFS)) } else { Ok(()) }
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.get(name).ok_or_else(|| error(libc::ENOENT))?.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.0.lock().unwrap();
        let content = &state.contents[*state.files.get(name).ok_or_else(|| error(libc::ENOENT))?].seen;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Append>> {
        let mut state = self.0.lock().unwrap();
        state.may_change()?;
        let at = state.files.get(name).copied().unwrap_or_else(|| {
            state.contents.push(Content::default());
            let at = state.contents.len() - 1;
            state.files.insert(name.into(), at);
            at
        });
        Ok(Box::new(Appended { disk: self.clone(), at, process: state.process }))
    }

    fn settle(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.may_change()?;
        if state.fault == Some(Fault::SyncError) {
            return Err(error(libc::EIO));
        }
        let at = *state.files.get(name).ok_or_else(|| error(libc::ENOENT))?;
        let content = &mut state.contents[at];
        content.sync();
        content.seen = content.durable.clone();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if matches!(state.fault, Some(Fault::DirectoryError | Fault::SyncError)) {
            return Err(error(libc::EIO));
        }
        state.durable_names = state.files.clone();
        Ok(())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.may_change()?;
        if matches!(state.fault, Some(Fault::SyncError | Fault::WriteError | Fault::Full { .. })) {
            return Err(error(libc::ENOSPC));
        }
        let at = state.contents.len();
        state.contents.push(Content { seen: content.into(), durable: content.into(), dirty: Default::default() });
        state.files.insert(name.into(), at);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.may_change()?;
        state.files.remove(name).map(|_| ()).ok_or_else(|| error(libc::ENOENT))
    }

    fn is_append_only(&self, _: &str) -> bool {
        false
    }
}

struct Appended {
    disk: FaultyDisk,
    at: usize,
    process: u64,
}

impl Append for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        assert_eq!(state.process, self.process, "a process that is gone writes");
        let count = match &mut state.fault {
            Some(Fault::ReadOnly) => return Err(error(libc::EROFS)),
            Some(Fault::WriteError) => return Err(error(libc::EIO)),
            Some(Fault::Full { after: 0 }) => return Err(error(libc::ENOSPC)),
            Some(Fault::Full { after }) => {
                let count = bytes.len().min(*after);
                *after -= count;
                count
            }
            Some(Fault::Short) => bytes.len().div_ceil(3),
            _ => bytes.len(),
        };
        let content = &mut state.contents[self.at];
        let from = content.seen.len();
        content.seen.extend_from_slice(&bytes[..count]);
        content.dirty.extend(from / SECTOR..content.sectors());
        Ok(count)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let failing = state.fault == Some(Fault::SyncError);
        let content = &mut state.contents[self.at];
        if failing {
            // Some of it may have reached the disk; the kernel forgets the rest.
            let dirty = std::mem::take(&mut content.dirty);
            dirty.into_iter().filter(|sector| sector % 2 == 0).for_each(|sector| content.persist(sector));
            return Err(error(libc::EIO));
        }
        content.sync();
        Ok(())
    }
}

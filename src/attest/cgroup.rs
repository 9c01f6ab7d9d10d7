//! From a cgroup's id, which the kernel tells of a pidfd, to its path, its unit and its unit's invocation.
//!
//! The id is the inode number of the cgroup's directory. So a path from `/proc/PID/cgroup` need not be believed: it is right if what
//! stands there has that inode number. Where `/proc` does not show other processes (`ProtectProc=invisible`), the tree is searched
//! for the number. cgroup2 has no rename and gives no number twice, and a directory stays as long as a process is below it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    invocation::{Run, Units},
    refusal::Refusal,
    unit::{self, BadPath},
};
use crate::peer::Unit;

/// Paths kept by id. Forgotten all at once beyond that: they are found again.
const KEPT: usize = 4096;

/// Directories that one search looks at. A process with a cgroup of its own (`Delegate=`) can make many.
const SEARCHED: usize = 100_000;

/// Where a process runs, as far as a cgroup tells.
#[derive(Debug)]
pub enum Place {
    /// In a system unit, and in this run of it.
    Unit(Unit, Option<Run>),
    /// With systemd itself, in no unit.
    Manager,
    /// In none that proves more than a user.
    Elsewhere,
}

/// The host's cgroup2 tree.
#[derive(Debug)]
pub struct Tree {
    mount: Option<PathBuf>,
    /// `/proc` shows this pid namespace's processes.
    proc: bool,
    units: Option<Units>,
    paths: Mutex<HashMap<u64, Arc<str>>>,
}

impl Tree {
    pub fn find(proc: bool) -> Self {
        let mount = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| cgroup2_mount(&text));
        Self { mount, proc, units: Units::find(), paths: Mutex::default() }
    }

    pub fn mount(&self) -> Option<&Path> {
        self.mount.as_deref()
    }

    /// The id of the cgroup at this path. 0 where there is no tree: then no unit is told either.
    pub fn id(&self, path: &str) -> Result<u64, Refusal> {
        let Some(mount) = &self.mount else { return Ok(0) };
        unit::unit_of(path)?; // refuses `..`
        inode(mount, path).ok_or(Refusal::CgroupNotFound)
    }

    /// Where a process with this number and this cgroup runs. Right if the process still lives after the call.
    pub fn place(&self, pid: u32, id: u64) -> Result<Place, Refusal> {
        let Some(mount) = &self.mount else { return Ok(Place::Elsewhere) };
        let path = self.path(mount, pid, id)?;
        match unit::unit_of(&path)? {
            Some(found) => {
                let directory = below(mount, found.directory);
                let cgroup = rustix::fs::stat(&directory).map_err(|e| Refusal::kernel("stat of the unit's cgroup", e))?.st_ino;
                let run = Run::of(found.name, &directory, self.units.as_ref());
                let invocation = run.as_ref().map(|run| run.invocation().to_owned());
                Ok(Place::Unit(Unit { name: found.name.to_owned(), invocation, cgroup }, run))
            }
            None if unit::is_manager(&path) => Ok(Place::Manager),
            None => Ok(Place::Elsewhere),
        }
    }

    fn path(&self, mount: &Path, pid: u32, id: u64) -> Result<Arc<str>, Refusal> {
        let known = self.paths.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(path) = known.filter(|path| inode(mount, path) == Some(id)) {
            return Ok(path);
        }
        let path: Arc<str> = match self.told(pid)? {
            Some(path) if inode(mount, &path) == Some(id) => path.into(),
            _ => search(mount, id)?.ok_or(Refusal::CgroupNotFound)?.into(),
        };
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= KEPT {
            paths.clear();
        }
        paths.insert(id, Arc::clone(&path));
        Ok(path)
    }

    /// What `/proc` says, where it says anything. A path that leads out of the daemon's cgroup namespace is refused at once.
    fn told(&self, pid: u32) -> Result<Option<String>, Refusal> {
        if !self.proc {
            return Ok(None);
        }
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return Ok(None) };
        let Some(path) = unit::own_path(&text)? else { return Ok(None) };
        match unit::unit_of(path) {
            Err(BadPath::Outside) => Err(BadPath::Outside.into()),
            Err(_) => Ok(None),
            Ok(_) => Ok(Some(path.to_owned())),
        }
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn inode(mount: &Path, path: &str) -> Option<u64> {
    rustix::fs::lstat(below(mount, path)).ok().map(|found| found.st_ino)
}

fn search(mount: &Path, id: u64) -> Result<Option<String>, Refusal> {
    if inode(mount, "/") == Some(id) {
        return Ok(Some("/".into()));
    }
    let mut left = SEARCHED;
    let mut open = vec![mount.to_owned()];
    while let Some(directory) = open.pop() {
        // Removed since it was listed: not the one, which has a process in it.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.ino() == id {
                let path = entry.path();
                let path = path.strip_prefix(mount).ok().and_then(Path::to_str).ok_or(BadPath::Malformed)?;
                return Ok(Some(format!("/{path}")));
            }
            left = left.checked_sub(1).ok_or(Refusal::CgroupNotFound)?;
            open.push(entry.path());
        }
    }
    Ok(None)
}

/// The mount point of the whole tree: `36 35 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw` (proc_pid_mountinfo(5)).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A part of the tree mounted by itself would make a unit of what is not.
        (kind.starts_with("cgroup2 ") && root == "/" && !point.contains('\\')).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_cgroup2_tree_is_found_in_mountinfo() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let shared = "36 35 0:30 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(shared), Some("/sys/fs/cgroup".into()));
        let part = "36 35 0:30 /docker/0123 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(part), None);
        assert_eq!(cgroup2_mount(""), None);
    }

    #[test]
    fn the_top_of_the_tree_is_found_by_its_id() {
        let Some(mount) = Tree::find(true).mount else { return };
        let top = inode(&mount, "/").unwrap();
        assert_eq!(search(&mount, top), Ok(Some("/".into())));
        assert_eq!(search(&mount, u64::MAX), Ok(None));
    }
}

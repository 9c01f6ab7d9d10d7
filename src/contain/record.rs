//! Which tools are contained, on disk: a file for each. That it is there blocks the tool, whatever stands in it. No value is ever in it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    name::{SecretName, ToolName, Version},
    refresh::own_file,
};

/// A tool that is contained, and how far what that takes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of this format.
    format: u32,
    tool: String,
    /// Who ordered it, in words: `operator uid 1000`, `alarm canary`.
    pub by: String,
    /// Why, as whoever ordered it said.
    pub reason: String,
    since: u64,
    /// How long those who share a secret have to move, in seconds.
    overlap: u64,
    /// Sessions that were ended.
    pub stopped: Vec<Stopped>,
    /// The unit that the tool is, where policy wants that stopped.
    pub unit: Option<Unit>,
    /// What the tool held, by secret.
    pub parts: BTreeMap<String, Part>,
    /// Why it may have held more, or what else is not as it should be. Empty: nothing.
    pub unknown: String,
    /// It was found out what it held. Until then `parts` says nothing.
    pub looked: bool,
}

/// A session that was ended, or a unit that has credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    pub session: Option<String>,
    /// 0: none on this host is known.
    pub pid: u32,
    pub unit: Option<String>,
    pub remote: Option<String>,
    /// A launcher stops what it started.
    pub by_launcher: bool,
}

/// A unit that is to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    pub name: String,
    pub state: UnitState,
    /// Why it may run on.
    pub problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    Stopping,
    Stopped,
    Running,
}

impl UnitState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Running => "running",
        }
    }
}

/// One secret that the tool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The version that it was handed last.
    version: String,
    pub fate: Fate,
    /// The version that took its place.
    new: Option<String>,
    /// Why it is exposed, or what went wrong last.
    pub problem: String,
    /// Tools that may have it too.
    pub shared_with: Vec<String>,
    /// How it is rotated, where that can be.
    pub way: String,
}

/// What becomes of a secret that a contained tool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Its turn has not come.
    Waiting,
    Rotating,
    /// What the tool has is not current any more, and was retired.
    Rotated,
    /// What the tool has may still be good.
    Exposed,
}

impl Fate {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Rotating => "rotating",
            Self::Rotated => "rotated",
            Self::Exposed => "exposed",
        }
    }

    /// Is there nothing more to be done?
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Rotated | Self::Exposed)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Part {
    pub fn of(version: &Version, shared_with: Vec<String>) -> Self {
        let (problem, way) = (String::new(), String::new());
        Self { version: version.to_string(), fate: Fate::Waiting, new: None, problem, shared_with, way }
    }

    pub fn version(&self) -> Option<Version> {
        self.version.parse().ok()
    }

    pub fn new_version(&self) -> Option<Version> {
        self.new.as_deref().and_then(|new| new.parse().ok())
    }

    pub fn rotated(&mut self, new: Option<&Version>) {
        (self.fate, self.new) = (Fate::Rotated, new.map(ToString::to_string));
    }
}

impl Record {
    pub fn new(tool: &ToolName, by: &str, reason: &str, overlap: Duration, now: SystemTime) -> Self {
        Self {
            format: 1,
            tool: tool.to_string(),
            by: by.into(),
            reason: reason.into(),
            since: seconds(now),
            overlap: overlap.as_secs(),
            stopped: Vec::new(),
            unit: None,
            parts: BTreeMap::new(),
            unknown: String::new(),
            looked: false,
        }
    }

    /// Is there something to be done?
    pub fn is_open(&self) -> bool {
        let stopping = self.unit.as_ref().is_some_and(|unit| unit.state == UnitState::Stopping);
        !self.looked || stopping || self.parts.values().any(|part| !part.fate.is_settled())
    }

    pub fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.since)
    }

    pub fn overlap(&self) -> Duration {
        Duration::from_secs(self.overlap)
    }

    pub fn set_overlap(&mut self, overlap: Duration) {
        self.overlap = overlap.as_secs();
    }

    pub fn part(&mut self, secret: &SecretName) -> Option<&mut Part> {
        self.parts.get_mut(secret.as_str())
    }

    /// Secrets that are still to be seen to.
    pub fn open(&self) -> Vec<SecretName> {
        let open = self.parts.iter().filter(|(_, part)| !part.fate.is_settled());
        open.filter_map(|(secret, _)| secret.parse().ok()).collect()
    }

    /// Those of which the tool may still have what is good.
    pub fn exposed(&self) -> usize {
        self.parts.values().filter(|part| part.fate != Fate::Rotated).count()
    }
}

/// The directory of all records: the daemon's own.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the directory, for its owner alone.
    pub fn take(path: PathBuf) -> Result<Self, String> {
        own_file::take_folder(&path)?;
        Ok(Self(path))
    }

    fn file(&self, tool: &ToolName) -> PathBuf {
        self.0.join(format!("{tool}.json"))
    }

    /// On disk when this returns.
    pub fn write(&self, record: &Record) -> Result<(), String> {
        let tool = record.tool.parse().map_err(|_| "its record names no tool".to_owned())?;
        let mut text = serde_json::to_vec_pretty(record).map_err(|error| error.to_string())?;
        text.push(b'\n');
        own_file::write(&self.file(&tool), &text)
    }

    /// Gone from disk when this returns.
    pub fn remove(&self, tool: &ToolName) -> Result<(), String> {
        let file = self.file(tool);
        own_file::remove(&file).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Every tool that is contained, with its record, or with why that cannot be read.
    pub fn read_all(&self) -> Result<BTreeMap<ToolName, Result<Record, String>>, String> {
        let unreadable = |error: std::io::Error| format!("{}: {error}", self.0.display());
        let mut contained = BTreeMap::new();
        for entry in fs::read_dir(&self.0).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let tool = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|name| name.parse::<ToolName>().ok());
            let Some(tool) = tool else { continue };
            let record = self.read(&tool);
            contained.insert(tool, record);
        }
        Ok(contained)
    }

    fn read(&self, tool: &ToolName) -> Result<Record, String> {
        let path = self.file(tool);
        let text = own_file::read(&path).map_err(|why| format!("{} {why}", path.display()))?.unwrap_or_default();
        let record: Record = serde_json::from_slice(&text).map_err(|_| format!("{} is not of a containment", path.display()))?;
        match record.format == 1 && record.tool == tool.as_str() {
            true => Ok(record),
            false => Err(format!("{} is of another version of valetkeyd, or of another tool", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_reads_back_is_for_its_owner_alone_and_blocks_when_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path().join("contained")).unwrap();
        let tool: ToolName = "billing".parse().unwrap();
        let mut record = Record::new(&tool, "operator uid 0", "seen elsewhere", Duration::from_secs(30), SystemTime::now());
        record.parts.insert("stripe/api-key".into(), Part::of(&Version::from(3), vec!["mail".into()]));
        folder.write(&record).unwrap();
        assert_eq!(folder.read_all().unwrap(), [(tool.clone(), Ok(record.clone()))].into());
        assert_eq!((record.open().len(), record.exposed()), (1, 1));
        record.parts.get_mut("stripe/api-key").unwrap().rotated(Some(&Version::from(4)));
        assert_eq!((record.open().len(), record.exposed()), (0, 0));

        let file = dir.path().join("contained/billing.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        for broken in ["", "{", "{\"format\":9}"] {
            fs::write(&file, broken).unwrap();
            assert!(folder.read_all().unwrap()[&tool].is_err(), "{broken:?} still names the tool");
        }
        folder.remove(&tool).unwrap();
        folder.remove(&tool).unwrap();
        assert!(folder.read_all().unwrap().is_empty());
        fs::remove_dir_all(dir.path().join("contained")).unwrap();
        assert!(folder.read_all().is_err(), "who cannot look does not know that nothing is there");
    }
}

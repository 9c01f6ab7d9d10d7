//! Where each rotation stands, on disk: a file for each secret, replaced as a whole. Names, versions and times; no value is ever in it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{End, Settings, State, Step, Way};
use crate::{
    name::{SecretName, Version},
    refresh::own_file,
};

/// One rotation, and after its end what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of this format.
    format: u32,
    secret: String,
    /// 32 hex digits: names the rotation at the source, in the system and in the log.
    pub token: String,
    pub way: Way,
    /// Who began it: `operator`, `schedule` or `containment`.
    pub by: String,
    pub state: State,
    /// The version that was current when it began.
    base: String,
    /// The version that the new value has.
    new: Option<String>,
    /// The version that the old value has since it was restored.
    back: Option<String>,
    started: u64,
    /// When the new value became current.
    finished: Option<u64>,
    ended: Option<u64>,
    /// What went wrong last, for people.
    pub problem: String,
    /// Who had not moved when the overlap was over.
    left_behind: String,
    /// How long holders have to move, in seconds, where that is not as configured: then nobody is waited for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overlap: Option<u64>,
}

/// Seconds since the epoch.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn version(text: &str) -> Option<Version> {
    text.parse().ok()
}

impl Record {
    pub fn begin(secret: &SecretName, token: String, way: Way, by: &str, base: &Version, now: SystemTime) -> Self {
        Self {
            format: 1,
            secret: secret.to_string(),
            token,
            way,
            by: by.into(),
            state: State::BEGIN,
            base: base.to_string(),
            new: None,
            back: None,
            started: seconds(now),
            finished: None,
            ended: None,
            problem: String::new(),
            left_behind: String::new(),
            overlap: None,
        }
    }

    pub fn with_overlap(self, overlap: Option<Duration>) -> Self {
        Self { overlap: overlap.map(|overlap| overlap.as_secs()), ..self }
    }

    /// Holders have so long from now on, and no longer than they had.
    pub fn hurry(&mut self, overlap: Duration, now: SystemTime) {
        let begun = time(self.finished.unwrap_or(self.started));
        let least = now.duration_since(begun).unwrap_or_default() + overlap;
        self.overlap = Some(self.overlap.map_or(least.as_secs(), |before| before.min(least.as_secs())));
    }

    /// Are holders in a hurry?
    pub fn is_hurried(&self) -> bool {
        self.overlap.is_some()
    }

    /// How long holders have to move.
    pub fn overlap(&self, settings: &Settings) -> Duration {
        self.overlap.map_or(settings.overlap, Duration::from_secs)
    }

    pub fn secret(&self) -> Option<SecretName> {
        self.secret.parse().ok()
    }

    pub fn base(&self) -> Option<Version> {
        version(&self.base)
    }

    pub fn new_version(&self) -> Option<Version> {
        self.new.as_deref().and_then(version)
    }

    pub fn back(&self) -> Option<Version> {
        self.back.as_deref().and_then(version)
    }

    pub fn started(&self) -> SystemTime {
        time(self.started)
    }

    pub fn finished(&self) -> Option<SystemTime> {
        self.finished.map(time)
    }

    pub fn ended(&self) -> Option<SystemTime> {
        self.ended.map(time)
    }

    /// The new value is current.
    pub fn is_current(&mut self, new: &Version, now: SystemTime) {
        self.new = Some(new.to_string());
        self.finished.get_or_insert(seconds(now));
    }

    /// The old value is current again.
    pub fn is_back(&mut self, back: &Version, now: SystemTime) {
        self.back = Some(back.to_string());
        self.finished = Some(seconds(now));
    }

    /// A step is done or has failed, with what went wrong: what is mended is forgotten, and why all is as it was is not.
    pub fn went(&mut self, from: State, problem: String, now: SystemTime) {
        if matches!(from.step, Step::Overlap | Step::Return) {
            self.left_behind = problem;
        } else if !problem.is_empty() || !matches!(self.state.end, Some(End::Undone | End::Lost)) {
            self.problem = problem;
        }
        if self.state.is_over() {
            if self.problem.is_empty() {
                self.problem.clone_from(&self.left_behind);
            }
            self.ended.get_or_insert(seconds(now));
        }
    }

    /// When this one began may be earlier than its holders were told.
    pub fn deadline(&self, overlap: Duration) -> SystemTime {
        time(self.finished.unwrap_or(self.started)) + overlap
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

    /// No name of a secret holds `~`.
    fn file(&self, secret: &str) -> PathBuf {
        self.0.join(format!("{}.json", secret.replace('/', "~")))
    }

    /// On disk when this returns.
    pub fn write(&self, record: &Record) -> Result<(), String> {
        let mut text = serde_json::to_vec_pretty(record).map_err(|error| error.to_string())?;
        text.push(b'\n');
        own_file::write(&self.file(&record.secret), &text)
    }

    /// The last rotation of this secret.
    pub fn read(&self, secret: &SecretName) -> Result<Option<Record>, String> {
        let path = self.file(secret.as_str());
        let Some(text) = own_file::read(&path).map_err(|why| format!("{} {why}", path.display()))? else { return Ok(None) };
        let record: Record = serde_json::from_slice(&text).map_err(|_| format!("{} is not of a rotation", path.display()))?;
        match record.format == 1 && record.secret == secret.as_str() && record.base().is_some() {
            true => Ok(Some(record)),
            false => Err(format!("{} is of another version of valetkeyd, or of another secret", path.display())),
        }
    }

    /// Every record, and what is wrong with those that cannot be read.
    pub fn read_all(&self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut problems) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => return (records, vec![format!("{}: {error}", self.0.display())]),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".json")).filter(|name| !name.starts_with('.'))
            else {
                continue;
            };
            let Ok(secret) = name.replace('~', "/").parse::<SecretName>() else { continue };
            match self.read(&secret) {
                Ok(record) => records.extend(record),
                Err(problem) => problems.push(problem),
            }
        }
        (records, problems)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_reads_back_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path().join("rotations")).unwrap();
        let secret: SecretName = "db/url".parse().unwrap();
        assert_eq!(folder.read(&secret), Ok(None));
        let mut record = Record::begin(&secret, "0".repeat(32), Way::Hook, "operator", &Version::from(3), SystemTime::now());
        record.state = State { step: Step::Retire, failed: 2, end: Some(End::Rotated) };
        record.is_current(&Version::from(4), SystemTime::now());
        folder.write(&record).unwrap();
        assert_eq!(folder.read(&secret).unwrap().as_ref(), Some(&record));
        assert_eq!(folder.read_all(), (vec![record.clone()], vec![]));
        let file = dir.path().join("rotations/db~url.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert!(folder.read(&secret).unwrap_err().contains("is not of a rotation"));
        assert_eq!(folder.read_all().1.len(), 1, "what cannot be read is said");
    }
}

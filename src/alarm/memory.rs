//! What was used, and by which programs, across restarts: names and digests in a small file of the daemon's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    name::{SecretName, ToolName},
    peer::Sha256,
    refresh::own_file,
};

/// Was it known?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Known,
    New,
}

/// Programs of one tool that are remembered. One that runs more is told by something else than its program.
const MOST_PROGRAMS: usize = 256;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Facts {
    schema: u32,
    /// By tool, the secrets that it was handed.
    used: BTreeMap<String, BTreeSet<String>>,
    /// By tool, the digests of the programs that it ran, in hex.
    programs: BTreeMap<String, BTreeSet<String>>,
}

const SCHEMA: u32 = 1;

pub struct Memory {
    /// `None`: nothing outlives the daemon.
    file: Option<PathBuf>,
    facts: Mutex<(Facts, Changed)>,
}

type Changed = bool;

impl Memory {
    /// Reads what is there. Where that cannot be, everything counts as new: rather an alarm too many.
    pub fn open(file: Option<PathBuf>) -> Self {
        let facts = file.as_ref().map(|path| {
            let unknown = "what tools have used before is not known, and each use counts as the first";
            match own_file::read(path).map(|read| read.map(|bytes| serde_json::from_slice::<Facts>(&bytes))) {
                Ok(None) => Facts::default(),
                Ok(Some(Ok(facts))) if facts.schema == SCHEMA => facts,
                Ok(Some(_)) => {
                    warn!("{}: it is not what the daemon wrote: {unknown}", path.display());
                    Facts::default()
                }
                Err(problem) => {
                    warn!("{}: {problem}: {unknown}", path.display());
                    Facts::default()
                }
            }
        });
        let facts = Facts { schema: SCHEMA, ..facts.unwrap_or_default() };
        Self { file, facts: Mutex::new((facts, false)) }
    }

    fn lock(&self) -> MutexGuard<'_, (Facts, Changed)> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a tool has this secret.
    pub fn used(&self, tool: &ToolName, secret: &SecretName) -> Kept {
        let (facts, changed) = &mut *self.lock();
        if facts.used.get(tool.as_str()).is_some_and(|used| used.contains(secret.as_str())) {
            return Kept::Known;
        }
        facts.used.entry(tool.to_string()).or_default().insert(secret.to_string());
        *changed = true;
        Kept::New
    }

    /// Remembers that a tool runs this program. The first of a tool is not new.
    pub fn runs(&self, tool: &ToolName, digest: Sha256) -> Kept {
        let (facts, changed) = &mut *self.lock();
        let programs = facts.programs.entry(tool.to_string()).or_default();
        let first = programs.is_empty();
        if programs.len() >= MOST_PROGRAMS || !programs.insert(digest.to_string()) {
            return Kept::Known;
        }
        *changed = true;
        if first { Kept::Known } else { Kept::New }
    }

    /// Writes what has changed. What cannot be written is tried again the next time.
    pub fn save(&self) {
        let Some(path) = &self.file else { return };
        let text = {
            let (facts, changed) = &mut *self.lock();
            if !std::mem::take(changed) {
                return;
            }
            serde_json::to_vec(facts)
        };
        let written = text.map_err(|error| error.to_string()).and_then(|text| own_file::write(path, &text));
        if let Err(problem) = written {
            warn!("what tools have used cannot be remembered: {problem}");
            self.lock().1 = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_outlives_the_daemon_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alarm.json");
        let (tool, secret) = ("it".parse().unwrap(), "a/key".parse().unwrap());
        let memory = Memory::open(Some(path.clone()));
        assert_eq!(memory.used(&tool, &secret), Kept::New);
        assert_eq!(memory.runs(&tool, Sha256([1; 32])), Kept::Known);
        memory.save();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = Memory::open(Some(path.clone()));
        assert_eq!(again.used(&tool, &secret), Kept::Known);
        assert_eq!((again.runs(&tool, Sha256([1; 32])), again.runs(&tool, Sha256([2; 32]))), (Kept::Known, Kept::New));
        std::fs::write(&path, "{\"schema\":").unwrap();
        assert_eq!(Memory::open(Some(path)).used(&tool, &secret), Kept::New, "what cannot be read is not known");
    }
}

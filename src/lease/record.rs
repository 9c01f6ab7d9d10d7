//! The leases that are out, on disk: what a daemon that was killed did not give back, the next one does.
//!
//! A lease's name is no credential. Who reads the list learns which roles are in use; who could do more with it may give back leases at the
//! source anyway.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::refresh::own_file;

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub source: String,
    /// Seconds since the epoch, by which it ends by itself.
    pub ends: u64,
    /// Whose session it was made for, and as which secret.
    pub tool: String,
    pub secret: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    leases: BTreeMap<String, Entry>,
}

/// The list.
#[derive(Debug)]
pub struct List {
    file: PathBuf,
    leases: Mutex<BTreeMap<String, Entry>>,
    /// One who writes.
    pen: tokio::sync::Mutex<()>,
}

impl List {
    /// Takes up what an earlier daemon left.
    ///
    /// # Errors
    /// Where it cannot be read: then it is not known what is to be given back.
    pub fn take(file: PathBuf) -> Result<Self, String> {
        let leases = match own_file::read(&file).map_err(|why| format!("{} {why}", file.display()))? {
            None => BTreeMap::new(),
            Some(text) => {
                let written: Written =
                    serde_json::from_slice(&text).map_err(|_| format!("{} is no list of leases", file.display()))?;
                if written.format != 1 {
                    return Err(format!("{} is of another version of valetkeyd", file.display()));
                }
                written.leases
            }
        };
        Ok(Self { file, leases: Mutex::new(leases), pen: tokio::sync::Mutex::default() })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Entry>)) {
        change(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn all(&self) -> BTreeMap<String, Entry> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is on disk when this returns.
    pub async fn add(&self, id: &str, entry: Entry) -> Result<(), String> {
        self.change(|leases| _ = leases.insert(id.to_owned(), entry));
        self.write().await.inspect_err(|_| self.change(|leases| _ = leases.remove(id)))
    }

    /// It was given back. Where that cannot be written it is given back once more, which does nothing.
    pub async fn remove(&self, id: &str) -> Result<(), String> {
        self.change(|leases| _ = leases.remove(id));
        self.write().await
    }

    /// Those who wait for the pen share what is written next.
    async fn write(&self) -> Result<(), String> {
        let _pen = self.pen.lock().await;
        let written = Written { format: 1, leases: self.all() };
        let mut text = serde_json::to_vec_pretty(&written).map_err(|error| error.to_string())?;
        text.push(b'\n');
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || own_file::write(&file, &text)).await;
        done.map_err(|_| "writing failed inside".to_owned()).and_then(|done| done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_out_is_known_to_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leases.json");
        let list = List::take(file.clone()).unwrap();
        let entry = |ends| Entry { source: "vault".into(), ends, tool: "it".into(), secret: "db".into() };
        list.add("database/creds/a/1", entry(1)).await.unwrap();
        list.add("database/creds/a/2", entry(2)).await.unwrap();
        list.remove("database/creds/a/1").await.unwrap();
        let next = List::take(file.clone()).unwrap();
        assert_eq!(next.all(), [("database/creds/a/2".to_owned(), entry(2))].into());
        std::fs::write(&file, "{").unwrap();
        assert!(List::take(file).is_err());
    }
}

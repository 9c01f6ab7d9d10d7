//! How far an exporter has come, in a small file beside the log. The one before it may come back after a power cut: then records are sent
//! twice, and none is left out.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    audit::{disk::Disk, onward::Position},
    name::ExporterName,
};

/// Longer than any is.
const LONGEST: usize = 4096;

fn file(name: &ExporterName) -> String {
    format!("export-{name}.json")
}

/// How far an exporter has come, and what it was about to send.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bookmark {
    /// Behind the last record that arrived. `None`: none has.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The last record of a batch that may have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<u64>,
}

/// What is found in a bookmark's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// It is none that an exporter wrote.
    Bad,
    Good(Bookmark),
}

pub fn read(disk: &dyn Disk, name: &ExporterName) -> io::Result<Found> {
    let mut text = vec![0; LONGEST];
    match disk.read(&file(name), 0, &mut text) {
        Ok(length) => Ok(serde_json::from_slice(&text[..length]).map_or(Found::Bad, Found::Good)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

pub fn write(disk: &dyn Disk, name: &ExporterName, bookmark: &Bookmark) -> io::Result<()> {
    disk.replace(&file(name), &serde_json::to_vec(bookmark)?)
}

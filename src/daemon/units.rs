//! Units whose credential has a new version, where policy wants them started anew or reloaded.
//!
//! The daemon has no right to do that and gets none. It leaves the unit's name, as an empty file, in a folder that
//! `valetkey-rotated.path` watches; `valetkey restart-units`, which runs as root, looks the name up in policy for itself.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::places;
use crate::{
    broker::{Broker, Given, HandedTo, Outdated},
    name::SecretName,
    policy::OnRotation,
    refresh::own_file,
};

/// Root's, where the daemon's group may write; see `systemd/tmpfiles.d`.
pub const ROTATED: &str = "/run/valetkey-rotated";

/// What units were handed, for the next daemon: by unit and secret.
#[derive(Serialize, Deserialize)]
struct Facts {
    schema: u32,
    handed: BTreeMap<String, BTreeMap<String, Kept>>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told_of: Option<String>,
}

const SCHEMA: u32 = 1;

fn file() -> PathBuf {
    places::state_dir().join("units.json")
}

/// Units that start at the same time are remembered at once: each time everything is looked through and written.
const TOGETHER: Duration = Duration::from_millis(100);

/// Remembers what units were handed, and leaves word of those that have an old version. Without an end.
pub async fn watch(broker: Arc<Broker>) {
    broker.remember_units(recall(&file()));
    let mut changes = broker.store().changes();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = broker.unit_was_handed() => tokio::time::sleep(TOGETHER).await,
            changed = changes.changed() => if changed.is_err() { return },
        }
        if !broker.is_ready() {
            continue;
        }
        let broker = broker.clone();
        drop(tokio::task::spawn_blocking(move || settle(&broker)).await);
    }
}

/// The same once: when the daemon stops, and a unit was handed something just before.
pub fn settle(broker: &Broker) {
    let file = file();
    broker.outdated_units().iter().for_each(tell);
    if let Some(handed) = broker.changed_units()
        && let Err(problem) = remember(&file, handed)
    {
        // Only a daemon that starts anew needs it.
        debug!("what units were handed cannot be remembered: {problem}");
    }
}

fn tell(outdated: &Outdated) {
    let Outdated { unit, tool, secret, has, current, on_rotation } = outdated;
    match on_rotation {
        OnRotation::Restart | OnRotation::Reload => match leave_word(Path::new(ROTATED), unit) {
            Ok(()) => info!(%tool, unit, %secret, %has, %current, "a unit is to have the new version: word was left"),
            Err(error) => warn!(
                %tool, unit, %secret, %has, %current,
                "a unit is to be started anew for a new version, and nobody can be told ({ROTATED}: {error}): \
                 systemctl enable --now valetkey-rotated.path, or restart the unit"
            ),
        },
        OnRotation::NotifyOnly | OnRotation::Rewrite | OnRotation::Signal(_) => {
            info!(%tool, unit, %secret, %has, %current, "a unit has an old version until it is started anew");
        }
    }
}

/// Leaves word that a unit is to be stopped.
pub(super) fn leave_word_to_stop(unit: &str) -> Result<(), String> {
    leave_word(Path::new(ROTATED), &format!("{STOP}{unit}")).map_err(|error| format!("{ROTATED}: {error}"))
}

/// Before the name of a unit that is to be stopped. No unit's name has a comma (systemd.unit(5)).
pub const STOP: &str = "stop,";

/// A unit's name as policy has it: no path is in it.
fn leave_word(folder: &Path, unit: &str) -> io::Result<()> {
    let path: PathBuf = folder.join(unit);
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        // It was told before, and nobody has looked yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        opened => opened.map(drop),
    }
}

fn recall(file: &Path) -> HandedTo {
    let facts = match own_file::read(file) {
        Ok(None) => return HandedTo::new(),
        Ok(Some(bytes)) => serde_json::from_slice::<Facts>(&bytes).ok().filter(|facts| facts.schema == SCHEMA),
        Err(_) => None,
    };
    let Some(Facts { handed, .. }) = facts else {
        warn!("{}: it is not what the daemon wrote: which versions units have is not known until they ask again", file.display());
        return HandedTo::new();
    };
    let parse = |(secret, kept): (String, Kept)| {
        let told_of = kept.told_of.map(|version| version.parse()).transpose().ok()?;
        Some((secret.parse().ok()?, Given { version: kept.version.parse().ok()?, told_of }))
    };
    handed.into_iter().map(|(unit, secrets)| (unit, secrets.into_iter().filter_map(parse).collect())).collect()
}

fn remember(file: &Path, handed: HandedTo) -> Result<(), String> {
    let text = |(secret, given): (SecretName, Given)| {
        let Given { version, told_of } = given;
        (secret.to_string(), Kept { version: version.to_string(), told_of: told_of.map(|version| version.to_string()) })
    };
    let handed = handed.into_iter().map(|(unit, secrets)| (unit, secrets.into_iter().map(text).collect())).collect();
    let text = serde_json::to_vec(&Facts { schema: SCHEMA, handed }).map_err(|error| error.to_string())?;
    own_file::write(file, &text)
}

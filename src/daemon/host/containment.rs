//! What containing a tool asks of the daemon: what the audit log says of it, and which units run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use tracing::warn;

use super::Operations;
use crate::{
    alarm,
    audit::{disk::Directory, read},
    contain::{Containments, Folder, Host, Order},
    daemon::{audit, places, units},
    name::{SecretName, ToolName, Version},
    source::Working,
};

/// The directory of the state directory that has a file for each tool that is contained.
const FOLDER: &str = "contained";
/// Tools that alarms have contained, and that wait for it.
const WAITING: usize = 1024;

struct Hosted(Weak<Operations>);

impl Operations {
    /// Blocks what is contained, before anybody is served.
    ///
    /// # Errors
    /// Where it cannot be known what that is: in words.
    pub fn host_containments(self: &Arc<Self>) -> Result<(), String> {
        let path = places::state_dir().join(FOLDER);
        let Some(rotations) = self.rotations.get().cloned() else {
            // Without a state directory nothing was ever contained, and nothing can be. Where something was, it must not get out.
            return match is_empty(&path) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!(
                    "{} says that tools are contained, and there is no place for rotations beside it",
                    path.display()
                )),
                Err(error) => Err(format!("it is not known which tools are contained: {}: {error}", path.display())),
            };
        };
        let folder = Folder::take(path)?;
        let host = Arc::new(Hosted(Arc::downgrade(self)));
        let containments = Containments::take(self.broker.clone(), rotations, host, folder, self.control.clone());
        let containments = Arc::new(containments.map_err(|why| format!("it is not known which tools are contained: {why}"))?);
        self.contain_on_alarm(&containments);
        let _ = self.containments.set(containments);
        Ok(())
    }

    /// Where a rule of `[alarm]` wants it, the tool that an alarm is about is contained. Only one that was proven to be that tool: others
    /// must not be able to do this to it.
    fn contain_on_alarm(&self, containments: &Arc<Containments>) {
        let Some(alarms) = self.broker.alarms() else { return };
        let (tell, mut told) = tokio::sync::mpsc::channel::<(ToolName, alarm::Kind)>(WAITING);
        alarms.act(Box::new(move |alarm| {
            if let (true, Some(tool)) = (alarm.contains, &alarm.subject.tool) {
                let _ = tell.try_send((tool.clone(), alarm.kind));
            }
        }));
        let containments = containments.clone();
        self.control.spawn(async move {
            while let Some((tool, kind)) = told.recv().await {
                if containments.of(&tool).is_some() {
                    continue;
                }
                let (by, reason) = (format!("alarm {}", kind.word()), String::new());
                let order = Order { tool: tool.clone(), by, reason, overlap: Order::OVERLAP };
                if let Err(refused) = containments.contain(order).await {
                    warn!(%tool, "an alarm was to contain it, and could not: {refused}");
                }
            }
        });
    }
}

/// Is nothing in this directory, or no such directory?
fn is_empty(path: &std::path::Path) -> std::io::Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

impl Host for Hosted {
    fn handed_out(&self, tool: &ToolName) -> Working<'_, Result<BTreeMap<SecretName, Version>, String>> {
        let tool = tool.clone();
        Box::pin(async move {
            let operations = self.0.upgrade().ok_or("the daemon is stopping")?;
            let settings = operations.config().audit.clone();
            if !settings.enabled {
                return Err("there is no audit log, so it is not known what it was handed before its open sessions".into());
            }
            let directory = audit::directory(&settings);
            let read = tokio::task::spawn_blocking(move || handed_out(&directory, &tool)).await;
            let said = |why: String| format!("the audit log cannot be read, so it is not known what it was handed before: {why}");
            read.map_err(|_| said("it failed inside".into()))?.map_err(said)
        })
    }

    fn unit_runs(&self, unit: &str) -> bool {
        places::unit_runs(unit)
    }

    fn stop_unit(&self, unit: &str) -> Result<(), String> {
        units::leave_word_to_stop(unit)
    }
}

/// One thread: the tools' has the other cores.
fn handed_out(directory: &std::path::Path, tool: &ToolName) -> Result<BTreeMap<SecretName, Version>, String> {
    let disk = Directory::read_only(directory).map_err(|error| error.to_string())?;
    let usage = read::usage(&disk, None, 1).map_err(|error| error.to_string())?;
    let handed = usage.by.into_iter().filter(|((name, _), _)| name == tool.as_str());
    // What it names that could be no name is none of ours.
    let version = |((_, secret), used): ((String, String), read::Use)| Some((secret.parse().ok()?, used.version?.parse().ok()?));
    Ok(handed.filter_map(version).collect())
}

//! Does what is planned, in the order in which nothing can be lost.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    FAILED, Failure,
    files::{Staged, Target, make_folder, unwritable},
    json::quoted,
    plan::Plan,
    policy::Policy,
    store::Place,
    undo::{Change, Record, take_back},
};
use crate::config::{self, Severity};

/// The answer is where the way back is kept.
pub fn write(target: &Target, plan: &Plan, policy: &Policy, place: &Place) -> Result<PathBuf, Failure> {
    let adopted = target.with_text(&plan.after);
    let changes = changes(policy)?;
    check_free_of_values(plan, &changes)?;
    // First: where the client's file cannot be written, nothing else is.
    let staged = target.stage(&adopted)?;
    if let Some(folder) = policy.main.parent().filter(|folder| !folder.exists()) {
        make_folder(folder, 0o755)?;
    }
    place.seal(&plan.values)?;
    let undo = Record::new(target, &adopted, changes.clone()).save(&policy.main, &place.identity()?)?;
    let failed = |failure: Failure| {
        changes.iter().rev().for_each(|change| _ = take_back(change, false));
        let _ = fs::remove_file(&undo);
        failure
    };
    write_policy(policy, &changes).map_err(failed)?;
    if !target.is_unchanged() {
        let what = format!("{} was changed meanwhile", target.path.display());
        return Err(failed(Failure::new(FAILED, what, "close the client, and run this again")));
    }
    staged.put().map_err(|error| failed(unwritable(&target.path, &error)))?;
    Ok(undo)
}

/// Policy may be read by more people than the client's file. A kept argument can hold the same value as a secret, for one.
fn check_free_of_values(plan: &Plan, changes: &[Change]) -> Result<(), Failure> {
    let held = |value: &str| value.len() >= 8 && changes.iter().any(|change| change.after.contains(value));
    match plan.secrets().any(|value| held(value) || held(&quoted(value)[1..quoted(value).len() - 1])) {
        false => Ok(()),
        true => {
            let what = "a value that is a secret in one place would be written into the tool's file from another";
            Err(Failure::new(
                FAILED,
                what,
                "name the other place with --secret SERVER:NAME, or take back its --keep; nothing was changed",
            ))
        }
    }
}

/// The main file first: a tool must not be granted what nothing defines.
pub fn changes(policy: &Policy) -> Result<Vec<Change>, Failure> {
    let main = policy.after()?.map(|after| Change { path: policy.main.clone(), before: policy.before.clone(), after });
    let tools = policy.tool_files.iter().map(|(path, text)| Change { path: path.clone(), before: None, after: text.clone() });
    Ok(main.into_iter().chain(tools).collect())
}

fn write_policy(policy: &Policy, changes: &[Change]) -> Result<(), Failure> {
    let before = errors(&policy.main);
    make_folder(&policy.main.with_file_name("tools.d"), 0o755)?;
    for change in changes {
        write_one(change).map_err(|error| unwritable(&change.path, &error))?;
    }
    let new: Vec<_> = errors(&policy.main).into_iter().filter(|error| !before.contains(error)).collect();
    match new.first() {
        None => Ok(()),
        Some(first) => {
            Err(Failure::new(FAILED, format!("the configuration would not be accepted: {first}"), "nothing was changed"))
        }
    }
}

fn write_one(change: &Change) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let old = fs::metadata(&change.path).ok();
    if old.is_some() && change.before.is_none() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let (mode, owner) = old.map_or((0o644, None), |old| (old.mode() & 0o7777, Some((old.uid(), old.gid()))));
    // The file that a link leads to.
    let path = change.path.canonicalize().unwrap_or_else(|_| change.path.clone());
    Staged::write(&path, change.after.as_bytes(), mode, owner)?.put()
}

/// What the daemon's own loader says against it. A loader that does not know commands of tools would refuse every file of ours.
fn errors(main: &Path) -> Vec<String> {
    let knows = config::keys().iter().any(|(table, keys)| *table == "tool" && keys.iter().any(|key| key.name == "command"));
    if !knows || !main.exists() {
        return Vec::new();
    }
    let problems = config::load(main).err().unwrap_or_default();
    problems.iter().filter(|problem| problem.severity == Severity::Error).map(ToString::to_string).collect()
}

//! From a cgroup's path to the systemd unit, as systemd itself does it (`cg_path_get_unit`). Pure.
//!
//! The **first** component that is no slice is the unit, and all below it belongs to it. Never the last: in a unit with
//! `Delegate=yes` an unprivileged process makes and enters `/system.slice/its-own.service/system.slice/billing.service`.

/// A path that places nobody. Whoever is there is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("it is outside the daemon's cgroup namespace")]
    Outside,
    #[error("it has been removed")]
    Deleted,
    #[error("its path is not one that the kernel writes")]
    Malformed,
}

/// A system unit, and the directory of its own cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitPath<'a> {
    pub name: &'a str,
    /// From the top of the tree, with a leading `/`.
    pub directory: &'a str,
}

/// The path on the `0::` line of `/proc/PID/cgroup`. `None` where the kernel has no cgroup2 tree.
pub fn own_path(file: &str) -> Result<Option<&str>, BadPath> {
    let mut lines = file.split('\n').filter_map(|line| line.strip_prefix("0::"));
    match (lines.next(), lines.next()) {
        (path, None) => Ok(path),
        _ => Err(BadPath::Malformed),
    }
}

/// The system unit of a process in this cgroup. `None`: in no unit, or in one that proves a user only.
pub fn unit_of(path: &str) -> Result<Option<UnitPath<'_>>, BadPath> {
    let inside = path.strip_prefix('/').ok_or(BadPath::Malformed)?;
    if inside.ends_with(" (deleted)") {
        return Err(BadPath::Deleted);
    }
    if inside.is_empty() {
        return Ok(None);
    }
    if inside.split('/').any(|component| component == "..") {
        return Err(BadPath::Outside);
    }
    if inside.split('/').any(|component| component.is_empty() || component == ".") {
        return Err(BadPath::Malformed);
    }
    let mut end = 0;
    for component in inside.split('/') {
        end += 1 + component.len();
        // systemd puts `_` before a name that would clash with a file of the kernel's, such as `cgroup.service`.
        let name = component.strip_prefix('_').unwrap_or(component);
        if is_slice(name) {
            continue;
        }
        let counts = is_unit(name) && !proves_a_user_only(name);
        return Ok(counts.then_some(UnitPath { name, directory: &path[..end] }));
    }
    Ok(None)
}

/// Is this systemd itself, the first process of the host, or a child of it that has not gone to its unit?
pub fn is_manager(path: &str) -> bool {
    path == "/init.scope"
}

/// The managers of users, the sessions of users and systemd itself. What runs below the first two is the user's choice.
fn proves_a_user_only(name: &str) -> bool {
    name == "init.scope"
        || (name.starts_with("user@") && name.ends_with(".service"))
        || (name.starts_with("session-") && name.ends_with(".scope"))
}

fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some_and(|stem| is_stem(stem) && !stem.contains('@'))
}

/// A full name: plain, or an instance of a template.
pub fn is_unit(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope")) else { return false };
    let instance = stem.find('@').is_none_or(|at| at > 0 && at + 1 < stem.len());
    name.len() < 256 && is_stem(stem) && instance
}

fn is_stem(stem: &str) -> bool {
    !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
}

/// systemd's invocation id: 32 lower-case hex digits.
pub fn is_invocation(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests;

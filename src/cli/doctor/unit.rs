//! The unit, where systemd runs this host: is it enabled, what has become of it, and how well is it shut in?

use std::{collections::BTreeMap, path::Path, process::Command};

use super::{Check, State};
use crate::{config::Config, policy::OnRotation};

const SERVICE: &str = "valetkeyd.service";
const ROTATED: &str = "valetkey-rotated.path";

/// What `systemd-analyze security` gives the unit with every drop-in that is shipped is 1.8, and 1.1 without one. More: something was
/// taken away.
const MOST_EXPOSED: f32 = 2.0;

pub fn checks(config: Option<&Config>) -> Vec<Check> {
    if !Path::new("/run/systemd/system").is_dir() {
        return vec![Check::ok("unit", "systemd does not run this host")];
    }
    let Some(unit) = properties(SERVICE) else {
        let remedy = "run this as root, or install dbus: systemctl show valetkeyd";
        return vec![Check::not(State::Warning, "unit", "systemd cannot be asked", remedy)];
    };
    if unit.get("LoadState").is_none_or(|state| state != "loaded") {
        let remedy = "the package brings it, and so do the files in systemd/";
        return vec![Check::not(State::Warning, "unit", format!("there is no unit {SERVICE}"), remedy)];
    }
    let mut checks = vec![state(&unit), exposure()];
    checks.extend(config.and_then(rotated));
    checks
}

/// Some of a unit's properties, in one call. `None`: systemd was not to be asked.
fn properties(unit: &str) -> Option<BTreeMap<String, String>> {
    let names = "--property=LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result";
    let shown = Command::new("systemctl").args(["show", names, unit]).output().ok().filter(|shown| shown.status.success())?;
    let text = String::from_utf8_lossy(&shown.stdout);
    Some(text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect())
}

fn state(unit: &BTreeMap<String, String>) -> Check {
    let get = |key: &str| unit.get(key).map_or("", String::as_str);
    let (active, restarts) = (get("ActiveState"), get("NRestarts"));
    let found = format!("{SERVICE} is {active} ({}), {}, restarted {restarts} times", get("SubState"), get("UnitFileState"));
    match active {
        "failed" => {
            let remedy =
                "journalctl -u valetkeyd says why; then: systemctl reset-failed 'valetkeyd*' && systemctl start valetkeyd";
            Check::not(State::Bad, "unit", format!("{found}, the last result: {}", get("Result")), remedy)
        }
        "active" if restarts != "0" => Check::not(State::Warning, "unit", found, "journalctl -u valetkeyd says why it ended"),
        "active" | "reloading" => Check::ok("unit", found),
        _ => Check::not(State::Warning, "unit", found, "systemctl enable --now valetkeyd"),
    }
}

fn exposure() -> Check {
    let name = "exposure";
    let asked = Command::new("systemd-analyze").args(["security", "--no-pager", SERVICE]).env("LC_ALL", "C").output();
    let text = asked.map(|asked| String::from_utf8_lossy(&asked.stdout).into_owned()).unwrap_or_default();
    let Some(score) = score(&text) else {
        let remedy = format!("run this as root: systemd-analyze security {SERVICE}");
        return Check::not(State::Warning, name, "systemd does not say how exposed the unit is", remedy);
    };
    let found = format!("systemd-analyze security gives the unit {score:.1} (0 is best, 10 worst)");
    if score <= MOST_EXPOSED {
        return Check::ok(name, found);
    }
    let remedy =
        "a drop-in takes away what the unit that is shipped has: systemctl cat valetkeyd, and systemd-analyze security valetkeyd";
    Check::not(State::Warning, name, found, remedy)
}

/// `→ Overall exposure level for valetkeyd.service: 1.1 OK :-)`
fn score(text: &str) -> Option<f32> {
    let line = text.lines().find(|line| line.contains("Overall exposure level"))?;
    line.rsplit_once(": ")?.1.split_whitespace().next()?.parse().ok()
}

/// Where policy wants units started anew or stopped: is there somebody to do it?
fn rotated(config: &Config) -> Option<Check> {
    let wants =
        |unit: &str| config.policy.unit_on_rotation(unit).map(|does| matches!(does, OnRotation::Restart | OnRotation::Reload));
    let mut units = config.policy.tools().filter_map(|(_, tool)| tool.run_as.unit.as_deref());
    let unit = units.find(|unit| wants(unit) == Some(true) || config.policy.unit_may_be_stopped(unit))?;
    let path = properties(ROTATED).unwrap_or_default();
    if path.get("ActiveState").is_some_and(|state| state == "active") {
        return Some(Check::ok("rotated", format!("{ROTATED} is active")));
    }
    let found = format!(
        "policy wants {unit} started anew or reloaded for a new version, or stopped when its tool is contained, and nobody does it: {ROTATED} is not active"
    );
    Some(Check::not(State::Bad, "rotated", found, format!("systemctl enable --now {ROTATED}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_found_in_what_systemd_says() {
        let said = "  NAME   DESCRIPTION\n\u{2717} PrivateNetwork=  has access\n\n\
                    \u{2192} Overall exposure level for valetkeyd.service: 1.1 OK \u{1f642}\n";
        assert_eq!(score(said), Some(1.1));
        assert_eq!(score("Failed to connect to bus"), None);
    }
}

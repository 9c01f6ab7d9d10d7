//! Units that systemd asks credentials for, as far as this host has their files: one that does not wait for the socket, or does not ask
//! for what policy gives it, does not start or starts without.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Problem, Severity},
    policy::{Origin, ToolPolicy},
};

/// Where unit files are, those that win first (systemd.unit(5)).
const FOLDERS: [&str; 4] = ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"];
const SOCKET_UNIT: &str = "valetkeyd-credentials.socket";

/// Warnings about units of this configuration's tools. `root` is `/`, but for a test. A unit whose file is not there is none of ours:
/// this may run where configuration is written and not where it is used.
pub fn look(config: &Config, root: &Path) -> Vec<Problem> {
    let daemon = &config.daemon;
    let in_run_dir = || daemon.run_dir.as_deref().unwrap_or(Path::new("/run/valetkey")).join("credentials.sock");
    let socket = daemon.credentials_socket.clone().unwrap_or_else(in_run_dir);
    let mut units: BTreeMap<&str, Vec<&ToolPolicy>> = BTreeMap::new();
    for (_, tool) in config.policy.tools() {
        if let Some(unit) = &tool.run_as.unit {
            units.entry(unit).or_default().push(tool);
        }
    }
    units.into_iter().flat_map(|(unit, tools)| look_at(unit, &tools, &socket, root)).collect()
}

fn look_at(unit: &str, tools: &[&ToolPolicy], socket: &Path, root: &Path) -> Vec<Problem> {
    let Some(file) = UnitFile::read(unit, root) else { return Vec::new() };
    let grants = tools.iter().flat_map(|tool| tool.grants.values());
    let granted: BTreeMap<&str, &Origin> = grants.filter_map(|rule| Some((rule.delivery.credential()?, &rule.origin))).collect();
    let socket = socket.to_string_lossy();
    let asked: Vec<_> = file.credentials().filter(|(_, from)| *from == socket).map(|(id, _)| id).collect();
    let mut problems = Vec::new();
    let mut warn = |file: &Path, line, what: String, instead: String| {
        problems.push(Problem { file: file.into(), line, severity: Severity::Warning, what, instead });
    };
    for (id, origin) in granted.iter().filter(|(id, _)| !asked.contains(id)) {
        let what = format!("unit {unit} does not ask for this credential");
        warn(
            &origin.file,
            origin.line,
            what,
            format!("LoadCredential={id}:{socket} in the [Service] of {}", file.path.display()),
        );
    }
    for id in asked.iter().filter(|id| !granted.contains_key(*id)) {
        let what = format!("unit {unit} asks for a credential that policy does not give it, and will not start");
        let instead = format!("secrets.\"NAME\" = {{ credential = \"{}\" }}, or no LoadCredential= for it", shown(id));
        if let [tool, ..] = tools {
            warn(&tool.origin.file, tool.origin.line, what, instead);
        }
    }
    let waits = |key: &str| file.all(key).any(|other| matches!(other, SOCKET_UNIT | "valetkeyd.service"));
    if !asked.is_empty() && !(waits("After") && (waits("Requires") || waits("BindsTo") || waits("Requisite"))) {
        let what = format!("unit {unit} asks for credentials and does not wait for their socket: early in a boot it fails");
        warn(&file.path, 0, what, format!("Requires={SOCKET_UNIT} and After={SOCKET_UNIT} in its [Unit]"));
    }
    problems
}

/// A name that somebody wrote into a unit file, as far as it is one.
fn shown(id: &str) -> &str {
    if id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) { id } else { "NAME" }
}

/// What a unit's file and its drop-ins say.
struct UnitFile {
    path: PathBuf,
    settings: Vec<(String, String)>,
}

impl UnitFile {
    fn read(unit: &str, root: &Path) -> Option<Self> {
        // An instance may have a file of its own, or its template's.
        let template = unit.split_once('@').and_then(|(name, rest)| Some(format!("{name}@.{}", rest.rsplit_once('.')?.1)));
        let names: Vec<_> = std::iter::once(unit.to_owned()).chain(template).collect();
        let folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
        let mut places = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        let (path, text) = places.find_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))?;
        let mut settings = settings(&text);
        // By their names, whatever folder they are in; of one name the first folder's counts.
        let mut drop_ins = BTreeMap::new();
        for name in names.iter().rev() {
            for folder in folders.iter().rev() {
                let entries = fs::read_dir(folder.join(format!("{name}.d"))).into_iter().flatten().flatten();
                drop_ins.extend(entries.map(|entry| (entry.file_name(), entry.path())));
            }
        }
        let drop_ins = drop_ins.into_values().filter(|path| path.extension().is_some_and(|extension| extension == "conf"));
        settings.extend(drop_ins.filter_map(|path| fs::read_to_string(path).ok()).flat_map(|text| self::settings(&text)));
        Some(Self { path, settings })
    }

    /// Every word of a list, over all its lines.
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.settings.iter().filter(move |(name, _)| name == key).flat_map(|(_, value)| value.split_whitespace())
    }

    /// `LoadCredential=`: the name, and where it comes from.
    fn credentials(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.settings.iter().filter(|(name, _)| name == "LoadCredential");
        lines.filter_map(|(_, value)| value.split_once(':'))
    }
}

/// The assignments of a unit file (systemd.syntax(7)), of all its sections: no key of interest is in two.
fn settings(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim().into(), value.trim().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What is said of a host with these files, whose policy has two credentials for one unit.
    fn said(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let policy = "[source.env]\nkind = \"environment\"\n[secret.A]\nsource = \"env\"\n[secret.B]\nsource = \"env\"\n\
                      [tool.mail]\nrun-as = { unit = \"mail@north.service\" }\n\
                      secrets.A = { credential = \"a\" }\nsecrets.B = { credential = \"b\" }\n";
        let files = files.iter().copied().chain([("valetkey.toml", policy)]);
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let config = crate::config::load(&root.path().join("valetkey.toml")).unwrap();
        assert!(config.problems.is_empty(), "{:?}", config.problems);
        look(&config, root.path()).into_iter().map(|problem| problem.what).collect()
    }

    const BOTH: &str =
        "[Service]\nLoadCredential=a:/run/valetkey/credentials.sock\nLoadCredential=b:/run/valetkey/credentials.sock\n";

    #[test]
    fn what_is_right_or_unknown_is_passed_over() {
        assert!(said(&[]).is_empty());
        let waits = "[Unit]\nRequires=x.service \\\n  valetkeyd-credentials.socket\nAfter=valetkeyd-credentials.socket\n";
        assert!(said(&[("etc/systemd/system/mail@.service", &format!("{waits}{BOTH}"))]).is_empty());
        // In pieces, of the template and of the instance.
        let pieces = [
            ("usr/lib/systemd/system/mail@.service", BOTH),
            ("etc/systemd/system/mail@.service.d/1.conf", "[Unit]\nAfter=valetkeyd.service\n"),
            ("etc/systemd/system/mail@north.service.d/2.conf", "[Unit]\nBindsTo=valetkeyd.service\n"),
        ];
        assert!(said(&pieces).is_empty());
    }

    #[test]
    fn what_will_not_work_is_said() {
        let no_wait = said(&[("etc/systemd/system/mail@.service", BOTH)]);
        assert_eq!(no_wait.len(), 1);
        assert!(no_wait[0].contains("does not wait for their socket"), "{no_wait:?}");
        let only_after = said(&[("etc/systemd/system/mail@.service", &format!("[Unit]\nAfter=valetkeyd.service\n{BOTH}"))]);
        assert_eq!(only_after, no_wait);

        let elsewhere = "[Unit]\nRequires=valetkeyd.service\nAfter=valetkeyd.service\n\
                         [Service]\nLoadCredential=a:/run/valetkey/credentials.sock\nLoadCredential=b:/etc/b\n\
                         LoadCredential=c:/run/valetkey/credentials.sock\n";
        let problems = said(&[("etc/systemd/system/mail@north.service", elsewhere)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("does not ask for this credential"), "{problems:?}");
        assert!(problems[1].contains("that policy does not give it"), "{problems:?}");
    }
}

//! Where else the values may be: copies that editors leave, other names of the file, a repository's history.

use std::{fs, io::Read, path::Path};

use zeroize::Zeroizing;

use super::{files::Target, json::quoted};

/// No copy of such a file is larger.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What the user must know of, in sentences.
pub fn warnings(target: &Target, after: &str, values: &[&Zeroizing<String>]) -> Vec<String> {
    let mut all = Vec::new();
    // As it stands in a file: a quote or a line break in it is escaped there.
    let spelt: Vec<_> =
        values.iter().map(|value| quoted(value)).map(|text| Zeroizing::new(text[1..text.len() - 1].to_owned())).collect();
    let held =
        |text: &str| spelt.iter().chain(values.iter().copied()).any(|value| value.len() >= 8 && text.contains(value.as_str()));
    if let Some(at) = after.lines().position(held) {
        all.push(format!(
            "a value that was taken out still stands in line {} of the new file, in a comment perhaps: remove it",
            at + 1
        ));
    }
    if target.names > 1 {
        all.push(format!("the file has {} names (hard links): under the others the values are still there", target.names));
    }
    for copy in copies(&target.path) {
        if held(&copy.1) {
            all.push(format!("{} still holds values in plain text: remove it", copy.0));
        }
    }
    all.extend(repository(&target.path));
    all
}

/// Files beside it whose names begin with its name, as backups and swap files do.
fn copies(path: &Path) -> Vec<(String, Zeroizing<String>)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().map(|name| name.to_string_lossy().into_owned())) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let folders = [folder.to_path_buf(), folder.join(".claude/backups")];
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()) {
        let other = entry.file_name().to_string_lossy().into_owned();
        let is_copy = other != name && other.trim_start_matches(['.', '#']).starts_with(name.trim_start_matches('.'));
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_copy && is_file && !other.contains(".valetkey-") {
            let mut bytes = Zeroizing::new(Vec::new());
            let read = fs::File::open(entry.path()).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
            if read.is_ok() {
                found.push((entry.path().display().to_string(), String::from_utf8_lossy(&bytes).into_owned().into()));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Looks at the repository's files; git itself would run what the repository's settings name.
fn repository(path: &Path) -> Option<String> {
    let root = path.ancestors().skip(1).find(|folder| folder.join(".git").exists())?;
    let inside = path.strip_prefix(root).ok()?.to_string_lossy().into_owned();
    let index = fs::read(root.join(".git/index")).unwrap_or_default();
    let wanted = format!("{inside}\0");
    let tracked = index.windows(wanted.len()).any(|window| window == wanted.as_bytes());
    Some(match tracked {
        true => format!(
            "{inside} is in the git repository {}: its history keeps the values, so rotating them is the only way",
            root.display()
        ),
        false => format!(
            "{inside} lies in the git repository {}: if it was ever committed, the history keeps the values",
            root.display()
        ),
    })
}

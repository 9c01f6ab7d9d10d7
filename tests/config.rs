//! Configuration, through the same door as the daemon and `valetkey check`.
//!
//! Each directory of `tests/config/` is a configuration with mistakes, and beside it what must be reported. After a change of
//! wording run with `VALETKEY_BLESS=1` and read the difference.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use valetkey::config::{self, Config, DaemonSettings, Problem};

#[path = "config/example.rs"]
mod example;
#[path = "config/explain.rs"]
mod explain;
#[path = "config/leaks.rs"]
mod leaks;
#[path = "config/settings.rs"]
mod settings;

/// A copy of a configuration that belongs to us and that nobody else may write, as the loader asks for.
struct Etc(tempfile::TempDir);

impl Etc {
    fn empty() -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        fs::create_dir(etc.0.path().join("tools.d")).unwrap();
        set_mode(&etc.0.path().join("tools.d"), 0o755);
        etc
    }

    fn of(files: &[(String, String)]) -> Self {
        let etc = Self::empty();
        files.iter().for_each(|(name, text)| etc.write(name, text));
        etc
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
        set_mode(&self.path(name), 0o644);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Config, Vec<Problem>> {
        config::load(&self.path("valetkey.toml"))
    }

    /// The report as a person sees it, with paths as from inside the directory.
    fn report(&self) -> String {
        let (problems, end) = match self.load() {
            Ok(config) => (config.problems, "accepted\n"),
            Err(problems) => (problems, "refused\n"),
        };
        let directory = format!("{}/", self.0.path().display());
        problems.iter().map(|problem| format!("{problem}\n")).collect::<String>().replace(&directory, "") + end
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// The configuration files below a directory, as (name, text).
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (directory, start) in [(directory.to_path_buf(), ""), (directory.join("tools.d"), "tools.d/")] {
        for entry in fs::read_dir(&directory).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_file() && name != "expected.txt" {
                all.push((format!("{start}{name}"), fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn every_mistake_is_reported_with_what_to_write() {
    let mut wrong = Vec::new();
    let mut cases = 0;
    for case in fs::read_dir("tests/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("valetkey.toml").is_file())
    {
        cases += 1;
        let (found, expected) = (Etc::of(&files(&case)).report(), case.join("expected.txt"));
        if std::env::var_os("VALETKEY_BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(cases > 5, "the cases are gone");
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

const MAIN: &str = "[source.env]\nkind = \"environment\"\n[secret.KEY]\nsource = \"env\"\n";
const TOOL: &str = "[tool.a]\nrun-as = { unit = \"a.service\" }\nsecrets.KEY = {}\n";

fn good() -> Etc {
    let etc = Etc::empty();
    etc.write("valetkey.toml", MAIN);
    etc.write("tools.d/a.toml", TOOL);
    assert_eq!(etc.report(), "accepted\n");
    etc
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    for (what, mode) in
        [("valetkey.toml", 0o664), ("tools.d/a.toml", 0o646), ("tools.d", 0o775), ("", 0o777), ("tools.d", 0o1777)]
    {
        let etc = good();
        set_mode(&etc.path(what), mode);
        let report = etc.report();
        assert!(
            report.contains("can be written by group or others") && report.contains("chmod go-w"),
            "{what} {mode:o}: {report}"
        );
        assert!(report.ends_with("refused\n"));
    }
    let etc = good();
    set_mode(&etc.path(""), 0o1777);
    assert_eq!(etc.report(), "accepted\n", "a sticky directory, such as /tmp, does not let others replace the file");
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    for what in ["valetkey.toml", "tools.d/a.toml", "tools.d"] {
        let etc = good();
        std::os::unix::fs::chown(etc.path(what), Some(12345), None).unwrap();
        assert!(etc.report().contains("belongs to uid 12345"), "{what}: {}", etc.report());
    }
}

#[test]
fn files_that_cannot_be_read_are_reported_together() {
    let etc = Etc::empty();
    etc.write("tools.d/bytes.toml", b"[tool.a]\n# \xff\n");
    symlink("/nonexistent", etc.path("tools.d/link.toml")).unwrap();
    fs::create_dir(etc.path("tools.d/directory.toml")).unwrap();
    let expected = "\
valetkey.toml: error: there is no such file
  write: name the file with --config FILE, or start from the example in examples/etc-valetkey/
tools.d/bytes.toml:2: error: the file is not UTF-8 text
  write: save the file as UTF-8
tools.d/directory.toml: error: this is not a regular file
  write: a regular file, or a link to one
tools.d/link.toml: error: the file is a link to nothing
  write: remove the link, or install what it points to
refused
";
    assert_eq!(etc.report(), expected);
}

#[test]
fn drop_ins_may_be_absent() {
    let etc = good();
    etc.write("valetkey.toml", format!("{MAIN}{TOOL}"));
    fs::remove_dir_all(etc.path("tools.d")).unwrap();
    assert_eq!(etc.report(), "accepted\n");
    assert_eq!(etc.load().unwrap().daemon, DaemonSettings::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes are in the file, there is a report and no panic.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), toml in "[\\[\\]a-z.\"={}#\\n 0-9-]{0,200}") {
        let etc = Etc::empty();
        etc.write("valetkey.toml", bytes);
        etc.write("tools.d/x.toml", toml);
        let _ = etc.report();
    }

    /// The shipped example with pieces cut out, doubled and swapped.
    #[test]
    fn any_mutation_of_the_example(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..60usize, "[\\[\\]\"={},#\\n\\PC]{0,8}"), 1..6)) {
        let etc = Etc::empty();
        for (name, text) in files(Path::new("examples/etc-valetkey")) {
            let mut text: Vec<char> = text.chars().collect();
            for (at, length, piece) in &cuts {
                let at = at.index(text.len());
                text.splice(at..(at + length).min(text.len()), piece.chars());
            }
            etc.write(&name, text.into_iter().collect::<String>());
        }
        let _ = etc.report();
    }
}

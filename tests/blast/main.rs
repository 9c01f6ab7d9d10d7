//! The blast radius: the map of a seeded host is the one drawn by hand, what it allows is what policy grants, and every form holds what
//! hostile names may do to it.

#[path = "../support/daemon.rs"]
mod daemon;

mod browser;
mod forms;
mod live;
mod property;
mod seeded;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output};

use valetkey::{
    blast::{Facts, Moment, Usage},
    config,
};

/// A folder with a configuration, as the loader asks for.
pub struct Etc(tempfile::TempDir);

impl Etc {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let etc = Self(tempfile::Builder::new().prefix("vk").tempdir().unwrap());
        fs::set_permissions(etc.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        files.iter().for_each(|(name, text)| etc.write(name, text));
        etc
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn config(&self) -> String {
        self.path("valetkey.toml").display().to_string()
    }

    /// Without this folder's own name, which differs from run to run.
    pub fn relative(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }

    pub fn facts(&self, usage: Option<Usage>) -> Facts {
        let config = config::load(&self.path("valetkey.toml")).unwrap_or_else(|problems| panic!("{problems:?}"));
        Facts { usage, ..Facts::of_config(&config, "web-1", now()) }
    }
}

/// 2027-01-15T08:00:00Z.
pub fn now() -> Moment {
    Moment::from_seconds(1_800_000_000)
}

/// Runs the command.
pub fn valetkey(arguments: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_valetkey")).args(arguments).env_clear().output().unwrap()
}

#[track_caller]
pub fn says(out: &Output, code: i32, expected: &[&str]) -> String {
    let said = String::from_utf8([&*out.stdout, b"\n--\n", &*out.stderr].concat()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{said}");
    for words in expected {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
    String::from_utf8(out.stdout.clone()).unwrap()
}

//! A systemd that was booted in namespaces of its own by `sdbox`.
#![allow(dead_code)]

use std::process::{Command, Output};

/// A booted systemd. Powered off on drop.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// Boots one that sees these as well, each `SOURCE:DESTINATION[:ro]`. `None`: it cannot run here, and the reason was said.
    pub fn start(binds: &[String]) -> Option<Self> {
        let sandbox = Self { folder: tempfile::tempdir().unwrap() };
        let binds = binds.iter().flat_map(|bind| ["--bind", bind]);
        let started = sandbox.sdbox(&["start"].into_iter().chain(binds).collect::<Vec<_>>());
        match started.status.code() {
            Some(0) => Some(sandbox),
            Some(77) => {
                eprintln!("{}", String::from_utf8_lossy(&started.stderr).trim());
                None
            }
            _ => panic!("sdbox start: {started:?}"),
        }
    }

    pub fn sdbox(&self, arguments: &[&str]) -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/sdbox");
        Command::new(script).args(arguments).env("SDBOX", self.folder.path()).output().unwrap()
    }

    #[track_caller]
    pub fn exec(&self, arguments: &[&str]) -> String {
        let output = self.sdbox(&[&["exec"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.sdbox(&["stop"]);
    }
}

//! A host with the daemon installed as README says, under a real systemd.
//!
//! `tests/support/sdbox` boots systemd in namespaces of its own; where it cannot, a test says why and passes.
#![allow(dead_code)]

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where this very test is to be found there, for what it runs in a role.
pub const PROGRAM: &str = "/usr/local/libexec/valetkey-test";

/// For what must run in a cgroup of the host: what is run from outside is in none that the daemon can see.
pub const RUN: &str = "systemd-run --quiet --wait --pipe --collect";

const CONFIG: &str = r#"
[source.sealed]
kind = "sealed-file"
file = "/etc/valetkey/secrets.sealed"
identity-file = "credential:valetkey-identity"
"#;

/// What an administrator installs.
pub const UNITS: [&str; 6] = [
    "valetkeyd.service",
    "valetkeyd.socket",
    "valetkeyd-admin.socket",
    "valetkeyd-credentials.socket",
    "valetkey-rotated.path",
    "valetkey-rotated.service",
];

/// A booted systemd. Powered off on drop.
pub struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    pub fn start() -> Option<Self> {
        let mut binds = vec![
            format!("{}:/usr/bin/valetkeyd:ro", env!("CARGO_BIN_EXE_valetkeyd")),
            format!("{}:/usr/bin/valetkey:ro", env!("CARGO_BIN_EXE_valetkey")),
            format!("{ROOT}/systemd/sysusers.d/valetkey.conf:/usr/lib/sysusers.d/valetkey.conf:ro"),
            format!("{ROOT}/systemd/tmpfiles.d/valetkey.conf:/usr/lib/tmpfiles.d/valetkey.conf:ro"),
        ];
        binds.extend(UNITS.map(|unit| format!("{ROOT}/systemd/{unit}:/etc/systemd/system/{unit}:ro")));
        Self::bare(&binds)
    }

    /// One without the daemon, that sees these as well, each `SOURCE:DESTINATION[:ro]`.
    pub fn bare(binds: &[String]) -> Option<Self> {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        let program = format!("{}:{PROGRAM}:ro", std::env::current_exe().unwrap().display());
        let mut arguments = vec!["start", "--bind", &program];
        arguments.extend(binds.iter().flat_map(|bind| ["--bind", bind]));
        let started = host.sdbox(&arguments, b"");
        match started.status.code() {
            Some(0) => Some(host),
            Some(77) => {
                eprintln!("{}", String::from_utf8_lossy(&started.stderr).trim());
                None
            }
            _ => panic!("sdbox start: {started:?}"),
        }
    }

    fn sdbox(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(format!("{ROOT}/tests/support/sdbox"));
        command.args(arguments).env("SDBOX", self.folder.path());
        // What a sandbox leaves running must not hold a pipe of ours open: its output goes to files.
        let [out, err] = ["out", "err"].map(|name| self.folder.path().join(name));
        let file = |path| fs::File::create(path).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        let status = child.wait().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    pub fn try_shell(&self, script: &str, input: &str) -> (Option<i32>, String) {
        let output = self.sdbox(&["exec", "/bin/sh", "-c", script], input.as_bytes());
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    #[track_caller]
    pub fn shell(&self, script: &str, input: &str) -> String {
        let (code, said) = self.try_shell(script, input);
        let log = || self.try_shell("journalctl --no-pager -n 40", "").1;
        assert!(code == Some(0), "{script}: {code:?} {said}\n{}", log());
        said
    }

    /// Puts the daemon on the host as README says, with one sealed file for these secrets, these tools and more lines of the main file.
    pub fn install(&self, more: &str, secrets: &[(&str, &[u8])], tools: &[(&str, &str)]) {
        self.shell("systemd-sysusers && systemd-tmpfiles --create valetkey.conf", "");
        self.shell("valetkey seal init && chown valetkey: /etc/valetkey/secrets.sealed", "");
        let mut config = format!("{more}{CONFIG}");
        for (name, value) in secrets {
            self.seal(name, value);
            config += &format!("[secret.\"{name}\"]\nsource = \"sealed\"\n");
        }
        self.write("/etc/valetkey/valetkey.toml", &config);
        for (name, text) in tools {
            self.write(&format!("/etc/valetkey/tools.d/{name}.toml"), text);
        }
        let identity = "[Service]\nLoadCredential=valetkey-identity:/etc/valetkey/identity.key\n";
        self.write("/etc/systemd/system/valetkeyd.service.d/identity.conf", identity);
        self.shell("valetkey check", "");
        self.shell("systemctl daemon-reload", "");
    }

    pub fn seal(&self, name: &str, value: &[u8]) {
        let output = self.sdbox(&["exec", "valetkey", "seal", "set", name], value);
        assert!(output.status.success(), "{output:?}");
    }

    /// Adds a drop-in that is shipped.
    pub fn drop_in(&self, name: &str) {
        let text = fs::read_to_string(format!("{ROOT}/systemd/{name}")).unwrap();
        self.write(&format!("/etc/systemd/system/valetkeyd.service.d/{name}"), &text);
        self.shell("systemctl daemon-reload", "");
    }

    pub fn write(&self, path: &str, text: &str) {
        self.shell(&format!("mkdir -p $(dirname {path}) && cat >{path}"), text);
    }

    pub fn log(&self) -> String {
        self.shell("journalctl -u valetkeyd --no-pager", "")
    }

    /// Waits until the daemon has said this, and returns all that it said.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the daemon does not say {text:?}\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a command succeeds.
    #[track_caller]
    pub fn until(&self, script: &str) {
        let (code, _) = self.try_shell(&format!("timeout 20 sh -c 'until {script}; do sleep 0.05; done'"), "");
        assert!(code == Some(0), "never: {script}\n{}", self.shell("journalctl --no-pager -n 60", ""));
    }

    pub fn property(&self, unit: &str, property: &str) -> String {
        self.shell(&format!("systemctl show --property={property} --value '{unit}'"), "").trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.sdbox(&["stop"], b"");
    }
}

//! The unit that is shipped, under a real systemd, put on a host by the steps that README gives.
//!
//! `tests/support/sdbox` boots systemd in namespaces of its own; where it cannot, these tests say why and pass.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const CONFIG: &str = r#"
[daemon]
last-good = { file = "/var/lib/valetkey/last-good.age", identity-file = "credential:valetkey-identity" }

[source.sealed]
kind = "sealed-file"
file = "/etc/valetkey/secrets.sealed"
identity-file = "credential:valetkey-identity"

[secret."stripe/api-key"]
source = "sealed"

[secret."mail/password"]
source = "sealed"
"#;

const BILLING: &str = "[tool.billing]\nrun-as = { unit = \"mcp-billing.service\" }\nsecrets.\"stripe/api-key\" = {}\n";
/// A user selector: what PrivateUsers=yes would break.
const MAIL: &str = "[tool.mail]\nrun-as = { user = \"daemon\" }\nsecrets.\"mail/password\" = {}\n";

/// A booted systemd. Powered off on drop.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn start() -> Option<Self> {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        let binds = [
            format!("{}:/usr/bin/valetkeyd:ro", env!("CARGO_BIN_EXE_valetkeyd")),
            format!("{}:/usr/bin/valetkey:ro", env!("CARGO_BIN_EXE_valetkey")),
            format!("{ROOT}/systemd/sysusers.d/valetkey.conf:/usr/lib/sysusers.d/valetkey.conf:ro"),
            format!("{ROOT}/systemd/tmpfiles.d/valetkey.conf:/usr/lib/tmpfiles.d/valetkey.conf:ro"),
            format!("{ROOT}/systemd/valetkeyd.service:/etc/systemd/system/valetkeyd.service:ro"),
        ];
        let mut arguments = vec!["start"];
        arguments.extend(binds.iter().flat_map(|bind| ["--bind", bind]));
        let started = host.sdbox(&arguments, "");
        match started.status.code() {
            Some(0) => Some(host),
            Some(77) => {
                eprintln!("{}", String::from_utf8_lossy(&started.stderr).trim());
                None
            }
            _ => panic!("sdbox start: {started:?}"),
        }
    }

    fn sdbox(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(format!("{ROOT}/tests/support/sdbox"));
        command.args(arguments).env("SDBOX", self.folder.path());
        // What a sandbox leaves running must not hold a pipe of ours open: its output goes to files.
        let [out, err] = ["out", "err"].map(|name| self.folder.path().join(name));
        let file = |path| fs::File::create(path).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let status = child.wait().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    fn try_shell(&self, script: &str, input: &str) -> (Option<i32>, String) {
        let output = self.sdbox(&["exec", "/bin/sh", "-c", script], input);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    #[track_caller]
    fn shell(&self, script: &str, input: &str) -> String {
        let (code, said) = self.try_shell(script, input);
        let log = || self.try_shell("journalctl --no-pager -n 40", "").1;
        assert!(code == Some(0), "{script}: {code:?} {said}\n{}", log());
        said
    }

    /// Puts the daemon on the host as README says, with one sealed file for all secrets.
    fn install(&self) {
        self.shell("systemd-sysusers && systemd-tmpfiles --create valetkey.conf", "");
        self.shell("valetkey seal init && chown valetkey: /etc/valetkey/secrets.sealed", "");
        self.shell("valetkey seal set stripe/api-key", "sk-from-the-sealed-file");
        self.shell("valetkey seal set mail/password", "mail-from-the-sealed-file");
        self.shell("cat >/etc/valetkey/valetkey.toml", CONFIG);
        self.shell("cat >/etc/valetkey/tools.d/billing.toml", BILLING);
        self.shell("cat >/etc/valetkey/tools.d/mail.toml", MAIL);
        let drop_in = "[Service]\nLoadCredential=valetkey-identity:/etc/valetkey/identity.key\n";
        let place = "/etc/systemd/system/valetkeyd.service.d";
        self.shell(&format!("mkdir -p {place} && cat >{place}/identity.conf"), drop_in);
        self.shell("valetkey check", "");
        self.shell("systemctl daemon-reload && systemctl start valetkeyd", "");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.sdbox(&["stop"], "");
    }
}

#[test]
fn the_shipped_unit_serves_hardened() {
    let Some(host) = Host::start() else { return };
    host.install();

    // Through systemd-run, since what is run from outside the sandbox is in no cgroup that the daemon can see.
    let run = "systemd-run --quiet --wait --pipe --collect";
    let status = host.shell(&format!("{run} valetkey status"), "");
    assert!(status.contains("memory         memfd_secret") && status.contains("2 tools, 2 secrets"), "{status}");
    assert!(
        host.shell("stat -c '%a %U' /run/valetkey/tools.sock /run/valetkey/admin.sock", "") == "666 valetkey\n600 valetkey\n"
    );
    // Nothing of this host's own is in it, but it is there.
    let copy = "test -s /var/lib/valetkey/last-good.age && stat -c '%a %U' /var/lib/valetkey /var/lib/valetkey/last-good.age";
    assert_eq!(host.shell(copy, ""), "700 valetkey\n600 valetkey\n");
    assert!(status.contains("last good copy /var/lib/valetkey/last-good.age, written 2"), "{status}");
    let hardening = host.shell("journalctl -u valetkeyd --no-pager", "");
    assert!(hardening.contains("not dumpable: yes, no core files: yes, no new privileges: yes"), "{hardening}");

    // By unit, by user, and as neither.
    let billing = "valetkey get stripe/api-key --tool billing";
    let got = host.shell(&format!("{run} --unit=mcp-billing.service -p DynamicUser=yes {billing}"), "");
    assert_eq!(got, "sk-from-the-sealed-file");
    assert_eq!(
        host.shell(&format!("{run} --uid=daemon valetkey get mail/password --tool mail"), ""),
        "mail-from-the-sealed-file"
    );
    let (code, said) = host.try_shell(&format!("{run} --unit=other.service -p DynamicUser=yes {billing}"), "");
    assert!(code == Some(3) && said.contains("TOOL_NOT_ALLOWED"), "{code:?} {said}");

    // Not root, not the daemon's user: no operator.
    let (code, said) = host.try_shell(&format!("{run} --uid=daemon valetkey status"), "");
    assert!(code == Some(4) && said.contains("ermission"), "{code:?} {said}");

    // Reload comes back when it is done, and fails when it was refused.
    host.shell("valetkey seal set stripe/api-key", "sk-the-second");
    host.shell("systemctl reload valetkeyd", "");
    let got = host.shell(&format!("{run} --unit=mcp-billing.service -p DynamicUser=yes {billing}"), "");
    assert_eq!(got, "sk-the-second");
    host.shell("echo 'nonsense = 1' >>/etc/valetkey/tools.d/mail.toml", "");
    let (code, _) = host.try_shell("systemctl reload valetkeyd", "");
    assert_ne!(code, Some(0), "a reload that was refused must not look like one that worked");
    assert!(host.shell(&format!("{run} valetkey status"), "").contains("LAST RELOAD FAILED"));

    host.shell("systemctl stop valetkeyd && test ! -e /run/valetkey", "");
}

/// systemd-analyze verify succeeds on unknown keys: any word is a failure.
#[test]
fn the_shipped_unit_says_nothing_that_systemd_does_not_know() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("SKIP: no systemd-analyze (Debian package systemd)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("valetkeyd.service");
    let text = fs::read_to_string(format!("{ROOT}/systemd/valetkeyd.service")).unwrap();
    let here = text
        .replace("/usr/bin/valetkeyd", env!("CARGO_BIN_EXE_valetkeyd"))
        .replace("/usr/bin/valetkey ", &format!("{} ", env!("CARGO_BIN_EXE_valetkey")));
    fs::write(&unit, here).unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{}\n{said}", String::from_utf8_lossy(&version.stdout));

    // The score is 1.4 with systemd 252: it must not get worse unnoticed.
    let scored =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=14"]).arg(&unit).output().unwrap();
    let table = String::from_utf8_lossy(&scored.stdout);
    assert!(scored.status.success(), "{}", table.lines().last().unwrap_or_default());
}

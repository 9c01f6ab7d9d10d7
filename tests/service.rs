//! The unit that is shipped, under a real systemd, put on a host by the steps that README gives.

use std::{env, fs, process::Command, time::Duration};

#[path = "support/installed.rs"]
mod installed;

use installed::{Host, PROGRAM, ROOT, RUN, UNITS};
use valetkey::client::Client;

const LAST_GOOD: &str = r#"
[daemon]
last-good = { file = "/var/lib/valetkey/last-good.age", identity-file = "credential:valetkey-identity" }
"#;

const BILLING: &str = "[tool.billing]\nrun-as = { unit = \"mcp-billing.service\" }\nsecrets.\"stripe/api-key\" = {}\n";
/// A user selector: what PrivateUsers=yes breaks.
const MAIL: &str = "[tool.mail]\nrun-as = { user = \"daemon\" }\nsecrets.\"mail/password\" = {}\n";

#[test]
fn the_shipped_unit_serves_hardened() {
    let Some(host) = Host::start() else { return };
    let secrets: [(&str, &[u8]); 2] =
        [("stripe/api-key", b"sk-from-the-sealed-file"), ("mail/password", b"mail-from-the-sealed-file")];
    host.install(LAST_GOOD, &secrets, &[("billing", BILLING), ("mail", MAIL)]);

    // Behind PrivateUsers=yes there is no such user: said at the start, and not by refusing everyone.
    let (code, _) = host.try_shell("systemctl start valetkeyd", "");
    assert_ne!(code, Some(0));
    host.says("user daemon (1) is hidden from the daemon");
    host.drop_in("user-selectors.conf");
    host.shell("systemctl reset-failed 'valetkeyd*'; systemctl start valetkeyd", "");

    let run = RUN;
    let status = host.shell(&format!("{run} valetkey status"), "");
    assert!(status.contains("memory         memfd_secret") && status.contains("2 tools, 2 secrets"), "{status}");
    let sockets = "cd /run/valetkey && stat -c '%n %a %U' *";
    let expected = "admin.sock 600 valetkey\ncredentials.sock 600 root\ntools.sock 666 root\n";
    assert_eq!(host.shell(sockets, ""), expected);
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

    host.shell("systemctl stop 'valetkeyd*.socket' valetkeyd 2>&1 && test -z \"$(ls /run/valetkey)\"", "");
}

/// A folder with the units that are shipped, as they are where this build is installed.
fn units(drop_ins: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = fs::read_to_string(format!("{ROOT}/systemd/{unit}")).unwrap();
        let here = text
            .replace("/usr/bin/valetkeyd", env!("CARGO_BIN_EXE_valetkeyd"))
            .replace("/usr/bin/valetkey ", &format!("{} ", env!("CARGO_BIN_EXE_valetkey")));
        fs::write(folder.path().join(unit), here).unwrap();
    }
    // In one file: `systemd-analyze` looks for drop-ins where the host has its own.
    let mut service = fs::read_to_string(folder.path().join("valetkeyd.service")).unwrap();
    for drop_in in drop_ins {
        service += &fs::read_to_string(format!("{ROOT}/systemd/{drop_in}")).unwrap();
    }
    fs::write(folder.path().join("valetkeyd.service"), service).unwrap();
    folder
}

const SERVICE_DROP_INS: [&str; 4] =
    ["kernel-before-6.13.conf", "user-selectors.conf", "executable-attestation.conf", "egress.conf"];

/// systemd-analyze verify succeeds on unknown keys: any word is a failure.
#[test]
fn the_shipped_units_say_nothing_that_systemd_does_not_know() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("SKIP: no systemd-analyze (Debian package systemd)");
        return;
    };
    for drop_ins in [&[][..], &SERVICE_DROP_INS] {
        let folder = units(drop_ins);
        let files = UNITS.map(|unit| folder.path().join(unit));
        let mut verify = Command::new("systemd-analyze");
        let verified = verify.args(["verify", "--man=no"]).args(files).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && said.is_empty(), "{}\n{said}", String::from_utf8_lossy(&version.stdout));
    }
}

/// The scores of systemd 252 that the pages tell: they must not get worse unnoticed.
#[test]
fn the_shipped_unit_keeps_its_score() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIP: no systemd-analyze (Debian package systemd)");
        return;
    }
    let scores: [(&[&str], &str); 4] =
        [(&[], "11"), (&["egress.conf"], "9"), (&["user-selectors.conf"], "12"), (&["kernel-before-6.13.conf"], "12")];
    for (drop_ins, most) in scores {
        let folder = units(drop_ins);
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true", &format!("--threshold={most}")]);
        let scored = analyze.arg(folder.path().join("valetkeyd.service")).output().unwrap();
        let table = String::from_utf8_lossy(&scored.stdout);
        assert!(scored.status.success(), "{drop_ins:?}: {}", table.lines().last().unwrap_or_default());
    }
}

/// Not a test: a tool in the sandbox, with one session. It fetches once, and again when it is told to.
#[test]
fn role() {
    if env::var("VALETKEY_ROLE").is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = Client::new().session("billing").secret("stripe/api-key").open().await.unwrap();
        session.fetch("stripe/api-key").await.unwrap();
        fs::write("/run/held", "").unwrap();
        while fs::metadata("/run/fetch-again").is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = match session.fetch("stripe/api-key").await {
            Ok(secret) => format!("{} bytes by another session", secret.expose(<[u8]>::len)),
            Err(error) => error.to_string(),
        };
        fs::write("/run/answer", said).unwrap();
    });
}

#[test]
fn a_unit_that_is_started_again_has_lost_its_sessions() {
    let Some(host) = Host::start() else { return };
    host.install("", &[("stripe/api-key", b"sk-from-the-sealed-file")], &[("billing", BILLING)]);
    host.shell("systemctl start valetkeyd", "");
    // Beside the process that systemd knows of, one that outlives it.
    let outlive = format!("[ -e /run/held ] || VALETKEY_ROLE=hold {PROGRAM} --exact role & exec sleep 600");
    host.write("/run/outlive", &outlive);
    let unit = "[Service]\nExecStart=/bin/sh /run/outlive\nKillMode=process\n";
    host.write("/etc/systemd/system/mcp-billing.service", unit);
    host.shell("systemctl daemon-reload; systemctl start mcp-billing", "");
    host.shell("timeout 20 sh -c 'until test -e /run/held; do sleep 0.05; done'", "");
    let sessions = || host.shell(&format!("{RUN} valetkey sessions --json"), "");
    let first = host.property("mcp-billing", "InvocationID");
    assert!(sessions().contains(&first), "{}", sessions());

    host.shell("systemctl restart mcp-billing", "");
    assert_ne!(host.property("mcp-billing", "InvocationID"), first);
    host.shell("touch /run/fetch-again; timeout 20 sh -c 'until test -s /run/answer; do sleep 0.05; done'", "");
    let answer = host.shell("cat /run/answer", "");
    // The session of the first start is over, and with it what it could get. The library proves itself anew, as of the second start.
    assert_eq!(answer, "23 bytes by another session");
    host.says("run of its unit (systemd's invocation) changed");
    assert!(!sessions().contains(&first), "{}", sessions());

    // And where no process is left, at once.
    host.shell("systemctl stop mcp-billing; rm /run/held /run/fetch-again /run/answer", "");
    host.write("/etc/systemd/system/mcp-billing.service", "[Service]\nExecStart=/bin/sh /run/outlive\n");
    host.shell("systemctl daemon-reload; systemctl start mcp-billing", "");
    host.shell("timeout 20 sh -c 'until test -e /run/held; do sleep 0.05; done'", "");
    let second = host.property("mcp-billing", "InvocationID");
    assert!(sessions().contains(&second), "{}", sessions());
    host.shell("systemctl restart mcp-billing", "");
    assert!(!sessions().contains(&second), "{}", sessions());
}

/// The watchdog ends a daemon that does not answer, and starts it anew; who connects meanwhile waits.
#[test]
fn a_daemon_that_hangs_is_replaced() {
    let Some(host) = Host::start() else { return };
    host.install("", &[("stripe/api-key", b"sk-from-the-sealed-file")], &[("billing", BILLING)]);
    let quick = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=0.1\n";
    host.write("/etc/systemd/system/valetkeyd.service.d/quick.conf", quick);
    host.shell("systemctl daemon-reload; systemctl start valetkeyd", "");
    let before = host.property("valetkeyd", "MainPID");
    // While it answers it stays, for longer than the watchdog waits.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(host.property("valetkeyd", "MainPID"), before);

    host.shell("systemctl kill --signal=STOP valetkeyd", "");
    let billing = format!("{RUN} --unit=mcp-billing.service valetkey get stripe/api-key --tool billing");
    assert_eq!(host.shell(&billing, ""), "sk-from-the-sealed-file");
    assert_ne!(host.property("valetkeyd", "MainPID"), before);
    assert!(host.log().contains("Watchdog timeout"), "{}", host.log());
}

/// What fails at each start ends as documented: systemd gives up, and callers hear that nobody is there.
#[test]
fn a_crash_loop_ends_and_callers_are_told() {
    let Some(host) = Host::start() else { return };
    host.install("", &[("stripe/api-key", b"sk-from-the-sealed-file")], &[("billing", BILLING)]);
    let quick = "[Service]\nRestartSec=0.05\n";
    host.write("/etc/systemd/system/valetkeyd.service.d/quick.conf", quick);
    host.write("/etc/valetkey/tools.d/broken.toml", "nonsense = 1\n");
    host.shell("systemctl daemon-reload; systemctl start valetkeyd.socket valetkeyd-admin.socket", "");
    let billing = format!("{RUN} --unit=mcp-billing.service valetkey get stripe/api-key --tool billing");
    let (code, said) = host.try_shell(&format!("timeout 60 {billing}"), "");
    assert_eq!(code, Some(4), "{said}");
    assert_eq!(host.property("valetkeyd.socket", "Result"), "service-start-limit-hit");

    host.shell("rm /etc/valetkey/tools.d/broken.toml; systemctl reset-failed 'valetkeyd*'; systemctl start valetkeyd", "");
    assert_eq!(host.shell(&billing, ""), "sk-from-the-sealed-file");
}

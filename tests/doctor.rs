//! `valetkey doctor` on a host with the daemon installed, under a real systemd: what is well is called so, and what is not has a remedy.

#[path = "support/installed.rs"]
mod installed;

use std::collections::BTreeMap;

use installed::{Host, RUN};
use serde_json::Value;

const TOOLS: &str = "[tool.billing]\nrun-as = { unit = \"mcp-billing.service\" }\n\
                     secrets.\"stripe/api-key\" = { credential = \"key\" }\n";
const EXPORT: &str = "[audit.export.journal]\nkind = \"journald\"\nsocket = \"/run/systemd/journal/socket\"\n";

/// By name, the state and the remedy.
#[track_caller]
fn ask(host: &Host, code: i32) -> BTreeMap<String, (String, String, String)> {
    let (exit, said) = host.try_shell(&format!("{RUN} valetkey doctor --json"), "");
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let checks: BTreeMap<_, _> =
        checks.map(|check| (text(check, "name"), (text(check, "state"), text(check, "found"), text(check, "remedy")))).collect();
    assert_eq!((exit, report["ok"].as_bool()), (Some(code), Some(code == 0)), "{checks:#?}");
    checks
}

#[test]
fn a_host_that_is_well_and_one_that_is_not() {
    let Some(host) = Host::start() else { return };
    host.install(EXPORT, &[("stripe/api-key", b"sk-from-the-sealed-file")], &[("billing", TOOLS)]);
    host.shell("systemctl enable --now valetkeyd 2>&1", "");

    let checks = ask(&host, 0);
    let names = [
        "kernel",
        "memory",
        "memlock",
        "hardening",
        "attestation",
        "cgroups",
        "landlock",
        "random",
        "clock",
        "configuration",
        "tools.sock",
        "admin.sock",
        "credentials.sock",
        "unit",
        "exposure",
        "daemon",
        "values",
        "privileges",
        "limits",
        "source sealed",
        "audit log",
        "exporter journal",
    ];
    for name in names {
        let (state, found, remedy) = checks.get(name).unwrap_or_else(|| panic!("{name} is not looked at: {checks:#?}"));
        // Whether the clock is kept, and how much memory may be locked, is this machine's affair.
        assert!(state == "ok" || ["clock", "memlock"].contains(&name), "{name} is {state}: {found}; {remedy}");
        assert!(!found.contains("sk-from-the"), "a value is told");
    }
    assert!(checks["exposure"].1.contains("gives the unit 1.1"), "{:?}", checks["exposure"]);
    assert!(checks["privileges"].1.contains("no capability, no new privileges, system calls filtered"));
    assert!(checks["values"].1.contains("memfd_secret"), "{:?}", checks["values"]);

    // In words, too.
    let said = host.shell(&format!("{RUN} valetkey doctor"), "");
    assert!(said.contains("ok       exposure") && !said.contains("BAD"), "{said}");

    let wrong = |name: &str, state: &str, found: &str, remedy: &str, code: i32| {
        let checks = ask(&host, code);
        let check = &checks[name];
        assert!(check.0 == state && check.1.contains(found) && check.2.contains(remedy), "{name}: {check:?}");
    };
    // Others can connect where they must not.
    host.shell("chmod 666 /run/valetkey/credentials.sock", "");
    wrong("credentials.sock", "bad", "others than systemd may connect", "SocketMode=0600", 1);
    host.shell("chmod 600 /run/valetkey/credentials.sock; chmod 666 /run/valetkey/admin.sock", "");
    wrong("admin.sock", "bad", "mode 0666", "SocketMode=0600", 1);
    host.shell("chmod 600 /run/valetkey/admin.sock", "");
    // A reload that failed, until it is mended.
    host.shell("echo 'nonsense = 1' >>/etc/valetkey/tools.d/billing.toml; ! systemctl reload valetkeyd 2>/dev/null", "");
    wrong("daemon", "bad", "the last reload failed", "valetkey check", 1);
    wrong("configuration", "bad", "1 problems", "valetkey check", 1);
    host.write("/etc/valetkey/tools.d/billing.toml", TOOLS);
    host.shell("systemctl reload valetkeyd", "");
    // A source that gives nothing any more.
    let refresh = format!("{RUN} valetkey refresh");
    host.shell("mv /etc/valetkey/secrets.sealed /etc/valetkey/elsewhere", "");
    assert_eq!(host.try_shell(&refresh, "").0, Some(1));
    wrong("source sealed", "bad", "sealed-file", "valetkey status", 1);
    host.shell(&format!("mv /etc/valetkey/elsewhere /etc/valetkey/secrets.sealed && {refresh}"), "");
    ask(&host, 0);
    // An exporter whose other end is not there.
    let gone = "[audit.export.gone]\nkind = \"journald\"\nsocket = \"/run/nowhere\"\n";
    host.shell(
        "cp /etc/valetkey/valetkey.toml /run/valetkey.toml; cat >>/etc/valetkey/valetkey.toml; systemctl restart valetkeyd",
        gone,
    );
    host.says("does not take records");
    wrong("exporter gone", "bad", "records wait", "mend the other end", 1);
    host.shell("cp /run/valetkey.toml /etc/valetkey/valetkey.toml; systemctl restart valetkeyd", "");

    // A drop-in that takes the sandbox away.
    let open = "[Service]\nNoNewPrivileges=no\nProtectSystem=no\nSystemCallFilter=\nPrivateDevices=no\nRestrictNamespaces=no\n\
                CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE\nAmbientCapabilities=CAP_SYS_PTRACE\nPrivateUsers=no\nLimitCORE=infinity\n";
    host.write("/etc/systemd/system/valetkeyd.service.d/open.conf", open);
    host.shell("systemctl daemon-reload; systemctl restart valetkeyd", "");
    wrong("exposure", "warning", "gives the unit", "systemctl cat valetkeyd", 0);
    wrong("privileges", "warning", "CAPABILITIES", "executable-attestation.conf", 0);
    host.shell("rm /etc/systemd/system/valetkeyd.service.d/open.conf; systemctl daemon-reload", "");

    // Nobody runs.
    host.shell("systemctl stop 'valetkeyd*.socket' valetkeyd 2>&1", "");
    wrong("unit", "warning", "is inactive", "systemctl enable --now valetkeyd", 1);
    wrong("credentials.sock", "bad", "there is no", "valetkeyd-credentials.socket", 1);
    let checks = ask(&host, 1);
    assert!(checks["daemon"].0 == "warning" && checks["tools.sock"].0 == "warning", "{checks:#?}");
}

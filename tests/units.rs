//! Units that have credentials: what becomes of them when there is a new version, and what a start of many at once costs.
//!
//! `VALETKEY_UNITS` says how many units start at once (20).

use std::{process::Command, time::Instant};

#[path = "support/installed.rs"]
mod installed;

use installed::{Host, ROOT, RUN};
use serde_json::Value;

const SOCKET: &str = "/run/valetkey/credentials.sock";

/// One that is started anew, one that is not, and one that does not run.
const TOOLS: &str = r#"
[tool.billing]
run-as = { unit = "mcp-billing.service" }
secrets."stripe/api-key" = { credential = "key" }
on-rotation = "restart"
on-contain = "stop"

[tool.mail]
run-as = { unit = "mcp-mail.service" }
secrets."stripe/api-key" = { credential = "key" }

[tool.cache]
run-as = { unit = "mcp-cache.service" }
secrets."stripe/api-key" = { credential = "key" }
on-rotation = "restart"
"#;

fn unit(host: &Host, name: &str) {
    let text = format!(
        "[Unit]\nRequires=valetkeyd-credentials.socket\nAfter=valetkeyd-credentials.socket\n\
         [Service]\nType=exec\nDynamicUser=yes\nLoadCredential=key:{SOCKET}\nExecStartPre=+/bin/sh -c 'cat %d/key >/run/{name}.got'\n\
         ExecStart=/bin/sleep 600\n"
    );
    host.write(&format!("/etc/systemd/system/mcp-{name}.service"), &text);
}

fn host() -> Option<Host> {
    let host = Host::start()?;
    host.install("", &[("stripe/api-key", b"the first")], &[("tools", TOOLS)]);
    ["billing", "mail", "cache"].iter().for_each(|name| unit(&host, name));
    host.shell("systemctl daemon-reload; systemctl start valetkeyd mcp-billing mcp-mail mcp-cache; systemctl stop mcp-cache", "");
    Some(host)
}

fn got(host: &Host, name: &str, value: &str) {
    host.until(&format!("test \"$(cat /run/{name}.got)\" = \"{value}\""));
}

#[test]
fn a_new_version_starts_a_unit_anew_where_policy_wants_it() {
    let Some(host) = host() else { return };
    host.shell("systemctl enable --now valetkey-rotated.path 2>&1", "");
    got(&host, "billing", "the first");
    let [billing, mail] = ["mcp-billing", "mcp-mail"].map(|unit| host.property(unit, "InvocationID"));

    host.seal("stripe/api-key", b"the second");
    host.shell("systemctl reload valetkeyd", "");
    got(&host, "billing", "the second");
    host.until("systemctl -q is-active mcp-billing");
    assert_ne!(host.property("mcp-billing", "InvocationID"), billing);
    let log = host.says("a unit has an old version until it is started anew");
    assert!(!log.contains("the second"), "a value is in the log");
    assert_eq!(host.property("mcp-mail", "InvocationID"), mail, "nobody wanted that");
    assert_eq!(host.property("mcp-cache", "ActiveState"), "inactive", "what does not run is not started");
    // Once, and not again and again.
    let second = host.property("mcp-billing", "InvocationID");
    host.until("test -z \"$(ls /run/valetkey-rotated)\"");
    host.shell("systemctl reload valetkeyd; sleep 2", "");
    assert_eq!(host.property("mcp-billing", "InvocationID"), second);

    // What changed while the daemon was not there is seen by the next one.
    host.shell("systemctl stop valetkeyd", "");
    host.seal("stripe/api-key", b"the third");
    host.shell("systemctl start valetkeyd", "");
    got(&host, "billing", "the third");
    assert_ne!(host.property("mcp-billing", "InvocationID"), second);
    assert_eq!(host.shell("stat -c '%a %U' /var/lib/valetkey/units.json", ""), "600 valetkey\n");
    assert_eq!(host.property("valetkey-rotated.service", "Result"), "success");
}

/// Every secret is rotated by a new value.
fn rotates(host: &Host) {
    // Where the shipped unit lets the daemon write.
    let config = host.shell("cat /etc/valetkey/valetkey.toml", "");
    let config = config.replace("/etc/valetkey/secrets.sealed", "/var/lib/valetkey/secrets.sealed");
    let rotates = config.replace("source = \"sealed\"\n", "source = \"sealed\"\nrotation = { generate = {} }\n");
    host.write("/etc/valetkey/valetkey.toml", &rotates);
    host.shell("cp /etc/valetkey/secrets.sealed /var/lib/valetkey/ && chown valetkey: /var/lib/valetkey/secrets.sealed", "");
    host.shell("systemctl restart valetkeyd", "");
}

/// Nobody but systemd has a right over it, and it is told where policy says so.
#[test]
fn a_contained_tool_that_is_a_unit_is_stopped_where_policy_wants_it() {
    let Some(host) = host() else { return };
    rotates(&host);
    host.shell("mkdir -p /etc/systemd/system/mcp-billing.service.d", "");
    host.write("/etc/systemd/system/mcp-billing.service.d/always.conf", "[Service]\nRestart=always\nRestartSec=1\n");
    host.shell("systemctl daemon-reload; systemctl stop mcp-mail; systemctl restart mcp-billing", "");
    let contain = |arguments: &str| host.try_shell(&format!("{RUN} timeout 60 valetkey contain billing {arguments}"), "");

    let (code, said) = contain("--dry-run");
    assert!(code == Some(0) && said.contains("mcp-billing.service would be stopped"), "{code:?} {said}");
    assert!(host.shell("systemctl is-active mcp-billing", "").contains("active"));

    // Where nobody can be told, it says so, and how to mend that.
    host.shell("rm -rf /run/valetkey-rotated && systemctl restart valetkeyd", "");
    let (code, said) = contain("--yes --overlap 1s");
    assert!(
        code == Some(1) && said.contains("mcp-billing.service RUNS") && said.contains("systemctl stop mcp-billing"),
        "{said}"
    );
    host.shell("systemd-tmpfiles --create valetkey.conf && systemctl restart valetkeyd", "");
    host.shell("systemctl enable --now valetkey-rotated.path 2>&1", "");
    let (code, said) = contain("--yes --json");
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((code, last["unit_state"].as_str(), last["exposed"].as_u64()), (Some(0), Some("stopped"), Some(0)), "{said}");
    host.shell("sleep 2", "");
    assert_eq!(host.property("mcp-billing", "ActiveState"), "inactive", "nothing starts it again");

    // Whoever does gets a unit that fails, until the tool is released.
    let (code, _) = host.try_shell("systemctl start mcp-billing", "");
    assert_ne!(code, Some(0));
    host.shell(&format!("systemctl stop mcp-billing; {RUN} valetkey release billing; systemctl start mcp-billing"), "");
    let log = host.shell("cat /var/log/valetkey/*.jsonl /var/lib/valetkey/audit/*.jsonl 2>/dev/null || true", "");
    let unit = |line: &&str| line.contains("tool.contained") && line.contains("\"action\":\"unit\"");
    assert_eq!(log.lines().filter(unit).count(), 2, "{log}");
}

/// The old value stays good until no running unit has it.
#[test]
fn a_rotation_waits_until_units_have_the_new_version() {
    let Some(host) = host() else { return };
    rotates(&host);
    host.shell("systemctl stop mcp-mail", "");
    host.shell("systemctl enable --now valetkey-rotated.path 2>&1", "");
    let before = host.property("mcp-billing", "InvocationID");
    let versions = host.shell(&format!("{RUN} valetkey secrets --versions"), "");
    assert!(versions.contains("billing (mcp-billing.service, credential)") && !versions.contains("mcp-mail"), "{versions}");

    let told = host.shell(&format!("{RUN} timeout 30 valetkey rotate stripe/api-key --json"), "");
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["end"], "rotated", "{told}");
    let holders: Vec<_> = lines.iter().flat_map(|line| line["holders"].as_array().unwrap()).collect();
    assert!(holders.iter().all(|holder| holder["unit"] == "mcp-billing.service" && holder["session"].is_null()), "{told}");
    let moved = |moved: bool| holders.iter().filter(|holder| holder["moved"] == moved).count();
    assert!(moved(false) > 0 && moved(true) > 0, "{told}");
    assert_ne!(host.property("mcp-billing", "InvocationID"), before);
    assert_ne!(host.shell("cat /run/billing.got", ""), "the first");
}

/// Without somebody to do it, it is said what to do.
#[test]
fn a_new_version_that_nobody_acts_on_is_told() {
    let Some(host) = host() else { return };
    let (_, doctor) = host.try_shell(&format!("{RUN} valetkey doctor"), "");
    assert!(doctor.contains("BAD      rotated") && doctor.contains("systemctl enable --now valetkey-rotated.path"), "{doctor}");
    host.shell("rmdir /run/valetkey-rotated && systemctl restart valetkeyd", "");
    host.seal("stripe/api-key", b"the second");
    host.shell("systemctl reload valetkeyd", "");
    host.says("nobody can be told");
}

/// Whoever takes the daemon over has its user, and can leave any name: no other unit is started anew for it.
#[test]
fn the_daemon_has_no_right_over_other_units() {
    let Some(host) = host() else { return };
    host.shell("systemctl enable --now valetkey-rotated.path 2>&1", "");
    let before = ["mcp-mail", "valetkeyd", "mcp-billing"].map(|unit| host.property(unit, "InvocationID"));
    let as_daemon = format!("{RUN} --uid=valetkey");
    let (code, said) = host.try_shell(&format!("{as_daemon} systemctl restart mcp-mail"), "");
    assert_ne!(code, Some(0), "{said}");

    // Names that policy does not have, or wants nothing of; links; and what is no name at all.
    let names = "mcp-mail.service valetkeyd.service mcp-billing.service.d stop,mcp-mail.service stop,valetkeyd.service ../mcp-billing.service --all *.service";
    let leave = format!(
        "cd /run/valetkey-rotated && for name in {names}; do touch -- \"$name\" 2>/dev/null; done; ln -s /etc/shadow shadow.service; mkdir sub"
    );
    host.write("/run/leave", &leave);
    host.shell(&format!("{as_daemon} sh /run/leave"), "");
    host.until("test -z \"$(ls -A /run/valetkey-rotated)\"");
    host.until("test \"$(systemctl show --property=ActiveState --value valetkey-rotated.service)\" = inactive");
    let log = host.shell("journalctl -u valetkey-rotated --no-pager", "");
    assert_eq!(log.matches("mcp-mail.service: policy wants nothing of such a unit").count(), 2, "{log}");
    assert_eq!(["mcp-mail", "valetkeyd", "mcp-billing"].map(|unit| host.property(unit, "InvocationID")), before);
    host.shell("test -s /etc/shadow", "");

    // Nobody else can leave one.
    let (code, _) = host.try_shell(&format!("{RUN} --uid=nobody touch /run/valetkey-rotated/mcp-billing.service"), "");
    assert_ne!(code, Some(0));
    // A folder that others may write to is not trusted.
    host.shell("chmod 777 /run/valetkey-rotated", "");
    let (code, said) = host.try_shell("valetkey restart-units", "");
    assert!(code == Some(1) && said.contains("not a folder of this user"), "{code:?} {said}");
}

#[test]
fn who_starts_units_anew_is_shut_in() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIP: no systemd-analyze (Debian package systemd)");
        return;
    }
    let scored = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=10", &format!("{ROOT}/systemd/valetkey-rotated.service")])
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&scored.stdout);
    assert!(scored.status.success(), "{}", table.lines().last().unwrap_or_default());
}

/// As at a boot: all of them want five credentials each, at the same time. Beside the same from plain files.
#[test]
fn many_units_start_at_once() {
    let Some(host) = Host::start() else { return };
    let units = std::env::var("VALETKEY_UNITS").ok().map_or(20, |text| text.parse::<usize>().unwrap());
    // Each a field of one secret, so that it is sealed once.
    let values: serde_json::Map<_, _> = (0..units * 5).map(|i| (format!("f{i}"), format!("the value {i}").into())).collect();
    let values = serde_json::to_vec(&values).unwrap();
    let fields: String = (0..units * 5)
        .map(|i| format!("[secret.\"many/{i}\"]\nsource = \"sealed\"\npath = \"all\"\nfield = \"f{i}\"\n"))
        .collect();
    let grants = |unit: usize| -> String {
        (0..5).map(|i| format!("secrets.\"many/{}\" = {{ credential = \"c{i}\" }}\n", unit * 5 + i)).collect()
    };
    let tools: String =
        (0..units).map(|i| format!("[tool.t{i}]\nrun-as = {{ unit = \"many@{i}.service\" }}\n{}", grants(i))).collect();
    host.install(&fields, &[("all", &values)], &[("many", &tools)]);
    let template = |load: &str| {
        let loads: String = (0..5).map(|i| format!("LoadCredential=c{i}:{}\n", load.replace("%c", &i.to_string()))).collect();
        format!(
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nDynamicUser=yes\n{loads}\
             ExecStart=/bin/sh -c 'cd %%d && echo $(cat c0 c1 c2 c3 c4) >/dev/null && test $(cat c4 | wc -c) -gt 4'\n"
        )
    };
    host.write("/etc/systemd/system/many@.service", &template(SOCKET).replace("%%d", "%d"));
    host.write("/etc/systemd/system/plain@.service", &template("/etc/plain/%i-%c").replace("%%d", "%d"));
    let files: String = (0..units * 5).map(|i| format!("echo 'the value {i}' >/etc/plain/{}-{};", i / 5, i % 5)).collect();
    host.write("/run/files", &format!("mkdir /etc/plain; {files}"));
    host.shell("sh /run/files; systemctl daemon-reload; systemctl start valetkeyd", "");
    let start = |name: &str| {
        let all: String = (0..units).map(|i| format!("{name}@{i} ")).collect();
        let begun = Instant::now();
        host.shell(&format!("systemctl start {all}"), "");
        let took = begun.elapsed();
        let failed = host.shell(&format!("systemctl list-units --failed --plain --no-legend '{name}@*'"), "");
        assert_eq!(failed, "");
        took
    };
    // The first of each kind warms what both use.
    let plain = start("plain");
    // Each has a mount of its own while it runs, and systemd looks at all mounts for each that comes.
    host.shell("systemctl stop 'plain@*'", "");
    let from_daemon = start("many");
    println!("{units} units with five credentials each: {from_daemon:.2?} from the daemon, {plain:.2?} from plain files");
    let handed_out = host.shell(&format!("{RUN} valetkey status --json"), "");
    let status: serde_json::Value = serde_json::from_str(&handed_out).unwrap();
    assert_eq!(status["handouts"], units * 5);
}

//! The Debian package on a host of its own, under a real systemd: installed, used, upgraded under load, removed, purged.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command, time::Duration};

#[path = "package/deb.rs"]
mod deb;
#[path = "support/installed.rs"]
mod installed;

use deb::{Metadata, Tree};
use installed::{Host, PROGRAM, ROOT, RUN};
use valetkey::client::{Client, Error, Retry};

const PACKAGES: &str = "/srv/packages";
const KEY: &str = "sk-from-the-sealed-file";
const BILLING: &str = r#"
[tool.billing]
run-as = { unit = "mcp-billing.service" }
secrets."stripe/api-key" = {}
secrets."stripe/credential" = { credential = "stripe-key" }
"#;
const LAUNCHED: &str = r#"
[tool.launched]
run-as = { unit = "mcp-launched.service" }
command = ["/bin/sh", "-c", "test \"$KEY\" = a-value-for-the-launched && echo $KEY"]
secrets."launched/key" = { env = "KEY" }
"#;
const CALLERS: usize = 8;

/// Not a test: a tool in the sandbox that uses its secret over and over, each time in a session of its own. What it is told to try again it
/// tries again; anything else ends it.
#[test]
fn role() {
    let Ok(tool) = env::var("VALETKEY_ROLE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut calls, mut retries) = (0u64, 0u64);
    while !Path::new("/run/stop-calling").exists() {
        retries += runtime.block_on(call(&tool));
        calls += 1;
    }
    println!("REPLY {calls} {retries}");
}

async fn call(tool: &str) -> u64 {
    for retries in 0.. {
        match attempt(tool).await {
            Ok(value) => {
                assert_eq!(value, format!("the value of {tool}"), "another's value");
                return retries;
            }
            Err(error) => match error.retry() {
                Retry::After(wait) if retries < 5 => tokio::time::sleep(wait).await,
                _ => panic!("after {retries} retries: {error}"),
            },
        }
    }
    unreachable!("it returns or panics")
}

async fn attempt(tool: &str) -> Result<String, Error> {
    let session = Client::new().session(tool).secret(format!("{tool}/key")).open().await?;
    let secret = session.get(&format!("{tool}/key")).await?;
    Ok(secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
}

fn have(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// A host and three versions of the package, 1 to 3.
fn host() -> Option<(Host, tempfile::TempDir)> {
    if !have("dpkg-deb") || !have("dpkg") {
        eprintln!("SKIP: no dpkg: this is no Debian");
        return None;
    }
    let packages = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = Tree::build();
    ["1", "2", "3"].iter().for_each(|version| drop(tree.pack(version, packages.path())));
    let host = Host::bare(&[format!("{}:{PACKAGES}:ro", packages.path().display())])?;
    // Images for containers have it, so that a package starts nothing: a host has none.
    // And what a daemon has left on the host itself, which the sandbox shows: no package made it. What is removed is the sandbox's view.
    host.shell("rm -rf /usr/sbin/policy-rc.d /var/lib/valetkey /etc/valetkey", "");
    Some((host, packages))
}

fn dpkg(host: &Host, arguments: &str) -> String {
    host.shell(&format!("DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io {arguments} 2>&1"), "")
}

fn install(host: &Host, version: u32) -> String {
    dpkg(host, &format!("-i {PACKAGES}/valetkey_{version}.deb"))
}

#[test]
fn the_package_from_its_installation_to_its_end() {
    let Some((host, _packages)) = host() else { return };
    install(&host, 1);
    it_is_there_and_nothing_runs(&host);
    configure(&host);
    host.shell("systemctl enable --now valetkeyd 2>&1", "");
    it_is_used_in_each_way(&host);
    it_is_upgraded_under_load(&host);
    a_version_that_does_not_accept_the_configuration_replaces_nobody(&host);
    removed_it_leaves_configuration_and_state(&host);
    purged_it_leaves_what_is_the_administrators(&host);
}

fn it_is_there_and_nothing_runs(host: &Host) {
    let units = "valetkeyd.service valetkeyd.socket valetkeyd-admin.socket valetkeyd-credentials.socket valetkeyd-metrics.socket";
    let (_, enabled) = host.try_shell(&format!("systemctl is-enabled {units}"), "");
    assert_eq!(enabled.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["disabled"]), "nothing is enabled by surprise");
    let (_, active) = host.try_shell(&format!("systemctl is-active {units}"), "");
    assert_eq!(active.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["inactive"]), "nothing is started by surprise");
    let folders = host.shell("stat -c '%a %U %G %n' /etc/valetkey /etc/valetkey/tools.d", "");
    assert_eq!(folders, "750 root valetkey /etc/valetkey\n750 root valetkey /etc/valetkey/tools.d\n");
    // The file that is shipped is one that the daemon takes, for its user too.
    assert!(host.shell("valetkey check", "").contains("ok: 0 tools, 0 secrets"));
    host.shell(&format!("{RUN} --uid=valetkey valetkey check"), "");
    host.shell("id valetkey && test ! -e /var/lib/valetkey", "");
}

/// As README says from there on, over what the package has made.
fn configure(host: &Host) {
    let tools: Vec<_> = (0..CALLERS).map(|i| format!("tool-{i}")).collect();
    let mut secrets = vec![
        ("stripe/api-key".to_owned(), KEY.to_owned()),
        ("stripe/credential".into(), "sk-as-a-credential".into()),
        ("launched/key".into(), "a-value-for-the-launched".into()),
    ];
    secrets.extend(tools.iter().map(|tool| (format!("{tool}/key"), format!("the value of {tool}"))));
    let secrets: Vec<_> = secrets.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let callers: String = tools
        .iter()
        .map(|tool| {
            format!(
                "[tool.{tool}]\nrun-as = {{ unit = \"caller@{tool}.service\" }}\nsecrets.\"{tool}/key\" = {{}}\n\
                 limits = {{ per-minute = 100000, per-session = 10 }}\n"
            )
        })
        .collect();
    host.install("", &secrets, &[("billing", BILLING), ("launched", LAUNCHED), ("callers", &callers)]);
}

fn it_is_used_in_each_way(host: &Host) {
    let unit = "--unit=mcp-billing.service -p DynamicUser=yes";
    // Over gRPC, as a credential, and through the launcher, which takes out what the tool prints.
    assert_eq!(host.shell(&format!("{RUN} {unit} valetkey get stripe/api-key --tool billing"), ""), KEY);
    let load = "-p LoadCredential=stripe-key:/run/valetkey/credentials.sock";
    let got = host.shell(&format!("{RUN} {unit} {load} sh -c 'cat $CREDENTIALS_DIRECTORY/stripe-key'"), "");
    assert_eq!(got, "sk-as-a-credential");
    let launched = host.shell(&format!("{RUN} --unit=mcp-launched.service -p DynamicUser=yes valetkey run launched"), "");
    assert!(launched.contains("[redacted:launched/key]"), "{launched}");
}

/// dpkg replaces both programs and starts the daemon anew while tools call it: none of them fails.
fn it_is_upgraded_under_load(host: &Host) {
    let service = format!(
        "[Service]\nDynamicUser=yes\nEnvironment=VALETKEY_ROLE=%i RUST_BACKTRACE=0\nExecStart={PROGRAM} --exact role --nocapture\n\
         StandardOutput=append:/run/callers.out\nStandardError=append:/run/callers.out\n"
    );
    host.write("/etc/systemd/system/caller@.service", &service);
    let units: String = (0..CALLERS).map(|i| format!("caller@tool-{i}.service ")).collect();
    host.shell(&format!("systemctl daemon-reload; systemctl start {units}"), "");
    std::thread::sleep(Duration::from_millis(500));
    let before = host.property("valetkeyd", "MainPID");
    let socket = host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic");
    let config = host.shell("sha256sum /etc/valetkey/valetkey.toml /etc/valetkey/tools.d/*", "");

    let said = install(host, 2);
    assert_ne!(host.property("valetkeyd", "MainPID"), before, "the new version runs\n{said}");
    assert_eq!(host.property("valetkeyd", "ActiveState"), "active");
    assert_eq!(host.shell("dpkg-query -W -f='${Version} ${Status}' valetkey", ""), "2 install ok installed");
    std::thread::sleep(Duration::from_millis(500));
    host.shell(
        &format!("touch /run/stop-calling; timeout 60 sh -c 'while systemctl -q is-active {units}; do sleep 0.1; done'"),
        "",
    );
    let said = host.shell("cat /run/callers.out", "");
    let replies: Vec<Vec<u64>> = said
        .lines()
        .filter_map(|line| line.split_once("REPLY "))
        .map(|(_, numbers)| numbers.split(' ').map(|number| number.parse().unwrap()).collect())
        .collect();
    assert_eq!(replies.len(), CALLERS, "not every tool came to its end\n{said}");
    let total = |which: usize| replies.iter().map(|reply| reply[which]).sum::<u64>();
    println!("an upgrade under {CALLERS} tools: {} calls, {} of them tried again", total(0), total(1));
    assert!(total(0) > 10 * CALLERS as u64, "the tools hardly called");
    // The sockets were there all the time, and what the administrator wrote is as it was.
    assert_eq!(host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic"), socket);
    assert_eq!(host.shell("sha256sum /etc/valetkey/valetkey.toml /etc/valetkey/tools.d/*", ""), config);
    assert_eq!(host.shell("systemctl is-enabled valetkeyd", ""), "enabled\n");
}

fn a_version_that_does_not_accept_the_configuration_replaces_nobody(host: &Host) {
    let before = host.property("valetkeyd", "MainPID");
    host.write("/etc/valetkey/tools.d/broken.toml", "nonsense = 1\n");
    let said = install(host, 3);
    assert!(said.contains("the daemon was not restarted") && said.contains("valetkey check"), "{said}");
    assert_eq!(host.property("valetkeyd", "MainPID"), before);
    it_is_used_in_each_way(host);
    host.shell("rm /etc/valetkey/tools.d/broken.toml && systemctl restart valetkeyd", "");
}

fn removed_it_leaves_configuration_and_state(host: &Host) {
    let said = dpkg(host, "-r valetkey");
    let (_, active) = host.try_shell("systemctl is-active valetkeyd valetkeyd.socket valetkeyd-credentials.socket", "");
    assert_eq!(active.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["inactive"]), "{said}");
    host.shell("test ! -e /usr/bin/valetkeyd && test ! -S /run/valetkey/tools.sock && ! pgrep -x valetkeyd", "");
    host.shell(
        "test -s /etc/valetkey/valetkey.toml && test -s /etc/valetkey/secrets.sealed && test -d /var/lib/valetkey/audit",
        "",
    );
    // Installed again it goes on, with the log that was there.
    install(host, 1);
    assert_eq!(host.shell("systemctl is-enabled valetkeyd", ""), "enabled\n", "what was enabled stays so");
    host.shell("systemctl start valetkeyd", "");
    it_is_used_in_each_way(host);
    host.shell("valetkey audit verify", "");
}

fn purged_it_leaves_what_is_the_administrators(host: &Host) {
    let said = dpkg(host, "-P valetkey");
    host.shell("test ! -e /var/lib/valetkey && test ! -e /etc/valetkey/valetkey.toml && test ! -S /run/valetkey/tools.sock", "");
    assert!(said.contains("was left as it is"), "{said}");
    host.shell("test -s /etc/valetkey/secrets.sealed && test -s /etc/valetkey/identity.key", "");
    // No link to a unit that is gone.
    let links = host.shell("find /etc/systemd/system -xtype l", "");
    let ours: Vec<_> = links.lines().filter(|link| link.contains("valetkey")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    host.shell("id valetkey", "");
}

#[test]
fn nothing_is_left_out_of_the_package() {
    let assets = Metadata::read().assets();
    let packed: BTreeSet<_> = assets.iter().map(|asset| asset.from.clone()).collect();
    for folder in ["systemd", "systemd/sysusers.d", "systemd/tmpfiles.d", "docs", "docs/man", "examples/etc-valetkey/tools.d"] {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            // For machines: not a page.
            if entry.extension().is_some_and(|extension| extension != "json") {
                assert!(packed.contains(&entry), "{} is in no package", entry.display());
            }
        }
    }
    let mut places = BTreeSet::new();
    for asset in &assets {
        assert!(places.insert(&asset.to), "two files for {}", asset.to.display());
        // Programs alone can be executed, and nothing can be written by others.
        let program = asset.to.starts_with("usr/bin");
        assert_eq!(asset.mode, if program { 0o755 } else { 0o644 }, "{}", asset.to.display());
    }
    for file in Metadata::read().list("conf-files") {
        assert!(places.contains(&Path::new(file).strip_prefix("/").unwrap().to_path_buf()), "{file}");
    }
}

/// Each unit that is shipped is known to the scripts, or a purge would leave its links.
#[test]
fn the_scripts_know_every_unit() {
    let script = |name: &str| fs::read_to_string(format!("{ROOT}/packaging/debian/{name}")).unwrap();
    let (postinst, prerm, postrm) = (script("postinst"), script("prerm"), script("postrm"));
    for entry in fs::read_dir("systemd").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".conf") && !name.ends_with(".d") {
            assert!(postinst.contains(&name) && postrm.contains(&name), "{name}");
            // What a stop of another stops, or what ends by itself, need not be named.
            assert!(prerm.contains(&name) || name == "valetkey-rotated.service", "{name}");
        }
    }
    for name in ["postinst", "prerm", "postrm"] {
        let path = format!("{ROOT}/packaging/debian/{name}");
        let read = Command::new("sh").args(["-n", &path]).output().unwrap();
        assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

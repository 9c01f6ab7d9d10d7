//! The container's recipe and the compose example, as far as they can be judged without building them: that takes a container engine and
//! images from elsewhere, which this suite does not have.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn containerfile() -> Vec<Vec<String>> {
    let text = fs::read_to_string("packaging/container/Containerfile").unwrap().replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().map(String::from).collect()).collect()
}

#[test]
fn the_recipe_makes_an_image_without_a_shell_that_is_not_root() {
    let lines = containerfile();
    let stages: Vec<_> = lines.iter().filter(|line| line[0] == "FROM").collect();
    assert_eq!(stages.len(), 2);
    assert!(stages[1][1].contains("distroless") && stages[1][1].ends_with(":nonroot"), "{:?}", stages[1]);
    let pinned = |image: &str| image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest");
    assert!(stages.iter().all(|stage| pinned(&stage[1])), "no image of just any version");
    // The toolchain that Cargo.toml asks for.
    let manifest: toml::Table = fs::read_to_string("Cargo.toml").unwrap().parse().unwrap();
    assert!(stages[0][1].contains(manifest["package"]["rust-version"].as_str().unwrap()));

    let last = lines.iter().rposition(|line| line[0] == "FROM").unwrap();
    let image = &lines[last..];
    let of = |instruction: &str| image.iter().filter(|line| line[0] == instruction).collect::<Vec<_>>();
    assert!(of("RUN").is_empty() && of("ADD").is_empty(), "there is no shell to run anything with, and nothing is fetched");
    assert!(of("ENV").is_empty() && of("ARG").is_empty(), "an image's environment is for everybody to read");
    let user = of("USER");
    let (uid, gid) = user[0][1].split_once(':').unwrap();
    assert!(user.len() == 1 && uid.parse::<u32>().unwrap() > 0 && gid.parse::<u32>().unwrap() > 0);
    // By list, not through a shell.
    for instruction in ["ENTRYPOINT", "HEALTHCHECK"] {
        assert!(of(instruction)[0].iter().any(|word| word.starts_with('[')), "{instruction}");
    }
    for copy in of("COPY") {
        assert!(copy.iter().any(|word| word == "--from=build"), "{copy:?}: nothing of the sources");
        let program = copy.iter().any(|word| word == "/usr/bin/");
        let owner = if program { "--chown=0:0".into() } else { format!("--chown={uid}:{gid}") };
        assert!(copy.contains(&owner), "{copy:?}: programs are root's, so that the daemon cannot change them");
    }
    // What the build takes from here is here.
    for copy in lines[..last].iter().filter(|line| line[0] == "COPY") {
        for from in &copy[1..copy.len() - 1] {
            assert!(Path::new(from).exists(), "{from}");
        }
    }
}

/// As a YAML reader has it. `None`: there is none, and it was said.
fn compose() -> Option<Value> {
    let read = "import json, sys, yaml; json.dump(yaml.safe_load(open('packaging/container/compose.yaml')), sys.stdout)";
    let read = Command::new("python3").args(["-c", read]).output();
    match read {
        Ok(read) if read.status.success() => Some(serde_json::from_slice(&read.stdout).unwrap()),
        Ok(read) if !String::from_utf8_lossy(&read.stderr).contains("No module named") => panic!("{read:?}"),
        _ => {
            eprintln!("SKIP: no YAML reader (Debian package python3-yaml)");
            None
        }
    }
}

#[test]
fn every_service_of_the_example_is_shut_in() {
    let Some(compose) = compose() else { return };
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.len(), 2);
    let mut users = Vec::new();
    for (name, service) in services {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert!(service["cap_add"].is_null() && service["privileged"].is_null() && service["network_mode"].is_null(), "{name}");
        assert_eq!(service["security_opt"], serde_json::json!(["no-new-privileges:true"]), "{name}");
        assert!(service["pids_limit"].is_number() && service["mem_limit"].is_string(), "{name}");
        assert_eq!(service["ulimits"]["core"]["hard"], 0, "{name}");
        assert!(service["ports"].is_null(), "{name}: nobody comes in over a network");
        let uid: u32 = service["user"].as_str().unwrap().split(':').next().unwrap().parse().unwrap();
        assert!(uid > 0 && !users.contains(&uid), "{name}: a user of its own, that is not root");
        users.push(uid);
        // Nothing of the host's to write to.
        for volume in service["volumes"].as_array().unwrap() {
            assert!(volume["type"] != "bind" || volume["read_only"] == true, "{name}: {volume}");
            assert!(!volume.to_string().contains("docker.sock"), "{name}");
        }
    }
    let (daemon, tool) = (&services["valetkeyd"], &services["mcp-billing"]);
    // The user of the image, and of what it writes to.
    let user = containerfile().into_iter().find(|line| line[0] == "USER").unwrap();
    assert_eq!(daemon["user"], user[1]);
    assert!(compose["volumes"]["sockets"]["driver_opts"]["o"].as_str().unwrap().contains("uid=65532,gid=65532,mode=0755"));
    // What attestation needs, and a tool that can put nothing where the sockets are.
    assert_eq!((&daemon["cgroup"], &tool["pid"]), (&Value::from("host"), &Value::from("service:valetkeyd")));
    assert_eq!(
        (&tool["volumes"][0]["target"], &tool["volumes"][0]["read_only"]),
        (&Value::from("/run/valetkey"), &Value::from(true))
    );
    // No network in common, and no value in an environment.
    assert_ne!(daemon["networks"], tool["networks"]);
    for service in services.values() {
        let names: Vec<_> = service["environment"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| *name == "CREDENTIALS_DIRECTORY"), "{names:?}");
    }
    // Locked memory as the unit has it.
    let unit = fs::read_to_string("systemd/valetkeyd.service").unwrap();
    assert!(unit.contains("LimitMEMLOCK=64M") && daemon["ulimits"]["memlock"]["hard"] == 64 << 20);
}

const DAEMON: u32 = 65532;
const TOOL: u32 = 10011;
/// No capability, no way to one, and a user of one's own.
fn shut_in(uid: u32) -> String {
    format!("setpriv --reuid={uid} --regid={uid} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all")
}

/// What the example makes of namespaces, made without a container engine.
struct Containers {
    folder: tempfile::TempDir,
    unshare: Child,
    /// The daemon, as the host numbers it.
    daemon: String,
}

impl Drop for Containers {
    fn drop(&mut self) {
        // It took another user, and with that it no longer ends with its parent (PR_SET_PDEATHSIG).
        let daemon = self.daemon.parse().ok().and_then(rustix::process::Pid::from_raw);
        let _ = daemon.map(|daemon| rustix::process::kill_process(daemon, rustix::process::Signal::KILL));
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

impl Containers {
    fn start() -> Option<Self> {
        let able = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
        if !rustix::process::geteuid().is_root() || !["unshare", "nsenter", "setpriv"].into_iter().all(able) {
            eprintln!("SKIP: namespaces take root, and util-linux");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("run", 0o755), ("state", 0o700)] {
            fs::create_dir(path(name)).unwrap();
            chown(path(name), Some(DAEMON), Some(DAEMON)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let config = format!(
            "[daemon]\nrun-dir = \"{}\"\n[source.env]\nkind = \"environment\"\n[secret.\"stripe/api-key\"]\nsource = \"env\"\n\
             path = \"KEY\"\n[tool.billing]\nrun-as = {{ user = {TOOL} }}\nsecrets.\"stripe/api-key\" = {{}}\n",
            path("run").display()
        );
        fs::write(path("valetkey.toml"), config).unwrap();
        fs::set_permissions(path("valetkey.toml"), fs::Permissions::from_mode(0o644)).unwrap();
        // Nothing can be written but where the volumes are.
        let script = "set -e; for volume in run state; do mount --bind $DIR/$volume $DIR/$volume; done; \
                      mount -o remount,bind,ro /; exec ";
        let script = format!("{script}{} $DAEMON --config $DIR/valetkey.toml", shut_in(DAEMON));
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--ipc", "--uts", "sh", "-c", &script])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("DIR", folder.path())
            .env("DAEMON", env!("CARGO_BIN_EXE_valetkeyd"))
            .env("STATE_DIRECTORY", path("state"))
            .env("KEY", "sk-for-the-container")
            .stderr(fs::File::create(path("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !path("run/tools.sock").exists() {
            let log = || fs::read_to_string(path("log")).unwrap();
            assert!(unshare.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20), "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).unwrap();
        Some(Self { folder, unshare, daemon: children.trim().to_owned() })
    }

    /// Asks for the tool's secret from a container that shares this much.
    fn ask(&self, shares: &str, uid: u32) -> Output {
        let script = format!("{} $VALETKEY get stripe/api-key --tool billing --socket $DIR/run/tools.sock", shut_in(uid));
        let mut words = shares.split(' ').map(|word| word.replace("DAEMON", &self.daemon));
        let mut command = Command::new(words.next().unwrap());
        let command = command.args(words).args(["--mount", "--net", "--ipc", "--uts", "sh", "-c", &script]);
        command.env("DIR", self.folder.path()).env("VALETKEY", env!("CARGO_BIN_EXE_valetkey")).output().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// The example's words about what the two must share are true: the daemon as it has it, read-only and without a right, knows a tool in its
/// own process namespace by its user, and nobody in another one.
#[test]
fn what_the_example_shares_is_what_attestation_needs() {
    let Some(containers) = Containers::start() else { return };
    let shared = "nsenter --target DAEMON --pid unshare";
    let given = containers.ask(shared, TOOL);
    assert_eq!(String::from_utf8_lossy(&given.stdout), "sk-for-the-container", "{given:?}\n{}", containers.log());

    let other_user = containers.ask(shared, TOOL + 1);
    assert!(other_user.status.code() == Some(3) && other_user.stdout.is_empty(), "{other_user:?}");
    let apart = containers.ask("unshare --pid --fork --mount-proc", TOOL);
    assert!(!apart.status.success() && apart.stdout.is_empty(), "{apart:?}");
    assert!(containers.log().contains("CALLER_IN_OTHER_NAMESPACE"), "{}", containers.log());

    // The daemon's process: nothing left of root, and nowhere to write.
    let status = fs::read_to_string(format!("/proc/{}/status", containers.daemon)).unwrap();
    for line in ["Uid:\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}\n{status}");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", containers.daemon)).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    assert!(root.split(' ').nth(3).unwrap().starts_with("ro"), "{root}");
}

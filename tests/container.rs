//! The container's recipe and the compose example, as far as they can be judged without building them: that takes a container engine and
//! images from elsewhere, which this suite does not have.

use std::{fs, path::Path, process::Command};

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

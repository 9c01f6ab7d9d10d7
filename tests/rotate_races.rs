//! Two daemons rotate the same secret at the same moment, again and again: check-and-set decides, nothing is lost, and who comes second
//! follows. `VALETKEY_RACES` says how often (50).

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use daemon::{Host, eventually};
use stores::{UNLIMITED, secret};
use tonic::transport::Channel;
use valetkey::proto::v1::{self, admin_client::AdminClient};

const RACES_WITH_A_HOOK: usize = 25;

fn races() -> usize {
    std::env::var("VALETKEY_RACES").map_or(50, |number| number.parse().unwrap())
}

/// Asks, and waits for the end.
async fn rotate(mut admin: AdminClient<Channel>) -> v1::Rotation {
    let request = v1::RotateRequest { secrets: vec!["it/key".into()], ..Default::default() };
    let mut told = admin.rotate(request).await.unwrap().into_inner();
    let mut last = v1::Rotation::default();
    while let Some(next) = told.message().await.unwrap() {
        last = next;
    }
    last
}

fn host(bao: &servers::Server, rotation: &str, path: &str) -> Host {
    let host = Host::new();
    let mut rest = stores::vault_as_root(&host, bao.port);
    rest += &secret("it/key", "vault", &format!("path = \"{path}\"\nfield = \"key\"\n{rotation}"));
    let limits = "[limits]\nadmin-per-minute = 1000000\n";
    host.configure("", &(rest + &Host::tool("it", 0, &["it/key"]) + UNLIMITED + limits));
    host
}

fn version_at_source(bao: &servers::Server, path: &str) -> u64 {
    let (_, body) = bao.vault("GET", &format!("secret/metadata/{path}"), "");
    let metadata: serde_json::Value = serde_json::from_str(&body).unwrap();
    metadata["data"]["current_version"].as_u64().unwrap()
}

async fn held(mut admin: AdminClient<Channel>) -> String {
    admin.list_secrets(v1::ListSecretsRequest {}).await.unwrap().into_inner().secrets.remove(0).version
}

/// Races, and says how many had a loser.
async fn race(bao: &servers::Server, hosts: [&Host; 2], path: &str, races: usize) -> usize {
    let (one, other) = (hosts[0].admin().await, hosts[1].admin().await);
    let (mut made, mut collisions) = (BTreeSet::new(), 0);
    for number in 0..races {
        let before = version_at_source(bao, path);
        let (first, second) = tokio::join!(rotate(one.clone()), rotate(other.clone()));
        let ends = [&first, &second].map(|rotation| rotation.end.clone());
        let won: Vec<_> = [&first, &second].into_iter().filter(|rotation| rotation.end == "rotated").collect();
        assert!(!won.is_empty(), "race {number}: nobody won: {first:?} {second:?}");
        for rotation in &won {
            assert!(made.insert(rotation.new_version.clone()), "race {number}: one version was made twice: {first:?} {second:?}");
        }
        assert_eq!(
            version_at_source(bao, path),
            before + won.len() as u64,
            "race {number}: each who won made one version: {ends:?}"
        );
        if won.len() == 1 {
            collisions += 1;
            assert!(ends.iter().any(|end| end == "lost" || end == "refused"), "race {number}: {ends:?}");
        }
        // Both have the newest, the loser too.
        let now = version_at_source(bao, path).to_string();
        let mut versions = Vec::new();
        for _ in 0..200 {
            versions = vec![held(one.clone()).await, held(other.clone()).await];
            if versions.iter().all(|version| *version == now) {
                break;
            }
            for (admin, version) in [(&one, &versions[0]), (&other, &versions[1])] {
                if *version != now {
                    admin.clone().refresh(v1::RefreshRequest { secrets: vec!["it/key".into()] }).await.unwrap();
                }
            }
        }
        assert_eq!(versions, [now.clone(), now], "race {number}");
    }
    collisions
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_one_wins_and_nothing_is_lost() {
    let (bao, races) = (servers::openbao(), races());
    stores::vault_put(bao, "rotate/raced", r#"{"key":"the-first-value"}"#);
    let rotation = "rotation = { generate = {} }";
    let (one, other) = (host(bao, rotation, "rotate/raced"), host(bao, rotation, "rotate/raced"));
    let (_first, _second) = (one.start(), other.start());
    let collisions = race(bao, [&one, &other], "rotate/raced", races).await;
    println!("{races} races: {collisions} with a loser, {} one after the other", races - collisions);
    assert!(collisions > 0, "they never met");
}

/// With a hook what is staged is the lock: never are two at the system at one time.
#[tokio::test(flavor = "multi_thread")]
async fn two_hooks_are_never_at_the_system_at_one_time() {
    let bao = servers::openbao();
    stores::vault_put(bao, "rotate/raced-hooks", r#"{"key":"the-first-value"}"#);
    let folder = Host::new();
    let (hook, log) = (folder.path("hook"), folder.path("log-of-hooks"));
    let script = format!(
        "#!/usr/bin/python3\nimport json, os, secrets, sys\ntold = json.loads(sys.stdin.readline())\n\
         with open({log:?}, 'a') as log: log.write(told['step'] + ' ' + told['rotation'] + '\\n')\n\
         print(json.dumps({{'value': 'made-' + secrets.token_hex(16)}} if told['step'] == 'create' else {{}}))\n"
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let rotation = format!("rotation = {{ hook = [\"{}\"] }}", hook.display());
    let (one, other) = (host(bao, &rotation, "rotate/raced-hooks"), host(bao, &rotation, "rotate/raced-hooks"));
    let (_first, _second) = (one.start(), other.start());
    let collisions = race(bao, [&one, &other], "rotate/raced-hooks", RACES_WITH_A_HOOK).await;
    println!("{RACES_WITH_A_HOOK} races with a hook: {collisions} with a loser");
    // From `set` to `retire` one rotation has the system for itself.
    let mut at: Option<String> = None;
    for line in fs::read_to_string(&log).unwrap().lines() {
        let (step, rotation) = line.split_once(' ').unwrap();
        match step {
            "set" => {
                assert!(at.as_deref().is_none_or(|at| at == rotation), "two are at it at one time");
                at = Some(rotation.into());
            }
            "test" => assert_eq!(at.as_deref(), Some(rotation)),
            "retire" => {
                assert_eq!(at.as_deref(), Some(rotation));
                at = None;
            }
            _ => {}
        }
    }
    eventually("nothing is left at the source", || {
        let (_, list) = bao.vault("LIST", "secret/metadata/rotate", "");
        !list.contains("raced-hooks.valetkey-rotation")
    });
}

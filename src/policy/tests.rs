use proptest::prelude::*;

use super::*;
use crate::peer::{Executable, Process, Unit};

fn origin() -> Origin {
    Origin { file: Path::new("tools.toml").into(), line: 1 }
}

fn peer(uid: u32, unit: Option<&str>) -> Peer {
    Peer {
        process: Process { pid: 10, pidfd_inode: 20 },
        uid,
        gid: 7,
        groups: vec![8],
        unit: unit.map(|name| Unit { name: name.into(), invocation: None, cgroup: 1 }),
        executable: None,
        remote: None,
    }
}

fn tool(run_as: RunAs, secrets: &[&str]) -> ToolPolicy {
    let rule = |name: &&str| (name.parse().unwrap(), Rule { delivery: Delivery::Rpc, remote: false, origin: origin() });
    ToolPolicy {
        description: String::new(),
        run_as,
        grants: secrets.iter().map(rule).collect(),
        limits: Limits::default(),
        launch: Launch::default(),
        origin: origin(),
    }
}

fn user(id: u32) -> RunAs {
    RunAs { user: Some(Account { id, name: id.to_string() }), ..RunAs::default() }
}

fn policy() -> Policy {
    let tools = [("billing", tool(user(1), &["a", "b"])), ("mail", tool(user(2), &["c"]))];
    let tools = tools.map(|(name, tool)| (name.parse().unwrap(), tool));
    Policy::new(tools.into(), ["a", "b", "c", "d"].iter().map(|s| s.parse().unwrap()).collect())
}

fn names(names: &[&str]) -> Vec<SecretName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn open(policy: &Policy, peer: &Peer, tool: &str, scope: &[&str]) -> Result<Scope, Denial> {
    let (tool, scope) = (tool.parse().unwrap(), names(scope));
    match policy.decide(peer, &Request::Open { tool: &tool, scope: &scope }) {
        Decision::AllowSession(scope) => Ok(scope),
        Decision::Deny(denial) => Err(denial),
        _ => unreachable!("a session was asked for"),
    }
}

fn get(policy: &Policy, peer: &Peer, scope: &Scope, secret: &str) -> Result<String, Denial> {
    match policy.decide(peer, &Request::Get { scope, secret }) {
        Decision::Allow(grant) => Ok(grant.secret().to_string()),
        Decision::Deny(denial) => Err(denial),
        _ => unreachable!("a secret was asked for"),
    }
}

#[test]
fn a_tool_gets_what_it_declared() {
    let policy = policy();
    let scope = open(&policy, &peer(1, None), "billing", &["a"]).unwrap();
    assert_eq!(get(&policy, &peer(1, None), &scope, "a").unwrap(), "a");
    assert_eq!(get(&policy, &peer(1, None), &scope, "b"), Err(Denial::OutsideScope("b".into())), "granted, but not declared");
}

#[test]
fn asking_for_more_than_the_grants_fails_the_whole_session() {
    let denial = open(&policy(), &peer(1, None), "billing", &["a", "c"]).unwrap_err();
    assert_eq!(denial.to_string(), "tool billing has no grant for c (the secret exists)");
    let denial = open(&policy(), &peer(1, None), "billing", &["a", "x"]).unwrap_err();
    assert_eq!(denial.to_string(), "tool billing has no grant for x (there is no such secret)");
    assert_eq!(open(&policy(), &peer(1, None), "billing", &[]), Err(Denial::EmptyScope));
}

#[test]
fn a_tools_name_proves_nothing() {
    assert!(matches!(open(&policy(), &peer(2, None), "billing", &["a"]), Err(Denial::NotThisTool { .. })));
    assert!(matches!(open(&policy(), &peer(1, None), "nobody", &["a"]), Err(Denial::NoSuchTool(_))));
}

#[test]
fn identity_is_checked_at_each_hand_out() {
    let policy = policy();
    let scope = open(&policy, &peer(1, None), "billing", &["a"]).unwrap();
    assert!(matches!(get(&policy, &peer(2, None), &scope, "a"), Err(Denial::NotThisTool { .. })));
}

#[test]
fn a_grant_that_policy_took_back_is_gone() {
    let scope = open(&policy(), &peer(1, None), "billing", &["a"]).unwrap();
    let later = Policy::new([("billing".parse().unwrap(), tool(user(1), &["b"]))].into(), BTreeSet::new());
    assert!(matches!(get(&later, &peer(1, None), &scope, "a"), Err(Denial::NotGranted { .. })));
}

#[test]
fn every_selector_must_hold() {
    let digest = Sha256([3; 32]);
    let all = RunAs {
        unit: Some("x.service".into()),
        group: Some(Account { id: 8, name: "g".into() }),
        exe: Some("/bin/x".into()),
        sha256: Some(digest),
        ..user(1)
    };
    let right = Peer { executable: Some(Executable { path: "/bin/x".into(), sha256: digest }), ..peer(1, Some("x.service")) };
    assert_eq!(all.check(&right), Ok(()));
    let wrong = [
        Peer { uid: 2, ..right.clone() },
        Peer { groups: vec![], ..right.clone() },
        Peer { unit: None, ..right.clone() },
        Peer { unit: peer(1, Some("y.service")).unit, ..right.clone() },
        Peer { executable: None, ..right.clone() },
        Peer { executable: Some(Executable { path: "/bin/y".into(), sha256: digest }), ..right.clone() },
        Peer { executable: Some(Executable { path: "/bin/x".into(), sha256: Sha256([4; 32]) }), ..right.clone() },
    ];
    for peer in wrong {
        assert!(all.check(&peer).is_err(), "{peer:?}");
    }
    assert_eq!(all.describe().len(), 5);
}

prop_compose! {
    fn some_names()(picked in prop::collection::vec(0..6usize, 0..5)) -> Vec<&'static str> {
        picked.into_iter().map(|i| ["a", "b", "c", "d", "e", "f"][i]).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No request ever yields more than scope AND grant, whatever the policies before and now, whoever asks.
    #[test]
    fn never_more_than_scope_and_grant(
        before in prop::collection::vec((1..4u32, some_names()), 3),
        now in prop::collection::vec((1..4u32, some_names()), 3),
        opener in 1..4u32, asker in 1..4u32, which in 0..3usize, declared in some_names(), asked in some_names(),
    ) {
        let tools = ["t0", "t1", "t2"];
        let build = |spec: &[(u32, Vec<&str>)]| {
            let tools = tools.iter().zip(spec).map(|(name, (uid, secrets))| (name.parse().unwrap(), tool(user(*uid), secrets)));
            Policy::new(tools.collect(), BTreeSet::new())
        };
        let (before_policy, now_policy) = (build(&before), build(&now));
        let opened = open(&before_policy, &peer(opener, None), tools[which], &declared);
        let (uid, granted) = &before[which];
        let may_open = opener == *uid && !declared.is_empty() && declared.iter().all(|name| granted.contains(name));
        prop_assert_eq!(opened.is_ok(), may_open);
        let Ok(scope) = opened else { return Ok(()) };
        for name in asked {
            let (uid, granted) = &now[which];
            let may_have = asker == *uid && declared.contains(&name) && granted.contains(&name);
            prop_assert_eq!(get(&now_policy, &peer(asker, None), &scope, name).is_ok(), may_have);
        }
    }
}

fn launchable(command: &[&str]) -> Policy {
    let mut tool = tool(user(1), &["a", "b", "c"]);
    for (secret, delivery) in [("a", Delivery::Env("A".into())), ("b", Delivery::Fd("B_FILE".into()))] {
        tool.grants.get_mut(secret).unwrap().delivery = delivery;
    }
    tool.launch.command = words(command);
    let secrets = names(&["a", "b", "c"]).into_iter().collect();
    Policy::new([("server".parse().unwrap(), tool)].into(), secrets).with_canaries([names(&["b"]).remove(0)].into())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn launch(policy: &Policy, peer: &Peer, command: &[&str]) -> Result<(Scope, Plan), Denial> {
    let (tool, command) = ("server".parse().unwrap(), words(command));
    match policy.decide(peer, &Request::Launch { tool: &tool, command: &command }) {
        Decision::AllowLaunch(scope, plan) => Ok((scope, *plan)),
        Decision::Deny(denial) => Err(denial),
        _ => unreachable!("a launch was asked for"),
    }
}

#[test]
fn a_launch_has_what_is_delivered_and_no_more() {
    let (scope, plan) = launch(&launchable(&[]), &peer(1, None), &["node", "index.js"]).unwrap();
    assert_eq!(scope.secrets().map(SecretName::as_str).collect::<Vec<_>>(), ["a", "b"], "what is had over gRPC is not in it");
    assert_eq!(plan.command, ["node", "index.js"]);
    let canaries: Vec<_> = plan.secrets.iter().map(|one| (one.to.variable(), one.canary)).collect();
    assert_eq!(canaries, [(Some("A"), false), (Some("B_FILE"), true)]);
    assert!(matches!(launch(&launchable(&[]), &peer(2, None), &["node"]), Err(Denial::NotThisTool { .. })));
}

#[test]
fn a_pinned_command_is_the_only_one() {
    let pinned = launchable(&["/usr/bin/npx", "-y", "server"]);
    let me = peer(1, None);
    for same in [&[][..], &["/usr/bin/npx", "-y", "server"]] {
        assert_eq!(launch(&pinned, &me, same).unwrap().1.command, ["/usr/bin/npx", "-y", "server"]);
    }
    for other in [&["env"][..], &["/usr/bin/npx"], &["/usr/bin/npx", "-y", "server", "more"], &["npx", "-y", "server"]] {
        let denial = launch(&pinned, &me, other).unwrap_err();
        assert!(matches!(denial, Denial::Command(BadCommand::Other { .. })), "{other:?}");
        assert!(!denial.to_string().contains("more"), "arguments are not repeated");
    }
    assert!(matches!(launch(&launchable(&[]), &me, &[]), Err(Denial::Command(BadCommand::None(_)))));
}

#[test]
fn what_is_launched_goes_on_while_policy_would_launch_it_again() {
    let (me, command) = (peer(1, None), words(&["node"]));
    let (scope, _) = launch(&launchable(&[]), &me, &["node"]).unwrap();
    let keeps = |policy: &Policy, command: Option<&[String]>| {
        matches!(policy.decide(&me, &Request::Keep(Kept { scope: &scope, command })), Decision::AllowSession(_))
    };
    assert!(keeps(&launchable(&[]), Some(&command)) && keeps(&launchable(&["node"]), Some(&command)));
    assert!(!keeps(&launchable(&["python"]), Some(&command)), "pinned to another since");
    assert!(keeps(&launchable(&["python"]), None), "of a session that nobody launched, the command is no matter");
    assert!(!keeps(&Policy::new([("server".parse().unwrap(), tool(user(1), &["a"]))].into(), BTreeSet::new()), Some(&command)));
}

#[test]
fn a_programs_name_is_all_that_is_said_of_a_command() {
    let long = "x".repeat(100);
    for (path, name) in [("/usr/bin/npx", "npx"), ("n\u{1b}[31m", "n?[31m"), ("", ""), (long.as_str(), &long[..64])] {
        assert_eq!(super::launch::program(&words(&[path, "--token=x"])), name);
    }
}

#[test]
fn the_network_and_this_host_are_two_ways_and_a_grant_opens_one() {
    use crate::peer::{Certificate, Remote};
    let certificate = |uri: &str| Certificate {
        sha256: Sha256([1; 32]),
        uris: vec![uri.into()],
        dns: vec![],
        emails: vec![],
        vouched_by: Default::default(),
    };
    let caller = |uri: &str| {
        let certificate = Some(std::sync::Arc::new(certificate(uri)));
        Peer::over_network(Remote { address: "192.0.2.1:1".parse().unwrap(), certificate, token: None }, 9)
    };
    let by_uri = RemoteAs {
        certificate: Some(CertificateIs { uri: Some("spiffe://a/x".into()), ..CertificateIs::default() }),
        ..RemoteAs::default()
    };
    let mut both = tool(RunAs { remote: by_uri.clone(), ..user(1) }, &["a", "b"]);
    both.grants.get_mut("a").unwrap().remote = true;
    let far = tool(RunAs { remote: by_uri, ..RunAs::default() }, &["a"]);
    let tools = [
        ("billing".parse().unwrap(), both),
        ("far".parse().unwrap(), far),
        ("near".parse().unwrap(), tool(user(u32::MAX), &["a"])),
    ];
    let policy = Policy::new(tools.into(), ["a".parse().unwrap(), "b".parse().unwrap()].into());
    let (me, other, here) = (caller("spiffe://a/x"), caller("spiffe://a/y"), peer(1, None));

    let scope = open(&policy, &me, "billing", &["a"]).unwrap();
    assert!(get(&policy, &me, &scope, "a").is_ok());
    let denied = open(&policy, &me, "billing", &["a", "b"]);
    assert_eq!(denied, Err(Denial::NotRemote { tool: "billing".parse().unwrap(), secret: "b".parse().unwrap() }));
    // The scope of a session of this host does not carry over to the network.
    let local = open(&policy, &here, "billing", &["a", "b"]).unwrap();
    assert!(matches!(get(&policy, &me, &local, "b"), Err(Denial::NotRemote { .. })));
    assert!(matches!(open(&policy, &other, "billing", &["a"]), Err(Denial::NotThisTool { .. })));
    assert!(matches!(open(&policy, &here, "far", &["a"]), Err(Denial::NotThisTool { .. })), "no way in from this host");
    assert!(matches!(open(&policy, &me, "near", &["a"]), Err(Denial::NotThisTool { .. })), "a caller without a uid has no uid");
    let launched = policy.decide(&me, &Request::Launch { tool: &"billing".parse().unwrap(), command: &[] });
    assert!(matches!(launched, Decision::Deny(Denial::RemoteLaunch(_))), "{launched:?}");
}

//! Operators with roles, on the admin socket and over the network; and what waits for one of them.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/remote.rs"]
mod remote;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use certificates::{CLIENT, Issued, Wanted};
use daemon::Host;
use remote::{Site, VALUE};
use serde_json::Value;
use tonic::{Code, Status};
use valetkey::{
    client::{Error, Retry},
    proto::v1::{admin_client::AdminClient, *},
};

const ROLES: &str = "[roles]\n\
    viewer = [{ certificate = { uri = \"spiffe://example.org/people/viewer/*\" } }]\n\
    operator = [{ certificate = { uri = \"spiffe://example.org/people/operator/*\" } }]\n\
    security = [{ certificate = { uri = \"spiffe://example.org/people/security/*\" } }, { token = \"siem\" }]\n\
    owner = [{ certificate = { uri = \"spiffe://example.org/people/owner/*\" } }]\n";

fn person(site: &Site, role: &str) -> Issued {
    let name = format!("spiffe://example.org/people/{role}/alice");
    site.clients.issue(&Wanted { names: &[&name], ..CLIENT })
}

/// Makes each kind of call, and says how it went.
async fn calls(site: &Site, certificate: &Issued) -> Vec<(&'static str, Result<(), Code>)> {
    let mut admin = AdminClient::new(site.channel(Some(certificate)).await);
    fn went<T>(outcome: Result<T, Status>) -> Result<(), Code> {
        // What there is none of was looked for: the call was let through.
        match outcome.map(drop).map_err(|status| status.code()) {
            Err(Code::NotFound) | Ok(()) => Ok(()),
            refused => refused,
        }
    }
    let session = Some(revoke_request::Target::Session("0".repeat(32)));
    let secret = Some(revoke_request::Target::Secret("no/such".into()));
    let lifetime = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    // Once alone is it issued, as one role alone may.
    let issue = IssueTokenRequest {
        id: "00000000000000aa".into(),
        name: "x".into(),
        sha256: vec![7; 32],
        lifetime,
        certificate_sha256: vec![],
    };
    vec![
        ("status", went(admin.status(StatusRequest {}).await)),
        ("secrets", went(admin.list_secrets(ListSecretsRequest {}).await)),
        ("approvals", went(admin.list_approvals(ListApprovalsRequest {}).await)),
        ("refresh", went(admin.refresh(RefreshRequest { secrets: vec![] }).await)),
        ("revoke-session", went(admin.revoke(RevokeRequest { target: session }).await)),
        ("revoke-secret", went(admin.revoke(RevokeRequest { target: secret }).await)),
        ("inventory", went(admin.inventory(InventoryRequest {}).await)),
        ("tokens", went(admin.list_tokens(ListTokensRequest {}).await)),
        ("decide", went(admin.decide_approval(DecideApprovalRequest { id: "none".into(), ..Default::default() }).await)),
        ("issue", went(admin.issue_token(issue).await)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_is_its_own_and_what_those_below_may() {
    let site = Site::new("", &format!("{ROLES}{}", Site::TOOL));
    let _daemon = site.start();
    // How many of the calls, in their order, each may make.
    for (role, may) in [("viewer", 3), ("operator", 5), ("security", 9), ("owner", 10)] {
        for (index, (call, went)) in calls(&site, &person(&site, role)).await.into_iter().enumerate() {
            let wanted = if index < may { Ok(()) } else { Err(Code::PermissionDenied) };
            assert_eq!(went, wanted, "{role} {call}");
        }
    }
    // Whoever has none, a tool among them, may nothing.
    for (call, went) in calls(&site, &site.client()).await {
        assert_eq!(went, Err(Code::PermissionDenied), "{call}");
    }
    let viewer = "spiffe://example.org/people/viewer/alice";
    let refused = site.record_that("a refusal", |one| one["action"] == "refused" && one["subject"] == viewer);
    assert_eq!((&refused["event"], &refused["outcome"]), (&"admin.action".into(), &"failure".into()));
    // And root, on the socket, may all.
    assert!(site.host.operate(&["token", "list"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_speaks_to_a_broker_beyond_this_host() {
    let site = Site::new("client-certificates = \"optional\"\n", &format!("{ROLES}{}", Site::TOOL));
    let _daemon = site.start();
    let (certificate, key) = person(&site, "viewer").write(&site.host, "alice");
    site.host.write("siem-token", &site.token(&["siem"]));
    let at = format!("address = \"localhost:{}\"\nca-file = \"{}\"\n", site.port, site.host.path("servers-ca.pem").display());
    let profiles = format!(
        "[profile.alice]\n{at}certificate-file = \"{}\"\nkey-file = \"{}\"\n[profile.siem]\n{at}token-file = \"{}\"\n[profile.nobody]\n{at}",
        certificate.display(),
        key.display(),
        site.host.path("siem-token").display()
    );
    site.host.write(".config/valetkey/profiles.toml", &profiles);
    let run = |arguments: &[&str]| {
        let out = site.host.valetkey(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
    };
    let (code, said, _) = run(&["secrets", "--profile", "alice", "--json"]);
    assert!(code == 0 && said.contains("\"a/key\"") && !said.contains(std::str::from_utf8(VALUE).unwrap()), "{said}");
    let (code, _, said) = run(&["reload", "--profile", "alice"]);
    assert!(code == 3 && said.contains("takes the role operator") && said.contains("yours is viewer"), "{code} {said}");
    let (code, said, _) = run(&["token", "list", "--profile", "siem"]);
    assert!(code == 0 && said.contains("siem"), "{said}");
    let (code, _, said) = run(&["status", "--profile", "nobody"]);
    assert_eq!(code, 3, "{said}");
    let (code, _, said) = run(&["status", "--profile", "other"]);
    assert!(code == 2 && said.contains("there are: alice, nobody, siem"), "{said}");
    std::fs::set_permissions(site.host.path(".config/valetkey/profiles.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    let (code, _, said) = run(&["status", "--profile", "alice"]);
    assert!(code == 1 && said.contains("chmod 600"), "{said}");
}

fn approval_host() -> Host {
    let host = Host::new();
    let source = host.seal(&[("prod/key", b"value-that-waits"), ("free/key", b"value-that-does-not")]);
    let secrets =
        "[secret.\"prod/key\"]\nsource = \"sealed\"\napproval = \"required\"\n[secret.\"free/key\"]\nsource = \"sealed\"\n";
    host.configure("", &format!("{source}{secrets}{}", Host::tool("billing", 0, &["prod/key", "free/key"])));
    host
}

fn waiting(host: &Host) -> Vec<serde_json::Value> {
    let listing: serde_json::Value = serde_json::from_slice(&host.operate(&["approvals", "--json"]).stdout).unwrap();
    listing["approvals"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_out_waits_until_an_operator_has_said_yes_and_ends_by_itself() {
    let host = approval_host();
    let _daemon = host.start();
    let client = host.client().timeout(Duration::from_secs(3));
    let session = client.session("billing").secrets(["prod/key", "free/key"]).purpose("INC-4711").open().await.unwrap();
    assert!(session.get("free/key").await.is_ok(), "the session is open, and what needs nobody is there");
    let error = session.get("prod/key").await.err().unwrap();
    assert!(matches!(&error, Error::ApprovalPending { .. }) && error.to_string().starts_with("waiting: "), "{error}");
    assert!(matches!(error.retry(), Retry::After(_)));
    let list = waiting(&host);
    let one = &list[0];
    assert_eq!((list.len(), one["state"].as_str(), one["secret"].as_str()), (1, Some("waiting"), Some("prod/key")));
    assert_eq!(one["purpose"].as_str(), Some("INC-4711"));
    assert!(one["caller"].as_str().unwrap().starts_with("uid 0"), "{one}");

    // A client that waits is served as soon as somebody has said yes.
    let id = one["id"].as_str().unwrap().to_owned();
    let patient = host.client().timeout(Duration::from_secs(20)).session("billing").secret("prod/key").open().await.unwrap();
    let waits = tokio::spawn(async move { patient.get("prod/key").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let out = host.operate(&["approve", &id, "--for", "4s", "--reason", "on call"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(waits.await.unwrap().unwrap().to_text().unwrap().as_str(), "value-that-waits");
    assert!(session.fetch("prod/key").await.is_ok());
    // And then it is over, for the session that is open too.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(session.fetch("prod/key").await.err().unwrap(), Error::ApprovalPending { .. }));

    let id = waiting(&host)[0]["id"].as_str().unwrap().to_owned();
    assert!(host.operate(&["deny", &id, "--reason", "not on a Friday"]).status.success());
    let Error::Denied { reason, .. } = session.fetch("prod/key").await.err().unwrap() else { panic!("not a denial") };
    assert_eq!(reason, "APPROVAL_DENIED");
    assert!(!host.operate(&["approve", "0000000000000000"]).status.success(), "there is no such request");

    let log =
        std::fs::read_dir(host.path("var/audit")).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let records: Vec<serde_json::Value> =
        log.collect::<String>().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |event: &str| records.iter().filter(|one| one["event"] == event).cloned().collect::<Vec<_>>();
    assert_eq!(of("approval.requested").len(), 2);
    let given = &of("approval.given")[0];
    assert_eq!(
        (given["secret"].as_str(), given["tool"].as_str(), given["uid"].as_u64()),
        (Some("prod/key"), Some("billing"), Some(0))
    );
    let detail = given["detail"].as_str().unwrap();
    assert!(detail.contains("for 4 s") && detail.contains("on call") && detail.contains("uid 0"), "{detail}");
    assert!(of("approval.denied")[0]["detail"].as_str().unwrap().contains("not on a Friday"));
}

/// What policy does not grant no approval gives, and what was approved for one tool is not for another.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_for_one_tool_and_takes_nothing_away_from_policy() {
    let host = Host::new();
    let source = host.seal(&[("prod/key", b"value-that-waits")]);
    let secrets = "[secret.\"prod/key\"]\nsource = \"sealed\"\napproval = \"required\"\n";
    let tools =
        Host::tool("one", 0, &["prod/key"]) + "[tool.two]\nrun-as = { user = \"0\", group = \"0\" }\nsecrets.\"prod/key\" = {}\n";
    host.configure("", &format!("{source}{secrets}{tools}"));
    let _daemon = host.start();
    let client = host.client().timeout(Duration::from_secs(1));
    let one = client.session("one").secret("prod/key").open().await.unwrap();
    let two = client.session("two").secret("prod/key").open().await.unwrap();
    assert!(one.get("prod/key").await.is_err() && two.get("prod/key").await.is_err());
    let list = waiting(&host);
    assert_eq!(list.len(), 2);
    let of_one = list.iter().find(|waiting| waiting["tool"] == "one").unwrap()["id"].as_str().unwrap();
    assert!(host.operate(&["approve", of_one]).status.success());
    assert!(one.get("prod/key").await.is_ok());
    assert!(matches!(two.get("prod/key").await.err().unwrap(), Error::ApprovalPending { .. }));
    // The grant is taken away: the approval that stands opens nothing.
    host.configure("", &format!("{source}{secrets}{}", Host::tool("one", 0, &[])));
    assert!(host.operate(&["reload"]).status.success());
    assert!(client.session("one").secret("prod/key").open().await.is_err());
}

/// The first order waits for another person's, and does nothing until then; the same person twice is one.
#[tokio::test(flavor = "multi_thread")]
async fn containing_takes_two_where_policy_says_so() {
    let tool = Host::tool("it", 0, &["local/key"]);
    let site = Site::new("", &format!("{ROLES}two-person = [\"contain\"]\n{tool}"));
    let mut daemon = site.start();
    let person = |name: &str| {
        let name = format!("spiffe://example.org/people/security/{name}");
        site.clients.issue(&Wanted { names: &[&name], ..CLIENT })
    };
    let (alice, bob) = (person("alice"), person("bob"));
    let contain = async |who: &Issued| -> Vec<Containment> {
        let mut admin = AdminClient::new(site.channel(Some(who)).await);
        let request = ContainRequest { tool: "it".into(), reason: "odd".into(), ..Default::default() };
        let mut told = admin.contain(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(one) = told.message().await.unwrap() {
            all.push(one);
        }
        all
    };
    let steps = |told: &[Containment]| told.iter().map(|one| one.step.clone()).collect::<Vec<_>>();
    let opens = async || site.host.client().session("it").secret("local/key").open().await.is_ok();
    for _ in 0..2 {
        assert_eq!(steps(&contain(&alice).await), ["waiting"]);
        assert!(opens().await, "nothing was done");
    }
    // The one of another tool is another order.
    let out = site.host.operate(&["contain", "no-such", "--yes"]);
    assert_eq!(out.status.code(), Some(1));
    let told = contain(&bob).await;
    let last = told.last().unwrap();
    assert_eq!(last.step, "over", "{told:?}");
    assert!(last.by.contains("people/security/alice") && last.by.contains("people/security/bob"), "{}", last.by);
    assert!(!opens().await);
    // What is contained is followed, and tried again, by one.
    assert_eq!(steps(&contain(&alice).await).last().unwrap(), "over");
    let of = |records: &[Value], action: &str| {
        records.iter().filter(|one| one["event"] == "admin.action" && one["action"] == action).count()
    };
    // The refused order, the second person's, and the one that follows.
    let records = site.records_until("three orders", |records| of(records, "contain") >= 3);
    assert_eq!((of(&records, "contain-first"), of(&records, "contain")), (2, 3), "{records:#?}");
    assert!(site.host.operate(&["release", "it"]).status.success());
    // By the command, on the host.
    let out = site.host.operate(&["contain", "it", "--yes"]);
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(out.status.code() == Some(1) && said.contains("takes two operators") && said.contains("would be"), "{said}");
    assert!(opens().await);
    daemon.stop();
}

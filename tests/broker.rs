//! A tool gets exactly the secrets that its declared scope and the policy allow: the real daemon, over its real sockets.

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Host, eventually};
use valetkey::client::{Error, Retry};

const OWN: u32 = 0;

/// A host with three secrets and two tools; this process can only be the first.
fn host() -> Host {
    let host = Host::new();
    let source = host.seal(&[("stripe/key", b"sk-value-one"), ("mail/key", b"mail-value"), ("other/key", b"other-value")]);
    let tools = Host::tool("billing", OWN, &["stripe/key", "mail/key"]) + &Host::tool("other", 4242, &["other/key"]);
    host.configure("", &format!("{source}{}{tools}", Host::secrets(&["stripe/key", "mail/key", "other/key"])));
    host
}

fn text(secret: &valetkey::client::Secret) -> String {
    secret.to_text().unwrap().to_string()
}

fn denied(error: Error) -> (String, String) {
    let Error::Denied { reason, message } = error else { panic!("not a denial: {error}") };
    (reason, message)
}

async fn open_error(host: &Host, tool: &str, secrets: &[&str]) -> Error {
    match host.client().session(tool).secrets(secrets.iter().copied()).open().await {
        Ok(_) => panic!("{tool} was allowed {secrets:?}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_tool_gets_its_scope_and_nothing_else() {
    let host = host();
    let _daemon = host.start();
    let session = host.client().session("billing").secret("stripe/key").open().await.unwrap();
    assert_eq!(text(&session.get("stripe/key").await.unwrap()), "sk-value-one");

    // Granted by policy, but not declared.
    let (reason, _) = denied(session.get("mail/key").await.err().unwrap());
    assert_eq!(reason, "OUTSIDE_SCOPE");
    // The session goes on.
    assert_eq!(text(&session.fetch("stripe/key").await.unwrap()), "sk-value-one");
}

#[tokio::test]
async fn asking_for_more_than_policy_allows_fails_the_whole_session() {
    let host = host();
    let _daemon = host.start();
    let (reason, forbidden) = denied(open_error(&host, "billing", &["stripe/key", "other/key"]).await);
    assert_eq!(reason, "SCOPE_NOT_ALLOWED");
    // What exists and is forbidden, and what does not exist, look alike but for the name that was asked for.
    let (reason, unknown) = denied(open_error(&host, "billing", &["stripe/key", "no/such"]).await);
    assert_eq!(reason, "SCOPE_NOT_ALLOWED");
    assert_eq!(forbidden.replace("other/key", "X"), unknown.replace("no/such", "X"));
    // The operator's log tells them apart.
    eventually("the log says why", || {
        let log = host.log();
        log.contains("no grant for other/key (the secret exists)")
            && log.contains("no grant for no/such (there is no such secret)")
    });
}

#[tokio::test]
async fn a_process_cannot_choose_who_it_is() {
    let host = host();
    let _daemon = host.start();
    let (reason, other) = denied(open_error(&host, "other", &["other/key"]).await);
    assert_eq!(reason, "TOOL_NOT_ALLOWED");
    let (_, unknown) = denied(open_error(&host, "nobody", &["other/key"]).await);
    assert_eq!(
        other.replace("other", "X"),
        unknown.replace("nobody", "X"),
        "a tool that exists and one that does not look alike"
    );
    assert_eq!(open_error(&host, "other", &["other/key"]).await.retry(), Retry::Never);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_stream() {
    let host = host();
    let _daemon = host.start();
    let session = host.client().session("billing").secret("stripe/key").open().await.unwrap();
    session.get("stripe/key").await.unwrap();
    let listing =
        String::from_utf8(host.valetkey(&["sessions", "--socket", host.admin_socket().to_str().unwrap()]).stdout).unwrap();
    assert!(listing.contains("billing") && listing.contains("stripe/key@1"), "{listing}");
    assert!(!listing.contains("sk-value-one"));
    drop(session);
    eventually("the session ends", || {
        let out = host.valetkey(&["sessions", "--socket", host.admin_socket().to_str().unwrap()]).stdout;
        String::from_utf8(out).unwrap() == "none\n"
    });
}

#[tokio::test]
async fn a_new_version_reaches_an_open_session() {
    let host = host();
    let daemon = host.start();
    let session = host.client().session("billing").secret("stripe/key").open().await.unwrap();
    assert_eq!(text(&session.get("stripe/key").await.unwrap()), "sk-value-one");
    let mut changes = session.watch();
    host.seal(&[("stripe/key", b"sk-value-two")]);
    daemon.signal(libc::SIGHUP);
    let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    assert_eq!((text(&change.previous), text(&change.secret)), ("sk-value-one".into(), "sk-value-two".into()));
    session.acknowledge(&change.secret).await.unwrap();
    assert_eq!(text(&session.get("stripe/key").await.unwrap()), "sk-value-two");
    assert_eq!(session.get("stripe/key").await.unwrap().version(), "2");
}

#[tokio::test]
async fn the_client_survives_a_restart_of_the_daemon() {
    let host = host();
    let mut daemon = host.start();
    let session = host.client().session("billing").secret("stripe/key").open().await.unwrap();
    session.get("stripe/key").await.unwrap();
    assert!(daemon.stop().success());
    let _again = host.start();
    assert_eq!(text(&session.fetch("stripe/key").await.unwrap()), "sk-value-one");
}

#[tokio::test]
async fn both_sockets_tell_their_health_and_what_they_serve() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let host = host();
    let _daemon = host.start();
    for (socket, service) in [(host.tools_socket(), "valetkey.v1.Broker"), (host.admin_socket(), "valetkey.v1.Admin")] {
        let channel = daemon::channel(&socket).await;
        let mut health = HealthClient::new(channel.clone());
        for name in ["", service] {
            let answer = health.check(HealthCheckRequest { service: name.into() }).await.unwrap();
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{name:?}");
        }
        let list =
            ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut answers =
            ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(listed)) = answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("not a list of services")
        };
        let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
        names.sort();
        assert_eq!(names, ["grpc.health.v1.Health", service]);
    }
}

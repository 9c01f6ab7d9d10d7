use super::*;
use crate::{
    audit::{Event, Kind, Log, Outcome},
    limits::Limits,
    policy::{Decision, Delivery, Origin, Policy, Request, Rule, RunAs, ToolPolicy},
    proto::v1::{GetSecretsResponse, SessionResponse, session_response::Response},
    secret::SecretValue,
    source::Fetched,
    store::{self, Confirmed, Stamp},
};

/// A hand-out, the only way there is one: loaded, granted, read.
pub fn handout(value: &[u8]) -> Handout {
    let (keeper, store) = store::new(crate::redact::Redactor::new().unwrap());
    let secret: crate::name::SecretName = "stripe/api-key".parse().unwrap();
    let fetched = Fetched { value: SecretValue::copy_from(value).unwrap(), version: 7.into(), check_within: None };
    keeper.put(secret.clone(), "prod".parse().unwrap(), fetched, Confirmed { at: Stamp::now(), max_stale: None, place: None });
    let origin = Origin { file: std::path::Path::new("t.toml").into(), line: 1 };
    let rule = Rule { delivery: Delivery::Rpc, remote: false, origin: origin.clone() };
    let tool = ToolPolicy {
        description: String::new(),
        run_as: RunAs::default(),
        grants: [(secret.clone(), rule)].into(),
        limits: Limits::default(),
        launch: Default::default(),
        origin,
    };
    let name: crate::name::ToolName = "billing".parse().unwrap();
    let policy = Policy::new([(name.clone(), tool)].into(), Default::default());
    let peer = crate::peer::Peer {
        process: crate::peer::Process { pid: 1, pidfd_inode: 1 },
        uid: 0,
        gid: 0,
        groups: vec![],
        unit: None,
        executable: None,
        remote: None,
    };
    let open = policy.decide(&peer, &Request::Open { tool: &name, scope: std::slice::from_ref(&secret) });
    let Decision::AllowSession(scope) = open else { panic!("{open:?}") };
    let get = policy.decide(&peer, &Request::Get { scope: &scope, secret: secret.as_str() });
    let Decision::Allow(grant) = get else { panic!("{get:?}") };
    let event = Event::new(Kind::SecretHandedOut, Outcome::Success);
    let recorded = Log::off().append(&event).unwrap().wait().unwrap();
    Handout::new(secret, store.read(&grant).unwrap(), recorded)
}

fn message(frame: &Bytes) -> &[u8] {
    assert_eq!(frame[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
    &frame[5..]
}

#[test]
fn a_frame_made_by_hand_reads_as_the_message() {
    for length in [0, 1, 64, 127, 128, 300, 65_536] {
        let value: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let frame = session_secret(9, &handout(&value));
        let read = SessionResponse::decode(message(&frame)).unwrap();
        let Some(Response::Secret(secret)) = read.response else { panic!("another kind of answer") };
        assert_eq!((secret.id, secret.name.as_str(), secret.version.as_str()), (9, "stripe/api-key", "7"));
        assert!(secret.value == value);
    }
    let frame = get_secrets(&[handout(b"first value"), handout(b"second value")]);
    let read = GetSecretsResponse::decode(message(&frame)).unwrap();
    let values: Vec<_> = read.secrets.iter().map(|secret| secret.value.as_slice()).collect();
    assert!(values == [b"first value".as_slice(), b"second value"]);
}

#[test]
fn enough_bytes_stand_before_the_value() {
    let frame = session_secret(1, &handout(b"the value itself"));
    let at = frame.windows(16).position(|window| window == b"the value itself").unwrap();
    assert!(at >= HEAD, "the value starts at {at}");
}

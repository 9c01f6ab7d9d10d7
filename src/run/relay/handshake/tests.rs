use super::*;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const WELCOME: &str = r#"{"jsonrpc":"2.0","id":0,"result":{}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{}}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":"a","result":1}"#;

impl Handshake {
    fn client_says(&mut self, lines: &[&str]) -> Vec<String> {
        collect(|out| lines.iter().for_each(|line| self.hear_client(format!("{line}\n").as_bytes(), out)))
    }
    fn server_says(&mut self, lines: &[&str]) -> Vec<String> {
        collect(|out| lines.iter().for_each(|line| self.hear_server(format!("{line}\n").as_bytes(), out)))
    }
}

fn collect(run: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    let mut out = Vec::new();
    run(&mut out);
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn open() -> Handshake {
    let mut handshake = Handshake::default();
    assert_eq!(handshake.client_says(&[INITIALIZE]), [INITIALIZE]);
    assert_eq!(handshake.server_says(&[WELCOME]), [WELCOME]);
    assert_eq!(handshake.client_says(&[INITIALIZED]), [INITIALIZED]);
    handshake
}

#[test]
fn a_new_server_is_told_the_opening_and_the_client_sees_one_answer() {
    let mut handshake = open();
    handshake.hold();
    assert!(handshake.client_says(&[CALL]).is_empty(), "it waits");
    assert!(collect(|client| handshake.ended(client)).is_empty(), "nothing was under way");
    assert_eq!(collect(|server| handshake.started(server)), [INITIALIZE]);
    assert!(
        collect(|server| {
            let _ = handshake.release(server);
        })
        .is_empty(),
        "not before the answer"
    );
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message"}"#;
    assert_eq!(handshake.server_says(&[log, WELCOME]), [log], "the answer is ours, what else it says is not");
    assert_eq!(
        collect(|server| {
            let _ = handshake.release(server);
        }),
        [INITIALIZED, CALL]
    );
    assert!(!handshake.is_idle());
    assert_eq!(handshake.server_says(&[ANSWER]), [ANSWER]);
    assert!(handshake.is_idle());
}

#[test]
fn what_was_under_way_is_answered_with_an_error() {
    let mut handshake = open();
    handshake.client_says(&[CALL]);
    handshake.hold();
    handshake.hear_server(b"{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"resu", &mut Vec::new());
    let said = collect(|client| handshake.ended(client));
    let answer: Value = serde_json::from_str(&said[0]).unwrap();
    assert_eq!((said.len(), &answer["id"], &answer["error"]["code"]), (1, &"a".into(), &(-32000).into()));
    assert_eq!(handshake.server_says(&[ANSWER]), [ANSWER], "the half line of the old server is forgotten");
}

#[test]
fn an_opening_that_was_under_way_is_answered_by_the_new_server() {
    let mut handshake = Handshake::default();
    handshake.client_says(&[INITIALIZE]);
    handshake.hold();
    assert!(collect(|client| handshake.ended(client)).is_empty());
    assert_eq!(collect(|server| handshake.started(server)), [INITIALIZE]);
    assert_eq!(handshake.server_says(&[WELCOME]), [WELCOME], "the client waits for it");
}

#[test]
fn without_an_opening_there_is_nothing_to_tell() {
    let mut handshake = Handshake::default();
    handshake.client_says(&[CALL]);
    handshake.server_says(&[ANSWER]);
    handshake.hold();
    handshake.client_says(&[CALL]);
    assert!(collect(|server| handshake.started(server)).is_empty());
    assert_eq!(
        collect(|server| {
            let _ = handshake.release(server);
        }),
        [CALL]
    );
}

#[test]
fn answers_to_the_old_server_and_cancelled_requests_are_dropped() {
    let mut handshake = open();
    handshake.client_says(&[CALL]);
    handshake.client_says(&[r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#]);
    assert!(handshake.is_idle());
    handshake.hold();
    handshake.client_says(&[r#"{"jsonrpc":"2.0","id":7,"result":{}}"#]);
    handshake.started(&mut Vec::new());
    handshake.server_says(&[WELCOME]);
    assert_eq!(
        collect(|server| {
            let _ = handshake.release(server);
        }),
        [INITIALIZED]
    );
}

#[test]
fn a_server_that_stays_gets_what_has_waited_for_another() {
    let mut handshake = open();
    handshake.hold();
    let answer = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    assert!(handshake.client_says(&[answer, CALL]).is_empty());
    assert_eq!(collect(|server| handshake.resume(server)), [answer, CALL], "its question is answered too");
    assert!(!handshake.holds() && !handshake.is_idle());
    assert!(collect(|server| handshake.resume(server)).is_empty(), "once");
}

#[test]
fn what_waits_is_bounded_and_all_of_it_comes() {
    let mut handshake = open();
    let long = CALL.replace("{}", &format!("{{\"text\":\"{}\"}}", "x".repeat(MOST_HELD)));
    handshake.client_says(&[&long]);
    assert!(handshake.has_room(), "a line that need not wait is passed on, however long");
    handshake.server_says(&[ANSWER]);
    handshake.hold();
    assert!(handshake.has_room());
    let mut said = 0;
    while handshake.has_room() {
        said += 1;
        assert!(handshake.client_says(&[CALL]).is_empty());
    }
    assert!(said * (CALL.len() + 1) < MOST_HELD + CALL.len() + 1);
    handshake.started(&mut Vec::new());
    handshake.server_says(&[WELCOME]);
    assert_eq!(collect(|server| _ = handshake.release(server)).len(), 1 + said, "and the end of the opening");
    assert!(handshake.has_room());
    handshake.hold();
    handshake.hear_client(&vec![b'x'; MOST_HELD], &mut Vec::new());
    assert!(!handshake.has_room(), "nor is half a line without bound");
}

#[test]
fn a_batch_is_one_line_of_several_requests() {
    let mut handshake = open();
    handshake.client_says(&[&format!("[{CALL},{}]", CALL.replace("\"a\"", "2"))]);
    assert_eq!(handshake.server_says(&[ANSWER]), [ANSWER]);
    assert_eq!(collect(|client| handshake.ended(client)).len(), 1);
}

#[test]
fn what_is_not_json_rpc_passes_as_it_is() {
    let mut handshake = Handshake::default();
    let (mut server, mut client) = (Vec::new(), Vec::new());
    handshake.hear_client(b"select 1;\nselect", &mut server);
    handshake.hear_server(b"psql> ", &mut client);
    assert_eq!((server, client), (b"select 1;\nselect".to_vec(), b"psql> ".to_vec()));
}

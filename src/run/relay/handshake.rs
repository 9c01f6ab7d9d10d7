//! Carries an MCP session over a restart of its server.
//!
//! A client of the protocol's first era opens the session with `initialize`, and would find a new process that knows nothing
//! of it. So the opening is remembered and told again to the new process, whose answer the client has had already. Since
//! 2026-07-28 a server keeps no session, and there is nothing to tell again. A client that speaks no JSON-RPC is not looked at.
//!
//! What a server was told beside its opening (subscriptions, log level) is lost with it, as in any restart.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// How much waits of what the client says. More is left in its pipe.
const MOST_HELD: usize = 1 << 20;
/// What a request that was under way is told. -32000 is the first of JSON-RPC's numbers for servers' own errors.
const RESTARTED: &str = "the server was restarted for a new credential; send the request again";

#[derive(Default)]
pub struct Handshake {
    speaks: Speaks,
    /// The line with the client's `initialize`, and its id.
    opening: Option<(Vec<u8>, String)>,
    /// The line with `notifications/initialized`.
    opened: Option<Vec<u8>>,
    /// Requests that have no answer yet, by the text of their id.
    under_way: BTreeMap<String, Value>,
    /// The answer with this id is for us.
    ours: Option<String>,
    /// Lines wait here while no server may have them.
    held: Option<Vec<u8>>,
    /// The beginnings of lines.
    client: Vec<u8>,
    server: Vec<u8>,
}

#[derive(Default, PartialEq, Eq)]
enum Speaks {
    /// It has not spoken.
    #[default]
    Unknown,
    JsonRpc,
    Other,
}

/// As much of a message as matters here.
#[derive(Deserialize)]
struct Message {
    jsonrpc: Option<Value>,
    method: Option<String>,
    id: Option<Value>,
    params: Option<Params>,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "requestId")]
    request: Option<Value>,
}

impl Handshake {
    /// Bytes from the client; what the server may have now goes to `server`.
    pub fn hear_client(&mut self, bytes: &[u8], server: &mut Vec<u8>) {
        for line in complete_lines(&mut self.client, bytes).split_inclusive(is_newline) {
            match self.speaks {
                Speaks::Other => server.extend_from_slice(line),
                Speaks::Unknown | Speaks::JsonRpc => self.client_line(line, server),
            }
        }
        if self.speaks == Speaks::Other {
            server.append(&mut self.client);
        }
    }

    fn client_line(&mut self, line: &[u8], server: &mut Vec<u8>) {
        if self.speaks == Speaks::Unknown && !line.trim_ascii().is_empty() {
            let speaks_it = messages(line).iter().any(|message| message.jsonrpc.is_some());
            self.speaks = if speaks_it { Speaks::JsonRpc } else { Speaks::Other };
        }
        match &mut self.held {
            Some(held) => held.extend_from_slice(line),
            None => self.deliver(line, server),
        }
    }

    fn deliver(&mut self, line: &[u8], server: &mut Vec<u8>) {
        server.extend_from_slice(line);
        for message in messages(line) {
            match (message.method.as_deref(), message.id) {
                (Some("initialize"), Some(id)) => {
                    self.opening = Some((line.to_vec(), id.to_string()));
                    self.under_way.insert(id.to_string(), id);
                }
                (Some("notifications/initialized"), _) => self.opened = Some(line.to_vec()),
                // A request that is given up need not be answered.
                (Some("notifications/cancelled"), _) => {
                    let request = message.params.and_then(|params| params.request);
                    request.map(|id| self.under_way.remove(&id.to_string()));
                }
                (Some(_), Some(id)) => drop(self.under_way.insert(id.to_string(), id)),
                _ => {}
            }
        }
    }

    /// Bytes from the server; what the client is to see goes to `client`.
    pub fn hear_server(&mut self, bytes: &[u8], client: &mut Vec<u8>) {
        if self.speaks == Speaks::Other {
            client.append(&mut self.server);
            client.extend_from_slice(bytes);
            return;
        }
        for line in complete_lines(&mut self.server, bytes).split_inclusive(is_newline) {
            if !self.is_answer_to_us(line) {
                client.extend_from_slice(line);
            }
        }
    }

    fn is_answer_to_us(&mut self, line: &[u8]) -> bool {
        let mut to_us = false;
        for message in messages(line).into_iter().filter(|message| message.method.is_none()) {
            let id = message.id.unwrap_or_default().to_string();
            self.under_way.remove(&id);
            if self.ours.as_ref() == Some(&id) {
                (self.ours, to_us) = (None, true);
            }
        }
        to_us
    }

    /// Whether no request waits for its answer.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// From here on the client's lines wait.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Whether lines wait.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the client may say more now. A line that is not held may be as long as it likes: it cannot be passed on in part.
    pub fn has_room(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.len() + self.client.len() < MOST_HELD)
    }

    /// The old server is gone: answers in its place what it left unanswered, and forgets what it had half said.
    pub fn ended(&mut self, client: &mut Vec<u8>) {
        self.server.clear();
        let opening = self.opening.as_ref().map(|(_, id)| id);
        let (kept, unanswered) = std::mem::take(&mut self.under_way).into_iter().partition(|(id, _)| Some(id) == opening);
        self.under_way = kept;
        for id in BTreeMap::into_values(unanswered) {
            let error = serde_json::json!({ "code": -32000, "message": RESTARTED });
            let answer = serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": error });
            client.extend_from_slice(format!("{answer}\n").as_bytes());
        }
    }

    /// A new server is there: says what it must hear first.
    pub fn started(&mut self, server: &mut Vec<u8>) {
        let Some((line, id)) = &self.opening else { return };
        server.extend_from_slice(line);
        // Where the client waits for this answer itself, it is not ours to take.
        if !self.under_way.contains_key(id) {
            self.ours = Some(id.clone());
        }
    }

    /// Once the new server has answered, lets it have what has waited. Says whether it has.
    pub fn release(&mut self, server: &mut Vec<u8>) -> bool {
        if self.ours.is_some() {
            return false;
        }
        let held = self.held.take().unwrap_or_default();
        let reopened = self.opened.as_ref().filter(|_| self.opening.is_some());
        server.extend_from_slice(reopened.map_or(&[], Vec::as_slice));
        // Answers in it are to questions of the old server.
        for line in held.split_inclusive(is_newline).filter(|line| !is_answer(line)) {
            self.deliver(line, server);
        }
        true
    }

    /// The server stays: lets it have what has waited for another.
    pub fn resume(&mut self, server: &mut Vec<u8>) {
        let held = self.held.take().unwrap_or_default();
        held.split_inclusive(is_newline).for_each(|line| self.deliver(line, server));
    }
}

fn is_answer(line: &[u8]) -> bool {
    let messages = messages(line);
    !messages.is_empty() && messages.iter().all(|message| message.method.is_none() && message.id.is_some())
}

/// The messages of a line: one, or a batch as the protocol of 2025-03-26 has it. None, if it is not JSON-RPC.
fn messages(line: &[u8]) -> Vec<Message> {
    match line.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(line).unwrap_or_default(),
        Some(b'{') => serde_json::from_slice(line).map(|message| vec![message]).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The lines that these bytes complete. What begins the next one is kept; it is looked at once, however long it grows.
fn complete_lines(beginning: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let end = memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
    let (complete, rest) = bytes.split_at(end);
    let mut lines = Vec::new();
    if !complete.is_empty() {
        lines = std::mem::take(beginning);
        lines.extend_from_slice(complete);
    }
    beginning.extend_from_slice(rest);
    lines
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

#[cfg(test)]
mod tests;

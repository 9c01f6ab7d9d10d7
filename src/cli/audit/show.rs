//! Records and verdicts as people read them.

use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    audit::{
        disk::{Directory, Disk},
        verify::Verified,
    },
    cli::table::printable,
};

/// Appends a record: as it stands, or in columns for people.
pub fn push(line: &[u8], json: bool, out: &mut Vec<u8>) {
    if json {
        out.extend_from_slice(line);
        out.push(b'\n');
        return;
    }
    let Ok(Value::Object(record)) = serde_json::from_slice::<Value>(line) else { return };
    let text = |field: &str| match record.get(field) {
        Some(Value::String(text)) => printable(text),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let time = text("time").replacen('T', " ", 1);
    let outcome = text("outcome");
    let mut words = vec![format!("{time}  {:20}", text("event"))];
    words.extend((outcome != "success").then(|| outcome.to_uppercase()));
    let secret = match text("version") {
        version if version.is_empty() => text("secret"),
        version => format!("{} @{version}", text("secret")),
    };
    words.extend([text("tool"), secret].into_iter().filter(|word| !word.is_empty()));
    const SHOWN: [&str; 10] = ["v", "seq", "time", "event", "outcome", "tool", "secret", "version", "prev", "signature"];
    let others = record.keys().filter(|field| !SHOWN.contains(&field.as_str()));
    words.extend(others.map(|field| format!("{field}={}", text(field))));
    words.push(format!("#{}", text("seq")));
    out.extend_from_slice(words.join("  ").as_bytes());
    out.push(b'\n');
}

/// What a verification came to.
pub fn verdict(found: &Verified) -> String {
    let mut lines = Vec::new();
    match &found.broken {
        Some(broken) => {
            lines.push(format!("BROKEN  {broken}"));
            lines.push("        keep the directory as it is, and compare it with what was exported or backed up".into());
        }
        None if found.is_sealed() => lines.push("whole, and sealed to the last record".into()),
        None => {
            lines.push(format!("whole, with {} records after the last signature", found.unsigned()));
            if found.open_bytes > 0 {
                lines.push(format!(
                    "{} bytes at the end are no whole record: the daemon is writing it, or ended within a write and was not started since",
                    found.open_bytes
                ));
            }
        }
    }
    lines.push(format!(
        "{} records in {} files, {} bytes: {} to {}",
        found.records, found.files, found.bytes, found.first, found.last.seq
    ));
    if found.pruned > 0 {
        lines.push(format!("{} files that are gone were pruned, as signed records say", found.pruned));
    }
    if found.torn > 0 {
        lines.push(format!(
            "{} writes that came to nothing are declared ({} bytes); nothing acknowledged stood there",
            found.torn, found.torn_bytes
        ));
    }
    lines.push(format!("last record     {}:{}", found.last.seq, found.last.hash));
    lines.join("\n") + "\n"
}

/// How far it is, where somebody looks.
pub struct Bar {
    total: u64,
    state: Option<Mutex<Instant>>,
}

/// What is done sooner needs no bar.
const SOON: Duration = Duration::from_millis(500);

impl Bar {
    pub fn new(disk: &Directory) -> Self {
        let names = disk.list().unwrap_or_default();
        let total = names.iter().filter(|name| name.ends_with(".jsonl")).filter_map(|name| disk.len(name).ok()).sum();
        Self { total, state: std::io::stderr().is_terminal().then(|| Mutex::new(Instant::now() + SOON)) }
    }

    pub fn show(&self, bytes: u64) {
        let Some(state) = &self.state else { return };
        let mut next = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if Instant::now() >= *next && self.total > 0 {
            *next = Instant::now() + SOON / 5;
            let percent = (bytes.min(self.total) * 100 / self.total) as usize;
            let done = "#".repeat(percent / 2);
            let _ = write!(std::io::stderr(), "\r[{done:50}] {percent:3} %");
        }
    }

    pub fn clear(&self) {
        if self.state.is_some() {
            let _ = write!(std::io::stderr(), "\r{:60}\r", "");
        }
    }
}

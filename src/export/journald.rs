//! To systemd-journald, over its [native protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): one datagram for each record, with each of
//! its fields as one of the journal's. What is too large for a datagram goes as a sealed file in memory.
//!
//! The journal acknowledges nothing: a record counts as arrived when it is in the journal's queue, which outlives journald's restarts.

use std::{
    io::{self, IoSlice, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use serde_json::Value;
use tokio::{io::Interest, net::UnixDatagram};

use super::{
    Failed,
    record::{Gravity, Record},
};
use crate::audit::{Kind, onward::Batch};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Every record of ours has it, so that `journalctl -t valetkeyd` shows them.
const IDENTIFIER: &str = "valetkeyd";
/// `LOG_AUTHPRIV`: security messages, for few to read.
const FACILITY: &str = "10";

/// The journal of this host.
#[derive(Debug)]
pub struct Journald {
    socket: PathBuf,
}

impl Journald {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn send(&mut self, batch: &Batch) -> Result<(), Failed> {
        let failed = |error: io::Error| Failed(format!("journald at {} does not take records: {error}", self.socket.display()));
        // A new one each time: one that is connected to a journald that is gone never recovers.
        let socket = self.connect().map_err(failed)?;
        for line in batch.records() {
            send(&socket, &entry(&Record::parse(line))).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Connected, so that a full queue is waited for.
    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.socket)?;
        Ok(socket)
    }
}

async fn send(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    match socket.send(entry).await {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => {
            let sealed = sealed(entry)?;
            socket.async_io(Interest::WRITABLE, || send_descriptor(socket, &sealed)).await
        }
        sent => sent.map(drop),
    }
}

/// A file in memory that nobody can change any more, as journald asks for.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("valetkey-audit", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(entry)?;
    let memory = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memory)
}

fn send_descriptor(socket: &UnixDatagram, descriptor: &OwnedFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there is no room for one descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A record as the journal takes it.
fn entry(record: &Record) -> Vec<u8> {
    let mut entry = Vec::with_capacity(2048);
    let priority = match record.gravity() {
        Gravity::Failure => "3",
        Gravity::Warning => "4",
        Gravity::Done => "6",
        Gravity::Routine => "7",
    };
    push(&mut entry, "MESSAGE", &record.sentence());
    push(&mut entry, "PRIORITY", priority);
    push(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    push(&mut entry, "SYSLOG_FACILITY", FACILITY);
    if let Some(kind) = Kind::named(record.text("event")) {
        push(&mut entry, "MESSAGE_ID", &message_id(kind));
    }
    for (field, value) in record.fields() {
        let name = format!("VALETKEY_{}", field.to_ascii_uppercase());
        match value {
            Value::String(text) => push(&mut entry, &name, text),
            other => push(&mut entry, &name, &other.to_string()),
        }
    }
    entry
}

fn push(entry: &mut Vec<u8>, field: &str, value: &str) {
    entry.extend_from_slice(field.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The id of all messages of one kind: the first half of the SHA-256 of `valetkey audit ` and the event's word, marked as a UUID of
/// version 8. `docs/audit.md` lists them.
pub fn message_id(kind: Kind) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("valetkey audit {}", kind.as_str()).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, sockopt};

    use super::*;

    #[test]
    fn the_documentation_lists_each_kinds_id() {
        let page = include_str!("../../docs/audit.md");
        for kind in Kind::ALL {
            let row = format!("| `{}` | `{}` |", kind.as_str(), message_id(*kind));
            assert!(page.contains(&row), "docs/audit.md lacks {row}");
        }
    }

    #[test]
    fn a_field_with_a_line_feed_has_its_length() {
        let mut entry = Vec::new();
        push(&mut entry, "A", "b");
        push(&mut entry, "C", "d\ne");
        assert_eq!(entry, b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n");
    }

    /// Through a socket whose buffer is too small for it.
    #[tokio::test]
    async fn a_large_record_goes_as_a_sealed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = net::UnixDatagram::bind(&path).unwrap();
        let socket = Journald::new(path).connect().unwrap();
        sockopt::set_socket_send_buffer_size(&socket, 4096).unwrap();
        let record = Record::parse(format!("{{\"event\":\"secret.denied\",\"detail\":\"{}\"}}", "x".repeat(12_000)).as_bytes());
        let entry = entry(&record);
        send(&socket, &entry).await.unwrap();

        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(&journal, &mut [], &mut ancillary, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, 0);
        let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = ancillary.drain().next() else { panic!("no descriptor") };
        let memory = descriptors.next().unwrap();
        let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        assert_eq!(rustix::fs::fcntl_get_seals(&memory).unwrap(), all);
        let mut content = vec![0; entry.len() + 1];
        assert_eq!(rustix::io::pread(&memory, &mut content, 0).unwrap(), entry.len());
        assert_eq!(content[..entry.len()], entry);
    }
}

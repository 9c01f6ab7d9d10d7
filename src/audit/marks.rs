//! The log's own records, written by the journal and read by those who verify it.

use std::time::SystemTime;

use serde::Deserialize;

use super::{
    event::{Kind, Outcome},
    files::{FileName, Torn},
    key::{KeyId, PublicKey, Purpose, SigningKey},
    line::{Clock, Fields, Link, Tip, begin_body, parse_hex, push_line},
};
use crate::peer::Sha256;

/// Why the log was taken up again in a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon ended while it wrote. No record is missing.
    Torn,
    /// The disk refused a write or a sync, and takes them again. No acknowledged record is missing.
    WriteFailed,
    /// Records that were durable are not there, or are not what they were.
    RecordsMissing,
    /// There is a log, and nothing says how long it was.
    HeadMissing,
    /// The head is not what was written.
    HeadBad,
    /// The head is by another key.
    KeyChanged,
}

impl Trouble {
    const ALL: [Self; 6] =
        [Self::Torn, Self::WriteFailed, Self::RecordsMissing, Self::HeadMissing, Self::HeadBad, Self::KeyChanged];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::WriteFailed => "write-failed",
            Self::RecordsMissing => "records-missing",
            Self::HeadMissing => "head-missing",
            Self::HeadBad => "head-bad",
            Self::KeyChanged => "key-changed",
        }
    }
}

/// One of the log's own records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    FileOpened { file: FileName },
    FileClosed { file: FileName, records: u64, bytes: u64 },
    Recovered { trouble: Trouble, torn: Option<Torn>, lost: u64, old_key: Option<KeyId> },
    Pruned { file: FileName, bytes: u64, last: Tip },
}

impl Mark {
    fn kind(&self) -> Kind {
        match self {
            Self::FileOpened { .. } => Kind::FileOpened,
            Self::FileClosed { .. } => Kind::FileClosed,
            Self::Recovered { .. } => Kind::Recovered,
            Self::Pruned { .. } => Kind::Pruned,
        }
    }

    /// Appends its line, and returns what the chain has come to.
    pub fn push(&self, before: Tip, now: SystemTime, out: &mut Vec<u8>) -> Tip {
        let mut body = Vec::with_capacity(512);
        let mut fields = begin_body(&mut Clock::default(), now, &mut body);
        fields.word("event", self.kind().as_str());
        let outcome = if matches!(self, Self::Recovered { .. }) { Outcome::Failure } else { Outcome::Success };
        fields.word("outcome", outcome.as_str());
        match self {
            Self::FileOpened { file } => fields.word("file", &file.to_string()),
            Self::FileClosed { file, records, bytes } => {
                fields.word("file", &file.to_string());
                fields.number("records", *records);
                fields.number("bytes", *bytes);
            }
            Self::Recovered { trouble, torn, lost, old_key } => {
                fields.word("reason", trouble.as_str());
                fields.number("lost", *lost);
                fields.some("old_key_id", old_key.as_ref().map(|id| id.0.as_str()), Fields::text);
                if let Some(torn) = torn {
                    fields.word("file", &torn.file.to_string());
                    fields.number("torn_from", torn.from);
                    fields.number("torn_bytes", torn.bytes);
                    fields.hex("torn_sha256", &torn.sha256.0);
                    fields.flag("torn_synced", torn.synced);
                }
            }
            Self::Pruned { file, bytes, last } => {
                fields.word("file", &file.to_string());
                fields.number("first_seq", file.first);
                fields.number("last_seq", last.seq);
                fields.hex("last_hash", &last.hash.0);
                fields.number("bytes", *bytes);
            }
        }
        push_line(&body, before, out)
    }

    /// Reads one of these off its line. `None`: it is none of them.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(line).ok()?;
        let file = || FileName::parse(raw.file.as_deref()?);
        Some(match Kind::named(&raw.event)? {
            Kind::FileOpened => Self::FileOpened { file: file()? },
            Kind::FileClosed => Self::FileClosed { file: file()?, records: raw.records?, bytes: raw.bytes? },
            Kind::Pruned => Self::Pruned {
                file: file()?,
                bytes: raw.bytes?,
                last: Tip { seq: raw.last_seq?, hash: Sha256(parse_hex(raw.last_hash?.as_bytes())?) },
            },
            Kind::Recovered => {
                let reason = raw.reason?;
                let torn = || {
                    Some(Torn {
                        file: FileName::parse(raw.file.as_deref()?)?,
                        from: raw.torn_from?,
                        bytes: raw.torn_bytes?,
                        sha256: Sha256(parse_hex(raw.torn_sha256?.as_bytes())?),
                        synced: raw.torn_synced?,
                    })
                };
                Self::Recovered {
                    trouble: Trouble::ALL.into_iter().find(|trouble| trouble.as_str() == reason)?,
                    torn: torn(),
                    lost: raw.lost?,
                    old_key: raw.old_key_id.map(KeyId),
                }
            }
            _ => return None,
        })
    }
}

#[derive(Deserialize)]
struct Raw {
    event: String,
    reason: Option<String>,
    file: Option<String>,
    records: Option<u64>,
    bytes: Option<u64>,
    lost: Option<u64>,
    old_key_id: Option<String>,
    torn_from: Option<u64>,
    torn_bytes: Option<u64>,
    torn_sha256: Option<String>,
    torn_synced: Option<bool>,
    last_seq: Option<u64>,
    last_hash: Option<String>,
}

/// Appends a checkpoint: a record with a signature over all before it.
pub fn push_checkpoint(key: &SigningKey, before: Tip, now: SystemTime, out: &mut Vec<u8>) -> Tip {
    let mut time = Vec::with_capacity(32);
    Clock::default().push(now, &mut time);
    let mut body = Vec::with_capacity(512);
    let mut fields = begin_body(&mut Clock::default(), now, &mut body);
    fields.word("event", Kind::Checkpoint.as_str());
    fields.word("outcome", Outcome::Success.as_str());
    fields.word("key_id", &key.public().id().0);
    fields.hex("signature", &key.sign(Purpose::Checkpoint, &before, &time));
    push_line(&body, before, out)
}

/// What a checkpoint's signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    Good,
    Bad,
    /// By a key that was not given.
    Foreign(KeyId),
}

#[derive(Deserialize)]
struct RawCheckpoint {
    key_id: String,
    signature: String,
}

/// Checks a checkpoint's signature against these keys.
pub fn check_checkpoint(line: &[u8], link: &Link<'_>, keys: &[PublicKey]) -> Signed {
    let Ok(raw) = serde_json::from_slice::<RawCheckpoint>(line) else { return Signed::Bad };
    let Some(signature) = parse_hex(raw.signature.as_bytes()) else { return Signed::Bad };
    let before = Tip { seq: link.seq - 1, hash: link.prev };
    match keys.iter().find(|key| key.id().0 == raw.key_id) {
        None => Signed::Foreign(KeyId(raw.key_id)),
        Some(key) if key.has_signed(Purpose::Checkpoint, &before, link.time, &signature) => Signed::Good,
        Some(_) => Signed::Bad,
    }
}

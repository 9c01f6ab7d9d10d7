//! Secrets in one file of our own, encrypted with age to X25519 keys: for hosts without a secrets manager, and for a first try.
//!
//! What is sealed is JSON: `{"version":1,"recipients":["age1..."],"secrets":{"NAME":{"version":3,"value":"text"}}}`, with `base64` in
//! place of `value` where a secret is not text. The file can be made and read with age's own tools too.

mod edit;
pub mod replace;
mod seal;
mod write;

use std::{collections::BTreeMap, fs::File, io::Read, os::unix::fs::MetadataExt, path::Path, path::PathBuf, str};

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::SecretString;
use zeroize::Zeroizing;

use self::seal::unseal;
pub use self::{edit::SealedFile, seal::Seal};
use super::{
    Cause, Fetched, Outcomes, Source, SourceError, Wanted, Working,
    field::{self, Json},
    key_file,
};
use crate::{
    name::{SecretName, Version},
    secret::SecretValue,
};

/// The largest file that is read: far more than all the secrets of a host.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Where the file is, and the key to it. Both are read at each fetch.
#[derive(Debug, Clone)]
pub struct Settings {
    pub path: PathBuf,
    /// As `age-keygen` writes it; readable by its owner alone.
    pub identity_file: PathBuf,
}

/// The secrets of one sealed file. [`Wanted::path`] is the name in it.
#[derive(Debug)]
pub struct Sealed {
    settings: Settings,
}

impl Sealed {
    /// Keeps the settings. Reads no file.
    pub fn new(settings: Settings) -> Result<Self, SourceError> {
        Ok(Self { settings })
    }
}

impl Source for Sealed {
    fn kind(&self) -> &'static str {
        "sealed-file"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            let Settings { path, identity_file } = self.settings.clone();
            // Files and key agreement block for about a millisecond: not on a thread that serves tools.
            let content = tokio::task::spawn_blocking(move || Content::read(&path, &Identity::read(&identity_file)?)).await;
            let content = content.unwrap_or_else(|_| Err(SourceError::new(Cause::BadAnswer, "reading the sealed file failed")));
            for wanted in wanted {
                let outcome = content.as_ref().map_err(Clone::clone).and_then(|content| content.pick(wanted));
                let _ = outcomes.send((wanted.secret.clone(), outcome));
            }
        })
    }

    fn writer(&self) -> Option<&dyn super::write::Write> {
        Some(self)
    }
}

/// The private key that opens a sealed file.
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// Makes a new one: the text of its file, and the public recipient that files are sealed to.
    pub fn generate() -> (SecretString, String) {
        let identity = age::x25519::Identity::generate();
        (identity.to_string(), identity.to_public().to_string())
    }

    /// Reads the file that `age-keygen` or [`Identity::generate`] made: comments, and one key.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let content = key_file::read(path)?;
        let mut keys = content.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !matches!(line, [] | [b'#', ..]));
        let key = match (keys.next(), keys.next()) {
            (Some(key), None) => str::from_utf8(key).ok().and_then(|key| key.parse().ok()),
            _ => None,
        };
        let unusable = || {
            let words = format!(
                "{} does not hold exactly one X25519 key of age (AGE-SECRET-KEY-1...); keys under a passphrase are not supported",
                path.display()
            );
            SourceError::new(Cause::Refused, words)
        };
        key.map(Self).ok_or_else(unusable)
    }

    /// The public half.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }
}

struct Entry {
    version: u64,
    value: SecretValue,
}

/// What is in a sealed file.
#[derive(Default)]
struct Content {
    recipients: Vec<String>,
    secrets: BTreeMap<SecretName, Entry>,
}

impl Content {
    fn pick(&self, wanted: &Wanted) -> Result<Fetched, SourceError> {
        let missing = || SourceError::new(Cause::NotFound, format!("the sealed file has no secret {}", wanted.path));
        let entry = self.secrets.get(&*wanted.path).ok_or_else(missing)?;
        let value = entry.value.expose(|bytes| field::pick(bytes, wanted.field.as_deref()))?;
        Ok(Fetched { value, version: Version::from(entry.version), check_within: None })
    }

    fn read(path: &Path, identity: &Identity) -> Result<Self, SourceError> {
        let refused = |problem: String| SourceError::new(Cause::Refused, problem);
        let shown = path.display();
        let unreadable = |error: std::io::Error| refused(format!("cannot read {shown}: {error}"));
        let file = File::open(path).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        // age proves that a file is whole, not who wrote it: whoever knows the recipient could put another in its place.
        if facts.mode() & 0o022 != 0 {
            return Err(refused(format!(
                "{shown} can be written by others on this host, so it cannot be trusted: chmod 600 {shown}"
            )));
        }
        if facts.len() > LARGEST {
            return Err(refused(format!("{shown} is larger than {LARGEST} bytes")));
        }
        let mut sealed = Vec::with_capacity(facts.len() as usize + 1);
        file.take(LARGEST).read_to_end(&mut sealed).map_err(unreadable)?;
        Self::parse(&unseal(&sealed, identity).map_err(|problem| refused(format!("{shown} {problem}")))?).ok_or_else(|| {
            SourceError::new(Cause::BadAnswer, format!("{shown} opens, but what is in it is not ours, or of a later version"))
        })
    }

    fn parse(plain: &[u8]) -> Option<Self> {
        let document = Json::parse(plain)?;
        (document.at("version")?.text() == b"1").then_some(())?;
        let mut content = Self::default();
        for (_, recipient) in document.get("recipients").ok()?.into_iter().flat_map(Json::members) {
            content.recipients.push(string(recipient)?);
        }
        for (name, entry) in document.get("secrets").ok()??.members() {
            let version = str::from_utf8(entry.at("version")?.text()).ok()?.parse().ok()?;
            let value = match (entry.get("value").ok()?, entry.get("base64").ok()?) {
                (Some(text), None) if text.kind() == "a text" => text.leaf()?.ok()?,
                (None, Some(text)) => text.leaf()?.ok()?.expose(decode)?,
                _ => return None,
            };
            let name: SecretName = string(name?)?.parse().ok()?;
            content.secrets.insert(name, Entry { version, value }).is_none().then_some(())?;
        }
        Some(content)
    }

    /// The JSON, in a buffer that is wiped and, being large enough from the start, leaves no outgrown copy behind.
    fn plain(&self) -> Zeroizing<Vec<u8>> {
        let longest = |(name, entry): (&SecretName, &Entry)| name.as_str().len() + entry.value.len() * 6 + 64;
        let size = 64 + self.recipients.len() * 80 + self.secrets.iter().map(longest).sum::<usize>();
        let mut plain = Zeroizing::new(Vec::with_capacity(size));
        // Names and recipients need no escapes; writing to memory cannot fail.
        plain.extend_from_slice(b"{\"version\":1,\"recipients\":[");
        for (index, recipient) in self.recipients.iter().enumerate() {
            plain.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            plain.extend_from_slice(recipient.as_bytes());
            plain.push(b'"');
        }
        plain.extend_from_slice(b"],\"secrets\":{");
        for (index, (name, entry)) in self.secrets.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            plain.extend_from_slice(format!("{comma}\"{name}\":{{\"version\":{},", entry.version).as_bytes());
            entry.value.expose(|bytes| match str::from_utf8(bytes) {
                Ok(text) => {
                    plain.extend_from_slice(b"\"value\":");
                    let _ = serde_json::to_writer(&mut *plain, text);
                }
                Err(_) => {
                    plain.extend_from_slice(b"\"base64\":\"");
                    let start = plain.len();
                    plain.resize(start + bytes.len().div_ceil(3) * 4, 0);
                    let _ = BASE64_STANDARD.encode_slice(bytes, &mut plain[start..]);
                    plain.push(b'"');
                }
            });
            plain.push(b'}');
        }
        plain.extend_from_slice(b"}}\n");
        debug_assert!(plain.len() <= size, "the buffer was outgrown");
        plain
    }
}

/// A text that is no secret.
fn string(json: Json) -> Option<String> {
    json.leaf()?.ok()?.expose(|bytes| String::from_utf8(bytes.to_vec()).ok())
}

fn decode(text: &[u8]) -> Option<SecretValue> {
    let mut bytes = Zeroizing::new(vec![0; text.len().div_ceil(4) * 3]);
    let length = BASE64_STANDARD.decode_slice(text, &mut bytes).ok()?;
    SecretValue::copy_from(&bytes[..length]).ok()
}

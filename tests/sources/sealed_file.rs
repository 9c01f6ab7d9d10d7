//! The sealed file: the source, and the edits that the command line makes.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use valetkey::{
    name::SecretName,
    secret::SecretValue,
    source::sealed_file::{Identity, Sealed, SealedFile, Settings},
};

use super::*;

struct Files {
    folder: tempfile::TempDir,
    sealed: PathBuf,
    key: PathBuf,
}

impl Files {
    /// A key, and an empty file sealed to it.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, key) = (folder.path().join("secrets.age"), folder.path().join("key.txt"));
        let recipient = write_key(&key);
        SealedFile::create(&sealed, &[recipient]).unwrap();
        Self { folder, sealed, key }
    }

    fn open(&self) -> SealedFile {
        SealedFile::open(&self.sealed, &Identity::read(&self.key).unwrap()).unwrap()
    }

    fn source(&self) -> Sealed {
        Sealed::new(Settings { path: self.sealed.clone(), identity_file: self.key.clone() }).unwrap()
    }
}

fn write_key(path: &Path) -> String {
    let (key, recipient) = Identity::generate();
    fs::write(path, format!("# public key: {recipient}\n{}\n", key.expose_secret())).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    recipient
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(bytes: &[u8]) -> SecretValue {
    SecretValue::copy_from(bytes).unwrap()
}

fn words<T>(result: Result<T, SourceError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[tokio::test]
async fn what_is_set_and_saved_can_be_fetched() {
    let files = Files::new();
    let every_character: String = (1..0x3000).filter_map(char::from_u32).collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut file = files.open();
    assert_eq!(file.set(&name("plain"), &value(every_character.as_bytes())).unwrap(), 1);
    assert_eq!(file.set(&name("binary"), &value(&every_byte)).unwrap(), 1);
    assert_eq!(file.set(&name("json"), &value(br#"{"key":"marker"}"#)).unwrap(), 1);
    assert_eq!(file.set(&name("json"), &value(br#"{"key":"marker-2"}"#)).unwrap(), 2);
    file.set(&name("removed"), &value(b"marker")).unwrap();
    assert!(file.remove(&name("removed")) && !file.remove(&name("never")));
    assert!(words(file.set(&name("empty"), &value(b""))).contains("is empty"));
    assert_failed(fetch_one(&files.source(), "plain", None).await, Cause::NotFound, "no secret plain");
    file.save().unwrap();
    drop(file);

    let found = fetch(
        &files.source(),
        &[
            wanted("a", "plain", None),
            wanted("b", "binary", None),
            wanted("c", "json", Some("key")),
            wanted("d", "removed", None),
            wanted("e", "json", Some("none")),
        ],
    )
    .await;
    assert_value(&found["a"], every_character.as_bytes());
    assert_value(&found["b"], &every_byte);
    assert_value(&found["c"], b"marker-2");
    assert_eq!(found["c"].as_ref().unwrap().version.as_str(), "2");
    assert!(matches!(&found["d"], Err(error) if error.cause == Cause::NotFound));
    assert!(matches!(&found["e"], Err(error) if error.cause == Cause::BadField));
    assert_eq!(files.open().names().map(SecretName::as_str).collect::<Vec<_>>(), ["binary", "json", "plain"]);
}

#[test]
fn the_file_is_for_its_owner_and_is_not_replaced_by_create() {
    let files = Files::new();
    let private = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o600;
    assert!(private(&files.sealed));
    let before = fs::read(&files.sealed).unwrap();
    let (_, recipient) = Identity::generate();
    assert!(words(SealedFile::create(&files.sealed, &[recipient])).contains("is there already"));
    assert!(words(SealedFile::create(&files.folder.path().join("x"), &[])).contains("needs a recipient"));
    assert!(!words(SealedFile::create(&files.folder.path().join("x"), &["marker".into()])).contains("marker"));
    assert_eq!(fs::read(&files.sealed).unwrap(), before);
    let mut file = files.open();
    file.set(&name("a"), &value(b"marker")).unwrap();
    file.save().unwrap();
    assert!(private(&files.sealed));
    let left: Vec<_> = fs::read_dir(&files.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
}

#[test]
fn one_editor_at_a_time() {
    let files = Files::new();
    let first = files.open();
    let identity = Identity::read(&files.key).unwrap();
    assert!(words(SealedFile::open(&files.sealed, &identity)).contains("is being edited"));
    drop(first);
    SealedFile::open(&files.sealed, &identity).unwrap();
}

#[test]
fn a_link_stays_a_link_and_its_target_is_replaced() {
    let files = Files::new();
    let link = files.folder.path().join("link.age");
    symlink(&files.sealed, &link).unwrap();
    let mut file = SealedFile::open(&link, &Identity::read(&files.key).unwrap()).unwrap();
    file.set(&name("a"), &value(b"marker")).unwrap();
    file.save().unwrap();
    drop(file);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(files.open().version(&name("a")), Some(1));
}

#[tokio::test]
async fn recipients_come_and_go() {
    let files = Files::new();
    let other = files.folder.path().join("other.txt");
    let recipient = write_key(&other);
    let source = Sealed::new(Settings { path: files.sealed.clone(), identity_file: other.clone() }).unwrap();
    assert_failed(fetch_one(&source, "a", None).await, Cause::Refused, "sealed to another key");

    let mut file = files.open();
    file.set(&name("a"), &value(b"marker")).unwrap();
    file.add_recipient(&recipient).unwrap();
    file.save().unwrap();
    drop(file);
    assert_value(&fetch_one(&source, "a", None).await, b"marker");

    let first = Identity::read(&files.key).unwrap().recipient();
    let mut file = SealedFile::open(&files.sealed, &Identity::read(&other).unwrap()).unwrap();
    assert_eq!(file.recipients(), [first.clone(), recipient]);
    assert!(file.remove_recipient(&first));
    file.save().unwrap();
    assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, "sealed to another key");
}

#[tokio::test]
async fn a_changed_or_foreign_file_is_refused() {
    let files = Files::new();
    let mut file = files.open();
    file.set(&name("a"), &value(b"marker")).unwrap();
    file.save().unwrap();
    drop(file);
    let good = fs::read(&files.sealed).unwrap();
    for (at, words) in [(good.len() - 1, "restore it"), (good.len() - 60, "restore it"), (60, "or damaged")] {
        let mut bad = good.clone();
        // Base64 still where the header is: a sign that is none would be another mistake.
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        fs::write(&files.sealed, bad).unwrap();
        assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, words);
    }
    for bad in [&good[..good.len() - 20], b"", b"age-encryption.org/v1\n", b"marker"] {
        fs::write(&files.sealed, bad).unwrap();
        assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, "restore it");
    }
    let key: age::x25519::Recipient = Identity::read(&files.key).unwrap().recipient().parse().unwrap();
    for foreign in [
        "marker",
        r#"{"version":2,"secrets":{"a":{"version":1,"value":"marker"}}}"#,
        r#"{"version":1,"secrets":{"a":{"version":1,"value":{"marker":1}}}}"#,
        r#"{"version":1,"secrets":{"a":{"version":1,"base64":"marker!"}}}"#,
        r#"{"version":1,"secrets":{"a":{"version":1,"value":"marker"},"a":{"version":1,"value":"marker"}}}"#,
        r#"{"version":1,"secrets":{"a b":{"version":1,"value":"marker"}}}"#,
    ] {
        fs::write(&files.sealed, age::encrypt(&key, foreign.as_bytes()).unwrap()).unwrap();
        assert_failed(fetch_one(&files.source(), "a", None).await, Cause::BadAnswer, "not ours");
    }
    // What age's own tools make of the documented format is ours too.
    let plain = r#"{ "version": 1, "secrets": { "a": { "version": 7, "base64": "bWFya2Vy" } } }"#;
    fs::write(&files.sealed, age::encrypt(&key, plain.as_bytes()).unwrap()).unwrap();
    let found = fetch_one(&files.source(), "a", None).await;
    assert_value(&found, b"marker");
    assert_eq!(found.unwrap().version.as_str(), "7");
}

#[tokio::test]
async fn what_others_can_read_or_write_is_refused() {
    let files = Files::new();
    for mode in [0o644, 0o604, 0o660] {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, "chmod 600");
    }
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&files.sealed, Permissions::from_mode(0o620)).unwrap();
    assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, "chmod 600");
    fs::set_permissions(&files.sealed, Permissions::from_mode(0o600)).unwrap();
    for (key, problem) in [("", "is empty"), ("marker", "exactly one"), ("AGE-SECRET-KEY-1MARKER\nmarker", "exactly one")] {
        fs::write(&files.key, key).unwrap();
        assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, problem);
    }
    fs::remove_file(&files.key).unwrap();
    assert_failed(fetch_one(&files.source(), "a", None).await, Cause::Refused, "cannot read");
}

use std::{
    error::Error,
    sync::{Arc, Mutex},
};

use tracing::{Level, Subscriber};

use super::*;
use crate::{name::Version, secret::SecretValue};

const MARKER: &str = "mk-4eC39\"HqLy\\jWD/é-arjtT1zdp7dc";

/// Remembers each write.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|line| String::from_utf8(line.clone()).unwrap()).collect()
    }
}

fn redactor() -> Redactor {
    let redactor = Redactor::new().unwrap();
    let value = SecretValue::copy_from(MARKER.as_bytes()).unwrap();
    assert!(!redactor.learn(&"stripe/api-key".parse().unwrap(), &1.into(), &value).too_short);
    redactor
}

fn log(format: Format, filter: &str) -> (impl Subscriber + Send + Sync + 'static, Written) {
    let written = Written::default();
    (subscriber(format, filter, redactor(), written.clone()).unwrap(), written)
}

#[derive(Debug, thiserror::Error)]
#[error("the answer was {0}")]
struct Quoting(&'static str);

#[derive(Debug, thiserror::Error)]
#[error("reading {0}: {1}")]
struct Outer(&'static str, #[source] Quoting);

#[test]
fn no_line_at_any_level_holds_a_value() {
    macro_rules! every_way {
        ($level:expr) => {
            tracing::event!($level, "message {MARKER} end");
            tracing::event!($level, field = MARKER, "str");
            tracing::event!($level, field = ?MARKER, "debug");
            tracing::event!($level, field = %MARKER, "display");
            tracing::event!($level, field = ?MARKER.as_bytes().to_vec(), "bytes");
            tracing::event!($level, field = ?bytes::Bytes::from(MARKER), "a body");
            tracing::event!($level, field = ?Some(Outer("x", Quoting(MARKER))), "debug of an error");
            tracing::event!($level, error = &Outer("stripe", Quoting(MARKER)) as &dyn Error, "error chain");
            tracing::event!($level, field = %serde_json::json!({ "text": serde_json::json!({ "key": MARKER }).to_string() }), "nested");
            tracing::event!($level, "two lines\n{MARKER}\nend");
            tracing::span!($level, "span", key = MARKER, other = ?MARKER).in_scope(|| tracing::event!($level, "in a span"));
        };
    }
    for format in [Format::Human, Format::Json] {
        let (subscriber, written) = log(format, "trace");
        tracing::subscriber::with_default(subscriber, || {
            every_way!(Level::ERROR);
            every_way!(Level::WARN);
            every_way!(Level::INFO);
            every_way!(Level::DEBUG);
            every_way!(Level::TRACE);
        });
        let lines = written.lines();
        assert_eq!(lines.len(), 5 * 11, "each event is one write");
        for line in lines {
            assert!(line.contains("[redacted:stripe/api-key]"), "{format:?}: {line}");
            assert!(
                !line.contains("4eC39") && !line.contains("arjtT1zdp7dc") && !line.contains("101, 67, 51"),
                "{format:?}: {line}"
            );
            assert!(line.ends_with('\n') && !line.contains('\u{1b}'), "{format:?}: {line}");
            if format == Format::Json {
                serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            }
        }
    }
}

#[test]
fn the_filter_is_heeded_and_a_bad_one_refused() {
    let (subscriber, written) = log(Format::Human, "warn");
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("not this");
        tracing::warn!(source = "prod", "this");
    });
    let lines = written.lines();
    assert!(lines.len() == 1 && lines[0].contains("this") && lines[0].contains("prod"), "{lines:?}");
    let refused = subscriber_error("valetkey=loud=er");
    assert!(refused.starts_with("the log filter cannot be read"), "{refused}");
}

fn subscriber_error(filter: &str) -> String {
    match subscriber(Format::Json, filter, redactor(), io::sink()) {
        Ok(_) => panic!("{filter} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_panic_message_is_redacted() {
    let written = Written::default();
    install_panic_hook(redactor(), written.clone());
    let quiet = |f: fn()| assert!(panic::catch_unwind(f).is_err());
    quiet(|| panic!("took {MARKER}"));
    quiet(|| drop("?".parse::<u32>().map_err(|_| Outer("x", Quoting(MARKER))).unwrap().to_string()));
    quiet(|| panic!("{MARKER}"));
    quiet(|| panic::panic_any(7));
    drop(panic::take_hook());
    let lines: Vec<_> = written.lines().into_iter().filter(|line| line.contains("a_panic_message_is_redacted")).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].contains("took [redacted:stripe/api-key]\n"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("4eC39")), "{lines:?}");
}

#[test]
fn what_is_found_in_a_line_is_told_by_name_also_within_a_longer_value() {
    let redactor = Redactor::new().unwrap();
    // Names of their own: other tests of this process find things too.
    for (name, value) in [("told/decoy", "tOlD-4711-decoy"), ("told/around", "around-tOlD-4711-decoy-around")] {
        let value = SecretValue::copy_from(value.as_bytes()).unwrap();
        let _ = redactor.learn(&name.parse().unwrap(), &Version::from(3), &value);
    }
    let written = Written::default();
    let subscriber = subscriber(Format::Human, "info", redactor, written.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("took around-tOlD-4711-decoy-around");
        tracing::info!("and again around-tOlD-4711-decoy-around");
    });
    assert!(written.lines().iter().all(|line| line.contains("[redacted:told/around]") && !line.contains("4711")));
    let mut told: Vec<_> = take_found().into_iter().filter(|hit| hit.name.as_str().starts_with("told/")).collect();
    told.sort_by(|a, b| a.name.cmp(&b.name));
    let told: Vec<_> = told.iter().map(|hit| (hit.name.as_str(), hit.form.as_str(), hit.count)).collect();
    assert_eq!(told, [("told/around", "raw", 2), ("told/decoy", "raw", 2)]);
}

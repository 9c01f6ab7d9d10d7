//! The daemon's own log: every line goes through the redactor on its way out, and so does the message of a panic.
//!
//! Nothing in the daemon logs a value on purpose. This is for the day when a library does, in an error that quotes what it
//! could not parse.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, Write},
    panic::{self, PanicHookInfo},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
#[cfg(feature = "otel")]
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt};

use super::{Hit, Passed, Redactor};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people and the journal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Lines that held a value, of every log of this process.
static REDACTED: AtomicU64 = AtomicU64::new(0);

/// What was found in them, until somebody takes it. Told later: while a line is written, no other can be.
static FOUND: Mutex<Vec<Hit>> = Mutex::new(Vec::new());

/// Kinds of find that wait at most: more only where nobody takes them.
const MOST_FOUND: usize = 10_000;

/// Lines of the log, and messages of panics, that a value was taken out of since the process started.
pub fn redacted_lines() -> u64 {
    REDACTED.load(Relaxed)
}

/// What was found since the last call, by secret, version and form.
pub fn take_found() -> Vec<Hit> {
    std::mem::take(&mut *FOUND.lock().unwrap_or_else(PoisonError::into_inner))
}

fn count(hits: Vec<Hit>) {
    if hits.is_empty() {
        return;
    }
    REDACTED.fetch_add(1, Relaxed);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    for hit in hits {
        let same = |other: &&mut Hit| other.name == hit.name && other.version == hit.version && other.form == hit.form;
        let full = found.len() >= MOST_FOUND;
        match found.iter_mut().find(same) {
            Some(other) => other.count = other.count.saturating_add(hit.count),
            None if full => {}
            None => found.push(hit),
        }
    }
}

/// The level filter makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("the log filter cannot be read: {0}")]
pub struct BadFilter(#[from] tracing_subscriber::filter::ParseError);

/// The daemon's log: `filter` as in `info` or `valetkey=debug,warn`. No colours, whatever `writer` is.
pub fn subscriber<W>(
    format: Format,
    filter: &str,
    redactor: Redactor,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, BadFilter>
where
    W: Write + Send + 'static,
{
    let filter = EnvFilter::builder().parse(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(RedactingWriter::new(redactor, writer));
    Ok(match format {
        Format::Human => Box::new(lines.compact().finish()),
        Format::Json => Box::new(lines.json().flatten_event(true).with_current_span(false).finish()),
    })
}

/// The same, and beside it a layer that takes the spans. The log has none of them.
#[cfg(feature = "otel")]
pub fn subscriber_beside<W>(
    spans: impl Layer<Registry> + Send + Sync,
    format: Format,
    filter: &str,
    redactor: Redactor,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, BadFilter>
where
    W: Write + Send + 'static,
{
    let filter = EnvFilter::builder().parse(format!("{filter},{}=off", crate::measure::SPANS))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(RedactingWriter::new(redactor, writer));
    let subscriber = tracing_subscriber::registry().with(spans);
    Ok(match format {
        Format::Human => Box::new(subscriber.with(lines.compact().with_filter(filter))),
        Format::Json => Box::new(subscriber.with(lines.json().flatten_event(true).with_current_span(false).with_filter(filter))),
    })
}

/// Collects what is written for one event, and passes it on redacted, in one write.
pub struct RedactingWriter<W> {
    redactor: Redactor,
    inner: Mutex<W>,
}

impl<W: Write> RedactingWriter<W> {
    pub fn new(redactor: Redactor, inner: W) -> Self {
        Self { redactor, inner: Mutex::new(inner) }
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for RedactingWriter<W> {
    type Writer = Event<'a, W>;

    fn make_writer(&'a self) -> Self::Writer {
        Event { to: self, text: Vec::new() }
    }
}

/// The text of one event. It goes out when dropped: only then is it whole.
pub struct Event<'a, W: Write> {
    to: &'a RedactingWriter<W>,
    text: Vec<u8>,
}

impl<W: Write> Write for Event<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for Event<'_, W> {
    fn drop(&mut self) {
        let Passed { text: clean, hits } = self.to.redactor.redact_and_tell(&self.text);
        count(hits);
        let mut inner = self.to.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere to say that the log cannot be written.
        drop(inner.write_all(&clean).and_then(|()| inner.flush()));
        drop(inner);
        zeroize::Zeroize::zeroize(&mut self.text);
    }
}

/// Sends the message of any panic through the redactor to `to`: a panic on an unexpected answer likes to quote it.
///
/// It does not go through the log's subscriber, which may be what panicked.
pub fn install_panic_hook(redactor: Redactor, to: impl Write + Send + 'static) {
    let to = Mutex::new(to);
    panic::set_hook(Box::new(move |info| {
        let text = PanicText(info).to_string();
        let Passed { text: clean, hits } = redactor.redact_and_tell(text.as_bytes());
        count(hits);
        // Only other threads' panics wait here: one from within this hook ends the process at once.
        let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
        drop(to.write_all(&clean).and_then(|()| to.flush()));
    }));
}

struct PanicText<'a>(&'a PanicHookInfo<'a>);

impl fmt::Display for PanicText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = thread::current();
        write!(f, "thread '{}' panicked", thread.name().unwrap_or("unnamed"))?;
        if let Some(place) = self.0.location() {
            write!(f, " at {place}")?;
        }
        writeln!(f, ": {}", self.0.payload_as_str().unwrap_or("a payload that is not text"))?;
        // Taken only where RUST_BACKTRACE asks for it; it names functions, not what they were called with.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured { write!(f, "{trace}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;

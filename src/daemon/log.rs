//! The log: standard error, human or JSON, through the filter that knows the live values. And, where configuration names a collector,
//! spans beside it.

use std::io;

use tracing::Subscriber;

#[cfg(feature = "otel")]
use super::traces::{self, Traces};
#[cfg(feature = "otel")]
use crate::redact::log::subscriber_beside;
use crate::{
    config::{DaemonSettings, LogFormat},
    redact::{
        Redactor,
        log::{Format, install_panic_hook, subscriber},
    },
};

/// What goes on as long as the log does.
pub struct Log {
    #[cfg(feature = "otel")]
    _traces: Option<Traces>,
}

/// Starts logging. Panics are logged the same way: what a library puts into a panic's message may be a value.
pub fn start(settings: &DaemonSettings, redactor: &Redactor) -> Result<Log, String> {
    install_panic_hook(redactor.clone(), io::stderr());
    let (subscriber, log) = build(settings, redactor)?;
    // Fails only where one is set already: when tests run the daemon inside their own process.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(log)
}

type Built = (Box<dyn Subscriber + Send + Sync>, Log);

#[cfg(not(feature = "otel"))]
fn build(settings: &DaemonSettings, redactor: &Redactor) -> Result<Built, String> {
    Ok((lines(settings, redactor)?, Log {}))
}

#[cfg(feature = "otel")]
fn build(settings: &DaemonSettings, redactor: &Redactor) -> Result<Built, String> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok((lines(settings, redactor)?, Log { _traces: None })) };
    let (traces, layer) = traces::start(endpoint, redactor.clone()).map_err(|error| format!("otlp-endpoint: {error}"))?;
    let filter = filter(settings.log_level);
    let subscriber = subscriber_beside(layer, format(settings), &filter, redactor.clone(), io::stderr());
    Ok((subscriber.map_err(|bad| bad.to_string())?, Log { _traces: Some(traces) }))
}

fn lines(settings: &DaemonSettings, redactor: &Redactor) -> Result<Box<dyn Subscriber + Send + Sync>, String> {
    let filter = filter(settings.log_level);
    subscriber(format(settings), &filter, redactor.clone(), io::stderr()).map_err(|bad| bad.to_string())
}

fn format(settings: &DaemonSettings) -> Format {
    match settings.log_format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    }
}

/// Below `trace` the level is for this daemon, and libraries speak up from `warn` on: their debug output is for their authors. Not so
/// rustify, which calls each failed request an error and says no more about it: we say it all. At `trace` everything speaks.
fn filter(level: tracing::Level) -> String {
    match level {
        tracing::Level::TRACE => "trace".into(),
        tracing::Level::ERROR => "error,rustify=off".into(),
        level => format!("warn,rustify=off,valetkey={level}"),
    }
}

//! The log: standard error, human or JSON, through the filter that knows the live values.

use std::io;

use crate::{
    config::{DaemonSettings, LogFormat},
    redact::{
        Redactor,
        log::{Format, install_panic_hook, subscriber},
    },
};

/// Starts logging. Panics are logged the same way: what a library puts into a panic's message may be a value.
pub fn start(settings: &DaemonSettings, redactor: &Redactor) {
    let format = match settings.log_format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    install_panic_hook(redactor.clone(), io::stderr());
    match subscriber(format, &filter(settings.log_level), redactor.clone(), io::stderr()) {
        Ok(subscriber) => {
            // Fails only where one is set already: when tests run the daemon inside their own process.
            let _ = tracing::subscriber::set_global_default(subscriber);
        }
        Err(bad) => eprintln!("valetkeyd: no log: {bad}"),
    }
}

/// Below `trace` the level is for this daemon, and libraries speak up from `warn` on: their debug output is for their authors. At
/// `trace` everything speaks.
fn filter(level: tracing::Level) -> String {
    match level {
        tracing::Level::TRACE => "trace".into(),
        tracing::Level::ERROR => "error".into(),
        level => format!("warn,valetkey={level}"),
    }
}

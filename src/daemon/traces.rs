//! Spans for a collector, over OTLP. What stands in them are names and how it ended; all the same each text goes through the filter of
//! the log on its way out.

use std::{fmt, thread, time::Duration};

use opentelemetry::{KeyValue, Value, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData},
};
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use crate::{measure::SPANS, redact::Redactor};

/// What is on its way to the collector.
pub struct Traces(SdkTracerProvider);

/// For the last spans to reach the collector when the daemon stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// For the collector to take a batch. What it does not take in time is dropped.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = self.0.shutdown_with_timeout(FLUSH_WITHIN);
    }
}

/// Starts sending to a collector, on threads of its own: one that is slow or gone delays nobody.
pub fn start(endpoint: &str, redactor: Redactor) -> Result<(Traces, impl Layer<Registry> + Send + Sync + use<>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let exporter = {
        let _inside = runtime.enter();
        SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_WITHIN).build()
    };
    let exporter = Redacting { redactor, inner: exporter.map_err(|error| error.to_string())? };
    let drive = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name("valetkeyd-otlp".into()).spawn(drive).map_err(|error| error.to_string())?;
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "valetkeyd"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("valetkey"));
    let layer = layer.with_location(false).with_threads(false).with_level(false).with_target(false);
    // Spans of ours alone: no event, and nothing of a library.
    Ok((Traces(provider), layer.with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == SPANS))))
}

/// Cleans what goes out of all values that the daemon knows.
struct Redacting {
    redactor: Redactor,
    inner: SpanExporter,
}

impl fmt::Debug for Redacting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redacting")
    }
}

impl Redacting {
    fn clean(&self, attributes: &mut [KeyValue]) {
        for attribute in attributes {
            if let Value::String(text) = &attribute.value {
                attribute.value = self.redactor.redact_str(text.as_str()).into_owned().into();
            }
        }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Redacting {
    fn export(&self, mut batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        for span in &mut batch {
            self.clean(&mut span.attributes);
            for event in &mut span.events.events {
                event.name = self.redactor.redact_str(&event.name).into_owned().into();
                self.clean(&mut event.attributes);
            }
        }
        self.inner.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

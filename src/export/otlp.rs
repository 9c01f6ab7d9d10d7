//! To a collector, over OTLP and gRPC: each record is a log record, its fields are attributes.

use std::{
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use serde_json::Value;
use tonic::{
    Code, Request,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    Failed,
    record::{Gravity, Record},
};
use crate::{
    audit::{onward::Batch, read::parse_time},
    source::key_file,
};

/// For the collector to answer. The exporter's own bound is longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Where the collector is, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// https, or http on this host.
    pub endpoint: String,
    /// Holds a header on each line, `name: value`, for the daemon alone to read. Read for each batch, so that a new one needs no restart.
    pub headers_file: Option<PathBuf>,
    /// The authority that the collector's certificate is from; without it those of the system.
    pub ca_file: Option<PathBuf>,
}

/// A collector.
pub struct Otlp {
    client: LogsServiceClient<Channel>,
    headers_file: Option<PathBuf>,
    resource: Resource,
}

impl Otlp {
    /// Connects to nobody yet. To be called inside a runtime.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let unfit = |_| "the endpoint is no address of a collector, or its TLS cannot be set up".to_owned();
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone()).map_err(unfit)?;
        endpoint = endpoint.connect_timeout(CONNECT_WITHIN).timeout(ANSWER_WITHIN);
        if settings.endpoint.starts_with("https:") {
            endpoint = endpoint.tls_config(tls(settings)?).map_err(unfit)?;
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let attributes = [("service.name", "valetkeyd"), ("service.version", env!("CARGO_PKG_VERSION")), ("host.name", &host)];
        let attributes = attributes.map(|(key, text)| attribute(key, any_value::Value::StringValue(text.to_owned())));
        Ok(Self {
            client: LogsServiceClient::new(endpoint.connect_lazy()),
            headers_file: settings.headers_file.clone(),
            resource: Resource { attributes: attributes.into(), ..Resource::default() },
        })
    }

    /// Says how many records the collector rejects: it wants those not to be sent again.
    pub(super) async fn send(&mut self, batch: &Batch) -> Result<u64, Failed> {
        let scope = InstrumentationScope { name: "valetkey.audit".into(), ..InstrumentationScope::default() };
        let log_records = batch.records().map(|line| log_record(&Record::parse(line))).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }];
        let logs = ResourceLogs { resource: Some(self.resource.clone()), scope_logs, ..ResourceLogs::default() };
        let mut request = Request::new(ExportLogsServiceRequest { resource_logs: vec![logs] });
        if let Some(file) = &self.headers_file {
            *request.metadata_mut() = headers(file)?;
        }
        // What the collector says is not repeated: it may quote what it was sent.
        let answer = self.client.export(request).await.map_err(|status| Failed(explain(status.code()).into()))?;
        let rejected = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_log_records);
        Ok(u64::try_from(rejected).unwrap_or_default())
    }
}

fn tls(settings: &Settings) -> Result<ClientTlsConfig, String> {
    let Some(file) = &settings.ca_file else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let pem = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

fn headers(file: &Path) -> Result<MetadataMap, Failed> {
    let text = key_file::read(file).map_err(|error| Failed(format!("its headers: {error}")))?;
    let unfit = || Failed(format!("{} does not have a header on each line, as `authorization: Bearer TOKEN`", file.display()));
    let text = std::str::from_utf8(&text).map_err(|_| unfit())?;
    let mut headers = MetadataMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(unfit)?;
        let name: MetadataKey<Ascii> = name.trim().to_ascii_lowercase().parse().map_err(|_| unfit())?;
        let mut value: MetadataValue<Ascii> = value.trim().parse().map_err(|_| unfit())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn explain(code: Code) -> &'static str {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            "the collector cannot be reached, or does not answer in time"
        }
        Code::Unauthenticated | Code::PermissionDenied => "the collector refuses its credentials: see `headers-file`",
        Code::ResourceExhausted => "the collector has no room at the moment",
        Code::Unimplemented => "the collector takes no logs over gRPC: see its receivers",
        Code::InvalidArgument => "the collector finds the records malformed",
        _ => "the collector fails",
    }
}

fn log_record(record: &Record) -> LogRecord {
    let time = parse_time(record.text("time").as_bytes()).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = time.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default();
    let (severity, text) = match record.gravity() {
        Gravity::Routine => (SeverityNumber::Debug, "DEBUG"),
        Gravity::Done => (SeverityNumber::Info, "INFO"),
        Gravity::Warning => (SeverityNumber::Warn, "WARN"),
        Gravity::Failure => (SeverityNumber::Error, "ERROR"),
    };
    let value = |value: &Value| match (value, value.as_i64()) {
        (_, Some(number)) => any_value::Value::IntValue(number),
        (Value::Bool(flag), _) => any_value::Value::BoolValue(*flag),
        (Value::String(text), _) => any_value::Value::StringValue(text.clone()),
        (other, _) => any_value::Value::StringValue(other.to_string()),
    };
    LogRecord {
        time_unix_nano: nanos,
        // Observed when it was recorded: there is nobody in between.
        observed_time_unix_nano: nanos,
        severity_number: severity.into(),
        severity_text: text.into(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(record.sentence())) }),
        attributes: record.fields().map(|(field, json)| attribute(field, value(json))).collect(),
        event_name: format!("valetkey.{}", record.text("event")),
        ..LogRecord::default()
    }
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

//! To Amazon CloudWatch Logs: each record is a log event, its line of JSON the message, so that Logs Insights knows its fields.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    Failed,
    aws::{Api, Call, Service, domain, word},
};
use crate::{
    audit::{onward::Batch, read::parse_time},
    source::aws,
};

/// What a batch may span, in milliseconds, as the API reference of `PutLogEvents` has it.
const SPAN: u64 = 24 * 3600 * 1000;

/// Where events go.
#[derive(Debug, Clone)]
pub struct Settings {
    pub account: aws::Settings,
    pub group: String,
    pub stream: String,
    /// Make the group where it is not there? The stream is made in any case.
    pub create_group: bool,
}

/// A log stream.
pub struct CloudWatchLogs {
    api: Api,
    group: String,
    stream: String,
    create_group: bool,
}

struct Event {
    millis: u64,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rejected {
    too_new_log_event_start_index: Option<u64>,
    too_old_log_event_end_index: Option<u64>,
    expired_log_event_end_index: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    rejected_log_events_info: Rejected,
    #[serde(rename = "__type")]
    error: String,
}

impl CloudWatchLogs {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let Settings { account, group, stream, create_group } = settings;
        let region = &account.region;
        let own = || format!("https://logs.{region}.{}", domain(region));
        let endpoint = account.endpoint.clone().unwrap_or_else(own);
        Ok(Self { api: Api::new(account, Service::Logs, endpoint)?, group, stream, create_group })
    }

    /// Says how many records are too old or too new to be taken.
    pub(super) async fn send(&mut self, batch: &Batch) -> Result<u64, Failed> {
        let mut refused = 0;
        for part in parts(batch.records()) {
            refused += self.put(&part).await?;
        }
        Ok(refused)
    }

    async fn put(&self, events: &[Event]) -> Result<u64, Failed> {
        let log_events: Vec<_> =
            events.iter().map(|event| json!({ "timestamp": event.millis, "message": event.message })).collect();
        let body = json!({ "logGroupName": self.group, "logStreamName": self.stream, "logEvents": log_events });
        let mut answer = self.call("PutLogEvents", &body).await?;
        if answer.as_ref().is_err_and(|error| error == "ResourceNotFoundException") {
            self.create().await?;
            answer = self.call("PutLogEvents", &body).await?;
        }
        let Rejected {
            too_new_log_event_start_index: new,
            too_old_log_event_end_index: old,
            expired_log_event_end_index: expired,
        } = answer.map_err(|error| said("PutLogEvents", &error))?;
        let all = events.len() as u64;
        let from_start = old.unwrap_or_default().max(expired.unwrap_or_default());
        Ok((from_start + new.map_or(0, |new| all.saturating_sub(new))).min(all))
    }

    async fn create(&self) -> Result<(), Failed> {
        let group = json!({ "logGroupName": self.group });
        let stream = json!({ "logGroupName": self.group, "logStreamName": self.stream });
        let calls = [("CreateLogGroup", group, self.create_group), ("CreateLogStream", stream, true)];
        for (operation, body, _) in calls.iter().filter(|(.., wanted)| *wanted) {
            match self.call(operation, body).await? {
                Err(error) if error != "ResourceAlreadyExistsException" => return Err(said(operation, &error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The inner error is AWS's word for it.
    async fn call(&self, operation: &str, body: &serde_json::Value) -> Result<Result<Rejected, String>, Failed> {
        let target = format!("Logs_20140328.{operation}");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", &target)];
        let body = Bytes::from(body.to_string());
        let (status, body) = self.api.call(Call { method: Method::POST, path: "/", headers: &headers, body }).await?;
        let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
        Ok(match (status, word(&answer.error)) {
            (StatusCode::OK, _) => Ok(answer.rejected_log_events_info),
            (_, Some(error)) => Err(error.to_owned()),
            (status, None) => Err(format!("HTTP {}", status.as_u16())),
        })
    }
}

fn said(operation: &str, error: &str) -> Failed {
    let hint = if error == "ResourceNotFoundException" { "; make the log group, or set create-group = true" } else { "" };
    Failed(format!("CloudWatch Logs answers {error} to {operation}{hint}"))
}

/// A batch in parts that may be sent at once: within the span, and by time where the host's clock was set back.
fn parts<'a>(records: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<Event>> {
    let mut parts: Vec<Vec<Event>> = Vec::new();
    let (mut from, mut to) = (0, 0);
    for line in records {
        let time = super::record::Record::parse(line);
        let time = parse_time(time.text("time").as_bytes()).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let millis = time.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default();
        let event = Event { millis, message: String::from_utf8_lossy(line).into_owned() };
        match parts.last_mut() {
            Some(part) if millis.max(to) - millis.min(from) < SPAN => {
                part.push(event);
                (from, to) = (from.min(millis), to.max(millis));
            }
            _ => {
                parts.push(vec![event]);
                (from, to) = (millis, millis);
            }
        }
    }
    parts.iter_mut().for_each(|part| part.sort_by_key(|event| event.millis));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_sent_in_parts_that_span_less_than_a_day() {
        let line = |time: &str| format!(r#"{{"time":"{time}Z"}}"#).into_bytes();
        // The clock was set back in the middle, and the daemon stood still for two days.
        let times = [
            "2026-01-01T00:00:00.000000",
            "2026-01-01T23:59:59.999000",
            "2026-01-01T12:00:00.000000",
            "2026-01-02T00:00:00.000000",
            "2026-01-03T00:00:00.000000",
            "2026-01-02T00:00:00.001000",
        ];
        let lines = times.map(line);
        let parts = parts(lines.iter().map(Vec::as_slice));
        let told: Vec<Vec<_>> =
            parts.iter().map(|part| part.iter().map(|event| event.message[9..32].to_owned()).collect()).collect();
        let cut = |at: usize| times[at][..23].to_owned();
        assert_eq!(told, [vec![cut(0), cut(2), cut(1)], vec![cut(3)], vec![cut(5), cut(4)]]);
        for part in &parts {
            assert!(part.is_sorted_by_key(|event| event.millis));
            assert!(part.last().unwrap().millis - part[0].millis < SPAN);
        }
    }
}

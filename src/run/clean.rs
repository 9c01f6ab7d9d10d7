//! The filter that everything passes which the tool writes.

use std::collections::HashMap;

use super::{
    process::{Channel, Filter, Verdict},
    session::Reporter,
};
use crate::{
    proto::v1,
    redact::{Form, Hit, LineTooLong, Passed, Redactor, Stream, Wanted},
};

/// Takes values out, and reports each.
pub struct Cleaner {
    redactor: Redactor,
    shapes: bool,
    /// What is held of one channel is not joined with another.
    streams: HashMap<Channel, Stream>,
    reporter: Reporter,
    /// Policy stops the tool when something is found.
    stops: bool,
    why: Option<(&'static str, &'static str)>,
}

const FOUND: (&str, &str) =
    ("the tool wrote a secret, and is stopped for it", "on-redaction = \"stop\" in its policy; the daemon's log says which");
const TOO_LONG: (&str, &str) = (
    "the tool wrote a line too long to be looked through, and is stopped for it",
    "redact = false in its policy lets anything pass",
);

impl Cleaner {
    pub fn new(redactor: Redactor, shapes: bool, stops: bool, reporter: Reporter) -> Self {
        Self { redactor, shapes, streams: HashMap::new(), reporter, stops, why: None }
    }

    /// What [`Verdict::Stop`] was for, and what can be done about it.
    pub fn why_it_stops(&self) -> Option<(&'static str, &'static str)> {
        self.why
    }

    /// Passes on what may be, and reports what was found. Where the tool is to be stopped, nothing is passed on.
    fn judge(&mut self, channel: Channel, passed: Result<Passed<'_>, LineTooLong>, out: &mut Vec<u8>) -> Verdict {
        let Ok(Passed { text, hits }) = passed else {
            self.why = Some(TOO_LONG);
            return Verdict::Stop;
        };
        let stops = self.stops && !hits.is_empty();
        hits.into_iter().for_each(|hit| self.reporter.report(report(hit, channel, stops)));
        if stops {
            self.why = Some(FOUND);
            return Verdict::Stop;
        }
        out.extend_from_slice(&text);
        Verdict::Pass
    }
}

impl Filter for Cleaner {
    fn push(&mut self, channel: Channel, bytes: &[u8], out: &mut Vec<u8>) -> Verdict {
        let (redactor, wanted) = (&self.redactor, Wanted { shapes: self.shapes, ..Wanted::default() });
        let mut stream = self.streams.remove(&channel).unwrap_or_else(|| redactor.stream(wanted));
        let verdict = self.judge(channel, stream.push(bytes), out);
        self.streams.insert(channel, stream);
        verdict
    }

    fn finish(&mut self, channel: Channel, out: &mut Vec<u8>) -> Verdict {
        let Some(mut stream) = self.streams.remove(&channel) else { return Verdict::Pass };
        self.judge(channel, stream.finish(), out)
    }
}

fn report(Hit { name, version, form, count, .. }: Hit, channel: Channel, stopped: bool) -> v1::Redacted {
    let channel = match channel {
        Channel::Stdout => v1::Channel::Stdout,
        Channel::Stderr => v1::Channel::Stderr,
        Channel::Terminal => v1::Channel::Terminal,
    };
    // A shape is no secret of anybody's, and has no name.
    let name = if form == Form::Shape { String::new() } else { name.to_string() };
    let version = version.map(|version| version.to_string()).unwrap_or_default();
    v1::Redacted { name, version, channel: channel.into(), encoding: form.as_str().into(), count, stopped, line: 0 }
}

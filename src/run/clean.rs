//! The filter that everything passes which the tool writes.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::{
    process::{Channel, Filter, Verdict},
    session::Reporter,
};
use crate::redact::Redactor;

/// Takes values out, and reports each.
pub struct Cleaner {
    redactor: Redactor,
    lines: HashMap<Channel, Zeroizing<Vec<u8>>>,
    reporter: Reporter,
    stops: bool,
}

impl Cleaner {
    pub fn new(redactor: Redactor, reporter: Reporter, stops: bool) -> Self {
        Self { redactor, lines: HashMap::new(), reporter, stops }
    }
}

impl Filter for Cleaner {
    fn push(&mut self, channel: Channel, bytes: &[u8], out: &mut Vec<u8>) -> Verdict {
        let line = self.lines.entry(channel).or_default();
        line.extend_from_slice(bytes);
        let end = line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        out.extend_from_slice(&self.redactor.redact(&line[..end]));
        line.drain(..end);
        let _ = (&self.reporter, self.stops);
        Verdict::Pass
    }

    fn finish(&mut self, channel: Channel, out: &mut Vec<u8>) -> Verdict {
        let line = self.lines.remove(&channel).unwrap_or_default();
        out.extend_from_slice(&self.redactor.redact(&line));
        Verdict::Pass
    }
}

//! A record as others show it: its fields, how grave it is, and a sentence.

use serde_json::{Map, Value};

/// One record, parsed.
pub struct Record(Map<String, Value>);

/// How grave a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// The log about itself.
    Routine,
    Done,
    /// Refused, or found where it should not be.
    Warning,
    Failure,
}

impl Record {
    pub fn parse(line: &[u8]) -> Self {
        let unreadable = || Map::from_iter([("detail".to_owned(), Value::from(String::from_utf8_lossy(line)))]);
        Self(serde_json::from_slice(line).unwrap_or_else(|_| unreadable()))
    }

    /// Every field and its text.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A field's text; empty where there is none.
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn gravity(&self) -> Gravity {
        let warns = matches!(self.text("event"), "redaction.found" | "alarm.raised" | "audit.recovered");
        match self.text("outcome") {
            "failure" => Gravity::Failure,
            "denied" => Gravity::Warning,
            _ if warns => Gravity::Warning,
            _ if self.text("event").starts_with("audit.") => Gravity::Routine,
            _ => Gravity::Done,
        }
    }

    /// For people. Not stable: programs use the fields.
    pub fn sentence(&self) -> String {
        let (tool, secret) = (self.text("tool"), self.secret());
        let tool = if tool.is_empty() { "a caller" } else { tool };
        let because = |sentence: String| match self.text("reason") {
            "" => sentence,
            reason => format!("{sentence}: {reason}"),
        };
        match self.text("event") {
            "session.opened" => format!("{tool} opened a session"),
            "session.refused" => because(format!("{tool} was refused a session")),
            "session.ended" => because(format!("a session of {tool} ended")),
            "secret.handed-out" => format!("{secret} was handed to {tool}"),
            "secret.denied" => because(format!("{secret} was denied to {tool}")),
            "secret.acknowledged" => format!("{tool} uses {secret}"),
            "redaction.found" => format!("{secret} was found in {} of {tool}", self.text("channel")),
            "admin.action" => format!("an operator did: {}", self.text("action")),
            "alarm.raised" => format!("alarm: {}", self.text("action")),
            event => because(self.generic(event)),
        }
    }

    fn secret(&self) -> String {
        match (self.text("secret"), self.text("version")) {
            ("", _) => "a secret".into(),
            (secret, "") => secret.into(),
            (secret, version) => format!("{secret} (version {version})"),
        }
    }

    fn generic(&self, event: &str) -> String {
        const TELLING: [&str; 6] = ["tool", "secret", "version", "action", "file", "detail"];
        let mut words = vec![event.to_owned()];
        words.extend((self.text("outcome") != "success").then(|| self.text("outcome").to_owned()));
        words.extend(TELLING.iter().map(|field| self.text(field)).filter(|text| !text.is_empty()).map(str::to_owned));
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_in_words() {
        for (line, sentence, gravity) in [
            (
                r#"{"event":"secret.handed-out","outcome":"success","tool":"github","secret":"g/t","version":"7"}"#,
                "g/t (version 7) was handed to github",
                Gravity::Done,
            ),
            (
                r#"{"event":"session.refused","outcome":"denied","reason":"TOOL_NOT_ALLOWED"}"#,
                "a caller was refused a session: TOOL_NOT_ALLOWED",
                Gravity::Warning,
            ),
            (r#"{"event":"audit.checkpoint","outcome":"success"}"#, "audit.checkpoint", Gravity::Routine),
            (r#"{"event":"policy.refused","outcome":"failure"}"#, "policy.refused failure", Gravity::Failure),
        ] {
            let record = Record::parse(line.as_bytes());
            assert_eq!((record.sentence().as_str(), record.gravity()), (sentence, gravity));
        }
    }
}

//! Usage as a file has it: JSON with a version, made from an audit log.

use serde::{Deserialize, Serialize};

use super::{
    facts::{Usage, UseFact},
    moment::Moment,
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    schema_version: u32,
    since: Moment,
    until: Moment,
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tool: String,
    secret: String,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Moment>,
    #[serde(default)]
    denied: u64,
}

impl Usage {
    /// The name of the form.
    pub const SCHEMA: &'static str = "valetkey.usage";

    /// Reads a file. What is wrong in it is said without its text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |error: &serde_json::Error| format!("line {}, column {}: not usage of this form", error.line(), error.column());
        let File { schema, schema_version, since, until, entries } = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        if schema != Self::SCHEMA || schema_version != 1 {
            return Err(format!("not {} of version 1", Self::SCHEMA));
        }
        let entry = |(number, entry): (usize, Entry)| {
            let bad = |bad: crate::name::BadName| format!("entry {}: {bad}", number + 1);
            let Entry { tool, secret, count, first, last, denied } = entry;
            Ok(UseFact { tool: tool.parse().map_err(bad)?, secret: secret.parse().map_err(bad)?, count, first, last, denied })
        };
        Ok(Self { since, until, entries: entries.into_iter().enumerate().map(entry).collect::<Result<_, String>>()? })
    }

    /// The same as a file has it.
    pub fn form(&self) -> impl Serialize {
        let entry = |entry: &UseFact| {
            let UseFact { tool, secret, count, first, last, denied } = entry;
            let (tool, secret) = (tool.to_string(), secret.to_string());
            Entry { tool, secret, count: *count, first: *first, last: *last, denied: *denied }
        };
        let entries = self.entries.iter().map(entry).collect();
        File { schema: Self::SCHEMA.into(), schema_version: 1, since: self.since, until: self.until, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_usage_is_read() {
        let good = r#"{"schema":"valetkey.usage","schema_version":1,"since":"2027-01-01T00:00:00Z","until":"2027-02-01T00:00:00Z",
            "entries":[{"tool":"a","secret":"x/y","count":3,"first":null,"last":"2027-01-31T00:00:00Z"}]}"#;
        let usage = Usage::parse(good).unwrap();
        assert_eq!((usage.entries[0].count, usage.entries[0].denied), (3, 0));
        assert_eq!(Usage::parse(&serde_json::to_string(&usage.form()).unwrap()).unwrap(), usage);
        for (from, to) in
            [("\"schema_version\":1", "\"schema_version\":2"), ("valetkey.usage", "other"), ("x/y", "x y"), ("count", "n")]
        {
            assert!(Usage::parse(&good.replace(from, to)).is_err(), "{to}");
        }
    }
}

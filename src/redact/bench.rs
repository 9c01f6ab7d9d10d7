//! What `benches/redact.rs` measures by: the engine under the redactor. Not for use.

use std::io;

use super::{Form, engine, variants};

/// Every form of the value that is looked for, each once.
pub fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    let _ = variants::each(value, &mut |_, form| forms.push(form.to_vec()));
    forms.sort();
    forms.dedup();
    forms
}

/// Looks for patterns as they are, of at least eight bytes.
pub struct Scanner {
    keys: engine::Keys,
    engine: engine::Engine,
}

impl Scanner {
    pub fn of(patterns: &[Vec<u8>]) -> io::Result<Self> {
        let keys = engine::Keys::random()?;
        let (mut crowd, mut prints) = (engine::Crowd::default(), engine::Prints::default());
        patterns.iter().for_each(|pattern| keys.print(Form::Raw, pattern, &mut crowd, &mut prints));
        let name = "bench".parse().map_err(io::Error::other)?;
        let table = engine::Table::build([(engine::Owner { id: 0, name, version: 1.into() }, prints)]);
        Ok(Self { keys, engine: engine::Engine::default().with(table) })
    }

    /// How many bytes of the text are part of a find.
    pub fn covered(&self, text: &[u8]) -> usize {
        let mut found = Vec::new();
        self.engine.scan(&self.keys, text, &mut found);
        found.sort_unstable_by_key(|one| one.range.start);
        let mut end = 0;
        let new = |one: engine::Found| {
            let from = one.range.start.max(end);
            end = end.max(one.range.end);
            end - from.min(end)
        };
        found.into_iter().map(new).sum()
    }

    /// How many finds there are.
    pub fn count(&self, text: &[u8]) -> usize {
        let mut found = Vec::new();
        self.engine.scan(&self.keys, text, &mut found);
        found.len()
    }
}

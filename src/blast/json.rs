//! JSON that people can compare: each node, line and finding on a line of its own, and what is in it beside each other.

use std::io::{Result, Write};

use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

/// Down to this depth each item of a list, and each field of an object, has a line of its own: lists lie within `nodes`, so deeper.
const ITEMS: usize = 3;
const FIELDS: usize = 2;

#[derive(Default)]
struct Lines {
    depth: usize,
    /// Has what is open now anything in it?
    filled: bool,
}

impl Lines {
    fn open<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn value<W: Write + ?Sized>(&self, out: &mut W, first: bool, lines: usize) -> Result<()> {
        match (first, self.depth <= lines) {
            (true, false) => Ok(()),
            (false, false) => out.write_all(b", "),
            (first, true) => {
                out.write_all(if first { b"\n" } else { b",\n" })?;
                (0..self.depth).try_for_each(|_| out.write_all(b" "))
            }
        }
    }

    fn close<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8], lines: usize) -> Result<()> {
        if self.filled && self.depth <= lines {
            out.write_all(b"\n")?;
            (1..self.depth).try_for_each(|_| out.write_all(b" "))?;
        }
        self.depth -= 1;
        self.filled = true;
        out.write_all(bracket)
    }
}

impl Formatter for Lines {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> Result<()> {
        self.open(out, b"[")
    }
    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> Result<()> {
        self.close(out, b"]", ITEMS)
    }
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> Result<()> {
        self.value(out, first, ITEMS)
    }
    fn end_array_value<W: Write + ?Sized>(&mut self, _: &mut W) -> Result<()> {
        self.filled = true;
        Ok(())
    }
    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> Result<()> {
        self.open(out, b"{")
    }
    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> Result<()> {
        self.close(out, b"}", FIELDS)
    }
    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> Result<()> {
        self.value(out, first, FIELDS)
    }
    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> Result<()> {
        out.write_all(b": ")
    }
    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> Result<()> {
        self.filled = true;
        Ok(())
    }
}

/// Writes it, and a line end.
pub fn write_json(mut out: impl Write, value: &impl Serialize) -> Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut out, Lines::default()))?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_node_is_a_line() {
        let value = json!({ "a": [], "edges": [{ "from": "x", "to": ["y", {}] }, { "n": 1 }], "nodes": { "tools": [{ "id": 1, "b": null }] } });
        let mut text = Vec::new();
        write_json(&mut text, &value).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        let expected = "{\n \"a\": [],\n \"edges\": [\n  {\"from\": \"x\", \"to\": [\"y\", {}]},\n  {\"n\": 1}\n ],\n \
                        \"nodes\": {\n  \"tools\": [\n   {\"b\": null, \"id\": 1}\n  ]\n }\n}\n";
        assert_eq!(text, expected);
    }
}

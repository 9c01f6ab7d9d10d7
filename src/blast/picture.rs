//! Pictures: DOT, Mermaid, SVG, and a graph for BloodHound. Each shows the tools, secrets, sources and systems of a document; a picture
//! of too many things is none, so the worst are shown, and it says so.

mod bloodhound;
mod drawing;
mod vector;

use std::fmt::Write;

pub use bloodhound::opengraph;
pub use vector::{escaped, svg};

use super::document::{Document, NodeId};
use drawing::Drawing;

/// DOT, for Graphviz. It has no limit of its own, so neither has this.
pub fn dot(document: &Document<'_>) -> String {
    let drawing = Drawing::whole(document);
    let mut text = String::from("digraph blast_radius {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n");
    for (id, label) in &drawing.nodes {
        let shape = match id {
            NodeId::Tool(_) => "box",
            NodeId::Secret(_) => "ellipse",
            NodeId::Source(_) => "cylinder",
            _ => "hexagon",
        };
        let _ = writeln!(text, "  {} [label={}, shape={shape}];", quoted(&id.to_string()), quoted(label));
    }
    for line in &drawing.lines {
        let style = if line.dashed { ", style=dashed" } else { "" };
        let (from, to, label) = (quoted(&line.from.to_string()), quoted(&line.to.to_string()), quoted(&line.label));
        let _ = writeln!(text, "  {from} -> {to} [label={label}{style}];");
    }
    text + "}\n"
}

/// A double-quoted string of the DOT language: only `"` is escaped there, and a backslash begins an escape in labels.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Where Mermaid's renderers stop by default (`maxEdges`, `maxTextSize`).
const MOST_EDGES: usize = 500;
const MOST_CHARACTERS: usize = 50_000;

/// A flowchart for Mermaid, within its limits.
pub fn mermaid(document: &Document<'_>) -> String {
    // A tool that is worth a picture has a line at least.
    let mut tools = document.nodes.tools.len().min(MOST_EDGES);
    loop {
        let drawing = Drawing::of_worst(document, tools);
        let text = flowchart(&drawing, tools, document.nodes.tools.len());
        if tools == 0 || (drawing.lines.len() <= MOST_EDGES && text.chars().count() < MOST_CHARACTERS) {
            return text;
        }
        // Down to what surely fits in a few steps, whatever the tools have.
        tools = if drawing.lines.len() > 2 * MOST_EDGES { tools * MOST_EDGES / drawing.lines.len() } else { tools * 9 / 10 };
    }
}

fn flowchart(drawing: &Drawing<'_>, shown: usize, all: usize) -> String {
    let mut text = String::from("flowchart LR\n");
    if shown < all {
        let _ = writeln!(text, "  %% the worst {shown} of {all} tools");
    }
    // Ids of Mermaid are words, so nodes are numbered in their order.
    let mut numbers = std::collections::HashMap::new();
    for (number, (id, label)) in drawing.nodes.iter().enumerate() {
        numbers.insert(*id, number);
        let (open, close) = match id {
            NodeId::Tool(_) => ("[", "]"),
            NodeId::Secret(_) => ("([", "])"),
            NodeId::Source(_) => ("[(", ")]"),
            _ => ("{{", "}}"),
        };
        let _ = writeln!(text, "  n{number}{open}\"{}\"{close}", entities(label));
    }
    for line in &drawing.lines {
        let arrow = if line.dashed { "-.->" } else { "-->" };
        if let (Some(from), Some(to)) = (numbers.get(&line.from), numbers.get(&line.to)) {
            let _ = writeln!(text, "  n{from} {arrow}|\"{}\"| n{to}", entities(&line.label));
        }
    }
    text
}

/// Mermaid's own escapes: a number between `#` and `;`. Everything that is not plainly a part of a name is escaped.
fn entities(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || matches!(c, ' ' | '.' | '/' | '-' | '_' | ',' | '@') => escaped.push(c),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => _ = write!(escaped, "#{};", u32::from(c)),
        }
    }
    escaped
}

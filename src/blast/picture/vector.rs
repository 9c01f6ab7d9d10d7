//! SVG: four columns, from tools to systems. It holds no script, loads nothing, and follows the reader's colour scheme.

use std::{collections::HashMap, fmt::Write};

use super::drawing::Drawing;
use crate::blast::document::{Document, NodeId};

/// More tools than this make no picture.
const MOST_TOOLS: usize = 40;
const WIDTH: usize = 260;
const GAP: usize = 140;
const HEIGHT: usize = 30;
const ROW: usize = 44;
const MARGIN: usize = 24;
const TOP: usize = 56;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1b1b1f}.t{fill:#dbe7ff;stroke:#2f5fc4}.s{fill:#fff1cc;stroke:#9a6b00}\
.o{fill:#e9e4f7;stroke:#6a4fb3}.y{fill:#ffdedb;stroke:#b3261e}.l{fill:none;stroke:#777;stroke-width:1.3}.d{stroke-dasharray:4 3}\
.e{font-size:11px;fill:#555}.b{fill:#fff}@media (prefers-color-scheme:dark){text{fill:#ececf1}.t{fill:#22355e}.s{fill:#4a3a10}\
.o{fill:#372c55}.y{fill:#5c1d19}.l{stroke:#999}.e{fill:#bbb}.b{fill:#17171b}}";

/// A picture of the document, the worst tools of it where there are many.
pub fn svg(document: &Document<'_>) -> String {
    let all = document.nodes.tools.len();
    let drawing = Drawing::of_worst(document, MOST_TOOLS);
    let mut columns: [Vec<(NodeId<'_>, &str)>; 4] = Default::default();
    for (id, label) in &drawing.nodes {
        columns[column(*id)].push((*id, label));
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or_default();
    let (width, height) = (2 * MARGIN + 4 * WIDTH + 3 * GAP, TOP + rows * ROW + MARGIN);
    let mut places = HashMap::new();
    for (number, column) in columns.iter().enumerate() {
        for (row, (id, _)) in column.iter().enumerate() {
            places.insert(*id, (MARGIN + number * (WIDTH + GAP), TOP + row * ROW));
        }
    }
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Blast radius\"><style>{STYLE}</style><rect class=\"b\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    for (number, title) in ["Tools", "Secrets", "Sources", "Systems"].into_iter().enumerate() {
        let _ = writeln!(text, "<text x=\"{}\" y=\"{}\">{title}</text>", MARGIN + number * (WIDTH + GAP), TOP - 14);
    }
    if all > MOST_TOOLS {
        let _ = writeln!(text, "<text class=\"e\" x=\"{MARGIN}\" y=\"18\">The worst {MOST_TOOLS} of {all} tools</text>");
    }
    for line in &drawing.lines {
        let (Some(from), Some(to)) = (places.get(&line.from), places.get(&line.to)) else { continue };
        curve(&mut text, *from, *to, &line.label, line.dashed);
    }
    for (id, label) in columns.iter().flatten() {
        let Some((x, y)) = places.get(id) else { continue };
        let class = ["t", "s", "o", "y"][column(*id)];
        let _ = writeln!(
            text,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"5\"/>\
             <text x=\"{}\" y=\"{}\">{}</text></g>",
            escaped(&id.to_string()),
            x + 10,
            y + 20,
            escaped(&shortened(label))
        );
    }
    text + "</svg>\n"
}

fn column(id: NodeId<'_>) -> usize {
    match id {
        NodeId::Secret(_) => 1,
        NodeId::Source(_) => 2,
        NodeId::System(_) => 3,
        _ => 0,
    }
}

fn curve(text: &mut String, from: (usize, usize), to: (usize, usize), label: &str, dashed: bool) {
    let (x1, y1, x2, y2) = (from.0 + WIDTH, from.1 + HEIGHT / 2, to.0, to.1 + HEIGHT / 2);
    let (near, far) = (x1 + GAP / 2, x2.saturating_sub(GAP / 2));
    let class = if dashed { "l d" } else { "l" };
    let label = escaped(label);
    let _ = writeln!(
        text,
        "<g><title>{label}</title><path class=\"{class}\" d=\"M{x1} {y1}C{near} {y1} {far} {y2} {x2} {y2}\"/>\
         <text class=\"e\" x=\"{}\" y=\"{}\">{label}</text></g>",
        x2.saturating_sub(60),
        y2.saturating_sub(4)
    );
}

fn shortened(label: &str) -> String {
    const MOST: usize = 32;
    if label.chars().count() <= MOST {
        return label.into();
    }
    label.chars().take(MOST - 1).chain(['\u{2026}']).collect()
}

/// For text and quoted attributes, of XML and of HTML. Control characters may not stand there at all.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if crate::name::is_unprintable(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

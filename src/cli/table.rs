//! Listings as people read them: columns under their headings, each as wide as it must be.

use std::fmt::Write;

use crate::name::is_unprintable;

/// Lays out rows under headings. An empty listing says so.
pub fn layout(headings: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return "none\n".into();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).chain([headings[column].len()]).max();
    let widths: Vec<usize> = (0..headings.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(row, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    };
    line(&mut headings.iter().copied());
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    text
}

/// A few words as one cell; a dash where there are none.
pub fn cell(words: &[String]) -> String {
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

/// Text as one cell; a dash where there is none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// Prints what came over the wire without letting it steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for a text of several lines.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "long cell".into()], vec!["bbb".into(), "c".into()]];
        assert_eq!(layout(&["ONE", "TWO"], &rows), "ONE  TWO\na    long cell\nbbb  c\n");
        assert_eq!(layout(&["ONE"], &[]), "none\n");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}

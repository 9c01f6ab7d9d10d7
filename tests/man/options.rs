//! The man pages of the configuration, made of the example that shows every option: its comments say what each is for, and
//! `tests/config/example.rs` holds it to the code.

use super::roff::{Page, bold, escaped};

/// A table of the example, with all that is said of it.
#[derive(Default)]
struct Table {
    header: String,
    about: Vec<Part>,
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Code(String),
    Option { key: String, line: String, text: String, default: bool },
}

/// Writes every table of which something is said. Those without a comment are there to make the example whole.
pub fn write(page: &mut Page, example: &str) {
    for table in tables(example) {
        let told = !table.about.is_empty() || table.parts.iter().any(|part| !matches!(part, Part::Code(_)));
        if !told || table.header.is_empty() {
            continue;
        }
        page.subsection(&table.header);
        table.about.iter().chain(&table.parts).for_each(|part| match part {
            Part::Text(text) => page.text(text),
            Part::Code(code) => page.code(code),
            Part::Option { key, line, text, default } => {
                let value = line.strip_prefix(key.as_str()).unwrap_or(line);
                let default = if *default { " This is the default." } else { "" };
                page.item(&format!("{}{}", bold(key), escaped(value)), &format!("{text}{default}"));
            }
        });
    }
}

/// The keys that stand as options in a page that was written so.
pub fn terms(page: &str) -> Vec<String> {
    let lines: Vec<_> = page.lines().collect();
    let terms =
        lines.windows(2).filter(|pair| pair[0] == ".TP").filter_map(|pair| pair[1].strip_prefix("\\fB")?.split_once("\\fR"));
    terms.map(|(key, _)| key.replace("\\-", "-")).collect()
}

fn tables(example: &str) -> Vec<Table> {
    let mut tables = vec![Table::default()];
    let mut comment: Vec<&str> = Vec::new();
    let mut lines = example.lines();
    while let Some(line) = lines.next() {
        let table = tables.last_mut().unwrap();
        if let Some(option) = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())) {
            table.option(&mut comment, option, true);
        } else if let Some(said) = line.strip_prefix('#') {
            comment.push(said.strip_prefix(' ').unwrap_or(said));
        } else if line.starts_with('[') {
            tables.push(Table { header: line.into(), about: parts(&std::mem::take(&mut comment)), parts: Vec::new() });
        } else if line.is_empty() {
            table.parts.extend(parts(&std::mem::take(&mut comment)));
        } else {
            let mut whole = line.to_owned();
            // A list over several lines.
            while whole.matches('[').count() > whole.matches(']').count() {
                whole += &format!(" {}", lines.next().unwrap().trim());
            }
            table.option(&mut comment, &whole, false);
        }
    }
    let last = parts(&comment);
    tables.last_mut().unwrap().parts.extend(last);
    tables
}

impl Table {
    fn option(&mut self, comment: &mut Vec<&str>, line: &str, commented: bool) {
        let mut said = parts(&std::mem::take(comment));
        // What ends in a piece of configuration is of that piece.
        let others = said.iter().rposition(|part| matches!(part, Part::Code(_))).map_or(0, |last| last + 1);
        self.parts.extend(said.drain(..others));
        let text = said.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
        let text = text.collect::<Vec<_>>().join(" ");
        if text.is_empty() && !commented {
            match self.parts.last_mut() {
                Some(Part::Code(code)) => *code += &format!("\n{line}"),
                _ => self.parts.push(Part::Code(line.into())),
            }
            return;
        }
        let key = line.split([' ', '=', '.']).next().unwrap().to_owned();
        let no_default = ["default", "ithout it"].iter().any(|words| text.contains(words));
        self.parts.push(Part::Option { key, line: line.into(), text, default: commented && !no_default });
    }
}

/// Prose, and what in it is a piece of configuration.
fn parts(comment: &[&str]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in comment {
        let setting = line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let code = line.starts_with("  ") || line.starts_with('[') || setting;
        match (parts.last_mut(), code) {
            (_, _) if line.is_empty() => parts.push(Part::Text(String::new())),
            (Some(Part::Text(text)), false) => *text += &format!(" {line}"),
            (Some(Part::Code(text)), true) => *text += &format!("\n{}", line.trim()),
            (_, false) => parts.push(Part::Text((*line).into())),
            (_, true) => parts.push(Part::Code(line.trim().into())),
        }
    }
    parts.retain(|part| !matches!(part, Part::Text(text) if text.trim().is_empty()));
    parts
}

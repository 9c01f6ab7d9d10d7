//! The operator's side: what `valetkey.toml` defines already, and what is added to it and to `tools.d`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{FAILED, Failure, USAGE, json::quoted, study::Study};
use crate::name::{SecretName, ToolName};

/// Both files as they are to be, and the names in use.
pub struct Policy {
    pub main: PathBuf,
    /// As it is on disk; `None` where there is none.
    pub before: Option<String>,
    added: String,
    pub tool_files: Vec<(PathBuf, String)>,
    tools: BTreeSet<String>,
    secrets: BTreeSet<String>,
    sources: BTreeMap<String, Table>,
}

impl Policy {
    /// Reads names only: whether all is right in these files, `valetkey check` says.
    pub fn read(main: &Path) -> Result<Self, Failure> {
        let before = match fs::read_to_string(main) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let what = format!("cannot read {}: {}", main.display(), error.kind());
                return Err(Failure::new(
                    FAILED,
                    what,
                    "run this as who may write the configuration, or name another with --config",
                ));
            }
        };
        let top = parse(main, before.as_deref().unwrap_or_default())?;
        let names = |table: &Table, key: &str| -> BTreeSet<String> {
            table.get(key).and_then(Value::as_table).into_iter().flat_map(|table| table.keys().cloned()).collect()
        };
        let (mut tools, secrets) = (names(&top, "tool"), names(&top, "secret"));
        let sources = top.get("source").and_then(Value::as_table).into_iter().flatten();
        let sources = sources.filter_map(|(name, value)| Some((name.clone(), value.as_table()?.clone()))).collect();
        let folder = main.with_file_name("tools.d");
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "toml") {
                let text = fs::read_to_string(&path).map_err(|error| {
                    let what = format!("cannot read {}: {}", path.display(), error.kind());
                    Failure::new(FAILED, what, "run this as who may write the configuration")
                })?;
                tools.extend(names(&parse(&path, &text)?, "tool"));
                tools.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        Ok(Self { main: main.into(), before, added: String::new(), tool_files: Vec::new(), tools, secrets, sources })
    }

    pub fn has_tool(&self, name: &str) -> bool {
        self.tools.contains(name)
    }

    pub fn has_secret(&self, name: &str) -> bool {
        self.secrets.contains(name)
    }

    /// The one source of this kind.
    pub fn source_of(&self, kind: &str) -> Option<(&str, &Table)> {
        let mut all = self.sources.iter().filter(|(_, table)| table.get("kind").and_then(Value::as_str) == Some(kind));
        all.next().map(|(name, table)| (name.as_str(), table)).filter(|_| all.next().is_none())
    }

    /// The source that reads this sealed file with this identity. It is added where there is none.
    pub fn sealed_source(&mut self, file: &Path, identity: &Path) -> String {
        let is = |table: &Table, key: &str, path: &Path| {
            table.get(key).and_then(Value::as_str).is_some_and(|text| Path::new(text) == path)
        };
        let same = self.sources.iter().find(|(_, table)| is(table, "file", file));
        if let Some((name, _)) = same {
            return name.clone();
        }
        let free = (1..).map(|n| if n == 1 { "sealed".into() } else { format!("sealed-{n}") });
        let name = free.into_iter().find(|name| !self.sources.contains_key(name)).unwrap_or_else(|| "sealed".to_owned());
        let (file, identity) = (file.to_string_lossy(), identity.to_string_lossy());
        let mut table = Table::new();
        for (key, value) in [("kind", "sealed-file"), ("file", &file), ("identity-file", &identity)] {
            table.insert(key.into(), Value::String(value.into()));
        }
        let _ = write!(
            self.added,
            "\n[source.{name}]\nkind = \"sealed-file\"\nfile = {}\nidentity-file = {}\n",
            basic(&file),
            basic(&identity)
        );
        self.sources.insert(name.clone(), table);
        name
    }

    /// `[secret."NAME"]`; with the source's own name for it, and the field, where they are not the same.
    pub fn add_secret(&mut self, name: &SecretName, source: &str, place: Option<(&str, &str)>) {
        let _ = write!(self.added, "\n[secret.\"{name}\"]\nsource = {}\n", basic(source));
        if let Some((path, field)) = place {
            let _ = writeln!(self.added, "path = {}", basic(path));
            if !field.is_empty() {
                let _ = writeln!(self.added, "field = {}", basic(field));
            }
        }
        self.secrets.insert(name.to_string());
    }

    /// The file of one tool.
    pub fn add_tool(&mut self, tool: &ToolName, of: &str, user: &str, study: &Study, secrets: &[(SecretName, String)]) {
        let mut text = format!("# Written by `valetkey adopt`, from {}.\n\n[tool.{tool}]\n", comment(of));
        let _ = writeln!(text, "description = {}", basic(&format!("MCP server {of}")));
        let _ = writeln!(text, "run-as = {{ user = {} }}", basic(user));
        if study.pinned {
            let _ = writeln!(text, "command = {}", list(&study.command));
        } else {
            text.push_str("# No `command`: the client fills in a part of it. Whatever this user runs under the name gets the secrets below.\n");
        }
        if !study.environment.is_empty() {
            let _ = writeln!(text, "environment = {}", list(&study.environment));
        }
        for (secret, variable) in secrets {
            let _ = writeln!(text, "secrets.\"{secret}\" = {{ env = {} }}", basic(variable));
        }
        self.tool_files.push((self.main.with_file_name("tools.d").join(format!("{tool}.toml")), text));
        self.tools.insert(tool.to_string());
    }

    /// A name that a file is about to have.
    pub fn reserve_tool(&mut self, name: &ToolName) {
        self.tools.insert(name.to_string());
    }

    /// The main file as it is to be; `None` where nothing is added. What is there stays, byte for byte.
    pub fn after(&self) -> Result<Option<String>, Failure> {
        if self.added.is_empty() {
            return Ok(None);
        }
        let text = match &self.before {
            None => format!("# Where secrets come from. Tools stand in tools.d/*.toml beside this file.\n{}", self.added),
            Some(before) => {
                let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
                format!("{before}{gap}\n# Added by `valetkey adopt`.{}", self.added)
            }
        };
        parse(&self.main, &text).map_err(|_| {
            let what = format!("nothing can be added at the end of {}", self.main.display());
            Failure::new(FAILED, what, "write `secret` and `source` as tables with headers of their own: [secret.\"NAME\"]")
        })?;
        Ok(Some(text))
    }

    /// Goes on from what was written.
    pub fn written(&mut self, main: Option<String>) {
        self.before = main.or(self.before.take());
        self.added.clear();
        self.tool_files.clear();
    }
}

fn parse(path: &Path, text: &str) -> Result<Table, Failure> {
    // The parser's own words would repeat the line.
    text.parse().map_err(|_| {
        let what = format!("{} is not TOML", path.display());
        Failure::new(USAGE, what, format!("valetkey check --config {} says where", path.display()))
    })
}

/// A basic string of TOML, which takes the escapes of JSON and wants one more.
fn basic(text: &str) -> String {
    quoted(text).replace('\u{7f}', "\\u007f")
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| basic(text)).collect::<Vec<_>>().join(", "))
}

fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_reads_back() {
        for text in ["", "a\"b\\c", "tab\tand\nline", "\u{7f}\u{1}", "é\u{2028}", "'''"] {
            let table: Table = format!("x = {}", basic(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }
}

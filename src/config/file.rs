//! Reads configuration files, and refuses those that the wrong people may write: policy is authority.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::DeTable;

use super::problem::{Problem, Report, Severity};

/// Far above any real configuration, far below what would hurt.
const LARGEST: u64 = 4 << 20;

/// One configuration file: its text, and the way from a place in it to a line.
pub(super) struct Document<'r> {
    pub file: Arc<Path>,
    text: String,
    /// Byte offsets of the line breaks, in order: a large file asks for many lines.
    breaks: Vec<usize>,
    report: &'r Report,
    /// Is this a drop-in, which may only define tools?
    pub drop_in: bool,
}

impl<'r> Document<'r> {
    pub fn add(&self, severity: Severity, line: usize, what: impl Into<String>, instead: impl Into<String>) {
        let (what, instead) = (what.into(), instead.into());
        self.report.add(Problem { file: self.file.clone(), line, severity, what, instead });
    }

    /// How many there are by now, in all files: did reading something add one?
    pub fn errors(&self) -> usize {
        self.report.errors()
    }

    /// The line, from 1, of a byte offset.
    pub fn line(&self, offset: usize) -> usize {
        self.breaks.partition_point(|at| *at < offset) + 1
    }

    fn column(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or("");
        before.chars().rev().take_while(|c| *c != '\n').count() + 1
    }

    /// The parsed file; `None` where it is not TOML.
    pub fn parse(&self) -> Option<DeTable<'_>> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        for error in &errors {
            // The parser's own rendering repeats the line, and the line may hold a pasted credential.
            let at = error.span().map_or(self.text.len(), |span| span.start);
            let what = format!("not TOML at column {}: {}", self.column(at), error.message());
            self.add(Severity::Error, self.line(at), what, advice(error.message()));
        }
        errors.is_empty().then(|| tree.into_inner())
    }
}

fn advice(message: &str) -> &'static str {
    match message {
        m if m.contains("duplicate") => "keep one of the two, and delete the other",
        m if m.contains("dotted key") => "each table once: either with a header of its own or inside its parent's braces",
        m if m.contains("unquoted key") => "names that hold more than letters, digits, `-` and `_` in quotes: \"stripe/api-key\"",
        m if m.contains("quote") || m.contains("string") => "key = \"text\", with the text between double quotes on one line",
        m if m.contains("table") => {
            "a table's header on a line of its own, names with `/` in quotes: [secret.\"stripe/api-key\"]"
        }
        _ => "one `key = value` a line: key = \"text\", key = 5, key = true, key = { inner = \"text\" }",
    }
}

/// The main file and its drop-ins, in the order of loading. What cannot be read is reported.
pub(super) struct Files<'r> {
    pub documents: Vec<Document<'r>>,
    /// Was every file that there is read?
    pub complete: bool,
}

pub(super) fn read_all<'r>(main: &Path, report: &'r Report) -> Files<'r> {
    let mut files = Files { documents: Vec::new(), complete: true };
    let directory = match main.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    check_directory(directory, true, report);
    files.read(main, false, report);
    for drop_in in files.drop_ins(&directory.join("tools.d"), report) {
        files.read(&drop_in, true, report);
    }
    files
}

impl<'r> Files<'r> {
    fn read(&mut self, path: &Path, drop_in: bool, report: &'r Report) {
        let file: Arc<Path> = path.into();
        let complain = |line, what: String, instead: &str| {
            report.add(Problem { file: file.clone(), line, severity: Severity::Error, what, instead: instead.into() });
        };
        let bytes = match read_bytes(path, &file, report) {
            Ok(bytes) => bytes,
            Err(error) => {
                let (what, instead) = explain(&error, drop_in);
                complain(0, what, instead);
                self.complete = false;
                return;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => {
                let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
                self.documents.push(Document { file, text, breaks, report, drop_in });
            }
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
                complain(line, "the file is not UTF-8 text".into(), "save the file as UTF-8");
                self.complete = false;
            }
        }
    }

    /// Files in `tools.d` whose name ends in `.toml`, by name. Hidden files, which editors and package managers leave, do not count.
    fn drop_ins(&mut self, directory: &Path, report: &Report) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let listing = match fs::read_dir(directory) {
            Ok(listing) => listing,
            Err(error) if error.kind() == ErrorKind::NotFound => return found,
            Err(error) => {
                let what = format!("the directory cannot be listed: {}", error.kind());
                let instead = "a directory that the daemon may read: chmod 0755, owned by root".into();
                report.add(Problem { file: directory.into(), line: 0, severity: Severity::Error, what, instead });
                self.complete = false;
                return found;
            }
        };
        check_directory(directory, false, report);
        for entry in listing {
            let Ok(entry) = entry else {
                self.complete = false;
                continue;
            };
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.ends_with(b".toml") && !name.starts_with(b".") {
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }
}

fn read_bytes(path: &Path, file: &Arc<Path>, report: &Report) -> std::io::Result<Vec<u8>> {
    // Not blocking: a FIFO in place of the file must not hang the daemon.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    // Of the open file, so that what is checked is what is read.
    let facts = open.metadata()?;
    if !facts.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    if let Some((what, instead)) = wrong_hands(&facts, false) {
        report.add(Problem { file: file.clone(), line: 0, severity: Severity::Error, what, instead });
    }
    let mut bytes = Vec::new();
    File::take(open, LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn explain(error: &std::io::Error, drop_in: bool) -> (String, &'static str) {
    match error.kind() {
        ErrorKind::NotFound if drop_in => {
            ("the file is a link to nothing".into(), "remove the link, or install what it points to")
        }
        ErrorKind::NotFound => (
            "there is no such file".into(),
            "name the file with --config FILE, or start from the example in examples/etc-valetkey/",
        ),
        ErrorKind::PermissionDenied => ("the file may not be read".into(), "a file that the daemon's user may read: chmod 0644"),
        ErrorKind::InvalidInput => ("this is not a regular file".into(), "a regular file, or a link to one"),
        ErrorKind::FileTooLarge => (format!("the file is larger than {} MiB", LARGEST >> 20), "settings and names only, no data"),
        kind => (format!("the file cannot be read: {kind}"), "a file that the daemon's user may read"),
    }
}

/// Who may change a file's names decides as much as who may write the file.
fn check_directory(directory: &Path, sticky_is_fine: bool, report: &Report) {
    if let Ok(facts) = fs::metadata(directory)
        && let Some((what, instead)) = wrong_hands(&facts, sticky_is_fine)
    {
        report.add(Problem { file: directory.into(), line: 0, severity: Severity::Error, what, instead });
    }
}

/// Could somebody other than root and the daemon's own user change this?
fn wrong_hands(facts: &Metadata, sticky_is_fine: bool) -> Option<(String, String)> {
    let us = rustix::process::geteuid().as_raw();
    let thing = if facts.is_dir() { "directory" } else { "file" };
    if facts.uid() != 0 && facts.uid() != us {
        let what = format!("the {thing} belongs to uid {}, who could change what tools may have", facts.uid());
        return Some((what, "owned by root: chown root:root".into()));
    }
    // In a sticky directory (/tmp) nobody can replace a file that is not theirs.
    let sticky = sticky_is_fine && facts.mode() & 0o1000 != 0;
    if facts.mode() & 0o022 != 0 && !sticky {
        let what = format!("the {thing} can be written by group or others (mode {:04o})", facts.mode() & 0o7777);
        return Some((what, "writable by its owner only: chmod go-w".into()));
    }
    None
}

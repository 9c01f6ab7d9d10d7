//! A mistake in configuration, said so that its reader can mend it.

use std::{cell::RefCell, fmt, path::Path, sync::Arc};

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, and probably not what was meant.
    Warning,
}

/// One mistake: where it is, what is wrong and what to write instead. Never repeats a value from the file, which may be a
/// credential that was pasted into the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: Arc<Path>,
    /// From 1; 0 where the mistake is the file itself: it is missing, or anybody may write to it.
    pub line: usize,
    pub severity: Severity,
    pub what: String,
    pub instead: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    /// Two lines, the first in the form that editors and terminals make into a link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}: {}\n  write: {}", self.severity, self.what, self.instead)
    }
}

/// Every problem of one load. Readers share it and go on after a mistake, so that all are reported in one run.
#[derive(Debug, Default)]
pub(super) struct Report(RefCell<Vec<Problem>>);

impl Report {
    pub fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub fn errors(&self) -> usize {
        self.0.borrow().iter().filter(|p| p.severity == Severity::Error).count()
    }

    /// In the order in which a reader meets them: the main file, then the drop-ins by name; by line in each.
    pub fn sorted(self, main: &Path) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| {
            let key = |p: &Problem| (*p.file != *main, p.file.clone(), p.line, p.severity);
            key(a).cmp(&key(b))
        });
        problems.dedup();
        problems
    }
}

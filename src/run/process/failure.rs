//! Why a tool did not start.

use std::{error, fmt, io};

use super::spawn;

/// The tool did not start: what could not be done, and why. Says nothing of arguments or environment.
#[derive(Debug)]
pub struct NotStarted {
    step: i64,
    program: String,
    cause: io::Error,
}

impl NotStarted {
    pub(super) fn new(step: i64, program: &std::ffi::CStr, cause: io::Error) -> Self {
        Self { step, program: program.to_string_lossy().into_owned(), cause }
    }

    pub(super) fn execute(program: &std::ffi::CStr, cause: io::Error) -> Self {
        Self::new(spawn::EXECUTE, program, cause)
    }

    /// What the launcher is to exit with: 127, if there is no such program, and 126 otherwise, as shells have it.
    pub fn code(&self) -> u8 {
        let missing = matches!(self.cause.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
        if self.step == spawn::EXECUTE && missing { 127 } else { 126 }
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            spawn::EXECUTE => write!(f, "cannot run {}: {}", self.program, self.cause),
            step => write!(f, "cannot start {}: cannot {}: {}", self.program, spawn::step(step), self.cause),
        }
    }
}

impl error::Error for NotStarted {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.cause)
    }
}
